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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const UNTIL: Timestamp = Timestamp::from_millis(1_794_528_000_123);
    const SHORTEST: usize = HEADER_BYTES + TAG_BYTES;

    /// Everything that a lock is made of.
    struct Parts {
        vault: VaultId,
        name: [u8; 32],
        secret: SecretKey,
        payload: [u8; 32],
    }

    impl Parts {
        fn new() -> Self {
            Self { vault: VaultId([1; 16]), name: [2; 32], secret: Secret::new([3; 32]), payload: [4; 32] }
        }

        fn lock(&self) -> Lock<'_> {
            Lock { vault: &self.vault, name: &self.name, secret: &self.secret, payload: &self.payload }
        }

        fn open(&self, row: &[u8]) -> Option<SecretBytes> {
            let row = Row::parse(row).ok()?;
            self.lock().open(&row).ok()
        }
    }

    fn sealed(answer: &[u8]) -> Vec<u8> {
        Parts::new().lock().seal(UNTIL, [5; SALT_BYTES], &Secret::new(answer.to_vec()))
    }

    #[test]
    fn an_answer_comes_back_with_its_time_and_not_in_the_clear() {
        for answer in [&b""[..], b"a", b"cr1_pan_0123456789abcdef"] {
            let row = sealed(answer);
            assert_eq!(row.len(), SHORTEST + answer.len());
            assert_eq!(Row::parse(&row).unwrap().until, UNTIL);
            assert!(Parts::new().open(&row).is_some_and(|opened| opened.matches(answer)));
            assert!(answer.len() < 2 || !row.windows(answer.len()).any(|window| window == answer));
        }
    }

    #[test]
    fn only_the_same_request_opens_it() {
        let row = sealed(b"answer");
        let others = [
            Parts { vault: VaultId([9; 16]), ..Parts::new() },
            Parts { name: [9; 32], ..Parts::new() },
            Parts { secret: Secret::new([9; 32]), ..Parts::new() },
            Parts { payload: [9; 32], ..Parts::new() },
        ];
        assert!(others.iter().all(|other| other.open(&row).is_none()));
        assert!(Parts::new().open(&row).is_some());
    }

    #[test]
    fn a_row_with_any_bit_changed_does_not_open() {
        let row = sealed(b"answer");
        for bit in 0..row.len() * 8 {
            let mut changed = row.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Parts::new().open(&changed).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_too_short_or_of_another_version_is_no_row() {
        let row = sealed(b"");
        assert_eq!(row.len(), SHORTEST);
        for length in 0..SHORTEST {
            assert_eq!(Row::parse(&row[..length]).err(), Some(Malformed), "{length} bytes");
        }
        for format in (0..=u8::MAX).filter(|format| *format != FORMAT) {
            assert_eq!(Row::parse(&[&[format][..], &row[1..]].concat()).err(), Some(Malformed), "format {format}");
        }
        assert!(Row::parse(&row).is_ok());
    }
}
