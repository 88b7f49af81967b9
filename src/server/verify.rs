//! Verifying the data of a vault, which may run meanwhile: nothing is locked, and nothing is written.

use super::{Error, descriptors, rocks_config, root_key};
use crate::config::Config;
use crate::keys::Keyring;
use crate::ledger::{self, CheckpointDirectory, Checkpoints, Outside};
use crate::store::{ReadError, RocksSnapshot};
use crate::vault::verify::{Report, Subject, verify, verify_index};

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Keys, checkpoint or data can't be opened.
    #[error(transparent)]
    Open(#[from] Error),
    /// They can't be read to the end.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Holds the records in `config`'s store against what its last commit left, and against the newest checkpoint outside.
/// With `index` also the index of events against the events. `progress` is told what is looked at, and how many of them have
/// been.
///
/// # Errors
/// If they can't be opened or read. What is wrong with them is in the report.
pub fn verify_data(
    config: &Config,
    index: bool,
    progress: &mut dyn FnMut(&'static str, u64),
) -> Result<Report, VerifyError> {
    // All files of the store are opened at once.
    descriptors::raise_limit();
    let open = || RocksSnapshot::open(&config.storage.path, &rocks_config(config)).map_err(Error::from);
    let root = root_key(config)?;
    let keys = {
        let rows = open()?;
        let (_, meta) = ledger::identify(&rows, &root).map_err(Error::from)?;
        ledger::log_keys(&rows, &meta).map_err(Error::from)?
    };
    // Before the rows that are looked at: a vault that runs soon vouches for more than they are.
    let outside = Outside::read(&checkpoints(config), &keys).map_err(Error::from)?;
    let rows = open()?;
    let (genesis, meta) = ledger::identify(&rows, &root).map_err(Error::from)?;
    let keyring = Keyring::open(root, genesis.vault, meta, &rows).map_err(Error::from)?;
    let subject = Subject { rows: &rows, keyring: &keyring, outside: &outside };
    let mut report = verify(&subject, &mut |records| progress("records", records))?;
    report.damaged_filters = rows.damaged_filters();
    if index {
        report.index = Some(verify_index(&rows, &mut |events| progress("events", events))?);
    }
    Ok(report)
}

/// Where the checkpoints outside are.
pub(super) fn checkpoints(config: &Config) -> Checkpoints {
    Checkpoints {
        directory: CheckpointDirectory::new(&config.audit.checkpoints),
        copy: config.audit.checkpoints_copy.as_ref().map(CheckpointDirectory::new),
    }
}
