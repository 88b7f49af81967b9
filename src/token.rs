//! Tokens: how they look, how they are made and checked.
//!
//! A token is random; nothing in it is derived from the value. What it is inside the vault, its handle, follows from its
//! canonical bytes under the index key. This module draws no random numbers and looks nothing up: it does not know
//! whether a well-formed token exists.

pub mod opaque;
mod uuid;

use crate::clock::Timestamp;
use crate::crypto::{Handle, IndexKey, ScopeId};
use crate::secret::Secret;

/// 2020-01-01T00:00:00Z, from which the second of issue counts. It lasts until 2156.
const EPOCH_SECONDS: u64 = 1_577_836_800;

/// How a scope's tokens look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// `pan_` and 33 base62 characters: 128 random bits, the masked second of issue and a checksum.
    Opaque {
        /// What the scope's tokens begin with.
        prefix: opaque::Prefix,
    },
    /// A version 4 UUID: 122 random bits.
    Uuid,
}

/// A token as it is written. It is not printed and wipes itself.
pub struct Text(Secret<String>);

/// The bytes that make a token what it is: handle and inner lock follow from them. They are never stored.
pub struct Canonical {
    bytes: Secret<[u8; CANONICAL_BYTES]>,
    length: usize,
}

/// The longest canonical bytes of any format: a prefix and 16 random bytes.
const CANONICAL_BYTES: usize = opaque::LONGEST_PREFIX + opaque::RANDOM_BYTES;

/// A well-formed token. Whether it exists is another question.
pub struct Parsed {
    /// What handle and inner lock follow from.
    pub canonical: Canonical,
    /// The second of issue, masked. `None` in formats without room for it: their handles have second 0.
    pub masked: Option<[u8; 4]>,
}

/// A new token.
pub struct Issued {
    /// For the caller.
    pub text: Text,
    /// For the inner lock.
    pub canonical: Canonical,
    /// Its name from now on.
    pub handle: Handle,
}

/// Why a text is not a token, decided from its bytes alone. The messages do not repeat them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Length, prefix or separators.
    #[error(
        "the length, the prefix or a separator is not that of the scope's tokens; send it whole, without spaces around it"
    )]
    Shape,
    /// A character that tokens don't have in this place.
    #[error("there is a character that tokens don't have; send it as it was issued")]
    Alphabet,
    /// A mistyped or damaged token.
    #[error("the token's checksum is wrong: at least one character was changed; copy it again")]
    Checksum,
    /// A number that no token stands for.
    #[error("the token's number is larger than any that is issued; it does not come from this software")]
    OutOfRange,
    /// A UUID that is not made of random bits.
    #[error("it is a UUID, but not of version 4; it does not come from this software")]
    Version,
}

/// The second of issue at `now`: since 2020, and no earlier or later than 32 bits reach.
pub fn second(now: Timestamp) -> u32 {
    u32::try_from(now.seconds().saturating_sub(EPOCH_SECONDS)).unwrap_or(u32::MAX)
}

/// When a second of issue began, as [`second`] counts them.
pub fn time_of(second: u32) -> Timestamp {
    Timestamp::from_millis((EPOCH_SECONDS + u64::from(second)) * 1000)
}

/// Makes a token from fresh random bytes, and names it. Formats without room for the second leave it out.
pub fn issue(format: &Format, index_key: &IndexKey, scope: ScopeId, second: u32, random: [u8; 16]) -> Issued {
    match format {
        Format::Opaque { prefix } => {
            let canonical = opaque::canonical(prefix, &random);
            let located = index_key.locate(scope, canonical.expose());
            let masked = mask(second.to_be_bytes(), located.mask);
            let text = opaque::assemble(prefix, masked, &random);
            Issued { text, canonical, handle: Handle::new(second, located.tail) }
        }
        Format::Uuid => {
            let canonical = uuid::canonical(random);
            let located = index_key.locate(scope, canonical.expose());
            Issued { text: uuid::assemble(&canonical), canonical, handle: Handle::new(0, located.tail) }
        }
    }
}

/// Reads a token of the scope's format. One with another scope's prefix is well formed; it just names nothing here.
pub fn parse(format: &Format, text: &str) -> Result<Parsed, Malformed> {
    match format {
        Format::Opaque { .. } => opaque::parse(text),
        Format::Uuid => uuid::parse(text),
    }
}

/// Reads a token of whatever format. No text is one of two. The work does not depend on which format somebody hoped for.
pub fn parse_any(text: &str) -> Result<Parsed, Malformed> {
    opaque::parse(text).or_else(|_| uuid::parse(text))
}

/// The name that a token has in `scope`, if it exists there.
pub fn locate(parsed: &Parsed, index_key: &IndexKey, scope: ScopeId) -> Handle {
    let located = index_key.locate(scope, parsed.canonical.expose());
    let second = parsed.masked.map_or(0, |masked| u32::from_be_bytes(mask(masked, located.mask)));
    Handle::new(second, located.tail)
}

fn mask(second: [u8; 4], mask: [u8; 4]) -> [u8; 4] {
    std::array::from_fn(|i| second[i] ^ mask[i])
}

impl Parsed {
    /// Whether it is one of this format. What else the format says, a prefix, is no part of that.
    pub fn is_of(&self, format: &Format) -> bool {
        match format {
            Format::Opaque { .. } => self.masked.is_some(),
            Format::Uuid => self.masked.is_none(),
        }
    }
}

impl Text {
    fn new(text: String) -> Self {
        Self(Secret::new(text))
    }

    /// A token that was issued before.
    pub fn remembered(token: Secret<String>) -> Self {
        Self(token)
    }

    /// The token. Named so that each use can be found and asked why.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Hands the token to a reply that must own it.
    pub fn into_exposed(mut self) -> String {
        std::mem::take(self.0.expose_mut())
    }
}

impl Canonical {
    fn new(prefix: &[u8], random: &[u8]) -> Self {
        let mut bytes = Secret::new([0; CANONICAL_BYTES]);
        let (front, rest) = bytes.expose_mut().split_at_mut(prefix.len());
        front.copy_from_slice(prefix);
        rest[..random.len()].copy_from_slice(random);
        Self { bytes, length: prefix.len() + random.len() }
    }

    /// The bytes, for the index key and the inner lock.
    pub fn expose(&self) -> &[u8] {
        &self.bytes.expose()[..self.length]
    }
}

impl Malformed {
    /// A fixed word for events, metrics and error details.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Shape => "token_shape",
            Self::Alphabet => "token_alphabet",
            Self::Checksum => "token_checksum",
            Self::OutOfRange => "token_out_of_range",
            Self::Version => "token_version",
        }
    }
}

#[cfg(test)]
mod tests;
