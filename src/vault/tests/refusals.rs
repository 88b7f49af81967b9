//! What is refused: in which order things are decided, what the log says of it, and that none of it gets lost.

use super::*;
use crate::limits::{Gravity, Strangers};
use crate::vault::record::HANDLES_OF_DENIED;
use std::net::{IpAddr, Ipv4Addr};

fn denied<T>() -> Result<T, String> {
    Err("denied".to_owned())
}

#[tokio::test]
async fn what_no_policy_names_is_denied_before_anything_is_looked_up_z_01() {
    let f = Fixture::new();
    let token = f.tester().issue("pan", item(PAN)).await;
    let handles = [token.handle.to_string()];
    let reads = f.reads.load(Ordering::SeqCst);
    let mut cells = 0;
    for caller in ["gateway", "payments", "auditor", "operator", "stranger"] {
        let client = f.client(caller);
        for scope in ["pan", "ssn", "email", "free", "nowhere", "acme/note"] {
            let shown = [
                (client.tokenize(scope, vec![item(PAN)]).await.err(), "tokenize"),
                (client.detokenize(scope, &[&token.token]).await.err(), "detokenize"),
                (client.inspect(scope, &[&token.token], &handles).await.err(), "inspect"),
                (client.revoke(scope, &[&token.token], &handles).await.err(), "revoke"),
            ];
            for (failure, verb) in shown {
                let known = ["pan", "ssn", "email"].contains(&scope);
                let allowed = match (caller, verb) {
                    ("gateway", "tokenize") => known,
                    ("payments", "detokenize") => scope == "pan",
                    ("operator", "inspect" | "revoke") => scope != "nowhere",
                    _ => false,
                };
                let expected = if allowed { None } else { Some("denied".to_owned()) };
                assert_eq!(failure.as_ref().map(name), expected, "{caller} {verb} {scope}");
                cells += 1;
            }
            // So that each denial has an event of its own.
            f.site.clock.advance(Duration::from_secs(10));
        }
    }
    println!("denied: {cells} cells of callers, scopes and verbs");
    // The permitted ones read: payments once, the operator twice in each of its scopes.
    assert_eq!(f.reads.load(Ordering::SeqCst) - reads, 1 + 2 * 5, "nobody else");
    f.close().check();
}

#[tokio::test]
async fn the_event_of_a_denial_says_what_was_tried() {
    let f = Fixture::new();
    let issued = f.tester().issue_all("pan", (0..150).map(|_| item(PAN)).collect()).await;
    let tokens: Vec<&str> = issued.iter().map(|issued| issued.token.as_str()).collect();
    let failure = f.client("gateway").detokenize("pan", &tokens).await.err().unwrap();
    let event = f.event(receipt(&failure).expect("the first denials have events of their own"));
    assert_eq!(words(&event), "detokenize denied POLICY_DENIED");
    assert_eq!((event.requested, event.succeeded, event.handles.len()), (150, 0, HANDLES_OF_DENIED));
    assert!(event.handles.iter().zip(&issued).all(|(named, issued)| *named == issued.handle.as_bytes()[..]));
    assert!(event.item_outcomes.is_empty(), "nothing was looked up");
    assert_eq!(event.rulebook, f.policy.rulebook().digest().to_vec());
    assert_eq!((event.scope.as_str(), event.purpose.as_str()), ("pan", "test"));
    let failure =
        f.client("payments").inspect("nowhere", &[tokens[0]], &[issued[0].handle.to_string()]).await.err().unwrap();
    let event = f.event(receipt(&failure).unwrap());
    assert_eq!((event.scope.as_str(), event.requested), ("nowhere", 2), "probing for scopes can be found");
    // What a policy forbids or allows only masked is said no more openly than the rest.
    assert_eq!(f.client("payments").show("ssn", &[tokens[0]]).await, denied());
    assert_eq!(f.client("payments").masked().show("ssn", &[tokens[0]]).await, nothing(1));
    f.check();
}

#[tokio::test]
async fn the_shape_comes_first_then_policy_then_the_rest_i_05() {
    let f = Fixture::new();
    let tester = f.tester();
    let one = [PAN; 1001].map(|_| "x");
    let cases = [
        (tester.show("Pan", &["x"]).await, "scope SCOPE_MALFORMED"),
        (tester.show("", &["x"]).await, "scope SCOPE_MALFORMED"),
        (tester.show("pan/../ssn", &["x"]).await, "scope SCOPE_MALFORMED"),
        (tester.show("nowhere", &[]).await, "tokens BATCH_EMPTY"),
        (tester.show("nowhere", &one).await, "tokens BATCH_TOO_LARGE"),
        (tester.purpose("4111 1111 1111 1111").show("nowhere", &["x"]).await, "purpose PURPOSE_MALFORMED"),
        (tester.show("nowhere", &["x"]).await, "denied"),
        (tester.purpose("").show("nowhere", &["x"]).await, "denied"),
        (tester.purpose("").show("pan", &["x"]).await, "purpose PURPOSE_REQUIRED"),
        (f.client("payments").purpose("").show("pan", &["x"]).await, "denied"),
    ];
    for (place, (shown, expected)) in cases.into_iter().enumerate() {
        assert_eq!(shown, Err(expected.to_owned()), "{place}");
        f.site.clock.advance(Duration::from_secs(10));
    }
    let free = tester.issue("free", item(PAN)).await.token;
    assert_eq!(tester.purpose("").show("free", &[&free]).await, values(&[PAN]), "this scope asks for none");
    let tokenized = |scope: &'static str, number: usize| {
        let tester = tester.clone();
        async move {
            tester.tokenize(scope, (0..number).map(|_| item(PAN)).collect()).await.err().map(|failure| name(&failure))
        }
    };
    assert_eq!(tokenized("pan", 0).await.as_deref(), Some("items BATCH_EMPTY"));
    assert_eq!(tokenized("pan", 1001).await.as_deref(), Some("items BATCH_TOO_LARGE"));
    assert_eq!(tokenized("pan", 1000).await, None);
    assert_eq!(tokenized("pan\0", 1).await.as_deref(), Some("scope SCOPE_MALFORMED"));
    let handles = vec!["0".repeat(40); 501];
    let tokens = vec!["x"; 500];
    let both = tester.inspect("pan", &tokens, &handles).await.err().map(|failure| name(&failure));
    assert_eq!(both.as_deref(), Some("tokens BATCH_TOO_LARGE"), "tokens and handles together");
    assert_eq!(tester.inspect("pan", &tokens, &handles[..500]).await.unwrap().results.len(), 1000);
    let none = tester.revoke("pan", &[], &[]).await.err().map(|failure| name(&failure));
    assert_eq!(none.as_deref(), Some("tokens BATCH_EMPTY"));
    f.check();
}

#[tokio::test]
async fn words_and_reveal_are_checked_and_never_logged_wrong() {
    let f = Fixture::new();
    let tester = &f.tester();
    let detokenize = |reveal: Option<crate::event::Reveal>, purpose: &str| {
        let request = DetokenizeRequest {
            scope: "pan".to_owned(),
            tokens: vec![crate::secret::Secret::new("x".to_owned())],
            purpose: purpose.to_owned(),
            reveal,
            request_id: crate::secret::Secret::new(String::new()),
            unsupported: None,
        };
        async move { tester.vault.detokenize(&tester.call, &request).await }
    };
    assert_eq!(name(&detokenize(None, "p").await.err().unwrap()), "reveal REVEAL_UNKNOWN");
    for bad in ["4111111111111111", "semi;colon", "na\u{ef}ve", "line\nfeed", &"x".repeat(65)] {
        let failure = detokenize(Some(crate::event::Reveal::Full), bad).await.err().unwrap();
        assert_eq!(name(&failure), "purpose PURPOSE_MALFORMED");
        let event = f.event(receipt(&failure).unwrap());
        assert_eq!((event.purpose.as_str(), words(&event).as_str()), ("", "detokenize failed PURPOSE_MALFORMED"));
        f.site.clock.advance(Duration::from_secs(1));
    }
    let revoke = RevokeRequest {
        scope: "pan".to_owned(),
        tokens: vec![crate::secret::Secret::new("x".to_owned())],
        handles: Vec::new(),
        reason: "card 4111111111111111".to_owned(),
        request_id: crate::secret::Secret::new(String::new()),
    };
    let failure = tester.vault.revoke(&tester.call, revoke).await.err().unwrap();
    assert_eq!(name(&failure), "reason REASON_MALFORMED");
    assert_eq!(f.event(receipt(&failure).unwrap()).detail, "");
    f.check();
}

#[tokio::test]
async fn options_that_do_not_exist_are_refused_after_policy() {
    let f = Fixture::new();
    for (caller, expected) in [("tester", "nonce NOT_IMPLEMENTED"), ("stranger", "denied")] {
        let client = f.client(caller);
        let unsupported = Some("nonce");
        let secret = |text: &str| crate::secret::Secret::new(text.to_owned());
        let scope = "pan".to_owned();
        let tokenize = TokenizeRequest {
            scope: scope.clone(),
            items: vec![item(PAN)],
            all_or_nothing: false,
            request_id: secret(""),
            unsupported,
        };
        let detokenize = DetokenizeRequest {
            scope: scope.clone(),
            tokens: vec![secret("x")],
            purpose: "p".to_owned(),
            reveal: Some(crate::event::Reveal::Full),
            request_id: secret(""),
            unsupported,
        };
        let failures = [
            f.vault.tokenize(&client.call, &tokenize).await.err().unwrap(),
            f.vault.detokenize(&client.call, &detokenize).await.err().unwrap(),
        ];
        for failure in failures {
            assert_eq!(name(&failure), expected);
            let event = f.event(receipt(&failure).unwrap());
            assert_eq!(event.reason == "NOT_IMPLEMENTED", caller == "tester");
        }
    }
    assert!(f.site.dump().keys().all(|(table, _)| *table != Table::Tokens));
    f.check();
}

#[tokio::test]
async fn past_the_deadline_only_the_event_is_written() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("pan", limited(PAN, 1)).await;
    let before = f.site.dump();
    let late = tester.late();
    let failures = [
        late.tokenize("pan", vec![item(PAN)]).await.err(),
        late.detokenize("pan", &[&token.token]).await.err(),
        late.inspect("pan", &[&token.token], &[]).await.err(),
        late.revoke("pan", &[&token.token], &[]).await.err(),
    ];
    for (failure, verb) in failures.into_iter().zip(["tokenize", "detokenize", "inspect", "revoke"]) {
        let failure = failure.unwrap();
        assert_eq!(name(&failure), "late", "{verb}");
        let event = f.event(receipt(&failure).unwrap());
        assert_eq!(words(&event), format!("{verb} failed DEADLINE_EXCEEDED"));
        assert!(event.item_outcomes.is_empty() && event.succeeded == 0);
        assert_eq!(event.policies, ["tester-does-all"], "it was permitted");
    }
    let after = f.site.dump();
    for table in [Table::Tokens, Table::Expiry, Table::Keys, Table::Scopes] {
        assert!(before.iter().filter(|row| row.0.0 == table).eq(after.iter().filter(|row| row.0.0 == table)));
    }
    assert_eq!(tester.show("pan", &[&token.token]).await, values(&[PAN]));
    f.check();
}

#[tokio::test]
async fn a_reply_that_would_be_too_long_is_refused_before_the_commit() {
    let f = Fixture::new();
    let tester = f.tester();
    let mib = vec![b'v'; 1 << 20];
    // Three of a mebibyte and one that just fits beside them, with 16 bytes of framing for each.
    let rest = REPLY_BYTES_AT_MOST - 3 * ((1 << 20) + 16) - 16;
    let issued = tester
        .issue_all(
            "free",
            vec![item(&mib), item(&mib), item(&mib), item(&vec![b'r'; rest]), item(&vec![b's'; rest + 1])],
        )
        .await;
    let token = |place: usize| issued[place].token.as_str();
    let fits = tester.show("free", &[token(0), token(1), token(2), token(3)]).await.unwrap();
    assert!(fits.iter().all(Result::is_ok));
    // How large it would be tells something of its tokens. So each attempt is in the log with all of them, and none is only
    // counted, however often it is made.
    for _ in 0..30 {
        let failure = tester.detokenize("free", &[token(0), token(1), token(2), token(4)]).await.err().unwrap();
        assert_eq!(name(&failure), "tokens REPLY_TOO_LARGE");
        let event = f.event(receipt(&failure).unwrap());
        assert_eq!(words(&event), "detokenize failed REPLY_TOO_LARGE");
        assert_eq!((event.succeeded, event.handles.len()), (0, 4));
        assert!(event.item_outcomes().all(|outcome| outcome == ItemOutcome::Refused), "nothing was released");
    }
    f.check();
}

/// How many refusals events speak of: one each, or as many as a summary counts.
fn refusals(events: &[Event]) -> u64 {
    let refused = events.iter().filter(|event| !event.reason.is_empty());
    refused.map(|event| event.count.max(1)).sum()
}

#[tokio::test]
async fn beyond_a_rate_refusals_are_counted_and_none_is_lost() {
    let f = Fixture::new();
    let mut sent = 0;
    for round in 0..3_u64 {
        for (caller, number) in [("gateway", 500), ("stranger", 37), ("auditor", 3)] {
            for call in 0..number {
                let client = f.client(caller);
                let failure = match call % 3 {
                    0 => client.detokenize("pan", &["x"]).await.err(),
                    1 => client.tokenize("nowhere", vec![item(PAN)]).await.err(),
                    _ => client.detokenize("pan", &[]).await.err(),
                };
                assert!(matches!(failure, Some(Failure::Denied(_) | Failure::Invalid(..))));
                sent += 1;
            }
        }
        assert_eq!(f.vault.record_refusals().await.unwrap() > 0, round < 3);
        f.site.clock.advance(Duration::from_millis(700));
    }
    assert_eq!(f.vault.record_refusals().await.unwrap(), 0, "each was counted in one summary");
    let events = f.check();
    assert_eq!(refusals(&events), sent);
    let of_gateway = events.iter().filter(|event| event.caller.ends_with("/gateway"));
    let (alone, summaries): (Vec<_>, Vec<_>) = of_gateway.partition(|event| event.count == 0);
    assert!(alone.len() <= 10 + 3, "{} events of their own", alone.len());
    assert_eq!(summaries.len(), 3 * 3, "one for each kind and round");
    for summary in summaries {
        assert!(["POLICY_DENIED", "BATCH_EMPTY"].contains(&summary.reason.as_str()), "{}", summary.reason);
        let first = Timestamp::try_from(summary.first_time.unwrap()).unwrap();
        assert!(first <= summary.timestamp().unwrap());
        assert_eq!(summary.salt.len(), 16);
    }
    println!("refusals: {sent} sent, {} events, none lost", events.len());
}

#[tokio::test]
async fn a_busy_log_loses_no_refusal() {
    let mut site = crate::ledger::fixture::Site::new();
    site.limits.calls = 1;
    let gate = site.restart_gated();
    gate.lift();
    let f = Fixture::over(site);
    let held = f.hold(&gate).await;
    let tester = f.tester();
    let waits =
        tokio::spawn(async move { tester.tokenize("pan", vec![item(PAN)]).await.map(|_| ()).map_err(|f| name(&f)) });
    f.until_waiting(1).await;
    // The queue is full now.
    assert_eq!(f.tester().show("pan", &["x"]).await, Err("overloaded".to_owned()));
    for _ in 0..5 {
        let failure = f.client("stranger").detokenize("pan", &["x"]).await.err().unwrap();
        assert!(matches!(failure, Failure::Denied(None)), "{failure:?}");
    }
    let handshakes = Strangers::new();
    let origin = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    for last in [1, 1, 2] {
        let refused = ("expired", Gravity::Broken);
        handshakes.count(origin(last), origin(last), Some([last; 32]), refused, f.vault.ledger().clock().now());
    }
    assert_eq!(f.vault.record_refusals().await.err().map(|failure| name(&failure)).as_deref(), Some("overloaded"));
    assert_eq!(
        f.vault.record_handshakes(&handshakes).await.err().map(|failure| name(&failure)).as_deref(),
        Some("overloaded")
    );
    gate.lift();
    gate.go(Fault::NONE);
    held.await.unwrap();
    waits.await.unwrap().unwrap();
    assert_eq!(f.vault.record_refusals().await.unwrap(), 1);
    assert_eq!(f.vault.record_handshakes(&handshakes).await.unwrap(), 2);
    let events = f.check();
    let denied: Vec<_> = events.iter().filter(|event| event.reason == "POLICY_DENIED").collect();
    assert_eq!((denied.len(), denied[0].count), (1, 5), "they come with the summary");
    let connects: Vec<_> = events.iter().filter(|event| event.action() == Action::Connect).collect();
    assert_eq!(connects.iter().map(|event| event.count).sum::<u64>(), 3);
    assert!(
        connects.iter().all(|event| event.peer_address.starts_with("192.0.2.") && event.certificate_sha256.len() == 32)
    );
    assert!(connects.iter().all(|event| words(event) == "connect denied expired" && event.caller.is_empty()));
}

#[tokio::test]
async fn what_is_turned_away_before_policy_is_counted_too() {
    let f = Fixture::new();
    for _ in 0..4 {
        f.vault.turned_away(&caller("gateway"), Action::Tokenize, Reason::CertificateExpired);
    }
    assert_eq!(f.vault.record_refusals().await.unwrap(), 1);
    let event = f.last_event();
    assert_eq!((words(&event).as_str(), event.count), ("tokenize denied CERTIFICATE_EXPIRED", 4));
    let receipt = f.vault.panicked(&f.tester().call, Action::Revoke).await.unwrap();
    assert_eq!(words(&f.event(&receipt)), "revoke failed INTERNAL");
    f.check();
}

/// What is put into the wrong field must not reach the log through it.
#[tokio::test]
async fn a_value_or_token_in_the_place_of_a_scope_is_not_recorded_a_11() {
    let f = Fixture::new();
    let tester = f.tester();
    for wrong in ["4111111111111111", "be146b41-dc4d-4660-9913-4ec7205c270d", "4111-1111-1111-1111/x"] {
        assert_eq!(tester.show(wrong, &["pan"]).await, Err("denied".to_owned()));
        assert_eq!(f.last_event().scope, "");
        f.site.clock.advance(Duration::from_secs(1));
    }
    // What no rule set covers is recorded as it is, to be found; so is what one covers, whatever it is called.
    for scope in ["nowhere", "tenant-7/pan"] {
        tester.show(scope, &["pan"]).await.unwrap_err();
        assert_eq!(f.last_event().scope, scope);
        f.site.clock.advance(Duration::from_secs(1));
    }
    tester.issue("1234567890123/note", item(PAN)).await;
    assert_eq!(f.last_event().scope, "1234567890123/note");
    f.check();
}

#[tokio::test]
async fn while_the_log_takes_nothing_a_refusal_is_no_answer_a_06() {
    let f = Fixture::new();
    let stranger = f.client("stranger");
    // Far beyond what has events of its own: these would only be counted, and a count is lost with the process.
    for _ in 0..40 {
        assert!(matches!(stranger.detokenize("pan", &["x"]).await.err(), Some(Failure::Denied(_))));
    }
    f.vault.ledger().pause();
    for _ in 0..3 {
        assert!(matches!(stranger.detokenize("pan", &["x"]).await.err(), Some(Failure::Unavailable)));
        assert!(matches!(stranger.detokenize("pan", &[]).await.err(), Some(Failure::Unavailable)));
    }
    f.vault.ledger().resume();
    assert!(matches!(stranger.detokenize("pan", &["x"]).await.err(), Some(Failure::Denied(_))));
    f.check();
}
