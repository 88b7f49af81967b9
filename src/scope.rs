//! Scopes: named classes of values with one rule set each.
//!
//! A [`Scope`] that exists is valid: the only way to one is through [`Settings`], which names every mistake at once.
//! [`Scopes::resolve`] is the only place that decides which rule set a name falls under. This module knows nothing of
//! keys, storage or who may do what, and it is pure.

mod mask;
mod path;
mod settings;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub use mask::Mask;
pub use path::{Path, PathError, Pattern};
pub use settings::{MaskSettings, Mistake, Settings, VALUE_BYTES_CEILING, key_of};

use crate::token;

/// The version byte in front of [`Scopes::canonical`].
const CANONICAL_VERSION: u8 = 1;

/// The rule set of one class of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pattern: Pattern,
    format: token::Format,
    ttl: Duration,
    max_ttl: Duration,
    max_value_bytes: u32,
    mask: Mask,
    purpose_required: bool,
}

/// All scopes of one rulebook.
#[derive(Clone, Debug, Default)]
pub struct Scopes {
    /// By pattern text, so that everything that lists them has one order.
    all: BTreeMap<String, Arc<Scope>>,
    exact: HashMap<Path, Arc<Scope>>,
    /// The most specific first.
    patterns: Vec<Arc<Scope>>,
}

impl Scope {
    /// Which names it is for.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// How its tokens look.
    pub fn format(&self) -> &token::Format {
        &self.format
    }

    /// How long a token lives if the call does not say.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The longest that a token may live, renewals included.
    pub fn max_ttl(&self) -> Duration {
        self.max_ttl
    }

    /// The largest value in bytes.
    pub fn max_value_bytes(&self) -> usize {
        self.max_value_bytes as usize
    }

    /// What a masked answer shows.
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// Whether Detokenize must say what for.
    pub fn purpose_required(&self) -> bool {
        self.purpose_required
    }
}

impl Scopes {
    /// All scopes from their settings by name, or every mistake in them.
    pub fn load(settings: &BTreeMap<String, Settings>) -> Result<Self, Vec<Mistake>> {
        let mut scopes = Self::default();
        let mut mistakes = Vec::new();
        for (name, settings) in settings {
            match settings.build(name) {
                Ok(scope) => scopes.insert(name, Arc::new(scope)),
                Err(found) => mistakes.extend(found),
            }
        }
        scopes.patterns.sort_by_key(|scope| std::cmp::Reverse(scope.pattern.specificity()));
        mistakes.extend(scopes.ambiguities());
        if mistakes.is_empty() { Ok(scopes) } else { Err(mistakes) }
    }

    /// The rule set that `path` falls under: the one given for exactly this name, else the most specific pattern's.
    pub fn resolve(&self, path: &Path) -> Option<Arc<Scope>> {
        let by_pattern = || self.patterns.iter().find(|scope| scope.pattern.matches(path));
        self.exact.get(path).or_else(by_pattern).cloned()
    }

    /// Whether `path` is no scope itself but something lies, or could lie, under it.
    pub fn is_ancestor(&self, path: &Path) -> bool {
        self.all.values().any(|scope| scope.pattern.reaches_below(path))
    }

    /// Every scope, in the order of their patterns' text.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Scope>> + Clone {
        self.all.values()
    }

    /// Bytes that are equal exactly if all rules are: a version byte, the number of scopes, then each scope in the
    /// order of its pattern's text. Numbers are big endian; texts have their length in two bytes in front.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = vec![CANONICAL_VERSION];
        out.extend_from_slice(&(self.all.len() as u64).to_be_bytes());
        for scope in self.all.values() {
            scope.write_canonical(&mut out);
        }
        out
    }

    fn insert(&mut self, name: &str, scope: Arc<Scope>) {
        match scope.pattern.exact() {
            Some(path) => drop(self.exact.insert(path, scope.clone())),
            None => self.patterns.push(scope.clone()),
        }
        self.all.insert(name.into(), scope);
    }

    /// Pairs of patterns that one name can match, neither being the more specific: which rules hold must not depend on
    /// the order of a file.
    fn ambiguities(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for (index, one) in self.patterns.iter().enumerate() {
            for other in &self.patterns[index + 1..] {
                let (one, other) = (&one.pattern, &other.pattern);
                if one.specificity() == other.specificity() && one.overlaps(other) {
                    mistakes.push(Mistake {
                        key: settings::key_of(other.as_str()),
                        what: format!("matches some of the same names as `{one}`, and neither is more specific"),
                        hint: "name one more segment in one of them, or give the shared names a table of their own"
                            .into(),
                    });
                }
            }
        }
        mistakes
    }
}

impl Scope {
    fn write_canonical(&self, out: &mut Vec<u8>) {
        let (format, prefix) = match &self.format {
            token::Format::Opaque { prefix } => ("opaque", prefix.as_str()),
            token::Format::Uuid => ("uuid", ""),
        };
        for text in [self.pattern.as_str(), format, prefix] {
            let length = u16::try_from(text.len()).expect("patterns are at most 255 bytes and prefixes 16");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        for lifetime in [self.ttl, self.max_ttl] {
            let millis = u64::try_from(lifetime.as_millis()).expect("a lifetime is at most a hundred years");
            out.extend_from_slice(&millis.to_be_bytes());
        }
        for number in [self.max_value_bytes, self.mask.keep_first(), self.mask.keep_last()] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.push(u8::from(self.purpose_required));
    }
}

#[cfg(test)]
mod tests;
