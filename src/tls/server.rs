//! What the server shows of itself, and the bundles by which it judges clients.
//!
//! Invariant: a [`ServerIdentity`] is a chain with its own key, which nobody but this process's user and root can change; a
//! [`Bundle`] has nothing but authorities in it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};

use super::config::TrustDomainBundle;
use super::material::{SetupError, certificates, certified_key, roots};
use crate::caller::leaf::{self, LeafError};
use crate::caller::{SpiffeId, TrustDomain};
use crate::clock::Timestamp;

/// A server's certificate chain and key.
#[derive(Clone)]
pub struct ServerIdentity {
    pub(super) certified: Arc<CertifiedKey>,
    id: Option<SpiffeId>,
}

/// Why clients might refuse a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// Its extended key usage lacks `serverAuth`.
    #[error("its extended key usage lacks serverAuth, so clients will refuse it: have it issued for servers too")]
    NotForServers,
    /// Nobody in the bundle of its own trust domain signed it.
    #[error(
        "it does not lead to {}, the bundle of its own trust domain: clients that trust that bundle alone will refuse it. Is \
         an intermediate missing behind it, or was it renewed by another authority?",
        bundle.display()
    )]
    OtherAuthority {
        /// The bundle.
        bundle: PathBuf,
    },
}

/// The authorities of one trust domain.
pub(super) struct Bundle {
    pub domain: TrustDomain,
    pub path: PathBuf,
    pub roots: RootCertStore,
}

impl ServerIdentity {
    /// Reads a server's chain and key. A SPIFFE ID is not required, since clients may check a DNS name alone; but if
    /// the certificate has a URI name it must be exactly one, and a valid id.
    pub fn load(certificate: &Path, private_key: &Path) -> Result<Self, SetupError> {
        let certified = certified_key(certificate, private_key, &super::provider::provider())?;
        check_owner(private_key)?;
        let own = certified.cert.first().ok_or_else(|| SetupError::NoCertificate { path: certificate.to_owned() })?;
        let id = leaf::spiffe_id(own)
            .map_err(|source| SetupError::BadCertificate { path: certificate.to_owned(), source })?;
        Ok(Self { certified: Arc::new(certified), id })
    }

    /// Why clients might refuse this certificate, though the server can work with it. `bundles` are those of the trust
    /// domains that are served.
    pub fn doubts(&self, bundles: &[TrustDomainBundle], now: UnixTime) -> Vec<Doubt> {
        let Some((own, intermediates)) = self.certified.cert.split_first() else { return Vec::new() };
        let mut doubts = Vec::new();
        if !leaf::is_for_servers(own).unwrap_or(true) {
            doubts.push(Doubt::NotForServers);
        }
        // Without an id it may be a certificate of an authority that has nothing to do with workloads.
        let domain = self.id.as_ref().map(|id| id.trust_domain().to_string());
        if let Some(bundle) = bundles.iter().find(|bundle| Some(&bundle.name) == domain.as_ref())
            && let Ok(roots) = roots(&bundle.bundle)
            && !leads_to(own, intermediates, &roots, now)
        {
            doubts.push(Doubt::OtherAuthority { bundle: bundle.bundle.clone() });
        }
        doubts
    }

    /// The server's own SPIFFE ID, if its certificate has one.
    pub fn id(&self) -> Option<&SpiffeId> {
        self.id.as_ref()
    }
}

/// Whether the chain ends with one of `roots`. What else may be wrong with it is not asked here.
fn leads_to(
    own: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> bool {
    let algorithms = super::provider::provider().signature_verification_algorithms.all;
    let verified = ParsedCertificate::try_from(own)
        .and_then(|own| verify_server_cert_signed_by_trust_anchor(&own, roots, intermediates, now, algorithms));
    let unsigned =
        |error: &CertificateError| matches!(error, CertificateError::UnknownIssuer | CertificateError::BadSignature);
    !matches!(verified, Err(rustls::Error::InvalidCertificate(error)) if unsigned(&error))
}

/// Reads the bundle of one trust domain.
pub(super) fn bundle(configured: &TrustDomainBundle) -> Result<Bundle, SetupError> {
    let domain = TrustDomain::parse(&configured.name)
        .map_err(|source| SetupError::TrustDomainName { name: configured.name.clone(), source })?;
    let path = configured.bundle.clone();
    let roots = roots(&path)?;
    // Each was read, so it can be read again. The library takes any certificate as a root.
    for (index, authority) in certificates("bundle", &path)?.iter().enumerate() {
        if !leaf::is_authority(authority).unwrap_or(false) {
            return Err(SetupError::NotAnAuthority { path, number: index + 1 });
        }
    }
    Ok(Bundle { domain, path, roots })
}

/// Whether a file will do as the bundle of the trust domain `name`.
///
/// # Errors
/// If it can't be read, or has something else than authorities in it.
pub fn check_bundle(name: &str, path: &Path) -> Result<(), SetupError> {
    bundle(&TrustDomainBundle { name: name.to_owned(), bundle: path.to_owned() }).map(drop)
}

/// When the first of the certificates in a file ends.
///
/// # Errors
/// If there is none, or one can't be read.
pub fn first_end(path: &Path) -> Result<Timestamp, SetupError> {
    let end = |certificate: &CertificateDer<'_>| {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        // One that ended before 1970 has ended, whenever it was.
        let seconds = u64::try_from(parsed.validity.not_after.timestamp()).unwrap_or(0);
        Some(Timestamp::from_millis(seconds.saturating_mul(1000)))
    };
    let malformed = || SetupError::BadCertificate { path: path.to_owned(), source: LeafError::Malformed };
    let ends: Option<Vec<_>> = certificates("certificate", path)?.iter().map(end).collect();
    ends.and_then(|ends| ends.into_iter().min()).ok_or_else(malformed)
}

/// A server runs as its key's owner. (A client may be root, who calls with somebody's key.)
fn check_owner(path: &Path) -> Result<(), SetupError> {
    let metadata = std::fs::metadata(path);
    let owner =
        metadata.map_err(|source| SetupError::Read { what: "private key", path: path.to_owned(), source })?.uid();
    let user = rustix::process::geteuid().as_raw();
    // Root could read it anyway.
    if owner == user || owner == 0 { Ok(()) } else { Err(SetupError::KeyOwner { path: path.to_owned(), owner, user }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_certificates_the_first_to_end_counts() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("bundle.pem");
        let made = |year| {
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        std::fs::write(&path, [made(2031), made(2030), made(2032)].concat()).unwrap();
        // 2030-01-01T00:00:00Z.
        assert_eq!(first_end(&path).unwrap(), Timestamp::from_millis(1_893_456_000_000));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(first_end(&path).is_err());
        assert!(first_end(&place.path().join("missing")).is_err());
    }
}
