//! A store that does not answer: nothing fails, and nothing is acknowledged.

use super::*;
use crate::clock::Clock;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_commit_that_stands_still_is_seen_and_one_after_the_other_is_not_s_11() {
    let mut site = Site::new();
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let mut stall = Stall::default();
    let mut look = || stall.look(open.ledger.under_way(), site.clock.monotonic());
    assert_eq!(look(), Duration::ZERO, "nothing to do");
    // The whole way to the disk takes a second each time, and that is no standstill.
    for number in 0..5 {
        let answer = hold_one(&open, &gate, number);
        look();
        site.clock.advance(SECOND);
        assert_eq!(look(), SECOND);
        gate.go(Fault::NONE);
        answer.wait().unwrap();
    }
    let held = hold_one(&open, &gate, 5);
    assert_eq!(look(), Duration::ZERO, "other work");
    let mut waiting = issue_now(&open, 6);
    for seconds in 1..10 {
        site.clock.advance(SECOND);
        assert_eq!(look(), SECOND * seconds, "new submissions behind it change nothing");
    }
    assert!(waiting.is_open(), "nothing is acknowledged meanwhile");
    gate.go(Fault::NONE);
    gate.pass();
    assert!(held.wait().is_ok() && waiting.wait().is_ok(), "both are, when it goes on");
    // The writer is done a moment after the last answer.
    open.ledger.head().unwrap();
    while open.ledger.under_way().is_some() {
        std::thread::yield_now();
    }
    assert_eq!(look(), Duration::ZERO);
    open.close();
    assert_eq!(site.check().len(), 8);
}

#[tokio::test]
async fn while_it_is_paused_nothing_new_is_taken_and_what_waits_is_written_s_05_a_06() {
    let mut site = Site::new();
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let (held, waiting) = (hold_one(&open, &gate, 1), issue_now(&open, 2));
    assert!(open.ledger.takes_submissions());
    open.ledger.pause();
    assert!(!open.ledger.takes_submissions() && open.ledger.is_alive());
    let ask = |number| {
        let value = Held::new("4111111111111111", vec![(0, handle(number))]);
        open.ledger.commit(issue(open.ledger.basis(), number), value)
    };
    assert_eq!(ask(3).await.err(), Some(Refused::Unavailable), "and what it held stays in");
    assert_eq!(open.ledger.record(issue(open.ledger.basis(), 4)).await.err(), Some(Refused::Unavailable));
    gate.go(Fault::NONE);
    gate.pass();
    assert!(held.wait().is_ok() && waiting.wait().is_ok());
    assert_eq!(ask(5).await.err(), Some(Refused::Unavailable));
    open.ledger.resume();
    assert!(open.ledger.takes_submissions());
    gate.lift();
    assert_eq!(ask(6).await.unwrap().0, "4111111111111111");
    open.close();
    assert_eq!(site.check().len(), 4, "the first, the two that waited, and the one after");
}

#[test]
fn a_store_that_fails_in_the_background_is_as_final_as_a_commit_that_fails_s_04() {
    let site = Site::new();
    let open = site.open().unwrap();
    issue_now(&open, 1).wait().unwrap();
    open.ledger.give_up(&Fatal::Background(1));
    assert_eq!(submit(&open.ledger, issue(open.ledger.basis(), 2)).err(), Some(Refused::Unavailable));
    assert!(!open.ledger.is_alive() && !open.ledger.takes_submissions());
    open.close();
    let told = site.fatal.lock().unwrap().clone();
    assert!(matches!(&told[..], [one] if one.contains("in the background (1 times)")), "{told:?}");
    assert_eq!(check(&site, &[(1, "issue 1".into())]).len(), 2);
}
