//! One commit after the other: what is acknowledged when, what is stale, what does not fit.

use super::*;

#[test]
fn a_receipt_comes_only_after_the_commit_is_durable() {
    let mut site = Site::new();
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let before = open.ledger.basis();
    let mut answer = issue_now(&open, 1);
    gate.arrived();
    assert!(answer.is_open(), "the store has not answered yet");
    assert_eq!(open.ledger.basis(), before, "nobody's reads are based on it yet");
    gate.go(Fault::NONE);
    let receipt = answer.wait().unwrap();
    assert_eq!((&**receipt.log_id(), receipt.sequence()), (LOG, 1));
    assert_eq!(open.ledger.basis().commit, before.commit + 1);
    assert!(site.row(Table::Requests, handle(1).as_bytes()).is_some(), "who has a receipt can read the row");
    open.close();
    check(&site, &[(1, "issue 1".into())]);
}

#[tokio::test]
async fn what_is_held_comes_out_only_with_its_receipt() {
    let mut site = Site::new();
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let ledger = open.ledger.clone();
    let held = Held::new("4111111111111111", vec![(0, handle(1))]);
    let mut commit = pin!(ledger.commit(issue(open.ledger.basis(), 1), held));
    assert!(!has_ended(&mut commit).await);
    gate.arrived();
    assert!(!has_ended(&mut commit).await, "the batch is before the store: nothing is out");
    gate.go(Fault::NONE);
    let (value, receipt) = commit.await.unwrap();
    assert_eq!((value, receipt.sequence()), ("4111111111111111", 1));

    let held = Held::new("4111111111111111", vec![(0, handle(2))]);
    let mut commit = pin!(ledger.commit(issue(ledger.basis(), 2), held));
    assert!(!has_ended(&mut commit).await);
    gate.arrived();
    gate.go(Fault::LOST);
    assert_eq!(commit.await.err(), Some(Refused::Unavailable), "without a durable event it stays in");
    open.close();
}

#[tokio::test]
async fn what_the_event_does_not_name_stays_held() {
    let site = Site::new();
    let open = site.open().unwrap();
    let commit = |event: Event, names: Vec<(usize, Handle)>| {
        let submission = Submission::new(open.ledger.basis(), event);
        open.ledger.commit(submission, Held::new("value", names))
    };
    let both = || event("two", &[handle(1), handle(2)]);
    let mut refused = 0;
    for names in [
        vec![(0, handle(2))],
        vec![(1, handle(1))],
        vec![(2, handle(2))],
        vec![(usize::MAX, handle(1))],
        vec![(0, handle(1)), (1, handle(1))],
        vec![(0, handle(1)), (1, handle(3))],
    ] {
        assert_eq!(commit(both(), names).await.err(), Some(Refused::Unnamed));
        refused += 1;
    }
    for outcome in (0..=15).filter(|code| !(1..=3).contains(code)) {
        let mut event = both();
        event.item_outcomes[1] = outcome;
        let names = vec![(0, handle(1)), (1, handle(2))];
        assert_eq!(commit(event, names).await.err(), Some(Refused::Unnamed), "outcome {outcome}");
        refused += 1;
    }
    let mut short = both();
    short.item_outcomes.pop();
    assert_eq!(commit(short, vec![(1, handle(2))]).await.err(), Some(Refused::Unnamed));
    let mut cut = both();
    cut.handles[1].truncate(19);
    assert_eq!(commit(cut, vec![(1, handle(2))]).await.err(), Some(Refused::Unnamed));
    assert_eq!(site.check().len(), 1, "nothing of it was written");
    for outcome in [ItemOutcome::Issued, ItemOutcome::Released, ItemOutcome::Masked] {
        let mut event = both();
        event.item_outcomes = vec![outcome.into(); 2];
        assert!(commit(event, vec![(0, handle(1)), (1, handle(2))]).await.is_ok());
    }
    open.close();
    assert_eq!(site.check().len(), 4);
    println!("held: {} events that name it wrongly, all refused", refused + 2);
}

#[test]
fn times_never_decrease_and_a_leap_does_no_lasting_harm_l_03() {
    let mut site = Site::new();
    let year = Duration::from_hours(24 * 365);
    let mut stamps = Vec::new();
    let open = site.open().unwrap();
    let mut number = 0;
    let mut stamp = |open: &Open, valid_for: Duration| {
        number += 1;
        // Valid by the vault's time, which is what decides; the stamps are only never to go back.
        let until = open.ledger.clock().now().checked_add(valid_for);
        let submission = issue(open.ledger.basis(), number).valid_until(until);
        let receipt = submit(&open.ledger, submission).unwrap().wait().expect("it is valid");
        stamps.push(receipt.time());
    };
    stamp(&open, Duration::from_millis(1));
    site.clock.set_wall(START.checked_add(10 * year).unwrap());
    stamp(&open, Duration::from_millis(1));
    site.clock.set_wall(START);
    stamp(&open, Duration::from_millis(1));
    site.clock.set_wall(Timestamp::from_millis(0));
    stamp(&open, Duration::from_millis(1));
    site.clock.set_wall(START);
    site.clock.advance(Duration::from_secs(5));
    stamp(&open, Duration::from_millis(1));
    open.close();
    site.restart(None);
    let open = site.open().unwrap();
    stamp(&open, Duration::from_millis(1));
    open.close();
    assert!(stamps.is_sorted(), "{stamps:?}");
    assert_eq!(stamps[1..], [START.checked_add(10 * year).unwrap(); 5]);
    assert_eq!(site.check().len(), 7);
}

#[test]
fn what_was_rewritten_since_makes_stale() {
    let site = Site::new();
    let open = site.open().unwrap();
    issue_now(&open, 1).wait().unwrap();
    issue_now(&open, 2).wait().unwrap();
    let before = open.ledger.basis();
    let answer = |submission| submit(&open.ledger, submission).unwrap().wait().map(|_| ());
    assert_eq!(answer(rewrite(before, 1, "first")), Ok(()));
    assert_eq!(answer(rewrite(before, 1, "second")), Err(Refused::Stale), "no lost update");
    assert_eq!(answer(release(before, 1)), Err(Refused::Stale), "nothing is released on old grounds");
    assert_eq!(answer(release(before, 2)), Ok(()), "its neighbour was not touched");
    assert_eq!(answer(release(open.ledger.basis(), 1)), Ok(()), "what has read it since may");
    open.close();
    let events = check(&site, &[]);
    assert_eq!(details(&events)[1..], ["issue 1", "issue 2", "first", "release 2", "release 1"]);
}

#[test]
fn in_one_batch_the_order_decides_l_04() {
    let mut site = Site::new();
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let issued = hold_one(&open, &gate, 1);
    gate.go(Fault::NONE);
    issued.wait().unwrap();
    let held = hold_one(&open, &gate, 2);
    let basis = open.ledger.basis();
    let queued: Vec<Answer> =
        [release(basis, 1), rewrite(basis, 1, "revoked"), release(basis, 1), rewrite(basis, 1, "again")]
            .into_iter()
            .map(|submission| submit(&open.ledger, submission).unwrap())
            .collect();
    gate.go(Fault::NONE);
    held.wait().unwrap();
    gate.pass();
    let outcomes: Vec<_> = queued.into_iter().map(|answer| answer.wait().map(|receipt| receipt.sequence())).collect();
    assert_eq!(outcomes, [Ok(3), Ok(4), Err(Refused::Stale), Err(Refused::Stale)]);
    open.close();
    assert_eq!(details(&check(&site, &[]))[3..], ["release 1", "revoked"]);
}

#[test]
fn another_rulebook_makes_stale() {
    let mut site = Site::new();
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let held = hold_one(&open, &gate, 1);
    let basis = open.ledger.basis();
    let old = submit(&open.ledger, issue(basis, 2)).unwrap();
    site.generation.store(2, Ordering::SeqCst);
    let new = submit(&open.ledger, issue(basis.decided_by(2), 3)).unwrap();
    gate.go(Fault::NONE);
    held.wait().unwrap();
    gate.pass();
    assert_eq!(old.wait().err(), Some(Refused::Stale), "decided by the one before");
    assert_eq!(new.wait().unwrap().sequence(), 2);
    assert_eq!(submit(&open.ledger, issue(open.ledger.basis(), 4)).map(|_| ()), Ok(()));
    gate.pass();
    open.close();
    assert!(site.row(Table::Requests, handle(2).as_bytes()).is_none(), "nothing of it was written");
    check(&site, &[(2, "issue 3".into())]);
}

#[test]
fn what_has_expired_by_the_commit_is_not_released_l_01() {
    let site = Site::new();
    let open = site.open().unwrap();
    let (mut valid, mut stale) = (0, 0);
    for ahead in 0..50_u64 {
        let until = START.checked_add(Duration::from_millis(25)).unwrap();
        site.clock.set_wall(START.checked_add(Duration::from_millis(ahead)).unwrap());
        let submission = release(open.ledger.basis(), 1).valid_until(Some(until));
        match submit(&open.ledger, submission).unwrap().wait() {
            Ok(_) => valid += 1,
            Err(refused) => {
                assert_eq!(refused, Refused::Stale);
                stale += 1;
            }
        }
        assert_eq!(stale > 0, ahead >= 25, "valid if and only if now < expires: {ahead}");
    }
    assert_eq!((valid, stale), (25, 25));
    open.close();
    assert_eq!(site.check().len(), 26);
}

#[test]
fn what_does_not_fit_is_refused_at_once() {
    let bytes = |filler: &Submission| filler.changes.rows().size() + filler.event.encode_body().len();
    let rows = |filler: &Submission| filler.changes.rows().len() + 1 + IndexRow::of(&filler.event).len();
    let mut site = Site::new();
    let room = site.limits.clone();
    let open = site.open().unwrap();
    let filler = issue(open.ledger.basis(), 1);
    let (size, records) = (bytes(&filler), rows(&filler));
    assert_eq!(records, 5, "a row, an event and its three index rows");
    open.close();
    let full = [
        Limits { calls: 7, ..room.clone() },
        Limits { records: 7 * records, ..room.clone() },
        Limits { records: 8 * records - 1, ..room.clone() },
        Limits { bytes: 7 * size, ..room.clone() },
        Limits { bytes: 8 * size - 1, ..room },
    ];
    for limits in full {
        site.limits = limits.clone();
        let gate = site.restart_gated();
        let open = site.open().unwrap();
        for round in 0..2 {
            let held = hold_one(&open, &gate, 1);
            let waiting: Vec<Answer> = (0..7).map(|_| issue_now(&open, 1)).collect();
            assert!(!open.ledger.is_full(), "nobody was refused yet");
            for _ in 0..3 {
                let refused = submit(&open.ledger, issue(open.ledger.basis(), 1)).err();
                assert_eq!(refused, Some(Refused::Overloaded), "{limits:?}, round {round}");
                assert!(open.ledger.is_full());
            }
            assert_eq!(fixture::waiting(&open.ledger), 7);
            gate.go(Fault::NONE);
            gate.pass();
            assert!(!open.ledger.is_full(), "the writer has taken what waited");
            assert!(held.wait().is_ok() && waiting.into_iter().all(|answer| answer.wait().is_ok()));
        }
        open.close();
    }
    assert_eq!(site.check().len(), 1 + 5 * 2 * 8);
}

#[test]
fn one_alone_always_fits() {
    let mut site = Site::new();
    site.limits = Limits { calls: 1, records: 1, bytes: 1, patience: HANG };
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let held = hold_one(&open, &gate, 1);
    let alone = issue_now(&open, 2);
    assert_eq!(submit(&open.ledger, issue(open.ledger.basis(), 3)).err(), Some(Refused::Overloaded));
    gate.go(Fault::NONE);
    gate.pass();
    assert!(held.wait().is_ok() && alone.wait().is_ok());
    open.close();
    assert_eq!(site.check().len(), 3);
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let mut site = Site::new();
    site.limits.patience = Duration::ZERO;
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let held = Held::new("value", vec![(0, handle(1))]);
    let refused = open.ledger.commit(issue(open.ledger.basis(), 1), held).await.err();
    assert_eq!(refused, Some(Refused::Unavailable));
    gate.pass();
    open.close();
    assert_eq!(details(&site.check())[1..], ["issue 1"], "its outcome was unknown, and whole");
}

#[test]
fn closing_finishes_what_waits_and_signs_for_all_of_it() {
    let mut site = Site::new();
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    let ledger = open.ledger.clone();
    let mut waiting = vec![hold_one(&open, &gate, 1)];
    waiting.extend((2..6).map(|number| issue_now(&open, number)));
    let closing = std::thread::spawn(move || open.close());
    while ledger.is_alive() {
        std::thread::yield_now();
    }
    assert_eq!(submit(&ledger, issue(ledger.basis(), 6)).err(), Some(Refused::Unavailable));
    gate.go(Fault::NONE);
    gate.pass();
    closing.join().unwrap();
    assert!(waiting.into_iter().all(|answer| answer.wait().is_ok()));
    assert_eq!(site.vouched(), 6);
    assert_eq!(check(&site, &[]).len(), 6);
    assert!(ledger.head().is_none());
    assert!(site.fatal.lock().unwrap().is_empty(), "an end in order is no failure");
}

#[test]
fn threads_that_race_get_one_place_each() {
    const THREADS: u32 = 8;
    const EACH: u32 = 250;
    let site = Site::new();
    let open = site.open().unwrap();
    let commits_before = open.ledger.basis().commit;
    let acknowledged: Vec<(u64, String)> = std::thread::scope(|scope| {
        let thread = |thread: u32| {
            let open = &open;
            scope.spawn(move || {
                let numbers = thread * EACH..(thread + 1) * EACH;
                let receipt = |number| (issue_now(open, number).wait().unwrap().sequence(), format!("issue {number}"));
                numbers.map(receipt).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..THREADS).map(thread).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let commits = open.ledger.basis().commit - commits_before;
    open.close();
    assert_eq!(check(&site, &acknowledged).len(), (1 + THREADS * EACH) as usize);
    println!("race: {} submissions by {THREADS} threads in {commits} commits, each in its place", acknowledged.len());
}

#[test]
fn a_worker_wakes_those_who_wait_on_its_thread() {
    let site = Site::new();
    let open = site.open().unwrap();
    let ledger = open.ledger.clone();
    // A thread of its own: it stays a worker until it ends.
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let worker = tokio::spawn(Worker::register().run());
            let waiting: Vec<_> = (1..=32)
                .map(|number| {
                    let ledger = ledger.clone();
                    tokio::spawn(async move { ledger.record(issue(ledger.basis(), number)).await.unwrap().sequence() })
                })
                .collect();
            let mut sequences = Vec::new();
            for one in waiting {
                sequences.push(one.await.unwrap());
            }
            worker.abort();
            sequences
        })
    });
    assert_eq!(serving.join().unwrap(), (1..=32).collect::<Vec<_>>());
    open.close();
    assert_eq!(check(&site, &[]).len(), 33);
}

#[test]
fn what_a_worker_waits_for_is_delivered_by_its_own_task() {
    let site = Site::new();
    let open = site.open().unwrap();
    let ledger = open.ledger.clone();
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut worker = pin!(Worker::register().run());
            let mut answers = [1, 2].map(|number| submit(&ledger, issue(ledger.basis(), number)).unwrap());
            // The head is told behind the commits that were handed over before.
            while ledger.head().unwrap().size < 3 {}
            assert!(answers.iter_mut().all(Answer::is_open), "nothing was done on another thread");
            assert!(!has_ended(&mut worker).await, "it goes on for as long as it is polled");
            answers.map(|answer| answer.wait().unwrap().sequence())
        })
    });
    assert_eq!(serving.join().unwrap(), [1, 2]);
    open.close();
}

#[test]
fn checkpoints_follow_the_log_and_never_go_back() {
    let mut site = Site::new();
    site.period = Duration::ZERO;
    site.restart(None);
    let open = site.open().unwrap();
    let mut sizes = vec![site.vouched()];
    for number in 1..=20 {
        let sequence = issue_now(&open, number).wait().unwrap().sequence();
        let started = std::time::Instant::now();
        while *sizes.last().unwrap() <= sequence {
            assert!(started.elapsed() < HANG, "no checkpoint for event {sequence}");
            std::thread::yield_now();
            sizes.push(site.vouched());
        }
    }
    assert!(sizes.is_sorted());
    // A copy inside goes with a later commit.
    issue_now(&open, 21).wait().unwrap();
    open.close();
    assert_eq!(site.vouched(), 22);
    check(&site, &[]);
    let inside = site.row(Table::Tree, b"checkpoint").expect("a copy is stored inside");
    assert!(String::from_utf8(inside).unwrap().starts_with(LOG));
}

#[test]
fn a_checkpoint_that_can_not_be_written_is_tried_again() {
    let site = Site::new();
    let open = site.open().unwrap();
    issue_now(&open, 1).wait().unwrap();
    let mut checkpointer = super::checkpointer::Checkpointer {
        shared: Arc::clone(&open.ledger.shared),
        rows: Arc::clone(&site.store) as _,
        signing: Signing::by(site.log_key()),
        directories: Checkpoints::of(CheckpointDirectory::new("/dev/null/at/all")),
        rulebook_digest: Box::new(|| [0; 32]),
        witnessed: crate::ledger::witnesses::Witnessed::default(),
        doubtful: false,
        failed: String::new(),
    };
    let head = open.ledger.head().unwrap();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let refused = metrics::with_local_recorder(&recorder, || checkpointer.sign(&head).err());
    assert_eq!(refused, Some(Refused::Unavailable));
    let figures = recorder.handle().render();
    assert!(figures.contains("cloakroom_checkpoint_events_total 1\n"), "one was read again: {figures}");
    assert!(figures.contains("cloakroom_checkpoint_failures_total 1\n"), "{figures}");
    assert_eq!(open.ledger.vouched().size(), 1, "nothing vouches for more than was written");
    checkpointer.directories = Checkpoints::of(site.checkpoints());
    assert_eq!(checkpointer.sign(&head).unwrap().size(), 2);
    assert_eq!((open.ledger.vouched().size(), site.vouched()), (2, 2));
    let old = Head { size: 1, ..head };
    assert_eq!(checkpointer.sign(&old).unwrap().size(), 2, "an older head is never signed after a newer one");
    assert_eq!(site.vouched(), 2);
    open.close();
    check(&site, &[]);
}

#[test]
fn an_empty_batch_of_heads_commits_nothing() {
    let mut site = Site::new();
    let gate = site.restart_gated();
    let open = site.open().unwrap();
    assert_eq!(open.ledger.head().map(|head| head.size), Some(1));
    assert_eq!(open.ledger.head().map(|head| head.size), Some(1));
    assert!(gate.is_empty(), "asking writes nothing");
    let stale = rewrite(open.ledger.basis().decided_by(99), 1, "never");
    assert_eq!(submit(&open.ledger, stale).unwrap().wait().err(), Some(Refused::Stale));
    assert!(gate.is_empty(), "nor does what is stale");
    open.close();
}
