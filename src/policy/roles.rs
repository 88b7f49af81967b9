//! Roles: which workloads belong to which.

use std::collections::{BTreeMap, BTreeSet};

use super::mistake::{Mistake, Place, choose};
use crate::caller::SpiffeId;

const SCHEME: &str = "spiffe://";
const MAX_NAME_BYTES: usize = 64;

/// Every role with the patterns of its members.
#[derive(Debug, Default)]
pub(super) struct Roles(BTreeMap<String, Vec<Members>>);

/// A SPIFFE ID in which `*` stands for exactly one segment of the path.
#[derive(Debug)]
struct Members(String);

impl Roles {
    /// The roles as written, and every mistake in them. What is wrong is left out, so that the rest can be checked too.
    pub fn load(settings: &BTreeMap<String, Vec<String>>, trust_domains: &[String]) -> (Self, Vec<Mistake>) {
        let mut roles = Self::default();
        let mut mistakes = Vec::new();
        for (name, patterns) in settings {
            if !is_name(name) {
                mistakes.push(Mistake {
                    place: Place::Setting(format!("roles.\"{}\"", name.escape_default())),
                    what: "is not a role's name".into(),
                    hint: format!("write up to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, `_` and `-`"),
                });
            }
            let members = roles.0.entry(name.clone()).or_default();
            for (index, pattern) in patterns.iter().enumerate() {
                match Members::parse(pattern, trust_domains) {
                    Ok(pattern) => members.push(pattern),
                    Err((what, hint)) => {
                        mistakes.push(Mistake { place: Place::Setting(format!("roles.{name}[{index}]")), what, hint });
                    }
                }
            }
        }
        (roles, mistakes)
    }

    /// Whether there is a role of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The roles' names.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.keys().map(String::as_str)
    }

    /// The roles that `id` belongs to.
    pub fn of<'a>(&'a self, id: &'a SpiffeId) -> impl Iterator<Item = &'a str> {
        let member = |members: &Vec<Members>| members.iter().any(|pattern| pattern.matches(id));
        self.0.iter().filter(move |(_, members)| member(members)).map(|(name, _)| name.as_str())
    }

    /// Each role with its patterns' text, sorted, for the digest and for whoever wants to know who its members can be.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = (&str, BTreeSet<&str>)> {
        self.0.iter().map(|(name, members)| (name.as_str(), members.iter().map(|pattern| pattern.0.as_str()).collect()))
    }
}

impl Members {
    fn parse(text: &str, trust_domains: &[String]) -> Result<Self, (String, String)> {
        let shape = || format!("write it like `{SCHEME}example.org/payments` or `{SCHEME}example.org/*/payments`");
        // With its wildcards filled in, a pattern must be an ID: so nothing that is no ID can be written or matched.
        let filled: Vec<_> = text.split('/').map(|segment| if segment == "*" { "x" } else { segment }).collect();
        let Ok(id) = SpiffeId::parse(&filled.join("/")) else {
            let partial = text.split('/').any(|segment| segment.contains('*') && segment != "*");
            let what = if partial { "`*` stands for one whole segment" } else { "is not a SPIFFE ID" };
            return Err((what.into(), shape()));
        };
        if text.starts_with("spiffe://*") {
            return Err(("`*` can't stand for a trust domain".into(), shape()));
        }
        if !trust_domains.iter().any(|domain| domain == id.trust_domain()) {
            let what = format!("trust domain `{}` is not configured", id.trust_domain());
            return Err((what, choose(id.trust_domain(), trust_domains.iter().map(String::as_str))));
        }
        Ok(Self(text.into()))
    }

    fn matches(&self, id: &SpiffeId) -> bool {
        let (mut mine, mut its) = (self.0.split('/'), id.as_str().split('/'));
        loop {
            match (mine.next(), its.next()) {
                (None, None) => return true,
                (Some(mine), Some(its)) if mine == "*" || mine == its => {}
                _ => return false,
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(patterns: &[&str]) -> (Roles, Vec<Mistake>) {
        let patterns = patterns.iter().map(ToString::to_string).collect();
        Roles::load(&[("pay".to_string(), patterns)].into(), &["a.example".into(), "b.example".into()])
    }

    #[test]
    fn a_wildcard_is_one_segment_and_a_prefix_is_nothing_z_02() {
        let (roles, mistakes) = load(&["spiffe://a.example/*/pay", "spiffe://a.example/pay"]);
        assert_eq!(mistakes, []);
        for (id, member) in [
            ("spiffe://a.example/pay", true),
            ("spiffe://a.example/eu/pay", true),
            ("spiffe://a.example/payments", false),
            ("spiffe://a.example/eu/payments", false),
            ("spiffe://a.example/eu/x/pay", false),
            ("spiffe://a.example/pay/eu", false),
            ("spiffe://b.example/pay", false),
        ] {
            assert_eq!(roles.of(&SpiffeId::parse(id).unwrap()).count(), usize::from(member), "{id}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let (_, mistakes) = load(&[
            "spiffe://a.example/pay*",
            "spiffe://a.example/**",
            "spiffe://*/pay",
            "https://a.example/pay",
            "spiffe://a.example",
            "spiffe://a.exampl/pay",
        ]);
        let said: Vec<_> = mistakes.iter().map(|m| format!("{}: {}", m.place, m.what)).collect();
        assert_eq!(
            said,
            [
                "roles.pay[0]: `*` stands for one whole segment",
                "roles.pay[1]: `*` stands for one whole segment",
                "roles.pay[2]: `*` can't stand for a trust domain",
                "roles.pay[3]: is not a SPIFFE ID",
                "roles.pay[4]: is not a SPIFFE ID",
                "roles.pay[5]: trust domain `a.exampl` is not configured",
            ]
        );
        assert_eq!(mistakes[5].hint, "did you mean `a.example`?");
    }
}
