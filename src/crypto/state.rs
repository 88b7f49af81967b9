//! The sums over the live records: a keyed multiset hash, brought up to date with each change, in which every record counts
//! once and their order does not.
//!
//! This is MSet-Add-Hash of Clarke, Devadas, van Dijk, Gassend and Suh ("Incremental multiset hash functions and their
//! application to memory integrity checking", ASIACRYPT 2003). A record's *element* is a number of 256 bits that only the
//! state key makes; a sum is taken modulo 2^256, so that a record that goes is subtracted again. Who has no key can't
//! choose records with the same sum, even with all rows at hand.
//!
//! ```text
//! element = HMAC(state key, 0x01 ‖ handle ‖ outer salt ‖ outer tag)      as a number, big endian
//! at rest = random ‖ count ‖ HMAC(state key, 0x00 ‖ group ‖ random) + sum
//! digest  = HMAC(state key, 0x02 ‖ size ‖ count ‖ sum)
//! ```
//!
//! The outer tag stands for every byte of a row, which its lock binds; so two compressions of SHA-256 are enough. At rest a
//! sum is masked with a number that no other sum has, as in the paper: whoever saw plain sums change could collect elements
//! and add them up as he likes. A digest is no sum either.
//!
//! Invariant: nothing here prints, and a plain sum leaves this module only under a mask or a digest.

use std::fmt;
use std::str::FromStr;

use super::record::Imprint;
use super::{Handle, ScopeId, mac};
use crate::clock::Timestamp;
use crate::secret::SecretKey;

/// In front of what is under the key's HMAC: a mask, an element, a digest.
const MASK: u8 = 0;
const ELEMENT: u8 = 1;
const DIGEST: u8 = 2;

const DAY_MILLIS: u64 = 86_400_000;
/// Random bytes of a mask.
pub const RANDOM_BYTES: usize = 16;
/// Random bytes, count and masked sum.
pub const MASKED_LENGTH: usize = RANDOM_BYTES + 8 + 32;
/// In front of the extension line of a checkpoint.
const WORD: &str = "state";

/// Makes elements, masks and digests.
pub struct StateKey(mac::Keyed);

/// Records that are summed up together: those of one scope that were issued on one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// Under whose rules they are.
    pub scope: ScopeId,
    /// Days since 1970-01-01, UTC.
    pub day: u32,
}

/// Some records: how many there are, and the sum of their elements. Also what a change adds, where fewer records are a
/// number below zero, modulo 2^64 as the sum is modulo 2^256.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    records: u64,
    sum: Number,
}

/// What may be known of all records: in a checkpoint, it says which they were when the log had its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateDigest {
    /// How many there are.
    pub records: u64,
    /// Of the log's size, the number of records and the sum over all of them.
    pub digest: [u8; 32],
}

/// A text is not the line of a checkpoint that says which records there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not `state`, a number of records and 64 hexadecimal digits")]
pub struct BadStateLine;

/// Of 256 bits, the lowest 64 first.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Number([u64; 4]);

// === impl StateKey ===

impl StateKey {
    /// From the unwrapped key.
    pub fn new(key: SecretKey) -> Self {
        Self(mac::Keyed::new(key.expose()))
    }

    /// One record, as it is now.
    pub fn record(&self, handle: &Handle, imprint: &Imprint) -> Tally {
        // With its length in front and SHA-256's padding behind, this fills one block exactly.
        let mut element = [ELEMENT; 1 + Handle::LENGTH + 32];
        element[1..=Handle::LENGTH].copy_from_slice(handle.as_bytes());
        element[1 + Handle::LENGTH..][..16].copy_from_slice(&imprint.outer_salt);
        element[1 + Handle::LENGTH + 16..].copy_from_slice(&imprint.outer_tag);
        Tally { records: 1, sum: Number::from_bytes(self.0.tag([&element])) }
    }

    /// As it is stored: of a group, or of all if there is none. `random` is fresh each time.
    pub fn mask(&self, of: Option<Group>, random: [u8; RANDOM_BYTES], tally: &Tally) -> [u8; MASKED_LENGTH] {
        let mut masked = [0; MASKED_LENGTH];
        let sum = self.mask_number(of, &random).plus(tally.sum);
        masked[..RANDOM_BYTES].copy_from_slice(&random);
        masked[RANDOM_BYTES..][..8].copy_from_slice(&tally.records.to_be_bytes());
        masked[RANDOM_BYTES + 8..].copy_from_slice(&sum.to_bytes());
        masked
    }

    /// What was stored so. It is whatever it is: only a comparison tells whether it is right.
    pub fn unmask(&self, of: Option<Group>, masked: &[u8; MASKED_LENGTH]) -> Tally {
        let (random, rest) = masked.split_first_chunk().expect("16 bytes are fewer than 56");
        let (records, sum) = rest.split_first_chunk().expect("8 bytes are fewer than 40");
        let sum = Number::from_bytes(sum.try_into().expect("32 bytes are left"));
        Tally { records: u64::from_be_bytes(*records), sum: sum.minus(self.mask_number(of, random)) }
    }

    /// All records, when the log had so many events.
    pub fn digest(&self, size: u64, total: &Tally) -> StateDigest {
        let mut content = [DIGEST; 1 + 8 + 8 + 32];
        content[1..9].copy_from_slice(&size.to_be_bytes());
        content[9..17].copy_from_slice(&total.records.to_be_bytes());
        content[17..].copy_from_slice(&total.sum.to_bytes());
        StateDigest { records: total.records, digest: self.0.tag([&content]) }
    }

    fn mask_number(&self, of: Option<Group>, random: &[u8; RANDOM_BYTES]) -> Number {
        let mut content = Vec::with_capacity(1 + Group::LENGTH + RANDOM_BYTES);
        content.push(MASK);
        content.extend(of.iter().flat_map(|group| group.to_bytes()));
        content.extend_from_slice(random);
        Number::from_bytes(self.0.tag([&content]))
    }
}

// === impl Group ===

impl Group {
    /// Of its key, in bytes.
    pub const LENGTH: usize = 8;

    /// The group of a record.
    pub fn of(imprint: &Imprint) -> Self {
        Self { scope: imprint.scope, day: day(imprint.created) }
    }

    /// The key of its row.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..4].copy_from_slice(&self.scope.0.to_be_bytes());
        bytes[4..].copy_from_slice(&self.day.to_be_bytes());
        bytes
    }

    /// The group of a row with this key, if it has the length of one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (scope, day) = bytes.split_first_chunk()?;
        let day = u32::from_be_bytes(day.try_into().ok()?);
        Some(Self { scope: ScopeId(u32::from_be_bytes(*scope)), day })
    }

    /// When its day begins.
    pub fn begins(&self) -> Timestamp {
        Timestamp::from_millis(u64::from(self.day) * DAY_MILLIS)
    }
}

/// Days since 1970-01-01, UTC.
pub fn day(time: Timestamp) -> u32 {
    u32::try_from(time.millis() / DAY_MILLIS).unwrap_or(u32::MAX)
}

// === impl Tally ===

impl Tally {
    /// How many records.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// These and `other` together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self { records: self.records.wrapping_add(other.records), sum: self.sum.plus(other.sum) }
    }

    /// These without `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self { records: self.records.wrapping_sub(other.records), sum: self.sum.minus(other.sum) }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

// === impl Number ===

impl Number {
    fn from_bytes(bytes: [u8; 32]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        Self(std::array::from_fn(|place| u64::from_be_bytes(words[3 - place])))
    }

    fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *word = self.0[3 - place].to_be_bytes();
        }
        bytes
    }

    /// Modulo 2^256.
    fn plus(self, other: Self) -> Self {
        let mut carry = false;
        Self(std::array::from_fn(|place| {
            let (sum, over) = self.0[place].overflowing_add(other.0[place]);
            let (sum, over_again) = sum.overflowing_add(carry.into());
            carry = over || over_again;
            sum
        }))
    }

    /// Modulo 2^256.
    fn minus(self, other: Self) -> Self {
        let mut borrow = false;
        Self(std::array::from_fn(|place| {
            let (rest, under) = self.0[place].overflowing_sub(other.0[place]);
            let (rest, under_again) = rest.overflowing_sub(borrow.into());
            borrow = under || under_again;
            rest
        }))
    }
}

// === the line of a checkpoint ===

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WORD} {} {}", self.records, hex::encode(self.digest))
    }
}

impl FromStr for StateDigest {
    type Err = BadStateLine;

    fn from_str(line: &str) -> Result<Self, BadStateLine> {
        let mut words = line.split(' ');
        let (Some(WORD), Some(records), Some(digits), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(BadStateLine);
        };
        let mut digest = [0; 32];
        hex::decode_to_slice(digits, &mut digest).map_err(|_| BadStateLine)?;
        let parsed = Self { records: records.parse().map_err(|_| BadStateLine)?, digest };
        // One spelling only.
        if parsed.to_string() == line { Ok(parsed) } else { Err(BadStateLine) }
    }
}

#[cfg(test)]
mod tests;
