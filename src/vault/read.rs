//! Reading token rows: from memory on the network thread, from disk on a thread that may block.
//!
//! A call may name a thousand records of a megabyte each, and the same one a thousand times. So it reads them in parts of a few
//! megabytes, deals with one part before it reads the next, and what it keeps of each is bounded by what it may answer or write.
//!
//! A row that the disk has damaged is no reason to keep its neighbours back: it comes as [`DAMAGED`], and becomes its item's
//! failure.

use super::{Call, Failure, Vault};
use crate::crypto::Handle;
use crate::limits::bytes::{INCLUDED, Share};
use crate::store::{Found, ReadError, Rows, Table, Tier};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Rows that one blocking task reads; more are read side by side.
const ROWS_A_TASK: usize = 64;

/// So much of records a call reads before it deals with them. Most calls' records fit in one part.
pub(super) const BYTES_A_PART: usize = 4 << 20;

/// As much of that as one of several blocking tasks may read: usual rows all fit.
const BYTES_A_TASK: usize = BYTES_A_PART * ROWS_A_TASK / super::BATCH_AT_MOST;

/// Of rows that are long no more are looked for in one part.
const LONG_ROWS_A_PART: usize = 32;

/// Blocking tasks of all calls at once, so that what they read before anybody has counted it is bounded too.
const TASKS_AT_ONCE: usize = 16;

/// What stands for a row that can't be read: no record is empty, so this opens as little as one that was edited.
const DAMAGED: Found = Found::Row(Vec::new());

/// Places for blocking tasks.
pub(super) struct Readers(Arc<Semaphore>);

/// The records of one attempt at a call, part after part. What has been read is held in the call's share; that of a part until
/// the next one is asked for, unless it is kept.
pub(super) struct Reading<'a> {
    vault: &'a Vault,
    share: &'a Share,
    handles: &'a [Option<Handle>],
    next: usize,
    /// Whether rows on disk are so long that a part has room for few: then one task reads them, in order.
    is_long: bool,
    /// What the share has grown by, and how much of that is for the part at hand.
    held: usize,
    of_part: usize,
}

/// Some of a call's records, by the places of their handles.
pub(super) struct Part {
    pub places: Range<usize>,
    /// One for each place; `None` where there is no such row or no handle.
    pub rows: Vec<Option<Vec<u8>>>,
}

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TASKS_AT_ONCE)))
    }
}

impl<'a> Reading<'a> {
    /// Of the rows of `handles`, in order.
    pub fn of(vault: &'a Vault, call: &'a Call, handles: &'a [Option<Handle>]) -> Self {
        Self { vault, share: &call.share, handles, next: 0, is_long: false, held: 0, of_part: 0 }
    }

    /// The next part, or `None` after the last.
    ///
    /// # Errors
    /// If the store can't be read, or calls hold too much already.
    pub async fn next(&mut self) -> Result<Option<Part>, Failure> {
        if self.next == self.handles.len() {
            return Ok(None);
        }
        if self.next > 0 {
            self.give_back();
            // A part takes some milliseconds, and others wait for this thread.
            tokio::task::yield_now().await;
        }
        let mut handles = &self.handles[self.next..];
        if self.is_long {
            // A part has room for few, and each of the others would be looked for again and again.
            handles = &handles[..handles.len().min(LONG_ROWS_A_PART)];
        }
        let wanted: Vec<&[u8]> = handles.iter().flatten().map(|handle| handle.as_bytes().as_slice()).collect();
        let mut found = match self.vault.rows.get_within(Table::Tokens, &wanted, Tier::Memory, BYTES_A_PART) {
            // It does not say which: all are read again, off the network thread.
            Err(ReadError::Corrupt { .. }) => vec![Found::Cold; wanted.len()],
            found => found?,
        };
        if found.contains(&Found::Cold) {
            // On the heap: hot tokens need no room for it.
            Box::pin(self.read_cold(&wanted, &mut found)).await?;
        }
        self.hold(found.iter().map(Found::size).sum())?;
        // What stands behind the last one that was read and has no handle waits for the next part.
        let (mut left, mut rows) = (found.len(), Vec::with_capacity(handles.len()));
        let mut found = found.into_iter();
        for handle in handles {
            if handle.is_some() && left == 0 {
                break;
            }
            left -= usize::from(handle.is_some());
            rows.push(match handle.and_then(|_| found.next()) {
                Some(Found::Row(row)) => Some(row),
                _ => None,
            });
        }
        let places = self.next..self.next + rows.len();
        self.next = places.end;
        Ok(Some(Part { places, rows }))
    }

    /// Of the part at hand so much stays with the call.
    pub fn keep(&mut self, bytes: usize) {
        self.of_part = self.of_part.saturating_sub(bytes);
    }

    /// What is kept now stays with the call until its answer has been taken.
    pub fn leave(mut self) {
        self.give_back();
        self.held = 0;
    }

    fn give_back(&mut self) {
        self.share.shrink(self.of_part);
        self.held -= self.of_part;
        self.of_part = 0;
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Failure> {
        if bytes > INCLUDED {
            self.share.grow(bytes)?;
            self.held += bytes;
            self.of_part = bytes;
        }
        Ok(())
    }

    /// Reads what is cold in `found`; cuts it off before the first that is not read yet.
    async fn read_cold(&mut self, wanted: &[&[u8]], found: &mut Vec<Found>) -> Result<(), Failure> {
        let cold: Vec<usize> = (0..found.len()).filter(|&place| found[place] == Found::Cold).collect();
        let (rows_a_task, bytes) = if self.is_long {
            (cold.len(), BYTES_A_PART)
        } else {
            (ROWS_A_TASK.min(cold.len()), if cold.len() == 1 { BYTES_A_PART } else { BYTES_A_TASK })
        };
        // One that is long reads in order: the first task is the only one.
        let chunks = || cold.chunks(rows_a_task).take(if self.is_long { 1 } else { usize::MAX });
        let mut tasks = Vec::new();
        for places in chunks() {
            let keys: Vec<Vec<u8>> = places.iter().map(|&place| wanted[place].to_vec()).collect();
            let rows = Arc::clone(&self.vault.rows);
            let place = Arc::clone(&self.vault.readers.0).acquire_owned().await.map_err(|_| Failure::Internal)?;
            tasks.push(tokio::task::spawn_blocking(move || {
                let read = read_blocking(&*rows, &keys, bytes);
                drop(place);
                read
            }));
        }
        let mut unread = None;
        for (places, task) in chunks().zip(tasks) {
            let failed = |error: tokio::task::JoinError| ReadError::Failed {
                table: Table::Tokens.name(),
                detail: format!("the reading task ended: {error}"),
            };
            let rows = task.await.map_err(failed)??;
            if unread.is_none() {
                unread = places.get(rows.len()).copied();
                for (&place, row) in places.iter().zip(rows) {
                    found[place] = row;
                }
            }
        }
        self.is_long |= unread.is_some();
        if let Some(unread) = unread {
            found.truncate(unread);
        }
        Ok(())
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.share.shrink(self.held);
    }
}

/// Reads the first of `keys` on this thread, which may block: as many as have room in `bytes`, and at least one. Damaged rows are
/// [`DAMAGED`].
pub(super) fn read_blocking(rows: &dyn Rows, keys: &[Vec<u8>], bytes: usize) -> Result<Vec<Found>, ReadError> {
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    match rows.get_within(Table::Tokens, &keys, Tier::Disk, bytes) {
        Err(ReadError::Corrupt { .. }) => read_each(rows, &keys, bytes),
        found => found,
    }
}

fn read_each(rows: &dyn Rows, keys: &[&[u8]], bytes: usize) -> Result<Vec<Found>, ReadError> {
    let (mut found, mut read) = (Vec::new(), 0);
    for key in keys {
        let row = read_alone(rows, key)?;
        read += row.size();
        found.push(row);
        if read >= bytes {
            break;
        }
    }
    Ok(found)
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
