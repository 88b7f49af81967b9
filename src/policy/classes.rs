//! Callers and scopes in classes whose members no policy can tell apart.
//!
//! A policy knows a caller by its roles, its trust domain and, where it names one, by its ID; a scope by its name and what
//! that lies under. Roles and rule sets are given by patterns, so every caller falls into the class of the most specific
//! pattern that matches it, if all overlaps of patterns count as patterns too. One example stands for each class, and what
//! is decided for it holds for all its members: a table of the classes leaves nobody out.

use std::collections::{BTreeMap, BTreeSet};

use super::Resource;
use super::action::Verb;
use super::rulebook::Rulebook;
use super::schema::Noun;
use crate::caller::SpiffeId;
use crate::scope::Path;

/// The most patterns that overlaps may add.
const MAX_OVERLAPS: usize = 10_000;

/// Callers that no policy can tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerClass {
    /// One of them. If `named`, there is no other.
    pub example: SpiffeId,
    /// Whether a policy names this one caller.
    pub named: bool,
    /// The roles of each of them, sorted.
    pub roles: Vec<String>,
}

/// Scopes that no policy can tell apart, or the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceClass {
    /// One of them; `None` is the vault.
    pub example: Option<Path>,
    /// Their names as a pattern. Names that a more specific pattern matches are that one's.
    pub pattern: String,
}

/// Patterns overlap in more ways than can be listed, or are longer than a name may be with their gaps filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the patterns of roles or scopes overlap in too many ways to list who may do what; give workloads and scopes fewer \
     overlapping patterns, or ask about single calls"
)]
pub struct TooManyClasses;

/// All classes of one rulebook.
pub(super) struct Classes {
    pub callers: Vec<CallerClass>,
    /// The vault comes first.
    pub places: Vec<PlaceClass>,
}

impl Classes {
    pub fn of(rulebook: &Rulebook) -> Result<Self, TooManyClasses> {
        let mentioned = mentioned(rulebook);
        Ok(Self { callers: callers(rulebook, &mentioned)?, places: places(rulebook, &mentioned)? })
    }
}

impl CallerClass {
    /// How to speak of them: the one caller's ID, their roles, or that they are none of these.
    pub fn label(&self) -> String {
        match (self.named, self.roles.is_empty()) {
            (true, _) => self.example.as_str().to_owned(),
            (false, false) => self.roles.join(" + "),
            (false, true) => format!("all others of {}", self.example.trust_domain()),
        }
    }
}

impl PlaceClass {
    /// Whether `verb` is about such a place.
    pub fn takes(&self, verb: Verb) -> bool {
        verb.concerns_vault() == self.example.is_none()
    }

    pub(super) fn resource(&self) -> Resource<'_> {
        self.example.as_ref().map_or(Resource::Vault, Resource::Scope)
    }
}

/// Every workload and scope that a policy names, in its head or in its conditions.
fn mentioned(rulebook: &Rulebook) -> BTreeSet<(bool, String)> {
    let lines = rulebook.index.lines().iter();
    let uids = lines.flat_map(|line| line.written.policy.entity_literals());
    uids.filter_map(|uid| match Noun::of(&uid) {
        Some(Noun::Workload) => Some((true, uid.id().unescaped().to_owned())),
        Some(Noun::Scope) => Some((false, uid.id().unescaped().to_owned())),
        _ => None,
    })
    .collect()
}

fn callers(rulebook: &Rulebook, mentioned: &BTreeSet<(bool, String)>) -> Result<Vec<CallerClass>, TooManyClasses> {
    let named: BTreeSet<&str> = mentioned.iter().filter(|(workload, _)| *workload).map(|(_, id)| id.as_str()).collect();
    let members = rulebook.roles.texts().flat_map(|(_, patterns)| patterns.into_iter().map(str::to_owned));
    let patterns = closed(members.chain(named.iter().map(|id| (*id).to_owned())).collect())?;
    let fresh = fresh_word(&patterns);
    let deepest = patterns.iter().map(|pattern| pattern.split('/').count()).max().unwrap_or_default();
    let others = rulebook.trust_domains.iter().map(|domain| {
        // Deeper than any pattern, so that none matches.
        format!("spiffe://{domain}{}", format!("/{fresh}").repeat(deepest + 1))
    });
    let mut classes = BTreeMap::new();
    for id in patterns.iter().map(|pattern| filled(pattern, &fresh)).chain(others) {
        let example = SpiffeId::parse(&id).map_err(|_| TooManyClasses)?;
        let roles: Vec<String> = rulebook.roles.of(&example).map(str::to_owned).collect();
        let is_named = named.contains(id.as_str());
        let domain = example.trust_domain().to_owned();
        // Roles before single workloads, and those with neither last.
        let key = (is_named, roles.is_empty(), roles.clone(), domain, is_named.then(|| id.clone()));
        classes.entry(key).or_insert(CallerClass { example, named: is_named, roles });
    }
    let (mut classes, last): (Vec<_>, Vec<_>) =
        classes.into_values().partition(|class| class.named || !class.roles.is_empty());
    classes.extend(last);
    Ok(classes)
}

fn places(rulebook: &Rulebook, mentioned: &BTreeSet<(bool, String)>) -> Result<Vec<PlaceClass>, TooManyClasses> {
    let mut patterns = BTreeSet::new();
    for scope in rulebook.scopes.iter() {
        let pattern = scope.pattern();
        patterns.insert(pattern.as_str().to_owned());
        let names = mentioned.iter().filter(|(workload, _)| !workload).filter_map(|(_, name)| Path::parse(name).ok());
        for name in names.filter(|name| pattern.matches(name) || pattern.reaches_below(name)) {
            let rest = pattern.as_str().split('/').skip(name.segments().count());
            patterns.insert(name.segments().chain(rest).collect::<Vec<_>>().join("/"));
        }
    }
    let patterns = closed(patterns)?;
    let fresh = fresh_word(&patterns);
    let mut places = vec![PlaceClass { example: None, pattern: "vault".into() }];
    for pattern in patterns {
        let example = Path::parse(&filled(&pattern, &fresh)).map_err(|_| TooManyClasses)?;
        places.push(PlaceClass { example: Some(example), pattern });
    }
    Ok(places)
}

/// The patterns, and every pattern that stands for what some of them have in common.
fn closed(mut patterns: BTreeSet<String>) -> Result<BTreeSet<String>, TooManyClasses> {
    let has_gap = |pattern: &str| pattern.split('/').any(|segment| segment == "*");
    let most = patterns.len() + MAX_OVERLAPS;
    // What two have in common is new only if both have gaps.
    let mut open: Vec<String> = patterns.iter().filter(|pattern| has_gap(pattern)).cloned().collect();
    let mut next = 0;
    while next < open.len() {
        for before in 0..next {
            let Some(common) = common(&open[before], &open[next]) else { continue };
            if patterns.insert(common.clone()) && has_gap(&common) {
                open.push(common);
            }
            if patterns.len() > most {
                return Err(TooManyClasses);
            }
        }
        next += 1;
    }
    Ok(patterns)
}

fn common(one: &str, other: &str) -> Option<String> {
    if one.split('/').count() != other.split('/').count() {
        return None;
    }
    let both = one.split('/').zip(other.split('/'));
    let segment = |(one, other)| match (one, other) {
        ("*", segment) | (segment, "*") => Some(segment),
        (one, other) => (one == other).then_some(one),
    };
    both.map(segment).collect::<Option<Vec<&str>>>().map(|segments| segments.join("/"))
}

/// A segment that occurs in none of the patterns. Short, since a pattern may be as long as a name may be.
fn fresh_word(patterns: &BTreeSet<String>) -> String {
    let taken: BTreeSet<&str> = patterns.iter().flat_map(|pattern| pattern.split('/')).collect();
    let letters = ('a'..='z').rev().map(|letter| letter.to_string());
    let longer = (0_u64..).map(|number| format!("x{number}"));
    letters.chain(longer).find(|word| !taken.contains(word.as_str())).expect("there are more words than patterns")
}

fn filled(pattern: &str, word: &str) -> String {
    let fill = |segment| if segment == "*" { word } else { segment };
    pattern.split('/').map(fill).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{domains, roles, scopes, sources};

    fn classes(members: &[(&str, &[&str])], names: &[&str], policies: &str) -> Classes {
        let policies = sources(&[("p.cedar", policies)]);
        Classes::of(&Rulebook::load(scopes(names), &roles(members), policies, &domains()).unwrap()).unwrap()
    }

    #[test]
    fn overlapping_roles_make_classes_of_their_own() {
        let members: &[(&str, &[&str])] = &[
            ("eu", &["spiffe://a.example/eu/*"]),
            ("pay", &["spiffe://a.example/*/pay", "spiffe://a.example/pay", "spiffe://b.example/pay"]),
            ("z", &[]),
        ];
        let policies =
            "@id(\"x\") permit (principal == Cloakroom::Workload::\"spiffe://a.example/eu/pay\", action, resource);";
        let found: Vec<_> = classes(members, &["pan"], "// None.")
            .callers
            .iter()
            .map(|class| format!("{} in {}", class.label(), class.example.trust_domain()))
            .collect();
        let expected = [
            "eu in a.example",
            "eu + pay in a.example",
            "pay in a.example",
            "pay in b.example",
            "all others of a.example in a.example",
            "all others of b.example in b.example",
        ];
        assert_eq!(found, expected);
        let labels: Vec<_> = classes(members, &["pan"], policies).callers.iter().map(CallerClass::label).collect();
        assert!(labels.contains(&"spiffe://a.example/eu/pay".to_owned()), "{labels:?}");
        assert!(!labels.contains(&"eu + pay".to_owned()), "its only member is named: {labels:?}");
    }

    #[test]
    fn scopes_that_policies_name_are_classes_of_their_own() {
        let policies = "@id(\"x\") permit (principal, action, resource in Cloakroom::Scope::\"acme\");
                        @id(\"y\") permit (principal, action, resource == Cloakroom::Scope::\"other/card\");";
        let found: Vec<_> =
            classes(&[], &["pan", "*/ssn", "*/card"], policies).places.into_iter().map(|place| place.pattern).collect();
        assert_eq!(found, ["vault", "*/card", "*/ssn", "acme/card", "acme/ssn", "other/card", "pan"]);
    }

    #[test]
    fn too_many_overlaps_are_refused_not_cut_short() {
        // Each has one gap less at another place: what any of them have in common makes 2^15 patterns.
        let patterns = (0..15).map(|at| {
            let segments: Vec<_> = (0..15).map(|n| if n == at { "a" } else { "*" }).collect();
            format!("spiffe://a.example/{}", segments.join("/"))
        });
        assert_eq!(closed(patterns.collect()), Err(TooManyClasses));
    }
}
