//! For what a connection's calls wait, and since when: for us, or for the peer.
//!
//! Flow control lets a peer take its replies as slowly as it likes, and send its messages so. What it does not take is in our
//! memory, so this has an end: whoever has been waited for too long is closed.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Those of one connection.
#[derive(Default)]
pub struct Waits(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    /// Since when the peer is to do something.
    since: Vec<Option<Instant>>,
    free: Vec<usize>,
}

/// One that waits, for the peer until it says otherwise. Dropped, it waits for nobody.
pub struct Wait {
    of: Arc<Waits>,
    slot: usize,
}

impl Waits {
    /// Begins one, which from `now` on is the peer's turn.
    pub fn for_peer(self: &Arc<Self>, now: Instant) -> Wait {
        let mut slots = self.0.lock();
        let slot = if let Some(slot) = slots.free.pop() {
            slots.since[slot] = Some(now);
            slot
        } else {
            slots.since.push(Some(now));
            slots.since.len() - 1
        };
        drop(slots);
        Wait { of: Arc::clone(self), slot }
    }

    /// One that waits for nobody yet.
    pub fn for_nobody(self: &Arc<Self>) -> Wait {
        let wait = self.for_peer(Instant::now());
        wait.for_us();
        wait
    }

    /// For how long the peer has been waited for, at the longest.
    pub fn longest(&self, now: Instant) -> Duration {
        let first = self.0.lock().since.iter().flatten().min().copied();
        first.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// Bytes that a peer takes in a second, at the least.
const BYTES_PER_SECOND: f64 = (16 << 10) as f64;

impl Wait {
    /// It is still the peer's turn, who has taken `bytes` of what it was to take, by `now`. That is worth as much time as it may need
    /// for them, and no more: or a byte a minute would hold a whole answer for ever.
    pub fn taken(&self, bytes: usize, now: Instant) {
        let worth = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND);
        let mut slots = self.of.0.lock();
        if let Some(since) = &mut slots.since[self.slot] {
            *since = (*since + worth).min(now);
        }
    }

    /// From `now` on it is the peer's turn.
    pub fn for_peer(&self, now: Instant) {
        self.set(Some(now));
    }

    /// It is our turn.
    pub fn for_us(&self) {
        self.set(None);
    }

    fn set(&self, since: Option<Instant>) {
        self.of.0.lock().since[self.slot] = since;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut slots = self.of.0.lock();
        slots.since[self.slot] = None;
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_takes_little_has_little_more_time_d_04() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let waits = Arc::new(Waits::default());
        let wait = waits.for_peer(at(0));
        // 16 KiB every ten seconds.
        (1..=6).for_each(|turn| wait.taken(16 << 10, at(10 * turn)));
        assert_eq!(waits.longest(at(60)).as_secs(), 54);
        // All of a megabyte at once.
        wait.taken(1 << 20, at(60));
        assert_eq!(waits.longest(at(60)), Duration::ZERO, "and no time is kept for later");
        wait.for_us();
        wait.taken(1, at(61));
        assert_eq!(waits.longest(at(1000)), Duration::ZERO, "nobody waits for the peer");
    }

    #[test]
    fn the_longest_wait_for_the_peer_counts_d_04() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let waits = Arc::new(Waits::default());
        let longest = |seconds| waits.longest(at(seconds)).as_secs();
        let (first, second) = (waits.for_peer(at(100)), waits.for_peer(at(105)));
        assert_eq!(longest(100), 0, "it has just begun");
        assert_eq!(longest(110), 10);
        first.for_us();
        assert_eq!(longest(110), 5);
        first.for_peer(at(110));
        assert_eq!(longest(112), 7, "each turn begins anew");
        drop(second);
        assert_eq!(longest(112), 2);
        first.for_us();
        assert_eq!(longest(200), 0, "nobody waits for the peer");
        let _third = waits.for_peer(at(200));
        drop(first);
        assert_eq!((longest(200), waits.0.lock().since.len()), (0, 2), "places are used again");
        assert_eq!(longest(201), 1);
    }
}
