//! The listener for probes and metrics: no data, no client certificate, plain HTTP. Keep it inside the machine or mesh.

use super::figures::CALL_SECONDS;
use super::readiness::Readiness;
use super::{Error, until};
use crate::grpc::Durations;
use crate::tls::SetupError;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Probes and scrapes at once. Where there is one more, the one that came first is cut off: whoever connects and says nothing keeps
/// nobody out.
const CONNECTIONS_AT_MOST: usize = 64;
/// A probe that takes longer than this to ask is cut off.
const CONNECTION_AT_MOST: Duration = Duration::from_secs(10);

/// When the next connection is asked for after one that could not be had.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// What the probes tell.
#[derive(Clone)]
pub struct Probes {
    /// Whether the vault can serve.
    pub(super) readiness: Arc<Readiness>,
    /// What was counted.
    pub metrics: PrometheusHandle,
    /// How long calls took.
    pub durations: Arc<Durations>,
    /// Whether the vault is stopping.
    pub stopped: watch::Receiver<bool>,
}

/// Binds the address.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(listen).await.map_err(|source| Error::Operations(SetupError::Listen { listen, source }))
}

/// Answers probes until the vault stops.
pub fn start(listener: TcpListener, probes: Probes) {
    // With port 0 this is the only place that says which one it became.
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "probes and metrics are answered");
    }
    tokio::spawn(serve(listener, probes));
}

async fn serve(listener: TcpListener, probes: Probes) {
    let mut stop = std::pin::pin!(until(probes.stopped.clone()));
    let mut open = VecDeque::<AbortHandle>::with_capacity(CONNECTIONS_AT_MOST);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((tcp, _)) = accepted else {
            // The peer's affair, or lack of descriptors, which would be the same again at once and leave this thread no time
            // for anything else.
            tokio::time::sleep(AFTER_FAILURE).await;
            continue;
        };
        if open.len() == CONNECTIONS_AT_MOST {
            open.retain(|one| !one.is_finished());
        }
        if open.len() == CONNECTIONS_AT_MOST {
            open.pop_front().as_ref().map(AbortHandle::abort);
        }
        open.push_back(tokio::spawn(converse(tcp, probes.clone())).abort_handle());
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, probes: Probes) {
    let answer = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(probes.answer(&request))));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    // Who does not wait for the answer does not get it.
    let _ = tokio::time::timeout(CONNECTION_AT_MOST, connection).await;
}

/// For `src/fuzz`: a connection to a vault that runs.
#[cfg(test)]
pub(crate) async fn converse_with_probes(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let (_stop, stopped) = watch::channel(false);
    let (readiness, durations) = (Arc::new(Readiness::new()), Arc::default());
    converse(stream, Probes { readiness, metrics, durations, stopped }).await;
}

impl Probes {
    fn figures(&self) -> String {
        let (_, name, help) = CALL_SECONDS;
        self.metrics.render() + &self.durations.render(name, help)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        let why_not = if *self.stopped.borrow() { Some("the vault is stopping") } else { self.readiness.why_not() };
        let (status, body) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/livez") => (StatusCode::OK, "alive\n".to_owned()),
            (&Method::GET, "/readyz") => match why_not {
                None => (StatusCode::OK, "ready\n".to_owned()),
                Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
            },
            (&Method::GET, "/metrics") => (StatusCode::OK, self.figures()),
            _ => (StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n".to_owned()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response
    }
}
