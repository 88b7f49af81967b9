//! The network threads: one single-threaded runtime for each core, each serving its own connections.
//!
//! A commit's callers are woken by their own thread (see `ledger::Worker`), and a connection never moves between threads.
//! That this is so is decided here and nowhere else.

use super::direct::Direct;
use super::{Error, until};
use crate::config;
use crate::grpc::{AuditDoor, Guard, Lag, MESSAGE_BYTES_AT_MOST, PROBE_BYTES_AT_MOST, TokenDoor};
use crate::ledger;
use crate::proto::v1::audit_service_server::AuditServiceServer;
use crate::proto::v1::token_service_server::TokenServiceServer;
use crate::tls::{self, TlsIo};
use http::{Request, Response};
use std::convert::Infallible;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tower::Service;
use tower::layer::util::{Identity, Stack};

/// Connections that may wait for a busy thread.
const WAITING_CONNECTIONS: usize = 64;
/// Of a request's headers.
const HEADER_BYTES_AT_MOST: u32 = 16 * 1024;
/// Streams that a peer may open and reset before it is cut off (CVE-2023-44487 and its kind).
const RESETS_AT_MOST: usize = 64;
/// Streams that a peer may make this side reset before it is cut off (CVE-2025-8671); the library's default is none.
const LOCAL_RESETS_AT_MOST: usize = 1024;

/// What a peer may send on one stream, and on a connection, before it is read.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// The least that HTTP/2 allows.
const FRAME_BYTES_AT_MOST: u32 = 16 * 1024;

/// Twice as long as a caller waits for its commit.
const LAST_OPERATIONS_AT_MOST: Duration = super::COMMIT_PATIENCE.saturating_mul(2);

/// The network threads.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    doors: Vec<tls::Worker>,
}

/// The services behind the door. Every thread has a clone of each.
pub struct Doors {
    /// Tokens.
    pub token: TokenDoor,
    /// The log.
    pub audit: AuditDoor,
    /// `grpc.health.v1`.
    pub health: HealthServer<HealthService>,
}

/// Starts them. They end when `stopped` says so and their connections have drained.
pub fn start(
    config: &config::Server,
    doors: &Doors,
    guard: &Guard,
    stopped: &watch::Receiver<bool>,
) -> Result<Workers, Error> {
    start_each(config, stopped, || {
        let lag = Lag::new();
        let guard = guard.of_thread(Arc::clone(&lag));
        let (routes, vault) = (routes(config, doors, &guard)?, Arc::clone(guard.vault()));
        Ok(move |incoming, stopped| async move {
            tokio::spawn(lag.watch());
            let served = routes.serve_with_incoming_shutdown(incoming, stopped).await;
            // Operations whose callers have gone would end with the thread's runtime, half-way. Each ends by itself: this only
            // bounds a hang.
            let _ = tokio::time::timeout(LAST_OPERATIONS_AT_MOST, vault.idle()).await;
            served
        })
    })
}

/// Starts them with `service` and nothing else on them: what the threads and the door cost by themselves.
pub fn start_bare<S>(config: &config::Server, service: &S, stopped: &watch::Receiver<bool>) -> Result<Workers, Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    start_each(config, stopped, || {
        let routes = limited(config).add_service(service.clone());
        Ok(move |incoming, stopped| async move { routes.serve_with_incoming_shutdown(incoming, stopped).await })
    })
}

fn start_each<S, F>(
    config: &config::Server,
    stopped: &watch::Receiver<bool>,
    server: impl Fn() -> Result<S, Error>,
) -> Result<Workers, Error>
where
    S: FnOnce(Incoming, Stop) -> F + Send + 'static,
    F: Future<Output = Result<(), tonic::transport::Error>>,
{
    let count = match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let mut workers = Workers { threads: Vec::new(), doors: Vec::new() };
    for number in 0..count {
        let (thread, door) = worker(number, stopped.clone(), server()?)?;
        workers.threads.push(thread);
        workers.doors.push(door);
    }
    Ok(workers)
}

impl Workers {
    /// Where the acceptor hands over connections.
    pub fn doors(&self) -> Vec<tls::Worker> {
        self.doors.clone()
    }

    /// Waits for their end.
    pub fn join(self) {
        for thread in self.threads {
            // A panic has been logged by the panic hook; the others still have to end.
            let _ = thread.join();
        }
    }
}

/// Where one can't be had.
const NO_THREAD: &str =
    "could not start a thread of the network: look at the limits (LimitNOFILE, LimitNPROC, TasksMax)";

/// One thread with its runtime, serving what arrives.
pub(super) fn worker<F>(
    number: usize,
    stopped: watch::Receiver<bool>,
    serve: impl FnOnce(Incoming, Stop) -> F + Send + 'static,
) -> Result<(JoinHandle<()>, tls::Worker), Error>
where
    F: Future<Output = Result<(), tonic::transport::Error>>,
{
    let (sender, incoming) = mpsc::channel::<TlsIo>(WAITING_CONNECTIONS);
    let (tell, runtime) = std::sync::mpsc::sync_channel(1);
    let body = move || {
        // The receiver is gone only if the server failed to start.
        let runtime = match super::runtime(NO_THREAD) {
            Ok(runtime) => {
                let _ = tell.send(Ok(runtime.handle().clone()));
                runtime
            }
            Err(error) => {
                let _ = tell.send(Err(error));
                return;
            }
        };
        runtime.block_on(async move {
            tokio::spawn(ledger::Worker::register().run());
            let incoming: Incoming = Box::pin(ReceiverStream::new(incoming).map(Ok));
            if let Err(error) = serve(incoming, Box::pin(until(stopped))).await {
                tracing::error!(%error, "a network thread ended");
            }
        });
    };
    let failed = |error| Error::Io { what: NO_THREAD, error };
    let thread = std::thread::Builder::new().name(format!("network-{number}")).spawn(body).map_err(failed)?;
    let runtime = runtime.recv().map_err(|error| failed(std::io::Error::other(error)))??;
    Ok((thread, tls::Worker::new(runtime, sender)))
}

/// Connections as tonic takes them.
pub(super) type Incoming = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<TlsIo, Infallible>> + Send>>;

/// Done when the connections are to drain.
type Stop = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// What each call passes before the router, outermost last.
type Layers = Stack<Direct, Stack<Guard, Identity>>;

/// A server with every limit set: the library's defaults are partly "none". What it has none for is bounded below it
/// (`tls::frames`: PING, SETTINGS and their kind) and beside it (`tls::waits`: who never takes a reply).
pub(super) fn limited(config: &config::Server) -> Server {
    let server = Server::builder()
        .max_concurrent_streams(config.max_concurrent_streams)
        .concurrency_limit_per_connection(config.max_concurrent_streams as usize)
        .http2_keepalive_interval(Some(config.keepalive_interval))
        .http2_keepalive_timeout(Some(config.keepalive_timeout))
        .http2_max_pending_accept_reset_streams(Some(RESETS_AT_MOST))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS_AT_MOST))
        .http2_max_header_list_size(HEADER_BYTES_AT_MOST)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_adaptive_window(Some(false))
        .max_frame_size(FRAME_BYTES_AT_MOST)
        .accept_http1(false);
    match config.max_connection_age {
        // Without a grace period: with one, this version of tonic cuts connections off instead of telling them to go.
        Some(age) => server.max_connection_age(age),
        None => server,
    }
}

fn routes(config: &config::Server, doors: &Doors, guard: &Guard) -> Result<Router<Layers>, Error> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::Io { what: "can't serve reflection", error: std::io::Error::other(error) })?
        .max_decoding_message_size(PROBE_BYTES_AT_MOST);
    let token = TokenServiceServer::new(doors.token.clone())
        .max_decoding_message_size(MESSAGE_BYTES_AT_MOST)
        .max_encoding_message_size(MESSAGE_BYTES_AT_MOST);
    let audit = AuditServiceServer::new(doors.audit.clone())
        .max_decoding_message_size(MESSAGE_BYTES_AT_MOST)
        .max_encoding_message_size(MESSAGE_BYTES_AT_MOST);
    Ok(limited(config)
        .layer(guard.clone())
        .layer(Direct(token))
        .add_service(doors.health.clone().max_decoding_message_size(PROBE_BYTES_AT_MOST))
        .add_service(reflection)
        .add_service(audit))
}
