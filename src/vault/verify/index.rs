//! Whether the index leads to the events, to all of them and nowhere else.
//!
//! No lock and no sum is over the index, since it says nothing that the events do not say. But who deletes rows of it hides
//! events from whoever asks by caller, scope or handle. So it is made once more from the events, and both are compared: not
//! row by row, as they lie in different orders, but by sums over blocks of events, of 128 bits under keys that are drawn for
//! this one look. Only blocks that differ are looked at again, row by row.
//!
//! Memory grows with the number of blocks. Whether the events themselves are right is not asked here.

use super::{FINDINGS_AT_MOST, each};
use crate::event::{self, Event};
use crate::ledger::{IndexKey, IndexRow};
use crate::store::{ReadError, Rows, Table};
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};

/// Events whose rows are summed up together.
const BLOCK: u64 = 4096;
/// Rows of blocks that differ, which are made again and kept in mind.
const ROWS_AT_MOST: usize = 1_000_000;

/// What was found.
#[derive(Debug, Default)]
pub struct IndexReport {
    /// Events whose bodies are there.
    pub events: u64,
    /// Rows of the index.
    pub rows: u64,
    /// What is wrong, in the order of the log, the first thousand of it.
    pub findings: Vec<IndexFinding>,
    /// How much more there is, of what was looked at.
    pub more: u64,
    /// Blocks of events that differ, too, and were not looked at for being too many.
    pub blocks_left: u64,
}

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexFinding {
    /// The event that it leads to or should lead to. `None`: it leads to none at all.
    pub event: Option<u64>,
    /// What kind of wrong.
    pub kind: IndexKind,
    /// What the event is, or would be, found by.
    pub by: String,
}

/// The kinds of what can be wrong with the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IndexKind {
    /// The event is not found by this.
    Missing,
    /// It leads to an event that is not about this, or is not there.
    Extra,
    /// It is there, and its content is not what the event says.
    Changed,
}

/// Adds up rows so that only the same rows have the same sum: who knows no key can't make others fit.
struct Sums {
    keys: [RandomState; 2],
    blocks: HashMap<u64, u128>,
}

impl IndexReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.more == 0 && self.blocks_left == 0
    }
}

impl IndexKind {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Changed => "changed",
        }
    }
}

/// Compares the index with the events. `progress` is told how many events have been read.
///
/// # Errors
/// If the rows can't be read. What is wrong with them is no error but in the report.
pub fn verify_index(rows: &dyn Rows, progress: &mut dyn FnMut(u64)) -> Result<IndexReport, ReadError> {
    let mut report = IndexReport::default();
    let mut sums = Sums { keys: Default::default(), blocks: HashMap::new() };
    each_event(rows, 0, u64::MAX, |sequence, event| {
        for row in IndexRow::of(event) {
            sums.add(sequence, &row.key.at(sequence), &row.content);
        }
        report.events += 1;
        progress(report.events);
    })?;
    each_index_row(rows, |key, content| {
        report.rows += 1;
        match IndexKey::read(key) {
            Some((_, sequence)) => sums.take(sequence, key, content),
            None => note(&mut report, IndexFinding { event: None, kind: IndexKind::Extra, by: "nothing".to_owned() }),
        }
    })?;
    let differ: BTreeSet<u64> = sums.blocks.iter().filter(|(_, sum)| **sum != 0).map(|(block, _)| *block).collect();
    if !differ.is_empty() {
        look_again(rows, &differ, &mut report)?;
    }
    report.findings.sort();
    Ok(report)
}

/// Names what is wrong in blocks that differ, as many of them as can be kept in mind.
fn look_again(rows: &dyn Rows, differ: &BTreeSet<u64>, report: &mut IndexReport) -> Result<(), ReadError> {
    let (mut expected, mut looked_at) = (HashMap::new(), BTreeSet::new());
    for block in differ {
        if expected.len() >= ROWS_AT_MOST {
            report.blocks_left += 1;
            continue;
        }
        looked_at.insert(*block);
        let first = block * BLOCK;
        each_event(rows, first, first.saturating_add(BLOCK), |sequence, event| {
            expected.extend(IndexRow::of(event).into_iter().map(|row| (row.key.at(sequence), row.content)));
        })?;
    }
    each_index_row(rows, |key, content| {
        let Some((by, sequence)) = IndexKey::read(key) else { return };
        if !looked_at.contains(&(sequence / BLOCK)) {
            return;
        }
        let kind = match expected.remove(key) {
            Some(right) if right == content => return,
            Some(_) => IndexKind::Changed,
            None => IndexKind::Extra,
        };
        note(report, IndexFinding { event: Some(sequence), kind, by });
    })?;
    for key in expected.into_keys() {
        let Some((by, sequence)) = IndexKey::read(&key) else { continue };
        note(report, IndexFinding { event: Some(sequence), kind: IndexKind::Missing, by });
    }
    Ok(())
}

/// All events from one sequence up to another. One that can't be read has no rows; that it can't be read is for `audit
/// verify` to say.
fn each_event(rows: &dyn Rows, from: u64, to: u64, mut take: impl FnMut(u64, &Event)) -> Result<(), ReadError> {
    let end = [&to.to_be_bytes()[..], if to == u64::MAX { &[0] } else { &[] }].concat();
    each(rows, Table::Events, &from.to_be_bytes(), &end, |found| {
        for (key, bytes) in found {
            if let (Ok(sequence), Ok(event)) = (<[u8; 8]>::try_from(&key[..]), event::decode(bytes)) {
                take(u64::from_be_bytes(sequence), &event);
            }
        }
        Ok(())
    })
}

fn each_index_row(rows: &dyn Rows, mut take: impl FnMut(&[u8], &[u8])) -> Result<(), ReadError> {
    // Longer than any row's key, so that none is behind it but one that begins with as many of its bytes.
    each(rows, Table::EventIndex, &[], &[0xff; 64], |found| {
        for (key, content) in found {
            take(key, content);
        }
        Ok(())
    })
}

fn note(report: &mut IndexReport, finding: IndexFinding) {
    if report.findings.len() < FINDINGS_AT_MOST {
        report.findings.push(finding);
    } else {
        report.more += 1;
    }
}

impl Sums {
    fn add(&mut self, sequence: u64, key: &[u8], content: &[u8]) {
        let row = self.hash(key, content);
        let sum = self.blocks.entry(sequence / BLOCK).or_default();
        *sum = sum.wrapping_add(row);
    }

    fn take(&mut self, sequence: u64, key: &[u8], content: &[u8]) {
        let row = self.hash(key, content);
        let sum = self.blocks.entry(sequence / BLOCK).or_default();
        *sum = sum.wrapping_sub(row);
    }

    fn hash(&self, key: &[u8], content: &[u8]) -> u128 {
        let [high, low] = self.keys.each_ref().map(|state| u128::from(state.hash_one((key, content))));
        high << 64 | low
    }
}
