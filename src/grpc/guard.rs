//! The outermost layer: every call passes here before its handler and on its way back.
//!
//! In: the method is in the table; the connection's certificate is still valid (a connection may outlive it). Out: an
//! answer no later than the caller's deadline; the status is one of ours; the call is counted. Of a stream of batches it sees the
//! beginning only: `stream` does the same for each batch.

use super::methods::Counters;
use super::{methods, status};
use crate::caller::Caller;
use crate::clock::Clock;
use crate::event::Action;
use crate::tls::Connection;
use crate::vault::{Reason, Vault};
use http::{Request, Response};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
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

    fn refuse(&self, request: &Request<Body>) -> Result<usize, tonic::Status> {
        let (place, method) = methods::find(request.uri().path()).ok_or_else(status::no_such_method)?;
        let connection = request.extensions().get::<Arc<Connection>>().ok_or_else(status::internal)?;
        check_certificate(&self.vault, &*self.clock, &connection.caller, method.action)?;
        Ok(place)
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

/// The answer, or DEADLINE_EXCEEDED once nobody waits any more. The transport has a timer of its own around this layer, and
/// says CANCELLED; set earlier and asked first, this one comes before it. What the call does goes on in its own task.
async fn in_time<E>(
    deadline: Option<Instant>,
    answer: impl Future<Output = Result<Response<Body>, E>>,
) -> Result<Response<Body>, E> {
    let Some(deadline) = deadline else { return answer.await };
    tokio::time::timeout_at(deadline, answer).await.unwrap_or_else(|_| Ok(status::deadline_exceeded().into_http()))
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let place = match self.guard.refuse(&request) {
            Ok(place) => place,
            Err(status) => {
                let mut response = status.into_http();
                status::sanitize(response.headers_mut());
                return Box::pin(async move { Ok(response) });
            }
        };
        let counters = Arc::clone(&self.guard.counters);
        let deadline = super::deadline_of(request.headers());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = in_time(deadline, answer).await?;
            status::sanitize(response.headers_mut());
            // Unary failures are "trailers only": their code stands in the headers. What has none yet is under way.
            let code = response.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
            // The batches of a stream that has begun are counted one by one.
            if code != Code::Ok || !methods::METHODS[place].batches {
                counters[place].count(code);
            }
            Ok(response)
        })
    }
}
