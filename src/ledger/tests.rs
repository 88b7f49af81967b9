//! The ledger over a memory store whose faults and pauses the tests choose. After each step the whole log is computed
//! anew from what is stored ([`Site::check`]).

use super::fixture::{Answer, Gate, HANG, LOG, Open, START, Site, event, submit};
use super::*;
use crate::crypto::Handle;
use crate::store::{Batch, Fault, Table};
use std::pin::{Pin, pin};
use std::task::Poll;

mod commits;
mod errors;
mod faults;
mod inherited;
mod kept;
mod records;
mod recovery;
mod rotation;
mod stalls;
mod stored;
mod vouching;
mod witnesses;

fn handle(number: u32) -> Handle {
    Handle::new(number, [0x68; 16])
}

/// A new row, and the event that names it.
fn issue(basis: Basis, number: u32) -> Submission {
    let (handle, name) = (handle(number), format!("issue {number}"));
    let mut rows = Batch::default();
    rows.put(Table::Requests, handle.as_bytes(), name.as_bytes());
    Submission::new(basis, event(&name, &[handle])).with_changes(rows)
}

/// A row that is there is written again, on the strength of what was read at `basis`.
fn rewrite(basis: Basis, number: u32, name: &str) -> Submission {
    let handle = handle(number);
    let mut rows = Batch::default();
    rows.put(Table::Requests, handle.as_bytes(), name.as_bytes());
    let submission = Submission::new(basis, event(name, &[handle])).with_changes(rows);
    submission.resting_on(vec![handle], vec![handle])
}

/// What rests on a row and leaves it as it is.
fn release(basis: Basis, number: u32) -> Submission {
    let mut event = event(&format!("release {number}"), &[handle(number)]);
    event.item_outcomes = vec![ItemOutcome::Released.into()];
    Submission::new(basis, event).resting_on(vec![handle(number)], Vec::new())
}

/// Has everything vouched for, from outside any runtime.
fn vouch(open: &Open) -> Result<Arc<Vouched>, Refused> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(open.ledger.vouch())
}

fn issue_now(open: &Open, number: u32) -> Answer {
    submit(&open.ledger, issue(open.ledger.basis(), number)).unwrap()
}

/// One commit is under way and held back by the gate; what is handed over now waits behind it.
fn hold_one(open: &Open, gate: &Gate, number: u32) -> Answer {
    let held = issue_now(open, number);
    gate.arrived();
    held
}

/// Beside the log itself: each row was written with an event that names it, and what was acknowledged is there.
fn check(site: &Site, acknowledged: &[(u64, String)]) -> Vec<Event> {
    let events = site.check();
    for ((table, key), row) in site.dump() {
        let written_by =
            |event: &Event| event.detail.as_bytes() == row && event.handles.iter().any(|named| **named == key);
        assert!(table != Table::Requests || events.iter().any(written_by), "a row without its event");
    }
    for (sequence, detail) in acknowledged {
        assert_eq!(
            events[usize::try_from(*sequence).unwrap()].detail,
            *detail,
            "what was acknowledged is in its place"
        );
    }
    events
}

/// Whether the future has ended when it is asked once.
async fn has_ended<F: Future>(future: &mut Pin<&mut F>) -> bool {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
}

fn details(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.detail.as_str()).collect()
}
