//! TLS to servers of others, where audit events are sent: as strict as at our own door, but by their names, not by ids.
//!
//! Invariant: nobody vouches for such a server but the authorities in the file that was named. The system's own are not
//! asked.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;

use super::material::{self, SetupError};
use super::provider::provider;

/// Makes a client's configuration: TLS 1.3, servers vouched for by `authorities` (PEM), with the certificate and private
/// key of `identity` (PEM) if the server wants to know who sends, offering `alpn` if the protocol has a name there.
///
/// # Errors
/// If a file can't be read or used.
pub fn build_outgoing_config(
    authorities: &Path,
    identity: Option<(&Path, &Path)>,
    alpn: Option<&[u8]>,
) -> Result<Arc<ClientConfig>, SetupError> {
    let provider = provider();
    let roots = material::roots(authorities)?;
    let identity = identity.map(|(chain, key)| material::certified_key(chain, key, &provider)).transpose()?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.into_iter().map(<[u8]>::to_vec).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
