//! The listening socket: accepts, limits, performs handshakes and hands finished connections to the workers.
//!
//! Invariant: everything that a stranger can make us hold is bounded: handshakes in all, handshakes of one peer, the
//! time of each, and connections. Each refusal is reported once, with a fixed reason.
//!
//! The accept loop runs where [`Acceptor::run`] is awaited and does nothing slow. A connection moves to the runtime of
//! the worker that will serve it before the first byte is read, so that its handshake and all its later I/O are driven
//! there.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::config::{Config, build_server_config};
use super::connections::Connections;
use super::handshake::{self, Failed};
use super::io::{Connection, TlsIo};
use super::material::SetupError;
use crate::caller::Caller;

/// Connections that the kernel may hold for us while the accept loop is busy.
const BACKLOG: i32 = 1024;

/// TCP keepalive finds peers that vanished without a word; HTTP/2 pings find them sooner where they are on.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How long to leave `accept` alone after an error such as having no file descriptor left.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The listening socket, bound but not accepting yet.
pub struct Acceptor {
    listener: std::net::TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// One of those that serve connections: a runtime, and the queue on which it takes them.
#[derive(Clone)]
pub struct Worker {
    runtime: tokio::runtime::Handle,
    incoming: mpsc::Sender<TlsIo>,
}

/// A handshake that failed, or a connection that was refused before or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeFailure {
    /// A fixed word in snake case, fit for a metric's label.
    pub reason: &'static str,
    /// Where the connection came from.
    pub peer: SocketAddr,
    /// SHA-256 of the client's certificate, if the handshake came so far that one was seen.
    pub certificate_sha256: Option<[u8; 32]>,
}

/// What the accept loop and all handshakes share.
struct Shared {
    /// What new handshakes use. Whoever reloads certificates swaps it; handshakes that have begun keep theirs.
    server_config: Arc<ArcSwap<ServerConfig>>,
    handshake_timeout: Duration,
    connections: Connections,
    connection_permits: Arc<Semaphore>,
    handshakes: Handshakes,
}

/// How many handshakes are going on, in all and by peer.
struct Handshakes {
    limit: usize,
    limit_per_peer: usize,
    places: Mutex<Places>,
}

/// The places that are taken: by origin, the oldest first.
#[derive(Default)]
struct Places {
    taken: usize,
    next: u64,
    by_origin: HashMap<IpAddr, BTreeMap<u64, oneshot::Sender<()>>>,
}

/// One handshake's place in [`Handshakes`].
struct Place {
    shared: Arc<Shared>,
    origin: IpAddr,
    number: u64,
}

/// Done when a place has been given to somebody else.
type Evicted = oneshot::Receiver<()>;

/// The pauses after a run of errors from `accept`.
#[derive(Default)]
struct Pauses(Option<Duration>);

type Failures = Arc<dyn Fn(HandshakeFailure) + Send + Sync>;

impl Worker {
    /// A worker that serves on `runtime` what arrives on the other end of `incoming`. The queue's length is how many
    /// finished connections may wait for it.
    pub fn new(runtime: tokio::runtime::Handle, incoming: mpsc::Sender<TlsIo>) -> Self {
        Self { runtime, incoming }
    }

    /// A worker on the runtime that this is called from.
    pub fn here(incoming: mpsc::Sender<TlsIo>) -> Self {
        Self::new(tokio::runtime::Handle::current(), incoming)
    }
}

impl Acceptor {
    /// Reads certificates and keys, and binds the address. Nothing is accepted before [`Self::run`], though the kernel
    /// queues those who come.
    pub fn bind(config: &Config) -> Result<Self, SetupError> {
        config.check_limits()?;
        let server_config = build_server_config(config)?;
        let (listener, address) =
            listen(config.listen).map_err(|source| SetupError::Listen { listen: config.listen, source })?;
        let shared = Shared {
            server_config: Arc::new(ArcSwap::new(server_config)),
            handshake_timeout: config.handshake_timeout,
            connections: Connections::new(),
            connection_permits: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
            handshakes: Handshakes {
                limit: config.max_handshakes,
                limit_per_peer: config.max_handshakes_per_peer,
                places: Mutex::default(),
            },
        };
        Ok(Self { listener, address, shared: Arc::new(shared) })
    }

    /// The address that is listened on, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The register of open connections.
    pub fn connections(&self) -> Connections {
        self.shared.connections.clone()
    }

    /// What new handshakes use; storing another configuration in it is a reload.
    pub fn server_config(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.shared.server_config.clone()
    }

    /// Accepts until `shutdown` is done, then closes the listening socket and abandons unfinished handshakes. Open
    /// connections stay: draining them is the workers' affair, and [`Connections`] ends those that don't drain.
    ///
    /// # Panics
    /// If there is no worker.
    pub async fn run<F>(self, workers: Vec<Worker>, failures: F, shutdown: impl Future<Output = ()>) -> io::Result<()>
    where
        F: Fn(HandshakeFailure) + Send + Sync + 'static,
    {
        assert!(!workers.is_empty(), "an acceptor without workers would accept connections and drop them");
        let listener = TcpListener::from_std(self.listener)?;
        let failures: Failures = Arc::new(failures);
        // Dropped at the end of this function, which is how unfinished handshakes learn of it.
        let (_running, stopped) = watch::channel(());
        let mut next_worker = workers.iter().cycle();
        let mut pauses = Pauses::default();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    pauses = Pauses::default();
                    let worker = next_worker.next().expect("a cycle of at least one worker has no end");
                    self.shared.admit(tcp, peer, worker, &failures, stopped.clone());
                }
                Err(error) if concerns_one_peer(&error) => {}
                Err(error) => {
                    let pause = pauses.next();
                    tracing::warn!(%error, ?pause, "accepting connections failed; trying again after a pause");
                    tokio::select! {
                        () = &mut shutdown => return Ok(()),
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }
}

impl Shared {
    /// Starts the handshake of a new connection on its worker's runtime, if there is room for one more.
    fn admit(
        self: &Arc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        worker: &Worker,
        failures: &Failures,
        mut stopped: watch::Receiver<()>,
    ) {
        let refuse = |reason| failures(HandshakeFailure { reason, peer, certificate_sha256: None });
        // Asked before any work is spent on it. The permit itself is taken after the handshake.
        if self.connection_permits.available_permits() == 0 {
            return refuse("connection_limit");
        }
        let (place, evicted) = match self.take_place(peer.ip()) {
            Ok(taken) => taken,
            Err(reason) => return refuse(reason),
        };
        let Ok(tcp) = tcp.into_std() else {
            return refuse("io_error");
        };
        let (incoming, failures, expires) =
            (worker.incoming.clone(), failures.clone(), Instant::now() + self.handshake_timeout);
        worker.runtime.spawn(async move {
            let outcome = tokio::select! {
                biased;
                // Only ever an error: the accept loop has ended, and with it the interest in new connections.
                _ = stopped.changed() => return,
                outcome = place.shared.welcome(tcp, peer, incoming, expires) => outcome,
                // Only ever an error, too.
                _ = evicted => Err(HandshakeFailure { reason: "handshake_limit", peer, certificate_sha256: None }),
            };
            drop(place);
            if let Err(failure) = outcome {
                failures(failure);
            }
        });
    }

    /// One connection from its first byte to its worker's queue.
    async fn welcome(
        &self,
        tcp: std::net::TcpStream,
        peer: SocketAddr,
        incoming: mpsc::Sender<TlsIo>,
        expires: Instant,
    ) -> Result<(), HandshakeFailure> {
        let failure = |failed: Failed| HandshakeFailure {
            reason: failed.reason,
            peer,
            certificate_sha256: failed.certificate_sha256,
        };
        let early = |reason| failure(Failed { reason, certificate_sha256: None });
        let tcp = TcpStream::from_std(tcp).map_err(|_| early("io_error"))?;
        // Without these two the connection works, only less well.
        let _ = tcp.set_nodelay(true);
        let _ = SockRef::from(&tcp).set_tcp_keepalive(&keepalive());

        let expiry = tokio::time::sleep_until(expires);
        let server_config = self.server_config.load_full();
        let welcome = handshake::perform(tcp, server_config, expiry).await.map_err(failure)?;
        let certificate_sha256 = Some(welcome.leaf.sha256);
        let late = |reason| failure(Failed { reason, certificate_sha256 });

        let permit = self.connection_permits.clone().try_acquire_owned().map_err(|_| late("connection_limit"))?;
        let connection = Arc::new(Connection {
            caller: Arc::new(Caller::new(&welcome.leaf, peer)),
            exporter: welcome.exporter,
            key_exchange: welcome.key_exchange,
        });
        let registration = self.connections.register(connection.clone(), permit);
        let io = TlsIo::new(welcome.stream, connection, registration, expires);
        match tokio::time::timeout_at(expires, incoming.send(io)).await {
            // A worker that takes no more is shutting down; its acceptor is about to.
            Ok(Ok(()) | Err(_)) => Ok(()),
            Err(_) => Err(late("workers_busy")),
        }
    }

    fn take_place(self: &Arc<Self>, peer: IpAddr) -> Result<(Place, Evicted), &'static str> {
        let origin = origin(peer);
        let Handshakes { limit, limit_per_peer, places } = &self.handshakes;
        let mut places = places.lock();
        let own = places.by_origin.get(&origin).map_or(0, BTreeMap::len);
        if own >= *limit_per_peer {
            return Err("handshake_limit_of_peer");
        }
        if places.taken >= *limit && !places.evict_from_one_with_more_than(own + 1) {
            return Err("handshake_limit");
        }
        let (evict, evicted) = oneshot::channel();
        let number = places.next;
        places.next += 1;
        places.taken += 1;
        places.by_origin.entry(origin).or_default().insert(number, evict);
        Ok((Place { shared: self.clone(), origin, number }, evicted))
    }
}

impl Places {
    /// A full house must not be shut to everybody because a few origins fill it: whoever has most gives its oldest place
    /// up, as that one is the most likely to be silent. False if nobody has more than `few`.
    fn evict_from_one_with_more_than(&mut self, few: usize) -> bool {
        let Some((&origin, _)) =
            self.by_origin.iter().max_by_key(|(_, of_origin)| of_origin.len()).filter(|(_, most)| most.len() > few)
        else {
            return false;
        };
        let oldest =
            self.by_origin.get(&origin).and_then(|of_origin| of_origin.first_key_value()).map(|(number, _)| *number);
        oldest.is_some_and(|number| self.leave(origin, number))
    }

    /// Gives a place back. False if it was given to somebody else before. Dropping the sender tells whoever has it.
    fn leave(&mut self, origin: IpAddr, number: u64) -> bool {
        let Some(of_origin) = self.by_origin.get_mut(&origin) else { return false };
        let left = of_origin.remove(&number).is_some();
        if of_origin.is_empty() {
            self.by_origin.remove(&origin);
        }
        self.taken -= usize::from(left);
        left
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // If it had been evicted, there is nothing left to give back.
        let _ = self.shared.handshakes.places.lock().leave(self.origin, self.number);
    }
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.0.map_or(FIRST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        self.0 = Some(pause);
        pause
    }
}

fn listen(address: SocketAddr) -> io::Result<(std::net::TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = std::net::TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL)
}

/// Errors of `accept` that are about the connection that was to be accepted and say nothing of the next.
fn concerns_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Whom a peer's handshakes are counted against. One host can have every address of an IPv6 /64.
pub fn origin(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second() {
        let mut pauses = Pauses::default();
        let millis: Vec<u128> = (0..10).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(millis, [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
    }

    #[test]
    fn running_out_of_descriptors_is_not_one_peers_affair() {
        const EMFILE: i32 = 24;
        assert!(!concerns_one_peer(&io::Error::from_raw_os_error(EMFILE)));
        assert!(concerns_one_peer(&io::ErrorKind::ConnectionAborted.into()));
    }

    #[test]
    fn a_host_is_one_peer_with_all_its_addresses() {
        let origin_of = |text: &str| origin(text.parse().unwrap()).to_string();
        assert_eq!(origin_of("192.0.2.7"), "192.0.2.7");
        assert_eq!(origin_of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(origin_of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
