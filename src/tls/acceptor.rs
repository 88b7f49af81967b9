//! The listening socket: accepts, limits, performs handshakes and hands finished connections to the workers.
//!
//! Invariant: everything that a stranger can make us hold is bounded: handshakes in all, handshakes of one peer, the
//! time of each, and connections. Each refusal is reported once, with a fixed reason.
//!
//! The accept loop runs where [`Acceptor::run`] is awaited and does nothing slow. A connection moves to the runtime of
//! the worker that will serve it before the first byte is read, so that its handshake and all its later I/O are driven
//! there.

use std::cmp::Reverse;
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
use super::farewell;
use super::handshake::{self, Failed};
use super::io::{Connection, TlsIo};
use super::material::SetupError;
use super::waits::{Turns, Waits};
use crate::caller::Caller;

/// Connections that the kernel may hold for us while the accept loop is busy.
const BACKLOG: i32 = 1024;

/// TCP keepalive finds peers that vanished without a word; HTTP/2 pings find them sooner where they are on.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How long to leave `accept` alone after an error such as having no file descriptor left.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// So many connections may in a row be gone before they are accepted. Each takes its error with it; should one stay, the loop
/// must not turn for nothing.
const STRAYS_AT_MOST: u32 = 1024;

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
    turns: Arc<Turns>,
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
    connections_per_caller: usize,
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
    by_origin: HashMap<IpAddr, BTreeMap<u64, Taken>>,
}

/// A place that is taken.
struct Taken {
    since: Instant,
    /// Told why, when it is given to somebody else.
    evict: oneshot::Sender<&'static str>,
}

/// One handshake's place in [`Handshakes`].
struct Place {
    shared: Arc<Shared>,
    origin: IpAddr,
    number: u64,
}

/// Says why, when a place has been given to somebody else.
type Evicted = oneshot::Receiver<&'static str>;

/// The pauses after a run of errors from `accept`.
#[derive(Default)]
struct Pauses(Option<Duration>);

type Failures = Arc<dyn Fn(HandshakeFailure) + Send + Sync>;

impl Worker {
    /// A worker that serves on `runtime` what arrives on the other end of `incoming`. The queue's length is how many
    /// finished connections may wait for it.
    pub fn new(runtime: tokio::runtime::Handle, incoming: mpsc::Sender<TlsIo>) -> Self {
        let turns = Arc::new(Turns::default());
        runtime.spawn(Arc::clone(&turns).count());
        Self { runtime, incoming, turns }
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
            connections_per_caller: config.connections_per_caller(),
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
        let (mut pauses, mut strays) = (Pauses::default(), 0);
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    (pauses, strays) = (Pauses::default(), 0);
                    let worker = next_worker.next().expect("a cycle of at least one worker has no end");
                    self.shared.admit(tcp, peer, worker, &failures, stopped.clone());
                }
                Err(error) if concerns_one_peer(&error) && strays < STRAYS_AT_MOST => strays += 1,
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
        let (place, evicted) = self.take_place(peer.ip(), Instant::now());
        let Ok(tcp) = tcp.into_std() else {
            return refuse("io_error");
        };
        let (worker, failures, expires) = (worker.clone(), failures.clone(), Instant::now() + self.handshake_timeout);
        worker.runtime.clone().spawn(async move {
            let outcome = tokio::select! {
                biased;
                // Only ever an error: the accept loop has ended, and with it the interest in new connections.
                _ = stopped.changed() => return,
                outcome = place.shared.welcome(tcp, peer, worker, expires) => outcome,
                Ok(reason) = evicted => Err(HandshakeFailure { reason, peer, certificate_sha256: None }),
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
        worker: Worker,
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
        let taken = self.handshake_timeout.saturating_sub(expires.saturating_duration_since(Instant::now()));
        metrics::histogram!("cloakroom_handshake_seconds").record(taken);
        let certificate_sha256 = Some(welcome.leaf.sha256);
        let late = |reason| failure(Failed { reason, certificate_sha256 });

        let Ok(permit) = self.connection_permits.clone().try_acquire_owned() else {
            farewell::say(welcome.stream, expires).await;
            return Err(late("connection_limit"));
        };
        let (caller, waits) = (Arc::new(Caller::new(&welcome.leaf, peer)), Waits::on(Arc::clone(&worker.turns)));
        let connection = Arc::new(Connection::new(caller, welcome.exporter, welcome.key_exchange, waits));
        let Some(registration) = self.connections.register(connection.clone(), permit, self.connections_per_caller)
        else {
            farewell::say(welcome.stream, expires).await;
            return Err(late("connection_limit_of_caller"));
        };
        let io = TlsIo::new(welcome.stream, connection, registration, expires);
        match tokio::time::timeout_at(expires, worker.incoming.send(io)).await {
            // A worker that takes no more is shutting down; its acceptor is about to.
            Ok(Ok(()) | Err(_)) => Ok(()),
            Err(_) => Err(late("workers_busy")),
        }
    }

    /// A place for a newcomer. Where there is none left, somebody who has one gives it up: a good client has it for a
    /// moment only, so whoever is turned out is hardly ever a good one, while a newcomer may be.
    fn take_place(self: &Arc<Self>, peer: IpAddr, now: Instant) -> (Place, Evicted) {
        let origin = origin(peer);
        let Handshakes { limit, limit_per_peer, places } = &self.handshakes;
        let (evict, evicted) = oneshot::channel();
        let mut places = places.lock();
        if places.of(origin) >= *limit_per_peer {
            let oldest = places.oldest_of(origin);
            places.evict(oldest, "handshake_limit_of_peer");
        } else if places.taken >= *limit {
            let costliest = places.costliest(now);
            places.evict(costliest, "handshake_limit");
        }
        let number = places.take(origin, Taken { since: now, evict });
        (Place { shared: self.clone(), origin, number }, evicted)
    }
}

impl Places {
    fn of(&self, origin: IpAddr) -> usize {
        self.by_origin.get(&origin).map_or(0, BTreeMap::len)
    }

    fn take(&mut self, origin: IpAddr, place: Taken) -> u64 {
        let number = self.next;
        self.next += 1;
        self.taken += 1;
        self.by_origin.entry(origin).or_default().insert(number, place);
        number
    }

    fn oldest_of(&self, origin: IpAddr) -> Option<(IpAddr, u64)> {
        Some((origin, *self.by_origin.get(&origin)?.first_key_value()?.0))
    }

    /// The place that has been held for longest, counted as often as its origin has places.
    ///
    /// By time alone, a few origins that come again and again would turn out a good client before it is done; by number
    /// alone, a crowd of which each has one place would keep everybody out, and a fleet behind one address, which is quick,
    /// would lose its places to it.
    fn costliest(&self, now: Instant) -> Option<(IpAddr, u64)> {
        let cost = |places: &BTreeMap<u64, Taken>| {
            let (number, oldest) = places.first_key_value()?;
            let held = now.saturating_duration_since(oldest.since).as_nanos();
            // Of equal ones the first that came.
            Some((held.saturating_mul(places.len() as u128), Reverse(*number)))
        };
        let origins = self.by_origin.iter().filter_map(|(origin, places)| Some((cost(places)?, *origin)));
        origins.max_by_key(|(cost, _)| *cost).map(|((_, Reverse(number)), origin)| (origin, number))
    }

    /// Gives a place to whoever comes next.
    fn evict(&mut self, place: Option<(IpAddr, u64)>, reason: &'static str) {
        if let Some((origin, number)) = place
            && let Some(taken) = self.leave(origin, number)
        {
            // Whoever had it may have gone at this very moment.
            let _ = taken.evict.send(reason);
        }
    }

    /// Gives a place back. `None` if it was given to somebody else before.
    fn leave(&mut self, origin: IpAddr, number: u64) -> Option<Taken> {
        let of_origin = self.by_origin.get_mut(&origin)?;
        let left = of_origin.remove(&number);
        if of_origin.is_empty() {
            self.by_origin.remove(&origin);
        }
        self.taken -= usize::from(left.is_some());
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

/// Errors of `accept` that are about the connection that was to be accepted and say nothing of the next. Linux hands on what
/// had happened to it on the network (accept(2)).
fn concerns_one_peer(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const OF_ONE_PEER: [Errno; 13] = [
        Errno::CONNABORTED,
        Errno::CONNREFUSED,
        Errno::CONNRESET,
        Errno::INTR,
        Errno::TIMEDOUT,
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
    ];
    error.raw_os_error().is_some_and(|error| OF_ONE_PEER.iter().any(|one| one.raw_os_error() == error))
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
        const EPROTO: i32 = 71;
        const ECONNABORTED: i32 = 103;
        assert!(!concerns_one_peer(&io::Error::from_raw_os_error(EMFILE)));
        for error in [EPROTO, ECONNABORTED] {
            assert!(concerns_one_peer(&io::Error::from_raw_os_error(error)), "{error}");
        }
    }

    /// Places that came one after the other, a millisecond apart, each from the origin with this number.
    fn places(origins: impl IntoIterator<Item = u8>, begin: Instant) -> Places {
        let mut places = Places::default();
        for (number, origin) in (0..).zip(origins) {
            let (evict, _) = oneshot::channel();
            places.take(address(origin), Taken { since: begin + Duration::from_millis(number), evict });
        }
        places
    }

    fn address(origin: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, origin])
    }

    #[test]
    fn who_has_held_most_places_for_longest_makes_room_d_01() {
        let begin = Instant::now();
        let millis = |millis| begin + Duration::from_millis(millis);
        // A crowd, each with one: the oldest.
        assert_eq!(places(1..=100, begin).costliest(millis(100)), Some((address(1), 0)));
        // Some that wait for long, and a fleet behind one address that has just come.
        let mut fleet = places(1..=100, begin);
        for _ in 0..50 {
            let (evict, _) = oneshot::channel();
            fleet.take(address(200), Taken { since: millis(3_000), evict });
        }
        assert_eq!(fleet.costliest(millis(3_020)), Some((address(1), 0)));
        // Two that fill the house, with a good client who came before their latest: one of theirs.
        let few = places([1, 2].into_iter().cycle().take(99).chain([7]).chain([1]), begin);
        assert_eq!(few.costliest(millis(101)), Some((address(1), 0)));
        assert_eq!(few.oldest_of(address(7)), Some((address(7), 99)));
        assert_eq!(Places::default().costliest(begin), None);
    }

    #[test]
    fn a_place_is_given_back_once_d_01() {
        let mut places = places([1, 1, 2], Instant::now());
        let oldest = places.oldest_of(address(1));
        places.evict(oldest, "handshake_limit_of_peer");
        assert!(places.leave(address(1), 0).is_none(), "it was given to somebody else");
        assert!(places.leave(address(1), 1).is_some() && places.leave(address(2), 2).is_some());
        assert!(places.taken == 0 && places.by_origin.is_empty());
    }

    #[test]
    fn a_host_is_one_peer_with_all_its_addresses() {
        let origin_of = |text: &str| origin(text.parse().unwrap()).to_string();
        assert_eq!(origin_of("192.0.2.7"), "192.0.2.7");
        assert_eq!(origin_of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(origin_of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
