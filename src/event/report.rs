//! A stretch of the log, counted: who got how much of what and what for, who was refused, what was changed, who asked the
//! log itself, and what is out of the ordinary.
//!
//! Events are added one by one and forgotten. Memory is bounded whatever they say: there are so many callers, so many
//! rows for each, so many hours. What goes beyond stands in rows that name nobody, so no call is ever left out of a sum,
//! and the report says how many calls stand there.
//!
//! Invariant: the totals are those of all events of the window, whatever was folded.

mod pace;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::json::rfc3339;
use super::{Action, Event, ItemOutcome, Outcome, Reveal};
use crate::clock::Timestamp;

pub use pace::{Newcomer, Rate, Unusual};
pub use table::Row;

use pace::Paces;
use table::{Key, Table};

/// The version of the report's JSON. A field may be added under the same number; none is renamed or taken away.
pub const FORMAT: u32 = 1;

const HOUR_MILLIS: u64 = 3_600_000;
const DAY_MILLIS: u64 = 24 * HOUR_MILLIS;
/// An hour, a day, a week, thirty days, a year.
const POINT_MILLIS: [u64; 5] = [HOUR_MILLIS, DAY_MILLIS, 7 * DAY_MILLIS, 30 * DAY_MILLIS, 365 * DAY_MILLIS];
/// A chart has room for about so many.
const POINTS_AT_MOST: u64 = 120;

/// The stretch of the log that is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// From this time on.
    pub since: Timestamp,
    /// Before this time.
    pub until: Timestamp,
    /// Only what names this scope.
    pub scope: Option<String>,
}

/// How much is told apart.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Callers.
    pub callers: usize,
    /// Rows of one caller in one table.
    pub rows: usize,
    /// Hours of one caller: the newest in which it got values.
    pub hours: usize,
}

/// What has been counted so far.
pub struct Report {
    window: Window,
    bounds: Bounds,
    log_id: String,
    read: Read,
    totals: Totals,
    releases: Table,
    denials: Table,
    failures: Table,
    changes: Table,
    questions: Table,
    operations: Table,
    paces: Paces,
    points: Points,
    week: [[u64; 24]; 7],
}

/// The course of time in steps that are as short as a chart has room for.
#[derive(Default)]
struct Points {
    /// Which of [`POINT_MILLIS`].
    step: usize,
    /// By where they begin.
    points: BTreeMap<u64, Point>,
}

/// Which events were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Read {
    /// How many.
    pub events: u64,
    /// The lowest sequence.
    pub first_sequence: Option<u64>,
    /// The highest.
    pub last_sequence: Option<u64>,
    /// When the oldest of them was written.
    #[serde(serialize_with = "optional_moment")]
    pub first_time: Option<Timestamp>,
    /// When the newest of them was written.
    #[serde(serialize_with = "optional_moment")]
    pub last_time: Option<Timestamp>,
}

/// Sums over all events of the window. A summary event counts as the calls that it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Values that left in full.
    pub values_full: u64,
    /// Values that left masked.
    pub values_masked: u64,
    /// Items of permitted Detokenize calls for which nothing left: unknown, expired, revoked and so on.
    pub items_withheld: u64,
    /// Tokens that were issued.
    pub tokens_issued: u64,
    /// Permitted Detokenize calls.
    pub release_calls: u64,
    /// Denied calls and refused connections.
    pub denied_calls: u64,
    /// Failed calls.
    pub failed_calls: u64,
    /// Permitted Tokenize, `InspectTokens`, `RenewTokens` and `RevokeTokens` calls.
    pub change_calls: u64,
    /// Permitted questions to the log.
    pub question_calls: u64,
    /// What the vault or its operators did besides.
    pub operation_calls: u64,
}

/// A stretch of time in a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Where it begins.
    #[serde(serialize_with = "moment")]
    pub begin: Timestamp,
    /// Values that left in full.
    pub full: u64,
    /// Values that left masked.
    pub masked: u64,
    /// Denied calls and refused connections.
    pub denied: u64,
    /// Failed calls.
    pub failed: u64,
}

/// Everything that a report says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// [`FORMAT`].
    pub format: u32,
    /// The log.
    pub log_id: String,
    /// From this time on.
    #[serde(serialize_with = "moment")]
    pub since: Timestamp,
    /// Before this time.
    #[serde(serialize_with = "moment")]
    pub until: Timestamp,
    /// Only what names this scope; questions to the log name none.
    pub scope: Option<String>,
    /// Which events were counted.
    pub read: Read,
    /// Sums over all of them.
    pub totals: Totals,
    /// What is out of the ordinary, and by which rule.
    pub unusual: Unusual,
    /// Who got how much of what and what for. `word` is the purpose.
    #[serde(serialize_with = "table::releases")]
    pub releases: Vec<Row>,
    /// Who was refused what and why. `word` is the reason.
    #[serde(serialize_with = "table::refusals")]
    pub denials: Vec<Row>,
    /// What failed and why. `word` is the reason.
    #[serde(serialize_with = "table::refusals")]
    pub failures: Vec<Row>,
    /// Who tokenized, inspected, renewed and revoked.
    #[serde(serialize_with = "table::changes")]
    pub changes: Vec<Row>,
    /// Who asked the log.
    #[serde(serialize_with = "table::questions")]
    pub questions: Vec<Row>,
    /// What else was done: starts, reloads, keys, purges.
    #[serde(serialize_with = "table::operations")]
    pub operations: Vec<Row>,
    /// Seconds from one point to the next.
    pub point_seconds: u64,
    /// The course of time, without gaps, in UTC.
    pub points: Vec<Point>,
    /// Values that left by weekday (Monday first) and hour of the day, UTC.
    pub week: [[u64; 24]; 7],
    /// Calls that stand in rows without a name, because there were more names than are told apart.
    pub folded_calls: u64,
}

impl Window {
    fn holds(&self, event: &Event, time: Timestamp) -> bool {
        time >= self.since && time < self.until && self.scope.as_ref().is_none_or(|scope| *scope == event.scope)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { callers: 500, rows: 64, hours: 1000 }
    }
}

impl Report {
    /// Nothing counted yet.
    pub fn new(window: Window, bounds: Bounds) -> Self {
        Self {
            window,
            bounds,
            log_id: String::new(),
            read: Read::default(),
            totals: Totals::default(),
            releases: Table::default(),
            denials: Table::default(),
            failures: Table::default(),
            changes: Table::default(),
            questions: Table::default(),
            operations: Table::default(),
            paces: Paces::default(),
            points: Points::default(),
            week: [[0; 24]; 7],
        }
    }

    /// Counts an event. One outside the window, or of another scope, is passed over.
    pub fn add(&mut self, event: &Event) {
        let Some(time) = event.timestamp() else { return };
        if !self.window.holds(event, time) {
            return;
        }
        self.read.add(event, time);
        if self.log_id.is_empty() {
            self.log_id.clone_from(&event.log_id);
        }
        let row = Row::of(event, time);
        self.totals.add(event, &row);
        self.draw(event.outcome(), time, &row);
        let caller = caller(event);
        if !event.caller.is_empty() {
            self.paces.add(&caller, time, &row, self.bounds);
        }
        let (table, word) = match (event.outcome(), event.action()) {
            (Outcome::Denied, _) => (&mut self.denials, event.reason.clone()),
            (Outcome::Failed, _) => (&mut self.failures, event.reason.clone()),
            (_, Action::Detokenize) => (&mut self.releases, event.purpose.clone()),
            (_, Action::Tokenize | Action::Inspect | Action::Renew | Action::Revoke) => {
                (&mut self.changes, String::new())
            }
            (_, Action::QueryAudit) => (&mut self.questions, String::new()),
            _ => (&mut self.operations, String::new()),
        };
        let key = Key { action: event.action(), scope: Some(event.scope.clone()), word: Some(word) };
        table.add(caller, key, &row, self.bounds);
    }

    fn draw(&mut self, outcome: Outcome, time: Timestamp, row: &Row) {
        let point = self.points.at(time);
        match outcome {
            Outcome::Denied => grow(&mut point.denied, row.calls),
            Outcome::Failed => grow(&mut point.failed, row.calls),
            Outcome::Allowed | Outcome::Unspecified => {
                grow(&mut point.full, row.full);
                grow(&mut point.masked, row.masked);
                let (weekday, hour) = place_in_week(time);
                grow(&mut self.week[weekday][hour], row.values());
            }
        }
    }

    /// What has been counted, in order: what weighs most comes first.
    pub fn summary(&self) -> Summary {
        let tables = [&self.releases, &self.denials, &self.failures, &self.changes, &self.questions, &self.operations];
        let [releases, denials, failures, changes, questions, operations] = tables.map(Table::rows);
        Summary {
            format: FORMAT,
            log_id: self.log_id.clone(),
            since: self.window.since,
            until: self.window.until,
            scope: self.window.scope.clone(),
            read: self.read.clone(),
            totals: self.totals,
            unusual: self.paces.unusual(&self.window, self.read.first_time),
            releases,
            denials,
            failures,
            changes,
            questions,
            operations,
            point_seconds: self.points.length() / 1000,
            points: self.points.without_gaps(),
            week: self.week,
            folded_calls: tables.iter().map(|table| table.folded_calls()).fold(0, u64::saturating_add),
        }
    }
}

impl Points {
    /// Milliseconds from one to the next.
    fn length(&self) -> u64 {
        POINT_MILLIS[self.step]
    }

    /// The one that `time` lies in. Where they become too many, longer ones take the place of shorter ones.
    fn at(&mut self, time: Timestamp) -> &mut Point {
        let millis = time.millis();
        let first = self.points.first_key_value().map_or(millis, |(first, _)| millis.min(*first));
        let last = self.points.last_key_value().map_or(millis, |(last, _)| millis.max(*last));
        while last / self.length() - first / self.length() >= POINTS_AT_MOST && self.step + 1 < POINT_MILLIS.len() {
            self.step += 1;
            for (begin, point) in std::mem::take(&mut self.points) {
                self.entry(begin).join(&point);
            }
        }
        self.entry(millis)
    }

    fn entry(&mut self, millis: u64) -> &mut Point {
        let begin = millis / self.length() * self.length();
        self.points.entry(begin).or_insert_with(|| Point::at(begin))
    }

    /// With the empty ones between the first and the last.
    fn without_gaps(&self) -> Vec<Point> {
        let (Some(first), Some(last)) = (self.points.first_key_value(), self.points.last_key_value()) else {
            return Vec::new();
        };
        let length = usize::try_from(self.length()).unwrap_or(usize::MAX);
        let begins = (*first.0..=*last.0).step_by(length);
        begins.map(|begin| self.points.get(&begin).copied().unwrap_or_else(|| Point::at(begin))).collect()
    }
}

impl Read {
    fn add(&mut self, event: &Event, time: Timestamp) {
        grow(&mut self.events, 1);
        self.first_sequence = Some(self.first_sequence.map_or(event.sequence, |first| first.min(event.sequence)));
        self.last_sequence = Some(self.last_sequence.map_or(event.sequence, |last| last.max(event.sequence)));
        self.first_time = Some(self.first_time.map_or(time, |first| first.min(time)));
        self.last_time = Some(self.last_time.map_or(time, |last| last.max(time)));
    }
}

impl Totals {
    fn add(&mut self, event: &Event, row: &Row) {
        let calls = match (event.outcome(), event.action()) {
            (Outcome::Denied, _) => &mut self.denied_calls,
            (Outcome::Failed, _) => &mut self.failed_calls,
            (_, Action::Detokenize) => {
                grow(&mut self.values_full, row.full);
                grow(&mut self.values_masked, row.masked);
                grow(&mut self.items_withheld, row.not_done);
                &mut self.release_calls
            }
            (_, Action::Tokenize) => {
                grow(&mut self.tokens_issued, row.done);
                &mut self.change_calls
            }
            (_, Action::Inspect | Action::Renew | Action::Revoke) => &mut self.change_calls,
            (_, Action::QueryAudit) => &mut self.question_calls,
            _ => &mut self.operation_calls,
        };
        grow(calls, row.calls);
    }
}

impl Point {
    fn at(begin: u64) -> Self {
        Self { begin: Timestamp::from_millis(begin), full: 0, masked: 0, denied: 0, failed: 0 }
    }

    fn join(&mut self, other: &Self) {
        grow(&mut self.full, other.full);
        grow(&mut self.masked, other.masked);
        grow(&mut self.denied, other.denied);
        grow(&mut self.failed, other.failed);
    }
}

impl Row {
    /// What one event adds to its row. A summary counts as the calls that it stands for, from the first of them on.
    fn of(event: &Event, time: Timestamp) -> Self {
        let first = event.first_time.and_then(|first| Timestamp::try_from(first).ok());
        let (full, masked) = match (event.outcome(), event.action()) {
            (Outcome::Allowed, Action::Detokenize) => left(event),
            _ => (0, 0),
        };
        let done = match event.action() {
            Action::Detokenize => full + masked,
            _ => u64::from(event.succeeded),
        };
        Self {
            calls: event.count.max(1),
            full,
            masked,
            done,
            not_done: u64::from(event.requested).saturating_sub(done),
            first_time: first.map_or(time, |first| first.min(time)),
            last_time: time,
            ..Self::default()
        }
    }

    /// Values that left, in full or masked.
    pub fn values(&self) -> u64 {
        self.full.saturating_add(self.masked)
    }
}

/// How many values left in full and masked. What became of each item says it; where that is not told, the call's own
/// count does.
fn left(event: &Event) -> (u64, u64) {
    if !event.item_outcomes.is_empty() {
        let count = |wanted| event.item_outcomes().filter(|outcome| *outcome == wanted).count() as u64;
        return (count(ItemOutcome::Released), count(ItemOutcome::Masked));
    }
    match event.reveal() {
        Reveal::Masked => (0, event.succeeded.into()),
        Reveal::Full | Reveal::Unspecified => (event.succeeded.into(), 0),
    }
}

/// Who it was. Without an identity: where the connection came from, if that is known.
fn caller(event: &Event) -> String {
    if !event.caller.is_empty() {
        return event.caller.clone();
    }
    match event.peer_address.as_str() {
        "" => "unknown".to_owned(),
        address => format!("unknown, from {address}"),
    }
}

/// Weekday from Monday and hour of the day, UTC.
fn place_in_week(time: Timestamp) -> (usize, usize) {
    let hours = time.millis() / HOUR_MILLIS;
    // The epoch was a Thursday.
    let (weekday, hour) = ((hours / 24 + 3) % 7, hours % 24);
    (usize::try_from(weekday).unwrap_or_default(), usize::try_from(hour).unwrap_or_default())
}

fn grow(total: &mut u64, by: u64) {
    *total = total.saturating_add(by);
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn moment<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339(*time))
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference")]
fn optional_moment<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => moment(time, serializer),
        None => serializer.serialize_none(),
    }
}
