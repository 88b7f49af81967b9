//! Who may do what: the whole rulebook as a table, with one row for callers that no policy can tell apart.
//!
//! Invariant: a cell says yes only where every call is allowed, and no only where none is, whatever its context. Where it
//! depends on the call, or can't be told, it says when, and which policies to read.

use cedar_policy::Effect;

use super::Verb;
use super::classes::{CallerClass, Classes, PlaceClass, TooManyClasses};
use super::condition::{Conditions, Says};
use super::rulebook::Rulebook;
use super::schema::Kin;

/// The table.
pub struct Access<'a> {
    rulebook: &'a Rulebook,
    classes: Classes,
    /// Of each class of callers, as Cedar sees them.
    pub(super) who: Vec<Kin>,
    /// Of each class of places.
    pub(super) on: Vec<Kin>,
    /// Of each policy.
    pub(super) conditions: Vec<Conditions>,
}

/// What a class of callers may do at a class of places. Each with the ids of the policies to read, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Every such call is allowed, by these.
    Yes(Vec<String>),
    /// It depends on the call; these have conditions.
    When(Vec<String>),
    /// No such call is allowed; these forbid it or always fail. Mostly none: it is just not permitted.
    No(Vec<String>),
}

impl Rulebook {
    /// Who may do what.
    ///
    /// # Errors
    /// If the patterns of roles and scopes overlap in too many ways.
    pub fn access(&self) -> Result<Access<'_>, TooManyClasses> {
        let classes = Classes::of(self)?;
        let conditions = self.index.lines().iter().map(|line| Conditions::of(&line.written.policy)).collect();
        let who = classes.callers.iter().map(|class| Kin::of_caller(&class.example, &self.roles)).collect();
        let on = classes.places.iter().map(|class| Kin::of_resource(class.resource())).collect();
        Ok(Access { rulebook: self, classes, who, on, conditions })
    }
}

impl Access<'_> {
    /// The rows: every caller belongs to exactly one.
    pub fn callers(&self) -> &[CallerClass] {
        &self.classes.callers
    }

    /// The vault, and then the scopes: every scope belongs to exactly one of these.
    pub fn places(&self) -> &[PlaceClass] {
        &self.classes.places
    }

    /// Whether callers of row `caller` may do `verb` at `place`, both by their numbers.
    pub fn cell(&self, caller: usize, verb: Verb, place: usize) -> Cell {
        if !self.classes.places[place].takes(verb) {
            return Cell::No(Vec::new());
        }
        let (who, on) = (&self.who[caller], &self.on[place]);
        let mut found = Found::default();
        for number in self.rulebook.index.fitting(who, verb, on) {
            let policy = &self.rulebook.index.lines()[number as usize].written.policy;
            let says = self.conditions[number as usize].say(who, verb, on);
            found.add(policy.id().to_string(), policy.effect() == Effect::Forbid, says);
        }
        found.into_cell()
    }
}

/// What the policies that fit say.
#[derive(Default)]
struct Found {
    allows: Vec<String>,
    refuses: Vec<String>,
    may_allow: Vec<String>,
    may_refuse: Vec<String>,
}

impl Found {
    fn add(&mut self, id: String, forbids: bool, says: Says) {
        match says {
            Says::Never => {}
            Says::Fails => self.refuses.push(id),
            Says::Always if forbids => self.refuses.push(id),
            Says::Always => self.allows.push(id),
            Says::Sometimes { .. } if forbids => self.may_refuse.push(id),
            Says::Sometimes { can_fail } => {
                if can_fail {
                    self.may_refuse.push(id.clone());
                }
                self.may_allow.push(id);
            }
        }
    }

    fn into_cell(mut self) -> Cell {
        let sorted = |mut ids: Vec<String>| {
            ids.sort();
            ids.dedup();
            ids
        };
        if !self.refuses.is_empty() || self.allows.is_empty() && self.may_allow.is_empty() {
            return Cell::No(sorted(self.refuses));
        }
        match (self.allows.is_empty(), self.may_refuse.is_empty()) {
            (false, true) => Cell::Yes(sorted(self.allows)),
            (false, false) => Cell::When(sorted(self.may_refuse)),
            (true, _) => {
                self.may_allow.append(&mut self.may_refuse);
                Cell::When(sorted(self.may_allow))
            }
        }
    }
}
