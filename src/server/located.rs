//! Errors that only the use of a setting shows, put at the setting's place.

use super::{Error, ledger};
use crate::config::Config;
use crate::tls::SetupError;

/// Whether the system only has too little of something at the moment, so that nothing that people wrote is wrong.
pub(super) fn is_passing(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::INTR | Errno::IO)
    )
}

/// The error with the place of the setting that it is about, if it is about one.
pub(super) fn located(config: &Config, error: Error) -> Error {
    let server = &config.server;
    let key = match &error {
        Error::RootKey(_) => "root_key.path",
        Error::LogKey { .. } => "audit.signing_key",
        Error::Store(_) => "storage.path",
        Error::Ledger(ledger::OpenError::Checkpoint(_)) => "audit.checkpoints",
        Error::Door(SetupError::Listen { .. }) => "server.listen",
        Error::Operations(_) => "operations.listen",
        Error::Door(SetupError::RevocationNotSupported) => "trust_domains.crls",
        Error::Door(SetupError::TrustDomainName { .. }) => "trust_domains.name",
        Error::Door(error) => match error.path() {
            Some(path) if path == server.certificate => "server.certificate",
            Some(path) if path == server.private_key => "server.private_key",
            Some(_) => "trust_domains.bundle",
            None => "",
        },
        _ => "",
    };
    match config.places.mistake(key, error.to_string()) {
        Some(mistake) => Error::At { mistake, error: Box::new(error) },
        None => error,
    }
}
