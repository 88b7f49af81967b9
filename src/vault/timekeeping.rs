//! Watching the clock: a leap is recorded, and so is what closes it.

use super::record::own_event;
use super::{ATTEMPTS, Failure, Vault, VaultEvent};
use crate::event::{Action, Event};
use crate::ledger::{Refused, Standing, Submission};
use crate::store::Batch;
use prost::bytes::Bytes;
use std::sync::atomic::Ordering;

impl Vault {
    /// Looks at the clock, records if it has leapt or is right again, and moves the time mark to it after a steady day.
    /// To be called each second.
    ///
    /// # Errors
    /// If the log can't be written; the next call tries again.
    pub async fn keep_time(&self) -> Result<Standing, Failure> {
        let standing = self.ledger.clock().observe();
        let leapt = match standing {
            Standing::Steady(ahead) => {
                let reason = "and has been steady for a day: the mark moves to it";
                self.accept_clock(&format!("the clock is {} s ahead of the time mark {reason}", ahead.as_secs()))
                    .await?;
                false
            }
            Standing::Leapt(ahead) => {
                if !self.leapt.load(Ordering::Acquire) {
                    tracing::warn!(
                        ?ahead,
                        "the clock has leapt: nothing is purged until it is right, steady for a day or accepted"
                    );
                    let detail =
                        format!("the clock is {} s ahead of the time mark; nothing is purged", ahead.as_secs());
                    self.record_clock(detail).await?;
                }
                true
            }
            Standing::Sound => {
                if self.leapt.load(Ordering::Acquire) {
                    tracing::info!("the clock is right again");
                    self.record_clock("the clock and the time mark go together again".to_owned()).await?;
                }
                false
            }
        };
        self.leapt.store(leapt, Ordering::Release);
        Ok(standing)
    }

    async fn record_clock(&self, detail: String) -> Result<(), Failure> {
        let event = VaultEvent { action: Action::Clock, scope: String::new(), detail, changes: Batch::default() };
        self.record_own(event).await.map(drop)
    }

    /// Moves the time mark to the clock, with an event that says why.
    ///
    /// # Errors
    /// If the log can't be written.
    pub async fn accept_clock(&self, why: &str) -> Result<(), Failure> {
        let event = self.own(Action::Clock, why.to_owned())?;
        for _ in 0..ATTEMPTS {
            let submission = Submission::new(self.ledger.basis(), event.clone()).accepting_the_clock();
            match self.ledger.record(submission).await {
                Err(Refused::Stale) => {}
                outcome => return Ok(outcome.map(drop)?),
            }
        }
        Err(Failure::Conflict(None))
    }

    /// The event of something that the vault does by itself, under the rulebook in force.
    pub(crate) fn own(&self, action: Action, detail: String) -> Result<Event, Failure> {
        let rulebook = Bytes::from_owner(self.policy.rulebook().digest());
        Ok(Event { rulebook, ..own_event(&self.identity, &self.node, action, detail)? })
    }
}
