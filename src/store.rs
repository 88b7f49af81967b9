//! The port to what lies on disk: rows, and one atomic, durable commit.
//!
//! The contract, in prose, because every implementation is held to it by one suite (`suite.rs`):
//!
//! * [`Store::commit`] applies a [`Batch`] whole or not at all, in the order of its operations, and returns `Ok` only when
//!   it is durable: a power cut directly after does not lose it, and nothing that an earlier `commit` acknowledged is lost
//!   with it.
//! * After an `Err` the outcome is unknown. The store must be closed and opened again; further commits are refused.
//! * Reads see every commit that had returned before they began. A read never blocks a commit.
//! * One process at a time. A second one on the same data is refused at open.
//!
//! Only the ledger is handed a [`Store`]; everyone else gets [`Rows`], which can only read.

mod memory;
mod rocks;
#[cfg(test)]
mod suite;

#[cfg(test)]
pub(crate) use rocks::check_log;

pub use memory::{Fault, Faults, MemoryStore};
pub use rocks::{
    Properties, RocksConfig, RocksFile, RocksFiles, RocksSnapshot, RocksStore, TornEnd, cut_torn_end, torn_end,
};

use std::path::{Path, PathBuf};

/// The tables, by what they hold. RocksDB has a column family for each, PostgreSQL a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// handle → record
    Tokens = 0,
    /// expiry bucket ‖ handle → empty
    Expiry = 1,
    /// keyed fingerprint → sealed token (convergent scopes)
    Fingerprints = 2,
    /// keyed hash of caller and request id → sealed answer
    Requests = 3,
    /// scope path → scope id
    Scopes = 4,
    /// sequence, big endian → the event's bytes
    Events = 5,
    /// tile path → full tile
    Tree = 6,
    /// kind ‖ key ‖ sequence → empty
    EventIndex = 7,
    /// key id ‖ version → wrapped key
    Keys = 8,
    /// name → bytes
    Meta = 9,
    /// scope id ‖ day of issue → masked sum over the records
    State = 10,
}

impl Table {
    /// All tables, in the order of their numbers.
    pub const ALL: [Table; 11] = [
        Table::Tokens,
        Table::Expiry,
        Table::Fingerprints,
        Table::Requests,
        Table::Scopes,
        Table::Events,
        Table::Tree,
        Table::EventIndex,
        Table::Keys,
        Table::Meta,
        Table::State,
    ];

    /// The table's name on disk and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Tokens => "tokens",
            Table::Expiry => "expiry",
            Table::Fingerprints => "fingerprints",
            Table::Requests => "requests",
            Table::Scopes => "scopes",
            Table::Events => "events",
            Table::Tree => "tree",
            Table::EventIndex => "event_index",
            Table::Keys => "keys",
            Table::Meta => "meta",
            Table::State => "state",
        }
    }
}

/// How far a read may go for its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Memory only: what is not there answers [`Found::Cold`]. Never blocks, so it may run on a network thread.
    Memory,
    /// Memory, then disk. May block for a disk read: never on a network thread.
    Disk,
}

/// What a point read found.
#[derive(Clone, PartialEq, Eq)]
pub enum Found {
    /// The row.
    Row(Vec<u8>),
    /// There is no such row.
    Absent,
    /// Not in memory; ask again with [`Tier::Disk`] off the network threads.
    Cold,
}

impl Found {
    /// How long it is.
    pub fn size(&self) -> usize {
        match self {
            Self::Row(row) => row.len(),
            Self::Absent | Self::Cold => 0,
        }
    }
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes on disk do not have the checksum that they were written with.
    #[error("{table} has a damaged block: {detail}. Restore from a backup")]
    Corrupt {
        /// The table's name.
        table: &'static str,
        /// What the engine said.
        detail: String,
    },
    /// The engine could not read.
    #[error("could not read {table}: {detail}")]
    Failed {
        /// The table's name.
        table: &'static str,
        /// What the engine said.
        detail: String,
    },
}

/// Why a commit failed. Whatever the reason, whether it was applied is unknown and the store is finished.
#[derive(Debug, thiserror::Error)]
#[error("the commit did not reach the disk for certain: {0}. The process must stop and start again from what is there")]
pub struct CommitError(pub String);

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at that place.
    #[error("no data in {0}: run `cloakroom init` first, or correct `storage.path`")]
    Missing(PathBuf),
    /// There is something already.
    #[error("{0} holds data already: `init` never overwrites")]
    Exists(PathBuf),
    /// Another process has it.
    #[error("{path} is in use by another process: {detail}")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the engine said.
        detail: String,
    },
    /// The operating system refuses. Of the data nothing is known to be wrong.
    #[error("{path} can't be opened: {detail}. {trouble}")]
    System {
        /// The directory.
        path: PathBuf,
        /// What it said, and of which file.
        detail: String,
        /// What it is about.
        trouble: Trouble,
    },
    /// A table file is not as the list of files says.
    #[error("{path} can't be opened without losing data: its table file {file} {what}. Restore from a backup")]
    Table {
        /// The directory.
        path: PathBuf,
        /// The file's name.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// There is garbage behind the last whole record of the newest log. Whether it had been acknowledged nobody can see
    /// from the log; cutting it off keeps all that can be kept.
    #[error(
        "{path} can't be opened without losing data: the log {file} is damaged at byte {offset}: what stands at its end is \
         unreadable, and not as a power cut leaves it. All before that is whole. Keep a copy of {path}, then run `truncate \
         --size={offset} {}` and start again: that holds the log against the checkpoints outside. Or restore from a backup. \
         Nothing was changed", shell_word(&path.join(file))
    )]
    LogEnd {
        /// The directory.
        path: PathBuf,
        /// The log's name.
        file: String,
        /// The first byte that is not whole.
        offset: u64,
    },
    /// The engine refuses what it finds.
    #[error("{path} can't be opened without losing data: {detail}. Nothing was changed; restore from a backup")]
    Refused {
        /// The directory.
        path: PathBuf,
        /// What the engine said.
        detail: String,
    },
}

impl OpenError {
    /// What the engine or the system said about `path`. By its text: RocksDB hands on what the system says in no other way.
    pub fn refused(path: &Path, detail: &dyn std::fmt::Display) -> Self {
        let (path, detail) = (path.to_owned(), detail.to_string());
        match Trouble::ALL.into_iter().find(|trouble| trouble.texts().iter().any(|text| detail.contains(text))) {
            Some(trouble) => Self::System { path, detail, trouble },
            None => Self::Refused { path, detail },
        }
    }
}

/// A path as a shell takes it.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+@%".contains(letter);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Why the operating system refuses, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No room, or no quota.
    #[error("The disk is full: make room there and start again, nothing is lost")]
    Full,
    /// Mounted without writing, or gone so after an error.
    #[error("The file system is mounted read-only: look for the reason (dmesg), mount it for writing, and start again")]
    ReadOnly,
    /// No permission.
    #[error("Give the directory and all in it to the user that the vault runs as, and start again")]
    Denied,
    /// Too many open files.
    #[error("Raise the limit of open files (LimitNOFILE in the service's unit) and start again")]
    Files,
    /// Too little memory.
    #[error("Give the process more memory, or lower storage.cache_bytes, and start again")]
    Memory,
    /// The disk does not read or write.
    #[error("The disk fails: look at it (dmesg), copy what can be read, and restore from a backup if that is not all")]
    Disk,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Full, Self::ReadOnly, Self::Denied, Self::Files, Self::Memory, Self::Disk];

    /// As the C library says it.
    fn texts(self) -> &'static [&'static str] {
        match self {
            Self::Full => &["No space left on device", "Disk quota exceeded"],
            Self::ReadOnly => &["Read-only file system"],
            Self::Denied => &["Permission denied", "Operation not permitted"],
            Self::Files => &["Too many open files"],
            Self::Memory => &["Cannot allocate memory"],
            Self::Disk => &["Input/output error"],
        }
    }
}

/// One row of a scan: its key and its content.
pub type Row = (Vec<u8>, Vec<u8>);

/// The direction of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By ascending key.
    Ascending,
    /// By descending key.
    Descending,
}

/// Reading. Everyone may have this.
pub trait Rows: Send + Sync {
    /// Point reads, one answer for each key, in order.
    fn get(&self, table: Table, keys: &[&[u8]], tier: Tier) -> Result<Vec<Found>, ReadError>;

    /// As [`Rows::get`], for the first of the keys: up to the one with which they come to `bytes`.
    fn get_within(&self, table: Table, keys: &[&[u8]], tier: Tier, bytes: usize) -> Result<Vec<Found>, ReadError> {
        let (mut found, mut read) = (Vec::new(), 0);
        for key in keys {
            let row = self.get(table, &[key], tier)?.pop().unwrap_or(Found::Absent);
            read += row.size();
            found.push(row);
            if read >= bytes {
                break;
            }
        }
        Ok(found)
    }

    /// Rows with `start <= key < end`, in `order`, at most `limit`. All from one snapshot. May block: never on a network
    /// thread.
    fn scan(&self, table: Table, start: &[u8], end: &[u8], order: Order, limit: usize) -> Result<Vec<Row>, ReadError>;
}

/// Reading and the one way to write. Only the ledger has this.
pub trait Store: Rows {
    /// Applies the batch atomically and durably. See the module's contract.
    fn commit(&self, batch: &Batch) -> Result<(), CommitError>;
}

/// What one commit changes: puts and deletes, in order. Keys and contents lie in one buffer, so that building and joining
/// batches allocates rarely.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    operations: Vec<Operation>,
}

#[derive(Clone, Copy)]
struct Operation {
    table: Table,
    key_length: u32,
    /// `None` deletes the row.
    content_length: Option<u32>,
}

/// One change, as a store reads it from a batch.
pub enum Change<'a> {
    /// Write this row, whether or not it was there.
    Put {
        /// Where.
        table: Table,
        /// The row's key.
        key: &'a [u8],
        /// The row's content.
        content: &'a [u8],
    },
    /// Remove this row if it is there.
    Delete {
        /// Where.
        table: Table,
        /// The row's key.
        key: &'a [u8],
    },
}

impl Batch {
    /// Makes room for so many changes more, whose keys and contents have so many bytes together.
    pub fn reserve(&mut self, changes: usize, bytes: usize) {
        self.operations.reserve(changes);
        self.bytes.reserve(bytes);
    }

    /// Adds: write this row.
    pub fn put(&mut self, table: Table, key: &[u8], content: &[u8]) {
        self.push(table, key, Some(content));
    }

    /// Adds: remove this row.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.push(table, key, None);
    }

    /// Adds all that `other` holds behind what is here.
    pub fn append(&mut self, other: &Batch) {
        self.bytes.extend_from_slice(&other.bytes);
        self.operations.extend_from_slice(&other.operations);
    }

    /// Empties the batch and keeps its buffers.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.operations.clear();
    }

    /// The number of changes.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The size of keys and contents in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let mut at = 0;
        self.operations.iter().map(move |operation| {
            let key_end = at + operation.key_length as usize;
            let key = &self.bytes[at..key_end];
            at = key_end;
            match operation.content_length {
                Some(length) => {
                    let end = at + length as usize;
                    let content = &self.bytes[at..end];
                    at = end;
                    Change::Put { table: operation.table, key, content }
                }
                None => Change::Delete { table: operation.table, key },
            }
        })
    }

    fn push(&mut self, table: Table, key: &[u8], content: Option<&[u8]>) {
        // A row is at most some megabytes (the message limit), far below 4 GiB; the assertion says so at the door.
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("rows are far smaller than 4 GiB");
        self.operations.push(Operation { table, key_length: length(key), content_length: content.map(length) });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(content.unwrap_or_default());
    }
}
