//! How far a sink has come, and what is said of it: metrics, and a line in the process's log when it stops taking events
//! and when it takes them again.

use super::Log;
use super::delivery::{Failed, Prepared};
use crate::clock::{Timestamp, in_words};
use std::collections::VecDeque;
use std::time::Duration;

/// How far a sink has come.
pub(super) struct Progress {
    pub name: String,
    /// Everything before this was taken, for all that can be known.
    pub settled: u64,
    /// Everything before this was sent.
    pub sent: u64,
    /// What was sent and is not settled, oldest first.
    waiting: VecDeque<Waiting>,
    /// The time of the oldest event that is read and not sent.
    unsent: Option<Timestamp>,
    outage: Option<Outage>,
}

/// A batch that was written, of which nobody says what became.
struct Waiting {
    until: u64,
    first: Timestamp,
    /// By the monotonic clock.
    written: Duration,
}

struct Outage {
    /// By the monotonic clock.
    since: Duration,
}

impl Progress {
    pub fn new(name: &str, settled: u64) -> Self {
        let labels = [("sink", name.to_owned())];
        // So that they are there before anything happens: an alert on what is not there never fires.
        metrics::counter!("cloakroom_sink_sent_events_total", &labels).increment(0);
        metrics::counter!("cloakroom_sink_refused_events_total", &labels).increment(0);
        metrics::counter!("cloakroom_sink_dropped_events_total", &labels).increment(0);
        metrics::gauge!("cloakroom_sink_stuck", &labels).set(0.0);
        for reason in Failed::REASONS {
            let name = name.to_owned();
            metrics::counter!("cloakroom_sink_failures_total", "sink" => name, "reason" => reason).increment(0);
        }
        Self { name: name.to_owned(), settled, sent: settled, waiting: VecDeque::new(), unsent: None, outage: None }
    }

    /// Shows how far it is behind.
    pub fn show(&self, log: &Log) {
        let durable = *log.durable.borrow();
        let oldest = self.waiting.front().map(|waiting| waiting.first).or(self.unsent);
        let lag = oldest.map_or(Duration::ZERO, |time| log.clock.wall().since(time));
        let events = durable.saturating_sub(self.settled);
        metrics::gauge!("cloakroom_sink_lag_events", "sink" => self.name.clone()).set(events as f64);
        metrics::gauge!("cloakroom_sink_lag_seconds", "sink" => self.name.clone()).set(lag.as_secs_f64());
    }

    /// These are to be sent next.
    pub fn sending(&mut self, batch: &[Prepared]) {
        self.unsent = batch.first().map(|first| first.time);
    }

    /// These are with the receiver for certain.
    pub fn acknowledged(&mut self, batch: &[Prepared], now: Duration) {
        self.passed(batch, now);
        self.settled = self.sent;
        self.count(batch);
    }

    /// These were written; whether they arrived shows in a while, if at all.
    pub fn written(&mut self, batch: &[Prepared], now: Duration) {
        self.passed(batch, now);
        let Some(first) = batch.first() else { return };
        self.waiting.push_back(Waiting { until: self.sent, first: first.time, written: now });
        self.count(batch);
    }

    fn passed(&mut self, batch: &[Prepared], now: Duration) {
        if let Some(last) = batch.last() {
            self.sent = last.sequence + 1;
        }
        self.unsent = None;
        self.recovered(now);
    }

    fn count(&self, batch: &[Prepared]) {
        let name = self.name.clone();
        metrics::counter!("cloakroom_sink_sent_events_total", "sink" => name).increment(batch.len() as u64);
    }

    /// What was written `patience` ago, over a connection that is still there, counts as taken.
    pub fn settle(&mut self, now: Duration, patience: Duration) {
        while let Some(waiting) = self.waiting.front()
            && now.saturating_sub(waiting.written) >= patience
        {
            self.settled = waiting.until;
            self.waiting.pop_front();
        }
    }

    /// When there is something to settle next, by the monotonic clock.
    pub fn settles_at(&self, patience: Duration) -> Option<Duration> {
        self.waiting.front().map(|waiting| waiting.written + patience)
    }

    /// The connection is gone: what is not settled is sent again.
    pub fn take_back(&mut self) {
        if let Some(first) = self.waiting.front() {
            self.unsent = Some(first.first);
        }
        self.sent = self.settled;
        self.waiting.clear();
    }

    /// The log begins only at `first`.
    pub fn skip_to(&mut self, first: u64) {
        let missing = first - self.sent;
        tracing::warn!(
            sink = self.name,
            events = missing,
            from = self.sent,
            to = first - 1,
            "the log no longer has events that this sink was not sent: they are skipped"
        );
        metrics::counter!("cloakroom_sink_dropped_events_total", "sink" => self.name.clone()).increment(missing);
        self.sent = first;
        // What was sent before has to settle first.
        match self.waiting.back_mut() {
            Some(last) => last.until = first,
            None => self.settled = first,
        }
    }

    /// The event before `next` was set aside: the sink acknowledges what it takes, so nothing is waiting.
    pub fn pass_over(&mut self, next: u64, now: Duration) {
        self.sent = next;
        self.settled = next;
        self.unsent = None;
        self.recovered(now);
    }

    /// So many of these were refused for good.
    pub fn refused(&mut self, events: u64) {
        metrics::counter!("cloakroom_sink_refused_events_total", "sink" => self.name.clone()).increment(events);
    }

    /// An attempt failed. The log has one line of it for each outage.
    pub fn failed(&mut self, failure: &Failed, now: Duration) {
        let reason = failure.reason();
        metrics::counter!("cloakroom_sink_failures_total", "sink" => self.name.clone(), "reason" => reason)
            .increment(1);
        if self.outage.is_some() {
            tracing::debug!(sink = self.name, %failure, "the sink still takes no events");
            return;
        }
        self.outage = Some(Outage { since: now });
        metrics::gauge!("cloakroom_sink_stuck", "sink" => self.name.clone()).set(1.0);
        tracing::warn!(
            sink = self.name,
            %failure,
            from = self.settled,
            "the sink takes no events: it is tried again and again, and nothing else waits for it"
        );
    }

    fn recovered(&mut self, now: Duration) {
        let Some(outage) = self.outage.take() else { return };
        metrics::gauge!("cloakroom_sink_stuck", "sink" => self.name.clone()).set(0.0);
        let lasted = in_words(now.saturating_sub(outage.since));
        tracing::info!(sink = self.name, %lasted, "the sink takes events again");
    }
}
