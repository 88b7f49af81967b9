//! Following the log: every event that matches, from a sequence on, and then each new one as it is committed.
//!
//! Nothing is skipped and nothing comes twice: events are read by their numbers, and the writer's count of durable events
//! only wakes. The opening is itself an event. A rulebook that no longer lets the caller ask ends the stream before the next
//! event leaves.

use super::{EVENTS_AT_ONCE, Filter, FilterRequest, damaged, read_events};
use crate::event::{self, Action, Event, Outcome};
use crate::ledger::{Refused, Submission};
use crate::policy::{self, Resource};
use crate::store::ReadError;
use crate::vault::{ATTEMPTS, Asked, Call, Failure, Vault};
use std::sync::Arc;
use tokio::sync::watch;

/// From where and what to follow.
pub struct TailRequest {
    /// What the events must match.
    pub filter: FilterRequest,
    /// The first sequence to look at.
    pub from_sequence: u64,
}

/// A log that is being followed.
pub struct Tail {
    vault: Arc<Vault>,
    call: Call,
    filter: Arc<Filter>,
    /// The rulebook that last let the caller ask.
    generation: u64,
    /// The next sequence to look at.
    next: u64,
    durable: watch::Receiver<u64>,
}

impl Vault {
    /// Opens a tail.
    ///
    /// # Errors
    /// [`Failure`]; [`Failure::NotInLog`] if the log is shorter than `from_sequence`: then it is not the log that the caller
    /// followed before. [`Failure::EventsDropped`] if it begins later.
    pub async fn tail_events(self: &Arc<Self>, call: &Call, request: &TailRequest) -> Result<Tail, Failure> {
        let asked = Asked::of(call, Action::QueryAudit);
        for _ in 0..ATTEMPTS {
            let basis = self.ledger().basis();
            let durable = self.ledger().follow();
            let (mut event, permit) = self.permit_question(&asked).await?;
            let filter = Filter::new(&request.filter, self.keyring(), self.policy().rulebook().scopes());
            let filter = match filter {
                Ok(filter) => Arc::new(filter),
                Err(violation) => return Err(self.invalid(event, violation).await),
            };
            filter.describe(&mut event, false);
            event.detail = format!("tail from {}; {}", request.from_sequence, event.detail);
            if request.from_sequence > *durable.borrow() {
                return Err(self.not_in_log(event).await);
            }
            // To begin later in silence would be to skip them.
            if request.from_sequence < self.ledger().kept_from() {
                return Err(self.events_dropped(event).await);
            }
            event.outcome = Outcome::Allowed.into();
            let generation = permit.generation();
            match self.ledger().record(Submission::new(basis.decided_by(generation), event)).await {
                Ok(_receipt) => {
                    let (vault, call) = (Arc::clone(self), call.clone());
                    return Ok(Tail { vault, call, filter, generation, next: request.from_sequence, durable });
                }
                Err(Refused::Stale) => {}
                Err(refused) => return Err(refused.into()),
            }
        }
        Err(self.conflict(self.event(&asked)?).await)
    }
}

impl Tail {
    /// The next events that match, one at least. Waits until there are some.
    ///
    /// # Errors
    /// [`Failure`]: the tail is over. It may be opened again behind the last event that came.
    pub async fn next(&mut self) -> Result<Vec<Event>, Failure> {
        loop {
            let durable = *self.durable.borrow_and_update();
            if self.next >= durable {
                // The ledger keeps the sender: without it there is no vault.
                self.durable.changed().await.map_err(|_| Failure::Unavailable)?;
                continue;
            }
            let end = durable.min(self.next + EVENTS_AT_ONCE as u64);
            let found = self.read(end).await?;
            if self.next < self.vault.ledger().kept_from() {
                // A tail that falls behind by the time that events are kept has missed some of them.
                return Err(Failure::EventsDropped(None));
            }
            self.next = end;
            if !found.is_empty() {
                self.check_permission().await?;
                return Ok(found);
            }
        }
    }

    async fn read(&self, end: u64) -> Result<Vec<Event>, Failure> {
        let (rows, keyring) = (Arc::clone(self.vault.rows()), Arc::clone(self.vault.keyring()));
        let (filter, ledger) = (Arc::clone(&self.filter), self.vault.ledger().clone());
        let sequences: Vec<u64> = (self.next..end).collect();
        let read = move || -> Result<Vec<Event>, ReadError> {
            let mut matching = Vec::new();
            for (sequence, encoded) in read_events(&*rows, &sequences, &ledger)? {
                let event = event::decode(&encoded).map_err(|error| damaged(sequence, &error))?;
                if filter.matches(&event, &keyring) {
                    matching.push(Event { log_id: ledger.log_id().to_string(), sequence, ..event });
                }
            }
            Ok(matching)
        };
        Ok(tokio::task::spawn_blocking(read).await.map_err(|_| Failure::Internal)??)
    }

    /// A rulebook that came into force since may have taken the right away.
    async fn check_permission(&mut self) -> Result<(), Failure> {
        let vault = &self.vault;
        if vault.policy().generation() == self.generation {
            return Ok(());
        }
        let asked = Asked::of(&self.call, Action::QueryAudit);
        let context = asked.context(vault.ledger().clock().now());
        let permit = vault.policy().permit::<policy::action::QueryAudit>(&self.call.caller, Resource::Vault, &context);
        match permit {
            Ok(permit) => {
                self.generation = permit.generation();
                Ok(())
            }
            Err(denied) => {
                let event = Event { detail: format!("tail at {}", self.next), ..vault.event(&asked)? };
                Err(vault.denied(event, &denied, Vec::new).await)
            }
        }
    }
}
