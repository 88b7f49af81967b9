//! Root key providers, and the keyring in memory.
//!
//! The root key comes from a provider and is never stored beside the data. It wraps every other key; the wrapped keys are
//! rows, which this module encodes and decodes but does not write: a new key goes through the ledger together with the
//! event that says so, and is used only once that is durable.
//!
//! Rows of `keys`, `scopes` and `meta` carry a MAC ([`authentic`]): whoever edits the database can't hand one scope's id
//! to another, bring back a retired key or turn back the time mark unseen.

pub mod authentic;
pub mod entropy;
pub mod provider;

use crate::clock::Timestamp;
use crate::crypto::state::StateKey;
use crate::crypto::{
    DataKey, IndexKey, KeyVersion, MetaKey, RequestKey, RootKey, ScopeId, VaultId, WRAPPED_KEY_LENGTH,
};
use crate::scope;
use crate::secret::SecretKey;
use crate::store::{Batch, Order, ReadError, Row, Rows, Table};
use arc_swap::ArcSwap;
use entropy::NoEntropy;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The only version of each key so far.
pub const FIRST_VERSION: KeyVersion = KeyVersion(1);
const INDEX_KEY_ID: &str = "index";
const REQUEST_KEY_ID: &str = "request";
const STATE_KEY_ID: &str = "state";
const DATA_KEY_PREFIX: &str = "data/";
const ROW_FORMAT: u8 = 1;
const ACTIVE: u8 = 1;
/// Format, state, created, retired, wrapped key.
const KEY_ROW_LENGTH: usize = 1 + 1 + 8 + 8 + WRAPPED_KEY_LENGTH;
const SCOPE_ROW_LENGTH: usize = 1 + 4;
/// Scopes that a vault may ever have: ids are never reused, and all are kept in memory.
const SCOPES_AT_MOST: usize = 1_000_000;

/// The keys of an unsealed vault.
pub struct Keyring {
    vault: VaultId,
    root: RootKey,
    meta: Arc<MetaKey>,
    index: IndexKey,
    request: RequestKey,
    state: Arc<StateKey>,
    /// Scope path → id and data key. Replaced as a whole; readers never wait.
    scopes: ArcSwap<HashMap<String, ScopeKeys>>,
    given: Mutex<Given>,
}

/// Ids of new scopes. After a commit whose outcome stayed unknown an id may be on disk without having been admitted: so it
/// counts as given from the moment it is prepared, and the same scope gets the same one again.
struct Given {
    next: u32,
    waiting: HashMap<String, ScopeId>,
}

/// What the vault knows of one scope beside its rules.
#[derive(Clone)]
pub struct ScopeKeys {
    /// Stands for the scope in records and under HMACs; never reused.
    pub id: ScopeId,
    /// Made by the scope's first Tokenize. Until then nothing can have been stored under the scope.
    pub data: Option<Arc<DataKey>>,
}

/// A scope's new id or key, to be admitted once its rows are durable.
#[must_use = "rows that are not committed and admitted make no key"]
pub struct NewScopeKeys {
    path: String,
    keys: ScopeKeys,
    /// The rows to commit.
    pub rows: Batch,
    /// The new key's id, for the event. `None` if only an id was made.
    pub key_id: Option<String>,
}

/// Why the keyring can't be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The MACs do not fit.
    #[error(
        "the root key does not belong to this data (the row {0} does not verify). Give the root key that `init` or the \
         last rotation made for it; if it is the right one, the row was changed: restore from a backup"
    )]
    WrongRootKey(String),
    /// A row that must be there is not, or is not whole.
    #[error("the row {0} is missing or damaged. Restore from a backup")]
    Damaged(String),
    /// A row was written by a newer version.
    #[error(
        "the row {row} has format {format}, which this version does not know. Use the version that wrote it or a newer one; nothing was changed"
    )]
    Newer {
        /// Which row.
        row: String,
        /// Its first byte.
        format: u8,
    },
    /// No more scopes.
    #[error("this vault has {SCOPES_AT_MOST} scopes, the most it can hold")]
    TooManyScopes,
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
}

impl NewScopeKeys {
    /// The scope's id.
    pub fn id(&self) -> ScopeId {
        self.keys.id
    }
}

impl ScopeKeys {
    /// For a scope that was never used: nothing can be found under it, at the same cost as under any other. Ids begin
    /// at 1, so no record has this one.
    pub fn stand_in() -> Self {
        Self { id: ScopeId(0), data: None }
    }
}

// === impl Keyring ===

impl Keyring {
    /// Makes the inner keys of a new vault: the rows to commit, and the state key, which that commit takes already.
    ///
    /// # Errors
    /// If the operating system gives no randomness.
    pub fn create(
        root: &RootKey,
        vault: &VaultId,
        meta: &MetaKey,
        now: Timestamp,
    ) -> Result<(Batch, Arc<StateKey>), KeyringError> {
        let mut rows = Batch::default();
        let state = entropy::key()?;
        for (id, key) in [(INDEX_KEY_ID, &entropy::key()?), (REQUEST_KEY_ID, &entropy::key()?), (STATE_KEY_ID, &state)]
        {
            put_key(&mut rows, root, vault, meta, id, key, entropy::bytes()?, now);
        }
        Ok((rows, Arc::new(StateKey::new(state))))
    }

    /// Unwraps all keys in `rows`.
    ///
    /// # Errors
    /// [`KeyringError`]: nothing was changed.
    pub fn open(root: RootKey, vault: VaultId, meta: Arc<MetaKey>, rows: &dyn Rows) -> Result<Self, KeyringError> {
        let mut unwrapped: HashMap<String, SecretKey> = HashMap::new();
        for (row_key, content) in all_rows(rows, Table::Keys)? {
            let (id, key) = read_key(&root, &vault, &meta, &row_key, &content)?;
            unwrapped.insert(id, key);
        }
        let mut own = |id: &str| unwrapped.remove(id).ok_or_else(|| KeyringError::Damaged(format!("keys/{id}")));
        let (index, request) = (IndexKey::new(own(INDEX_KEY_ID)?), RequestKey::new(own(REQUEST_KEY_ID)?));
        let state = Arc::new(StateKey::new(own(STATE_KEY_ID)?));
        let mut scopes = HashMap::new();
        let mut highest = 0;
        let mut ids = HashSet::new();
        for (row_key, content) in all_rows(rows, Table::Scopes)? {
            let (path, id) = read_scope(&meta, &row_key, &content)?;
            if !ids.insert(id) {
                return Err(KeyringError::Damaged(authentic::row_name(Table::Scopes, &row_key)));
            }
            highest = highest.max(id.0);
            let data = unwrapped.remove(&data_key_id(id)).map(|key| Arc::new(DataKey::new(key)));
            scopes.insert(path, ScopeKeys { id, data });
        }
        // A key without its scope: the scope's row was taken away, and its id would be given to the next one.
        if let Some(orphan) = unwrapped.keys().find(|id| id.starts_with(DATA_KEY_PREFIX)) {
            return Err(KeyringError::Damaged(format!("of the scope that belongs to keys/{orphan}")));
        }
        let given = Mutex::new(Given { next: highest.saturating_add(1), waiting: HashMap::new() });
        Ok(Self { vault, root, meta, index, request, state, scopes: ArcSwap::from_pointee(scopes), given })
    }

    /// The vault's id, bound into every record and key.
    pub fn vault(&self) -> &VaultId {
        &self.vault
    }

    /// The key under which handles are made.
    pub fn index(&self) -> &IndexKey {
        &self.index
    }

    /// The key under which remembered requests are named.
    pub fn request(&self) -> &RequestKey {
        &self.request
    }

    /// The key of the sums over the records.
    pub fn state(&self) -> &Arc<StateKey> {
        &self.state
    }

    /// The key under which rows of meta and others are authentic.
    pub fn meta(&self) -> &Arc<MetaKey> {
        &self.meta
    }

    /// The path of each scope that has an id.
    pub fn paths(&self) -> HashMap<ScopeId, String> {
        self.scopes.load().iter().map(|(path, keys)| (keys.id, path.clone())).collect()
    }

    /// The scope's id and data key, if it ever was named or used.
    pub fn scope(&self, path: &scope::Path) -> Option<ScopeKeys> {
        self.scopes.load().get(path.as_str()).cloned()
    }

    /// The data keys of these scopes, as far as they are here.
    pub fn data_keys(&self, wanted: &HashSet<ScopeId>) -> HashMap<ScopeId, Arc<DataKey>> {
        let scopes = self.scopes.load();
        let wanted = scopes.values().filter(|keys| wanted.contains(&keys.id));
        wanted.filter_map(|keys| Some((keys.id, Arc::clone(keys.data.as_ref()?)))).collect()
    }

    /// Rows that give `path` an id, if it has none, and a data key, if `with_data_key` and it has none. `None` if there is
    /// nothing to make. The caller makes sure that only one is under way, commits the rows, then calls
    /// [`Keyring::admit`].
    ///
    /// # Errors
    /// If there is no randomness or no room.
    pub fn prepare(
        &self,
        path: &scope::Path,
        with_data_key: bool,
        now: Timestamp,
    ) -> Result<Option<NewScopeKeys>, KeyringError> {
        let known = self.scopes.load();
        let mut rows = Batch::default();
        let existing = known.get(path.as_str());
        if existing.is_some_and(|keys| keys.data.is_some() || !with_data_key) {
            return Ok(None);
        }
        let id = if let Some(keys) = existing {
            keys.id
        } else {
            if known.len() >= SCOPES_AT_MOST {
                return Err(KeyringError::TooManyScopes);
            }
            let id = self.given.lock().id_for(path.as_str())?;
            put_scope(&mut rows, &self.meta, path.as_str(), id);
            id
        };
        let mut keys = ScopeKeys { id, data: None };
        let mut key_id = None;
        if with_data_key {
            let name = data_key_id(id);
            let key = entropy::key()?;
            put_key(&mut rows, &self.root, &self.vault, &self.meta, &name, &key, entropy::bytes()?, now);
            keys.data = Some(Arc::new(DataKey::new(key)));
            key_id = Some(name);
        }
        Ok(Some(NewScopeKeys { path: path.as_str().to_owned(), keys, rows, key_id }))
    }

    /// Takes up what is durable now.
    pub fn admit(&self, new: NewScopeKeys) -> ScopeKeys {
        let keys = new.keys.clone();
        self.given.lock().waiting.remove(&new.path);
        self.scopes.rcu(|known| {
            let mut next = HashMap::clone(known);
            next.insert(new.path.clone(), new.keys.clone());
            next
        });
        keys
    }
}

impl Given {
    fn id_for(&mut self, path: &str) -> Result<ScopeId, KeyringError> {
        if let Some(id) = self.waiting.get(path) {
            return Ok(*id);
        }
        let id = ScopeId(self.next);
        self.next = self.next.checked_add(1).ok_or(KeyringError::TooManyScopes)?;
        self.waiting.insert(path.to_owned(), id);
        Ok(id)
    }
}

/// The id under which a scope's data key is wrapped and stored.
fn data_key_id(scope: ScopeId) -> String {
    format!("{DATA_KEY_PREFIX}{}", scope.0)
}

// === rows ===

fn all_rows(rows: &dyn Rows, table: Table) -> Result<Vec<Row>, ReadError> {
    rows.scan(table, &[], &[0xff], Order::Ascending, usize::MAX)
}

/// `key id ‖ 0x00 ‖ version`: ids are printable, so the zero ends them.
fn key_row_key(id: &str, version: KeyVersion) -> Vec<u8> {
    let mut row_key = id.as_bytes().to_vec();
    row_key.push(0);
    row_key.extend_from_slice(&version.0.to_be_bytes());
    row_key
}

fn put_key(
    rows: &mut Batch,
    root: &RootKey,
    vault: &VaultId,
    meta: &MetaKey,
    id: &str,
    key: &SecretKey,
    salt: [u8; 32],
    now: Timestamp,
) {
    let row_key = key_row_key(id, FIRST_VERSION);
    let mut content = Vec::with_capacity(KEY_ROW_LENGTH);
    content.push(ROW_FORMAT);
    content.push(ACTIVE);
    content.extend_from_slice(&now.millis().to_be_bytes());
    content.extend_from_slice(&0_u64.to_be_bytes());
    content.extend_from_slice(&root.wrap(vault, id, FIRST_VERSION, key, salt));
    rows.put(Table::Keys, &row_key, &authentic::seal(meta, Table::Keys, &row_key, &content));
}

fn read_key(
    root: &RootKey,
    vault: &VaultId,
    meta: &MetaKey,
    row_key: &[u8],
    row: &[u8],
) -> Result<(String, SecretKey), KeyringError> {
    let name = authentic::row_name(Table::Keys, row_key);
    let damaged = || KeyringError::Damaged(name.clone());
    let content = authentic::open(meta, Table::Keys, row_key, row).ok_or(KeyringError::WrongRootKey(name.clone()))?;
    check_format(&name, content)?;
    let (id, version) = row_key.split_at(row_key.len().checked_sub(5).ok_or_else(damaged)?);
    let id = std::str::from_utf8(id).map_err(|_| damaged())?;
    let version = KeyVersion(u32::from_be_bytes(version[1..].try_into().map_err(|_| damaged())?));
    if content.len() != KEY_ROW_LENGTH || version != FIRST_VERSION {
        return Err(damaged());
    }
    let wrapped = &content[KEY_ROW_LENGTH - WRAPPED_KEY_LENGTH..];
    let key = root.unwrap(vault, id, version, wrapped).map_err(|_| damaged())?;
    Ok((id.to_owned(), key))
}

fn put_scope(rows: &mut Batch, meta: &MetaKey, path: &str, id: ScopeId) {
    let mut content = Vec::with_capacity(SCOPE_ROW_LENGTH);
    content.push(ROW_FORMAT);
    content.extend_from_slice(&id.0.to_be_bytes());
    rows.put(Table::Scopes, path.as_bytes(), &authentic::seal(meta, Table::Scopes, path.as_bytes(), &content));
}

fn read_scope(meta: &MetaKey, row_key: &[u8], row: &[u8]) -> Result<(String, ScopeId), KeyringError> {
    let name = authentic::row_name(Table::Scopes, row_key);
    let damaged = || KeyringError::Damaged(name.clone());
    let content = authentic::open(meta, Table::Scopes, row_key, row).ok_or(KeyringError::WrongRootKey(name.clone()))?;
    check_format(&name, content)?;
    let path = std::str::from_utf8(row_key).map_err(|_| damaged())?;
    let id = content.get(1..SCOPE_ROW_LENGTH).and_then(|id| id.try_into().ok()).ok_or_else(damaged)?;
    Ok((path.to_owned(), ScopeId(u32::from_be_bytes(id))))
}

fn check_format(name: &str, content: &[u8]) -> Result<(), KeyringError> {
    match content.first() {
        Some(&ROW_FORMAT) => Ok(()),
        Some(&format) => Err(KeyringError::Newer { row: name.to_owned(), format }),
        None => Err(KeyringError::Damaged(name.to_owned())),
    }
}

#[cfg(test)]
mod tests;
