//! What a token's state does to the answer, and what it does not.

use super::*;
use crate::crypto::{IndexKey, ScopeId};
use crate::token;
use crate::token::opaque::Prefix;

/// A well-formed token that no vault has issued.
fn never_issued(prefix: &str) -> String {
    let format = token::Format::Opaque { prefix: Prefix::parse(prefix).unwrap() };
    let key = IndexKey::new(SecretKey::new([9; 32]));
    token::issue(&format, &key, ScopeId(1), 1, [3; 16]).text.into_exposed()
}

/// One token of each kind that is not found, in scope `pan`, and what the log says of it.
async fn dead_tokens(f: &Fixture) -> Vec<(String, ItemOutcome)> {
    let tester = f.tester();
    let of = async |item| tester.issue("pan", item).await.token;
    let expired = of(lasting(PAN, Duration::from_millis(1))).await;
    f.site.clock.advance(Duration::from_millis(1));
    let revoked = of(item(PAN)).await;
    tester.revoke("pan", &[&revoked], &[]).await.unwrap();
    let used_up = of(limited(PAN, 1)).await;
    assert_eq!(tester.show("pan", &[&used_up]).await, values(&[PAN]));
    let foreign = tester.issue("ssn", item(PAN)).await.token;
    vec![
        (never_issued("pan"), ItemOutcome::Unknown),
        (expired, ItemOutcome::Expired),
        (revoked, ItemOutcome::Revoked),
        (used_up, ItemOutcome::UsedUp),
        (foreign, ItemOutcome::Unknown),
    ]
}

#[tokio::test]
async fn dead_tokens_are_one_answer_and_the_log_knows_better_z_08() {
    let f = Fixture::new();
    let dead = dead_tokens(&f).await;
    let tokens: Vec<&str> = dead.iter().map(|(token, _)| token.as_str()).collect();
    for client in [f.tester(), f.tester().masked()] {
        assert_eq!(client.show("pan", &tokens).await, nothing(5));
        let event = f.last_event();
        assert_eq!(outcomes(&event), dead.iter().map(|(_, outcome)| *outcome).collect::<Vec<_>>());
        assert_eq!((words(&event).as_str(), event.requested, event.succeeded), ("detokenize allowed", 5, 0));
        assert!(event.handles.iter().all(|handle| handle.len() == 20));
    }
    f.check();
}

#[tokio::test]
async fn every_dead_token_takes_the_same_way_z_08() {
    let f = Fixture::new();
    let mut ways = Vec::new();
    for (token, outcome) in dead_tokens(&f).await {
        let (asked, reads) = (f.asked.load(Ordering::SeqCst), f.reads.load(Ordering::SeqCst));
        let commits = f.vault.ledger().basis();
        let done = f.tester().detokenize("pan", &[&token]).await.unwrap();
        assert_eq!(done.results.len(), 1);
        assert!(matches!(done.results[0], Err(ItemFailure::NotFound)));
        let (asked, reads) = (f.asked.load(Ordering::SeqCst) - asked, f.reads.load(Ordering::SeqCst) - reads);
        let after = f.vault.ledger().basis();
        assert_ne!(commits, after);
        ways.push((asked, reads, outcome));
    }
    // One attempt, one read, one commit, whatever had become of the token.
    assert!(ways.iter().all(|way| (way.0, way.1) == (ways[0].0, ways[0].1)), "{ways:?}");
    f.check();
}

#[tokio::test]
async fn another_scopes_token_does_not_exist_z_03() {
    let f = Fixture::new();
    let tester = f.tester();
    let (pan, ssn) = (tester.issue("pan", item(PAN)).await, tester.issue("ssn", item(b"078-05-1120")).await);
    assert_eq!(tester.show("ssn", &[&pan.token, &ssn.token]).await, {
        Ok(vec![Err(ItemFailure::NotFound), Ok(b"078-05-1120".to_vec())])
    });
    assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Unknown, ItemOutcome::Released]);
    assert_eq!(tester.show("email", &[&pan.token]).await, nothing(1), "nor in a scope that was never used");
    assert_eq!(tester.show("acme/note", &[&pan.token]).await, nothing(1), "nor in one that only a pattern names");
    let inspected = tester.inspect("ssn", &[&pan.token], &[pan.handle.to_string()]).await.unwrap();
    assert_eq!(inspected.results, [Err(ItemFailure::NotFound), Err(ItemFailure::NotFound)]);
    let revoked = tester.revoke("ssn", &[&pan.token], &[pan.handle.to_string()]).await.unwrap();
    assert_eq!(revoked.results, [Err(ItemFailure::NotFound), Err(ItemFailure::NotFound)]);
    assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Unknown; 2]);
    assert_eq!(tester.show("pan", &[&pan.token]).await, values(&[PAN]), "it lives where it belongs");
    // Under a pattern each name is a wall of its own.
    let note = tester.issue("a/note", item(b"one")).await.token;
    assert_eq!(tester.show("b/note", &[&note]).await, nothing(1));
    assert_eq!(tester.show("a/note", &[&note]).await, values(&[b"one"]));
    f.check();
}

#[tokio::test]
async fn what_is_no_token_is_refused_from_its_bytes_alone() {
    let f = Fixture::new();
    let tester = f.tester();
    let good = tester.issue("pan", item(PAN)).await.token;
    let mistyped = good.replace(&good[10..11], if &good[10..11] == "x" { "y" } else { "x" });
    let malformed = ["", "pan_", &mistyped, &good[1..], &format!(" {good}"), &good.to_uppercase(), "4111111111111111"];
    let malformed: Vec<&str> = malformed.into_iter().filter(|token| *token != good).collect();
    let tokens: Vec<&str> = malformed.iter().copied().chain([good.as_str()]).collect();
    let shown = tester.show("pan", &tokens).await.unwrap();
    let (last, others) = shown.split_last().unwrap();
    assert_eq!(last, &Ok(PAN.to_vec()), "its neighbours do not mind");
    assert!(others.iter().all(|result| *result == Err(ItemFailure::Invalid(Reason::TokenMalformed))));
    let event = f.last_event();
    assert_eq!(outcomes(&event)[..malformed.len()], vec![ItemOutcome::Malformed; malformed.len()]);
    assert!(event.handles[..malformed.len()].iter().all(prost::bytes::Bytes::is_empty));
    assert_eq!(event.succeeded, 1);
    f.check();
}

#[tokio::test]
async fn inspecting_tells_the_states_apart() {
    use TokenState::{Active, Expired, Revoked, UsedUp};
    let f = Fixture::new();
    let tester = f.tester();
    let start = f.vault.ledger().clock().now();
    let lives = tester.issue("pan", limited(PAN, 3)).await;
    let plain = tester.issue("pan", item(PAN)).await;
    let mut tokens = vec![lives.token.clone(), plain.token.clone()];
    tokens.extend(dead_tokens(&f).await.into_iter().map(|(token, _)| token));
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    tester.show("pan", &[&lives.token]).await.unwrap();
    let operator = f.client("operator");
    let handles =
        [plain.handle.to_string(), "0".repeat(40), "nonsense".to_owned(), plain.handle.to_string().to_uppercase()];
    let inspected = operator.inspect("pan", &tokens, &handles).await.unwrap();
    let states: Vec<_> = inspected.results.iter().map(|result| result.map(|info| info.state)).collect();
    let malformed = Err(ItemFailure::Invalid(Reason::HandleMalformed));
    let unknown = Err(ItemFailure::NotFound);
    let of_tokens = [Ok(Active), Ok(Active), unknown, Ok(Expired), Ok(Revoked), Ok(UsedUp), unknown];
    assert_eq!(states, [&of_tokens[..], &[Ok(Active), unknown, malformed, malformed]].concat());
    let info = inspected.results[0].unwrap();
    assert_eq!(info.handle, lives.handle);
    assert_eq!((info.created, info.expires, info.uses_left, info.key_version), (start, lives.expires, Some(2), 1));
    assert_eq!(inspected.results[1].unwrap().uses_left, None, "without a limit");
    assert_eq!(inspected.results[5].unwrap().uses_left, Some(0));
    let event = f.last_event();
    assert_eq!((event.requested, event.succeeded), (11, 6));
    let done = |place: usize| outcomes(&event)[place] == ItemOutcome::Done;
    assert!([0, 1, 3, 4, 5, 7].into_iter().all(done));
    assert_eq!(outcomes(&event)[9..], [ItemOutcome::Malformed; 2]);
    f.check();
}

#[tokio::test]
async fn revoking_is_for_ever_and_again_is_no_error() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("pan", item(PAN)).await;
    let other = tester.issue("pan", item(PAN)).await;
    let first = tester.revoke("pan", &[&token.token], &[]).await.unwrap().results[0].unwrap();
    f.site.clock.advance(Duration::from_hours(1));
    let handle = token.handle.to_string();
    let again = tester.revoke("pan", &[&token.token, &token.token], &[handle.clone(), handle]).await.unwrap();
    assert_eq!(again.results, [Ok(first); 4], "the first time stands");
    assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Done; 4]);
    assert_eq!(f.last_event().detail, "lost");
    // By handle, twice in one batch.
    let twice = [other.handle.to_string(), other.handle.to_string()];
    let by_handle = tester.revoke("pan", &[], &twice).await.unwrap().results;
    assert_eq!(by_handle[0], by_handle[1]);
    assert!(by_handle[0].unwrap() > first);
    assert_eq!(tester.show("pan", &[&token.token, &other.token]).await, nothing(2));
    let f = f.restart();
    assert_eq!(f.tester().show("pan", &[&token.token, &other.token]).await, nothing(2));
    f.check();
}

#[tokio::test]
async fn dead_tokens_can_be_revoked_too() {
    let f = Fixture::new();
    let dead = dead_tokens(&f).await;
    let tokens: Vec<&str> = dead.iter().map(|(token, _)| token.as_str()).collect();
    let results = f.tester().revoke("pan", &tokens, &[]).await.unwrap().results;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, true, true, false]);
    f.tester().show("pan", &tokens).await.unwrap();
    assert_eq!(outcomes(&f.last_event())[1..4], [ItemOutcome::Revoked; 3]);
    f.check();
}

#[tokio::test]
async fn a_masked_answer_shows_what_the_mask_leaves() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("pan", item(PAN)).await;
    assert_eq!(tester.masked().show("pan", &[&token.token]).await, values(&[b"411111******1111"]));
    let event = f.last_event();
    assert_eq!((outcomes(&event), event.reveal, event.purpose.as_str()), (vec![ItemOutcome::Masked], 2, "test"));
    assert_eq!(tester.show("pan", &[&token.token]).await, values(&[PAN]));
    assert_eq!((outcomes(&f.last_event()), f.last_event().reveal), (vec![ItemOutcome::Released], 1));
    f.check();
}

#[tokio::test]
async fn rows_that_are_not_in_memory_are_read_all_the_same() {
    let f = Fixture::new();
    let tester = f.tester();
    let issued = tester.issue_all("pan", (0..200).map(|n| item(format!("value {n}").as_bytes())).collect()).await;
    f.site.store.chill(true);
    let unknown = never_issued("pan");
    let mut tokens: Vec<&str> = issued.iter().map(|issued| issued.token.as_str()).collect();
    tokens.insert(70, &unknown);
    tokens.insert(7, "malformed");
    let shown = tester.show("pan", &tokens).await.unwrap();
    let expected = (0..200).map(|n| Ok(format!("value {n}").into_bytes()));
    let mut expected: Vec<_> = expected.collect();
    expected.insert(70, Err(ItemFailure::NotFound));
    expected.insert(7, Err(ItemFailure::Invalid(Reason::TokenMalformed)));
    assert_eq!(shown, expected);
    f.check();
}

#[tokio::test]
async fn a_batch_answers_in_its_order_with_one_event_z_04() {
    let f = Fixture::new();
    let tester = f.tester();
    let issued = tester.issue_all("pan", (0..998).map(|n| item(format!("{n}").as_bytes())).collect()).await;
    let unknown = never_issued("pan");
    let mut tokens: Vec<&str> = issued.iter().map(|issued| issued.token.as_str()).collect();
    tokens.insert(500, &unknown);
    tokens.push(&issued[3].token);
    let before = f.events().len();
    let done = tester.detokenize("pan", &tokens).await.unwrap();
    assert_eq!(done.results.len(), 1000);
    for (place, result) in done.results.into_iter().enumerate() {
        let expected = match place {
            500 => None,
            999 => Some("3".to_owned()),
            place => Some((place - usize::from(place > 500)).to_string()),
        };
        assert_eq!(result.ok().map(|value| String::from_utf8(value.into_exposed()).unwrap()), expected);
    }
    assert_eq!(f.events().len(), before + 1);
    let event = f.event(&done.receipt);
    assert_eq!(
        (event.handles.len(), event.item_outcomes.len(), event.requested, event.succeeded),
        (1000, 1000, 1000, 999)
    );
    // Not permitted is said before anything is looked up, and of the whole.
    let reads = f.reads.load(Ordering::SeqCst);
    assert_eq!(f.client("gateway").show("pan", &tokens).await, Err("denied".to_owned()));
    assert_eq!(f.reads.load(Ordering::SeqCst), reads);
    f.check();
}
