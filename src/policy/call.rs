//! A call that nobody has made: what it takes to ask policy about one, checked as far as a real one would be.

use super::mistake::choose;
use super::{Context, Resource, Reveal, Verb};
use crate::caller::SpiffeId;
use crate::clock::Timestamp;
use crate::scope::Path;

/// The most items that a call has.
const MAX_REQUESTED: u32 = 1_000;

/// A call to be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who calls.
    pub caller: SpiffeId,
    /// What for.
    pub verb: Verb,
    /// On which scope; `None` where the action is about the vault.
    pub path: Option<Path>,
    /// As [`Context::purpose`].
    pub purpose: String,
    /// As [`Context::reveal`].
    pub reveal: Reveal,
    /// As [`Context::requested`].
    pub requested: u32,
    /// When.
    pub now: Timestamp,
}

/// A call in words, as a command line or a file has it.
#[derive(Clone, Debug, Default)]
pub struct CallWords {
    /// A SPIFFE ID.
    pub caller: String,
    /// An action's name in policies.
    pub action: String,
    /// A scope's name; none for actions on the vault.
    pub scope: Option<String>,
    /// Only for detokenize; empty by default.
    pub purpose: Option<String>,
    /// Only for detokenize: `full`, which is the default, or `masked`.
    pub reveal: Option<String>,
    /// How many items: 1 by default, at most 1,000.
    pub requested: Option<u64>,
}

/// What is wrong with one word of a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}; {hint}")]
pub struct WordMistake {
    /// Which: `caller`, `action` …
    pub field: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl Call {
    /// The call that `words` describe, at `now`.
    ///
    /// # Errors
    /// With everything in them that no real call can have.
    pub fn parse(words: &CallWords, now: Timestamp) -> Result<Self, Vec<WordMistake>> {
        let mut mistakes = Vec::new();
        let caller = noted(&mut mistakes, caller(&words.caller));
        let verb = noted(&mut mistakes, verb(&words.action));
        let path = verb.and_then(|verb| noted(&mut mistakes, path(verb, words.scope.as_deref())));
        let reveal = verb.and_then(|verb| noted(&mut mistakes, reveal(verb, words.reveal.as_deref())));
        let purpose = verb.and_then(|verb| noted(&mut mistakes, purpose(verb, words.purpose.as_deref())));
        let requested = verb.and_then(|verb| noted(&mut mistakes, requested(verb, words.requested)));
        match (caller, verb, path, purpose, reveal, requested) {
            (Some(caller), Some(verb), Some(path), Some(purpose), Some(reveal), Some(requested)) => {
                Ok(Self { caller, verb, path, purpose, reveal, requested, now })
            }
            _ => Err(mistakes),
        }
    }

    pub(super) fn resource(&self) -> Resource<'_> {
        self.path.as_ref().map_or(Resource::Vault, Resource::Scope)
    }

    pub(super) fn context(&self) -> Context<'_> {
        Context { purpose: &self.purpose, reveal: self.reveal, requested: self.requested, now: self.now }
    }
}

fn noted<T>(mistakes: &mut Vec<WordMistake>, found: Result<T, WordMistake>) -> Option<T> {
    found.map_err(|mistake| mistakes.push(mistake)).ok()
}

fn wrong(field: &'static str, what: impl Into<String>, hint: impl Into<String>) -> WordMistake {
    WordMistake { field, what: what.into(), hint: hint.into() }
}

fn caller(text: &str) -> Result<SpiffeId, WordMistake> {
    SpiffeId::parse(text)
        .map_err(|error| wrong("caller", error.to_string(), "write it like `spiffe://example.org/payments`"))
}

fn verb(text: &str) -> Result<Verb, WordMistake> {
    let names = Verb::ALL.iter().map(|verb| verb.name());
    Verb::named(text)
        .ok_or_else(|| wrong("action", format!("unknown action `{}`", text.escape_default()), choose(text, names)))
}

fn path(verb: Verb, text: Option<&str>) -> Result<Option<Path>, WordMistake> {
    match (verb.concerns_vault(), text) {
        (true, None) => Ok(None),
        (true, Some(_)) => Err(wrong("scope", format!("{} is about no scope", verb.name()), "leave it out")),
        (false, None) => Err(wrong("scope", format!("{} is about a scope", verb.name()), "name one")),
        (false, Some(text)) => Path::parse(text)
            .map(Some)
            .map_err(|error| wrong("scope", error.to_string(), "name it like `pan` or `acme/ssn`")),
    }
}

fn reveal(verb: Verb, text: Option<&str>) -> Result<Reveal, WordMistake> {
    match (verb == Verb::Detokenize, text) {
        (false, None) => Ok(Reveal::Nothing),
        (false, Some(_)) => Err(wrong("reveal", format!("{} reveals nothing", verb.name()), "leave it out")),
        (true, None | Some("full")) => Ok(Reveal::Full),
        (true, Some("masked")) => Ok(Reveal::Masked),
        (true, Some(_)) => Err(wrong("reveal", "is neither of two words", "write `full` or `masked`")),
    }
}

fn purpose(verb: Verb, text: Option<&str>) -> Result<String, WordMistake> {
    match text {
        Some(_) if verb != Verb::Detokenize => {
            Err(wrong("purpose", format!("{} states no purpose", verb.name()), "leave it out"))
        }
        text => Ok(text.unwrap_or_default().to_owned()),
    }
}

fn requested(verb: Verb, number: Option<u64>) -> Result<u32, WordMistake> {
    match (verb.concerns_vault(), number) {
        (true, None) => Ok(0),
        (true, Some(_)) => Err(wrong("requested", format!("{} has no items", verb.name()), "leave it out")),
        (false, number) => u32::try_from(number.unwrap_or(1))
            .ok()
            .filter(|number| (1..=MAX_REQUESTED).contains(number))
            .ok_or_else(|| wrong("requested", "is out of range", format!("a call has 1 to {MAX_REQUESTED} items"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(action: &str, scope: Option<&str>) -> CallWords {
        CallWords {
            caller: "spiffe://a.example/x".into(),
            action: action.into(),
            scope: scope.map(String::from),
            ..CallWords::default()
        }
    }

    #[test]
    fn a_call_is_what_the_vault_would_ask() {
        let now = Timestamp::from_millis(1);
        let call = Call::parse(&words("detokenize", Some("pan")), now).unwrap();
        assert_eq!((call.reveal, call.requested, &*call.purpose), (Reveal::Full, 1, ""));
        let call = Call::parse(&words("revoke", Some("pan")), now).unwrap();
        assert_eq!((call.reveal, call.requested, &*call.purpose), (Reveal::Nothing, 1, ""));
        let call = Call::parse(&words("queryAudit", None), now).unwrap();
        assert_eq!((call.reveal, call.requested, call.path), (Reveal::Nothing, 0, None));
    }

    #[test]
    fn what_no_call_can_have_is_told_all_at_once() {
        let fields = |words: &CallWords| -> Vec<_> {
            Call::parse(words, Timestamp::default()).unwrap_err().iter().map(|mistake| mistake.field).collect()
        };
        let (purpose, reveal) = (Some("refund".to_owned()), Some("masked".to_owned()));
        let all = CallWords { purpose, reveal, requested: Some(1001), ..words("tokenize", None) };
        assert_eq!(fields(&all), ["scope", "reveal", "purpose", "requested"]);
        assert_eq!(fields(&CallWords { caller: "x".into(), ..words("detokenise", None) }), ["caller", "action"]);
        assert_eq!(
            fields(&CallWords { requested: Some(1), ..words("queryAudit", Some("pan")) }),
            ["scope", "requested"]
        );
        assert_eq!(
            fields(&CallWords { reveal: Some("all".into()), ..words("detokenize", Some("Pan")) }),
            ["scope", "reveal"]
        );
        let mistakes = Call::parse(&words("detokenise", None), Timestamp::default()).unwrap_err();
        assert_eq!(mistakes[0].to_string(), "action: unknown action `detokenise`; did you mean `detokenize`?");
    }
}
