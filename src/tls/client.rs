//! The other end of the door, for our own client: connects, and makes sure that it is the vault that answers.
//!
//! Invariant: no byte of a request is sent before the server's certificate verified for the name that was asked for
//! and, where an id is expected, bears exactly that SPIFFE ID.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, OtherError, SignatureScheme};
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::material::{self, SetupError};
use super::provider::{ALPN_H2, provider};
use crate::caller::SpiffeId;
use crate::caller::leaf::{self, LeafError};
use crate::clock::{SystemClock, Timestamp};
use crate::event::json::rfc3339;

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct Config {
    /// The authorities that may vouch for the server, in PEM.
    pub authorities: PathBuf,
    /// The client's certificate chain in PEM, its own certificate first.
    pub certificate: PathBuf,
    /// The client's private key in PEM; its owner alone may have access to the file.
    pub private_key: PathBuf,
    /// The name to verify the server by, where it is not the host that is connected to.
    pub server_name: Option<String>,
    /// The SPIFFE ID that the server must have, besides a certificate for its name.
    pub server_id: Option<SpiffeId>,
}

/// Opens connections for an HTTP/2 client. A `tower` service from the server's address to a connection; of the address
/// only host and port count. Clones share everything.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    server_name: Option<ServerName<'static>>,
    /// For what is said if it fails.
    files: Arc<Files>,
}

/// What a client shows, and by what it judges.
struct Files {
    authorities: PathBuf,
    certificate: PathBuf,
    /// Until when our certificate is good.
    not_after: Option<Timestamp>,
}

/// Why the server's certificate was refused by a rule of ours, said behind "the server at …".
#[derive(Debug, thiserror::Error)]
enum ServerRefusal {
    #[error("is {found}, the profile's server_id wants {expected}")]
    WrongId { found: SpiffeId, expected: SpiffeId },
    #[error("has a certificate without a SPIFFE ID, the profile's server_id wants {0}")]
    NoId(SpiffeId),
    #[error("has a certificate that cannot be used: {0}")]
    Leaf(#[from] LeafError),
}

/// Why two that could talk do not, in whole sentences.
#[derive(Debug, thiserror::Error)]
pub enum Mistrust {
    /// The server refused our certificate.
    #[error("{0}")]
    OfUs(String),
    /// It closes the connection as if it had, without a word: it may be about to stop, too.
    #[error("{0}")]
    Silent(String),
    /// It is not the server that we want, or none.
    #[error("{0}")]
    OfServer(String),
}

/// Verifies a server for its name, and then by its SPIFFE ID.
#[derive(Debug)]
struct ServerVerifier {
    by_name: Arc<WebPkiServerVerifier>,
    expected: Option<SpiffeId>,
}

/// Reads all files that `config` names and makes the rustls configuration of a client.
pub fn build_client_config(config: &Config) -> Result<Arc<ClientConfig>, SetupError> {
    let provider = provider();
    let identity = material::certified_key(&config.certificate, &config.private_key, &provider)?;
    let roots = material::roots(&config.authorities)?;
    let by_name = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|_| SetupError::NoCertificate { path: config.authorities.clone() })?;
    let verifier = ServerVerifier { by_name, expected: config.server_id.clone() };
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        // The method's name warns of verifiers that check less than the library's; this one calls that and adds a
        // check.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    client.alpn_protocols = vec![ALPN_H2.to_vec()];
    client.resumption = Resumption::disabled();
    Ok(Arc::new(client))
}

impl Connector {
    /// A connector with all that `config` names.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let server_name = match &config.server_name {
            None => None,
            Some(name) => {
                Some(ServerName::try_from(name.clone()).map_err(|_| SetupError::ServerName { name: name.clone() })?)
            }
        };
        let tls = TlsConnector::from(build_client_config(config)?);
        let own = CertificateDer::from_pem_file(&config.certificate).ok();
        let files = Files {
            authorities: config.authorities.clone(),
            certificate: config.certificate.clone(),
            not_after: own.and_then(|own| leaf::not_after(&own).ok()),
        };
        Ok(Self { tls, server_name, files: Arc::new(files) })
    }

    /// Until when the client's own certificate is good.
    pub fn not_after(&self) -> Option<Timestamp> {
        self.files.not_after
    }

    /// Connects to `host`:`port` and verifies who is there.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<TlsStream<TcpStream>> {
        // An IPv6 address stands in brackets in a URI and without them everywhere else.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidInput, "the host is neither a DNS name nor an IP address")
            })?,
        };
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let stream = self.tls.connect(name, tcp).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(ALPN_H2) => Ok(stream),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the server did not agree on HTTP/2 (ALPN h2)")),
        }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let missing =
                |what| io::Error::new(io::ErrorKind::InvalidInput, format!("the server's address has no {what}"));
            let host = server.host().ok_or_else(|| missing("host"))?;
            let port = server.port_u16().ok_or_else(|| missing("port"))?;
            let files = Arc::clone(&connector.files);
            let greeted = async { greeted(connector.connect(host, port).await?, &files).await };
            greeted.await.map(TokioIo::new).map_err(|error| files.explain(&format!("{host}:{port}"), error))
        })
    }
}

/// The connection, once the server has said something: HTTP/2 has it begin with its settings, without being asked.
///
/// In TLS 1.3 a client is done before the server has seen its certificate. Who begins to talk then may be reset in the middle
/// of a word, and the alert that says why is lost with it.
async fn greeted(mut stream: TlsStream<TcpStream>, files: &Files) -> io::Result<TlsStream<TcpStream>> {
    let closed = |kind| {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
    };
    // The bytes stay where they are, for who reads next.
    match stream.fill_buf().await {
        Ok([]) => Err(files.closed()),
        Err(error) if closed(error.kind()) => Err(files.closed()),
        Err(error) => Err(error),
        Ok(_) => Ok(stream),
    }
}

impl Files {
    fn closed(&self) -> io::Error {
        let why = format!(
            "it closed the connection right after the handshake, most likely because it refused the certificate {}",
            self.own()
        );
        io::Error::other(Mistrust::Silent(why))
    }

    /// Our certificate and how long it is good.
    fn own(&self) -> String {
        let file = self.certificate.display();
        match self.not_after {
            Some(end) if end <= SystemClock::shared().wall() => format!("{file}, which ended at {}", rfc3339(end)),
            Some(end) => format!("{file}, good until {}", rfc3339(end)),
            None => file.to_string(),
        }
    }

    /// The error, in words for people where the library has none.
    fn explain(&self, server: &str, error: io::Error) -> io::Error {
        use CertificateError::{BadSignature, UnknownIssuer};
        let why = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(_)) => {
                Mistrust::OfUs(format!("{error}, to the certificate {}", self.own()))
            }
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Mistrust::OfServer(format!(
                "what answers at {server} does not speak TLS: is it the operations listener?"
            )),
            Some(rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature)) => Mistrust::OfServer(format!(
                "the certificate of the server at {server} is not vouched for by {} (ca)",
                self.authorities.display()
            )),
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal)))) => {
                Mistrust::OfServer(format!("the server at {server} {refusal}"))
            }
            _ => return error,
        };
        io::Error::other(why)
    }
}

impl ServerVerifier {
    fn check_id(&self, certificate: &[u8]) -> Result<(), ServerRefusal> {
        let Some(expected) = &self.expected else {
            return Ok(());
        };
        match leaf::spiffe_id(certificate)? {
            Some(id) if id == *expected => Ok(()),
            Some(found) => Err(ServerRefusal::WrongId { found, expected: expected.clone() }),
            None => Err(ServerRefusal::NoId(expected.clone())),
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.by_name.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        match self.check_id(end_entity) {
            Ok(()) => Ok(verified),
            Err(refusal) => Err(CertificateError::Other(OtherError(Arc::new(refusal))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_name.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_name.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_name.supported_verify_schemes()
    }
}
