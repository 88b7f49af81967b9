//! How far a sink has come, in a file of its own: `NAME.cursor`, one line of JSON.
//!
//! It is replaced whole (written as new, synced, renamed, the directory synced), so after a crash either the old or the new
//! one is there. An old one costs repetitions; a lost or edited one would cost events, so what can't be right is refused.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// A cursor has a hundred bytes or two.
const LENGTH_AT_MOST: u64 = 4096;
/// What was set aside is written down up to this size; the metric goes on counting.
const REFUSED_AT_MOST: u64 = 1 << 20;

/// The files of one sink.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    directory: PathBuf,
    name: String,
    log_id: String,
}

/// Why a cursor is of no use.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// The file system refuses.
    #[error("{path}: {error}. See that the directory audit.sink_cursors exists and is writable")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not what this program writes.
    #[error(
        "{path} is not a cursor: {problem}. Put the right file back; or move it away, and the sink begins anew where \
         its `from` says"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Written by a newer program.
    #[error("{path} has format version {version}, this program knows version 1: use a newer one")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version.
        version: u32,
    },
    /// It belongs to another log.
    #[error(
        "{path} is of the log {found}, but this vault's log is {expected}. Correct audit.sink_cursors; or, if this log \
         shall be sent from where the sink's `from` says, move the file away"
    )]
    OtherLog {
        /// The file.
        path: PathBuf,
        /// The log that it names.
        found: String,
        /// The vault's.
        expected: String,
    },
    /// It is ahead of the log.
    #[error(
        "{path} says that {next} events were sent, but the log has {durable}: it is of another copy of the data, or the \
         data lost its end. Restore the right data; or, if this is the right data, move the file away, and the sink \
         begins anew where its `from` says"
    )]
    Ahead {
        /// The file.
        path: PathBuf,
        /// The next sequence that it names.
        next: u64,
        /// The number of events in the log.
        durable: u64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    log_id: String,
    next: u64,
}

/// Only the version, whatever else a newer program writes.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// One line of what was set aside.
#[derive(Serialize)]
pub(super) struct SetAside<'a> {
    pub log_id: &'a str,
    /// The first and the last sequence among which the refused events are.
    pub first: u64,
    pub last: u64,
    pub events: u64,
    pub why: &'a str,
}

/// Looks whether the cursor of the sink `name` in `directory` can be used, as far as that can be told without the log.
///
/// # Errors
/// As the start would have.
pub fn check(directory: &Path, name: &str, log_id: Option<&str>) -> Result<Option<u64>, CursorError> {
    let path = path(directory, name);
    let content = read(&path)?;
    match (content, log_id) {
        (Some(content), Some(log_id)) if content.log_id != log_id => {
            Err(CursorError::OtherLog { path, found: content.log_id, expected: log_id.to_owned() })
        }
        (content, _) => Ok(content.map(|content| content.next)),
    }
}

fn path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.cursor"))
}

fn read(path: &Path) -> Result<Option<Content>, CursorError> {
    let io = |error| CursorError::Io { path: path.to_owned(), error };
    let damaged = |problem: String| CursorError::Damaged { path: path.to_owned(), problem };
    let text = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
        Ok(metadata) if metadata.len() > LENGTH_AT_MOST => return Err(damaged("it is too long".to_owned())),
        Ok(_) => fs::read(path).map_err(io)?,
    };
    let Versioned { version } = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if version != VERSION {
        return Err(CursorError::Version { path: path.to_owned(), version });
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| damaged(error.to_string()))
}

/// For `src/fuzz`: what is read is what [`Cursor::store`] could have written.
#[cfg(test)]
pub(super) fn check_content(bytes: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(path(directory.path(), "sink"), bytes).unwrap();
    if let Ok(Some(next)) = check(directory.path(), "sink", None) {
        assert!(serde_json::from_slice::<Content>(bytes).is_ok_and(|content| content.next == next));
    }
}

impl Cursor {
    /// The cursor of the sink `name`, and the next sequence that it names, if there is one already.
    pub fn open(directory: &Path, name: &str, log_id: &str, durable: u64) -> Result<(Self, Option<u64>), CursorError> {
        fs::create_dir_all(directory).map_err(|error| CursorError::Io { path: directory.to_owned(), error })?;
        let next = check(directory, name, Some(log_id))?;
        if let Some(next) = next.filter(|next| *next > durable) {
            return Err(CursorError::Ahead { path: path(directory, name), next, durable });
        }
        let cursor = Self { directory: directory.to_owned(), name: name.to_owned(), log_id: log_id.to_owned() };
        Ok((cursor, next))
    }

    /// Says, durably, that everything before `next` was taken.
    pub fn store(&self, next: u64) -> Result<(), CursorError> {
        let path = path(&self.directory, &self.name);
        let content = Content { version: VERSION, log_id: self.log_id.clone(), next };
        let text = serde_json::to_string(&content).expect("a number and two texts are JSON") + "\n";
        self.replace(&path, &text).map_err(|error| CursorError::Io { path, error })
    }

    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        let new = self.directory.join(format!("{}.cursor.new", self.name));
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The rename itself is durable only once the directory is.
        File::open(&self.directory)?.sync_all()
    }

    /// Writes down, durably, what a sink refused and will not be sent again: `NAME.refused`, a line of JSON each.
    pub fn set_aside(&self, first: u64, last: u64, events: u64, why: &str) -> Result<(), CursorError> {
        let path = self.directory.join(format!("{}.refused", self.name));
        let line = SetAside { log_id: &self.log_id, first, last, events, why };
        let line = serde_json::to_string(&line).expect("numbers and texts are JSON") + "\n";
        let append = || -> io::Result<()> {
            let mut file = File::options().create(true).append(true).open(&path)?;
            if file.metadata()?.len() < REFUSED_AT_MOST {
                file.write_all(line.as_bytes())?;
                file.sync_all()?;
            }
            Ok(())
        };
        append().map_err(|error| CursorError::Io { path: path.clone(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "dev.cloakroom.internal/vault";

    #[test]
    fn a_cursor_comes_back_as_it_was_stored() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("sinks");
        let (cursor, next) = Cursor::open(&directory, "siem", LOG, 10).unwrap();
        assert_eq!(next, None);
        for next in [0, 7, 10] {
            cursor.store(next).unwrap();
            assert_eq!(Cursor::open(&directory, "siem", LOG, 10).unwrap().1, Some(next));
        }
        assert_eq!(Cursor::open(&directory, "other", LOG, 10).unwrap().1, None, "each sink has its own");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_can_not_be_right_is_refused_and_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let (cursor, _) = Cursor::open(folder.path(), "siem", LOG, 0).unwrap();
        cursor.store(11).unwrap();
        let refused = |log: &str, durable| Cursor::open(folder.path(), "siem", log, durable).unwrap_err().to_string();
        let said = refused(LOG, 10);
        assert!(said.contains("11 events") && said.contains("has 10") && said.contains("move the file away"), "{said}");
        let said = refused("another/log", 20);
        assert!(said.contains(LOG) && said.contains("another/log") && said.contains("move the file away"), "{said}");
        let file = folder.path().join("siem.cursor");
        for (text, words) in [
            ("", "not a cursor"),
            ("{\"version\":1}", "not a cursor"),
            ("{\"version\":1,\"log_id\":\"x\",\"next\":-1}", "not a cursor"),
            ("{\"version\":1,\"log_id\":\"x\",\"next\":1,\"more\":1}", "not a cursor"),
            ("{\"version\":2,\"anything\":[]}", "format version 2"),
        ] {
            fs::write(&file, text).unwrap();
            let said = refused(LOG, 20);
            assert!(said.contains(words) && said.contains("siem.cursor"), "{text}: {said}");
        }
        fs::write(&file, vec![b' '; 5000]).unwrap();
        assert!(refused(LOG, 20).contains("too long"));
    }

    #[test]
    fn what_was_set_aside_is_written_down_up_to_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let (cursor, _) = Cursor::open(folder.path(), "siem", LOG, 0).unwrap();
        cursor.set_aside(3, 3, 1, "HTTP 400").unwrap();
        let file = folder.path().join("siem.refused");
        let line: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(line, serde_json::json!({"log_id": LOG, "first": 3, "last": 3, "events": 1, "why": "HTTP 400"}));
        let long = "x".repeat(100_000);
        for _ in 0..20 {
            cursor.set_aside(4, 9, 2, &long).unwrap();
        }
        assert!(fs::metadata(&file).unwrap().len() < REFUSED_AT_MOST + 110_000);
    }
}
