//! What must hold when many want the same token at once: in the answers, and in the log's order.

use crate::harness::{Client, Home, Server, item, texts};
use cloakroom::proto::v1::{self, Action, ItemOutcome};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::task::JoinSet;
use tonic::Code;

const CALLERS: usize = 64;
/// So that the vault's network threads both have some.
const CONNECTIONS: usize = 8;

async fn several(server: &Server, home: &Home, name: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(server.client(&home.identity(name)).await);
    }
    clients
}

// === L-04 ===

/// What the callers of one round saw.
#[derive(Default)]
struct Round {
    /// Set once the revocation is acknowledged.
    acknowledged: AtomicBool,
    released: AtomicUsize,
    /// Released to a call that began after the acknowledgement.
    too_late: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_revocation_nothing_is_released_l_04() {
    revoke_against_detokenize(40).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: L-04 with 2,000 rounds"]
async fn after_a_revocation_nothing_is_released_for_long_l_04() {
    revoke_against_detokenize(2_000).await;
}

async fn revoke_against_detokenize(rounds: usize) {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let operator = server.client(&home.identity("operator")).await;
    let auditor = server.client(&home.identity("auditor")).await;
    let payments = several(&server, &home, "payments").await;
    let mut issued = Vec::new();
    for _ in 0..rounds.div_ceil(1000) {
        issued.extend(gateway.issue("pan", vec![item(b"4111111111111111"); rounds.min(1000)]).await);
    }
    let (mut released, mut refused) = (0, 0);
    for token in issued.into_iter().take(rounds) {
        let round = Arc::new(Round::default());
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let client = payments[number % CONNECTIONS].clone();
            callers.spawn(detokenize_until_refused(client, token.token.clone(), Arc::clone(&round)));
        }
        revoke(&operator, &token.token, &round).await;
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
            refused += 1;
        }
        assert_eq!(round.too_late.load(Ordering::SeqCst), 0, "released after the revocation was acknowledged");
        let seen = round.released.load(Ordering::SeqCst);
        assert_eq!(seen, released_before_the_revocation(&auditor, &token.handle).await);
        released += seen;
    }
    assert!(released >= rounds, "the callers were never ahead of the revocation");
    println!("L-04: {rounds} rounds of {CALLERS} callers, {released} released before and {refused} refused after");
}

/// Asks for the value again and again until it is refused.
async fn detokenize_until_refused(client: Client, token: String, round: Arc<Round>) {
    let tokens = [token];
    loop {
        let was_acknowledged = round.acknowledged.load(Ordering::SeqCst);
        match &client.detokenize("pan", &tokens).await.unwrap()[0] {
            Ok(_) => {
                round.released.fetch_add(1, Ordering::SeqCst);
                round.too_late.fetch_add(usize::from(was_acknowledged), Ordering::SeqCst);
            }
            Err(error) => {
                assert_eq!(error.code, Code::NotFound);
                return;
            }
        }
    }
}

/// Revokes as soon as somebody has got the value.
async fn revoke(operator: &Client, token: &str, round: &Round) {
    while round.released.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let request =
        v1::RevokeTokensRequest { scope: "pan".to_owned(), tokens: vec![token.to_owned()], ..Default::default() };
    operator.tokens().revoke_tokens(request).await.unwrap();
    round.acknowledged.store(true, Ordering::SeqCst);
}

/// How often the log says that the token was released, all of it before the event of its revocation.
async fn released_before_the_revocation(auditor: &Client, handle: &str) -> usize {
    let filter = v1::AuditFilter { handle: handle.to_owned(), ..Default::default() };
    let (mut released, mut revoked, mut refused) = (0, 0, 0);
    for event in auditor.events(filter).await {
        match (event.action(), event.item_outcomes.first().map(|code| ItemOutcome::try_from(*code).unwrap())) {
            (Action::Detokenize, Some(ItemOutcome::Released)) => {
                assert_eq!(revoked, 0, "released at {} after the revocation", event.sequence);
                released += 1;
            }
            (Action::Detokenize, Some(ItemOutcome::Revoked)) => {
                assert_eq!(revoked, 1, "refused at {} before the revocation", event.sequence);
                refused += 1;
            }
            (Action::Revoke, Some(ItemOutcome::Done)) => revoked += 1,
            (Action::Tokenize | Action::QueryAudit, _) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((revoked, refused), (1, CALLERS));
    released
}

// === L-05 ===

const TOKENS: usize = 1_000;
/// Tokens that a call names. Callers begin at different ones and go different ways, so that their batches overlap.
const BATCH: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn as_many_win_as_there_are_uses_l_05() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let auditor = server.client(&home.identity("auditor")).await;
    let payments = several(&server, &home, "payments").await;
    for max_uses in [1, 5] {
        let limited = v1::TokenizeItem { max_uses, ..item(b"4111111111111111") };
        let issued = gateway.issue("pan", vec![limited; TOKENS]).await;
        let tokens: Arc<Vec<String>> = Arc::new(texts(&issued));
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let client = payments[number % CONNECTIONS].clone();
            callers.spawn(use_up(client, Arc::clone(&tokens), number));
        }
        let mut uses = vec![0; TOKENS];
        while let Some(ended) = callers.join_next().await {
            for place in ended.unwrap() {
                uses[place] += 1;
            }
        }
        assert!(uses.iter().all(|count| *count == max_uses), "answers: {:?}", spread(&uses));
        let logged = uses_in_the_log(&auditor, &issued[0].handle, &issued).await;
        let refused = u32::try_from(CALLERS).unwrap() - max_uses;
        assert!(logged.iter().all(|count| *count == (max_uses, refused)), "{:?}", spread(&logged));
        println!("L-05: {CALLERS} callers, {TOKENS} tokens, {max_uses} uses: {} released", uses.iter().sum::<u32>());
    }
}

/// Tries each token once, and says which it got.
async fn use_up(client: Client, tokens: Arc<Vec<String>>, number: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..tokens.len()).collect();
    places.rotate_left(number * 37 % tokens.len());
    if number % 2 == 1 {
        places.reverse();
    }
    let mut got = Vec::new();
    for batch in places.chunks(BATCH) {
        let named: Vec<String> = batch.iter().map(|place| tokens[*place].clone()).collect();
        // Whoever comes too late finds nothing; nobody is told to try again.
        let results = client.detokenize("pan", &named).await.expect("a race is no failure of the call");
        for (place, result) in batch.iter().zip(results) {
            match result {
                Ok(_) => got.push(*place),
                Err(error) => assert_eq!(error.code, Code::NotFound),
            }
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_to_256_callers_exactly_one_wins_l_05() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let auditor = server.client(&home.identity("auditor")).await;
    let payments = several(&server, &home, "payments").await;
    let once = v1::TokenizeItem { max_uses: 1, ..item(b"4111111111111111") };
    let (sizes, each) = ([2_u32, 4, 8, 16, 32, 64, 128, 256], TOKENS / 8);
    for callers in sizes {
        let issued = gateway.issue("pan", vec![once.clone(); each]).await;
        let tokens: Arc<Vec<String>> = Arc::new(texts(&issued));
        // They go at the same moment, each in an order of its own.
        let start = Arc::new(tokio::sync::Barrier::new(callers as usize));
        let mut racing = JoinSet::new();
        for number in 0..callers as usize {
            let (client, tokens, start) =
                (payments[number % CONNECTIONS].clone(), Arc::clone(&tokens), Arc::clone(&start));
            racing.spawn(async move {
                start.wait().await;
                use_up(client, tokens, number).await
            });
        }
        let mut uses = vec![0_u32; each];
        for got in racing.join_all().await {
            for place in got {
                uses[place] += 1;
            }
        }
        assert!(uses.iter().all(|count| *count == 1), "{callers} callers: {:?}", spread(&uses));
        let logged = uses_in_the_log(&auditor, &issued[0].handle, &issued).await;
        assert!(logged.iter().all(|count| *count == (1, callers - 1)), "{callers} callers: {:?}", spread(&logged));
    }
    println!("L-05: {} tokens of one use, raced for by {sizes:?} callers: one each", each * sizes.len());
    server.stop();
}

/// For each token, how often the log says that it was released and that it was used up.
async fn uses_in_the_log(auditor: &Client, first: &str, issued: &[v1::IssuedToken]) -> Vec<(u32, u32)> {
    // Nothing of them is in the log before the event that issued them.
    let since = auditor.events(v1::AuditFilter { handle: first.to_owned(), ..Default::default() }).await[0].time;
    let filter = v1::AuditFilter { action: Action::Detokenize.into(), start_time: since, ..Default::default() };
    let places: BTreeMap<Vec<u8>, usize> =
        issued.iter().enumerate().map(|(place, issued)| (hex::decode(&issued.handle).unwrap(), place)).collect();
    let mut uses = vec![(0, 0); issued.len()];
    for event in auditor.events(filter).await {
        for (handle, outcome) in event.handles.iter().zip(&event.item_outcomes) {
            let Some(place) = places.get(handle) else { continue };
            match ItemOutcome::try_from(*outcome).unwrap() {
                ItemOutcome::Released => uses[*place].0 += 1,
                ItemOutcome::UsedUp => uses[*place].1 += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    uses
}

/// How many tokens had each count, for the message.
fn spread<T: Ord + Clone>(counts: &[T]) -> BTreeMap<T, usize> {
    let mut spread = BTreeMap::new();
    for count in counts {
        *spread.entry(count.clone()).or_default() += 1;
    }
    spread
}
