//! Checkpoints that witnesses have cosigned, or not.

use super::made::{LOG, Log, holds, key, only, trusting, verified, with_kept};
use crate::merkle::note::{Name, NoteError, SignedCheckpoint, WitnessKey};
use crate::secret::SecretKey;
use crate::verify::{Fault, Kept, Report};

fn witness(name: &str) -> WitnessKey {
    WitnessKey::from_seed(Name::new(name).unwrap(), &SecretKey::new([0x57; 32]))
}

/// The log's note of this size with a cosignature of `witness`, made at `seconds`.
fn cosigned(log: &Log, size: u64, witness: &WitnessKey, seconds: u64) -> String {
    let note = log.note(size);
    let signed = SignedCheckpoint::open(&note, &Name::new(LOG).unwrap(), &[key(1).verifier()]).unwrap();
    format!("{note}{}\n", witness.cosign(&signed, seconds))
}

/// The whole log under this note, and the checkpoints that were kept.
fn report(log: &Log, note: &str, kept: &[String]) -> Report {
    let kept = kept.iter().map(|note| Kept { name: "kept".to_owned(), note: note.clone() }).collect();
    let mut lines = log.lines(&[]);
    lines.push(super::made::checkpoint(note));
    let report = verified(&with_kept(kept), &lines.concat());
    holds(&report);
    report
}

#[test]
fn the_largest_cosigned_checkpoint_counts_wherever_it_is() {
    let log = Log::of_size(20);
    let (witness, other) = (witness("w.example/1"), witness("w.example/2"));
    let name = Name::new("w.example/1").unwrap();
    for (last, kept, largest) in [
        (cosigned(&log, 20, &witness, 1_790_000_020), vec![], (20, 1_790_000_020)),
        (log.note(20), vec![cosigned(&log, 7, &witness, 1_790_000_007)], (7, 1_790_000_007)),
        (cosigned(&log, 20, &witness, 5), vec![cosigned(&log, 7, &witness, 6)], (20, 5)),
        (cosigned(&log, 20, &other, 5), vec![cosigned(&log, 9, &witness, 6), cosigned(&log, 7, &witness, 8)], (9, 6)),
    ] {
        let mut report = report(&log, &last, &kept);
        report.hold_against(&witness.verifier());
        holds(&report);
        assert_eq!(report.cosigned, [(name.clone(), largest.0, largest.1)]);
    }
}

#[test]
fn without_a_cosignature_or_with_a_wrong_one_it_does_not_hold_a_05() {
    let log = Log::of_size(20);
    let (witness, other) = (witness("w.example/1"), witness("w.example/2"));
    let none = Fault::NotCosigned(Name::new("w.example/1").unwrap());
    for note in [log.note(20), cosigned(&log, 20, &other, 5)] {
        let mut report = report(&log, &note, &[log.note(7)]);
        report.hold_against(&witness.verifier());
        assert_eq!(only(&report), &none);
        assert_eq!((report.findings[0].entry, report.findings[0].place.as_str()), (None, "cosignatures"));
        assert_eq!(report.cosigned, []);
    }
    // The cosignature of size 7 under the checkpoint of size 20.
    let line = cosigned(&log, 7, &witness, 5).lines().last().unwrap().to_owned();
    let spoilt = format!("{}{line}\n", log.note(20));
    let mut alone = report(&log, &spoilt, &[]);
    alone.hold_against(&witness.verifier());
    let bad = Fault::Note(NoteError::BadSignature(witness.verifier().id()));
    let found: Vec<&Fault> = alone.findings.iter().map(|finding| &finding.fault).collect();
    assert_eq!(found, [&bad, &none]);
    // One that is right does not make up for one that is wrong.
    let mut both = report(&log, &spoilt, &[cosigned(&log, 7, &witness, 5)]);
    both.hold_against(&witness.verifier());
    assert_eq!(only(&both), &bad);
    assert_eq!(both.cosigned.len(), 1);
    let mut good = verified(&trusting(&[1]), &log.export());
    assert!(good.holds());
    good.hold_against(&other.verifier());
    assert!(!good.holds());
}
