//! The place of witnesses beside the log: somebody else who remembers how long it was and what its root was.
//!
//! The ledger knows them by this trait alone: it hands over signed checkpoints and proofs, and keeps the lines that come back.

use crate::merkle::{Frontier, Hash, TileId, Tree};
use crate::store::{Found, ReadError, Rows, Table, Tier};

/// Makes the consistency proof from an earlier size of the log to that of the checkpoint in question. `None` if it can't be
/// made: the store can't be read.
pub type Prove<'p> = dyn FnMut(u64) -> Option<Vec<Hash>> + 'p;

/// All witnesses of one log.
pub trait Witnesses: Send {
    /// Asks every witness about the log as it is found at a start: `note`, of `size` events.
    ///
    /// # Errors
    /// If one of them has seen more of this log, or another history, or too few can be asked.
    fn check_start(&mut self, note: &str, size: u64, prove: &mut Prove<'_>) -> Result<(), WitnessError>;

    /// Has `note`, of `size` events, cosigned by those that answer in a short, bounded time, and returns the signature lines
    /// that there are for it, each with its line feed. The same note again asks only those that have not cosigned it.
    fn cosign(&mut self, note: &str, size: u64, prove: &mut Prove<'_>) -> Vec<String>;

    /// Whether somebody who has not cosigned the last note is due to be asked again.
    fn is_due(&self) -> bool;
}

/// Why a log must not be opened, as far as its witnesses know.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The log was put back to an older state.
    #[error(
        "the witness {witness} has cosigned this log with {seen} events, but there are {size}: acknowledged events are missing. \
         Data and checkpoints were turned back together, or another vault writes this log. Restore the newest data; see \
         docs/witness.md"
    )]
    Behind {
        /// Which witness.
        witness: String,
        /// The size that it has cosigned.
        seen: u64,
        /// The size of the log as found.
        size: u64,
    },
    /// The log has another history.
    #[error(
        "the witness {witness} has cosigned another history of this log: what is here does not begin with what it saw. Data \
         was turned back and written to again, or was changed. Restore the right data; see docs/witness.md"
    )]
    OtherHistory {
        /// Which witness.
        witness: String,
    },
    /// Nobody can say whether it is the newest.
    #[error(
        "{cosigned} of the {required} witnesses that are required have cosigned the log as it is, so nobody can say that it is \
         the newest: {reasons}. Mend that, or set audit.witnesses_required = 0 to start without them"
    )]
    TooFew {
        /// How many have.
        cosigned: usize,
        /// How many must.
        required: usize,
        /// What each of the others said.
        reasons: String,
    },
}

/// The witnesses, if there are any.
#[derive(Default)]
pub(super) struct Witnessed {
    witnesses: Option<Box<dyn Witnesses>>,
    /// The last note without cosignatures, and how many there were for it.
    last: Option<(String, usize)>,
}

impl Witnessed {
    pub fn by(witnesses: Option<Box<dyn Witnesses>>) -> Self {
        Self { witnesses, last: None }
    }

    pub fn is_any(&self) -> bool {
        self.witnesses.is_some()
    }

    /// Shows them the log as it was found. `tree` is what `note` speaks of.
    pub fn check_start(&mut self, note: &str, tree: &Frontier, rows: &dyn Rows) -> Result<(), WitnessError> {
        let Some(witnesses) = &mut self.witnesses else { return Ok(()) };
        witnesses.check_start(note, tree.size(), &mut |from| consistency(rows, tree, from))
    }

    /// The note with the cosignatures that can be had in time.
    pub fn cosign(&mut self, note: String, tree: &Frontier, rows: &dyn Rows) -> String {
        let Some(witnesses) = &mut self.witnesses else { return note };
        let lines = witnesses.cosign(&note, tree.size(), &mut |from| consistency(rows, tree, from));
        let cosigned = format!("{note}{}", lines.concat());
        self.last = Some((note, lines.len()));
        cosigned
    }

    /// The last note with more cosignatures than before, if witnesses that lacked were due and have cosigned now.
    pub fn complete(&mut self, tree: &Frontier, rows: &dyn Rows) -> Option<String> {
        if !self.witnesses.as_ref()?.is_due() {
            return None;
        }
        let (note, before) = self.last.take()?;
        let cosigned = self.cosign(note, tree, rows);
        let after = self.last.as_ref().map_or(0, |(_, lines)| *lines);
        (after > before).then_some(cosigned)
    }
}

fn consistency(rows: &dyn Rows, tree: &Frontier, from: u64) -> Option<Vec<Hash>> {
    let proof = Tree::new(tree, |id| tile(rows, id)).consistency(from, tree.size());
    proof.inspect_err(|error| tracing::warn!(%error, "a proof for the witnesses can't be made")).ok()
}

fn tile(rows: &dyn Rows, id: TileId) -> Result<Option<Vec<u8>>, ReadError> {
    let found = rows.get(Table::Tree, &[id.path().as_bytes()], Tier::Disk)?.into_iter().next();
    Ok(match found {
        Some(Found::Row(bytes)) => Some(bytes),
        _ => None,
    })
}
