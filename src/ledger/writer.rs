//! The writer's thread: stamp, append, commit, wake.

use super::checkpoint::CHECKPOINT_ROW;
use super::open::versioned;
use super::queue::{Entry, Work};
use super::recent::Recent;
use super::state::State;
use super::wake::Wakes;
use super::{Fatal, Head, Receipt, Refused, Shared};
use crate::clock::Timestamp;
use crate::crypto::MetaKey;
use crate::event;
use crate::keys::authentic;
use crate::merkle::{self, Frontier};
use crate::store::{Batch, Store, Table};
use metrics::Histogram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The row of `meta` that holds the sequence of the first event whose body is kept. There is none before anything is
/// dropped.
pub(super) const KEPT_FROM_ROW: &str = "kept_from";

pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub store: Arc<dyn Store>,
    /// The tree over all durable events, and, while a batch is being built, over its events too. If the commit fails the
    /// process ends, so it never has to be taken back.
    pub frontier: Frontier,
    /// The time of the last event: times never decrease.
    pub last_time: Timestamp,
    pub meta: Arc<MetaKey>,
    pub recent: Recent,
    /// As the frontier: over the records as the batch leaves them.
    pub state: State,
    /// One buffer for all commits.
    pub batch: Batch,
    pub wakes: Wakes,
    pub index_key: Vec<u8>,
    pub figures: Figures,
}

/// What is measured of each commit: once for all calls in it, so that none of them pays for it. Made once, so that recording
/// looks nothing up.
pub(super) struct Figures {
    calls: Histogram,
    seconds: Histogram,
}

/// Ends the process's acknowledgements if the writer's thread unwinds: then a batch is in an unknown state.
struct Guard {
    shared: Arc<Shared>,
    finished: bool,
}

impl Writer {
    /// Runs until the queue has been drained, and says where the log then ends; or until the store fails.
    pub fn run(mut self) -> Option<Head> {
        let mut guard = Guard { shared: Arc::clone(&self.shared), finished: false };
        while let Some(work) = self.shared.queue.take() {
            if let Err(fatal) = self.commit(work) {
                guard.finished = true;
                self.shared.fail(&fatal);
                return None;
            }
        }
        guard.finished = true;
        Some(self.head())
    }

    fn commit(&mut self, work: Work) -> Result<(), Fatal> {
        let begin = self.shared.clock.monotonic();
        let number = self.shared.visible.load(Ordering::Relaxed) + 1;
        let now = self.shared.clock.now();
        // Stamps never decrease, so after a leap of the clock they stand ahead of the vault's time. What is valid is
        // decided by that time, or a leap that was mended would go on expiring everything.
        let time = now.max(self.last_time);
        // Read after the work was taken: whoever publishes a rulebook and then records that, finds every submission that
        // comes with or after that record held against the new one.
        let rulebook = (self.shared.rulebook_generation)();
        let mut acknowledged = Vec::with_capacity(work.entries.len());
        let mut kept_from = None;
        self.batch.clear();
        for entry in work.entries {
            if self.is_stale(&entry, now, rulebook) {
                self.wakes.add(entry.waiter, Err(Refused::Stale));
                continue;
            }
            let sequence = self.append(&entry, time);
            self.recent.note(number, &entry.rewritten);
            self.recent.note(number, entry.changes.rewritten());
            self.state.add(entry.changes.sums());
            if entry.accepts_clock {
                // Moved here, the mark is stored in this same commit's head.
                self.shared.clock.accept();
            }
            if let Some(first) = entry.kept_from {
                self.put_meta(KEPT_FROM_ROW, first);
                kept_from = Some(first);
            }
            let log_id = Arc::clone(&self.shared.log_id);
            acknowledged.push((entry.waiter, Receipt { log_id, sequence, time }));
        }
        if !acknowledged.is_empty() {
            if let Some(note) = work.checkpoint {
                self.batch.put(Table::Tree, CHECKPOINT_ROW, note.as_bytes());
            }
            let (size, root) = (self.frontier.size(), self.frontier.root());
            let mark = self.shared.clock.mark();
            let summed = self.state.write(&*self.store, &self.meta, size, root, mark, &mut self.batch);
            if let Err(fatal) = summed.and_then(|()| Ok(self.store.commit(&self.batch)?)) {
                for (waiter, _) in acknowledged {
                    self.wakes.add(waiter, Err(Refused::Unavailable));
                }
                self.wakes.send();
                return Err(fatal);
            }
            self.last_time = time;
            if let Some(first) = kept_from {
                self.shared.kept_from.store(first, Ordering::Release);
            }
            // Release: a request that sees this number also sees the rows (the store's own contract), and whoever is woken
            // below starts its next request from here.
            self.shared.visible.store(number, Ordering::Release);
            self.shared.durable.send_replace(self.frontier.size());
            self.figures.note(acknowledged.len(), self.shared.clock.monotonic().saturating_sub(begin));
        }
        for (waiter, receipt) in acknowledged {
            self.wakes.add(waiter, Ok(receipt));
        }
        self.wakes.send();
        if !work.heads.is_empty() {
            let head = self.head();
            // Who asked and went away does not mind.
            for asker in work.heads {
                let _ = asker.send(head);
            }
        }
        Ok(())
    }

    fn head(&self) -> Head {
        let size = self.frontier.size();
        Head { size, root: self.frontier.root(), state: self.state.digest(size) }
    }

    fn is_stale(&self, entry: &Entry, now: Timestamp, rulebook: u64) -> bool {
        entry.basis.rulebook != rulebook
            || entry.valid_until.is_some_and(|until| now >= until)
            || self.recent.changed_since(entry.basis.commit, &entry.touched)
            // A sum is right only if what it takes away is what is stored.
            || self.recent.changed_since(entry.basis.commit, entry.changes.rewritten())
    }

    /// The event, its leaf, its index rows and the rows that change with it, into the batch.
    fn append(&mut self, entry: &Entry, time: Timestamp) -> u64 {
        let sequence = self.frontier.size();
        let bytes = event::finish(&entry.body, time);
        self.batch.append(entry.changes.rows());
        self.batch.put(Table::Events, &sequence.to_be_bytes(), &bytes);
        for row in &entry.index {
            row.key.write_at(sequence, &mut self.index_key);
            self.batch.put(Table::EventIndex, &self.index_key, &row.content);
        }
        for tile in self.frontier.append(merkle::leaf_hash(&bytes)) {
            self.batch.put(Table::Tree, tile.id().path().as_bytes(), tile.bytes());
        }
        sequence
    }

    fn put_meta(&mut self, name: &str, number: u64) {
        let content = versioned(&number.to_be_bytes());
        let content = authentic::seal(&self.meta, Table::Meta, name.as_bytes(), &content);
        self.batch.put(Table::Meta, name.as_bytes(), &content);
    }
}

impl Figures {
    pub fn new() -> Self {
        Self {
            calls: metrics::histogram!("cloakroom_commit_calls"),
            seconds: metrics::histogram!("cloakroom_commit_seconds"),
        }
    }

    fn note(&self, calls: usize, taken: Duration) {
        self.calls.record(calls as f64);
        self.seconds.record(taken);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A panic: the batch's own waiters have been dropped with it, and see that as unavailable.
        if !self.finished {
            self.shared.fail(&Fatal::Writer);
        }
    }
}
