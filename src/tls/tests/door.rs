//! A listener with two trust domains, and clients to knock on it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::caller::forge::Draft;
use crate::tls::provider::provider;
use crate::tls::{Acceptor, Config, Connections, HandshakeFailure, TlsIo, Worker};

pub(super) const SERVER_ID: &str = "spiffe://a.example/vault";
pub(super) const PAYMENTS: &str = "spiffe://a.example/payments";

/// An authority that signs what it is given.
pub(super) struct Authority {
    pub name: String,
    pub key: KeyPair,
    pub der: Vec<u8>,
}

/// What a client shows and signs with.
#[derive(Clone)]
pub(super) struct Credentials {
    pub chain: Vec<Vec<u8>>,
    pub key: Arc<dyn rustls::sign::SigningKey>,
}

/// A running acceptor; authority `a` speaks for `a.example` and `b` for `b.example`.
pub(super) struct Door {
    pub a: Authority,
    pub b: Authority,
    pub address: SocketAddr,
    pub connections: Connections,
    pub config: Config,
    pub server_config: Arc<arc_swap::ArcSwap<rustls::ServerConfig>>,
    pub failures: mpsc::UnboundedReceiver<HandshakeFailure>,
    pub stop: Option<oneshot::Sender<()>>,
    pub running: tokio::task::JoinHandle<std::io::Result<()>>,
    pub files: tempfile::TempDir,
}

/// A client that came in.
pub(super) struct Guest {
    pub stream: BufReader<TlsStream<TcpStream>>,
    pub greeting: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let draft = Draft::authority(name, name, key.subject_public_key_info());
        let der = draft.signed(|bytes| key.sign(bytes).unwrap());
        Self { name: name.to_owned(), key, der }
    }

    /// An intermediate authority below this one, changed by `change` before it is signed.
    pub(super) fn intermediate(&self, name: &str, change: impl FnOnce(Draft) -> Draft) -> Self {
        let key = KeyPair::generate().unwrap();
        let draft = change(Draft::authority(name, &self.name, key.subject_public_key_info()));
        Self { name: name.to_owned(), der: self.sign(&draft), key }
    }

    pub(super) fn sign(&self, draft: &Draft) -> Vec<u8> {
        draft.signed(|bytes| self.key.sign(bytes).unwrap())
    }

    /// A good client of this authority.
    pub(super) fn client(&self, id: &str) -> Credentials {
        self.client_with(id, |draft| draft)
    }

    /// A client whose certificate `change` has spoilt before it was signed.
    pub(super) fn client_with(&self, id: &str, change: impl FnOnce(Draft) -> Draft) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let draft = change(Draft::client(id, &self.name, key.subject_public_key_info()));
        Credentials { chain: vec![self.sign(&draft)], key: signing_key(&key) }
    }
}

impl Credentials {
    /// Sends `issuer` along.
    pub(super) fn below(mut self, issuer: &Authority) -> Self {
        self.chain.push(issuer.der.clone());
        self
    }

    pub(super) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.chain[0]).into()
    }

    fn certified(&self) -> CertifiedKey {
        CertifiedKey::new(self.chain.iter().cloned().map(CertificateDer::from).collect(), self.key.clone())
    }
}

impl Door {
    pub(super) async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    #[expect(clippy::unused_async, reason = "it spawns: async, so that nobody calls it outside of a runtime")]
    pub(super) async fn open_with(change: impl FnOnce(&mut Config)) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (a, b) = (Authority::new("a"), Authority::new("b"));
        let mut config = write_files(files.path(), &a, &b);
        change(&mut config);
        let acceptor = Acceptor::bind(&config).unwrap();
        let (address, connections) = (acceptor.local_addr(), acceptor.connections());
        let server_config = acceptor.server_config();
        let (report, failures) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let (incoming, queue) = mpsc::channel(8);
        tokio::spawn(serve(queue));
        let running = tokio::spawn(acceptor.run(
            vec![Worker::here(incoming)],
            move |failure| report.send(failure).unwrap(),
            async { stopped.await.unwrap_or(()) },
        ));
        Self { a, b, address, connections, config, server_config, failures, stop: Some(stop), running, files }
    }

    /// A client's settings as good as they get, for tests to change.
    pub(super) fn client_config(&self, credentials: Option<&Credentials>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.a.der.clone().into()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match credentials {
            Some(credentials) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.certified())))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        config
    }

    /// Knocks with `config` and reports under which address, and what came of it.
    pub(super) async fn knock(&self, config: ClientConfig) -> (SocketAddr, std::io::Result<Guest>) {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let own = tcp.local_addr().unwrap();
        (own, enter(tcp, config).await)
    }

    /// A connection after a handshake that is good as far as the client can tell.
    pub(super) async fn stream(&self, credentials: &Credentials) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(self.client_config(Some(credentials)))).connect(name, tcp).await.unwrap()
    }

    pub(super) async fn visit(&self, credentials: &Credentials) -> Guest {
        self.knock(self.client_config(Some(credentials))).await.1.expect("a good client comes in")
    }

    /// Nobody is held responsible for what another client did: a good one still gets in.
    pub(super) async fn is_open_to_good_clients(&self) {
        let mut guest = self.visit(&self.a.client(PAYMENTS)).await;
        assert!(guest.greeting.starts_with(PAYMENTS));
        guest.is_served().await;
        let other = self.visit(&self.b.client("spiffe://b.example/gateway")).await;
        assert!(other.greeting.starts_with("spiffe://b.example/gateway"));
    }

    /// Knocks with `credentials`, and sees that they are refused, for `reason`, with one report, before any worker.
    pub(super) async fn refuses(&mut self, what: &str, credentials: &Credentials, reason: &str) {
        let (own, outcome) = self.knock(self.client_config(Some(credentials))).await;
        assert!(outcome.is_err(), "{what}: came in");
        let failure = self.failure().await;
        assert_eq!(failure.reason, reason, "{what}");
        assert_eq!(failure.peer, own, "{what}");
        assert_eq!(failure.certificate_sha256, Some(credentials.sha256()), "{what}");
        assert!(self.failures.try_recv().is_err(), "{what}: reported twice");
        self.is_open_to_good_clients().await;
    }

    pub(super) async fn failure(&mut self) -> HandshakeFailure {
        self.failures.recv().await.expect("the acceptor runs")
    }
}

impl Guest {
    /// Sends a line and gets it back.
    pub(super) async fn is_served(&mut self) {
        self.echo().await.expect("a connection that stays open");
    }

    pub(super) async fn echo(&mut self) -> std::io::Result<()> {
        self.stream.write_all(b"still there\n").await?;
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        if line == "still there\n" { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    }
}

async fn enter(tcp: TcpStream, config: ClientConfig) -> std::io::Result<Guest> {
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    // In TLS 1.3 a client believes that it is connected before the server has seen its certificate.
    if stream.read_line(&mut greeting).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Guest { stream, greeting: greeting.trim_end().to_owned() })
}

/// A worker: says who it thinks the client is, and sends back what it is sent.
async fn serve(mut queue: mpsc::Receiver<TlsIo>) {
    while let Some(mut io) = queue.recv().await {
        tokio::spawn(async move {
            let connection = io.connection().clone();
            let exporter = hex::encode(connection.exporter);
            let greeting = format!("{} {} {exporter}\n", connection.caller.id, connection.key_exchange);
            io.write_all(greeting.as_bytes()).await?;
            io.flush().await?;
            let mut buffer = [0; 256];
            loop {
                let read = io.read(&mut buffer).await?;
                if read == 0 {
                    return std::io::Result::Ok(());
                }
                io.write_all(&buffer[..read]).await?;
                io.flush().await?;
            }
        });
    }
}

fn write_files(directory: &Path, a: &Authority, b: &Authority) -> Config {
    let key = KeyPair::generate().unwrap();
    let certificate = a.sign(&Draft::server(SERVER_ID, &a.name, key.subject_public_key_info()));
    let at = |name: &str| directory.join(name);
    write_pem(&at("server.pem"), "CERTIFICATE", &certificate);
    write_key(&at("server.key"), &key);
    write_pem(&at("a.pem"), "CERTIFICATE", &a.der);
    write_pem(&at("b.pem"), "CERTIFICATE", &b.der);
    Config::new("127.0.0.1:0".parse().unwrap(), at("server.pem"), at("server.key"))
        .trust("a.example", at("a.pem"))
        .trust("b.example", at("b.pem"))
}

pub(super) fn write_pem(path: &Path, label: &str, der: &[u8]) {
    let lines: Vec<String> = BASE64_STANDARD
        .encode(der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    std::fs::write(path, format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))).unwrap();
}

pub(super) fn write_key(path: &Path, key: &KeyPair) {
    write_pem(path, "PRIVATE KEY", &key.serialize_der());
    set_mode(path, 0o600);
}

pub(super) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Writes a good client's certificate and key into files.
pub(super) fn write_client(directory: &Path, authority: &Authority, id: &str) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let certificate = authority.sign(&Draft::client(id, &authority.name, key.subject_public_key_info()));
    let (certificate_path, key_path) = (directory.join("client.pem"), directory.join("client.key"));
    write_pem(&certificate_path, "CERTIFICATE", &certificate);
    write_key(&key_path, &key);
    (certificate_path, key_path)
}

pub(super) fn signing_key(key: &KeyPair) -> Arc<dyn rustls::sign::SigningKey> {
    any_supported_type(&PrivateKeyDer::Pkcs8(key.serialize_der().into())).unwrap()
}
