//! Carrying a backup's rows into a new database, in which a new log begins.
//!
//! What is carried over are records, what leads to them, remembered requests, scopes and keys, each row as it is. The log
//! stays in the backup: the new one's first event cites it. Two kinds of records change on the way, which the sums that
//! the new log begins with take into account:
//!
//! * A token whose uses are counted may have been spent since the backup was made, so it is suspended until an operator accepts
//!   that it may be spent again.
//! * A token that is named as revoked since is revoked.
//!
//! No token is needed for that, and no value is opened.

use super::backup::Copied;
use crate::clock::Timestamp;
use crate::crypto::record::{Header, Record, RecordError, State};
use crate::crypto::state::{Group, Tally};
use crate::crypto::{DataKey, Handle, ScopeId};
use crate::keys::Keyring;
use crate::keys::entropy::{self, NoEntropy};
use crate::ledger::Inheritance;
use crate::merkle::note::VerifierKey;
use crate::store::{Batch, CommitError, Order, ReadError, Row, Rows, Store, Table};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Rows in one commit.
const ROWS_AT_ONCE: usize = 1024;
/// Behind every key that anybody would write.
const AFTER_ALL: [u8; 1024] = [0xff; 1024];
/// As they are. What is not here belongs to the log, or is made anew with it.
const AS_THEY_ARE: [Table; 5] = [Table::Expiry, Table::Fingerprints, Table::Requests, Table::Scopes, Table::Keys];

/// What was carried over.
#[derive(Default)]
pub struct Carried {
    /// What the new log begins with.
    pub inheritance: Inheritance,
    /// Records.
    pub records: u64,
    /// Tokens that are suspended because their uses are counted.
    pub suspended: u64,
    /// Tokens that were revoked on the way, by their scope.
    pub revoked: BTreeMap<String, Vec<Handle>>,
}

/// Why rows can't be carried over.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A record does not open, though it did when the backup was looked at.
    #[error("the backup's record {0} does not open: the backup was changed while it was read")]
    Record(Handle),
    /// It is of a format before the time mark stood in the head.
    #[error("the backup's data is of an older format: start the vault with it once by this version, and back that up")]
    Older,
    /// The backup can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new database can't be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
}

/// Carries the rows of `from` into `to`, which is empty. `revoked` are handles of tokens that were revoked since the
/// backup was made; `progress` is told how many records are done.
///
/// # Errors
/// If they can't be read or written. What was written then is of no use.
pub fn carry(
    from: &Copied,
    to: &dyn Store,
    revoked: &BTreeSet<Handle>,
    wall: Timestamp,
    progress: &mut dyn FnMut(&'static str, u64),
) -> Result<Carried, RestoreError> {
    let mark = from.head.mark.ok_or(RestoreError::Older)?;
    let mut carrier = Carrier {
        keyring: &from.keyring,
        paths: from.keyring.paths(),
        data_keys: HashMap::new(),
        revoked,
        now: wall.max(mark),
        carried: Carried { inheritance: Inheritance { mark, groups: BTreeMap::new() }, ..Carried::default() },
    };
    for table in AS_THEY_ARE {
        each(&from.rows, table, |rows| {
            let mut batch = Batch::default();
            for (key, content) in rows {
                batch.put(table, key, content);
            }
            Ok(to.commit(&batch)?)
        })?;
    }
    each(&from.rows, Table::Tokens, |rows| {
        let mut batch = Batch::default();
        for (key, row) in rows {
            // A backup with any other key among its records is not sound, and was refused.
            let Ok(handle) = Handle::try_from(&key[..]) else { continue };
            batch.put(Table::Tokens, key, &carrier.record(&handle, row)?);
        }
        to.commit(&batch)?;
        progress("records", carrier.carried.records);
        Ok(())
    })?;
    Ok(carrier.carried)
}

/// What the first event of the new log says of the old one.
pub fn citation(from: &Copied, old_key: &VerifierKey, carried: &Carried) -> String {
    let manifest = &from.manifest;
    let vouched = from.outside.newest().map_or_else(String::new, |newest| {
        format!("checkpoint of {} events with root {}, log key {old_key}", newest.size(), newest.root())
    });
    format!(
        "begins anew from the backup of {}; before it the log {}: {vouched}; its last commit: {} events with root {}. {} \
         records; {} tokens with counted uses are suspended; what was issued, revoked, renewed or used after that is not known here",
        manifest.time, manifest.log_id, from.head.size, from.head.root, carried.records, carried.suspended,
    )
}

struct Carrier<'a> {
    keyring: &'a Keyring,
    paths: HashMap<ScopeId, String>,
    data_keys: HashMap<ScopeId, Option<Arc<DataKey>>>,
    revoked: &'a BTreeSet<Handle>,
    now: Timestamp,
    carried: Carried,
}

impl Carrier<'_> {
    /// A record's row in the new database.
    fn record<'r>(&mut self, handle: &Handle, row: &'r [u8]) -> Result<Cow<'r, [u8]>, RestoreError> {
        let broken = |_: RecordError| RestoreError::Record(*handle);
        let record = Record::parse(row).map_err(broken)?;
        let row = match self.becomes(handle, record.claimed_header()) {
            None => Cow::Borrowed(row),
            Some(state) => Cow::Owned(self.relock(handle, &record, state)?),
        };
        let imprint = Record::parse(&row).map_err(broken)?.imprint();
        let element: Tally = self.keyring.state().record(handle, &imprint);
        let sum = self.carried.inheritance.groups.entry(Group::of(&imprint)).or_default();
        *sum = sum.plus(&element);
        self.carried.records += 1;
        Ok(row)
    }

    /// The state that it is put into, if that is not the one that it has.
    fn becomes(&self, handle: &Handle, header: &Header) -> Option<State> {
        let may_be_spent = header.uses_left.is_some_and(|left| left > 0);
        match header.state {
            State::Revoked => None,
            State::Active | State::Suspended if self.revoked.contains(handle) => Some(State::Revoked),
            State::Active if may_be_spent => Some(State::Suspended),
            State::Active | State::Suspended => None,
        }
    }

    fn relock(&mut self, handle: &Handle, record: &Record<'_>, state: State) -> Result<Vec<u8>, RestoreError> {
        let broken = || RestoreError::Record(*handle);
        let scope = record.claimed_header().scope;
        let keyring = self.keyring;
        let find = || keyring.data_keys(&HashSet::from([scope])).remove(&scope);
        let key = self.data_keys.entry(scope).or_insert_with(find).clone().ok_or_else(broken)?;
        let unlocked = record.unlock_outer(keyring.vault(), handle, &key).map_err(|_| broken())?;
        let header = *unlocked.header();
        let record_version = header.record_version.wrapping_add(1);
        let header = Header { state, changed: self.now, record_version, ..header };
        if state == State::Revoked {
            let path = self.paths.get(&scope).cloned().unwrap_or_default();
            self.carried.revoked.entry(path).or_default().push(*handle);
        } else {
            self.carried.suspended += 1;
        }
        Ok(unlocked.relock(keyring.vault(), handle, &key, &header, entropy::bytes()?))
    }
}

/// All rows of a table, some at a time.
fn each(
    rows: &dyn Rows,
    table: Table,
    mut take: impl FnMut(&[Row]) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let mut next = Vec::new();
    loop {
        let found = rows.scan(table, &next, &AFTER_ALL, Order::Ascending, ROWS_AT_ONCE)?;
        let Some((last, _)) = found.last() else { return Ok(()) };
        next = [&last[..], &[0]].concat();
        take(&found)?;
    }
}
