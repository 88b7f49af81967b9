//! A canonical event, read where it lies.
//!
//! A verifier reads millions of events to look at each once. [`super::decode`] makes an event that can be kept: strings,
//! lists, and the bytes again to compare. A [`View`] borrows, and tells canonical bytes from others by reading strictly:
//! each field once, in order, not at its default, in the shortest spelling. A test holds that both accept the same bytes.

mod render;

#[cfg(test)]
mod tests;

pub use render::Renderer;
pub(crate) use render::{decimal, quoted};

use super::{Action, LENGTH_DELIMITED, Outcome, Time, VARINT, VERSION, sign_extended};
use crate::clock::Timestamp;

/// A canonical event that borrows its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    time: Timestamp,
    action: i32,
    outcome: i32,
    reason: &'a str,
    caller: &'a str,
    certificate_sha256: &'a [u8],
    access_token: Option<AccessToken<'a>>,
    scope: &'a str,
    handles: Repeated<'a>,
    requested: u32,
    succeeded: u32,
    purpose: &'a str,
    request_hash: &'a [u8],
    trace_id: &'a str,
    peer_address: &'a str,
    policies: Repeated<'a>,
    node: &'a str,
    reveal: i32,
    rulebook: &'a [u8],
    item_outcomes: Packed<'a>,
    count: u64,
    first_time: Option<Time>,
    detail: &'a str,
    salt: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AccessToken<'a> {
    issuer: &'a str,
    subject: &'a str,
    token_hash: &'a [u8],
    actor: &'a str,
}

/// The elements of a repeated field, still with their keys and lengths, which have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Repeated<'a> {
    tag: u8,
    encoded: &'a [u8],
}

/// The elements of a packed field of enumerations, which have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed<'a>(&'a [u8]);

/// Encoded fields. Each method takes its field off the front; `None`: the bytes are not canonical.
struct Fields<'a>(&'a [u8]);

impl<'a> View<'a> {
    /// Reads an event as stored. `None`: [`super::decode`] refuses the bytes too, and says why.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes.strip_prefix(&[VERSION])?);
        let view = Self {
            time: Timestamp::try_from(fields.time(3)??).ok()?,
            action: fields.enumeration(4)?,
            outcome: fields.enumeration(5)?,
            reason: fields.text(6)?,
            caller: fields.text(7)?,
            certificate_sha256: fields.bytes(8)?,
            access_token: fields.access_token(9)?,
            scope: fields.text(10)?,
            handles: fields.repeated(11, |_| true)?,
            requested: u32::try_from(fields.number(12)?).ok()?,
            succeeded: u32::try_from(fields.number(13)?).ok()?,
            purpose: fields.text(14)?,
            request_hash: fields.bytes(15)?,
            trace_id: fields.text(16)?,
            peer_address: fields.text(17)?,
            policies: fields.repeated(18, |id| std::str::from_utf8(id).is_ok())?,
            node: fields.text(19)?,
            reveal: fields.enumeration(20)?,
            rulebook: fields.bytes(21)?,
            item_outcomes: fields.packed(22)?,
            count: fields.number(23)?,
            first_time: fields.time(24)?,
            detail: fields.text(25)?,
            salt: fields.bytes(26)?,
        };
        // What is left over is out of order, there twice, or of no field that is known.
        fields.0.is_empty().then_some(view)
    }

    /// When it was written.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// What was asked for.
    pub fn action(&self) -> Action {
        Action::try_from(self.action).unwrap_or(Action::Unspecified)
    }

    /// Whether it was permitted.
    pub fn outcome(&self) -> Outcome {
        Outcome::try_from(self.outcome).unwrap_or(Outcome::Unspecified)
    }

    /// What else belongs to it.
    pub fn detail(&self) -> &'a str {
        self.detail
    }
}

impl<'a> Repeated<'a> {
    fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut fields = Fields(self.encoded);
        std::iter::from_fn(move || if fields.key(self.tag, LENGTH_DELIMITED) { fields.sized() } else { None })
    }
}

impl Packed<'_> {
    fn iter(self) -> impl Iterator<Item = i32> {
        let mut fields = Fields(self.0);
        std::iter::from_fn(move || if fields.0.is_empty() { None } else { fields.signed() })
    }
}

impl<'a> Fields<'a> {
    /// Takes the key of field `tag`, if it is the next.
    fn key(&mut self, tag: u8, wire_type: u8) -> bool {
        // The key's seven low bits and what is above them.
        let (low, high) = ((tag & 0x0f) << 3 | wire_type, tag >> 4);
        let rest = match (high, self.0) {
            (0, [first, rest @ ..]) if *first == low => rest,
            (1.., [first, second, rest @ ..]) if *first == low | 0x80 && *second == high => rest,
            _ => return false,
        };
        self.0 = rest;
        true
    }

    /// A varint in its shortest form.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for at in 0..10 {
            let byte = *self.0.get(at)?;
            let bits = u64::from(byte & 0x7f);
            if at == 9 && bits > 1 {
                return None;
            }
            number |= bits << (7 * at);
            if byte < 0x80 {
                self.0 = &self.0[at + 1..];
                // A last byte of nothing could have been left out.
                return (byte != 0 || at == 0).then_some(number);
            }
        }
        None
    }

    /// A number that fits 32 bits with its sign.
    fn signed(&mut self) -> Option<i32> {
        let number = self.varint()?;
        let small = i32::try_from(number.cast_signed()).ok()?;
        (sign_extended(small) == number).then_some(small)
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (content, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    fn number(&mut self, tag: u8) -> Option<u64> {
        if self.key(tag, VARINT) { self.varint().filter(|number| *number != 0) } else { Some(0) }
    }

    fn enumeration(&mut self, tag: u8) -> Option<i32> {
        if self.key(tag, VARINT) { self.signed().filter(|number| *number != 0) } else { Some(0) }
    }

    fn bytes(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.key(tag, LENGTH_DELIMITED) { self.sized().filter(|bytes| !bytes.is_empty()) } else { Some(&[]) }
    }

    fn text(&mut self, tag: u8) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(tag)?).ok()
    }

    fn repeated(&mut self, tag: u8, good: impl Fn(&[u8]) -> bool) -> Option<Repeated<'a>> {
        let begin = self.0;
        while self.key(tag, LENGTH_DELIMITED) {
            if !good(self.sized()?) {
                return None;
            }
        }
        Some(Repeated { tag, encoded: &begin[..begin.len() - self.0.len()] })
    }

    fn packed(&mut self, tag: u8) -> Option<Packed<'a>> {
        let content = self.bytes(tag)?;
        let mut elements = Fields(content);
        while !elements.0.is_empty() {
            elements.signed()?;
        }
        Some(Packed(content))
    }

    /// A message that is not there is `Some(None)`.
    #[expect(clippy::option_option, reason = "not canonical, not there and there are three things")]
    fn time(&mut self, tag: u8) -> Option<Option<Time>> {
        if !self.key(tag, LENGTH_DELIMITED) {
            return Some(None);
        }
        let mut fields = Self(self.sized()?);
        let time = Time { seconds: fields.number(1)?.cast_signed(), nanos: fields.enumeration(2)? };
        fields.0.is_empty().then_some(Some(time))
    }

    /// As [`Fields::time`].
    #[expect(clippy::option_option, reason = "as for the time")]
    fn access_token(&mut self, tag: u8) -> Option<Option<AccessToken<'a>>> {
        if !self.key(tag, LENGTH_DELIMITED) {
            return Some(None);
        }
        let mut fields = Self(self.sized()?);
        let token = AccessToken {
            issuer: fields.text(1)?,
            subject: fields.text(2)?,
            token_hash: fields.bytes(3)?,
            actor: fields.text(4)?,
        };
        fields.0.is_empty().then_some(Some(token))
    }
}
