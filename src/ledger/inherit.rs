//! A log that begins anew over records that are there already, as after a restore.
//!
//! Such a log has no event yet, and its head says which records it begins with and how far the vault's time had come: nothing
//! that had expired by then lives again because a log begins anew. It is made before anything is served, in one commit.

use super::open::genesis_rows;
use super::state::{HEAD_ROW, StoredHead, group_row};
use super::{Genesis, OpenError};
use crate::clock::Timestamp;
use crate::crypto::MetaKey;
use crate::crypto::state::{Group, StateKey, Tally};
use crate::keys::entropy;
use crate::merkle::empty_root;
use crate::merkle::note::VerifierKey;
use crate::store::{Batch, Store, Table};
use std::collections::BTreeMap;

/// What a new log finds.
#[derive(Default)]
pub struct Inheritance {
    /// The records, by group.
    pub groups: BTreeMap<Group, Tally>,
    /// The time that the vault's clock never goes back behind.
    pub mark: Timestamp,
}

/// Writes what names a vault and its new log into a store that holds the vault's records and keys, and nothing of a log.
///
/// # Errors
/// If the store can't be written, or there is no randomness.
pub fn create_over(
    store: &dyn Store,
    meta: &MetaKey,
    state: &StateKey,
    genesis: &Genesis,
    log_key: VerifierKey,
    inheritance: &Inheritance,
) -> Result<(), OpenError> {
    let mut rows = Batch::default();
    let mut total = Tally::default();
    for (group, sum) in inheritance.groups.iter().filter(|(_, sum)| !sum.is_empty()) {
        total = total.plus(sum);
        rows.put(Table::State, &group.to_bytes(), &group_row(state, *group, entropy::bytes()?, sum));
    }
    let head = StoredHead { size: 0, root: empty_root(), mark: Some(inheritance.mark), total };
    rows.put(Table::Tree, HEAD_ROW, &head.seal(meta, state, entropy::bytes()?));
    rows.append(&genesis_rows(meta, genesis, log_key));
    Ok(store.commit(&rows)?)
}
