//! The outermost layer: every call passes here before its handler and on its way back.
//!
//! In: the method is in the table; the connection's certificate is still valid (a connection may outlive it); there is memory for
//! one more. Out: an answer no later than the caller's deadline; the status is one of ours; the call is counted. Of a stream of
//! batches it sees the beginning only: `stream` does the same for each batch.

use super::bodies::{self, Answer};
use super::durations::{Durations, Table};
use super::lag::Lag;
use super::methods::Counters;
use super::{MESSAGE_BYTES_AT_MOST, PROBE_BYTES_AT_MOST, methods, status};
use crate::caller::Caller;
use crate::clock::Clock;
use crate::event::Action;
use crate::limits::bytes::{self, Share};
use crate::tls::{Account, Connection, Waits};
use crate::vault::{Failure, Reason, Vault};
use http::{Request, Response};
use hyper::body::{Bytes, Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

/// For a thousand calls of health and reflection at once.
const PROBES_BYTES: usize = 16 << 20;
/// Header fields that are in what a call costs by itself, and what each costs in a call that has more.
const FIELDS_INCLUDED: usize = 32;
const OF_A_FIELD: usize = 256;

/// Makes the layer. Each call has a copy, so that all of it lies behind one count, which only its own thread touches.
#[derive(Clone)]
pub struct Guard(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    counters: Arc<Vec<Counters>>,
    durations: Arc<Durations>,
    /// Of this thread alone.
    table: Arc<Table>,
    /// For what is answered however much there is to do. Nobody needs a permission for it, so it has little.
    probes: Arc<bytes::Shared>,
    /// None where nobody looks how late it is.
    lag: Option<Arc<Lag>>,
}

/// A call of a method in the table, with a certificate that is still valid.
struct Admitted {
    /// Of its method in the table.
    place: usize,
    caller: Arc<Caller>,
    waits: Arc<Waits>,
    /// The memory that it holds, until its answer has been taken.
    share: Arc<Share>,
}

/// Set once a call's message has been read: from then on its operation has an event, whatever becomes of its caller.
#[derive(Clone)]
pub(super) struct Read {
    is_noted: Arc<AtomicBool>,
    /// Past this moment nobody waits for it.
    pub deadline: Instant,
}

/// The body of an answer of health or reflection: where it is a stream, it ends in its library's words, which name types and
/// repeat the request. Ours end in our own already.
struct InOurWords(Body);

/// A service behind the guard.
#[derive(Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl Guard {
    /// A guard that asks `clock` whether certificates are still valid. Counters are made once, for all methods and codes.
    pub fn new(vault: Arc<Vault>, clock: Arc<dyn Clock>) -> Self {
        let counters = methods::METHODS.iter().map(|method| Counters::of(method));
        let counters = Arc::new(counters.collect());
        let probes = Arc::new(bytes::Shared::new(PROBES_BYTES, PROBES_BYTES / 4));
        let durations = Arc::new(Durations::default());
        let table = durations.table();
        Self(Arc::new(Parts { vault, clock, counters, durations, table, probes, lag: None }))
    }

    /// The same for a thread that is as late as `lag` says.
    #[must_use]
    pub fn of_thread(&self, lag: Arc<Lag>) -> Self {
        let table = self.0.durations.table();
        Self(Arc::new(Parts { lag: Some(lag), table, ..Parts::clone(&self.0) }))
    }

    /// How long calls took, on all threads.
    pub fn durations(&self) -> &Arc<Durations> {
        &self.0.durations
    }

    /// The vault behind it.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.0.vault
    }

    fn account(&self, caller: &Caller) -> Account {
        let calls = self.0.vault.budget().of(caller.id.as_str());
        let probes = self.0.probes.of(caller.id.as_str());
        Account { calls, probes }
    }

    fn refuse(&self, request: &Request<Body>) -> Result<Admitted, tonic::Status> {
        let connection = request.extensions().get::<Arc<Connection>>().ok_or_else(status::internal)?;
        let Some((place, method)) = methods::find(request.uri().path()) else {
            self.0.vault.turned_away(&connection.caller, Action::Connect, Reason::NotImplemented);
            return Err(status::no_such_method());
        };
        check_certificate(&self.0.vault, &*self.0.clock, &connection.caller, method.action)?;
        let caller = Arc::clone(&connection.caller);
        let account = connection.account.get_or_init(|| self.account(&caller));
        let budget = if method.resource == methods::Resource::None { &account.probes } else { &account.calls };
        let fields = request.headers().len();
        let share = budget.call().and_then(|share| {
            // Few calls have as many as are included.
            if fields > FIELDS_INCLUDED {
                share.grow(fields * OF_A_FIELD)?;
            }
            Ok(share)
        });
        let share = Arc::new(share.map_err(|_| self.shed(place, &caller))?);
        let waits = Arc::clone(&connection.waits);
        Ok(Admitted { place, caller, waits, share })
    }

    /// Waits until the call may begin. Why it is not: its caller does not wait any longer, or it has waited for so long that others
    /// should go first, or there is no room in front of the writer.
    async fn turn(&self, call: &Admitted, deadline: Option<Instant>) -> Result<(), tonic::Status> {
        if call.is_probe() {
            return Ok(());
        }
        let turn = match &self.0.lag {
            Some(lag) => in_time(deadline, lag.turn()).await,
            None => Some(Ok(())),
        };
        let Some(turn) = turn.filter(|_| deadline.is_none_or(|deadline| Instant::now() < deadline)) else {
            self.unread(call, Reason::DeadlineExceeded);
            self.0.counters[call.place].count(Code::DeadlineExceeded);
            return Err(status::deadline_exceeded());
        };
        let is_too_much = turn.is_err() || self.0.vault.ledger().is_full();
        if is_too_much { Err(self.shed(call.place, &call.caller)) } else { Ok(()) }
    }

    /// There is no room for one more call. Nothing of it was read.
    fn shed(&self, place: usize, caller: &Caller) -> tonic::Status {
        let method = methods::METHODS[place];
        // Health and reflection are no action, and have no place in the log.
        if method.resource != methods::Resource::None {
            self.0.vault.turned_away(caller, method.action, Reason::Overloaded);
        }
        self.0.counters[place].count(Code::ResourceExhausted);
        status::of(Failure::Overloaded)
    }

    /// Counts a call that ended before its message was read: nothing else would say that there was one.
    fn unread(&self, call: &Admitted, reason: Reason) {
        if !call.is_probe() {
            self.0.vault.turned_away(&call.caller, methods::METHODS[call.place].action, reason);
        }
    }
}

impl Admitted {
    /// Whether it is answered however much there is to do.
    fn is_probe(&self) -> bool {
        methods::METHODS[self.place].resource == methods::Resource::None
    }
}

/// A connection may outlive its certificate, and a stream on it too.
pub(super) fn check_certificate(
    vault: &Vault,
    clock: &dyn Clock,
    caller: &Caller,
    action: Action,
) -> Result<(), tonic::Status> {
    if clock.wall() < caller.not_after {
        return Ok(());
    }
    vault.turned_away(caller, action, Reason::CertificateExpired);
    Err(status::certificate_expired())
}

fn refused(status: tonic::Status) -> Response<Body> {
    let mut response = status.into_http();
    status::sanitize(response.headers_mut());
    response
}

/// The answer, or `None` once nobody waits any more. The transport has a timer of its own around this layer, and says
/// CANCELLED; set earlier and asked first, this one comes before it. What the call does goes on in its own task.
async fn in_time<T>(deadline: Option<Instant>, answer: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, answer).await.ok(),
        None => Some(answer.await),
    }
}

impl Read {
    fn before(deadline: Instant) -> Self {
        Self { is_noted: Arc::default(), deadline }
    }

    /// Says that it has been.
    pub fn note(&self) {
        self.is_noted.store(true, Ordering::Relaxed);
    }

    fn is_noted(&self) -> bool {
        self.is_noted.load(Ordering::Relaxed)
    }
}

impl hyper::body::Body for InOurWords {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.0).poll_frame(context).map_ok(|frame| match frame.into_trailers() {
            Ok(mut trailers) => {
                status::sanitize(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { guard: self.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let call = match self.guard.refuse(&request) {
            Ok(call) => call,
            Err(status) => return Box::pin(async move { Ok(refused(status)) }),
        };
        let guard = self.guard.clone();
        let now = Instant::now();
        let arrival = guard.0.lag.as_ref().map(|lag| lag.arrival(now)).unwrap_or_default();
        if arrival.is_refused && !call.is_probe() {
            let status = guard.shed(call.place, &call.caller);
            return Box::pin(async move { Ok(refused(status)) });
        }
        // What it has waited is gone of its caller's time.
        let deadline =
            super::deadline_of(request.headers()).map(|deadline| deadline.checked_sub(arrival.waited).unwrap_or(now));
        let read = deadline.map(Read::before);
        if let Some(read) = &read {
            request.extensions_mut().insert(read.clone());
        }
        request.extensions_mut().insert(Arc::clone(&call.share));
        let share = Arc::clone(&call.share);
        let is_one = methods::METHODS[call.place].one_message;
        let longest = if call.is_probe() { PROBE_BYTES_AT_MOST } else { MESSAGE_BYTES_AT_MOST };
        let request = request.map(|body| bodies::messages(body, share, &call.waits, is_one, longest));
        let answer = self.inner.call(request);
        Box::pin(async move {
            if let Err(status) = guard.turn(&call, deadline).await {
                return Ok(refused(status));
            }
            let mut response = if let Some(answer) = in_time(deadline, answer).await {
                answer?
            } else {
                if !read.is_some_and(|read| read.is_noted()) {
                    guard.unread(&call, Reason::DeadlineExceeded);
                }
                status::deadline_exceeded().into_http()
            };
            let replaced = status::sanitize(response.headers_mut());
            if let Some(reason) = replaced.and_then(status::why_unreadable) {
                guard.unread(&call, reason);
            }
            if call.is_probe() {
                response = response.map(|body| Body::new(InOurWords(body)));
            }
            // Unary failures are "trailers only": their code stands in the headers. What has none yet is under way.
            let code = response.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
            // The batches of a stream that has begun are counted one by one.
            if code != Code::Ok || !methods::METHODS[call.place].batches {
                guard.0.counters[call.place].count(code);
            }
            if methods::METHODS[call.place].is_timed() {
                guard.0.table.note(call.place, now.elapsed());
            }
            let answer = match methods::METHODS[call.place].streams {
                false => Answer::One,
                true if call.is_probe() => Answer::Probes,
                true => Answer::Many,
            };
            Ok(response.map(|body| bodies::reply(body, call.share, &call.waits, answer)))
        })
    }
}
