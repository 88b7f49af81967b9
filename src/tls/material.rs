//! Certificates, private keys and authorities, read from PEM files, for both ends of a connection.
//!
//! Invariant: what is returned here can be used: a key belongs to its certificate, a file of authorities has at least one.
//! Every error names the file and what to do about it, and none holds a byte of what the file contains.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use zeroize::Zeroizing;

use crate::caller::leaf::LeafError;
use crate::caller::spiffe::SpiffeError;
use crate::file;

/// No PEM file of ours comes near this; one that does was named by mistake.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Permission bits of group and others.
const OTHERS_MASK: u32 = 0o077;

/// Why the listener or a client's connector could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file cannot be opened or read.
    #[error("cannot read the {what} {}: {source}. Check the path and that this user may read it", path.display())]
    Read {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Somebody else than the owner could read or change a private key.
    #[error(
        "the private key {} is open to others than its owner (mode {mode:04o}). Run: chmod 600 {}",
        path.display(),
        path.display()
    )]
    KeyPermissions {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else than this process's user owns a private key, so could change it or open it to others.
    #[error(
        "the private key {} belongs to user {owner}, but this runs as user {user}. Run: chown {user} {}",
        path.display(),
        path.display()
    )]
    KeyOwner {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who reads it.
        user: u32,
    },
    /// A folder, a pipe or a device.
    #[error("the {what} {} is not a regular file. Put a PEM file there, or correct the path", path.display())]
    NotAFile {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// A file is not PEM, or its PEM is damaged.
    #[error("{} is not a valid PEM file. Was it cut short, or is it in DER form?", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
    },
    /// A file has no certificate in it.
    #[error("{} contains no certificate. Give a PEM file with a \"BEGIN CERTIFICATE\" block", path.display())]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// A file has no private key in it.
    #[error("{} contains no private key that can be used. It needs an unencrypted PKCS#8 key", path.display())]
    NoPrivateKey {
        /// Which file.
        path: PathBuf,
    },
    /// The certificate is for another key.
    #[error(
        "the private key {} does not belong to the certificate {}. Were the files renewed together?",
        private_key.display(),
        certificate.display()
    )]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        private_key: PathBuf,
    },
    /// Our own certificate cannot be read, or has a bad SPIFFE ID.
    #[error("the certificate {} cannot be used: {source}", path.display())]
    BadCertificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: LeafError,
    },
    /// A bundle has a certificate that cannot be an authority's.
    #[error("certificate number {number} in the bundle {} cannot be used as an authority", path.display())]
    BadAuthority {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        number: usize,
    },
    /// A bundle has a certificate with which nobody's can be signed.
    #[error(
        "certificate number {number} in the bundle {} is not an authority's (it lacks CA:TRUE), so no client's leads to it. \
         Put the certificate of the authority there that signs clients' certificates",
        path.display()
    )]
    NotAnAuthority {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        number: usize,
    },
    /// A server's name that no certificate could be for.
    #[error("{name:?} is neither a DNS name nor an IP address. Give the name that stands in the server's certificate")]
    ServerName {
        /// The name as configured.
        name: String,
    },
    /// Nobody could vouch for a server.
    #[error("{url} has to prove who it is, but no authorities are given: name a PEM file of them as `ca`")]
    NoAuthorities {
        /// The server.
        url: String,
    },
    /// Without a trust domain nobody could connect.
    #[error("no trust domain is configured: name at least one, with the bundle of its authorities")]
    NoTrustDomains,
    /// Two bundles for one name.
    #[error("the trust domain {name} is configured twice. Put its authorities into one bundle")]
    TrustDomainTwice {
        /// The name.
        name: String,
    },
    /// A name that no SPIFFE ID can have.
    #[error("the trust domain name {name:?} is not valid: {source}. Write the bare name, without spiffe://")]
    TrustDomainName {
        /// The name as configured.
        name: String,
        /// What is wrong with it.
        source: SpiffeError,
    },
    /// Revocation lists are asked for, and silently ignoring them would let the revoked in.
    #[error("revocation lists are configured, but this version does not check them yet. Remove `crls`")]
    RevocationNotSupported,
    /// A limit of zero would refuse everyone.
    #[error("{name} is zero, so nobody could connect. Set it to 1 or more")]
    ZeroLimit {
        /// Which setting.
        name: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {source}. {}", listening_advice(source))]
    Listen {
        /// Which address.
        listen: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// rustls refused the settings as a whole.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

fn listening_advice(error: &std::io::Error) -> &'static str {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => "Raise the limit of open files (LimitNOFILE in the service's unit)",
        Some(Errno::ACCESS) => {
            "Ports below 1024 take a capability (CAP_NET_BIND_SERVICE): grant it, or use a higher one"
        }
        _ => "Is another process using the port, or is the address not this host's?",
    }
}

impl SetupError {
    /// The file that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. }
            | Self::KeyPermissions { path, .. }
            | Self::KeyOwner { path, .. }
            | Self::NotAFile { path, .. }
            | Self::Pem { path }
            | Self::NoCertificate { path }
            | Self::NoPrivateKey { path }
            | Self::KeyMismatch { private_key: path, .. }
            | Self::BadCertificate { path, .. }
            | Self::BadAuthority { path, .. }
            | Self::NotAnAuthority { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// Reads a chain and its key and sees that they belong together.
pub(super) fn certified_key(
    certificate: &Path,
    private_key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, SetupError> {
    let chain = certificates("certificate", certificate)?;
    let key = key(private_key)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            SetupError::KeyMismatch { certificate: certificate.to_owned(), private_key: private_key.to_owned() }
        }
        rustls::Error::InvalidCertificate(_) => {
            SetupError::BadCertificate { path: certificate.to_owned(), source: LeafError::Malformed }
        }
        _ => SetupError::NoPrivateKey { path: private_key.to_owned() },
    })
}

/// Reads a file of authorities.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    for (index, authority) in certificates("bundle", path)?.into_iter().enumerate() {
        roots.add(authority).map_err(|_| SetupError::BadAuthority { path: path.to_owned(), number: index + 1 })?;
    }
    Ok(roots)
}

/// For `src/fuzz`: a file of any bytes as authorities.
#[cfg(test)]
pub(crate) fn check_roots(path: &Path) {
    if let Ok(roots) = roots(path) {
        assert!(!roots.is_empty(), "a bundle without an authority was taken");
    }
}

pub(super) fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let text = read(what, path, &open(what, path)?)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err(SetupError::NoCertificate { path: path.to_owned() }),
        Ok(certificates) => Ok(certificates),
        Err(_) => Err(SetupError::Pem { path: path.to_owned() }),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, SetupError> {
    const WHAT: &str = "private key";
    let file = open(WHAT, path)?;
    // Asked of the open file, not of the path, so that nobody can swap one for the other in between.
    let metadata = file.metadata().map_err(|source| SetupError::Read { what: WHAT, path: path.to_owned(), source })?;
    if metadata.mode() & OTHERS_MASK != 0 {
        return Err(SetupError::KeyPermissions { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    let text = read(WHAT, path, &file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => SetupError::NoPrivateKey { path: path.to_owned() },
        _ => SetupError::Pem { path: path.to_owned() },
    })
}

fn open(what: &'static str, path: &Path) -> Result<File, SetupError> {
    let opened = file::open(path).map_err(|source| SetupError::Read { what, path: path.to_owned(), source })?;
    opened.ok_or_else(|| SetupError::NotAFile { what, path: path.to_owned() })
}

/// Reads a whole file into memory that is wiped afterwards, and does not read a wrong, endless one to its end.
fn read(what: &'static str, path: &Path, file: &File) -> Result<Zeroizing<Vec<u8>>, SetupError> {
    let failed = |source| SetupError::Read { what, path: path.to_owned(), source };
    let length = file.metadata().map_or(0, |found| found.len().min(MAX_FILE_BYTES));
    let length = usize::try_from(length).expect("at most MAX_FILE_BYTES");
    let mut text = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES { Err(failed(std::io::ErrorKind::FileTooLarge.into())) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn an_address_that_cannot_be_had_is_refused_with_advice_that_fits() {
        for (errno, advice) in [
            (Errno::ADDRINUSE, "Is another process using the port"),
            (Errno::ADDRNOTAVAIL, "is the address not this host's"),
            (Errno::MFILE, "Raise the limit of open files"),
            (Errno::ACCESS, "CAP_NET_BIND_SERVICE"),
        ] {
            let listen = ([127, 0, 0, 1], 443).into();
            let said = SetupError::Listen { listen, source: errno.into() }.to_string();
            assert!(said.contains(advice) && said.starts_with("cannot listen on 127.0.0.1:443: "), "{said}");
        }
    }
}
