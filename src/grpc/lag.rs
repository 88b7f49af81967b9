//! How far a network thread is behind, and which calls it should not begin any more.
//!
//! A thread that gets more calls than it can do would do all of them late: the queue grows until every answer comes after its
//! caller's deadline, and all work is for nothing. So calls that have waited for long are refused, before their message is read.
//! A burst is no such queue, it goes away by itself: only a thread that has not caught up with its calls for half a second
//! refuses any, and then those that have waited for more than a moment. What it does serve, it serves soon.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Who has waited no longer than this says that the thread has caught up.
const CAUGHT_UP: Duration = Duration::from_millis(5);
/// So long a queue may stand.
const BURST: Duration = Duration::from_millis(500);
/// After that, so long a call may wait.
const WAIT_AT_MOST: Duration = Duration::from_millis(25);
/// With no more calls than these nobody is refused: so many are slow, and not too many.
const CALLS_AT_LEAST: usize = 128;

/// Of one thread.
pub(super) struct Lag {
    calls: AtomicUsize,
    /// When somebody last had not to wait. Only its own thread asks, so nobody waits for it.
    caught_up: Mutex<Instant>,
}

/// A call that has come and whose answer has not begun.
pub(super) struct Arrival {
    at: Instant,
    counted: Counted,
}

/// One of the calls that a thread has.
struct Counted(Arc<Lag>);

impl Lag {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { calls: AtomicUsize::new(0), caught_up: Mutex::new(Instant::now()) })
    }

    /// A call has come.
    pub fn arrive(self: &Arc<Self>) -> Arrival {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Arrival { at: Instant::now(), counted: Counted(Arc::clone(self)) }
    }
}

impl Arrival {
    /// Whether it should not be begun, now that it is its turn.
    pub fn has_waited_too_long(&self, now: Instant) -> bool {
        let waited = now.duration_since(self.at);
        let mut caught_up = self.counted.0.caught_up.lock();
        if waited <= CAUGHT_UP {
            *caught_up = now;
            return false;
        }
        let stands = now.duration_since(*caught_up) > BURST;
        stands && waited > WAIT_AT_MOST && self.counted.0.calls.load(Ordering::Relaxed) > CALLS_AT_LEAST
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_stands_is_cut_and_a_burst_is_not_d_07() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let lag = Lag::new();
        let arrive = |millis| Arrival { at: at(millis), ..lag.arrive() };
        assert!(!arrive(0).has_waited_too_long(at(0)));
        let mut many: Vec<Arrival> = (0..CALLS_AT_LEAST).map(|_| arrive(0)).collect();
        let late = arrive(501);
        assert!(!many[0].has_waited_too_long(at(400)), "a burst");
        assert!(many[1].has_waited_too_long(at(501)), "it stands");
        assert!(!late.has_waited_too_long(at(526)), "it has not waited for long");
        assert!(late.has_waited_too_long(at(527)));
        many.truncate(CALLS_AT_LEAST - 1);
        assert!(!late.has_waited_too_long(at(528)) && !many[0].has_waited_too_long(at(528)), "they are few");
        let more = arrive(530);
        assert!(many[0].has_waited_too_long(at(530)));
        assert!(!more.has_waited_too_long(at(535)), "caught up");
        assert!(!many[0].has_waited_too_long(at(1035)), "and so those that are left are done");
        assert!(many[0].has_waited_too_long(at(1036)));
        drop((late, many, more));
        assert_eq!(lag.calls.load(Ordering::Relaxed), 0);
    }
}
