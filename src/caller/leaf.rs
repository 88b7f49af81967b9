//! The rules that a client's own certificate must satisfy, beyond being signed by the right authority.
//!
//! Invariant: [`check`] returns a [`Leaf`] only for an X.509 v3 certificate of an end entity that says it is for client
//! authentication and for signing, signs nothing else, and bears exactly one URI name, which is a SPIFFE ID. TLS
//! libraries check much less: extended key usage only where the extension is present, and key usage not at all.
//!
//! What is checked follows the X509-SVID standard (sections 2 to 5) and RFC 5280 (sections 4.1.2 and 4.2.1).
//! Signatures, chains and times are not looked at here: this is called with bytes from an unknown peer, before any of
//! that.

use sha2::{Digest, Sha256};
use x509_parser::asn1_rs::{Any, FromDer, Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Version};

use super::spiffe::{SpiffeError, SpiffeId};
use crate::clock::Timestamp;

/// The longest serial number that RFC 5280 section 4.1.2.2 allows, in content bytes.
const MAX_SERIAL_BYTES: usize = 20;

/// Below this a modulus can be factored by a patient adversary.
const MIN_RSA_BITS: usize = 2048;

/// The DER tag number of a URI in GeneralName.
const URI_TAG: u32 = 6;

/// What a certificate says that passed [`check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The only URI name.
    pub id: SpiffeId,
    /// The start of the validity period.
    pub not_before: Timestamp,
    /// The end of the validity period.
    pub not_after: Timestamp,
    /// SHA-256 of the whole certificate in DER.
    pub sha256: [u8; 32],
}

/// Which rule a certificate breaks. The first one found is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// It cannot be read as one DER certificate, or an extension that matters cannot be read or stands twice.
    #[error("the certificate is not well-formed DER")]
    Malformed,
    /// It is an X.509 v1 or v2 certificate.
    #[error("the certificate is not X.509 version 3")]
    Version,
    /// Its serial number is zero, negative, not minimal or longer than 20 bytes.
    #[error("the serial number is not a positive integer of at most {MAX_SERIAL_BYTES} bytes")]
    SerialNumber,
    /// It was signed with SHA-1, MD5, Ed448 or another algorithm that is not on the list.
    #[error("the certificate is signed with an algorithm that is not accepted: use ECDSA, Ed25519 or RSA with SHA-2")]
    SignatureAlgorithm,
    /// Its key is of a kind or on a curve that is not on the list.
    #[error("the key is of a kind that is not accepted: use P-256, P-384, P-521, Ed25519 or RSA of 2048 bits or more")]
    PublicKey,
    /// Its RSA modulus has fewer than 2048 bits.
    #[error("the RSA key has fewer than {MIN_RSA_BITS} bits")]
    RsaKeyTooSmall,
    /// An extension is marked critical that nobody here reads.
    #[error("a critical extension is not understood")]
    UnknownCriticalExtension,
    /// It is the certificate of an authority.
    #[error("the certificate belongs to an authority (CA:TRUE), not to a workload")]
    Authority,
    /// It has no key usage.
    #[error("the key usage extension is missing")]
    KeyUsageMissing,
    /// Key usage is there but not critical.
    #[error("the key usage extension is not marked critical")]
    KeyUsageNotCritical,
    /// It may not sign a handshake.
    #[error("key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// It may sign certificates.
    #[error("key usage has keyCertSign, which only an authority may have")]
    SignsCertificates,
    /// It may sign revocation lists.
    #[error("key usage has cRLSign, which only an authority may have")]
    SignsRevocationLists,
    /// It has no extended key usage.
    #[error("the extended key usage extension is missing")]
    ExtendedKeyUsageMissing,
    /// Extended key usage does not name client authentication. `anyExtendedKeyUsage` does not count.
    #[error("extended key usage lacks clientAuth")]
    NoClientAuth,
    /// There is no URI name: a SPIFFE ID in the common name or a DNS name is none.
    #[error("the certificate has no URI name (SPIFFE ID) in its subject alternative names")]
    NoUri,
    /// There is more than one URI name.
    #[error("the certificate has more than one URI name")]
    SeveralUris,
    /// The URI name is not a SPIFFE ID of a workload.
    #[error("the certificate's URI name is not an acceptable SPIFFE ID: {0}")]
    SpiffeId(#[from] SpiffeError),
    /// An intermediate certificate is not one of an authority.
    #[error("an intermediate certificate may not issue certificates (CA:TRUE and keyCertSign are required)")]
    NotAnIssuer,
}

/// Reads a client's certificate and applies every rule.
pub fn check(der: &[u8]) -> Result<Leaf, LeafError> {
    let certificate = parse(der)?;
    if certificate.version() != X509Version::V3 {
        return Err(LeafError::Version);
    }
    check_serial(certificate.raw_serial())?;
    check_signature_algorithm(&certificate)?;
    check_public_key(certificate.public_key())?;
    check_extensions(&certificate)?;
    check_basic_constraints(&certificate)?;
    check_key_usage(&certificate)?;
    check_extended_key_usage(&certificate)?;
    let id = only_uri(&certificate)?.ok_or(LeafError::NoUri)?;
    let validity = certificate.validity();
    Ok(Leaf {
        id,
        not_before: timestamp(validity.not_before.timestamp()),
        not_after: timestamp(validity.not_after.timestamp()),
        sha256: Sha256::digest(der).into(),
    })
}

/// The SPIFFE ID of a certificate to which the rules for clients do not apply, such as a server's; `None` if it has no
/// URI name. More than one, or one that is not a SPIFFE ID, is an error.
pub fn spiffe_id(der: &[u8]) -> Result<Option<SpiffeId>, LeafError> {
    only_uri(&parse(der)?)
}

/// The end of a certificate's validity period, whatever else it is.
pub fn not_after(der: &[u8]) -> Result<Timestamp, LeafError> {
    Ok(timestamp(parse(der)?.validity().not_after.timestamp()))
}

/// Whether a certificate is an authority's: `CA:TRUE` in its basic constraints.
pub fn is_authority(der: &[u8]) -> Result<bool, LeafError> {
    let certificate = parse(der)?;
    let constraints = certificate.basic_constraints().map_err(|_| LeafError::Malformed)?;
    Ok(constraints.is_some_and(|found| found.value.ca))
}

/// Whether a server may show a certificate: if it says at all what it is for, then for servers too.
pub fn is_for_servers(der: &[u8]) -> Result<bool, LeafError> {
    let certificate = parse(der)?;
    let usage = certificate.extended_key_usage().map_err(|_| LeafError::Malformed)?;
    Ok(usage.is_none_or(|found| found.value.server_auth || found.value.any))
}

/// Checks one intermediate certificate that a client sent: it must be an authority's and say that it signs
/// certificates. TLS libraries look at the first alone.
pub fn check_issuer(der: &[u8]) -> Result<(), LeafError> {
    let certificate = parse(der)?;
    let is_authority =
        certificate.basic_constraints().map_err(|_| LeafError::Malformed)?.is_some_and(|found| found.value.ca);
    let signs_certificates =
        certificate.key_usage().map_err(|_| LeafError::Malformed)?.is_some_and(|found| found.value.key_cert_sign());
    if is_authority && signs_certificates { Ok(()) } else { Err(LeafError::NotAnIssuer) }
}

impl LeafError {
    /// A fixed word for metrics and audit events.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "certificate_malformed",
            Self::Version => "certificate_version",
            Self::SerialNumber => "certificate_serial_number",
            Self::SignatureAlgorithm => "certificate_signature_algorithm",
            Self::PublicKey => "certificate_public_key",
            Self::RsaKeyTooSmall => "certificate_rsa_key_too_small",
            Self::UnknownCriticalExtension => "certificate_unknown_critical_extension",
            Self::Authority => "certificate_is_authority",
            Self::KeyUsageMissing => "certificate_key_usage_missing",
            Self::KeyUsageNotCritical => "certificate_key_usage_not_critical",
            Self::NoDigitalSignature => "certificate_no_digital_signature",
            Self::SignsCertificates => "certificate_key_cert_sign",
            Self::SignsRevocationLists => "certificate_crl_sign",
            Self::ExtendedKeyUsageMissing => "certificate_extended_key_usage_missing",
            Self::NoClientAuth => "certificate_no_client_auth",
            Self::NoUri => "certificate_no_spiffe_id",
            Self::SeveralUris => "certificate_several_uris",
            Self::SpiffeId(error) => error.reason(),
            Self::NotAnIssuer => "certificate_intermediate_not_issuer",
        }
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, LeafError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(LeafError::Malformed),
    }
}

fn check_serial(content: &[u8]) -> Result<(), LeafError> {
    let positive = match content {
        [] | [0] => false,
        // A leading zero byte is right only where the next would look like a sign.
        [0, second, ..] => *second >= 0x80,
        [first, ..] => *first < 0x80,
    };
    if positive && content.len() <= MAX_SERIAL_BYTES { Ok(()) } else { Err(LeafError::SerialNumber) }
}

/// A list of what is accepted rather than of what is known to be broken, so that a new weak algorithm is not let in by
/// default. The TLS library accepts no more than these either; here they get a reason of their own.
fn check_signature_algorithm(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    let accepted: [Oid<'static>; 11] = [
        oid!(1.2.840.10045.4.3.2),     // ecdsa-with-SHA256
        oid!(1.2.840.10045.4.3.3),     // ecdsa-with-SHA384
        oid!(1.2.840.10045.4.3.4),     // ecdsa-with-SHA512
        oid!(1.3.101.112),             // Ed25519
        oid!(1.2.840.113549.1.1.11),   // sha256WithRSAEncryption
        oid!(1.2.840.113549.1.1.12),   // sha384WithRSAEncryption
        oid!(1.2.840.113549.1.1.13),   // sha512WithRSAEncryption
        oid!(1.2.840.113549.1.1.10),   // RSASSA-PSS; the TLS library checks that its hash is SHA-2
        oid!(2.16.840.1.101.3.4.3.17), // ML-DSA-44
        oid!(2.16.840.1.101.3.4.3.18), // ML-DSA-65
        oid!(2.16.840.1.101.3.4.3.19), // ML-DSA-87
    ];
    // RFC 5280 section 4.1.1.2: the algorithm stands twice, once under the signature, and both must agree.
    if certificate.signature_algorithm != certificate.signature {
        return Err(LeafError::Malformed);
    }
    if accepted.contains(&certificate.signature_algorithm.algorithm) {
        Ok(())
    } else {
        Err(LeafError::SignatureAlgorithm)
    }
}

fn check_public_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), LeafError> {
    let without_parameters: [Oid<'static>; 4] = [
        oid!(1.3.101.112),             // Ed25519
        oid!(2.16.840.1.101.3.4.3.17), // ML-DSA-44
        oid!(2.16.840.1.101.3.4.3.18), // ML-DSA-65
        oid!(2.16.840.1.101.3.4.3.19), // ML-DSA-87
    ];
    if without_parameters.contains(&key.algorithm.algorithm) {
        return Ok(());
    }
    match key.parsed().map_err(|_| LeafError::Malformed)? {
        PublicKey::RSA(rsa) if bits(rsa.modulus) >= MIN_RSA_BITS => Ok(()),
        PublicKey::RSA(_) => Err(LeafError::RsaKeyTooSmall),
        PublicKey::EC(_) => check_curve(key),
        _ => Err(LeafError::PublicKey),
    }
}

fn check_curve(key: &SubjectPublicKeyInfo<'_>) -> Result<(), LeafError> {
    let accepted: [Oid<'static>; 3] = [
        oid!(1.2.840.10045.3.1.7), // P-256
        oid!(1.3.132.0.34),        // P-384
        oid!(1.3.132.0.35),        // P-521
    ];
    // RFC 5480 section 2.1.1: only a named curve; a curve spelled out in parameters is refused with the unknown ones.
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if curve.is_some_and(|curve| accepted.contains(&curve)) { Ok(()) } else { Err(LeafError::PublicKey) }
}

/// The number of bits of a big-endian integer, whatever zeros stand in front.
fn bits(integer: &[u8]) -> usize {
    let significant = integer.iter().position(|byte| *byte != 0).map_or(&[][..], |start| &integer[start..]);
    significant.first().map_or(0, |first| significant.len() * 8 - first.leading_zeros() as usize)
}

/// Each extension stands once, those that matter here can be read to their last byte, and every critical one matters
/// here.
fn check_extensions(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    certificate.extensions_map().map_err(|_| LeafError::Malformed)?;
    for extension in certificate.extensions() {
        let understood = matches!(
            extension.parsed_extension(),
            ParsedExtension::KeyUsage(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::BasicConstraints(_)
                | ParsedExtension::SubjectAlternativeName(_)
        );
        let whole = Any::from_der(extension.value).is_ok_and(|(rest, _)| rest.is_empty());
        if extension.parsed_extension().error().is_some() || (understood && !whole) {
            return Err(LeafError::Malformed);
        }
        if extension.critical && !understood {
            return Err(LeafError::UnknownCriticalExtension);
        }
    }
    Ok(())
}

fn check_basic_constraints(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    match certificate.basic_constraints().map_err(|_| LeafError::Malformed)? {
        Some(found) if found.value.ca => Err(LeafError::Authority),
        Some(_) | None => Ok(()),
    }
}

fn check_key_usage(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    let usage = certificate.key_usage().map_err(|_| LeafError::Malformed)?.ok_or(LeafError::KeyUsageMissing)?;
    if usage.value.key_cert_sign() {
        return Err(LeafError::SignsCertificates);
    }
    if usage.value.crl_sign() {
        return Err(LeafError::SignsRevocationLists);
    }
    if !usage.critical {
        return Err(LeafError::KeyUsageNotCritical);
    }
    if !usage.value.digital_signature() {
        return Err(LeafError::NoDigitalSignature);
    }
    Ok(())
}

fn check_extended_key_usage(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    let usage = certificate.extended_key_usage().map_err(|_| LeafError::Malformed)?;
    if usage.ok_or(LeafError::ExtendedKeyUsageMissing)?.value.client_auth {
        Ok(())
    } else {
        Err(LeafError::NoClientAuth)
    }
}

/// The one URI among the subject alternative names. Names of other kinds may stand beside it.
fn only_uri(certificate: &X509Certificate<'_>) -> Result<Option<SpiffeId>, LeafError> {
    let Some(names) = certificate.subject_alternative_name().map_err(|_| LeafError::Malformed)? else {
        return Ok(None);
    };
    let mut uris = names.value.general_names.iter().filter(|name| match name {
        GeneralName::URI(_) => true,
        // A URI of bytes that are not even UTF-8 is still a URI: it may not hide behind being unreadable.
        GeneralName::Invalid(tag, _) => tag.0 == URI_TAG,
        _ => false,
    });
    match (uris.next(), uris.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(LeafError::SeveralUris),
        (Some(GeneralName::URI(text)), None) => Ok(Some(SpiffeId::parse(text)?)),
        (Some(_), None) => Err(LeafError::Malformed),
    }
}

/// Certificates count seconds, and may name years before 1970; those are all in the past alike.
fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests;
