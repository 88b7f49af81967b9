//! Making a backup, and looking whether one is whole.
//!
//! A backup is a directory:
//!
//! ```text
//! manifest.json            written last, and moved to its place: without it the directory is no backup
//! data/                    the database's files, plain copies
//! checkpoints/checkpoint   the newest checkpoint, with its cosignatures
//! checkpoints/rotations/   by which a verifier follows from one log key to the next
//! ```
//!
//! The checkpoint is read before the data, so that the data is never older than what vouches for it. Then the copy is
//! looked at as a restore would look at it, from the disk and with the root key: each file's hash, the log against its
//! checkpoint, and every record. Only what has passed gets a manifest. Nothing is written to the data that is copied, and
//! nothing is asked of a vault that runs on it.

use super::manifest::{BadManifest, Described, Entry, Manifest};
use crate::clock::Timestamp;
use crate::crypto::RootKey;
use crate::file;
use crate::keys::{Keyring, KeyringError};
use crate::ledger::{self, CheckpointDirectory, Checkpoints, Outside, StoredHead};
use crate::store::{self, ReadError, RocksConfig, RocksFile, RocksFiles, RocksSnapshot, cut_torn_end};
use crate::vault::verify::{Subject, verify};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

const MANIFEST: &str = "manifest.json";
const DATA: &str = "data";
const CHECKPOINTS: &str = "checkpoints";
const ROTATIONS: &str = "rotations";
/// A checkpoint has a few hundred bytes.
const NOTE_BYTES_AT_MOST: u64 = 65_536;
/// A hundred bytes for each file of the database.
const MANIFEST_BYTES_AT_MOST: u64 = 64 << 20;
/// Read and written at once.
const PIECE: usize = 1 << 20;
/// For names, and what the file system needs for itself.
const SPARE_BYTES: u64 = 16 << 20;

/// What is copied.
pub struct Source<'a> {
    /// The database.
    pub data: &'a Path,
    /// Its checkpoints.
    pub checkpoints: &'a Path,
    /// How it is opened.
    pub rocks: &'a RocksConfig,
}

/// A backup that has been looked at from end to end.
pub struct Copied {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its rows.
    pub rows: RocksSnapshot,
    /// Its keys.
    pub keyring: Keyring,
    /// Its checkpoint.
    pub outside: Outside,
    /// What its last commit left.
    pub head: StoredHead,
}

/// Why there is no backup, or what is there is none.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something is there already.
    #[error(
        "{0} is not empty, and nothing is written over. If it holds a backup, name another directory; if it has no \
         manifest.json, a backup was cut off there: remove it"
    )]
    NotEmpty(PathBuf),
    /// There is no manifest.
    #[error("{0} has no manifest.json: it is no backup, or one that was cut off")]
    None(PathBuf),
    /// The manifest is of no use.
    #[error("{path}: {error}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        error: BadManifest,
    },
    /// A file is not as the manifest says.
    #[error("the backup's file {path} {what}: it is not the backup that was made")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The checkpoint is missing where it is copied from.
    #[error(
        "there is no checkpoint in {0}, so nothing vouches for the log. Put it back, or correct `audit.checkpoints`"
    )]
    NoCheckpoint(PathBuf),
    /// The vault refused to sign its own log.
    #[error(
        "{0} says that a checkpoint was refused: no backup is made of such data. Keep a plain copy of it as evidence"
    )]
    Doubted(PathBuf),
    /// There is too little room.
    #[error("{0}")]
    NoRoom(String),
    /// The records or the log are not right.
    #[error("the copy is whole, and what is in it is not right: {0}. `cloakroom verify` says more")]
    Unsound(String),
    /// The database can't be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The log can't be opened.
    #[error(transparent)]
    Ledger(#[from] ledger::OpenError),
    /// The keys can't be had.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// The database can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file system refuses.
    #[error("{path}: {error}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

// === make ===

/// Copies `source` into `directory`, which is not there yet or empty. `room` is asked before each file whether there is room
/// for so many bytes more; `progress` is told what is done, and how many of it.
///
/// # Errors
/// [`BackupError`]. What was written then has no manifest.
pub fn back_up(
    source: &Source<'_>,
    root: RootKey,
    directory: &Path,
    now: Timestamp,
    room: &dyn Fn(u64) -> Result<(), String>,
    progress: &mut dyn FnMut(&'static str, u64),
) -> Result<Copied, BackupError> {
    let notes = Notes::read(source.checkpoints)?;
    let files = RocksFiles::open(source.data)?;
    begin(directory)?;
    let mut left = files.bytes() + SPARE_BYTES;
    room(left).map_err(BackupError::NoRoom)?;
    notes.write(&directory.join(CHECKPOINTS))?;
    let data = directory.join(DATA);
    make(&data)?;
    let mut done = 0;
    let mut written = Vec::new();
    for file in files {
        room(left).map_err(BackupError::NoRoom)?;
        let (path, length) = (data.join(file.name()), file.length());
        written.push((path.clone(), write(&path, file)?));
        (left, done) = (left - length, done + length);
        progress("MiB", done >> 20);
    }
    // A log whose end is cut off has another hash. All others must have kept theirs on the way to the disk.
    written.retain(|(path, _)| path.extension().is_none_or(|extension| extension != "log"));
    cut_torn_end(&data)?;
    for place in [&data, &directory.join(CHECKPOINTS), directory] {
        sync(place)?;
    }
    let entries = hashed(directory)?;
    for (path, hash) in written {
        if !entries.iter().any(|entry| directory.join(&entry.path) == path && entry.sha256 == hash) {
            return Err(BackupError::File { path, what: "did not reach the disk as it was read" });
        }
    }
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(now.millis())).to_string();
    let sealed = |described: &Described, keyring: &Keyring| Ok(Manifest::new(described, time, entries, keyring.meta()));
    let copied = open(directory, root, source.rocks, sealed, progress)?;
    publish(directory, &copied.manifest).map_err(|error| io_error(&directory.join(MANIFEST), error))?;
    Ok(copied)
}

/// The checkpoint and the notes beside it, as they are now.
struct Notes(Vec<(PathBuf, Vec<u8>)>);

impl Notes {
    fn read(checkpoints: &Path) -> Result<Self, BackupError> {
        let directory = CheckpointDirectory::new(checkpoints);
        if directory.doubt_file().exists() {
            return Err(BackupError::Doubted(directory.doubt_file()));
        }
        let read = |path: &Path| file::read(path, NOTE_BYTES_AT_MOST).map_err(|error| io_error(path, error));
        let newest = directory.file();
        let checkpoint = match read(&newest) {
            Err(BackupError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::NoCheckpoint(checkpoints.to_owned()));
            }
            other => other?,
        };
        let mut notes = vec![(PathBuf::from(newest.file_name().unwrap_or_default()), checkpoint)];
        for path in entries_of(&checkpoints.join(ROTATIONS))? {
            // What else is there is being written, or none of ours.
            let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
            if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| is_number(name)) {
                notes.push((Path::new(ROTATIONS).join(name), read(&path)?));
            }
        }
        Ok(Self(notes))
    }

    fn write(&self, directory: &Path) -> Result<(), BackupError> {
        make(directory)?;
        if self.0.len() > 1 {
            make(&directory.join(ROTATIONS))?;
        }
        for (name, note) in &self.0 {
            let path = directory.join(name);
            let write = || {
                let mut file = new_file(&path)?;
                file.write_all(note)?;
                file.sync_all()
            };
            write().map_err(|error| io_error(&path, error))?;
        }
        if self.0.len() > 1 { sync(&directory.join(ROTATIONS)) } else { Ok(()) }
    }
}

/// An empty directory for its owner alone, that was not there or is empty.
fn begin(directory: &Path) -> Result<(), BackupError> {
    if !entries_of(directory)?.is_empty() {
        return Err(BackupError::NotEmpty(directory.to_owned()));
    }
    if directory.is_dir() {
        return Ok(());
    }
    make(directory)?;
    match directory.canonicalize().map(|whole| whole.parent().map(Path::to_owned)) {
        Ok(Some(parent)) => sync(&parent),
        _ => Ok(()),
    }
}

fn make(directory: &Path) -> Result<(), BackupError> {
    DirBuilder::new().mode(0o700).create(directory).map_err(|error| io_error(directory, error))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Copies one file, durably. The hash of what was read.
fn write(path: &Path, from: RocksFile) -> Result<String, BackupError> {
    let length = from.length();
    let copy = || {
        let mut to = new_file(path)?;
        let (hash, copied) = pass(from.content(), |piece| to.write_all(piece))?;
        if copied != length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file that it is copied from became shorter"));
        }
        to.sync_all()?;
        // It is read again, and then not from memory. Where the system does not do as it is advised, nothing is lost.
        let _ = rustix::fs::fadvise(&to, 0, None, rustix::fs::Advice::DontNeed);
        Ok(hash)
    };
    copy().map_err(|error| io_error(path, error))
}

/// Everything that can be read, piece by piece: its hash and its length.
fn pass(mut from: impl Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<(String, u64)> {
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((hex::encode(hash.finalize()), length)),
            Ok(read) => {
                hash.update(&buffer[..read]);
                take(&buffer[..read])?;
                length += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The last step: until then there is no backup.
fn publish(directory: &Path, manifest: &Manifest) -> io::Result<()> {
    let new = directory.join(format!("{MANIFEST}.new"));
    let mut file = new_file(&new)?;
    file.write_all(manifest.to_text().as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, directory.join(MANIFEST))?;
    File::open(directory)?.sync_all()
}

// === look ===

/// Looks at the backup in `directory` from end to end, and opens it to be read. Nothing is changed.
///
/// # Errors
/// [`BackupError`], which names the file that is not as it was made.
pub fn look(
    directory: &Path,
    root: RootKey,
    rocks: &RocksConfig,
    progress: &mut dyn FnMut(&'static str, u64),
) -> Result<Copied, BackupError> {
    let path = directory.join(MANIFEST);
    let text = match file::read_text(&path, MANIFEST_BYTES_AT_MOST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::None(directory.to_owned()));
        }
        other => other.map_err(|error| io_error(&path, error))?,
    };
    let bad = |error| BackupError::Manifest { path: path.clone(), error };
    let manifest = Manifest::parse(&text).map_err(bad)?;
    manifest.authenticate(&root).map_err(bad)?;
    compare(directory, &manifest, progress)?;
    let check = |described: &Described, _: &Keyring| {
        manifest.check(described).map_err(bad)?;
        Ok(manifest.clone())
    };
    open(directory, root, rocks, check, progress)
}

/// Each file that is there against each that should be.
fn compare(
    directory: &Path,
    manifest: &Manifest,
    progress: &mut dyn FnMut(&'static str, u64),
) -> Result<(), BackupError> {
    let there = files_below(directory)?;
    let wrong = |path: &str, what| Err(BackupError::File { path: directory.join(path), what });
    let is_listed = |path: &str| manifest.files.binary_search_by(|entry| entry.path.as_str().cmp(path)).is_ok();
    if let Some(stranger) = there.iter().find(|path| !is_listed(path)) {
        return wrong(stranger, "is not in its manifest");
    }
    let mut done = 0;
    for entry in &manifest.files {
        if there.binary_search(&entry.path).is_err() {
            return wrong(&entry.path, "is missing");
        }
        let found = hash(directory, &entry.path)?;
        if found.bytes != entry.bytes {
            return wrong(&entry.path, "has another length than its manifest says");
        }
        if found != *entry {
            return wrong(&entry.path, "was changed");
        }
        done += entry.bytes;
        progress("MiB", done >> 20);
    }
    Ok(())
}

/// Opens the copy and holds log and records against its checkpoint, as `cloakroom verify` does.
fn open(
    directory: &Path,
    root: RootKey,
    rocks: &RocksConfig,
    manifest: impl FnOnce(&Described, &Keyring) -> Result<Manifest, BackupError>,
    progress: &mut dyn FnMut(&'static str, u64),
) -> Result<Copied, BackupError> {
    let rows = RocksSnapshot::open(&directory.join(DATA), rocks)?;
    let (genesis, meta) = ledger::identify(&rows, &root)?;
    let keys = ledger::log_keys(&rows, &meta)?;
    let checkpoints = Checkpoints::of(CheckpointDirectory::new(directory.join(CHECKPOINTS)));
    let outside = Outside::read(&checkpoints, &keys)?;
    let keyring = Keyring::open(root, genesis.vault, meta, &rows)?;
    let vouched = outside.newest().ok_or_else(|| BackupError::NoCheckpoint(directory.join(CHECKPOINTS)))?.size();
    let subject = Subject { rows: &rows, keyring: &keyring, outside: &outside };
    let report = verify(&subject, &mut |records| progress("records", records))?;
    if !report.records_are_clean() {
        let why = report
            .log
            .unwrap_or_else(|| format!("{} records open, of {}", report.records, report.expected.unwrap_or_default()));
        return Err(BackupError::Unsound(why));
    }
    let head = ledger::stored_head(&rows, keyring.meta(), keyring.state())?.ok_or(ledger::OpenError::Head)?;
    let described = Described {
        vault: genesis.vault,
        log_id: genesis.log_id,
        size: head.size,
        root: head.root,
        vouched,
        records: report.records,
    };
    let manifest = manifest(&described, &keyring)?;
    Ok(Copied { manifest, rows, keyring, outside, head })
}

// === files ===

/// All files below `directory` but the manifest, by ascending path.
fn files_below(directory: &Path) -> Result<Vec<String>, BackupError> {
    let mut found = Vec::new();
    let mut to_read = vec![String::new()];
    while let Some(below) = to_read.pop() {
        for path in entries_of(&directory.join(&below))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = if below.is_empty() { name } else { format!("{below}/{name}") };
            let kind = path.symlink_metadata().map_err(|error| io_error(&path, error))?;
            match kind.is_dir() {
                true => to_read.push(name),
                false if name == MANIFEST => {}
                false => found.push(name),
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn hashed(directory: &Path) -> Result<Vec<Entry>, BackupError> {
    files_below(directory)?.iter().map(|path| hash(directory, path)).collect()
}

fn hash(directory: &Path, name: &str) -> Result<Entry, BackupError> {
    let path = directory.join(name);
    match file::open(&path).and_then(|file| file.map(|file| pass(file, |_| Ok(()))).transpose()) {
        Ok(Some((sha256, bytes))) => Ok(Entry { path: name.to_owned(), bytes, sha256 }),
        Ok(None) => Err(BackupError::File { path, what: "is no regular file" }),
        Err(error) => Err(io_error(&path, error)),
    }
}

/// What is in a directory. Nothing, if it is not there.
fn entries_of(directory: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let read = || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| io_error(directory, error)),
    }
}

fn sync(directory: &Path) -> Result<(), BackupError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| io_error(directory, error))
}

fn io_error(path: &Path, error: io::Error) -> BackupError {
    BackupError::Io { path: path.to_owned(), error }
}
