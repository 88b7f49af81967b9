//! Every rpc of ours, however it ends, leaves exactly one event that says who, what, when, from where, with which outcome
//! and by which rules.

use crate::harness::{Client, Home, item};
use cloakroom::proto::v1::{self, Action, Outcome};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tonic::{Code, Request, Status};

/// How a call is made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ok,
    Denied,
    BadArgument,
    Deadline,
}
use End::{BadArgument, Deadline, Denied};

const ENDS: [End; 4] = [End::Ok, Denied, BadArgument, Deadline];

/// Each rpc with the client that may call it, and its action.
const RPCS: [(&str, &str, Action); 12] = [
    ("Tokenize", "gateway", Action::Tokenize),
    ("Detokenize", "payments", Action::Detokenize),
    ("InspectTokens", "operator", Action::Inspect),
    ("RenewTokens", "operator", Action::Renew),
    ("RevokeTokens", "operator", Action::Revoke),
    ("StreamTokenize", "gateway", Action::Tokenize),
    ("StreamDetokenize", "payments", Action::Detokenize),
    ("QueryEvents", "auditor", Action::QueryAudit),
    ("TailEvents", "auditor", Action::QueryAudit),
    ("GetCheckpoint", "auditor", Action::QueryAudit),
    ("GetInclusionProof", "auditor", Action::QueryAudit),
    ("GetConsistencyProof", "auditor", Action::QueryAudit),
];

/// What a good request needs.
struct Prepared {
    token: String,
}

fn request<T>(message: T, end: End, trace: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01").parse().unwrap());
    if end == Deadline {
        request.set_timeout(Duration::from_nanos(1));
    }
    request
}

/// The first answer of a stream.
async fn first<T>(answer: Result<tonic::Response<tonic::Streaming<T>>, Status>) -> Result<(), Status> {
    answer?.into_inner().message().await?.map(drop).ok_or_else(|| Status::new(Code::DataLoss, "no answer"))
}

async fn of_tokens(rpc: &str, client: &Client, end: End, trace: &str, prepared: &Prepared) -> Result<(), Status> {
    let mut tokens = client.tokens();
    let scope = if end == BadArgument { "Not A Scope" } else { "pan" }.to_owned();
    let token = || vec![prepared.token.clone()];
    let tokenize =
        || v1::TokenizeRequest { scope: scope.clone(), items: vec![item(b"4111111111111111")], ..Default::default() };
    let detokenize = || v1::DetokenizeRequest {
        scope: scope.clone(),
        tokens: token(),
        purpose: "refund".to_owned(),
        ..Default::default()
    };
    match rpc {
        "Tokenize" => tokens.tokenize(request(tokenize(), end, trace)).await.map(drop),
        "Detokenize" => tokens.detokenize(request(detokenize(), end, trace)).await.map(drop),
        "InspectTokens" => {
            let message = v1::InspectTokensRequest { scope, tokens: token(), handles: vec![] };
            tokens.inspect_tokens(request(message, end, trace)).await.map(drop)
        }
        "RenewTokens" => {
            let message = v1::RenewTokensRequest { scope, tokens: token(), ..Default::default() };
            tokens.renew_tokens(request(message, end, trace)).await.map(drop)
        }
        // Of a token that nobody has: the others need theirs.
        "RevokeTokens" => {
            let handles = vec!["00".repeat(20)];
            let message = v1::RevokeTokensRequest { scope, handles, reason: "lost".to_owned(), ..Default::default() };
            tokens.revoke_tokens(request(message, end, trace)).await.map(drop)
        }
        "StreamTokenize" => {
            let messages = tokio_stream::iter([v1::StreamTokenizeRequest { batch: Some(tokenize()) }]);
            first(tokens.stream_tokenize(request(messages, end, trace)).await).await
        }
        "StreamDetokenize" => {
            let messages = tokio_stream::iter([v1::StreamDetokenizeRequest { batch: Some(detokenize()) }]);
            first(tokens.stream_detokenize(request(messages, end, trace)).await).await
        }
        _ => unreachable!("{rpc}"),
    }
}

async fn of_the_log(rpc: &str, client: &Client, end: End, trace: &str) -> Result<(), Status> {
    let mut audit = client.audit();
    let bad = end == BadArgument;
    let beyond = if bad { u64::MAX } else { 0 };
    match rpc {
        "QueryEvents" => {
            let message = v1::QueryEventsRequest { page_size: if bad { -1 } else { 1 }, ..Default::default() };
            audit.query_events(request(message, end, trace)).await.map(drop)
        }
        "TailEvents" => {
            let message = v1::TailEventsRequest { from_sequence: beyond, ..Default::default() };
            first(audit.tail_events(request(message, end, trace)).await).await
        }
        "GetCheckpoint" => audit.get_checkpoint(request(v1::GetCheckpointRequest {}, end, trace)).await.map(drop),
        "GetInclusionProof" => {
            let message = v1::GetInclusionProofRequest { sequence: beyond, tree_size: 0 };
            audit.get_inclusion_proof(request(message, end, trace)).await.map(drop)
        }
        "GetConsistencyProof" => {
            let message = v1::GetConsistencyProofRequest { from_size: beyond, to_size: 1 };
            audit.get_consistency_proof(request(message, end, trace)).await.map(drop)
        }
        _ => of_tokens(rpc, client, end, trace, &Prepared { token: String::new() }).await,
    }
}

#[tokio::test]
async fn every_rpc_leaves_one_event_however_it_ends_a_09() {
    let home = Home::init();
    let server = home.serve();
    let auditor = server.client(&home.identity("auditor")).await;
    let gateway = server.client(&home.identity("gateway")).await;
    let prepared = Prepared { token: gateway.tokenize("pan", &[b"4111111111111111"]).await[0].token.clone() };
    let mut made = Vec::new();
    for (number, ((rpc, who, action), end)) in RPCS.iter().flat_map(|rpc| ENDS.map(|end| (*rpc, end))).enumerate() {
        // A checkpoint takes no argument that could be bad.
        if (rpc, end) == ("GetCheckpoint", BadArgument) {
            continue;
        }
        let trace = format!("{:032x}", 0xa09_0000 + number);
        // A connection of its own for each: what one leaves behind is nothing to the next.
        let client = match end {
            // Each another one: a caller's refusals beyond a rate are only counted.
            Denied => {
                let stranger = format!("spiffe://dev.cloakroom.internal/stranger-{number}");
                server.client(&home.authority().client(&stranger)).await
            }
            _ => server.client(&home.identity(who)).await,
        };
        let outcome = match action {
            Action::QueryAudit => of_the_log(rpc, &client, end, &trace).await,
            _ => of_tokens(rpc, &client, end, &trace, &prepared).await,
        };
        let code = outcome.map_or_else(|status| status.code(), |()| Code::Ok);
        let fits = match end {
            End::Ok => code == Code::Ok,
            Denied => code == Code::PermissionDenied,
            BadArgument => matches!(code, Code::InvalidArgument | Code::NotFound),
            // The client's own clock may be the first to say so.
            Deadline => matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        };
        assert!(fits, "{rpc} {end:?}: {code:?}");
        made.push((trace, rpc, action, end));
    }
    for (trace, rpc, action, end) in &made {
        let events = until_recorded(&auditor, trace, *end).await;
        let what = format!("{rpc} {end:?}");
        let [event] = &events[..] else {
            // The connection may have been given up before the request was on its way.
            assert!(*end == Deadline && events.is_empty(), "{what}: {} events", events.len());
            continue;
        };
        let outcome = match end {
            End::Ok => Outcome::Allowed,
            Denied => Outcome::Denied,
            BadArgument => Outcome::Failed,
            // Done just in time, if there was no time to be late.
            Deadline => event.outcome(),
        };
        assert_eq!((event.action(), event.outcome()), (*action, outcome), "{what}");
        assert!(event.caller.starts_with("spiffe://dev.cloakroom.internal/"), "{what}: who");
        assert!(
            event.time.is_some() && !event.peer_address.is_empty() && !event.node.is_empty(),
            "{what}: when, where"
        );
        assert_eq!((event.certificate_sha256.len(), event.salt.len()), (32, 16), "{what}");
        let decided = matches!(end, End::Ok | Denied);
        assert!(!decided || event.rulebook.len() == 32, "{what}: by which rules");
    }
    let rpcs: BTreeSet<&str> = made.iter().map(|(_, rpc, ..)| *rpc).collect();
    assert_eq!(rpcs.len(), RPCS.len());
    println!("coverage: {} calls, each with its event", made.len());
}

/// An rpc without a row here would go unseen.
#[test]
fn every_audited_rpc_is_called_a_09() {
    use cloakroom::grpc::methods::{METHODS, Resource};
    let audited = METHODS.iter().filter(|method| method.resource != Resource::None);
    let offered: BTreeSet<&str> = audited.map(|method| method.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(offered, RPCS.iter().map(|(rpc, ..)| *rpc).collect());
}

/// What is no message has no event of its own, and none is lost: counted, by caller and by what was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_read_is_counted_a_09() {
    use cloakroom::grpc::methods::{METHODS, Resource};
    let home = Home::init();
    let server = home.serve();
    let stranger = server.client(&home.authority().client("spiffe://dev.cloakroom.internal/stranger")).await;
    let mut sent = BTreeMap::new();
    for method in METHODS {
        let too_long = {
            let mut framed = crate::frames::framed(b"");
            framed[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
            framed
        };
        let mut compressed = crate::frames::framed(b"");
        compressed[0] = 1;
        // A field with a length that ends behind the message.
        let torn = crate::frames::framed(b"\x0a\x7f");
        for (body, headers) in [(torn, None), (too_long, None), (compressed, Some(("grpc-encoding", "gzip")))] {
            let headers: Vec<_> = headers.into_iter().collect();
            let answer = crate::frames::call(&stranger, method.path, &headers, body).await.unwrap();
            let reason = match answer.code() {
                Code::InvalidArgument => "MALFORMED_REQUEST",
                Code::Unimplemented => "NOT_IMPLEMENTED",
                // Health and reflection are the transport's own, and are not audited.
                _ if method.resource == Resource::None => continue,
                // GetCheckpoint has no fields: whatever stands there is skipped, and policy answers.
                Code::PermissionDenied => continue,
                other => panic!("{} {other:?}", method.path),
            };
            if method.resource != Resource::None {
                *sent.entry((i32::from(v1_action(method.action)), reason)).or_insert(0) += 1;
            }
        }
    }
    server.stop();
    let server = home.serve();
    let auditor = server.client(&home.identity("auditor")).await;
    let filter = v1::AuditFilter { caller: stranger.identity.id.clone(), ..Default::default() };
    let mut counted = BTreeMap::new();
    for event in auditor.events(filter).await.into_iter().filter(|event| event.count > 0) {
        assert!(event.first_time.is_some() && event.rulebook.len() == 32);
        let reason = if event.reason == "NOT_IMPLEMENTED" { "NOT_IMPLEMENTED" } else { "MALFORMED_REQUEST" };
        assert_eq!(event.reason, reason);
        *counted.entry((event.action, reason)).or_insert(0) += event.count;
    }
    assert_eq!(counted, sent);
    let gateway = server.client(&home.identity("gateway")).await;
    gateway.tokenize("pan", &[b"4111111111111111"]).await;
    println!("coverage: {} messages that are none, all counted", sent.values().sum::<u64>());
    server.stop();
}

fn v1_action(action: cloakroom::event::Action) -> Action {
    Action::try_from(i32::from(action)).unwrap()
}

/// A deadline that has passed before the vault has looked: one event or one count for each call, whatever came first.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_deadline_has_passed_is_recorded_or_counted_a_09() {
    use cloakroom::grpc::methods::{METHODS, Resource};
    const EACH: usize = 10;
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let audited: Vec<_> = METHODS.iter().filter(|method| method.resource != Resource::None).collect();
    let mut calls = BTreeMap::new();
    for method in &audited {
        for place in 0..EACH {
            // Frames of the test's own: a client's library would give the call up by itself.
            let mut line = crate::frames::Line::open(&server, &gateway.identity).await;
            let unit = ["n", "u", "m"][place % 3];
            let headers = [("grpc-timeout", format!("1{unit}"))];
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            // A message whose every field has its default: refused, by policy or by its shape.
            line.call(1, method.path, &headers, &crate::frames::framed(b"")).await;
            while line.next_of(1).await.expect("it is answered").kind != crate::frames::HEADERS {}
            *calls.entry(i32::from(v1_action(method.action))).or_insert(0) += 1;
        }
    }
    server.stop();
    let server = home.serve();
    let auditor = server.client(&home.identity("auditor")).await;
    let mut found = BTreeMap::new();
    let (mut late, mut others) = (0, 0);
    for event in auditor.events(v1::AuditFilter { caller: gateway.identity.id.clone(), ..Default::default() }).await {
        *found.entry(event.action).or_insert(0) += event.count.max(1);
        if event.reason == "DEADLINE_EXCEEDED" { late += event.count.max(1) } else { others += event.count.max(1) }
    }
    assert_eq!(found, calls);
    server.client(&home.identity("gateway")).await.tokenize("pan", &[b"4111111111111111"]).await;
    println!("coverage: {} calls too late, {late} of them before policy, {others} refused just in time", late + others);
    server.stop();
}

/// The events of a trace. One that is still being written when its caller has gone is waited for.
async fn until_recorded(auditor: &Client, trace: &str, end: End) -> Vec<v1::AuditEvent> {
    let filter = || v1::AuditFilter { trace_id: trace.to_owned(), ..Default::default() };
    let mut events = auditor.events(filter()).await;
    // Asked again a bounded number of times: each question is itself behind what was sent before it.
    for _ in 0..20 {
        if end != Deadline || !events.is_empty() {
            break;
        }
        events = auditor.events(filter()).await;
    }
    events
}
