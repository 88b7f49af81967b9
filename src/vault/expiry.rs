//! What leads to the tokens of an hour once it is over: the rows of `expiry`.

use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::store::{Batch, Table};

/// Tokens that expire in the same hour lie together, so that purging is a range scan.
const BUCKET_MILLIS: u64 = 3_600_000;

/// The tokens of one call by the hour in which they expire: a row for each hour, however many tokens, since a row for each
/// token would cost a third of what it takes to store one.
#[derive(Default)]
pub(super) struct Expiries {
    /// Hours and handles, one after the other. Nearly always there is one hour.
    hours: Vec<(u32, Vec<u8>)>,
}

impl Expiries {
    /// Notes that `handle` expires at `expires`.
    pub fn add(&mut self, expires: Timestamp, handle: &Handle) {
        let hour = hour(expires);
        let known = self.hours.iter().position(|(known, _)| *known == hour);
        let place = known.unwrap_or_else(|| {
            self.hours.push((hour, Vec::new()));
            self.hours.len() - 1
        });
        self.hours[place].1.extend_from_slice(handle.as_bytes());
    }

    /// Adds the rows: the hour and the first handle are the key, the other handles the content.
    pub fn write(&self, rows: &mut Batch) {
        for (hour, handles) in &self.hours {
            let (first, rest) = handles.split_at(Handle::LENGTH);
            let mut key = [0; 4 + Handle::LENGTH];
            key[..4].copy_from_slice(&hour.to_be_bytes());
            key[4..].copy_from_slice(first);
            rows.put(Table::Expiry, &key, rest);
        }
    }
}

/// Hours since the epoch.
fn hour(expires: Timestamp) -> u32 {
    u32::try_from(expires.millis() / BUCKET_MILLIS).unwrap_or(u32::MAX)
}
