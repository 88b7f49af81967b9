//! From which log on RocksDB still needs them, as its list of files says.
//!
//! A log whose rows are all in tables may be deleted, and a crash may leave some of those, in any order. So where records
//! are missing between two logs, the list says whether that is damage.
//!
//! The format is that of RocksDB's `db/version_edit.h`: a file like a log, whose records are fields of a tag and what belongs
//! to it, numbers being variable in length.

use super::CURRENT;
use super::log::{self, BLOCK, HEADER, Piece};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// Tags from here on are followed by a length, so that who does not know them can pass over them.
const IGNORABLE: u64 = 1 << 13;
const LOGS_NEEDED_FROM: u64 = 10;
const LOGS_DELETED_BEFORE: u64 = IGNORABLE + 8;
const LOG_CLOSED: u64 = IGNORABLE + 7;
/// The same two as old versions wrote them, without a length.
const OLD: [u64; 2] = [IGNORABLE + 4, IGNORABLE + 5];

/// What the list says of logs.
#[derive(Default)]
pub(super) struct Logs {
    /// Those with smaller numbers are needed no more.
    pub(super) needed_from: u64,
    /// Those that were closed, needed or not.
    pub(super) tracked: BTreeSet<u64>,
}

impl Logs {
    /// `None` if the list can't be understood: that is for RocksDB to judge.
    pub(super) fn read(directory: &Path) -> io::Result<Option<Self>> {
        let name = fs::read_to_string(directory.join(CURRENT))?;
        Ok(Self::of(&fs::read(directory.join(name.trim_end()))?))
    }

    pub(super) fn of(list: &[u8]) -> Option<Self> {
        let (mut logs, mut edit) = (Self::default(), Vec::new());
        for block in list.chunks(BLOCK) {
            let mut at = 0;
            while BLOCK - at >= HEADER && at < block.len() {
                // A torn end: RocksDB goes no further either.
                let Ok(header) = log::header(&block[at..]) else { return Some(logs) };
                if matches!(header.piece, Piece::Full | Piece::First) {
                    edit.clear();
                }
                edit.extend_from_slice(&block[at + HEADER..at + HEADER + header.length]);
                if matches!(header.piece, Piece::Full | Piece::Last) {
                    logs.take(&edit)?;
                }
                at += HEADER + header.length;
            }
        }
        Some(logs)
    }

    /// One record of the list.
    fn take(&mut self, edit: &[u8]) -> Option<()> {
        let mut rest = edit;
        while !rest.is_empty() {
            match number(&mut rest)? {
                LOGS_NEEDED_FROM => self.needed_from = self.needed_from.max(number(&mut rest)?),
                LOGS_DELETED_BEFORE => {
                    self.needed_from = self.needed_from.max(number(&mut text(&mut rest)?)?);
                }
                LOG_CLOSED => _ = self.tracked.insert(number(&mut text(&mut rest)?)?),
                tag if tag & IGNORABLE != 0 && !OLD.contains(&tag) => _ = text(&mut rest)?,
                // Names: of the order of keys, of a family that is added.
                1 | 201 => _ = text(&mut rest)?,
                // Numbers: of a log, the next file, the last sequence, a log before, a family, the largest, edits to come.
                2 | 3 | 4 | 9 | 200 | 203 | 300 => _ = number(&mut rest)?,
                // A family is dropped: nothing more.
                202 => {}
                // A place in a level.
                5 => _ = (number(&mut rest)?, text(&mut rest)?),
                // A table is deleted: level, number.
                6 => _ = (number(&mut rest)?, number(&mut rest)?),
                103 => table(&mut rest)?,
                _ => return None,
            }
        }
        Some(())
    }
}

/// A table is added: level, number, size, first and last key, first and last sequence, and fields up to the tag 1.
fn table(rest: &mut &[u8]) -> Option<()> {
    for _ in 0..3 {
        number(rest)?;
    }
    for _ in 0..2 {
        text(rest)?;
    }
    for _ in 0..2 {
        number(rest)?;
    }
    while number(rest)? != 1 {
        text(rest)?;
    }
    Some(())
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    rest.split_off(..length)
}
