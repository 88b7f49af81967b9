//! Backup and restore of the vault that a configuration describes.
//!
//! A backup is made beside a vault that serves, or of one that does not: the data is only read, as `cloakroom verify`
//! reads it. The vault is not asked, so nobody on the network can have its data copied, and no copy can hold it up.
//!
//! A restore makes a vault where there is none. The database is built beside its place and moved there at the very end: a
//! restore that was cut off leaves nothing that would start.

use super::room::Room;
use super::rulebook::RulebookView;
use super::{Error, bytes_in_words, descriptors, identity, ledger_settings, log_key, rocks_config, root_key, runtime};
use crate::admin::{self, BackupError, Carried, Copied, Manifest, RestoreError, Source};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::crypto::Handle;
use crate::event::{self, Action, Event, ItemOutcome};
use crate::keys::{KeyringError, entropy};
use crate::ledger::{self, Genesis, Ledger, Signing, Submission};
use crate::merkle::note::{LogKey, Name};
use crate::store::{RocksSnapshot, RocksStore, Store};
use crate::vault::{BATCH_AT_MOST, own_event};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why nothing was backed up or restored.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Configuration, keys or log.
    #[error(transparent)]
    Setup(#[from] Error),
    /// The backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Its rows.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A restore makes a vault only where there is none.
    #[error("{path} is there already, and a restore never writes over anything: {advice}")]
    Taken {
        /// What is there.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
    },
    /// The file system refuses.
    #[error("{path}: {error}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What a restore came to.
pub struct Restored {
    /// The backup.
    pub manifest: Manifest,
    /// The new log's name.
    pub log_id: String,
    /// Where its public key is.
    pub public_key: PathBuf,
    /// Records.
    pub records: u64,
    /// Tokens that are suspended.
    pub suspended: u64,
    /// Tokens that were revoked on the way.
    pub revoked: u64,
}

/// Told what is done, and how many of it.
pub type Progress<'a> = &'a mut dyn FnMut(&'static str, u64);

// === backup ===

/// Copies the data that `config` describes into `directory`, and looks at the copy from end to end.
///
/// # Errors
/// [`CopyError`]: there is no backup then.
pub fn back_up(config: &Config, directory: &Path, progress: Progress<'_>) -> Result<Manifest, CopyError> {
    descriptors::raise_limit();
    let rocks = rocks_config(config);
    let source = Source { data: &config.storage.path, checkpoints: &config.audit.checkpoints, rocks: &rocks };
    let room = |bytes| enough_room(config, directory, bytes);
    let now = SystemClock::shared().wall();
    Ok(admin::back_up(&source, root_key(config)?, directory, now, &room, progress)?.manifest)
}

/// Looks at the backup in `directory` from end to end, with `config`'s root key.
///
/// # Errors
/// [`CopyError`], which names what is wrong.
pub fn look_at_backup(config: &Config, directory: &Path, progress: Progress<'_>) -> Result<BackedUp, CopyError> {
    descriptors::raise_limit();
    Ok(BackedUp(admin::look(directory, root_key(config)?, &rocks_config(config), progress)?))
}

/// A backup that is whole.
pub struct BackedUp(Copied);

impl BackedUp {
    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// The log in it, and the newest checkpoint of that.
    pub fn log(&self) -> (&RocksSnapshot, &str) {
        (&self.0.rows, self.0.outside.note().unwrap_or_default())
    }
}

/// Whether there is room for so many bytes more, and for what the vault keeps free: a copy on its own disk takes nothing
/// of that.
fn enough_room(config: &Config, directory: &Path, bytes: u64) -> Result<(), String> {
    let path = directory.display();
    let there = Room::of(directory).map_err(|error| format!("{path}: {error}"))?.bytes;
    let wanted = bytes.saturating_add(config.storage.min_free_bytes as u64);
    if there >= wanted {
        return Ok(());
    }
    let (there, wanted) = (bytes_in_words(there), bytes_in_words(wanted));
    Err(format!(
        "too little room on the disk of {path}: {there} are free, and the copy together with storage.min_free_bytes wants \
         {wanted}"
    ))
}

// === restore ===

/// Makes the vault that `config` describes from the backup in `directory`, with a new log. `revoked` are handles of tokens
/// that were revoked since.
///
/// # Errors
/// [`CopyError`]. Before anything is written, the backup has been looked at from end to end.
pub fn restore(
    config: &Config,
    directory: &Path,
    revoked: &BTreeSet<Handle>,
    progress: Progress<'_>,
) -> Result<Restored, CopyError> {
    let staging = staging(&config.storage.path);
    check_places(config, &staging)?;
    let backup = look_at_backup(config, directory, progress)?.0;
    let files = backup.manifest.files.iter().map(|file| file.bytes);
    // First of all: while it is there, what else is there belongs to a restore that was cut off.
    claim(&staging)?;
    if let Err(full) = enough_room(config, &staging, files.sum()) {
        // Nothing else has been made yet, and this is empty.
        let _ = fs::remove_dir(&staging);
        return Err(BackupError::NoRoom(full).into());
    }
    let key = new_log_key(&backup.manifest.log_id)?;
    // Not the second directory, as at a start: a disk that is not mounted shall be noticed.
    make(&config.audit.checkpoints)?;
    sync_parent(&config.audit.checkpoints)?;
    let public_key = write_key(&config.audit.signing_key, &key)?;
    let log_id = key.name().to_string();
    let carried = fill(config, &backup, &staging, revoked, progress)?;
    fs::rename(&staging, &config.storage.path).map_err(|error| io_error(&config.storage.path, error))?;
    sync_parent(&config.storage.path)?;
    Ok(Restored {
        manifest: backup.manifest,
        log_id,
        public_key,
        records: carried.records,
        suspended: carried.suspended,
        revoked: carried.revoked.values().map(Vec::len).sum::<usize>() as u64,
    })
}

/// Lets the tokens that a restore has suspended be spent again. How many there were.
///
/// # Errors
/// If the vault runs, can't be opened, or the log can't be written.
pub fn accept_restored(config: &Config) -> Result<u64, Error> {
    let opened = super::open(config, &SystemClock::shared())?;
    runtime("can't start the runtime")?.block_on(async {
        let accepted = admin::accept(&opened.vault).await;
        opened.close().await?;
        accepted.map_err(Error::Log)
    })
}

/// Where the database is built: beside its place, so that it can be moved there in one step.
fn staging(data: &Path) -> PathBuf {
    let mut name = data.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    data.with_file_name(name)
}

const CUT_OFF: &str = "an earlier restore was cut off. Remove it, and the log's key and the checkpoints that it made \
                       (audit.signing_key, its .vkey, audit.checkpoints), and run it again";

/// Makes the directory in which the database is built. Of two who find nothing there at the same time, one makes it.
fn claim(staging: &Path) -> Result<(), CopyError> {
    make(parent_of(staging))?;
    DirBuilder::new().mode(0o700).create(staging).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => CopyError::Taken { path: staging.to_owned(), advice: CUT_OFF },
        _ => io_error(staging, error),
    })?;
    sync_parent(staging)
}

/// A vault is made only where nothing of one is.
fn check_places(config: &Config, staging: &Path) -> Result<(), CopyError> {
    let taken = |path: &Path, advice| Err(CopyError::Taken { path: path.to_owned(), advice });
    if staging.exists() {
        return taken(staging, CUT_OFF);
    }
    let data = &config.storage.path;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let is_elsewhere = device(data).is_some_and(|own| device(parent_of(staging)).is_some_and(|parent| parent != own));
    if is_elsewhere || data.is_symlink() {
        let advice = "it is a mount point or leads elsewhere, and the database is built beside it and moved there. Name a \
                      directory below it as storage.path";
        return taken(data, advice);
    }
    let audit = &config.audit;
    let directories = [Some(data), Some(&audit.checkpoints), audit.checkpoints_copy.as_ref()];
    for path in directories.into_iter().flatten() {
        match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(false) => {}
            Ok(true) => return taken(path, "move it away, or name another in the configuration"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(path, error)),
        }
    }
    for path in [audit.signing_key.clone(), audit.signing_key.with_extension("vkey")] {
        if path.symlink_metadata().is_ok() {
            let advice = "a restored vault begins a new log, whose key is made now. Move the old log's key away, and keep \
                          its .vkey for those who verify the old log";
            return taken(&path, advice);
        }
    }
    Ok(())
}

/// A key for a log that never was: its name is the old one's up to the last part, and random from there.
fn new_log_key(old: &str) -> Result<LogKey, CopyError> {
    let begin = old.rsplit_once('/').map_or(old, |(begin, _)| begin);
    let random: [u8; 4] = entropy::bytes().map_err(|error| Error::Keys(KeyringError::from(error)))?;
    let name = Name::new(format!("{begin}/{}", hex::encode(random))).map_err(|error| Error::Io {
        what: "the old log's name makes no new one",
        error: io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    let seed = entropy::key().map_err(|error| Error::Keys(KeyringError::from(error)))?;
    Ok(LogKey::from_seed(name, &seed))
}

/// Writes both halves of the key, durably. Where the public one is.
fn write_key(path: &Path, key: &LogKey) -> Result<PathBuf, CopyError> {
    let write = |path: &Path, mode, content: &[u8]| {
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(|error| io_error(path, error))
    };
    let public = path.with_extension("vkey");
    write(path, 0o600, key.to_text().expose())?;
    write(&public, 0o644, format!("{}\n", key.verifier()).as_bytes())?;
    sync_parent(path)?;
    Ok(public)
}

/// Builds the database in `staging`, with the first events and checkpoint of its log.
fn fill(
    config: &Config,
    backup: &Copied,
    staging: &Path,
    revoked: &BTreeSet<Handle>,
    progress: Progress<'_>,
) -> Result<Carried, CopyError> {
    let clock = SystemClock::shared();
    let (meta, state) = (backup.keyring.meta(), backup.keyring.state());
    let log_key = log_key(config)?;
    let genesis = Genesis { vault: *backup.keyring.vault(), log_id: log_key.name().to_string() };
    let store = RocksStore::create(staging, &rocks_config(config)).map_err(Error::from)?;
    let carried = admin::carry(backup, &store, revoked, clock.wall(), progress)?;
    let store: Arc<dyn Store> = Arc::new(store);
    ledger::create_over(&*store, meta, state, &genesis, log_key.verifier(), &carried.inheritance)
        .map_err(Error::from)?;
    let settings = ledger_settings(config, Signing::by(log_key), &clock, RulebookView::none(), Box::new(|_| {}));
    let (ledger, running) =
        ledger::open(store, &genesis, Arc::clone(meta), Arc::clone(state), settings).map_err(Error::from)?;
    let old_key = ledger::log_keys(&backup.rows, meta).map_err(Error::from)?.newest().clone();
    let citation = admin::citation(backup, &old_key, &carried);
    let recorded = runtime("can't start a runtime")?.block_on(record(config, &ledger, citation, &carried));
    running.close().map_err(Error::from)?;
    recorded.map(|()| carried)
}

/// The event that the log begins with, and one for each of the scopes in which tokens were revoked on the way.
async fn record(config: &Config, ledger: &Ledger, citation: String, carried: &Carried) -> Result<(), CopyError> {
    let (identity, node) = (identity(config)?, &config.server.node);
    let own = |action, detail| own_event(&identity, node, action, detail).map_err(Error::Log);
    let mut events = vec![own(Action::Restore, citation)?];
    for (scope, handles) in &carried.revoked {
        for handles in handles.chunks(BATCH_AT_MOST) {
            let count = u32::try_from(handles.len()).unwrap_or(u32::MAX);
            events.push(Event {
                scope: scope.clone(),
                handles: event::handles(handles.iter().map(|handle| Some(handle.as_bytes()))),
                item_outcomes: vec![ItemOutcome::Done.into(); handles.len()],
                requested: count,
                succeeded: count,
                ..own(Action::Revoke, "revoked since the backup was made".to_owned())?
            });
        }
    }
    for event in events {
        let recorded = ledger.record(Submission::new(ledger.basis(), event)).await;
        recorded.map_err(|refused| Error::Log(refused.into()))?;
    }
    Ok(())
}

fn make(directory: &Path) -> Result<(), CopyError> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(directory);
    made.map_err(|error| io_error(directory, error))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_parent(path: &Path) -> Result<(), CopyError> {
    let parent = parent_of(path);
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| io_error(parent, error))
}

fn io_error(path: &Path, error: io::Error) -> CopyError {
    CopyError::Io { path: path.to_owned(), error }
}
