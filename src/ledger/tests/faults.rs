//! A commit that fails: what is answered, what is on disk, how it goes on from there. The table {applied or not} ×
//! {reported or not}, for the first commits one by one.

use super::*;
use crate::ledger::OpenError;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Acknowledged one by one: where each stands and what it said.
struct Acknowledged(Vec<(u64, String)>);

impl Acknowledged {
    fn add(&mut self, answer: Answer, number: u32) {
        self.0.push((answer.wait().unwrap().sequence(), format!("issue {number}")));
    }
}

#[test]
fn after_a_failed_commit_nothing_is_acknowledged_and_what_was_stays_a_06() {
    let mut rounds = 0;
    for fault in [Fault::NONE, Fault::LOST, Fault::UNKNOWN] {
        for at in 0..6 {
            one_failure(fault, at);
            rounds += 1;
        }
    }
    println!("fail-stop: {rounds} rounds of break, restart, go on");
}

/// Commit `at` meets `fault` while three more wait behind it; then the vault starts again and goes on.
fn one_failure(fault: Fault, at: u32) {
    let mut site = Site::new();
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let mut acknowledged = Acknowledged(Vec::new());
    for number in 0..at {
        let answer = issue_now(&open, number);
        gate.pass();
        acknowledged.add(answer, number);
    }
    let failing = hold_one(&open, &gate, at);
    let waiting: Vec<Answer> = (at + 1..at + 4).map(|number| issue_now(&open, number)).collect();
    gate.go(fault);
    if fault.reported {
        assert_eq!(failing.wait().err(), Some(Refused::Unavailable));
        assert!(waiting.into_iter().all(|answer| answer.wait().err() == Some(Refused::Unavailable)));
        assert!(!open.ledger.is_alive());
        let later = submit(&open.ledger, issue(open.ledger.basis(), 99));
        assert_eq!(later.err(), Some(Refused::Unavailable));
        assert!(open.ledger.head().is_none(), "nothing to sign for");
    } else {
        acknowledged.add(failing, at);
        gate.pass();
        waiting.into_iter().zip(at + 1..).for_each(|(answer, number)| acknowledged.add(answer, number));
    }
    let vouched = site.vouched();
    open.close();
    assert_eq!(site.fatal.lock().unwrap().len(), usize::from(fault.reported), "told once, {fault:?}");
    if fault.reported {
        assert_eq!(site.vouched(), vouched, "no checkpoint after a failure");
    }

    // On disk: all that was acknowledged, and of the failed commit all or nothing.
    site.restart(None);
    let expected = 1
        + at
        + match fault {
            Fault::NONE => 4,
            Fault::UNKNOWN => 1,
            _ => 0,
        };
    assert_eq!(check(&site, &acknowledged.0).len(), expected as usize, "{fault:?} at {at}");
    go_on(&mut site, acknowledged);
}

/// The same number again, one by one, then another number at once.
fn go_on(site: &mut Site, mut acknowledged: Acknowledged) {
    let open = site.open().unwrap();
    let answer = issue_now(&open, 200);
    acknowledged.add(answer, 200);
    check(site, &acknowledged.0);
    open.close();
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let held = hold_one(&open, &gate, 201);
    let waiting: Vec<Answer> = (202..205).map(|number| issue_now(&open, number)).collect();
    gate.go(Fault::NONE);
    gate.pass();
    acknowledged.add(held, 201);
    waiting.into_iter().zip(202..).for_each(|(answer, number)| acknowledged.add(answer, number));
    open.close();
    let events = check(site, &acknowledged.0);
    assert_eq!(site.vouched(), events.len() as u64);
}

#[test]
fn a_disk_that_lies_in_between_is_found_at_the_next_start() {
    for at in 0..6_u32 {
        let mut site = Site::new();
        let gate = site.restart_gated();
        let open = site.open().unwrap();
        for number in 0..at + 2 {
            let answer = issue_now(&open, number);
            gate.arrived();
            gate.go(if number == at { Fault::LIE } else { Fault::NONE });
            assert!(answer.wait().is_ok(), "nobody can know yet");
        }
        open.close();
        site.restart(None);
        let before = site.dump();
        let doubt = site.checkpoints().doubt_file();
        assert!(matches!(site.open().err(), Some(OpenError::Doubted(_))), "found before the end was signed");
        std::fs::remove_file(doubt).unwrap();
        let error = site.open().err().expect("an acknowledged event is missing");
        assert!(matches!(error, OpenError::Gap(sequence) if sequence == u64::from(at) + 1), "{error}");
        assert!(site.dump() == before, "a refused start changes nothing");
    }
}

#[test]
fn a_disk_that_lies_at_the_end_is_found_before_the_end_is_signed_s_03() {
    for at in 1..6_u32 {
        let mut site = Site::new();
        let gate = site.restart_gated();
        let open = site.open().unwrap();
        for number in 0..at {
            let answer = issue_now(&open, number);
            gate.arrived();
            gate.go(if number + 1 == at { Fault::LIE } else { Fault::NONE });
            answer.wait().unwrap();
        }
        open.close();
        site.restart(None);
        // It was missed already when the end should have been signed, and that is not forgotten.
        assert_eq!(site.fatal.lock().unwrap().len(), 1);
        let doubt = site.checkpoints().doubt_file();
        let error = site.open().err().expect("an acknowledged event is missing");
        assert!(matches!(&error, OpenError::Doubted(path) if *path == doubt), "{error}");
        let why = std::fs::read_to_string(&doubt).unwrap();
        assert!(why.contains(&format!("event {at} is missing")), "{why}");
        // Whoever accepts what is stored may go on from there.
        std::fs::remove_file(doubt).unwrap();
        site.open().unwrap().close();
    }
}

#[test]
fn a_start_that_fails_can_be_tried_again() {
    let mut site = Site::new();
    for fault in [Fault::LOST, Fault::UNKNOWN, Fault::LOST] {
        site.restart(Some(Box::new(move |_, _| fault)));
        let open = site.open().unwrap();
        assert_eq!(issue_now(&open, 1).wait().err(), Some(Refused::Unavailable));
        open.close();
        check(&site, &[]);
    }
    site.restart(None);
    go_on(&mut site, Acknowledged(Vec::new()));
    assert_eq!(site.fatal.lock().unwrap().len(), 3);
}

#[test]
fn a_writer_that_panics_ends_the_acknowledgements() {
    let mut site = Site::new();
    let (gate, mut faults) = fixture::gate();
    site.restart(Some(Box::new(move |number, batch| {
        let fault = faults(number, batch);
        assert!(fault != Fault::LIE, "the test asks for a panic");
        fault
    })));
    let open = site.open().unwrap();
    let answer = issue_now(&open, 1);
    gate.pass();
    let receipt = answer.wait().unwrap();
    let under_way = hold_one(&open, &gate, 2);
    let waiting: Vec<Answer> = (3..6).map(|number| issue_now(&open, number)).collect();
    gate.go(Fault::LIE);
    assert_eq!(under_way.wait().err(), Some(Refused::Unavailable));
    assert!(waiting.into_iter().all(|answer| answer.wait().err() == Some(Refused::Unavailable)));
    assert!(!open.ledger.is_alive());
    assert_eq!(submit(&open.ledger, issue(open.ledger.basis(), 6)).err(), Some(Refused::Unavailable));
    assert!(open.ledger.head().is_none());
    assert!(catch_unwind(AssertUnwindSafe(|| open.close())).is_ok(), "closing does not fall over it");
    assert_eq!(*site.fatal.lock().unwrap(), [Fatal::Writer.to_string()]);
    site.restart(None);
    assert_eq!(check(&site, &[(receipt.sequence(), "issue 1".into())]).len(), 2);
    go_on(&mut site, Acknowledged(vec![(receipt.sequence(), "issue 1".into())]));
}

#[test]
fn a_checkpoint_is_never_ahead_of_what_is_durable() {
    let mut site = Site::new();
    site.period = Duration::ZERO;
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let answer = hold_one(&open, &gate, 1);
    // The head is asked for all the time; the one that is asked for now waits for the commit.
    assert_eq!(site.vouched(), 1);
    gate.go(Fault::UNKNOWN);
    assert_eq!(answer.wait().err(), Some(Refused::Unavailable));
    open.close();
    assert_eq!(site.vouched(), 1, "nothing vouches for what may be lost");
    site.restart(None);
    assert_eq!(check(&site, &[]).len(), 2);
    go_on(&mut site, Acknowledged(Vec::new()));
}

#[test]
fn an_end_without_its_checkpoint_says_so_o_06() {
    let site = Site::new();
    let open = site.open().unwrap();
    issue_now(&open, 7).wait().unwrap();
    // A file where the directory was: nothing can be written there, by whomever.
    let directory = site.checkpoints().file().parent().unwrap().to_owned();
    let aside = directory.with_extension("aside");
    std::fs::rename(&directory, &aside).unwrap();
    std::fs::write(&directory, "").unwrap();
    let error = open.end().expect_err("the checkpoint could not be written").to_string();
    assert!(error.starts_with("checkpoint ") && error.contains("See that the directory"), "{error}");
    std::fs::remove_file(&directory).unwrap();
    std::fs::rename(&aside, &directory).unwrap();
    let open = site.open().expect("the next start goes by the one before");
    open.end().unwrap();
}
