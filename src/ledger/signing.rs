//! Who signs for the log: the key in force, and how one succeeds another.
//!
//! The public keys of a log stand in a row of `meta`, each with the size from which it is in force. A rotation is one commit:
//! an event that names both keys, and this row. From the size behind that event on the new key signs; a note of such a size
//! that the old one signed alone is refused, or a key that was stolen and replaced would be good for ever. While a rotation
//! is under way every note carries both signatures, so that a verifier who knows only the old key can follow.

use super::OpenError;
use crate::merkle::note::{Checkpoint, LogKey, Name, Note, NoteError, VerifierKey};

/// The row of `meta` with the log's public keys.
pub(super) const LOG_KEYS_ROW: &str = "log_keys";

/// The private keys that sign.
pub struct Signing {
    key: LogKey,
    successor: Option<LogKey>,
}

/// The public keys of a log, oldest first, each with the size from which it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKeys(Vec<(u64, VerifierKey)>);

impl Signing {
    /// One key, as always but during a rotation.
    pub fn by(key: LogKey) -> Self {
        Self { key, successor: None }
    }

    /// Both sign: `key`, which may already be out of force, and the one that follows it.
    pub fn handover(key: LogKey, successor: LogKey) -> Self {
        Self { key, successor: Some(successor) }
    }

    /// The log's name.
    pub fn name(&self) -> &Name {
        self.key.name()
    }

    /// All that sign, the older first.
    pub(super) fn keys(&self) -> Vec<&LogKey> {
        std::iter::once(&self.key).chain(&self.successor).collect()
    }

    /// Whether one of them is the key in force.
    fn has(&self, key: &VerifierKey) -> bool {
        self.keys().iter().any(|signer| signer.verifier() == *key)
    }
}

impl LogKeys {
    /// A log that has had one key.
    pub fn of(key: VerifierKey) -> Self {
        Self(vec![(0, key)])
    }

    /// The key that signs now.
    pub fn newest(&self) -> &VerifierKey {
        let (_, key) = self.0.last().expect("a log has a key from the beginning");
        key
    }

    /// The size from which `key` is in force, if it is the log's.
    pub fn in_force_from(&self, key: &VerifierKey) -> Option<u64> {
        self.0.iter().find(|(_, other)| other == key).map(|(from, _)| *from)
    }

    /// With one more, in force from the `size` behind the event that says so.
    #[must_use]
    pub fn succeeded_by(mut self, key: VerifierKey, size: u64) -> Self {
        self.0.push((size, key));
        self
    }

    /// Opens a note of this log: signed by the key that is in force for its size.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(&self, note: &str) -> Result<Checkpoint, NoteError> {
        // The size is only a claim until the signature over it has been checked with the key that it leads to.
        let claimed = Checkpoint::parse(Note::parse(note)?.text())?.size();
        let in_force = self.0.iter().rev().find(|(from, _)| *from <= claimed);
        let (_, key) = in_force.ok_or(NoteError::Untrusted)?;
        Checkpoint::open(note, key.name(), std::slice::from_ref(key))
    }

    /// As it stands in `meta`: a line for each key, its first size and the key.
    pub(super) fn encode(&self) -> Vec<u8> {
        let lines = self.0.iter().map(|(from, key)| format!("{from} {key}\n"));
        lines.collect::<String>().into_bytes()
    }

    pub(super) fn decode(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content).ok()?;
        let parse = |line: &str| {
            let (from, key) = line.split_once(' ')?;
            Some((from.parse().ok()?, key.parse().ok()?))
        };
        let keys: Vec<(u64, VerifierKey)> = text.lines().map(parse).collect::<Option<_>>()?;
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// Whether `signing` can sign for this log now.
    pub(super) fn check(&self, signing: &Signing) -> Result<(), OpenError> {
        if signing.has(self.newest()) {
            return Ok(());
        }
        let key = signing.key.verifier();
        Err(OpenError::RetiredLogKey {
            key: key.id().to_string(),
            in_force: self.newest().id().to_string(),
            known: self.0.iter().any(|(_, other)| *other == key),
        })
    }
}
