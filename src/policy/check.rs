//! Checks policy files: all of them to the end, so that an operator sees every mistake at once.
//!
//! Cedar checks syntax and types. It can't know which roles, scopes and trust domains there are, and a policy that
//! names one that isn't there does nothing without a word: a forbid would not forbid. So names are checked here.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use cedar_policy::ffi::DetailedError;
use cedar_policy::{
    EntityUid, Policy, PolicyId, PolicySet, ResourceConstraint, ValidationError, ValidationMode, ValidationWarning,
};

use super::PolicySource;
use super::action::Verb;
use super::mistake::{Mistake, Place, Warning, choose, nearest};
use super::roles::Roles;
use super::schema::{self, Noun, VALIDATOR};
use super::statement::{self, Statement};
use super::written::{Clause, Written};
use crate::caller::SpiffeId;
use crate::scope::{Path, Scopes};

/// The longest id of a policy: events carry them.
const MAX_ID_BYTES: usize = 64;

/// What a check finds.
#[derive(Default)]
pub(super) struct Checked {
    /// Each policy under its `@id`. Of use only if there are no mistakes.
    pub policies: Vec<Written>,
    pub warnings: Vec<Warning>,
    pub mistakes: Vec<Mistake>,
    /// Statements, by number, in which something is wrong.
    faulty: HashSet<usize>,
}

/// What names may be used.
struct Known<'a> {
    scopes: &'a Scopes,
    roles: &'a Roles,
    trust_domains: &'a [String],
}

/// A statement and where it stands.
struct Site<'a> {
    source: &'a PolicySource,
    statement: Statement<'a>,
}

/// Checks all policies against the schema and against what there is to name.
pub(super) fn policies(sources: &[PolicySource], scopes: &Scopes, roles: &Roles, trust_domains: &[String]) -> Checked {
    let known = Known { scopes, roles, trust_domains };
    let mut checked = Checked::default();
    let mut sites = Vec::new();
    let mut set = PolicySet::new();
    for source in sources {
        let statements = statement::split(&source.text);
        checked.note_empty(source, statements.len());
        for statement in statements {
            let site = Site { source, statement };
            if let Some(policy) = checked.parse(&site, sites.len()) {
                let mistakes = known.check(&policy, &site);
                if !mistakes.is_empty() {
                    checked.faulty.insert(sites.len());
                }
                checked.mistakes.extend(mistakes);
                set.add(policy).expect("each has a number of its own");
                sites.push(site);
            }
        }
    }
    checked.validate(&set, &sites);
    checked.take_ids(&set, &sites);
    if sites.is_empty() {
        checked.warnings.insert(0, Warning::NothingAllowed);
    }
    checked
}

impl Checked {
    /// A blank file is more likely cut short than meant, and what it forbade would be allowed.
    fn note_empty(&mut self, source: &PolicySource, statements: usize) {
        if source.text.trim().is_empty() {
            self.mistakes.push(Mistake {
                place: Place::File(source.file.clone()),
                what: "is empty".into(),
                hint: "write a policy, or a comment that says why there is none, or remove the file".into(),
            });
        } else if statements == 0 {
            self.warnings.push(Warning::NoPolicyIn { file: source.file.clone() });
        }
    }

    /// Parses under a number; ids come later, when everything else is known to be right.
    fn parse(&mut self, site: &Site<'_>, number: usize) -> Option<Policy> {
        if let Some(at) = site.statement.too_deep() {
            self.mistakes.push(Mistake {
                place: site.place(at),
                what: "is too deep or too long for one policy".into(),
                hint: "write several policies, or a set: `[\"a\", \"b\"].contains(context.purpose)`".into(),
            });
            return None;
        }
        match Policy::parse(Some(numbered(number)), site.statement.text) {
            Ok(policy) => Some(policy),
            Err(errors) => {
                self.mistakes.extend(errors.iter().map(|error| site.cedar(&DetailedError::from(error))));
                None
            }
        }
    }

    /// Cedar's warnings count: a policy that can never apply is a mistake, and a look-alike letter may be an attack.
    fn validate(&mut self, set: &PolicySet, sites: &[Site<'_>]) {
        let result = VALIDATOR.validate(set, ValidationMode::Strict);
        let number = |id: &PolicyId| id.to_string().parse::<usize>().expect("each was added under its number");
        let mut found = Vec::new();
        for error in result.validation_errors() {
            let number = number(error.policy_id());
            self.faulty.insert(number);
            found.push(sites[number].invalid(error));
        }
        for warning in result.validation_warnings() {
            let number = number(warning.policy_id());
            // What names something that isn't there can't apply either.
            if !self.faulty.contains(&number) {
                found.push(sites[number].suspicious(warning));
            }
        }
        self.add_one_at_each_place(found);
    }

    /// A condition is checked once for each action, and one mistake makes others: the first at each place is enough.
    fn add_one_at_each_place(&mut self, mut found: Vec<Mistake>) {
        found.sort();
        let mut places: HashSet<_> = self.mistakes.iter().map(|mistake| mistake.place.clone()).collect();
        self.mistakes.extend(found.into_iter().filter(|mistake| places.insert(mistake.place.clone())));
    }

    fn take_ids(&mut self, set: &PolicySet, sites: &[Site<'_>]) {
        let mut taken: HashMap<String, Place> = HashMap::new();
        for (number, site) in sites.iter().enumerate() {
            let policy = set.policy(&numbered(number)).expect("each was added under its number");
            let place = site.place(0);
            match id_of(policy, &taken) {
                Ok(id) => {
                    self.policies.push(site.written(policy.new_id(PolicyId::new(&id))));
                    taken.insert(id, place);
                }
                Err((what, hint)) => self.mistakes.push(Mistake { place, what, hint }),
            }
        }
    }
}

impl Known<'_> {
    fn check(&self, policy: &Policy, site: &Site<'_>) -> Vec<Mistake> {
        let mut mentions: Vec<_> = site.statement.mentions().into_iter().map(|m| (m.uid, m.at)).collect();
        for uid in policy.entity_literals() {
            if !mentions.iter().any(|(found, _)| *found == uid) {
                mentions.push((uid, 0));
            }
        }
        let wrong = |(uid, at): (EntityUid, usize)| {
            let (what, hint) = self.check_entity(&uid, policy)?;
            Some(Mistake { place: site.place(at), what, hint })
        };
        mentions.into_iter().filter_map(wrong).collect()
    }

    /// What is wrong with an entity, and what to do. Kinds that are not ours are for Cedar to refuse.
    fn check_entity(&self, uid: &EntityUid, policy: &Policy) -> Option<(String, String)> {
        let id = uid.id().unescaped();
        let actions = Verb::ALL.iter().map(|verb| verb.name());
        if schema::is_action(uid) {
            let known = actions.clone().any(|action| action == id);
            return (!known).then(|| unknown("action", id, choose(id, actions)));
        }
        match Noun::of(uid)? {
            Noun::Role if self.roles.contains(id) => None,
            Noun::Role => Some(unknown("role", id, choose(id, self.roles.names()))),
            Noun::TrustDomain => self.check_trust_domain(id),
            Noun::Workload => {
                if let Ok(workload) = SpiffeId::parse(id) {
                    self.check_trust_domain(workload.trust_domain())
                } else {
                    let hint = "a workload is named like `spiffe://example.org/payments`; patterns belong in [roles]";
                    Some((format!("`{}` is not a SPIFFE ID", id.escape_default()), hint.into()))
                }
            }
            Noun::Scope => self.check_scope(id, policy.resource_constraint() == ResourceConstraint::Eq(uid.clone())),
            Noun::Vault if id == "vault" => None,
            Noun::Vault => Some(unknown("vault", id, "write `Cloakroom::Vault::\"vault\"`".into())),
        }
    }

    fn check_trust_domain(&self, name: &str) -> Option<(String, String)> {
        let known = self.trust_domains.iter().map(String::as_str);
        (!known.clone().any(|domain| domain == name)).then(|| unknown("trust domain", name, choose(name, known)))
    }

    fn check_scope(&self, name: &str, must_be_one: bool) -> Option<(String, String)> {
        let names = self.scopes.iter().map(|scope| scope.pattern().as_str());
        let path = Path::parse(name).ok();
        if path.as_ref().is_some_and(|path| self.scopes.resolve(path).is_some()) {
            return None;
        }
        let above = path.is_some_and(|path| self.scopes.is_ancestor(&path));
        match (above, must_be_one, nearest(name, names.clone())) {
            (true, false, _) => None,
            (true, true, None) => {
                let hint = "there are only scopes under it; write `resource in` to mean all of them";
                Some(unknown("scope", name, hint.into()))
            }
            _ => Some(unknown("scope", name, choose(name, names))),
        }
    }
}

impl Site<'_> {
    fn place(&self, at: usize) -> Place {
        Place::within(&self.source.file, &self.source.text, self.statement.start + at)
    }

    fn written(&self, policy: Policy) -> Written {
        let clause = |span: Range<usize>| Clause {
            place: self.place(span.start),
            text: self.statement.text[span].split_whitespace().collect::<Vec<_>>().join(" "),
        };
        let clauses = self.statement.clauses().into_iter().map(clause).collect();
        Written { policy, reads: self.statement.reads(), place: self.place(0), clauses }
    }

    /// What is wrong in Cedar's eyes.
    fn invalid(&self, error: &ValidationError) -> Mistake {
        let mut mistake = self.cedar(&DetailedError::from(error));
        if let ValidationError::UnsafeAttributeAccess(_) = error {
            mistake.what = format!("there is no `{}`", self.snippet(&DetailedError::from(error)));
        }
        mistake
    }

    /// What Cedar finds odd.
    fn suspicious(&self, warning: &ValidationWarning) -> Mistake {
        match warning {
            ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_) => Mistake {
                place: self.place(0),
                what: "the policy can never apply".into(),
                hint: "check that its action goes with its resource (docs/policy.md) and that its condition can hold"
                    .into(),
            },
            _ => self.cedar(&DetailedError::from(warning)),
        }
    }

    /// What Cedar says, where it says it, without the number that only we know.
    fn cedar(&self, error: &DetailedError) -> Mistake {
        let what = error.message.strip_prefix("for policy `").and_then(|rest| rest.split_once('`'));
        let what = what.map_or(&*error.message, |(_, rest)| rest.trim_start_matches([',', ':', ' ']));
        let labels = error.source_locations.iter().filter_map(|label| label.label.clone());
        let hint = error.help.clone().into_iter().chain(labels).collect::<Vec<_>>().join("; ");
        let hint = if hint.is_empty() { "docs/policy.md has the whole vocabulary".into() } else { hint };
        Mistake { place: self.place(span(error).start), what: what.into(), hint }
    }

    fn snippet(&self, error: &DetailedError) -> &str {
        self.statement.text.get(span(error)).unwrap_or_default()
    }
}

/// What an error points at, in the statement.
fn span(error: &DetailedError) -> Range<usize> {
    error
        .source_locations
        .iter()
        .map(|label| label.loc)
        .min_by_key(|loc| loc.start)
        .map_or(0..0, |loc| loc.start..loc.end)
}

fn numbered(number: usize) -> PolicyId {
    PolicyId::new(number.to_string())
}

fn unknown(noun: &str, name: &str, hint: String) -> (String, String) {
    (format!("unknown {noun} `{}`", name.escape_default()), hint)
}

fn id_of(policy: &Policy, taken: &HashMap<String, Place>) -> Result<String, (String, String)> {
    let Some(id) = policy.annotation("id") else {
        return Err(("the policy has no @id".into(), "write one before it, like `@id(\"payments-read-pan\")`".into()));
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b);
    if !(1..=MAX_ID_BYTES).contains(&id.len()) || !id.bytes().all(plain) {
        let hint = format!("write up to {MAX_ID_BYTES} of a-z, A-Z, 0-9, `-`, `_`, `.`, `:` and `/`");
        return Err(("the policy's @id is not one that events can carry".into(), hint));
    }
    match taken.get(id) {
        Some(place) => Err((format!("@id `{id}` is taken"), format!("the other one stands at {place}"))),
        None => Ok(id.into()),
    }
}
