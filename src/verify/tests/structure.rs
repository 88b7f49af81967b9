//! Entries that were deleted, moved, repeated, inserted or cut off, and bodies that were dropped.

use super::made::{Log, at, checkpoint, event, holds, only, trusting, verified, verified_files, with_kept};
use crate::event::{Action, Event, Outcome};
use crate::merkle::leaf_hash;
use crate::verify::{Fault, Gone, export};

fn purge(before: &str) -> Event {
    Event {
        action: Action::Purge.into(),
        outcome: Outcome::Allowed.into(),
        detail: format!("events before {before}"),
        ..event(0, 0)
    }
}

fn dropped(log: &Log, sequence: u64) -> Vec<u8> {
    let mut line = Vec::new();
    export::dropped(sequence, &leaf_hash(&log.leaves[at(sequence)]), &mut line);
    line
}

#[test]
fn a_deleted_entry_is_named_a_02() {
    let log = Log::of_size(120);
    for sequence in 0..120 {
        let mut lines = log.lines(&[120]);
        lines.remove(at(sequence));
        let report = verified(&trusting(&[1]), &lines.concat());
        assert_eq!(report.first_bad(), Some(sequence));
        if sequence == 119 {
            assert_eq!(only(&report), &Fault::NotReached { size: 120, end: 119 });
        } else {
            assert_eq!(only(&report), &Fault::Sequence { expected: sequence, found: sequence + 1 });
        }
    }
}

#[test]
fn deleted_and_renumbered_entries_have_another_root_a_02() {
    let log = Log::of_size(120);
    let mut other = log.clone();
    other.leaves.remove(50);
    let mut lines = other.lines(&[]);
    lines.push(checkpoint(&log.note(120)));
    let report = verified(&trusting(&[1]), &lines.concat());
    assert_eq!(only(&report), &Fault::NotReached { size: 120, end: 119 });
    // Another is put at the end to make the number right.
    other.leaves.push(super::made::leaf(120, &event(120, 3)));
    let mut lines = other.lines(&[]);
    lines.push(checkpoint(&log.note(120)));
    let report = verified(&with_kept(vec![log.kept(40)]), &lines.concat());
    assert!(matches!(only(&report), Fault::OtherRoot { since: 40, size: 120, .. }), "{report:?}");
}

#[test]
fn entries_that_changed_places_are_named_a_02() {
    let log = Log::of_size(60);
    for (one, other) in [(0, 1), (10, 11), (5, 50), (58, 59)] {
        let mut lines = log.lines(&[60]);
        lines.swap(one, other);
        let report = verified(&trusting(&[1]), &lines.concat());
        assert_eq!(only(&report), &Fault::Sequence { expected: one as u64, found: other as u64 });
        assert_eq!(report.first_bad(), Some(one as u64));
    }
}

#[test]
fn repeated_and_inserted_entries_are_named_a_02() {
    let log = Log::of_size(60);
    for sequence in 0..60 {
        let mut lines = log.lines(&[60]);
        lines.insert(at(sequence) + 1, log.line(sequence));
        let report = verified(&trusting(&[1]), &lines.concat());
        assert_eq!(only(&report), &Fault::Sequence { expected: sequence + 1, found: sequence });
        assert_eq!(report.first_bad(), Some(sequence + 1));

        let mut forged = log.clone();
        forged.put(sequence, &event(sequence, 9));
        let mut lines = log.lines(&[60]);
        lines.insert(at(sequence), forged.line(sequence));
        let report = verified(&trusting(&[1]), &lines.concat());
        assert_eq!(report.first_bad(), Some(sequence + 1), "two claim to be {sequence}");
    }
}

#[test]
fn an_inserted_entry_with_all_others_renumbered_has_another_root_a_02() {
    let log = Log::of_size(60);
    let mut other = log.clone();
    other.leaves.insert(30, super::made::leaf(30, &event(30, 9)));
    let mut lines = other.lines(&[]);
    lines.insert(60, checkpoint(&log.note(60)));
    let report = verified(&with_kept(vec![log.kept(20)]), &lines.concat());
    assert!(matches!(report.findings[1].fault, Fault::OtherRoot { since: 20, size: 60, .. }), "{report:?}");
    assert_eq!(report.findings[0].fault, Fault::Uncovered(41));
    assert_eq!(report.first_bad(), Some(20));
}

#[test]
fn a_tail_that_was_cut_off_is_found_by_the_checkpoint_that_was_kept_a_02() {
    let log = Log::of_size(60);
    for cut in 1..=59 {
        let mut shorter = log.clone();
        shorter.leaves.truncate(at(60 - cut));
        // The thief has a good checkpoint of the shorter log.
        let kept = with_kept(vec![log.kept(60)]);
        for report in [verified(&kept, &shorter.export()), verified_files(&kept, &shorter.files())] {
            assert_eq!(only(&report), &Fault::NotReached { size: 60, end: 60 - cut });
            assert_eq!(report.first_bad(), Some(60 - cut));
        }
        // Without one, the export's own last checkpoint is not there or not reached.
        let mut lines = log.lines(&[60]);
        lines.drain(at(60 - cut)..60);
        assert_eq!(only(&verified(&trusting(&[1]), &lines.concat())), &Fault::NotReached { size: 60, end: 60 - cut });
        lines.pop();
        assert_eq!(only(&verified(&trusting(&[1]), &lines.concat())), &Fault::Uncovered(60 - cut));
    }
}

#[test]
fn a_checkpoint_stands_behind_its_own_last_entry_a_02() {
    let log = Log::of_size(20);
    for end in [6, 11, 19] {
        let mut lines = log.lines(&[20]);
        lines.insert(end, checkpoint(&log.note(5)));
        let report = verified(&trusting(&[1]), &lines.concat());
        assert_eq!(only(&report), &Fault::Misplaced { size: 5, end: end as u64 });
        assert_eq!(report.first_bad(), None, "the entries are as they were signed");
    }
    let mut lines = log.lines(&[20]);
    lines.insert(5, checkpoint(&log.note(5)));
    holds(&verified(&trusting(&[1]), &lines.concat()));
}

#[test]
fn what_no_checkpoint_vouches_for_begins_behind_the_last_that_fits_a_02() {
    let log = Log::of_size(20);
    let lines = log.lines(&[7]).concat();
    let report = verified(&trusting(&[1]), &lines);
    assert_eq!((only(&report), report.first_bad()), (&Fault::Uncovered(13), Some(7)));
    // Where the log is known to have been longer, what is missing is what is wrong, and not what is there.
    let mut shorter = log.clone();
    shorter.leaves.truncate(15);
    let report = verified(&with_kept(vec![log.kept(20)]), &shorter.lines(&[7]).concat());
    let found: Vec<&Fault> = report.findings.iter().map(|finding| &finding.fault).collect();
    assert_eq!(found, [&Fault::NotReached { size: 20, end: 15 }, &Fault::Uncovered(8)]);
    assert_eq!(report.first_bad(), Some(15));
}

#[test]
fn a_log_without_entries_whose_checkpoint_says_so_holds() {
    let log = Log::of_size(0);
    for report in [verified(&trusting(&[1]), &checkpoint(&log.note(0))), verified_files(&trusting(&[1]), &log.files())]
    {
        holds(&report);
        assert_eq!((report.entries, report.vouched.unwrap().size), (0, 0));
    }
}

#[test]
fn a_line_that_is_almost_a_checkpoint_is_refused_and_vouches_for_nothing_a_04() {
    let log = Log::of_size(4);
    let mut lines = log.lines(&[4]);
    let good = String::from_utf8(lines.pop().unwrap()).unwrap();
    for (from, to) in
        [("{\"checkpoint\":", "{\"checkpoint\": "), ("\"}", "\",\"more\":1}"), ("example", "\\u0065xample")]
    {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good);
        lines.push(changed.into_bytes());
        let report = verified(&trusting(&[1]), &lines.concat());
        assert_eq!(only(&report), &Fault::Form("the line is not a checkpoint as an export writes it"), "{to}");
        assert!(report.vouched.is_none());
        lines.pop();
    }
}

#[test]
fn a_torn_last_line_and_an_empty_file_are_not_a_log_a_02() {
    let log = Log::of_size(5);
    let export = log.export();
    for cut in 1..export.len() {
        assert!(!verified(&trusting(&[1]), &export[..export.len() - cut]).holds(), "{cut} bytes cut off");
    }
    assert_eq!(only(&verified(&trusting(&[1]), b"")), &Fault::Empty);
}

#[test]
fn a_tile_or_bundle_that_is_gone_is_named_a_02() {
    let log = Log::of_size(1000);
    let files = log.files();
    for (path, first_bad) in [
        ("tile/entries/000", 0),
        ("tile/entries/001", 256),
        ("tile/entries/003.p/232", 768),
        ("tile/0/002", 512),
        ("tile/0/003.p/232", 768),
    ] {
        let mut files = files.clone();
        files.remove(path).unwrap();
        assert_eq!(verified_files(&trusting(&[1]), &files).first_bad(), Some(first_bad), "{path}");
    }
    for path in ["tile/1/000.p/3", "checkpoint"] {
        let mut files = files.clone();
        files.remove(path).unwrap();
        assert_eq!(only(&verified_files(&trusting(&[1]), &files)), &Fault::File(Gone::Missing), "{path}");
    }
    for (path, change) in [("tile/0/001", -1), ("tile/0/001", 1), ("tile/entries/001", -1), ("tile/entries/001", 1)] {
        let mut files = files.clone();
        let file = files.get_mut(path).unwrap();
        if change < 0 {
            file.truncate(file.len() - 1);
        } else {
            file.push(0);
        }
        let report = verified_files(&trusting(&[1]), &files);
        let expected = if path.contains("entries") { 511 } else { 256 };
        assert_eq!(report.first_bad(), Some(expected), "{path} {change}: {report:?}");
    }
}

#[test]
fn a_bundle_that_is_not_full_must_be_there_and_end_with_its_last_entry_a_02() {
    let (log, bundle) = (Log::of_size(10), "tile/entries/000.p/10");
    let mut files = log.files();
    let entries = files.remove(bundle).unwrap();
    // Only whole bundles are ever dropped because of their age.
    let report = verified_files(&trusting(&[1]), &files);
    assert_eq!((only(&report), report.first_bad()), (&Fault::File(Gone::Missing), Some(0)));
    assert_eq!(report.findings[0].place, bundle);
    for changed in [entries[..entries.len() - 1].to_vec(), [&entries[..], b"\0"].concat()] {
        files.insert(bundle.to_owned(), changed);
        let report = verified_files(&trusting(&[1]), &files);
        assert_eq!((only(&report), report.first_bad()), (&Fault::File(Gone::Torn), Some(9)));
    }
    files.insert(bundle.to_owned(), entries);
    holds(&verified_files(&trusting(&[1]), &files));
}

#[test]
fn a_tile_of_the_second_level_must_be_there_and_whole() {
    let log = Log::of_size(600);
    let mut files = log.files();
    let tile = files.remove("tile/1/000.p/2").unwrap();
    assert_eq!(only(&verified_files(&trusting(&[1]), &files)), &Fault::File(Gone::Missing));
    for length in [0, 32, 63] {
        files.insert("tile/1/000.p/2".to_owned(), tile[..length].to_vec());
        let fault = Fault::File(Gone::Length { expected: 64, found: length });
        assert_eq!(only(&verified_files(&trusting(&[1]), &files)), &fault);
    }
    files.insert("tile/1/000.p/2".to_owned(), tile);
    holds(&verified_files(&trusting(&[1]), &files));
}

#[test]
fn a_partial_tile_may_have_become_full_meanwhile() {
    let (log, mut shorter) = (Log::of_size(600), Log::of_size(600));
    shorter.leaves.truncate(300);
    let mut files = log.files();
    files.insert("checkpoint".to_owned(), shorter.note(300).into_bytes());
    files.insert("tile/1/000.p/1".to_owned(), files["tile/1/000.p/2"][..32].to_vec());
    holds(&verified_files(&trusting(&[1]), &files));
}

#[test]
fn bodies_may_be_gone_where_an_event_of_the_log_says_so() {
    let mut log = Log::of_size(600);
    log.put(590, &purge("512 dropped"));
    let lines = |dropped_to: u64| {
        let mut lines = log.lines(&[600]);
        (0..dropped_to).for_each(|sequence| lines[at(sequence)] = dropped(&log, sequence));
        lines.concat()
    };
    let report = verified(&trusting(&[1]), &lines(512));
    holds(&report);
    assert_eq!((report.entries, report.dropped), (600, 512));
    assert_eq!(report.first_time.unwrap().millis(), 1_790_000_000_000 + 512 * 137);
    let report = verified(&trusting(&[1]), &lines(513));
    assert_eq!((only(&report), report.first_bad()), (&Fault::DroppedUnsaid, Some(512)));

    let mut files = log.files();
    for path in ["tile/entries/000", "tile/entries/001"] {
        files.remove(path).unwrap();
    }
    holds(&verified_files(&trusting(&[1]), &files));
}

#[test]
fn what_drops_bodies_may_say_more_behind_it_but_not_another_word() {
    for (said, good) in [
        ("3 dropped", true),
        ("3 dropped, older than 30 days", true),
        ("3 dropped by retention", true),
        ("3 dropped: all", false),
        ("3 droppedish", false),
    ] {
        let mut log = Log::of_size(6);
        log.put(4, &purge(said));
        let mut lines = log.lines(&[6]);
        (0..3).for_each(|sequence| lines[at(sequence)] = dropped(&log, sequence));
        let report = verified(&trusting(&[1]), &lines.concat());
        assert_eq!(report.holds(), good, "{said}: {report:?}");
        if !good {
            assert_eq!(only(&report), &Fault::DroppedUnsaid);
        }
    }
}

#[test]
fn nothing_else_makes_a_missing_body_good() {
    let denied = Event { outcome: Outcome::Denied.into(), ..purge("512 dropped") };
    let other = Event { action: Action::Inspect.into(), ..purge("512 dropped") };
    for said in [purge("100 dropped"), purge("512 kept"), purge("512"), purge("x dropped"), denied, other] {
        let mut log = Log::of_size(600);
        log.put(590, &said);
        let mut lines = log.lines(&[600]);
        (0..512).for_each(|sequence| lines[at(sequence)] = dropped(&log, sequence));
        let report = verified(&trusting(&[1]), &lines.concat());
        assert_eq!(only(&report), &Fault::DroppedUnsaid, "{}", said.detail);
        assert_eq!(report.first_bad(), Some(if said.detail.contains("100") { 100 } else { 0 }));
    }
}

#[test]
fn a_hole_in_the_middle_and_a_changed_hash_are_found_among_dropped_bodies() {
    let mut log = Log::of_size(600);
    log.put(590, &purge("512 dropped"));
    let mut lines = log.lines(&[600]);
    lines[300] = dropped(&log, 300);
    let report = verified(&trusting(&[1]), &lines.concat());
    assert_eq!((only(&report), report.first_bad()), (&Fault::DroppedLater, Some(300)));

    let mut lines = log.lines(&[600]);
    (0..512).for_each(|sequence| lines[at(sequence)] = dropped(&log, sequence));
    let place = lines[17].iter().position(|byte| *byte == b'h').unwrap() + 10;
    lines[17][place] = if lines[17][place] == b'0' { b'1' } else { b'0' };
    let report = verified(&with_kept(vec![log.kept(17), log.kept(18)]), &lines.concat());
    assert_eq!(report.first_bad(), Some(17), "between two checkpoints it is the only one");
}
