//! Deadlines of every form, and what was done of calls that had one: nothing after it, and of a write all or nothing.

use crate::faults::{good_caller, kept};
use crate::frames::framed;
use crate::harness::{Home, Server, eventually, item, texts};
use crate::needs;
use crate::open_loop::Wire;
use crate::promises::{Dice, Plan, run};
use crate::strace::Attached;
use cloakroom::proto::v1::{self, Action, ItemOutcome, Outcome};
use prost::Message;
use std::collections::BTreeMap;
use tokio::task::JoinSet;
use tonic::Code;

const VALUE: &[u8] = b"4111111111111111";
const SERVICE: &str = "/cloakroom.v1.TokenService";

/// What `grpc-timeout` says, as often as it is there.
type Form = &'static [&'static [u8]];

/// Over before it is their turn.
const OVER: &[Form] = &[
    &[b"0n"],
    &[b"0u"],
    &[b"0m"],
    &[b"0S"],
    &[b"0M"],
    &[b"0H"],
    &[b"00000000H"],
    &[b"1n"],
    &[b"99n"],
    &[b"+1n"],
    &[b"0n", b"1H"],
];

/// Long enough.
const LONG: &[Form] = &[
    &[b"99999999m"],
    &[b"99999999S"],
    &[b"99999999M"],
    &[b"99999999H"],
    &[b"60S"],
    &[b"00000060S"],
    &[b"1M"],
    // Of several the first counts, as for everyone.
    &[b"1H", b"0n"],
];

/// No deadlines by the specification: they count as none.
const MALFORMED: &[Form] = &[
    &[b"100000000H"],
    &[b"000000001n"],
    &[b"-1S"],
    &[b"++1n"],
    &[b""],
    &[b"n"],
    &[b"1"],
    &[b"1x"],
    &[b"1 n"],
    &[b" "],
    &[b"1.5n"],
    &[b"0x1n"],
    &[b"1e0n"],
    &[b"1N"],
    &[b"+100000000n"],
    &[b"1s"],
    &[b"nan"],
    &[b"\xc2\xb9n"],
    &[b"\xff\xff"],
    &[b"1n,1n"],
    &[b"", b"0n"],
];

/// One call of each kind on a token of its own, and how much of each is done.
struct Caller {
    gateway: Wire,
    payments: Wire,
    operator: Wire,
}

impl Caller {
    async fn open(home: &Home, server: &Server) -> Self {
        let wire = async |name: &str| Wire::open(server, &home.identity(name)).await.unwrap();
        Self { gateway: wire("gateway").await, payments: wire("payments").await, operator: wire("operator").await }
    }

    /// By method: the code and the reason that it got.
    async fn each(&self, form: Form, token: &str) -> Vec<(&'static str, Code, String)> {
        let (scope, tokens) = ("pan".to_owned(), vec![token.to_owned()]);
        let tokenize = v1::TokenizeRequest { scope: scope.clone(), items: vec![item(VALUE)], ..Default::default() };
        let purpose = "test".to_owned();
        let detokenize =
            v1::DetokenizeRequest { scope: scope.clone(), tokens: tokens.clone(), purpose, ..Default::default() };
        let inspect = v1::InspectTokensRequest { scope: scope.clone(), tokens: tokens.clone(), ..Default::default() };
        let renew = v1::RenewTokensRequest { scope: scope.clone(), tokens: tokens.clone(), ..Default::default() };
        let revoke = v1::RevokeTokensRequest { scope, tokens, ..Default::default() };
        let calls = [
            ("Tokenize", &self.gateway, tokenize.encode_to_vec()),
            ("Detokenize", &self.payments, detokenize.encode_to_vec()),
            ("InspectTokens", &self.operator, inspect.encode_to_vec()),
            ("RenewTokens", &self.operator, renew.encode_to_vec()),
            ("RevokeTokens", &self.operator, revoke.encode_to_vec()),
        ];
        let mut told = Vec::new();
        for (method, wire, message) in calls {
            let headers: Vec<(&str, &[u8])> = form.iter().map(|text| ("grpc-timeout", *text)).collect();
            let answer = wire.call(&format!("{SERVICE}/{method}"), &headers, framed(&message).into()).await;
            let answer = answer.unwrap_or_else(|error| panic!("{method} {form:?}: {error}"));
            told.push((method, answer.code(), answer.refusal().reason));
        }
        told
    }
}

/// Of each action: calls that were done, and calls that were refused for their deadline.
async fn counted(home: &Home, server: &Server) -> BTreeMap<Action, (u64, u64)> {
    let auditor = server.client(&home.identity("auditor")).await;
    let mut counted = BTreeMap::<Action, (u64, u64)>::new();
    for event in auditor.events(v1::AuditFilter::default()).await {
        let of = counted.entry(event.action()).or_default();
        if event.reason == "DEADLINE_EXCEEDED" {
            assert_eq!((event.outcome(), event.succeeded), (Outcome::Failed, 0));
            of.1 += event.count.max(1);
        } else {
            of.0 += u64::from(event.succeeded > 0);
        }
    }
    counted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_of_every_form_are_kept_or_count_as_none_d_08() {
    let home = Home::init();
    let server = home.serve();
    let caller = Caller::open(&home, &server).await;
    let gateway = server.client(&home.identity("gateway")).await;
    let forms: Vec<Form> = OVER.iter().chain(LONG).chain(MALFORMED).copied().collect();
    let tokens = texts(&gateway.tokenize("pan", &vec![VALUE; forms.len()]).await);
    let mut done = 0;
    for (form, token) in forms.iter().zip(&tokens) {
        let is_over = OVER.contains(form);
        for (method, code, reason) in caller.each(form, token).await {
            let wanted = if is_over { (Code::DeadlineExceeded, "DEADLINE_EXCEEDED") } else { (Code::Ok, "") };
            assert_eq!((code, reason.as_str()), wanted, "{method} {form:?}");
        }
        done += u64::from(!is_over);
    }
    let over = OVER.len() as u64;
    let actions = [Action::Tokenize, Action::Detokenize, Action::Inspect, Action::Renew, Action::Revoke];
    // The first Tokenize here made the tokens.
    let wanted: BTreeMap<_, _> =
        actions.iter().map(|action| (*action, (done + u64::from(*action == Action::Tokenize), over))).collect();
    eventually("each call in the log, if only as a count", || async {
        let mut counted = counted(&home, &server).await;
        counted.retain(|action, _| actions.contains(action));
        (counted == wanted).then_some(())
    })
    .await;
    // What was late did nothing: its token can be exchanged still, and the others were revoked.
    let payments = server.client(&home.identity("payments")).await;
    let found = payments.detokenize("pan", &tokens).await.unwrap();
    let live: Vec<bool> = found.iter().map(Result::is_ok).collect();
    let late: Vec<bool> = forms.iter().map(|form| OVER.contains(form)).collect();
    assert_eq!(live, late);
    good_caller(&home, &server).await;
    server.stop();
    println!("D-08: {} forms of a deadline on five methods: {} over, the others kept or none", forms.len(), OVER.len());
}

/// Deadlines that end in every state of a call: on its way, before its turn, in front of the writer, while the disk syncs. Whatever
/// its caller was told, a write is there wholly or not at all, and its event says which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_caller_is_late_is_there_wholly_or_not_at_all_d_08() {
    const BATCH: usize = 5;
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    let wires = [
        Wire::open(&server, &home.identity("gateway")).await.unwrap(),
        Wire::open(&server, &home.identity("gateway")).await.unwrap(),
    ];
    // The scope's key is made now: calls would wait for it together.
    server.client(&home.identity("gateway")).await.tokenize("pan", &[VALUE]).await;
    // A sync takes two seconds, longer than all deadlines but one.
    let slow = Attached::to(&server, &["-f", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=2000000"]);
    let request =
        v1::TokenizeRequest { scope: "pan".to_owned(), items: vec![item(VALUE); BATCH], ..Default::default() };
    let message = framed(&request.encode_to_vec());
    let mut calls = JoinSet::new();
    for number in 0..60_u32 {
        let (wire, message) = (wires[number as usize % 2].clone(), message.clone());
        let millis = [0, 1, 100, 1_500, 60_000][number as usize % 5];
        let trace = format!("{:032x}", u128::from(number) + (1 << 100));
        calls.spawn(async move {
            let (timeout, parent) = (format!("{millis}m"), format!("00-{trace}-00f067aa0ba902b7-01"));
            let headers = [("grpc-timeout", timeout.as_bytes()), ("traceparent", parent.as_bytes())];
            let answer = wire.call(&format!("{SERVICE}/Tokenize"), &headers, message.into()).await.unwrap();
            (trace, answer)
        });
    }
    let told = calls.join_all().await;
    drop(slow);
    let auditor = server.client(&home.identity("auditor")).await;
    let filter = v1::AuditFilter { action: Action::Tokenize.into(), ..Default::default() };
    let of = |events: &[v1::AuditEvent], reason: &str| -> u64 {
        events.iter().filter(|event| event.reason == reason).map(|event| event.count.max(1)).sum()
    };
    // Those without an event of their own are in a count.
    let events = eventually("every call in the log", || async {
        let events = auditor.events(filter.clone()).await;
        let done = events.iter().filter(|event| event.outcome() == Outcome::Allowed).count() as u64;
        (done - 1 + of(&events, "DEADLINE_EXCEEDED") == told.len() as u64).then_some(events)
    })
    .await;
    let (mut ok, mut late_and_done, mut late) = (0, 0, 0);
    let mut handles = Vec::new();
    for (trace, answer) in &told {
        let own: Vec<&v1::AuditEvent> = events.iter().filter(|event| event.trace_id == *trace).collect();
        assert!(own.len() <= 1, "one event for each call");
        let done = own.iter().find(|event| event.outcome() == Outcome::Allowed);
        if let Some(event) = done {
            assert_eq!(usize::try_from(event.succeeded).unwrap(), BATCH);
            assert!(event.item_outcomes().all(|outcome| outcome == ItemOutcome::Issued));
            handles.extend(event.handles.iter().map(hex::encode));
        }
        match (answer.code(), done) {
            (Code::Ok, Some(event)) => {
                let answer = v1::TokenizeResponse::decode(&*answer.message).unwrap();
                assert_eq!(answer.receipt.unwrap().sequence, event.sequence);
                ok += 1;
            }
            (Code::DeadlineExceeded, Some(_)) => late_and_done += 1,
            (Code::DeadlineExceeded, None) => late += 1,
            (code, done) => panic!("{code:?} with {}", done.is_some()),
        }
    }
    assert!(ok > 0 && late_and_done > 0 && late > 0, "{ok} {late_and_done} {late}");
    // Each that was written is there with all its items.
    let operator = server.client(&home.identity("operator")).await;
    for handles in handles.chunks(1000) {
        let request =
            v1::InspectTokensRequest { scope: "pan".to_owned(), handles: handles.to_vec(), ..Default::default() };
        let found = operator.tokens().inspect_tokens(request).await.unwrap().into_inner().results;
        assert!(found.into_iter().map(crate::harness::info).all(|info| info.is_ok()));
    }
    println!("D-08: {ok} done in time, {late_and_done} done and too late to be told, {late} not begun or not done");
    let plan = Plan { seed: Dice::seed(), callers: 16, calls: 200, stamp: Box::new(|| 0) };
    let ended = run(&home, &server, plan, || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    server.stop();
    println!("D-08: {}", kept(&home, home.serve_command(), &ended.promises).await);
}
