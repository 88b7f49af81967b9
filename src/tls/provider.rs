//! The cryptography that both ends of our connections use, and no other.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};

/// The only application protocol at this door: HTTP/2, which carries gRPC.
pub(super) const ALPN_H2: &[u8] = b"h2";

/// Label and context of the exporter that binds a token to a connection (RFC 9266, `tls-exporter`).
const CHANNEL_BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Suites and groups are listed rather than taken from the library's defaults, so that an upgrade of it does not change
/// what is offered. The hybrid group comes first: recorded traffic must not open to a later quantum computer.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

/// The exporter value of a finished handshake; both ends compute the same.
pub(super) fn channel_binding<Side>(connection: &rustls::ConnectionCommon<Side>) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0u8; 32], CHANNEL_BINDING_LABEL, Some(b""))
}
