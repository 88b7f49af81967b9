//! What the writer keeps of the live records: a masked sum for each group of them, and one row, the *head*, that says with
//! every commit how long the log is, which root it has, how far the vault's time had come and what all records together
//! are.
//!
//! Sums come ready-made with the submissions; the writer only adds them up. A group's row is written by each commit that
//! touches the group and goes when nothing is left of the group. The head is under the MAC of the rows of `meta`; what is
//! wrong with a group's row shows when all is added up again, which is what `cloakroom verify` does.

use super::Fatal;
use crate::clock::Timestamp;
use crate::crypto::MetaKey;
use crate::crypto::state::{Group, MASKED_LENGTH, RANDOM_BYTES, StateDigest, StateKey, Tally};
use crate::keys::authentic;
use crate::keys::entropy::Supply;
use crate::merkle::Hash;
use crate::store::{Batch, Found, ReadError, Rows, Table, Tier};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The row of `tree` that each commit writes.
pub(super) const HEAD_ROW: &[u8] = b"head";
const HEAD_FORMAT: u8 = 2;
/// Has no time mark: in data of storage format 2, that is a row of its own.
const HEAD_FORMAT_WITHOUT_MARK: u8 = 1;
const GROUP_FORMAT: u8 = 1;
/// Format, size, root and time mark.
const HEAD_LENGTH: usize = 1 + 8 + 32 + 8 + MASKED_LENGTH;
/// Sums that are kept in memory. Nearly all commits touch today's groups.
const KNOWN_AT_MOST: usize = 4096;
/// Masks for which randomness is drawn at once: a system call costs as much as ten of them.
const MASKS_AT_ONCE: usize = 256;

/// How far the log and the records had come with the last commit.
pub struct StoredHead {
    /// The number of events.
    pub size: u64,
    /// The tree's root over them.
    pub root: Hash,
    /// Nothing that had expired by then ever lives again. It stands in this row and not in one of its own, which could be
    /// put back alone: this one fits no other log. `None` in data of storage format 2.
    pub mark: Option<Timestamp>,
    /// All records.
    pub total: Tally,
}

/// A row of the head is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    /// It does not verify.
    Forged,
    /// It has another format.
    Newer(u8),
    /// It has a right MAC and a wrong length.
    Length,
}

/// The writer's part.
pub(super) struct State {
    key: Arc<StateKey>,
    total: Tally,
    /// What the batch that is being built adds.
    added: BTreeMap<Group, Tally>,
    /// Sums as they are stored, of some groups.
    known: HashMap<Group, Tally>,
    random: Option<Supply>,
    masks_left: usize,
}

impl StoredHead {
    pub(super) fn seal(&self, meta: &MetaKey, key: &StateKey, random: [u8; RANDOM_BYTES]) -> Vec<u8> {
        let mut content = Vec::with_capacity(HEAD_LENGTH);
        content.push(if self.mark.is_some() { HEAD_FORMAT } else { HEAD_FORMAT_WITHOUT_MARK });
        content.extend_from_slice(&self.size.to_be_bytes());
        content.extend_from_slice(&self.root.0);
        if let Some(mark) = self.mark {
            content.extend_from_slice(&mark.millis().to_be_bytes());
        }
        content.extend_from_slice(&key.mask(None, random, &self.total));
        authentic::seal(meta, Table::Tree, HEAD_ROW, &content)
    }

    pub(super) fn open(meta: &MetaKey, key: &StateKey, row: &[u8]) -> Result<Self, BadHead> {
        let content = authentic::open(meta, Table::Tree, HEAD_ROW, row).ok_or(BadHead::Forged)?;
        let (format, content) = content.split_first().ok_or(BadHead::Length)?;
        let (size, content) = content.split_first_chunk().ok_or(BadHead::Length)?;
        let (root, content) = content.split_first_chunk().ok_or(BadHead::Length)?;
        let (mark, masked) = match *format {
            HEAD_FORMAT => {
                let (mark, masked) = content.split_first_chunk().ok_or(BadHead::Length)?;
                (Some(Timestamp::from_millis(u64::from_be_bytes(*mark))), masked)
            }
            HEAD_FORMAT_WITHOUT_MARK => (None, content),
            newer => return Err(BadHead::Newer(newer)),
        };
        let masked = masked.try_into().map_err(|_| BadHead::Length)?;
        Ok(Self { size: u64::from_be_bytes(*size), root: Hash(*root), mark, total: key.unmask(None, masked) })
    }
}

/// What a row of `state` says of its group. `None` if it has no form that this version knows.
pub fn stored_sum(key: &StateKey, group: Group, row: &[u8]) -> Option<Tally> {
    let (format, masked) = row.split_first()?;
    let masked = masked.try_into().ok()?;
    (*format == GROUP_FORMAT).then(|| key.unmask(Some(group), masked))
}

pub(super) fn group_row(
    key: &StateKey,
    group: Group,
    random: [u8; RANDOM_BYTES],
    sum: &Tally,
) -> [u8; 1 + MASKED_LENGTH] {
    let mut row = [GROUP_FORMAT; 1 + MASKED_LENGTH];
    row[1..].copy_from_slice(&key.mask(Some(group), random, sum));
    row
}

impl State {
    pub fn new(key: Arc<StateKey>, total: Tally) -> Self {
        Self { key, total, added: BTreeMap::new(), known: HashMap::new(), random: None, masks_left: 0 }
    }

    /// What one submission does.
    pub fn add(&mut self, sums: &[(Group, Tally)]) {
        for (group, sum) in sums {
            let added = self.added.entry(*group).or_default();
            *added = added.plus(sum);
            self.total = self.total.plus(sum);
        }
    }

    /// All records, of a log of this size.
    pub fn digest(&self, size: u64) -> StateDigest {
        self.key.digest(size, &self.total)
    }

    /// The rows of the groups that were added to, and the head.
    pub fn write(
        &mut self,
        rows: &dyn Rows,
        meta: &MetaKey,
        size: u64,
        root: Hash,
        mark: Timestamp,
        batch: &mut Batch,
    ) -> Result<(), Fatal> {
        let added = std::mem::take(&mut self.added);
        let before = self.sums(rows, added.keys().copied())?;
        for ((group, added), before) in added.into_iter().zip(before) {
            let sum = before.plus(&added);
            if sum.is_empty() {
                batch.delete(Table::State, &group.to_bytes());
            } else {
                let random = self.random()?;
                batch.put(Table::State, &group.to_bytes(), &group_row(&self.key, group, random, &sum));
            }
            self.know(group, sum);
        }
        let random = self.random()?;
        let head = StoredHead { size, root, mark: Some(mark), total: self.total };
        batch.put(Table::Tree, HEAD_ROW, &head.seal(meta, &self.key, random));
        Ok(())
    }

    /// The sums of these groups as they are stored.
    fn sums(&self, rows: &dyn Rows, groups: impl Iterator<Item = Group>) -> Result<Vec<Tally>, ReadError> {
        let sum = |group: Group| match self.known.get(&group) {
            Some(sum) => Ok(*sum),
            None => self.read(rows, group),
        };
        groups.map(sum).collect()
    }

    fn read(&self, rows: &dyn Rows, group: Group) -> Result<Tally, ReadError> {
        let found = match rows.get(Table::State, &[&group.to_bytes()], Tier::Disk) {
            Ok(found) => found.into_iter().next(),
            // A block that the disk has damaged is like a row that was edited: no reason to refuse today's tokens. The head
            // still has the right total, and whoever adds up finds that the group is not right.
            Err(error @ ReadError::Corrupt { .. }) => {
                tracing::error!(%error, group = hex::encode(group.to_bytes()), "{DAMAGED}");
                None
            }
            Err(error) => return Err(error),
        };
        let Some(Found::Row(row)) = found else { return Ok(Tally::default()) };
        Ok(stored_sum(&self.key, group, &row).unwrap_or_else(|| {
            tracing::error!(group = hex::encode(group.to_bytes()), "{DAMAGED}");
            Tally::default()
        }))
    }

    fn know(&mut self, group: Group, sum: Tally) {
        if self.known.len() >= KNOWN_AT_MOST {
            self.known.clear();
        }
        self.known.insert(group, sum);
    }

    /// Never the same twice, not even after a crash or in a copy of the machine: so it is no counter.
    fn random(&mut self) -> Result<[u8; RANDOM_BYTES], Fatal> {
        if self.masks_left == 0 {
            self.random = None;
        }
        if self.random.is_none() {
            self.random = Some(Supply::of(MASKS_AT_ONCE * RANDOM_BYTES)?);
            self.masks_left = MASKS_AT_ONCE;
        }
        self.masks_left -= 1;
        Ok(self.random.as_mut().expect("it was just drawn").take())
    }
}

const DAMAGED: &str = "the sum over a group of records is damaged and begins anew: run `cloakroom verify`";
