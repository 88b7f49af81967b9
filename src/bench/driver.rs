//! The client: two threads, each with half of the connections, that send calls and note how long each took.
//!
//! Client and servers share the machine, so the client does as little as it can: requests are encoded beforehand, replies
//! are looked into only now and then, and nothing lies between a call and its HTTP/2 connection. It is the same for the
//! vault and for the floor.

use super::load::{Load, Target};
use super::place::Place;
use super::{Error, io};
use crate::tls::client::Connector;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::bytes::{Buf, BufMut, Bytes};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// To each target.
pub(super) const CONNECTIONS: usize = 8;
const THREADS: usize = 2;
/// Of so many replies one is looked into.
const LOOKED_INTO: usize = 32;

/// The client's threads.
pub(super) struct Drivers {
    orders: Vec<mpsc::UnboundedSender<Order>>,
}

/// From when to when calls are counted. Calls begin before it, so that the first counted ones meet a server at work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub begin: Instant,
    pub end: Instant,
}

/// Work for one thread.
struct Order {
    load: Load,
    lanes: Vec<Lane>,
    done: oneshot::Sender<Result<Done, Error>>,
}

/// One caller, which always has one call in flight.
#[derive(Clone, Copy)]
struct Lane {
    connection: usize,
    /// The first request that it sends, and how many further the next one stands.
    first: usize,
    step: usize,
    until: Until,
}

#[derive(Clone, Copy)]
enum Until {
    End(Window),
    /// All requests have been sent once; the replies are kept.
    AllSent,
}

#[derive(Default)]
struct Done {
    durations: Vec<Duration>,
    replies: Vec<Bytes>,
}

/// One HTTP/2 connection.
#[derive(Clone)]
struct Wire(SendRequest<Body>);

type Caller = Grpc<Wire>;

impl Drivers {
    /// Connects all threads to both servers.
    pub(super) async fn connect(place: &Place, vault: SocketAddr, floor: SocketAddr) -> Result<Self, Error> {
        let mut orders = Vec::new();
        for number in 0..THREADS {
            let servers = Target::ALL.map(|target| match target {
                Target::Gateway => (place.connector("gateway"), vault),
                Target::Payments => (place.connector("payments"), vault),
                Target::Auditor => (place.connector("auditor"), vault),
                Target::Floor => (place.connector("gateway"), floor),
            });
            let (sender, receiver) = mpsc::unbounded_channel();
            let (tell, connected) = oneshot::channel();
            std::thread::Builder::new()
                .name(format!("bench-{number}"))
                .spawn(move || drive(servers, receiver, tell))
                .map_err(io("can't start a client's thread"))?;
            connected.await.map_err(|_| Error::Connect("a client's thread ended".to_owned()))??;
            orders.push(sender);
        }
        Ok(Self { orders })
    }

    /// Keeps `in_flight` calls going until the window's end. How long those took that ended in the window.
    pub(super) async fn measure(&self, load: &Load, in_flight: usize, window: Window) -> Result<Vec<Duration>, Error> {
        Ok(self.run(load, in_flight, Until::End(window)).await?.durations)
    }

    /// Sends each request once. The replies, in no particular order.
    pub(super) async fn collect(&self, load: &Load, in_flight: usize) -> Result<Vec<Bytes>, Error> {
        Ok(self.run(load, in_flight, Until::AllSent).await?.replies)
    }

    async fn run(&self, load: &Load, in_flight: usize, until: Until) -> Result<Done, Error> {
        let mut waiting = Vec::new();
        for (thread, orders) in self.orders.iter().enumerate() {
            let lane = |first| Lane { connection: first / THREADS, first, step: in_flight, until };
            let lanes: Vec<_> = (0..in_flight).filter(|first| first % THREADS == thread).map(lane).collect();
            let (done, outcome) = oneshot::channel();
            // A thread that has ended drops what tells of the outcome, and that is an error below.
            let _ = orders.send(Order { load: load.clone(), lanes, done });
            waiting.push(outcome);
        }
        let mut all = Done::default();
        for outcome in waiting {
            let gone = |_| Error::Connect("a client's thread ended".to_owned());
            all.add(outcome.await.map_err(gone)??);
        }
        Ok(all)
    }
}

impl Done {
    fn add(&mut self, mut other: Self) {
        self.durations.append(&mut other.durations);
        self.replies.append(&mut other.replies);
    }
}

// === a thread ===

fn drive(
    servers: [(Result<Connector, Error>, SocketAddr); Target::ALL.len()],
    mut orders: mpsc::UnboundedReceiver<Order>,
    connected: oneshot::Sender<Result<(), Error>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = connected.send(Err(io("can't start a client's runtime")(error)));
            return;
        }
    };
    runtime.block_on(async move {
        let callers = match connect_all(servers).await {
            Ok(callers) => callers,
            Err(error) => {
                let _ = connected.send(Err(error));
                return;
            }
        };
        // Whoever gave the order may have given up; then there is no next one either.
        let _ = connected.send(Ok(()));
        while let Some(order) = orders.recv().await {
            let outcome = carry_out(&callers[order.load.target as usize], &order.load, order.lanes).await;
            let _ = order.done.send(outcome);
        }
    });
}

async fn connect_all(
    servers: [(Result<Connector, Error>, SocketAddr); Target::ALL.len()],
) -> Result<Vec<Vec<Caller>>, Error> {
    let mut callers = Vec::new();
    for (connector, address) in servers {
        let connector = connector?;
        let mut own = Vec::new();
        for _ in 0..CONNECTIONS / THREADS {
            own.push(connect(&connector, address).await.map_err(|error| Error::Connect(error.to_string()))?);
        }
        callers.push(own);
    }
    Ok(callers)
}

async fn connect(connector: &Connector, server: SocketAddr) -> Result<Caller, Box<dyn std::error::Error>> {
    let stream = connector.connect(&server.ip().to_string(), server.port()).await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await?;
    // If it fails, so do the calls on it, and they are heard.
    tokio::spawn(connection);
    Ok(Grpc::with_origin(Wire(sender), Uri::try_from(format!("https://{server}"))?))
}

async fn carry_out(callers: &[Caller], load: &Load, lanes: Vec<Lane>) -> Result<Done, Error> {
    let load = Arc::new(load.clone());
    let mut running = JoinSet::new();
    for lane in lanes {
        let caller = callers[lane.connection % callers.len()].clone();
        running.spawn(lane.run(caller, Arc::clone(&load)));
    }
    let mut all = Done::default();
    while let Some(done) = running.join_next().await {
        let failed = |error: tokio::task::JoinError| Error::Call { call: load.name(), problem: error.to_string() };
        all.add(done.map_err(failed)??);
    }
    Ok(all)
}

impl Lane {
    async fn run(self, mut caller: Caller, load: Arc<Load>) -> Result<Done, Error> {
        let mut done = Done::default();
        for place in (self.first..).step_by(self.step) {
            let begin = Instant::now();
            match self.until {
                Until::End(window) if begin >= window.end => break,
                Until::AllSent if place >= load.requests.len() => break,
                _ => {}
            }
            let request = load.requests[place % load.requests.len()].clone();
            let reply = call(&mut caller, &load, request).await?;
            let end = Instant::now();
            if (place / self.step).is_multiple_of(LOOKED_INTO) && !load.expected.is_met_by(&reply) {
                return Err(failed(&load, "the reply is not as expected".to_owned()));
            }
            match self.until {
                Until::End(window) if end >= window.begin && end < window.end => done.durations.push(end - begin),
                Until::End(_) => {}
                Until::AllSent => done.replies.push(reply),
            }
        }
        Ok(done)
    }
}

async fn call(caller: &mut Caller, load: &Load, request: Bytes) -> Result<Bytes, Error> {
    caller.ready().await.map_err(|error| failed(load, error.to_string()))?;
    let reply = caller.unary(tonic::Request::new(request), load.path.clone(), Encoded).await;
    // The message, not the whole status: its details may have bytes of all kinds.
    reply
        .map(tonic::Response::into_inner)
        .map_err(|status| failed(load, format!("{:?}, {}", status.code(), status.message())))
}

fn failed(load: &Load, problem: String) -> Error {
    Error::Call { call: load.name(), problem }
}

impl tower::Service<Request<Body>> for Wire {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Messages that are encoded already, and replies that stay so.
#[derive(Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
