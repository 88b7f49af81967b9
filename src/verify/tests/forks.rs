//! Two histories under one key.

use super::made::{Log, checkpoint, event, holds, only, trusting, verified, verified_files, with_kept};
use crate::verify::{Fault, Kept};

/// Two logs of `size` that agree on the first `common` entries.
fn forked(size: u64, common: u64) -> (Log, Log) {
    let honest = Log::of_size(size);
    let mut other = honest.clone();
    (common..size).for_each(|sequence| other.put(sequence, &event(sequence, 5)));
    (honest, other)
}

fn evidence(report: &crate::verify::Report) -> Vec<&str> {
    only(report).evidence()
}

#[test]
fn a_kept_checkpoint_of_another_history_is_a_fork_with_both_notes_a_03() {
    let (shown, kept) = forked(300, 150);
    for size in [151, 200, 300] {
        let settings = with_kept(vec![kept.kept(size)]);
        for report in [verified(&settings, &shown.export()), verified_files(&settings, &shown.files())] {
            assert!(matches!(only(&report), Fault::Fork { .. }), "{report:?}");
            assert_eq!(evidence(&report), [kept.note(size), shown.note(300)]);
            assert!(report.findings[0].to_string().contains("FORK"));
        }
    }
    // Before they part, both histories have the same checkpoints.
    holds(&verified(&with_kept(vec![kept.kept(150)]), &shown.export()));
}

#[test]
fn two_checkpoints_of_one_size_are_a_fork_whatever_the_entries_are_a_03() {
    let (one, other) = forked(100, 10);
    let third = forked(100, 10).0;
    let mut lines = third.lines(&[]);
    lines.push(checkpoint(&one.note(100)));
    let report = verified(&with_kept(vec![other.kept(100)]), &lines.concat());
    assert_eq!(evidence(&report), [other.note(100), one.note(100)]);

    // Neither is of the entries that are shown.
    let (_, mut neither) = forked(100, 10);
    neither.put(20, &event(20, 77));
    let mut lines = neither.lines(&[]);
    lines.push(checkpoint(&one.note(100)));
    let report = verified(&with_kept(vec![other.kept(100)]), &lines.concat());
    let found: Vec<&Fault> = report.findings.iter().map(|finding| &finding.fault).collect();
    assert!(matches!(found.as_slice(), [Fault::OtherRoot { .. }, Fault::Fork { .. }]), "{report:?}");
}

#[test]
fn a_fork_inside_an_export_is_found_a_03() {
    let (shown, other) = forked(100, 10);
    let mut lines = shown.lines(&[50, 100]);
    lines[50] = checkpoint(&other.note(50));
    let report = verified(&trusting(&[1]), &lines.concat());
    assert_eq!(evidence(&report), [other.note(50), shown.note(100)]);
}

#[test]
fn a_checkpoint_that_only_does_not_fit_is_no_fork_a_03() {
    // The entries were altered; there is one history, and the export is not it.
    let (real, altered) = forked(100, 40);
    let mut lines = altered.lines(&[]);
    lines.push(checkpoint(&real.note(100)));
    let report = verified(&with_kept(vec![real.kept(40), real.kept(60)]), &lines.concat());
    assert!(report.findings.iter().all(|finding| matches!(finding.fault, Fault::OtherRoot { since: 40, .. })));
    assert_eq!(report.first_bad(), Some(40));
}

#[test]
fn a_note_that_nobody_signed_is_no_evidence_a_03() {
    let (shown, mut other) = forked(100, 10);
    other.keys = vec![(0, vec![9])];
    let kept = Kept { name: "forged".to_owned(), note: other.note(50) };
    let report = verified(&with_kept(vec![kept]), &shown.export());
    assert!(matches!(only(&report), Fault::Note(_)), "{report:?}");
}
