//! callers who go away right after asking, by giving up the call or by cutting the connection. What they asked for is
//! in the log all the same, and what the log does not have was not done.

use crate::deputy::{message_of, permitted};
use crate::frames::{HEADERS, Line, framed};
use crate::harness::{Client, Home, Server, item, texts};
use crate::promises::Dice;
use cloakroom::event::Action as EventAction;
use cloakroom::grpc::methods::{self, Resource};
use cloakroom::proto::v1::{self, ItemOutcome, Outcome};
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::Code;

static CALLS: AtomicU64 = AtomicU64::new(1);

/// How a caller goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It gives up the call.
    Reset,
    /// It cuts the connection.
    Cut,
}

fn trace() -> (String, String) {
    let trace = format!("{:032x}", 0xa10_0000 + CALLS.fetch_add(1, Ordering::Relaxed));
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    (trace, parent)
}

/// Waits until the vault has answered a call that was sent behind the first: then that has reached its method.
async fn answered_behind(line: &mut Line) {
    line.call(3, "/grpc.health.v1.Health/Check", &[], &framed(b"")).await;
    while line.next_of(3).await.expect("the connection is open").kind != HEADERS {}
}

async fn go(mut line: Line, way: Way) -> Option<Line> {
    match way {
        Way::Reset => {
            line.reset(1).await;
            // Until the vault has read that.
            line.ping().await;
            Some(line)
        }
        Way::Cut => {
            line.cut();
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_right_after_asking_is_in_the_log_a_09_a_10() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let token = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await).remove(0);
    let mut made = Vec::new();
    let audited = || methods::METHODS.iter().filter(|method| method.resource != Resource::None);
    for method in audited() {
        for way in [Way::Reset, Way::Cut] {
            let (trace, parent) = trace();
            let mut line = Line::open(&server, &home.identity(permitted(method.action))).await;
            let peer = line.local.to_string();
            let body = framed(&message_of(method.path, std::slice::from_ref(&token)));
            line.call(1, method.path, &[("traceparent", &parent)], &body).await;
            answered_behind(&mut line).await;
            go(line, way).await;
            made.push((method, way, trace, peer));
        }
    }
    // Calls in flight are finished before the end.
    server.stop();
    let server = home.serve();
    let auditor = server.client(&home.identity("auditor")).await;
    let events = auditor.events(v1::AuditFilter::default()).await;
    for (method, way, trace, peer) in &made {
        let found: Vec<_> = events.iter().filter(|event| event.trace_id == *trace).collect();
        let [event] = &found[..] else { panic!("{} {way:?}: {} events", method.path, found.len()) };
        assert_eq!(
            (event.action, event.outcome()),
            (method.action.into(), Outcome::Allowed),
            "{} {way:?}",
            method.path
        );
        assert_eq!((&event.peer_address, event.rulebook.len()), (peer, 32));
        if method.action == EventAction::Detokenize {
            assert_eq!(event.item_outcomes, [i32::from(ItemOutcome::Released)], "the value may have been sent");
        }
    }
    let payments = server.client(&home.identity("payments")).await;
    assert!(payments.detokenize("pan", &[token]).await.unwrap()[0].is_ok());
    println!("A-10: {} methods, given up and cut off: one event each", audited().count());
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_spent_if_and_only_if_the_log_says_so_a_10() {
    const ROUNDS: usize = 200;
    let mut dice = Dice(Dice::seed());
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let once = v1::TokenizeItem { max_uses: 1, ..item(b"4111111111111111") };
    let issued = gateway.issue("pan", vec![once; ROUNDS]).await;
    for issued in &issued {
        // At any moment: while it is sent, read, decided, written, answered.
        let mut line = Line::open(&server, &home.identity("payments")).await;
        let body = framed(&message_of("/Detokenize", std::slice::from_ref(&issued.token)));
        line.call(1, "/cloakroom.v1.TokenService/Detokenize", &[], &body).await;
        match dice.below(3) {
            0 => {}
            1 => answered_behind(&mut line).await,
            _ => line.ping().await,
        }
        for _ in 0..dice.below(4_000) {
            tokio::task::yield_now().await;
        }
        let way = if dice.below(2) == 0 { Way::Reset } else { Way::Cut };
        match way {
            Way::Reset => line.reset(1).await,
            Way::Cut => line.cut(),
        }
    }
    server.stop();
    let server = home.serve();
    let (spent, unspent) = uses(&home, &server, &issued).await;
    println!("A-10: {ROUNDS} callers vanished: {spent} uses are spent and in the log, {unspent} are not");
    server.stop();
}

/// How many of the tokens are used up, as the log says, and how many still give their value once.
async fn uses(home: &Home, server: &Server, issued: &[v1::IssuedToken]) -> (usize, usize) {
    let auditor = server.client(&home.identity("auditor")).await;
    let filter = v1::AuditFilter { action: v1::Action::Detokenize.into(), ..Default::default() };
    let mut released: Vec<Vec<u8>> = Vec::new();
    for event in auditor.events(filter).await {
        let left = event.handles.iter().zip(event.item_outcomes());
        released
            .extend(left.filter(|(_, outcome)| *outcome == ItemOutcome::Released).map(|(handle, _)| handle.clone()));
    }
    let payments: Client = server.client(&home.identity("payments")).await;
    let (mut spent, mut unspent) = (0, 0);
    for issued in issued {
        let logged = released.iter().filter(|handle| hex::encode(handle) == issued.handle).count();
        let result = payments.detokenize("pan", std::slice::from_ref(&issued.token)).await.unwrap().remove(0);
        match (logged, result.map_err(|error| error.code)) {
            (1, Err(Code::NotFound)) => spent += 1,
            (0, Ok(value)) => {
                assert_eq!(value, b"4111111111111111");
                unspent += 1;
            }
            (logged, result) => panic!("{}: {logged} releases in the log, now {:?}", issued.handle, result.map(drop)),
        }
    }
    (spent, unspent)
}
