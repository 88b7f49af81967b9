//! D-01: connections that never come to anything.

use super::raw::{ENHANCE_YOUR_CALM, PREFACE, Raw, handshake};
use super::{Arena, PATIENCE};
use crate::harness::{Identity, Server, eventually};
use cloakroom::proto::v1;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// For each connection.
const BYTES_AT_MOST: u64 = 64 << 10;
/// What the vault's memory may grow by besides, with good callers at work.
const SLACK: u64 = 16 << 20;
/// Addresses that they come from.
const ORIGINS: u32 = 64;

/// How far a connection goes beyond a first byte before it falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The whole handshake.
    TheHandshake,
    /// And the preface of HTTP/2.
    ThePreface,
}

/// A connection of one kind, held until the vault closes it. How long that was.
async fn hold(server: SocketAddr, number: u32) -> f64 {
    let socket = TcpSocket::new_v4().unwrap();
    let from = Ipv4Addr::from_bits(0x7f00_1e00 + number % ORIGINS);
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let begin = Instant::now();
    let mut tcp = socket.connect(server).await.unwrap();
    // It may be closed at any time, which is what is wanted.
    let _ = tcp.write_all(&[22]).await;
    until_closed(&mut tcp).await;
    begin.elapsed().as_secs_f64()
}

async fn until_closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut buffer = [0; 4096];
    let reading = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(PATIENCE, reading).await.expect("the vault closes it");
}

async fn hold_inside(server: &Server, identity: &Identity, until: Until) -> f64 {
    let begin = Instant::now();
    let Ok(mut tls) = handshake(server, identity).await else { return 0.0 };
    if until == Until::ThePreface {
        let _ = tls.write_all(PREFACE).await;
        let _ = tls.flush().await;
    }
    until_closed(&mut tls).await;
    begin.elapsed().as_secs_f64()
}

async fn slow(arena: &mut Arena, strangers: u32, inside: u32) {
    let (server, identity) = (arena.target(), arena.home.identity("operator"));
    let address = server.address;
    let attack = async {
        let mut held = JoinSet::new();
        for number in 0..strangers {
            held.spawn(hold(address, number));
        }
        // Meanwhile a good client that is not inside yet comes in.
        for _ in 0..5 {
            server.client(&identity).await;
        }
        held.join_all().await
    };
    let (took, toll) = arena.endures(&format!("D-01: {strangers} connections with a byte each"), attack).await;
    report(&took);
    let bound = SLACK + u64::from(strangers) * BYTES_AT_MOST;
    assert!(toll.growth < bound, "{} of {bound}", toll.growth);
    for until in [Until::TheHandshake, Until::ThePreface] {
        let (server, identity) = (arena.target(), arena.home.identity("operator"));
        let attack = async {
            let mut held = JoinSet::new();
            for _ in 0..inside {
                let (server, identity) = (std::sync::Arc::clone(&server), identity.clone());
                held.spawn(async move { hold_inside(&server, &identity, until).await });
            }
            held.join_all().await
        };
        let (took, toll) = arena.endures(&format!("D-01: {inside} connections that end at {until:?}"), attack).await;
        report(&took);
        let bound = SLACK + u64::from(inside) * BYTES_AT_MOST;
        assert!(toll.growth < bound, "{} of {bound}", toll.growth);
    }
    let refused = |reason: &str| arena.metric(&format!("cloakroom_handshakes_refused_total{{reason=\"{reason}\"}}"));
    let reasons = ["handshake_timeout", "handshake_limit", "handshake_limit_of_peer", "connection_limit_of_caller"];
    println!("D-01: {:?}", reasons.map(|reason| (reason, refused(reason))));
}

fn report(took: &[f64]) {
    let (sum, most) = (took.iter().sum::<f64>(), took.iter().copied().fold(0.0, f64::max));
    println!("D-01: {} closed, after {:.2} s on average, {most:.2} s at the most", took.len(), sum / took.len() as f64);
}

/// All of them together, and none keeps anybody out.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_to_nothing_are_closed_d_01() {
    let mut arena = Arena::open(|command| {
        command.env("CLOAKROOM_SERVER__HANDSHAKE_TIMEOUT", "1s");
        command.env("CLOAKROOM_SERVER__KEEPALIVE_INTERVAL", "1s").env("CLOAKROOM_SERVER__KEEPALIVE_TIMEOUT", "1s");
    })
    .await;
    slow(&mut arena, 1_500, 200).await;
    arena.close().await;
}

/// With the time for handshakes that holds if nobody says otherwise.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: D-01 holds five thousand connections"]
async fn five_thousand_connections_that_come_to_nothing_are_closed_d_01() {
    let mut arena = Arena::open(|command| {
        command.env("CLOAKROOM_SERVER__KEEPALIVE_INTERVAL", "2s").env("CLOAKROOM_SERVER__KEEPALIVE_TIMEOUT", "2s");
    })
    .await;
    slow(&mut arena, 5_000, 500).await;
    arena.close().await;
}

/// One caller cannot have all connections: the others come in while it tries.
#[tokio::test(flavor = "multi_thread")]
async fn one_caller_leaves_connections_for_others_d_01() {
    let mut arena = Arena::open(|command| {
        command.env("CLOAKROOM_SERVER__MAX_CONNECTIONS", "60");
    })
    .await;
    let (server, payments) = (arena.target(), arena.home.identity("payments"));
    let others = ["gateway", "auditor", "operator"].map(|name| arena.home.identity(name));
    let attack = async {
        let (mut inside, mut told) = (Vec::new(), 0);
        for _ in 0..60 {
            let mut raw = Raw::open(&server, &payments, &[]).await;
            if raw.is_read().await {
                inside.push(raw);
            } else {
                told += usize::from(raw.closed().await.goaway == Some(ENHANCE_YOUR_CALM));
            }
        }
        // While it has its share, all others come in.
        for identity in &others {
            server.client(identity).await;
        }
        let mut served = 0;
        for raw in &mut inside {
            served += usize::from(raw.is_read().await);
        }
        (served, told)
    };
    let ((served, told), _) = arena.endures("D-01: 60 connections of one caller", attack).await;
    let refused = arena.metric("cloakroom_handshakes_refused_total{reason=\"connection_limit_of_caller\"}");
    println!("D-01: of 60 connections of one caller {served} are open, {refused} were refused, {told} of them told so");
    // Good callers have some of the same caller's.
    assert!((20..=30).contains(&served) && refused == 60 - served as u64 && told == 60 - served);
    drop(server);
    let auditor = arena.server.client(&arena.home.identity("auditor")).await;
    let recorded = || async {
        let filter = v1::AuditFilter { action: v1::Action::Connect.into(), ..v1::AuditFilter::default() };
        let events = auditor.events(filter).await;
        let ours = events.iter().filter(|event| event.reason == "connection_limit_of_caller");
        let count: u64 = ours.clone().map(|event| event.count).sum();
        let named = ours.clone().all(|event| event.certificate_sha256 == payments.certificate_sha256);
        (count == refused).then_some(named)
    };
    assert!(eventually("the refusals in the log", recorded).await, "they name the certificate");
    arena.close().await;
}
