//! Parts of a log, and single events.

use super::made::{Log, at, checkpoint, event, holds, key, only, trusting, verified, with_kept};
use crate::merkle::{Frontier, Hash, Peaks, Tree, leaf_hash};
use crate::verify::export::{self, Consistency};
use crate::verify::proof::{Proof, Unproved};
use crate::verify::{Fault, Report, Settings};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Answers to questions about the tree of a log.
struct Asked {
    frontier: Frontier,
    tiles: BTreeMap<crate::merkle::TileId, Vec<u8>>,
}

impl Asked {
    fn of(log: &Log) -> Self {
        let (mut frontier, mut tiles) = (Frontier::new(), BTreeMap::new());
        for leaf in &log.leaves {
            for tile in frontier.append(leaf_hash(leaf)) {
                tiles.insert(tile.id(), tile.bytes().to_vec());
            }
        }
        Self { frontier, tiles }
    }

    fn consistency(&self, from: u64, to: u64) -> Vec<Hash> {
        let read = |id| Ok::<_, Infallible>(self.tiles.get(&id).cloned());
        Tree::new(&self.frontier, read).consistency(from, to).unwrap()
    }

    fn inclusion(&self, sequence: u64, size: u64) -> Vec<Hash> {
        let read = |id| Ok::<_, Infallible>(self.tiles.get(&id).cloned());
        Tree::new(&self.frontier, read).inclusion(sequence, size).unwrap()
    }
}

/// The lines of entries `from` to before `to`, with what leads to the checkpoint of the whole log.
fn part(log: &Log, from: u64, to: u64) -> Vec<Vec<u8>> {
    let asked = Asked::of(log);
    let mut lines = Vec::new();
    if from > 0 {
        let before = if from == log.size() {
            log.peaks(from)
        } else {
            Peaks::before(from, log.size(), &asked.inclusion(from, log.size())).unwrap()
        };
        assert_eq!(before, log.peaks(from));
        let mut line = Vec::new();
        export::start(super::made::LOG, &before, &mut line);
        lines.push(line);
    }
    lines.extend((from..to).map(|sequence| log.line(sequence)));
    if to < log.size() {
        let mut line = Vec::new();
        let hashes = asked.consistency(to, log.size());
        export::consistency(&Consistency { from: to, to: log.size(), hashes }, &mut line);
        lines.push(line);
    }
    lines.push(checkpoint(&log.note(log.size())));
    lines
}

fn verified_part(log: &Log, from: u64, to: u64) -> Report {
    verified(&trusting(&[1]), &part(log, from, to).concat())
}

#[test]
fn any_part_leads_to_the_signed_root() {
    let log = Log::of_size(70);
    for from in 0..70 {
        for to in [from + 1, from + 9, 64, 69, 70] {
            if (from + 1..=70).contains(&to) {
                let report = verified_part(&log, from, to);
                holds(&report);
                assert_eq!((report.first, report.entries), (from, to - from));
                assert_eq!(report.vouched.unwrap().size, 70);
            }
        }
    }
}

/// As above for every part there is, of logs that are small enough for that.
#[test]
fn every_part_of_a_small_log_leads_to_the_signed_root() {
    for size in 1..=9 {
        let log = Log::of_size(size);
        for (from, to) in (0..size).flat_map(|from| (from + 1..=size).map(move |to| (from, to))) {
            let report = verified_part(&log, from, to);
            holds(&report);
            assert_eq!((report.first, report.entries, report.checkpoints), (from, to - from, 1));
            assert_eq!(report.vouched.unwrap().size, size);
        }
    }
}

#[test]
fn a_small_part_with_anything_changed_does_not_a_01() {
    let log = Log::of_size(5);
    let lines = part(&log, 2, 4).concat();
    for place in (0..lines.len()).step_by(5) {
        let mut lines = lines.clone();
        lines[place] ^= 1;
        assert!(!verified(&trusting(&[1]), &lines).holds(), "byte {place}");
    }
}

#[test]
fn a_checkpoint_without_any_entry_verifies_nothing_a_02() {
    let log = Log::of_size(70);
    for from in 0..=70 {
        let report = verified_part(&log, from, from);
        assert_eq!(only(&report), &Fault::NoEntries, "a part of nothing from {from}");
        assert_eq!(report.entries, 0);
    }
}

#[test]
fn a_part_with_anything_changed_does_not_a_01() {
    let log = Log::of_size(70);
    for (from, to) in [(0, 20), (13, 41), (32, 70), (69, 70)] {
        let lines = part(&log, from, to).concat();
        for place in 0..lines.len() {
            let mut lines = lines.clone();
            lines[place] ^= 1;
            assert!(!verified(&trusting(&[1]), &lines).holds(), "{from} to {to}, byte {place}");
        }
    }
}

#[test]
fn peaks_of_another_history_do_not_lead_to_the_root_a_02() {
    let log = Log::of_size(70);
    let mut other = log.clone();
    other.put(3, &event(3, 8));
    let mut lines = part(&log, 20, 50);
    lines[0] = part(&other, 20, 50)[0].clone();
    let report = verified(&trusting(&[1]), &lines.concat());
    assert!(matches!(only(&report), Fault::Consistency(_)), "{report:?}");
    // The part of another place with the numbers of this one.
    let mut lines = part(&log, 20, 70);
    lines[1..].rotate_left(1);
    assert!(!verified(&trusting(&[1]), &lines.concat()).holds());
}

#[test]
fn kept_checkpoints_are_held_against_a_part_as_far_as_it_goes_a_03() {
    let log = Log::of_size(70);
    let export = part(&log, 20, 50).concat();
    holds(&verified(&with_kept(vec![log.kept(20), log.kept(30), log.kept(50), log.kept(70)]), &export));
    let report = verified(&with_kept(vec![log.kept(19)]), &export);
    assert_eq!(only(&report), &Fault::BeforeStart { size: 19 });
    for size in [60, 71] {
        let mut longer = Log::of_size(71);
        longer.leaves.truncate(at(size));
        let report = verified(&with_kept(vec![longer.kept(size)]), &export);
        assert_eq!(only(&report), &Fault::NotReached { size, end: 50 });
    }
    let mut forked = log.clone();
    forked.put(25, &event(25, 8));
    for size in [30, 70] {
        let report = verified(&with_kept(vec![forked.kept(size)]), &export);
        assert_eq!(only(&report).evidence(), [forked.note(size), log.note(70)]);
    }
}

#[test]
fn a_proof_leads_from_the_last_entry_to_the_checkpoint_behind_it_and_to_nothing_else_a_02() {
    let log = Log::of_size(40);
    let asked = Asked::of(&log);
    let with_proof = |from, to| {
        let mut lines = part(&log, 10, 20);
        let proof = Consistency { from, to, hashes: asked.consistency(from, to) };
        lines[11].clear();
        export::consistency(&proof, &mut lines[11]);
        verified(&trusting(&[1]), &lines.concat())
    };
    holds(&with_proof(20, 40));
    // Each is a proof that holds, of other sizes.
    for (from, to) in [(20, 39), (19, 40), (21, 40), (19, 39)] {
        assert_eq!(only(&with_proof(from, to)), &Fault::Misplaced { size: 40, end: 20 }, "from {from} to {to}");
    }
}

#[test]
fn a_part_has_one_proof_at_its_end() {
    let log = Log::of_size(40);
    let mut lines = part(&log, 10, 20);
    lines.insert(11, lines[11].clone());
    let refused = Fault::Form("not a proof that leads from a part's end to a checkpoint");
    assert_eq!(only(&verified(&trusting(&[1]), &lines.concat())), &refused);
}

#[test]
fn lines_of_a_part_have_their_places() {
    let log = Log::of_size(70);
    let lines = part(&log, 20, 50);
    let forms: [(&str, Vec<Vec<u8>>); 4] = [
        ("the start in the middle", [&lines[1..3], &lines[..1], &lines[3..]].concat()),
        ("something behind the end", [&lines[..], &lines[31..]].concat()),
        ("an entry behind the proof", [&lines[..30], &lines[31..32], &lines[30..31], &lines[32..]].concat()),
        ("no start", lines[1..].to_vec()),
    ];
    for (what, lines) in forms {
        assert!(!verified(&trusting(&[1]), &lines.concat()).holds(), "{what}");
    }
}

#[test]
fn one_event_is_proved_alone_and_nothing_else_is() {
    let log = Log::of_size(70);
    let asked = Asked::of(&log);
    for sequence in [0, 1, 33, 69] {
        let proof = Proof {
            sequence,
            leaf: log.leaves[at(sequence)].clone(),
            hashes: asked.inclusion(sequence, 70),
            note: log.note(70),
        };
        let text = proof.to_string();
        assert_eq!(text.parse(), Ok(proof.clone()));
        let proved = proof.verify(&trusting(&[1])).unwrap();
        assert_eq!((proved.vouched.size, proved.vouched.keys), (70, vec![key(1).verifier().id()]));
        let json: serde_json::Value = serde_json::from_str(&proved.event).unwrap();
        assert_eq!(json["sequence"], sequence);
        for place in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[place] ^= 1;
            let Ok(changed) = String::from_utf8(changed) else { continue };
            let proved = changed.parse::<Proof>().and_then(|proof| proof.verify(&trusting(&[1])));
            assert!(proved.is_err(), "byte {place}");
        }
        assert!(matches!(proof.verify(&trusting(&[2])), Err(Unproved::Note(_))));
        assert!(matches!(proof.verify(&Settings::default()), Err(Unproved::Note(_))));
        let moved = Proof { sequence: sequence + 1, ..proof };
        assert!(matches!(moved.verify(&trusting(&[1])), Err(Unproved::Path { .. })));
    }
}

#[test]
fn a_proof_has_one_form_and_its_event_must_be_one() {
    let log = Log::of_size(70);
    let proof = Proof {
        sequence: 33,
        leaf: log.leaves[33].clone(),
        hashes: Asked::of(&log).inclusion(33, 70),
        note: log.note(70),
    };
    let text = proof.to_string();
    let lines: Vec<&str> = text.split('\n').collect();
    let path_line = lines[3];
    for (from, to, refused) in [
        ("tlog-proof@v1", "tlog-proof@v2", "the first line is another"),
        ("extra ", "extra", "no event as extra data"),
        ("extra ", "extra *", "no event as extra data"),
        ("index 33", "index", "no index"),
        ("index 33", "index -1", "no index"),
        ("index 33", "33", "no index"),
        ("index 33", "index 033", "the index is not a number in its shortest form"),
        ("index 33", "index +33", "the index is not a number in its shortest form"),
        (path_line, "AAAA", "a line of the path is not 32 bytes in base64"),
        (path_line, "", "a line of the path is not 32 bytes in base64"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        let found = changed.parse::<Proof>().and_then(|proof| proof.verify(&trusting(&[1]))).unwrap_err();
        let is_form = matches!(&found, Unproved::Form(what) if *what == refused);
        assert!(is_form || to.is_empty(), "{from:?} for {to:?}: {found}");
    }
    let whole = text.replace("\n\n", "\n").parse::<Proof>();
    assert_eq!(whole, Err(Unproved::Form("no empty line parts proof and checkpoint")));
    // What is signed here is a tree of something that is no event.
    let mut other = log.clone();
    other.leaves[33] = b"no event".to_vec();
    let no_event = Proof {
        leaf: other.leaves[33].clone(),
        hashes: Asked::of(&other).inclusion(33, 70),
        note: other.note(70),
        ..proof.clone()
    };
    assert!(matches!(no_event.verify(&trusting(&[1])), Err(Unproved::Leaf(_))));
    assert!(proof.verify(&trusting(&[1])).is_ok());
}
