//! What waits for the writer: bounded in number and bytes, and closed for good when the writer stops.

use super::index::IndexRow;
use super::wake::Waiter;
use super::{Basis, Changes, Head, Limits, Refused, Submission};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use parking_lot::{Condvar, Mutex};
use std::sync::mpsc::{SyncSender, sync_channel};

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

/// What the writer takes in one go.
#[derive(Default)]
pub(super) struct Work {
    pub entries: Vec<Entry>,
    pub heads: Vec<SyncSender<Head>>,
    /// A signed checkpoint to be stored with the next commit.
    pub checkpoint: Option<String>,
}

pub(super) struct Queue {
    inbox: Mutex<Inbox>,
    /// The writer waits here, and nobody else.
    arrived: Condvar,
}

struct Inbox {
    work: Work,
    records: usize,
    bytes: usize,
    state: State,
    /// How often the writer has taken work, and whether it is still at what it took last.
    taken: u64,
    is_busy: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing new; the writer finishes what is here and ends.
    Draining,
    /// The writer has ended or failed.
    Closed,
}

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

    fn size(&self) -> usize {
        self.changes.rows().size() + self.body.len()
    }

    /// The rows that it will write: its own, the event and the event's index.
    fn records(&self) -> usize {
        self.changes.rows().len() + 1 + self.index.len()
    }
}

impl Work {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.heads.is_empty()
    }
}

impl Queue {
    pub fn new() -> Self {
        Self {
            inbox: Mutex::new(Inbox {
                work: Work::default(),
                records: 0,
                bytes: 0,
                state: State::Open,
                taken: 0,
                is_busy: false,
            }),
            arrived: Condvar::new(),
        }
    }

    pub fn push(&self, entry: Entry, limits: &Limits) -> Result<(), Refused> {
        let mut inbox = self.inbox.lock();
        if inbox.state != State::Open {
            return Err(Refused::Unavailable);
        }
        let bytes = inbox.bytes + entry.size();
        let records = inbox.records + entry.records();
        // One submission alone always fits: its size is bounded by the message limit already.
        let full = inbox.work.entries.len() >= limits.calls || records > limits.records || bytes > limits.bytes;
        if full && !inbox.work.entries.is_empty() {
            return Err(Refused::Overloaded);
        }
        inbox.bytes = bytes;
        inbox.records = records;
        inbox.work.entries.push(entry);
        drop(inbox);
        self.arrived.notify_one();
        Ok(())
    }

    /// Leaves a signed checkpoint for the next commit to store. A newer one replaces it.
    pub fn leave_checkpoint(&self, note: String) {
        self.inbox.lock().work.checkpoint = Some(note);
    }

    /// Asks the writer for size and root. `None` when it has ended.
    pub fn ask_head(&self) -> Option<Head> {
        let (answer, head) = sync_channel(1);
        {
            let mut inbox = self.inbox.lock();
            if inbox.state != State::Open {
                return None;
            }
            inbox.work.heads.push(answer);
        }
        self.arrived.notify_one();
        head.recv().ok()
    }

    /// Blocks until there is work and takes all of it. `None` once it is draining and empty.
    pub fn take(&self) -> Option<Work> {
        let mut inbox = self.inbox.lock();
        // Only the writer takes, so it is done with what it took before.
        inbox.is_busy = false;
        loop {
            if !inbox.work.is_empty() {
                inbox.taken += 1;
                inbox.is_busy = true;
                inbox.bytes = 0;
                inbox.records = 0;
                let mut work = std::mem::take(&mut inbox.work);
                if work.entries.is_empty() {
                    // Only asked for the head: a checkpoint waits for a commit to go with.
                    inbox.work.checkpoint = work.checkpoint.take();
                }
                return Some(work);
            }
            if inbox.state != State::Open {
                inbox.state = State::Closed;
                return None;
            }
            self.arrived.wait(&mut inbox);
        }
    }

    /// Accepts nothing more; the writer finishes what waits.
    pub fn drain(&self) {
        let mut inbox = self.inbox.lock();
        if inbox.state == State::Open {
            inbox.state = State::Draining;
        }
        drop(inbox);
        self.arrived.notify_one();
    }

    /// After a failure: accepts nothing more and hands back what waited, to be refused.
    pub fn close(&self) -> Vec<Entry> {
        let mut inbox = self.inbox.lock();
        inbox.state = State::Closed;
        inbox.work.heads.clear();
        std::mem::take(&mut inbox.work.entries)
    }

    /// What the writer is at, by its number; `None` if it has nothing to do. The same number for long means that it stands
    /// still.
    pub fn under_way(&self) -> Option<u64> {
        let inbox = self.inbox.lock();
        (inbox.is_busy || !inbox.work.is_empty()).then_some(inbox.taken)
    }

    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.inbox.lock().work.entries.len()
    }

    pub fn is_open(&self) -> bool {
        self.inbox.lock().state == State::Open
    }
}
