//! Streams of batches: in order at any pace, in bounded room, each batch with its own event, and how they end.

use crate::harness::{Client, Home, Refusal, Server, TRUST_DOMAIN, eventually, issued, item, refused, texts, value};
use cloakroom::proto::v1::{self, Action, ItemOutcome, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TOKENIZE: &str = "/cloakroom.v1.TokenService/StreamTokenize";
const DETOKENIZE: &str = "/cloakroom.v1.TokenService/StreamDetokenize";

type Tokenizing = Streaming<v1::StreamTokenizeResponse>;
type Detokenizing = Streaming<v1::StreamDetokenizeResponse>;

// === how fast who is ===

/// How often a sender and a reader give way before each step.
#[derive(Clone, Copy, Debug)]
struct Pace {
    sender: usize,
    reader: usize,
}

const PACES: [Pace; 3] =
    [Pace { sender: 0, reader: 200 }, Pace { sender: 200, reader: 0 }, Pace { sender: 3, reader: 3 }];

async fn give_way(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

/// Messages one after the other, at the sender's pace.
fn sent<T: Send + 'static>(messages: Vec<T>, pace: Pace) -> ReceiverStream<T> {
    let (send, messages_sent) = mpsc::channel(1);
    tokio::spawn(async move {
        for message in messages {
            give_way(pace.sender).await;
            if send.send(message).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(messages_sent)
}

/// All answers, at the reader's pace, and how the stream ended.
async fn read<T>(answers: &mut Streaming<T>, pace: Pace) -> (Vec<T>, Result<(), Status>) {
    let mut read = Vec::new();
    loop {
        give_way(pace.reader).await;
        match answers.message().await {
            Ok(Some(answer)) => read.push(answer),
            Ok(None) => return (read, Ok(())),
            Err(status) => return (read, Err(status)),
        }
    }
}

// === messages ===

fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01").parse().unwrap());
    request
}

fn tokenize(scope: &str, values: &[Vec<u8>]) -> v1::StreamTokenizeRequest {
    let items = values.iter().map(|value| item(value)).collect();
    let batch = v1::TokenizeRequest { scope: scope.to_owned(), items, ..Default::default() };
    v1::StreamTokenizeRequest { batch: Some(batch) }
}

fn detokenize(tokens: Vec<String>) -> v1::StreamDetokenizeRequest {
    let (scope, purpose) = ("pan".to_owned(), "refund".to_owned());
    let batch = v1::DetokenizeRequest { scope, tokens, purpose, ..Default::default() };
    v1::StreamDetokenizeRequest { batch: Some(batch) }
}

async fn open_tokenize<S>(client: &Client, messages: S) -> Tokenizing
where
    S: tokio_stream::Stream<Item = v1::StreamTokenizeRequest> + Send + 'static,
{
    client.tokens().stream_tokenize(traced(messages)).await.unwrap().into_inner()
}

async fn open_detokenize<S>(client: &Client, messages: S) -> Detokenizing
where
    S: tokio_stream::Stream<Item = v1::StreamDetokenizeRequest> + Send + 'static,
{
    client.tokens().stream_detokenize(traced(messages)).await.unwrap().into_inner()
}

/// The events of the stream, oldest first.
async fn events(auditor: &Client, action: Action) -> Vec<v1::AuditEvent> {
    let filter = v1::AuditFilter { action: action.into(), ..Default::default() };
    auditor.events(filter).await.into_iter().filter(|event| event.trace_id == TRACE).collect()
}

fn counted(server: &Server, method: &str, code: &str) -> u64 {
    server.metric(&format!("cloakroom_calls_total{{method=\"{method}\",code=\"{code}\"}}"))
}

// === order ===

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_answered_in_order_at_any_pace_each_with_its_event() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let payments = server.client(&home.identity("payments")).await;
    let auditor = server.client(&home.identity("auditor")).await;
    let values: Vec<Vec<Vec<u8>>> = (0..200_usize)
        .map(|batch| (0..=batch % 30).map(|place| format!("batch {batch} place {place}").into_bytes()).collect())
        .collect();
    let mut sequences = (Vec::new(), Vec::new());
    for pace in PACES {
        let messages = values.iter().map(|values| tokenize("pan", values)).collect();
        let mut answers = open_tokenize(&gateway, sent(messages, pace)).await;
        let (answers, end) = read(&mut answers, pace).await;
        end.unwrap_or_else(|status| panic!("{pace:?}: {status}"));
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.batch.unwrap()).collect();
        sequences.0.extend(answers.iter().map(|answer| answer.receipt.as_ref().unwrap().sequence));
        let of_batch = |answer: v1::TokenizeResponse| {
            answer.results.into_iter().map(|result| issued(result).unwrap().token).collect::<Vec<_>>()
        };
        let messages = answers.into_iter().map(|answer| detokenize(of_batch(answer))).collect();
        let mut answers = open_detokenize(&payments, sent(messages, pace)).await;
        let (answers, end) = read(&mut answers, pace).await;
        end.unwrap_or_else(|status| panic!("{pace:?}: {status}"));
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.batch.unwrap()).collect();
        sequences.1.extend(answers.iter().map(|answer| answer.receipt.as_ref().unwrap().sequence));
        let found: Vec<Vec<_>> = answers
            .into_iter()
            .map(|answer| answer.results.into_iter().map(|result| value(result).unwrap()).collect())
            .collect();
        assert_eq!(found, values, "{pace:?}");
    }
    // An event for each batch, in the order of the answers, and each batch is counted as a call.
    let requested: Vec<u32> = values.iter().map(|values| u32::try_from(values.len()).unwrap()).collect();
    let sides = [(Action::Tokenize, TOKENIZE, sequences.0), (Action::Detokenize, DETOKENIZE, sequences.1)];
    for (action, method, sequences) in sides {
        let events = events(&auditor, action).await;
        assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), sequences);
        assert_eq!(events.iter().map(|event| event.requested).collect::<Vec<_>>(), requested.repeat(PACES.len()));
        assert!(events.iter().all(|event| event.outcome() == Outcome::Allowed && event.succeeded == event.requested));
        assert_eq!(counted(&server, method, "Ok"), 200 * PACES.len() as u64);
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_batches_is_nothing() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let mut answers = open_tokenize(&gateway, tokio_stream::empty()).await;
    assert!(answers.message().await.unwrap().is_none());
    let auditor = server.client(&home.identity("auditor")).await;
    assert!(events(&auditor, Action::Tokenize).await.is_empty());
    assert_eq!(counted(&server, TOKENIZE, "Ok"), 0);
    server.stop();
}

// === room ===

/// Answers are larger than what a client's window takes in unasked, so that none leaves the vault whole.
const LARGE_BATCHES: usize = 40;
/// Batches that are taken in and not read: one that is being sent, piece by piece, and one that is ready behind it.
const TAKEN_IN: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_stops_its_sender_and_nobody_else() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let auditor = server.client(&home.identity("auditor")).await;
    let value_of = |number: u8| vec![number; 64 << 10];
    let values: Vec<Vec<u8>> = (0..48).map(value_of).collect();
    let tokens = texts(&gateway.tokenize("pan", &values.iter().map(Vec::as_slice).collect::<Vec<_>>()).await);
    // What is no token makes the messages large, too.
    let messages = (0..LARGE_BATCHES).map(move |batch| {
        let mut turned = tokens.clone();
        turned.rotate_left(batch);
        turned.extend((0..300).map(|_| "x".repeat(3000)));
        detokenize(turned)
    });
    let handed_over = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&handed_over);
    let messages = tokio_stream::iter(messages).map(move |message| {
        counter.fetch_add(1, Ordering::SeqCst);
        message
    });
    let payments = server.client(&home.identity("payments")).await;
    let mut answers = open_detokenize(&payments, messages).await;
    let taken_in = || async { events(&auditor, Action::Detokenize).await.len() };
    eventually("the vault has taken in what it will", || async { (taken_in().await == TAKEN_IN).then_some(()) }).await;
    // A lot else is done meanwhile, on the same threads.
    for _ in 0..200 {
        gateway.tokenize("pan", &[b"4111111111111111"]).await;
    }
    assert_eq!(taken_in().await, TAKEN_IN);
    let stopped_at = handed_over.load(Ordering::SeqCst);
    assert!(stopped_at < LARGE_BATCHES / 4, "the sender was not stopped: {stopped_at} messages");
    // Reading again, everything comes, in order.
    for batch in 0..LARGE_BATCHES {
        let answer = answers.message().await.unwrap().unwrap().batch.unwrap();
        let (found, malformed) = answer.results.split_at(48);
        let mut expected = values.clone();
        expected.rotate_left(batch);
        let found: Vec<_> = found.iter().map(|result| value(result.clone()).unwrap()).collect();
        assert!(found == expected, "batch {batch} has other values");
        assert!(malformed.iter().all(|result| value(result.clone()).unwrap_err().reason == "TOKEN_MALFORMED"));
    }
    assert!(answers.message().await.unwrap().is_none());
    assert_eq!(taken_in().await, LARGE_BATCHES);
    println!("streams: a reader that stops has {TAKEN_IN} batches taken in, {stopped_at} messages handed over");
    server.stop();
}

// === ends ===

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_ends_the_stream_and_those_before_stay_answered() {
    let home = Home::init();
    let server = home.serve();
    let auditor = server.client(&home.identity("auditor")).await;
    let good = || tokenize("pan", &[b"4111111111111111".to_vec()]);
    let denied = (Code::PermissionDenied, "POLICY_DENIED");
    let invalid = |reason| (Code::InvalidArgument, reason);
    let cases = [
        (tokenize("nosuch", &[vec![1]]), denied, "PermissionDenied"),
        (tokenize("pan", &[]), invalid("BATCH_EMPTY"), "InvalidArgument"),
        (v1::StreamTokenizeRequest { batch: None }, invalid("SCOPE_MALFORMED"), "InvalidArgument"),
    ];
    let mut failures = std::collections::BTreeMap::<&str, u64>::new();
    for (number, (bad, (code, reason), name)) in cases.into_iter().enumerate() {
        let gateway = server.client(&home.identity("gateway")).await;
        let mut answers = open_tokenize(&gateway, tokio_stream::iter([good(), good(), bad, good()])).await;
        let (answers, end) = read(&mut answers, PACES[0]).await;
        let status = end.unwrap_err();
        let refusal = Refusal::of(&status);
        assert_eq!((refusal.code, refusal.reason.as_str()), (code, reason));
        assert!(status.metadata().get("cloakroom-made").is_none());
        assert_eq!(answers.len(), 2);
        assert!(answers.into_iter().all(|answer| issued(answer.batch.unwrap().results.remove(0)).is_ok()));
        // Two that went well, the one that failed, and nothing after it.
        let events = events(&auditor, Action::Tokenize).await;
        assert_eq!(events.len(), 3 * (number + 1));
        let last = events.last().unwrap();
        assert_eq!((last.reason.as_str(), Some(last.sequence)), (reason, refusal.receipt.map(|one| one.sequence)));
        *failures.entry(name).or_default() += 1;
        assert_eq!(counted(&server, TOKENIZE, name), failures[name]);
        assert_eq!(counted(&server, TOKENIZE, "Ok"), 2 * (number as u64 + 1));
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_limit_ends_the_stream() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let large = tokenize("pan", &vec![vec![1; 65_000]; 65]);
    let good = tokenize("pan", &[vec![1]]);
    let mut answers = open_tokenize(&gateway, tokio_stream::iter([good, large])).await;
    let (answers, end) = read(&mut answers, PACES[0]).await;
    let refusal = Refusal::of(&end.unwrap_err());
    assert_eq!((answers.len(), refusal.code, refusal.reason.as_str()), (1, Code::InvalidArgument, "MALFORMED_REQUEST"));
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_is_the_whole_streams() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    // The sender stays, and sends nothing any more.
    let (send, messages) = mpsc::channel(1);
    send.send(tokenize("pan", &[vec![1]])).await.unwrap();
    let mut request = traced(ReceiverStream::new(messages));
    request.set_timeout(Duration::from_millis(500));
    let refusal = match gateway.tokens().stream_tokenize(request).await {
        Ok(answers) => Refusal::of(&read(&mut answers.into_inner(), PACES[0]).await.1.unwrap_err()),
        Err(status) => Refusal::of(&status),
    };
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    drop(send);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_streams_behind_the_batch_in_work() {
    let home = Home::init();
    let server = home.serve();
    let answered = Arc::new(AtomicUsize::new(0));
    let mut streams = JoinSet::new();
    for _ in 0..4 {
        let client = server.client(&home.identity("gateway")).await;
        let answered = Arc::clone(&answered);
        streams.spawn(async move {
            let batch = tokenize("pan", &vec![b"4111111111111111".to_vec(); 50]);
            let mut answers = open_tokenize(&client, tokio_stream::iter(std::iter::repeat(batch))).await;
            let mut tokens = Vec::new();
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => tokens.push(answer.batch.unwrap()),
                    Ok(None) => panic!("the stream ended as if its sender had ended it"),
                    Err(status) => return (tokens, Refusal::of(&status)),
                }
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    // And one that waits for its sender.
    let idle = server.client(&home.identity("gateway")).await;
    let (send, messages) = mpsc::channel(1);
    send.send(tokenize("pan", &[vec![1]])).await.unwrap();
    let mut idle = open_tokenize(&idle, ReceiverStream::new(messages)).await;
    assert!(idle.message().await.unwrap().is_some());
    while answered.load(Ordering::SeqCst) < 100 {
        tokio::task::yield_now().await;
    }
    server.terminate();
    let ended = Refusal::of(&read(&mut idle, PACES[0]).await.1.unwrap_err());
    assert_eq!((ended.code, ended.reason.as_str()), (Code::Unavailable, "UNAVAILABLE"));
    let mut batches = Vec::new();
    while let Some(stream) = streams.join_next().await {
        let (tokens, ended) = stream.unwrap();
        assert_eq!((ended.code, ended.reason.as_str()), (Code::Unavailable, "UNAVAILABLE"));
        batches.extend(tokens);
    }
    let status = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(status.success(), "{status}");
    // What was acknowledged is there, and what was committed was answered.
    let server = home.serve();
    let payments = server.client(&home.identity("payments")).await;
    let count = batches.len();
    for batch in batches {
        let tokens: Vec<_> = batch.results.into_iter().map(|result| issued(result).unwrap()).collect();
        let found = payments.detokenize("pan", &texts(&tokens)).await.unwrap();
        assert_eq!(found, vec![Ok(b"4111111111111111".to_vec()); 50]);
    }
    let auditor = server.client(&home.identity("auditor")).await;
    assert_eq!(events(&auditor, Action::Tokenize).await.len(), count + 1);
    println!("streams: {count} batches acknowledged before a stop, all there after it, and no others");
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_whole_events() {
    let home = Home::init();
    let server = home.serve();
    let mut answered = 0;
    for round in 0..10 {
        let gateway = server.client(&home.identity("gateway")).await;
        let batch = tokenize("pan", &vec![b"4111111111111111".to_vec(); 500]);
        let mut answers = open_tokenize(&gateway, tokio_stream::iter(std::iter::repeat(batch))).await;
        for _ in 0..round {
            assert!(answers.message().await.unwrap().is_some());
            answered += 1;
        }
        // Stream and connection go, with a batch in work.
    }
    // Calls in flight are finished before the end.
    server.stop();
    let server = home.serve();
    let auditor = server.client(&home.identity("auditor")).await;
    let operator = server.client(&home.identity("operator")).await;
    let events = events(&auditor, Action::Tokenize).await;
    assert!(events.len() >= answered, "{} events for {answered} answers", events.len());
    for event in &events {
        assert_eq!((event.outcome(), event.requested, event.succeeded), (Outcome::Allowed, 500, 500));
        assert_eq!(event.item_outcomes, vec![i32::from(ItemOutcome::Issued); 500]);
        let handles = event.handles.iter().map(hex::encode).collect();
        let request = v1::InspectTokensRequest { scope: "pan".to_owned(), handles, ..Default::default() };
        let found = operator.tokens().inspect_tokens(request).await.unwrap().into_inner().results;
        assert_eq!(found.into_iter().filter(|result| crate::harness::info(result.clone()).is_ok()).count(), 500);
    }
    println!(
        "streams: {answered} answers were read before ten clients vanished, {} batches are recorded",
        events.len()
    );
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: waits until a certificate expires"]
async fn a_stream_that_outlives_its_certificate_ends_at_the_next_batch() {
    use cloakroom::clock::SystemClock;
    let home = Home::init();
    let server = home.serve();
    let until = SystemClock::shared().wall().seconds() + 5;
    let short = home.authority().client_with(&format!("spiffe://{TRUST_DOMAIN}/gateway"), |params| {
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(until);
    });
    let client = server.client(&short).await;
    let batch = tokenize("pan", &[vec![1]]);
    let mut answers = open_tokenize(&client, tokio_stream::iter(std::iter::repeat(batch))).await;
    let (answers, end) = read(&mut answers, PACES[1]).await;
    let refusal = Refusal::of(&end.unwrap_err());
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unauthenticated, "CERTIFICATE_EXPIRED"));
    assert!(!answers.is_empty());
    assert!(SystemClock::shared().wall().seconds() >= until);
    let request = v1::TokenizeRequest { scope: "pan".to_owned(), items: vec![item(b"x")], ..Default::default() };
    assert_eq!(refused(client.tokens().tokenize(request).await).reason, "CERTIFICATE_EXPIRED");
    server.stop();
}
