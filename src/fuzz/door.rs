//! Calls, from the bytes of their message to the status: framing, protobuf, conversion, policy, the vault over rows in
//! memory, and back. Only TLS and HTTP/2 are not there.

pub(super) mod seeds;

use super::{Input, chosen};
use crate::clock::Clock;
use crate::grpc::{AuditDoor, Guard, MESSAGE_BYTES_AT_MOST, TokenDoor};
use crate::proto::v1;
use crate::proto::v1::audit_service_server::AuditServiceServer;
use crate::proto::v1::token_service_server::TokenServiceServer;
use crate::tls::Connection;
use crate::vault::fixture::{Fixture, caller, item, lasting, limited};
use http::{HeaderMap, Request};
use http_body_util::Full;
use hyper::body::Body as _;
use prost::Message;
use prost::bytes::Bytes;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt};

/// After so many calls a vault is checked, its log against its rows, and another takes its place.
const CALLS: u32 = 300;
/// Who calls: the first has every right, the last has none.
const CALLERS: [&str; 5] = ["tester", "gateway", "payments", "auditor", "stranger"];
/// In a request, what stands for the token or handle of this number that the vault has issued.
const TOKEN: &str = "token-";
const HANDLE: &str = "handle-";

const TOKENS: &str = "/cloakroom.v1.TokenService/";
const AUDIT: &str = "/cloakroom.v1.AuditService/";

type Service = BoxCloneService<Request<Body>, http::Response<Body>, std::convert::Infallible>;

/// A vault and its door.
struct Door {
    runtime: Runtime,
    fixture: Fixture,
    tokens: Service,
    audit: Service,
    /// Of several scopes, in several states.
    issued: Vec<(String, String)>,
    calls: u32,
    /// Ends every stream that is open.
    _stop: watch::Sender<bool>,
}

thread_local! {
    static DOOR: RefCell<Option<Door>> = const { RefCell::new(None) };
}

/// What a call came to.
struct Answered {
    status: Status,
    messages: Vec<Vec<u8>>,
}

impl Door {
    fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let fixture = Fixture::new();
        let clock = Arc::clone(&fixture.site.clock) as Arc<dyn Clock>;
        // A stream that waits for what comes next would be waited for: each ends once it has nothing at hand.
        let (stop, stopped) = watch::channel(true);
        let guard = Guard::new(Arc::clone(&fixture.vault), Arc::clone(&clock));
        let tokens = TokenServiceServer::new(TokenDoor::new(
            Arc::clone(&fixture.vault),
            Arc::clone(&clock),
            watch::channel(false).1,
        ))
        .max_decoding_message_size(MESSAGE_BYTES_AT_MOST)
        .max_encoding_message_size(MESSAGE_BYTES_AT_MOST);
        let audit = AuditServiceServer::new(AuditDoor::new(Arc::clone(&fixture.vault), clock, stopped))
            .max_decoding_message_size(MESSAGE_BYTES_AT_MOST)
            .max_encoding_message_size(MESSAGE_BYTES_AT_MOST);
        let issued = runtime.block_on(issue(&fixture));
        Self {
            tokens: BoxCloneService::new(guard.layer(tokens)),
            audit: BoxCloneService::new(guard.layer(audit)),
            runtime,
            fixture,
            issued,
            calls: 0,
            _stop: stop,
        }
    }

    fn close(self) {
        let Self { runtime, fixture, tokens, audit, .. } = self;
        drop((tokens, audit));
        runtime.block_on(fixture.vault.idle());
        runtime.block_on(fixture.vault.record_refusals()).unwrap();
        drop(runtime);
        fixture.check();
    }

    fn call(&self, who: u8, path: &str, head: &HeaderMap, body: Vec<u8>) -> Answered {
        let caller = Arc::new(caller(CALLERS[usize::from(who) % CALLERS.len()]));
        let mut request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
        for (name, value) in head {
            request = request.header(name, value);
        }
        let connection = Arc::new(Connection::new(caller, [7; 32], "X25519MLKEM768", Arc::default()));
        let request = request.extension(connection).body(Body::new(Full::new(Bytes::from(body)))).unwrap();
        let service = if path.starts_with(AUDIT) { self.audit.clone() } else { self.tokens.clone() };
        self.runtime.block_on(async move {
            let Ok(response) = service.oneshot(request).await;
            let (head, mut body) = response.into_parts();
            let (mut frames, mut status) = (Vec::new(), Status::from_header_map(&head.headers));
            while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                match frame.expect("a body in memory does not break").into_data() {
                    Ok(data) => frames.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().expect("data or trailers");
                        status = Status::from_header_map(&trailers);
                    }
                }
            }
            Answered { status: status.expect("every call has a status"), messages: unframed(&frames) }
        })
    }
}

async fn issue(fixture: &Fixture) -> Vec<(String, String)> {
    let tester = fixture.tester();
    let mut issued = Vec::new();
    for scope in ["pan", "ssn", "acme/note"] {
        let items = vec![
            item(b"4111111111111111"),
            limited(b"5500005555555559", 1),
            lasting(b"340000000000009", Duration::from_mins(5)),
            limited(b"30000000000004", 3),
        ];
        issued.extend(tester.issue_all(scope, items).await);
    }
    // One is revoked.
    tester.revoke("pan", &[&issued[3].token], &[]).await.unwrap();
    issued.into_iter().map(|one| (one.token, hex::encode(one.handle.as_bytes()))).collect()
}

/// Runs on the thread's vault, and then looks whether it is to be replaced.
fn at_door(run: impl FnOnce(&Door)) {
    DOOR.with_borrow_mut(|held| {
        if held.as_ref().is_some_and(|door| door.calls >= CALLS) {
            held.take().expect("looked at").close();
        }
        let door = held.get_or_insert_with(Door::open);
        door.calls += 1;
        run(door);
    });
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a message is short");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

fn unframed(mut frames: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = frames.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        messages.push(rest[..length].to_vec());
        frames = &rest[length..];
    }
    messages
}

/// A status that a caller may see.
fn check_status(status: &Status) {
    let known = [
        Code::Ok,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::Unimplemented,
        Code::Unauthenticated,
        Code::Unavailable,
    ];
    assert!(known.contains(&status.code()), "{status:?}");
}

/// Whether a status has these bytes in it. Fewer may be there by chance.
fn says(status: &Status, bytes: &[u8]) -> bool {
    let is_said = [status.message().as_bytes(), status.details()];
    bytes.len() >= 12 && is_said.iter().any(|said| said.windows(bytes.len()).any(|part| part == bytes))
}

/// Puts issued tokens and handles where they are asked for by number.
fn filled(texts: &mut [String], issued: &[(String, String)]) {
    for text in texts {
        let of = |prefix| text.strip_prefix(prefix).and_then(|number: &str| number.parse::<usize>().ok());
        let (token, handle) = (of(TOKEN), of(HANDLE));
        if let Some(number) = token {
            text.clone_from(&issued[number % issued.len()].0);
        } else if let Some(number) = handle {
            text.clone_from(&issued[number % issued.len()].1);
        }
    }
}

/// One call: the first byte says whose, the rest is the message. `fill` puts live tokens into one that can be read.
fn one_call<M: Message + Default>(
    data: &[u8],
    path: &str,
    fill: impl Fn(&mut M, &Door),
    check: impl Fn(&M, &[u8], &Door),
) {
    let mut input = Input(data);
    let (who, message) = (input.byte(), input.rest());
    at_door(|door| {
        let mut request = M::decode(message);
        let bytes = match &mut request {
            Ok(request) => {
                fill(request, door);
                request.encode_to_vec()
            }
            Err(_) => message.to_vec(),
        };
        let answered = door.call(who, path, &HeaderMap::new(), framed(&bytes));
        check_status(&answered.status);
        match (request, answered.status.code()) {
            (Err(_), code) => assert_ne!(code, Code::Ok, "what can't be read was answered"),
            (Ok(request), Code::Ok) => check(&request, &answered.messages[0], door),
            _ => {}
        }
    });
}

// === the methods of the token service ===

pub(super) fn tokenize(data: &[u8]) {
    let path = format!("{TOKENS}Tokenize");
    one_call(
        data,
        &path,
        |_: &mut v1::TokenizeRequest, _| {},
        |request, answer, door| {
            let answer = v1::TokenizeResponse::decode(answer).expect("an answer");
            assert_eq!(answer.results.len(), request.items.len(), "one result for each item");
            // The last value comes back as it was, unless a repeated call answered for the first one.
            let Some((item, result)) = request.items.last().zip(answer.results.last()) else { return };
            let Some(v1::tokenize_result::Outcome::Issued(issued)) = &result.outcome else { return };
            if !request.request_id.is_empty() {
                return;
            }
            let tester = door.fixture.tester();
            let shown =
                door.runtime.block_on(tester.show(&request.scope, &[&issued.token])).expect("may see everything");
            assert_eq!(shown, [Ok(item.value.clone())]);
        },
    );
    // No status repeats a value.
    let mut input = Input(data);
    let (who, message) = (input.byte(), input.rest());
    if let Ok(request) = v1::TokenizeRequest::decode(message) {
        at_door(|door| {
            let answered = door.call(who, &path, &HeaderMap::new(), framed(message));
            let values = request.items.iter().map(|item| item.value.as_slice());
            for said in values.filter(|value| says(&answered.status, value)) {
                // A refusal that has an event names the log. A value that is equal to that is no value repeated: it is said to
                // another one, too. Who is refused often leaves no event, so the other is asked before this one is asked again.
                let mut other = request.clone();
                other.items.iter_mut().for_each(|item| item.value.iter_mut().for_each(|byte| *byte = !*byte));
                let [other, again] = [other.encode_to_vec(), message.to_vec()]
                    .map(|message| door.call(who, &path, &HeaderMap::new(), framed(&message)).status);
                assert!(says(&other, said) || !says(&again, said), "a status repeats what was sent");
            }
        });
    }
}

pub(super) fn detokenize(data: &[u8]) {
    one_call(
        data,
        &format!("{TOKENS}Detokenize"),
        |request: &mut v1::DetokenizeRequest, door| filled(&mut request.tokens, &door.issued),
        |request, answer, _| {
            let answer = v1::DetokenizeResponse::decode(answer).expect("an answer");
            assert_eq!(answer.results.len(), request.tokens.len(), "one result for each token");
            assert!(answer.receipt.is_some(), "values without an event");
        },
    );
}

pub(super) fn inspect(data: &[u8]) {
    one_call(
        data,
        &format!("{TOKENS}InspectTokens"),
        |request: &mut v1::InspectTokensRequest, door| {
            filled(&mut request.tokens, &door.issued);
            filled(&mut request.handles, &door.issued);
        },
        |request, answer, _| {
            let answer = v1::InspectTokensResponse::decode(answer).expect("an answer");
            assert_eq!(answer.results.len(), request.tokens.len() + request.handles.len());
        },
    );
}

pub(super) fn renew(data: &[u8]) {
    one_call(
        data,
        &format!("{TOKENS}RenewTokens"),
        |request: &mut v1::RenewTokensRequest, door| filled(&mut request.tokens, &door.issued),
        |request, answer, _| {
            let answer = v1::RenewTokensResponse::decode(answer).expect("an answer");
            assert_eq!(answer.results.len(), request.tokens.len());
        },
    );
}

pub(super) fn revoke(data: &[u8]) {
    one_call(
        data,
        &format!("{TOKENS}RevokeTokens"),
        |request: &mut v1::RevokeTokensRequest, door| {
            filled(&mut request.tokens, &door.issued);
            filled(&mut request.handles, &door.issued);
        },
        |request, answer, _| {
            let answer = v1::RevokeTokensResponse::decode(answer).expect("an answer");
            assert_eq!(answer.results.len(), request.tokens.len() + request.handles.len());
        },
    );
}

/// The first byte says whose and which, the rest are the messages of a stream, each with its length before it.
pub(super) fn streams(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.byte();
    let method = if choice & 0x80 == 0 { "StreamTokenize" } else { "StreamDetokenize" };
    at_door(|door| {
        let (mut body, mut count) = (Vec::new(), 0);
        while !input.0.is_empty() && count < 8 {
            let message = input.piece();
            count += 1;
            let filled =
                v1::StreamDetokenizeRequest::decode(message).ok().filter(|_| choice & 0x80 != 0).map(|mut one| {
                    one.batch.iter_mut().for_each(|batch| filled(&mut batch.tokens, &door.issued));
                    one.encode_to_vec()
                });
            body.extend(framed(filled.as_deref().unwrap_or(message)));
        }
        let answered = door.call(choice & 0x7f, &format!("{TOKENS}{method}"), &HeaderMap::new(), body);
        check_status(&answered.status);
        assert!(answered.messages.len() <= count, "more answers than batches");
    });
}

// === the methods of the audit service ===

fn filled_filter(filter: &mut Option<v1::AuditFilter>, door: &Door) {
    if let Some(filter) = filter {
        filled(std::slice::from_mut(&mut filter.token), &door.issued);
        filled(std::slice::from_mut(&mut filter.handle), &door.issued);
    }
}

pub(super) fn query_events(data: &[u8]) {
    let path = format!("{AUDIT}QueryEvents");
    one_call(
        data,
        &path,
        |request: &mut v1::QueryEventsRequest, door| filled_filter(&mut request.filter, door),
        |request, answer, door| {
            let answer = v1::QueryEventsResponse::decode(answer).expect("an answer");
            if answer.next_page_token.is_empty() {
                return;
            }
            // What the vault gave it takes, for the same question.
            let next = v1::QueryEventsRequest { page_token: answer.next_page_token, ..request.clone() };
            let answered = door.call(0, &path, &HeaderMap::new(), framed(&next.encode_to_vec()));
            assert_eq!(answered.status.code(), Code::Ok, "the page token of the vault's own");
        },
    );
}

pub(super) fn tail_events(data: &[u8]) {
    one_call(
        data,
        &format!("{AUDIT}TailEvents"),
        |request: &mut v1::TailEventsRequest, door| filled_filter(&mut request.filter, door),
        |_, answer, _| drop(v1::TailEventsResponse::decode(answer).expect("an answer")),
    );
}

/// The second byte says which of three.
pub(super) fn proofs(data: &[u8]) {
    let which = data.get(1).copied().unwrap_or_default() % 3;
    let who = data.first().copied().unwrap_or_default();
    let data = chosen(who, data.get(2..).unwrap_or_default());
    match which {
        0 => one_call(
            &data,
            &format!("{AUDIT}GetCheckpoint"),
            |_: &mut v1::GetCheckpointRequest, _| {},
            |_, answer, _| {
                let answer = v1::GetCheckpointResponse::decode(answer).expect("an answer");
                assert!(answer.checkpoint.is_some());
            },
        ),
        1 => one_call(
            &data,
            &format!("{AUDIT}GetInclusionProof"),
            |_: &mut v1::GetInclusionProofRequest, _| {},
            |request, answer, _| {
                let answer = v1::GetInclusionProofResponse::decode(answer).expect("an answer");
                assert_eq!(answer.proof.expect("a proof").sequence, request.sequence);
            },
        ),
        _ => one_call(
            &data,
            &format!("{AUDIT}GetConsistencyProof"),
            |_: &mut v1::GetConsistencyProofRequest, _| {},
            |request, answer, _| {
                let answer = v1::GetConsistencyProofResponse::decode(answer).expect("an answer");
                assert_eq!(answer.proof.expect("a proof").from_size, request.from_size);
            },
        ),
    }
}

// === what stands around a message ===

/// Lines: path, `grpc-timeout`, `traceparent`, `grpc-encoding`; and then a body with frames of its own.
pub(super) fn call_head(data: &[u8]) {
    let mut parts = data.splitn(5, |byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let path = String::from_utf8_lossy(part()).into_owned();
    let mut head = HeaderMap::new();
    for name in ["grpc-timeout", "traceparent", "grpc-encoding"] {
        if let Ok(value) = http::HeaderValue::from_bytes(part()) {
            head.insert(name, value);
        }
    }
    let body = part().to_vec();
    let Ok(uri) = path.parse::<http::Uri>() else { return };
    if uri.path().is_empty() {
        return;
    }
    at_door(|door| {
        let answered = door.call(0, &path, &head, body);
        check_status(&answered.status);
    });
}
