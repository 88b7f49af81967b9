//! Events: what each says, and how refusals reach the log without filling it.

use super::shape::{check_words, scope_path};
use super::{Call, Failure, Reason, Vault, Violation};
use crate::caller::Caller;
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::event::{self, Action, Event, Outcome, Time};
use crate::keys::entropy;
use crate::ledger::{Receipt, Submission};
use crate::limits::{Refusals, Strangers, Summary, Verdict};
use crate::policy::{self, Context, Denied, Permit};
use crate::store::Batch;
use prost::bytes::Bytes;
use std::hash::Hash;
use std::sync::Arc;

/// Handles that the event of a denied call carries at the most.
pub(super) const HANDLES_OF_DENIED: usize = 100;

/// What a caller's refusals are counted by once it has too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RefusalKind {
    action: Action,
    outcome: Outcome,
    reason: Reason,
}

/// Where a failed handshake came from: the address, without the port, and the certificate that was shown, if any.
pub type HandshakeOrigin = (std::net::IpAddr, Option<[u8; 32]>);

/// Failed handshakes, by where they came from and why.
pub type Handshakes = Strangers<std::net::IpAddr, [u8; 32], &'static str>;

/// Something that the vault does by itself.
pub struct VaultEvent {
    /// What.
    pub action: Action,
    /// The scope that it is about, or empty.
    pub scope: String,
    /// Plain words: key ids, versions, counts.
    pub detail: String,
    /// The rows that change with it.
    pub changes: Batch,
}

/// How an operation's event begins: who asks for what.
pub(crate) struct Asked<'a> {
    pub call: &'a Call,
    pub action: Action,
    scope: &'a str,
    requested: usize,
}

impl<'a> Asked<'a> {
    /// Of something that is not about a scope.
    pub fn of(call: &'a Call, action: Action) -> Self {
        Self { call, action, scope: "", requested: 0 }
    }

    pub fn requested_count(&self) -> u32 {
        u32::try_from(self.requested).unwrap_or(u32::MAX)
    }

    /// What policies may read of a call that has neither purpose nor values to show.
    pub fn context(&self, now: Timestamp) -> Context<'static> {
        Context { purpose: "", reveal: policy::Reveal::Nothing, requested: self.requested_count(), now }
    }
}

/// Who decided, into the event.
pub(crate) fn decided<A: policy::Action>(event: &mut Event, permit: &Permit<A>) {
    event.policies = permit.policies().to_vec();
    event.rulebook = Bytes::copy_from_slice(&permit.rulebook());
}

impl Vault {
    /// `scope` as the caller wrote it gets into the event if it is one, or can be no value that was put into the wrong
    /// field: a card number and a token of the format `uuid` have the form of a scope.
    pub(super) fn asked<'a>(&self, call: &'a Call, action: Action, scope: &'a str, requested: usize) -> Asked<'a> {
        let is_known = || {
            let path = scope_path(scope).ok();
            path.is_some_and(|path| self.policy.rulebook().scopes().resolve(&path).is_some())
        };
        let is_harmless = check_words(scope) && scope_path(scope).is_ok();
        let scope = if is_harmless || is_known() { scope } else { "" };
        Asked { call, action, scope, requested }
    }

    /// The event's beginning. Handles, outcomes and policies come later.
    pub(crate) fn event(&self, asked: &Asked<'_>) -> Result<Event, Failure> {
        Ok(self.event_salted(asked, entropy::bytes()?))
    }

    /// As [`Vault::event`], for who has randomness already.
    pub(super) fn event_salted(&self, asked: &Asked<'_>, salt: [u8; event::SALT_BYTES]) -> Event {
        let caller: &Caller = &asked.call.caller;
        Event {
            action: asked.action.into(),
            caller: caller.id.as_str().to_owned(),
            certificate_sha256: Bytes::copy_from_slice(&caller.certificate_sha256),
            scope: asked.scope.to_owned(),
            requested: asked.requested_count(),
            trace_id: asked.call.trace_id.clone(),
            peer_address: caller.peer.clone(),
            node: self.node.to_string(),
            salt: Bytes::copy_from_slice(&salt),
            ..Event::default()
        }
    }

    /// Records that policy said no, and says so.
    pub(crate) async fn denied(
        &self,
        mut event: Event,
        denied: &Denied,
        handles: impl FnOnce() -> Vec<Option<Handle>>,
    ) -> Failure {
        event.policies = denied.policies().to_vec();
        event.rulebook = Bytes::copy_from_slice(&denied.rulebook());
        // What is only counted costs no search for names: neither a flood of refusals nor a clock gets anything out of it.
        let name = |event: &mut Event| {
            let handles = handles();
            let named = &handles[..handles.len().min(HANDLES_OF_DENIED)];
            if named.iter().any(Option::is_some) {
                event.handles = event::handles(named.iter().map(|handle| handle.as_ref().map(Handle::as_bytes)));
            }
        };
        match self.refuse_with(event, Outcome::Denied, Reason::PolicyDenied, name).await {
            Ok(receipt) => Failure::Denied(receipt),
            Err(failure) => failure,
        }
    }

    /// Records that the request was wrong, and says so.
    pub(crate) async fn invalid(&self, event: Event, violation: Violation) -> Failure {
        match self.refuse(event, Outcome::Failed, violation.reason).await {
            Ok(receipt) => Failure::Invalid(violation, receipt),
            Err(failure) => failure,
        }
    }

    /// Records that the request wants what does not exist yet, and says so.
    pub(super) async fn unimplemented(&self, event: Event, what: &'static str) -> Failure {
        match self.refuse(event, Outcome::Failed, Reason::NotImplemented).await {
            Ok(receipt) => Failure::Unimplemented(what, receipt),
            Err(failure) => failure,
        }
    }

    /// Records that items were wrong, and that nothing was issued for it.
    pub(super) async fn all_or_nothing(&self, mut event: Event, wrong: Vec<(usize, Reason)>) -> Failure {
        event.detail = format!("{} of {} items refused", wrong.len(), event.requested);
        match self.refuse(event, Outcome::Failed, Reason::AllOrNothing).await {
            Ok(receipt) => Failure::AllOrNothing(wrong, receipt),
            Err(failure) => failure,
        }
    }

    /// Records that a request id stands for another request, and says so.
    pub(super) async fn request_id_used(&self, event: Event) -> Failure {
        match self.refuse(event, Outcome::Failed, Reason::RequestIdUsed).await {
            Ok(receipt) => Failure::RequestIdUsed(receipt),
            Err(failure) => failure,
        }
    }

    /// Records that the log has no such place, and says so.
    pub(crate) async fn not_in_log(&self, event: Event) -> Failure {
        match self.refuse(event, Outcome::Failed, Reason::NotInLog).await {
            Ok(receipt) => Failure::NotInLog(receipt),
            Err(failure) => failure,
        }
    }

    /// Records that what was asked for has been dropped, and says so.
    pub(crate) async fn events_dropped(&self, event: Event) -> Failure {
        match self.refuse(event, Outcome::Failed, Reason::EventsDropped).await {
            Ok(receipt) => Failure::EventsDropped(receipt),
            Err(failure) => failure,
        }
    }

    /// Records that nobody waits any more, and says so.
    pub(crate) async fn late(&self, event: Event) -> Failure {
        match self.refuse(withhold(event), Outcome::Failed, Reason::DeadlineExceeded).await {
            Ok(receipt) => Failure::DeadlineExceeded(receipt),
            Err(failure) => failure,
        }
    }

    /// Records that the basis kept changing, and says so.
    pub(crate) async fn conflict(&self, event: Event) -> Failure {
        match self.refuse(withhold(event), Outcome::Failed, Reason::BasisChanged).await {
            Ok(receipt) => Failure::Conflict(receipt),
            Err(failure) => failure,
        }
    }

    /// The event of a refusal, if its caller has not had too many: then it is only counted, and comes with the next
    /// summary. A refusal releases nothing, so the answer need not wait for that.
    pub(super) async fn refuse(
        &self,
        event: Event,
        outcome: Outcome,
        reason: Reason,
    ) -> Result<Option<Receipt>, Failure> {
        self.refuse_with(event, outcome, reason, |_| {}).await
    }

    /// As [`Vault::refuse`]; `complete` adds what an event of its own says beside that.
    async fn refuse_with(
        &self,
        mut event: Event,
        outcome: Outcome,
        reason: Reason,
        complete: impl FnOnce(&mut Event),
    ) -> Result<Option<Receipt>, Failure> {
        // Where the log takes nothing, a count of refusals is no substitute for events: it is lost with the process.
        if !self.ledger.takes_submissions() {
            return Err(Failure::Unavailable);
        }
        event.outcome = outcome.into();
        event.reason = reason.as_str().into();
        let kind = RefusalKind { action: event.action(), outcome, reason };
        let caller: Arc<str> = event.caller.as_str().into();
        if self.refusals.note(Arc::clone(&caller), kind, self.now()) == Verdict::Count {
            return Ok(None);
        }
        complete(&mut event);
        // On the heap: refusals are rare, and the future of every call would have to have room for one.
        match Box::pin(self.record_event(event)).await {
            Ok(receipt) => Ok(Some(receipt)),
            // Nothing of it was written, and nobody is to probe unseen because the log is busy.
            Err(Failure::Overloaded | Failure::Conflict(_)) => {
                self.refusals.count(caller, kind, self.now());
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Records an event that rests on nothing that could have changed.
    pub(super) async fn record_event(&self, event: Event) -> Result<Receipt, Failure> {
        self.record_with(event, Batch::default()).await
    }

    async fn record_with(&self, event: Event, changes: Batch) -> Result<Receipt, Failure> {
        // It was decided by the rulebook that it names; a newer one does not make that untrue.
        for _ in 0..super::ATTEMPTS {
            let mut batch = Batch::default();
            batch.append(&changes);
            let submission = Submission::new(self.ledger.basis(), event.clone()).with_changes(batch);
            match self.ledger.record(submission).await {
                Err(crate::ledger::Refused::Stale) => {}
                outcome => return Ok(outcome?),
            }
        }
        Err(Failure::Conflict(None))
    }

    /// Records something that the vault does by itself, together with the rows that it changes.
    ///
    /// # Errors
    /// If the log can't be written.
    pub async fn record_own(&self, own: VaultEvent) -> Result<Receipt, Failure> {
        let event = Event {
            scope: own.scope,
            rulebook: Bytes::from_owner(self.policy.rulebook().digest()),
            ..own_event(&self.identity, &self.node, own.action, own.detail)?
        };
        self.record_with(event, own.changes).await
    }

    /// Writes the summaries of refusals that were only counted. Called each second, and before the end.
    ///
    /// # Errors
    /// If the log can't be written; what was not recorded stays counted for the next round.
    pub async fn record_refusals(&self) -> Result<usize, Failure> {
        self.record_summaries(&self.refusals, |summary, event| {
            event.action = summary.about.action.into();
            event.outcome = summary.about.outcome.into();
            event.reason = summary.about.reason.as_str().into();
            match &summary.caller {
                Some(caller) => event.caller = caller.to_string(),
                None => event.detail = "refusals of more callers than are counted one by one".into(),
            }
        })
        .await
    }

    /// Writes the summaries of failed handshakes.
    ///
    /// # Errors
    /// As [`Vault::record_refusals`].
    pub async fn record_handshakes(&self, handshakes: &Handshakes) -> Result<usize, Failure> {
        self.record_summaries(handshakes.counts(), |summary: &Summary<HandshakeOrigin, _>, event| {
            event.action = Action::Connect.into();
            event.outcome = Outcome::Denied.into();
            event.reason = summary.about.into();
            match summary.caller {
                Some((peer, certificate_sha256)) => {
                    event.peer_address = peer.to_string();
                    event.certificate_sha256 = certificate_sha256.map(Bytes::from_owner).unwrap_or_default();
                }
                None => event.detail = "failed handshakes from more places than are counted one by one".into(),
            }
        })
        .await
    }

    async fn record_summaries<C: Clone + Eq + Hash, A: Eq>(
        &self,
        refusals: &Refusals<C, A>,
        describe: impl Fn(&Summary<C, A>, &mut Event),
    ) -> Result<usize, Failure> {
        let summaries = refusals.drain(self.now());
        let count = summaries.len();
        let mut summaries = summaries.into_iter();
        while let Some(summary) = summaries.next() {
            let recorded = match self.summary_event(&summary) {
                Ok(mut event) => {
                    describe(&summary, &mut event);
                    self.record_event(event).await
                }
                Err(failure) => Err(failure),
            };
            if let Err(failure) = recorded {
                // If the outcome is unknown, the same may come twice; it never gets lost.
                refusals.put_back(summary);
                summaries.for_each(|summary| refusals.put_back(summary));
                return Err(failure);
            }
        }
        Ok(count)
    }

    fn summary_event<C, A>(&self, summary: &Summary<C, A>) -> Result<Event, Failure> {
        Ok(Event {
            count: summary.count,
            first_time: Some(Time::from(summary.first)),
            node: self.node.to_string(),
            rulebook: Bytes::from_owner(self.policy.rulebook().digest()),
            salt: salt()?,
            ..Event::default()
        })
    }

    /// Counts a call that came to its end before policy was asked, or that nothing could be written of. It comes with the
    /// next summary.
    pub fn turned_away(&self, caller: &Caller, action: Action, reason: Reason) {
        let outcome = match reason {
            Reason::Malformed | Reason::DeadlineExceeded | Reason::Overloaded => Outcome::Failed,
            _ => Outcome::Denied,
        };
        let kind = RefusalKind { action, outcome, reason };
        self.refusals.count(caller.id.as_str().into(), kind, self.now());
    }

    /// Records that the task of a call panicked.
    ///
    /// # Errors
    /// If the log can't be written.
    pub async fn panicked(&self, call: &Call, action: Action) -> Result<Receipt, Failure> {
        let mut event = self.event(&Asked::of(call, action))?;
        event.outcome = Outcome::Failed.into();
        event.reason = Reason::Internal.as_str().into();
        self.record_event(event).await
    }
}

/// An event of an operation that in the end released nothing and changed nothing: outcomes would say otherwise.
fn withhold(mut event: Event) -> Event {
    event.item_outcomes.clear();
    event.succeeded = 0;
    event
}

/// An event of something that the vault does by itself.
///
/// # Errors
/// If there is no randomness for its salt.
pub fn own_event(identity: &str, node: &str, action: Action, detail: String) -> Result<Event, Failure> {
    Ok(Event {
        action: action.into(),
        outcome: Outcome::Allowed.into(),
        caller: identity.to_owned(),
        detail,
        node: node.to_owned(),
        salt: salt()?,
        ..Event::default()
    })
}

fn salt() -> Result<Bytes, Failure> {
    Ok(Bytes::copy_from_slice(&entropy::bytes::<{ event::SALT_BYTES }>()?))
}
