//! What the two ends agree on, and what is never agreed on: T-05, T-06.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use rustls::client::Tls13ClientSessionValue;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::door::{Door, Guest, PAYMENTS};
use crate::tls::provider;

/// Remembers sessions as a client does, and counts the tickets that it is sent.
#[derive(Debug)]
struct Tickets {
    held: ClientSessionMemoryCache,
    received: AtomicUsize,
}

#[tokio::test]
async fn the_exchange_is_hybrid_and_both_ends_export_the_same() {
    let door = Door::open().await;
    let guest = door.visit(&door.a.client(PAYMENTS)).await;
    let session = guest.stream.get_ref().get_ref().1;
    assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    let exporter = hex::encode(provider::channel_binding(session).unwrap());
    assert_eq!(guest.greeting, format!("{PAYMENTS} X25519MLKEM768 {exporter}"));
    let other = door.visit(&door.a.client(PAYMENTS)).await;
    assert_ne!(guest.greeting, other.greeting, "each connection has an exporter of its own");
}

#[tokio::test]
async fn clients_without_the_hybrid_group_come_in_too() {
    let door = Door::open().await;
    let groups: [(&'static dyn SupportedKxGroup, &str); 3] =
        [(kx_group::X25519, "X25519"), (kx_group::SECP256R1, "secp256r1"), (kx_group::SECP384R1, "secp384r1")];
    for (group, name) in groups {
        let only = CryptoProvider { kx_groups: vec![group], ..(*provider::provider()).clone() };
        let mut roots = RootCertStore::empty();
        roots.add(door.a.der.clone().into()).unwrap();
        let credentials = door.a.client(PAYMENTS);
        let resolver = door.client_config(Some(&credentials)).client_auth_cert_resolver.clone();
        let mut config = ClientConfig::builder_with_provider(Arc::new(only))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let guest = door.knock(config).await.1.unwrap();
        assert!(guest.greeting.starts_with(&format!("{PAYMENTS} {name} ")), "{}", guest.greeting);
    }
}

#[tokio::test]
async fn no_ticket_is_sent_and_nothing_resumes_t_05() {
    let door = Door::open().await;
    let credentials = door.a.client(PAYMENTS);
    let tickets = Tickets::new();
    for _ in 0..3 {
        let mut config = door.client_config(Some(&credentials));
        config.resumption = Resumption::store(tickets.clone());
        config.enable_early_data = true;
        let mut guest = door.knock(config).await.1.unwrap();
        // The server's tickets would have come before its greeting and before this line.
        guest.is_served().await;
        assert_eq!(kind(&guest), HandshakeKind::Full);
        assert!(!guest.stream.get_ref().get_ref().1.is_early_data_accepted());
    }
    assert_eq!(tickets.received(), 0);
}

/// A client that holds a ticket, from a server with the same name, key and authority that gives them out, and that
/// allows early data, offers it here.
#[tokio::test]
async fn a_ticket_from_elsewhere_and_early_data_are_refused_t_05() {
    let door = Door::open().await;
    let credentials = door.a.client(PAYMENTS);
    let tickets = Tickets::new();
    let mut config = door.client_config(Some(&credentials));
    config.resumption = Resumption::store(tickets.clone());
    config.enable_early_data = true;
    let config = Arc::new(config);
    take_ticket(&door, config.clone()).await;
    assert!(tickets.received() > 0, "the other server gave a ticket");

    let address = door.address;
    let (accepted, kind) = tokio::task::spawn_blocking(move || offer_early_data(address, config)).await.unwrap();
    assert!(!accepted);
    assert_eq!(kind, Some(HandshakeKind::Full));
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn protocols_other_than_h2_are_refused_t_06() {
    let mut door = Door::open().await;
    let offers: [&[&[u8]]; 3] = [&[], &[b"http/1.1"], &[b"h3", b"http/1.1", b"h2c"]];
    for offer in offers {
        let mut config = door.client_config(Some(&door.a.client(PAYMENTS)));
        config.alpn_protocols = offer.iter().map(|name| name.to_vec()).collect();
        let (own, outcome) = door.knock(config).await;
        let error = outcome.err().expect("refused");
        assert!(error.to_string().contains("NoApplicationProtocol"), "the alert says why: {error}");
        let failure = door.failure().await;
        assert_eq!((failure.reason, failure.peer, failure.certificate_sha256), ("no_alpn_h2", own, None));
        door.is_open_to_good_clients().await;
    }
    let mut config = door.client_config(Some(&door.a.client(PAYMENTS)));
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    door.knock(config).await.1.unwrap().is_served().await;
}

#[tokio::test]
async fn a_client_without_certificate_is_refused_t_06() {
    let mut door = Door::open().await;
    let (own, outcome) = door.knock(door.client_config(None)).await;
    assert!(outcome.is_err());
    let failure = door.failure().await;
    assert_eq!((failure.reason, failure.peer, failure.certificate_sha256), ("no_client_certificate", own, None));
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn what_is_not_tls_1_3_is_closed_t_06_t_07() {
    let mut door = Door::open().await;
    let hello = hello_of_tls_1_2();
    let rows: [(&str, &[u8], &str); 6] = [
        ("TLS 1.2", &hello, "protocol_version"),
        ("plain HTTP/1", b"GET / HTTP/1.1\r\nHost: vault\r\n\r\n", "malformed_message"),
        ("plain HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "malformed_message"),
        ("SSL 2", &[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80], "malformed_message"),
        ("a record of 16 KiB and more", &[22, 3, 1, 0xff, 0xff, 1, 0, 0, 0, 0], "malformed_message"),
        ("an alert first", &[21, 3, 3, 0, 2, 2, 40], "malformed_message"),
    ];
    for (what, bytes, reason) in rows {
        let mut tcp = TcpStream::connect(door.address).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Closed, perhaps after an alert; a reset is as good, since we may have sent more than was read.
        let _ = tcp.read_to_end(&mut answer).await;
        assert!(answer.first().is_none_or(|kind| *kind == 21), "{what}: nothing but an alert comes back");
        assert_eq!(door.failure().await.reason, reason, "{what}");
        door.is_open_to_good_clients().await;
    }
    drop(TcpStream::connect(door.address).await.unwrap());
    assert_eq!(door.failure().await.reason, "closed_early");
    door.is_open_to_good_clients().await;
}

/// Connects with a ticket in hand, sends early data, reads the greeting, and reports whether the early data was taken
/// and what kind of handshake it was.
fn offer_early_data(address: SocketAddr, config: Arc<ClientConfig>) -> (bool, Option<HandshakeKind>) {
    let mut tcp = std::net::TcpStream::connect(address).unwrap();
    let mut session = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    session.early_data().expect("the ticket allows early data").write_all(b"early\n").unwrap();
    let mut start = [0; 6];
    rustls::Stream::new(&mut session, &mut tcp).read_exact(&mut start).unwrap();
    assert_eq!(&start, b"spiffe");
    (session.is_early_data_accepted(), session.handshake_kind())
}

/// Runs a server of the test's own on the same name and trust, with tickets and early data on, and lets `config` get a
/// ticket from it.
async fn take_ticket(door: &Door, config: Arc<ClientConfig>) {
    let mut roots = RootCertStore::empty();
    roots.add(door.a.der.clone().into()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider::provider()).build().unwrap();
    let mut server = ServerConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&door.config.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&door.config.private_key).unwrap(),
        )
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    server.max_early_data_size = 1024;
    server.session_storage = ServerSessionMemoryCache::new(16);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(tcp).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read(&mut [0]).await;
    });
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(config).connect(name, tcp).await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    drop(stream);
    serving.await.unwrap();
}

fn kind(guest: &Guest) -> HandshakeKind {
    guest.stream.get_ref().get_ref().1.handshake_kind().unwrap()
}

/// A ClientHello as a client that knows nothing newer than TLS 1.2 sends it.
fn hello_of_tls_1_2() -> Vec<u8> {
    let extensions: [&[u8]; 4] = [
        &[0, 10, 0, 4, 0, 2, 0, 0x1d],       // supported_groups: x25519
        &[0, 13, 0, 4, 0, 2, 4, 3],          // signature_algorithms: ecdsa_secp256r1_sha256
        &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'], // application_layer_protocol_negotiation: h2
        &[0, 23, 0, 0],                      // extended_master_secret
    ];
    let extensions = extensions.concat();
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &[0, 4, 0xc0, 0x2b, 0xc0, 0x2f], &[1, 0], &length(&extensions), &extensions]
            .concat();
    let handshake = [&[1, 0][..], &length(&body), &body].concat();
    [&[22, 3, 1][..], &length(&handshake), &handshake].concat()
}

impl Tickets {
    fn new() -> Arc<Self> {
        Arc::new(Self { held: ClientSessionMemoryCache::new(16), received: AtomicUsize::default() })
    }

    fn received(&self) -> usize {
        self.received.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.held.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.held.kx_hint(server)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.received.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.held.insert_tls13_ticket(server, ticket);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.held.take_tls13_ticket(server)
    }
}
