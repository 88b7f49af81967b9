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
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::material::{self, SetupError};
use super::provider::{ALPN_H2, provider};
use crate::caller::SpiffeId;
use crate::caller::leaf::{self, LeafError};

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
}

/// Why the server's certificate was refused by a rule of ours.
#[derive(Debug, thiserror::Error)]
enum ServerRefusal {
    #[error("the server's SPIFFE ID is not the expected one")]
    WrongId,
    #[error("the server's certificate has no SPIFFE ID")]
    NoId,
    #[error("the server's certificate cannot be used: {0}")]
    Leaf(#[from] LeafError),
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
        Ok(Self { tls: TlsConnector::from(build_client_config(config)?), server_name })
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
            connector.connect(host, port).await.map(TokioIo::new)
        })
    }
}

impl ServerVerifier {
    fn check_id(&self, certificate: &[u8]) -> Result<(), ServerRefusal> {
        let Some(expected) = &self.expected else {
            return Ok(());
        };
        match leaf::spiffe_id(certificate)? {
            Some(id) if id == *expected => Ok(()),
            Some(_) => Err(ServerRefusal::WrongId),
            None => Err(ServerRefusal::NoId),
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
