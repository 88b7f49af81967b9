//! L-04: what callers saw of a token while it was revoked is what one of them after the other would have seen.
//!
//! Each caller notes a tick of one clock before it asks and one after it was answered. A history is linearizable if every
//! operation can be given a moment between its two ticks so that, in the order of these moments, a token gives its value
//! until it is revoked and never after. Histories of different tokens don't mix: each is looked at by itself.

use crate::harness::{Client, Home, Server, item, texts};
use crate::promises::Dice;
use cloakroom::proto::v1::{self, Action, ItemOutcome};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::task::JoinSet;
use tonic::Code;

const CALLERS: usize = 64;
const CONNECTIONS: usize = 8;
/// Tokens that are raced for at once: one call names them all, and each is a history of its own.
const TOGETHER: usize = 50;

/// What was done to one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    Read,
    FoundNothing,
    Revoked,
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    did: Did,
    asked: u64,
    answered: u64,
}

/// Whether moments can be found. Before the revocation's every value was read, after it nothing was found: so it lies
/// behind each read's question and before the answer of each that found nothing, and between its own two ticks. If some
/// moment does, every read has one before it and every other one behind it.
fn linearizable(history: &[Operation]) -> Result<(), String> {
    let mut revocations = history.iter().filter(|operation| operation.did == Did::Revoked);
    let (earliest, latest) = match (revocations.next(), revocations.next()) {
        (None, None) => (u64::MAX, u64::MAX),
        (Some(one), None) => (one.asked, one.answered),
        _ => return Err("revoked twice".to_owned()),
    };
    let reads = history.iter().filter(|operation| operation.did == Did::Read);
    let nothing = history.iter().filter(|operation| operation.did == Did::FoundNothing);
    let earliest = reads.map(|read| read.asked).fold(earliest, u64::max);
    let latest = nothing.map(|none| none.answered).fold(latest, u64::min);
    if earliest < latest || earliest == u64::MAX && latest == u64::MAX {
        return Ok(());
    }
    Err(format!("no moment for the revocation: not before {earliest}, not after {latest}"))
}

/// Another look at the same question, by trying orders one after the other. For few operations.
fn linearizable_by_trying(history: &[Operation], is_revoked: bool) -> bool {
    if history.is_empty() {
        return true;
    }
    let first_answer = history.iter().map(|operation| operation.answered).min().unwrap();
    history.iter().enumerate().any(|(place, operation)| {
        // Whatever comes first was asked before anything was answered.
        let may_be_first = operation.asked < first_answer;
        let fits = match operation.did {
            Did::Read | Did::Revoked => !is_revoked,
            Did::FoundNothing => is_revoked,
        };
        let mut rest = history.to_vec();
        rest.remove(place);
        may_be_first && fits && linearizable_by_trying(&rest, is_revoked || operation.did == Did::Revoked)
    })
}

#[test]
fn the_checker_agrees_with_trying_every_order_l_04() {
    let mut dice = Dice(4);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..20_000 {
        let length = 1 + dice.below(6);
        // Ticks are all different, as a counter's are.
        let mut ticks: Vec<u64> = (0..2 * length).collect();
        let mut tick = || ticks.swap_remove(usize::try_from(dice.below(ticks.len() as u64)).unwrap());
        let pairs: Vec<(u64, u64)> = (0..length).map(|_| (tick(), tick())).collect();
        let history: Vec<Operation> = pairs
            .into_iter()
            .enumerate()
            .map(|(place, (one, other))| {
                let did = match place {
                    0 => Did::Revoked,
                    _ if dice.below(2) == 0 => Did::Read,
                    _ => Did::FoundNothing,
                };
                Operation { did, asked: one.min(other), answered: one.max(other) }
            })
            .collect();
        let found = linearizable(&history).is_ok();
        assert_eq!(found, linearizable_by_trying(&history, false), "{history:?}");
        if found { good += 1 } else { bad += 1 }
    }
    assert!(good > 1_000 && bad > 1_000, "{good} {bad}");
}

/// Tokens and what was done to each.
#[derive(Default)]
struct Histories {
    operations: Vec<Vec<Operation>>,
    /// Calls that were told to try again: nothing was done.
    again: usize,
}

async fn race(rounds: usize) {
    let mut dice = Dice(Dice::seed());
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let operator = server.client(&home.identity("operator")).await;
    let mut payments = Vec::new();
    for _ in 0..CONNECTIONS {
        payments.push(server.client(&home.identity("payments")).await);
    }
    let clock = Arc::new(AtomicU64::new(1));
    let mut released: HashMap<Vec<u8>, usize> = HashMap::new();
    let (mut reads, mut nothing, mut again, mut altered) = (0, 0, 0, 0);
    for group in 0..rounds / TOGETHER {
        let issued = gateway.issue("pan", vec![item(b"4111111111111111"); TOGETHER]).await;
        let histories = round(&payments, &operator, texts(&issued), &clock, &mut dice).await;
        again += histories.again;
        for (issued, history) in issued.iter().zip(&histories.operations) {
            linearizable(history).unwrap_or_else(|why| panic!("group {group}: {why}\n{history:?}"));
            let of = |did: Did| history.iter().filter(move |operation| operation.did == did);
            released.insert(hex::decode(&issued.handle).unwrap(), of(Did::Read).count());
            reads += of(Did::Read).count();
            nothing += of(Did::FoundNothing).count();
            // The same history with one read that began after the end is not.
            let end = history.iter().map(|operation| operation.answered).max().unwrap();
            let late = Operation { did: Did::Read, asked: end + 1, answered: end + 2 };
            assert!(linearizable(&[&history[..], &[late]].concat()).is_err());
            altered += 1;
        }
    }
    assert!(reads >= rounds, "the callers were never ahead of the revocations");
    in_the_log(&home, &server, &released).await;
    println!(
        "L-04: {rounds} rounds of {CALLERS} callers: {reads} values before and {nothing} refusals after, \
         {again} calls told to try again; {altered} altered histories found"
    );
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    assert!(payments[0].detokenize("pan", &tokens).await.unwrap()[0].is_ok());
    server.stop();
}

/// Everyone asks for all of `tokens` until all are gone, while one after the other is revoked.
async fn round(
    payments: &[Client],
    operator: &Client,
    tokens: Vec<String>,
    clock: &Arc<AtomicU64>,
    dice: &mut Dice,
) -> Histories {
    let tokens = Arc::new(tokens);
    let answers = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let client = payments[number % payments.len()].clone();
        callers.spawn(ask_until_gone(client, Arc::clone(&tokens), Arc::clone(clock), Arc::clone(&answers)));
    }
    let mut revocations = JoinSet::new();
    for place in 0..tokens.len() {
        let start = usize::try_from(dice.below(3 * CALLERS as u64)).unwrap();
        let (operator, tokens, clock, answers) =
            (operator.clone(), Arc::clone(&tokens), Arc::clone(clock), Arc::clone(&answers));
        revocations.spawn(async move {
            while answers.load(Ordering::SeqCst) < start {
                tokio::task::yield_now().await;
            }
            let request = v1::RevokeTokensRequest {
                scope: "pan".to_owned(),
                tokens: vec![tokens[place].clone()],
                ..Default::default()
            };
            let asked = clock.fetch_add(1, Ordering::SeqCst);
            operator.tokens().revoke_tokens(request).await.unwrap();
            let answered = clock.fetch_add(1, Ordering::SeqCst);
            (place, Operation { did: Did::Revoked, asked, answered })
        });
    }
    let revoked = revocations.join_all().await;
    let mut histories = Histories { operations: vec![Vec::new(); tokens.len()], again: 0 };
    while let Some(ended) = callers.join_next().await {
        let (operations, again) = ended.unwrap();
        histories.again += again;
        for (place, operation) in operations {
            histories.operations[place].push(operation);
        }
    }
    for (place, operation) in revoked {
        histories.operations[place].push(operation);
    }
    histories
}

async fn ask_until_gone(
    client: Client,
    tokens: Arc<Vec<String>>,
    clock: Arc<AtomicU64>,
    answers: Arc<AtomicUsize>,
) -> (Vec<(usize, Operation)>, usize) {
    let (mut operations, mut again) = (Vec::new(), 0);
    loop {
        let asked = clock.fetch_add(1, Ordering::SeqCst);
        let results = client.detokenize("pan", &tokens).await;
        let answered = clock.fetch_add(1, Ordering::SeqCst);
        answers.fetch_add(1, Ordering::SeqCst);
        let results = match results {
            Ok(results) => results,
            Err(refusal) => {
                assert_eq!(refusal.code, Code::Aborted, "{refusal:?}");
                again += 1;
                continue;
            }
        };
        for (place, result) in results.iter().enumerate() {
            let did = match result {
                Ok(value) => {
                    assert_eq!(value, b"4111111111111111");
                    Did::Read
                }
                Err(error) => {
                    assert_eq!(error.code, Code::NotFound);
                    Did::FoundNothing
                }
            };
            operations.push((place, Operation { did, asked, answered }));
        }
        if results.iter().all(Result::is_err) {
            return (operations, again);
        }
    }
}

/// The log says the same: as many releases as were seen, each before the token's revocation and every refusal after it.
async fn in_the_log(home: &Home, server: &Server, released: &HashMap<Vec<u8>, usize>) {
    let auditor = server.client(&home.identity("auditor")).await;
    let mut logged: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut revoked: HashMap<Vec<u8>, u64> = HashMap::new();
    let filter = |action: Action| v1::AuditFilter { action: action.into(), ..Default::default() };
    for event in auditor.events(filter(Action::Revoke)).await {
        assert!(revoked.insert(event.handles[0].clone(), event.sequence).is_none());
    }
    for event in auditor.events(filter(Action::Detokenize)).await {
        for (handle, outcome) in event.handles.iter().zip(event.item_outcomes()) {
            let revoked = revoked.get(handle).copied().unwrap_or(u64::MAX);
            match outcome {
                ItemOutcome::Released => {
                    assert!(event.sequence < revoked, "released at {} after the revocation", event.sequence);
                    *logged.entry(handle.clone()).or_default() += 1;
                }
                ItemOutcome::Revoked => assert!(event.sequence > revoked, "refused too early at {}", event.sequence),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(revoked.len(), released.len());
    for (handle, seen) in released {
        assert_eq!(logged.get(handle).copied().unwrap_or(0), *seen);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_and_reads_have_one_order_l_04() {
    race(200).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: L-04 with 10,000 rounds"]
async fn revocations_and_reads_have_one_order_ten_thousand_times_l_04() {
    race(10_000).await;
}
