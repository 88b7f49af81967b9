//! A certificate authority for development, and the certificates that it signs.
//!
//! The leaves follow the rules that the vault checks: one SPIFFE ID, `digitalSignature` and nothing else as (critical) key
//! usage, exactly the extended key usage of their side, not a CA, a positive serial of at most 20 bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Context;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, date_time_ymd,
};

use super::sample::{SERVER_ID, TRUST_DOMAIN};
use crate::clock::Timestamp;
use crate::keys::entropy;
use crate::secret::SecretBytes;

const DAY: Duration = Duration::from_hours(24);
const LEAF_LIFETIME: Duration = DAY.saturating_mul(90);
const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(365);
/// Certificates are valid from a little earlier on, for machines whose clocks are behind.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(5);

const DEVELOPMENT_ONLY: &[u8] =
    b"# DEVELOPMENT ONLY. Whoever has this key can be any caller of the vault that trusts pki/ca.pem.\n\
      # In production certificates come from your own SPIFFE authority, and this file does not exist.\n";

/// The authority, with its key in memory.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    now: Timestamp,
}

/// A certificate and its key, PEM.
pub(super) struct Leaf {
    /// The certificate. The authority signs directly, so it is the whole chain.
    pub(super) chain: String,
    /// The key, PKCS #8.
    pub(super) private_key: SecretBytes,
}

impl Authority {
    /// A new authority, valid for a year from `now` on.
    pub(super) fn generate(now: Timestamp) -> anyhow::Result<Self> {
        let mut params = parameters("Cloakroom development CA", now, AUTHORITY_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{TRUST_DOMAIN}"))?];
        let issuer = CertifiedIssuer::self_signed(params, key_pair()?).context("cannot sign the development CA")?;
        Ok(Self { issuer, now })
    }

    /// Its certificate, PEM.
    pub(super) fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// Its key, PEM, with a warning in front.
    pub(super) fn private_key(&self) -> SecretBytes {
        let key = SecretBytes::new(self.issuer.key().serialize_pem().into_bytes());
        SecretBytes::new([DEVELOPMENT_ONLY, key.expose()].concat())
    }

    /// The vault's certificate: its SPIFFE ID, and the names of this machine beside it.
    pub(super) fn server_certificate(&self) -> anyhow::Result<Leaf> {
        let names = vec![
            uri(SERVER_ID)?,
            SanType::DnsName(Ia5String::try_from("localhost")?),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        self.leaf("vault", names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// The certificate of the client `name`.
    pub(super) fn client_certificate(&self, name: &str) -> anyhow::Result<Leaf> {
        let id = uri(&format!("spiffe://{TRUST_DOMAIN}/{name}"))?;
        self.leaf(name, vec![id], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn leaf(&self, name: &str, names: Vec<SanType>, purpose: ExtendedKeyUsagePurpose) -> anyhow::Result<Leaf> {
        let mut params = parameters(name, self.now, LEAF_LIFETIME)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.subject_alt_names = names;
        params.use_authority_key_identifier_extension = true;
        let key = key_pair()?;
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign for {name}"))?;
        Ok(Leaf { chain: certificate.pem(), private_key: SecretBytes::new(key.serialize_pem().into_bytes()) })
    }
}

fn parameters(name: &str, now: Timestamp, lifetime: Duration) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.seconds());
    params.not_before = now - CLOCK_TOLERANCE;
    params.not_after = now + lifetime;
    params.serial_number = Some(serial()?);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

/// 16 random bytes, made positive and never shorter.
fn serial() -> anyhow::Result<SerialNumber> {
    let mut bytes = entropy::bytes::<16>()?;
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn key_pair() -> anyhow::Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a P-256 key")
}

fn uri(text: &str) -> anyhow::Result<SanType> {
    Ok(SanType::URI(Ia5String::try_from(text)?))
}
