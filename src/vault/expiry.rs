//! What leads to the tokens of an hour once it is over: the rows of `expiry`.

use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::ledger::Changes;
use crate::store::Table;

/// Tokens that expire in the same hour lie together, so that purging is a range scan.
pub(super) const HOUR_MILLIS: u64 = 3_600_000;

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
    pub fn write(&self, rows: &mut Changes) {
        for (hour, handles) in &self.hours {
            let (first, rest) = handles.split_at(Handle::LENGTH);
            let mut key = [0; 4 + Handle::LENGTH];
            key[..4].copy_from_slice(&hour.to_be_bytes());
            key[4..].copy_from_slice(first);
            rows.put(Table::Expiry, &key, rest);
        }
    }

    /// Adds the row of a token that was given another lifetime. The version of its record makes the key another than that
    /// of any row before: a token may return to an hour in which it is the first of many.
    pub fn write_renewed(expires: Timestamp, handle: &Handle, record_version: u32, rows: &mut Changes) {
        let key = [&hour(expires).to_be_bytes()[..], handle.as_bytes(), &record_version.to_be_bytes()].concat();
        rows.put(Table::Expiry, &key, &[]);
    }

    /// Adds the row of a remembered request.
    pub fn write_request(until: Timestamp, name: &[u8; 32], rows: &mut Changes) {
        rows.put(Table::Expiry, &[&hour(until).to_be_bytes()[..], name].concat(), &[]);
    }
}

/// What a row leads to.
pub(super) enum Leads {
    /// These tokens.
    Tokens(Vec<Handle>),
    /// The remembered request of this name.
    Request([u8; 32]),
}

/// What a row leads to. `None` if it has no form that this version knows, or its content is cut off.
pub(super) fn leads(key: &[u8], rest: &[u8]) -> Option<Leads> {
    let (_, named) = key.split_at_checked(4)?;
    match (named.len(), rest.len()) {
        (32, 0) => named.try_into().ok().map(Leads::Request),
        // Of a token that was renewed; the rest of the key only keeps such rows apart.
        (24, 0) => Handle::try_from(&named[..Handle::LENGTH]).ok().map(|handle| Leads::Tokens(vec![handle])),
        _ => {
            let (rest, cut_off) = rest.as_chunks::<{ Handle::LENGTH }>();
            let first = Handle::try_from(named).ok()?;
            let handles = [first].into_iter().chain(rest.iter().copied().map(Handle::from_bytes)).collect();
            cut_off.is_empty().then_some(Leads::Tokens(handles))
        }
    }
}

/// The hour in a row's key.
pub(super) fn hour_of_row(key: &[u8]) -> u32 {
    key.first_chunk().map_or(0, |hour| u32::from_be_bytes(*hour))
}

/// Hours since the epoch.
pub(super) fn hour(time: Timestamp) -> u32 {
    u32::try_from(time.millis() / HOUR_MILLIS).unwrap_or(u32::MAX)
}
