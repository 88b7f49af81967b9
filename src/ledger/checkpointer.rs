//! The thread that vouches: each second while events arrive, and whenever somebody asks.
//!
//! The order is: events durable, read again and hashed again, signed, written outside, told to whoever asks, and with the
//! next commit a copy stored inside. So no checkpoint speaks of events that are not durable, or of other bytes than those
//! that lie in the store, and none is given out that a start would not know of.

use super::replay::{ReplayError, check_root, replay};
use super::witnesses::{WitnessError, Witnessed};
use super::{CheckpointError, Checkpoints, Fatal, Head, Refused, RulebookDigest, Shared, Signing};
use crate::clock::Timestamp;
use crate::crypto::state::StateDigest;
use crate::event::json::rfc3339;
use crate::merkle::Frontier;
use crate::merkle::note::Checkpoint;
use crate::store::Rows;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::oneshot;

/// What is vouched for: the newest checkpoint, and the tree that it speaks of.
pub struct Vouched {
    note: String,
    tree: Frontier,
}

/// What the thread is told.
pub(super) enum Order {
    /// Vouch for all that is durable now, and say so.
    Sign(oneshot::Sender<Result<Arc<Vouched>, Refused>>),
    /// End.
    Stop,
}

/// Signs and writes, on a thread of its own.
pub(super) struct Checkpointer {
    pub shared: Arc<Shared>,
    pub rows: Arc<dyn Rows>,
    pub signing: Signing,
    pub directories: Checkpoints,
    pub rulebook_digest: RulebookDigest,
    /// Has them cosigned.
    pub witnessed: Witnessed,
    /// The stored log was not what the tree says. Nothing is signed any more.
    pub doubtful: bool,
    /// Why the last attempt that failed did, for who ends the ledger.
    pub failed: String,
}

impl Vouched {
    /// A tree and the signed note about it.
    pub(super) fn new(note: String, tree: Frontier) -> Self {
        Self { note, tree }
    }

    /// The C2SP signed note; empty only while a log is being made.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The number of events that it vouches for.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The tree over them, for proofs.
    pub fn tree(&self) -> &Frontier {
        &self.tree
    }
}

impl Checkpointer {
    /// Signs each `period` if there are new events, and whenever it is asked, until it is told to stop.
    pub fn run(&mut self, period: Duration, orders: &Receiver<Order>) {
        loop {
            let mut waiting = Vec::new();
            match orders.recv_timeout(period) {
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Order::Sign(asker)) => waiting.push(asker),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Whoever asks meanwhile is served by the same signature.
            let mut stop = false;
            for order in orders.try_iter() {
                match order {
                    Order::Sign(asker) => waiting.push(asker),
                    Order::Stop => stop = true,
                }
            }
            let outcome = match self.shared.queue.ask_head() {
                Some(head) => self.sign(&head),
                None => Err(Refused::Unavailable),
            };
            for asker in waiting {
                // Who asked and went away does not mind.
                let _ = asker.send(outcome.clone());
            }
            if stop {
                return;
            }
            self.complete();
        }
    }

    /// Vouches for `head` if that is news, and says what is vouched for then.
    pub fn sign(&mut self, head: &Head) -> Result<Arc<Vouched>, Refused> {
        let newest = self.shared.vouched();
        if self.doubtful {
            return Err(Refused::Unavailable);
        }
        if head.size <= newest.size() && !newest.note().is_empty() {
            return Ok(newest);
        }
        let started = self.shared.clock.monotonic();
        let tree = match self.read_again(&newest, head) {
            Ok(tree) => tree,
            Err(error) => return Err(self.doubt(error)),
        };
        let events = head.size - newest.size();
        metrics::counter!("cloakroom_checkpoint_events_total").increment(events);
        metrics::histogram!("cloakroom_checkpoint_verify_seconds")
            .record(self.shared.clock.monotonic().saturating_sub(started).as_secs_f64());
        let note = self.statement(head).sign(&self.signing.keys());
        let note = self.witnessed.cosign(note, &tree, &*self.rows);
        // The log itself is durable; what is at stake is how much a later start can vouch for. Tried again each period.
        if let Err(error) = self.write(head.size, &note) {
            tracing::error!(%error, "a checkpoint could not be written outside the database");
            metrics::counter!("cloakroom_checkpoint_failures_total").increment(1);
            self.failed = error.to_string();
            return Err(Refused::Unavailable);
        }
        self.shared.queue.leave_checkpoint(note.clone());
        let vouched = Arc::new(Vouched::new(note, tree));
        *self.shared.vouched.write() = Arc::clone(&vouched);
        Ok(vouched)
    }

    /// Asks those witnesses again that have not cosigned the newest checkpoint and are due, and adds what they give.
    fn complete(&mut self) {
        let newest = self.shared.vouched();
        let Some(note) = self.witnessed.complete(newest.tree(), &*self.rows) else { return };
        if let Err(error) = self.write(newest.size(), &note) {
            tracing::error!(%error, "cosignatures could not be added to the checkpoint outside the database");
            metrics::counter!("cloakroom_checkpoint_failures_total").increment(1);
            return;
        }
        self.shared.queue.leave_checkpoint(note.clone());
        *self.shared.vouched.write() = Arc::new(Vouched::new(note, newest.tree().clone()));
    }

    /// Holds the log as it was found, with this tree and these records, against what the witnesses have seen of it.
    ///
    /// # Errors
    /// If one of them contradicts, or too few can be asked.
    pub fn check_start(&mut self, tree: &Frontier, state: StateDigest) -> Result<(), WitnessError> {
        if !self.witnessed.is_any() {
            return Ok(());
        }
        let note = self.statement(&Head { size: tree.size(), root: tree.root(), state }).sign(&self.signing.keys());
        self.witnessed.check_start(&note, tree, &*self.rows)
    }

    /// The tree at `head`, from what lies in the store.
    fn read_again(&self, newest: &Vouched, head: &Head) -> Result<Frontier, ReplayError> {
        let mut tree = newest.tree().clone();
        replay(&*self.rows, &mut tree, head.size)?;
        check_root(&tree, newest.size(), &head.root)?;
        Ok(tree)
    }

    /// A log that does not hash to its tree must neither be signed nor grow: the process ends, and the next start is refused
    /// until somebody has looked.
    fn doubt(&mut self, error: ReplayError) -> Refused {
        metrics::counter!("cloakroom_checkpoint_failures_total").increment(1);
        if let ReplayError::Read(error) = error {
            tracing::error!(%error, "the log could not be read again before it was signed; it is tried again");
            self.failed = format!("the log could not be read again before it was signed: {error}");
            return Refused::Unavailable;
        }
        self.doubtful = true;
        let fatal = Fatal::Doubt(error);
        self.failed = fatal.to_string();
        if let Err(error) = self.directories.leave_doubt(&format!("{fatal}\n")) {
            tracing::error!(%error, "that a checkpoint was refused could not be written down");
        }
        self.shared.fail(&fatal);
        Refused::Unavailable
    }

    /// Kept first: once the newest note is one that the old key did not sign alone, the way to the new key must be there.
    fn write(&self, size: u64, note: &str) -> Result<(), CheckpointError> {
        if self.signing.keys().len() > 1 {
            self.directories.keep(size, note)?;
        }
        self.directories.write(note)
    }

    fn statement(&self, head: &Head) -> Checkpoint {
        let time = self.shared.clock.now();
        let lines = extensions(time, &(self.rulebook_digest)(), &head.state);
        Checkpoint::new(self.signing.name().clone(), head.size, head.root, lines)
            .expect("a time and digits hold no line feed")
    }
}

/// The lines behind the root, in this order.
fn extensions(time: Timestamp, rulebook: &[u8; 32], state: &StateDigest) -> Vec<String> {
    vec![format!("time {}", rfc3339(time)), format!("rulebook {}", hex::encode(rulebook)), state.to_string()]
}
