//! Calls that come when they come, whether or not the vault keeps up.
//!
//! A caller who waits for an answer before asking again slows down with the vault, and measures nothing of what the others would
//! have waited (coordinated omission). Here a schedule says when each call begins, and its time counts from that moment, also if it
//! could only be sent later.

use crate::harness::{Identity, Refusal, Server};
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};

/// One call of a schedule.
#[derive(Clone, Copy, Debug)]
pub struct Timed<T> {
    /// When it was to begin, from the beginning of the schedule on.
    pub due: Duration,
    /// From then on to its end.
    pub took: Duration,
    pub outcome: T,
}

/// Begins `rate` calls a second for as long as `lasting`, and waits for the last one's end.
pub async fn open_loop<T, F>(rate: f64, lasting: Duration, call: impl Fn(u64) -> F) -> Vec<Timed<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (send, mut ended) = mpsc::unbounded_channel();
    let begin = Instant::now();
    let due = |number: u64| Duration::from_secs_f64(number as f64 / rate);
    let mut next = 0;
    while due(next) < lasting {
        tokio::time::sleep_until(begin + due(next)).await;
        // All that have become due meanwhile: a timer has no more than a millisecond's grain.
        while due(next) < lasting && due(next) <= begin.elapsed() {
            let (send, due, call) = (send.clone(), due(next), call(next));
            tokio::spawn(async move {
                let outcome = call.await;
                let _ = send.send(Timed { due, took: begin.elapsed().saturating_sub(due), outcome });
            });
            next += 1;
        }
    }
    drop(send);
    let mut all = Vec::new();
    while let Some(timed) = ended.recv().await {
        all.push(timed);
    }
    all
}

/// Keeps `in_flight` calls going for as long as `lasting`.
pub async fn closed_loop<T, F>(
    in_flight: u64,
    lasting: Duration,
    call: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Vec<Timed<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let begin = Instant::now();
    let mut lanes = JoinSet::new();
    for lane in 0..in_flight {
        let call = call.clone();
        lanes.spawn(async move {
            let mut all = Vec::new();
            let mut number = lane;
            while begin.elapsed() < lasting {
                let due = begin.elapsed();
                let outcome = call(number).await;
                all.push(Timed { due, took: begin.elapsed().saturating_sub(due), outcome });
                number += in_flight;
            }
            all
        });
    }
    lanes.join_all().await.into_iter().flatten().collect()
}

/// The time below which so many percent of calls were.
pub fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(place).copied().unwrap_or_default()
}

// === the wire ===

/// A connection with nothing between a call and HTTP/2: no timeouts, no retries, no reading of headers.
#[derive(Clone)]
pub struct Wire(SendRequest<Full<Bytes>>);

/// What came of a call.
pub struct Answer {
    pub status: Status,
    /// The message, without its frame.
    pub message: Vec<u8>,
}

impl Wire {
    pub async fn open(server: &Server, identity: &Identity) -> Result<Self, String> {
        let tcp = TcpStream::connect(server.address).await.map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = TlsConnector::from(identity.tls()).connect(name, tcp).await.map_err(|error| error.to_string())?;
        let opened = handshake(TokioExecutor::new(), TokioIo::new(tls)).await;
        let (sender, connection) = opened.map_err(|error| error.to_string())?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self(sender))
    }

    /// The answer, or why there was none.
    pub async fn call(&self, path: &str, headers: &[(&str, &[u8])], body: Bytes) -> Result<Answer, String> {
        self.read(path, headers, body, usize::MAX).await
    }

    /// As [`Wire::call`], of what may never end: up to the first message.
    pub async fn first(&self, path: &str, headers: &[(&str, &[u8])], body: Bytes) -> Result<Answer, String> {
        self.read(path, headers, body, 1).await
    }

    async fn read(&self, path: &str, headers: &[(&str, &[u8])], body: Bytes, enough: usize) -> Result<Answer, String> {
        let uri = format!("http://localhost{path}");
        let mut request = http::Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).unwrap();
        let mut sender = self.0.clone();
        sender.ready().await.map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, mut body) = answer.into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            return Ok(Answer { status, message: Vec::new() });
        }
        let (mut bytes, mut status) = (Vec::new(), None);
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            match frame.map_err(|error| error.to_string())?.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => status = frame.into_trailers().ok().and_then(|headers| Status::from_header_map(&headers)),
            }
            if bytes.len() >= enough {
                return Ok(Answer { status: Status::ok(""), message: bytes.split_off(bytes.len().min(5)) });
            }
        }
        let status = status.ok_or("an answer without a status")?;
        Ok(Answer { status, message: bytes.split_off(bytes.len().min(5)) })
    }
}

impl Answer {
    pub fn code(&self) -> Code {
        self.status.code()
    }

    pub fn refusal(&self) -> Refusal {
        Refusal::of(&self.status)
    }
}

// === the loops themselves ===

/// A service that answers nobody before the fiftieth call has begun. The schedule comes to that call, and each one's time says what
/// it waited for it. Callers who wait for their answers never get there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_goes_on_while_nothing_is_answered_d_07() {
    const RATE: f64 = 500.0;
    const STALLED: u64 = 50;
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let stalled = move |number| {
        if number + 1 == STALLED {
            opened.close();
        }
        let gate = Arc::clone(&opened);
        async move { drop(gate.acquire().await) }
    };
    let calls = open_loop(RATE, Duration::from_millis(200), stalled).await;
    assert_eq!(calls.len(), 100);
    let due = |number: u64| Duration::from_secs_f64(number as f64 / RATE);
    for call in calls.iter().filter(|call| call.due < due(STALLED - 1)) {
        assert!(call.due + call.took >= due(STALLED - 1), "{call:?}");
    }
    let begun = Arc::new(AtomicU64::new(0));
    let (gate, counter) = (Arc::new(Semaphore::new(0)), Arc::clone(&begun));
    let held = Arc::clone(&gate);
    let stalled = move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        let gate = Arc::clone(&held);
        async move { drop(gate.acquire().await) }
    };
    let closed = tokio::spawn(closed_loop(4, Duration::from_millis(50), stalled));
    while begun.load(Ordering::SeqCst) < 4 {
        tokio::task::yield_now().await;
    }
    gate.close();
    let closed = closed.await.unwrap();
    assert_eq!(closed.len() as u64, begun.load(Ordering::SeqCst), "each call is measured once");
}
