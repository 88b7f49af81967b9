//! Request ids: the same call again, by the same caller, has the same outcome and changes nothing twice.

use super::*;
use crate::clock::Clock;
use crate::vault::requests::{REMEMBERED_FOR, REPEATED};

fn all(count: usize) -> Vec<TokenizeItem> {
    (0..count).map(|place| item(format!("value {place}").as_bytes())).collect()
}

fn of_action(events: &[Event], action: Action) -> Vec<&Event> {
    events.iter().filter(|event| event.action() == action && event.outcome == 1).collect()
}

#[tokio::test]
async fn the_same_call_again_gets_the_same_tokens() {
    let f = Fixture::new();
    let tester = f.tester().request(1);
    let first = tester.issue_all("pan", all(3)).await;
    f.site.clock.advance(Duration::from_secs(5));
    assert_eq!(tester.issue_all("pan", all(3)).await, first);
    let again = f.last_event();
    assert_eq!((again.detail.as_str(), again.succeeded, again.request_hash.len()), (REPEATED, 3, 32));
    let f = f.restart();
    let tester = f.tester().request(1);
    assert_eq!(tester.issue_all("pan", all(3)).await, first, "also after a restart");
    // Nobody else's, and no other call's.
    let others = f.client("gateway").request(1).issue_all("pan", all(3)).await;
    assert!(others.iter().all(|other| !first.contains(other)));
    for (scope, items) in [("ssn", all(3)), ("pan", all(2)), ("pan", (0..3).map(|_| limited(b"value 0", 1)).collect())]
    {
        assert_eq!(tester.tokenize(scope, items).await.err().map(|failure| name(&failure)).unwrap(), "request id used");
        assert_eq!(words(&f.last_event()), "tokenize failed REQUEST_ID_USED");
    }
    let failure = tester.all_or_nothing().tokenize("pan", all(3)).await.err().unwrap();
    assert_eq!(name(&failure), "request id used", "also an option is part of the call");
    assert_ne!(f.tester().request(2).issue_all("pan", all(3)).await, first);
    let events = f.check();
    let hashes: Vec<_> = of_action(&events, Action::Tokenize).iter().map(|event| event.request_hash.clone()).collect();
    assert!(hashes[0] == hashes[1] && hashes[1] == hashes[2] && hashes[2] != hashes[3] && hashes[3] != hashes[4]);
}

#[tokio::test]
async fn failed_items_fail_the_same_way_again() {
    let f = Fixture::new();
    let tester = f.tester().request(1);
    let items = || vec![item(PAN), item(b""), lasting(PAN, Duration::ZERO)];
    let results = async || {
        let results = tester.tokenize("pan", items()).await.unwrap().results;
        results.into_iter().map(|result| result.map(|issued| issued.handle)).collect::<Vec<_>>()
    };
    let first = results().await;
    assert_eq!(
        first[1..].iter().map(|result| result.unwrap_err()).collect::<Vec<_>>(),
        [ItemFailure::Invalid(Reason::ValueEmpty), ItemFailure::Invalid(Reason::LifetimeNotPositive),]
    );
    assert_eq!(results().await, first);
    f.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_at_once_one_issues_and_all_get_its_tokens() {
    let f = Fixture::new();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let tester = f.tester().request(7);
            tokio::spawn(async move { tester.issue_all("pan", all(2)).await })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let events = f.check();
    let issues = of_action(&events, Action::Tokenize);
    assert_eq!(issues.len(), 100, "each call has its event");
    assert_eq!(issues.iter().filter(|event| event.detail != REPEATED).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_repeated_detokenize_shows_the_value_again_without_a_second_use() {
    let f = Fixture::new();
    let token = f.tester().issue("pan", limited(PAN, 1)).await.token;
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (tester, token) = (f.tester().request(7), token.clone());
            tokio::spawn(async move { tester.show("pan", &[&token]).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), values(&[PAN]));
    }
    assert_eq!(f.tester().request(8).show("pan", &[&token]).await, nothing(1), "its one use is gone");
    let f = f.restart();
    let tester = f.tester().request(7);
    assert_eq!(tester.show("pan", &[&token]).await, values(&[PAN]));
    assert_eq!(tester.masked().show("pan", &[&token]).await, Err("request id used".to_owned()));
    assert_eq!(tester.purpose("other").show("pan", &[&token]).await, Err("request id used".to_owned()));
    // What the token's state or policy no longer allows, a request id does not either.
    assert_eq!(f.client("stranger").request(7).show("pan", &[&token]).await, Err("denied".to_owned()));
    f.tester().revoke("pan", &[&token], &[]).await.unwrap();
    assert_eq!(tester.show("pan", &[&token]).await, nothing(1));
    f.check();
}

#[tokio::test]
async fn an_outcome_does_not_get_better_by_asking_again() {
    let f = Fixture::new();
    let tester = f.tester();
    let tokens = tester.issue_all("pan", vec![limited(PAN, 2), limited(PAN, 1)]).await;
    tester.show("pan", &[&tokens[1].token]).await.unwrap();
    let asked = [&tokens[0].token[..], &tokens[1].token, &tokens[0].token, &tokens[0].token];
    let first = tester.request(1).show("pan", &asked).await;
    assert_eq!(
        first,
        Ok([Ok(()), Err(()), Ok(()), Err(())]
            .map(|result| result.map(|()| PAN.to_vec()).map_err(|()| ItemFailure::NotFound))
            .to_vec())
    );
    assert_eq!(tester.request(1).show("pan", &asked).await, first);
    assert_eq!(outcomes(&f.last_event()).iter().filter(|outcome| **outcome == ItemOutcome::Released).count(), 2);
    f.check();
}

#[tokio::test]
async fn repeated_renewals_and_revocations_keep_their_times() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("pan", item(PAN)).await.token;
    let hour = Some(Duration::from_hours(1));
    let renewed = tester.request(1).renew("pan", &[&token], hour).await.unwrap().results;
    f.site.clock.advance(Duration::from_mins(1));
    assert_eq!(tester.request(1).renew("pan", &[&token], hour).await.unwrap().results, renewed);
    let failure = tester.request(1).renew("pan", &[&token], None).await.err().unwrap();
    assert_eq!(name(&failure), "request id used");
    let revoked = tester.request(2).revoke("pan", &[&token], &[]).await.unwrap().results;
    f.site.clock.advance(Duration::from_mins(1));
    assert_eq!(tester.request(2).revoke("pan", &[&token], &[]).await.unwrap().results, revoked);
    assert_eq!(
        tester.request(1).revoke("pan", &[&token], &[]).await.err().map(|failure| name(&failure)).unwrap(),
        "request id used"
    );
    f.check();
}

#[tokio::test]
async fn after_a_day_a_request_id_is_forgotten() {
    let f = Fixture::new();
    let tester = f.tester().request(1);
    let first = tester.issue("pan", item(PAN)).await;
    f.site.clock.advance(REMEMBERED_FOR.saturating_sub(Duration::from_millis(1)));
    assert_eq!(tester.issue("pan", item(PAN)).await, first);
    f.site.clock.advance(Duration::from_millis(1));
    assert_ne!(tester.issue("pan", item(PAN)).await, first);
    f.check();
}

/// The answer was lost with the process: what was written is found again, what was not is made anew.
#[tokio::test]
async fn a_retry_after_a_crash_finds_what_was_written() {
    for fault in [Fault::LOST, Fault::UNKNOWN] {
        let f = Fixture::new();
        f.tester().issue("pan", item(PAN)).await;
        let mut site = f.close();
        site.restart(Some(Box::new(move |_, _| fault)));
        let f = Fixture::over(site);
        let failure = f.tester().request(1).tokenize("pan", all(2)).await.err().unwrap();
        assert_eq!(name(&failure), "unavailable");
        let f = f.restart();
        let before = f.events().len();
        let first = f.tester().request(1).issue_all("pan", all(2)).await;
        assert_eq!(f.tester().request(1).issue_all("pan", all(2)).await, first);
        assert_eq!(f.events().len(), before + 2);
        f.check();
    }
}

#[tokio::test]
async fn what_is_no_version_4_uuid_is_refused() {
    let f = Fixture::new();
    for bad in [
        "x",
        "00000000-0000-4000-8000-00000000000",
        "00000000-0000-1000-8000-000000000000",
        "00000000-0000-4000-0000-000000000000",
        "0000000000004000800000000000000000",
        "{0000000-0000-4000-8000-000000000000}",
        "00000000-0000-4000-8000-00000000000g",
    ] {
        let client = Client { request_id: bad.to_owned(), ..f.tester() };
        let failures = [
            client.tokenize("pan", all(1)).await.err(),
            client.detokenize("pan", &["x"]).await.err(),
            client.renew("pan", &["x"], None).await.err(),
            client.revoke("pan", &["x"], &[]).await.err(),
        ];
        for failure in failures {
            assert_eq!(name(&failure.unwrap()), "request_id REQUEST_ID_MALFORMED");
        }
        f.site.clock.advance(Duration::from_secs(1));
    }
    let upper = Client { request_id: "0000000A-0000-4000-B000-00000000000F".to_owned(), ..f.tester() };
    let lower = Client { request_id: upper.request_id.to_lowercase(), ..f.tester() };
    assert_eq!(upper.issue_all("pan", all(1)).await, lower.issue_all("pan", all(1)).await, "the same 16 bytes");
    f.check();
}

#[tokio::test]
async fn all_or_nothing_issues_nothing_if_one_item_is_wrong() {
    let f = Fixture::new();
    let tester = f.tester().all_or_nothing();
    assert_eq!(tester.issue_all("pan", all(3)).await.len(), 3);
    let before = f.site.dump();
    let items = vec![item(PAN), item(b""), item(PAN), lasting(PAN, Duration::from_hours(24 * 401))];
    let failure = tester.request(1).tokenize("pan", items).await.err().unwrap();
    assert_eq!(name(&failure), "all or nothing: 1 VALUE_EMPTY 3 LIFETIME_TOO_LONG");
    let event = f.event(receipt(&failure).unwrap());
    assert_eq!(words(&event), "tokenize failed ALL_OR_NOTHING");
    assert_eq!((event.detail.as_str(), event.handles.len(), event.succeeded), ("2 of 4 items refused", 0, 0));
    let after = f.site.dump();
    for table in [Table::Tokens, Table::Expiry, Table::Requests] {
        assert!(before.iter().filter(|row| row.0.0 == table).eq(after.iter().filter(|row| row.0.0 == table)));
    }
    // The call failed as a whole, so its id may be used for one that is mended.
    tester.request(1).issue_all("pan", all(1)).await;
    f.check();
}

#[tokio::test]
async fn what_was_used_up_and_then_expired_is_not_found_and_sinks_no_neighbour() {
    let f = Fixture::new();
    let tester = f.tester();
    let short = TokenizeItem { max_uses: 1, ..lasting(PAN, Duration::from_secs(3)) };
    let tokens = tester.issue_all("pan", vec![short, item(b"good")]).await;
    let tokens: Vec<&str> = tokens.iter().map(|token| token.token.as_str()).collect();
    assert_eq!(tester.request(1).show("pan", &tokens).await, values(&[PAN, b"good"]));
    f.site.clock.advance(Duration::from_secs(3));
    let shown = tester.request(1).show("pan", &tokens).await;
    assert_eq!(shown, Ok(vec![Err(ItemFailure::NotFound), Ok(b"good".to_vec())]));
    assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Expired, ItemOutcome::Released]);
    f.check();
}

#[tokio::test]
async fn a_repeated_revocation_says_so_and_keeps_its_time_when_the_token_is_gone() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("pan", item(PAN)).await.token;
    let results = tester.request(1).revoke("pan", &[&token, "nonsense"], &[]).await.unwrap().results;
    f.site.clock.advance(Duration::from_mins(1));
    assert_eq!(tester.request(1).revoke("pan", &[&token, "nonsense"], &[]).await.unwrap().results, results);
    let event = f.last_event();
    assert_eq!(event.detail, format!("lost; {REPEATED}"));
    assert_eq!(outcomes(&event), [ItemOutcome::Done, ItemOutcome::Malformed]);
    f.check();
}

/// A wall clock that is far ahead for a while must not make work be done twice.
#[tokio::test]
async fn a_clock_that_leaps_makes_no_request_be_forgotten() {
    let f = Fixture::new();
    let tester = f.tester().request(1);
    let first = tester.issue("pan", lasting(PAN, Duration::from_hours(24 * 400))).await;
    let right = f.site.clock.wall();
    f.site.clock.set_wall(right.checked_add(Duration::from_hours(48)).unwrap());
    assert_eq!(tester.issue("pan", lasting(PAN, Duration::from_hours(24 * 400))).await, first);
    f.site.clock.set_wall(right);
    assert_eq!(tester.issue("pan", lasting(PAN, Duration::from_hours(24 * 400))).await, first);
    f.check();
}
