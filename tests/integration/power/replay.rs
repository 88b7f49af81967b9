//! Reads the log of all writes to a disk and makes the disk anew as it was at a moment: the log's format is that of the
//! kernel's `dm-log-writes`, which QEMU's `blklogwrites` writes too.
//!
//! The log begins with a sector that holds a magic number, a version, the number of entries and the size of a sector. Then
//! each entry: a sector with its place on the disk, its length in sectors, its flags and the length of what a mark says;
//! and behind it the bytes that were written, unless they were discarded. All numbers are little endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// Where the number of entries stands.
const COUNT_AT: u64 = 16;

const FLUSH: u64 = 1;
/// Force unit access: on the disk for good by itself.
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// All writes to a disk, in their order.
pub struct Log {
    file: File,
    sector_bytes: u64,
    entries: Vec<Entry>,
}

struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its bytes stand in the log.
    bytes_at: u64,
}

/// How many entries the log at `path` has by its own word. It is brought up to date before a flush is reported as done, so
/// whoever has seen one done reads at least that.
pub fn count(path: &Path) -> u64 {
    let mut bytes = [0; 8];
    File::open(path).and_then(|file| file.read_exact_at(&mut bytes, COUNT_AT)).expect("the log of writes can be read");
    u64::from_le_bytes(bytes)
}

impl Log {
    /// Reads what entries there are. The log must no longer grow.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let [magic, version, count, sector_bytes] = numbers(&file, 0)?;
        // The last of them has only 32 bits.
        let sector_bytes = sector_bytes & u64::from(u32::MAX);
        if magic != MAGIC || version != VERSION || sector_bytes < 512 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a log of writes"));
        }
        let mut entries = Vec::new();
        let mut at = sector_bytes;
        for _ in 0..count {
            let [sector, sectors, flags, mark_bytes] = numbers(&file, at)?;
            let bytes_at = at + sector_bytes;
            entries.push(Entry { sector, sectors, flags, bytes_at });
            let content = match flags {
                flags if flags & MARK != 0 => mark_bytes,
                flags if flags & DISCARD != 0 => 0,
                _ => sectors * sector_bytes,
            };
            at = bytes_at + content;
        }
        Ok(Self { file, sector_bytes, entries })
    }

    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Lengths of prefixes that end with a flush: what was written before it is on the disk for good.
    pub fn flushes(&self) -> Vec<u64> {
        (1..).zip(&self.entries).filter(|(_, entry)| entry.flags & FLUSH != 0).map(|(length, _)| length).collect()
    }

    /// Makes in `image`, which has to be blank, the disk as it was after the first `length` entries. A disk is free to
    /// keep what came after the last flush or to lose it, each write for itself: `is_lost` says which it loses.
    pub fn replay(&self, length: u64, image: &File, mut is_lost: impl FnMut() -> bool) -> io::Result<()> {
        let length = usize::try_from(length).expect("a prefix of what is in memory");
        let prefix = &self.entries[..length];
        let safe = prefix.iter().rposition(|entry| entry.flags & FLUSH != 0).map_or(0, |last| last + 1);
        for (number, entry) in prefix.iter().enumerate() {
            let can_be_lost = number >= safe && entry.flags & FUA == 0;
            if entry.flags & MARK != 0 || (can_be_lost && is_lost()) {
                continue;
            }
            let mut bytes =
                vec![0; usize::try_from(entry.sectors * self.sector_bytes).expect("a write fits in memory")];
            if entry.flags & DISCARD == 0 {
                self.file.read_exact_at(&mut bytes, entry.bytes_at)?;
            }
            image.write_all_at(&bytes, entry.sector * self.sector_bytes)?;
        }
        Ok(())
    }
}

fn numbers(file: &File, at: u64) -> io::Result<[u64; 4]> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at)?;
    let number = |place: usize| u64::from_le_bytes(bytes[place * 8..place * 8 + 8].try_into().expect("eight bytes"));
    Ok([number(0), number(1), number(2), number(3)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const SECTOR: usize = 512;

    fn sector(numbers: [u64; 4]) -> Vec<u8> {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.resize(SECTOR, 0);
        bytes
    }

    /// Two writes, a flush, a mark, then a write over the first, one more write, and a discard.
    fn sample() -> (tempfile::NamedTempFile, Log) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content = |byte: u8| vec![byte; SECTOR];
        let parts = [
            sector([MAGIC, VERSION, 7, SECTOR as u64]),
            sector([0, 1, 0, 0]),
            content(b'a'),
            sector([2, 1, 0, 0]),
            content(b'b'),
            sector([0, 0, FLUSH, 0]),
            sector([0, 0, MARK, 3]),
            b"end".to_vec(),
            sector([0, 1, 0, 0]),
            content(b'c'),
            sector([1, 1, 0, 0]),
            content(b'd'),
            sector([2, 1, DISCARD, 0]),
        ];
        file.write_all(&parts.concat()).unwrap();
        let log = Log::open(file.path()).unwrap();
        (file, log)
    }

    /// The first byte of each of three sectors.
    fn disk(log: &Log, length: u64, is_lost: impl FnMut() -> bool) -> [u8; 3] {
        let image = tempfile::tempfile().unwrap();
        image.set_len(3 * SECTOR as u64).unwrap();
        log.replay(length, &image, is_lost).unwrap();
        [0, 1, 2].map(|place| {
            let mut byte = [0];
            image.read_exact_at(&mut byte, place * SECTOR as u64).unwrap();
            byte[0]
        })
    }

    #[test]
    fn a_prefix_is_the_disk_at_that_moment() {
        let (file, log) = sample();
        assert_eq!((log.len(), count(file.path())), (7, 7));
        assert_eq!(log.flushes(), [3]);
        assert_eq!(disk(&log, 0, || false), [0, 0, 0]);
        assert_eq!(disk(&log, 1, || false), [b'a', 0, 0]);
        assert_eq!(disk(&log, 4, || false), [b'a', 0, b'b']);
        assert_eq!(disk(&log, 6, || false), [b'c', b'd', b'b']);
        assert_eq!(disk(&log, 7, || false), [b'c', b'd', 0]);
    }

    #[test]
    fn only_what_came_after_the_last_flush_can_be_lost() {
        let (_file, log) = sample();
        assert_eq!(disk(&log, 3, || true), [b'a', 0, b'b']);
        assert_eq!(disk(&log, 7, || true), [b'a', 0, b'b']);
        assert_eq!(disk(&log, 2, || true), [0, 0, 0], "without a flush nothing is safe");
        let mut every_other = [true, false].into_iter().cycle();
        assert_eq!(disk(&log, 6, || every_other.next().unwrap()), [b'a', b'd', b'b'], "out of their order, too");
    }

    #[test]
    fn a_write_that_was_forced_to_the_disk_stays() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let head = sector([MAGIC, VERSION, 1, SECTOR as u64]);
        file.write_all(&[head, sector([1, 1, FUA, 0]), vec![b'a'; SECTOR]].concat()).unwrap();
        assert_eq!(disk(&Log::open(file.path()).unwrap(), 1, || true), [0, b'a', 0]);
    }

    #[test]
    fn what_is_no_log_of_writes_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 4096]).unwrap();
        assert!(Log::open(file.path()).is_err());
        let (cut, _) = sample();
        cut.as_file().set_len(3 * SECTOR as u64).unwrap();
        assert!(Log::open(cut.path()).is_err(), "shorter than it says");
    }
}
