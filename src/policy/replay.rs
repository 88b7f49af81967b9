//! What a rulebook would have said to calls that were decided by another: recorded events, decided again.
//!
//! Invariant: nothing is guessed. What an event does not hold but a policy reads makes the event undecided, and it is
//! reported as such.

use std::collections::BTreeMap;

use super::call::Call;
use super::rulebook::Rulebook;
use super::{Reveal, Verb};
use crate::caller::SpiffeId;
use crate::clock::Timestamp;
use crate::event::{self, Action, Event, Outcome};
use crate::scope::Path;

/// The word of events that policy refused.
const DENIED: &str = "POLICY_DENIED";
/// An event's time is that of its commit, so much at most after the decision.
const COMMIT_PATIENCE_MILLIS: u64 = 10_000;

/// What became of recorded calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Events that were looked at.
    pub events: u64,
    /// Of these, events of which policy has nothing to say: the vault's own, calls that were malformed, handshakes.
    pub others: u64,
    /// Calls that are decided as they were.
    pub same: u64,
    /// Calls that are decided otherwise.
    pub changes: BTreeMap<Change, Tally>,
    /// Calls that can't be decided from what was recorded.
    pub undecided: BTreeMap<Undecided, Tally>,
}

/// Calls of one kind that are decided otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Whether they were denied and would be allowed, or the other way round.
    pub now_allowed: bool,
    /// Who called.
    pub caller: String,
    /// For what.
    pub action: &'static str,
    /// On which scope; empty where the action is about the vault.
    pub scope: String,
}

/// Calls of one kind that can't be decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Undecided {
    /// Why not.
    pub why: &'static str,
    /// Who called.
    pub caller: String,
    /// For what, as the event says it.
    pub action: &'static str,
    /// On which scope; empty where there is none, or the event does not say.
    pub scope: String,
}

/// How many, and one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How many calls.
    pub calls: u64,
    /// The sequence of the first event of them that was seen.
    pub example: u64,
    /// The policies that decide now, in that event; none if it is just not permitted, or undecided.
    pub policies: Vec<String>,
}

/// What one event comes to.
enum Verdict {
    Other,
    Same,
    Changed { change: Change, policies: Vec<String> },
    Undecided(&'static str),
}

impl Replay {
    /// Decides the call of `event` again by `rulebook`.
    pub fn add(&mut self, rulebook: &Rulebook, event: &Event) {
        self.events += 1;
        let calls = event.count.max(1);
        let tally = |policies| Tally { calls: 0, example: event.sequence, policies };
        match judge(rulebook, event) {
            Verdict::Other => self.others += 1,
            Verdict::Same => self.same += calls,
            Verdict::Changed { change, policies } => {
                self.changes.entry(change).or_insert_with(|| tally(policies)).calls += calls;
            }
            Verdict::Undecided(why) => {
                let undecided = Undecided {
                    why,
                    caller: event.caller.clone(),
                    action: verb(event.action()).map_or(event.action().word(), Verb::name),
                    scope: event.scope.clone(),
                };
                self.undecided.entry(undecided).or_insert_with(|| tally(Vec::new())).calls += calls;
            }
        }
    }

    /// How many calls would be decided otherwise.
    pub fn changed(&self) -> u64 {
        self.changes.values().map(|tally| tally.calls).sum()
    }

    /// How many calls can't be decided.
    pub fn left_open(&self) -> u64 {
        self.undecided.values().map(|tally| tally.calls).sum()
    }
}

fn judge(rulebook: &Rulebook, event: &Event) -> Verdict {
    let Some(allowed) = was_allowed(event) else { return Verdict::Other };
    if event.count > 0 {
        return Verdict::Undecided("a summary of refusals does not say what each was about");
    }
    let Some(verb) = verb(event.action()) else {
        return Verdict::Undecided("this version has no such call, and does not know which right it takes");
    };
    let mut call = match call(event, verb) {
        Ok(call) => call,
        Err(why) => return Verdict::Undecided(why),
    };
    if event.access_token.is_some() && rulebook.reads_token(&call) {
        return Verdict::Undecided("a policy reads the access token, which the event does not hold in full");
    }
    let decide = |call: &Call| rulebook.decide(&call.caller, call.verb, call.resource(), &call.context()).0;
    let decision = decide(&call);
    if rulebook.reads_now(&call) {
        let earliest = call.now.millis().saturating_sub(COMMIT_PATIENCE_MILLIS);
        call.now = Timestamp::from_millis(earliest);
        if decide(&call).refusal.is_none() != decision.refusal.is_none() {
            return Verdict::Undecided("a policy's time begins or ends within seconds of the call");
        }
    }
    let now_allowed = decision.refusal.is_none();
    if now_allowed == allowed {
        return Verdict::Same;
    }
    let change = Change { now_allowed, caller: event.caller.clone(), action: verb.name(), scope: event.scope.clone() };
    Verdict::Changed { change, policies: decision.policies.to_vec() }
}

/// What policy said then, if it was asked. A call that it allowed may have failed later; the event still names the
/// policies.
fn was_allowed(event: &Event) -> Option<bool> {
    match event.outcome() {
        Outcome::Denied => (event.reason == DENIED).then_some(false),
        Outcome::Allowed | Outcome::Failed => (!event.policies.is_empty()).then_some(true),
        Outcome::Unspecified => None,
    }
}

fn verb(action: Action) -> Option<Verb> {
    match action {
        Action::Tokenize => Some(Verb::Tokenize),
        Action::Detokenize => Some(Verb::Detokenize),
        Action::Inspect => Some(Verb::Inspect),
        Action::Renew => Some(Verb::Renew),
        Action::Revoke => Some(Verb::Revoke),
        Action::QueryAudit => Some(Verb::QueryAudit),
        _ => None,
    }
}

/// The question that the vault put then, as far as the event holds it.
fn call(event: &Event, verb: Verb) -> Result<Call, &'static str> {
    let caller = SpiffeId::parse(&event.caller).map_err(|_| "the event does not name its caller")?;
    let path = if verb.concerns_vault() {
        None
    } else {
        Some(Path::parse(&event.scope).map_err(|_| "the event does not name its scope")?)
    };
    // The vault tells policies a purpose, and how much is revealed, of no other action.
    let (purpose, reveal) = match (verb, event.reveal()) {
        (Verb::Detokenize, event::Reveal::Full) => (event.purpose.clone(), Reveal::Full),
        (Verb::Detokenize, event::Reveal::Masked) => (event.purpose.clone(), Reveal::Masked),
        (Verb::Detokenize, event::Reveal::Unspecified) => return Err("the event does not say how much was revealed"),
        _ => (String::new(), Reveal::Nothing),
    };
    let now = event.timestamp().ok_or("the event has no time")?;
    Ok(Call { caller, verb, path, purpose, reveal, requested: event.requested, now })
}
