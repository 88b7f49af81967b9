//! Rows by caller, action, scope and purpose or reason.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{Bounds, grow};
use crate::clock::Timestamp;
use crate::event::Action;
use crate::event::json::rfc3339;

/// What one caller did in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The SPIFFE ID, or where a connection without one came from. `None`: more callers than are told apart.
    pub caller: Option<String>,
    /// What was asked for.
    pub action: &'static str,
    /// The scope; empty where none was named. `None`: more than are told apart.
    pub scope: Option<String>,
    /// The purpose or the reason; empty where there is none. `None`: more than are told apart.
    pub word: Option<String>,
    /// Calls, or refused connections.
    pub calls: u64,
    /// Values that left in full.
    pub full: u64,
    /// Values that left masked.
    pub masked: u64,
    /// Items that were done: released, issued, inspected, renewed, revoked, or events told.
    pub done: u64,
    /// Items that were asked for and not done.
    pub not_done: u64,
    /// When the first of these calls was.
    pub first_time: Timestamp,
    /// When the last of them was recorded.
    pub last_time: Timestamp,
}

/// What tells the rows of one caller apart. `None`: folded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub action: Action,
    pub scope: Option<String>,
    pub word: Option<String>,
}

#[derive(Default)]
pub(super) struct Table {
    callers: BTreeMap<String, BTreeMap<Key, Row>>,
    /// Of all callers beyond the bound.
    others: BTreeMap<Key, Row>,
}

impl Key {
    /// The row for what is not told apart.
    fn folded(&self) -> Self {
        Self { action: self.action, scope: None, word: None }
    }
}

impl Table {
    pub(super) fn add(&mut self, caller: String, key: Key, row: &Row, bounds: Bounds) {
        let is_known = self.callers.contains_key(&caller);
        if !is_known && self.callers.len() >= bounds.callers {
            self.others.entry(key.folded()).or_default().join(row);
            return;
        }
        let rows = self.callers.entry(caller).or_default();
        // One caller's many purposes fold into a row of its own: it can't hide another's.
        let has_room = rows.contains_key(&key) || rows.len() < bounds.rows;
        let key = if has_room { key } else { key.folded() };
        rows.entry(key).or_default().join(row);
    }

    /// What weighs most comes first; the order does not depend on that of the events.
    pub(super) fn rows(&self) -> Vec<Row> {
        let named = self.callers.iter().flat_map(|(caller, rows)| rows.iter().map(move |row| (Some(caller), row)));
        let others = self.others.iter().map(|row| (None, row));
        let filled = named.chain(others).map(|(caller, (key, row))| Row {
            caller: caller.cloned(),
            action: key.action.word(),
            scope: key.scope.clone(),
            word: key.word.clone(),
            ..row.clone()
        });
        let mut rows: Vec<Row> = filled.collect();
        // Stable: rows of equal weight stay in the order of their names.
        rows.sort_by_key(|row| std::cmp::Reverse((row.full, row.masked, row.calls)));
        rows
    }

    pub(super) fn folded_calls(&self) -> u64 {
        let named = self.callers.values().flatten().filter(|(key, _)| key.scope.is_none());
        named.chain(&self.others).map(|(_, row)| row.calls).fold(0, u64::saturating_add)
    }
}

impl Row {
    fn join(&mut self, other: &Self) {
        if self.calls == 0 {
            (self.first_time, self.last_time) = (other.first_time, other.last_time);
        }
        grow(&mut self.calls, other.calls);
        grow(&mut self.full, other.full);
        grow(&mut self.masked, other.masked);
        grow(&mut self.done, other.done);
        grow(&mut self.not_done, other.not_done);
        self.first_time = self.first_time.min(other.first_time);
        self.last_time = self.last_time.max(other.last_time);
    }
}

// === as JSON: each table has the columns that mean something in it ===

/// A field of a row, some under the name that fits the table.
#[derive(Clone, Copy)]
enum Column {
    Caller,
    Action,
    Scope,
    Word(&'static str),
    Calls,
    Full,
    Masked,
    Done(&'static str),
    NotDone(&'static str),
    First,
    Last,
}

use Column::{Caller, Calls, Done, First, Full, Last, Masked, NotDone, Scope, Word};

struct Named<'a> {
    row: &'a Row,
    columns: &'static [Column],
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.row;
        let mut map = serializer.serialize_map(Some(self.columns.len()))?;
        for column in self.columns {
            match *column {
                Caller => map.serialize_entry("caller", &row.caller)?,
                Column::Action => map.serialize_entry("action", &row.action.to_uppercase())?,
                Scope => map.serialize_entry("scope", &row.scope)?,
                Word(name) => map.serialize_entry(name, &row.word)?,
                Calls => map.serialize_entry("calls", &row.calls)?,
                Full => map.serialize_entry("full", &row.full)?,
                Masked => map.serialize_entry("masked", &row.masked)?,
                Done(name) => map.serialize_entry(name, &row.done)?,
                NotDone(name) => map.serialize_entry(name, &row.not_done)?,
                First => map.serialize_entry("first_time", &rfc3339(row.first_time).to_string())?,
                Last => map.serialize_entry("last_time", &rfc3339(row.last_time).to_string())?,
            }
        }
        map.end()
    }
}

fn named<S: Serializer>(rows: &[Row], columns: &'static [Column], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(|row| Named { row, columns }))
}

pub(super) fn releases<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    let columns = &[Caller, Scope, Word("purpose"), Calls, Full, Masked, NotDone("withheld"), First, Last];
    named(rows, columns, serializer)
}

pub(super) fn refusals<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    let columns = &[Caller, Column::Action, Scope, Word("reason"), Calls, NotDone("items"), First, Last];
    named(rows, columns, serializer)
}

pub(super) fn changes<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    let columns = &[Caller, Column::Action, Scope, Calls, Done("done"), NotDone("not_done"), First, Last];
    named(rows, columns, serializer)
}

pub(super) fn questions<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    named(rows, &[Caller, Calls, Done("events"), First, Last], serializer)
}

pub(super) fn operations<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    named(rows, &[Caller, Column::Action, Scope, Calls, First, Last], serializer)
}
