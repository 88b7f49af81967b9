//! A few connections to one vault, over which all calls go.
//!
//! Invariant: a request is written to a connection that was made with the newest identity. One with an older identity gets no
//! new call, and ends when the last of its calls has its answer. What is known never to have been sent is told apart from what
//! may have been.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tonic::body::Body;
use tower::Service;

use super::Error;
use super::identity::{Identity, Keeper};
use crate::sync::AsyncMutex;

/// How long a connection may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// While calls are on their way and nothing comes, the other side is asked after so long whether it is there.
const PING_AFTER: Duration = Duration::from_secs(15);
/// It has so long to say so. Then the connection counts as broken.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Pool {
    address: Arc<str>,
    vault: Uri,
    keeper: Keeper,
    /// One for each connection. Held while it is made, so that those who come meanwhile wait for it and make none of
    /// their own.
    slots: Box<[Arc<AsyncMutex<Option<Open>>>]>,
    next: AtomicUsize,
    /// How many connections were made.
    made: Arc<AtomicU64>,
}

/// An open connection. Those that hold one keep it open.
#[derive(Clone)]
struct Open {
    sender: http2::SendRequest<Body>,
    generation: u64,
    number: u64,
}

/// A connection, for one attempt of one call.
#[derive(Clone)]
pub(crate) struct Line {
    pub vault: Uri,
    pub wire: Wire,
    trace: Trace,
}

/// What is left of a line that was used.
#[derive(Clone)]
pub(crate) struct Trace {
    place: usize,
    number: u64,
    is_unsent: Arc<AtomicBool>,
}

/// A connection as the generated code wants it.
#[derive(Clone)]
pub(crate) struct Wire {
    sender: http2::SendRequest<Body>,
    is_unsent: Arc<AtomicBool>,
}

impl Pool {
    pub fn new(address: &str, keeper: Keeper, connections: usize) -> Result<Self, Error> {
        let vault = format!("https://{address}").parse::<Uri>().ok().filter(|vault| vault.port().is_some());
        let malformed = || Error::Unreachable {
            address: address.to_owned(),
            problem: "not an address; write it as host:port, such as 127.0.0.1:7443".to_owned(),
        };
        let vault = vault.ok_or_else(malformed)?;
        let slots = (0..connections.max(1)).map(|_| Arc::default()).collect();
        Ok(Self { address: address.into(), vault, keeper, slots, next: AtomicUsize::new(0), made: Arc::default() })
    }

    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Looks at the files of the identity. Is there a new one, the connections of the old one are let go.
    pub async fn look(&self) {
        if self.keeper.look().await {
            for slot in &self.slots {
                // One that is just being made is found too old by whoever wants to use it.
                if let Ok(mut open) = slot.try_lock() {
                    *open = None;
                }
            }
        }
    }

    /// A connection for one attempt: the next in turn, made anew if it has to be.
    pub async fn line(&self) -> Result<Line, Error> {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let mut slot = Arc::clone(&self.slots[place]).lock_owned().await;
        let identity = self.keeper.current();
        let usable = |open: &&Open| open.generation == identity.generation && open.sender.is_ready();
        if let Some(open) = slot.as_ref().filter(usable) {
            return Ok(self.over(open.clone(), place));
        }
        *slot = None;
        let (vault, address, made) = (self.vault.clone(), Arc::clone(&self.address), Arc::clone(&self.made));
        // In a task of its own, so that it comes to its end though a caller with a short deadline no longer waits for it.
        let making = tokio::spawn(async move {
            let sender = dial(vault, &address, &identity).await?;
            let open = Open { sender, generation: identity.generation, number: made.fetch_add(1, Ordering::Relaxed) };
            *slot = Some(open.clone());
            Ok(open)
        });
        let stopped = |_| self.unreachable("the runtime is shutting down".to_owned());
        Ok(self.over(making.await.map_err(stopped)??, place))
    }

    /// Lets a connection go that broke or took no more calls, so that nobody is given it again. Its other calls go on. Whether
    /// it was still there: of many calls that it broke under, one is the first to say so.
    pub async fn let_go(&self, trace: &Trace) -> bool {
        let mut slot = self.slots[trace.place].lock().await;
        let is_first = slot.as_ref().is_some_and(|open| open.number == trace.number);
        if is_first {
            *slot = None;
        }
        is_first
    }

    fn over(&self, open: Open, place: usize) -> Line {
        let is_unsent = Arc::new(AtomicBool::new(false));
        let wire = Wire { sender: open.sender, is_unsent: Arc::clone(&is_unsent) };
        Line { vault: self.vault.clone(), wire, trace: Trace { place, number: open.number, is_unsent } }
    }

    fn unreachable(&self, problem: String) -> Error {
        Error::Unreachable { address: self.address.to_string(), problem }
    }
}

impl Line {
    /// For after it was used.
    pub fn trace(&self) -> Trace {
        self.trace.clone()
    }
}

impl Trace {
    /// Whether the request is known never to have been begun: it was not sent, or the vault closed the connection in order
    /// and said so.
    pub fn is_unsent(&self) -> bool {
        self.is_unsent.load(Ordering::SeqCst)
    }
}

async fn dial(vault: Uri, address: &str, identity: &Identity) -> Result<http2::SendRequest<Body>, Error> {
    let mut connector = identity.connector.clone();
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connector.call(vault)).await;
    let problem = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
    let stream = connected
        .map_err(|_| Error::Unreachable { address: address.to_owned(), problem })?
        .map_err(|error| Error::from_transport(address, &error))?;
    let greeting = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .adaptive_window(true)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(stream)
        .await;
    let (sender, connection) = greeting.map_err(|error| Error::from_transport(address, &error))?;
    // It ends by itself once nobody holds its sender and no call is on its way. How it ended, each call is told.
    tokio::spawn(connection);
    Ok(sender)
}

/// What a vault that goes away in order, or has too many calls on one connection, says of a call that it did not begin: the
/// stream lies behind the last one of its GOAWAY, or is refused (RFC 9113, sections 6.8 and 8.7). Where that GOAWAY names an error, it
/// does not count.
fn was_not_begun(error: &hyper::Error) -> bool {
    let error = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    error.filter(|error| error.is_remote()).is_some_and(|error| match error.reason() {
        Some(h2::Reason::NO_ERROR) => error.is_go_away(),
        Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
        _ => false,
    })
}

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Whether it can take a call shows when it is handed one: it gives back what it can't send.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.sender.try_send_request(request);
        let is_unsent = Arc::clone(&self.is_unsent);
        Box::pin(async move {
            answer.await.map_err(|mut failed| {
                let was_kept = failed.take_message().is_some();
                is_unsent.store(was_kept || was_not_begun(failed.error()), Ordering::SeqCst);
                failed.into_error()
            })
        })
    }
}
