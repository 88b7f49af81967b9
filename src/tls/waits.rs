//! For what a connection's calls wait, and since when: for us, or for the peer.
//!
//! Flow control lets a peer take its replies as slowly as it likes, and send its messages so. What it does not take is in our
//! memory, so this has an end: whoever has been waited for too long is closed.
//!
//! A peer is waited for only while its thread looks at connections. A thread that is busy with something else for seconds, or a
//! process that was stopped for minutes, would otherwise find that everybody had been slow. So time is counted in the thread's
//! turns: one that comes late is worth no more than one that comes in time.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long a network thread has looked at its connections, in milliseconds.
#[derive(Default)]
pub struct Turns(AtomicU64);

/// The waits of one connection.
#[derive(Default)]
pub struct Waits {
    slots: Mutex<Slots>,
    turns: Arc<Turns>,
}

#[derive(Default)]
struct Slots {
    /// Since when the peer is to do something, in its thread's time.
    since: Vec<Option<u64>>,
    free: Vec<usize>,
}

/// One that waits, for the peer until it says otherwise. Dropped, it waits for nobody.
pub struct Wait {
    of: Arc<Waits>,
    slot: usize,
}

/// From one turn to the next, if the thread is not late.
const TURN: Duration = Duration::from_millis(50);

impl Turns {
    /// Counts the turns. To be run as a task on the thread itself.
    pub async fn count(self: Arc<Self>) {
        loop {
            let begin = Instant::now();
            tokio::time::sleep(TURN).await;
            self.add(begin.elapsed());
        }
    }

    fn add(&self, took: Duration) {
        let counted = took.min(TURN * 2);
        // Nothing else is ordered by it.
        self.0.fetch_add(u64::try_from(counted.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Waits {
    /// Of a connection whose thread counts `turns`.
    pub fn on(turns: Arc<Turns>) -> Arc<Self> {
        Arc::new(Self { slots: Mutex::default(), turns })
    }

    /// Begins one, which from now on is the peer's turn.
    pub fn for_peer(self: &Arc<Self>) -> Wait {
        self.begin(Some(self.turns.now()))
    }

    /// One that waits for nobody yet.
    pub fn for_nobody(self: &Arc<Self>) -> Wait {
        self.begin(None)
    }

    fn begin(self: &Arc<Self>, since: Option<u64>) -> Wait {
        let mut slots = self.slots.lock();
        let slot = if let Some(slot) = slots.free.pop() {
            slots.since[slot] = since;
            slot
        } else {
            slots.since.push(since);
            slots.since.len() - 1
        };
        drop(slots);
        Wait { of: Arc::clone(self), slot }
    }

    /// For how long the peer has been waited for, at the longest.
    pub fn longest(&self) -> Duration {
        let first = self.slots.lock().since.iter().flatten().min().copied();
        first.map_or(Duration::ZERO, |since| Duration::from_millis(self.turns.now().saturating_sub(since)))
    }
}

/// Bytes that a peer takes in a second, at the least.
const BYTES_PER_SECOND: u64 = 16 << 10;

impl Wait {
    /// It is still the peer's turn, who has taken `bytes` of what it was to take. That is worth as much time as it may need for
    /// them, and no more: or a byte a minute would hold a whole answer for ever.
    pub fn taken(&self, bytes: usize) {
        let worth = bytes as u64 * 1000 / BYTES_PER_SECOND;
        let mut slots = self.of.slots.lock();
        if let Some(since) = &mut slots.since[self.slot] {
            *since = (*since + worth).min(self.of.turns.now());
        }
    }

    /// From now on it is the peer's turn.
    pub fn for_peer(&self) {
        self.set(Some(self.of.turns.now()));
    }

    /// It is our turn.
    pub fn for_us(&self) {
        self.set(None);
    }

    fn set(&self, since: Option<u64>) {
        self.of.slots.lock().since[self.slot] = since;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut slots = self.of.slots.lock();
        slots.since[self.slot] = None;
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Turns {
        /// As a thread that is never late.
        pub(crate) fn pass(&self, time: Duration) {
            self.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
        }
    }

    /// Waits, and a way to let so many seconds pass.
    fn waits() -> (Arc<Waits>, impl Fn(u64)) {
        let turns = Arc::new(Turns::default());
        (Waits::on(Arc::clone(&turns)), move |seconds| turns.pass(Duration::from_secs(seconds)))
    }

    #[test]
    fn a_peer_that_takes_little_has_little_more_time_d_04() {
        let (waits, pass) = waits();
        let wait = waits.for_peer();
        // 16 KiB every ten seconds.
        (1..=6).for_each(|_| {
            pass(10);
            wait.taken(16 << 10);
        });
        assert_eq!(waits.longest().as_secs(), 54);
        // All of a megabyte at once.
        wait.taken(1 << 20);
        assert_eq!(waits.longest(), Duration::ZERO, "and no time is kept for later");
        pass(1);
        assert_eq!(waits.longest().as_secs(), 1);
        wait.for_us();
        wait.taken(1);
        pass(1000);
        assert_eq!(waits.longest(), Duration::ZERO, "nobody waits for the peer");
    }

    #[test]
    fn the_longest_wait_for_the_peer_counts_d_04() {
        let (waits, pass) = waits();
        let longest = || waits.longest().as_secs();
        let first = waits.for_peer();
        assert_eq!(longest(), 0, "it has just begun");
        pass(5);
        let second = waits.for_peer();
        pass(5);
        assert_eq!(longest(), 10);
        first.for_us();
        assert_eq!(longest(), 5);
        first.for_peer();
        pass(2);
        assert_eq!(longest(), 7, "each turn begins anew");
        drop(second);
        assert_eq!(longest(), 2);
        first.for_us();
        pass(100);
        assert_eq!(longest(), 0, "nobody waits for the peer");
        let _third = waits.for_peer();
        drop(first);
        pass(1);
        assert_eq!((longest(), waits.slots.lock().since.len()), (1, 2), "places are used again");
        let _fourth = waits.for_nobody();
        assert_eq!((longest(), waits.slots.lock().since.len()), (1, 2));
    }

    /// Whoever was stopped for a minute, or had a minute of other work, has not waited for anybody.
    #[test]
    fn a_thread_that_is_late_has_not_waited_for_its_peers_d_04() {
        let turns = Arc::new(Turns::default());
        let waits = Waits::on(Arc::clone(&turns));
        let _wait = waits.for_peer();
        turns.add(Duration::from_mins(1));
        assert_eq!(waits.longest(), TURN * 2);
        turns.add(TURN);
        assert_eq!(waits.longest(), TURN * 3);
    }
}
