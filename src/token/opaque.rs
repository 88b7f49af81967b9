//! The default format: `pan_` and 33 base62 characters.
//!
//! `prefix ‖ "_" ‖ body (27) ‖ checksum (6)`. The body is the number made of the 4 masked and then the 16 random bytes,
//! the checksum the CRC-32 of everything before it, both in base62. The checksum is no protection against anyone but
//! typing errors; it lets a vault refuse them without a read and a scanner find leaked tokens with one expression.

mod base62;

use std::fmt;

use super::{Canonical, Malformed, Parsed, Text};

/// Bytes of the longest prefix.
pub(super) const LONGEST_PREFIX: usize = 16;
/// Random bytes of a token.
pub(super) const RANDOM_BYTES: usize = 16;

const BODY_BYTES: usize = 4 + RANDOM_BYTES;
const BODY_CHARS: usize = 27;
const CHECKSUM_CHARS: usize = 6;

/// What a scope's tokens begin with: `[a-z][a-z0-9]{0,15}`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    bytes: [u8; LONGEST_PREFIX],
    length: u8,
}

/// What is wrong with a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a prefix is a lower-case letter and up to fifteen lower-case letters or digits")]
pub struct BadPrefix;

/// Reads a token, whatever its prefix.
pub fn parse(text: &str) -> Result<Parsed, Malformed> {
    let (prefix, number) = text.split_once('_').ok_or(Malformed::Shape)?;
    let prefix = Prefix::parse(prefix).map_err(|_| Malformed::Shape)?;
    let number: &[u8; BODY_CHARS + CHECKSUM_CHARS] = number.as_bytes().try_into().map_err(|_| Malformed::Shape)?;
    if !number.iter().copied().all(base62::is_digit) {
        return Err(Malformed::Alphabet);
    }
    let (checked, claimed) = text.as_bytes().split_at(text.len() - CHECKSUM_CHARS);
    if checksum(checked) != claimed {
        return Err(Malformed::Checksum);
    }
    let (body, _) = number.split_first_chunk::<BODY_CHARS>().expect("27 characters are fewer than 33");
    let body = base62::decode(body).ok_or(Malformed::OutOfRange)?;
    let (masked, random) = body.split_first_chunk().expect("4 bytes are fewer than 20");
    Ok(Parsed { canonical: Canonical::new(prefix.as_str().as_bytes(), random), masked: Some(*masked) })
}

/// Writes a token.
pub fn assemble(prefix: &Prefix, masked: [u8; 4], random: &[u8; RANDOM_BYTES]) -> Text {
    let mut body = [0; BODY_BYTES];
    body[..4].copy_from_slice(&masked);
    body[4..].copy_from_slice(random);
    // With its full capacity from the start: a buffer that grows leaves a copy behind.
    let mut text = String::with_capacity(LONGEST_PREFIX + 1 + BODY_CHARS + CHECKSUM_CHARS);
    text.push_str(prefix.as_str());
    text.push('_');
    push_digits(&mut text, &base62::encode(&body));
    let checksum = checksum(text.as_bytes());
    push_digits(&mut text, &checksum);
    Text::new(text)
}

/// What makes the token: its own prefix, so that a scope may change its prefix and old tokens stay good, and its random
/// bytes. The masked second is not part of it, since the mask follows from these.
pub(super) fn canonical(prefix: &Prefix, random: &[u8; RANDOM_BYTES]) -> Canonical {
    Canonical::new(prefix.as_str().as_bytes(), random)
}

/// All at once: one character at a time takes as long as the token's HMAC.
fn push_digits(text: &mut String, digits: &[u8]) {
    text.push_str(str::from_utf8(digits).expect("base62 digits are UTF-8"));
}

fn checksum(text: &[u8]) -> [u8; CHECKSUM_CHARS] {
    base62::encode_small(crc32fast::hash(text))
}

impl Prefix {
    /// A prefix, if the text is one.
    pub fn parse(text: &str) -> Result<Self, BadPrefix> {
        let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let begins_with_letter = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        if !begins_with_letter || text.len() > LONGEST_PREFIX || !text.as_bytes().iter().all(allowed) {
            return Err(BadPrefix);
        }
        let mut bytes = [0; LONGEST_PREFIX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes, length: u8::try_from(text.len()).map_err(|_| BadPrefix)? })
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("lower-case letters and digits are UTF-8")
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
