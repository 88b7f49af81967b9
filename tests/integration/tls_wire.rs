//! T-05 to T-08: what may come over a socket before anybody has shown a certificate, and chains that cost more to look at
//! than to send. All of it against the real vault, which must close each connection, stay small, and serve who may come in.
//!
//! What is random is drawn from a seed that is printed: `SEED=N` draws the same again.

use crate::forge::Dice;
use crate::harness::{Client, Home, Server};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

mod bombs;
mod hello;
mod openssl;
mod scanners;

/// A hang is a failure: a vault with these settings closes within a second.
const PATIENCE: Duration = Duration::from_mins(2);
/// Short, since many of these never finish a handshake.
const HANDSHAKE_TIMEOUT: &str = "1s";
/// Connections at once, below the limit for one address.
const AT_ONCE: usize = 48;
/// What the second of two equal runs may add to the memory. One that kept 100 KiB for each connection would be far above.
const GROWTH_AT_MOST: u64 = 32 << 20;

/// How a client goes on after what it has sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It waits. The vault closes, by itself or when time is over.
    Waits,
    /// It says that nothing more will come.
    Finishes,
    /// It is gone at once.
    Goes,
}

/// Bytes for the vault, and how they come.
struct Attack {
    what: String,
    /// Written one after the other, each by itself.
    parts: Vec<Vec<u8>>,
    end: End,
}

/// A vault that gives handshakes little time.
fn serve(home: &Home) -> Server {
    let mut command = home.serve_command();
    command.env("CLOAKROOM_SERVER__HANDSHAKE_TIMEOUT", HANDSHAKE_TIMEOUT);
    Server::launch(home, command).unwrap_or_else(|log| panic!("the vault did not start:\n{log}"))
}

/// Nothing of it has kept out who may come in, nor hurt who was in.
async fn good_callers_are_served(home: &Home, server: &Server, open: &Client) {
    open.tokenize("pan", &[b"4111111111111111"]).await;
    server.client(&home.identity("gateway")).await.tokenize("pan", &[b"4111111111111111"]).await;
    assert_eq!(server.get("/readyz").1, "ready\n");
    let log = server.log();
    assert!(!log.contains("panic") && !log.contains("ERROR"), "{log}");
}

/// Connects, sends, and waits until the vault has closed. What it answered.
fn attack(server: &Server, attack: &Attack) -> Vec<u8> {
    let mut tcp = TcpStream::connect(server.address).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    for part in &attack.parts {
        // It may have closed already, and that is right.
        if tcp.write_all(part).is_err() {
            break;
        }
    }
    match attack.end {
        End::Waits => {}
        End::Finishes => drop(tcp.shutdown(Shutdown::Write)),
        End::Goes => return Vec::new(),
    }
    read_to_end(&mut tcp, &attack.what)
}

/// A reset is an end as well: it may have closed before it had read all.
fn read_to_end(tcp: &mut TcpStream, what: &str) -> Vec<u8> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < PATIENCE, "{what}: the vault goes on answering");
        match tcp.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return answer,
            Err(error) => panic!("{what}: the vault did not close the connection: {error}"),
        }
    }
}

/// All of them, some at once. Gives how many were answered with an alert or anything else.
fn attack_all(server: &Server, attacks: &[Attack]) -> usize {
    let (next, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(one) = attacks.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let answer = attack(server, one);
                    assert!(!speaks_h2(&answer), "{}: the vault spoke HTTP/2 in clear", one.what);
                    answered.fetch_add(usize::from(!answer.is_empty()), Ordering::SeqCst);
                }
            });
        }
    });
    answered.into_inner()
}

/// Whether it begins like HTTP/2's SETTINGS frame.
fn speaks_h2(answer: &[u8]) -> bool {
    answer.len() >= 4 && answer[0] == 0 && answer[3] == 4
}

/// CPU time of all threads of a process that live.
pub fn cpu(pid: i32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let spent = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap());
    Duration::from_nanos(spent.map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap()).sum())
}

/// Memory that a process holds, and the most that it ever held.
pub fn memory(pid: i32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
    };
    (of("VmRSS:"), of("VmHWM:"))
}

pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

// === T-07 ===

#[tokio::test(flavor = "multi_thread")]
async fn whatever_bytes_come_the_connection_is_closed_t_07() {
    let home = Home::init();
    let server = serve(&home);
    let open = server.client(&home.identity("gateway")).await;
    let mut attacks = hello::named();
    let named = attacks.len();
    attacks.extend(hello::mutated(&mut Dice::seeded(), 300 - named.min(100)));
    assert!(attacks.len() >= 300, "{}", attacks.len());
    let mut held = Vec::new();
    let before = cpu(server.pid());
    for _ in 0..3 {
        let answered = tokio::task::block_in_place(|| attack_all(&server, &attacks));
        good_callers_are_served(&home, &server, &open).await;
        held.push((memory(server.pid()).0, answered));
    }
    let spent = cpu(server.pid()).saturating_sub(before).as_secs_f64() * 1e3 / (3 * attacks.len()) as f64;
    let (low, high) = (held[0].0, held[2].0);
    println!(
        "T-07: {} attacks ({named} with a name), three times, {:?} answered; {spent:.1} ms CPU each; memory {:.0} MiB after \
         the first round, {:.0} MiB after the third",
        attacks.len(),
        held.iter().map(|(_, answered)| answered).collect::<Vec<_>>(),
        mebibytes(low),
        mebibytes(high),
    );
    assert!(high <= low + GROWTH_AT_MOST, "it grew from {low} to {high} bytes");
    hello::goes_wrong_in_the_middle(&home, &server);
    good_callers_are_served(&home, &server, &open).await;
    server.stop();
}

// === T-06 ===

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_tls_1_3_and_h2_is_answered_t_06() {
    let home = Home::init();
    let server = serve(&home);
    let open = server.client(&home.identity("gateway")).await;
    for (what, bytes, alert) in hello::old_protocols() {
        let one = Attack { what: what.to_owned(), parts: vec![bytes], end: End::Waits };
        let answer = tokio::task::block_in_place(|| attack(&server, &one));
        assert_eq!(hello::alert(&answer), alert, "{what}: {}", hex::encode(&answer));
        good_callers_are_served(&home, &server, &open).await;
    }
    let tried = tokio::task::block_in_place(|| openssl::downgrades(&home, &server));
    good_callers_are_served(&home, &server, &open).await;
    println!(
        "T-06: {} hellos by hand and {tried} by openssl, none answered but with an alert",
        hello::old_protocols().len()
    );
    server.stop();
}

// === T-05 ===

#[tokio::test(flavor = "multi_thread")]
async fn openssl_gets_no_ticket_and_resumes_nothing_t_05() {
    let home = Home::init();
    let server = home.serve();
    let open = server.client(&home.identity("gateway")).await;
    tokio::task::block_in_place(|| openssl::no_ticket(&home, &server));
    tokio::task::block_in_place(|| openssl::a_foreign_ticket_is_refused(&home, &server));
    good_callers_are_served(&home, &server, &open).await;
    server.stop();
}

// === descriptors ===

/// Where few files may be open, strangers who connect and stay silent take none of those that the vault needs.
#[tokio::test(flavor = "multi_thread")]
async fn silent_strangers_leave_the_store_its_files() {
    let home = Home::init();
    let mut command = std::process::Command::new("bash");
    let serve = home.serve_command();
    command.args(["-c", "ulimit -n 400; exec \"$0\" \"$@\""]).arg(serve.get_program()).args(serve.get_args());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let server = Server::launch(&home, command).unwrap();
    assert!(server.log().contains("too few file descriptors"), "{}", server.log());
    let open = server.client(&home.identity("gateway")).await;
    let mut silent = Vec::new();
    for number in 0..600_u32 {
        // From several addresses, so that the limit for each of them keeps nobody out.
        let from = std::net::Ipv4Addr::from_bits(0x7f00_0900 + number % 8);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&server.address.into()).unwrap();
        silent.push(socket);
        if number % 50 == 0 {
            open.tokenize("pan", &[b"4111111111111111"]).await;
        }
    }
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    open.tokenize("pan", &[b"4111111111111111"]).await;
    // Whoever may come in does, though strangers have every place: one of those with most is turned out.
    server.client(&home.identity("gateway")).await.tokenize("pan", &[b"4111111111111111"]).await;
    // Each checkpoint is a new file, and so is what the store writes when it is full: a rise in either would be a failure.
    assert_eq!(server.metric("cloakroom_checkpoint_failures_total"), 0);
    let limits = ["handshake_limit", "handshake_limit_of_peer"]
        .map(|reason| server.metric(&format!("cloakroom_handshakes_refused_total{{reason=\"{reason}\"}}")));
    assert!(limits[0] > 0, "{limits:?}");
    println!(
        "descriptors: {descriptors} of 400 open with {} silent strangers, {limits:?} of them refused",
        silent.len()
    );
    assert!(descriptors < 300, "{descriptors}");
    drop(silent);
    good_callers_are_served_with_warnings(&server, &open).await;
    server.stop();
}

async fn good_callers_are_served_with_warnings(server: &Server, open: &Client) {
    open.tokenize("pan", &[b"4111111111111111"]).await;
    assert_eq!(server.get("/readyz").1, "ready\n");
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}
