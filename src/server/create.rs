//! A new vault's data.

use super::rulebook::RulebookView;
use super::{Error, identity, ledger_settings, log_key, rocks_config, root_key, runtime};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::crypto::VaultId;
use crate::event::Action;
use crate::keys::{Keyring, KeyringError, entropy};
use crate::ledger::{self, Genesis, Signing, Submission};
use crate::store::{RocksStore, Store};
use std::sync::Arc;

/// Makes the data of a new vault, with its first event and checkpoint.
///
/// # Errors
/// If there is some already, or it can't be written.
pub fn create(config: &Config) -> Result<(), Error> {
    let clock = SystemClock::shared();
    let root = root_key(config)?;
    let log_key = log_key(config)?;
    let genesis =
        Genesis { vault: VaultId(entropy::bytes().map_err(KeyringError::from)?), log_id: log_key.name().to_string() };
    for directory in std::iter::once(&config.audit.checkpoints).chain(&config.audit.checkpoints_copy) {
        std::fs::create_dir_all(directory)
            .map_err(|error| Error::Io { what: "can't make the directory for checkpoints", error })?;
    }
    let store: Arc<dyn Store> = Arc::new(RocksStore::create(&config.storage.path, &rocks_config(config))?);
    ledger::create(&*store, &root, &genesis, log_key.verifier())?;
    let (genesis, meta) = ledger::identify(&*store, &root)?;
    let (keys, state) = Keyring::create(&root, &genesis.vault, &meta, clock.wall())?;
    let settings = ledger_settings(config, Signing::by(log_key), &clock, RulebookView::none(), Box::new(|_| {}));
    let (ledger, running) = ledger::open(store, &genesis, meta, state, settings)?;
    let event = crate::vault::own_event(
        &identity(config)?,
        &config.server.node,
        Action::CreateKey,
        format!("vault {}, keys index, request and state, version 1", genesis.vault),
    )
    .map_err(Error::Log)?;
    let submission = Submission::new(ledger.basis(), event).with_changes(keys);
    let runtime = runtime("can't start a runtime")?;
    runtime.block_on(ledger.record(submission)).map_err(|refused| Error::Log(refused.into()))?;
    Ok(running.close()?)
}
