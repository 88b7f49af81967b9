//! Room on the disks that the vault writes to.
//!
//! A disk that is full fails a write, and after a failed write the process must end: it can't even record that it stopped. So
//! the vault stops taking calls while there still is room: for the last event and checkpoint of an orderly stop, for what
//! RocksDB has in memory and writes out, and for the files of the next start. A file that is kept to be deleted in need would
//! promise less: on file systems that copy on write, and on thin volumes, it gives nothing back, and it would be in each copy
//! of the data.

use crate::config::Config;
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that RocksDB starts from.
const CURRENT: &str = "CURRENT";
/// The unit in which the system says how many blocks a file has, whatever the file system's own is.
const BLOCK: u64 = 512;
/// RocksDB begins a file now and then, and each checkpoint is one for a moment.
const INODES_AT_LEAST: u64 = 100;

/// What a file system has left for this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In bytes.
    pub bytes: u64,
    /// `None` where the file system makes inodes as it needs them.
    pub inodes: Option<u64>,
}

/// So many threads RocksDB, the ledger and the network may begin at a start.
const THREADS: usize = 24;
/// Where they can't be had.
pub(super) const NO_THREADS: &str =
    "can't start the threads that the vault needs: raise the user's and the service's limit (LimitNPROC, TasksMax)";

/// Begins as many threads as a start may need, all at once, and ends them. RocksDB is not built to be refused one: where it
/// is, the process aborts without a word of why.
///
/// # Errors
/// If one can't be had.
pub(super) fn spare_threads() -> io::Result<()> {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    let threads = (0..THREADS).map(|_| {
        let ended = Arc::clone(&ended);
        // Whoever holds the lock waits for the end of the channel, the others for the lock.
        std::thread::Builder::new().name("spare".to_owned()).spawn(move || {
            let _ended = ended.lock().recv();
        })
    });
    let threads: Vec<_> = threads.collect();
    drop(end);
    threads.into_iter().try_for_each(|thread| thread.map(|thread| drop(thread.join())))
}

/// The directories that a vault can't do without.
#[derive(Clone)]
pub(super) struct Disks {
    directories: [(&'static str, PathBuf); 2],
    bytes_at_least: u64,
    /// Device and inode of the data directory when it was opened.
    identity: Option<(u64, u64)>,
}

/// A disk without room.
#[derive(Debug, PartialEq, Eq)]
pub struct Full {
    directory: PathBuf,
    room: Room,
    bytes_at_least: u64,
    /// Of them, what opening the database takes.
    opening: u64,
}

impl Room {
    /// Of the file system that `path` is on.
    ///
    /// # Errors
    /// If it can't be asked.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        let bytes = found.f_bavail.saturating_mul(found.f_frsize);
        Ok(Self { bytes, inodes: (found.f_files > 0).then_some(found.f_favail) })
    }

    fn is_enough(self, bytes: u64, inodes: u64) -> bool {
        self.bytes >= bytes && self.inodes.is_none_or(|left| left >= inodes)
    }
}

impl Disks {
    pub fn of(config: &Config) -> Self {
        let directories = [("data", config.storage.path.clone()), ("checkpoints", config.audit.checkpoints.clone())];
        Self { directories, bytes_at_least: config.storage.min_free_bytes as u64, identity: None }
    }

    /// Remembers which directory the data is in.
    ///
    /// # Errors
    /// If it can't be looked at.
    pub fn with_identity(mut self) -> io::Result<Self> {
        self.identity = Some(identity(self.data())?);
        Ok(self)
    }

    /// The data directory, if it is not the one any more whose identity was remembered, or the database is not in it.
    pub fn replaced(&self) -> Option<PathBuf> {
        let was = self.identity?;
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let replaced = match identity(self.data()) {
            Ok(is) => is != was || std::fs::metadata(self.data().join(CURRENT)).is_err_and(|error| gone(&error)),
            // Of a file system that fails nothing is known; the next write will tell.
            Err(error) => gone(&error),
        };
        replaced.then(|| self.data().to_owned())
    }

    /// Where the data is.
    pub fn data(&self) -> &Path {
        &self.directories[0].1
    }

    /// The first of them without room. One that was found full must have an eighth more than it needs, or it would be full
    /// again at once. What can't be asked is left to whoever writes there.
    pub fn full(&self, was_full: bool) -> Option<Full> {
        self.full_beside(was_full, 0)
    }

    /// As [`Disks::full`], before the database is opened, which takes `opening` bytes of the data's disk.
    pub fn full_at_start(&self, opening: u64) -> Option<Full> {
        self.full_beside(false, self.taken(opening))
    }

    /// What opening takes that is not given back: the logs of a vault that was killed still have blocks beyond their ends.
    fn taken(&self, opening: u64) -> u64 {
        if self.bytes_at_least == 0 {
            return 0;
        }
        let files = std::fs::read_dir(self.data()).into_iter().flatten().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
        let beyond = |file: std::fs::DirEntry| {
            file.metadata().map_or(0, |found| (found.blocks() * BLOCK).saturating_sub(found.len()))
        };
        opening.saturating_sub(logs.map(beyond).sum())
    }

    fn full_beside(&self, was_full: bool, opening: u64) -> Option<Full> {
        let more = |least: u64| if was_full { least.saturating_add(least / 8) } else { least };
        let (bytes, inodes) = (more(self.bytes_at_least), more(self.inodes_at_least()));
        let mut found = None;
        for (name, directory) in &self.directories {
            let Ok(room) = Room::of(directory) else { continue };
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and this one is looked at")]
            metrics::gauge!("cloakroom_disk_free_bytes", "directory" => *name).set(room.bytes as f64);
            let opening = if directory == self.data() { opening } else { 0 };
            if !room.is_enough(bytes.saturating_add(opening), inodes) && found.is_none() {
                let bytes_at_least = self.bytes_at_least.saturating_add(opening);
                found = Some(Full { directory: directory.clone(), room, bytes_at_least, opening });
            }
        }
        found
    }

    /// What a start wants of each, if opening the database takes `opening` bytes.
    pub fn wanted(&self, opening: u64) -> String {
        let opening = self.taken(opening);
        let [(_, data), (_, checkpoints)] = &self.directories;
        let (kept, inodes) = (bytes_in_words(self.bytes_at_least), self.inodes_at_least());
        let wanted = bytes_in_words(self.bytes_at_least.saturating_add(opening));
        let (data, checkpoints) = (data.display(), checkpoints.display());
        format!("at least {wanted} are free at {data}, {kept} at {checkpoints}, and {inodes} inodes at each")
    }

    fn inodes_at_least(&self) -> u64 {
        if self.bytes_at_least == 0 { 0 } else { INODES_AT_LEAST }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl fmt::Display for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "too little room on the disk of {}: ", self.directory.display())?;
        let (bytes, least) = (self.room.bytes, self.bytes_at_least);
        match self.room.inodes {
            // There are bytes enough.
            Some(inodes) if bytes >= least => {
                write!(formatter, "{inodes} inodes are free, {INODES_AT_LEAST} are needed")?;
            }
            _ => {
                let (mut there, mut wanted) = (bytes_in_words(bytes), bytes_in_words(least));
                if there == wanted {
                    (there, wanted) = (format!("{bytes} bytes"), format!("{least}"));
                }
                write!(formatter, "{there} are free, storage.min_free_bytes ")?;
                match self.opening {
                    0 => write!(formatter, "wants {wanted}")?,
                    opening => {
                        let opening = bytes_in_words(opening);
                        write!(formatter, "and the {opening} that opening the database takes want {wanted}")?;
                    }
                }
            }
        }
        formatter.write_str(". Make room; nothing is lost")
    }
}

/// A number of bytes, as exact as people want it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a figure for people, never negative"
)]
pub fn bytes_in_words(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes / 1024),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", (bytes as f64 / f64::from(1 << 30)).round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_enough_in_bytes_and_in_inodes_s_05() {
        let room = |bytes, inodes| Room { bytes, inodes };
        assert!(room(100, None).is_enough(100, 10) && room(100, Some(10)).is_enough(100, 10));
        assert!(!room(99, None).is_enough(100, 10) && !room(100, Some(9)).is_enough(100, 10));
    }

    #[test]
    fn a_disk_that_was_full_must_have_an_eighth_more_s_05() {
        let place = tempfile::tempdir().unwrap();
        let there = Room::of(place.path()).unwrap().bytes;
        let disks = |bytes_at_least| Disks {
            directories: [("data", place.path().to_owned()), ("checkpoints", place.path().join("is not there"))],
            bytes_at_least,
            identity: None,
        };
        assert_eq!(disks(0).full(true), None, "it may be switched off");
        assert_eq!(disks(1).full(true), None);
        let full = disks(u64::MAX).full(false).unwrap();
        assert!(full.to_string().contains(&place.path().display().to_string()), "{full}");
        // Others write there, too: what is free moves a little.
        let almost = there - there / 16;
        assert_eq!(disks(almost).full(false), None);
        assert!(disks(almost).full(true).is_some());
    }

    #[test]
    fn what_lacks_is_said_in_words_s_05() {
        let full = |bytes, inodes| {
            let directory = PathBuf::from("/data");
            Full { directory, room: Room { bytes, inodes }, bytes_at_least: 128 << 20, opening: 0 }.to_string()
        };
        let said = "too little room on the disk of /data: ";
        let nothing_lost = "Make room; nothing is lost";
        for inodes in [None, Some(3_085_459), Some(80)] {
            let words = "45 MiB are free, storage.min_free_bytes wants 128 MiB";
            assert_eq!(full(47_235_072, inodes), format!("{said}{words}. {nothing_lost}"));
        }
        let words = "80 inodes are free, 100 are needed";
        assert_eq!(full(1 << 40, Some(80)), format!("{said}{words}. {nothing_lost}"));
        let close = Full { bytes_at_least: 20 << 30, ..disk((20 << 30) - 1) }.to_string();
        assert!(close.contains("21474836479 bytes are free, storage.min_free_bytes wants 21474836480."), "{close}");
    }

    #[test]
    fn a_start_wants_room_for_what_opening_takes_s_05() {
        let place = tempfile::tempdir().unwrap();
        let there = Room::of(place.path()).unwrap().bytes;
        let directories = [("data", place.path().to_owned()), ("checkpoints", place.path().join("is not there"))];
        let disks = |bytes_at_least| Disks { directories: directories.clone(), bytes_at_least, identity: None };
        // Others write there, too: what is free moves a little.
        let (almost, opening) = (there - there / 16, there / 8);
        assert_eq!(disks(almost).full_at_start(0), None);
        let said = disks(almost).full_at_start(opening).unwrap().to_string();
        assert!(said.contains("opening the database takes want"), "{said}");
        assert_eq!(disks(0).full_at_start(u64::MAX), None, "it may be switched off");
        // What a log has beyond its end is given back.
        let log = std::fs::File::create(place.path().join("000007.log")).unwrap();
        rustix::fs::fallocate(&log, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 8 << 20).unwrap();
        assert_eq!(disks(1).taken(10 << 20), 2 << 20);
        assert_eq!(disks(1).taken(8 << 20), 0);
    }

    fn disk(bytes: u64) -> Full {
        Full { directory: PathBuf::from("/data"), room: Room { bytes, inodes: None }, bytes_at_least: 0, opening: 0 }
    }

    #[test]
    fn figures_of_bytes_are_for_people() {
        assert_eq!(bytes_in_words(256 << 20), "256 MiB");
        assert_eq!(bytes_in_words(20 << 30), "20 GiB");
        assert_eq!(bytes_in_words(4_096), "4 KiB");
    }

    #[test]
    fn data_that_is_not_where_it_was_is_noticed_s_06() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        let make = || {
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join(CURRENT), "MANIFEST-000005\n").unwrap();
        };
        make();
        let directories = [("data", data.clone()), ("checkpoints", place.path().to_owned())];
        let disks = Disks { directories, bytes_at_least: 0, identity: None }.with_identity().unwrap();
        assert_eq!(disks.replaced(), None);
        std::fs::rename(data.join(CURRENT), data.join("was")).unwrap();
        assert_eq!(disks.replaced(), Some(data.clone()), "emptied");
        std::fs::rename(data.join("was"), data.join(CURRENT)).unwrap();
        assert_eq!(disks.replaced(), None);
        std::fs::rename(&data, place.path().join("moved")).unwrap();
        assert_eq!(disks.replaced(), Some(data.clone()), "moved away");
        make();
        assert_eq!(disks.replaced(), Some(data.clone()), "another in its place");
    }
}
