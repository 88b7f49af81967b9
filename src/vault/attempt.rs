//! The frame of every operation on tokens: what each attempt at one begins and ends with.
//!
//! An operation is tried until its basis holds up to the commit, a bounded number of times. Each attempt begins with the
//! policy check, since a rulebook may have changed meanwhile, and ends in the ledger; what stands between is the operation.

use super::record::{Asked, decided};
use super::requests::Request;
use super::{Failure, Vault};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::event::{self, Event, ItemOutcome};
use crate::keys::ScopeKeys;
use crate::keys::entropy::Supply;
use crate::ledger::{Basis, Changes, Held, Receipt, Refused, Submission};
use crate::policy::{self, Context, Denied, Permit, Resource};
use crate::scope::{self, Scope};
use crate::secret::Secret;
use std::pin::Pin;
use std::sync::Arc;

/// What a call wants, the shape of it being right.
pub(super) struct Wanted<'a> {
    pub asked: Asked<'a>,
    pub path: scope::Path,
    /// Why, in the caller's words: for policy and the event.
    pub purpose: &'a str,
    /// How much of a value is to be shown; unspecified where none is.
    pub reveal: event::Reveal,
    /// What else the event says.
    pub detail: &'a str,
    /// The tokens that it names,
    pub tokens: &'a [Secret<String>],
    /// and the handles.
    pub handles: &'a [String],
    /// Not available yet: an option that was given.
    pub unsupported: Option<&'static str>,
    /// The name that its outcome is remembered by, if it has one.
    pub request: Option<Box<Request>>,
}

/// An attempt that policy permits.
pub(super) struct Attempt<A: policy::Action> {
    /// Of the whole attempt.
    pub now: Timestamp,
    /// What policy found to be asked for.
    pub scope: Arc<Scope>,
    /// Begun: who, what, by which rule. Handles and outcomes are for the operation to fill in.
    pub event: Box<Event>,
    /// As much as the operation asked for, from one system call.
    pub random: Supply,
    basis: Basis,
    permit: Permit<A>,
}

/// An attempt that is over, and what is still to be recorded of it. On the heap, like all that is rare: the future of every call
/// would have to have room for it.
pub(super) type Over<'a> = Pin<Box<dyn Future<Output = Failure> + Send + 'a>>;

/// What an attempt would change, and what its answer rests on.
#[derive(Default)]
pub(super) struct Effects {
    pub changes: Changes,
    /// Handles whose stored state the answer rests on.
    pub touched: Vec<Handle>,
    /// What else is rewritten, beside the records that `changes` knows of.
    pub rewritten: Vec<Handle>,
    /// The first moment at which something that is released has expired.
    pub valid_until: Option<Timestamp>,
}

impl Vault {
    /// Asks policy, and begins the event. `random` bytes are drawn for the operation.
    ///
    /// # Errors
    /// The call is over: denied, late, or something that does not exist yet. All of these are recorded.
    pub(super) fn attempt<'a, A: policy::Action>(
        &'a self,
        wanted: &'a Wanted<'_>,
        random: usize,
    ) -> Result<Attempt<A>, Over<'a>> {
        let basis = self.ledger.basis();
        let now = self.now();
        let context = wanted.context(now);
        let permit = match self.policy.permit::<A>(&wanted.asked.call.caller, Resource::Scope(&wanted.path), &context) {
            Ok(permit) => permit,
            Err(denied) => return Err(Box::pin(self.denied_attempt(wanted, denied))),
        };
        // For the event's salt too: a system call costs as much as sealing a value.
        let mut supply = Supply::of(event::SALT_BYTES + random).map_err(|failed| over(failed.into()))?;
        let mut event = Box::new(wanted.event(self, supply.take()));
        decided(&mut event, &permit);
        let scope = Arc::clone(permit.scope().ok_or_else(|| over(Failure::Internal))?);
        if let Some(option) = wanted.unsupported {
            return Err(Box::pin(self.unimplemented(*event, option)));
        }
        if wanted.asked.call.is_late() {
            return Err(Box::pin(self.late(*event)));
        }
        Ok(Attempt { now, scope, event, random: supply, basis, permit })
    }

    async fn denied_attempt(&self, wanted: &Wanted<'_>, denied: Denied) -> Failure {
        let named = || {
            let mut named = self.handles_of_denied(&wanted.path, wanted.tokens);
            named.extend(wanted.handles.iter().map(|handle| handle.parse().ok()));
            named
        };
        match wanted.begun(self) {
            Ok(event) => self.denied(event, &denied, named).await,
            Err(failure) => failure,
        }
    }

    /// Commits what an attempt came to. `None` if its basis has changed: then nothing was written, and it has to be made
    /// again.
    ///
    /// It is handed over before this returns, so that what waits need not hold what is written.
    ///
    /// # Errors
    /// Nothing was released or changed.
    pub(super) fn conclude<'a, A: policy::Action, T>(
        &'a self,
        wanted: &Wanted<'_>,
        attempt: Attempt<A>,
        effects: Effects,
        held: Held<T>,
    ) -> impl Future<Output = Result<Option<(T, Receipt)>, Failure>> + use<'a, A, T> {
        let damaged = damaged_items(&attempt.event);
        let commit = if wanted.asked.call.is_late() {
            let late: Over<'a> = Box::pin(self.late(*attempt.event));
            Err(late)
        } else {
            let submission = Submission::new(attempt.basis.decided_by(attempt.permit.generation()), attempt.event)
                .with_changes(effects.changes)
                .resting_on(effects.touched, effects.rewritten)
                .valid_until(effects.valid_until);
            // On the heap: a future that is given to another one takes up its room twice.
            Ok(Box::pin(self.ledger.commit(submission, held)))
        };
        async move {
            let committed = match commit {
                Ok(commit) => commit.await,
                Err(late) => return Err(late.await),
            };
            match committed {
                Ok(done) => {
                    // With the event that says so, and as rarely.
                    if damaged > 0 {
                        metrics::counter!("cloakroom_records_damaged_total").increment(damaged);
                    }
                    Ok(Some(done))
                }
                Err(Refused::Stale) => Ok(None),
                Err(refused) => Err(refused.into()),
            }
        }
    }

    /// The keys of a scope; for one that was never used, keys that open nothing.
    pub(super) fn keys_of(&self, path: &scope::Path) -> ScopeKeys {
        self.keyring.scope(path).unwrap_or_else(ScopeKeys::stand_in)
    }

    /// Every attempt was overtaken.
    pub(super) async fn overtaken(&self, wanted: &Wanted<'_>) -> Failure {
        match wanted.begun(self) {
            Ok(event) => self.conflict(event).await,
            Err(failure) => failure,
        }
    }
}

impl<'a> Wanted<'a> {
    /// Of a call that says no more than who wants what on which scope.
    pub fn of(asked: Asked<'a>, path: scope::Path) -> Self {
        Self {
            asked,
            path,
            purpose: "",
            reveal: event::Reveal::Unspecified,
            detail: "",
            tokens: &[],
            handles: &[],
            unsupported: None,
            request: None,
        }
    }

    fn context(&self, now: Timestamp) -> Context<'_> {
        let reveal = match self.reveal {
            event::Reveal::Unspecified => policy::Reveal::Nothing,
            event::Reveal::Full => policy::Reveal::Full,
            event::Reveal::Masked => policy::Reveal::Masked,
        };
        Context { purpose: self.purpose, reveal, requested: self.asked.requested_count(), now }
    }

    fn begun(&self, vault: &Vault) -> Result<Event, Failure> {
        Ok(self.event(vault, crate::keys::entropy::bytes()?))
    }

    fn event(&self, vault: &Vault, salt: [u8; event::SALT_BYTES]) -> Event {
        let mut event = vault.event_salted(&self.asked, salt);
        self.purpose.clone_into(&mut event.purpose);
        self.detail.clone_into(&mut event.detail);
        event.reveal = self.reveal.into();
        if let Some(request) = &self.request {
            event.request_hash = request.hash();
        }
        event
    }
}

/// With nothing to be recorded.
fn over<'a>(failure: Failure) -> Over<'a> {
    Box::pin(std::future::ready(failure))
}

/// Items of which a record is there that does not open.
fn damaged_items(event: &Event) -> u64 {
    event.item_outcomes.iter().filter(|outcome| **outcome == i32::from(ItemOutcome::Corrupt)).count() as u64
}
