//! Opening the log: what is on disk is held against the checkpoint outside before anything is served.

use super::checkpoint::Checkpointer;
use super::queue::Queue;
use super::recent::Recent;
use super::wake::Wakes;
use super::writer::{TIME_MARK_ROW, Writer};
use super::{CheckpointDirectory, CheckpointError, Head, Ledger, Limits, OnFatal, Shared, VaultClock, read_event};
use crate::clock::{Clock, Timestamp};
use crate::crypto::{MetaKey, RootKey, VaultId};
use crate::event;
use crate::keys::authentic;
use crate::merkle::note::LogKey;
use crate::merkle::{self, Frontier, Hash, TILE_WIDTH, Tile, TileId};
use crate::store::{Batch, CommitError, Found, Order, ReadError, Rows, Store, Table, Tier};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const FORMAT_ROW: &str = "format";
const VAULT_ROW: &str = "vault";
const LOG_ROW: &str = "log";
/// The version of the storage format as a whole: which tables there are and what stands in `meta`.
const FORMAT: u32 = 1;
/// The version of each row of `meta` but `format`.
const META_ROW_FORMAT: u8 = 1;
/// Events read in one scan at start.
const EVENTS_A_SCAN: usize = 4096;

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
    pub checkpoints: CheckpointDirectory,
    /// How often one is signed while events arrive.
    pub checkpoint_period: Duration,
    /// Signs them.
    pub log_key: LogKey,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The generation of the rulebook in force.
    pub rulebook_generation: super::Generation,
    /// Called once if the ledger can't go on.
    pub on_fatal: OnFatal,
}

/// The ledger's threads. Keep it until the end and [`Running::close`] it.
pub struct Running {
    ledger: Ledger,
    writer: JoinHandle<Option<Head>>,
    checkpointer: JoinHandle<Checkpointer>,
    stop_checkpointer: Sender<()>,
}

/// Why the log can't be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by a newer version.
    #[error("the data has format {0}, which this version does not know. Use the version that wrote it or a newer one")]
    Newer(u32),
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
    /// An event can't be read.
    #[error("event {0} is not in a format that this version knows")]
    Event(u64),
    /// The checkpoint outside is bad.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
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
pub fn create(store: &dyn Store, root: &RootKey, genesis: &Genesis, now: Timestamp) -> Result<(), OpenError> {
    let meta = root.meta_key(&genesis.vault);
    let mut rows = Batch::default();
    let mut put = |name: &str, content: &[u8]| {
        rows.put(Table::Meta, name.as_bytes(), &authentic::seal(&meta, Table::Meta, name.as_bytes(), content));
    };
    put(FORMAT_ROW, &FORMAT.to_be_bytes());
    put(VAULT_ROW, &versioned(&genesis.vault.0));
    put(LOG_ROW, &versioned(genesis.log_id.as_bytes()));
    put(TIME_MARK_ROW, &versioned(&now.millis().to_be_bytes()));
    Ok(store.commit(&rows)?)
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
    let format_number = authentic::claimed(&format).and_then(be_u32).ok_or(OpenError::Damaged(FORMAT_ROW))?;
    if format_number != FORMAT {
        return Err(OpenError::Newer(format_number));
    }
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

/// Checks the log and starts its writer.
///
/// # Errors
/// [`OpenError`]: nothing was changed and nothing runs.
pub fn open(
    store: Arc<dyn Store>,
    genesis: &Genesis,
    meta: Arc<MetaKey>,
    settings: Settings,
) -> Result<(Ledger, Running), OpenError> {
    if settings.log_key.name().as_str() != genesis.log_id {
        let key = settings.log_key.name().to_string();
        return Err(OpenError::WrongLogKey { key, data: genesis.log_id.clone() });
    }
    let rows: &dyn Rows = &*store;
    let mark = meta_row(rows, TIME_MARK_ROW)?;
    let mark = authentic::open(&meta, Table::Meta, TIME_MARK_ROW.as_bytes(), &mark)
        .ok_or(OpenError::WrongRootKey(TIME_MARK_ROW))?;
    let mark = unversioned(TIME_MARK_ROW, Some(mark))?.try_into().map_err(|_| OpenError::Damaged(TIME_MARK_ROW))?;
    let mark = Timestamp::from_millis(u64::from_be_bytes(mark));
    let (frontier, signed) = recover(rows, &settings)?;
    let last_time = last_event_time(rows, frontier.size())?;
    let shared = Arc::new(Shared {
        queue: Queue::new(),
        limits: settings.limits,
        visible: AtomicU64::new(0),
        rulebook_generation: settings.rulebook_generation,
        log_id: genesis.log_id.as_str().into(),
        clock: Arc::new(VaultClock::resume(settings.clock, mark)),
    });
    let writer = Writer {
        shared: Arc::clone(&shared),
        store,
        frontier,
        last_time,
        last_mark: mark,
        meta,
        recent: Recent::default(),
        batch: Batch::default(),
        wakes: Wakes::default(),
        index_key: Vec::new(),
    };
    let checkpointer =
        Checkpointer { shared: Arc::clone(&shared), key: settings.log_key, directory: settings.checkpoints, signed };
    start(shared, writer, checkpointer, settings.checkpoint_period, settings.on_fatal)
}

fn start(
    shared: Arc<Shared>,
    writer: Writer,
    checkpointer: Checkpointer,
    period: Duration,
    on_fatal: OnFatal,
) -> Result<(Ledger, Running), OpenError> {
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let writer = thread("ledger").spawn(move || writer.run(on_fatal)).map_err(OpenError::Thread)?;
    let (stop_checkpointer, stop) = channel();
    let signing = move || {
        let mut checkpointer = checkpointer;
        checkpointer.run(period, &stop);
        checkpointer
    };
    let checkpointer = thread("checkpoints").spawn(signing).map_err(OpenError::Thread)?;
    let ledger = Ledger { shared };
    Ok((ledger.clone(), Running { ledger, writer, checkpointer, stop_checkpointer }))
}

impl Running {
    /// Finishes what waits, signs the last checkpoint and ends the threads.
    pub fn close(self) {
        // Its end of the channel gone, or a message: both end the thread's wait.
        let _ = self.stop_checkpointer.send(());
        let checkpointer = self.checkpointer.join();
        self.ledger.shared.queue.drain();
        // A writer that failed or panicked has called `on_fatal`; there is nothing left to sign for.
        let head = self.writer.join();
        if let (Ok(mut checkpointer), Ok(Some(head))) = (checkpointer, head) {
            checkpointer.sign(&head);
        }
    }
}

// === recovery ===

/// The tree as the events on disk make it, checked against stored tiles and the checkpoint outside.
fn recover(rows: &dyn Rows, settings: &Settings) -> Result<(Frontier, u64), OpenError> {
    let size = log_size(rows)?;
    let vouched = settings.checkpoints.newest(&settings.log_key)?;
    let Some(vouched) = vouched else {
        // Only a log that has just been made has none.
        return match size {
            0 => Ok((Frontier::new(), 0)),
            _ => Err(OpenError::NoCheckpoint(settings.checkpoints.file())),
        };
    };
    if size < vouched.size() {
        return Err(OpenError::TooShort { size, vouched: vouched.size() });
    }
    // Everything from the last full tile before the checkpoint on is read again and appended again, through the same
    // function that the writer uses; what lies before is vouched for by its tiles, whose hashes make the root.
    let width = TILE_WIDTH as u64;
    let from = vouched.size() / width * width;
    let tile = |id: TileId| row(rows, Table::Tree, id.path().as_bytes());
    let mut frontier = Frontier::rebuild(from, tile, []).map_err(|_| OpenError::WrongHash { from: 0, to: from })?;
    if vouched.size() == from {
        check_root(&frontier, vouched.root())?;
    }
    let mut next = from;
    while next < size {
        let batch =
            rows.scan(Table::Events, &next.to_be_bytes(), &size.to_be_bytes(), Order::Ascending, EVENTS_A_SCAN)?;
        for (key, bytes) in &batch {
            if key.as_slice() != next.to_be_bytes() {
                return Err(OpenError::Gap(next));
            }
            let completed = frontier.append(merkle::leaf_hash(bytes));
            next += 1;
            for tile in completed {
                check_tile(rows, &tile, next)?;
            }
            if next == vouched.size() {
                check_root(&frontier, vouched.root())?;
            }
        }
        if batch.is_empty() {
            return Err(OpenError::Gap(next));
        }
    }
    Ok((frontier, vouched.size()))
}

fn check_root(frontier: &Frontier, vouched: &Hash) -> Result<(), OpenError> {
    if frontier.root() != *vouched {
        return Err(OpenError::WrongHash { from: 0, to: frontier.size() });
    }
    Ok(())
}

fn check_tile(rows: &dyn Rows, tile: &Tile, next: u64) -> Result<(), OpenError> {
    let stored = row(rows, Table::Tree, tile.id().path().as_bytes())?;
    if stored.as_deref() != Some(tile.bytes()) {
        return Err(OpenError::WrongHash { from: next.saturating_sub(TILE_WIDTH as u64), to: next });
    }
    Ok(())
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

fn meta_row(rows: &dyn Rows, name: &'static str) -> Result<Vec<u8>, OpenError> {
    row(rows, Table::Meta, name.as_bytes())?.ok_or(OpenError::Damaged(name))
}

fn row(rows: &dyn Rows, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
    let found = rows.get(table, &[key], Tier::Disk)?.into_iter().next();
    Ok(match found {
        Some(Found::Row(content)) => Some(content),
        _ => None,
    })
}

fn be_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}
