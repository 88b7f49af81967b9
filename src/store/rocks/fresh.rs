//! Rows of `tokens` that were written lately, in front of the engine: most tokens are asked for soon after they were issued, and a
//! memtable takes ten times as long to find one.
//!
//! Invariant: a row is here only as the last commit that returned has left it. Only commits write here, behind the engine and
//! before they return; what is read from the engine is not put here, so no reader brings back what a commit has replaced.
//!
//! Rows lie one behind the other in a ring of bytes, and the oldest give way. Each shard has a table of places: by a few bits of
//! its key, a row is in one of four, the newest first. A row may be pushed out of its places before its bytes are: then it
//! is asked for in the engine, and nothing else is lost. Rows are as they are on disk: sealed.

use super::super::{Batch, Change, Table};
use parking_lot::Mutex;

/// So that network threads that read and the writer seldom wait for each other.
const SHARDS: usize = 16;
/// Places of rows whose keys look alike.
const WAYS: usize = 4;
/// Of ring, for each group of places. A card's row takes some 256 bytes: half of the places are in use.
const BYTES_A_GROUP: usize = 512;
/// A row longer than that part of a shard would push out too many others for its own sake.
const LARGEST_PART: usize = 16;
/// Lengths of key and content.
const HEAD_BYTES: usize = 2 * size_of::<usize>();

/// The rows, in shards by their keys.
pub(super) struct Fresh {
    shards: Box<[Mutex<Shard>]>,
}

struct Shard {
    ring: Box<[u8]>,
    /// All that was ever written, and what was left out at the end of each round: where the next row begins.
    written: usize,
    groups: Box<[[Place; WAYS]]>,
}

/// Where a row may be: a quarter of the bits are of its key's spread, the rest says where it begins, counted from 1.
#[derive(Clone, Copy, Default)]
struct Place(usize);

const AT_BITS: u32 = usize::BITS / 4 * 3;
const AT: usize = (1 << AT_BITS) - 1;

impl Fresh {
    /// That many bytes; with 0 nothing is kept.
    pub fn new(bytes: usize) -> Self {
        // Places take their part of it.
        let of_ring = bytes / SHARDS * BYTES_A_GROUP / (BYTES_A_GROUP + size_of::<[Place; WAYS]>());
        let shards = if of_ring == 0 { 0 } else { SHARDS };
        Self { shards: (0..shards).map(|_| Mutex::new(Shard::new(of_ring))).collect() }
    }

    /// What a commit has done, which the engine has taken.
    pub fn follow(&self, batch: &Batch) {
        if self.shards.is_empty() {
            return;
        }
        for change in batch.changes() {
            match change {
                Change::Put { table: Table::Tokens, key, content } => self.put(key, content),
                Change::Delete { table: Table::Tokens, key } => {
                    let (spread, shard) = self.shard(key);
                    shard.lock().forget(spread, key);
                }
                _ => {}
            }
        }
    }

    /// The row, if it is here.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        if table != Table::Tokens || self.shards.is_empty() {
            return None;
        }
        let (spread, shard) = self.shard(key);
        let shard = shard.lock();
        shard.find(spread, key).map(<[u8]>::to_vec)
    }

    fn put(&self, key: &[u8], content: &[u8]) {
        let (spread, shard) = self.shard(key);
        shard.lock().put(spread, key, content);
    }

    fn shard(&self, key: &[u8]) -> (usize, &Mutex<Shard>) {
        let spread = spread(key);
        (spread, &self.shards[spread % self.shards.len()])
    }
}

/// The last bytes of a handle are those of an HMAC, which nobody chooses: no better hash is needed.
fn spread(key: &[u8]) -> usize {
    let last = &key[key.len().saturating_sub(8)..];
    last.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

impl Place {
    fn new(spread: usize, at: usize) -> Self {
        Self(mark(spread) << AT_BITS | (at + 1) & AT)
    }

    /// Where it begins, if its key can be this one.
    fn of(self, spread: usize) -> Option<usize> {
        let at = self.0 & AT;
        (self.0 >> AT_BITS == mark(spread)).then_some(at)?.checked_sub(1)
    }
}

fn mark(spread: usize) -> usize {
    spread >> AT_BITS
}

impl Shard {
    fn new(bytes: usize) -> Self {
        let groups = (bytes / BYTES_A_GROUP).max(1);
        Self {
            ring: vec![0; bytes].into_boxed_slice(),
            written: 0,
            groups: vec![[Place::default(); WAYS]; groups].into_boxed_slice(),
        }
    }

    fn find(&self, spread: usize, key: &[u8]) -> Option<&[u8]> {
        let group = &self.groups[self.group(spread)];
        group.iter().filter_map(|place| place.of(spread)).find_map(|at| self.row(at, key))
    }

    fn put(&mut self, spread: usize, key: &[u8], content: &[u8]) {
        let length = HEAD_BYTES + key.len() + content.len();
        if length > self.ring.len() / LARGEST_PART {
            return self.forget(spread, key);
        }
        let mut begin = self.place(self.written);
        if begin + length > self.ring.len() {
            self.written += self.ring.len() - begin;
            begin = 0;
        }
        let (head, rest) = self.ring[begin..begin + length].split_at_mut(HEAD_BYTES);
        head[..HEAD_BYTES / 2].copy_from_slice(&key.len().to_le_bytes());
        head[HEAD_BYTES / 2..].copy_from_slice(&content.len().to_le_bytes());
        let (key_there, content_there) = rest.split_at_mut(key.len());
        key_there.copy_from_slice(key);
        content_there.copy_from_slice(content);
        let group = self.group(spread);
        let group = &mut self.groups[group];
        group.rotate_right(1);
        group[0] = Place::new(spread, self.written);
        self.written += length;
    }

    /// All copies of the row, older ones that were replaced too.
    fn forget(&mut self, spread: usize, key: &[u8]) {
        let group = self.group(spread);
        for way in 0..WAYS {
            let at = self.groups[group][way].of(spread);
            if at.is_some_and(|at| self.row(at, key).is_some()) {
                self.groups[group][way] = Place::default();
            }
        }
    }

    /// The row that begins there, if it has not been overwritten and has this key.
    fn row(&self, at: usize, key: &[u8]) -> Option<&[u8]> {
        if self.written > at + self.ring.len() {
            return None;
        }
        let row = &self.ring[self.place(at)..];
        let (head, rest) = row.split_at_checked(HEAD_BYTES)?;
        let (key_length, content_length) = head.split_first_chunk()?;
        let (there, rest) = rest.split_at_checked(usize::from_le_bytes(*key_length))?;
        let content_length = usize::from_le_bytes(content_length.try_into().ok()?);
        if there == key { rest.get(..content_length) } else { None }
    }

    fn place(&self, at: usize) -> usize {
        at % self.ring.len()
    }

    /// By other bits than its shard's.
    fn group(&self, spread: usize) -> usize {
        spread / SHARDS % self.groups.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key(number: u8) -> Vec<u8> {
        // Some look alike, some have the same places.
        vec![number % 3, 7, 7, 7, 7, 7, 7, 7, 7, number]
    }

    proptest! {
        /// Against a map: what is here is what was put last, whatever was pushed out.
        #[test]
        fn a_row_is_here_as_it_was_put_last_or_not_at_all(
            changes in prop::collection::vec((any::<u8>(), 0..500_usize, any::<bool>()), 1..400),
        ) {
            let fresh = Fresh::new(SHARDS * (8 << 10));
            let mut model = HashMap::new();
            for (round, (number, length, is_deleted)) in changes.into_iter().enumerate() {
                let mut batch = Batch::default();
                let content = vec![round.to_le_bytes()[0]; length];
                if is_deleted {
                    batch.delete(Table::Tokens, &key(number));
                    model.remove(&number);
                } else {
                    batch.put(Table::Tokens, &key(number), &content);
                    model.insert(number, content.clone());
                }
                // Of other tables nothing is kept.
                batch.put(Table::Meta, &key(number), b"other");
                fresh.follow(&batch);
                if !is_deleted && length < 400 {
                    prop_assert_eq!(fresh.get(Table::Tokens, &key(number)), Some(content), "the last one is here");
                }
                prop_assert_eq!(fresh.get(Table::Meta, &key(number)), None);
                for number in 0..=u8::MAX {
                    if let Some(found) = fresh.get(Table::Tokens, &key(number)) {
                        prop_assert_eq!(Some(&found), model.get(&number));
                    }
                }
            }
        }
    }

    #[test]
    fn the_oldest_give_way() {
        let fresh = Fresh::new(1 << 20);
        let key = |number: u32| (u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes();
        let mut batch = Batch::default();
        (0..20_000).for_each(|number| batch.put(Table::Tokens, &key(number), &[1; 240]));
        fresh.follow(&batch);
        let here = |numbers: std::ops::Range<u32>| {
            numbers.filter(|number| fresh.get(Table::Tokens, &key(*number)).is_some()).count()
        };
        // A MiB has room for some 3,700 of them.
        assert_eq!(here(0..15_000), 0);
        assert!(here(17_000..20_000) > 2_700, "nearly all: {}", here(17_000..20_000));
    }

    #[test]
    fn without_room_nothing_is_kept() {
        for bytes in [0, SHARDS - 1] {
            let fresh = Fresh::new(bytes);
            let mut batch = Batch::default();
            batch.put(Table::Tokens, b"key", b"row");
            fresh.follow(&batch);
            assert_eq!(fresh.get(Table::Tokens, b"key"), None);
        }
    }

    #[test]
    fn a_row_too_long_for_it_takes_its_older_one_away() {
        let fresh = Fresh::new(SHARDS * (8 << 10));
        for (length, is_there) in [(100, true), (8 << 10, false), (0, true)] {
            let mut batch = Batch::default();
            batch.put(Table::Tokens, b"key", &vec![1; length]);
            fresh.follow(&batch);
            assert_eq!(fresh.get(Table::Tokens, b"key").is_some(), is_there, "{length}");
        }
    }
}
