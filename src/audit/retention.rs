//! Retention: bodies of events that are old enough are dropped, in whole tiles. Their hashes stay.
//!
//! So everything newer stays provable, every old checkpoint stays comparable, and whoever kept an event's bytes can still
//! prove that they were in the log. What is dropped is said in the log itself, in the same commit: an event of the action
//! PURGE whose detail begins `events before N dropped`. A verifier accepts missing bodies before that N and nowhere else.
//!
//! Only what a signed checkpoint vouches for is dropped, by the vault's trusted time alone, and a few tiles in one commit.

use super::{damaged, read_events};
use crate::clock::Timestamp;
use crate::event::{self, Action, Event};
use crate::ledger::{IndexRow, Ledger, Refused, Submission};
use crate::merkle::TILE_WIDTH;
use crate::store::{Batch, ReadError, Rows, Table};
use crate::vault::{Failure, Vault};
use std::sync::Arc;
use std::time::Duration;

/// Rows that one commit deletes, but for one tile, which may have more.
const ROWS_AT_ONCE: usize = 20_000;
/// Events in a tile.
const TILE: u64 = TILE_WIDTH as u64;

/// What one step dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Events.
    pub events: u64,
    /// The first event that is kept now.
    pub kept_from: u64,
    /// Whether there is more to drop now.
    pub more: bool,
}

/// What a step would drop.
struct Step {
    changes: Batch,
    kept_from: u64,
    more: bool,
}

impl Vault {
    /// One step: drops the oldest tiles whose events are all older than `retention`.
    ///
    /// # Errors
    /// If the log can't be written or the store not read; nothing was dropped then.
    pub async fn drop_old_events(self: &Arc<Self>, retention: Duration) -> Result<Dropped, Failure> {
        let first = self.ledger().kept_from();
        let nothing = Dropped { kept_from: first, ..Dropped::default() };
        let Some(now) = self.ledger().clock().trusted() else { return Ok(nothing) };
        let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let limit = Timestamp::from_millis(now.millis().saturating_sub(retention));
        // A start reads again from the last full tile before the checkpoint on.
        let end = self.ledger().vouched().size() / TILE * TILE;
        let basis = self.ledger().basis();
        let (rows, ledger) = (Arc::clone(self.rows()), self.ledger().clone());
        let step = tokio::task::spawn_blocking(move || look(&*rows, &ledger, end, limit)).await;
        let step = step.map_err(|_| Failure::Internal)??;
        let events = step.kept_from - first;
        if events == 0 {
            return Ok(nothing);
        }
        let detail = format!("events before {} dropped, {events} of them now; their hashes stay", step.kept_from);
        let event = self.own(Action::Purge, detail)?;
        let submission = Submission::new(basis, event).with_changes(step.changes).keeping_from(step.kept_from);
        match self.ledger().record(submission).await {
            Ok(_receipt) => Ok(Dropped { events, kept_from: step.kept_from, more: step.more }),
            // The rulebook changed meanwhile. What is old stays old.
            Err(Refused::Stale) => Ok(Dropped { more: true, ..nothing }),
            Err(refused) => Err(refused.into()),
        }
    }
}

/// The rows of the oldest whole tiles before `end` that are older than `limit`.
fn look(rows: &dyn Rows, ledger: &Ledger, end: u64, limit: Timestamp) -> Result<Step, ReadError> {
    let mut step = Step { changes: Batch::default(), kept_from: ledger.kept_from(), more: false };
    while step.kept_from + TILE <= end {
        let tile: Vec<u64> = (step.kept_from..step.kept_from + TILE).collect();
        // Times never decrease, so the last one of a tile is its youngest.
        let youngest = read_decoded(rows, ledger, &[step.kept_from + TILE - 1])?;
        if !youngest.iter().all(|(_, event)| event.timestamp().is_some_and(|time| time < limit)) {
            break;
        }
        if step.changes.len() >= ROWS_AT_ONCE {
            step.more = true;
            break;
        }
        for (sequence, event) in read_decoded(rows, ledger, &tile)? {
            step.changes.delete(Table::Events, &sequence.to_be_bytes());
            for row in IndexRow::of(&event) {
                step.changes.delete(Table::EventIndex, &row.key.at(sequence));
            }
        }
        step.kept_from += TILE;
    }
    Ok(step)
}

fn read_decoded(rows: &dyn Rows, ledger: &Ledger, sequences: &[u64]) -> Result<Vec<(u64, Event)>, ReadError> {
    let decode = |(sequence, encoded): (u64, Vec<u8>)| match event::decode(&encoded) {
        Ok(event) => Ok((sequence, event)),
        Err(error) => Err(damaged(sequence, &error)),
    };
    read_events(rows, sequences, ledger)?.into_iter().map(decode).collect()
}
