//! One handshake: from the first byte of a socket to a verified client, or to a reason.

use std::io;
use std::sync::Arc;

use rustls::{PeerIncompatible, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::findings::{self, Findings};
use super::provider::{self, ALPN_H2};
use crate::caller::leaf::Leaf;

/// A TLS record with the fatal alert `no_application_protocol`. rustls sends it where a client names protocols and none
/// is ours; to one that names none it would say nothing and go on.
const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

/// A handshake that is done, with a client that has been verified in it.
pub(super) struct Welcome {
    pub stream: TlsStream<TcpStream>,
    pub leaf: Leaf,
    pub exporter: [u8; 32],
    pub key_exchange: &'static str,
}

/// A handshake that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub reason: &'static str,
    pub certificate_sha256: Option<[u8; 32]>,
}

/// Performs the server's side, until `expiry`: time is the caller's, so that tests need not wait for it.
pub(super) async fn perform(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    expiry: impl Future<Output = ()>,
) -> Result<Welcome, Failed> {
    let (outcome, findings) = findings::observe(async {
        tokio::select! {
            biased;
            outcome = shake_hands(tcp, config) => outcome,
            () = expiry => Err(Stop::Reason("handshake_timeout")),
        }
    })
    .await;
    let certificate_sha256 = findings.certificate_sha256;
    let failed = |reason| Failed { reason, certificate_sha256 };
    let stream = outcome.map_err(|stop| failed(stop.reason(&findings)))?;
    welcome(stream, findings.leaf).map_err(failed)
}

/// Why [`shake_hands`] stopped.
enum Stop {
    Reason(&'static str),
    Io(io::Error),
}

async fn shake_hands(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<TlsStream<TcpStream>, Stop> {
    let mut start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await?;
    let speaks_h2 = start.client_hello().alpn().is_some_and(|mut offered| offered.any(|name| name == ALPN_H2));
    if !speaks_h2 {
        // A courtesy to someone who is refused either way.
        let _ = start.io.write_all(&NO_APPLICATION_PROTOCOL).await;
        return Err(Stop::Reason("no_alpn_h2"));
    }
    Ok(start.into_stream(config).await?)
}

/// Takes from a finished handshake what outlives it. The leaf is there only if the verifier ran in this very handshake:
/// the settings rule out resumption, and should they ever fail to, this still does.
fn welcome(stream: TlsStream<TcpStream>, leaf: Option<Leaf>) -> Result<Welcome, &'static str> {
    let leaf = leaf.ok_or("certificate_not_verified")?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(ALPN_H2) {
        return Err("no_alpn_h2");
    }
    let exporter = provider::channel_binding(session).map_err(|_| "tls_error")?;
    let key_exchange = session.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    Ok(Welcome { exporter, key_exchange: key_exchange.unwrap_or("unknown"), leaf, stream })
}

impl Stop {
    fn reason(&self, findings: &Findings) -> &'static str {
        match self {
            Self::Reason(reason) => reason,
            Self::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(error) => tls_reason(error, findings),
                None => io_reason(error),
            },
        }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn tls_reason(error: &rustls::Error, findings: &Findings) -> &'static str {
    use PeerIncompatible as Peer;
    use rustls::Error as E;
    match error {
        // A verified certificate and still an error about it: the peer could not prove that the key is its own.
        E::InvalidCertificate(_) => findings.reason.unwrap_or("key_possession_not_proven"),
        E::NoCertificatesPresented => "no_client_certificate",
        E::NoApplicationProtocol => "no_alpn_h2",
        E::PeerIncompatible(
            Peer::SupportedVersionsExtensionRequired
            | Peer::Tls13RequiredForQuic
            | Peer::Tls12NotOffered
            | Peer::Tls12NotOfferedOrEnabled
            | Peer::ServerDoesNotSupportTls12Or13,
        ) => "protocol_version",
        E::PeerIncompatible(_) => "no_common_parameters",
        E::InvalidMessage(_) | E::InappropriateMessage { .. } | E::InappropriateHandshakeMessage { .. } => {
            "malformed_message"
        }
        E::PeerSentOversizedRecord => "malformed_message",
        E::PeerMisbehaved(_) => "peer_misbehaved",
        // Most often it does not trust our certificate.
        E::AlertReceived(_) => "refused_by_peer",
        E::DecryptError => "decrypt_error",
        _ => "tls_error",
    }
}

fn io_reason(error: &io::Error) -> &'static str {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => "closed_early",
        // The first record could not be read as one, before rustls had an error to give.
        io::ErrorKind::InvalidData => "malformed_message",
        _ => "io_error",
    }
}
