//! What the log says of one token: whether it was issued, and how often its record was changed since.

use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::event::{self, Action, Event, HANDLE_BYTES, ItemOutcome};
use crate::ledger::{IndexKey, read_event};
use crate::store::{ReadError, Rows, Table};
use crate::vault::requests::REPEATED;
use std::collections::{HashMap, HashSet};

/// What the log says of one token.
#[derive(Default)]
pub(super) struct History {
    pub issued: bool,
    pub revoked: bool,
    /// How often its record was changed.
    changes: u32,
    /// The event that changed it last.
    pub last: Option<(u64, Action)>,
}

/// What was issued in one second, by scope. Records lie in the order of their seconds, so each second's events are read once:
/// looked up for each record, they would be read as often as there are records in that second.
#[derive(Default)]
pub(super) struct Issues {
    second: u32,
    by_scope: HashMap<String, HashSet<[u8; HANDLE_BYTES]>>,
}

impl Issues {
    /// Whether an event of the index of seconds issued this handle in the scope with this path.
    fn has(&mut self, rows: &dyn Rows, handle: &Handle, path: &str) -> Result<bool, ReadError> {
        let Some(key) = IndexKey::issues(handle.as_bytes()) else { return Ok(false) };
        if self.second != handle.second() {
            self.second = handle.second();
            self.by_scope.clear();
            each_event(rows, &key, |_, event| {
                self.by_scope.entry(event.scope.clone()).or_default().extend(issued(event));
            })?;
        }
        Ok(self.by_scope.get(path).is_some_and(|issued| issued.contains(handle.as_bytes())))
    }
}

impl History {
    /// Of the token with this handle in the scope with this path. `limited`: each release of its value is a change.
    pub fn of(
        rows: &dyn Rows,
        issues: &mut Issues,
        handle: &Handle,
        path: &str,
        limited: bool,
    ) -> Result<Self, ReadError> {
        let mut history = Self { issued: issues.has(rows, handle, path)?, ..Self::default() };
        each_event(rows, &IndexKey::handle(handle.as_bytes()), |sequence, event| {
            history.issued |= event.scope == path && issued(event).any(|issued| issued == handle.as_bytes());
            if event.scope == path {
                history.note(sequence, event, handle, limited);
            }
        })?;
        Ok(history)
    }

    /// The version that its record has after all this.
    pub fn version(&self) -> u32 {
        self.changes.saturating_add(1)
    }

    fn note(&mut self, sequence: u64, event: &Event, handle: &Handle, limited: bool) {
        let has = |wanted: &[ItemOutcome]| {
            let items = event.handles.iter().zip(&event.item_outcomes);
            let mut of_it = items.filter(|(named, _)| named[..] == handle.as_bytes()[..]);
            of_it.any(|(_, outcome)| wanted.iter().any(|wanted| i32::from(*wanted) == *outcome))
        };
        let changed = match event.action() {
            // The first one: another changes nothing. The caller's own words may look like those of a repetition.
            Action::Revoke if has(&[ItemOutcome::Done]) => !std::mem::replace(&mut self.revoked, true),
            Action::Renew => event.detail != REPEATED && has(&[ItemOutcome::Done]),
            // One event is one change, however many uses it takes.
            Action::Detokenize if limited => {
                event.detail != REPEATED && has(&[ItemOutcome::Released, ItemOutcome::Masked])
            }
            _ => false,
        };
        if changed {
            self.changes = self.changes.saturating_add(1);
            self.last = Some((sequence, event.action()));
        }
    }
}

/// The handles that an event issued, and not one before it.
pub(super) fn issued(event: &Event) -> impl Iterator<Item = &[u8; HANDLE_BYTES]> {
    let is_first = event.action() == Action::Tokenize && event.detail != REPEATED;
    let items = event.handles.iter().zip(&event.item_outcomes).filter(move |_| is_first);
    let issued = items.filter(|(_, outcome)| **outcome == i32::from(ItemOutcome::Issued));
    issued.filter_map(|(handle, _)| handle[..].try_into().ok())
}

/// The first event at or after `time`, of a log of `size` events.
pub(super) fn first_at(rows: &dyn Rows, size: u64, time: Timestamp) -> Result<u64, ReadError> {
    let (mut from, mut to) = (0, size);
    while from < to {
        let middle = from + (to - from) / 2;
        let event = read_event(rows, middle)?.and_then(|bytes| event::decode(&bytes).ok());
        // One that can't be read counts as earlier. The check of the log says so.
        if event.and_then(|event| event.timestamp()).is_some_and(|at| at >= time) {
            to = middle;
        } else {
            from = middle + 1;
        }
    }
    Ok(from)
}

/// All events under an index key, in the order of the log. One that can't be read is passed over: the check of the log says
/// so.
fn each_event(rows: &dyn Rows, key: &IndexKey, mut take: impl FnMut(u64, &Event)) -> Result<(), ReadError> {
    super::each(rows, Table::EventIndex, &key.at(0), &key.at(u64::MAX), |found| {
        for (row_key, _) in found {
            let Some(sequence) = key.sequence(row_key) else { continue };
            let event = read_event(rows, sequence)?.and_then(|bytes| event::decode(&bytes).ok());
            if let Some(event) = event {
                take(sequence, &event);
            }
        }
        Ok(())
    })
}
