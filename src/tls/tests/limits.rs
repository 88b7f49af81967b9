//! What a stranger can't make us hold, and how what is open is closed.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::door::{Door, PAYMENTS};
use crate::tls::{Acceptor, TlsIo, Worker, handshake};

/// Time is over at once: whoever has not sent everything by then is told off, however far it came.
#[tokio::test]
async fn a_handshake_ends_when_its_time_is_over_t_07() {
    let door = Door::open().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for begun in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc]] {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(begun).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let outcome = handshake::perform(server, door.server_config.load_full(), std::future::ready(())).await;
        let failed = outcome.err().expect("no handshake");
        assert_eq!((failed.reason, failed.certificate_sha256), ("handshake_timeout", None));
        assert!(client.read_to_end(&mut Vec::new()).await.is_ok_and(|read| read == 0), "closed without a word");
    }
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn the_acceptor_gives_a_handshake_only_so_long_t_07() {
    let mut door = Door::open_with(|config| config.handshake_timeout = Duration::from_millis(400)).await;
    let mut silent = TcpStream::connect(door.address).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    let failure = door.failure().await;
    assert_eq!((failure.reason, failure.peer), ("handshake_timeout", silent.local_addr().unwrap()));
    door.is_open_to_good_clients().await;
}

/// Who has come in and then says nothing, or not enough, would otherwise keep its place for ever.
#[tokio::test]
async fn a_client_that_never_begins_is_closed() {
    let door = Door::open_with(|config| config.handshake_timeout = Duration::from_millis(400)).await;
    let credentials = door.a.client(PAYMENTS);
    for begun in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let mut guest = door.visit(&credentials).await;
        guest.stream.write_all(begun).await.unwrap();
        let mut rest = Vec::new();
        // Closed without a word of TLS; what was sent may come back before.
        let _ = guest.stream.read_to_end(&mut rest).await;
        assert_eq!(rest, begun);
        door.connections.drained().await;
    }
    // Who has begun may be silent for longer than that: this one is asked only after the others have been closed.
    let mut guest = door.visit(&credentials).await;
    guest.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    guest.stream.read_exact(&mut [0; 24]).await.unwrap();
    let silent = door.visit(&credentials).await;
    let mut silent = silent.stream;
    let _ = silent.read_to_end(&mut Vec::new()).await;
    guest.is_served().await;
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn connections_are_limited_and_places_come_back() {
    let mut door = Door::open_with(|config| {
        config.max_connections = 2;
        config.max_connections_per_caller = 2;
    })
    .await;
    let credentials = door.a.client(PAYMENTS);
    let guests = [door.visit(&credentials).await, door.visit(&credentials).await];
    assert_eq!(door.connections.open(), 2);
    let (own, outcome) = door.knock(door.client_config(Some(&credentials))).await;
    assert!(outcome.is_err());
    let failure = door.failure().await;
    assert_eq!((failure.reason, failure.peer), ("connection_limit", own));
    for mut guest in guests {
        guest.is_served().await;
    }
    door.connections.drained().await;
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn handshakes_of_one_peer_are_limited() {
    let mut door = Door::open_with(|config| config.max_handshakes_per_peer = 2).await;
    handshakes_run_out(&mut door, "handshake_limit_of_peer").await;
}

#[tokio::test]
async fn handshakes_are_limited_in_all() {
    let mut door = Door::open_with(|config| config.max_handshakes = 2).await;
    handshakes_run_out(&mut door, "handshake_limit").await;
}

/// Those who have most make room for those who have none.
#[tokio::test]
async fn a_few_who_fill_the_house_do_not_shut_it() {
    let mut door = Door::open_with(|config| config.max_handshakes = 8).await;
    let mut silent = Vec::new();
    for last in [1, 1, 1, 1, 1, 2, 2, 2] {
        silent.push(silent_from(last, &door).await);
    }
    // Each good client takes a place for a moment, and whoever is silent for longest among those with most loses it.
    for number in 0..3 {
        door.visit(&door.a.client(PAYMENTS)).await.is_served().await;
        let failure = door.failure().await;
        assert_eq!((failure.reason, failure.peer), ("handshake_limit", silent[number].local_addr().unwrap()));
        assert_eq!(silent[number].read(&mut [0]).await.unwrap(), 0);
        silent.push(silent_from(1, &door).await);
    }
    door.is_open_to_good_clients().await;
}

/// A crowd of which each has one place does not shut it either: whoever has had its place for longest loses it.
#[tokio::test]
async fn a_crowd_of_which_each_has_one_place_does_not_shut_the_house_d_01() {
    let mut door = Door::open_with(|config| config.max_handshakes = 2).await;
    let mut silent = [silent_from(1, &door).await, silent_from(2, &door).await];
    for longest in &mut silent {
        door.visit(&door.a.client(PAYMENTS)).await.is_served().await;
        let failure = door.failure().await;
        assert_eq!((failure.reason, failure.peer), ("handshake_limit", longest.local_addr().unwrap()));
        assert_eq!(longest.read(&mut [0]).await.unwrap(), 0);
        *longest = silent_from(3, &door).await;
    }
    drop(silent);
    for _ in 0..2 {
        assert_eq!(door.failure().await.reason, "closed_early");
    }
    door.is_open_to_good_clients().await;
}

/// One caller has its share of the connections, whatever certificate it shows, and the others have the rest.
#[tokio::test]
async fn one_caller_can_not_have_all_connections() {
    let mut door = Door::open_with(|config| config.max_connections = 5).await;
    let guests = [door.visit(&door.a.client(PAYMENTS)).await, door.visit(&door.a.client(PAYMENTS)).await];
    let third = door.a.client(PAYMENTS);
    let mut refused = door.stream(&third).await;
    let mut said = Vec::new();
    refused.read_to_end(&mut said).await.unwrap();
    // SETTINGS, then GOAWAY.
    assert_eq!((said[3], said[12]), (4, 7));
    assert!(said.ends_with(b"too many connections"));
    drop(refused);
    let failure = door.failure().await;
    assert_eq!((failure.reason, failure.certificate_sha256), ("connection_limit_of_caller", Some(third.sha256())));
    let mut other = door.visit(&door.b.client("spiffe://b.example/gateway")).await;
    other.is_served().await;
    for mut guest in guests {
        guest.is_served().await;
    }
    drop(other);
    door.connections.drained().await;
    door.is_open_to_good_clients().await;
}

/// Connects from an address of its own, and says nothing.
async fn silent_from(last: u8, door: &Door) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 11, last], 0))).unwrap();
    socket.connect(door.address).await.unwrap()
}

/// Two silent clients have both places. They take nothing from the places of connections, and the older one gives its place
/// to whoever comes.
async fn handshakes_run_out(door: &mut Door, reason: &str) {
    let mut guest = door.visit(&door.a.client(PAYMENTS)).await;
    let mut silent = [TcpStream::connect(door.address).await.unwrap(), TcpStream::connect(door.address).await.unwrap()];
    door.visit(&door.a.client(PAYMENTS)).await.is_served().await;
    let failure = door.failure().await;
    assert_eq!((failure.reason, failure.peer), (reason, silent[0].local_addr().unwrap()));
    assert_eq!(silent[0].read(&mut [0]).await.unwrap(), 0);
    guest.is_served().await;
    drop(silent);
    assert_eq!(door.failure().await.reason, "closed_early");
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn chosen_connections_can_be_closed_and_others_stay() {
    let door = Door::open().await;
    let mut payments = door.visit(&door.a.client(PAYMENTS)).await;
    let mut gateway = door.visit(&door.b.client("spiffe://b.example/gateway")).await;
    assert_eq!(door.connections.close_where(|connection| connection.caller.id.trust_domain() == "b.example"), 1);
    assert!(gateway.echo().await.is_err());
    payments.is_served().await;
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn shutdown_closes_the_listener_and_leaves_connections_to_drain() {
    let mut door = Door::open().await;
    let mut guest = door.visit(&door.a.client(PAYMENTS)).await;
    let mut unfinished = TcpStream::connect(door.address).await.unwrap();
    // Served after the unfinished one was accepted, since they are accepted in turn.
    drop(door.visit(&door.a.client(PAYMENTS)).await);
    door.stop.take().unwrap().send(()).unwrap();
    (&mut door.running).await.unwrap().unwrap();
    assert!(TcpStream::connect(door.address).await.is_err(), "nobody listens");
    assert_eq!(unfinished.read(&mut [0]).await.unwrap(), 0, "the unfinished handshake is abandoned");
    assert!(door.failures.recv().await.is_none(), "and not reported as a failure");
    guest.is_served().await;
    assert!(door.connections.close_all() >= 1);
    door.connections.drained().await;
    assert!(guest.echo().await.is_err());
}

/// Each worker has a thread and a runtime of its own, as in the server; connections go round them.
#[tokio::test]
async fn workers_take_turns_on_their_own_runtimes() {
    let mut door = Door::open().await;
    door.stop.take().unwrap().send(()).unwrap();
    let acceptor = Acceptor::bind(&door.config).unwrap();
    door.address = acceptor.local_addr();
    let (took, mut taken) = mpsc::unbounded_channel();
    let workers: Vec<Worker> = ["first", "second"].map(|name| worker_on_its_own_thread(name, took.clone())).into();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(acceptor.run(workers, |_| {}, async { stopped.await.unwrap_or(()) }));
    let credentials = door.a.client(PAYMENTS);
    for expected in ["first", "second", "first", "second"] {
        door.visit(&credentials).await;
        assert_eq!(taken.recv().await, Some(expected));
    }
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

/// The thread ends when the acceptor has dropped the worker's queue.
fn worker_on_its_own_thread(name: &'static str, took: mpsc::UnboundedSender<&'static str>) -> Worker {
    let (incoming, mut queue) = mpsc::channel::<TlsIo>(1);
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        send.send(runtime.handle().clone()).unwrap();
        runtime.block_on(async {
            while let Some(mut io) = queue.recv().await {
                took.send(name).unwrap();
                io.write_all(b"welcome\n").await.unwrap();
                io.flush().await.unwrap();
            }
        });
    });
    Worker::new(receive.recv().unwrap(), incoming)
}
