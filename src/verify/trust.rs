//! Which keys vouch for which sizes.
//!
//! The given keys vouch from the beginning on. An entry that says `log key <old> is succeeded by <new>` ends what the old
//! one may vouch for alone; a checkpoint behind that entry which both have signed makes the new one trusted from its size
//! on. The entry alone would not do: whoever can make a history can make that entry.

use super::report::Fault;
use crate::event::Action;
use crate::event::Outcome;
use crate::event::view::View;
use crate::merkle::note::{KeyId, Note, NoteError, VerifierKey};

/// Begins the detail of an event that replaces the log's key.
const SUCCESSION: (&str, &str) = ("log key ", " is succeeded by ");

#[derive(Clone)]
pub(super) struct Trust {
    keys: Vec<Trusted>,
    /// Successions that no checkpoint has confirmed yet.
    announced: Vec<Succession>,
    /// Those that one has: old, new, size.
    confirmed: Vec<(KeyId, KeyId, u64)>,
}

#[derive(Clone)]
struct Trusted {
    key: VerifierKey,
    /// The entry that retired it. Alone it vouches for sizes that do not reach beyond that entry.
    retired: Option<u64>,
}

#[derive(Clone)]
struct Succession {
    sequence: u64,
    old: VerifierKey,
    new: VerifierKey,
}

impl Trust {
    pub(super) fn new(keys: &[VerifierKey]) -> Self {
        let keys = keys.iter().map(|key| Trusted { key: key.clone(), retired: None }).collect();
        Self { keys, announced: Vec::new(), confirmed: Vec::new() }
    }

    pub(super) fn confirmed(&self) -> &[(KeyId, KeyId, u64)] {
        &self.confirmed
    }

    /// Looks whether entry `sequence` replaces a trusted key.
    pub(super) fn heed(&mut self, sequence: u64, event: &View<'_>) {
        if event.action() != Action::RotateKeys || event.outcome() != Outcome::Allowed {
            return;
        }
        let Some((old, new)) = event.detail().strip_prefix(SUCCESSION.0).and_then(|rest| rest.split_once(SUCCESSION.1))
        else {
            return;
        };
        let (Ok(old), Ok(new)) = (old.parse::<VerifierKey>(), new.parse::<VerifierKey>()) else { return };
        let Some(trusted) = self.keys.iter_mut().find(|trusted| trusted.key == old && trusted.retired.is_none()) else {
            return;
        };
        if new.name() == old.name() && new != old {
            trusted.retired = Some(sequence);
            self.announced.push(Succession { sequence, old, new });
        }
    }

    /// The trusted keys that have signed `note`, a checkpoint of `size` entries all of which have been heeded.
    pub(super) fn signers(&mut self, note: &Note, size: u64) -> Result<Vec<KeyId>, Fault> {
        let mut current = Vec::new();
        let mut retired = None;
        for trusted in &self.keys {
            if signed(note, &trusted.key)? {
                match trusted.retired {
                    Some(sequence) if size > sequence => retired = Some((trusted.key.clone(), sequence)),
                    _ => current.push(trusted.key.id()),
                }
            }
        }
        let mut unconfirmed = None;
        for at in (0..self.announced.len()).rev() {
            let succession = &self.announced[at];
            if size <= succession.sequence || !signed(note, &succession.new)? {
                continue;
            }
            if signed(note, &succession.old)? {
                let succession = self.announced.remove(at);
                current.extend([succession.old.id(), succession.new.id()]);
                self.confirmed.push((succession.old.id(), succession.new.id(), size));
                if !self.keys.iter().any(|trusted| trusted.key == succession.new) {
                    self.keys.push(Trusted { key: succession.new, retired: None });
                }
            } else {
                unconfirmed = Some(Fault::Unconfirmed { new: succession.new.id(), sequence: succession.sequence });
            }
        }
        current.sort_unstable();
        current.dedup();
        match (current.is_empty(), unconfirmed, retired) {
            (false, ..) => Ok(current),
            (true, Some(unconfirmed), _) => Err(unconfirmed),
            (true, None, Some((old, sequence))) => Err(Fault::Retired { old: old.id(), sequence }),
            (true, None, None) => Err(Fault::Note(NoteError::Untrusted)),
        }
    }
}

/// Whether `key` has signed `note`. A wrong signature under its name is an alteration.
fn signed(note: &Note, key: &VerifierKey) -> Result<bool, Fault> {
    match note.verify(std::slice::from_ref(key)) {
        Ok(()) => Ok(true),
        Err(NoteError::Untrusted) => Ok(false),
        Err(altered) => Err(Fault::Note(altered)),
    }
}
