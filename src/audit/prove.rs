//! Proving: checkpoints, and proofs from the tree that the newest one vouches for.
//!
//! A receipt names a sequence. With a checkpoint that covers it and the proof of inclusion, whoever holds the log's public
//! key knows that the event is in the log and what it says, without asking anyone again; with a proof of consistency, that a
//! newer checkpoint speaks of the same history as an older one. Each of these questions is an event too.

use super::damaged_tree;
use crate::event::{Action, Outcome};
use crate::ledger::{self, Refused, Submission, Vouched};
use crate::merkle::{Hash, Tree};
use crate::store::{ReadError, Rows};
use crate::vault::{ATTEMPTS, Asked, Call, Failure, Reason, Vault, Violation};
use std::future::Future;
use std::sync::Arc;

/// That an event is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InclusionProof {
    /// Where the event stands.
    pub sequence: u64,
    /// In the tree of so many events.
    pub tree_size: u64,
    /// From the leaf's neighbour upwards (RFC 6962, 2.1.1).
    pub hashes: Vec<Hash>,
    /// The bytes that are hashed; empty if the event's body has been dropped, when only its hash is left.
    pub event: Vec<u8>,
}

/// That a log is the beginning of a longer one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The shorter one's size.
    pub from_size: u64,
    /// The longer one's size.
    pub to_size: u64,
    /// RFC 6962, 2.1.2.
    pub hashes: Vec<Hash>,
}

/// Why there is no proof.
enum Lack {
    /// The log is not that long, or the tree that was named is not.
    NotInLog,
    Invalid(Violation),
    Failed(Failure),
}

impl Vault {
    /// The newest checkpoint, a C2SP signed note. It covers all that is durable, the event of this question included.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn checkpoint(&self, call: &Call) -> Result<String, Failure> {
        self.prove(call, "checkpoint", || async { Ok(()) }).await?;
        let vouched = self.ledger().vouch().await?;
        Ok(vouched.note().to_owned())
    }

    /// Proves that the event at `sequence` is in the tree of `tree_size` events; 0 stands for the newest checkpoint's.
    ///
    /// # Errors
    /// [`Failure::NotInLog`] if it is not, or the log has not been vouched for so far.
    pub async fn inclusion_proof(&self, call: &Call, sequence: u64, tree_size: u64) -> Result<InclusionProof, Failure> {
        let detail = format!("inclusion proof of event {sequence} in {}", of_size(tree_size));
        self.prove(call, &detail, || async move {
            // For the newest tree any that has the event will do; a receipt may be younger than the last checkpoint.
            let least = if tree_size == 0 { sequence.saturating_add(1) } else { tree_size };
            let vouched = self.vouched_for(least).await?;
            let tree_size = if tree_size == 0 { vouched.size() } else { tree_size };
            if sequence >= tree_size {
                return Err(Lack::NotInLog);
            }
            let kept = self.ledger().clone();
            self.read_tree(vouched, move |rows, vouched| {
                let mut tree = Tree::new(vouched.tree(), |id| ledger::read_tile(rows, id));
                let hashes = tree.inclusion(sequence, tree_size).map_err(damaged_tree)?;
                let event = super::read_events(rows, &[sequence], &kept)?.pop().map(|(_, event)| event);
                let event = event.unwrap_or_default();
                Ok(InclusionProof { sequence, tree_size, hashes, event })
            })
            .await
        })
        .await
    }

    /// Proves that the log of `from_size` events is the beginning of that of `to_size` events; 0 stands for the newest
    /// checkpoint's.
    ///
    /// # Errors
    /// [`Failure::NotInLog`] if the log has not been vouched for so far.
    pub async fn consistency_proof(
        &self,
        call: &Call,
        from_size: u64,
        to_size: u64,
    ) -> Result<ConsistencyProof, Failure> {
        let detail = format!("consistency proof from {from_size} events to {}", of_size(to_size));
        self.prove(call, &detail, || async move {
            if to_size != 0 && from_size > to_size {
                return Err(Lack::Invalid(Violation { field: "from_size", reason: Reason::SizesReversed }));
            }
            let vouched = self.vouched_for(to_size.max(from_size)).await?;
            let to_size = if to_size == 0 { vouched.size() } else { to_size };
            self.read_tree(vouched, move |rows, vouched| {
                let mut tree = Tree::new(vouched.tree(), |id| ledger::read_tile(rows, id));
                let hashes = tree.consistency(from_size, to_size).map_err(damaged_tree)?;
                Ok(ConsistencyProof { from_size, to_size, hashes })
            })
            .await
        })
        .await
    }

    /// Decides, finds the answer, records the question, and only then hands the answer out.
    async fn prove<T, F>(&self, call: &Call, detail: &str, find: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Lack>>,
    {
        let asked = Asked::of(call, Action::QueryAudit);
        for _ in 0..ATTEMPTS {
            let basis = self.ledger().basis();
            let (mut event, permit) = self.permit_question(&asked).await?;
            detail.clone_into(&mut event.detail);
            let found = match find().await {
                Ok(found) => found,
                Err(Lack::NotInLog) => return Err(self.not_in_log(event).await),
                Err(Lack::Invalid(violation)) => return Err(self.invalid(event, violation).await),
                Err(Lack::Failed(failure)) => return Err(failure),
            };
            event.outcome = Outcome::Allowed.into();
            event.succeeded = 1;
            if call.is_late() {
                return Err(self.late(event).await);
            }
            match self.ledger().record(Submission::new(basis.decided_by(permit.generation()), event)).await {
                Ok(_receipt) => return Ok(found),
                Err(Refused::Stale) => {}
                Err(refused) => return Err(refused.into()),
            }
        }
        Err(self.conflict(self.event(&asked)?).await)
    }

    /// A tree of at least `size` events that is vouched for. What is durable and not yet vouched for is now.
    async fn vouched_for(&self, size: u64) -> Result<Arc<Vouched>, Lack> {
        let mut vouched = self.ledger().vouched();
        if vouched.size() < size && *self.ledger().follow().borrow() >= size {
            vouched = self.ledger().vouch().await.map_err(|refused| Lack::Failed(refused.into()))?;
        }
        if vouched.size() < size { Err(Lack::NotInLog) } else { Ok(vouched) }
    }

    /// Reads tiles, which may wait for a disk.
    async fn read_tree<T: Send + 'static>(
        &self,
        vouched: Arc<Vouched>,
        read: impl FnOnce(&dyn Rows, &Vouched) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Lack> {
        let rows = Arc::clone(self.rows());
        let done = tokio::task::spawn_blocking(move || read(&*rows, &vouched)).await;
        done.map_err(|_| Lack::Failed(Failure::Internal))?.map_err(|error| Lack::Failed(error.into()))
    }
}

fn of_size(size: u64) -> String {
    if size == 0 { "the newest tree".to_owned() } else { format!("the tree of {size} events") }
}
