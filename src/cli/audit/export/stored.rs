//! A copy of a log that nobody serves any more, from what is stored.

use std::path::Path;

use anyhow::anyhow;

use super::Copy;
use super::file::Lines;
use crate::cli::audit::prove::checkpoint;
use crate::ledger::read_event;
use crate::merkle::Peaks;
use crate::store::Rows;

/// Writes the events that the checkpoint `newest` vouches for, and it, into a new file. How many there are.
pub(in crate::cli) fn export_rows(rows: &dyn Rows, newest: &str, path: &Path) -> anyhow::Result<u64> {
    let claimed = checkpoint(newest)?;
    let mut copy = Lines::create(path, claimed.origin().as_str(), Peaks::new())?;
    while copy.next() < claimed.size() {
        let next = copy.next();
        let leaf = read_event(rows, next)?.ok_or_else(|| {
            anyhow!(
                "event {next} is not there: its log dropped it because of its age. Serve a copy of the backup's data and \
                 checkpoints, with the keys that it had, and use `cloakroom audit export`"
            )
        })?;
        copy.entry(&leaf)?;
    }
    if copy.root() != *claimed.root() {
        return Err(anyhow!("its events do not make the root of its checkpoint: the copy is of no use as evidence"));
    }
    copy.checkpoint(newest, None)?;
    Ok(copy.next())
}
