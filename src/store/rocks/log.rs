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
//! where a sector was to be, the log is cut off in front of it. In a log whose end is sound the other checksums are RocksDB's
//! to verify; before an end is cut off or passed over, they are verified here. What is cut off is kept in a file beside the
//! log, for whoever wants to know what it was. Only the newest log can be torn: when one is begun, the one before is whole,
//! and its last sequence number goes on in the next. Damage to the very last record that looks like a torn write can't be told from one, nor can a log that was cut off at a record's end
//! be told from a whole one; only someone who remembers how much there was can see that.
//!
//! The format is that of RocksDB's `db/log_format.h`: blocks of 32 KiB; in them records, or pieces of records, of a masked
//! CRC-32C (4 bytes), a length (2), a type (1) and the content; less than 7 bytes at a block's end are zeros. The content
//! is a batch: sequence number (8), count (4), rows. All numbers are little endian.

use super::{CURRENT, list};
use crate::store::OpenError;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) const BLOCK: usize = 32 * 1024;
pub(super) const HEADER: usize = 7;
const BATCH_HEADER: usize = 12;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// What was cut off is kept in files with this in their names, which RocksDB takes no notice of.
const KEPT: &str = ".log.torn-";
/// So many of them. A disk that tears each time must not fill itself.
const KEPT_AT_MOST: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Kind {
    #[error("a record is unreadable, and later ones are there")]
    Middle,
    #[error("records are missing or stand twice")]
    Sequence,
    #[error(
        "the log {0:06}.log, which comes before it, does not lead up to it: records are missing in between, or stand twice"
    )]
    Between(u64),
    #[error("the log {0:06}.log, which comes before it, is missing")]
    Missing(u64),
    #[error("a record is of a kind that is never written")]
    Alien,
    #[error("a record's checksum is wrong")]
    Sum,
    /// Nothing sound stands behind it, so cutting it off keeps all that can be kept. Whether it had been acknowledged
    /// nobody can see from the log: the start then holds what is left against the checkpoints outside.
    #[error("what stands at its end is unreadable, and not as a power cut leaves it")]
    End,
}

/// What may stand in a header's type. The others are of features that are off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Full,
    First,
    Middle,
    Last,
}

pub(super) struct Header {
    crc: u32,
    pub(super) length: usize,
    pub(super) piece: Piece,
}

/// What is wrong with a header.
pub(super) enum Broken {
    /// It could be the beginning of a torn write: zeros, or content that is not all there.
    Torn,
    Alien,
}

/// What a look through one log came to.
#[derive(Clone, Copy)]
enum Found {
    Sound,
    /// From this byte on it was torn: nobody was told of what stands there.
    Torn(u64),
    Damaged(u64, Kind),
}

/// Where the newest log was torn. All before that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornEnd {
    /// The log's name.
    pub file: String,
    /// Its first byte that is not whole.
    pub offset: u64,
}

/// Looks through all logs of the store in `path` for damage that a torn write does not explain. If there is none, the torn
/// end of the newest is cut off, and what was there kept beside it. An older one was whole when the next was begun; RocksDB
/// knows how long it was.
pub(super) fn check(path: &Path) -> Result<(), OpenError> {
    if torn_end(path)?.is_none() {
        return Ok(());
    }
    // A vault that runs may be in the midst of writing what looks torn. Once it can't be, it is looked at again.
    let _lock = lock(path)?;
    let Some(TornEnd { file, offset }) = torn_end(path)? else { return Ok(()) };
    let cut = || {
        let log = path.join(&file);
        if let Some(kept) = keep(&log, offset)? {
            tracing::warn!(
                ?log,
                offset,
                ?kept,
                "a crash tore the log's last record: it is cut off, what was there is kept, and what is left is held against \
                 the checkpoint outside"
            );
        } else {
            tracing::warn!(
                ?log,
                offset,
                "a crash tore the log's last record: it is cut off and NOT kept, since there are {KEPT_AT_MOST} of them \
                 already; what is left is held against the checkpoint outside. Move the files *{KEPT}* elsewhere"
            );
        }
        let log = File::options().write(true).open(log)?;
        log.set_len(offset)?;
        log.sync_all()
    };
    cut().map_err(|error| OpenError::refused(path, &error))
}

/// RocksDB's own lock, until the file is closed. RocksDB takes it again when it opens.
fn lock(path: &Path) -> Result<File, OpenError> {
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path.join("LOCK"));
    let file = file.map_err(|error| OpenError::refused(path, &error))?;
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => {
            Err(OpenError::Locked { path: path.to_owned(), detail: "it holds the lock on the file LOCK".to_owned() })
        }
        Err(error) => Err(OpenError::refused(path, &error)),
    }
}

/// Where the newest log was torn, if it was and if that is all that can be wrong. Nothing is changed.
pub(super) fn torn_end(path: &Path) -> Result<Option<TornEnd>, OpenError> {
    let unreadable = |error: io::Error| OpenError::refused(path, &error);
    let Some((file, found)) = look(path).map_err(unreadable)? else { return Ok(None) };
    let (offset, kind) = match found {
        Found::Sound => return Ok(None),
        Found::Torn(offset) => (offset, None),
        Found::Damaged(offset, kind) => (offset, Some(kind)),
    };
    if matches!(kind, None | Some(Kind::End)) {
        // Where the end is all that is wrong, what is in front of it is gone on with. RocksDB looks at that later, or never:
        // to pass over a torn end it is told to stop at the first record that is not right.
        match first_wrong_sum(path).map_err(unreadable)? {
            Some((wrong, at)) if wrong != file || at < offset => {
                return Err(damaged(path, &wrong, at, Kind::Sum));
            }
            _ => {}
        }
    }
    match kind {
        None => Ok(Some(TornEnd { file, offset })),
        Some(kind) => Err(damaged(path, &file, offset, kind)),
    }
}

fn damaged(path: &Path, file: &str, offset: u64, kind: Kind) -> OpenError {
    match kind {
        Kind::End => OpenError::LogEnd { path: path.to_owned(), file: file.to_owned(), offset },
        kind => OpenError::refused(path, &format_args!("the log {file} is damaged at byte {offset}: {kind}")),
    }
}

/// Copies what stands in `log` from `offset` on to a file of its own beside it. `None` if there are too many already.
pub(super) fn keep(log: &Path, offset: u64) -> io::Result<Option<PathBuf>> {
    let directory = log.parent().unwrap_or(Path::new("."));
    let name = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut there = 0;
    for entry in fs::read_dir(directory)? {
        there += usize::from(entry?.file_name().to_string_lossy().contains(KEPT));
    }
    // One that is there may be of a start that was killed at this point, or of a backup that was put back since.
    for attempt in there..KEPT_AT_MOST {
        let again = if attempt == there { String::new() } else { format!("-{}", attempt - there + 1) };
        let kept = directory.join(format!("{name}{KEPT}{offset}{again}"));
        let mut copy = match File::options().write(true).create_new(true).mode(0o600).open(&kept) {
            Ok(copy) => copy,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        let mut log = File::open(log)?;
        log.seek(SeekFrom::Start(offset))?;
        io::copy(&mut log.take(u64::MAX), &mut copy)?;
        copy.sync_all()?;
        File::open(directory)?.sync_all()?;
        return Ok(Some(kept));
    }
    Ok(None)
}

/// The first log that is not sound, and how. That its end is not is damage in the middle, if there is something in a later
/// one: that was begun when this was whole.
fn look(path: &Path) -> io::Result<Option<(String, Found)>> {
    let mut end: Option<(String, Found)> = None;
    // The log before, and the sequence number that the next batch must have.
    let mut before: Option<(u64, Option<u64>)> = None;
    let mut empty = None;
    for (number, log) in logs(path)? {
        let file = File::open(&log)?;
        if file.metadata()?.len() == 0 {
            empty = Some(number);
            continue;
        }
        if let Some((file, Found::Torn(offset) | Found::Damaged(offset, _))) = end {
            return Ok(Some((file, Found::Damaged(offset, Kind::Middle))));
        }
        let mut walk = Walk::new(file, before.and_then(|(_, next)| next))?;
        let mut found = walk.walk()?;
        if let (Found::Damaged(0, Kind::Sequence), Some((last, _))) = (found, before) {
            if let Some(list) = list::Logs::read(path)?.filter(|list| last >= list.needed_from) {
                let mut missing = list.tracked.range(last + 1..number).filter(|number| !is_there(path, **number));
                let kind = missing.next().map_or(Kind::Between(empty.unwrap_or(last)), |log| Kind::Missing(*log));
                found = Found::Damaged(0, kind);
            } else {
                // Nobody needs the one before any more, so what stood between them may have gone earlier.
                walk = Walk::new(File::open(&log)?, None)?;
                found = walk.walk()?;
            }
        }
        (before, empty) = (Some((number, walk.next)), None);
        let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match found {
            Found::Sound => {}
            Found::Torn(_) | Found::Damaged(_, Kind::End) => end = Some((name, found)),
            Found::Damaged(..) => return Ok(Some((name, found))),
        }
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

fn first_wrong_sum(path: &Path) -> io::Result<Option<(String, u64)>> {
    for (_, path) in logs(path)? {
        let log = fs::read(&path)?;
        for (number, block) in log.chunks(BLOCK).enumerate() {
            let mut at = 0;
            while let Ok(header) = header(&block[at..]) {
                if !header.sums(&block[at..]) {
                    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    return Ok(Some((file, (number * BLOCK + at) as u64)));
                }
                at += HEADER + header.length;
            }
        }
    }
    Ok(None)
}

fn is_there(path: &Path, log: u64) -> bool {
    path.join(format!("{log:06}.log")).exists()
}

/// The store's logs, oldest first: their names are numbers.
fn logs(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            // What has another name is none of RocksDB's.
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            logs.extend(number.map(|number| (number, path)));
        }
    }
    logs.sort_unstable();
    Ok(logs)
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
    fn new(file: File, next: Option<u64>) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size, batch: Vec::with_capacity(BATCH_HEADER), batch_at: 0, batch_ended: true, next })
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
                // A crash ends a log within a batch, but a start cuts that off before anything is written behind it.
                if !self.batch_ended {
                    return Err((at, Some(Kind::Sequence)));
                }
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
pub(super) fn header(rest: &[u8]) -> Result<Header, Broken> {
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

/// For `src/fuzz`: looks through a store whose one log, or whose list of files, is `bytes`, for damage and for a torn end;
/// what is cut off there leaves a store with neither. The log's checksums are made right first: no fuzzer guesses one.
#[cfg(test)]
pub(crate) fn check_log(bytes: &[u8], is_list: bool) {
    if is_list {
        let _ = list::Logs::of(bytes);
        return;
    }
    // In memory, where there is such a place: each input is a few files.
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let (path, mut log) = (directory.path().join("000004.log"), bytes.to_vec());
    let mut at = 0;
    // The highest bit of a checksum says whether it stays as it is.
    while let Some(Ok(found)) = log.get(at..).map(header) {
        if found.crc >> 31 == 0 {
            let crc = masked_crc(&log[at + HEADER - 1..at + HEADER + found.length]);
            log[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
        at += HEADER + found.length;
    }
    fs::write(&path, &log).unwrap();
    if let Ok(Some(torn)) = torn_end(directory.path()) {
        check(directory.path()).expect("what is only torn can be cut off");
        let left = fs::read(&path).unwrap();
        assert_eq!((left.len() as u64, &left[..]), (torn.offset, &log[..left.len()]));
        assert_eq!(torn_end(directory.path()).expect("what is left is sound"), None);
    }
}

/// Whether a sound record begins here. Only one whose batch header is in its first piece counts: that is all but a few.
pub(super) fn begins(rest: &[u8]) -> bool {
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
