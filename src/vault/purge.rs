//! Purging: what expired long enough ago is deleted, in the background.
//!
//! The rows of `expiry` lead to the records of an hour, and to the requests that were remembered until then. They only find:
//! each record's own `expires` decides, and that is believed only once the record's outer lock has opened. What does not
//! open, or has no key here, stays and is counted.
//!
//! Nothing is deleted but in a commit with an event that says so, by the vault's trusted time alone (`VaultClock::trusted`),
//! and after a grace period. A step deletes a bounded number of records; whoever calls [`Vault::purge`] pauses in between.
//!
//! Two passes go over an hour. While it lasts, and a moment longer, rows are deleted whose records are all due, up to the
//! first that is not, so that short-lived tokens don't stay an hour. Once nothing can be added to the hour any more, a
//! second pass from its beginning deals with every row.

use super::expiry::{self, HOUR_MILLIS, Leads};
use super::read::{BYTES_A_PART, read_blocking};
use super::{ATTEMPTS, Failure, Vault, requests};
use crate::clock::Timestamp;
use crate::crypto::record::{Imprint, Record};
use crate::crypto::state::StateKey;
use crate::crypto::{DataKey, Handle, ScopeId, answer};
use crate::event::{Action, Event};
use crate::ledger::{Basis, Changes, Refused, Submission};
use crate::store::{Found, Order, ReadError, Row, Rows, Table, Tier};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Records that one commit deletes at the most, but for one row of `expiry` that names more (a call has up to 1,000).
pub const PURGED_AT_ONCE: usize = 1000;

/// A commit may add to an hour for as long as its caller waits; much later than that, the hour is over.
const STILL_COMING: u64 = 60_000;

/// Rows of `expiry` in one scan, at the least and at the most. A scan sorts what of the table is in memory, so there
/// should be few; a row can have twenty kilobytes, so they should not be long.
const SCANNED_ROWS: std::ops::RangeInclusive<usize> = 16..=2048;
/// As many records as a scan should lead to.
const SCANNED_HANDLES: usize = 8192;

/// Where a purge stands in the table, between its steps.
pub struct Sweep {
    grace: Duration,
    at_once: usize,
    /// What expired by then (milliseconds) is due.
    due: u64,
    /// Hours before this one are over.
    over: u32,
    /// What lies before this key has been dealt with.
    next: Vec<u8>,
    /// Rows from `next` on that were scanned and have not been dealt with, and what was known to be committed before.
    scanned: VecDeque<Row>,
    basis: Option<Basis>,
    /// Whether there may be more behind them.
    unfinished: bool,
    scan_rows: usize,
    /// The hour of the oldest row that is to be dealt with, as far as is known.
    oldest: Option<u32>,
}

/// What one step did, in numbers of records unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Deleted.
    pub tokens: u64,
    /// Remembered requests that were deleted.
    pub requests: u64,
    /// Rows of `expiry` that were deleted.
    pub expiries: u64,
    /// There was no such record any more.
    pub gone: u64,
    /// They expire later by now, and another row of `expiry` leads to them.
    pub renewed: u64,
    /// They do not open: changed or damaged. They stay, and so do rows of `expiry` that can't be read.
    pub damaged: u64,
    /// Their scope has no key here. They stay.
    pub locked: u64,
    /// Whether there is more to do now.
    pub more: bool,
}

/// Something that a row of `expiry` leads to.
struct Target {
    table: Table,
    key: Vec<u8>,
    /// What stands for it in the ledger.
    place: Handle,
}

/// What becomes of it.
enum Fate {
    Gone,
    /// Of a record, which one was read.
    Due(Option<Imprint>),
    Later(Timestamp),
    Damaged,
    Locked,
}

/// What a step would do, before anything is durable.
#[derive(Default)]
struct Step {
    purged: Purged,
    changes: Changes,
    /// All that rows which are deleted lead to: if one of them changed meanwhile, perhaps a row was written again.
    touched: Vec<Handle>,
    deleted: HashSet<Handle>,
    hours: Option<(u32, u32)>,
    /// How many of the rows were dealt with, and whether that is because the next one is not due yet.
    rows: usize,
    stopped: bool,
}

impl Vault {
    /// One step of a purge: deletes a number of records that are due, with the rows that led to them and an event.
    /// Nothing is due while the time can't be trusted.
    ///
    /// # Errors
    /// If the log can't be written or the store not read; nothing was deleted then. [`Failure::Conflict`] if what it had
    /// read kept changing.
    pub async fn purge(self: &Arc<Self>, sweep: &mut Sweep) -> Result<Purged, Failure> {
        for _ in 0..ATTEMPTS {
            let Some(now) = self.ledger.clock().trusted() else { return Ok(Purged::default()) };
            sweep.turn(now);
            if sweep.scanned.is_empty() {
                sweep.basis = Some(self.ledger.basis());
                let rows = self.scan_expiries(sweep.scope()).await?;
                sweep.take_up(rows);
            }
            let (Some(basis), rows) = (sweep.basis, sweep.batch()) else { return Ok(Purged::default()) };
            if rows.is_empty() {
                return Ok(Purged::default());
            }
            let step = self.look(rows, sweep.due, sweep.over).await?;
            if step.changes.is_empty() {
                return Ok(sweep.advance(&step));
            }
            match self.delete(basis, &step).await {
                Ok(()) => return Ok(sweep.advance(&step)),
                Err(Refused::Stale) => sweep.forget(),
                Err(refused) => return Err(refused.into()),
            }
        }
        Err(Failure::Conflict(None))
    }

    async fn scan_expiries(
        self: &Arc<Self>,
        (start, end, limit): (Vec<u8>, [u8; 4], usize),
    ) -> Result<Vec<Row>, Failure> {
        let rows = Arc::clone(&self.rows);
        blocking(move || rows.scan(Table::Expiry, &start, &end, Order::Ascending, limit)).await
    }

    async fn look(self: &Arc<Self>, rows: Vec<Row>, due: u64, over: u32) -> Result<Step, Failure> {
        let vault = Arc::clone(self);
        blocking(move || vault.look_blocking(&rows, Timestamp::from_millis(due), over)).await
    }

    /// Reads and opens all that `rows` lead to.
    fn look_blocking(&self, rows: &[Row], due: Timestamp, over: u32) -> Result<Step, ReadError> {
        let leads: Vec<_> = rows.iter().map(|(key, rest)| expiry::leads(key, rest)).collect();
        let targets: Vec<Option<Vec<Target>>> = leads.iter().map(|leads| leads.as_ref().map(Target::of)).collect();
        let keys_in = |table: Table| {
            let of_table = targets.iter().flatten().flatten().filter(move |target| target.table == table);
            of_table.map(|target| target.key.clone()).collect::<Vec<_>>()
        };
        let places = targets.iter().flatten().flatten().filter(|target| target.table == Table::Tokens);
        let places: Vec<Handle> = places.map(|target| target.place).collect();
        let mut tokens = self.fates(&places, &keys_in(Table::Tokens), due)?.into_iter();
        let names = keys_in(Table::Requests);
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let mut requests = request_fates(&*self.rows, &names, due)?.into_iter();
        let mut fate = |target: &Target| match target.table {
            Table::Requests => requests.next().unwrap_or(Fate::Gone),
            _ => tokens.next().unwrap_or(Fate::Gone),
        };
        let (mut step, state) = (Step::default(), self.keyring.state());
        for ((key, _), targets) in rows.iter().zip(&targets) {
            let hour = expiry::hour_of_row(key);
            let Some(targets) = targets else {
                step.leave_unread(key, hour < over);
                continue;
            };
            let fates: Vec<Fate> = targets.iter().map(&mut fate).collect();
            if hour < over {
                step.deal_with(state, key, hour, targets, &fates);
            } else if fates.iter().any(|fate| fate.is_to_come(hour)) {
                step.stopped = true;
                break;
            } else if fates.iter().any(Fate::stays) {
                // The second pass counts it.
                step.rows += 1;
            } else {
                step.deal_with(state, key, hour, targets, &fates);
            }
        }
        Ok(step)
    }

    /// Of records, read in parts: a thousand of them may be a gigabyte.
    fn fates(&self, handles: &[Handle], keys: &[Vec<u8>], due: Timestamp) -> Result<Vec<Fate>, ReadError> {
        let claimed = |found: &Found| match found {
            Found::Row(row) => Record::parse(row).ok().map(|record| record.claimed_header().scope),
            Found::Absent | Found::Cold => None,
        };
        let mut fates = Vec::with_capacity(keys.len());
        while fates.len() < keys.len() {
            let part = read_blocking(&*self.rows, &keys[fates.len()..], BYTES_A_PART)?;
            let data_keys = self.keyring.data_keys(&part.iter().filter_map(claimed).collect());
            for found in part {
                fates.push(self.fate(&handles[fates.len()], &found, &data_keys, due));
            }
        }
        Ok(fates)
    }

    fn fate(&self, handle: &Handle, found: &Found, keys: &HashMap<ScopeId, Arc<DataKey>>, due: Timestamp) -> Fate {
        let Found::Row(row) = found else { return Fate::Gone };
        let Ok(record) = Record::parse(row) else { return Fate::Damaged };
        let Some(key) = keys.get(&record.claimed_header().scope) else { return Fate::Locked };
        match record.unlock_outer(self.keyring.vault(), handle, key) {
            Err(_) => Fate::Damaged,
            Ok(unlocked) if unlocked.header().expires <= due => Fate::Due(Some(unlocked.imprint())),
            Ok(unlocked) => Fate::Later(unlocked.header().expires),
        }
    }

    async fn delete(&self, basis: Basis, step: &Step) -> Result<(), Refused> {
        let mut changes = Changes::default();
        changes.append(&step.changes);
        let event = self.own(Action::Purge, step.detail()).map_err(|_| Refused::Unavailable)?;
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let event = Event { requested: count(step.purged.records()), succeeded: count(step.purged.tokens), ..event };
        let submission = Submission::new(basis, event).with_changes(changes);
        let submission = submission.resting_on(step.touched.clone(), step.deleted.iter().copied().collect());
        self.ledger.record(submission).await.map(drop)
    }
}

/// Runs what may wait for a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            tracing::error!(%error, "a reading task ended. This is a fault in Cloakroom; please report it");
            Err(Failure::Internal)
        }
    }
}

// === impl Sweep, Purged ===

impl Sweep {
    /// Begins at the beginning. Records are due a `grace` after they have expired; a step deletes at most `at_once`, but
    /// for a row that names more.
    pub fn new(grace: Duration, at_once: usize) -> Self {
        Self {
            grace,
            at_once: at_once.clamp(1, PURGED_AT_ONCE),
            due: 0,
            over: 0,
            next: Vec::new(),
            scanned: VecDeque::new(),
            basis: None,
            unfinished: false,
            scan_rows: *SCANNED_ROWS.start(),
            oldest: None,
        }
    }

    /// For how long the oldest hour that is over and not purged has been due. Zero if there is none.
    pub fn lag(&self) -> Duration {
        let end = |hour: u32| (u64::from(hour) + 1) * HOUR_MILLIS;
        self.oldest.map_or(Duration::ZERO, |hour| Duration::from_millis(self.due.saturating_sub(end(hour))))
    }

    fn turn(&mut self, now: Timestamp) {
        let grace = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        self.due = now.millis().saturating_sub(grace);
        let over = expiry::hour(Timestamp::from_millis(self.due.saturating_sub(STILL_COMING)));
        if over > self.over {
            // What is over since was gone through while it lasted: again, from its beginning.
            let begin = self.over.to_be_bytes().to_vec();
            if self.next > begin {
                self.next = begin;
            }
            self.forget();
            self.over = over;
        }
    }

    /// Where to scan: the rest of what is due, the hour that is partly so included.
    fn scope(&self) -> (Vec<u8>, [u8; 4], usize) {
        let end = expiry::hour(Timestamp::from_millis(self.due)).saturating_add(1);
        (self.next.clone(), end.to_be_bytes(), self.scan_rows)
    }

    fn take_up(&mut self, rows: Vec<Row>) {
        self.unfinished = rows.len() == self.scan_rows;
        let handles: usize = rows.iter().map(expected_handles).sum();
        if !rows.is_empty() {
            let fitting = SCANNED_HANDLES * rows.len() / handles;
            self.scan_rows = fitting.clamp(*SCANNED_ROWS.start(), *SCANNED_ROWS.end());
        }
        self.scanned = rows.into();
        self.note_oldest();
    }

    /// The next rows, which together name about as many records as a step may delete. At least one, if there is any.
    fn batch(&self) -> Vec<Row> {
        let mut room = self.at_once;
        let fits = |row: &&Row| {
            let handles = expected_handles(row);
            let fits = room == self.at_once || handles <= room;
            room = if fits { room.saturating_sub(handles) } else { 0 };
            fits
        };
        self.scanned.iter().take_while(fits).cloned().collect()
    }

    fn advance(&mut self, step: &Step) -> Purged {
        let dealt_with = self.scanned.drain(..step.rows).next_back();
        if let Some((mut key, _)) = dealt_with {
            key.push(0);
            self.next = key;
        }
        if step.stopped {
            // Looked at anew next time: by then more may have been added.
            self.forget();
            self.unfinished = false;
        }
        self.note_oldest();
        Purged { more: self.unfinished || !self.scanned.is_empty(), ..step.purged }
    }

    fn note_oldest(&mut self) {
        self.oldest = match self.scanned.front() {
            Some((key, _)) => Some(expiry::hour_of_row(key)),
            None if self.unfinished => Some(expiry::hour_of_row(&self.next)),
            None => None,
        };
        self.oldest = self.oldest.filter(|hour| *hour < self.over);
    }

    /// What was scanned is no longer sure.
    fn forget(&mut self) {
        self.scanned.clear();
        self.basis = None;
    }
}

/// From the length of the row alone.
fn expected_handles((_, rest): &Row) -> usize {
    1 + rest.len() / Handle::LENGTH
}

impl Purged {
    /// How many records were looked at.
    pub fn records(&self) -> u64 {
        self.tokens + self.requests + self.gone + self.renewed + self.damaged + self.locked
    }

    /// How long to wait after this step, so that no more than `rows_per_second` are looked at; `None` if there is nothing
    /// to do for now.
    pub fn pause(&self, rows_per_second: u32) -> Option<Duration> {
        let seconds = |records: u64| Duration::from_secs(records) / rows_per_second.max(1);
        self.more.then(|| seconds(self.records().max(1)))
    }
}

// === impl Target, Fate, Step ===

impl Target {
    fn of(leads: &Leads) -> Vec<Self> {
        let token = |handle: &Handle| Self { table: Table::Tokens, key: handle.as_bytes().to_vec(), place: *handle };
        match leads {
            Leads::Tokens(handles) => handles.iter().map(token).collect(),
            Leads::Request(name) => {
                vec![Self { table: Table::Requests, key: name.to_vec(), place: requests::place(name) }]
            }
        }
    }
}

/// A row that the disk has damaged is no reason to leave its neighbours: it comes as one that is no such row.
fn request_fates(rows: &dyn Rows, names: &[&[u8]], due: Timestamp) -> Result<Vec<Fate>, ReadError> {
    let mut fates = Vec::with_capacity(names.len());
    while fates.len() < names.len() {
        let part = read_requests(rows, &names[fates.len()..])?;
        fates.extend(part.iter().map(|found| request_fate(Some(found), due)));
    }
    Ok(fates)
}

fn read_requests(rows: &dyn Rows, names: &[&[u8]]) -> Result<Vec<Found>, ReadError> {
    let alone = |name: &&[u8]| match rows.get(Table::Requests, &[name], Tier::Disk) {
        Ok(found) => Ok(found.into_iter().next().unwrap_or(Found::Absent)),
        Err(ReadError::Corrupt { .. }) => Ok(Found::Row(Vec::new())),
        Err(error) => Err(error),
    };
    match rows.get_within(Table::Requests, names, Tier::Disk, BYTES_A_PART) {
        Err(ReadError::Corrupt { .. }) => names.iter().take(1).map(alone).collect(),
        found => found,
    }
}

/// The end of its time is not authentic without the request id, which nobody here knows. Whoever could change it could
/// delete the row as well.
fn request_fate(found: Option<&Found>, due: Timestamp) -> Fate {
    let Some(Found::Row(row)) = found else { return Fate::Gone };
    match answer::Row::parse(row) {
        Err(_) => Fate::Damaged,
        Ok(row) if row.until <= due => Fate::Due(None),
        Ok(row) => Fate::Later(row.until),
    }
}

impl Fate {
    /// Whether the row of this hour is what will lead to the record.
    fn is_to_come(&self, hour: u32) -> bool {
        matches!(self, Self::Later(expires) if expiry::hour(*expires) == hour)
    }

    fn stays(&self) -> bool {
        matches!(self, Self::Damaged | Self::Locked)
    }
}

impl Step {
    /// Deletes what is due of a row, and the row unless something of it stays.
    fn deal_with(&mut self, state: &StateKey, key: &[u8], hour: u32, targets: &[Target], fates: &[Fate]) {
        self.rows += 1;
        for (target, fate) in targets.iter().zip(fates) {
            match fate {
                // Two rows can lead to one record, if its expiry was changed.
                Fate::Due(record) if self.deleted.insert(target.place) => {
                    if let Some(read) = record {
                        self.changes.remove(state, &target.place, read);
                        self.purged.tokens += 1;
                    } else {
                        self.changes.delete(target.table, &target.key);
                        self.purged.requests += 1;
                    }
                }
                Fate::Due(_) | Fate::Gone => self.purged.gone += 1,
                Fate::Later(_) => self.purged.renewed += 1,
                Fate::Damaged => {
                    let handle = hex::encode(&target.key);
                    tracing::error!(
                        handle,
                        "an expired record does not open and is not purged: it was changed or damaged"
                    );
                    self.purged.damaged += 1;
                }
                Fate::Locked => self.purged.locked += 1,
            }
        }
        if !fates.iter().any(Fate::stays) {
            self.changes.delete(Table::Expiry, key);
            self.purged.expiries += 1;
        }
        self.touched.extend(targets.iter().map(|target| target.place));
        let (first, _) = self.hours.unwrap_or((hour, hour));
        self.hours = Some((first, hour));
    }

    fn leave_unread(&mut self, key: &[u8], count: bool) {
        self.rows += 1;
        if count {
            tracing::error!(row = hex::encode(key), "a row of expiry has no form that this version knows, and stays");
            self.purged.damaged += 1;
        }
    }

    fn detail(&self) -> String {
        let (first, last) = self.hours.unwrap_or_default();
        let time = |hours: u64| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_hours(hours));
        let Purged { tokens, requests, gone, renewed, damaged, locked, .. } = self.purged;
        format!(
            "expired from {} to {}: {tokens} tokens and {requests} requests deleted, {gone} gone before, {renewed} renewed; left: {damaged} damaged, \
             {locked} without a key",
            time(first.into()),
            time(u64::from(last) + 1),
        )
    }
}
