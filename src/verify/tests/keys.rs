//! Checkpoints that should not be believed, and keys that succeed one another.

use super::made::{LOG, Log, at, checkpoint, event, holds, key, only, trusting, verified, verified_files, with_kept};
use crate::event::view::View;
use crate::event::{Action, Event, Outcome};
use crate::merkle::note::{Checkpoint, LogKey, Name, Note, NoteError};
use crate::secret::SecretKey;
use crate::verify::trust::Trust;
use crate::verify::{Fault, Kept, Settings};

fn succession(old: u8, new: u8) -> Event {
    Event {
        action: Action::RotateKeys.into(),
        outcome: Outcome::Allowed.into(),
        detail: format!("log key {} is succeeded by {}", key(old).verifier(), key(new).verifier()),
        ..event(0, 0)
    }
}

/// A log whose key 1 is succeeded by key 2 with event 100, which the checkpoint of 120 entries confirms.
fn rotated() -> Log {
    let mut log = Log::of_size(200);
    log.put(100, &succession(1, 2));
    log.keys = vec![(0, vec![1]), (101, vec![1, 2]), (121, vec![2])];
    log
}

#[test]
fn forged_and_foreign_checkpoints_are_refused_a_04() {
    let log = Log::of_size(50);
    let refused = |report: crate::verify::Report| match only(&report) {
        Fault::Note(error) => error.clone(),
        other => panic!("{other:?}"),
    };
    let wrong_key = Settings { checkpoints: vec![], ..trusting(&[2]) };
    assert_eq!(refused(verified(&wrong_key, &log.export())), NoteError::Untrusted);
    assert_eq!(refused(verified_files(&wrong_key, &log.files())), NoteError::Untrusted);

    // Another log's checkpoint, signed with a key of this log's name.
    let foreign = Checkpoint::new(Name::new("example.org/other").unwrap(), 50, log.peaks(50).root(), vec![]).unwrap();
    let mut lines = log.lines(&[]);
    lines.push(checkpoint(&foreign.sign(&[&key(1)])));
    assert!(matches!(refused(verified(&trusting(&[1]), &lines.concat())), NoteError::OtherLog { .. }));

    // A key of the right name and another id, and one of another name.
    let stranger = LogKey::from_seed(Name::new("example.org/witness").unwrap(), &SecretKey::new([1; 32]));
    let text = Checkpoint::new(Name::new(LOG).unwrap(), 50, log.peaks(50).root(), vec![]).unwrap();
    for note in [text.sign(&[&stranger]), text.sign(&[&key(7)])] {
        lines.pop();
        lines.push(checkpoint(&note));
        assert_eq!(refused(verified(&trusting(&[1]), &lines.concat())), NoteError::Untrusted);
    }
    // Beside the log's own signature, a stranger's is passed over.
    lines.pop();
    lines.push(checkpoint(&text.sign(&[&stranger, &key(1)])));
    holds(&verified(&trusting(&[1]), &lines.concat()));
}

#[test]
fn every_changed_byte_of_a_checkpoint_is_found_a_04() {
    let log = Log::of_size(20);
    let note = log.note(20);
    for place in 0..note.len() {
        let mut forged = note.clone().into_bytes();
        forged[place] ^= 1;
        let Ok(forged) = String::from_utf8(forged) else { continue };
        let kept = Kept { name: "kept".to_owned(), note: forged.clone() };
        let report = verified(&with_kept(vec![kept]), &log.export());
        assert!(!report.holds(), "kept, byte {place}");
        let mut lines = log.lines(&[]);
        lines.push(checkpoint(&forged));
        assert!(!verified(&trusting(&[1]), &lines.concat()).holds(), "in the export, byte {place}");
    }
}

#[test]
fn a_successor_is_trusted_through_the_event_and_the_note_that_both_signed_a_04() {
    let log = rotated();
    for lines in [log.lines(&[50, 120, 200]), log.lines(&[120, 150, 200])] {
        let report = verified(&trusting(&[1]), &lines.concat());
        holds(&report);
        let [old, new] = [1, 2].map(|seed| key(seed).verifier().id());
        assert_eq!(report.rotations, [(old, new, 120)]);
        assert_eq!(report.vouched.unwrap().keys, [new]);
    }
    // The note that both signed may also come from beside the export.
    holds(&verified(&with_kept(vec![log.kept(120)]), &log.export()));
    holds(&verified_files(&with_kept(vec![log.kept(120)]), &log.files()));
    // Who has the new key alone needs no chain.
    holds(&verified(&trusting(&[2]), &log.export()));
    holds(&verified(&trusting(&[1, 2]), &log.export()));
}

#[test]
fn without_the_chain_the_successor_is_not_trusted_a_04() {
    let log = rotated();
    let report = verified(&trusting(&[1]), &log.export());
    assert_eq!(only(&report), &Fault::Unconfirmed { new: key(2).verifier().id(), sequence: 100 });
    // The note alone, without the event, makes nothing of the second signature.
    let mut silent = log.clone();
    silent.put(100, &event(100, 0));
    let report = verified(&trusting(&[1]), &silent.lines(&[120, 200]).concat());
    assert_eq!(only(&report), &Fault::Note(NoteError::Untrusted));
    // A denied or reworded succession is none.
    for said in [
        Event { outcome: Outcome::Denied.into(), ..succession(1, 2) },
        Event { detail: succession(1, 2).detail.replace("succeeded", "replaced"), ..succession(1, 2) },
        succession(3, 2),
    ] {
        let mut log = log.clone();
        log.put(100, &said);
        let report = verified(&trusting(&[1]), &log.lines(&[120, 200]).concat());
        assert_eq!(only(&report), &Fault::Note(NoteError::Untrusted), "{}", said.detail);
    }
}

#[test]
fn a_retired_key_vouches_alone_for_nothing_newer_a_04() {
    let log = rotated();
    let mut old_alone = log.clone();
    old_alone.keys = vec![(0, vec![1])];
    let old = key(1).verifier().id();
    // With and without the chain, and even if both keys are given.
    for settings in [trusting(&[1]), Settings { checkpoints: vec![log.kept(120)], ..trusting(&[1]) }, trusting(&[1, 2])]
    {
        let report = verified(&settings, &old_alone.export());
        assert_eq!(only(&report), &Fault::Retired { old, sequence: 100 });
    }
    // What it signed before stays good.
    let mut lines = log.lines(&[120, 200]);
    lines.insert(100, checkpoint(&old_alone.note(100)));
    holds(&verified(&trusting(&[1]), &lines.concat()));
}

#[test]
fn a_retired_key_goes_on_vouching_alone_for_what_lies_before_its_retirement_a_04() {
    let mut old_alone = rotated();
    old_alone.keys = vec![(0, vec![1])];
    let old = key(1).verifier();
    let mut trust = Trust::new(std::slice::from_ref(&old));
    trust.heed(100, &View::read(&old_alone.leaves[100]).unwrap());
    let mut signers = |size: u64| trust.signers(&Note::parse(&old_alone.note(size)).unwrap(), size);
    for size in [1, 99, 100] {
        assert_eq!(signers(size), Ok(vec![old.id()]), "{size}");
    }
    for size in [101, 102, 200] {
        assert_eq!(signers(size), Err(Fault::Retired { old: old.id(), sequence: 100 }), "{size}");
    }
}

#[test]
fn successions_follow_one_another_a_04() {
    let mut log = rotated();
    log.put(150, &succession(2, 3));
    log.keys = vec![(0, vec![1]), (101, vec![1, 2]), (121, vec![2]), (151, vec![2, 3]), (170, vec![3])];
    let report = verified(&trusting(&[1]), &log.lines(&[120, 130, 160, 200]).concat());
    holds(&report);
    assert_eq!(report.rotations.len(), 2);
    // Without the second note the third key is not known, and the second alone is retired.
    let report = verified(&trusting(&[1]), &log.lines(&[120, 130, 200]).concat());
    assert_eq!(only(&report), &Fault::Unconfirmed { new: key(3).verifier().id(), sequence: 150 });
}

#[test]
fn a_forged_succession_gains_nothing_a_04() {
    // Whoever altered the log names his own key as successor, and signs with it.
    let mut log = Log::of_size(200);
    log.put(100, &succession(1, 66));
    log.keys = vec![(0, vec![66])];
    let report = verified(&trusting(&[1]), &log.lines(&[120, 200]).concat());
    assert!(!report.holds());
    assert!(report.vouched.is_none());
    let honest = Log::of_size(200);
    let mut lines = honest.lines(&[200]);
    lines[at(100)] = log.line(100);
    let report = verified(&trusting(&[1]), &lines.concat());
    assert!(!report.holds() && report.rotations.is_empty());
}
