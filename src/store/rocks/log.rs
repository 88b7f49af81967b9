//! A look through the log before RocksDB reads it: is what is wrong with it only a torn end?
//!
//! In the recovery mode that we use RocksDB refuses most damage, but not all. A header that was zeroed, or a length that
//! points past the end, makes it drop up to 32 KiB of acknowledged commits without a word; a record type of recycled logs
//! makes it turn in a circle for ever. What gives such damage away is what stands behind it: commits are written one after
//! the other, each synced before the next, so a record that *begins* behind the damage proves that what was damaged had
//! been acknowledged. The sequence numbers of the batches prove that none is missing in between.
//!
//! Checksums are RocksDB's to verify. Damage to the very last record can't be told from a torn write here, nor can a log
//! that was cut off at a record's end; only someone who remembers how much there was can see that.
//!
//! The format is that of RocksDB's `db/log_format.h`: blocks of 32 KiB; in them records, or pieces of records, of a masked
//! CRC-32C (4 bytes), a length (2), a type (1) and the content; less than 7 bytes at a block's end are zeros. The content
//! is a batch: sequence number (8), count (4), rows. All numbers are little endian.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
const BATCH_HEADER: usize = 12;

/// The log can't be opened without losing what was acknowledged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log {file} is damaged at byte {offset}: {kind}")]
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

/// Looks through all logs of the store in `path` for damage that a torn write does not explain.
pub(super) fn check(path: &Path) -> io::Result<Option<Damage>> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log")
            && let Some((offset, kind)) = Walk::new(File::open(&path)?)?.walk()?
        {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Some(Damage { file, offset, kind }));
        }
    }
    Ok(None)
}

/// One pass over one file, a block in memory at a time.
struct Walk {
    file: File,
    size: u64,
    /// The beginning of the batch that is being read, across pieces.
    batch: Vec<u8>,
    /// The sequence number that the next batch must have.
    next: Option<u64>,
}

impl Walk {
    fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size, batch: Vec::with_capacity(BATCH_HEADER), next: None })
    }

    fn walk(&mut self) -> io::Result<Option<(u64, Kind)>> {
        let mut block = vec![0; BLOCK];
        for start in (0..self.size).step_by(BLOCK) {
            let length = (self.size - start).min(BLOCK as u64) as usize;
            self.file.read_exact_at(&mut block[..length], start)?;
            let damage = match self.block(&block[..length]) {
                Ok(()) => continue,
                Err((at, Some(kind))) => Some((start + at as u64, kind)),
                Err((at, None)) => {
                    let at = start + at as u64;
                    self.begins_again_after(at)?.then_some((at, Kind::Middle))
                }
            };
            return Ok(damage);
        }
        Ok(None)
    }

    /// Reads a block's records. `Err` says where it broke off, and why if that is certain.
    fn block(&mut self, block: &[u8]) -> Result<(), (usize, Option<Kind>)> {
        let mut at = 0;
        while at < block.len() && BLOCK - at >= HEADER {
            let header = match header(&block[at..]) {
                Ok(header) => header,
                Err(Broken::Torn) => return Err((at, None)),
                Err(Broken::Alien) => return Err((at, Some(Kind::Alien))),
            };
            let content = at + HEADER..at + HEADER + header.length;
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
        let base = damage - damage % BLOCK as u64;
        let mut rest = vec![0; (self.size - base) as usize];
        self.file.read_exact_at(&mut rest, base)?;
        Ok((damage - base + 1..self.size - base).any(|at| {
            let at = at as usize;
            let block_end = (at - at % BLOCK + BLOCK).min(rest.len());
            begins(&rest[at..block_end])
        }))
    }
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
    let sums = || masked_crc(&rest[HEADER - 1..HEADER + header.length]) == header.crc;
    matches!(header.piece, Piece::Full | Piece::First) && header.length >= BATCH_HEADER && sums()
}

/// CRC-32C (Castagnoli), rotated and offset as RocksDB stores it.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0, |crc: u32, byte| (crc >> 8) ^ CRC_TABLE[usize::from(crc as u8 ^ byte)]);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
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
