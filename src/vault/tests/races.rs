//! What happens when things change in between: the rulebook, a revocation, the disk.

use super::*;
use crate::ledger::fixture::Gate;
use std::sync::atomic::AtomicBool;
use tokio::task::JoinHandle;

/// Starts an operation and waits until it has read, decided and handed its submission over.
async fn under_way<T: Send + 'static>(
    f: &Fixture,
    number: usize,
    operation: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let running = tokio::spawn(operation);
    f.until_waiting(number).await;
    running
}

fn let_go(gate: &Gate) {
    gate.lift();
    gate.go(Fault::NONE);
}

async fn show(client: Client, scope: &'static str, token: String) -> Shown {
    client.show(scope, &[&token]).await
}

#[tokio::test]
async fn of_a_revocation_and_a_release_in_one_batch_the_first_wins_l_04() {
    for revoke_first in [true, false] {
        let (f, gate) = Fixture::gated();
        let token = f.tester().issue("pan", item(PAN)).await;
        let held = f.hold(&gate).await;
        let revoke = {
            let (tester, token) = (f.tester(), token.token.clone());
            async move { tester.revoke("pan", &[&token], &[]).await.unwrap().results[0] }
        };
        let release = show(f.tester(), "pan", token.token.clone());
        let (revoked, released) = if revoke_first {
            let revoked = under_way(&f, 1, revoke).await;
            (revoked, under_way(&f, 2, release).await)
        } else {
            let released = under_way(&f, 1, release).await;
            (under_way(&f, 2, revoke).await, released)
        };
        let_go(&gate);
        held.await.unwrap();
        assert!(revoked.await.unwrap().is_ok());
        let expected = if revoke_first { nothing(1) } else { values(&[PAN]) };
        assert_eq!(released.await.unwrap(), expected);
        let story: Vec<String> = f
            .check()
            .iter()
            .filter(|event| event.handles.iter().any(|named| **named == token.handle.as_bytes()[..]))
            .map(|event| format!("{} {:?}", event.action().word(), outcomes(event)))
            .collect();
        let expected = if revoke_first {
            ["tokenize [Issued]", "revoke [Done]", "detokenize [Revoked]"]
        } else {
            ["tokenize [Issued]", "detokenize [Released]", "revoke [Done]"]
        };
        assert_eq!(story, expected);
    }
}

#[tokio::test]
async fn two_revocations_in_one_batch_agree_on_the_time() {
    let (f, gate) = Fixture::gated();
    let token = f.tester().issue("pan", item(PAN)).await.token;
    let held = f.hold(&gate).await;
    let revoke = |token: String| {
        let tester = f.tester();
        async move { tester.revoke("pan", &[&token], &[]).await.unwrap().results[0].unwrap() }
    };
    let one = under_way(&f, 1, revoke(token.clone())).await;
    f.site.clock.advance(Duration::from_secs(1));
    let other = under_way(&f, 2, revoke(token)).await;
    let_go(&gate);
    held.await.unwrap();
    assert_eq!(one.await.unwrap(), other.await.unwrap(), "the first time stands");
    f.check();
}

#[tokio::test]
async fn a_right_that_was_withdrawn_is_gone_from_the_acknowledgement_on_z_06() {
    let (f, gate) = Fixture::gated();
    let token = f.tester().issue("pan", item(PAN)).await.token;
    let held = f.hold(&gate).await;
    let racing = under_way(&f, 1, show(f.client("payments"), "pan", token.clone())).await;
    let stays = under_way(&f, 2, show(f.tester(), "pan", token.clone())).await;
    let old = f.policy.rulebook().digest();
    f.policy.publish(rulebook(&["payments.cedar"]));
    let_go(&gate);
    held.await.unwrap();
    assert_eq!(racing.await.unwrap(), Err("denied".to_owned()), "though it had been permitted when it began");
    assert_eq!(stays.await.unwrap(), values(&[PAN]), "who keeps the right is asked for again and served");
    let new = f.policy.rulebook().digest();
    assert_ne!(old, new);
    let events = f.check();
    let by_new: Vec<_> = events.iter().filter(|event| event.rulebook == new.to_vec()).map(words).collect();
    assert_eq!(by_new.len(), 2);
    assert!(by_new.contains(&"detokenize denied POLICY_DENIED".to_owned()));
    assert!(by_new.contains(&"detokenize allowed".to_owned()));
    let released_by_old = |event: &&Event| event.action() == Action::Detokenize && event.rulebook == old.to_vec();
    assert_eq!(events.iter().filter(released_by_old).count(), 0);
}

#[tokio::test]
async fn what_keeps_changing_ends_in_aborted() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("pan", limited(PAN, 1)).await;
    let before = f.site.dump();
    // Whatever is decided is out of date by its commit.
    f.unrest.store(1, Ordering::SeqCst);
    let failures = [
        tester.tokenize("pan", vec![item(PAN)]).await.err(),
        tester.detokenize("pan", &[&token.token]).await.err(),
        tester.inspect("pan", &[&token.token], &[]).await.err(),
        tester.revoke("pan", &[&token.token], &[]).await.err(),
    ];
    for (failure, verb) in failures.into_iter().zip(["tokenize", "detokenize", "inspect", "revoke"]) {
        let failure = failure.unwrap();
        assert_eq!(name(&failure), "conflict", "{verb}");
        let event = f.event(receipt(&failure).unwrap());
        assert_eq!(words(&event), format!("{verb} failed BASIS_CHANGED"));
        assert!(event.item_outcomes.is_empty() && event.succeeded == 0);
    }
    let after = f.site.dump();
    for table in [Table::Tokens, Table::Expiry] {
        assert!(before.iter().filter(|row| row.0.0 == table).eq(after.iter().filter(|row| row.0.0 == table)));
    }
    f.unrest.store(0, Ordering::SeqCst);
    assert_eq!(tester.show("pan", &[&token.token]).await, values(&[PAN]));
    f.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_revocation_is_acknowledged_nobody_gets_the_value_l_04() {
    const CALLERS: usize = 64;
    const ROUNDS: usize = 20;
    let f = Fixture::new();
    let mut released = 0;
    for _ in 0..ROUNDS {
        let token = f.tester().issue("pan", item(PAN)).await.token;
        let acknowledged = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (tester, token, acknowledged) = (f.tester(), token.clone(), Arc::clone(&acknowledged));
                tokio::spawn(async move {
                    let mut released = 0;
                    loop {
                        let over = acknowledged.load(Ordering::SeqCst);
                        let shown = tester.show("pan", &[&token]).await;
                        if over {
                            assert_eq!(shown, nothing(1), "it began after the acknowledgement");
                            return released;
                        }
                        match shown.unwrap().remove(0) {
                            Ok(value) => assert_eq!(value, PAN),
                            failure => assert_eq!(failure, Err(ItemFailure::NotFound)),
                        }
                        released += 1;
                    }
                })
            })
            .collect();
        let revoker = f.tester();
        assert!(revoker.show("pan", &[&token]).await.unwrap()[0].is_ok());
        revoker.revoke("pan", &[&token], &[]).await.unwrap();
        acknowledged.store(true, Ordering::SeqCst);
        for caller in callers {
            released += caller.await.unwrap();
        }
    }
    // `check` holds the log's order against it: nothing released after a revocation.
    let events = f.check().len();
    println!(
        "revocation: {ROUNDS} rounds against {CALLERS} callers, {released} calls before, {events} events, none out of order"
    );
}

/// Runs every operation once; says by name what became of each.
async fn everything(client: &Client, token: &Issued) -> Vec<Option<String>> {
    let tokens = [token.token.as_str()];
    vec![
        client.tokenize("pan", vec![item(PAN)]).await.err().map(|failure| name(&failure)),
        client.detokenize("pan", &tokens).await.err().map(|failure| name(&failure)),
        client.masked().detokenize("pan", &tokens).await.err().map(|failure| name(&failure)),
        client.inspect("pan", &tokens, &[]).await.err().map(|failure| name(&failure)),
        client.revoke("pan", &[], &[token.handle.to_string()]).await.err().map(|failure| name(&failure)),
        client.tokenize("new/note", vec![item(PAN)]).await.err().map(|failure| name(&failure)),
        client.detokenize("pan", &[]).await.err().map(|failure| name(&failure)),
    ]
}

#[tokio::test]
async fn while_the_log_can_not_be_written_nothing_succeeds_a_06() {
    let unavailable = vec![Some("unavailable".to_owned()); 7];
    for fault in [Fault::LOST, Fault::UNKNOWN] {
        // The commit that fails is each operation's own, in turn; all that follow find the log closed.
        for first in 0..7 {
            let mut f = Fixture::new();
            let token = f.tester().issue("pan", item(PAN)).await;
            let acknowledged = f.events().len();
            let mut site = f.close();
            site.restart(Some(Box::new(move |_, _| fault)));
            f = Fixture::over(site);
            let (tester, tokens) = (f.tester(), [token.token.as_str()]);
            let failure = match first {
                0 => tester.tokenize("pan", vec![item(PAN)]).await.err(),
                1 => tester.detokenize("pan", &tokens).await.err(),
                2 => tester.masked().detokenize("pan", &tokens).await.err(),
                3 => tester.inspect("pan", &tokens, &[]).await.err(),
                4 => tester.revoke("pan", &tokens, &[]).await.err(),
                5 => f.client("stranger").detokenize("pan", &tokens).await.err(),
                _ => tester.late().detokenize("pan", &tokens).await.err(),
            };
            assert_eq!(failure.as_ref().map(name).as_deref(), Some("unavailable"), "{first} {fault:?}");
            assert_eq!(everything(&tester, &token).await, unavailable);
            assert!(!f.vault.ledger().is_alive());
            assert_eq!(f.client("stranger").show("pan", &tokens).await, Err("unavailable".to_owned()));
            let f = f.restart();
            let expected = acknowledged + usize::from(fault.applied);
            assert_eq!(f.events().len(), expected, "no more than the one whose outcome was unknown");
            assert_eq!(everything(&f.tester(), &token).await[0], None, "it serves again");
            f.check();
        }
    }
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_recorded_all_the_same_a_10() {
    let (f, gate) = Fixture::gated();
    let token = f.tester().issue("pan", item(PAN)).await.token;
    let held = f.hold(&gate).await;
    let racing = under_way(&f, 1, show(f.tester(), "pan", token)).await;
    racing.abort();
    assert!(racing.await.unwrap_err().is_cancelled());
    let_go(&gate);
    held.await.unwrap();
    let f = f.restart();
    assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Released], "the value may have been sent");
    f.check();
}
