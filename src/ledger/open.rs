//! Opening the log: what is on disk is held against the checkpoint outside before anything is served.

use super::checkpointer::{Checkpointer, Vouched};
use super::queue::Queue;
use super::recent::Recent;
use super::replay::{check_root, replay};
use super::running::{self, Running};
use super::signing::LOG_KEYS_ROW;
use super::state::{BadHead, HEAD_ROW, State, StoredHead};
use super::upgrade;
use super::wake::Wakes;
use super::witnesses::{WitnessError, Witnessed, Witnesses};
use super::writer::{Figures, KEPT_FROM_ROW, Writer};
use super::{
    CheckpointError, Checkpoints, Ledger, Limits, LogKeys, OnFatal, RulebookDigest, Shared, Signing, VaultClock,
    read_event, read_tile,
};
use crate::clock::{Clock, Timestamp};
use crate::crypto::state::{StateDigest, StateKey, Tally};
use crate::crypto::{MetaKey, RootKey, VaultId};
use crate::event;
use crate::keys::authentic;
use crate::keys::entropy::NoEntropy;
use crate::merkle::note::{Checkpoint, VerifierKey};
use crate::merkle::{Frontier, TILE_WIDTH, TileId, Tree, TreeError};
use crate::store::{Batch, CommitError, Found, Order, ReadError, Rows, Store, Table, Tier};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::channel;
use std::time::Duration;
use tokio::sync::watch;

pub(super) const FORMAT_ROW: &str = "format";
const VAULT_ROW: &str = "vault";
const LOG_ROW: &str = "log";
/// The version of the storage format as a whole: which tables there are and what stands in `meta`.
pub(super) const FORMAT: u32 = 3;
/// The version of each row of `meta` but `format`.
const META_ROW_FORMAT: u8 = 1;

/// What names a vault for ever.
pub struct Genesis {
    /// Random; bound into every record and key.
    pub vault: VaultId,
    /// The log's name, as the log key has it.
    pub log_id: String,
}

/// How a ledger runs.
pub struct Settings {
    /// Bounds of its queue.
    pub limits: Limits,
    /// Where the checkpoints outside are.
    pub checkpoints: Checkpoints,
    /// How often one is signed while events arrive.
    pub checkpoint_period: Duration,
    /// Signs them.
    pub signing: Signing,
    /// Who cosigns them, if anybody does.
    pub witnesses: Option<Box<dyn Witnesses>>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The generation of the rulebook in force.
    pub rulebook_generation: super::Generation,
    /// Its digest, which checkpoints name.
    pub rulebook_digest: RulebookDigest,
    /// Called once if the ledger can't go on.
    pub on_fatal: OnFatal,
}

/// What lies outside the database: the newest checkpoints.
pub struct Outside {
    newest: Option<(Checkpoint, String)>,
    /// Of the second directory, and its file.
    copy: Option<(Checkpoint, std::path::PathBuf)>,
    /// Where the first one is, or should be.
    file: std::path::PathBuf,
    /// Is there if a checkpoint was refused.
    doubt: std::path::PathBuf,
}

/// Why the log can't be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by a newer version.
    #[error("the data has format {0}, which this version does not know. Use the version that wrote it or a newer one")]
    Newer(u32),
    /// Written by a version from before the first release.
    #[error(
        "the data has format {0}, of a version from before the first release, and there is no way from there to here. Make a new vault with `cloakroom init`"
    )]
    Older(u32),
    /// A row of `meta` that must be there is not.
    #[error("the row meta/{0} is missing or damaged. Restore from a backup")]
    Damaged(&'static str),
    /// The root key is not the one.
    #[error("the root key does not belong to this data: meta/{0} does not verify. Give the key that was made for it")]
    WrongRootKey(&'static str),
    /// The log key is not the one.
    #[error("the log key is for the log `{key}`, but this data holds the log `{data}`. Give the right `log.key`")]
    WrongLogKey {
        /// The key's name.
        key: String,
        /// The data's log.
        data: String,
    },
    /// Another key is in force.
    #[error(
        "the log key {key} does not sign this log, {in_force} does. {}",
        if *known {
            "It was succeeded by that one: if `cloakroom keys rotate-log-key` did not come to its end, run it again; \
             else give the new `log.key`"
        } else {
            "Give the right `log.key`"
        }
    )]
    RetiredLogKey {
        /// The key's id.
        key: String,
        /// The id of the one in force.
        in_force: String,
        /// Whether it was in force before.
        known: bool,
    },
    /// The two directories speak of different logs.
    #[error(
        "the checkpoint in {0} is not of the same log as the data: its root over {1} events is another. Somebody has \
         another history: keep both, and compare them with `cloakroom audit verify`"
    )]
    OtherHistory(std::path::PathBuf, u64),
    /// A checkpoint was refused before.
    #[error(
        "{0} says that a checkpoint was refused, because the stored log was not what had been written: acknowledged \
         events may be changed or missing, though nothing else shows it now. Check memory and disk and restore from a \
         backup; delete that file only if you accept what is stored"
    )]
    Doubted(std::path::PathBuf),
    /// There are events but no checkpoint outside.
    #[error(
        "there is no checkpoint in {0}, so nothing vouches that the log is whole. Put the file back; if the directory \
         was moved, correct `audit.checkpoints`"
    )]
    NoCheckpoint(std::path::PathBuf),
    /// Events are missing at the end.
    #[error(
        "the log has {size} events, but the checkpoint outside vouches for {vouched}: acknowledged events are missing. \
         The disk lost data or the database was turned back. Restore it; don't delete the checkpoint"
    )]
    TooShort {
        /// Events found.
        size: u64,
        /// Events vouched for.
        vouched: u64,
    },
    /// Events are missing in between.
    #[error("event {0} is missing though later ones are there: acknowledged data is lost. Restore from a backup")]
    Gap(u64),
    /// An event does not hash to what the tree says.
    #[error(
        "the events from {from} to {to} do not hash to the tree: one was changed or damaged. Restore from a backup"
    )]
    WrongHash {
        /// First event that may be meant.
        from: u64,
        /// Behind the last.
        to: u64,
    },
    /// The row that each commit writes is not there, or not as it was written.
    #[error("the row tree/head, which each commit writes, is missing or was changed. Restore from a backup")]
    Head,
    /// The events are not those of the last commit.
    #[error(
        "the log has {size} events, but the last commit left it with {head}: events were cut off or added, or \
         another state was put back. Restore from a backup, and keep a copy as evidence"
    )]
    OtherSize {
        /// Events found.
        size: u64,
        /// As the head says.
        head: u64,
    },
    /// The records are not those that the checkpoint outside vouches for.
    #[error(
        "the last commit left {found} records, and the checkpoint outside vouches for {vouched} or for others: another \
         state was put back. Restore from a backup, and keep a copy as evidence"
    )]
    OtherRecords {
        /// As the head says.
        found: u64,
        /// As the checkpoint says.
        vouched: u64,
    },
    /// An event can't be read.
    #[error("event {0} is not in a format that this version knows")]
    Event(u64),
    /// A witness has seen more, or something else, or nobody can say.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The checkpoint outside is bad.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No randomness for what is written first.
    #[error(transparent)]
    Random(#[from] NoEntropy),
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The first rows could not be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// No thread.
    #[error("could not start a thread: {0}")]
    Thread(std::io::Error),
}

// === create and open ===

/// Writes what names a new vault into an empty store. Its first event comes through the ledger like any other.
///
/// # Errors
/// If the store can't be written.
pub fn create(store: &dyn Store, root: &RootKey, genesis: &Genesis, log_key: VerifierKey) -> Result<(), OpenError> {
    Ok(store.commit(&genesis_rows(&root.meta_key(&genesis.vault), genesis, log_key))?)
}

/// The rows that name a vault and its log.
pub(super) fn genesis_rows(meta: &MetaKey, genesis: &Genesis, log_key: VerifierKey) -> Batch {
    let mut rows = Batch::default();
    let mut put = |name: &str, content: &[u8]| {
        rows.put(Table::Meta, name.as_bytes(), &authentic::seal(meta, Table::Meta, name.as_bytes(), content));
    };
    put(FORMAT_ROW, &FORMAT.to_be_bytes());
    put(VAULT_ROW, &versioned(&genesis.vault.0));
    put(LOG_ROW, &versioned(genesis.log_id.as_bytes()));
    put(LOG_KEYS_ROW, &versioned(&LogKeys::of(log_key).encode()));
    rows
}

/// The content of a row of `meta`: its own format in front. Only `format`, which is read first, is a bare number.
pub(super) fn versioned(content: &[u8]) -> Vec<u8> {
    [&[META_ROW_FORMAT][..], content].concat()
}

/// The content behind its format, if this version knows that.
fn unversioned<'a>(name: &'static str, content: Option<&'a [u8]>) -> Result<&'a [u8], OpenError> {
    match content.and_then(<[u8]>::split_first) {
        Some((&META_ROW_FORMAT, content)) => Ok(content),
        Some((&format, _)) => Err(OpenError::Newer(format.into())),
        None => Err(OpenError::Damaged(name)),
    }
}

/// What the data says it is, checked against the root key.
///
/// # Errors
/// If the format is newer, a row is missing, or the root key is another vault's.
pub fn identify(rows: &dyn Rows, root: &RootKey) -> Result<(Genesis, Arc<MetaKey>), OpenError> {
    let format = meta_row(rows, FORMAT_ROW)?;
    stored_format(&format)?;
    let vault = meta_row(rows, VAULT_ROW)?;
    let id = unversioned(VAULT_ROW, authentic::claimed(&vault))?;
    let vault_id = VaultId(id.try_into().map_err(|_| OpenError::Damaged(VAULT_ROW))?);
    let meta = root.meta_key(&vault_id);
    let log = meta_row(rows, LOG_ROW)?;
    for (name, row) in [(FORMAT_ROW, &format), (VAULT_ROW, &vault), (LOG_ROW, &log)] {
        authentic::open(&meta, Table::Meta, name.as_bytes(), row).ok_or(OpenError::WrongRootKey(name))?;
    }
    let log_id = unversioned(LOG_ROW, authentic::claimed(&log))?;
    let log_id = String::from_utf8(log_id.to_vec()).map_err(|_| OpenError::Damaged(LOG_ROW))?;
    Ok((Genesis { vault: vault_id, log_id }, Arc::new(meta)))
}

/// The storage format, if this version can read it.
fn stored_format(row: &[u8]) -> Result<u32, OpenError> {
    let format = authentic::claimed(row).and_then(be_u32).ok_or(OpenError::Damaged(FORMAT_ROW))?;
    match format {
        upgrade::OLDEST..=FORMAT => Ok(format),
        older if older < FORMAT => Err(OpenError::Older(older)),
        newer => Err(OpenError::Newer(newer)),
    }
}

/// Checks the log, takes data of an older format to the current one, and starts the log's writer.
///
/// # Errors
/// [`OpenError`]: nothing was changed and nothing runs.
pub fn open(
    store: Arc<dyn Store>,
    genesis: &Genesis,
    meta: Arc<MetaKey>,
    state: Arc<StateKey>,
    settings: Settings,
) -> Result<(Ledger, Running), OpenError> {
    if settings.signing.name().as_str() != genesis.log_id {
        let key = settings.signing.name().to_string();
        return Err(OpenError::WrongLogKey { key, data: genesis.log_id.clone() });
    }
    let rows: &dyn Rows = &*store;
    let keys = log_keys(rows, &meta)?;
    keys.check(&settings.signing)?;
    let kept_from = check_beginning(rows, &meta)?;
    let outside = Outside::read(&settings.checkpoints, &keys)?;
    let (frontier, vouched, head) = recover(rows, &outside, &meta, &state)?;
    let total = head.as_ref().map_or_else(Tally::default, |head| head.total);
    let format = stored_format(&meta_row(rows, FORMAT_ROW)?)?;
    let mark = time_mark(rows, &meta, format, head.as_ref())?;
    let last_time = last_event_time(rows, frontier.size())?;
    let (orders, ordered) = channel();
    let shared = Arc::new(Shared {
        queue: Queue::new(),
        limits: settings.limits,
        is_paused: AtomicBool::new(false),
        visible: AtomicU64::new(0),
        rulebook_generation: settings.rulebook_generation,
        log_id: genesis.log_id.as_str().into(),
        clock: Arc::new(VaultClock::resume(settings.clock, mark)),
        durable: watch::Sender::new(frontier.size()),
        vouched: RwLock::new(Arc::new(vouched)),
        kept_from: AtomicU64::new(kept_from),
        orders,
        on_fatal: Mutex::new(Some(settings.on_fatal)),
    });
    let mut checkpointer = Checkpointer {
        shared: Arc::clone(&shared),
        rows: Arc::clone(&store) as _,
        signing: settings.signing,
        directories: settings.checkpoints,
        rulebook_digest: settings.rulebook_digest,
        witnessed: Witnessed::by(settings.witnesses),
        doubtful: false,
        failed: String::new(),
    };
    checkpointer.check_start(&frontier, state.digest(frontier.size(), &total))?;
    if format != FORMAT {
        upgrade::to_current(&*store, &meta, &state, head, mark)?;
        tracing::info!(from = format, to = FORMAT, "the data was taken to the current storage format");
    }
    let writer = Writer {
        shared: Arc::clone(&shared),
        store,
        frontier,
        last_time,
        meta,
        recent: Recent::default(),
        state: State::new(state, total),
        batch: Batch::default(),
        wakes: Wakes::default(),
        index_key: Vec::new(),
        figures: Figures::new(),
    };
    running::start(shared, writer, checkpointer, ordered, settings.checkpoint_period)
}

impl Outside {
    /// Reads what is there now. Rows that it is held against must be read later, or a vault that runs has vouched for more.
    ///
    /// # Errors
    /// If a file can't be read, or is not signed by the key in force.
    pub fn read(checkpoints: &Checkpoints, keys: &LogKeys) -> Result<Self, OpenError> {
        let copy = checkpoints.copy.as_ref().map(|copy| Ok::<_, CheckpointError>((copy.newest(keys)?, copy.file())));
        let copy = copy.transpose()?.and_then(|(newest, file)| Some((newest?.0, file)));
        let newest = checkpoints.directory.newest(keys)?;
        Ok(Self { newest, copy, file: checkpoints.directory.file(), doubt: checkpoints.directory.doubt_file() })
    }

    /// The newest checkpoint of the first directory.
    pub fn newest(&self) -> Option<&Checkpoint> {
        self.newest.as_ref().map(|(checkpoint, _)| checkpoint)
    }

    /// The newest checkpoint of the first directory, as it was signed.
    pub fn note(&self) -> Option<&str> {
        self.newest.as_ref().map(|(_, note)| note.as_str())
    }

    /// What the newest of all says of the records of a log of this size, if it speaks of that.
    pub fn state(&self, size: u64) -> Option<StateDigest> {
        let copy = self.copy.as_ref().map(|(copy, _)| copy);
        let of_size = self.newest().into_iter().chain(copy).filter(|checkpoint| checkpoint.size() == size);
        of_size.flat_map(Checkpoint::extensions).find_map(|line| line.parse().ok())
    }
}

/// Checks the log as a start does, and changes nothing.
///
/// # Errors
/// What is wrong with it.
pub fn check(rows: &dyn Rows, outside: &Outside, meta: &MetaKey, state: &StateKey) -> Result<(), OpenError> {
    check_beginning(rows, meta)?;
    recover(rows, outside, meta, state).map(drop)
}

/// What the last commit left. `None` if there never was one.
///
/// # Errors
/// If the row is not as it was written, or the store can't be read.
pub fn stored_head(rows: &dyn Rows, meta: &MetaKey, state: &StateKey) -> Result<Option<StoredHead>, OpenError> {
    let Some(row) = row(rows, Table::Tree, HEAD_ROW)? else { return Ok(None) };
    let head = StoredHead::open(meta, state, &row).map_err(|error| match error {
        BadHead::Newer(format) => OpenError::Newer(format.into()),
        BadHead::Forged | BadHead::Length => OpenError::Head,
    });
    head.map(Some)
}

/// The time that the vault's clock never goes back behind. A log without events has none: nothing has expired yet.
fn time_mark(rows: &dyn Rows, meta: &MetaKey, format: u32, head: Option<&StoredHead>) -> Result<Timestamp, OpenError> {
    if format != FORMAT {
        // Data is taken up in one commit, so a head of the current format never stands in data of an older one: then somebody
        // has put `format` and an older mark back.
        return match head {
            Some(StoredHead { mark: Some(_), .. }) => Err(OpenError::Head),
            _ => upgrade::time_mark(rows, meta),
        };
    }
    // A head of the older format in data of this one was put there.
    head.map_or(Ok(Timestamp::default()), |head| head.mark.ok_or(OpenError::Head))
}

/// The tree and the head as the last commit left them: the events on disk, checked against stored tiles, the checkpoints
/// outside, and the head; and what is vouched for.
fn recover(
    rows: &dyn Rows,
    outside: &Outside,
    meta: &MetaKey,
    state: &StateKey,
) -> Result<(Frontier, Vouched, Option<StoredHead>), OpenError> {
    let head = stored_head(rows, meta, state);
    let (frontier, vouched) = recover_tree(rows, outside)?;
    let size = frontier.size();
    let Some(head) = head? else {
        return if size == 0 { Ok((frontier, vouched, None)) } else { Err(OpenError::Head) };
    };
    if head.size != size {
        return Err(OpenError::OtherSize { size, head: head.size });
    }
    check_root(&frontier, vouched.size(), &head.root)?;
    let found = state.digest(size, &head.total);
    match outside.state(size) {
        Some(says) if says != found => Err(OpenError::OtherRecords { found: found.records, vouched: says.records }),
        _ => Ok((frontier, vouched, Some(head))),
    }
}

/// The tree as the events on disk make it, checked against stored tiles and the checkpoints outside; and what is vouched
/// for.
fn recover_tree(rows: &dyn Rows, outside: &Outside) -> Result<(Frontier, Vouched), OpenError> {
    if outside.doubt.exists() {
        return Err(OpenError::Doubted(outside.doubt.clone()));
    }
    let size = log_size(rows)?;
    let Some((vouched, note)) = &outside.newest else {
        // Only a log that has just been made has none.
        return match size {
            0 if outside.copy.is_none() => Ok((Frontier::new(), Vouched::new(String::new(), Frontier::new()))),
            _ => Err(OpenError::NoCheckpoint(outside.file.clone())),
        };
    };
    let least = outside.copy.as_ref().map_or(0, |(copy, _)| copy.size()).max(vouched.size());
    if size < least {
        return Err(OpenError::TooShort { size, vouched: least });
    }
    // Everything from the last full tile before the checkpoint on is read again and appended again, through the same
    // function that the writer uses; what lies before is vouched for by its tiles, whose hashes make the root.
    let width = TILE_WIDTH as u64;
    let from = vouched.size() / width * width;
    let tile = |id: TileId| read_tile(rows, id);
    let mut frontier = Frontier::rebuild(from, tile, []).map_err(|error| match error {
        TreeError::Read { source, .. } => OpenError::Read(source),
        _ => OpenError::WrongHash { from: 0, to: from },
    })?;
    replay(rows, &mut frontier, vouched.size())?;
    check_root(&frontier, 0, vouched.root())?;
    let vouched = Vouched::new(note.clone(), frontier.clone());
    replay(rows, &mut frontier, size)?;
    if let Some((copy, file)) = &outside.copy {
        check_copy(rows, &frontier, copy, file.clone())?;
    }
    Ok((frontier, vouched))
}

/// The first event whose body is there, which must be the one that the log says: events that are missing at the beginning
/// were dropped because of their age, in a commit that said so, or somebody has taken them.
fn check_beginning(rows: &dyn Rows, meta: &MetaKey) -> Result<u64, OpenError> {
    let kept_from = match row(rows, Table::Meta, KEPT_FROM_ROW.as_bytes())? {
        Some(kept_from) => meta_number(meta, KEPT_FROM_ROW, &kept_from)?,
        None => 0,
    };
    let first = rows.scan(Table::Events, &[], &[0xff; 9], Order::Ascending, 1)?;
    match first.first() {
        Some((key, _)) if key.as_slice() < &kept_from.to_be_bytes()[..] => Err(OpenError::Damaged(KEPT_FROM_ROW)),
        Some((key, _)) if key.as_slice() > &kept_from.to_be_bytes()[..] => Err(OpenError::Gap(kept_from)),
        _ => Ok(kept_from),
    }
}

pub(super) fn meta_number(meta: &MetaKey, name: &'static str, row: &[u8]) -> Result<u64, OpenError> {
    let content = authentic::open(meta, Table::Meta, name.as_bytes(), row).ok_or(OpenError::WrongRootKey(name))?;
    let number = unversioned(name, Some(content))?.try_into().map_err(|_| OpenError::Damaged(name))?;
    Ok(u64::from_be_bytes(number))
}

/// The copy may be older than the other, or newer if that could not be written; it must be about the same history.
fn check_copy(
    rows: &dyn Rows,
    frontier: &Frontier,
    copy: &Checkpoint,
    file: std::path::PathBuf,
) -> Result<(), OpenError> {
    let mut tree = Tree::new(frontier, |id: TileId| read_tile(rows, id));
    match tree.root_at(copy.size()) {
        Ok(root) if root == *copy.root() => Ok(()),
        // What the disk does not give is nobody's other history.
        Err(TreeError::Read { source, .. }) => Err(OpenError::Read(source)),
        _ => Err(OpenError::OtherHistory(file, copy.size())),
    }
}

/// The public keys of the log.
///
/// # Errors
/// If the row is missing or damaged.
pub fn log_keys(rows: &dyn Rows, meta: &MetaKey) -> Result<LogKeys, OpenError> {
    let row = meta_row(rows, LOG_KEYS_ROW)?;
    let content = authentic::open(meta, Table::Meta, LOG_KEYS_ROW.as_bytes(), &row);
    let content = content.ok_or(OpenError::WrongRootKey(LOG_KEYS_ROW))?;
    LogKeys::decode(unversioned(LOG_KEYS_ROW, Some(content))?).ok_or(OpenError::Damaged(LOG_KEYS_ROW))
}

/// The row with which another key comes into force, for the commit with the event that says so.
pub fn log_keys_row(meta: &MetaKey, keys: &LogKeys) -> Batch {
    let mut rows = Batch::default();
    let content = versioned(&keys.encode());
    rows.put(
        Table::Meta,
        LOG_KEYS_ROW.as_bytes(),
        &authentic::seal(meta, Table::Meta, LOG_KEYS_ROW.as_bytes(), &content),
    );
    rows
}

fn log_size(rows: &dyn Rows) -> Result<u64, OpenError> {
    let last = rows.scan(Table::Events, &[], &[0xff; 9], Order::Descending, 1)?;
    let Some((key, _)) = last.first() else { return Ok(0) };
    let sequence = key.as_slice().try_into().map(u64::from_be_bytes).map_err(|_| OpenError::Damaged("events"))?;
    // No log is that long: a row with such a number was put there.
    sequence.checked_add(1).ok_or(OpenError::Damaged("events"))
}

fn last_event_time(rows: &dyn Rows, size: u64) -> Result<Timestamp, OpenError> {
    let Some(last) = size.checked_sub(1) else { return Ok(Timestamp::default()) };
    let bytes = read_event(rows, last)?.ok_or(OpenError::Gap(last))?;
    event::decode(&bytes).ok().and_then(|event| event.timestamp()).ok_or(OpenError::Event(last))
}

pub(super) fn meta_row(rows: &dyn Rows, name: &'static str) -> Result<Vec<u8>, OpenError> {
    row(rows, Table::Meta, name.as_bytes())?.ok_or(OpenError::Damaged(name))
}

pub(super) fn row(rows: &dyn Rows, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
    let found = rows.get(table, &[key], Tier::Disk)?.into_iter().next();
    Ok(match found {
        Some(Found::Row(content)) => Some(content),
        _ => None,
    })
}

fn be_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}
