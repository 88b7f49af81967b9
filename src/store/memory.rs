//! A store in memory, for tests: it keeps the contract, and breaks it exactly as a test asks.
//!
//! What was applied lives on a [`Disk`] that outlasts the store, so a test "pulls the plug" by dropping one store and
//! calling [`MemoryStore::reopen`]. A [`Fault`] is chosen for each commit from the table *applied or not* × *reported or
//! not*; after a reported one the store refuses, as the real one does.
//!
//! It knows nothing of what the rows mean.

use super::{Batch, Change, CommitError, Found, Order, ReadError, Row, Rows, Store, Table, Tier};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What becomes of one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whether the rows reach the disk.
    pub applied: bool,
    /// Whether the writer is told that the commit failed.
    pub reported: bool,
}

/// Chooses the fault of a commit from its number (the first of a store is 0) and its content.
pub type Faults = Box<dyn FnMut(u64, &Batch) -> Fault + Send>;

/// Rows in sorted maps.
pub struct MemoryStore {
    disk: Arc<Disk>,
    /// Which opening of the disk this is; an older one may no longer write.
    opening: u64,
    writer: Mutex<Writer>,
    cold: AtomicBool,
}

/// What outlasts the store, as a disk outlasts a process.
#[derive(Default)]
struct Disk {
    content: RwLock<Content>,
}

#[derive(Default)]
struct Content {
    tables: [BTreeMap<Vec<u8>, Vec<u8>>; Table::ALL.len()],
    damaged: BTreeSet<(Table, Vec<u8>)>,
    openings: u64,
}

struct Writer {
    commits: u64,
    failed: bool,
    faults: Option<Faults>,
}

impl Fault {
    /// It works: applied, and reported as such.
    pub const NONE: Fault = Fault { applied: true, reported: false };
    /// It fails and says so: nothing was applied.
    pub const LOST: Fault = Fault { applied: false, reported: true };
    /// It is applied and yet fails, as when only the answer of the disk went missing.
    pub const UNKNOWN: Fault = Fault { applied: true, reported: true };
    /// It claims to have worked and has not, as a disk does that lies about its cache.
    pub const LIE: Fault = Fault { applied: false, reported: false };
    /// The whole table.
    pub const ALL: [Fault; 4] = [Fault::NONE, Fault::LOST, Fault::UNKNOWN, Fault::LIE];
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store without faults.
    pub fn new() -> Self {
        Self::open(Arc::default(), None)
    }

    /// An empty store whose commits `faults` decides.
    pub fn with_faults(faults: Faults) -> Self {
        Self::open(Arc::default(), Some(faults))
    }

    /// A new store over what was applied, without faults, as after a restart. This one commits no more.
    #[must_use]
    pub fn reopen(&self) -> Self {
        Self::open(self.disk.clone(), None)
    }

    /// The same with faults: for a test that lets a restart fail too.
    #[must_use]
    pub fn reopen_with_faults(&self, faults: Faults) -> Self {
        Self::open(self.disk.clone(), Some(faults))
    }

    /// From now on reads of [`Tier::Memory`] answer [`Found::Cold`], or no longer.
    pub fn chill(&self, cold: bool) {
        self.cold.store(cold, Ordering::SeqCst);
    }

    /// From now on reading this row, by key or in a scan, is [`ReadError::Corrupt`], until it is written again.
    pub fn damage(&self, table: Table, key: &[u8]) {
        self.disk.content.write().damaged.insert((table, key.to_vec()));
    }

    fn open(disk: Arc<Disk>, faults: Option<Faults>) -> Self {
        let opening = {
            let mut content = disk.content.write();
            content.openings += 1;
            content.openings
        };
        let writer = Mutex::new(Writer { commits: 0, failed: false, faults });
        Self { disk, opening, writer, cold: AtomicBool::new(false) }
    }
}

impl Rows for MemoryStore {
    fn get(&self, table: Table, keys: &[&[u8]], tier: Tier) -> Result<Vec<Found>, ReadError> {
        if tier == Tier::Memory && self.cold.load(Ordering::SeqCst) {
            return Ok(vec![Found::Cold; keys.len()]);
        }
        let content = self.disk.content.read();
        keys.iter().map(|key| content.row(table, key)).collect()
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], order: Order, limit: usize) -> Result<Vec<Row>, ReadError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let content = self.disk.content.read();
        let rows = content.tables[table as usize]
            .range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Excluded(end)));
        let checked = |(key, row): (&Vec<u8>, &Vec<u8>)| {
            content.check(table, key)?;
            Ok((key.clone(), row.clone()))
        };
        match order {
            Order::Ascending => rows.take(limit).map(checked).collect(),
            Order::Descending => rows.rev().take(limit).map(checked).collect(),
        }
    }
}

impl Store for MemoryStore {
    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        let mut writer = self.writer.lock();
        if writer.failed {
            return Err(CommitError("an earlier commit had failed".into()));
        }
        let number = writer.commits;
        writer.commits += 1;
        // Before the content is locked: a test may hold a commit back, and reads must go on meanwhile.
        let fault = writer.faults.as_mut().map_or(Fault::NONE, |faults| faults(number, batch));
        let mut content = self.disk.content.write();
        if content.openings != self.opening {
            return Err(CommitError("the store was opened again since".into()));
        }
        if fault.applied {
            content.apply(batch);
        }
        writer.failed = fault.reported;
        if fault.reported { Err(CommitError("the test asked for it".into())) } else { Ok(()) }
    }
}

impl Content {
    fn row(&self, table: Table, key: &[u8]) -> Result<Found, ReadError> {
        self.check(table, key)?;
        Ok(self.tables[table as usize].get(key).map_or(Found::Absent, |row| Found::Row(row.clone())))
    }

    fn check(&self, table: Table, key: &[u8]) -> Result<(), ReadError> {
        if !self.damaged.is_empty() && self.damaged.contains(&(table, key.to_vec())) {
            return Err(ReadError::Corrupt { table: table.name(), detail: "the test asked for it".into() });
        }
        Ok(())
    }

    fn apply(&mut self, batch: &Batch) {
        for change in batch.changes() {
            let (Change::Put { table, key, .. } | Change::Delete { table, key }) = change;
            if !self.damaged.is_empty() {
                self.damaged.remove(&(table, key.to_vec()));
            }
            let rows = &mut self.tables[table as usize];
            match change {
                Change::Put { content, .. } => rows.insert(key.to_vec(), content.to_vec()),
                Change::Delete { .. } => rows.remove(key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite;

    suite::run_on!({
        let disk = MemoryStore::new();
        suite::reopen(move || disk.reopen())
    });

    fn batch(key: &[u8]) -> Batch {
        let mut batch = Batch::default();
        batch.put(Table::Tokens, key, b"row");
        batch
    }

    fn has(store: &MemoryStore, key: &[u8]) -> bool {
        matches!(store.get(Table::Tokens, &[key], Tier::Disk).unwrap()[0], Found::Row(_))
    }

    #[test]
    fn every_fault_does_what_the_table_says() {
        for fault in Fault::ALL {
            let store =
                MemoryStore::with_faults(Box::new(move |commit, _| if commit == 1 { fault } else { Fault::NONE }));
            store.commit(&batch(b"before")).unwrap();
            assert_eq!(store.commit(&batch(b"at")).is_err(), fault.reported, "{fault:?}");
            assert_eq!(store.commit(&batch(b"after")).is_err(), fault.reported, "a failed store refuses: {fault:?}");

            let reopened = store.reopen();
            assert!(has(&reopened, b"before"), "{fault:?}");
            assert_eq!(has(&reopened, b"at"), fault.applied, "{fault:?}");
            assert_eq!(has(&reopened, b"after"), !fault.reported, "{fault:?}");
            reopened.commit(&batch(b"again")).unwrap();
        }
    }

    #[test]
    fn a_store_that_was_opened_again_commits_no_more() {
        let first = MemoryStore::new();
        let second = first.reopen();
        assert!(first.commit(&batch(b"late")).is_err());
        assert!(!has(&second, b"late"));
        second.commit(&batch(b"fine")).unwrap();
    }

    #[test]
    fn cold_and_damaged_rows_are_as_asked() {
        let store = MemoryStore::new();
        store.commit(&batch(b"a")).unwrap();
        store.commit(&batch(b"b")).unwrap();

        store.chill(true);
        assert!(store.get(Table::Tokens, &[b"a", b"-"], Tier::Memory).unwrap() == [Found::Cold, Found::Cold]);
        assert!(has(&store, b"a"));
        store.chill(false);
        assert!(store.get(Table::Tokens, &[b"-"], Tier::Memory).unwrap() == [Found::Absent]);

        store.damage(Table::Tokens, b"a");
        assert!(matches!(
            store.get(Table::Tokens, &[b"a"], Tier::Disk),
            Err(ReadError::Corrupt { table: "tokens", .. })
        ));
        assert!(store.scan(Table::Tokens, b"a", b"z", Order::Ascending, 9).is_err());
        assert!(has(&store, b"b"), "its neighbours stay readable");
        store.commit(&batch(b"a")).unwrap();
        assert!(has(&store, b"a"));
    }
}
