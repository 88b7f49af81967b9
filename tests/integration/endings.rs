//! The end of a vault in the midst of batches and streams, also of calls that outlast the grace that they have.

use crate::faults::{good_caller, kept};
use crate::frames::{GOAWAY, HEADERS, Line, framed};
use crate::harness::{Home, Server, issued, item, texts};
use crate::needs;
use crate::promises::{Dice, Plan, run};
use crate::strace::Attached;
use cloakroom::proto::v1::{self, Action, Outcome};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::Code;

const VALUE: &[u8] = b"4111111111111111";
const BATCH: usize = 20;
const TOKENIZE: &str = "/cloakroom.v1.TokenService/Tokenize";

fn batch() -> v1::TokenizeRequest {
    v1::TokenizeRequest { scope: "pan".to_owned(), items: vec![item(VALUE); BATCH], ..Default::default() }
}

const CALLERS: usize = 16;

/// Streams and single calls that go on until the vault ends: the tokens of each answer, and how many calls have none.
async fn under_way(server: &Server, home: &Home, enough: usize) -> (Vec<Vec<String>>, usize) {
    let (done, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let client = server.client(&home.identity("gateway")).await;
        let (done, begun) = (Arc::clone(&done), Arc::clone(&begun));
        callers.spawn(async move {
            let mut told = Vec::new();
            let mut note = |answer: v1::TokenizeResponse| {
                let tokens = answer.results.into_iter().map(|result| issued(result).unwrap().token).collect();
                // A caller that comes when the vault stops is refused, and that is another matter.
                begun.fetch_add(usize::from(told.is_empty()), Ordering::SeqCst);
                told.push(tokens);
                done.fetch_add(1, Ordering::SeqCst);
            };
            if number % 2 == 0 {
                while let Ok(answer) = client.tokens().tokenize(batch()).await {
                    note(answer.into_inner());
                }
            } else {
                let batches = tokio_stream::iter(0..).map(|_: u64| v1::StreamTokenizeRequest { batch: Some(batch()) });
                let mut answers = client.tokens().stream_tokenize(batches).await.unwrap().into_inner();
                let end = loop {
                    match answers.message().await {
                        Ok(Some(answer)) => note(answer.batch.unwrap()),
                        end => break end,
                    }
                };
                // The vault says that it is stopping, behind the last answer.
                assert_eq!(end.map(|_| ()).map_err(|status| status.code()), Err(Code::Unavailable));
            }
            told
        });
    }
    while done.load(Ordering::SeqCst) < enough || begun.load(Ordering::SeqCst) < CALLERS {
        tokio::task::yield_now().await;
    }
    server.terminate();
    // Whoever is impatient sends it again: once it ends in order, that changes nothing.
    server.terminate();
    let told = callers.join_all().await;
    let callers = told.len();
    (told.into_iter().flatten().collect(), callers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_batches_end_with_their_last_answers_and_a_second_signal_changes_nothing_o_06() {
    let home = Home::init();
    let server = home.serve();
    // Who reads the connection sees that it is told to go before it is closed.
    let mut line = Line::open(&server, &home.identity("gateway")).await;
    line.ping().await;
    let (told, callers) = under_way(&server, &home, 200).await;
    let mut goodbye = 0;
    while let Some(frame) = line.next().await {
        goodbye += usize::from(frame.kind == GOAWAY);
    }
    assert!(goodbye > 0, "closed without GOAWAY");
    ends_well(server).await;
    let server = home.serve();
    let payments = server.client(&home.identity("payments")).await;
    for tokens in &told {
        assert_eq!(payments.detokenize("pan", tokens).await.unwrap(), vec![Ok(VALUE.to_vec()); BATCH]);
    }
    // Of each caller at most the answer that was on its way when its connection closed is missing, and no stream's.
    let auditor = server.client(&home.identity("auditor")).await;
    let filter = v1::AuditFilter { action: Action::Tokenize.into(), ..Default::default() };
    let written = auditor.events(filter).await.iter().filter(|event| event.outcome() == Outcome::Allowed).count();
    assert_eq!(written, told.len(), "a batch was done and its caller not told");
    server.stop();
    println!("O-06: {} batches of {callers} callers answered before the end, all there after it", told.len());
}

/// Waits for the end, which must be a success.
async fn ends_well(mut server: Server) -> String {
    let (status, log) =
        tokio::task::spawn_blocking(move || (server.child.wait().unwrap(), server.log())).await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    log
}

/// Calls that take longer than their grace: connections are closed, what was permitted is finished and recorded, and the vault
/// ends in order all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_outlast_the_grace_are_cut_off_and_finished_o_06() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let mut serve = home.serve_command();
    serve.env("CLOAKROOM_SERVER__DRAIN_TIMEOUT", "300ms");
    let server = Server::launch(&home, serve).unwrap();
    let gateway = server.client(&home.identity("gateway")).await;
    let before = texts(&gateway.tokenize("pan", &[VALUE]).await);
    // One caller who never sends the end of its message,
    let mut endless = Line::open(&server, &home.identity("gateway")).await;
    assert!(endless.send_most(1, TOKENIZE, &framed(&batch().encode_to_vec())[..100]).await);
    // and some whose commits take a second and a half.
    let slow = Attached::to(&server, &["-f", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=1500000"]);
    let mut lines = Vec::new();
    for _ in 0..4 {
        let mut line = Line::open(&server, &home.identity("gateway")).await;
        line.call(1, TOKENIZE, &[], &framed(&batch().encode_to_vec())).await;
        line.ping().await;
        lines.push(line);
    }
    let begin = Instant::now();
    server.terminate();
    server.terminate();
    let mut answered = 0;
    for line in &mut lines {
        while let Some(frame) = line.next().await {
            answered += usize::from(frame.kind == HEADERS);
        }
    }
    let cut = begin.elapsed();
    let log = ends_well(server).await;
    let ended = begin.elapsed();
    drop(slow);
    assert!(log.contains("connections that did not end in time were closed"), "{log}");
    assert!(log.contains("stopped: the last event and checkpoint are written"), "{log}");
    let server = home.serve();
    let auditor = server.client(&home.identity("auditor")).await;
    let filter = v1::AuditFilter { action: Action::Tokenize.into(), ..Default::default() };
    let events = auditor.events(filter).await;
    let whole = events.iter().filter(|event| event.succeeded as usize == BATCH).count();
    let stop = auditor.events(v1::AuditFilter { action: Action::Stop.into(), ..Default::default() }).await;
    assert!(stop.len() == 1 && events.iter().all(|event| event.sequence < stop[0].sequence));
    assert!(whole >= answered, "{answered} were answered and {whole} are there");
    let handles: Vec<String> = events.iter().flat_map(|event| event.handles.iter().map(hex::encode)).collect();
    let operator = server.client(&home.identity("operator")).await;
    let request = v1::InspectTokensRequest { scope: "pan".to_owned(), handles, ..Default::default() };
    let found = operator.tokens().inspect_tokens(request).await.unwrap().into_inner().results;
    assert!(found.into_iter().map(crate::harness::info).all(|info| info.is_ok()));
    let payments = server.client(&home.identity("payments")).await;
    assert_eq!(payments.detokenize("pan", &before).await.unwrap(), [Ok(VALUE.to_vec())]);
    println!(
        "O-06: of 4 batches that outlast a grace of 300 ms {whole} were finished, {answered} answered; cut off after {cut:.1?}, ended \
         after {ended:.1?}"
    );
    good_caller(&home, &server).await;
    let plan = Plan { seed: Dice::seed(), callers: 16, calls: 200, stamp: Box::new(|| 0) };
    let ended = run(&home, &server, plan, || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    server.stop();
    println!("O-06: {}", kept(&home, home.serve_command(), &ended.promises).await);
}
