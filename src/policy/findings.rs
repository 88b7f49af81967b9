//! What a rulebook without mistakes still has that was probably not meant: policies that can never matter, roles and
//! scopes without use.
//!
//! Invariant: what is said here of a policy is so for every call. A policy is called dead, shadowed or implied only where
//! that follows from heads and from conditions that do not read the call; where it can't be told, nothing is said.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, Effect};

use super::access::Access;
use super::classes::TooManyClasses;
use super::condition::{Conditions, Says};
use super::mistake::Place;
use super::rulebook::Rulebook;
use super::schema::{self, Noun};
use super::slice::{self, Head, Line};
use super::{Verb, Warning};

/// How many pairs of callers and scopes are tried for one policy to find one that its conditions let through.
const MAX_TRIED: usize = 20_000;

/// Something that is allowed but probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where it stands.
    pub place: Place,
    /// Of which kind it is.
    pub rule: Rule,
    /// What is odd.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// The kinds of findings. Their words stand in the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// `no-policy`: nobody may do anything.
    NoPolicy,
    /// `file-without-policy`: a file has only comments.
    FileWithoutPolicy,
    /// `unreachable`: there is no caller, or no scope, that a policy is about.
    Unreachable,
    /// `impossible-action`: one of a policy's actions can't be done on its resource.
    ImpossibleAction,
    /// `shadowed`: forbids take all that a permit gives.
    Shadowed,
    /// `implied`: other policies without conditions say all that a policy says.
    Implied,
    /// `empty-role`: nobody holds a role.
    EmptyRole,
    /// `unused-role`: no policy names a role.
    UnusedRole,
    /// `unused-scope`: nobody may do anything with a scope.
    UnusedScope,
}

/// All policies of a rulebook over all classes.
struct Survey<'a> {
    rulebook: &'a Rulebook,
    access: Access<'a>,
    reaches: Vec<Reach>,
}

/// What a policy's head covers, by the numbers of classes.
struct Reach {
    callers: Vec<bool>,
    verbs: Vec<Verb>,
    places: Vec<bool>,
    forbids: bool,
    /// Whether it has no conditions, so that it covers all of that.
    plain: bool,
}

impl Rule {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPolicy => "no-policy",
            Self::FileWithoutPolicy => "file-without-policy",
            Self::Unreachable => "unreachable",
            Self::ImpossibleAction => "impossible-action",
            Self::Shadowed => "shadowed",
            Self::Implied => "implied",
            Self::EmptyRole => "empty-role",
            Self::UnusedRole => "unused-role",
            Self::UnusedScope => "unused-scope",
        }
    }
}

impl Rulebook {
    /// What was probably not meant, in the order of places.
    ///
    /// # Errors
    /// If the patterns of roles and scopes overlap in too many ways.
    pub fn findings(&self) -> Result<Vec<Finding>, TooManyClasses> {
        let survey = Survey::of(self)?;
        let mut findings: Vec<_> = self.warnings().iter().map(Finding::from).collect();
        let mut dead = BTreeSet::new();
        for number in 0..survey.reaches.len() {
            let found = survey.dead(number);
            dead.extend(found.is_some().then_some(number));
            findings.extend(found);
            findings.extend(survey.impossible_action(number));
        }
        findings.extend(survey.implied(&dead));
        findings.extend(survey.roles());
        findings.extend(survey.unused_scopes());
        findings.sort();
        Ok(findings)
    }
}

impl<'a> Survey<'a> {
    fn of(rulebook: &'a Rulebook) -> Result<Self, TooManyClasses> {
        let access = rulebook.access()?;
        let reach = |(line, conditions): (&Line, &Conditions)| Reach {
            callers: access.who.iter().map(|kin| line.principal.fits(kin)).collect(),
            verbs: Verb::ALL.into_iter().filter(|verb| slice::concerns(&line.written.policy, *verb)).collect(),
            places: access.on.iter().map(|kin| line.resource.fits(kin)).collect(),
            forbids: line.written.policy.effect() == Effect::Forbid,
            plain: conditions.is_empty(),
        };
        let reaches = rulebook.index.lines().iter().zip(&access.conditions).map(reach).collect();
        Ok(Self { rulebook, access, reaches })
    }

    fn line(&self, number: usize) -> &'a Line {
        &self.rulebook.index.lines()[number]
    }

    fn finding(&self, number: usize, rule: Rule, what: String, hint: String) -> Finding {
        Finding { place: self.line(number).written.place.clone(), rule, what, hint }
    }

    /// Why a policy can never matter, if it can't.
    fn dead(&self, number: usize) -> Option<Finding> {
        let (line, reach) = (self.line(number), &self.reaches[number]);
        let id = line.written.id();
        let nobody = !reach.callers.contains(&true);
        let nowhere = !self.uncovered(number, &[]).contains(&true);
        if nobody || nowhere || self.conditions_never_hold(number) {
            let what = format!("`{id}` can never apply");
            let hint = match &line.principal {
                Head::In(uid) if nobody && Noun::of(uid) == Some(Noun::Role) => {
                    format!(
                        "nobody holds the role `{}`: give it a member under [roles], or remove the policy",
                        uid.id().unescaped()
                    )
                }
                _ if nobody => "there is no such caller: change the policy, or remove it".into(),
                _ if nowhere => "there is no such scope for these actions: change the policy, or remove it".into(),
                _ => "its conditions hold for none of the callers and scopes that it is about".into(),
            };
            return Some(self.finding(number, Rule::Unreachable, what, hint));
        }
        if reach.forbids {
            return None;
        }
        let forbids = self.plain(|other| other != number && self.reaches[other].forbids);
        if self.uncovered(number, &forbids).contains(&true) {
            return None;
        }
        let by = self.names(forbids.into_iter().filter(|other| self.meet(number, *other)));
        let what = format!("`{id}` permits nothing: all of it is forbidden by {by}");
        Some(self.finding(number, Rule::Shadowed, what, "remove it, or give the forbid a condition".into()))
    }

    /// Whether its conditions, as far as they do not read the call, hold for nobody.
    fn conditions_never_hold(&self, number: usize) -> bool {
        let (reach, conditions) = (&self.reaches[number], &self.access.conditions[number]);
        if !conditions.tell_callers_apart() {
            return false;
        }
        let mut tried = 0;
        for (verb, caller, place) in self.cells(reach) {
            tried += 1;
            let says = conditions.say(&self.access.who[caller], verb, &self.access.on[place]);
            if says != Says::Never || tried > MAX_TRIED {
                return false;
            }
        }
        true
    }

    /// One of several actions that can't be done on any scope, or on the vault, that the policy is about.
    fn impossible_action(&self, number: usize) -> Option<Finding> {
        let (line, reach) = (self.line(number), &self.reaches[number]);
        let ActionConstraint::In(uids) = line.written.policy.action_constraint() else { return None };
        let fits = |verb: Verb| {
            let places = self.access.places().iter().zip(&reach.places);
            places.filter(|(_, covered)| **covered).any(|(place, _)| place.takes(verb))
        };
        let written = reach.verbs.iter().filter(|verb| uids.contains(&schema::action(**verb)));
        let impossible: Vec<_> =
            written.filter(|verb| !fits(**verb)).map(|verb| format!("`{}`", verb.name())).collect();
        if impossible.is_empty() || impossible.len() == reach.verbs.len() {
            return None;
        }
        let what =
            format!("`{}` names {}, which can't be done on its resource", line.written.id(), impossible.join(" and "));
        let hint = "queryAudit and administer are done on Vault::\"vault\", the others on scopes: write another policy for them";
        Some(self.finding(number, Rule::ImpossibleAction, what, hint.into()))
    }

    /// Policies that could all be removed together and no answer would change.
    fn implied(&self, dead: &BTreeSet<usize>) -> Vec<Finding> {
        let mut removed = dead.clone();
        let mut findings = Vec::new();
        // Those with conditions first, and of two that say the same the later one.
        let (plain, conditional): (Vec<_>, Vec<_>) =
            (0..self.reaches.len()).rev().partition(|number| self.reaches[*number].plain);
        for number in conditional.into_iter().chain(plain).filter(|number| !dead.contains(number)) {
            let reach = &self.reaches[number];
            // What may fail also refuses.
            if !reach.forbids && self.access.conditions[number].can_fail() {
                continue;
            }
            let others = self.plain(|other| {
                other != number
                    && self.reaches[other].forbids == reach.forbids
                    && !removed.contains(&other)
                    && self.meet(number, other)
            });
            if others.is_empty() || self.uncovered(number, &others).contains(&true) {
                continue;
            }
            removed.insert(number);
            let (does, done) = if reach.forbids { ("forbids", "forbidden") } else { ("permits", "permitted") };
            let (id, by) = (self.line(number).written.id(), self.names(others.into_iter()));
            let what = format!("`{id}` adds nothing: all that it {does} is {done} without a condition by {by}");
            let hint = "remove it, or narrow the other one".into();
            findings.push(self.finding(number, Rule::Implied, what, hint));
        }
        findings
    }

    fn roles(&self) -> Vec<Finding> {
        let lines = self.rulebook.index.lines().iter();
        let uids = lines.flat_map(|line| line.written.policy.entity_literals());
        let named: BTreeSet<String> =
            uids.filter(|uid| Noun::of(uid) == Some(Noun::Role)).map(|uid| uid.id().unescaped().to_owned()).collect();
        let mut findings = Vec::new();
        for (role, members) in self.rulebook.roles.texts() {
            let mut note = |rule, what: String, hint: &str| {
                let place = Place::Setting(format!("roles.{role}"));
                findings.push(Finding { place, rule, what, hint: hint.into() });
            };
            if members.is_empty() {
                note(Rule::EmptyRole, format!("nobody holds the role `{role}`"), "give it a member, or remove it");
            }
            if !named.contains(role) {
                let hint = "write a policy for it, or remove it";
                note(Rule::UnusedRole, format!("no policy names the role `{role}`"), hint);
            }
        }
        findings
    }

    /// Scopes of the configuration with which nobody may do anything, not even under a condition.
    fn unused_scopes(&self) -> Vec<Finding> {
        let forbids = self.plain(|other| self.reaches[other].forbids);
        let mut usable = vec![false; self.access.on.len()];
        for number in (0..self.reaches.len()).filter(|number| !self.reaches[*number].forbids) {
            let left = self.uncovered(number, &forbids);
            usable.iter_mut().zip(left).for_each(|(usable, left)| *usable |= left);
        }
        let is_used = |pattern: &crate::scope::Pattern| {
            let classes = self.access.places().iter().zip(&usable);
            classes.filter(|(_, usable)| **usable).any(|(class, _)| {
                class
                    .example
                    .as_ref()
                    .and_then(|path| self.rulebook.scopes.resolve(path))
                    .is_some_and(|s| s.pattern() == pattern)
            })
        };
        let unused = self.rulebook.scopes.iter().map(|scope| scope.pattern()).filter(|pattern| !is_used(pattern));
        unused
            .map(|pattern| Finding {
                place: Place::Setting(crate::scope::key_of(pattern.as_str())),
                rule: Rule::UnusedScope,
                what: format!("nobody may do anything with `{pattern}`"),
                hint: "write a policy for it, or remove the scope".into(),
            })
            .collect()
    }

    /// The places at which `number` says something to somebody that none of `others` says too.
    fn uncovered(&self, number: usize, others: &[usize]) -> Vec<bool> {
        let reach = &self.reaches[number];
        let mut uncovered = vec![false; self.access.on.len()];
        for verb in &reach.verbs {
            let here: Vec<bool> = self
                .access
                .places()
                .iter()
                .zip(&reach.places)
                .map(|(place, covered)| *covered && place.takes(*verb))
                .collect();
            let others: Vec<_> =
                others.iter().map(|other| &self.reaches[*other]).filter(|other| other.verbs.contains(verb)).collect();
            for caller in (0..self.access.who.len()).filter(|caller| reach.callers[*caller]) {
                let others: Vec<_> = others.iter().filter(|other| other.callers[caller]).collect();
                for place in (0..here.len()).filter(|place| here[*place]) {
                    uncovered[place] |= !others.iter().any(|other| other.places[place]);
                }
            }
        }
        uncovered
    }

    fn cells<'s>(&'s self, reach: &'s Reach) -> impl Iterator<Item = (Verb, usize, usize)> + 's {
        let marked = |marks: &'s [bool]| (0..marks.len()).filter(|number| marks[*number]);
        let pairs = move |verb: Verb| {
            let places = move || marked(&reach.places).filter(move |place| self.access.places()[*place].takes(verb));
            marked(&reach.callers).flat_map(move |caller| places().map(move |place| (verb, caller, place)))
        };
        reach.verbs.iter().copied().flat_map(pairs)
    }

    /// Whether two policies are about some of the same calls.
    fn meet(&self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.reaches[one], &self.reaches[other]);
        let both = |one: &[bool], other: &[bool]| one.iter().zip(other).any(|(one, other)| *one && *other);
        one.verbs.iter().any(|verb| other.verbs.contains(verb))
            && both(&one.callers, &other.callers)
            && both(&one.places, &other.places)
    }

    /// Policies without conditions.
    fn plain(&self, wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..self.reaches.len()).filter(|number| self.reaches[*number].plain && wanted(*number)).collect()
    }

    fn names(&self, numbers: impl Iterator<Item = usize>) -> String {
        let names: Vec<_> = numbers.map(|number| format!("`{}`", self.line(number).written.id())).collect();
        names.join(" and ")
    }
}

impl From<&Warning> for Finding {
    fn from(warning: &Warning) -> Self {
        let (place, rule, hint) = match warning {
            Warning::NothingAllowed => (Place::Setting("policies.directory".into()), Rule::NoPolicy, "write one"),
            Warning::NoPolicyIn { file } => {
                (Place::File(file.clone()), Rule::FileWithoutPolicy, "write a policy into it, or remove it")
            }
        };
        Self { place, rule, what: warning.to_string(), hint: hint.into() }
    }
}
