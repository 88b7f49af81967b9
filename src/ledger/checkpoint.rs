//! Signed checkpoints, each second while events arrive, also kept outside the database.
//!
//! The copy outside is what start-up holds the database against: RocksDB's own recovery can drop a tail silently, and
//! whoever can write the database could cut it. The order is: commit, sign, write outside, and with the next commit store
//! a copy inside. So the checkpoint outside never speaks of events that are not durable.

use super::Shared;
use super::queue::Queue;
use crate::merkle::note::{Checkpoint, LogKey, NoteError};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// The row of `tree` with the newest checkpoint that a commit stored.
pub(super) const CHECKPOINT_ROW: &[u8] = b"checkpoint";
const FILE: &str = "checkpoint";
const NEW_FILE: &str = "checkpoint.new";
/// A checkpoint has a few hundred bytes.
const LENGTH_AT_MOST: u64 = 65_536;

/// The directory outside the database that holds the newest checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointDirectory {
    path: PathBuf,
}

/// Why a checkpoint can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refuses.
    #[error("checkpoint {path}: {error}. See that the directory `audit.checkpoints` exists and is writable")]
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

/// Signs and writes, on a thread of its own.
pub(super) struct Checkpointer {
    pub shared: Arc<Shared>,
    pub key: LogKey,
    pub directory: CheckpointDirectory,
    /// The size of the last checkpoint outside.
    pub signed: u64,
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

    /// The newest checkpoint, its signature verified. `None` if there never was one.
    ///
    /// # Errors
    /// If it can't be read, or is not signed by `key`.
    pub fn newest(&self, key: &LogKey) -> Result<Option<Checkpoint>, CheckpointError> {
        let path = self.file();
        let io = |error| CheckpointError::Io { path: path.clone(), error };
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > LENGTH_AT_MOST => Err(io(io::ErrorKind::FileTooLarge.into())),
            Ok(_) => {
                let text = fs::read_to_string(&path).map_err(io)?;
                let verified = Checkpoint::open(&text, key.name(), &[key.verifier()]);
                verified.map(Some).map_err(|error| CheckpointError::Invalid { path: path.clone(), error })
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
        self.replace(&path, note).map_err(|error| CheckpointError::Io { path, error })
    }

    fn replace(&self, path: &Path, note: &str) -> io::Result<()> {
        let new = self.path.join(NEW_FILE);
        let mut file = File::create(&new)?;
        file.write_all(note.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The rename itself is durable only once the directory is.
        File::open(&self.path)?.sync_all()
    }
}

impl Checkpointer {
    /// Signs each `period` if there are new events, and once more when told to stop.
    pub fn run(&mut self, period: Duration, stop: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(period) {
            if let Some(head) = Queue::ask_head(&self.shared.queue) {
                self.sign(&head);
            }
        }
    }

    /// Signs `head` if it is news.
    pub fn sign(&mut self, head: &super::Head) {
        if head.size <= self.signed {
            return;
        }
        // Without extension lines there is nothing in it that could be malformed.
        let Ok(checkpoint) = Checkpoint::new(self.key.name().clone(), head.size, head.root, Vec::new()) else { return };
        let note = checkpoint.sign(&[&self.key]);
        match self.directory.write(&note) {
            Ok(()) => {
                self.signed = head.size;
                self.shared.queue.leave_checkpoint(note);
            }
            // The log itself is durable; what is at stake is how much a later start can vouch for. Tried again each period.
            Err(error) => tracing::error!(%error, "a checkpoint could not be written outside the database"),
        }
    }
}
