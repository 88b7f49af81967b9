//! A new key for the log, in steps each of which a crash may be the last.
//!
//! 1. The new private key is on disk, beside the old one.
//! 2. One commit: the event with both keys, and the row of `meta` that brings the new one into force.
//! 3. A checkpoint that both have signed, kept for verifiers.
//! 4. The new public key, then the new private key, take the places of the old ones.
//!
//! Run again after a crash, it finds the new key of step 1 and goes on. Between 2 and 4 the vault refuses to start with the
//! old key alone, and says so.

use super::{Error, LogKeyError, log_key, open_signing, root_key, runtime};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::event::Action;
use crate::keys::provider::{ProviderError, read_private};
use crate::keys::{KeyringError, entropy};
use crate::ledger::{self, Signing};
use crate::merkle::note::{LogKey, Name, VerifierKey};
use crate::secret::SecretKey;
use crate::vault::{Failure, VaultEvent};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a rotation came to.
pub struct Rotated {
    /// The public key that signed until now.
    pub old: VerifierKey,
    /// The one that signs from now on.
    pub new: VerifierKey,
    /// The checkpoint that both have signed.
    pub note: PathBuf,
}

/// Lets a new key succeed the log's.
///
/// # Errors
/// If the vault runs, can't be opened, or a file can't be written. Then it may be run again.
pub fn rotate_log_key(config: &Config) -> Result<Rotated, Error> {
    let place = &config.audit.signing_key;
    let waiting = beside(place, "next");
    let old = log_key(config)?.verifier();
    let next = next_key(&waiting, old.name())?;
    let new = next.verifier();
    let opened = open_signing(config, &SystemClock::shared(), |key| Signing::handover(key, next))?;
    let ledger = opened.vault.ledger().clone();
    let recorded = runtime("can't start the runtime")?.block_on(async {
        let recorded = bring_into_force(config, &opened.vault, &old, &new).await;
        opened.close().await?;
        recorded
    });
    let in_force_from = recorded?;
    let size = ledger.vouched().size();
    if size < in_force_from {
        // The reason is in the process's log: a checkpoint could not be written.
        return Err(Error::Log(Failure::Unavailable));
    }
    let file = |what, result: std::io::Result<()>| result.map_err(|error| Error::Io { what, error });
    file("can't write the new public key", replace(&place.with_extension("vkey"), &format!("{new}\n")))?;
    file("can't put the new log key in its place", std::fs::rename(&waiting, place).and_then(|()| sync_folder(place)))?;
    Ok(Rotated { old, new, note: config.audit.checkpoints.join("rotations").join(size.to_string()) })
}

/// Writes the event and the row, unless that has been done. From which size on the new key is in force.
async fn bring_into_force(
    config: &Config,
    vault: &crate::vault::Vault,
    old: &VerifierKey,
    new: &VerifierKey,
) -> Result<u64, Error> {
    let (_, meta) = ledger::identify(&**vault.rows(), &root_key(config)?)?;
    let keys = ledger::log_keys(&**vault.rows(), &meta)?;
    if let Some(from) = keys.in_force_from(new) {
        return Ok(from);
    }
    let size = vault.ledger().head().ok_or(Error::Log(Failure::Unavailable))?.size;
    let event = VaultEvent {
        action: Action::RotateKeys,
        scope: String::new(),
        detail: format!("log key {old} is succeeded by {new}"),
        changes: ledger::log_keys_row(&meta, &keys.succeeded_by(new.clone(), size + 1)),
    };
    let receipt = vault.record_own(event).await.map_err(Error::Log)?;
    // Nobody else writes: the vault has no door yet.
    if receipt.sequence() == size { Ok(size + 1) } else { Err(Error::Log(Failure::Internal)) }
}

/// The key that a rotation before this one has left, or a new one, durable before anything speaks of it.
fn next_key(path: &Path, name: &Name) -> Result<LogKey, Error> {
    let failed = |error| Error::LogKey { path: path.to_owned(), error };
    match read_private(path) {
        Ok(text) => LogKey::parse(&text).map_err(|error| failed(LogKeyError::Key(error))),
        Err(ProviderError::Unreadable { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = LogKey::from_seed(name.clone(), &SecretKey::new(entropy::bytes().map_err(KeyringError::from)?));
            let write = || {
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                file.write_all(key.to_text().expose())?;
                file.sync_all()?;
                sync_folder(path)
            };
            write().map_err(|error| Error::Io { what: "can't write the next log key", error })?;
            Ok(key)
        }
        Err(error) => Err(failed(LogKeyError::File(error))),
    }
}

fn replace(path: &Path, content: &str) -> std::io::Result<()> {
    let new = beside(path, "new");
    let mut file = File::create(&new)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
