//! Reading token rows: from memory on the network thread, from disk on a thread that may block.
//!
//! A row that the disk has damaged is no reason to keep its neighbours back: it comes as [`DAMAGED`], and becomes its item's
//! failure.

use super::Vault;
use crate::crypto::Handle;
use crate::store::{Found, ReadError, Rows, Table, Tier};
use std::sync::Arc;

/// Rows that one blocking task reads; more are read side by side.
const ROWS_A_TASK: usize = 64;

/// What stands for a row that can't be read: no record is empty, so this opens as little as one that was edited.
const DAMAGED: Found = Found::Row(Vec::new());

impl Vault {
    /// The rows of `handles`, in order; `None` where there is no such row or no handle.
    pub(super) async fn read_tokens(&self, handles: &[Option<Handle>]) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let wanted: Vec<&[u8]> = handles.iter().flatten().map(|handle| handle.as_bytes().as_slice()).collect();
        let mut found = match self.rows.get(Table::Tokens, &wanted, Tier::Memory) {
            // It does not say which: all are read again, off the network thread.
            Err(ReadError::Corrupt { .. }) => vec![Found::Cold; wanted.len()],
            found => found?,
        };
        if found.contains(&Found::Cold) {
            // On the heap: hot tokens need no room for it.
            Box::pin(self.read_cold(&wanted, &mut found)).await?;
        }
        let mut found = found.into_iter();
        let mut next = || match found.next() {
            Some(Found::Row(row)) => Some(row),
            _ => None,
        };
        Ok(handles.iter().map(|handle| handle.and_then(|_| next())).collect())
    }

    async fn read_cold(&self, wanted: &[&[u8]], found: &mut [Found]) -> Result<(), ReadError> {
        let cold: Vec<usize> = (0..found.len()).filter(|&place| found[place] == Found::Cold).collect();
        let tasks: Vec<_> = cold
            .chunks(ROWS_A_TASK)
            .map(|places| {
                let keys: Vec<Vec<u8>> = places.iter().map(|&place| wanted[place].to_vec()).collect();
                let rows = Arc::clone(&self.rows);
                tokio::task::spawn_blocking(move || read_blocking(&*rows, &keys))
            })
            .collect();
        for (places, task) in cold.chunks(ROWS_A_TASK).zip(tasks) {
            let failed = |error: tokio::task::JoinError| ReadError::Failed {
                table: Table::Tokens.name(),
                detail: format!("the reading task ended: {error}"),
            };
            for (&place, row) in places.iter().zip(task.await.map_err(failed)??) {
                found[place] = row;
            }
        }
        Ok(())
    }
}

/// Reads on this thread, which may block. Damaged rows are [`DAMAGED`].
pub(super) fn read_blocking(rows: &dyn Rows, keys: &[Vec<u8>]) -> Result<Vec<Found>, ReadError> {
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    match rows.get(Table::Tokens, &keys, Tier::Disk) {
        Err(ReadError::Corrupt { .. }) => keys.iter().map(|key| read_alone(rows, key)).collect(),
        found => found,
    }
}

fn read_alone(rows: &dyn Rows, key: &[u8]) -> Result<Found, ReadError> {
    match rows.get(Table::Tokens, &[key], Tier::Disk) {
        Ok(found) => Ok(found.into_iter().next().unwrap_or(Found::Absent)),
        Err(error @ ReadError::Corrupt { .. }) => {
            tracing::error!(%error, handle = hex::encode(key), "a record can't be read");
            Ok(DAMAGED)
        }
        Err(error) => Err(error),
    }
}
