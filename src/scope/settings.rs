//! What an operator writes about a scope, and every way to get it wrong.

use std::time::Duration;

use crate::clock::in_one_unit;

use serde::Deserialize;

use super::{Mask, Pattern, Scope};
use crate::token;
use crate::token::opaque::Prefix;

const DAY: Duration = Duration::from_hours(24);
const DEFAULT_TTL: Duration = DAY.saturating_mul(30);
const DEFAULT_MAX_TTL: Duration = DAY.saturating_mul(400);
const DEFAULT_MAX_VALUE_BYTES: u64 = 65_536;
/// A hundred years: longer is "for ever", and that should not come about by a slip.
const LONGEST_TTL: Duration = DAY.saturating_mul(36_525);
/// Below a second, a token is gone before its answer arrives.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// The largest value that any scope takes: 1 MiB.
pub const VALUE_BYTES_CEILING: u64 = 1 << 20;

/// One `[scopes.NAME]` table, as written. Everything but the prefix of `opaque` tokens has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The token format, `opaque` or `uuid`; `opaque`.
    pub format: Option<String>,
    /// What every token begins with: `[a-z][a-z0-9]{0,15}`. A `uuid` has none.
    pub prefix: Option<String>,
    /// How long a token lives if the call does not say; `30d`.
    pub ttl: Option<String>,
    /// The longest that a token may live; `400d`.
    pub max_ttl: Option<String>,
    /// The largest value in bytes; 65536.
    pub max_value_bytes: Option<u64>,
    /// What a masked answer keeps; nothing.
    pub mask: Option<MaskSettings>,
    /// Whether Detokenize must say what for; true.
    pub purpose_required: Option<bool>,
}

/// How many characters a masked answer keeps at each end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaskSettings {
    /// At the front.
    pub keep_first: u32,
    /// At the end.
    pub keep_last: u32,
}

/// One mistake in the settings of scopes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}; {hint}")]
pub struct Mistake {
    /// The setting, as a dotted path: `scopes.pan.ttl`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// Gathers what is wrong with one scope, so that an operator sees all of it at once.
struct Reader<'a> {
    name: &'a str,
    mistakes: Vec<Mistake>,
}

impl Settings {
    /// The scope that these settings describe, or every mistake in them.
    pub fn build(&self, name: &str) -> Result<Scope, Vec<Mistake>> {
        let mut reader = Reader { name, mistakes: Vec::new() };
        let pattern = reader.pattern();
        let format = reader.format(self.format.as_deref(), self.prefix.as_deref());
        let ttl = reader.lifetime("ttl", self.ttl.as_deref(), DEFAULT_TTL);
        let max_ttl = reader.lifetime("max_ttl", self.max_ttl.as_deref(), DEFAULT_MAX_TTL);
        reader.check_order(ttl, max_ttl);
        let max_value_bytes = reader.value_bytes(self.max_value_bytes.unwrap_or(DEFAULT_MAX_VALUE_BYTES));
        let mask = self.mask.unwrap_or_default();
        match (pattern, format, ttl, max_ttl, max_value_bytes) {
            (Some(pattern), Some(format), Some(ttl), Some(max_ttl), Some(max_value_bytes))
                if reader.mistakes.is_empty() =>
            {
                let mask = Mask::new(mask.keep_first, mask.keep_last);
                let purpose_required = self.purpose_required.unwrap_or(true);
                Ok(Scope { pattern, format, ttl, max_ttl, max_value_bytes, mask, purpose_required })
            }
            _ => Err(reader.mistakes),
        }
    }
}

impl Reader<'_> {
    fn pattern(&mut self) -> Option<Pattern> {
        Pattern::parse(self.name)
            .map_err(|error| self.note(None, error.to_string(), "name scopes like `pan`, `acme/ssn` or `*/ssn`"))
            .ok()
    }

    fn format(&mut self, format: Option<&str>, prefix: Option<&str>) -> Option<token::Format> {
        match format.unwrap_or("opaque") {
            "opaque" => self.prefix(prefix).map(|prefix| token::Format::Opaque { prefix }),
            "uuid" if prefix.is_none() => Some(token::Format::Uuid),
            "uuid" => {
                let what = "stands with `format = \"uuid\"`, whose tokens have no room for one".into();
                self.note(Some("prefix"), what, "leave it out, or choose `format = \"opaque\"`");
                None
            }
            other => {
                let what = format!("`{}` is not a format of this version", other.escape_default());
                self.note(Some("format"), what, "write `opaque` or `uuid`, or leave it out");
                None
            }
        }
    }

    fn prefix(&mut self, prefix: Option<&str>) -> Option<Prefix> {
        let Some(prefix) = prefix else {
            self.note(Some("prefix"), "is missing".into(), "give its tokens a prefix, like `prefix = \"pan\"`");
            return None;
        };
        Prefix::parse(prefix)
            .map_err(|_| {
                let what = "is not a prefix".into();
                self.note(Some("prefix"), what, "write a-z, then up to fifteen of a-z and 0-9, like `pan`");
            })
            .ok()
    }

    fn lifetime(&mut self, key: &str, text: Option<&str>, default: Duration) -> Option<Duration> {
        let Some(text) = text else { return Some(default) };
        let Ok(duration) = humantime::parse_duration(text) else {
            let what = format!("`{}` is not a duration", text.escape_default());
            self.note(Some(key), what, "write a number and a unit, like `90s`, `12h` or `30d`");
            return None;
        };
        if duration < SHORTEST_TTL || duration > LONGEST_TTL || duration.subsec_nanos() % 1_000_000 != 0 {
            let what = format!("`{}` is not a lifetime", text.escape_default());
            self.note(Some(key), what, "a lifetime lies between `1s` and `36525d`, in whole milliseconds");
            return None;
        }
        Some(duration)
    }

    fn check_order(&mut self, ttl: Option<Duration>, max_ttl: Option<Duration>) {
        if let (Some(ttl), Some(max_ttl)) = (ttl, max_ttl)
            && ttl > max_ttl
        {
            let [ttl, max_ttl] = [ttl, max_ttl].map(in_one_unit);
            let what = format!("the default lifetime of {ttl} is above the ceiling of {max_ttl}");
            self.note(Some("ttl"), what, "lower `ttl` or raise `max_ttl`");
        }
    }

    fn value_bytes(&mut self, bytes: u64) -> Option<u32> {
        if !(1..=VALUE_BYTES_CEILING).contains(&bytes) {
            let hint = "choose between 1 and 1048576 (1 MiB); the default is 65536";
            self.note(Some("max_value_bytes"), format!("{bytes} bytes is out of range"), hint);
            return None;
        }
        u32::try_from(bytes).ok()
    }

    fn note(&mut self, key: Option<&str>, what: String, hint: &str) {
        let scope = key_of(self.name);
        let key = key.map_or_else(|| scope.clone(), |key| format!("{scope}.{key}"));
        self.mistakes.push(Mistake { key, what, hint: hint.into() });
    }
}

/// A scope's table as it is written in the configuration: quoted where TOML asks for it.
pub fn key_of(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { format!("scopes.{name}") } else { format!("scopes.\"{}\"", name.escape_default()) }
}
