//! Rows that carry a MAC: `content ‖ HMAC-SHA256(meta key, table, row key, content)`.
//!
//! The table and the row's key are under the MAC, so a row that was moved does not verify.

use crate::crypto::{MAC_LENGTH, MetaKey};
use crate::store::Table;

/// The row to store for `content`.
pub fn seal(meta: &MetaKey, table: Table, row_key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(content.len() + MAC_LENGTH);
    row.extend_from_slice(content);
    row.extend_from_slice(&meta.mac(table.name(), row_key, content));
    row
}

/// The content of a stored row, if its MAC verifies.
pub fn open<'a>(meta: &MetaKey, table: Table, row_key: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (content, mac) = row.split_at(row.len().checked_sub(MAC_LENGTH)?);
    meta.verify(table.name(), row_key, content, mac).then_some(content)
}

/// The content of a row before there is a key to check it with. For what must be known to derive that key.
pub fn claimed(row: &[u8]) -> Option<&[u8]> {
    row.get(..row.len().checked_sub(MAC_LENGTH)?)
}

/// How messages name a row.
pub fn row_name(table: Table, row_key: &[u8]) -> String {
    format!("{}/{}", table.name(), String::from_utf8_lossy(row_key).escape_debug())
}
