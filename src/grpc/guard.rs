//! The outermost layer: every call passes here before its handler and on its way back.
//!
//! In: the method is in the table; the connection's certificate is still valid (a connection may outlive it). Out: an
//! answer no later than the caller's deadline; the status is one of ours; the call is counted. Of a stream of batches it sees the
//! beginning only: `stream` does the same for each batch.

use super::methods::Counters;
use super::{methods, pace, status};
use crate::caller::Caller;
use crate::clock::Clock;
use crate::event::Action;
use crate::tls::{Connection, Waits};
use crate::vault::{Reason, Vault};
use http::{Request, Response};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

/// Makes the layer.
#[derive(Clone)]
pub struct Guard {
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    counters: Arc<Vec<Counters>>,
}

/// A call of a method in the table, with a certificate that is still valid.
struct Admitted {
    /// Of its method in the table.
    place: usize,
    caller: Arc<Caller>,
    waits: Arc<Waits>,
}

/// Set once a call's message has been read: from then on its operation has an event, whatever becomes of its caller.
#[derive(Clone, Default)]
pub(super) struct Read(Arc<AtomicBool>);

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
        Self { vault, clock, counters: Arc::new(counters.collect()) }
    }

    /// The vault behind it.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    fn refuse(&self, request: &Request<Body>) -> Result<Admitted, tonic::Status> {
        let connection = request.extensions().get::<Arc<Connection>>().ok_or_else(status::internal)?;
        let Some((place, method)) = methods::find(request.uri().path()) else {
            self.vault.turned_away(&connection.caller, Action::Connect, Reason::NotImplemented);
            return Err(status::no_such_method());
        };
        check_certificate(&self.vault, &*self.clock, &connection.caller, method.action)?;
        Ok(Admitted { place, caller: Arc::clone(&connection.caller), waits: Arc::clone(&connection.waits) })
    }

    /// Counts a call that ended before its message was read: nothing else would say that there was one.
    fn unread(&self, call: &Admitted, reason: Reason) {
        let method = methods::METHODS[call.place];
        if method.resource != methods::Resource::None {
            self.vault.turned_away(&call.caller, method.action, reason);
        }
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

/// The answer, or `None` once nobody waits any more. The transport has a timer of its own around this layer, and says
/// CANCELLED; set earlier and asked first, this one comes before it. What the call does goes on in its own task.
async fn in_time<T>(deadline: Option<Instant>, answer: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, answer).await.ok(),
        None => Some(answer.await),
    }
}

impl Read {
    /// Says that it has been.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
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
            Err(status) => {
                let mut response = status.into_http();
                status::sanitize(response.headers_mut());
                return Box::pin(async move { Ok(response) });
            }
        };
        let guard = self.guard.clone();
        let deadline = super::deadline_of(request.headers());
        let read = deadline.map(|_| Read::default());
        if let Some(read) = &read {
            request.extensions_mut().insert(read.clone());
        }
        let waits = Arc::clone(&call.waits);
        if methods::METHODS[call.place].one_message {
            request = request.map(|body| pace::message(body, &waits));
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
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
            // Unary failures are "trailers only": their code stands in the headers. What has none yet is under way.
            let code = response.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
            // The batches of a stream that has begun are counted one by one.
            if code != Code::Ok || !methods::METHODS[call.place].batches {
                guard.counters[call.place].count(code);
            }
            Ok(response.map(|body| pace::reply(body, &waits)))
        })
    }
}
