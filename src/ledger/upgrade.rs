//! Data of an older storage format, taken to the current one.
//!
//! It happens at a start, when all checks have passed, in one commit: a start that is killed leaves the one format or the
//! other. From then on versions that know only the older one refuse the data.

use super::OpenError;
use super::open::{FORMAT, FORMAT_ROW, meta_number, meta_row};
use super::state::{HEAD_ROW, StoredHead};
use crate::clock::Timestamp;
use crate::crypto::MetaKey;
use crate::crypto::state::StateKey;
use crate::keys::{authentic, entropy};
use crate::store::{Batch, Rows, Store, Table};

/// The oldest format that this version takes up.
pub(super) const OLDEST: u32 = 2;

/// In format 2, the row of `meta` with the time mark. It could be put back alone; in format 3 the mark stands in the head.
const TIME_MARK_ROW: &str = "time";

/// The time mark of data of format 2.
pub(super) fn time_mark(rows: &dyn Rows, meta: &MetaKey) -> Result<Timestamp, OpenError> {
    let mark = meta_number(meta, TIME_MARK_ROW, &meta_row(rows, TIME_MARK_ROW)?)?;
    Ok(Timestamp::from_millis(mark))
}

/// Writes what is different in the current format: the head with the mark in it.
pub(super) fn to_current(
    store: &dyn Store,
    meta: &MetaKey,
    state: &StateKey,
    head: Option<StoredHead>,
    mark: Timestamp,
) -> Result<(), OpenError> {
    let mut rows = Batch::default();
    if let Some(head) = head {
        let head = StoredHead { mark: Some(mark), ..head };
        rows.put(Table::Tree, HEAD_ROW, &head.seal(meta, state, entropy::bytes()?));
    }
    rows.delete(Table::Meta, TIME_MARK_ROW.as_bytes());
    let format = authentic::seal(meta, Table::Meta, FORMAT_ROW.as_bytes(), &FORMAT.to_be_bytes());
    rows.put(Table::Meta, FORMAT_ROW.as_bytes(), &format);
    Ok(store.commit(&rows)?)
}
