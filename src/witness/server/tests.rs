//! The door when a client, the system or the witness itself fails. What it answers otherwise `circle` asks it for.

use super::*;
use crate::clock::{Clock, FakeClock, Timestamp};
use crate::tls::web;
use crate::witness::fixture::{History, witness_key};
use http_body_util::Full;
use hyper::body::Frame;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tracing_subscriber::layer::{self, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

/// A witness of `log` in a directory of its own.
fn witness(log: &History, clock: Arc<dyn Clock>) -> (tempfile::TempDir, Arc<Witness>) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    Witness::create_state(&state).unwrap();
    let witness = Witness::open(witness_key("w.example/1"), &[log.verifier()], &state, clock).unwrap();
    (folder, Arc::new(witness))
}

fn standing() -> Arc<dyn Clock> {
    FakeClock::at(Timestamp::from_millis(1_790_000_000_000))
}

fn post<B>(body: B) -> Request<B> {
    Request::post(ADD_CHECKPOINT).body(body).unwrap()
}

fn whole(bytes: Vec<u8>) -> Request<Full<Bytes>> {
    post(Full::new(Bytes::from(bytes)))
}

/// A body that breaks off, or of which nothing ever comes.
enum Spoilt {
    Broken,
    Endless,
}

impl Body for Spoilt {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match *self {
            Self::Broken => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            Self::Endless => Poll::Pending,
        }
    }
}

/// A request of HTTP/1.1, after whose answer the connection ends.
fn spelled(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {ADD_CHECKPOINT} HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Says it, and returns all that comes back.
async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_body_that_breaks_off_or_does_not_end_is_answered_and_nothing_is_cosigned() {
    let log = History::new(9);
    let (_folder, witness) = witness(&log, standing());
    let broken = answer(Arc::clone(&witness), post(Spoilt::Broken), BODY_AT_MOST).await;
    assert_eq!((broken.status().as_u16(), broken.body().as_str()), (400, "the request's body broke off\n"));
    let late = answer(Arc::clone(&witness), post(Spoilt::Endless), Duration::ZERO).await;
    assert_eq!((late.status().as_u16(), late.body().as_str()), (408, "the request's body took too long\n"));
    let longest = answer(Arc::clone(&witness), whole(vec![b'x'; REQUEST_BYTES_AT_MOST]), BODY_AT_MOST).await;
    assert_eq!(longest.status().as_u16(), 400);
    let long = answer(Arc::clone(&witness), whole(vec![b'x'; REQUEST_BYTES_AT_MOST + 1]), BODY_AT_MOST).await;
    assert_eq!((long.status().as_u16(), long.body().as_str()), (413, "a request has at most 256 KiB\n"));
    let good = answer(witness, whole(log.body(0, 5)), BODY_AT_MOST).await;
    assert_eq!(good.status().as_u16(), 200, "nothing was remembered of the others: {}", good.body());
    assert_eq!(good.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
    assert!(good.body().starts_with("— w.example/1 "), "{}", good.body());
}

#[tokio::test]
async fn only_one_path_and_one_method_are_known() {
    let log = History::new(9);
    let (_folder, witness) = witness(&log, standing());
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Full::new(Bytes::from(log.body(0, 5)))).unwrap();
        answer(Arc::clone(&witness), request, BODY_AT_MOST).await
    };
    assert_eq!(ask("POST", "/").await.status().as_u16(), 404);
    let refused = ask("GET", ADD_CHECKPOINT).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()[ALLOW]), (405, &HeaderValue::from_static("POST")));
    assert_eq!(ask("POST", ADD_CHECKPOINT).await.status().as_u16(), 200);
    let other_size = ask("POST", ADD_CHECKPOINT).await;
    assert_eq!((other_size.status().as_u16(), other_size.body().as_str()), (409, "5\n"));
    assert_eq!(other_size.headers()[CONTENT_TYPE], SIZE_TYPE);
}

/// A clock on which reading the time fails as nothing should.
struct Stopped;

impl Clock for Stopped {
    fn wall(&self) -> Timestamp {
        panic!("the clock is broken")
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test]
async fn after_a_panic_the_witness_answers_and_cosigns_nothing_more_of_that_log() {
    let log = History::new(9);
    let (_folder, witness) = witness(&log, Arc::new(Stopped));
    let failed = answer(Arc::clone(&witness), whole(log.body(0, 5)), BODY_AT_MOST).await;
    assert_eq!((failed.status().as_u16(), failed.body().as_str()), (500, "the witness failed\n"));
    let after = answer(witness, whole(log.body(0, 5)), BODY_AT_MOST).await;
    assert_eq!(after.status().as_u16(), 503);
    assert!(after.body().contains("must be started again"), "{}", after.body());
}

/// A clock on which reading the time takes until the test lets it go.
struct Waiting {
    came: tokio::sync::mpsc::UnboundedSender<()>,
    go: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Clock for Waiting {
    fn wall(&self) -> Timestamp {
        self.came.send(()).unwrap();
        // An error is the test's word, too.
        let _ = self.go.lock().unwrap().recv();
        Timestamp::from_millis(1_790_000_000_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off_at_a_stop_and_what_it_did_is_remembered_o_06() {
    let log = History::new(9);
    let ((came, mut comes), (go, goes)) = (tokio::sync::mpsc::unbounded_channel(), std::sync::mpsc::channel());
    let (_folder, witness) = witness(&log, Arc::new(Waiting { came, go: goes.into() }));
    assert_eq!(witness.name().as_str(), "w.example/1");
    let warned = Arc::new(Notify::new());
    let _seen = tracing::subscriber::set_default(tracing_subscriber::registry().with(Warned(Arc::clone(&warned))));
    let door = Door::bind((Ipv4Addr::LOCALHOST, 0).into(), None).await.unwrap();
    let address = door.local_addr().unwrap();
    let taken = Door::bind(address, None).await.err().unwrap();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    let (stop, stopped) = oneshot::channel::<()>();
    let stopping = async {
        let _ = stopped.await;
    };
    let serving = tokio::spawn(door.serve_and_drain(Arc::clone(&witness), stopping, Duration::ZERO));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&spelled(&log.body(0, 5))).await.unwrap();
    comes.recv().await.unwrap();
    drop(stop);
    serving.await.unwrap();
    warned.notified().await;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "closed without an answer");
    // It goes on all the same, and the next one is told what it came to.
    drop(go);
    let next = answer(witness, whole(log.body(0, 5)), BODY_AT_MOST).await;
    assert_eq!((next.status().as_u16(), next.body().as_str()), (409, "5\n"));
}

#[tokio::test]
async fn a_client_that_goes_in_the_midst_or_talks_nonsense_ends_its_connection_alone() {
    let log = History::new(9);
    let (_folder, witness) = witness(&log, standing());
    let (_tell, told) = watch::channel(());
    let whole = spelled(&log.body(0, 5));
    for said in [&whole[..20], &whole[..whole.len() - 1], b"\0\x01\x02\r\n\r\n"] {
        let (mut outside, inside) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(converse(inside, Arc::clone(&witness), told.clone()));
        outside.write_all(said).await.unwrap();
        drop(outside);
        served.await.unwrap();
    }
    let (outside, inside) = tokio::io::duplex(1 << 16);
    let served = tokio::spawn(converse(inside, witness, told));
    let answer = say(outside, &whole).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "nothing was remembered of them: {answer}");
    served.await.unwrap();
}

/// A server's certificate for `w.example`, signed by itself, and a client that believes it.
fn tls() -> (TlsAcceptor, tokio_rustls::TlsConnector) {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["w.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (chain, private) = (folder.path().join("w.pem"), folder.path().join("w.key"));
    std::fs::write(&chain, certificate.pem()).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&private).unwrap();
    std::io::Write::write_all(&mut file, key.serialize_pem().as_bytes()).unwrap();
    let server = web::server_config(&chain, &private).unwrap();
    (TlsAcceptor::from(server), web::client_config(&chain).unwrap().into())
}

#[tokio::test]
async fn a_handshake_that_fails_or_does_not_end_is_no_conversation() {
    let log = History::new(9);
    let (_folder, witness) = witness(&log, standing());
    let (acceptor, connector) = tls();
    let (_tell, told) = watch::channel(());
    let admitted = |within| {
        let (outside, inside) = tokio::io::duplex(1 << 16);
        let (acceptor, witness) = (acceptor.clone(), Arc::clone(&witness));
        (outside, tokio::spawn(admit(inside, Some(acceptor), within, witness, told.clone())))
    };
    // Plain HTTP where TLS is spoken: at most TLS's own word for it comes back.
    let (outside, served) = admitted(HANDSHAKE_AT_MOST);
    let mut stream = outside;
    stream.write_all(&spelled(&log.body(0, 5))).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    served.await.unwrap();
    assert!(!answer.windows(4).any(|word| word == b"HTTP"), "{answer:?}");
    // Nothing at all.
    let (mut silent, served) = admitted(Duration::ZERO);
    served.await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "closed");
    // And who does it right is answered: nothing was cosigned before.
    let (outside, served) = admitted(HANDSHAKE_AT_MOST);
    let stream = connector.connect("w.example".try_into().unwrap(), outside).await.unwrap();
    let answer = say(stream, &spelled(&log.body(0, 5))).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    served.await.unwrap();
}

/// Tells of every warning.
struct Warned(Arc<Notify>);

impl Layer<Registry> for Warned {
    fn on_event(&self, event: &tracing::Event<'_>, _: layer::Context<'_, Registry>) {
        if *event.metadata().level() == tracing::Level::WARN {
            self.0.notify_one();
        }
    }
}

#[tokio::test]
async fn what_can_not_be_accepted_is_tried_again_until_the_stop() {
    let log = History::new(9);
    let (_folder, witness) = witness(&log, standing());
    let anywhere = (Ipv4Addr::LOCALHOST, 0).into();
    let door = Door::bind(anywhere, None).await.unwrap();
    // From now on the system has an error for whoever accepts.
    socket2::SockRef::from(&door.listener).shutdown(std::net::Shutdown::Both).unwrap();
    let warned = Arc::new(Notify::new());
    let _seen = tracing::subscriber::set_default(tracing_subscriber::registry().with(Warned(Arc::clone(&warned))));
    let stop = async {
        warned.notified().await;
        warned.notified().await;
    };
    door.serve(Arc::clone(&witness), stop).await;
    // The next door is none the worse for it.
    let door = Door::bind(anywhere, None).await.unwrap();
    let address = door.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(door.serve(witness, async {
        let _ = stopped.await;
    }));
    let answer = say(TcpStream::connect(address).await.unwrap(), &spelled(&log.body(0, 5))).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    drop(stop);
    serving.await.unwrap();
}
