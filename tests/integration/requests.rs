//! Request ids against the real process: a hundred retries at once, with kills in between.

use crate::harness::{Client, Home, Server, issued, item, value};
use cloakroom::proto::v1;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tonic::{Code, Status};

const ROUNDS: usize = 6;
const RETRIES: usize = 100;

/// Makes the same call in a hundred tasks. Once some are answered the process is killed; those that were not, make it again
/// on the next one. Gives all answers.
async fn insist<T: Send + 'static, F: Future<Output = Result<T, Status>> + Send + 'static>(
    home: &Home,
    server: Server,
    role: &str,
    kill_after: usize,
    call: impl Fn(Client) -> F,
) -> (Server, Vec<T>) {
    let identity = home.identity(role);
    let answered = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(server.client(&identity).await);
    }
    let (tell, mut enough) = tokio::sync::mpsc::unbounded_channel();
    let tasks: Vec<_> = (0..RETRIES)
        .map(|place| {
            let (work, answered, tell) = (call(clients[place % 10].clone()), Arc::clone(&answered), tell.clone());
            tokio::spawn(async move {
                let answer = work.await;
                if answer.is_ok() && answered.fetch_add(1, Ordering::SeqCst) + 1 == kill_after {
                    let _ = tell.send(());
                }
                answer
            })
        })
        .collect();
    enough.recv().await;
    server.kill();
    let mut answers = Vec::new();
    let mut cut_off = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(answer) => answers.push(answer),
            Err(status) => {
                assert!(
                    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal),
                    "{status:?}"
                );
                cut_off += 1;
            }
        }
    }
    let server = home.serve();
    let client = server.client(&identity).await;
    for _ in 0..cut_off.max(1) {
        answers.push(call(client.clone()).await.unwrap_or_else(|status| panic!("{status:?}")));
    }
    (server, answers)
}

fn id(round: usize, kind: usize) -> String {
    format!("8f14e45f-ceea-467f-a9d5-{kind:04x}{round:08x}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_retries_at_once_with_kills_in_between_have_one_outcome_l_06() {
    let home = Home::init();
    let mut server = home.serve();
    for round in 0..ROUNDS {
        // From the first answer on to nearly all of them.
        let kill_after = 1 + round * (RETRIES - 10) / ROUNDS;
        let once = v1::TokenizeItem { max_uses: 1, ..item(b"4111111111111111") };
        let request = v1::TokenizeRequest {
            scope: "pan".to_owned(),
            items: vec![once, item(b"another")],
            request_id: id(round, 1),
            ..Default::default()
        };
        let tokenize = move |client: Client| {
            let request = request.clone();
            async move { client.tokens().tokenize(request).await.map(|answer| answer.into_inner().results) }
        };
        let (next, answers) = insist(&home, server, "gateway", kill_after, tokenize).await;
        let tokens: BTreeSet<Vec<String>> = answers
            .into_iter()
            .map(|results| results.into_iter().map(|result| issued(result).unwrap().token).collect())
            .collect();
        assert_eq!(tokens.len(), 1, "all of them got the same tokens");
        let tokens = tokens.into_iter().next().unwrap();

        let request = v1::DetokenizeRequest {
            scope: "pan".to_owned(),
            tokens: vec![tokens[0].clone()],
            purpose: "refund".to_owned(),
            request_id: id(round, 2),
            ..Default::default()
        };
        let again = request.clone();
        let detokenize = move |client: Client| {
            let request = request.clone();
            async move { client.tokens().detokenize(request).await.map(|answer| answer.into_inner().results) }
        };
        let (next, answers) = insist(&home, next, "payments", kill_after, detokenize).await;
        for results in answers {
            let values: Vec<_> = results.into_iter().map(|result| value(result).unwrap()).collect();
            assert_eq!(values, [b"4111111111111111".to_vec()], "its only use is spent once");
        }
        let other = v1::DetokenizeRequest { request_id: id(round, 3), ..again };
        let payments = next.client(&home.identity("payments")).await;
        let results = payments.tokens().detokenize(other).await.unwrap().into_inner().results;
        assert!(value(results.into_iter().next().unwrap()).is_err(), "another request finds it used up");

        // The log says the same: one call did it, the others were answered from memory.
        let auditor = next.client(&home.identity("auditor")).await;
        for kind in [1, 2] {
            let filter = v1::AuditFilter { request_id: id(round, kind), ..Default::default() };
            let events = auditor.events(filter).await;
            assert_eq!(events.iter().filter(|event| event.detail != "repeated").count(), 1, "{}", events.len());
            assert!(events.iter().all(|event| event.outcome() == v1::Outcome::Allowed));
        }
        server = next;
    }
    server.stop();
    println!("{ROUNDS} rounds of twice {RETRIES} retries at once, a kill in each: one outcome each");
}

/// One id, a hundred callers at once: those of one payload are one call, those of another are refused, and another caller's
/// are nobody's business but its own. So it stays when the process ends in order, and when it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn one_id_means_one_payload_of_one_caller_l_06() {
    let home = Home::init();
    home.add_role("others", &["spiffe://dev.cloakroom.internal/other"]);
    home.permit("others", "tokenize", "pan");
    let other = home.authority().client("spiffe://dev.cloakroom.internal/other");
    let request = |value: &[u8], ttl: i64| {
        let items = vec![v1::TokenizeItem { ttl: crate::harness::duration(ttl, 0), ..item(value) }];
        v1::TokenizeRequest { scope: "pan".to_owned(), items, request_id: id(7, 6), ..Default::default() }
    };
    let mut tokens = BTreeSet::new();
    let mut of_other = BTreeSet::new();
    let (mut repeated, mut refused) = (0, 0);
    for round in 0..4 {
        let server = home.serve();
        let (gateway, other) = (server.client(&home.identity("gateway")).await, server.client(&other).await);
        if round == 0 {
            // Whoever comes first decides which payload the id stands for.
            gateway.tokens().tokenize(request(b"one", 60)).await.unwrap();
        }
        let mut calls = tokio::task::JoinSet::new();
        for place in 0..RETRIES {
            let (client, kind) = if place % 4 == 3 { (other.clone(), 3) } else { (gateway.clone(), place % 4) };
            let mut request = match kind {
                // Another lifetime and another value are other payloads.
                1 => request(b"one", 61),
                2 => request(b"two", 60),
                _ => request(b"one", 60),
            };
            request.all_or_nothing = false;
            calls.spawn(async move { (kind, client.tokens().tokenize(request).await) });
        }
        for (kind, answer) in calls.join_all().await {
            match (kind, answer) {
                (0 | 3, Ok(answer)) => {
                    let token = issued(answer.into_inner().results.remove(0)).unwrap().token;
                    if kind == 0 {
                        tokens.insert(token)
                    } else {
                        of_other.insert(token)
                    };
                    repeated += 1;
                }
                (1 | 2, Err(status)) => {
                    let refusal = crate::harness::Refusal::of(&status);
                    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "REQUEST_ID_USED"));
                    refused += 1;
                }
                (kind, answer) => panic!("{kind}: {:?}", answer.map(drop)),
            }
        }
        if round % 2 == 0 { server.kill() } else { server.stop() }
    }
    assert_eq!((tokens.len(), of_other.len(), repeated, refused), (1, 1, 4 * RETRIES / 2, 4 * RETRIES / 2));
    assert!(tokens.is_disjoint(&of_other));
    let server = home.serve();
    let payments = server.client(&home.identity("payments")).await;
    for token in tokens.union(&of_other) {
        // The lifetime of a minute may be over on a slow machine; then it is gone, and nothing else.
        let found = payments.detokenize("pan", std::slice::from_ref(token)).await.unwrap().remove(0);
        assert!(
            found.as_ref().is_ok_and(|value| value == b"one") || found.is_err_and(|error| error.code == Code::NotFound)
        );
    }
    println!("L-06: {repeated} repeated, {refused} with another payload refused, over a kill and a stop twice");
    server.stop();
}
