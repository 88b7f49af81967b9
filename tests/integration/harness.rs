//! A vault in a directory of its own, and clients with certificates of every kind.
//!
//! [`Home`] is what `cloakroom init` makes, [`Server`] the process that serves it, [`Identity`] what a client shows at the
//! door, [`Client`] an open connection. Servers are killed and homes removed when they are dropped.

use cloakroom::proto::v1;
use cloakroom::proto::v1::audit_service_client::AuditServiceClient;
use cloakroom::proto::v1::token_service_client::TokenServiceClient;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_cloakroom");
pub const TRUST_DOMAIN: &str = "dev.cloakroom.internal";
pub const VAULT_ID: &str = "spiffe://dev.cloakroom.internal/vault";

/// A hang is a failure: this is a hundred times what a start or an end usually takes.
const PATIENCE: Duration = Duration::from_mins(2);

// === Home ===

/// A directory that `cloakroom init` made.
pub struct Home {
    path: PathBuf,
    /// Removes it, if it is this one's to remove.
    _directory: Option<tempfile::TempDir>,
}

impl Home {
    /// A fresh one, removed when this is dropped. It lies beside the build, on a real file system, since a temporary one
    /// may be in memory.
    pub fn init() -> Self {
        let directory = tempfile::Builder::new().prefix("vault-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let home = Self::init_at(directory.path());
        Self { _directory: Some(directory), ..home }
    }

    /// A fresh one at `path`, where it stays.
    pub fn init_at(path: &Path) -> Self {
        let output = program().arg("init").arg(path).output().unwrap();
        assert!(output.status.success(), "init failed: {}", String::from_utf8_lossy(&output.stderr));
        Self::at(path)
    }

    /// One that was made before, where it stays.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), _directory: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it, by its relative name.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).unwrap();
    }

    /// Puts `text` at the end of a file.
    pub fn append(&self, name: &str, text: &str) {
        self.write(name, &format!("{}\n{text}", self.read(name)));
    }

    /// Replaces the one occurrence of `from`.
    pub fn replace(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert_eq!(text.matches(from).count(), 1, "{name} has not exactly one {from:?}");
        self.write(name, &text.replace(from, to));
    }

    /// Adds a scope with format `opaque`. `settings` are more lines of its table.
    pub fn add_scope(&self, name: &str, prefix: &str, settings: &str) {
        let table = format!("[scopes.\"{name}\"]\nformat = \"opaque\"\nprefix = \"{prefix}\"\n{settings}\n");
        self.append("cloakroom.toml", &table);
    }

    /// Adds a role.
    pub fn add_role(&self, name: &str, members: &[&str]) {
        let first = "gateway = [\"spiffe://dev.cloakroom.internal/gateway\"]";
        self.replace("cloakroom.toml", first, &format!("{name} = {members:?}\n{first}"));
    }

    /// Adds a policy that permits `action` on `scope` to `role`.
    pub fn permit(&self, role: &str, action: &str, scope: &str) {
        let id = format!("{role}-{action}-{}", scope.replace('/', "-"));
        let text = format!(
            "@id(\"{id}\")\npermit (principal in Cloakroom::Role::\"{role}\", action == Cloakroom::Action::\"{action}\", \
             resource == Cloakroom::Scope::\"{scope}\");\n"
        );
        self.write(&format!("policies/{id}.cedar"), &text);
    }

    /// One of the four clients that `init` makes: `gateway`, `payments`, `auditor`, `operator`.
    pub fn identity(&self, name: &str) -> Identity {
        let certificate = self.file(&format!("pki/{name}.pem"));
        let certificate_sha256 = fingerprint(&std::fs::read(&certificate).unwrap());
        let private_key = self.file(&format!("pki/{name}.key"));
        Identity {
            id: format!("spiffe://{TRUST_DOMAIN}/{name}"),
            authorities: self.file("pki/ca.pem"),
            files: Some((certificate, private_key)),
            certificate_sha256,
        }
    }

    /// A client that has no certificate at all.
    pub fn nobody(&self) -> Identity {
        let authorities = self.file("pki/ca.pem");
        Identity { id: String::new(), authorities, files: None, certificate_sha256: Vec::new() }
    }

    /// The development CA, to sign more clients with.
    pub fn authority(&self) -> Authority<'_> {
        self.existing_authority("ca")
    }

    /// The authority in `pki/NAME.pem` and `.key`.
    pub fn existing_authority(&self, name: &str) -> Authority<'_> {
        let key = KeyPair::from_pem(&self.read(&format!("pki/{name}.key"))).unwrap();
        Authority { home: self, issuer: Issuer::from_ca_cert_pem(&self.read(&format!("pki/{name}.pem")), key).unwrap() }
    }

    /// A new authority, kept in `pki/NAME.pem` and `.key`. The vault does not know it yet.
    pub fn new_authority(&self, name: &str) -> Authority<'_> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        self.write(&format!("pki/{name}.pem"), &certificate.pem());
        self.write(&format!("pki/{name}.key"), &key.serialize_pem());
        Authority { home: self, issuer: Issuer::new(params, key) }
    }

    /// Has the vault trust the authority in `pki/NAME.pem` for `domain`.
    pub fn trust(&self, domain: &str, name: &str) {
        let table = format!("[[trust_domains]]\nname = \"{domain}\"\nbundle = \"pki/{name}.pem\"\ncrls = []\n");
        self.append("cloakroom.toml", &table);
    }

    /// `cloakroom serve` for this home, on ports that the system chooses; for tests to change before [`Server::launch`].
    pub fn serve_command(&self) -> Command {
        let mut command = program();
        command.arg("serve").arg("--config").arg(self.file("cloakroom.toml"));
        command.env("CLOAKROOM_SERVER__LISTEN", "127.0.0.1:0").env("CLOAKROOM_OPERATIONS__LISTEN", "127.0.0.1:0");
        command
    }

    /// Starts the vault and waits until it is ready.
    pub fn serve(&self) -> Server {
        Server::launch(self, self.serve_command()).unwrap_or_else(|log| panic!("the vault did not start:\n{log}"))
    }

    /// A command of the program, as the client `name`, against `server`.
    pub fn cli(&self, server: &Server, name: &str, words: &[&str]) -> Command {
        let mut command = program();
        command.args(words).env("CLOAKROOM_PROFILE", self.file(&format!("profiles/{name}.toml")));
        command.env("CLOAKROOM_ADDRESS", server.address.to_string());
        command
    }
}

/// The program, in an environment in which no variable of its own is set.
pub fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CLOAKROOM_")) {
            command.env_remove(name);
        }
    }
    command
}

/// The SHA-256 of a certificate in PEM, as events name it.
pub fn fingerprint(pem: &[u8]) -> Vec<u8> {
    Sha256::digest(CertificateDer::from_pem_slice(pem).unwrap()).to_vec()
}

// === Server ===

/// A running vault. It is killed when this is dropped.
pub struct Server {
    pub child: Child,
    /// Where it serves gRPC.
    pub address: SocketAddr,
    /// Where it answers probes.
    pub operations: SocketAddr,
    log: PathBuf,
    output: Mutex<Receiver<String>>,
}

impl Server {
    /// Starts `command`, which must run `cloakroom serve` at the end, and waits until it is ready.
    ///
    /// # Errors
    /// With what it wrote to standard error, if it ended instead.
    pub fn launch(home: &Home, mut command: Command) -> Result<Self, String> {
        let log = tempfile::Builder::new().prefix("serve-").suffix(".log").tempfile_in(home.path()).unwrap();
        let (file, log) = log.keep().unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Whoever wants no more of it is gone; the pipe is still read, so that the vault never waits for it.
                let _ = send.send(line);
            }
        });
        let text = || std::fs::read_to_string(&log).unwrap();
        let first = lines.recv_timeout(PATIENCE);
        let address = first.as_deref().ok().and_then(|line| line.strip_prefix("listening on ")?.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let status = child.wait();
            let hung = if first == Err(RecvTimeoutError::Timeout) { " (it hung)" } else { "" };
            return Err(format!("{first:?}, {status:?}{hung}\n{}", text()));
        };
        let operations = operations_address(&text()).expect("the log says where probes are answered");
        Ok(Self { child, address, operations, log, output: Mutex::new(lines) })
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Where it writes what it says.
    pub fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// What it has written to standard output after the line that says where it listens, up to its end.
    pub fn rest_of_output(&self) -> Vec<String> {
        self.output.lock().iter().collect()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Sends SIGTERM and waits for an end that must be a success.
    pub fn stop(self) {
        self.terminate();
        let log = self.log.clone();
        let status = self.wait();
        assert!(status.success(), "{status}\n{}", std::fs::read_to_string(log).unwrap());
    }

    /// Sends SIGKILL and waits.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A connection as `identity`, whose handshake must succeed.
    pub async fn client(&self, identity: &Identity) -> Client {
        self.connect(identity).await.expect("a good client comes in")
    }

    /// A connection as `identity`. Whether the vault accepts the certificate shows only at the first call.
    pub async fn connect(&self, identity: &Identity) -> Result<Client, tonic::transport::Error> {
        Client::connect(self.address, identity).await
    }

    /// An answer of the operations listener: status line and body.
    pub fn get(&self, path: &str) -> (String, String) {
        let mut stream = std::net::TcpStream::connect(self.operations).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: vault\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    /// A counter's value, by its name and labels as Prometheus writes them. 0 if it is not there.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, body) = self.get("/metrics");
        let value = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `… probes and metrics are answered address=127.0.0.1:41234`, perhaps with colours between.
fn operations_address(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("probes and metrics are answered"))?;
    let digits = line.rsplit("127.0.0.1:").next()?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    format!("127.0.0.1:{}", &digits[..end]).parse().ok()
}

// === Identity ===

/// What a client shows at the door, and whom it trusts.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The SPIFFE ID in the certificate; empty if there is none.
    pub id: String,
    /// The authorities that may vouch for the vault.
    pub authorities: PathBuf,
    /// Certificate and key.
    pub files: Option<(PathBuf, PathBuf)>,
    /// As events name the certificate; empty if there is none.
    pub certificate_sha256: Vec<u8>,
}

/// Signs clients' certificates.
pub struct Authority<'h> {
    home: &'h Home,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority<'_> {
    /// A good client with this SPIFFE ID.
    pub fn client(&self, id: &str) -> Identity {
        self.client_with(id, |_| {})
    }

    /// A client whose certificate `change` may spoil before it is signed.
    pub fn client_with(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let certificate_sha256 = Sha256::digest(certificate.der()).to_vec();
        let name = hex::encode(&certificate_sha256[..8]);
        let certificate_file = self.home.file(&format!("pki/client-{name}.pem"));
        let key_file = self.home.file(&format!("pki/client-{name}.key"));
        std::fs::write(&certificate_file, certificate.pem()).unwrap();
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&key_file).unwrap();
        file.write_all(key.serialize_pem().as_bytes()).unwrap();
        let authorities = self.home.file("pki/ca.pem");
        Identity { id: id.to_owned(), authorities, files: Some((certificate_file, key_file)), certificate_sha256 }
    }
}

impl Identity {
    pub fn tls(&self) -> Arc<ClientConfig> {
        let Some((certificate, private_key)) = self.files.clone() else { return self.tls_of_nobody() };
        let config = cloakroom::tls::client::Config {
            authorities: self.authorities.clone(),
            certificate,
            private_key,
            server_name: None,
            server_id: Some(cloakroom::caller::SpiffeId::parse(VAULT_ID).unwrap()),
        };
        cloakroom::tls::client::build_client_config(&config).unwrap()
    }

    fn tls_of_nobody(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.authorities).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

// === Client ===

/// A connection to a vault. Clones share it.
#[derive(Clone)]
pub struct Client {
    pub identity: Identity,
    pub channel: Channel,
    connections: Arc<Mutex<Vec<Connection>>>,
}

/// What a client's side knows of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The client's own address, which is the peer's in events.
    pub local: SocketAddr,
    pub key_exchange: Option<NamedGroup>,
}

/// Opens connections and remembers each.
#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
    from: IpAddr,
    connections: Arc<Mutex<Vec<Connection>>>,
}

impl Client {
    pub async fn connect(address: SocketAddr, identity: &Identity) -> Result<Self, tonic::transport::Error> {
        Self::connect_as(address, identity, identity.tls(), IpAddr::V4(Ipv4Addr::LOCALHOST)).await
    }

    /// The same with a TLS configuration that may be wrong in any way, from the address `from` of this machine.
    pub async fn connect_as(
        address: SocketAddr,
        identity: &Identity,
        tls: Arc<ClientConfig>,
        from: IpAddr,
    ) -> Result<Self, tonic::transport::Error> {
        let connections = Arc::default();
        let tls = TlsConnector::from(tls);
        let connector = Connector { tls, from, connections: Arc::clone(&connections) };
        // The scheme is `http` because TLS is the connector's business.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channel = endpoint.connect_with_connector(connector).await?;
        Ok(Self { identity: identity.clone(), channel, connections })
    }

    pub fn tokens(&self) -> TokenServiceClient<Channel> {
        // The vault's limits are to be seen, not the client's.
        TokenServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    /// Every connection that was opened for it, the newest last.
    pub fn connections(&self) -> Vec<Connection> {
        self.connections.lock().clone()
    }

    /// The address that events name as the peer's.
    pub fn peer(&self) -> String {
        self.connections().last().unwrap().local.to_string()
    }

    /// Tokenizes values, all of which must succeed.
    pub async fn tokenize(&self, scope: &str, values: &[&[u8]]) -> Vec<v1::IssuedToken> {
        let items = values.iter().map(|value| item(value)).collect();
        self.issue(scope, items).await
    }

    /// Tokenizes items, all of which must succeed.
    pub async fn issue(&self, scope: &str, items: Vec<v1::TokenizeItem>) -> Vec<v1::IssuedToken> {
        let request = v1::TokenizeRequest { scope: scope.to_owned(), items, ..Default::default() };
        let answer = self.tokens().tokenize(request).await.unwrap().into_inner();
        answer.results.into_iter().map(|result| issued(result).expect("each value is good")).collect()
    }

    /// Detokenizes in full, for the purpose `test`: a value, or the item's failure, for each token.
    pub async fn detokenize(&self, scope: &str, tokens: &[String]) -> Result<Vec<Result<Vec<u8>, ItemError>>, Refusal> {
        let request = v1::DetokenizeRequest {
            scope: scope.to_owned(),
            tokens: tokens.to_vec(),
            purpose: "test".to_owned(),
            ..Default::default()
        };
        let answer = self.tokens().detokenize(request).await.map_err(|status| Refusal::of(&status))?.into_inner();
        Ok(answer.results.into_iter().map(value).collect())
    }

    /// Every event that matches, oldest first. Asking for each page is an event itself, behind those that are returned.
    pub async fn events(&self, filter: v1::AuditFilter) -> Vec<v1::AuditEvent> {
        let mut events = Vec::new();
        let mut request = v1::QueryEventsRequest { filter: Some(filter), page_size: 1000, ..Default::default() };
        loop {
            let page = self.audit().query_events(request.clone()).await.unwrap().into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return events;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The event that a receipt names.
    pub async fn event(&self, receipt: &v1::AuditReceipt) -> v1::AuditEvent {
        let mut request = v1::QueryEventsRequest { page_size: 20, newest_first: true, ..Default::default() };
        loop {
            let page = self.audit().query_events(request.clone()).await.unwrap().into_inner();
            if let Some(event) = page.events.into_iter().find(|event| event.sequence == receipt.sequence) {
                assert_eq!(event.log_id, receipt.log_id);
                return event;
            }
            assert!(!page.next_page_token.is_empty(), "no event has the receipt's sequence {}", receipt.sequence);
            request.page_token = page.next_page_token;
        }
    }
}

impl Connector {
    async fn open(self, server: Uri) -> std::io::Result<TlsStream<TcpStream>> {
        let (host, port) = (server.host().unwrap().to_owned(), server.port_u16().unwrap());
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(self.from, 0))?;
        let tcp = socket.connect(format!("{host}:{port}").parse().unwrap()).await?;
        tcp.set_nodelay(true)?;
        let local = tcp.local_addr()?;
        let name = ServerName::try_from(host).unwrap();
        let stream = self.tls.connect(name, tcp).await?;
        let key_exchange =
            stream.get_ref().1.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
        self.connections.lock().push(Connection { local, key_exchange });
        Ok(stream)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.open(server).await.map(TokioIo::new) })
    }
}

// === requests and answers ===

/// A value with the scope's defaults.
pub fn item(value: &[u8]) -> v1::TokenizeItem {
    v1::TokenizeItem { value: value.to_vec(), ..Default::default() }
}

/// A lifetime.
#[expect(clippy::unnecessary_wraps, reason = "it is the value of an optional field")]
pub fn duration(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

/// The tokens' texts.
pub fn texts(issued: &[v1::IssuedToken]) -> Vec<String> {
    issued.iter().map(|issued| issued.token.clone()).collect()
}

/// Why an item failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemError {
    pub code: Code,
    pub reason: String,
    pub message: String,
}

/// Why a whole call failed.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
    /// The word in ErrorInfo; empty if there is none.
    pub reason: String,
    /// In ErrorInfo's metadata.
    pub receipt: Option<v1::AuditReceipt>,
    /// Fields that were violated, in BadRequest.
    pub fields: Vec<String>,
}

impl ItemError {
    pub fn of(status: &tonic_types::Status) -> Self {
        use tonic_types::RpcStatusExt;
        let info = status.get_details_error_info().expect("an item's failure has an ErrorInfo");
        assert_eq!(info.domain, "cloakroom");
        Self { code: Code::from_i32(status.code), reason: info.reason, message: status.message.clone() }
    }
}

impl Refusal {
    pub fn of(status: &Status) -> Self {
        let info = status.get_details_error_info();
        assert!(info.as_ref().is_none_or(|info| info.domain == "cloakroom"), "{info:?}");
        let receipt = info.as_ref().and_then(|info| {
            let (log_id, sequence) = (info.metadata.get("log_id")?, info.metadata.get("sequence")?);
            Some(v1::AuditReceipt { log_id: log_id.clone(), sequence: sequence.parse().unwrap() })
        });
        let fields = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.map(|info| info.reason).unwrap_or_default(),
            receipt,
            fields: fields.into_iter().map(|violation| violation.field).collect(),
        }
    }
}

/// The failure of a call that must fail. Answers have no `Debug`, so `unwrap_err` won't do.
pub fn refused<T>(result: Result<Response<T>, Status>) -> Refusal {
    match result {
        Ok(_) => panic!("the call succeeded"),
        Err(status) => Refusal::of(&status),
    }
}

pub fn issued(result: v1::TokenizeResult) -> Result<v1::IssuedToken, ItemError> {
    match result.outcome.expect("an item has an outcome") {
        v1::tokenize_result::Outcome::Issued(issued) => Ok(issued),
        v1::tokenize_result::Outcome::Error(status) => Err(ItemError::of(&status)),
    }
}

pub fn value(result: v1::DetokenizeResult) -> Result<Vec<u8>, ItemError> {
    match result.outcome.expect("an item has an outcome") {
        v1::detokenize_result::Outcome::Value(value) => Ok(value),
        v1::detokenize_result::Outcome::Error(status) => Err(ItemError::of(&status)),
    }
}

pub fn info(result: v1::InspectResult) -> Result<v1::TokenInfo, ItemError> {
    match result.outcome.expect("an item has an outcome") {
        v1::inspect_result::Outcome::Info(info) => Ok(info),
        v1::inspect_result::Outcome::Error(status) => Err(ItemError::of(&status)),
    }
}

pub fn revoke_time(result: v1::RevokeResult) -> Result<prost_types::Timestamp, ItemError> {
    match result.outcome.expect("an item has an outcome") {
        v1::revoke_result::Outcome::RevokeTime(time) => Ok(time),
        v1::revoke_result::Outcome::Error(status) => Err(ItemError::of(&status)),
    }
}

/// What the vault says of its health.
pub async fn health(server: &Server, home: &Home) -> i32 {
    let gateway = server.client(&home.identity("gateway")).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(gateway.channel);
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner().status
}

/// Asks again and again until the answer is there. Each time is a call to the vault, so nothing here waits for a while.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("this never came: {what}"))
}

// === the harness itself ===

#[tokio::test(flavor = "multi_thread")]
async fn a_value_goes_in_and_comes_out_and_the_log_says_so() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    let payments = server.client(&home.identity("payments")).await;
    let values = payments.detokenize("pan", &tokens).await.unwrap();
    assert_eq!(values, [Ok(b"4111111111111111".to_vec())]);
    let auditor = server.client(&home.identity("auditor")).await;
    let filter = v1::AuditFilter { scope: "pan".to_owned(), token: tokens[0].clone(), ..Default::default() };
    let actions: Vec<_> = auditor.events(filter).await.iter().map(v1::AuditEvent::action).collect();
    assert_eq!(actions, [v1::Action::Tokenize, v1::Action::Detokenize]);
    assert_eq!(server.get("/readyz").1, "ready\n");
    server.stop();
}
