//! Reads the log of all writes to a disk and makes the disk anew as it was at a moment: the log's format is that of the
//! kernel's `dm-log-writes`, which QEMU's `blklogwrites` writes too.
//!
//! The log begins with a sector that holds a magic number, a version, the number of entries and the size of a sector. Then
//! each entry: a sector with its place on the disk, its length in sectors, its flags and the length of what a mark says;
//! and behind it the bytes that were written, unless they were discarded. All numbers are little endian.

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

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
    mark_bytes: u64,
    /// Where its bytes stand in the log.
    bytes_at: u64,
}

/// How far the log at `path` reaches, in bytes. A flush's entry is written before it is reported as done, so whoever has seen
/// one done reads at least that. The number of entries that stands in the log's first sector would not do: versions of QEMU
/// before 9.0 may write an older one over a newer one.
pub fn reach(path: &Path) -> u64 {
    std::fs::metadata(path).expect("the log of writes is there").len()
}

impl Entry {
    /// How many bytes stand behind its head.
    fn content_bytes(&self, sector_bytes: u64) -> u64 {
        match self.flags {
            flags if flags & MARK != 0 => self.mark_bytes,
            flags if flags & DISCARD != 0 => 0,
            _ => self.sectors * sector_bytes,
        }
    }
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
            let entry = Entry { sector, sectors, flags, mark_bytes, bytes_at };
            let content = entry.content_bytes(sector_bytes);
            entries.push(entry);
            at = bytes_at + content;
        }
        Ok(Self { file, sector_bytes, entries })
    }

    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// How far the log reached after the first `length` entries.
    pub fn reach_of(&self, length: u64) -> u64 {
        let last = length.checked_sub(1).map(|last| &self.entries[usize::try_from(last).expect("an entry in memory")]);
        last.map_or(self.sector_bytes, |entry| entry.bytes_at + entry.content_bytes(self.sector_bytes))
    }

    /// How many entries there were when the log reached so far: those that were whole.
    pub fn length_at(&self, reach: u64) -> u64 {
        let whole = |entry: &Entry| entry.bytes_at + entry.content_bytes(self.sector_bytes) <= reach;
        self.entries.partition_point(whole) as u64
    }

    /// Lengths of prefixes that end with a flush: what was written before it is on the disk for good.
    pub fn flushes(&self) -> Vec<u64> {
        (1..).zip(&self.entries).filter(|(_, entry)| entry.flags & FLUSH != 0).map(|(length, _)| length).collect()
    }

    /// The length of the longest prefix of `length` that ends with a flush.
    pub fn safe(&self, length: u64) -> u64 {
        let length = usize::try_from(length).expect("a prefix of what is in memory");
        let flush = self.entries[..length].iter().rposition(|entry| entry.flags & FLUSH != 0);
        flush.map_or(0, |last| last as u64 + 1)
    }

    /// Takes `image` from the disk as it was after the first `from` entries, all of which are on it, to the one after the
    /// first `length`. A disk is free to keep what came after the last flush, to lose it, each write for itself, or to
    /// keep a part of it: `kept` says how many sectors remain of a write of so many.
    pub fn replay(&self, from: u64, length: u64, image: &File, mut kept: impl FnMut(u64) -> u64) -> io::Result<()> {
        let safe = self.safe(length);
        let place = |number: u64| usize::try_from(number).expect("a prefix of what is in memory");
        for (number, entry) in (from..).zip(&self.entries[place(from)..place(length)]) {
            let certain = number < safe || entry.flags & FUA != 0 || entry.flags & MARK != 0;
            let sectors = if certain { entry.sectors } else { kept(entry.sectors).min(entry.sectors) };
            let (at, bytes) = (entry.sector * self.sector_bytes, sectors * self.sector_bytes);
            if entry.flags & MARK != 0 || bytes == 0 {
                continue;
            }
            if entry.flags & DISCARD != 0 {
                rustix::fs::fallocate(image, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, bytes)?;
                continue;
            }
            let mut content = vec![0; usize::try_from(bytes).expect("a write fits in memory")];
            self.file.read_exact_at(&mut content, entry.bytes_at)?;
            image.write_all_at(&content, at)?;
        }
        Ok(())
    }
}

/// A disk that goes on from one moment to later ones, so that each cut replays only what came since the one before.
pub struct Disk<'l> {
    log: &'l Log,
    image: File,
    bytes: u64,
    at: u64,
}

impl<'l> Disk<'l> {
    /// A blank one of so many bytes, in a file at `path`.
    pub fn blank(log: &'l Log, path: &Path, bytes: u64) -> io::Result<Self> {
        let image = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        image.set_len(bytes)?;
        Ok(Self { log, image, bytes, at: 0 })
    }

    /// Makes in a file at `path` the disk as it was after `length` entries, which may not be fewer than the last time.
    pub fn cut(&mut self, length: u64, path: &Path, kept: impl FnMut(u64) -> u64) -> io::Result<()> {
        let safe = self.log.safe(length);
        self.log.replay(self.at, safe, &self.image, |sectors| sectors)?;
        self.at = safe;
        let copy = File::create(path)?;
        copy.set_len(self.bytes)?;
        self.copy_to(&copy)?;
        self.log.replay(safe, length, &copy, kept)
    }

    /// Only what is not blank.
    fn copy_to(&self, copy: &File) -> io::Result<()> {
        let mut at = 0;
        loop {
            let data = match rustix::fs::seek(&self.image, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => return Ok(()),
                found => found?,
            };
            let end = rustix::fs::seek(&self.image, SeekFrom::Hole(data))?;
            let (mut from, mut to) = (data, data);
            while from < end {
                let left = usize::try_from(end - from).expect("a file fits in memory");
                rustix::fs::copy_file_range(&self.image, Some(&mut from), copy, Some(&mut to), left)?;
            }
            at = end;
        }
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
    fn disk(log: &Log, length: u64, mut is_lost: impl FnMut() -> bool) -> [u8; 3] {
        let image = tempfile::tempfile().unwrap();
        image.set_len(3 * SECTOR as u64).unwrap();
        log.replay(0, length, &image, |sectors| if is_lost() { 0 } else { sectors }).unwrap();
        first_bytes(&image)
    }

    fn first_bytes(image: &File) -> [u8; 3] {
        [0, 1, 2].map(|place| {
            let mut byte = [0];
            image.read_exact_at(&mut byte, place * SECTOR as u64).unwrap();
            byte[0]
        })
    }

    #[test]
    fn a_prefix_is_the_disk_at_that_moment() {
        let (file, log) = sample();
        assert_eq!((log.len(), log.length_at(reach(file.path()))), (7, 7));
        for length in 0..=7 {
            assert_eq!(log.length_at(log.reach_of(length)), length);
            assert_eq!(
                log.length_at(log.reach_of(length) - 1),
                length.saturating_sub(1),
                "an entry that is not whole yet"
            );
        }
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
    fn a_disk_goes_on_from_cut_to_cut() {
        let (_file, log) = sample();
        let folder = tempfile::tempdir().unwrap();
        let (base, cut) = (folder.path().join("base"), folder.path().join("cut"));
        let mut disk = Disk::blank(&log, &base, 3 * SECTOR as u64).unwrap();
        for (length, lost, expected) in [
            (1, false, [b'a', 0, 0]),
            (2, true, [0, 0, 0]),
            (3, true, [b'a', 0, b'b']),
            (6, false, [b'c', b'd', b'b']),
            (6, true, [b'a', 0, b'b']),
            (7, false, [b'c', b'd', 0]),
        ] {
            disk.cut(length, &cut, |sectors| if lost { 0 } else { sectors }).unwrap();
            let cut = File::open(&cut).unwrap();
            assert_eq!(cut.metadata().unwrap().len(), 3 * SECTOR as u64);
            assert_eq!(first_bytes(&cut), expected, "{length} {lost}");
        }
    }

    #[test]
    fn a_write_may_be_torn_between_its_sectors() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let head = sector([MAGIC, VERSION, 1, SECTOR as u64]);
        file.write_all(&[head, sector([0, 3, 0, 0]), vec![b'a'; 3 * SECTOR]].concat()).unwrap();
        let image = tempfile::tempfile().unwrap();
        image.set_len(3 * SECTOR as u64).unwrap();
        Log::open(file.path()).unwrap().replay(0, 1, &image, |_| 2).unwrap();
        assert_eq!(first_bytes(&image), [b'a', b'a', 0]);
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
