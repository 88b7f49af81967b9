//! The vault's time: it does not run backwards, and a leap of the wall clock does no lasting harm.
//!
//! A *mark* lies in the store. Nothing that had expired by the mark ever lives again: `now = max(wall clock, mark)`.
//! While the process runs the mark follows the wall clock, but no faster than the monotonic clock, so a wild jump forward
//! expires tokens only while the clock is wrong. At start it moves to the wall clock if the gap is under a day; a larger
//! gap is a leap, which stays open until the mark, moving at the pace of time, has been steady for a day.

use crate::clock::{Clock, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A gap at start below this is a machine that was off; above it, a clock that leapt.
const LEAP: Duration = Duration::from_hours(24);

/// `now`, as everything in the vault uses it.
pub struct VaultClock {
    clock: Arc<dyn Clock>,
    /// Milliseconds. Only grows.
    mark: AtomicU64,
    /// The mark and the monotonic clock (milliseconds) when the process started: the mark may not overtake their sum.
    start_mark: u64,
    start_monotonic: u64,
    leapt: bool,
}

impl VaultClock {
    /// Takes up time where `stored`, the mark in the store, left it.
    pub fn resume(clock: Arc<dyn Clock>, stored: Timestamp) -> Self {
        let wall = clock.wall();
        let leapt = wall.since(stored) >= LEAP && stored.millis() > 0;
        let mark = if leapt { stored } else { wall.max(stored) };
        let start_monotonic = millis(clock.monotonic());
        Self { mark: AtomicU64::new(mark.millis()), start_mark: mark.millis(), start_monotonic, clock, leapt }
    }

    /// The vault's time.
    pub fn now(&self) -> Timestamp {
        let wall = self.clock.wall();
        let pace = self.start_mark + millis(self.clock.monotonic()).saturating_sub(self.start_monotonic);
        let target = wall.millis().min(pace);
        let mark = self.mark.fetch_max(target, Ordering::AcqRel).max(target);
        wall.max(Timestamp::from_millis(mark))
    }

    /// What is to be stored as the mark now.
    pub fn mark(&self) -> Timestamp {
        self.now();
        Timestamp::from_millis(self.mark.load(Ordering::Acquire))
    }

    /// By how much the wall clock was ahead of the stored mark at start, if that was a leap and it still is ahead.
    pub fn leap(&self) -> Option<Duration> {
        let ahead = self.clock.wall().since(self.mark());
        (self.leapt && ahead >= LEAP).then_some(ahead)
    }

    /// The monotonic clock, for measuring how long things take.
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FakeClock;

    const HOUR: Duration = Duration::from_hours(1);
    const YEAR: u64 = 365 * 86_400_000;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn backwards_stands_still_l_03() {
        let clock = FakeClock::at(at(10 * YEAR));
        let vault = VaultClock::resume(clock.clone(), at(10 * YEAR));
        clock.set_wall(at(9 * YEAR));
        assert_eq!(vault.now(), at(10 * YEAR));
        let again = VaultClock::resume(clock, vault.mark());
        assert_eq!(again.now(), at(10 * YEAR));
    }

    #[test]
    fn a_leap_forward_lasts_only_while_the_clock_is_wrong_l_03() {
        let clock = FakeClock::at(at(10 * YEAR));
        let vault = VaultClock::resume(clock.clone(), at(10 * YEAR));
        clock.advance(HOUR);
        clock.set_wall(at(20 * YEAR));
        assert_eq!(vault.now(), at(20 * YEAR));
        clock.set_wall(at(10 * YEAR + 3_600_000));
        assert_eq!(vault.now(), at(10 * YEAR + 3_600_000));
    }

    #[test]
    fn a_leap_at_start_does_not_move_the_mark_l_03() {
        let clock = FakeClock::at(at(20 * YEAR));
        let vault = VaultClock::resume(clock.clone(), at(10 * YEAR));
        assert!(vault.leap().is_some());
        clock.advance(HOUR);
        assert_eq!(vault.mark(), at(10 * YEAR + 3_600_000));
        let short_gap = VaultClock::resume(FakeClock::at(at(10 * YEAR + 3_600_000)), at(10 * YEAR));
        assert!(short_gap.leap().is_none());
        assert_eq!(short_gap.mark(), at(10 * YEAR + 3_600_000));
    }
}
