//! Z-10: what else can be reached, by whom, and what it tells. Nothing is administered over the wire, and the one listener
//! without certificates tells numbers.

use crate::frames::{self, framed};
use crate::harness::{Client, Home, Server, TRUST_DOMAIN, item, texts};
use cloakroom::proto::v1::{self, Action, Outcome};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tonic::Code;

/// Where other servers keep what only operators may touch.
const ELSEWHERE: [&str; 22] = [
    "/cloakroom.v1.AdminService/Seal",
    "/cloakroom.v1.AdminService/Unseal",
    "/cloakroom.v1.AdminService/RotateKeys",
    "/cloakroom.v1.AdminService/ShredScope",
    "/cloakroom.v1.AdminService/ReloadConfig",
    "/cloakroom.v1.AdminService/CreateBackup",
    "/cloakroom.v1.AdminService/GetStatus",
    "/cloakroom.v1.TokenService/Export",
    "/cloakroom.v1.TokenService/detokenize",
    "/cloakroom.v1.TokenService/Detokenize/",
    "//cloakroom.v1.TokenService/Detokenize",
    "/cloakroom.v1.tokenservice/Detokenize",
    "/cloakroom.v1.TokenService/Detokenize%2f",
    "/cloakroom.v2.TokenService/Detokenize",
    "/grpc.channelz.v1.Channelz/GetServers",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/metrics",
    "/livez",
    "/debug/pprof/heap",
    "/v1/sys/seal",
    "/admin",
    "/",
];

/// One request to the listener for probes, as it is; all of the answer. `ends`: nothing more will come, and the vault
/// should know it.
fn raw(address: SocketAddr, request: &[u8], ends: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    if ends {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let mut answer = Vec::new();
    // It may be reset: then there is no answer.
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn status_line(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).lines().next().unwrap_or_default().to_owned()
}

/// Everything that must not be among the numbers.
struct Secrets(Vec<String>);

/// Some of everything: values in and out, refusals of every kind, questions, strangers at the door.
async fn traffic(home: &Home, server: &Server) -> Secrets {
    // With the colon: reasons of refused handshakes, which are constants, may speak of SPIFFE IDs.
    let mut secrets: Vec<String> = ["4111111111111111", "078-05-1120", "refund4711", "POLICY", "spiffe:", TRUST_DOMAIN]
        .into_iter()
        .map(str::to_owned)
        .collect();
    // Names of scopes, roles, policies and callers.
    let names =
        ["pan", "ssn", "email", "gateway", "payments", "auditor", "operator", "nosuch", "127.0.0.1", "stranger"];
    secrets.extend(names.map(str::to_owned));
    let gateway = server.client(&home.identity("gateway")).await;
    let payments = server.client(&home.identity("payments")).await;
    let issued = gateway.tokenize("pan", &[b"4111111111111111", b"078-05-1120"]).await;
    let tokens = texts(&issued);
    secrets.extend(tokens.iter().cloned());
    secrets.extend(tokens.iter().map(|token| token[4..].to_owned()));
    secrets.extend(issued.iter().map(|issued| issued.handle.clone()));
    payments.detokenize("pan", &tokens).await.unwrap();
    payments.detokenize("nosuch", &tokens).await.unwrap_err();
    gateway.detokenize("pan", &tokens).await.unwrap_err();
    let stranger = server.client(&home.authority().client(&format!("spiffe://{TRUST_DOMAIN}/stranger"))).await;
    stranger.detokenize("pan", &tokens).await.unwrap_err();
    let auditor = server.client(&home.identity("auditor")).await;
    auditor.events(v1::AuditFilter::default()).await;
    knock(server, &home.nobody()).await;
    Secrets(secrets)
}

/// Somebody at the door who must not come in. How many connections that took.
async fn knock(server: &Server, identity: &crate::harness::Identity) -> u64 {
    let client = server.connect(identity).await.unwrap();
    let request = v1::TokenizeRequest { scope: "pan".to_owned(), items: vec![item(b"x")], ..Default::default() };
    assert!(client.tokens().tokenize(request).await.is_err());
    client.connections().len() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_without_certificates_tells_numbers_and_takes_no_orders_z_10() {
    let home = Home::init();
    let server = home.serve();
    let secrets = traffic(&home, &server).await;
    let events_before = events(&home, &server).await.len();
    // Three pages, and one answer to everything else, whatever is asked and how.
    let nothing = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer).into_owned();
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    };
    let not_there = "there are /livez, /readyz and /metrics\n";
    let mut asked = 0;
    for path in ELSEWHERE.into_iter().filter(|path| !["/metrics", "/livez"].contains(path)) {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nhost: vault\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            let answer = raw(server.operations, request.as_bytes(), false);
            assert_eq!(status_line(&answer), "HTTP/1.1 404 Not Found", "{method} {path}");
            assert_eq!(nothing(&answer), not_there, "{method} {path}");
            asked += 1;
        }
    }
    for path in ["/metrics", "/livez", "/readyz"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nhost: vault\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            let answer = raw(server.operations, request.as_bytes(), false);
            assert_eq!(status_line(&answer), "HTTP/1.1 404 Not Found", "{method} {path}");
            asked += 1;
        }
    }
    // Neither gRPC nor TLS is spoken there.
    for greeting in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], b"\x16\x03\x01\0\x05\x01\0\0\x01\0"]
    {
        let answer = raw(server.operations, greeting, true);
        assert!(!status_line(&answer).contains(" 200"), "{}", status_line(&answer));
    }
    // What the numbers are called, and whatever they are told apart by, comes from this closed list.
    let (_, metrics) = server.get("/metrics");
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        assert!(name.starts_with("cloakroom_"), "{line}");
        let Some((inside, _)) = rest.split_once('}').filter(|_| line.contains('{')) else { continue };
        for label in inside.split(',') {
            let (label, value) = label.split_once('=').unwrap();
            labels.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
        }
    }
    let known = ["code", "directory", "le", "method", "of", "quantile", "reason", "table", "version"];
    assert!(labels.keys().all(|label| known.contains(&label.as_str())), "{labels:?}");
    let is_harmless = |value: &String| value.chars().all(|c| c.is_ascii_alphanumeric() || "./_+-".contains(c));
    assert!(labels.values().flatten().all(is_harmless), "{labels:?}");
    for secret in &secrets.0 {
        let shown = [server.get("/metrics").1, server.get("/livez").1, server.get("/readyz").1, not_there.to_owned()];
        assert!(shown.iter().all(|page| !page.contains(secret.as_str())), "{secret} is shown");
    }
    // The search can find something.
    assert!(metrics.contains("/cloakroom.v1.TokenService/Detokenize") && metrics.contains("no_client_certificate"));
    // It does not stand on all addresses unless somebody wants that, and asking it leaves nothing in the log.
    assert!(home.read("cloakroom.toml").contains("[operations]") && server.operations.ip().is_loopback());
    let after = events(&home, &server).await;
    assert_eq!(after.iter().filter(|event| event.action() != Action::QueryAudit && event.count == 0).count(), {
        let before = &after[..events_before];
        before.iter().filter(|event| event.action() != Action::QueryAudit && event.count == 0).count()
    });
    println!("Z-10: {asked} requests refused, {} labels, {} secrets looked for", labels.len(), secrets.0.len());
    server.stop();
}

/// A hang is a failure: far more than a probe takes, far less than until those who say nothing are closed for it.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn whoever_connects_and_says_nothing_keeps_no_probe_out_d_01() {
    let home = Home::init();
    let server = home.serve();
    let idle: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(server.operations).unwrap()).collect();
    let mut probe = TcpStream::connect(server.operations).unwrap();
    probe.set_read_timeout(Some(PATIENCE)).unwrap();
    probe.write_all(b"GET /readyz HTTP/1.1\r\nhost: vault\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).expect("the probe is answered while all others say nothing");
    assert!(answer.ends_with("\r\n\r\nready\n"), "{answer}");
    drop(idle);
    assert_eq!(server.get("/livez").1, "alive\n");
    server.stop();
}

/// One that takes its time is cut off for those who wait beside it, and not for those who have gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_probe_is_not_cut_off_for_those_that_are_done_d_01() {
    let home = Home::init();
    let server = home.serve();
    let mut slow = TcpStream::connect(server.operations).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(b"GET /readyz HTTP/1.1\r\nhost: vault\r\n").unwrap();
    for _ in 0..200 {
        assert_eq!(server.get("/livez").1, "alive\n");
    }
    slow.write_all(b"connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.ends_with("\r\n\r\nready\n"), "{answer}");
    server.stop();
}

async fn events(home: &Home, server: &Server) -> Vec<v1::AuditEvent> {
    server.client(&home.identity("auditor")).await.events(v1::AuditFilter::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_method_is_refused_for_everyone_and_counted_z_10() {
    let home = Home::init();
    let server = home.serve();
    let mut tried: BTreeMap<String, u64> = BTreeMap::new();
    let mut answers = BTreeSet::new();
    for name in ["gateway", "auditor", "operator"] {
        let client = server.client(&home.identity(name)).await;
        for path in ELSEWHERE {
            let answer = frames::call(&client, path, &[], framed(b"")).await.unwrap();
            assert_eq!(answer.code(), Code::Unimplemented, "{name} {path}");
            assert!(answer.pieces.concat().is_empty(), "{name} {path}");
            let headers: Vec<_> = answer.headers.into_iter().filter(|(name, _)| name != "date").collect();
            answers.insert((answer.http_status, headers));
            *tried.entry(client.identity.id.clone()).or_default() += 1;
        }
    }
    assert_eq!(answers.len(), 1, "one answer, whoever asks for what");
    // Without a certificate nobody gets that far.
    let knocks = knock(&server, &home.nobody()).await;
    server.stop();
    let server = home.serve();
    let events = events(&home, &server).await;
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    let mut at_the_door = 0;
    for event in events.iter().filter(|event| event.action() == Action::Connect) {
        assert_eq!(event.outcome(), Outcome::Denied);
        match event.reason.as_str() {
            "NOT_IMPLEMENTED" => *counted.entry(event.caller.clone()).or_default() += event.count,
            "no_client_certificate" => at_the_door += event.count,
            other => panic!("{other}"),
        }
    }
    assert_eq!((counted, at_the_door), (tried, knocks));
    // What is offered is still there for who may.
    let gateway: Client = server.client(&home.identity("gateway")).await;
    gateway.tokenize("pan", &[b"4111111111111111"]).await;
    println!("Z-10: {} paths that are no methods, 3 callers, {knocks} without a certificate", ELSEWHERE.len());
    server.stop();
}
