//! A token's row, format 1, and its two locks.
//!
//! ```text
//! 0   format, 1                       1
//! 1   flags: which optional fields    1   1 = uses left, 2 = subject, 4 = fingerprint; no others
//! 2   state                           1   1 = active, 2 = revoked, 3 = suspended
//! 3   scope id                        4
//! 7   index key version               4
//! 11  data key version                4
//! 15  record version                  4
//! 19  created                         8   milliseconds since 1970; so the next two
//! 27  changed                         8
//! 35  expires                         8
//! 43  uses left, if flagged           4
//!     subject, if flagged            32
//!     fingerprint, if flagged        32
//!     inner salt                     16
//!     outer salt                     16
//!     sealed                          outer(inner(padded value) ‖ inner tag) ‖ outer tag
//! ```
//!
//! Numbers are big endian. The inner lock is made once, from the token; what it binds never changes: format (by its
//! label), vault, scope, handle, created. The outer lock is made anew at each change, from the data key; it binds vault,
//! scope and handle through its key and every byte in front of `sealed` as associated data. The value is padded, with its
//! length in front, so that a row's length tells little of it.
//!
//! Invariant: a header is believed only after the outer lock opened. This module does not know what the states mean, nor
//! whether an older authentic row was put back.

mod padding;

use super::aead::{OneTimeKey, TAG_BYTES};
use super::{DataKey, Handle, KeyVersion, ScopeId, VaultId, inner_key};
use crate::clock::Timestamp;
use crate::secret::{Secret, SecretBytes};

/// The format that this program writes, and the only one that it reads.
const FORMAT: u8 = 1;

const HAS_USES_LEFT: u8 = 1;
const HAS_SUBJECT: u8 = 2;
const HAS_FINGERPRINT: u8 = 4;
const KNOWN_FLAGS: u8 = HAS_USES_LEFT | HAS_SUBJECT | HAS_FINGERPRINT;

const LONGEST_HEADER: usize = 43 + 4 + 32 + 32;
const SALT_BYTES: usize = 16;

/// A card number, padded.
pub const CARD_PADDED_BYTES: usize = 32;

/// What a row says about its token, in clear but authenticated by the outer lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether it may be used.
    pub state: State,
    /// Under whose rules. Never changes.
    pub scope: ScopeId,
    /// Which index key made its handle. Never changes.
    pub index_key: KeyVersion,
    /// Which of the scope's data keys makes its outer lock.
    pub data_key: KeyVersion,
    /// Counts the changes of this row.
    pub record_version: u32,
    /// When the token was issued. Never changes.
    pub created: Timestamp,
    /// When the row was last changed.
    pub changed: Timestamp,
    /// From when on the token is dead.
    pub expires: Timestamp,
    /// How often its value may still be released. `None`: without limit.
    pub uses_left: Option<u32>,
    /// Keyed hash of the person that the value is about.
    pub subject: Option<[u8; 32]>,
    /// Keyed fingerprint of the value, in scopes where equal values share a token.
    pub fingerprint: Option<[u8; 32]>,
}

/// Whether a token may be used. Expiry and remaining uses stand beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It may.
    Active = 1,
    /// Never again.
    Revoked = 2,
    /// Not for now.
    Suspended = 3,
}

/// Fresh random bytes, 16 for each lock. Drawn anew for each row, else a key would seal twice.
pub struct Salts {
    /// For the inner lock. It stays with the record.
    pub inner: [u8; SALT_BYTES],
    /// For the outer lock. Each change needs a new one.
    pub outer: [u8; SALT_BYTES],
}

/// A row that has the shape of a record. Nothing about it is proven yet.
pub struct Record<'r> {
    header: Header,
    /// Everything in front of the sealed value.
    front: &'r [u8],
    inner_salt: [u8; SALT_BYTES],
    outer_salt: [u8; SALT_BYTES],
    sealed: &'r [u8],
    outer_tag: [u8; TAG_BYTES],
}

/// A record whose outer lock has opened: its header is authentic, its value still sealed under its token.
pub struct Unlocked {
    header: Header,
    inner_salt: [u8; SALT_BYTES],
    outer_salt: [u8; SALT_BYTES],
    outer_tag: [u8; TAG_BYTES],
    /// Inner ciphertext and tag.
    inner: Vec<u8>,
}

/// What tells one sealing of a record from all others, earlier and later ones of the same record among them: the salt and the
/// tag of its outer lock. With what never changes that says where its sum is. See [`super::state`].
#[derive(Clone, Copy)]
pub struct Imprint {
    pub(super) scope: ScopeId,
    pub(super) created: Timestamp,
    pub(super) outer_salt: [u8; SALT_BYTES],
    pub(super) outer_tag: [u8; TAG_BYTES],
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another format, which is not guessed at.
    #[error("record: format {0} is unknown; use the version of this program that wrote it, or a newer one")]
    UnknownFormat(u8),
    /// Flags that format 1 does not have.
    #[error("record: flags {0:#010b} are not those of format 1; the row is damaged: run `cloakroom verify`")]
    UnknownFlags(u8),
    /// A state that format 1 does not have.
    #[error("record: state {0} is not one of format 1; the row is damaged: run `cloakroom verify`")]
    UnknownState(u8),
    /// Shorter than its header says, or no length that a sealed value can have.
    #[error("record: {0} bytes are no length that its header allows; the row is damaged: run `cloakroom verify`")]
    Length(usize),
}

/// A lock did not open: the row was moved, mixed with another or edited, or the key or token is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record: it does not open; it was moved, mixed with another or edited: run `cloakroom verify`")]
pub struct Corrupt;

/// How long a value of `length` bytes is once it is padded.
pub fn padded_bytes(length: usize) -> usize {
    padding::padded(length)
}

/// Makes a whole row: both locks, around `value`.
///
/// # Panics
/// If `value` is 4 GiB or longer; scopes allow far less.
pub fn seal(
    vault: &VaultId,
    handle: &Handle,
    canonical: &[u8],
    key: &DataKey,
    header: &Header,
    value: &[u8],
    salts: &Salts,
) -> Vec<u8> {
    let mut row = Vec::with_capacity(LONGEST_HEADER + 2 * SALT_BYTES + padding::padded(value.len()) + 2 * TAG_BYTES);
    write_front(&mut row, header, salts);
    let front = row.len();
    padding::write(&mut row, value);
    let tag = inner_lock(vault, handle, canonical, header, &salts.inner).seal(&[], &mut row[front..]);
    row.extend(tag);
    lock_outer(&mut row, front, vault, handle, key, header.scope, &salts.outer);
    row
}

/// The work of opening a record whose padded value has `padded` bytes, for a token that has none: who measures the time
/// learns nothing. What comes out is zeros under a lock, of no use but to show that the work was done.
pub fn dummy_open(vault: &VaultId, handle: &Handle, canonical: &[u8], key: &DataKey, padded: usize) -> SecretBytes {
    let sealed = dummy_unlock(vault, handle, key, padded);
    let mut opened = sealed[..padded].to_vec();
    let inner_tag = inner_key(canonical, vault, ScopeId(0), handle, [0; 8], &[0; SALT_BYTES]).seal(&[], &mut opened);
    std::hint::black_box((inner_tag, SecretBytes::new(opened))).1
}

/// The work of opening a record's outer lock alone.
pub fn dummy_unlock(vault: &VaultId, handle: &Handle, key: &DataKey, padded: usize) -> Vec<u8> {
    // Sealing runs the same derivations and passes as opening, and unlike a failing tag goes all the way. What it makes
    // goes nowhere, so that the constant salts do no harm.
    let (salt, front) = ([0; SALT_BYTES], [0; 43 + 2 * SALT_BYTES]);
    // A row is read into a buffer of its own.
    let row = std::hint::black_box(vec![0; padded + TAG_BYTES]);
    let mut sealed = row.clone();
    let outer_tag = key.outer_key(vault, ScopeId(0), handle, &salt).seal(&front, &mut sealed);
    std::hint::black_box((outer_tag, sealed, row)).1
}

impl<'r> Record<'r> {
    /// Reads the shape of a row.
    pub fn parse(row: &'r [u8]) -> Result<Self, RecordError> {
        let mut rest = Reader { row, rest: row };
        let header = read_header(&mut rest)?;
        let inner_salt = rest.array()?;
        let outer_salt = rest.array()?;
        let (front, sealed) = row.split_at(row.len() - rest.rest.len());
        let (sealed, outer_tag) = sealed.split_last_chunk().ok_or(RecordError::Length(row.len()))?;
        let padded = sealed.len().checked_sub(TAG_BYTES).ok_or(RecordError::Length(row.len()))?;
        if !padding::is_step(padded) {
            return Err(RecordError::Length(row.len()));
        }
        Ok(Self { header, front, inner_salt, outer_salt, sealed, outer_tag: *outer_tag })
    }

    /// What the row claims, unproven: good for choosing the key to open it with and for nothing else.
    pub fn claimed_header(&self) -> &Header {
        &self.header
    }

    /// At least so long its value is.
    pub fn shortest_value(&self) -> usize {
        padding::shortest(self.padded_bytes())
    }

    /// How long its padded value is.
    pub fn padded_bytes(&self) -> usize {
        self.sealed.len() - TAG_BYTES
    }

    /// What it claims to be, unproven unless it has just been sealed here.
    pub fn imprint(&self) -> Imprint {
        let Header { scope, created, .. } = self.header;
        Imprint { scope, created, outer_salt: self.outer_salt, outer_tag: self.outer_tag }
    }

    /// Opens the outer lock with the data key that [`Record::claimed_header`] names. No token is needed.
    pub fn unlock_outer(&self, vault: &VaultId, handle: &Handle, key: &DataKey) -> Result<Unlocked, Corrupt> {
        let mut inner = self.sealed.to_vec();
        let lock = key.outer_key(vault, self.header.scope, handle, &self.outer_salt);
        lock.open(self.front, &mut inner, &self.outer_tag).map_err(|_| Corrupt)?;
        let Self { header, inner_salt, outer_salt, outer_tag, .. } = *self;
        Ok(Unlocked { header, inner_salt, outer_salt, outer_tag, inner })
    }
}

impl Unlocked {
    /// The authentic header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Which sealing of the record this is.
    pub fn imprint(&self) -> Imprint {
        let Header { scope, created, .. } = self.header;
        Imprint { scope, created, outer_salt: self.outer_salt, outer_tag: self.outer_tag }
    }

    /// Opens the inner lock with the token's canonical bytes and takes the value out.
    pub fn open(&self, vault: &VaultId, handle: &Handle, canonical: &[u8]) -> Result<SecretBytes, Corrupt> {
        let (sealed, tag) = self.inner.split_last_chunk().ok_or(Corrupt)?;
        let mut padded = Secret::new(sealed.to_vec());
        let lock = inner_lock(vault, handle, canonical, &self.header, &self.inner_salt);
        lock.open(&[], padded.expose_mut(), tag).map_err(|_| Corrupt)?;
        padding::strip(padded).ok_or(Corrupt)
    }

    /// The row after a change: a new header and outer lock around the same inner lock. `outer_salt` is fresh and random;
    /// `key` is the data key that the new header names.
    ///
    /// # Panics
    /// If scope, index key or created differ from this record's: such a row could never be opened again.
    pub fn relock(
        &self,
        vault: &VaultId,
        handle: &Handle,
        key: &DataKey,
        header: &Header,
        outer_salt: [u8; SALT_BYTES],
    ) -> Vec<u8> {
        let constant = |header: &Header| (header.scope, header.index_key, header.created);
        assert_eq!(constant(header), constant(&self.header), "scope, index key and created never change");
        let mut row = Vec::with_capacity(LONGEST_HEADER + 2 * SALT_BYTES + self.inner.len() + TAG_BYTES);
        write_front(&mut row, header, &Salts { inner: self.inner_salt, outer: outer_salt });
        let front = row.len();
        row.extend_from_slice(&self.inner);
        lock_outer(&mut row, front, vault, handle, key, header.scope, &outer_salt);
        row
    }
}

fn inner_lock(
    vault: &VaultId,
    handle: &Handle,
    canonical: &[u8],
    header: &Header,
    salt: &[u8; SALT_BYTES],
) -> OneTimeKey {
    inner_key(canonical, vault, header.scope, handle, header.created.millis().to_be_bytes(), salt)
}

/// Seals what stands in `row` from `front` on, with what stands before as associated data, and adds the tag.
fn lock_outer(
    row: &mut Vec<u8>,
    front: usize,
    vault: &VaultId,
    handle: &Handle,
    key: &DataKey,
    scope: ScopeId,
    salt: &[u8; SALT_BYTES],
) {
    let (front, inner) = row.split_at_mut(front);
    let tag = key.outer_key(vault, scope, handle, salt).seal(front, inner);
    row.extend(tag);
}

fn write_front(row: &mut Vec<u8>, header: &Header, salts: &Salts) {
    let flag = |present: bool, flag: u8| if present { flag } else { 0 };
    let flags = flag(header.uses_left.is_some(), HAS_USES_LEFT)
        | flag(header.subject.is_some(), HAS_SUBJECT)
        | flag(header.fingerprint.is_some(), HAS_FINGERPRINT);
    row.extend([FORMAT, flags, header.state as u8]);
    for number in [header.scope.0, header.index_key.0, header.data_key.0, header.record_version] {
        row.extend(number.to_be_bytes());
    }
    for time in [header.created, header.changed, header.expires] {
        row.extend(time.millis().to_be_bytes());
    }
    row.extend(header.uses_left.map(u32::to_be_bytes).iter().flatten());
    row.extend(header.subject.iter().flatten());
    row.extend(header.fingerprint.iter().flatten());
    row.extend(salts.inner);
    row.extend(salts.outer);
}

fn read_header(rest: &mut Reader<'_>) -> Result<Header, RecordError> {
    let [format] = rest.array()?;
    if format != FORMAT {
        return Err(RecordError::UnknownFormat(format));
    }
    let [flags, state] = rest.array()?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err(RecordError::UnknownFlags(flags));
    }
    // Fields are read in the order in which they are written here, which is the order in the row.
    Ok(Header {
        state: State::try_from(state)?,
        scope: ScopeId(rest.number()?),
        index_key: KeyVersion(rest.number()?),
        data_key: KeyVersion(rest.number()?),
        record_version: rest.number()?,
        created: rest.time()?,
        changed: rest.time()?,
        expires: rest.time()?,
        uses_left: (flags & HAS_USES_LEFT != 0).then(|| rest.number()).transpose()?,
        subject: (flags & HAS_SUBJECT != 0).then(|| rest.array()).transpose()?,
        fingerprint: (flags & HAS_FINGERPRINT != 0).then(|| rest.array()).transpose()?,
    })
}

impl TryFrom<u8> for State {
    type Error = RecordError;

    fn try_from(byte: u8) -> Result<Self, RecordError> {
        match byte {
            1 => Ok(Self::Active),
            2 => Ok(Self::Revoked),
            3 => Ok(Self::Suspended),
            _ => Err(RecordError::UnknownState(byte)),
        }
    }
}

/// What is left of a row.
struct Reader<'r> {
    row: &'r [u8],
    rest: &'r [u8],
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(RecordError::Length(self.row.len()))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_be_bytes)
    }

    fn time(&mut self) -> Result<Timestamp, RecordError> {
        self.array().map(u64::from_be_bytes).map(Timestamp::from_millis)
    }
}

#[cfg(test)]
mod tests;
