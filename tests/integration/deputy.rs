//! Z-05: whoever writes another's name into a call's metadata is nobody else for it. Identity is the connection's
//! certificate, and nothing that a caller can write.

use crate::frames::{self, Line, framed};
use crate::harness::{Client, Home, Identity, Refusal, Server, TRUST_DOMAIN, item, texts};
use cloakroom::event::Action as EventAction;
use cloakroom::grpc::methods::{self, Resource};
use cloakroom::proto::v1::{self, Outcome};
use prost::Message;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::Code;

/// What a gateway or a mesh in front would write, and what somebody might hope that the vault reads. `{id}`, `{pem}` and
/// `{sha256}` are those whom the caller would like to be.
const FORGED: [(&str, &str); 33] = [
    ("x-forwarded-client-cert", "By=spiffe://dev.cloakroom.internal/vault;Hash={sha256};URI={id}"),
    ("x-forwarded-client-cert", "Hash={sha256};Subject=\"\";URI={id};Cert=\"{pem}\""),
    ("x-forwarded-client-cert-bin", "{id-bin}"),
    ("x-spiffe-id", "{id}"),
    ("x-spiffe-id-bin", "{id-bin}"),
    ("spiffe-id", "{id}"),
    ("authorization", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ7aWR9In0."),
    ("authorization", "Bearer {id}"),
    ("authorization", "SPIFFE {id}"),
    ("authorization-bin", "{id-bin}"),
    ("proxy-authorization", "Bearer {id}"),
    ("forwarded", "for=192.0.2.1;by=192.0.2.2;host=vault;proto=https"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-real-ip", "192.0.2.1"),
    ("x-forwarded-user", "{id}"),
    ("x-remote-user", "{id}"),
    ("remote-user", "{id}"),
    ("x-authenticated-user", "{id}"),
    ("x-on-behalf-of", "{id}"),
    ("on-behalf-of", "{id}"),
    ("impersonate-user", "{id}"),
    ("x-client-cert", "{pem}"),
    ("x-ssl-client-cert", "{pem}"),
    ("x-ssl-client-verify", "SUCCESS"),
    ("ssl-client-s-dn", "CN={id}"),
    ("x-amzn-mtls-clientcert", "{pem}"),
    ("client-cert", ":{sha256}:"),
    ("dpop", "{id}"),
    ("caller", "{id}"),
    ("caller-bin", "{id-bin}"),
    ("grpc-caller", "{id}"),
    ("x-cloakroom-caller", "{id}"),
    // The vault's own mark on statuses that it has made.
    ("cloakroom-made", "1"),
];

static CALLS: AtomicU64 = AtomicU64::new(1);

/// A good call of each method.
pub fn message_of(path: &str, tokens: &[String]) -> Vec<u8> {
    let (scope, tokens) = ("pan".to_owned(), tokens.to_vec());
    let purpose = "refund".to_owned();
    let tokenize = v1::TokenizeRequest { scope: scope.clone(), items: vec![item(b"4111")], ..Default::default() };
    let detokenize =
        v1::DetokenizeRequest { scope: scope.clone(), tokens: tokens.clone(), purpose, ..Default::default() };
    match path.rsplit('/').next().unwrap() {
        "Tokenize" => tokenize.encode_to_vec(),
        "Detokenize" => detokenize.encode_to_vec(),
        "InspectTokens" => v1::InspectTokensRequest { scope, tokens, handles: vec![] }.encode_to_vec(),
        "RenewTokens" => v1::RenewTokensRequest { scope, tokens, ..Default::default() }.encode_to_vec(),
        // A token that nobody has: the others need theirs.
        "RevokeTokens" => {
            v1::RevokeTokensRequest { scope, handles: vec!["00".repeat(20)], ..Default::default() }.encode_to_vec()
        }
        "StreamTokenize" => v1::StreamTokenizeRequest { batch: Some(tokenize) }.encode_to_vec(),
        "StreamDetokenize" => v1::StreamDetokenizeRequest { batch: Some(detokenize) }.encode_to_vec(),
        "ServerReflectionInfo" => {
            use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};
            let message_request = Some(MessageRequest::ListServices(String::new()));
            ServerReflectionRequest { message_request, ..Default::default() }.encode_to_vec()
        }
        // All fields at their defaults.
        _ => Vec::new(),
    }
}

/// Who may call it, by the sample's policies.
pub fn permitted(action: EventAction) -> &'static str {
    match action {
        EventAction::Tokenize => "gateway",
        EventAction::Detokenize => "payments",
        EventAction::QueryAudit => "auditor",
        _ => "operator",
    }
}

/// The metadata of somebody who would like to be `wanted`.
fn forged(wanted: &Identity) -> Vec<(String, String)> {
    let pem = std::fs::read_to_string(&wanted.files.as_ref().unwrap().0).unwrap();
    let pem: String = pem.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("%0A");
    let binary = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &wanted.id);
    let fill = |value: &str| {
        let value = value.replace("{id-bin}", &binary).replace("{id}", &wanted.id).replace("{pem}", &pem);
        value.replace("{sha256}", &hex::encode(&wanted.certificate_sha256))
    };
    FORGED.iter().map(|(name, value)| ((*name).to_owned(), fill(value))).collect()
}

/// Calls `path` with these headers. The code, and the trace id by which its events are found. Of what never ends by itself
/// the first message is the answer.
async fn call(client: &Client, path: &str, headers: &[(String, String)], tokens: &[String]) -> (Code, String) {
    let trace = format!("{:032x}", 0x205_0000 + CALLS.fetch_add(1, Ordering::Relaxed));
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let mut all: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    all.push(("traceparent", &parent));
    let body = framed(&message_of(path, tokens));
    let endless = path.ends_with("/Watch") || path.ends_with("/TailEvents");
    if !endless {
        return (frames::call(client, path, &all, body).await.unwrap().code(), trace);
    }
    let answer = frames::begin(client, path, &all, body).await.unwrap();
    (if answer.pieces.is_empty() { answer.code() } else { Code::Ok }, trace)
}

async fn event_of(auditor: &Client, trace: &str) -> v1::AuditEvent {
    let filter = v1::AuditFilter { trace_id: trace.to_owned(), ..Default::default() };
    let mut events = auditor.events(filter).await;
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn is_of(event: &v1::AuditEvent, client: &Client, what: &str) {
    assert_eq!(event.caller, client.identity.id, "{what}");
    assert_eq!(event.certificate_sha256, client.identity.certificate_sha256, "{what}");
    assert_eq!(event.peer_address, client.peer(), "{what}");
    assert!(event.access_token.is_none(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_metadata_says_the_caller_is_whom_the_certificate_names_z_05() {
    let home = Home::init();
    let server = home.serve();
    let auditor = server.client(&home.identity("auditor")).await;
    let gateway = server.client(&home.identity("gateway")).await;
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    let (mut refused, mut served) = (0, 0);
    for (number, method) in methods::METHODS.iter().enumerate() {
        let (path, open) = (method.path, method.resource == Resource::None);
        let may = home.identity(permitted(method.action));
        // Each another one: a caller's refusals beyond a rate are only counted.
        let stranger = home.authority().client(&format!("spiffe://{TRUST_DOMAIN}/stranger-{number}"));
        // Who may not does not become one who may,
        let client = server.client(&stranger).await;
        let (plain, _) = call(&client, path, &[], &tokens).await;
        let (code, trace) = call(&client, path, &forged(&may), &tokens).await;
        assert_eq!(code, plain, "{path}");
        assert_eq!(code, if open { Code::Ok } else { Code::PermissionDenied }, "{path}");
        if !open {
            let event = event_of(&auditor, &trace).await;
            is_of(&event, &client, path);
            assert_eq!((event.outcome(), event.reason.as_str()), (Outcome::Denied, "POLICY_DENIED"), "{path}");
            refused += 1;
        }
        // and who may does not become one who may not.
        let client = server.client(&may).await;
        let (code, trace) = call(&client, path, &forged(&stranger), &tokens).await;
        assert_eq!(code, Code::Ok, "{path}");
        if !open {
            let event = event_of(&auditor, &trace).await;
            is_of(&event, &client, path);
            assert_eq!(event.outcome(), Outcome::Allowed, "{path}");
            served += 1;
        }
    }
    // A service that may, relaying a token for one who may not, is the one who answers for it.
    let payments = server.client(&home.identity("payments")).await;
    let behalf = [("x-on-behalf-of".to_owned(), gateway.identity.id.clone())];
    let (code, trace) = call(&payments, "/cloakroom.v1.TokenService/Detokenize", &behalf, &tokens).await;
    assert_eq!(code, Code::Ok);
    is_of(&event_of(&auditor, &trace).await, &payments, "a relayed call");
    assert_eq!(Refusal::of(&detokenize(&gateway, &tokens).await).code, Code::PermissionDenied);
    assert!(payments.detokenize("pan", &tokens).await.unwrap()[0].is_ok());
    println!("Z-05: {refused} methods refused, {served} served, {} forged headers on each", FORGED.len());
    server.stop();
}

async fn detokenize(client: &Client, tokens: &[String]) -> tonic::Status {
    let body = framed(&message_of("/Detokenize", tokens));
    frames::call(client, "/cloakroom.v1.TokenService/Detokenize", &[], body).await.unwrap().status()
}

/// How the vault ends a call that HTTP/2 does not allow.
async fn end_of(server: &Server, identity: &Identity, headers: &[(&str, &str)], body: &[u8]) -> &'static str {
    let mut line = Line::open(server, identity).await;
    line.call(1, "/cloakroom.v1.TokenService/Detokenize", headers, body).await;
    loop {
        match line.next_of(1).await {
            Some(frame) if frame.kind == frames::RST_STREAM => return "reset",
            Some(frame) if frame.kind == frames::GOAWAY => return "goaway",
            Some(frame) if frame.kind == frames::HEADERS => return "answered",
            Some(_) => {}
            None => return "closed",
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_http_2_forbids_are_refused_and_never_read_z_05() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let payments = home.identity("payments");
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    let body = framed(&message_of("/Detokenize", &tokens));
    let id = payments.id.as_str();
    let forbidden: [&[(&str, &str)]; 6] = [
        &[("X-SPIFFE-ID", id)],
        &[("X-Forwarded-Client-Cert", id)],
        &[("Authorization", "Bearer x")],
        &[("Grpc-Caller-Bin", "eA==")],
        &[("connection", "x-spiffe-id"), ("x-spiffe-id", id)],
        // A second path, behind the first.
        &[(":path", "/cloakroom.v1.TokenService/Tokenize")],
    ];
    for headers in forbidden {
        let end = end_of(&server, &gateway.identity, headers, &body).await;
        assert!(["reset", "goaway", "closed"].contains(&end), "{headers:?}: {end}");
        // Even one who may is not served that way.
        let end = end_of(&server, &payments, headers, &body).await;
        assert!(["reset", "goaway", "closed"].contains(&end), "{headers:?}: {end}");
    }
    // The same frames without what is forbidden are answered, so it is that which ends them.
    assert_eq!(end_of(&server, &payments, &[("x-spiffe-id", id)], &body).await, "answered");
    let auditor = server.client(&home.identity("auditor")).await;
    let events = auditor.events(v1::AuditFilter { action: v1::Action::Detokenize.into(), ..Default::default() }).await;
    assert_eq!(events.iter().map(|event| event.caller.as_str()).collect::<Vec<_>>(), [id], "nobody else was heard");
    assert!(server.client(&payments).await.detokenize("pan", &tokens).await.unwrap()[0].is_ok());
    println!("Z-05: {} spellings that HTTP/2 forbids, for two callers", forbidden.len());
    server.stop();
}
