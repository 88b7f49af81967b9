//! How far a network thread is behind: which calls wait in line, and which it should not begin at all.
//!
//! A thread that gets more calls than it can do would do all of them late: the queue grows until every answer comes after its
//! caller's deadline, and all work is for nothing. So a thread that has fallen behind begins a few calls each time its tasks have
//! taken turns, and the others wait in line, where they cost nothing, while connections go on being read. What comes to a line
//! that is too long is refused there and then, before its message is read: who is told at once can go elsewhere.
//!
//! A burst is no such line, it goes away by itself: only where there has been a line for half a second is anybody refused. What
//! is served, is served soon.
//!
//! How long a call has waited before its connection was read nobody can say. But the thread's tasks take turns, so all wait as
//! long as one that does nothing but look how late it is.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// So often it is looked.
const PERIOD: Duration = Duration::from_millis(5);
/// Who looks no later than this says that the thread keeps up with its calls.
const KEEPS_UP: Duration = Duration::from_millis(5);
/// With a line, so long its tasks take for their turns. With less, connections would be read, and answers written, piece by
/// piece, which costs more than all else; with more, refusals would be late.
const ROUND: Duration = Duration::from_millis(12);
/// So long there may be a line.
const BURST: Duration = Duration::from_millis(500);
/// After that, so long a call may have to wait in it. A few hundred callers with large batches, each waiting for its answer
/// before it sends the next, make a line of a tenth of a second that never grows: they are served.
const WAIT_AT_MOST: Duration = Duration::from_millis(250);
/// In a line of no more calls than these nobody is refused: they are slow, and not too many.
const CALLS_AT_LEAST: usize = 64;

/// Of one thread. Only that thread asks, so nobody waits for the lock.
pub struct Lag {
    state: Mutex<State>,
    /// Whoever is in line waits for a permit, first come, first served.
    line: Semaphore,
}

struct State {
    /// When the one that looks is to have its next turn.
    due: Instant,
    /// How late it was the last time.
    late: Duration,
    /// Calls in line, and since when there has been any.
    waiting: usize,
    since: Option<Instant>,
    /// When some of them were let in, how many, and how long it took for one, averaged over the last few times.
    last: Option<Instant>,
    let_in: usize,
    pace: Duration,
}

/// What a call finds when its connection has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrival {
    /// How long it has waited for that, as far as it can be known.
    pub waited: Duration,
    /// Whether the line is too long for one more.
    pub is_refused: bool,
}

/// A place in line. It is given up with this.
struct Place<'l> {
    lag: &'l Lag,
    since: Instant,
}

impl Lag {
    /// Of a thread that has nothing to do yet.
    pub fn new() -> Arc<Self> {
        let due = Instant::now() + PERIOD;
        let (late, pace) = (Duration::ZERO, Duration::ZERO);
        let state = State { due, late, waiting: 0, since: None, last: None, let_in: 1, pace };
        Arc::new(Self { state: Mutex::new(state), line: Semaphore::new(0) })
    }

    /// Looks how late it is, again and again, and lets in who is next. To be run as a task on the thread itself.
    pub async fn watch(self: Arc<Self>) {
        loop {
            if self.look(Instant::now()) {
                // All others have a turn before the next are let in.
                tokio::task::yield_now().await;
            } else {
                let due = self.state.lock().due;
                tokio::time::sleep_until(due).await;
            }
        }
    }

    /// Whether there is a line, of which some were let in.
    fn look(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.late = now.saturating_duration_since(state.due);
        state.due = now + PERIOD;
        if state.waiting == 0 {
            state.last = None;
            return false;
        }
        if let Some(last) = state.last.replace(now) {
            let round = now.duration_since(last);
            state.pace = (state.pace * 7 + round / u32::try_from(state.let_in).unwrap_or(u32::MAX)) / 8;
            state.let_in = if round < ROUND { state.let_in + 1 } else { (state.let_in * 3 / 4).max(1) };
        }
        state.let_in = state.let_in.min(state.waiting);
        // Those that went away, their callers gone, may have left theirs.
        self.line.add_permits(state.let_in.saturating_sub(self.line.available_permits()));
        true
    }

    /// A call has been read from its connection.
    pub(super) fn arrival(&self, now: Instant) -> Arrival {
        let state = self.state.lock();
        // Whoever comes before the one that looks, though that one is due, has waited for longer than it.
        let late = state.late.max(now.saturating_duration_since(state.due));
        let waited = if late > KEEPS_UP { late } else { Duration::ZERO };
        let wait = state.pace.saturating_mul(u32::try_from(state.waiting).unwrap_or(u32::MAX));
        Arrival { waited, is_refused: state.is_standing(now) && wait > WAIT_AT_MOST }
    }

    /// Waits until the call may begin. Whether it has waited for so long that others should go first.
    pub(super) async fn turn(&self) -> Result<(), TooLate> {
        let Some(place) = self.place(Instant::now()) else { return Ok(()) };
        // It is never closed.
        if let Ok(permit) = self.line.acquire().await {
            permit.forget();
        }
        place.is_reached(Instant::now())
    }

    /// A place in line, if there has to be one.
    fn place(&self, now: Instant) -> Option<Place<'_>> {
        let mut state = self.state.lock();
        if state.waiting == 0 && now <= state.due + KEEPS_UP {
            return None;
        }
        state.waiting += 1;
        state.since.get_or_insert(now);
        drop(state);
        Some(Place { lag: self, since: now })
    }
}

/// A call that waited in line for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLate;

impl State {
    /// Whether there is a line that does not go away by itself.
    fn is_standing(&self, now: Instant) -> bool {
        self.waiting > CALLS_AT_LEAST && self.since.is_some_and(|since| now.duration_since(since) > BURST)
    }
}

impl Place<'_> {
    fn is_reached(&self, now: Instant) -> Result<(), TooLate> {
        let waited = now.duration_since(self.since);
        let is_late = waited > WAIT_AT_MOST && self.lag.state.lock().is_standing(now);
        if is_late { Err(TooLate) } else { Ok(()) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.lag.state.lock();
        state.waiting -= 1;
        if state.waiting == 0 {
            state.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread with its clock.
    struct Thread {
        lag: Arc<Lag>,
        begin: Instant,
    }

    impl Thread {
        fn new() -> Self {
            let lag = Lag::new();
            let begin = lag.state.lock().due;
            Self { lag, begin }
        }

        fn at(&self, millis: u64) -> Instant {
            self.begin + Duration::from_millis(millis)
        }

        fn places(&self, count: usize, millis: u64) -> Vec<Option<Place<'_>>> {
            (0..count).map(|_| self.lag.place(self.at(millis))).collect()
        }

        /// Rounds that take as long as one may, and in which one call is done.
        fn slow_rounds(&self, from: u64, count: u64) {
            for round in 0..count {
                assert!(self.lag.look(self.at(from) + ROUND * u32::try_from(round).unwrap()));
                assert_eq!(self.lag.state.lock().let_in, 1);
            }
        }

        fn is_refused(&self, millis: u64) -> bool {
            self.lag.arrival(self.at(millis)).is_refused
        }
    }

    #[test]
    fn who_comes_to_a_thread_that_keeps_up_begins_at_once() {
        let thread = Thread::new();
        assert_eq!(thread.lag.arrival(thread.at(5)), Arrival { waited: Duration::ZERO, is_refused: false });
        assert!(thread.lag.place(thread.at(5)).is_none());
        assert!(!thread.lag.look(thread.at(5)));
        assert!(thread.lag.place(thread.at(15)).is_none());
    }

    #[test]
    fn who_comes_to_a_thread_that_is_behind_waits_in_line_and_the_line_ends() {
        let thread = Thread::new();
        let first = thread.lag.place(thread.at(6)).unwrap();
        assert_eq!(thread.lag.arrival(thread.at(400)).waited, Duration::from_millis(400));
        assert!(thread.lag.look(thread.at(400)));
        // It keeps up again, but who comes now is not the first.
        let second = thread.lag.place(thread.at(401)).unwrap();
        assert_eq!(first.is_reached(thread.at(2000)), Ok(()), "they are few");
        drop(first);
        assert!(thread.lag.place(thread.at(402)).is_some(), "one is in line");
        drop(second);
        assert!(thread.lag.place(thread.at(402)).is_none());
        assert!(!thread.lag.look(thread.at(403)));
    }

    #[test]
    fn a_line_that_stands_is_cut_and_a_burst_is_not_d_07() {
        let thread = Thread::new();
        let mut line = thread.places(CALLS_AT_LEAST + 1, 6);
        // They would wait for more than a second.
        thread.slow_rounds(6, 26);
        assert!(!thread.is_refused(506), "a burst");
        assert!(thread.is_refused(507), "it stands");
        let is_reached = |place: &Option<Place<'_>>, millis| place.as_ref().unwrap().is_reached(thread.at(millis));
        assert_eq!(is_reached(&line[0], 506), Ok(()));
        assert_eq!(is_reached(&line[0], 507), Err(TooLate));
        line.extend(thread.places(1, 507));
        assert_eq!(is_reached(&line[CALLS_AT_LEAST + 1], 757), Ok(()));
        assert_eq!(is_reached(&line[CALLS_AT_LEAST + 1], 758), Err(TooLate));
        line.truncate(CALLS_AT_LEAST);
        assert!(!thread.is_refused(900), "they are few");
        assert_eq!(is_reached(&line[0], 900), Ok(()));
        // A line that was gone may stand for half a second again.
        line.clear();
        line.extend(thread.places(CALLS_AT_LEAST + 1, 1000));
        assert!(!thread.is_refused(1500));
        assert!(thread.is_refused(1501));
    }

    #[test]
    fn of_calls_that_are_soon_done_more_are_let_in_and_more_may_wait_d_07() {
        let thread = Thread::new();
        let line = thread.places(1000, 6);
        for millis in 6..1006 {
            assert!(thread.lag.look(thread.at(millis)));
        }
        // Each second of these would do a hundred thousand.
        assert!(!thread.is_refused(1006), "a few milliseconds, however many they are");
        assert_eq!(thread.lag.line.available_permits(), line.len());
        // Of slower ones fewer are.
        let of_fast = thread.lag.state.lock().let_in;
        assert!(thread.lag.look(thread.at(1100)));
        assert!(thread.lag.state.lock().let_in < of_fast);
    }

    #[tokio::test]
    async fn they_are_let_in_in_order_and_who_goes_away_keeps_nobody_out() {
        let lag = Lag::new();
        lag.state.lock().due -= KEEPS_UP * 3;
        let began = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..10 {
            let (lag, began) = (Arc::clone(&lag), Arc::clone(&began));
            tasks.push(tokio::spawn(async move {
                lag.turn().await.unwrap();
                began.lock().push(number);
            }));
        }
        tokio::task::yield_now().await;
        assert_eq!((began.lock().len(), lag.state.lock().waiting), (0, 10));
        for gone in [0, 4, 9] {
            tasks[gone].abort();
        }
        let watch = tokio::spawn(Arc::clone(&lag).watch());
        for task in tasks {
            let _ = task.await;
        }
        assert_eq!(*began.lock(), [1, 2, 3, 5, 6, 7, 8]);
        assert_eq!(lag.state.lock().waiting, 0);
        watch.abort();
        lag.state.lock().due += BURST;
        assert_eq!(lag.turn().await, Ok(()), "nobody is in line");
    }
}
