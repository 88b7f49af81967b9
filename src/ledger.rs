//! The one writer: what requests want to change, and the events that say so, in one atomic, synced commit.
//!
//! A request's task hands over a [`Submission`]: encoded rows, an encoded event, and what it was based on. The writer, a
//! thread of its own, takes whatever waits, stamps sequence and time, appends the events to the Merkle tree, commits one
//! batch and wakes the callers. There is no timer: the next batch is what queued while the last one was being synced.
//!
//! Invariants held here:
//!
//! * **Audit before answer, one write.** A [`Receipt`] exists only after the batch with the event is durable, and what was
//!   [`Held`] comes out only together with it.
//! * **Nothing stale is written.** If a handle that the submission rests on changed after it read, or the rulebook did,
//!   or a token that it releases expired meanwhile, nothing of it is written and the operation runs again.
//! * **The records add up.** Each commit brings the sums over the records up to date that it changes, and says so in the
//!   head (`state`). No row of `tokens` can be handed over without what it adds ([`Changes`]).
//! * **Fail-stop.** After one failed commit nothing is acknowledged any more; what waits is answered
//!   [`Refused::Unavailable`] and the process is told to end.
//!
//! The ledger knows neither Cedar nor tonic: the operation tells it the generation of the rulebook that it decided by.

mod changes;
mod checkpoint;
mod checkpointer;
mod inbox;
mod index;
mod inherit;
mod open;
mod queue;
mod recent;
mod replay;
mod running;
mod signing;
mod stall;
mod state;
mod time;
mod upgrade;
mod wake;
mod witnesses;
mod writer;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::crypto::state::StateDigest;
use crate::event::{Event, ItemOutcome};
use crate::keys::entropy::NoEntropy;
use crate::merkle::{Hash, TileId};
use crate::store::{CommitError, ReadError, Rows, Table};
use parking_lot::{Mutex, RwLock};
use queue::{Entry, Queue};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use wake::Wakes;

pub use changes::Changes;
pub use checkpoint::{CheckpointDirectory, CheckpointError, Checkpoints};
pub use checkpointer::Vouched;
pub use index::{IndexKey, IndexRow};
pub use inherit::{Inheritance, create_over};
pub use open::{
    Genesis, OpenError, Outside, Settings, check, create, identify, log_keys, log_keys_row, open, stored_head,
};
pub use replay::ReplayError;
pub use running::{Running, Unvouched};
pub use signing::{LogKeys, Signing};
pub use stall::Stall;
pub use state::{StoredHead, stored_sum};
pub use time::{Standing, VaultClock};
pub use wake::Worker;
pub use witnesses::{Prove, WitnessError, Witnesses};

/// Bounds of the queue before the writer. What does not fit is refused at once, so that memory stays bounded and a caller
/// learns of overload in microseconds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Submissions that may wait.
    pub calls: usize,
    /// Rows that may wait, over all submissions.
    pub records: usize,
    /// Bytes of rows and events that may wait.
    pub bytes: usize,
    /// How long a caller waits for its commit before it is told UNAVAILABLE (the outcome is then unknown to it).
    pub patience: Duration,
}

/// The handle by which everyone else reaches the writer. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

/// What the request tasks and the writer share.
struct Shared {
    queue: Queue,
    limits: Limits,
    /// Whether nothing new is taken for the time being.
    is_paused: AtomicBool,
    /// The number of the last commit that is durable and visible to reads. Only the writer stores it.
    visible: AtomicU64,
    /// The generation of the rulebook in force; `policy` owns it and the writer compares.
    rulebook_generation: Generation,
    log_id: Arc<str>,
    clock: Arc<VaultClock>,
    /// The number of events that are durable, for those who follow the log.
    durable: watch::Sender<u64>,
    /// The newest checkpoint. Only the checkpointer replaces it.
    vouched: RwLock<Arc<Vouched>>,
    /// The first event whose body is kept. Only the writer stores it.
    kept_from: AtomicU64,
    orders: Sender<checkpointer::Order>,
    on_fatal: Mutex<Option<OnFatal>>,
}

/// What a submission was based on, taken before its first read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis {
    commit: u64,
    /// The rulebook's generation by which the permit was given.
    rulebook: u64,
}

/// What one request wants written, with the event that says so.
pub struct Submission {
    basis: Basis,
    /// Handles whose stored state the answer rests on: if one changed since `basis`, the submission is stale.
    touched: Vec<Handle>,
    /// What else `changes` rewrites, beside the records that it knows of.
    rewritten: Vec<Handle>,
    changes: Changes,
    /// On the heap: it passes through many hands, and is long.
    event: Box<Event>,
    /// The first moment at which something that it releases has expired.
    valid_until: Option<Timestamp>,
    /// Whether the time mark moves to the wall clock with it.
    accepts_clock: bool,
    /// The first event that is kept, if those before it are dropped with it.
    kept_from: Option<u64>,
}

/// The ledger's word that a commit is durable, and where its event stands in the log.
#[derive(Debug)]
pub struct Receipt {
    log_id: Arc<str>,
    sequence: u64,
    time: Timestamp,
}

/// Plaintext that goes into the commit and comes out released. There is no other way to get it out.
pub struct Held<T> {
    content: T,
    /// For each item that would leave: its place in the request and its handle. The commit checks that the event names it.
    names: Vec<(usize, Handle)>,
}

/// Why nothing was acknowledged.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// What it was based on has changed; run the operation again from its policy check.
    #[error("what the request was based on has changed since")]
    Stale,
    /// Too much waits already. Nothing was written.
    #[error("too many changes wait to be written")]
    Overloaded,
    /// The log can't be written, or not in time. If the wait ran out the outcome is unknown.
    #[error("the audit log can't be written")]
    Unavailable,
    /// The event does not name what is held: a fault in this program. Nothing was written.
    #[error("the event does not name all that would be released")]
    Unnamed,
}

/// Size and root of the log at a durable commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of events.
    pub size: u64,
    /// The tree's root over them.
    pub root: Hash,
    /// All records that there were then.
    pub state: StateDigest,
}

/// Tells the generation of the rulebook in force.
pub type Generation = Box<dyn Fn() -> u64 + Send + Sync>;

/// Tells the digest of the rulebook in force.
pub type RulebookDigest = Box<dyn Fn() -> [u8; 32] + Send>;

/// What the ledger calls once when it can't go on. It must end the process within a second.
pub type OnFatal = Box<dyn FnOnce(&Fatal) + Send>;

/// Why the ledger stopped for good.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The store failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What was about to be signed is not what was written.
    #[error(
        "the stored log is not what its tree says, so no checkpoint was signed: {0}. Memory or disk changed it. Check \
         both, and restore from a backup"
    )]
    Doubt(ReplayError),
    /// What the sums are added to can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No randomness for masks.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// The engine could not write out or merge its files: the next commit would fail, or the one after.
    #[error(
        "the store could not write its files in the background ({0} times). Look at the disk, and at what the store says in the \
         file LOG among the data"
    )]
    Background(u64),
    /// The data is not where it was: what is written now goes to files that nobody will find.
    #[error(
        "{0} was deleted, moved or mounted over while the vault ran. Put it back as it was; what was acknowledged in the last second \
         may be missing from it"
    )]
    Gone(PathBuf),
    /// The writer itself failed: a fault in this program.
    #[error("the ledger's writer failed. This is a fault in Cloakroom; please report it")]
    Writer,
}

// === impl Ledger ===

impl Ledger {
    /// What a request that starts now is based on. Taken before the policy is asked and before rows are read, so that
    /// whatever changes in between makes the submission stale.
    pub fn basis(&self) -> Basis {
        // Acquire pairs with the writer's Release: who sees commit n sees its rows.
        let commit = self.shared.visible.load(Ordering::Acquire);
        Basis { commit, rulebook: (self.shared.rulebook_generation)() }
    }

    /// Commits, and frees what is held once the event that names it is durable. It is handed over before this returns; what
    /// comes back only waits, and has no part of what is written.
    ///
    /// # Errors
    /// [`Refused`]; `held` is then wiped, except that after [`Refused::Stale`] the operation reads it anew.
    pub fn commit<T>(
        &self,
        submission: Submission,
        held: Held<T>,
    ) -> impl Future<Output = Result<(T, Receipt), Refused>> + use<T> {
        let Held { content, names } = held;
        let patience = self.shared.limits.patience;
        let receipt = self.enqueue(submission, &names);
        async move {
            match tokio::time::timeout(patience, receipt?).await {
                Ok(Ok(outcome)) => outcome.map(|receipt| (content, receipt)),
                // The writer dropped the sender: it is gone, and the process with it.
                Ok(Err(_)) | Err(_) => Err(Refused::Unavailable),
            }
        }
    }

    /// Commits an event that releases nothing.
    ///
    /// # Errors
    /// As [`Ledger::commit`].
    pub fn record(&self, submission: Submission) -> impl Future<Output = Result<Receipt, Refused>> + use<> {
        let done = self.commit(submission, Held::nothing());
        async move { done.await.map(|((), receipt)| receipt) }
    }

    /// Size and root after all that is committed now. Waits for the writer, so it is for rare callers.
    pub fn head(&self) -> Option<Head> {
        self.shared.queue.ask_head()
    }

    /// What is vouched for now, by the newest checkpoint.
    pub fn vouched(&self) -> Arc<Vouched> {
        self.shared.vouched()
    }

    /// Has all that is durable now vouched for, and waits for that.
    ///
    /// # Errors
    /// [`Refused::Unavailable`] if it can't be read again, signed or written in time.
    pub async fn vouch(&self) -> Result<Arc<Vouched>, Refused> {
        let (asker, answer) = oneshot::channel();
        self.shared.orders.send(checkpointer::Order::Sign(asker)).map_err(|_| Refused::Unavailable)?;
        match tokio::time::timeout(self.shared.limits.patience, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(Refused::Unavailable),
        }
    }

    /// Tells the number of durable events, and wakes whoever waits for more. The last number is told as well, so that one
    /// who falls behind misses none.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    /// The first event whose body is kept: those before it were dropped because of their age, and only their hashes are left.
    pub fn kept_from(&self) -> u64 {
        self.shared.kept_from.load(Ordering::Acquire)
    }

    /// The name of this log, as checkpoints and receipts carry it.
    pub fn log_id(&self) -> &Arc<str> {
        &self.shared.log_id
    }

    /// The vault's time: see [`VaultClock`].
    pub fn clock(&self) -> &Arc<VaultClock> {
        &self.shared.clock
    }

    /// Takes nothing new until [`Ledger::resume`]: submissions are refused as [`Refused::Unavailable`]. What waits is written.
    pub fn pause(&self) {
        self.shared.is_paused.store(true, Ordering::Release);
    }

    /// Takes submissions again after [`Ledger::pause`].
    pub fn resume(&self) {
        self.shared.is_paused.store(false, Ordering::Release);
    }

    /// Whether submissions are taken now: the log goes on, and is not paused.
    pub fn takes_submissions(&self) -> bool {
        self.is_alive() && !self.shared.is_paused.load(Ordering::Acquire)
    }

    /// For how many events no checkpoint vouches yet.
    pub fn unvouched(&self) -> u64 {
        (*self.shared.durable.borrow()).saturating_sub(self.shared.vouched().size())
    }

    /// Whether the queue had no room for the last submission, and the writer has not taken it since. What comes now would most
    /// likely be refused, once all the work for it is done.
    pub fn is_full(&self) -> bool {
        self.shared.queue.is_full()
    }

    /// How many submissions wait for the writer.
    pub fn queued(&self) -> usize {
        self.shared.queue.waiting()
    }

    /// What the writer is at, for [`Stall`].
    pub fn under_way(&self) -> Option<u64> {
        self.shared.queue.under_way()
    }

    /// Stops for good, as after a commit that failed.
    pub fn give_up(&self, fatal: &Fatal) {
        self.shared.fail(fatal);
    }

    /// Whether commits are still accepted.
    pub fn is_alive(&self) -> bool {
        self.shared.queue.is_open()
    }

    fn enqueue(
        &self,
        submission: Submission,
        names: &[(usize, Handle)],
    ) -> Result<tokio::sync::oneshot::Receiver<Result<Receipt, Refused>>, Refused> {
        if !names.iter().all(|(place, handle)| names_item(&submission.event, *place, handle)) {
            return Err(Refused::Unnamed);
        }
        if self.shared.is_paused.load(Ordering::Acquire) {
            return Err(Refused::Unavailable);
        }
        let (waiter, receipt) = wake::waiter();
        self.shared.queue.push(Entry::new(submission, waiter), &self.shared.limits)?;
        Ok(receipt)
    }
}

impl Shared {
    fn vouched(&self) -> Arc<Vouched> {
        Arc::clone(&self.vouched.read())
    }

    /// Stops for good: nothing more is acknowledged, and whoever ends the process is told, once.
    fn fail(&self, fatal: &Fatal) {
        for entry in self.queue.close() {
            let mut wakes = Wakes::default();
            wakes.add(entry.waiter, Err(Refused::Unavailable));
            wakes.send();
        }
        let on_fatal = self.on_fatal.lock().take();
        if let Some(on_fatal) = on_fatal {
            on_fatal(fatal);
        }
    }
}

impl Basis {
    /// The same reads, decided by the rulebook of this generation.
    #[must_use]
    pub fn decided_by(self, generation: u64) -> Self {
        Self { rulebook: generation, ..self }
    }
}

// === impl Submission ===

impl Submission {
    /// A submission that only records `event`.
    pub fn new(basis: Basis, event: impl Into<Box<Event>>) -> Self {
        Self {
            basis,
            touched: Vec::new(),
            rewritten: Vec::new(),
            changes: Changes::default(),
            event: event.into(),
            valid_until: None,
            accepts_clock: false,
            kept_from: None,
        }
    }

    /// The rows that change with the event.
    #[must_use]
    pub fn with_changes(mut self, changes: impl Into<Changes>) -> Self {
        self.changes = changes.into();
        self
    }

    /// The handles whose state the answer rests on, and what is rewritten beside the records that the changes name.
    #[must_use]
    pub fn resting_on(mut self, touched: Vec<Handle>, rewritten: Vec<Handle>) -> Self {
        self.touched = touched;
        self.rewritten = rewritten;
        self
    }

    /// The first moment at which something that is released has expired.
    #[must_use]
    pub fn valid_until(mut self, time: Option<Timestamp>) -> Self {
        self.valid_until = time;
        self
    }

    /// In the same commit the bodies of all events before `sequence` are dropped: `changes` delete them.
    #[must_use]
    pub fn keeping_from(mut self, sequence: u64) -> Self {
        self.kept_from = Some(sequence);
        self
    }

    /// In the same commit the time mark moves to the wall clock, which closes a leap: the event must say so.
    #[must_use]
    pub fn accepting_the_clock(mut self) -> Self {
        self.accepts_clock = true;
        self
    }
}

// === impl Receipt ===

impl Receipt {
    /// The log's name.
    pub fn log_id(&self) -> &Arc<str> {
        &self.log_id
    }

    /// The event's place in the log, from 0.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The time that the ledger stamped on the event.
    pub fn time(&self) -> Timestamp {
        self.time
    }
}

// === impl Held ===

impl<T> Held<T> {
    /// Holds `content`. `names` are the place in the request and the handle of each item in it that would leave.
    pub fn new(content: T, names: Vec<(usize, Handle)>) -> Self {
        Self { content, names }
    }
}

impl Held<()> {
    /// For events that release nothing.
    pub fn nothing() -> Self {
        Self { content: (), names: Vec::new() }
    }
}

/// Whether the event says that the item at `place` left, under the handle that it really has.
fn names_item(event: &Event, place: usize, handle: &Handle) -> bool {
    let named = event.handles.get(place).is_some_and(|stored| stored[..] == handle.as_bytes()[..]);
    let outcome = event.item_outcomes.get(place).copied().and_then(|code| ItemOutcome::try_from(code).ok());
    named && matches!(outcome, Some(ItemOutcome::Issued | ItemOutcome::Released | ItemOutcome::Masked))
}

/// Reads a full tile of the tree, or `None` if it is not there.
///
/// # Errors
/// If the store can't be read.
pub fn read_tile(rows: &dyn Rows, id: TileId) -> Result<Option<Vec<u8>>, ReadError> {
    open::row(rows, Table::Tree, id.path().as_bytes())
}

/// Reads the whole event at `sequence`, or `None` past the end.
///
/// # Errors
/// If the store can't be read.
pub fn read_event(rows: &dyn Rows, sequence: u64) -> Result<Option<Vec<u8>>, ReadError> {
    open::row(rows, Table::Events, &sequence.to_be_bytes())
}
