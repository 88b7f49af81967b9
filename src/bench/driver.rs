//! The client: two threads, each with half of the connections, that send calls and note how long each took.
//!
//! Client and servers share the machine, so the client does as little as it can: requests are encoded beforehand, replies
//! are looked into only now and then, and nothing lies between a call and its HTTP/2 connection. It is the same for the
//! vault, for the floor, and for another product.

use super::load::{Care, Expected, Load, Target};
use super::pace::{self, Paced, Schedule};
use super::{Error, io, rest};
use crate::tls::client::Connector;
use http::uri::Authority;
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
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

pub(super) const THREADS: usize = 2;
/// Of so many replies one is looked into.
const LOOKED_INTO: usize = 32;
/// Who is told that there is too much to do comes back after this.
const AFTER_A_REFUSAL: Duration = Duration::from_millis(20);
/// Half a minute of it is enough.
const ASKED_AGAIN: usize = 1500;

/// The client's threads.
pub(super) struct Drivers {
    orders: Vec<mpsc::UnboundedSender<Order>>,
    /// To each target, over all threads.
    connections: [usize; Target::ALL.len()],
    turns: Turns,
}

/// A server, as whom to go there, and with how many connections: one for each connector.
pub(super) struct Door {
    pub target: Target,
    pub address: SocketAddr,
    pub connectors: Vec<Connector>,
}

/// Which connection a call goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turns {
    /// Each of those in flight has its own and keeps it.
    Kept,
    /// All connections in turn.
    Rotating,
}

/// From when to when calls are counted. Calls begin before it, so that the first counted ones meet a server at work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub begin: Instant,
    pub end: Instant,
}

/// Work for one thread.
enum Order {
    /// So many callers, each with one call in flight.
    Lanes { load: Load, lanes: Vec<Lane>, done: oneshot::Sender<Result<Done, Error>> },
    /// Calls when they are due, by their numbers.
    Pace { load: Load, schedule: Schedule, due: mpsc::UnboundedReceiver<usize>, done: oneshot::Sender<Paced> },
}

/// One caller, which always has one call in flight.
#[derive(Clone, Copy)]
struct Lane {
    connection: usize,
    turns: Turns,
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

/// What came of calls that were made again and again.
#[derive(Default)]
pub(super) struct Measured {
    pub durations: Vec<Duration>,
    /// Calls for which the server had too much to do; where each reply is looked into, wrong ones and errors too.
    pub failed: usize,
}

#[derive(Default)]
struct Done {
    measured: Measured,
    /// Each with the place of its request.
    replies: Vec<(usize, Bytes)>,
}

/// One HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Wire(SendRequest<Body>);

/// Who calls over a connection, with gRPC or without.
#[derive(Clone)]
pub(super) struct Caller {
    grpc: Grpc<Wire>,
    pub(super) wire: Wire,
    pub(super) server: Authority,
}

impl Drivers {
    /// Connects all threads to all doors, each with its part of the connections.
    pub(super) async fn connect(doors: &[Door], turns: Turns) -> Result<Self, Error> {
        let mut all = Self { orders: Vec::new(), connections: [0; Target::ALL.len()], turns };
        for door in doors {
            all.connections[door.target as usize] = door.connectors.len();
        }
        let mut connecting = Vec::new();
        for number in 0..THREADS {
            let own = |door: &Door| Door {
                target: door.target,
                address: door.address,
                connectors: door.connectors.iter().skip(number).step_by(THREADS).cloned().collect(),
            };
            let doors = doors.iter().map(own).collect();
            let (sender, receiver) = mpsc::unbounded_channel();
            let (tell, connected) = oneshot::channel();
            std::thread::Builder::new()
                .name(format!("bench-{number}"))
                .spawn(move || drive(doors, receiver, tell))
                .map_err(io("can't start a client's thread"))?;
            connecting.push(connected);
            all.orders.push(sender);
        }
        for connected in connecting {
            connected.await.map_err(gone)??;
        }
        Ok(all)
    }

    /// Keeps `in_flight` calls going until the window's end. How long those took that ended in the window.
    pub(super) async fn measure(&self, load: &Load, in_flight: usize, window: Window) -> Result<Measured, Error> {
        Ok(self.run(load, in_flight, Until::End(window)).await?.measured)
    }

    /// Sends each request once. The replies, in the requests' order.
    pub(super) async fn collect(&self, load: &Load, in_flight: usize) -> Result<Vec<Bytes>, Error> {
        let mut replies = self.run(load, in_flight, Until::AllSent).await?.replies;
        replies.sort_unstable_by_key(|(place, _)| *place);
        Ok(replies.into_iter().map(|(_, reply)| reply).collect())
    }

    /// Sends calls when they are due, whether or not those before them have been answered.
    pub(super) async fn keep_pace(&self, load: &Load, schedule: Schedule) -> Result<Paced, Error> {
        let (mut waiting, mut lanes) = (Vec::new(), Vec::new());
        for orders in &self.orders[..self.threads(load.target)] {
            let ((lane, due), (done, outcome)) = (mpsc::unbounded_channel(), oneshot::channel());
            let _ = orders.send(Order::Pace { load: load.clone(), schedule, due, done });
            lanes.push(lane);
            waiting.push(outcome);
        }
        // Ends with this future: it is held here.
        let _pacing = pace::begin(schedule, lanes)?;
        let mut all = Paced::default();
        for outcome in waiting {
            all.add(outcome.await.map_err(gone)?);
        }
        all.or_failed(load.name())
    }

    async fn run(&self, load: &Load, in_flight: usize, until: Until) -> Result<Done, Error> {
        let mut waiting = Vec::new();
        let threads = self.threads(load.target);
        for (thread, orders) in self.orders.iter().take(threads).enumerate() {
            let lane = |first| Lane { connection: first / threads, turns: self.turns, first, step: in_flight, until };
            let lanes: Vec<_> = (0..in_flight).filter(|first| first % threads == thread).map(lane).collect();
            let (done, outcome) = oneshot::channel();
            // A thread that has ended drops what tells of the outcome, and that is an error below.
            let _ = orders.send(Order::Lanes { load: load.clone(), lanes, done });
            waiting.push(outcome);
        }
        let mut all = Done::default();
        for outcome in waiting {
            all.add(outcome.await.map_err(gone)??);
        }
        Ok(all)
    }

    /// Those that have a connection there.
    fn threads(&self, target: Target) -> usize {
        self.connections[target as usize].clamp(1, self.orders.len())
    }
}

fn gone(_: oneshot::error::RecvError) -> Error {
    Error::Connect("a client's thread ended".to_owned())
}

impl Done {
    fn add(&mut self, mut other: Self) {
        self.measured.durations.append(&mut other.measured.durations);
        self.measured.failed += other.measured.failed;
        self.replies.append(&mut other.replies);
    }
}

// === a thread ===

fn drive(doors: Vec<Door>, mut orders: mpsc::UnboundedReceiver<Order>, connected: oneshot::Sender<Result<(), Error>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = connected.send(Err(io("can't start a client's runtime")(error)));
            return;
        }
    };
    runtime.block_on(async move {
        let callers = match connect_all(doors).await {
            Ok(callers) => callers,
            Err(error) => {
                let _ = connected.send(Err(error));
                return;
            }
        };
        // Whoever gave the order may have given up; then there is no next one either.
        let _ = connected.send(Ok(()));
        while let Some(order) = orders.recv().await {
            match order {
                Order::Lanes { load, lanes, done } => {
                    let outcome = carry_out(&callers[load.target as usize], load, lanes).await;
                    let _ = done.send(outcome);
                }
                Order::Pace { load, schedule, due, done } => {
                    let callers = &callers[load.target as usize];
                    let _ = done.send(pace::follow(callers, load, schedule, due).await);
                }
            }
        }
    });
}

/// The connections to each target.
async fn connect_all(doors: Vec<Door>) -> Result<[Arc<[Caller]>; Target::ALL.len()], Error> {
    let mut callers = Target::ALL.map(|_| Arc::from([]));
    for door in doors {
        let mut own = Vec::with_capacity(door.connectors.len());
        for connector in &door.connectors {
            let caller = connect(connector, door.address).await;
            own.push(caller.map_err(|error| Error::Connect(error.to_string()))?);
        }
        callers[door.target as usize] = own.into();
    }
    Ok(callers)
}

pub(super) async fn connect(connector: &Connector, server: SocketAddr) -> Result<Caller, Box<dyn std::error::Error>> {
    let stream = connector.connect(&server.ip().to_string(), server.port()).await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await?;
    // If it fails, so do the calls on it, and they are heard.
    tokio::spawn(connection);
    let wire = Wire(sender);
    let grpc = Grpc::with_origin(wire.clone(), Uri::try_from(format!("https://{server}"))?);
    Ok(Caller { grpc, wire, server: Authority::try_from(server.to_string())? })
}

async fn carry_out(callers: &Arc<[Caller]>, load: Load, lanes: Vec<Lane>) -> Result<Done, Error> {
    if callers.is_empty() && !lanes.is_empty() {
        return Err(Error::Connect(format!("there is no connection for {}", load.name())));
    }
    let load = Arc::new(load);
    let mut running = JoinSet::new();
    for lane in lanes {
        running.spawn(lane.run(Arc::clone(callers), Arc::clone(&load)));
    }
    let mut all = Done::default();
    while let Some(done) = running.join_next().await {
        let failed = |error: tokio::task::JoinError| Error::Call { call: load.name(), problem: error.to_string() };
        all.add(done.map_err(failed)??);
    }
    Ok(all)
}

impl Lane {
    async fn run(self, callers: Arc<[Caller]>, load: Arc<Load>) -> Result<Done, Error> {
        let mut done = Done::default();
        let mut caller = callers[self.connection % callers.len()].clone();
        for (turn, place) in (self.first..).step_by(self.step).enumerate() {
            if self.turns == Turns::Rotating {
                // Neighbours begin at neighbouring connections, so a round of all of them is as long as the others'.
                caller = callers[(self.connection + turn * self.step / THREADS) % callers.len()].clone();
            }
            let begin = Instant::now();
            match self.until {
                Until::End(window) if begin >= window.end => break,
                Until::AllSent if place >= load.requests.len() => break,
                _ => {}
            }
            let looked_into = load.care == Care::Each || turn.is_multiple_of(LOOKED_INTO);
            let reply = match (exchange(&mut caller, &load, place, looked_into).await, self.until) {
                (Err(error), Until::End(_)) if load.counts(&error) => {
                    done.measured.failed += 1;
                    tokio::time::sleep(AFTER_A_REFUSAL).await;
                    continue;
                }
                (Err(Error::Refused { .. }), Until::AllSent) => insist(&mut caller, &load, place).await?,
                (reply, _) => reply?,
            };
            let end = Instant::now();
            match self.until {
                Until::End(window) if end >= window.begin && end < window.end => {
                    done.measured.durations.push(end - begin);
                }
                Until::End(_) => {}
                Until::AllSent => done.replies.push((place, reply)),
            }
        }
        Ok(done)
    }
}

/// Asks again until it is served, as a caller would who has to.
async fn insist(caller: &mut Caller, load: &Load, place: usize) -> Result<Bytes, Error> {
    for _ in 0..ASKED_AGAIN {
        tokio::time::sleep(AFTER_A_REFUSAL).await;
        match exchange(caller, load, place, true).await {
            Err(Error::Refused { .. }) => {}
            reply => return reply,
        }
    }
    Err(Error::Refused { call: load.name() })
}

/// Sends the request at this place and waits for its reply.
pub(super) async fn exchange(
    caller: &mut Caller,
    load: &Load,
    place: usize,
    looked_into: bool,
) -> Result<Bytes, Error> {
    let request = load.requests[place % load.requests.len()].clone();
    if let Expected::Rest(rest) = &load.expected {
        return rest::exchange(caller, rest, place, request, looked_into).await;
    }
    let caller = &mut caller.grpc;
    caller.ready().await.map_err(|error| failed(load, error.to_string()))?;
    let reply = caller.unary(tonic::Request::new(request), load.path.clone(), Encoded).await;
    // The message, not the whole status: its details may have bytes of all kinds.
    let told = |status: Status| match status.code() {
        Code::ResourceExhausted => Error::Refused { call: load.name() },
        code => failed(load, format!("{code:?}, {}", status.message())),
    };
    let reply = reply.map(tonic::Response::into_inner).map_err(told)?;
    if looked_into && !load.expected.is_met_by(&reply) {
        return Err(failed(load, "the reply is not as expected".to_owned()));
    }
    Ok(reply)
}

fn failed(load: &Load, problem: String) -> Error {
    Error::Call { call: load.name(), problem }
}

impl Wire {
    /// Sends a request when the connection can take it.
    pub(super) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }
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
