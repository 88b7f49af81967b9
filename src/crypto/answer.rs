//! The lock on a remembered answer.
//!
//! ```text
//! HMAC "answer", request id, which the vault does not keep, under the request key
//! └─ HKDF "answer", vault, name, payload's hash, salt ──▶ seals one answer, once
//! ```
//!
//! Who has the database and every key of the vault, but not the request id, can't open it; nor can who has the request id
//! and no key. Another payload does not open it either.

use super::aead::{OneTimeKey, TAG_BYTES};
use super::kdf::Source;
use super::{ANSWER, VaultId};
use crate::clock::Timestamp;
use crate::secret::{SecretBytes, SecretKey};

const FORMAT: u8 = 1;
const SALT_BYTES: usize = 16;
/// Format, the end of its time, salt.
const HEADER_BYTES: usize = 1 + 8 + SALT_BYTES;

/// What a remembered answer is bound to.
#[derive(Clone, Copy)]
pub struct Lock<'a> {
    /// Of the vault.
    pub vault: &'a VaultId,
    /// The row's key, see [`super::RequestKey::locate`].
    pub name: &'a [u8; 32],
    /// See [`super::RequestKey::answer_secret`].
    pub secret: &'a SecretKey,
    /// The hash of everything that was asked for.
    pub payload: &'a [u8; 32],
}

/// The row is not one of this version.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Another payload, another request id, or a row that was edited.
#[derive(Debug, PartialEq, Eq)]
pub struct DoesNotOpen;

/// A row of `requests`.
pub struct Row<'a> {
    bytes: &'a [u8],
    /// From then on it counts as forgotten.
    pub until: Timestamp,
}

impl Lock<'_> {
    /// The row: version, end, salt, sealed answer.
    pub fn seal(&self, until: Timestamp, salt: [u8; SALT_BYTES], answer: &SecretBytes) -> Vec<u8> {
        let mut row = Vec::with_capacity(HEADER_BYTES + answer.len() + TAG_BYTES);
        row.push(FORMAT);
        row.extend_from_slice(&until.millis().to_be_bytes());
        row.extend_from_slice(&salt);
        row.extend_from_slice(answer.expose());
        let (header, text) = row.split_at_mut(HEADER_BYTES);
        let tag = self.key(&salt).seal(header, text);
        row.extend_from_slice(&tag);
        row
    }

    /// The answer in a row.
    ///
    /// # Errors
    /// If it was not sealed under this lock.
    pub fn open(&self, row: &Row<'_>) -> Result<SecretBytes, DoesNotOpen> {
        let (header, sealed) = row.bytes.split_at(HEADER_BYTES);
        let (text, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(DoesNotOpen)?;
        let salt = header.last_chunk().ok_or(DoesNotOpen)?;
        let mut answer = SecretBytes::new(text.to_vec());
        self.key(salt).open(header, answer.expose_mut(), tag).map_err(|_| DoesNotOpen)?;
        Ok(answer)
    }

    fn key(&self, salt: &[u8; SALT_BYTES]) -> OneTimeKey {
        let source = Source::from_secret(self.secret.expose());
        OneTimeKey::new(source.derive([ANSWER, &self.vault.0, self.name, self.payload, salt]))
    }
}

impl<'a> Row<'a> {
    /// Takes a row apart. Nothing of it is believed before [`Lock::open`].
    ///
    /// # Errors
    /// If it is not a row of this version.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.first() != Some(&FORMAT) || bytes.len() < HEADER_BYTES + TAG_BYTES {
            return Err(Malformed);
        }
        let until = bytes[1..].first_chunk().map(|until| u64::from_be_bytes(*until)).ok_or(Malformed)?;
        Ok(Self { bytes, until: Timestamp::from_millis(until) })
    }
}
