//! The witness's door: `POST /add-checkpoint` over HTTP/1.1, with or without TLS.
//!
//! There is nothing to authenticate but the checkpoint itself, so anyone may connect: connections, bytes and times are
//! bounded. Behind TLS a client knows which witness it talks to; the cosignature says so in any case.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body, Bytes};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

#[cfg(test)]
mod tests;

use super::{REQUEST_BYTES_AT_MOST, Refused, Witness};
use crate::https;

/// The one path.
pub const ADD_CHECKPOINT: &str = "/add-checkpoint";
/// How tlog-witness marks the answer that tells a size.
pub const SIZE_TYPE: &str = "text/x.tlog.size";

/// Connections at once, in their handshake or after it. A vault needs one.
const CONNECTIONS_AT_MOST: usize = 256;
/// From connecting to the end of the handshake.
const HANDSHAKE_AT_MOST: Duration = Duration::from_secs(5);
/// How long a connection may be silent between requests, and a request's head take.
const HEAD_AT_MOST: Duration = Duration::from_secs(30);
/// How long a request's body may take.
const BODY_AT_MOST: Duration = Duration::from_secs(10);
/// How long requests under way may take to end at a stop.
const DRAIN_AT_MOST: Duration = Duration::from_secs(10);
/// After a failure to accept, which lack of descriptors brings: whoever has one shall end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A socket that listens.
pub struct Door {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Door {
    /// Listens on `address`; port 0 lets the system choose. With `tls`, nothing else is spoken.
    ///
    /// # Errors
    /// If the address can't be had.
    pub async fn bind(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, tls: tls.map(TlsAcceptor::from) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` is done; then nobody new comes in and requests under way end.
    pub async fn serve(self, witness: Arc<Witness>, stop: impl Future<Output = ()>) {
        self.serve_and_drain(witness, stop, DRAIN_AT_MOST).await;
    }

    async fn serve_and_drain(self, witness: Arc<Witness>, stop: impl Future<Output = ()>, drain_at_most: Duration) {
        let mut stop = pin!(stop);
        let places = Arc::new(Semaphore::new(CONNECTIONS_AT_MOST));
        let (tell, told) = watch::channel(());
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                // Only so that those that ended are not kept.
                Some(_) = connections.join_next() => continue,
                accepted = self.accept(&places) => accepted,
            };
            match accepted {
                Ok((tcp, place)) => {
                    // An answer is one small segment: it must not wait for an acknowledgement of the one before.
                    let _ = tcp.set_nodelay(true);
                    let (tls, witness, told) = (self.tls.clone(), Arc::clone(&witness), told.clone());
                    connections.spawn(async move {
                        admit(tcp, tls, HANDSHAKE_AT_MOST, witness, told).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting connections failed; trying again after a pause");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        drop(told);
        drop(tell);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(drain_at_most, drained).await.is_err() {
            tracing::warn!("connections that did not end in time were closed");
        }
    }

    /// The next connection, once there is a place for it: until then it waits in the system's queue.
    async fn accept(&self, places: &Arc<Semaphore>) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.expect("nobody closes it");
        let (tcp, _) = self.listener.accept().await?;
        Ok((tcp, place))
    }
}

async fn admit(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: Option<TlsAcceptor>,
    handshake_at_most: Duration,
    witness: Arc<Witness>,
    told: watch::Receiver<()>,
) {
    match tls {
        None => converse(stream, witness, told).await,
        Some(tls) => match tokio::time::timeout(handshake_at_most, tls.accept(stream)).await {
            Ok(Ok(stream)) => converse(stream, witness, told).await,
            Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
            Err(_) => tracing::debug!("a handshake took too long"),
        },
    }
}

pub(crate) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    witness: Arc<Witness>,
    mut told: watch::Receiver<()>,
) {
    let answer = service_fn(move |request| {
        let witness = Arc::clone(&witness);
        async move { Ok::<_, Infallible>(answer(witness, request, BODY_AT_MOST).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_AT_MOST)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // Nothing is ever sent: an error means that the sender is gone, which is the word to stop.
        _ = told.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer<B>(witness: Arc<Witness>, request: Request<B>, body_at_most: Duration) -> Response<String>
where
    B: Body<Data = Bytes> + Unpin,
{
    if request.uri().path() != ADD_CHECKPOINT {
        return text(StatusCode::NOT_FOUND, "there is only POST /add-checkpoint".to_owned());
    }
    if request.method() != Method::POST {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "add-checkpoint is a POST".to_owned());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return refusal;
    }
    let collected = tokio::time::timeout(body_at_most, https::collect(request.into_body(), REQUEST_BYTES_AT_MOST));
    let body = match collected.await {
        Ok(Ok(Some(body))) => body,
        Ok(Ok(None)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "a request has at most 256 KiB".to_owned()),
        Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the request's body broke off".to_owned()),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the request's body took too long".to_owned()),
    };
    // It waits for the disk, and for others who submit a checkpoint of the same log.
    let looked = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body)).await;
    match looked {
        Ok(Ok(line)) => respond(StatusCode::OK, "text/plain; charset=utf-8", line),
        Ok(Err(Refused::OtherSize(size))) => respond(StatusCode::CONFLICT, SIZE_TYPE, format!("{size}\n")),
        Ok(Err(refused)) => {
            tracing::warn!(status = refused.status(), %refused, "a checkpoint was not cosigned");
            let status = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            text(status, refused.to_string())
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the witness failed".to_owned()),
    }
}

fn text(status: StatusCode, said: String) -> Response<String> {
    respond(status, "text/plain; charset=utf-8", said + "\n")
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
