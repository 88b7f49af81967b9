//! Reads events from the log and puts them in the form in which they are sent. All of it may block.

use super::delivery::{Failed, Prepared};
use super::{Format, Log};
use crate::event::{self, json::Json, ocsf};
use crate::store::{Order, Row, Rows, Table};

/// Rows in one read.
const ROWS_A_READ: usize = 64;
/// Events in one batch.
pub(super) const EVENTS_AT_MOST: usize = 512;
/// Bytes of one batch, as formatted. One event alone always fits, or there would be no way past it.
const BYTES_AT_MOST: usize = 1 << 20;

/// What stands in the log behind a place.
pub(super) enum Found {
    /// The next events, without a gap.
    Events(Vec<Prepared>),
    /// The log begins only here: what was before has been dropped.
    Begins(u64),
}

/// The next events from `from` on, before `durable`; there is at least one.
pub(super) fn read(log: &Log, format: Format, from: u64, durable: u64) -> Result<Found, Failed> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut next = from;
    while next < durable && batch.len() < EVENTS_AT_MOST && bytes < BYTES_AT_MOST {
        let rows = scan(&*log.rows, next, durable, Order::Ascending, ROWS_A_READ)?;
        let before = next;
        for (key, encoded) in rows {
            let sequence = sequence(&key)?;
            if sequence != next {
                return if batch.is_empty() { gap(log, from, sequence) } else { Ok(Found::Events(batch)) };
            }
            let prepared = prepare(log, format, sequence, &encoded)?;
            if !batch.is_empty() && bytes + prepared.body.len() > BYTES_AT_MOST {
                return Ok(Found::Events(batch));
            }
            bytes += prepared.body.len();
            batch.push(prepared);
            next += 1;
            if batch.len() == EVENTS_AT_MOST {
                break;
            }
        }
        if next == before {
            return if batch.is_empty() { gap(log, from, durable) } else { Ok(Found::Events(batch)) };
        }
    }
    Ok(Found::Events(batch))
}

/// Nothing from `from` to `to`. At the log's beginning that is retention; with older events there it is damage, and going
/// on would hide it.
fn gap(log: &Log, from: u64, to: u64) -> Result<Found, Failed> {
    match scan(&*log.rows, 0, from, Order::Descending, 1)?.first() {
        None => Ok(Found::Begins(to)),
        Some(_) => Err(Failed::Log(format!(
            "events {from} to {} are missing though older ones are there. Restore from a backup",
            to - 1
        ))),
    }
}

fn scan(rows: &dyn Rows, from: u64, to: u64, order: Order, limit: usize) -> Result<Vec<Row>, Failed> {
    let found = rows.scan(Table::Events, &from.to_be_bytes(), &to.to_be_bytes(), order, limit);
    found.map_err(|error| Failed::Log(error.to_string()))
}

fn sequence(key: &[u8]) -> Result<u64, Failed> {
    let bytes = key.try_into().map_err(|_| Failed::Log("a row of events has a key that is no sequence".to_owned()))?;
    Ok(u64::from_be_bytes(bytes))
}

fn prepare(log: &Log, format: Format, sequence: u64, encoded: &[u8]) -> Result<Prepared, Failed> {
    let damaged = |problem: String| Failed::Log(format!("event {sequence}: {problem}"));
    let mut event = event::decode(encoded).map_err(|error| damaged(error.to_string()))?;
    let time = event.timestamp().ok_or_else(|| damaged("it has no time".to_owned()))?;
    log.log_id.as_ref().clone_into(&mut event.log_id);
    event.sequence = sequence;
    let body = body(&event, format).map_err(|error| damaged(error.to_string()))?;
    Ok(Prepared { sequence, time, event, body })
}

/// The event as the sink wants it.
pub(super) fn body(event: &event::Event, format: Format) -> Result<String, serde_json::Error> {
    match format {
        Format::Json => serde_json::to_string(&Json(event)),
        Format::Ocsf => serde_json::to_string(&ocsf::api_activity(event, env!("CARGO_PKG_VERSION"))),
    }
}
