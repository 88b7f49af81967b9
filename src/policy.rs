//! Who may do what: Cedar policies over a [`Rulebook`], and the permits that come of them.
//!
//! Permission is a value. [`Policy::permit`] is the only way to a [`Permit`]; it is typed by its action, can't be
//! copied, and the operation that it allows takes it. So the right check with the wrong operation does not compile:
//!
//! ```
//! use cloakroom::policy::{Permit, action::Detokenize};
//!
//! fn release(_permit: Permit<Detokenize>) {}
//!
//! fn right(permit: Permit<Detokenize>) {
//!     release(permit);
//! }
//! ```
//!
//! ```compile_fail,E0308
//! use cloakroom::policy::{Permit, action::{Detokenize, Inspect}};
//!
//! fn release(_permit: Permit<Detokenize>) {}
//!
//! fn wrong(permit: Permit<Inspect>) {
//!     release(permit);
//! }
//! ```
//!
//! ```compile_fail,E0382
//! use cloakroom::policy::{Permit, action::Detokenize};
//!
//! fn release(_permit: Permit<Detokenize>) {}
//!
//! fn twice(permit: Permit<Detokenize>) {
//!     release(permit);
//!     release(permit);
//! }
//! ```
//!
//! What no policy allows is refused; so is what a policy forbids, what a policy fails on, and every scope that is not
//! configured. A decision is made before anything is looked up, so this module knows nothing of tokens or storage, and
//! it records nothing: what it hands out says what an audit event must.

mod access;
pub mod action;
mod call;
mod check;
mod classes;
mod condition;
mod decisions;
mod expectations;
mod explain;
mod findings;
mod mistake;
mod replay;
mod roles;
mod rulebook;
pub mod sample;
pub mod schema;
mod slice;
mod source;
mod statement;
mod written;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

pub use access::{Access, Cell};
use action::sealed::Named;
pub use action::{Action, Verb};
pub use call::{Call, CallWords, WordMistake};
pub use classes::{CallerClass, PlaceClass, TooManyClasses};
use decisions::{Decisions, Question};
pub use expectations::{Expectation, Seen};
pub use explain::{Explanation, Near, Reference, Why};
pub use findings::{Finding, Rule};
pub use mistake::{Mistake, Place, RulebookErrors, Warning};
pub use replay::{Change, Replay, Tally, Undecided};
pub use rulebook::Rulebook;
pub use source::{Found, PolicySource, read_directory, scan_directory};

use crate::caller::{Caller, SpiffeId};
use crate::clock::Timestamp;
use crate::scope::{Path, Scope};

/// The rulebook in force. Whoever holds one sees each new edition at once; nobody keeps a copy.
pub struct Policy {
    edition: ArcSwap<Edition>,
    /// Held while an edition is replaced, so that generations are not given out twice.
    publishing: Mutex<()>,
}

/// Policy's yes to one action by one caller on one scope, or on the vault. Only this module makes one.
#[must_use = "a permit is for the operation that it allows"]
pub struct Permit<A: Action> {
    decision: Arc<Decision>,
    generation: u64,
    action: PhantomData<fn() -> A>,
}

/// Policy's no, with what the audit event says of it.
pub struct Denied {
    decision: Arc<Decision>,
    generation: u64,
}

/// Why policy said no. For the audit event alone: a caller is told that it is not permitted, never why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No rule set covers the scope; nothing was evaluated.
    UnknownScope,
    /// No policy allows it.
    NotAllowed,
    /// Policies forbid it.
    Forbidden,
    /// Policies failed, and what fails does not allow.
    Failed,
}

/// What an action is about.
#[derive(Clone, Copy, Debug)]
pub enum Resource<'a> {
    /// One scope.
    Scope(&'a Path),
    /// Everything that is not about one scope.
    Vault,
}

/// What policies may read of a call.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What the caller says it needs this for; empty where it does not say.
    pub purpose: &'a str,
    /// How much of the values is asked for.
    pub reveal: Reveal,
    /// How many items the call asks about.
    pub requested: u32,
    /// The vault's time.
    pub now: Timestamp,
}

/// How much of a value an answer shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reveal {
    /// The action reveals no value; `none` in policies.
    #[default]
    Nothing,
    /// All of it.
    Full,
    /// What the scope's mask leaves.
    Masked,
}

/// One rulebook in force, with the answers given under it.
struct Edition {
    rulebook: Arc<Rulebook>,
    generation: u64,
    decisions: Decisions,
}

/// One answer, the same for everyone who asks the same.
#[derive(Debug)]
struct Decision {
    scope: Option<Arc<Scope>>,
    path: Option<Path>,
    refusal: Option<Refusal>,
    policies: Arc<[String]>,
    rulebook: [u8; 32],
}

// === impl Policy ===

impl Policy {
    /// `rulebook` in force, as generation 1.
    pub fn new(rulebook: Rulebook) -> Self {
        Self { edition: ArcSwap::from_pointee(Edition::new(rulebook, 1)), publishing: Mutex::new(()) }
    }

    /// Puts `rulebook` in force in place of the one before and says its generation. Every call that asks after this
    /// returns is decided by it.
    pub fn publish(&self, rulebook: Rulebook) -> u64 {
        let _one_at_a_time = self.publishing.lock();
        let generation = self.generation() + 1;
        self.edition.store(Arc::new(Edition::new(rulebook, generation)));
        generation
    }

    /// How many rulebooks have been in force, this one included.
    pub fn generation(&self) -> u64 {
        self.edition.load().generation
    }

    /// The rulebook in force now. For decisions ask [`Policy::permit`], which also says under which generation.
    pub fn rulebook(&self) -> Arc<Rulebook> {
        self.edition.load().rulebook.clone()
    }

    /// Whether `caller` may do `A` on `resource`. Ask once a call, not once an item.
    pub fn permit<A: Action>(
        &self,
        caller: &Caller,
        resource: Resource<'_>,
        context: &Context<'_>,
    ) -> Result<Permit<A>, Denied> {
        let edition = self.edition.load();
        let decision = edition.decide(&caller.id, <A as Named>::VERB, resource, context);
        let generation = edition.generation;
        match decision.refusal {
            None => Ok(Permit { decision, generation, action: PhantomData }),
            Some(_) => Err(Denied { decision, generation }),
        }
    }
}

// === impl Edition ===

impl Edition {
    fn new(rulebook: Rulebook, generation: u64) -> Self {
        Self { rulebook: Arc::new(rulebook), generation, decisions: Decisions::new() }
    }

    fn decide(&self, caller: &SpiffeId, verb: Verb, resource: Resource<'_>, context: &Context<'_>) -> Arc<Decision> {
        // What no policy for this action reads is left out, so that it does not tell equal questions apart.
        let reads = self.rulebook.reads(verb);
        let question = Question {
            caller,
            verb,
            path: resource.path(),
            reveal: if reads.reveal { context.reveal } else { Reveal::Nothing },
            purpose: if reads.purpose { context.purpose } else { "" },
        };
        if let Some(decision) = self.decisions.find(&question) {
            return decision;
        }
        let (decision, same_next_time) = self.rulebook.decide(caller, verb, resource, context);
        let decision = Arc::new(decision);
        if same_next_time {
            self.decisions.keep(&question, decision.clone());
        }
        decision
    }
}

// === impl Permit, Denied ===

impl<A: Action> Permit<A> {
    /// The rule set of the scope; `None` where the action is about the vault.
    pub fn scope(&self) -> Option<&Arc<Scope>> {
        self.decision.scope.as_ref()
    }

    /// The scope's name; `None` where the action is about the vault.
    pub fn path(&self) -> Option<&Path> {
        self.decision.path.as_ref()
    }

    /// The ids of the policies that allow it, sorted.
    pub fn policies(&self) -> &Arc<[String]> {
        &self.decision.policies
    }

    /// The digest of the rulebook that decided.
    pub fn rulebook(&self) -> [u8; 32] {
        self.decision.rulebook
    }

    /// The generation of that rulebook: once there is a newer one, the question has to be asked again.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl Denied {
    /// Why.
    pub fn refusal(&self) -> Refusal {
        self.decision.refusal.unwrap_or(Refusal::NotAllowed)
    }

    /// The ids of the policies that forbid it or failed, sorted; none where it is just not allowed.
    pub fn policies(&self) -> &Arc<[String]> {
        &self.decision.policies
    }

    /// The digest of the rulebook that decided.
    pub fn rulebook(&self) -> [u8; 32] {
        self.decision.rulebook
    }

    /// The generation of that rulebook.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl<A: Action> fmt::Debug for Permit<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit<{}> by {:?}", A::NAME, self.policies())
    }
}

impl fmt::Debug for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Denied: {} by {:?}", self.refusal().as_str(), self.policies())
    }
}

// === impl Refusal, Resource, Decision ===

impl Refusal {
    /// One fixed word for an event's reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownScope => "unknown_scope",
            Self::NotAllowed => "not_allowed",
            Self::Forbidden => "forbidden",
            Self::Failed => "policy_failed",
        }
    }
}

impl<'a> Resource<'a> {
    fn path(self) -> Option<&'a Path> {
        match self {
            Self::Scope(path) => Some(path),
            Self::Vault => None,
        }
    }
}

impl Decision {
    fn refused(refusal: Refusal, rulebook: [u8; 32]) -> Self {
        Self { scope: None, path: None, refusal: Some(refusal), policies: Arc::new([]), rulebook }
    }
}

#[cfg(test)]
mod tests;
