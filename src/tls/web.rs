//! TLS for plain HTTPS, where the door's rules for callers do not apply: no client certificates, HTTP/1.1.

use std::path::Path;
use std::sync::Arc;

use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ServerConfig};

use super::material::SetupError;
use super::outgoing::build_outgoing_config;
use super::provider::provider;
use super::server::ServerIdentity;

/// The only protocol that is spoken over it.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// A server that anyone may connect to, with this certificate chain and key, PEM.
///
/// # Errors
/// If the files can't be read or don't belong together.
pub fn server_config(certificate: &Path, private_key: &Path) -> Result<Arc<ServerConfig>, SetupError> {
    let identity = ServerIdentity::load(certificate, private_key)?;
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified)));
    server.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(server))
}

/// A client that believes the authorities in this file, PEM, and no others.
///
/// # Errors
/// If the file can't be read or holds no authority.
pub fn client_config(authorities: &Path) -> Result<Arc<ClientConfig>, SetupError> {
    build_outgoing_config(authorities, None, Some(ALPN_HTTP1))
}
