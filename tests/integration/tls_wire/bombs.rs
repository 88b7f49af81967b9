//! T-08: chains that are cheap to send. What they cost is printed; that they are refused, and for what, is held.

use super::{PATIENCE, cpu, good_callers_are_served, mebibytes, memory, serve};
use crate::forge::{self, Draft, Extension};
use crate::harness::{Home, Server, eventually};
use crate::strangers::{Authority, Shown, address, id, pem};
use cloakroom::proto::v1::{Action, AuditFilter};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A hundred times what the dearest of them took when this was written, without optimization.
const CPU_AT_MOST: Duration = Duration::from_secs(20);
/// Above what the vault held before: a Certificate message of 16 MiB must not be taken in.
const GROWTH_AT_MOST: u64 = 64 << 20;

struct Bomb {
    what: &'static str,
    reason: &'static str,
    shown: Shown,
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_that_cost_more_than_they_weigh_are_refused_t_08() {
    let home = Home::init();
    let root = Authority::new("forger");
    root.join(&home, "ca");
    // Each domain is asked whether it was its authority, if it was not the certificate's own.
    for number in 0..8 {
        let other = Authority::new("forger");
        home.write(&format!("pki/other-{number}.pem"), &pem(&other.der));
        home.trust(&format!("other-{number}.example"), &format!("other-{number}"));
    }
    let server = serve(&home);
    let open = server.client(&home.identity("gateway")).await;
    let bombs = bombs(&root);
    let before = memory(server.pid()).1;
    for (number, bomb) in bombs.iter().enumerate() {
        let spent = cpu(server.pid());
        let from = address(8, number);
        let refusal = tokio::task::block_in_place(|| knock(&server, bomb.shown.tls(&home), from));
        let spent = cpu(server.pid()).saturating_sub(spent);
        println!(
            "T-08: {}: {} certificates, {} bytes: {:.1} ms CPU ({refusal})",
            bomb.what,
            bomb.shown.chain.len(),
            bomb.shown.chain.iter().map(Vec::len).sum::<usize>(),
            spent.as_secs_f64() * 1e3,
        );
        assert!(spent < CPU_AT_MOST, "{}: {spent:?}", bomb.what);
        good_callers_are_served(&home, &server, &open).await;
    }
    let most = memory(server.pid()).1;
    println!("T-08: the most memory held: {:.0} MiB before, {:.0} MiB after", mebibytes(before), mebibytes(most));
    assert!(most <= before + GROWTH_AT_MOST, "from {before} to {most} bytes");
    are_recorded(&home, &server, &bombs).await;
    server.stop();
}

async fn are_recorded(home: &Home, server: &Server, bombs: &[Bomb]) {
    let auditor = server.client(&home.identity("auditor")).await;
    let recorded = || async {
        let events = auditor.events(AuditFilter { action: Action::Connect.into(), ..AuditFilter::default() }).await;
        (events.len() >= bombs.len()).then_some(events)
    };
    let events = eventually("the refusals in the log", recorded).await;
    for (number, bomb) in bombs.iter().enumerate() {
        let from = address(8, number).to_string();
        let found: Vec<_> = events.iter().filter(|event| event.peer_address == from).collect();
        let reasons: Vec<_> = found.iter().map(|event| (event.reason.as_str(), event.count)).collect();
        assert_eq!(reasons, [(bomb.reason, 1)], "{}", bomb.what);
        // What did not fit was never read as a certificate.
        let hash = if bomb.reason == "malformed_message" { Vec::new() } else { bomb.shown.sha256() };
        assert_eq!(found[0].certificate_sha256, hash, "{}", bomb.what);
    }
}

/// Each certificate is another one, and so would be an event of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_many_certificates_does_not_fill_the_log_t_01() {
    const CERTIFICATES: usize = 300;
    let home = Home::init();
    let server = serve(&home);
    let stranger = Authority::new("stranger");
    let from = address(10, 0);
    let started = Instant::now();
    for _ in 0..CERTIFICATES {
        let shown = stranger.client(&id("gateway"));
        tokio::task::block_in_place(|| knock(&server, shown.tls(&home), from));
    }
    // Another address is told apart all the same.
    let other = stranger.client(&id("gateway"));
    tokio::task::block_in_place(|| knock(&server, other.tls(&home), address(10, 1)));
    let auditor = server.client(&home.identity("auditor")).await;
    let recorded = || async {
        let events = auditor.events(AuditFilter { action: Action::Connect.into(), ..AuditFilter::default() }).await;
        (events.iter().map(|event| event.count).sum::<u64>() > CERTIFICATES as u64).then_some(events)
    };
    let events = eventually("all refusals in the log", recorded).await;
    // One certificate more in each second, and one summary of the rest.
    let most = 64 + 2 * (started.elapsed().as_secs() + 1);
    let (own, others): (Vec<_>, Vec<_>) = events.iter().partition(|event| event.peer_address == from.to_string());
    assert_eq!(own.iter().map(|event| event.count).sum::<u64>(), CERTIFICATES as u64);
    assert!(own.iter().all(|event| event.reason == "certificate_unknown_issuer"));
    assert!(own.len() as u64 <= most, "{} events, at most {most}", own.len());
    assert!(own.iter().any(|event| event.certificate_sha256.is_empty() && event.count > 1), "the rest is counted");
    let hashes: Vec<_> = others.iter().map(|event| (&event.certificate_sha256, event.count)).collect();
    assert_eq!(hashes, [(&other.sha256(), 1)]);
    println!("T-01: {CERTIFICATES} certificates of one stranger: {} events", own.len());
    server.client(&home.identity("gateway")).await.tokenize("pan", &[b"4111111111111111"]).await;
    server.stop();
}

fn bombs(root: &Authority) -> Vec<Bomb> {
    let gateway = id("gateway");
    let stranger = Authority::new("stranger");
    let big = |bytes: usize| stranger.client_with(&gateway, |draft| draft.with(ballast(bytes)));
    let bomb = |what, reason, shown| Bomb { what, reason, shown };
    let (unknown, too_long) = ("certificate_unknown_issuer", "certificate_chain_too_long");
    let mut crumbs = stranger.client(&gateway);
    crumbs.chain.extend(std::iter::repeat_n(vec![0x30], 10_000));
    vec![
        bomb("a chain of 100", too_long, chain_of(root, 100)),
        bomb("a chain of 7", too_long, chain_of(root, 7)),
        bomb("a mesh that leads nowhere", unknown, mesh(&Authority::new("mesh"))),
        bomb("a mesh below our authority, each signature good but the last", "certificate_chain_invalid", mesh(root)),
        bomb("10,000 crumbs", too_long, crumbs),
        bomb("5,000 names", unknown, {
            let more = (0..5_000).map(|number| forge::dns(&format!("n{number}")));
            let names: Vec<Vec<u8>> = std::iter::once(forge::uri(&gateway)).chain(more).collect();
            stranger.client_with(&gateway, |draft| draft.with(forge::names(&names)))
        }),
        bomb(
            "3,000 extensions",
            unknown,
            stranger.client_with(&gateway, |mut draft| {
                draft.extensions.extend((0..3_000_u16).map(|number| {
                    let [high, low] = [number / 128, number % 128].map(|part| u8::try_from(part).unwrap());
                    let oid = [&[0x2b, 6, 1, 4, 1][..], &[0x81 + high, low]].concat();
                    Extension { oid, critical: false, value: vec![5, 0] }
                }));
                draft
            }),
        ),
        bomb(
            "a purpose of 10,000 arcs",
            "certificate_no_client_auth",
            stranger.client_with(&gateway, |draft| {
                let purpose = forge::sequence(&[&forge::tagged(6, &[1; 10_000])]);
                draft.with(Extension { oid: forge::EXTENDED_KEY_USAGE.to_vec(), critical: false, value: purpose })
            }),
        ),
        bomb(
            "an extension nested 12,000 deep",
            unknown,
            stranger.client_with(&gateway, |draft| {
                draft.with(Extension { oid: forge::UNHEARD_OF.to_vec(), critical: false, value: nested(12_000) })
            }),
        ),
        bomb(
            "names nested 12,000 deep",
            unknown,
            stranger.client_with(&gateway, |draft| {
                let value = forge::sequence(&[&forge::uri(&gateway), &forge::tagged(0xa4, &nested(12_000))]);
                draft.with(Extension { oid: forge::SUBJECT_ALT_NAME.to_vec(), critical: false, value })
            }),
        ),
        bomb(
            "constraints nested 12,000 deep",
            unknown,
            stranger.client_with(&gateway, |draft| {
                draft.with(Extension { oid: forge::NAME_CONSTRAINTS.to_vec(), critical: false, value: nested(12_000) })
            }),
        ),
        bomb("60 KiB", unknown, big(60 << 10)),
        bomb("64 KiB", "malformed_message", big(64 << 10)),
        bomb("1 MiB", "malformed_message", big(1 << 20)),
        bomb("16 MiB, as much as TLS can say", "malformed_message", big((16 << 20) - 1_000)),
    ]
}

/// A good chain of so many intermediates.
fn chain_of(root: &Authority, length: usize) -> Shown {
    let mut issuers: Vec<Authority> = Vec::new();
    for number in 0..length {
        let next = issuers.last().unwrap_or(root).intermediate(&format!("level {number}"), |draft| draft);
        issuers.push(next);
    }
    let leaf = issuers.last().unwrap().client(&id("gateway"));
    issuers.iter().rev().fold(leaf, Shown::below)
}

/// Six authorities of one name, that of `root`, each of which could have signed each other: as many ways to go as there
/// are orders of them. Each is signed by the next, the last by `root`; nobody signed the leaf.
fn mesh(root: &Authority) -> Shown {
    let keys: Vec<KeyPair> = (0..6).map(|_| KeyPair::generate().unwrap()).collect();
    let mut shown = root.client(&id("gateway"));
    *shown.chain[0].last_mut().unwrap() ^= 1;
    for (number, key) in keys.iter().enumerate() {
        let signer = keys.get(number + 1).unwrap_or(&root.key);
        let draft = Draft::authority(&root.name, &root.name, key.subject_public_key_info());
        shown.chain.push(draft.signed(|bytes| signer.sign(bytes).unwrap()));
    }
    shown
}

fn ballast(bytes: usize) -> Extension {
    Extension { oid: forge::UNHEARD_OF.to_vec(), critical: false, value: forge::tagged(4, &vec![0x5a; bytes]) }
}

/// SEQUENCE in SEQUENCE, made from the inside.
fn nested(depth: usize) -> Vec<u8> {
    // Backwards, so that making it takes no time that grows with the square of it.
    let mut reversed: Vec<u8> = Vec::new();
    for _ in 0..depth {
        let length = reversed.len();
        let head = forge::tagged(0x30, &vec![0; length]);
        let head = &head[..head.len() - length];
        reversed.extend(head.iter().rev());
    }
    reversed.reverse();
    reversed
}

/// Shows a chain, once, and says how the vault said no.
fn knock(server: &Server, tls: Arc<ClientConfig>, from: IpAddr) -> String {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut tcp = TcpStream::from(socket);
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut session = ClientConnection::new(tls, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut answer = Vec::new();
    let refusal = rustls::Stream::new(&mut session, &mut tcp).read_to_end(&mut answer);
    let refusal = refusal.expect_err("the vault says no with an alert, or by closing");
    assert_eq!(answer, b"", "the vault spoke to a stranger");
    assert_ne!(refusal.kind(), std::io::ErrorKind::WouldBlock, "it hung");
    refusal.to_string()
}
