//! Under which keys an event can be found again: its caller, its scope, and every handle that it names.
//!
//! The row's key is the kind, the subject and the sequence, big endian, so that "everything about this token" is one range
//! scan in the log's order. The row has no content.

use crate::event::Event;
use sha2::{Digest, Sha256};

const CALLER: u8 = b'c';
const SCOPE: u8 = b's';
const HANDLE: u8 = b'h';
const HASH_LENGTH: usize = 16;

/// The part of an index row's key in front of the sequence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexKey(Vec<u8>);

impl IndexKey {
    /// Events of this caller.
    pub fn caller(caller: &str) -> Self {
        Self::hashed(CALLER, caller)
    }

    /// Events that name this scope, whether or not there is such a scope: probing for scopes is worth finding too.
    pub fn scope(scope: &str) -> Self {
        Self::hashed(SCOPE, scope)
    }

    /// Events that name this handle.
    pub fn handle(handle: &[u8]) -> Self {
        let mut key = Vec::with_capacity(1 + handle.len());
        key.push(HANDLE);
        key.extend_from_slice(handle);
        Self(key)
    }

    /// All keys under which `event` is to be found, each once.
    pub(super) fn of(event: &Event) -> Vec<Self> {
        let mut keys = Vec::with_capacity(2 + event.handles.len());
        if !event.caller.is_empty() {
            keys.push(Self::caller(&event.caller));
        }
        if !event.scope.is_empty() {
            keys.push(Self::scope(&event.scope));
        }
        keys.extend(event.handles.iter().filter(|handle| !handle.is_empty()).map(|handle| Self::handle(handle)));
        // A token that stands twice in a batch has one row. Issued handles come sorted by time, so this is nearly free.
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The row's key for the event at `sequence`.
    pub fn at(&self, sequence: u64) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.0.len() + 8);
        self.write_at(sequence, &mut key);
        key
    }

    /// As [`IndexKey::at`], into a buffer that is used again.
    pub(super) fn write_at(&self, sequence: u64, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(&self.0);
        key.extend_from_slice(&sequence.to_be_bytes());
    }

    /// The sequence in a row's key under this index key.
    pub fn sequence(&self, row_key: &[u8]) -> Option<u64> {
        let tail = row_key.strip_prefix(self.0.as_slice())?;
        Some(u64::from_be_bytes(tail.try_into().ok()?))
    }

    fn hashed(kind: u8, text: &str) -> Self {
        let digest = Sha256::digest(text.as_bytes());
        let mut key = Vec::with_capacity(1 + HASH_LENGTH);
        key.push(kind);
        key.extend_from_slice(&digest[..HASH_LENGTH]);
        Self(key)
    }
}
