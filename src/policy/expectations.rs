//! Tests of a rulebook: calls written down with the decisions that they should get.
//!
//! ```toml
//! [[expect]]
//! name = "support sees no whole card number"
//! caller = "spiffe://example.org/support"
//! action = "detokenize"
//! scope = "pan"
//! purpose = "refund"
//! decision = "deny"
//! ```
//!
//! A file with a mistake gives no expectations, and a file must have some: one that says nothing would pass.

use toml::de::{DeTable, DeValue};

use super::call::{Call, CallWords};
use super::mistake::{Mistake, Place, choose};
use super::rulebook::Rulebook;
use crate::clock::Timestamp;

const KEYS: [&str; 10] =
    ["name", "caller", "action", "scope", "purpose", "reveal", "requested", "now", "decision", "policies"];

/// One call with the decision that it should get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Where it stands.
    pub place: Place,
    /// What it is called, if it has a name.
    pub name: Option<String>,
    /// The call.
    pub call: Call,
    /// Whether the file says when the call is.
    timed: bool,
    /// Whether it should be allowed.
    pub allow: bool,
    /// Which policies should decide, sorted; `None` if that does not matter.
    pub policies: Option<Vec<String>>,
}

/// What an expectation met with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether the call is allowed.
    pub allow: bool,
    /// The policies that decided, sorted.
    pub policies: Vec<String>,
}

/// Reads one file, and every mistake in it.
struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    mistakes: Vec<Mistake>,
}

impl Expectation {
    /// All expectations of a file, or every mistake in it, in the order of places.
    pub fn parse(file: &str, text: &str) -> Result<Vec<Self>, Vec<Mistake>> {
        let mut reader = Reader { file, text, mistakes: Vec::new() };
        let found = reader.document();
        reader.mistakes.sort();
        if reader.mistakes.is_empty() { Ok(found) } else { Err(reader.mistakes) }
    }

    /// Whether `seen` is what is expected.
    pub fn is_met_by(&self, seen: &Seen) -> bool {
        self.allow == seen.allow && self.policies.as_ref().is_none_or(|policies| *policies == seen.policies)
    }
}

impl Rulebook {
    /// Decides the call of an expectation.
    ///
    /// # Errors
    /// If the expectation can't be checked against this rulebook: it names a policy that isn't there, or leaves out the
    /// time where a policy reads it.
    pub fn meet(&self, expectation: &Expectation) -> Result<Seen, Mistake> {
        let wrong = |what: String, hint: String| Err(Mistake { place: expectation.place.clone(), what, hint });
        let ids: Vec<String> = self.policy_ids().collect();
        if let Some(unknown) = expectation.policies.iter().flatten().find(|id| !ids.contains(id)) {
            let hint = choose(unknown, ids.iter().map(String::as_str));
            return wrong(format!("policies: unknown policy `{}`", unknown.escape_default()), hint);
        }
        let call = &expectation.call;
        if !expectation.timed && self.reads_now(call) {
            let hint = "say when the call is, like `now = \"2027-01-01T12:00:00Z\"`";
            return wrong("a policy about this call reads context.now".into(), hint.into());
        }
        let (decision, _) = self.decide(&call.caller, call.verb, call.resource(), &call.context());
        Ok(Seen { allow: decision.refusal.is_none(), policies: decision.policies.to_vec() })
    }
}

impl Reader<'_> {
    fn document(&mut self) -> Vec<Expectation> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            self.note(at, format!("not TOML: {}", error.message()), "write tables [[expect]]".into());
        }
        if !errors.is_empty() {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut tables = 0;
        for (key, value) in root.get_ref() {
            match value.get_ref() {
                DeValue::Array(items) if key.get_ref() == "expect" => {
                    for item in items {
                        tables += 1;
                        match item.get_ref() {
                            DeValue::Table(table) => found.extend(self.expectation(table, item.span().start)),
                            _ => self.note(item.span().start, "is not a table".into(), "write [[expect]]".into()),
                        }
                    }
                }
                _ if key.get_ref() == "expect" => {
                    self.note(key.span().start, "expect: is not a list of tables".into(), "write [[expect]]".into());
                    tables += 1;
                }
                _ => {
                    let what = format!("unknown key `{}`", key.get_ref().escape_default());
                    self.note(key.span().start, what, choose(key.get_ref(), ["expect"].into_iter()));
                }
            }
        }
        if tables == 0 {
            let place = Place::File(self.file.into());
            let hint = "write at least one [[expect]]: a test that says nothing always passes";
            self.mistakes.push(Mistake { place, what: "expects nothing".into(), hint: hint.into() });
        }
        found
    }

    fn expectation(&mut self, table: &DeTable<'_>, at: usize) -> Option<Expectation> {
        let before = self.mistakes.len();
        for (key, _) in table.iter().filter(|(key, _)| !KEYS.contains(&key.get_ref().as_ref())) {
            let what = format!("unknown key `{}`", key.get_ref().escape_default());
            self.note(key.span().start, what, choose(key.get_ref(), KEYS.into_iter()));
        }
        let words = CallWords {
            caller: self.required(table, "caller", at).unwrap_or_default(),
            action: self.required(table, "action", at).unwrap_or_default(),
            scope: self.text(table, "scope"),
            purpose: self.text(table, "purpose"),
            reveal: self.text(table, "reveal"),
            requested: self.number(table, "requested"),
        };
        let name = self.text(table, "name");
        let now = self.moment(table, "now");
        let allow = self.decision(table, at);
        let policies = self.texts(table, "policies");
        if self.mistakes.len() > before {
            return None;
        }
        match Call::parse(&words, now.unwrap_or_default()) {
            Ok(call) => {
                let place = Place::within(self.file, self.text, at);
                Some(Expectation { place, name, call, timed: now.is_some(), allow: allow?, policies })
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    let at = find(table, mistake.field).map_or(at, |(at, _)| at);
                    self.note(at, format!("{}: {}", mistake.field, mistake.what), mistake.hint);
                }
                None
            }
        }
    }

    fn required(&mut self, table: &DeTable<'_>, key: &str, at: usize) -> Option<String> {
        if find(table, key).is_none() {
            self.note(at, format!("`{key}` is missing"), format!("write `{key} = \"…\"`"));
        }
        self.text(table, key)
    }

    fn text(&mut self, table: &DeTable<'_>, key: &str) -> Option<String> {
        let (at, value) = find(table, key)?;
        match value {
            DeValue::String(text) => Some(text.to_string()),
            _ => self.wrong_kind(at, key, "a text in quotes"),
        }
    }

    fn texts(&mut self, table: &DeTable<'_>, key: &str) -> Option<Vec<String>> {
        let (at, value) = find(table, key)?;
        let text = |item: &toml::Spanned<DeValue<'_>>| item.get_ref().as_str().map(str::to_owned);
        match value.as_array().and_then(|items| items.iter().map(text).collect::<Option<Vec<_>>>()) {
            Some(mut texts) => {
                texts.sort();
                Some(texts)
            }
            None => self.wrong_kind(at, key, "a list of texts in quotes"),
        }
    }

    fn number(&mut self, table: &DeTable<'_>, key: &str) -> Option<u64> {
        let (at, value) = find(table, key)?;
        match value {
            DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Some(number),
                Err(_) => self.wrong_kind(at, key, "a whole number"),
            },
            _ => self.wrong_kind(at, key, "a whole number"),
        }
    }

    fn moment(&mut self, table: &DeTable<'_>, key: &str) -> Option<Timestamp> {
        let (at, value) = find(table, key)?;
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Datetime(moment) => moment.to_string(),
            _ => String::new(),
        };
        let since_epoch =
            humantime::parse_rfc3339(&text).ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        match since_epoch.and_then(|since| u64::try_from(since.as_millis()).ok()) {
            Some(millis) => Some(Timestamp::from_millis(millis)),
            None => self.wrong_kind(at, key, "a moment like 2027-01-01T12:00:00Z"),
        }
    }

    fn decision(&mut self, table: &DeTable<'_>, at: usize) -> Option<bool> {
        match self.required(table, "decision", at)?.as_str() {
            "allow" => Some(true),
            "deny" => Some(false),
            other => {
                let at = find(table, "decision").map_or(at, |(at, _)| at);
                let what = format!("decision: `{}` is neither `allow` nor `deny`", other.escape_default());
                self.note(at, what, choose(other, ["allow", "deny"].into_iter()));
                None
            }
        }
    }

    fn wrong_kind<T>(&mut self, at: usize, key: &str, wanted: &str) -> Option<T> {
        self.note(at, format!("{key}: is not {wanted}"), format!("write {wanted}"));
        None
    }

    fn note(&mut self, at: usize, what: String, hint: String) {
        self.mistakes.push(Mistake { place: Place::within(self.file, self.text, at), what, hint });
    }
}

/// A key's place in the text, and its value.
fn find<'t>(table: &'t DeTable<'_>, key: &str) -> Option<(usize, &'t DeValue<'t>)> {
    let (name, value) = table.iter().find(|(name, _)| name.get_ref() == key)?;
    Some((name.span().start, value.get_ref()))
}
