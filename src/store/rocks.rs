//! The store on RocksDB: a column family for each table, one synced write for each commit.
//!
//! Its invariant is the contract of [`super`]: what [`Store::commit`] acknowledged is on the disk. Each commit is one
//! write batch in one log record, synced, and the log's recovery is the mode that refuses to open rather than forget
//! (`options`). `log` closes the gaps of that mode that can be closed from the log itself. What is left is pinned down by
//! the tests named `known_gap_…`: a log that was cut off, or the newest log taken away, opens with its last commits
//! missing. Nothing in here remembers how much there was; the ledger does, and checks at start.
//!
//! It knows nothing of what the rows mean.

mod copy;
mod fresh;
mod list;
mod log;
mod options;
mod snapshot;
#[cfg(test)]
mod tests;

pub use copy::{RocksFile, RocksFiles, cut_torn_end};
pub use log::TornEnd;
#[cfg(test)]
pub(crate) use log::check_log;
pub use options::RocksConfig;
pub use snapshot::{RocksSnapshot, torn_end};

use super::{Batch, Change, CommitError, Found, OpenError, Order, ReadError, Row, Rows, Store, Table, Tier};
use fresh::Fresh;
use options::Parts;
use parking_lot::Mutex;
use rocksdb::{
    Cache, ColumnFamily, DB, ErrorKind, Options, ReadOptions, ReadTier, WriteBatch, WriteOptions, properties,
};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Rows in RocksDB.
pub struct RocksStore {
    db: DB,
    cache: Cache,
    fresh: Fresh,
    in_memory: ReadOptions,
    on_disk: ReadOptions,
    synced: WriteOptions,
    /// Held while a commit is written, so that none overtakes one that fails.
    writer: Mutex<Writer>,
}

/// Whether commits are still taken.
enum Writer {
    Open,
    /// Why not: what the engine said of the first commit that failed.
    Failed(String),
}

/// What the engine says of itself: for readiness and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Flushes and compactions that failed. The store is not ready once this is not 0.
    pub background_errors: u64,
    /// Whether writes stand still until compaction has caught up.
    pub writes_stopped: bool,
    /// Whether writes are slowed down until compaction has caught up.
    pub writes_delayed: bool,
    /// Bytes of the cache that are in use, memtables included.
    pub cache_bytes: u64,
    /// Bytes of rows that are in memtables (and in the log).
    pub memtable_bytes: u64,
    /// Bytes of all table files.
    pub table_file_bytes: u64,
    /// Bytes that compaction would have to rewrite to be done.
    pub pending_compaction_bytes: u64,
    /// About how many tokens there are.
    pub estimated_tokens: u64,
}

/// Of the cache, what is for rows that were written lately.
const FRESH_PART: usize = 8;

/// The file that RocksDB starts from. It is there exactly if there is a database.
const CURRENT: &str = "CURRENT";

impl RocksStore {
    /// Makes an empty store in `path`: a directory that is not there yet, or is empty.
    pub fn create(path: &Path, config: &RocksConfig) -> Result<Self, OpenError> {
        if !is_empty(path).map_err(|error| OpenError::refused(path, &error))? {
            return Err(OpenError::Exists(path.to_owned()));
        }
        make_directory(path).map_err(|error| OpenError::refused(path, &error))?;
        Self::open_with(path, config, Creation::New)
    }

    /// Opens the store in `path`. It never makes one: an empty store in the place of a lost one would serve.
    pub fn open(path: &Path, config: &RocksConfig) -> Result<Self, OpenError> {
        if is_empty(path).map_err(|error| OpenError::refused(path, &error))? {
            return Err(OpenError::Missing(path.to_owned()));
        }
        has_files_only(path)?;
        has_list(path)?;
        has_all_families(path)?;
        log::check(path)?;
        let store = Self::open_with(path, config, Creation::Never).map_err(|error| log::name_damage(path, error))?;
        match store.table_file_amiss(path).map_err(|error| OpenError::refused(path, &error))? {
            Some((file, what)) => Err(OpenError::Table { path: path.to_owned(), file, what: what.to_owned() }),
            None => Ok(store),
        }
    }

    /// A table file that is listed and not there, or not as long as it was written. RocksDB looks at sixteen of them when it
    /// opens, and at the others when they are first asked for.
    fn table_file_amiss(&self, path: &Path) -> Result<Option<(String, &'static str)>, rocksdb::Error> {
        for file in self.db.live_files()? {
            let name = file.name.trim_start_matches('/').to_owned();
            let what = match fs::metadata(path.join(&name)) {
                Ok(found) if found.len() == file.size as u64 => continue,
                Ok(_) => "has not the length that it was written with",
                Err(_) => "is missing",
            };
            // One that was merged into another meanwhile may go.
            if self.db.live_files()?.iter().any(|still| still.name == file.name) {
                return Ok(Some((name, what)));
            }
        }
        Ok(None)
    }

    /// What the engine says of itself. `None` if it does not answer, which is no good sign either.
    pub fn properties(&self) -> Option<Properties> {
        let value = |name: &properties::PropName| self.db.property_int_value(name).ok().flatten();
        let of = |table: Table, name| self.db.property_int_value_cf(self.family(table), name).ok().flatten();
        let sum = |name| Table::ALL.iter().map(|table| of(*table, name)).sum::<Option<u64>>();
        Some(Properties {
            background_errors: value(properties::BACKGROUND_ERRORS)?,
            writes_stopped: value(properties::IS_WRITE_STOPPED)? != 0,
            writes_delayed: value(properties::ACTUAL_DELAYED_WRITE_RATE)? != 0,
            cache_bytes: self.cache.get_usage() as u64,
            memtable_bytes: sum(properties::CUR_SIZE_ALL_MEM_TABLES)?,
            table_file_bytes: sum(properties::TOTAL_SST_FILES_SIZE)?,
            pending_compaction_bytes: sum(properties::ESTIMATE_PENDING_COMPACTION_BYTES)?,
            estimated_tokens: of(Table::Tokens, properties::ESTIMATE_NUM_KEYS)?,
        })
    }

    /// How many times a flush or compaction has failed. Commits may go on for a while after that; the store is finished all
    /// the same. 0 if the engine does not answer.
    pub fn background_errors(&self) -> u64 {
        self.db.property_int_value(properties::BACKGROUND_ERRORS).ok().flatten().unwrap_or(0)
    }

    /// About how many records there are. 0 if the engine does not answer.
    pub fn estimated_tokens(&self) -> u64 {
        let tokens = self.family(Table::Tokens);
        self.db.property_int_value_cf(tokens, properties::ESTIMATE_NUM_KEYS).ok().flatten().unwrap_or(0)
    }

    fn open_with(path: &Path, config: &RocksConfig, creation: Creation) -> Result<Self, OpenError> {
        let fresh = config.cache_bytes / FRESH_PART;
        let cache = options::cache(config.cache_bytes - fresh);
        let options = options::database(config, &cache, creation);
        let families = options::families(config, Parts::Cached(&cache));
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| open_error(path, &error))?;
        if matches!(creation, Creation::New) {
            sync_parent(path).map_err(|error| OpenError::refused(path, &error))?;
        }
        Ok(Self::over(db, cache, Fresh::new(fresh)))
    }

    fn over(db: DB, cache: Cache, fresh: Fresh) -> Self {
        let mut in_memory = ReadOptions::default();
        in_memory.set_read_tier(ReadTier::BlockCache);
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let writer = Mutex::new(Writer::Open);
        Self { db, cache, fresh, in_memory, on_disk: ReadOptions::default(), synced, writer }
    }

    fn family(&self, table: Table) -> &ColumnFamily {
        self.db.cf_handle(table.name()).expect("every table was opened with its column family")
    }

    fn get_one(&self, table: Table, key: &[u8], options: &ReadOptions) -> Result<Found, ReadError> {
        if let Some(row) = self.fresh.get(table, key) {
            return Ok(Found::Row(row));
        }
        found(table, self.db.get_pinned_cf_opt(self.family(table), key, options))
    }

    fn get_batched(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Found>, ReadError> {
        let family = self.family(table);
        let rows = self.db.batched_multi_get_cf_opt(family, keys.iter().copied(), false, &self.on_disk);
        rows.into_iter().map(|row| found(table, row)).collect()
    }

    fn write(&self, batch: &Batch) -> Result<(), rocksdb::Error> {
        /// What RocksDB's batch adds to a row: its kind, family and two lengths.
        const OVERHEAD_BYTES: usize = 12;
        let families = Table::ALL.map(|table| self.family(table));
        let mut write = WriteBatch::with_capacity_bytes(batch.size() + (batch.len() + 1) * OVERHEAD_BYTES);
        // In the order of the keys, a memtable finds each row's place near the one before: a third less CPU for large
        // batches. The sort is stable, so changes of the same row keep their order; no other order can be seen.
        let mut changes: Vec<Change<'_>> = batch.changes().collect();
        changes.sort_by_key(place);
        for change in changes {
            match change {
                Change::Put { table, key, content } => write.put_cf(families[table as usize], key, content),
                Change::Delete { table, key } => write.delete_cf(families[table as usize], key),
            }
        }
        self.db.write_opt(write, &self.synced)
    }
}

impl Rows for RocksStore {
    fn get(&self, table: Table, keys: &[&[u8]], tier: Tier) -> Result<Vec<Found>, ReadError> {
        match (keys, tier) {
            // Not batched: RocksDB's batched reads go to the disk whatever the tier says.
            (keys, Tier::Memory) => keys.iter().map(|key| self.get_one(table, key, &self.in_memory)).collect(),
            ([key], Tier::Disk) => Ok(vec![self.get_one(table, key, &self.on_disk)?]),
            (keys, Tier::Disk) => self.get_batched(table, keys),
        }
    }

    fn get_within(&self, table: Table, keys: &[&[u8]], tier: Tier, bytes: usize) -> Result<Vec<Found>, ReadError> {
        /// How long the rows are is seen when the first of them is there.
        const AT_FIRST: usize = 1;
        let (mut found, mut read) = (Vec::with_capacity(keys.len()), 0);
        while found.len() < keys.len() && (read < bytes || found.is_empty()) {
            let at_once = match (tier, found.len()) {
                (Tier::Memory, _) => 1,
                (Tier::Disk, 0) => AT_FIRST,
                (Tier::Disk, rows) => ((bytes - read) / (read / rows).max(1)).max(1),
            };
            let next = &keys[found.len()..keys.len().min(found.len().saturating_add(at_once))];
            if let ([key], Tier::Memory) = (next, tier) {
                found.push(self.get_one(table, key, &self.in_memory)?);
                read += found.last().map_or(0, Found::size);
                continue;
            }
            let rows = self.get(table, next, tier)?;
            read += rows.iter().map(Found::size).sum::<usize>();
            found.extend(rows);
        }
        Ok(found)
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], order: Order, limit: usize) -> Result<Vec<Row>, ReadError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start);
        options.set_iterate_upper_bound(end);
        // A scan reads each block once; it must not push out the blocks that point reads live on.
        options.fill_cache(false);
        // An iterator sees what was there when it was made, and nothing later: it is the snapshot.
        let mut rows = self.db.raw_iterator_cf_opt(self.family(table), options);
        match order {
            Order::Ascending => rows.seek_to_first(),
            Order::Descending => rows.seek_to_last(),
        }
        let mut scanned = Vec::new();
        while scanned.len() < limit
            && let Some((key, content)) = rows.item()
        {
            scanned.push((key.to_vec(), content.to_vec()));
            match order {
                Order::Ascending => rows.next(),
                Order::Descending => rows.prev(),
            }
        }
        // An iterator ends the same way at its bound and at a damaged block; only its status tells them apart.
        rows.status().map_err(|error| read_error(table, &error))?;
        Ok(scanned)
    }
}

impl Store for RocksStore {
    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        let mut writer = self.writer.lock();
        if let Writer::Failed(reason) = &*writer {
            return Err(CommitError(format!("an earlier commit had failed ({reason})")));
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.write(batch).map_err(|error| {
            let reason = error.into_string();
            // RocksDB resumes by itself after some errors. Whether this commit is in the log stays unknown all the same.
            *writer = Writer::Failed(reason.clone());
            CommitError(reason)
        })?;
        // Before anybody else can commit: rows get here in the order in which they got into the engine.
        self.fresh.follow(batch);
        Ok(())
    }
}

/// Whether opening may make a database.
#[derive(Clone, Copy)]
enum Creation {
    New,
    Never,
}

fn place<'a>(change: &Change<'a>) -> (Table, &'a [u8]) {
    match change {
        Change::Put { table, key, .. } | Change::Delete { table, key } => (*table, key),
    }
}

fn found<B: AsRef<[u8]>>(table: Table, row: Result<Option<B>, rocksdb::Error>) -> Result<Found, ReadError> {
    match row {
        Ok(Some(content)) => Ok(Found::Row(content.as_ref().to_vec())),
        Ok(None) => Ok(Found::Absent),
        Err(error) if error.kind() == ErrorKind::Incomplete => Ok(Found::Cold),
        Err(error) => Err(read_error(table, &error)),
    }
}

fn read_error(table: Table, error: &rocksdb::Error) -> ReadError {
    let (table, detail) = (table.name(), error.to_string());
    match error.kind() {
        ErrorKind::Corruption => ReadError::Corrupt { table, detail },
        _ => ReadError::Failed { table, detail },
    }
}

/// RocksDB has no kind for a lock that is held, only these two texts: by another process, and by this one.
fn open_error(path: &Path, error: &rocksdb::Error) -> OpenError {
    let detail = error.to_string();
    if detail.contains("While lock file") || detail.contains("lock hold by current process") {
        return OpenError::Locked { path: path.to_owned(), detail };
    }
    match missing_table(path, &detail) {
        Some(file) => {
            let list = fs::read_to_string(path.join(CURRENT)).unwrap_or_default();
            let what =
                format!("is missing, though others are there, and its list of files, {}, names it", list.trim_end());
            OpenError::Table { path: path.to_owned(), file, what }
        }
        None => OpenError::refused(path, &detail),
    }
}

/// A table file that the engine looked for and that is not there. It goes on to blame the list of files, which may be right,
/// if that is an older one. A table that it could not write is named and not there either, with another word of the system.
fn missing_table(path: &Path, detail: &str) -> Option<String> {
    if !detail.contains("No such file or directory") {
        return None;
    }
    let words = detail.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.');
    let mut names = words.map(|word| word.trim_matches('.')).filter(|word| word.strip_suffix(".sst").is_some());
    names.find(|name| !path.join(name).exists()).map(ToOwned::to_owned)
}

/// The engine would wait for whoever writes into a pipe, and read a device without an end.
fn has_files_only(path: &Path) -> Result<(), OpenError> {
    let entries = fs::read_dir(path).map_err(|error| OpenError::refused(path, &error))?;
    for name in entries.flatten().map(|entry| entry.file_name()) {
        // A vault that runs on it may take one away meanwhile.
        if fs::metadata(path.join(&name)).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            let what = format_args!("{} is no regular file", Path::new(&name).display());
            return Err(OpenError::refused(path, &what));
        }
    }
    Ok(())
}

/// By the words for a file that is missing: RocksDB has none but the system's.
fn has_list(path: &Path) -> Result<(), OpenError> {
    if path.join(CURRENT).exists() {
        return Ok(());
    }
    Err(OpenError::refused(path, &format_args!("its file {CURRENT} is missing, though others are there")))
}

/// RocksDB finds out too, but only after it has changed files.
fn has_all_families(path: &Path) -> Result<(), OpenError> {
    let families = DB::list_cf(&Options::default(), path).map_err(|error| open_error(path, &error))?;
    match Table::ALL.iter().find(|table| !families.iter().any(|family| family == table.name())) {
        Some(missing) => {
            let (name, list) = (missing.name(), fs::read_to_string(path.join(CURRENT)).unwrap_or_default());
            let list = list.trim_end();
            let why = "a version of Cloakroom without it made the data, or the list of files is damaged";
            Err(OpenError::refused(path, &format_args!("it has no table `{name}` in its list of files, {list}: {why}")))
        }
        None => Ok(()),
    }
}

/// Whether nothing is at `path`, or a directory with nothing in it.
fn is_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Makes the directory, for its owner alone. One that is there keeps its mode: its owner chose it.
fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
}

/// RocksDB syncs its files and its directory, not the entry that leads to it: a power cut could take away all of it.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent: PathBuf = path.canonicalize()?.parent().map_or_else(|| path.to_owned(), Path::to_owned);
    File::open(parent)?.sync_all()
}
