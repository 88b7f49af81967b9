//! Verifying: whether the live records are those that the last commit left.
//!
//! Every record's outer lock is opened and its element added up, for its group and in all. Then the sums are held against
//! the stored ones, against the head under its MAC, and against the checkpoint outside where that speaks of the same size.
//! If something does not fit, the log is asked what there should be, and `diagnosis` names what is missing, added, stale or
//! damaged.
//!
//! It only reads, from rows that nobody changes meanwhile. Memory grows with the number of groups (scopes times days), not
//! with that of records. It does not walk the log: whether that is whole is another question, which this one rests on.

mod diagnosis;
mod history;
mod index;

pub use index::{IndexFinding, IndexKind, IndexReport, verify_index};

use crate::clock::Timestamp;
use crate::crypto::record::{Header, Record};
use crate::crypto::state::{Group, Tally};
use crate::crypto::{DataKey, Handle, ScopeId};
use crate::keys::Keyring;
use crate::ledger::{self, Outside, StoredHead};
use crate::store::{Order, ReadError, Row, Rows, Table};
use diagnosis::{Diagnosis, Suspects};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Rows in one scan.
const ROWS_A_SCAN: usize = 2048;
/// Findings that are listed one by one; the rest is counted.
const FINDINGS_AT_MOST: usize = 1000;
/// Behind every key that anybody would write: a row of ours is a fraction as long, and what else there is should be seen.
const AFTER_ALL: [u8; 1024] = [0xff; 1024];

/// What is verified.
pub struct Subject<'a> {
    /// As they were at one moment.
    pub rows: &'a dyn Rows,
    /// With the keys of all scopes.
    pub keyring: &'a Keyring,
    /// The newest checkpoints, read before the rows.
    pub outside: &'a Outside,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Events in the log, as the last commit says.
    pub size: u64,
    /// Records that there should be, as the last commit says; `None` if there is nothing that says so.
    pub expected: Option<u64>,
    /// Records that are there and open.
    pub records: u64,
    /// Groups that they are in.
    pub groups: u64,
    /// What says how many and which records there should be.
    pub against: Against,
    /// What is wrong with the log where the records are held against it.
    pub log: Option<String>,
    /// Whether all records together are those that there should be.
    pub fits: bool,
    /// The groups whose sum is not that of their records, the first thousand of them.
    pub groups_wrong: Vec<WrongGroup>,
    /// How many there are in all.
    pub groups_wrong_in_all: u64,
    /// What could be named, the first thousand of it.
    pub findings: Vec<Finding>,
    /// How much more there is.
    pub more: u64,
    /// Table files whose filter can't be read: no record needs it, but the disk has damaged it.
    pub damaged_filters: u64,
    /// What was found where the index was asked about, too.
    pub index: Option<IndexReport>,
}

/// What the records were held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Against {
    /// Neither a checkpoint nor a head is there.
    #[default]
    Nothing,
    /// What the last commit left inside, since the newest checkpoint is older or says nothing of records.
    LastCommit,
    /// The newest checkpoint outside.
    Checkpoint,
}

/// A group whose sum is not that of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongGroup {
    /// The scope's path, or `scope N` if nothing names it any more.
    pub scope: String,
    /// When its day begins.
    pub day: Timestamp,
    /// Records that it should have; `None` if its row is damaged.
    pub expected: Option<u64>,
    /// Records that it has.
    pub found: u64,
}

/// What is wrong with one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of wrong.
    pub kind: Kind,
    /// Which token's.
    pub handle: Handle,
    /// The scope's path, or `scope N`. Empty if the record does not say.
    pub scope: String,
    /// When the day of its issue begins.
    pub day: Option<Timestamp>,
    /// Whether there is no other explanation. If not, it is one of those of which some are wrong.
    pub certain: bool,
    /// The event that it should agree with: the issue of what is missing, the last change of what is stale.
    pub event: Option<u64>,
    /// Why it is thought so, in plain words.
    pub why: String,
}

/// The kinds of what can be wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Issued, not purged, and not there.
    Missing,
    /// There, but not issued, or deleted before.
    Added,
    /// Older than the last event that changed it.
    Stale,
    /// Changed more often than the log says.
    Unlogged,
    /// There, and does not open.
    Damaged,
}

/// The records as they are.
#[derive(Default)]
struct Summed {
    groups: HashMap<Group, Tally>,
    total: Tally,
    /// What does not open, with the group that it claims.
    damaged: Vec<(Handle, Option<Group>)>,
    damaged_in_all: u64,
    /// Rows whose key is no handle.
    no_handles: u64,
}

/// The data keys, as they are needed.
struct DataKeys<'a> {
    keyring: &'a Keyring,
    known: HashMap<ScopeId, Option<Arc<DataKey>>>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        let index_is_clean = self.index.as_ref().is_none_or(IndexReport::is_clean);
        self.records_are_clean() && index_is_clean && self.damaged_filters == 0
    }

    /// Whether nothing is wrong with the records and their log.
    pub fn records_are_clean(&self) -> bool {
        self.fits && self.log.is_none() && self.groups_wrong_in_all == 0 && self.findings.is_empty() && self.more == 0
    }
}

impl Kind {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Added => "added",
            Self::Stale => "stale",
            Self::Unlogged => "unlogged",
            Self::Damaged => "damaged",
        }
    }
}

/// Verifies. `progress` is told how many records have been looked at.
///
/// # Errors
/// If the rows can't be read. What is wrong with them is no error but in the report.
pub fn verify(subject: &Subject<'_>, progress: &mut dyn FnMut(u64)) -> Result<Report, ReadError> {
    let (rows, keyring) = (subject.rows, subject.keyring);
    let (meta, state) = (keyring.meta(), keyring.state());
    let log = match ledger::check(rows, subject.outside, meta, state) {
        Ok(()) => None,
        Err(ledger::OpenError::Read(error)) => return Err(error),
        Err(error) => Some(error.to_string()),
    };
    // What is wrong with it, `check` has said.
    let head = ledger::stored_head(rows, meta, state).ok().flatten();
    let summed = sum_up(subject, progress)?;
    let stored = stored_sums(subject)?;
    let mut report = Report {
        size: head.as_ref().map_or(0, |head| head.size),
        expected: head.as_ref().map(|head| head.total.records()),
        records: summed.total.records(),
        groups: summed.groups.len() as u64,
        log,
        ..Report::default()
    };
    hold_total(subject, head.as_ref(), &summed, &mut report);
    let differences = differences(&summed, &stored);
    let paths = keyring.paths();
    report.groups_wrong_in_all = differences.len() as u64;
    let listed = differences.iter().take(FINDINGS_AT_MOST);
    report.groups_wrong = listed.map(|(group, difference)| difference.describe(*group, &paths)).collect();
    if report.fits && summed.damaged_in_all == 0 && summed.no_handles == 0 {
        // The records are right, whatever is wrong with sums or log.
        return Ok(report);
    }
    let suspects = suspects(head.as_ref(), &summed, &stored, &differences);
    Diagnosis::new(subject, paths, suspects)?.run(&summed, &mut report)?;
    Ok(report)
}

/// All records, against the newest checkpoint if that says which there should be, else against the head alone.
fn hold_total(subject: &Subject<'_>, head: Option<&StoredHead>, summed: &Summed, report: &mut Report) {
    let of_head = head.map(|head| head.total == summed.total);
    let says = head.and_then(|head| Some((head.size, subject.outside.state(head.size)?)));
    let of_checkpoint = says.map(|(size, says)| subject.keyring.state().digest(size, &summed.total) == says);
    report.against = match (of_checkpoint, of_head) {
        (Some(_), _) => Against::Checkpoint,
        (None, Some(_)) => Against::LastCommit,
        (None, None) => Against::Nothing,
    };
    report.fits = of_head == Some(true) && of_checkpoint != Some(false);
}

fn sum_up(subject: &Subject<'_>, progress: &mut dyn FnMut(u64)) -> Result<Summed, ReadError> {
    let mut summed = Summed::default();
    let mut keys = DataKeys::new(subject.keyring);
    let mut looked_at = 0;
    each(subject.rows, Table::Tokens, &[], &AFTER_ALL, |rows| {
        for (key, row) in rows {
            let Ok(handle) = Handle::try_from(&key[..]) else {
                summed.no_handles += 1;
                continue;
            };
            match keys.open(&handle, row) {
                Ok((_, group, tally)) => {
                    let sum = summed.groups.entry(group).or_default();
                    *sum = sum.plus(&tally);
                    summed.total = summed.total.plus(&tally);
                }
                Err(group) => summed.note_damaged(handle, group),
            }
        }
        looked_at += rows.len() as u64;
        progress(looked_at);
        Ok(())
    })?;
    Ok(summed)
}

/// The rows of `state`. `None` for one that can't be read.
fn stored_sums(subject: &Subject<'_>) -> Result<BTreeMap<Group, Option<Tally>>, ReadError> {
    let mut sums = BTreeMap::new();
    each(subject.rows, Table::State, &[], &AFTER_ALL, |rows| {
        for (key, row) in rows {
            // A row with another key is no sum of anything, and does no harm.
            if let Some(group) = Group::from_bytes(key) {
                sums.insert(group, ledger::stored_sum(subject.keyring.state(), group, row));
            }
        }
        Ok(())
    })?;
    Ok(sums)
}

/// What a group should be and is, where that differs.
struct Difference {
    stored: Option<Tally>,
    found: Tally,
}

impl Difference {
    fn describe(&self, group: Group, paths: &HashMap<ScopeId, String>) -> WrongGroup {
        WrongGroup {
            scope: scope_name(paths, group.scope),
            day: group.begins(),
            expected: self.stored.map(|stored| stored.records()),
            found: self.found.records(),
        }
    }
}

fn differences(summed: &Summed, stored: &BTreeMap<Group, Option<Tally>>) -> BTreeMap<Group, Difference> {
    let groups: HashSet<Group> = summed.groups.keys().chain(stored.keys()).copied().collect();
    let difference = |group: Group| {
        let found = summed.groups.get(&group).copied().unwrap_or_default();
        let stored = stored.get(&group).copied().unwrap_or(Some(Tally::default()));
        (stored != Some(found)).then_some((group, Difference { stored, found }))
    };
    groups.into_iter().filter_map(difference).collect()
}

/// Where to look. If the stored sums do not add up to the head, one of them was put back together with its records, and
/// fits: then it may be any group.
fn suspects(
    head: Option<&StoredHead>,
    summed: &Summed,
    stored: &BTreeMap<Group, Option<Tally>>,
    differences: &BTreeMap<Group, Difference>,
) -> Suspects {
    let all = stored.values().flatten().fold(Tally::default(), |sum, tally| sum.plus(tally));
    match head {
        Some(head) if head.total != all => Suspects::All { lacking: head.total.minus(&summed.total) },
        _ => {
            let lacking = |difference: &Difference| difference.stored.unwrap_or_default().minus(&difference.found);
            Suspects::Groups(differences.iter().map(|(group, difference)| (*group, lacking(difference))).collect())
        }
    }
}

fn scope_name(paths: &HashMap<ScopeId, String>, scope: ScopeId) -> String {
    paths.get(&scope).cloned().unwrap_or_else(|| format!("scope {scope}"))
}

/// All rows with `start <= key < end`, some at a time.
fn each(
    rows: &dyn Rows,
    table: Table,
    start: &[u8],
    end: &[u8],
    mut take: impl FnMut(&[Row]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let mut next = start.to_vec();
    loop {
        let found = rows.scan(table, &next, end, Order::Ascending, ROWS_A_SCAN)?;
        take(&found)?;
        match found.into_iter().next_back() {
            Some((last, _)) => next = [&last[..], &[0]].concat(),
            None => return Ok(()),
        }
    }
}

impl Summed {
    fn note_damaged(&mut self, handle: Handle, group: Option<Group>) {
        self.damaged_in_all += 1;
        if self.damaged.len() < FINDINGS_AT_MOST {
            self.damaged.push((handle, group));
        }
    }
}

impl<'a> DataKeys<'a> {
    fn new(keyring: &'a Keyring) -> Self {
        Self { keyring, known: HashMap::new() }
    }

    /// Header, group and tally of a record that opens; else the group that it claims.
    fn open(&mut self, handle: &Handle, row: &[u8]) -> Result<(Header, Group, Tally), Option<Group>> {
        let record = Record::parse(row).map_err(|_| None)?;
        let imprint = record.imprint();
        let group = Group::of(&imprint);
        let key = self.of(group.scope).ok_or(Some(group))?;
        let unlocked = record.unlock_outer(self.keyring.vault(), handle, &key).map_err(|_| Some(group))?;
        Ok((*unlocked.header(), group, self.keyring.state().record(handle, &imprint)))
    }

    fn of(&mut self, scope: ScopeId) -> Option<Arc<DataKey>> {
        let keyring = self.keyring;
        let find = || keyring.data_keys(&HashSet::from([scope])).remove(&scope);
        self.known.entry(scope).or_insert_with(find).clone()
    }
}
