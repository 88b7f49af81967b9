//! The files of the store as they were at one moment, to copy, whether or not a vault has it open meanwhile.
//!
//! A table file never changes once it is listed; the list of files and the logs only grow. So an open file and its length
//! are that file as it was at that moment, even if the vault goes on writing to it or takes its name away. The length of
//! the list is noted first and those of the logs last: whatever a commit before the beginning wrote is in the logs, and
//! no table that the list names was made later. As for a snapshot, the names of all files are looked at before and after;
//! if they are not the same, all is looked at again. What is left to chance is found by whoever opens the copy, which
//! must be done.

use super::super::OpenError;
use super::snapshot::{ATTEMPTS, BUSY, Files, files};
use super::{CURRENT, has_files_only, has_list, is_empty, log};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// Names the database. RocksDB makes another where it is missing.
const IDENTITY: &str = "IDENTITY";

/// The files of a store, all open.
pub struct RocksFiles(Vec<RocksFile>);

/// One file, as long as it was at that moment.
pub struct RocksFile {
    name: String,
    length: u64,
    file: File,
}

impl RocksFiles {
    /// Those of the store in `path` as it is now.
    ///
    /// # Errors
    /// If there is none, a file can't be opened, or they changed each time that they were looked at.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let refused = |error: io::Error| OpenError::refused(path, &error);
        if is_empty(path).map_err(refused)? {
            return Err(OpenError::Missing(path.to_owned()));
        }
        has_files_only(path)?;
        for _ in 0..ATTEMPTS {
            has_list(path)?;
            let before = files(path).map_err(refused)?;
            let opened = open_all(path, &before);
            let after = files(path).map_err(refused)?;
            match opened {
                Ok(opened) if after == before => return Ok(Self(opened)),
                Err(error) if after == before => return Err(refused(error)),
                _ => {}
            }
        }
        Err(OpenError::Refused { path: path.to_owned(), detail: BUSY.to_owned() })
    }

    /// How many bytes they have together.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|file| file.length).sum()
    }
}

impl IntoIterator for RocksFiles {
    type Item = RocksFile;
    type IntoIter = std::vec::IntoIter<RocksFile>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl RocksFile {
    /// Its name among the data.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes it had.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What was in it.
    pub fn content(self) -> impl Read {
        self.file.take(self.length)
    }
}

/// Cuts off what stands at the end of the newest log of a copy in `path` and is not whole: a commit that nobody had been told
/// of when the copy was made.
///
/// # Errors
/// If there is other damage, or it can't be written.
pub fn cut_torn_end(path: &Path) -> Result<(), OpenError> {
    let Some(torn) = log::torn_end(path)? else { return Ok(()) };
    let cut = || {
        let log = OpenOptions::new().write(true).open(path.join(&torn.file))?;
        log.set_len(torn.offset)?;
        log.sync_all()
    };
    cut().map_err(|error| OpenError::refused(path, &error))
}

fn open_all(path: &Path, there: &Files) -> io::Result<Vec<RocksFile>> {
    let open = |name: &str| {
        let file = File::open(path.join(name))?;
        Ok::<_, io::Error>(RocksFile { name: name.to_owned(), length: file.metadata()?.len(), file })
    };
    let mut opened = vec![open(CURRENT)?, open(there.list.trim_end())?];
    match open(IDENTITY) {
        Ok(identity) => opened.push(identity),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for name in there.tables.iter().chain(&there.logs) {
        // RocksDB's own names are digits and letters. Another is not one of its files.
        if let Some(name) = name.to_str() {
            opened.push(open(name)?);
        }
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::{check, commit, config};
    use super::super::{RocksSnapshot, RocksStore};
    use super::*;
    use std::fs;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn copy(from: &Path, to: &Path) -> Result<(), OpenError> {
        fs::create_dir(to).unwrap();
        for file in RocksFiles::open(from)? {
            let (path, length) = (to.join(file.name()), file.length());
            assert_eq!(io::copy(&mut file.content(), &mut File::create(path).unwrap()).unwrap(), length);
        }
        cut_torn_end(to)
    }

    fn last(path: &Path) -> u64 {
        check(&RocksSnapshot::open(path, &config()).unwrap(), 0)
    }

    #[test]
    fn a_copy_of_a_store_that_is_written_is_one_moment_of_it_o_04() {
        const COPIES: u64 = 20;
        const COMMITS_MEANWHILE: u64 = 150;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("store");
        let store = RocksStore::create(&path, &config()).unwrap();
        commit(&store, 0);
        let (allowed, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let writer = {
            let (allowed, done) = (Arc::clone(&allowed), Arc::clone(&done));
            std::thread::spawn(move || {
                for number in 1..=COPIES * COMMITS_MEANWHILE {
                    while number > allowed.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    commit(&store, number);
                    done.store(number, Ordering::SeqCst);
                }
            })
        };
        let (mut taken, mut busy) = (0, 0);
        while taken < COPIES {
            let at_least = done.load(Ordering::SeqCst);
            // Enough for files to come and go meanwhile, and not so many that they never cease.
            allowed.store((taken + 1) * COMMITS_MEANWHILE, Ordering::SeqCst);
            let to = place.path().join(format!("copy-{taken}-{busy}"));
            match copy(&path, &to) {
                Ok(()) => {
                    assert!(last(&to) >= at_least, "what was committed before it began is in the copy");
                    taken += 1;
                }
                Err(OpenError::Refused { detail, .. }) if detail == BUSY => busy += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(busy < 10 * COPIES, "{taken} copies, and busy {busy} times");
        }
        writer.join().unwrap();
        let to = place.path().join("the last");
        copy(&path, &to).unwrap();
        assert_eq!(last(&to), COPIES * COMMITS_MEANWHILE);
        // A store like any other: it opens to be written, too.
        commit(&RocksStore::open(&to, &config()).unwrap(), COPIES * COMMITS_MEANWHILE + 1);
        println!("{COPIES} copies while {} commits were made, {busy} times too busy", COPIES * COMMITS_MEANWHILE);
    }

    #[test]
    fn a_torn_end_is_not_copied_and_the_source_stays_as_it_is_s_03() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("store");
        assert!(matches!(RocksFiles::open(&path), Err(OpenError::Missing(_))));
        let store = RocksStore::create(&path, &config()).unwrap();
        commit(&store, 0);
        let names = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        let log = names.filter(|name| name.extension().is_some_and(|extension| extension == "log")).max().unwrap();
        let whole = fs::metadata(&log).unwrap().len();
        commit(&store, 1);
        drop(store);
        let torn = fs::read(&log).unwrap()[..usize::try_from(whole).unwrap() + 1024].to_vec();
        fs::write(&log, &torn).unwrap();
        let to = place.path().join("copy");
        copy(&path, &to).unwrap();
        assert_eq!(last(&to), 0);
        assert_eq!(fs::metadata(to.join(log.file_name().unwrap())).unwrap().len(), whole);
        assert!(fs::read(&log).unwrap() == torn, "of the source nothing is cut off");
        fs::remove_file(path.join(CURRENT)).unwrap();
        let why = RocksFiles::open(&path).err().unwrap().to_string();
        assert!(why.contains("its file CURRENT is missing"), "{why}");
    }
}
