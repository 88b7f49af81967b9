//! What a witness remembers, one file for each log: the checkpoint that it cosigned last.
//!
//! Invariant: a file is replaced as a whole and durably (new file, sync, rename, sync of the directory), so after a crash it
//! holds what was remembered before or after, never a part. What can't be read, or is not what was written, is an error and
//! never taken for a log that was not seen before.

use crate::merkle::Hash;
use crate::merkle::note::{Checkpoint, Name, Note};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// In front of each file, with the SHA-256 of what follows behind it.
const FORMAT: &str = "cloakroom-witness-state-v1 ";
/// What the formats of all versions begin with.
const FAMILY: &str = "cloakroom-witness-state-v";
/// Held by the one process that uses the directory. Only `init` makes it, so that an empty directory, such as the place of a
/// disk that is not mounted, is not taken for a witness that has seen nothing.
const LOCK_FILE: &str = "lock";
/// Longer than any note: what is cut off here does not hash to what its first line says.
const LENGTH_AT_MOST: u64 = 2 << 20;

/// The directory, held by this process alone.
pub(super) struct Directory {
    path: PathBuf,
    /// The lock ends with the process, or when this is dropped.
    _lock: File,
}

/// How large a log was and what its root was, when it was cosigned last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The number of entries.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// Why a witness can't use its state. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Never made, or not there now.
    #[error(
        "{0} is not a witness's state: it has no file `lock`. Is the disk mounted? `cloakroom witness init` makes a new one"
    )]
    NotState(PathBuf),
    /// Another process has it.
    #[error("{0} is in use by another process: one witness at a time")]
    InUse(PathBuf),
    /// The file system refuses.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Written by a newer version.
    #[error("{0} has a format that this version does not know. Use the version that wrote it or a newer one")]
    Newer(PathBuf),
    /// Not what was written.
    #[error(
        "{path} is damaged: {what}. The witness must not forget what it has cosigned: restore the file from a backup that \
         is not older than its last cosignature, or retire this witness's key"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What was to be remembered is not.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct NotStored {
    path: PathBuf,
    error: io::Error,
    /// Whether the old file may have been replaced all the same.
    pub(super) replaced: bool,
}

impl Directory {
    /// Makes the directory for a new witness.
    ///
    /// # Errors
    /// If there is one already, or the file system refuses.
    pub(super) fn create(path: &Path) -> Result<(), StateError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| StateError::Io { path, error }
        };
        DirBuilder::new().mode(0o700).create(path).map_err(io(path))?;
        let lock = path.join(LOCK_FILE);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock);
        made.and_then(|file| file.sync_all()).map_err(io(&lock))?;
        File::open(path).and_then(|directory| directory.sync_all()).map_err(io(path))
    }

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// If it is not there, or another process has it.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let file = path.join(LOCK_FILE);
        match OpenOptions::new().read(true).write(true).open(&file).and_then(locked) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StateError::NotState(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(StateError::InUse(path.to_owned())),
            Err(error) => Err(StateError::Io { path: file, error }),
        }
    }

    /// The file of the log `origin`.
    pub(super) fn file(&self, origin: &Name) -> PathBuf {
        self.path.join(hex::encode(Sha256::digest(origin.as_str())))
    }

    /// What was cosigned last of the log `origin`. `None` if nothing ever was.
    ///
    /// # Errors
    /// If there is a file that can't be read, or is not what was written.
    pub(super) fn load(&self, origin: &Name) -> Result<Option<Seen>, StateError> {
        let path = self.file(origin);
        let io = |error| StateError::Io { path: path.clone(), error };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let mut bytes = Vec::new();
        file.take(LENGTH_AT_MOST).read_to_end(&mut bytes).map_err(io)?;
        let damaged = |what| StateError::Damaged { path: path.clone(), what };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        if text.starts_with(FAMILY) && !text.starts_with(FORMAT) {
            return Err(StateError::Newer(path));
        }
        read(&text, origin).map(Some).map_err(damaged)
    }

    /// Remembers `note`, durably.
    ///
    /// # Errors
    /// [`NotStored`] says whether the file may have been replaced nevertheless.
    pub(super) fn store(&self, origin: &Name, note: &Note) -> Result<(), NotStored> {
        let path = self.file(origin);
        let new = path.with_extension("new");
        let mut replaced = false;
        let mut replace = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(written(note).as_bytes())?;
            file.sync_all()?;
            replaced = true;
            fs::rename(&new, &path)?;
            // The rename itself is durable only once the directory is.
            File::open(&self.path)?.sync_all()
        };
        let outcome = replace();
        outcome.map_err(|error| NotStored { path, error, replaced })
    }
}

/// The file, locked for this process. `WouldBlock` if another has it.
fn locked(file: File) -> io::Result<File> {
    file.try_lock()?;
    Ok(file)
}

/// The content of a file.
fn written(note: &Note) -> String {
    let note = note.to_string();
    format!("{FORMAT}{}\n{note}", hex::encode(Sha256::digest(&note)))
}

/// For `src/fuzz`: a file of any bytes. Its checksum is made right first: no fuzzer guesses one.
#[cfg(test)]
pub(crate) fn check_reading(bytes: &[u8], origin: &Name) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = read(text, origin);
    let note = text.split_once('\n').map_or(text, |(_, note)| note);
    let whole = format!("{FORMAT}{}\n{note}", hex::encode(Sha256::digest(note)));
    if let Ok(seen) = read(&whole, origin) {
        let checkpoint = Checkpoint::parse(Note::parse(note).unwrap().text()).unwrap();
        assert_eq!((seen.size, &seen.root), (checkpoint.size(), checkpoint.root()));
    }
}

/// For `src/fuzz`: the file after this note.
#[cfg(test)]
pub(crate) fn written_for(note: &str) -> Vec<u8> {
    written(&Note::parse(note).unwrap()).into_bytes()
}

fn read(text: &str, origin: &Name) -> Result<Seen, &'static str> {
    let (first, note) = text.split_once('\n').ok_or("it has no second line")?;
    let hash = first.strip_prefix(FORMAT).ok_or("its first line is not that of a witness's state")?;
    if hash != hex::encode(Sha256::digest(note)) {
        return Err("its content does not hash to what its first line says");
    }
    let note = Note::parse(note).map_err(|_| "it holds no signed note")?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(|_| "its note is no checkpoint")?;
    if checkpoint.origin() != origin {
        return Err("it is about another log");
    }
    Ok(Seen { size: checkpoint.size(), root: *checkpoint.root() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness::fixture::History;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_that_hashes_right_and_holds_no_checkpoint_of_this_log_says_what_it_is() {
        let log = History::new(9);
        let origin = log.key().name().clone();
        let whole = |note: &str| format!("{FORMAT}{}\n{note}", hex::encode(Sha256::digest(note)));
        let note = log.note(5);
        let no_checkpoint = note.replacen("\n5\n", "\nfive\n", 1);
        for (text, expected) in [
            (String::new(), "it has no second line"),
            ("another first line\n".to_owned(), "its first line is not that of a witness's state"),
            (
                format!("{FORMAT}{}\n{note}", hex::encode([0; 32])),
                "its content does not hash to what its first line says",
            ),
            (whole("no note"), "it holds no signed note"),
            (whole(&no_checkpoint), "its note is no checkpoint"),
            (whole(&History::of("other.example/vault", 9).note(5)), "it is about another log"),
        ] {
            assert_eq!(read(&text, &origin).unwrap_err(), expected);
        }
        assert_eq!(read(&whole(&note), &origin).unwrap(), Seen { size: 5, root: log.root(5) });
    }

    #[test]
    fn a_disk_that_takes_no_byte_or_makes_none_durable_leaves_what_was_remembered_s_05() {
        let log = History::new(9);
        let origin = log.key().name().clone();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        Directory::create(&path).unwrap();
        let directory = Directory::open(&path).unwrap();
        let note = |size| Note::parse(&log.note(size)).unwrap();
        directory.store(&origin, &note(3)).unwrap();
        let new = directory.file(&origin).with_extension("new");
        for (device, expected) in [("/dev/full", "No space left"), ("/dev/null", "Invalid argument")] {
            symlink(device, &new).unwrap();
            let refused = directory.store(&origin, &note(5)).unwrap_err();
            assert!(!refused.replaced && refused.to_string().contains(expected), "{device}: {refused}");
            fs::remove_file(&new).unwrap();
            assert_eq!(directory.load(&origin).unwrap().unwrap().size, 3);
        }
        directory.store(&origin, &note(5)).unwrap();
        assert_eq!(directory.load(&origin).unwrap().unwrap().size, 5);
    }

    #[test]
    fn a_directory_is_made_once_and_where_there_is_a_place_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        Directory::create(&path).unwrap();
        for (taken, expected) in [(path.clone(), "File exists"), (path.join("lock/state"), "Not a directory")] {
            let refused = Directory::create(&taken).unwrap_err().to_string();
            assert!(refused.contains(&taken.display().to_string()) && refused.contains(expected), "{refused}");
        }
        // Nothing but a directory is one, and a lock that is a directory is none.
        let refused = Directory::open(&path.join("lock")).map(drop).unwrap_err().to_string();
        assert!(refused.contains("Not a directory"), "{refused}");
        fs::remove_file(path.join("lock")).unwrap();
        assert!(matches!(Directory::open(&path).map(drop), Err(StateError::NotState(_))));
        fs::create_dir(path.join("lock")).unwrap();
        assert!(matches!(Directory::open(&path).map(drop), Err(StateError::Io { .. })));
    }
}
