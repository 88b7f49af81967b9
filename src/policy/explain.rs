//! Why one call is allowed or not.
//!
//! The answer is [`Rulebook::decide`]'s, which decides real calls too; what stands beside it only tells how it came about.

use cedar_policy::{Effect, PrincipalConstraint};

use super::action::Verb;
use super::call::Call;
use super::condition::{Conditions, Truth, evaluate};
use super::mistake::{Place, choose};
use super::rulebook::Rulebook;
use super::schema::{Kin, Noun};
use super::slice::{Line, concerns};
use super::{Refusal, Reveal};

/// The answer to one call, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Why not; `None` is yes.
    pub refusal: Option<Refusal>,
    /// The policies that permit, or that forbid or failed: those that the event would name.
    pub decided_by: Vec<Reference>,
    /// The caller's roles.
    pub roles: Vec<String>,
    /// Policies that do not allow it but could have.
    pub near: Vec<Near>,
    /// What else stands in the way of such a call, or hides a slip, in whole sentences.
    pub notes: Vec<String>,
}

/// A policy and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Its `@id`.
    pub id: String,
    /// Where it begins.
    pub place: Place,
}

/// A policy about the same action and scope that did not allow the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    /// Which.
    pub policy: Reference,
    /// Why not.
    pub why: Why,
}

/// Why a policy did not allow a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is about this caller, but these of its conditions do not hold: where each stands, and its text.
    Conditions(Vec<(Place, String)>),
    /// It permits the call, but others refuse it.
    Overruled,
    /// It is about somebody else: whom.
    OtherCaller(String),
}

impl Rulebook {
    /// Whether `call` would be allowed, and why.
    pub fn explain(&self, call: &Call) -> Explanation {
        let (decision, _) = self.decide(&call.caller, call.verb, call.resource(), &call.context());
        let near = if decision.refusal.is_some() { self.near(call) } else { Vec::new() };
        Explanation {
            refusal: decision.refusal,
            decided_by: decision.policies.iter().filter_map(|id| self.reference(id)).collect(),
            roles: self.roles.of(&call.caller).map(str::to_owned).collect(),
            near,
            notes: self.notes(call, decision.refusal),
        }
    }

    /// Every policy's `@id`, in the order of files and lines.
    pub fn policy_ids(&self) -> impl Iterator<Item = String> + Clone {
        self.index.lines().iter().map(|line| line.written.id())
    }

    /// Whether the time has a say in a call.
    pub(super) fn reads_now(&self, call: &Call) -> bool {
        self.slice_of(call).reads.now
    }

    /// Whether an access token has a say in a call.
    pub(super) fn reads_token(&self, call: &Call) -> bool {
        self.slice_of(call).reads.token
    }

    fn slice_of(&self, call: &Call) -> std::sync::Arc<super::slice::Slice> {
        let (who, on) = (Kin::of_caller(&call.caller, &self.roles), Kin::of_resource(call.resource()));
        self.index.slice(&who, call.verb, &on)
    }

    fn reference(&self, id: &str) -> Option<Reference> {
        let line = self.index.lines().iter().find(|line| line.written.id() == id)?;
        Some(Reference { id: id.to_owned(), place: line.written.place.clone() })
    }

    fn near(&self, call: &Call) -> Vec<Near> {
        let (who, on) = (Kin::of_caller(&call.caller, &self.roles), Kin::of_resource(call.resource()));
        let permits = self.index.lines().iter().filter(|line| {
            let policy = &line.written.policy;
            policy.effect() == Effect::Permit && concerns(policy, call.verb) && line.resource.fits(&on)
        });
        let mut near: Vec<_> = permits
            .filter_map(|line| {
                let policy = Reference { id: line.written.id(), place: line.written.place.clone() };
                Some(Near { policy, why: why(line, &who, &on, call)? })
            })
            .collect();
        near.sort_by_key(|near| match near.why {
            Why::Overruled => 0,
            Why::Conditions(_) => 1,
            Why::OtherCaller(_) => 2,
        });
        near
    }

    fn notes(&self, call: &Call, refusal: Option<Refusal>) -> Vec<String> {
        let mut notes = Vec::new();
        let domain = call.caller.trust_domain();
        if !self.trust_domains.iter().any(|known| known == domain) {
            let hint = choose(domain, self.trust_domains.iter().map(String::as_str));
            notes.push(format!("no certificate of the trust domain `{domain}` is accepted; {hint}"));
        }
        let Some(path) = &call.path else { return notes };
        let scope = self.scopes.resolve(path);
        if scope.is_none() {
            let names = self.scopes.iter().map(|scope| scope.pattern().as_str());
            notes.push(format!("no rule set covers the scope `{path}`; {}", choose(path.as_str(), names)));
        }
        let wants_purpose = scope.is_some_and(|scope| scope.purpose_required());
        if refusal.is_none() && call.verb == Verb::Detokenize && wants_purpose && call.purpose.is_empty() {
            notes.push(format!("policy allows it, but the scope `{path}` wants a purpose: such a call is malformed"));
        }
        notes
    }
}

/// Why a permit whose action and resource fit did not allow the call; `None` if it is one of those that decided.
fn why(line: &Line, who: &Kin, on: &Kin, call: &Call) -> Option<Why> {
    let policy = &line.written.policy;
    if !line.principal.fits(who) {
        return Some(Why::OtherCaller(whom(&policy.principal_constraint())));
    }
    match evaluate(policy, who, call.verb, on, &call.context()) {
        Truth::Holds => Some(Why::Overruled),
        Truth::Fails => None,
        Truth::DoesNot => {
            let unmet = Conditions::of(policy).unmet(who, call.verb, on, &call.context());
            let clauses = unmet.into_iter().filter_map(|number| line.written.clauses.get(number));
            Some(Why::Conditions(clauses.map(|clause| (clause.place.clone(), clause.text.clone())).collect()))
        }
    }
}

fn whom(principal: &PrincipalConstraint) -> String {
    match principal {
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => "anyone".into(),
        PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
            let name = uid.id().unescaped();
            match Noun::of(uid) {
                Some(Noun::Role) => format!("role {name}"),
                Some(Noun::TrustDomain) => format!("trust domain {name}"),
                _ => name.to_owned(),
            }
        }
    }
}

impl Reveal {
    /// Its word in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Full => "full",
            Self::Masked => "masked",
        }
    }
}
