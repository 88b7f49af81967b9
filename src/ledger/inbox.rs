//! What waits for the writer, bounded in number and bytes, and closed for good when the writer stops.
//!
//! It does not know what waits: `tests/models` runs it under every order of its callers.

use super::{Limits, Refused};
use crate::sync::{AtomicBool, Condvar, Mutex, SyncSender, sync_channel, yield_now};
use std::sync::atomic::Ordering;

/// How often the writer lets other threads go first while less waits than it took the last time. A commit costs the same for one
/// submission as for many, and where there is more to do than cores, those who are about to hand something over wait for the core
/// that the writer is on. Where they are not, this costs it less than a microsecond. (A wait for some time would make every call late
/// instead; and who comes one at a time, each after the one before, must not wait for anybody.)
const GIVES_WAY: usize = 2;

/// Something that waits, as far as it takes up room.
pub(super) trait Load {
    /// The rows that it will write.
    fn records(&self) -> usize;
    fn bytes(&self) -> usize;
}

/// What the writer takes in one go.
pub(super) struct Work<E, H> {
    pub entries: Vec<E>,
    pub heads: Vec<SyncSender<H>>,
    /// A signed checkpoint to be stored with the next commit.
    pub checkpoint: Option<String>,
}

/// Entries `E` for the writer, and questions for its head `H`.
pub(super) struct Inbox<E, H> {
    content: Mutex<Content<E, H>>,
    /// The writer waits here, and nobody else.
    arrived: Condvar,
    /// Whether the last one that came was refused for lack of room, for whoever wants to know without waiting.
    is_full: AtomicBool,
}

struct Content<E, H> {
    work: Work<E, H>,
    records: usize,
    bytes: usize,
    state: State,
    /// How often the writer has taken work, and whether it is still at what it took last.
    taken: u64,
    is_busy: bool,
    /// How many entries that were.
    last: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing new; the writer finishes what is here and ends.
    Draining,
    /// The writer has ended or failed.
    Closed,
}

impl<E, H> Work<E, H> {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.heads.is_empty()
    }
}

impl<E, H> Default for Work<E, H> {
    fn default() -> Self {
        Self { entries: Vec::new(), heads: Vec::new(), checkpoint: None }
    }
}

impl<E: Load, H> Inbox<E, H> {
    pub fn new() -> Self {
        Self {
            content: Mutex::new(Content {
                work: Work::default(),
                records: 0,
                bytes: 0,
                state: State::Open,
                taken: 0,
                is_busy: false,
                last: 0,
            }),
            arrived: Condvar::new(),
            is_full: AtomicBool::new(false),
        }
    }

    pub fn push(&self, entry: E, limits: &Limits) -> Result<(), Refused> {
        let mut content = self.content.lock();
        if content.state != State::Open {
            return Err(Refused::Unavailable);
        }
        let bytes = content.bytes + entry.bytes();
        let records = content.records + entry.records();
        // One submission alone always fits: its size is bounded by its message's, or by what one call may write anew.
        let full = content.work.entries.len() >= limits.calls || records > limits.records || bytes > limits.bytes;
        if full && !content.work.entries.is_empty() {
            self.is_full.store(true, Ordering::Relaxed);
            return Err(Refused::Overloaded);
        }
        content.bytes = bytes;
        content.records = records;
        content.work.entries.push(entry);
        drop(content);
        self.arrived.notify_one();
        Ok(())
    }

    /// Leaves a signed checkpoint for the next commit to store. A newer one replaces it.
    pub fn leave_checkpoint(&self, note: String) {
        self.content.lock().work.checkpoint = Some(note);
    }

    /// Asks the writer for size and root. `None` when it has ended.
    pub fn ask_head(&self) -> Option<H> {
        let (answer, head) = sync_channel(1);
        {
            let mut content = self.content.lock();
            if content.state != State::Open {
                return None;
            }
            content.work.heads.push(answer);
        }
        self.arrived.notify_one();
        head.recv().ok()
    }

    /// Blocks until there is work and takes all of it. `None` once it is draining and empty.
    pub fn take(&self) -> Option<Work<E, H>> {
        let mut content = self.content.lock();
        // Only the writer takes, so it is done with what it took before.
        content.is_busy = false;
        let mut given_way = 0;
        loop {
            let waiting = content.work.entries.len();
            if (1..content.last).contains(&waiting) && given_way < GIVES_WAY {
                drop(content);
                yield_now();
                given_way += 1;
                // Meanwhile all of it may have been handed back, after a failure.
                content = self.content.lock();
                continue;
            }
            if !content.work.is_empty() {
                content.taken += 1;
                content.last = waiting;
                content.is_busy = true;
                content.bytes = 0;
                content.records = 0;
                self.is_full.store(false, Ordering::Relaxed);
                let mut work = std::mem::take(&mut content.work);
                if work.entries.is_empty() {
                    // Only asked for the head: a checkpoint waits for a commit to go with.
                    content.work.checkpoint = work.checkpoint.take();
                }
                return Some(work);
            }
            if content.state != State::Open {
                content.state = State::Closed;
                return None;
            }
            self.arrived.wait(&mut content);
        }
    }

    /// Accepts nothing more; the writer finishes what waits.
    pub fn drain(&self) {
        let mut content = self.content.lock();
        if content.state == State::Open {
            content.state = State::Draining;
        }
        drop(content);
        self.arrived.notify_one();
    }

    /// After a failure: accepts nothing more and hands back what waited, to be refused.
    pub fn close(&self) -> Vec<E> {
        let mut content = self.content.lock();
        content.state = State::Closed;
        content.work.heads.clear();
        std::mem::take(&mut content.work.entries)
    }

    /// What the writer is at, by its number; `None` if it has nothing to do. The same number for long means that it stands
    /// still.
    pub fn under_way(&self) -> Option<u64> {
        let content = self.content.lock();
        (content.is_busy || !content.work.is_empty()).then_some(content.taken)
    }

    /// How many entries wait.
    pub fn waiting(&self) -> usize {
        self.content.lock().work.entries.len()
    }

    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    pub fn is_open(&self) -> bool {
        self.content.lock().state == State::Open
    }
}
