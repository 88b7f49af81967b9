//! Asking the log: who saw what, when and why; and having it prove the answer ([`prove`]).
//!
//! A question is answered from the narrowest index that it names (handle, caller, scope; else the log itself), filtered by
//! the rest, a page at a time. The question is itself an event, durable before the answer leaves. Nothing here can reach a
//! value: a token in a question is turned into its handle and forgotten.

mod cursor;
mod filter;
pub mod prove;
mod retention;
mod tail;

#[cfg(test)]
mod tests;

use crate::clock::Timestamp;
use crate::event::{self, Action, Event, Outcome};
use crate::keys::Keyring;
use crate::ledger::{IndexKey, Ledger, Refused, Submission};
use crate::merkle::TreeError;
use crate::policy::{self, Resource};
use crate::store::{Found, Order, ReadError, Row, Rows, Table, Tier};
use crate::vault::{ATTEMPTS, Asked, Call, Failure, Reason, Vault, Violation, decided};
use cursor::Cursor;
use std::sync::Arc;

#[cfg(test)]
pub(crate) use cursor::check_page_token;
pub use filter::{Filter, FilterRequest};
pub use retention::Dropped;
pub use tail::{Tail, TailRequest};

/// Events on a page if the caller does not say.
const PAGE_DEFAULT: usize = 100;
/// Events on a page at the most.
const PAGE_AT_MOST: usize = 1000;
/// A page's events, encoded, stay below the message limit with room for framing.
const PAGE_BYTES_AT_MOST: usize = 3 * 1024 * 1024;
/// Events that one page may look at: a page may be short and still have a next one.
const SCAN_BUDGET: usize = 20_000;
/// Rows of the index in one step of a scan.
const ROWS_A_STEP: usize = 500;
/// Events that are read at once. One can have thirty kilobytes.
const EVENTS_AT_ONCE: usize = 64;

/// A question.
pub struct QueryRequest {
    /// What the events must match.
    pub filter: FilterRequest,
    /// 0 for the default, at most 1,000.
    pub page_size: i32,
    /// Empty for the first page, else from the last page of the same question.
    pub page_token: String,
    /// The log's order if false.
    pub newest_first: bool,
}

/// A page of the answer.
pub struct Page {
    /// In the order asked for; `log_id` and `sequence` are filled in.
    pub events: Vec<Event>,
    /// Where the next page begins; empty after the last.
    pub next_page_token: String,
}

/// One scan's bounds: which rows, where to go on.
struct Scan {
    filter: Filter,
    index: Option<IndexKey>,
    order: Order,
    page_size: usize,
    /// Behind the last event that may be looked at in ascending order, and before which to go on in descending order.
    from: u64,
    to: u64,
}

/// Where the next events of a scan stand.
struct Step {
    sequences: Vec<u64>,
    /// How far it reaches, if there may be more behind.
    end: Option<u64>,
    /// Rows of the index that lead nowhere.
    passed_over: usize,
}

/// What a scan found.
struct ScanResult {
    events: Vec<Event>,
    /// Where to go on, if it is not over.
    next: Option<u64>,
}

impl Vault {
    /// Answers a question about the log.
    ///
    /// # Errors
    /// [`Failure`]: nothing was told.
    pub async fn query_events(&self, call: &Call, request: QueryRequest) -> Result<Page, Failure> {
        let asked = Asked::of(call, Action::QueryAudit);
        for _ in 0..ATTEMPTS {
            let basis = self.ledger().basis();
            let (mut event, permit) = self.permit_question(&asked).await?;
            let scan = match self.plan(&request) {
                Ok(scan) => scan,
                Err(violation) => return Err(self.invalid(event, violation).await),
            };
            scan.filter.describe(&mut event, request.newest_first);
            let binding = scan.filter.binding(request.newest_first);
            let (rows, keyring) = (Arc::clone(self.rows()), Arc::clone(self.keyring()));
            let ledger = self.ledger().clone();
            let found = tokio::task::spawn_blocking(move || scan.run(&*rows, &keyring, &ledger)).await;
            let found = found.map_err(|_| Failure::Internal)??;
            event.outcome = Outcome::Allowed.into();
            event.succeeded = u32::try_from(found.events.len()).unwrap_or(u32::MAX);
            if call.is_late() {
                return Err(self.late(event).await);
            }
            match self.ledger().record(Submission::new(basis.decided_by(permit.generation()), event)).await {
                Ok(_receipt) => return Ok(found.into_page(&binding)),
                Err(Refused::Stale) => {}
                Err(refused) => return Err(refused.into()),
            }
        }
        Err(self.conflict(self.event(&asked)?).await)
    }

    /// Asks policy whether the log may be asked. The event of the question begins with what it said.
    async fn permit_question(
        &self,
        asked: &Asked<'_>,
    ) -> Result<(Event, policy::Permit<policy::action::QueryAudit>), Failure> {
        let mut event = self.event(asked)?;
        let context = asked.context(self.ledger().clock().now());
        let caller = &asked.call.caller;
        match self.policy().permit::<policy::action::QueryAudit>(caller, Resource::Vault, &context) {
            Ok(permit) => {
                decided(&mut event, &permit);
                Ok((event, permit))
            }
            Err(denied) => Err(self.denied(event, &denied, Vec::new).await),
        }
    }

    /// What to read for a question, or what is wrong with it.
    fn plan(&self, request: &QueryRequest) -> Result<Scan, Violation> {
        let filter = Filter::new(&request.filter, self.keyring(), self.policy().rulebook().scopes())?;
        let page_size = match usize::try_from(request.page_size) {
            Ok(0) => PAGE_DEFAULT,
            Ok(size @ 1..=PAGE_AT_MOST) => size,
            _ => return Err(Violation { field: "page_size", reason: Reason::PageSizeMalformed }),
        };
        let binding = filter.binding(request.newest_first);
        let cursor = match request.page_token.as_str() {
            "" => None,
            token => Some(Cursor::parse(token, &binding)?),
        };
        let order = if request.newest_first { Order::Descending } else { Order::Ascending };
        let (from, to) = match (cursor, order) {
            (None, _) => (0, u64::MAX),
            (Some(Cursor { next }), Order::Ascending) => (next, u64::MAX),
            // In descending order `next` is the last that was looked at: go on below it.
            (Some(Cursor { next }), Order::Descending) => (0, next),
        };
        Ok(Scan { index: filter.index_key(), filter, order, page_size, from, to })
    }
}

impl Scan {
    fn run(mut self, rows: &dyn Rows, keyring: &Keyring, ledger: &Ledger) -> Result<ScanResult, ReadError> {
        let mut result = ScanResult { events: Vec::new(), next: None };
        self.narrow(rows, ledger)?;
        if self.from >= self.to {
            return Ok(result);
        }
        let mut bytes = 0;
        let mut looked_at = 0;
        loop {
            let step = self.step(rows)?;
            for sequences in step.sequences.chunks(EVENTS_AT_ONCE) {
                for (sequence, encoded) in read_events(rows, sequences, ledger)? {
                    let mut event = event::decode(&encoded).map_err(|error| damaged(sequence, &error))?;
                    let matches = self.filter.matches(&event, keyring);
                    // Full is full only when there is one more to come: no page is empty but where the budget ended it.
                    // One event alone always fits, or there would be no way past it.
                    let too_long = bytes > 0 && bytes + encoded.len() > PAGE_BYTES_AT_MOST;
                    let full = matches && (result.events.len() >= self.page_size || too_long);
                    if full || looked_at >= SCAN_BUDGET {
                        result.next = Some(if self.order == Order::Ascending { sequence } else { sequence + 1 });
                        return Ok(result);
                    }
                    looked_at += 1;
                    self.go_on_behind(sequence);
                    if matches {
                        bytes += encoded.len();
                        ledger.log_id().as_ref().clone_into(&mut event.log_id);
                        event.sequence = sequence;
                        result.events.push(event);
                    }
                }
            }
            let Some(end) = step.end else { return Ok(result) };
            // Rows of the index that led nowhere are work as well.
            looked_at += step.passed_over;
            self.go_on_behind(end);
            if looked_at >= SCAN_BUDGET {
                result.next = Some(if self.order == Order::Ascending { self.from } else { self.to });
                return Ok(result);
            }
        }
    }

    /// Times never decrease along a log, so a time is a place in it: what lies outside need not be looked at.
    fn narrow(&mut self, rows: &dyn Rows, ledger: &Ledger) -> Result<(), ReadError> {
        let (start, end) = self.filter.times();
        if let Some(start) = start {
            self.from = self.from.max(first_from(rows, ledger, start)?);
        }
        if let Some(end) = end {
            self.to = self.to.min(first_from(rows, ledger, end)?);
        }
        Ok(())
    }

    fn go_on_behind(&mut self, sequence: u64) {
        match self.order {
            Order::Ascending => self.from = sequence + 1,
            Order::Descending => self.to = sequence,
        }
    }

    /// Where the next events stand.
    fn step(&self, rows: &dyn Rows) -> Result<Step, ReadError> {
        let Some(index) = &self.index else {
            let (from, to) = (self.from.to_be_bytes(), self.to.to_be_bytes());
            let found = rows.scan(Table::Events, &from, &to, self.order, EVENTS_AT_ONCE)?;
            let sequences: Vec<u64> = found.iter().map(sequence_of).collect();
            let end = sequences.last().copied().filter(|_| found.len() == EVENTS_AT_ONCE);
            return Ok(Step { sequences, end, passed_over: 0 });
        };
        let mut step = self.look_up(rows, index, |_| true)?;
        // After the other: then the issue of every token that it met is there to be found.
        if let Some((handle, index)) = self.filter.issue() {
            let issues = self.look_up(rows, &index, |marks| IndexKey::may_have_issued(marks, handle.as_bytes()))?;
            step.join(issues, self.order);
        }
        Ok(step)
    }

    /// The next rows under one key of the index whose content is `wanted`.
    fn look_up(&self, rows: &dyn Rows, index: &IndexKey, wanted: impl Fn(&[u8]) -> bool) -> Result<Step, ReadError> {
        let found = rows.scan(Table::EventIndex, &index.at(self.from), &index.at(self.to), self.order, ROWS_A_STEP)?;
        let end = found.last().and_then(|(key, _)| index.sequence(key)).filter(|_| found.len() == ROWS_A_STEP);
        let leads = found.iter().filter(|(_, content)| wanted(content));
        let sequences: Vec<u64> = leads.filter_map(|(key, _)| index.sequence(key)).collect();
        let passed_over = found.len() - sequences.len();
        Ok(Step { sequences, end, passed_over })
    }
}

impl Step {
    /// Both together, as far as both have been looked up.
    fn join(&mut self, other: Self, order: Order) {
        let is_before = |one: u64, other: u64| match order {
            Order::Ascending => one < other,
            Order::Descending => one > other,
        };
        self.end = match (self.end, other.end) {
            (Some(one), Some(other)) => Some(if is_before(one, other) { one } else { other }),
            (one, other) => one.or(other),
        };
        self.sequences.extend(other.sequences);
        self.passed_over += other.passed_over;
        if let Some(end) = self.end {
            self.sequences.retain(|sequence| *sequence == end || is_before(*sequence, end));
        }
        match order {
            Order::Ascending => self.sequences.sort_unstable(),
            Order::Descending => self.sequences.sort_unstable_by_key(|sequence| std::cmp::Reverse(*sequence)),
        }
    }
}

/// The first event at or after `time`, or the place behind the last one: about twenty reads in a log of a million.
fn first_from(rows: &dyn Rows, ledger: &Ledger, time: Timestamp) -> Result<u64, ReadError> {
    let outermost = |order| -> Result<Option<u64>, ReadError> {
        let (from, to) = (0_u64.to_be_bytes(), u64::MAX.to_be_bytes());
        Ok(rows.scan(Table::Events, &from, &to, order, 1)?.first().map(sequence_of))
    };
    let (Some(mut low), Some(last)) = (outermost(Order::Ascending)?, outermost(Order::Descending)?) else {
        return Ok(0);
    };
    let mut high = last + 1;
    while low < high {
        let middle = low.midpoint(high);
        let is_earlier = match read_events(rows, &[middle], ledger)?.pop() {
            Some((sequence, encoded)) => {
                let event = event::decode(&encoded).map_err(|error| damaged(sequence, &error))?;
                event.timestamp().unwrap_or_default() < time
            }
            // Dropped meanwhile because of its age.
            None => true,
        };
        if is_earlier {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn sequence_of((key, _): &Row) -> u64 {
    key.as_slice().try_into().map(u64::from_be_bytes).unwrap_or_default()
}

/// The events that stand there, but for those that have been dropped meanwhile because of their age.
fn read_events(rows: &dyn Rows, sequences: &[u64], ledger: &Ledger) -> Result<Vec<(u64, Vec<u8>)>, ReadError> {
    let keys: Vec<[u8; 8]> = sequences.iter().map(|sequence| sequence.to_be_bytes()).collect();
    let keys: Vec<&[u8]> = keys.iter().map(<[u8; 8]>::as_slice).collect();
    let encoded = rows.get(Table::Events, &keys, Tier::Disk)?;
    let events = sequences.iter().zip(encoded).filter_map(|(sequence, found)| match found {
        Found::Row(encoded) => Some(Ok((*sequence, encoded))),
        Found::Absent | Found::Cold if *sequence < ledger.kept_from() => None,
        Found::Absent | Found::Cold => Some(Err(missing(*sequence))),
    });
    events.collect()
}

/// Index and event are written together, and dropped together, so a number without its event is damage, not absence.
fn missing(sequence: u64) -> ReadError {
    ReadError::Corrupt { table: Table::Events.name(), detail: format!("event {sequence} is not there") }
}

/// Leaving it out would be an answer that is not complete.
fn damaged(sequence: u64, error: &event::DecodeError) -> ReadError {
    ReadError::Corrupt { table: Table::Events.name(), detail: format!("event {sequence}: {error}") }
}

/// A tree that can't be read has lost tiles, or has other ones.
fn damaged_tree(error: TreeError<ReadError>) -> ReadError {
    match error {
        TreeError::Read { source, .. } => source,
        error => ReadError::Corrupt { table: Table::Tree.name(), detail: error.to_string() },
    }
}

impl ScanResult {
    fn into_page(self, binding: &[u8]) -> Page {
        let next_page_token = self.next.map(|next| Cursor { next }.encode(binding)).unwrap_or_default();
        Page { events: self.events, next_page_token }
    }
}
