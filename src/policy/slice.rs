//! Picks, of all policies, those that could say anything about one question, and asks Cedar.
//!
//! Cedar looks at every policy it is given, about a microsecond each. A policy whose head (principal, action, resource)
//! does not fit a question can neither allow nor forbid nor fail, so leaving it out changes no answer; a property test
//! compares with the full set.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, Authorizer, Entities, EntityTypeName, EntityUid, Policy, PolicySet, PrincipalConstraint, Request,
    ResourceConstraint, Response,
};
use parking_lot::Mutex;

use super::action::Verb;
use super::schema::{self, Kin, Noun};
use super::statement::Reads;
use super::written::Written;
use super::{Context, Refusal};

/// How many different selections are kept; there are as many as there are kinds of callers and scopes.
const MAX_SLICES: usize = 1_024;

/// All policies, found by what their heads ask for.
pub(super) struct Index {
    lines: Vec<Line>,
    by_verb: [Heads; 7],
    /// Selections that were made before. Cleared when it is full.
    slices: Mutex<HashMap<Vec<u32>, Arc<Slice>>>,
}

/// The policies that fit one kind of question.
pub(super) struct Slice {
    policies: PolicySet,
    pub reads: Reads,
}

/// What Cedar said.
pub(super) struct Verdict {
    /// `None` is yes.
    pub refusal: Option<Refusal>,
    /// The policies that decided, or failed.
    pub policies: Vec<String>,
}

/// One policy with its head taken apart.
pub(super) struct Line {
    pub written: Written,
    pub principal: Head,
    pub resource: Head,
}

/// Policies of one action by what they say of the resource. Indices into `lines`.
#[derive(Default)]
struct Heads {
    any: Vec<u32>,
    by_resource: HashMap<EntityUid, Vec<u32>>,
    reads: Reads,
}

/// Whom, or what, a policy is about.
pub(super) enum Head {
    Any,
    /// Every entity of one kind.
    Kind(Noun),
    Is(EntityUid),
    In(EntityUid),
    Never,
}

impl Index {
    pub fn new(policies: impl IntoIterator<Item = Written>) -> Self {
        let mut index = Self { lines: Vec::new(), by_verb: Default::default(), slices: Mutex::default() };
        for policy in policies {
            index.add(policy);
        }
        index
    }

    /// Every policy, in the order of files and lines.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// What the answers to any question about `verb` can depend on.
    pub fn reads(&self, verb: Verb) -> Reads {
        self.by_verb[verb as usize].reads
    }

    /// The policies whose heads fit.
    pub fn slice(&self, who: &Kin, verb: Verb, on: &Kin) -> Arc<Slice> {
        let picked = self.fitting(who, verb, on);
        let mut slices = self.slices.lock();
        if let Some(slice) = slices.get(&picked) {
            return slice.clone();
        }
        if slices.len() >= MAX_SLICES {
            slices.clear();
        }
        let slice = Arc::new(self.cut(&picked));
        slices.insert(picked, slice.clone());
        slice
    }

    /// All policies, for tests that compare.
    #[cfg(test)]
    pub fn everything(&self) -> PolicySet {
        let every: Vec<u32> = (0..).take(self.lines.len()).collect();
        self.cut(&every).policies
    }

    /// Which of [`Index::lines`] have heads that fit, in order.
    pub fn fitting(&self, who: &Kin, verb: Verb, on: &Kin) -> Vec<u32> {
        let heads = &self.by_verb[verb as usize];
        let named = on.above.iter().chain([&on.uid]).filter_map(|uid| heads.by_resource.get(uid)).flatten();
        let fits = |line: &&u32| {
            let line = &self.lines[**line as usize];
            line.resource.fits(on) && line.principal.fits(who)
        };
        let mut picked: Vec<u32> = heads.any.iter().chain(named).filter(fits).copied().collect();
        picked.sort_unstable();
        picked
    }

    fn add(&mut self, written: Written) {
        let line = u32::try_from(self.lines.len()).expect("files are bounded, and so are the policies in them");
        let resource = Head::of_resource(&written.policy);
        for verb in Verb::ALL.into_iter().filter(|verb| concerns(&written.policy, *verb)) {
            let heads = &mut self.by_verb[verb as usize];
            match &resource {
                Head::Any | Head::Kind(_) => heads.any.push(line),
                Head::Is(uid) | Head::In(uid) => heads.by_resource.entry(uid.clone()).or_default().push(line),
                Head::Never => continue,
            }
            heads.reads = heads.reads.and(written.reads);
        }
        self.lines.push(Line { principal: Head::of_principal(&written.policy), resource, written });
    }

    fn cut(&self, picked: &[u32]) -> Slice {
        let mut slice = Slice { policies: PolicySet::new(), reads: Reads::default() };
        for line in picked.iter().map(|line| &self.lines[*line as usize]) {
            slice
                .policies
                .add(line.written.policy.clone())
                .expect("ids were checked to be unique when they were loaded");
            slice.reads = slice.reads.and(line.written.reads);
        }
        slice
    }
}

impl Slice {
    /// Asks Cedar. A policy that fails counts as no, whichever it is: a forbid that failed might have forbidden.
    pub fn decide(&self, who: Kin, verb: Verb, on: Kin, context: &Context<'_>) -> Verdict {
        if self.policies.is_empty() {
            return Verdict { refusal: Some(Refusal::NotAllowed), policies: Vec::new() };
        }
        match ask(&self.policies, who, verb, on, context) {
            Some(response) => Verdict::from(&response),
            None => Verdict { refusal: Some(Refusal::Failed), policies: Vec::new() },
        }
    }
}

impl Head {
    fn of_principal(policy: &Policy) -> Self {
        match policy.principal_constraint() {
            PrincipalConstraint::Any => Self::Any,
            PrincipalConstraint::Eq(uid) => Self::Is(uid),
            PrincipalConstraint::In(uid) => Self::In(uid),
            PrincipalConstraint::Is(kind) => Self::of_kind(&[Noun::Workload], &kind),
            PrincipalConstraint::IsIn(kind, uid) => Self::if_any(&[Noun::Workload], &kind, Self::In(uid)),
        }
    }

    fn of_resource(policy: &Policy) -> Self {
        const NOUNS: &[Noun] = &[Noun::Scope, Noun::Vault];
        match policy.resource_constraint() {
            ResourceConstraint::Any => Self::Any,
            ResourceConstraint::Eq(uid) => Self::Is(uid),
            ResourceConstraint::In(uid) => Self::In(uid),
            ResourceConstraint::Is(kind) => Self::of_kind(NOUNS, &kind),
            ResourceConstraint::IsIn(kind, uid) => Self::if_any(NOUNS, &kind, Self::In(uid)),
        }
    }

    fn of_kind(nouns: &[Noun], kind: &EntityTypeName) -> Self {
        let noun = nouns.iter().find(|noun| noun.type_name() == kind);
        noun.map_or(Self::Never, |noun| Self::Kind(*noun))
    }

    fn if_any(nouns: &[Noun], kind: &EntityTypeName, head: Self) -> Self {
        if nouns.iter().any(|noun| noun.type_name() == kind) { head } else { Self::Never }
    }

    pub fn fits(&self, kin: &Kin) -> bool {
        match self {
            Self::Any => true,
            Self::Kind(noun) => Noun::of(&kin.uid) == Some(*noun),
            Self::Is(uid) => *uid == kin.uid,
            Self::In(uid) => *uid == kin.uid || kin.above.contains(uid),
            Self::Never => false,
        }
    }
}

impl From<&Response> for Verdict {
    fn from(response: &Response) -> Self {
        let diagnostics = response.diagnostics();
        let mut policies: Vec<_> = diagnostics.reason().map(ToString::to_string).collect();
        let failed: Vec<_> = diagnostics.errors().map(failed_policy).collect();
        let refusal = if !failed.is_empty() {
            policies = failed;
            Some(Refusal::Failed)
        } else if response.decision() == cedar_policy::Decision::Allow {
            None
        } else if policies.is_empty() {
            Some(Refusal::NotAllowed)
        } else {
            Some(Refusal::Forbidden)
        };
        policies.sort_unstable();
        Self { refusal, policies }
    }
}

/// The answer of `policies`, or `None` if the question itself could not be put.
pub(super) fn ask(policies: &PolicySet, who: Kin, verb: Verb, on: Kin, context: &Context<'_>) -> Option<Response> {
    let context = cedar_policy::Context::from_pairs(schema::context(context)).ok()?;
    let request = Request::new(who.uid.clone(), schema::action(verb), on.uid.clone(), context, None).ok()?;
    let entities = Entities::from_entities([who.into_entity(), on.into_entity()], None).ok()?;
    Some(Authorizer::new().is_authorized(&request, policies, &entities))
}

fn failed_policy(error: &cedar_policy::AuthorizationError) -> String {
    let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
    error.policy_id().to_string()
}

/// Whether `policy` is about `verb` at all.
pub(super) fn concerns(policy: &Policy, verb: Verb) -> bool {
    let action = schema::action(verb);
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => uid == action,
        ActionConstraint::In(uids) => uids.contains(&action),
    }
}
