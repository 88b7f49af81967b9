//! What was given for a setting, and how it becomes a value of the right kind.
//!
//! Each function here refuses with words that end a message "file:line: key: …" and say what would be right. Settings
//! hold no secrets (only the paths of files that do), so what was given may be repeated.

use crate::clock::in_one_unit;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use crate::https::{Base, BaseError};
use crate::merkle::note::{KeyError, VerifierKey, WitnessVerifier};

/// A value of the file, or a variable's text.
#[derive(Clone, Copy)]
pub(super) enum Given<'g> {
    Toml(&'g DeValue<'g>),
    Text(&'g str),
}

/// What was given, word for word, to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    /// A number, or true or false.
    Plain(String),
    Text(String),
    Texts(Vec<String>),
}

/// Units of time, longest first so that `ms` is not read as minutes.
const TIME_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Units of size.
const SIZE_UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

impl<'g> Given<'g> {
    /// It word for word. Nothing that a reader accepts is anything else than this knows.
    pub(super) fn written(self) -> Written {
        match self {
            Given::Text(text) => Written::Text(text.to_owned()),
            Given::Toml(DeValue::String(text)) => Written::Text(text.to_string()),
            Given::Toml(DeValue::Integer(number)) => {
                let decimal = u64::from_str_radix(number.as_str(), number.radix());
                Written::Plain(decimal.map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()))
            }
            Given::Toml(DeValue::Array(items)) => {
                let texts = items.iter().filter_map(|item| item.get_ref().as_str());
                Written::Texts(texts.map(str::to_owned).collect())
            }
            Given::Toml(DeValue::Boolean(value)) => Written::Plain(value.to_string()),
            Given::Toml(DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_)) => Written::Plain(String::new()),
        }
    }

    fn text(self) -> Result<&'g str, String> {
        match self {
            Given::Text(text) => Ok(text),
            Given::Toml(DeValue::String(text)) => Ok(text),
            Given::Toml(other) => Err(format!("must be a text in quotes, not {}", kind(other))),
        }
    }
}

/// Any text that is not empty.
pub(super) fn text(given: Given<'_>) -> Result<String, String> {
    match given.text()? {
        "" => Err("must not be empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// A list of texts.
pub(super) fn texts(given: Given<'_>) -> Result<Vec<String>, String> {
    each(given)?.map(text).collect()
}

fn each(given: Given<'_>) -> Result<impl Iterator<Item = Given<'_>>, String> {
    match given {
        Given::Toml(DeValue::Array(items)) => Ok(items.iter().map(|item| Given::Toml(item.get_ref()))),
        _ => Err("must be a list of texts, such as [\"a\", \"b\"]".to_owned()),
    }
}

/// `true` or `false`.
pub(super) fn boolean(given: Given<'_>) -> Result<bool, String> {
    match given {
        Given::Toml(DeValue::Boolean(value)) => Ok(*value),
        Given::Text("true") => Ok(true),
        Given::Text("false") => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// A path; a relative one starts at `folder`.
pub(super) fn path(folder: &Path) -> impl Fn(Given<'_>) -> Result<PathBuf, String> {
    move |given| name(given).map(|name| folder.join(name))
}

/// A list of paths.
pub(super) fn paths(folder: &Path) -> impl Fn(Given<'_>) -> Result<Vec<PathBuf>, String> {
    move |given| {
        let names = each(given)?.map(name);
        names.map(|name| name.map(|name| folder.join(name))).collect()
    }
}

/// What a file may be called. A NUL is refused by the system, much later; other control characters nobody means.
fn name(given: Given<'_>) -> Result<String, String> {
    let name = text(given)?;
    if name.contains(char::is_control) { Err("must not have control characters".to_owned()) } else { Ok(name) }
}

/// An IP address and a port.
pub(super) fn address(given: Given<'_>) -> Result<SocketAddr, String> {
    let text = given.text()?;
    text.parse()
        .map_err(|_| format!("`{text}` is not an IP address and a port, such as \"127.0.0.1:7443\" or \"[::1]:7443\""))
}

/// Where an HTTP server is.
pub(super) fn url(given: Given<'_>) -> Result<Base, String> {
    given.text()?.parse().map_err(|error: BaseError| error.to_string())
}

/// A witness's public key: the line in `witness.vkey`.
pub(super) fn witness_key(given: Given<'_>) -> Result<WitnessVerifier, String> {
    given.text()?.parse().map_err(|error: KeyError| format!("must be the line in the witness's witness.vkey: {error}"))
}

/// A log's public key: the line in `log.vkey`.
pub(super) fn log_key(given: Given<'_>) -> Result<VerifierKey, String> {
    given.text()?.parse().map_err(|error: KeyError| format!("must be the line in the vault's log.vkey: {error}"))
}

/// A DNS name or an IP address, and a port.
pub(super) fn host_and_port(given: Given<'_>) -> Result<(String, u16), String> {
    let text = given.text()?;
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let inner = |host: &str| host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).map(str::to_owned);
    let is_name =
        |host: &str| !host.is_empty() && host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
    match parts {
        Some((host, port)) if port > 0 && is_name(host) => Ok((host.to_owned(), port)),
        Some((host, port)) if port > 0 && inner(host).is_some_and(|host| host.parse::<Ipv6Addr>().is_ok()) => {
            Ok((host.to_owned(), port))
        }
        _ => Err(format!("`{text}` must be a host and a port, such as \"siem.example.com:6514\" or \"[::1]:6514\"")),
    }
}

/// An address that begins with `http://` or `https://` and has a path. Logs are posted to `/v1/logs` if it has none.
pub(super) fn web_address(given: Given<'_>) -> Result<http::Uri, String> {
    let text = given.text()?;
    let wrong = || format!("`{text}` must be a web address, such as \"https://collector.example.com:4318/v1/logs\"");
    let parts = text.parse::<http::Uri>().map_err(|_| wrong())?.into_parts();
    let authority = parts.authority.filter(|authority| !authority.host().is_empty()).ok_or_else(wrong)?;
    if authority.as_str().contains('@') {
        return Err("must not hold a name or password: settings hold no secrets. Use a client certificate".to_owned());
    }
    let scheme = parts.scheme.filter(|scheme| ["http", "https"].contains(&scheme.as_str())).ok_or_else(wrong)?;
    let path = match parts.path_and_query.as_ref().map_or("", |path| path.as_str()) {
        "" | "/" => "/v1/logs",
        path => path,
    };
    http::Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().map_err(|_| wrong())
}

/// A short name that can be a file's.
pub(super) fn short_name(given: Given<'_>) -> Result<String, String> {
    let text = given.text()?;
    let may_stand = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    match text.len() {
        1..=32 if text.bytes().all(may_stand) => Ok(text.to_owned()),
        _ => Err(format!("`{text}` must be 1 to 32 of a-z, 0-9, - and _")),
    }
}

/// What a process is called in events: it stands in every one, so it is short and plain.
pub(super) fn node_name(given: Given<'_>) -> Result<String, String> {
    let text = text(given)?;
    let may_stand = |c: u8| c.is_ascii_alphanumeric() || b"-_.:".contains(&c);
    if text.len() <= 64 && text.bytes().all(may_stand) {
        Ok(text)
    } else {
        Err("must be 1 to 64 of A-Z, a-z, 0-9, -, _, . and :".to_owned())
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(Given<'_>) -> Result<T, String> {
    move |given| {
        let text = given.text()?;
        choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            format!("\"{text}\" does not exist; use {}", words.join(" or "))
        })
    }
}

/// A whole number within `range`.
pub(super) fn integer<T>(range: RangeInclusive<u64>) -> impl Fn(Given<'_>) -> Result<T, String>
where
    T: TryFrom<u64>,
{
    move |given| {
        let number = match given {
            Given::Toml(DeValue::Integer(number)) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            Given::Text(text) => text.parse().ok(),
            Given::Toml(other) => return Err(format!("must be a whole number, not {}", kind(other))),
        };
        number
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A size in bytes within `range`: a whole number, or a text with a unit such as `256MiB`.
pub(super) fn bytes(range: RangeInclusive<u64>) -> impl Fn(Given<'_>) -> Result<usize, String> {
    move |given| {
        let number = match given {
            Given::Toml(DeValue::String(text)) => measured(text, &SIZE_UNITS),
            Given::Text(text) if text.ends_with('B') => measured(text, &SIZE_UNITS),
            plain => return integer(range.clone())(plain),
        };
        number.filter(|number| range.contains(number)).and_then(|number| usize::try_from(number).ok()).ok_or_else(
            || format!("must be a size from {} to {} bytes, such as 65536 or \"256MiB\"", range.start(), range.end()),
        )
    }
}

/// A duration such as `90s` or `30d`, within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(Given<'_>) -> Result<Duration, String> {
    move |given| {
        let text = given.text().map_err(|_| "must be a duration in quotes, such as \"90s\" or \"30d\"".to_owned())?;
        let found = length_of_time(text);
        let found = found.ok_or_else(|| {
            format!("`{text}` is not a duration: write a whole number and one of ms, s, m, h, d, w, such as \"90s\" or \"30d\"")
        })?;
        if range.contains(&found) {
            return Ok(found);
        }
        Err(format!("must be at least {} and at most {}", in_one_unit(*range.start()), in_one_unit(*range.end())))
    }
}

/// A whole number and a unit, such as `90s` or `30d`: as durations are written everywhere.
pub(super) fn length_of_time(text: &str) -> Option<Duration> {
    measured(text, &TIME_UNITS).map(Duration::from_millis)
}

/// A whole number followed by a unit.
fn measured(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
