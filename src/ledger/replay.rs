//! Reading the log again: events from the store, through the same step that appended them, held against the stored tiles.
//!
//! A start does this with what nothing vouches for yet, and the checkpointer with what it is about to vouch for. So the
//! way back after a crash is walked each second, and nothing is signed that only ever was in the writer's memory: one bit
//! that flips between hashing and storing would otherwise stand under a signature for ever.

use super::OpenError;
use crate::merkle::{self, Frontier, Hash, TILE_WIDTH, Tile};
use crate::store::{Order, ReadError, Rows, Table};

/// Events read in one scan.
const EVENTS_A_SCAN: usize = 4096;

/// Why the stored log is not the tree.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// An event is not there.
    #[error("event {0} is missing")]
    Gap(u64),
    /// Events do not hash to what was made of them when they were written.
    #[error("the events from {from} to {to} do not hash to the tree")]
    WrongHash {
        /// First event that may be meant.
        from: u64,
        /// Behind the last.
        to: u64,
    },
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Appends the stored events up to `to` and holds each tile that they complete against the stored one.
pub(super) fn replay(rows: &dyn Rows, frontier: &mut Frontier, to: u64) -> Result<(), ReplayError> {
    while frontier.size() < to {
        let from = frontier.size();
        // By number, not by what is found: then neither a gap nor its size depends on what follows it.
        let end = to.min(from + EVENTS_A_SCAN as u64);
        let range = (from.to_be_bytes(), end.to_be_bytes());
        let found = rows.scan(Table::Events, &range.0, &range.1, Order::Ascending, EVENTS_A_SCAN)?;
        for (key, bytes) in &found {
            if key.as_slice() != frontier.size().to_be_bytes() {
                return Err(ReplayError::Gap(frontier.size()));
            }
            for tile in frontier.append(merkle::leaf_hash(bytes)) {
                check_tile(rows, &tile, frontier.size())?;
            }
        }
        if frontier.size() < end {
            return Err(ReplayError::Gap(frontier.size()));
        }
    }
    Ok(())
}

/// Holds the tree's root against the one that it must have.
pub(super) fn check_root(frontier: &Frontier, from: u64, root: &Hash) -> Result<(), ReplayError> {
    if frontier.root() == *root { Ok(()) } else { Err(ReplayError::WrongHash { from, to: frontier.size() }) }
}

fn check_tile(rows: &dyn Rows, tile: &Tile, next: u64) -> Result<(), ReplayError> {
    let stored = super::open::row(rows, Table::Tree, tile.id().path().as_bytes())?;
    if stored.as_deref() == Some(tile.bytes()) {
        return Ok(());
    }
    Err(ReplayError::WrongHash { from: next.saturating_sub(TILE_WIDTH as u64), to: next })
}

impl From<ReplayError> for OpenError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Gap(sequence) => Self::Gap(sequence),
            ReplayError::WrongHash { from, to } => Self::WrongHash { from, to },
            ReplayError::Read(error) => Self::Read(error),
        }
    }
}
