//! The door of the real server: what is agreed on in the handshake, health and reflection behind it, and how it closes.

use crate::harness::{Client, Home, Server, TRUST_DOMAIN, eventually, issued, item, texts};
use cloakroom::clock::SystemClock;
use cloakroom::proto::v1::{self, Action, Outcome};
use hyper::body::{Body, Bytes, Frame};
use prost::Message;
use rustls::NamedGroup;
use std::convert::Infallible;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tower::ServiceExt;

const SERVICES: [&str; 2] = ["cloakroom.v1.TokenService", "cloakroom.v1.AuditService"];

#[tokio::test(flavor = "multi_thread")]
async fn the_key_exchange_is_hybrid() {
    let home = Home::init();
    let server = home.serve();
    for name in ["gateway", "payments", "auditor", "operator"] {
        let client = server.client(&home.identity(name)).await;
        let groups: Vec<_> = client.connections().iter().map(|connection| connection.key_exchange).collect();
        assert_eq!(groups, [Some(NamedGroup::X25519MLKEM768)]);
    }
}

// === health and reflection ===

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_whoever_has_a_certificate() {
    let home = Home::init();
    let server = home.serve();
    let stranger = server.client(&home.authority().client(&format!("spiffe://{TRUST_DOMAIN}/stranger"))).await;
    let mut health = HealthClient::new(stranger.channel.clone());
    for service in SERVICES.into_iter().chain([""]) {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request.clone()).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
        let first = health.watch(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest { service: "nothing".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    let MessageResponse::ListServicesResponse(list) =
        reflect(&stranger, MessageRequest::ListServices(String::new())).await
    else {
        panic!("not a list")
    };
    let listed: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        assert!(listed.iter().any(|name| name == service), "{service} is not in {listed:?}");
        let symbol = MessageRequest::FileContainingSymbol(service.to_owned());
        let MessageResponse::FileDescriptorResponse(files) = reflect(&stranger, symbol).await else {
            panic!("no file for {service}")
        };
        let file = prost_types::FileDescriptorProto::decode(&files.file_descriptor_proto[0][..]).unwrap();
        let names: Vec<String> =
            file.service.iter().map(|found| format!("{}.{}", file.package(), found.name())).collect();
        assert!(names.iter().any(|name| name == service), "{names:?}");
    }
    // The operations listener tells the same, without a certificate, and nothing else.
    assert_eq!(server.get("/livez"), ("HTTP/1.1 200 OK".to_owned(), "alive\n".to_owned()));
    assert_eq!(server.get("/readyz"), ("HTTP/1.1 200 OK".to_owned(), "ready\n".to_owned()));
    assert_eq!(server.get("/").0, "HTTP/1.1 404 Not Found");
    // And none of it is in the log.
    let auditor = server.client(&home.identity("auditor")).await;
    let filter = v1::AuditFilter { caller: stranger.identity.id.clone(), ..Default::default() };
    assert_eq!(auditor.events(filter).await, []);
}

async fn reflect(client: &Client, request: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { message_request: Some(request), ..Default::default() };
    let mut reflection = ServerReflectionClient::new(client.channel.clone());
    let answer = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let first: ServerReflectionResponse = answer.into_inner().message().await.unwrap().unwrap();
    first.message_response.unwrap()
}

// === closing ===

/// A request's body that comes when the test says so.
struct Slow(mpsc::Receiver<Bytes>);

impl Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

/// A call as gRPC frames it.
fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &message].concat()
}

/// Calls Tokenize with a body that comes slowly, and gives the answer's message.
async fn tokenize_slowly(client: Client, parts: mpsc::Receiver<Bytes>) -> v1::TokenizeResponse {
    let request = http::Request::post("/cloakroom.v1.TokenService/Tokenize")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Slow(parts)))
        .unwrap();
    let answer = client.channel.clone().oneshot(request).await.unwrap();
    assert!(answer.headers().get("grpc-status").is_none(), "{:?}", answer.headers());
    let mut body = answer.into_body();
    let (mut bytes, mut status) = (Vec::new(), None);
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame.unwrap().into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => status = frame.into_trailers().unwrap().get("grpc-status").cloned(),
        }
    }
    assert_eq!(status.unwrap(), "0");
    v1::TokenizeResponse::decode(&bytes[5..]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_flight_finishes_after_sigterm_o_06() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    // An idle connection must not hold up the end.
    let _idle = server.client(&home.identity("payments")).await;

    let values: Vec<String> = (0..500).map(|number| format!("value {number}")).collect();
    let items = values.iter().map(|value| item(value.as_bytes())).collect();
    let request = framed(&v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() });
    let (early, late) = request.split_at(request.len() / 2);
    let (send, parts) = mpsc::channel(1);
    let call = tokio::spawn(tokenize_slowly(gateway.clone(), parts));
    send.send(Bytes::copy_from_slice(early)).await.unwrap();
    // Once the first half has been taken, the call's head is on its way; and once a later call on the same connection has
    // been answered, the vault has read that head.
    let place = send.reserve().await.unwrap();
    HealthClient::new(gateway.channel.clone()).check(HealthCheckRequest::default()).await.unwrap();

    server.terminate();
    let address = server.address;
    let closed = || async { TcpStream::connect(address).is_err().then_some(()) };
    eventually("the end of accepting", closed).await;
    place.send(Bytes::copy_from_slice(late));
    drop(send);
    let answer = call.await.unwrap();
    let tokens: Vec<String> = answer.results.into_iter().map(|result| issued(result).unwrap().token).collect();
    assert_eq!(tokens.len(), 500);
    let log = ends_well(server).await;
    assert!(!log.contains("did not end in time"), "{log}");

    let server = home.serve();
    let payments = server.client(&home.identity("payments")).await;
    let found = payments.detokenize("pan", &tokens).await.unwrap();
    assert!(found.into_iter().map(Result::unwrap).eq(values.into_iter().map(String::into_bytes)));
    let receipt = answer.receipt.unwrap();
    start_and_stop_are_recorded(&home, &server, receipt.sequence).await;
}

/// The last process recorded its start, the call, and its end, and this one its start.
async fn start_and_stop_are_recorded(home: &Home, server: &Server, call: u64) {
    let auditor = server.client(&home.identity("auditor")).await;
    let events = auditor.events(v1::AuditFilter::default()).await;
    let own = [Action::Start, Action::Stop];
    let found: Vec<_> = events.iter().filter(|event| own.contains(&event.action())).collect();
    let actions: Vec<_> = found.iter().map(|event| event.action()).collect();
    assert_eq!(actions, [Action::Start, Action::Stop, Action::Start]);
    assert!(found[0].sequence < call && call < found[1].sequence);
    for event in found {
        assert_eq!(
            (event.caller.clone(), event.outcome()),
            (format!("spiffe://{TRUST_DOMAIN}/vault"), Outcome::Allowed)
        );
        assert_eq!((event.node.as_str(), event.rulebook.len(), event.salt.len()), ("vault", 32, 16));
    }
    assert_eq!(events.last().map(v1::AuditEvent::action), Some(Action::Detokenize));
}

/// Waits for the end, which must be a success, and gives what was logged.
async fn ends_well(mut server: Server) -> String {
    let (status, log) =
        tokio::task::spawn_blocking(move || (server.child.wait().unwrap(), server.log())).await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_no_answer_o_06() {
    let home = Home::init();
    let server = home.serve();
    let done = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let client = server.client(&home.identity("gateway")).await;
        for _ in 0..4 {
            let (client, done) = (client.clone(), Arc::clone(&done));
            callers.spawn(async move {
                let mut tokens = Vec::new();
                loop {
                    let items = vec![item(b"4111111111111111"); 20];
                    let request = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
                    let Ok(answer) = client.tokens().tokenize(request).await else { return tokens };
                    let results = answer.into_inner().results;
                    tokens.push(results.into_iter().map(|result| issued(result).unwrap()).collect::<Vec<_>>());
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    }
    while done.load(Ordering::SeqCst) < 300 {
        tokio::task::yield_now().await;
    }
    server.terminate();
    let mut calls = Vec::new();
    while let Some(ended) = callers.join_next().await {
        calls.extend(ended.unwrap());
    }
    ends_well(server).await;
    let server = home.serve();
    let payments = server.client(&home.identity("payments")).await;
    for call in &calls {
        let found = payments.detokenize("pan", &texts(call)).await.unwrap();
        assert_eq!(found, vec![Ok(b"4111111111111111".to_vec()); 20]);
    }
    // And the other way round: what was committed was answered.
    let auditor = server.client(&home.identity("auditor")).await;
    let filter = v1::AuditFilter { action: Action::Tokenize.into(), ..Default::default() };
    assert_eq!(auditor.events(filter).await.len(), calls.len());
    println!("O-06: {} calls acknowledged before the end, all there after it", calls.len());
}

// === time ===

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: T-09 waits until a certificate expires"]
async fn a_certificate_that_expires_ends_what_its_connection_may_t_09() {
    let home = Home::init();
    let server = home.serve();
    let until = SystemClock::shared().wall().seconds() + 5;
    let gateway = format!("spiffe://{TRUST_DOMAIN}/gateway");
    let short = home.authority().client_with(&gateway, |params| {
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(until);
    });
    let client = server.client(&short).await;
    client.tokenize("pan", &[b"4111111111111111"]).await;
    let calls = AtomicUsize::new(0);
    let refused = || async {
        let request = v1::TokenizeRequest { scope: "pan".to_owned(), items: vec![item(b"x")], ..Default::default() };
        calls.fetch_add(1, Ordering::SeqCst);
        client.tokens().tokenize(request).await.err()
    };
    let status = eventually("the certificate's end", refused).await;
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "unauthenticated"));
    assert!(SystemClock::shared().wall().seconds() >= until);
    assert_eq!(client.connections().len(), 1);
    // What was turned away is counted, and nothing of it was done.
    server.stop();
    let server = home.serve();
    let auditor = server.client(&home.identity("auditor")).await;
    let events = auditor.events(v1::AuditFilter { caller: gateway, ..Default::default() }).await;
    let turned_away: Vec<_> = events.iter().filter(|event| event.reason == "CERTIFICATE_EXPIRED").collect();
    assert_eq!(turned_away.iter().map(|event| event.count).sum::<u64>(), 1);
    assert_eq!(events.len() - turned_away.len(), calls.load(Ordering::SeqCst));
}
