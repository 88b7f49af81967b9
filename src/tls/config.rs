//! The listener's settings, and what rustls makes of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;

use super::material::SetupError;
use super::provider::{ALPN_H2, provider};
use super::server::{self, ServerIdentity};
use super::verifier::DomainVerifier;

/// Settings of the listener.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on. Port 0 lets the system choose one.
    pub listen: SocketAddr,
    /// The server's certificate chain in PEM, its own certificate first.
    pub certificate: PathBuf,
    /// The server's private key in PEM; its owner alone may have access to the file.
    pub private_key: PathBuf,
    /// The trust domains whose workloads may connect.
    pub trust_domains: Vec<TrustDomainBundle>,
    /// Revocation lists. Must be empty: this version would not check them, and says so.
    pub crls: Vec<PathBuf>,
    /// Connections that may be open at once, after their handshake.
    pub max_connections: usize,
    /// How many of them may be one caller's, by its SPIFFE ID. 0: half of them.
    pub max_connections_per_caller: usize,
    /// Handshakes that may be going on at once. They have a limit of their own, so that strangers who never finish one
    /// can't take the places of callers.
    pub max_handshakes: usize,
    /// Handshakes that may be going on at once with one peer (one IPv4 address, one IPv6 /64).
    pub max_handshakes_per_peer: usize,
    /// How long a peer may take from connecting to the end of its handshake.
    pub handshake_timeout: Duration,
}

/// A trust domain and the file with its authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomainBundle {
    /// The bare name, without `spiffe://`.
    pub name: String,
    /// The authorities' certificates in PEM.
    pub bundle: PathBuf,
}

impl Config {
    /// Settings with default limits, and no trust domain yet.
    pub fn new(listen: SocketAddr, certificate: impl Into<PathBuf>, private_key: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            certificate: certificate.into(),
            private_key: private_key.into(),
            trust_domains: Vec::new(),
            crls: Vec::new(),
            max_connections: 4096,
            max_connections_per_caller: 0,
            max_handshakes: 1024,
            max_handshakes_per_peer: 256,
            handshake_timeout: Duration::from_secs(5),
        }
    }

    /// Adds a trust domain.
    #[must_use]
    pub fn trust(mut self, name: impl Into<String>, bundle: impl Into<PathBuf>) -> Self {
        self.trust_domains.push(TrustDomainBundle { name: name.into(), bundle: bundle.into() });
        self
    }

    /// What [`Self::max_connections_per_caller`] comes to.
    pub(super) fn connections_per_caller(&self) -> usize {
        match self.max_connections_per_caller {
            0 => (self.max_connections / 2).max(1),
            given => given,
        }
    }

    pub(super) fn check_limits(&self) -> Result<(), SetupError> {
        let limits = [
            ("max_connections", self.max_connections),
            ("max_handshakes", self.max_handshakes),
            ("max_handshakes_per_peer", self.max_handshakes_per_peer),
            ("handshake_timeout", usize::from(!self.handshake_timeout.is_zero())),
        ];
        match limits.iter().find(|(_, limit)| *limit == 0) {
            Some((name, _)) => Err(SetupError::ZeroLimit { name }),
            None => Ok(()),
        }
    }
}

/// Reads all files that `config` names and makes the rustls configuration of the listener. To reload, call it again and
/// publish the result with [`super::Acceptor::server_config`]: it is whole and valid, or there is an error.
pub fn build_server_config(config: &Config) -> Result<Arc<ServerConfig>, SetupError> {
    if !config.crls.is_empty() {
        return Err(SetupError::RevocationNotSupported);
    }
    let provider = provider();
    let identity = ServerIdentity::load(&config.certificate, &config.private_key)?;
    let bundles = config.trust_domains.iter().map(server::bundle).collect::<Result<Vec<_>, _>>()?;
    let verifier = Arc::new(DomainVerifier::new(bundles, &provider)?);
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified)));
    server.alpn_protocols = vec![ALPN_H2.to_vec()];
    // A resumed session copies the older verdict on the client's certificate instead of asking for a new one, so there
    // are no tickets to resume with, nowhere to keep sessions, and no early data.
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.max_early_data_size = 0;
    Ok(Arc::new(server))
}
