//! How events are found again: by caller, by scope, by handle.
//!
//! A row's key is the kind, the subject and the sequence, big endian, so that "everything about this token" is a range scan
//! in the log's order. Each handle of an event has a row, with one exception, which halves what a new value costs: the
//! tokens that a call issues bear the second of their issue in front of their handles, so they share one row under that
//! second, with two bytes of each handle in it.

use crate::event::{Action, Event, HANDLE_BYTES};
use sha2::{Digest, Sha256};

const CALLER: u8 = b'c';
const SCOPE: u8 = b's';
const HANDLE: u8 = b'h';
const ISSUE: u8 = b'i';
const HASH_LENGTH: usize = 16;
/// The second of issue, in front of each handle.
const SECOND_LENGTH: usize = 4;
/// Of a handle in a row of its second. One in 65,536 others looks like it; the event says which it is.
const MARK_LENGTH: usize = 2;
/// A handle is the longest subject.
const LONGEST: usize = 1 + HANDLE_BYTES;

/// The part of an index row's key in front of the sequence. It lies in itself and not on the heap: each event makes one
/// for each of its handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexKey {
    bytes: [u8; LONGEST],
    length: usize,
}

/// A row of the index, but for the sequence in its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// What the event is found by.
    pub key: IndexKey,
    /// Under a second of issue the marks of the handles, in ascending order; else empty.
    pub content: Vec<u8>,
}

impl IndexKey {
    /// Events of this caller.
    pub fn caller(caller: &str) -> Self {
        Self::hashed(CALLER, caller)
    }

    /// Events that name this scope.
    pub fn scope(scope: &str) -> Self {
        Self::hashed(SCOPE, scope)
    }

    /// Events that name this handle, but for the one in which it was issued if [`IndexKey::issues`] knows that.
    ///
    /// # Panics
    /// If it is longer than a handle.
    pub fn handle(handle: &[u8]) -> Self {
        Self::new(HANDLE, handle)
    }

    /// Events in which tokens were issued in the second that this handle begins with. `None` if it begins with none: the
    /// token's format has no room for it.
    pub fn issues(handle: &[u8]) -> Option<Self> {
        let second = handle.get(..SECOND_LENGTH)?;
        (second.iter().any(|byte| *byte != 0) && handle.len() == HANDLE_BYTES).then(|| Self::new(ISSUE, second))
    }

    /// Whether an event may have issued this handle, by the content of its row under [`IndexKey::issues`].
    pub fn may_have_issued(content: &[u8], handle: &[u8; HANDLE_BYTES]) -> bool {
        content.chunks_exact(MARK_LENGTH).any(|other| other == mark(handle))
    }

    /// The row's key for the event at `sequence`.
    pub fn at(&self, sequence: u64) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.length + 8);
        self.write_at(sequence, &mut key);
        key
    }

    /// As [`IndexKey::at`], into a buffer that is used again.
    pub(super) fn write_at(&self, sequence: u64, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(self.as_bytes());
        key.extend_from_slice(&sequence.to_be_bytes());
    }

    /// The sequence in a row's key under this index key.
    pub fn sequence(&self, row_key: &[u8]) -> Option<u64> {
        let tail = row_key.strip_prefix(self.as_bytes())?;
        Some(u64::from_be_bytes(tail.try_into().ok()?))
    }

    /// What a row's key leads by, in words, and the sequence in it. `None` if it is no key of this index.
    pub fn read(row_key: &[u8]) -> Option<(String, u64)> {
        let (subject, sequence) = row_key.split_last_chunk()?;
        let (kind, subject) = subject.split_first()?;
        let by = match (*kind, subject.len()) {
            (CALLER, HASH_LENGTH) => "its caller".to_owned(),
            (SCOPE, HASH_LENGTH) => "its scope".to_owned(),
            (HANDLE, HANDLE_BYTES) => format!("the handle {}", hex::encode(subject)),
            (ISSUE, SECOND_LENGTH) => "what was issued in its second".to_owned(),
            _ => return None,
        };
        Some((by, u64::from_be_bytes(*sequence)))
    }

    fn hashed(kind: u8, text: &str) -> Self {
        Self::new(kind, &Sha256::digest(text.as_bytes())[..HASH_LENGTH])
    }

    fn new(kind: u8, subject: &[u8]) -> Self {
        let mut bytes = [0; LONGEST];
        bytes[0] = kind;
        bytes[1..=subject.len()].copy_from_slice(subject);
        Self { bytes, length: 1 + subject.len() }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl IndexRow {
    /// All rows under which `event` is to be found, each once.
    pub fn of(event: &Event) -> Vec<Self> {
        let mut handles: Vec<&[u8]> =
            event.handles.iter().map(AsRef::as_ref).filter(|handle| !handle.is_empty()).collect();
        // A token that stands twice in a batch has one row, and those of one second stand together.
        handles.sort_unstable();
        handles.dedup();
        let mut rows = Vec::with_capacity(2 + if event.action() == Action::Tokenize { 1 } else { handles.len() });
        if !event.caller.is_empty() {
            rows.push(Self::bare(IndexKey::caller(&event.caller)));
        }
        if !event.scope.is_empty() {
            rows.push(Self::bare(IndexKey::scope(&event.scope)));
        }
        for handle in handles {
            let issues = IndexKey::issues(handle).filter(|_| event.action() == Action::Tokenize);
            match issues {
                None => rows.push(Self::bare(IndexKey::handle(handle))),
                Some(key) => match rows.last_mut() {
                    Some(row) if row.key == key => row.content.extend_from_slice(mark(handle)),
                    _ => rows.push(Self { key, content: mark(handle).to_vec() }),
                },
            }
        }
        rows
    }

    fn bare(key: IndexKey) -> Self {
        Self { key, content: Vec::new() }
    }
}

fn mark(handle: &[u8]) -> &[u8] {
    &handle[SECOND_LENGTH..SECOND_LENGTH + MARK_LENGTH]
}
