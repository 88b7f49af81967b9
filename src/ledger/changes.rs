//! The rows that a submission changes.
//!
//! Invariant: no row of `tokens` changes without what that does to the sums over the records, and without being named among
//! the rewritten. There is no other way to put such a row into a submission.

use crate::crypto::Handle;
use crate::crypto::record::{Imprint, Record};
use crate::crypto::state::{Group, StateKey, Tally};
use crate::store::{Batch, Change, Table};

/// Rows that change together, and what that does to the sums over the records.
#[derive(Default)]
pub struct Changes {
    rows: Batch,
    /// What is added to the sum of each group. Nearly always there is one.
    sums: Vec<(Group, Tally)>,
    /// The records that are there and change. New ones are not among them: nobody can have read those.
    rewritten: Vec<Handle>,
}

impl Changes {
    /// Makes room for so many rows more, whose keys and contents have so many bytes together.
    pub fn reserve(&mut self, rows: usize, bytes: usize) {
        self.rows.reserve(rows, bytes);
    }

    /// A new record.
    ///
    /// # Panics
    /// If `row` is not a record; so too in [`Changes::replace`].
    pub fn insert(&mut self, key: &StateKey, handle: &Handle, row: &[u8]) {
        let imprint = Record::parse(row).expect("a row that was just sealed is a record").imprint();
        self.add(Group::of(&imprint), &key.record(handle, &imprint));
        self.rows.put(Table::Tokens, handle.as_bytes(), row);
    }

    /// A record, read as `old`, that becomes `row`.
    pub fn replace(&mut self, key: &StateKey, handle: &Handle, old: &Imprint, row: &[u8]) {
        self.take(key, handle, old);
        self.insert(key, handle, row);
    }

    /// A record, read as `old`, that goes.
    pub fn remove(&mut self, key: &StateKey, handle: &Handle, old: &Imprint) {
        self.take(key, handle, old);
        self.rows.delete(Table::Tokens, handle.as_bytes());
    }

    /// Any other row.
    ///
    /// # Panics
    /// If it is a record; so too in [`Changes::delete`].
    pub fn put(&mut self, table: Table, key: &[u8], content: &[u8]) {
        check(table);
        self.rows.put(table, key, content);
    }

    /// Removes any other row.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        check(table);
        self.rows.delete(table, key);
    }

    /// Adds all that `other` holds behind what is here.
    pub fn append(&mut self, other: &Self) {
        self.rows.append(&other.rows);
        other.sums.iter().for_each(|(group, tally)| self.add(*group, tally));
        self.rewritten.extend_from_slice(&other.rewritten);
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows.
    pub fn rows(&self) -> &Batch {
        &self.rows
    }

    /// What is added to the sums of groups.
    pub(super) fn sums(&self) -> &[(Group, Tally)] {
        &self.sums
    }

    pub(super) fn rewritten(&self) -> &[Handle] {
        &self.rewritten
    }

    fn take(&mut self, key: &StateKey, handle: &Handle, old: &Imprint) {
        self.add(Group::of(old), &Tally::default().minus(&key.record(handle, old)));
        self.rewritten.push(*handle);
    }

    fn add(&mut self, group: Group, tally: &Tally) {
        match self.sums.iter_mut().rfind(|(known, _)| *known == group) {
            Some((_, sum)) => *sum = sum.plus(tally),
            None => self.sums.push((group, *tally)),
        }
    }
}

impl From<Batch> for Changes {
    /// # Panics
    /// If there is a record among the rows.
    fn from(rows: Batch) -> Self {
        rows.changes().for_each(|change| match change {
            Change::Put { table, .. } | Change::Delete { table, .. } => check(table),
        });
        Self { rows, ..Self::default() }
    }
}

fn check(table: Table) {
    assert!(table != Table::Tokens, "a record changes only together with the sums over the records");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "only together with the sums")]
    fn a_record_is_not_put_like_any_row_c_04() {
        Changes::default().put(Table::Tokens, &[0; 20], b"row");
    }

    #[test]
    #[should_panic(expected = "only together with the sums")]
    fn a_record_is_not_deleted_like_any_row_c_05() {
        Changes::default().delete(Table::Tokens, &[0; 20]);
    }

    #[test]
    #[should_panic(expected = "only together with the sums")]
    fn a_batch_with_a_record_is_no_change_c_04() {
        let mut rows = Batch::default();
        rows.put(Table::Expiry, b"hour", b"");
        rows.delete(Table::Tokens, &[0; 20]);
        let _ = Changes::from(rows);
    }
}
