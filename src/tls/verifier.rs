//! The verdict on a client's certificate chain.
//!
//! Invariant: a chain is verified against the roots of one trust domain alone, the one that the leaf's SPIFFE ID names.
//! With one store for all domains, the authority of any domain could assert the callers of every other.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};

use super::findings;
use super::material::SetupError;
use super::server::Bundle;
use crate::caller::TrustDomain;
use crate::caller::leaf::{self, Leaf, LeafError};

/// Intermediates that a client may send. webpki goes six deep, so more are of no use, and each is a burden: it tries them in
/// every order. Six of one name cost it two thousand steps, eight thirty thousand, which is sixty milliseconds.
const MAX_INTERMEDIATES: usize = 6;

/// Verifies clients' certificates: one verifier, with its own roots, for each trust domain.
#[derive(Debug)]
pub(super) struct DomainVerifier {
    by_domain: BTreeMap<TrustDomain, Arc<dyn ClientCertVerifier>>,
    /// With the roots of all domains. It lets nobody in: it tells whether a chain that was refused is another domain's,
    /// with one look, whatever the number of domains.
    of_any_domain: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What a client sent, and when.
struct Chain<'a> {
    leaf: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    now: UnixTime,
}

/// Why a client's chain was refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Leaf(#[from] LeafError),
    #[error("more than {MAX_INTERMEDIATES} intermediate certificates were sent")]
    ChainTooLong,
    #[error("the certificate's trust domain is not configured here")]
    UnknownTrustDomain,
    #[error("the certificate was issued by the authority of another trust domain than it names")]
    TrustDomainMismatch,
    #[error("the certificate chain does not verify: {0}")]
    Chain(#[source] rustls::Error),
}

impl DomainVerifier {
    pub(super) fn new(bundles: Vec<Bundle>, provider: &Arc<CryptoProvider>) -> Result<Self, SetupError> {
        let (mut by_domain, mut all) = (BTreeMap::new(), RootCertStore::empty());
        let verifier = |roots| WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        for Bundle { domain, path, roots } in bundles {
            all.extend(roots.roots.iter().cloned());
            let verifier = verifier(roots).map_err(|_| SetupError::NoCertificate { path })?;
            if by_domain.contains_key(&domain) {
                return Err(SetupError::TrustDomainTwice { name: domain.to_string() });
            }
            by_domain.insert(domain, verifier);
        }
        let Ok(of_any_domain) = verifier(all) else { return Err(SetupError::NoTrustDomains) };
        Ok(Self { by_domain, of_any_domain, algorithms: provider.signature_verification_algorithms })
    }

    /// The rules for the leaf come before any signature: they are cheap, they say where to look for the roots, and a
    /// client that fails them gets the same reason whoever signed its certificate.
    fn judge(&self, chain: &Chain<'_>) -> Result<Leaf, Refusal> {
        let leaf = leaf::check(chain.leaf)?;
        if chain.intermediates.len() > MAX_INTERMEDIATES {
            return Err(Refusal::ChainTooLong);
        }
        chain.intermediates.iter().try_for_each(|issuer| leaf::check_issuer(issuer))?;
        let Some(verifier) = self.by_domain.get(leaf.id.trust_domain()) else {
            return Err(self.explain(chain, Refusal::UnknownTrustDomain));
        };
        match chain.verify(verifier.as_ref()) {
            Ok(_) => Ok(leaf),
            Err(error) => Err(self.explain(chain, Refusal::Chain(error))),
        }
    }

    /// A chain that no authority of its own domain signed, but one of another domain did, is more than a stray: that
    /// authority, or someone who holds its key, tries to speak for others.
    fn explain(&self, chain: &Chain<'_>, refusal: Refusal) -> Refusal {
        use CertificateError::{BadSignature, UnknownIssuer};
        let unsigned = match &refusal {
            Refusal::UnknownTrustDomain => true,
            // Authorities of different domains may bear the same name, and then it is the signature that fails.
            Refusal::Chain(rustls::Error::InvalidCertificate(error)) => matches!(error, UnknownIssuer | BadSignature),
            _ => false,
        };
        if unsigned && chain.verify(self.of_any_domain.as_ref()).is_ok() {
            Refusal::TrustDomainMismatch
        } else {
            refusal
        }
    }
}

impl ClientCertVerifier for DomainVerifier {
    /// No hints: a list of authorities would tell strangers whom we trust, and clients have one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        findings::note(|findings| findings.certificate_sha256 = Some(Sha256::digest(end_entity).into()));
        match self.judge(&Chain { leaf: end_entity, intermediates, now }) {
            Ok(leaf) => {
                findings::note(|findings| findings.leaf = Some(leaf));
                Ok(ClientCertVerified::assertion())
            }
            Err(refusal) => {
                findings::note(|findings| findings.reason = Some(refusal.reason()));
                Err(refusal.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Only TLS 1.3 is configured, so this is never asked; if it ever is, the answer is no.
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Chain<'_> {
    fn verify(&self, verifier: &dyn ClientCertVerifier) -> Result<ClientCertVerified, rustls::Error> {
        verifier.verify_client_cert(self.leaf, self.intermediates, self.now)
    }
}

impl Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Self::Leaf(error) => error.reason(),
            Self::ChainTooLong => "certificate_chain_too_long",
            Self::UnknownTrustDomain => "unknown_trust_domain",
            Self::TrustDomainMismatch => "trust_domain_mismatch",
            Self::Chain(rustls::Error::InvalidCertificate(error)) => chain_reason(error),
            Self::Chain(_) => "certificate_chain_invalid",
        }
    }
}

impl From<Refusal> for rustls::Error {
    /// The standard alert where the standard has one; "certificate unknown" for rules of our own.
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Chain(error) => error,
            Refusal::Leaf(LeafError::Malformed) => CertificateError::BadEncoding.into(),
            Refusal::UnknownTrustDomain | Refusal::TrustDomainMismatch => CertificateError::UnknownIssuer.into(),
            other => CertificateError::Other(OtherError(Arc::new(other))).into(),
        }
    }
}

fn chain_reason(error: &CertificateError) -> &'static str {
    use CertificateError as E;
    match error {
        E::BadEncoding => "certificate_malformed",
        E::Expired | E::ExpiredContext { .. } => "certificate_expired",
        E::NotValidYet | E::NotValidYetContext { .. } => "certificate_not_yet_valid",
        E::Revoked => "certificate_revoked",
        E::UnhandledCriticalExtension => "certificate_unknown_critical_extension",
        E::UnknownIssuer => "certificate_unknown_issuer",
        E::BadSignature => "certificate_bad_signature",
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => "certificate_no_client_auth",
        E::UnsupportedSignatureAlgorithmContext { .. } | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "certificate_signature_algorithm"
        }
        // Path length, an authority that is none, name constraints, and what a later version of rustls may tell apart.
        _ => "certificate_chain_invalid",
    }
}
