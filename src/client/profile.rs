//! Where a vault is, who the caller is, and whom it expects to find: a small file.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Error;
use crate::caller::{SpiffeId, leaf};
use crate::tls::client::{Config, Connector};

/// Where a vault is, who the caller is, and whom it expects to find.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// `host:port`.
    pub address: String,
    /// The certificates that the vault's own must lead to, PEM.
    pub ca: PathBuf,
    /// The caller's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub private_key: PathBuf,
    /// The name that the vault's certificate must have, where it is not the host of `address`.
    pub server_name: Option<String>,
    /// The SPIFFE ID that the vault's certificate must have besides.
    pub server_id: Option<String>,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file can't be read.
    #[error("{}: cannot read the profile: {source}. `cloakroom init` writes one for each sample client under profiles/", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a profile.
    #[error("{}: not a profile: {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where and what, as the parser says it.
        problem: String,
    },
}

impl Profile {
    /// Reads a profile. Relative paths in it start at its folder.
    ///
    /// # Errors
    /// If it can't be read or has a mistake; unknown keys are mistakes.
    pub fn load(file: &Path) -> Result<Self, ProfileError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ProfileError::Unreadable { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// As [`Profile::load`], with the text of the file given.
    ///
    /// # Errors
    /// If it has a mistake; unknown keys are mistakes.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ProfileError> {
        let mut profile: Self = toml::from_str(text)
            .map_err(|error| ProfileError::Malformed { file: file.to_owned(), problem: error.to_string() })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        for path in [&mut profile.ca, &mut profile.certificate, &mut profile.private_key] {
            *path = folder.join(&*path);
        }
        Ok(profile)
    }

    /// The SPIFFE ID that the profile's own certificate has.
    ///
    /// # Errors
    /// If the certificate can't be read or has none.
    pub fn own_id(&self) -> Result<SpiffeId, Error> {
        let file = self.certificate.display();
        let unusable = |problem: String| Error::Profile { problem: format!("{file}: {problem}") };
        let certificate =
            CertificateDer::from_pem_file(&self.certificate).map_err(|error| unusable(error.to_string()))?;
        let id = leaf::spiffe_id(&certificate).map_err(|error| unusable(error.to_string()))?;
        id.ok_or_else(|| unusable("the certificate has no SPIFFE ID, so it tells no trust domain".to_owned()))
    }

    /// Reads what it names.
    pub(super) fn connector(&self) -> Result<Connector, Error> {
        let server_id = self.server_id.as_deref().map(SpiffeId::parse).transpose();
        let server_id = server_id.map_err(|error| Error::Profile { problem: format!("server_id: {error}") })?;
        let config = Config {
            authorities: self.ca.clone(),
            certificate: self.certificate.clone(),
            private_key: self.private_key.clone(),
            server_name: self.server_name.clone(),
            server_id,
        };
        Connector::new(&config).map_err(|error| Error::Profile { problem: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profiles_mistakes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.toml");
        std::fs::write(&file, "adress = \"127.0.0.1:1\"\n").unwrap();
        let error = Profile::load(&file).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("adress") && error.contains("address"), "{error}");
        let error = Profile::load(&folder.path().join("none.toml")).unwrap_err().to_string();
        assert!(error.contains("none.toml") && error.contains("cloakroom init"), "{error}");
    }
}
