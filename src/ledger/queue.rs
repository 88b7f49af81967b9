//! What requests hand to the writer.

use super::inbox::{Inbox, Load};
use super::index::IndexRow;
use super::wake::Waiter;
use super::{Basis, Changes, Head, Submission};
use crate::clock::Timestamp;
use crate::crypto::Handle;

/// A submission, encoded as far as it can be before its time and place in the log are known, and who waits for it.
pub(super) struct Entry {
    pub basis: Basis,
    pub touched: Vec<Handle>,
    pub rewritten: Vec<Handle>,
    pub changes: Changes,
    pub body: Vec<u8>,
    pub index: Vec<IndexRow>,
    pub valid_until: Option<Timestamp>,
    pub accepts_clock: bool,
    pub kept_from: Option<u64>,
    pub waiter: Waiter,
}

/// Where they wait for it.
pub(super) type Queue = Inbox<Entry, Head>;

/// What it takes in one go.
pub(super) type Work = super::inbox::Work<Entry, Head>;

impl Entry {
    /// Encodes in the request's task: the writer's thread has better things to do.
    pub fn new(submission: Submission, waiter: Waiter) -> Self {
        Self {
            body: submission.event.encode_body(),
            index: IndexRow::of(&submission.event),
            basis: submission.basis,
            touched: submission.touched,
            rewritten: submission.rewritten,
            changes: submission.changes,
            valid_until: submission.valid_until,
            accepts_clock: submission.accepts_clock,
            kept_from: submission.kept_from,
            waiter,
        }
    }
}

impl Load for Entry {
    /// Its own rows, the event and the event's index.
    fn records(&self) -> usize {
        self.changes.rows().len() + 1 + self.index.len()
    }

    fn bytes(&self) -> usize {
        self.changes.rows().size() + self.body.len()
    }
}
