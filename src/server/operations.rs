//! The listener for probes and metrics: no data, no client certificate, plain HTTP. Keep it inside the machine or mesh.

use super::{Error, until};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// Probes and scrapes at once.
const CONNECTIONS_AT_MOST: usize = 64;
/// A probe that takes longer than this to ask is cut off.
const CONNECTION_AT_MOST: Duration = Duration::from_secs(10);

/// How long to leave `accept` alone after an error such as having no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// What the probes tell.
#[derive(Clone)]
pub struct Probes {
    /// Whether the log can be written.
    pub healthy: Arc<AtomicBool>,
    /// What was counted.
    pub metrics: PrometheusHandle,
    /// Whether the vault is stopping.
    pub stopped: watch::Receiver<bool>,
}

/// Binds the address.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(listen)
        .await
        .map_err(|error| Error::Io { what: "can't listen on operations.listen; is another vault running?", error })
}

/// Answers probes until the vault stops.
pub async fn serve(listener: TcpListener, probes: Probes) {
    let mut stop = std::pin::pin!(until(probes.stopped.clone()));
    let places = Arc::new(Semaphore::new(CONNECTIONS_AT_MOST));
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((tcp, _)) = accepted else {
            // Lack of descriptors does not go away by asking again at once, and whoever else runs here has to.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let probes = probes.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(probes.answer(&request))));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), answer);
            // Who does not wait for the answer does not get it.
            let _ = tokio::time::timeout(CONNECTION_AT_MOST, connection).await;
            drop(place);
        });
    }
}

impl Probes {
    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        let ready = self.healthy.load(Ordering::Acquire) && !*self.stopped.borrow();
        let (status, body) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/livez") => (StatusCode::OK, "alive\n".to_owned()),
            (&Method::GET, "/readyz") if ready => (StatusCode::OK, "ready\n".to_owned()),
            (&Method::GET, "/readyz") => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
            (&Method::GET, "/metrics") => (StatusCode::OK, self.metrics.render()),
            _ => (StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n".to_owned()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response
    }
}
