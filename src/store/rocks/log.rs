//! A look through the log before RocksDB reads it: is what is wrong with it only a torn end? A torn end is cut off.
//!
//! In the recovery mode that we use RocksDB refuses most damage, but not all. A header that was zeroed, or a length that
//! points past the end, makes it drop up to 32 KiB of acknowledged commits without a word; a record type of recycled logs
//! makes it turn in a circle for ever. What gives such damage away is what stands behind it: commits are written one after
//! the other, each synced before the next, so a record that *begins* behind the damage proves that what was damaged had
//! been acknowledged. The sequence numbers of the batches prove that none is missing in between.
//!
//! A power cut may leave a file longer than what was written to it: the file system commits the length with another file's
//! sync, and the pages that were still to come read as zeros. RocksDB refuses to open such a last record, whose commit
//! nobody was told of, for its checksum. So the last batch's checksums are verified here, and if they fail and zeros stand
//! where a sector was to be, the log is cut off in front of it. The other checksums are RocksDB's to verify. Damage to the
//! very last record that looks like a torn write can't be told from one, nor can a log that was cut off at a record's end
//! be told from a whole one; only someone who remembers how much there was can see that.
//!
//! The format is that of RocksDB's `db/log_format.h`: blocks of 32 KiB; in them records, or pieces of records, of a masked
//! CRC-32C (4 bytes), a length (2), a type (1) and the content; less than 7 bytes at a block's end are zeros. The content
//! is a batch: sequence number (8), count (4), rows. All numbers are little endian.

use super::CURRENT;
use crate::store::OpenError;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
const BATCH_HEADER: usize = 12;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// The log can't be opened without losing what was acknowledged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log {file} is damaged at byte {offset}: {kind}{}", self.way_on())]
pub(super) struct Damage {
    file: String,
    offset: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Kind {
    #[error("a record is unreadable, and later ones are there")]
    Middle,
    #[error("records are missing or stand twice")]
    Sequence,
    #[error("a record is of a kind that is never written")]
    Alien,
    #[error("what stands at its end is unreadable, and not as a power cut leaves it")]
    End,
}

impl Damage {
    /// Nothing sound stands behind it, so cutting it off keeps all that can be kept. Whether it had been acknowledged nobody
    /// can see from the log: the start then holds what is left against the checkpoints outside.
    fn way_on(&self) -> String {
        let Self { file, offset, kind } = self;
        match kind {
            Kind::End => format!(
                ". All before that is whole. To go on with it, copy the directory, then run `truncate --size={offset} {file}` \
                 in it, and start again: that checks the log against the checkpoints outside"
            ),
            Kind::Middle | Kind::Sequence | Kind::Alien => String::new(),
        }
    }
}

/// What may stand in a header's type. The others are of features that are off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    Full,
    First,
    Middle,
    Last,
}

struct Header {
    crc: u32,
    length: usize,
    piece: Piece,
}

/// What is wrong with a header.
enum Broken {
    /// It could be the beginning of a torn write: zeros, or content that is not all there.
    Torn,
    Alien,
}

/// What a look through one log came to.
enum Found {
    Sound,
    /// From this byte on it was torn: nobody was told of what stands there.
    Torn(u64),
    Damaged(u64, Kind),
}

/// What the look through all of a store's logs came to.
enum Look {
    Sound,
    /// From this byte of the newest log on.
    Torn(PathBuf, u64),
    Damaged(Damage),
}

/// Looks through all logs of the store in `path` for damage that a torn write does not explain. If there is none, the torn
/// end of the newest is cut off. An older one was whole when the next was begun; RocksDB knows how long it was.
pub(super) fn check(path: &Path) -> io::Result<Option<Damage>> {
    match look(path)? {
        Look::Sound => Ok(None),
        Look::Damaged(damage) => Ok(Some(damage)),
        Look::Torn(path, offset) => {
            tracing::warn!(
                ?path,
                offset,
                "a crash tore the log's last record, which nobody was told of: it is cut off"
            );
            let file = File::options().write(true).open(path)?;
            file.set_len(offset)?;
            file.sync_all()?;
            Ok(None)
        }
    }
}

/// Whether all that is wrong with the logs is a torn end. It stays as it is.
pub(super) fn is_only_torn(path: &Path) -> io::Result<bool> {
    Ok(matches!(look(path)?, Look::Torn(..)))
}

fn look(path: &Path) -> io::Result<Look> {
    let mut end = Look::Sound;
    for path in logs(path)? {
        let file = File::open(&path)?;
        if file.metadata()?.len() == 0 {
            continue;
        }
        end = match Walk::new(file)?.walk()? {
            Found::Sound => Look::Sound,
            Found::Torn(offset) => Look::Torn(path, offset),
            Found::Damaged(offset, kind) => {
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Ok(Look::Damaged(Damage { file, offset, kind }));
            }
        };
    }
    Ok(end)
}

/// RocksDB does not always say in which of its logs a checksum is wrong: then that is looked for here.
pub(super) fn name_damage(path: &Path, error: OpenError) -> OpenError {
    let OpenError::Refused { path: place, detail } = error else { return error };
    let is_named = [".log", ".sst", "MANIFEST", CURRENT].iter().any(|part| detail.contains(part));
    match first_wrong_sum(path) {
        Ok(Some((file, offset))) if !is_named => {
            OpenError::Refused { path: place, detail: format!("{detail}, in the log {file} at byte {offset}") }
        }
        _ => OpenError::Refused { path: place, detail },
    }
}

fn first_wrong_sum(path: &Path) -> io::Result<Option<(String, usize)>> {
    for path in logs(path)? {
        let log = fs::read(&path)?;
        for (number, block) in log.chunks(BLOCK).enumerate() {
            let mut at = 0;
            while let Ok(header) = header(&block[at..]) {
                if !header.sums(&block[at..]) {
                    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    return Ok(Some((file, number * BLOCK + at)));
                }
                at += HEADER + header.length;
            }
        }
    }
    Ok(None)
}

/// The store's logs, oldest first: their names are numbers.
fn logs(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            logs.push((number, path));
        }
    }
    logs.sort_unstable();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

/// One pass over one file, a block in memory at a time.
struct Walk {
    file: File,
    size: u64,
    /// The beginning of the batch that is being read, across pieces.
    batch: Vec<u8>,
    /// Where it begins in the file, and whether all its pieces have been seen.
    batch_at: u64,
    batch_ended: bool,
    /// The sequence number that the next batch must have.
    next: Option<u64>,
}

impl Walk {
    fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size, batch: Vec::with_capacity(BATCH_HEADER), batch_at: 0, batch_ended: true, next: None })
    }

    fn walk(&mut self) -> io::Result<Found> {
        let mut block = vec![0; BLOCK];
        for start in (0..self.size).step_by(BLOCK) {
            let length = usize::try_from(self.size - start).map_or(BLOCK, |rest| rest.min(BLOCK));
            self.file.read_exact_at(&mut block[..length], start)?;
            if let Err((at, kind)) = self.block(&block[..length], start) {
                return self.judge(start + at as u64, kind);
            }
        }
        self.judge(self.size, None)
    }

    /// What it means that nothing more can be read at `at`, be it the end or a header that is wrong in this way. The last
    /// batch may be what is wrong: with a torn length in its header the next is looked for in the wrong place.
    fn judge(&self, at: u64, kind: Option<Kind>) -> io::Result<Found> {
        let last = self.read(self.batch_at)?;
        if !sums(&last, within_block(self.batch_at)) {
            return Ok(match () {
                () if self.begins_again_after(self.batch_at)? => Found::Damaged(self.batch_at, Kind::Middle),
                () if is_torn(&last, self.batch_at) => Found::Torn(self.batch_at),
                () => Found::Damaged(self.batch_at, Kind::End),
            });
        }
        let torn_from = if self.batch_ended { at } else { self.batch_at };
        Ok(match kind {
            Some(Kind::Alien) if !self.begins_again_after(at)? => Found::Damaged(at, Kind::End),
            Some(kind) => Found::Damaged(at, kind),
            None if torn_from == self.size => Found::Sound,
            None if self.begins_again_after(at)? => Found::Damaged(at, Kind::Middle),
            None => Found::Torn(torn_from),
        })
    }

    /// Reads a block's records. `Err` says where it broke off, and why if a torn write does not explain it.
    fn block(&mut self, block: &[u8], start: u64) -> Result<(), (usize, Option<Kind>)> {
        let mut at = 0;
        while at < block.len() && BLOCK - at >= HEADER {
            let header = match header(&block[at..]) {
                Ok(header) => header,
                Err(Broken::Torn) => return Err((at, None)),
                Err(Broken::Alien) => return Err((at, Some(Kind::Alien))),
            };
            let content = at + HEADER..at + HEADER + header.length;
            if matches!(header.piece, Piece::Full | Piece::First) {
                self.batch_at = start + at as u64;
            }
            self.batch_ended = matches!(header.piece, Piece::Full | Piece::Last);
            if !self.content(header.piece, &block[content.clone()]) {
                return Err((at, Some(Kind::Sequence)));
            }
            at = content.end;
        }
        Ok(())
    }

    /// Takes in a piece of a batch. `false` if the batch does not follow the one before.
    fn content(&mut self, piece: Piece, content: &[u8]) -> bool {
        if matches!(piece, Piece::Full | Piece::First) {
            self.batch.clear();
        } else if self.batch.len() == BATCH_HEADER {
            return true;
        }
        let missing = BATCH_HEADER - self.batch.len();
        self.batch.extend_from_slice(&content[..content.len().min(missing)]);
        let Some((sequence, count)) = self.batch.split_first_chunk::<8>() else { return true };
        let (sequence, Ok(count)) = (u64::from_le_bytes(*sequence), count.try_into()) else { return true };
        let follows = self.next.is_none_or(|next| next == sequence);
        self.next = Some(sequence.wrapping_add(u64::from(u32::from_le_bytes(count))));
        follows
    }

    /// Whether a sound record begins behind `damage`, at any byte: lengths are not to be trusted any more.
    fn begins_again_after(&self, damage: u64) -> io::Result<bool> {
        let damage_in_block = within_block(damage);
        let rest = self.read(damage - damage_in_block as u64)?;
        Ok((damage_in_block + 1..rest.len()).any(|at| {
            let block_end = (at - at % BLOCK + BLOCK).min(rest.len());
            begins(&rest[at..block_end])
        }))
    }

    /// Everything from `from` to the end.
    fn read(&self, from: u64) -> io::Result<Vec<u8>> {
        let mut rest = vec![0; usize::try_from(self.size - from).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut rest, from)?;
        Ok(rest)
    }
}

/// Where in its block the byte at `at` lies.
fn within_block(at: u64) -> usize {
    usize::try_from(at % BLOCK as u64).expect("smaller than a block")
}

/// Whether the checksums of the batch at the start of `rest` are right, as far as its pieces can be read. `at` is where
/// `rest` begins in its block.
fn sums(mut rest: &[u8], mut at: usize) -> bool {
    loop {
        let in_block = &rest[..rest.len().min(BLOCK - at)];
        if BLOCK - at < HEADER {
            (rest, at) = (&rest[in_block.len()..], 0);
            continue;
        }
        let Ok(header) = header(in_block) else { return true };
        if !header.sums(in_block) {
            return false;
        }
        if matches!(header.piece, Piece::Full | Piece::Last) {
            return true;
        }
        let length = HEADER + header.length;
        (rest, at) = (&rest[length..], (at + length) % BLOCK);
    }
}

/// Whether a sector, or what `rest` has of one, is zeros: it was never written. `at` is where `rest` begins in the file.
fn is_torn(rest: &[u8], at: u64) -> bool {
    let first = (SECTOR - within_block(at) % SECTOR).min(rest.len());
    let (first, whole) = rest.split_at(first);
    std::iter::once(first).chain(whole.chunks(SECTOR)).any(|sector| sector.iter().all(|byte| *byte == 0))
}

/// The header at the start of `rest`, which ends with the block or the file.
fn header(rest: &[u8]) -> Result<Header, Broken> {
    let Some((&[c0, c1, c2, c3, l0, l1, kind], content)) = rest.split_first_chunk::<HEADER>() else {
        return Err(Broken::Torn);
    };
    let piece = match kind {
        0 => return Err(Broken::Torn),
        1 => Piece::Full,
        2 => Piece::First,
        3 => Piece::Middle,
        4 => Piece::Last,
        _ => return Err(Broken::Alien),
    };
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    if length > content.len() {
        return Err(Broken::Torn);
    }
    Ok(Header { crc: u32::from_le_bytes([c0, c1, c2, c3]), length, piece })
}

/// Whether a sound record begins here. Only one whose batch header is in its first piece counts: that is all but a few.
fn begins(rest: &[u8]) -> bool {
    let Ok(header) = header(rest) else { return false };
    matches!(header.piece, Piece::Full | Piece::First) && header.length >= BATCH_HEADER && header.sums(rest)
}

impl Header {
    /// Whether the checksum of the piece at the start of `rest` is right. It covers the type and the content.
    fn sums(&self, rest: &[u8]) -> bool {
        masked_crc(&rest[HEADER - 1..HEADER + self.length]) == self.crc
    }
}

/// CRC-32C (Castagnoli), rotated and offset as RocksDB stores it.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0, |crc: u32, byte| (crc >> 8) ^ CRC_TABLE[usize::from((crc & 0xff) as u8 ^ byte)]);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0u32;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        let plain = masked_crc(b"123456789").wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(plain, 0xe306_9283);
    }
}
