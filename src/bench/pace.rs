//! Calls that come when they are due, whether or not the server keeps up.
//!
//! A client that waits for a reply before it asks again slows down with the server, and never learns what others would have
//! waited meanwhile (coordinated omission). Here a schedule says when each call is due. Its time counts from then on, also if
//! it was sent later, and the next ones are sent while it waits.

use super::driver::{Caller, THREADS, exchange};
use super::load::Load;
use super::{Error, io};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Of so many replies one is looked into.
const LOOKED_INTO: usize = 32;

/// Calls at equal distances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    begin: Instant,
    /// Calls a second.
    rate: f64,
    /// The first ones, which are not counted: they meet a server that has to begin.
    warm_up: usize,
    /// All of them.
    calls: usize,
}

/// What became of the calls that count.
#[derive(Debug, Default)]
pub(super) struct Paced {
    /// From when they were due to their replies.
    pub took: Vec<Duration>,
    /// By how much they were sent too late: the client's own part.
    pub late: Vec<Duration>,
    /// They were refused, or the reply was wrong.
    pub failed: usize,
    pub problem: Option<Error>,
}

/// Says when calls are due, for as long as this is held.
pub(super) struct Pacing(#[expect(dead_code, reason = "that it is there tells the thread to go on")] Sender<()>);

impl Schedule {
    /// For so long after a warm-up, from `begin` on.
    pub(super) fn new(begin: Instant, rate: f64, warm_up: Duration, counted: Duration) -> Self {
        // Whoever is slower than that is not waited for.
        let rate = rate.max(1.0);
        let calls = |time: Duration| super::figures::whole((time.as_secs_f64() * rate).round()).max(1);
        let warm_up = calls(warm_up);
        Self { begin, rate, warm_up, calls: warm_up + calls(counted) }
    }

    /// When a call is to be sent.
    pub(super) fn due(&self, number: usize) -> Instant {
        self.begin + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// When the first call that counts is due, and when the one after the last would be.
    pub(super) fn counted(&self) -> (Instant, Instant) {
        (self.due(self.warm_up), self.due(self.calls))
    }

    /// How many are due by `now`.
    fn due_by(&self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.begin).as_secs_f64();
        let about = super::figures::whole(since * self.rate);
        // Rounding must not send one early or hold one back.
        let mut number = about.saturating_sub(1);
        while number < self.calls && self.due(number) <= now {
            number += 1;
        }
        number.min(self.calls)
    }
}

impl Paced {
    pub(super) fn add(&mut self, mut other: Self) {
        self.took.append(&mut other.took);
        self.late.append(&mut other.late);
        self.failed += other.failed;
        self.problem = self.problem.take().or(other.problem);
    }

    /// An error if not one call was answered.
    pub(super) fn or_failed(self, call: &'static str) -> Result<Self, Error> {
        if self.took.is_empty() {
            let none = || Error::Call { call, problem: "not one was answered".to_owned() };
            return Err(self.problem.unwrap_or_else(none));
        }
        Ok(self)
    }
}

/// A thread that waits for the moments and tells the client's threads. It is not one of theirs: their timers have a grain of
/// a millisecond.
pub(super) fn begin(schedule: Schedule, lanes: Vec<mpsc::UnboundedSender<usize>>) -> Result<Pacing, Error> {
    let (held, given_up) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("bench-pace".to_owned())
        .spawn(move || keep(&schedule, &lanes, &given_up))
        .map_err(io("can't start a client's thread"))?;
    Ok(Pacing(held))
}

fn keep(schedule: &Schedule, lanes: &[mpsc::UnboundedSender<usize>], given_up: &Receiver<()>) {
    let mut next = 0;
    while next < schedule.calls {
        let wait = schedule.due(next).saturating_duration_since(Instant::now());
        if !wait.is_zero() && given_up.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let due = schedule.due_by(Instant::now());
        if (next..due).any(|number| lanes[number % lanes.len()].send(number).is_err()) {
            return;
        }
        next = due;
    }
}

/// One thread's part: sends what it is told to send, and waits for all that it sent.
pub(super) async fn follow(
    callers: &Arc<[Caller]>,
    load: Load,
    schedule: Schedule,
    mut due: mpsc::UnboundedReceiver<usize>,
) -> Paced {
    let load = Arc::new(load);
    let mut running = JoinSet::new();
    let mut all = Paced::default();
    while let Some(number) = due.recv().await {
        let (mut caller, load) = (callers[number / THREADS % callers.len()].clone(), Arc::clone(&load));
        running.spawn(async move {
            let (due, sent) = (schedule.due(number), Instant::now());
            let reply = exchange(&mut caller, &load, number, number.is_multiple_of(LOOKED_INTO)).await;
            let counts = number >= schedule.warm_up;
            counts.then(|| (reply.map(|_| due.elapsed()), sent.saturating_duration_since(due)))
        });
        while let Some(done) = running.try_join_next() {
            all.take(done.ok().flatten());
        }
    }
    while let Some(done) = running.join_next().await {
        all.take(done.ok().flatten());
    }
    all
}

impl Paced {
    fn take(&mut self, call: Option<(Result<Duration, Error>, Duration)>) {
        let Some((reply, late)) = call else { return };
        self.late.push(late);
        match reply {
            Ok(took) => self.took.push(took),
            Err(problem) => {
                self.failed += 1;
                self.problem.get_or_insert(problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: f64) -> Schedule {
        Schedule::new(Instant::now(), rate, Duration::from_millis(100), Duration::from_secs(1))
    }

    #[test]
    fn a_schedule_has_its_rate_and_no_call_is_early() {
        for rate in [3.0, 100.0, 7_919.0, 250_000.0] {
            let schedule = schedule(rate);
            let (first, end) = schedule.counted();
            let counted = (schedule.calls - schedule.warm_up) as f64;
            assert!((counted / (end - first).as_secs_f64() / rate - 1.0).abs() < 0.001, "{rate}");
            for number in [0, 1, schedule.warm_up, schedule.calls - 1] {
                let due = schedule.due(number);
                assert_eq!(schedule.due_by(due), number + 1, "{rate}: {number} is sent when it is due");
                let before = due.checked_sub(Duration::from_nanos(1)).unwrap();
                assert_eq!(schedule.due_by(before), number, "{rate}: {number} is not sent before");
            }
            assert_eq!(schedule.due_by(end + Duration::from_secs(9)), schedule.calls, "and then no more come");
        }
    }

    #[test]
    fn all_calls_are_told_once_and_to_all_threads() {
        let schedule = schedule(2_000.0);
        let (lanes, mut told): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::unbounded_channel()).unzip();
        let _pacing = begin(schedule, lanes).unwrap();
        for (thread, told) in told.iter_mut().enumerate() {
            let mut next = thread;
            while let Some(number) = told.blocking_recv() {
                assert!(Instant::now() >= schedule.due(number), "{number} came early");
                assert_eq!(number, next);
                next += 2;
            }
            assert_eq!(next, schedule.calls + thread);
        }
    }

    #[test]
    fn whoever_gives_up_ends_the_pace() {
        let slow = Schedule::new(Instant::now(), 0.001, Duration::ZERO, Duration::from_secs(1));
        let (lane, mut told) = mpsc::unbounded_channel();
        drop(begin(slow, vec![lane]).unwrap());
        // The first call is due at once; the next one would be in a quarter of an hour.
        while told.blocking_recv().is_some() {}
    }

    #[test]
    fn the_wait_for_a_stalled_server_counts_from_when_a_call_was_due() {
        let mut paced = Paced::default();
        let failed = || Error::Call { call: "Echo", problem: "refused".to_owned() };
        paced.take(None);
        paced.take(Some((Err(failed()), Duration::from_millis(3))));
        assert_eq!((paced.failed, paced.took.len(), paced.late.len()), (1, 0, 1));
        let none = Paced { problem: Some(failed()), ..Paced::default() };
        assert!(matches!(none.or_failed("Echo"), Err(Error::Call { problem, .. }) if problem == "refused"));
        paced.take(Some((Ok(Duration::from_millis(7)), Duration::ZERO)));
        assert_eq!(paced.or_failed("Echo").unwrap().took, [Duration::from_millis(7)]);
    }
}
