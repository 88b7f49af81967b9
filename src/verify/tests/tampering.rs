//! Bytes that were changed.

use super::made::{
    LOG, Log, at, event, holds, in_bundle, key, leaf, only, trusting, verified, verified_files, with_kept,
};
use crate::event::view::{Renderer, View};
use crate::merkle::{HASH_BYTES, TILE_WIDTH, leaf_hash};
use crate::verify::log::Place;
use crate::verify::report::Altered;
use crate::verify::{Fault, Settings, export, lines as whole, tiles as files};
use proptest::prelude::*;

/// Every entry of a log, on all the processors. `work` gets the entry's sequence and what `next` makes, one for each entry
/// in order.
fn for_each_entry<S: Send>(states: Vec<S>, work: impl Fn(u64, S) + Sync) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let mut shares: Vec<Vec<(u64, S)>> = (0..threads).map(|_| Vec::new()).collect();
    for (sequence, state) in (0..).zip(states) {
        shares[at(sequence) % threads].push((sequence, state));
    }
    std::thread::scope(|scope| {
        for share in shares {
            scope.spawn(|| share.into_iter().for_each(|(sequence, state)| work(sequence, state)));
        }
    });
}

#[test]
fn every_changed_byte_of_a_thousand_lines_is_named_with_its_entry_a_01() {
    let log = Log::of_size(1000);
    let lines: Vec<Vec<u8>> = (0..1000).map(|sequence| log.line(sequence)).collect();
    let mut reader = super::super::lines::Reader::new(&trusting(&[1]));
    let states = lines.iter().map(|line| {
        let before = reader.clone();
        reader.line(line);
        before
    });
    let states: Vec<_> = states.collect();
    for_each_entry(states, |sequence, before| {
        let line = &lines[at(sequence)];
        for place in 0..line.len() {
            let mut other = line.clone();
            other[place] ^= 1 << (place % 8);
            if place + 1 == line.len() {
                other.extend_from_slice(lines.get(at(sequence) + 1).map_or(b"", Vec::as_slice));
            }
            let mut reader = before.clone();
            other.split_inclusive(|byte| *byte == b'\n').for_each(|line| {
                if !reader.verifier.stopped() {
                    reader.line(line);
                }
            });
            let found = reader.verifier.found();
            assert_eq!(found.first_bad(), Some(sequence), "byte {place}: {:?}", found.findings);
        }
    });
}

#[test]
fn every_changed_byte_of_a_thousand_entries_in_tiles_is_named_with_its_entry_a_01() {
    let log = Log::of_size(1000);
    let settings = trusting(&[1]);
    let mut reader = super::super::tiles::Reader::new(&settings);
    let place = Place::File("bundle".to_owned());
    let states: Vec<_> = log
        .leaves
        .iter()
        .map(|leaf| {
            let before = reader.clone();
            reader.entries(&place, &in_bundle(leaf), leaf_hash(leaf).as_bytes(), true);
            before
        })
        .collect();
    for_each_entry(states, |sequence, before| {
        let leaf = &log.leaves[at(sequence)];
        // A length that grew takes from what follows in the bundle.
        let following = log.leaves.get(at(sequence) + 1).map_or(Vec::new(), |leaf| in_bundle(leaf));
        let (entry, hash) = (in_bundle(leaf), leaf_hash(leaf).0);
        for changed in 0..entry.len() + hash.len() {
            let (mut entry, mut hash) = (entry.clone(), hash);
            match changed.checked_sub(entry.len()) {
                None => entry[changed] ^= 1 << (changed % 8),
                Some(changed) => hash[changed] ^= 1 << (changed % 8),
            }
            let mut reader = before.clone();
            reader.entries(&place, &[entry, following.clone()].concat(), &hash, false);
            let found = reader.verifier.found();
            assert_eq!(found.first_bad(), Some(sequence), "byte {changed}: {:?}", found.findings);
        }
    });
}

#[test]
fn a_changed_byte_in_a_whole_file_is_named_and_the_signed_root_tells_which_side_it_is_a_01() {
    let log = Log::of_size(300);
    let mut lines = log.lines(&[100, 300]);
    holds(&verified(&trusting(&[1]), &lines.concat()));
    for sequence in (0..300).step_by(13) {
        let at = at(sequence) + usize::from(sequence >= 100);
        let line = lines[at].clone();
        let leaf = String::from_utf8(line.clone()).unwrap().find("leaf").unwrap() + 40;
        let hash = String::from_utf8(line.clone()).unwrap().find("hash").unwrap() + 12;
        for (place, altered) in [(leaf, Altered::Bytes), (hash, Altered::Hash)] {
            // Another letter that is a digit of both alphabets.
            lines[at][place] = if line[place] == b'a' { b'b' } else { b'a' };
            let report = verified(&trusting(&[1]), &lines.concat());
            assert_eq!(report.first_bad(), Some(sequence));
            assert_eq!(only(&report), &Fault::Hash(altered));
            assert_eq!(report.checkpoints, 2, "the rest of the log is still known to be good");
            lines[at].clone_from(&line);
        }
    }
}

#[test]
fn of_many_entries_the_signed_root_tells_which_side_was_altered_if_it_is_one_a_01() {
    let log = Log::of_size(20);
    let altered_at = |places: &[(usize, &str)]| {
        let mut lines = log.lines(&[20]);
        for (at, what) in places {
            let line = String::from_utf8(lines[*at].clone()).unwrap();
            let place = line.find(what).unwrap() + 30;
            lines[*at][place] = if lines[*at][place] == b'a' { b'b' } else { b'a' };
        }
        verified(&trusting(&[1]), &lines.concat())
    };
    let faults = |report: &crate::verify::Report| -> Vec<(Option<u64>, Fault)> {
        report.findings.iter().map(|finding| (finding.entry, finding.fault.clone())).collect()
    };
    for (what, altered) in [("hash", Altered::Hash), ("leaf", Altered::Bytes)] {
        let report = altered_at(&[(3, what), (9, what), (10, what)]);
        assert_eq!(faults(&report), [3, 9, 10].map(|entry| (Some(entry), Fault::Hash(altered))));
        assert_eq!(report.checkpoints, 1, "the rest is known to be good");
    }
    // One of each: neither tree is the signed one, and nobody can tell.
    let report = altered_at(&[(3, "hash"), (9, "leaf")]);
    assert_eq!(report.checkpoints, 0);
    let unknown = Fault::Hash(Altered::Unknown);
    assert_eq!(faults(&report)[..2], [(Some(3), unknown.clone()), (Some(9), unknown)]);
}

#[test]
fn progress_tells_what_was_read_so_far() {
    // Lines that are quickly read: checkpoints of nothing.
    let line = super::made::checkpoint(&Log::of_size(0).note(0));
    let mut told = Vec::new();
    let report = whole(&trusting(&[1]), line.repeat(4100).as_slice(), |bytes| told.push(bytes)).unwrap();
    holds(&report);
    assert_eq!(told, [4096 * line.len() as u64]);
    let log = Log::of_size(300);
    let (made, mut told) = (log.files(), Vec::new());
    let report = files(&trusting(&[1]), |path| Ok(made.get(path).cloned()), |read, of| told.push((read, of)));
    holds(&report.unwrap());
    assert_eq!(told, [(256, 300), (300, 300)]);
}

#[test]
fn every_changed_byte_of_the_files_beside_the_entries_is_found_a_01() {
    let log = Log::of_size(700);
    let files = log.files();
    holds(&verified_files(&trusting(&[1]), &files));
    for path in ["checkpoint", "tile/1/000.p/2"] {
        for place in 0..files[path].len() {
            let mut files = files.clone();
            files.get_mut(path).unwrap()[place] ^= 1;
            let report = verified_files(&trusting(&[1]), &files);
            assert!(!report.holds(), "{path}, byte {place}");
            if path != "checkpoint" {
                let first = (place / HASH_BYTES * TILE_WIDTH) as u64;
                assert_eq!(report.first_bad(), Some(first));
                assert_eq!(only(&report), &Fault::Tile { first, last: first + 255 });
            }
        }
    }
}

#[test]
fn an_entry_that_was_replaced_with_its_hash_and_fields_is_narrowed_down_by_checkpoints_a_01() {
    let log = Log::of_size(300);
    for sequence in [0, 1, 99, 100, 101, 199, 200, 299] {
        let mut other = log.clone();
        other.put(sequence, &event(sequence, 7));
        let mut lines = log.lines(&[300]);
        lines[at(sequence)] = other.line(sequence);
        let report = verified(&trusting(&[1]), &lines.concat());
        assert_eq!((report.first_bad(), report.findings.len()), (Some(0), 1));
        assert!(matches!(only(&report), Fault::OtherRoot { since: 0, size: 300, .. }));
        // With checkpoints that were kept, the first that does not fit says more.
        let kept = with_kept(vec![log.kept(200), log.kept(100)]);
        let report = verified(&kept, &lines.concat());
        let since = sequence / 100 * 100;
        assert_eq!(report.first_bad(), Some(since));
        let Fault::OtherRoot { since: from, size, .. } = report.findings[0].fault else { panic!("{report:?}") };
        assert_eq!((from, size), (since, since + 100));
    }
}

#[test]
fn in_tiles_the_level_above_narrows_a_replaced_entry_down_a_01() {
    let log = Log::of_size(1000);
    for sequence in [3, 300, 767] {
        let mut other = log.clone();
        other.put(sequence, &event(sequence, 7));
        let (mut files, others) = (log.files(), other.files());
        let index = sequence / 256;
        for path in [format!("tile/entries/{index:03}"), format!("tile/0/{index:03}")] {
            files.insert(path.clone(), others[&path].clone());
        }
        let report = verified_files(&trusting(&[1]), &files);
        assert_eq!(report.first_bad(), Some(256 * index));
        assert_eq!(report.findings[0].fault, Fault::Tile { first: 256 * index, last: 256 * index + 255 });
    }
}

#[test]
fn fields_that_say_something_else_than_the_leaf_are_found_a_01() {
    let log = Log::of_size(20);
    let mut lines = log.lines(&[20]);
    let line = String::from_utf8(lines[3].clone()).unwrap();
    for (from, to) in [
        ("caller-3", "caller-4"),
        ("\"DENIED\"", "\"ALLOWED\""),
        ("\"reason\":\"POLICY_DENIED\",", ""),
        (",\"requested\":3", ",\"requested\":3,\"requested\":3"),
        (",\"requested\":3", ", \"requested\":3"),
        ("}\n", ",\"note\":\"\"}\n"),
        (LOG, "example.org/log/2"),
    ] {
        let changed = line.replacen(from, to, 1);
        assert_ne!(changed, line, "{from}");
        lines[3] = changed.into_bytes();
        let report = verified(&trusting(&[1]), &lines.concat());
        assert_eq!((only(&report), report.first_bad()), (&Fault::Fields, Some(3)), "{from}");
    }
}

#[test]
fn a_leaf_that_is_no_event_or_goes_back_in_time_is_found_though_it_is_signed_a_01() {
    let mut log = Log::of_size(10);
    log.leaves[4].push(0);
    let hash = leaf_hash(&log.leaves[4]);
    let line = String::from_utf8(Log::of_size(10).line(4)).unwrap();
    let mut lines = log.clone().with_leaf(4, Log::of_size(10).leaves[4].clone()).lines(&[]);
    let honest = leaf_hash(&Log::of_size(10).leaves[4]).to_string();
    let encode = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let changed = line.replace(&honest, &hash.to_string());
    let changed = changed.replace(&encode(&Log::of_size(10).leaves[4]), &encode(&log.leaves[4]));
    lines[4] = changed.into_bytes();
    lines.push(super::made::checkpoint(&log.note(10)));
    let report = verified(&trusting(&[1]), &lines.concat());
    assert!(matches!(only(&report), Fault::Leaf(_)), "{report:?}");
    assert_eq!(report.first_bad(), Some(4));

    let mut log = Log::of_size(10);
    log.leaves[5] = leaf(1, &event(5, 0));
    let report = verified(&trusting(&[1]), &log.export());
    assert_eq!((only(&report), report.first_bad()), (&Fault::Time, Some(5)));
    let report = verified_files(&trusting(&[1]), &log.files());
    assert_eq!((only(&report), report.first_bad()), (&Fault::Time, Some(5)));
}

#[test]
fn a_report_says_what_was_read_and_who_vouches_for_it() {
    let log = Log::of_size(300);
    let settings = Settings { sequence: Some(7), ..with_kept(vec![log.kept(0), log.kept(256), log.kept(300)]) };
    for report in [verified(&settings, &log.export()), verified_files(&settings, &log.files())] {
        holds(&report);
        assert_eq!((report.first, report.entries, report.dropped, report.checkpoints), (0, 300, 0, 4));
        assert_eq!(report.first_time.unwrap().millis(), 1_790_000_000_000);
        assert_eq!(report.last_time.unwrap().millis(), 1_790_000_000_000 + 299 * 137);
        let vouched = report.vouched.unwrap();
        assert_eq!((vouched.size, vouched.root), (300, log.peaks(300).root()));
        assert_eq!(vouched.keys, [key(1).verifier().id()]);
        let names: Vec<&str> = report.kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["kept-0", "kept-256", "kept-300"]);
        let mut event = Vec::new();
        Renderer::default().event(&View::read(&log.leaves[7]).unwrap(), LOG, 7, &mut event);
        assert_eq!(report.event.unwrap().into_bytes(), event);
    }
}

#[test]
fn findings_are_bounded() {
    let mut lines = Log::of_size(60).lines(&[60]);
    for line in &mut lines[..60] {
        let end = line.len() - 3;
        line[end] ^= 1;
    }
    let report = verified(&trusting(&[1]), &lines.concat());
    assert_eq!((report.findings.len(), report.more_findings, report.first_bad()), (20, 40, Some(0)));
}

impl Log {
    fn with_leaf(mut self, sequence: u64, leaf: Vec<u8>) -> Self {
        self.leaves[at(sequence)] = leaf;
        self
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_log_holds_in_both_forms(size in 1u64..600, checkpoints in prop::collection::vec(1u64..600, 0..5)) {
        let log = Log::of_size(size);
        let kept = checkpoints.iter().filter(|kept| **kept <= size).map(|size| log.kept(*size)).collect();
        let settings = with_kept(kept);
        let all: Vec<u64> = checkpoints.iter().copied().chain([size]).collect();
        holds(&verified(&settings, &log.lines(&all).concat()));
        holds(&verified_files(&settings, &log.files()));
    }

    #[test]
    fn no_change_of_any_byte_goes_unnoticed_and_none_panics_a_01(
        size in 1u64..30,
        place: prop::sample::Index,
        byte: u8,
        change in 0u8..3,
    ) {
        let log = Log::of_size(size);
        let original = log.lines(&[size / 2, size]).concat();
        let mut export = original.clone();
        let place = place.index(export.len());
        match change {
            0 => export[place] = byte,
            1 => export.insert(place, byte),
            _ => { export.remove(place); }
        }
        let report = whole(&trusting(&[1]), export.as_slice(), |_| {}).unwrap();
        prop_assert_eq!(report.holds(), export == original);
    }

    #[test]
    fn hostile_input_never_panics(text in "\\PC{0,200}", line in "(\\{\"(sequence|checkpoint|start|consistency)\":[0-9]{0,20}[ -~]{0,80}\n){0,5}") {
        for input in [text.as_bytes(), line.as_bytes()] {
            let report = whole(&trusting(&[1]), input, |_| ()).unwrap();
            prop_assert!(!report.holds());
            let report = files(&trusting(&[1]), |_| Ok(Some(input.to_vec())), |_, _| {}).unwrap();
            prop_assert!(!report.holds());
        }
    }

    #[test]
    fn a_line_is_what_the_program_writes_again(sequence in 0u64..1000) {
        let log = Log::of_size(sequence + 1);
        let line = String::from_utf8(log.line(sequence)).unwrap();
        let (number, hash, _) = export::parse_head(line.trim_end()).unwrap();
        prop_assert_eq!(number, sequence);
        prop_assert_eq!(export::parse_hash(hash), Some(leaf_hash(&log.leaves[at(sequence)])));
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(json["sequence"].as_u64(), Some(sequence));
        prop_assert_eq!(json["log_id"].as_str(), Some(LOG));
    }
}
