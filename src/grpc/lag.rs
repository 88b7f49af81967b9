//! How far a network thread is behind, and which calls it should not begin any more.
//!
//! A thread that gets more calls than it can do would do all of them late: the queue grows until every answer comes after its
//! caller's deadline, and all work is for nothing. So calls that have waited for long are refused, before their message is read.
//! A burst is no such queue, it goes away by itself: only a thread that has not caught up with its calls for half a second
//! refuses any, and then those that have waited for more than a moment. What it does serve, it serves soon.
//!
//! How long a call has waited nobody can say: the transport tells of it when it is its turn. But the thread's tasks take turns, so
//! all wait as long as one that does nothing but look how late it is.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// So often it is looked.
const PERIOD: Duration = Duration::from_millis(5);
/// Who has waited no longer than this says that the thread has caught up.
const CAUGHT_UP: Duration = Duration::from_millis(5);
/// So long a queue may stand.
const BURST: Duration = Duration::from_millis(500);
/// After that, so long a call may wait. A few hundred callers with large batches, each waiting for its answer before it sends
/// the next, keep a queue of a tenth of a second that never grows: they are served.
const WAIT_AT_MOST: Duration = Duration::from_millis(250);
/// Of no more calls than these in the queue nobody is refused: they are slow, and not too many.
const CALLS_AT_LEAST: u64 = 64;

/// Of one thread. Only that thread asks, so nobody waits for the lock.
pub struct Lag(Mutex<State>);

struct State {
    /// When the one that looks is to have its next turn.
    due: Instant,
    /// How late it was the last time, and how many calls had their turn while it waited.
    late: Duration,
    length: u64,
    /// Calls that have had their turn since.
    begun: u64,
    caught_up: Instant,
}

/// What a call finds that has its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// How long it has waited, as far as that can be known.
    pub waited: Duration,
    /// Whether it should not be begun.
    pub is_too_late: bool,
}

impl Lag {
    /// Of a thread that has nothing to do yet.
    pub fn new() -> Arc<Self> {
        let now = Instant::now();
        let state = State { due: now + PERIOD, late: Duration::ZERO, length: 0, begun: 0, caught_up: now };
        Arc::new(Self(Mutex::new(state)))
    }

    /// Looks how late it is, again and again. To be run as a task on the thread itself.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let due = self.0.lock().due;
            tokio::time::sleep_until(due).await;
            self.look(Instant::now());
        }
    }

    fn look(&self, now: Instant) {
        let mut state = self.0.lock();
        state.late = now.duration_since(state.due);
        state.length = std::mem::take(&mut state.begun);
        state.due = now + PERIOD;
        if state.late <= CAUGHT_UP {
            state.caught_up = now;
        }
    }

    /// A call has its turn.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        let mut state = self.0.lock();
        state.begun += 1;
        // Whoever comes before the one that looks, though that one is due, has waited for longer than it.
        let waited = state.late.max(now.duration_since(state.due));
        if waited <= CAUGHT_UP {
            state.caught_up = now;
            // It may have been on its way for no time at all.
            return Turn { waited: Duration::ZERO, is_too_late: false };
        }
        let stands = now.duration_since(state.caught_up) > BURST;
        let is_long = state.length.max(state.begun) > CALLS_AT_LEAST;
        Turn { waited, is_too_late: stands && is_long && waited > WAIT_AT_MOST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_stands_is_cut_and_a_burst_is_not_d_07() {
        let lag = Lag::new();
        let begin = lag.0.lock().due;
        let at = |millis| begin + Duration::from_millis(millis);
        let turns = |count: u64, millis| (0..count).filter(|_| lag.turn(at(millis)).is_too_late).count();
        assert_eq!(lag.turn(at(0)), Turn { waited: Duration::ZERO, is_too_late: false });
        // The one that looks has no turn for half a second: a burst.
        assert_eq!(turns(100, 400), 0);
        assert_eq!(lag.turn(at(400)).waited, Duration::from_millis(400));
        assert_eq!(turns(10, 500), 0);
        assert_eq!(turns(10, 501), 10, "it stands");
        lag.look(at(502));
        assert_eq!(turns(10, 503), 10, "these came while it waited");
        // From now on it is not very late, so neither are calls.
        lag.look(at(520));
        assert_eq!(turns(10, 521), 0);
        lag.look(at(800));
        assert_eq!(turns(10, 801), 0, "they are few");
        assert_eq!(turns(100, 802), 100 - (CALLS_AT_LEAST as usize - 10));
        // Caught up: again half a second.
        lag.look(at(808));
        assert_eq!(turns(1, 809), 0);
        assert_eq!(turns(100, 1100), 0);
        assert_eq!(turns(100, 1310), 100);
    }
}
