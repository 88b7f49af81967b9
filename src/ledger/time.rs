//! The vault's time: it does not run backwards, and a leap of the wall clock does no lasting harm.
//!
//! A *mark* lies in the store. Nothing that had expired by the mark ever lives again: `now = max(wall clock, mark)`.
//! While the process runs the mark follows the wall clock, but no faster than the monotonic clock, so a wild jump forward
//! expires tokens only while the clock is wrong. At start it moves to the wall clock if the gap is under a day.
//!
//! A larger gap is a *leap*, at start or later: until it is closed nothing that happened lately can be told from what is
//! yet to come, and nothing is purged. It closes when the clock goes back, when an operator accepts the clock, or when the
//! wall clock has been steady for a day: gone along with the monotonic one. What closes it by moving the mark is a commit
//! with an event (see `Submission::accepting_the_clock`).

use crate::clock::{Clock, Timestamp};
use crate::sync::{AtomicI64, AtomicU64, Mutex};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A gap below this is a machine that was off; above it, a clock that leapt.
const LEAP: Duration = Duration::from_hours(24);
/// A clock that has kept its pace for so long is believed.
const STEADY_FOR: Duration = Duration::from_hours(24);
/// What a time server may correct in a day without the clock counting as unsteady. Slewing at the kernel's usual limit, 500
/// parts in a million, is 43 seconds a day.
const TOLERANCE: Duration = Duration::from_mins(1);

/// Two clocks that go together are read one after the other and cut to milliseconds, so one may seem ahead by a moment. The
/// mark keeps to the wall clock within so much of its pace: else what has just expired by the one would not have by the other,
/// and could live again if the clock went back right then.
const JITTER: Duration = Duration::from_millis(50);

/// `now`, as everything in the vault uses it.
pub struct VaultClock {
    clock: Arc<dyn Clock>,
    /// Milliseconds. Only grows.
    mark: AtomicU64,
    /// The mark may not overtake the monotonic clock and this many milliseconds.
    lead: AtomicI64,
    steady: Mutex<Steady>,
}

/// Since when the wall clock has gone along with the monotonic one, in milliseconds.
struct Steady {
    /// The monotonic clock, then.
    since: u64,
    /// By how much the wall clock was ahead of it, then.
    offset: i64,
}

/// How the wall clock stands to the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They go together, or the wall clock is less than a day ahead.
    Sound,
    /// The wall clock is ahead by a day or more, and there is no reason to believe it.
    Leapt(Duration),
    /// The wall clock is ahead by so much and has been steady for a day: the mark may move to it.
    Steady(Duration),
}

impl VaultClock {
    /// Takes up time where `stored`, the mark in the store, left it.
    pub fn resume(clock: Arc<dyn Clock>, stored: Timestamp) -> Self {
        let wall = clock.wall();
        let leapt = wall.since(stored) >= LEAP && stored.millis() > 0;
        let mark = if leapt { stored } else { wall.max(stored) };
        let monotonic = millis(clock.monotonic());
        Self {
            clock,
            mark: AtomicU64::new(mark.millis()),
            lead: AtomicI64::new(between(monotonic, mark.millis())),
            steady: Mutex::new(Steady { since: monotonic, offset: between(monotonic, wall.millis()) }),
        }
    }

    /// The vault's time.
    pub fn now(&self) -> Timestamp {
        let wall = self.clock.wall();
        let pace = self.pace();
        let target = if wall.millis() <= pace.saturating_add(millis(JITTER)) { wall.millis() } else { pace };
        let mark = self.mark.fetch_max(target, Ordering::AcqRel).max(target);
        wall.max(Timestamp::from_millis(mark))
    }

    /// What is to be stored as the mark now. Never later than [`VaultClock::now`].
    pub fn mark(&self) -> Timestamp {
        self.now();
        Timestamp::from_millis(self.mark.load(Ordering::Acquire))
    }

    /// The time by which it may be decided what is deleted for good: the mark, which no jump of the wall clock has moved.
    /// `None` while there is a leap.
    pub fn trusted(&self) -> Option<Timestamp> {
        let mark = self.mark();
        (self.clock.wall().since(mark) < LEAP).then_some(mark)
    }

    /// By how much the wall clock is behind the vault's time, which stands still meanwhile. Zero where it is not.
    pub fn behind(&self) -> Duration {
        let now = self.now();
        now.since(self.clock.wall())
    }

    /// By how much the wall clock is ahead of the mark, if that is a leap.
    pub fn leap(&self) -> Option<Duration> {
        let ahead = self.clock.wall().since(self.mark());
        (ahead >= LEAP).then_some(ahead)
    }

    /// Looks at the clocks and says how they stand. To be called each second or so: a clock is as steady as it was each
    /// time that somebody looked.
    pub fn observe(&self) -> Standing {
        let mark = self.mark();
        let wall = self.clock.wall();
        let monotonic = millis(self.clock.monotonic());
        // A wall clock that was behind for a while has let the mark's pace run ahead of the mark. All of that at once would
        // be a jump, too.
        if self.pace().saturating_sub(mark.millis()) > millis(TOLERANCE) {
            self.lead.store(between(monotonic, mark.millis()), Ordering::Release);
        }
        let offset = between(monotonic, wall.millis());
        let mut steady = self.steady.lock();
        if offset.abs_diff(steady.offset) > millis(TOLERANCE) {
            *steady = Steady { since: monotonic, offset };
        }
        let is_steady = monotonic.saturating_sub(steady.since) >= millis(STEADY_FOR);
        match wall.since(mark) {
            ahead if ahead > TOLERANCE && is_steady => Standing::Steady(ahead),
            ahead if ahead >= LEAP => Standing::Leapt(ahead),
            _ => Standing::Sound,
        }
    }

    /// Moves the mark to the wall clock. The writer does this, in the commit with the event that says so.
    pub(super) fn accept(&self) {
        let wall = self.clock.wall().millis();
        let mark = self.mark.fetch_max(wall, Ordering::AcqRel).max(wall);
        self.lead.store(between(millis(self.clock.monotonic()), mark), Ordering::Release);
    }

    /// The monotonic clock, for measuring how long things take.
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// How far the mark may have come by now.
    fn pace(&self) -> u64 {
        millis(self.clock.monotonic()).saturating_add_signed(self.lead.load(Ordering::Acquire))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What leads from one number of milliseconds to another. Both are at most the end of the year 9999.
fn between(from: u64, to: u64) -> i64 {
    to.cast_signed().saturating_sub(from.cast_signed())
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

    #[test]
    fn clocks_that_are_a_moment_apart_revive_nothing_l_03() {
        let (clock, vault) = running();
        for round in 1..=1_000_u64 {
            // Each time the wall clock is ahead by some milliseconds, and never by more.
            let ahead = round % (millis(JITTER) + 1);
            clock.set_wall(at(10 * YEAR + 1_000 * (round - 1)));
            clock.advance(Duration::from_secs(1));
            let wall = at(10 * YEAR + 1_000 * round + ahead);
            clock.set_wall(wall);
            assert_eq!((vault.now(), vault.mark()), (wall, wall));
            clock.set_wall(at(9 * YEAR));
            assert_eq!(vault.now(), wall, "what had expired has still expired");
        }
    }

    const DAY: Duration = Duration::from_hours(24);
    const MILLI: Duration = Duration::from_millis(1);

    fn running() -> (Arc<FakeClock>, VaultClock) {
        let clock = FakeClock::at(at(10 * YEAR));
        let vault = VaultClock::resume(clock.clone(), at(10 * YEAR));
        (clock, vault)
    }

    fn ahead(vault: &VaultClock) -> Duration {
        vault.clock.wall().since(vault.mark())
    }

    #[test]
    fn a_day_ahead_is_a_leap_and_a_millisecond_less_is_none_l_03() {
        for (gap, leapt) in [(DAY.saturating_sub(MILLI), false), (DAY, true)] {
            let wall = at(10 * YEAR).checked_add(gap).unwrap();
            let start = VaultClock::resume(FakeClock::at(wall), at(10 * YEAR));
            assert_eq!((start.leap().is_some(), start.trusted().is_none()), (leapt, leapt), "at start: {gap:?}");
            let (clock, vault) = running();
            clock.set_wall(wall);
            assert_eq!((vault.leap().is_some(), vault.trusted().is_none()), (leapt, leapt), "running: {gap:?}");
            assert_eq!(vault.mark(), at(10 * YEAR), "the mark does not follow a jump");
            assert_eq!(vault.observe(), if leapt { Standing::Leapt(DAY) } else { Standing::Sound });
        }
    }

    #[test]
    fn a_steady_day_makes_a_leap_believable_and_no_moment_earlier_l_03() {
        let (clock, vault) = running();
        clock.advance(HOUR);
        let leap = at(20 * YEAR).since(at(10 * YEAR + 3_600_000));
        clock.set_wall(at(20 * YEAR));
        assert_eq!(vault.observe(), Standing::Leapt(leap));
        clock.advance(DAY.saturating_sub(MILLI));
        assert_eq!((vault.observe(), vault.trusted()), (Standing::Leapt(leap), None));
        clock.advance(MILLI);
        assert_eq!(vault.observe(), Standing::Steady(leap));
        assert_eq!(ahead(&vault), leap, "to look at the clock does not move the mark");
        vault.accept();
        assert_eq!(vault.trusted(), Some(at(20 * YEAR + 86_400_000)));
        assert_eq!(vault.observe(), Standing::Sound);
        clock.advance(HOUR);
        assert_eq!(vault.mark(), clock.wall(), "they go together again");
    }

    #[test]
    fn a_clock_that_wanders_is_not_believed_l_03() {
        let (clock, vault) = running();
        clock.set_wall(at(20 * YEAR));
        for hour in 0..100_u64 {
            assert!(matches!(vault.observe(), Standing::Leapt(_)), "hour {hour}");
            clock.advance(HOUR);
            // Each half day by a good minute.
            if hour % 12 == 0 {
                clock.set_wall(clock.wall().checked_add(TOLERANCE + MILLI).unwrap());
            }
        }
        // A time server corrects a little all the time.
        for _ in 0..23 {
            clock.set_wall(clock.wall().checked_add(Duration::from_secs(1)).unwrap());
            clock.advance(HOUR);
            vault.observe();
        }
        clock.advance(HOUR);
        assert!(matches!(vault.observe(), Standing::Steady(_)));
    }

    #[test]
    fn by_how_much_the_clock_is_behind_is_told_while_time_stands_still_l_03() {
        let (clock, vault) = running();
        assert_eq!(vault.behind(), Duration::ZERO);
        clock.set_wall(at(10 * YEAR - 3_600_000));
        assert_eq!((vault.now(), vault.behind()), (at(10 * YEAR), HOUR));
        clock.advance(HOUR + MILLI);
        assert_eq!((vault.now(), vault.behind()), (at(10 * YEAR + 1), Duration::ZERO));
        assert_eq!(vault.monotonic(), clock.monotonic());
        clock.advance(HOUR);
        assert_eq!(vault.monotonic(), clock.monotonic());
    }

    #[test]
    fn a_minute_is_tolerated_and_a_millisecond_more_is_not_l_03() {
        for (gap, tolerated) in [(TOLERANCE, true), (TOLERANCE + MILLI, false)] {
            // The mark may make up for a clock that was behind for so long.
            let (clock, vault) = running();
            clock.set_wall(at(10 * YEAR - 3_600_000));
            clock.advance(gap);
            vault.observe();
            let wall = at(10 * YEAR).checked_add(gap).unwrap();
            clock.set_wall(wall);
            assert_eq!(vault.mark(), if tolerated { wall } else { at(10 * YEAR) }, "behind by {gap:?}");
            // A clock that was corrected by so much is still steady.
            let (clock, vault) = running();
            clock.set_wall(at(20 * YEAR));
            vault.observe();
            clock.advance(DAY / 2);
            clock.set_wall(clock.wall().checked_add(gap).unwrap());
            vault.observe();
            clock.advance(DAY / 2);
            assert_eq!(matches!(vault.observe(), Standing::Steady(_)), tolerated, "corrected by {gap:?}");
            // And one that is ahead by so much needs nobody's word.
            let (clock, vault) = running();
            clock.set_wall(wall);
            vault.observe();
            clock.advance(DAY);
            assert_eq!(vault.observe(), if tolerated { Standing::Sound } else { Standing::Steady(gap) });
        }
    }

    #[test]
    fn a_clock_that_was_behind_may_not_make_up_for_it_in_one_jump_l_03() {
        let (clock, vault) = running();
        clock.set_wall(at(9 * YEAR));
        for _ in 0..100 {
            clock.advance(DAY);
            assert_eq!((vault.observe(), vault.mark()), (Standing::Sound, at(10 * YEAR)));
        }
        clock.set_wall(at(10 * YEAR + 50 * 86_400_000));
        assert_eq!((vault.mark(), vault.trusted()), (at(10 * YEAR), None));
    }

    #[test]
    fn a_gap_that_is_no_leap_is_made_up_for_after_a_steady_day_l_03() {
        let (clock, vault) = running();
        clock.set_wall(at(10 * YEAR + 7_200_000));
        assert_eq!((vault.observe(), vault.trusted()), (Standing::Sound, Some(at(10 * YEAR))));
        clock.advance(DAY);
        assert_eq!(vault.observe(), Standing::Steady(2 * HOUR));
        assert_eq!(vault.trusted(), Some(at(10 * YEAR + 86_400_000)), "until then it lags, and nothing is held up");
    }
}
