//! Signed checkpoints outside the database.
//!
//! They are what start-up holds the database against: RocksDB's own recovery can drop a tail silently, and whoever can write
//! the database could cut it. A second directory, on another machine's disk say, makes it harder to turn everything back.

use super::LogKeys;
use crate::file;
use crate::merkle::note::{Checkpoint, NoteError};
use crate::store::Trouble;
use rustix::fs::Access;
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The row of `tree` with the newest checkpoint that a commit stored.
pub(super) const CHECKPOINT_ROW: &[u8] = b"checkpoint";
const FILE: &str = "checkpoint";
/// Notes by which a verifier follows from one key to the next. They are never replaced.
const ROTATIONS: &str = "rotations";
/// Says that a checkpoint was refused, and why.
const DOUBT: &str = "doubt";
/// A checkpoint has a few hundred bytes.
const LENGTH_AT_MOST: u64 = 65_536;

/// A directory outside the database that holds the newest checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointDirectory {
    path: PathBuf,
}

/// The directories of a log: one that a start can't do without, and perhaps a copy.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    /// Where the newest checkpoint must be.
    pub directory: CheckpointDirectory,
    /// Where the same is written again.
    pub copy: Option<CheckpointDirectory>,
}

/// Why a checkpoint can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refuses.
    #[error("checkpoint {path}: {error}. {}", advice(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not a checkpoint of this log.
    #[error(
        "checkpoint {path} is not one of this log, or was changed: {error}. Put back the right file; don't delete it"
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        error: NoteError,
    },
}

impl CheckpointError {
    /// Whether it is over as soon as somebody has made room on a disk.
    pub fn is_lack_of_room(&self) -> bool {
        matches!(self, Self::Io { error, .. } if trouble(error) == Some(Trouble::Full))
    }
}

/// What the operating system's refusal is about, where that is not the directory.
fn trouble(error: &io::Error) -> Option<Trouble> {
    match Errno::from_io_error(error)? {
        Errno::NOSPC | Errno::DQUOT => Some(Trouble::Full),
        Errno::ROFS => Some(Trouble::ReadOnly),
        Errno::MFILE | Errno::NFILE => Some(Trouble::Files),
        Errno::NOMEM => Some(Trouble::Memory),
        Errno::IO => Some(Trouble::Disk),
        _ => None,
    }
}

fn advice(error: &io::Error) -> String {
    trouble(error).map_or_else(
        || {
            "See that the directory, which `audit.checkpoints` or `audit.checkpoints_copy` names, exists and is writable"
                .to_owned()
        },
        |trouble| trouble.to_string(),
    )
}

impl CheckpointDirectory {
    /// The directory at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where the newest checkpoint is.
    pub fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// The newest checkpoint, its signature verified, and the note itself. `None` if there never was one.
    ///
    /// # Errors
    /// If it can't be read, or is not signed by the key in force.
    pub fn newest(&self, keys: &LogKeys) -> Result<Option<(Checkpoint, String)>, CheckpointError> {
        let path = self.file();
        let io = |error| CheckpointError::Io { path: path.clone(), error };
        match file::read_text(&path, LENGTH_AT_MOST) {
            Ok(text) => {
                let checkpoint = keys.open(&text);
                let checkpoint = checkpoint.map_err(|error| CheckpointError::Invalid { path: path.clone(), error })?;
                Ok(Some((checkpoint, text)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io(error)),
        }
    }

    /// Replaces the newest checkpoint, durably: after a crash either the old or the new one is there, whole.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn write(&self, note: &str) -> Result<(), CheckpointError> {
        let path = self.file();
        replace(&path, note).map_err(|error| CheckpointError::Io { path, error })
    }

    /// Whether checkpoints can be written here. That the directory is not there at all is for who looks for the newest one.
    ///
    /// # Errors
    /// If this user may not write here.
    pub fn check_writable(&self) -> Result<(), CheckpointError> {
        let found = match fs::metadata(&self.path) {
            // The right to enter a file is one that no file has: that would be said in its place.
            Ok(found) if !found.is_dir() => Err(Errno::NOTDIR),
            _ => rustix::fs::access(&self.path, Access::WRITE_OK | Access::EXEC_OK),
        };
        match found {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(CheckpointError::Io { path: self.file(), error: error.into() }),
        }
    }

    /// Where it stands that a checkpoint was refused, if one was.
    pub fn doubt_file(&self) -> PathBuf {
        self.path.join(DOUBT)
    }

    /// Keeps a note that leads from one key to the next.
    fn keep(&self, size: u64, note: &str) -> Result<(), CheckpointError> {
        let directory = self.path.join(ROTATIONS);
        let path = directory.join(size.to_string());
        let keep = || {
            fs::create_dir_all(&directory)?;
            replace(&path, note)?;
            File::open(&self.path)?.sync_all()
        };
        keep().map_err(|error| CheckpointError::Io { path: path.clone(), error })
    }
}

impl Checkpoints {
    /// In one directory.
    pub fn of(directory: CheckpointDirectory) -> Self {
        Self { directory, copy: None }
    }

    /// Replaces the newest checkpoint. That the copy could not be written is no failure: it is logged and counted.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(super) fn write(&self, note: &str) -> Result<(), CheckpointError> {
        if let Some(Err(error)) = self.copy.as_ref().map(|copy| copy.write(note)) {
            tracing::error!(%error, "the copy of a checkpoint could not be written");
            metrics::counter!("cloakroom_checkpoint_failures_total").increment(1);
        }
        self.directory.write(note)
    }

    /// Leaves word that a checkpoint was refused: the next start might find nothing wrong, if what is missing was only ever
    /// acknowledged.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(super) fn leave_doubt(&self, why: &str) -> Result<(), CheckpointError> {
        let path = self.directory.doubt_file();
        replace(&path, why).map_err(|error| CheckpointError::Io { path, error })
    }

    /// Keeps a note that both keys have signed, by its size.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(super) fn keep(&self, size: u64, note: &str) -> Result<(), CheckpointError> {
        self.copy.as_ref().map_or(Ok(()), |copy| copy.keep(size, note))?;
        self.directory.keep(size, note)
    }
}

fn replace(path: &Path, note: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The rename itself is durable only once the directory is.
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::empty_root;
    use crate::merkle::note::{LogKey, Name};
    use crate::secret::SecretKey;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_where_nothing_is_there_never_was_a_checkpoint_a_02() {
        let folder = tempfile::tempdir().unwrap();
        let log_key = LogKey::from_seed(Name::new("example.org/log").unwrap(), &SecretKey::new([7; 32]));
        let keys = LogKeys::of(log_key.verifier());
        let directory = CheckpointDirectory::new(folder.path());
        let refused = |directory: &CheckpointDirectory| match directory.newest(&keys).map(drop) {
            Err(CheckpointError::Io { path, error }) => {
                assert_eq!(path, directory.file());
                error.to_string()
            }
            other => panic!("{other:?}"),
        };
        assert!(directory.newest(&keys).unwrap().is_none());
        let long = |length: usize| {
            let note = |filler: usize| {
                let lines = vec!["x".repeat(filler)];
                Checkpoint::new(log_key.verifier().name().clone(), 5, empty_root(), lines).unwrap().sign(&[&log_key])
            };
            note(length + 1 - note(1).len())
        };
        let longest = usize::try_from(LENGTH_AT_MOST).unwrap();
        directory.write(&long(longest)).unwrap();
        assert_eq!(directory.newest(&keys).unwrap().unwrap().0.size(), 5);
        directory.write(&long(longest + 1)).unwrap();
        assert!(refused(&directory).contains("more than 65536 bytes"));
        // In the place of the directory stands a file, and in the place of the file a directory.
        assert!(refused(&CheckpointDirectory::new(directory.file())).contains("Not a directory"));
        fs::remove_file(directory.file()).unwrap();
        fs::create_dir(directory.file()).unwrap();
        assert!(refused(&directory).contains("no regular file"));
    }

    #[test]
    fn what_is_no_directory_can_not_be_written_to_and_what_is_not_there_is_for_others_to_say() {
        let folder = tempfile::tempdir().unwrap();
        let directory = CheckpointDirectory::new(folder.path());
        assert!(directory.check_writable().is_ok());
        assert!(CheckpointDirectory::new(folder.path().join("none")).check_writable().is_ok());
        directory.write("note").unwrap();
        let refused = CheckpointDirectory::new(directory.file()).check_writable();
        let Err(CheckpointError::Io { path, error }) = refused else { panic!("{refused:?}") };
        assert_eq!((path, error.raw_os_error()), (directory.file().join(FILE), Some(Errno::NOTDIR.raw_os_error())));
        // Root may write everywhere.
        if !rustix::process::geteuid().is_root() {
            for mode in [0o500, 0o600] {
                fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
                assert!(directory.check_writable().is_err(), "{mode:o}");
            }
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        }
        assert!(directory.check_writable().is_ok());
    }

    #[test]
    fn the_advice_fits_what_the_system_refused_s_05() {
        let said = |errno: Errno| CheckpointError::Io {
            path: "checkpoint".into(),
            error: io::Error::from_raw_os_error(errno.raw_os_error()),
        };
        for (errno, advice) in [
            (Errno::NOSPC, "The disk is full"),
            (Errno::DQUOT, "The disk is full"),
            (Errno::MFILE, "Raise the limit of open files"),
            (Errno::NFILE, "Raise the limit of open files"),
            (Errno::NOMEM, "more memory"),
            (Errno::ROFS, "mounted read-only"),
            (Errno::IO, "The disk fails"),
            (Errno::NOMEM, "memory"),
            (Errno::ACCESS, "exists and is writable"),
            (Errno::NOENT, "exists and is writable"),
        ] {
            let error = said(errno);
            assert!(error.to_string().contains(advice), "{error}");
            assert_eq!(error.is_lack_of_room(), advice == "The disk is full", "{error}");
        }
    }

    fn directory() -> (tempfile::TempDir, CheckpointDirectory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = CheckpointDirectory::new(folder.path());
        (folder, directory)
    }

    fn keys() -> LogKeys {
        let name = crate::merkle::note::Name::new("dev.cloakroom.internal/vault").unwrap();
        let seed = crate::secret::SecretKey::new([1; 32]);
        LogKeys::of(crate::merkle::note::LogKey::from_seed(name, &seed).verifier())
    }

    #[test]
    fn what_is_no_checkpoint_is_refused_with_the_file_s_name() {
        let (folder, directory) = directory();
        let shown = directory.file().display().to_string();
        assert!(directory.newest(&keys()).unwrap().is_none(), "there never was one");
        let too_long = usize::try_from(LENGTH_AT_MOST).unwrap() + 1;
        for (content, expected) in
            [("no note", "is not one of this log"), (&"x".repeat(too_long), "more than 65536 bytes")]
        {
            fs::write(directory.file(), content).unwrap();
            let said = directory.newest(&keys()).unwrap_err().to_string();
            assert!(said.starts_with(&format!("checkpoint {shown}")) && said.contains(expected), "{said}");
        }
        // A file in the place of the directory.
        let below = CheckpointDirectory::new(folder.path().join("checkpoint"));
        let said = below.newest(&keys()).unwrap_err().to_string();
        assert!(said.contains("checkpoint/checkpoint: Not a directory"), "{said}");
    }

    #[test]
    fn a_directory_that_takes_no_checkpoint_is_found_before_there_is_one() {
        let (folder, directory) = directory();
        directory.check_writable().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let said = CheckpointDirectory::new(folder.path().join("file")).check_writable().unwrap_err().to_string();
        assert!(said.contains("file/checkpoint: Not a directory") && said.contains("audit.checkpoints"), "{said}");
        CheckpointDirectory::new(folder.path().join("none")).check_writable().unwrap();
    }

    /// The old one stays whole whatever fails: where the new one is to be written, it is put in its place, or it is made durable.
    #[test]
    fn a_checkpoint_that_can_not_be_written_leaves_the_one_before_s_05() {
        let (folder, directory) = directory();
        directory.write("the one before").unwrap();
        for (place, expected) in [("/dev/full", "No space left"), ("/dev/null", "Invalid argument")] {
            std::os::unix::fs::symlink(place, folder.path().join("checkpoint.new")).unwrap();
            let error = directory.write("another").unwrap_err();
            assert!(error.to_string().contains(expected), "{place}: {error}");
            assert_eq!(error.is_lack_of_room(), place == "/dev/full");
            fs::remove_file(folder.path().join("checkpoint.new")).unwrap();
        }
        fs::create_dir(folder.path().join("checkpoint.new")).unwrap();
        assert!(directory.write("another").is_err());
        fs::remove_dir(folder.path().join("checkpoint.new")).unwrap();
        assert_eq!(fs::read_to_string(directory.file()).unwrap(), "the one before");
        // What is no file is not replaced by one.
        fs::remove_file(directory.file()).unwrap();
        fs::create_dir(directory.file()).unwrap();
        let said = directory.write("another").unwrap_err().to_string();
        assert!(said.contains("Is a directory"), "{said}");
    }

    #[test]
    fn what_leads_from_key_to_key_is_kept_in_both_directories_or_none() {
        let ((first, directory), (second, copy)) = (directory(), directory());
        let both = Checkpoints { directory, copy: Some(copy) };
        let kept = |folder: &tempfile::TempDir| fs::read_to_string(folder.path().join("rotations/7")).ok();
        // A folder where the note is to be.
        fs::create_dir_all(second.path().join("rotations/7")).unwrap();
        let said = both.keep(7, "a note").unwrap_err().to_string();
        assert!(said.contains(&format!("{}/rotations/7", second.path().display())), "{said}");
        assert_eq!((kept(&first), kept(&second)), (None, None));
        fs::remove_dir(second.path().join("rotations/7")).unwrap();
        both.keep(7, "a note").unwrap();
        assert_eq!((kept(&first).as_deref(), kept(&second).as_deref()), (Some("a note"), Some("a note")));
        fs::create_dir(first.path().join("doubt")).unwrap();
        assert!(both.leave_doubt("why").unwrap_err().to_string().contains("doubt: Is a directory"));
    }
}
