//! Time as a parameter.
//!
//! Nothing in this crate asks the operating system for the time but [`SystemClock`]. Everything else takes a
//! [`Timestamp`] or a [`Clock`], so tests move time by hand and never sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch (1970-01-01T00:00:00Z), without leap seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// The latest time that a token may carry: 9999-12-31T23:59:59.999Z, the end of `google.protobuf.Timestamp`.
const LATEST_MILLIS: u64 = 253_402_300_799_999;

/// A length of time as it could be written in a configuration: a whole number of the largest unit up to days that fits.
pub fn in_one_unit(duration: Duration) -> String {
    const UNITS: [(&str, u128); 4] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let millis = duration.as_millis();
    let (name, factor) = match millis {
        0 => ("s", 1),
        _ => UNITS.into_iter().find(|(_, factor)| millis.is_multiple_of(*factor)).unwrap_or(("ms", 1)),
    };
    format!("{}{name}", millis / factor)
}

/// A length of time for people, as exact as they want it: in days from two on, without a calendar's months and years, which
/// would only make it harder to compare.
pub fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600, seconds / 60 % 60);
    match seconds {
        172_800.. => format!("{days} days"),
        3_600.. if minutes == 0 => format!("{hours}h"),
        3_600.. => format!("{hours}h {minutes}m"),
        120.. => format!("{minutes}m"),
        _ => format!("{seconds}s"),
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// What the wall clock says. It may jump either way.
    fn wall(&self) -> Timestamp;
    /// Time since some fixed point. It never runs backwards and does not follow the wall clock's jumps.
    fn monotonic(&self) -> Duration;
}

/// The operating system's clocks.
pub struct SystemClock {
    start: Instant,
}

/// A clock that stands still until a test moves it.
#[derive(Default)]
pub struct FakeClock {
    wall_millis: AtomicU64,
    monotonic_millis: AtomicU64,
}

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// This time and `duration` more, or `None` past the end of the year 9999: a lifetime never wraps into "for ever".
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        let millis = u64::try_from(duration.as_millis()).ok()?;
        let sum = self.0.checked_add(millis)?;
        (sum <= LATEST_MILLIS).then_some(Self(sum))
    }

    /// How much later this is than `earlier`, zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl SystemClock {
    /// The operating system's clocks, behind the port.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self { start: Instant::now() })
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        // A wall clock before 1970 is treated as 1970: the vault's time mark then holds time where it was.
        #[expect(clippy::disallowed_methods, reason = "here the parameter comes from")]
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(LATEST_MILLIS))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

impl FakeClock {
    /// A clock whose wall shows `wall`.
    pub fn at(wall: Timestamp) -> Arc<Self> {
        let clock = Self::default();
        clock.wall_millis.store(wall.millis(), Ordering::SeqCst);
        Arc::new(clock)
    }

    /// Lets `duration` pass on both clocks.
    pub fn advance(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.wall_millis.fetch_add(millis, Ordering::SeqCst);
        self.monotonic_millis.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the wall clock alone, as an operator or a bad time server would.
    pub fn set_wall(&self, wall: Timestamp) {
        self.wall_millis.store(wall.millis(), Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.wall_millis.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_millis.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_written_as_people_write_them() {
        let day = Duration::from_hours(24);
        for (length, written, words) in [
            (day * 500, "500d", "500 days"),
            (day * 30 + Duration::from_secs(1), "2592001s", "30 days"),
            (Duration::from_hours(25), "25h", "25h"),
            (Duration::from_secs(3_725), "3725s", "1h 2m"),
            (Duration::from_mins(3), "3m", "3m"),
            (Duration::from_secs(90), "90s", "90s"),
            (Duration::from_millis(250), "250ms", "0s"),
            (Duration::ZERO, "0s", "0s"),
        ] {
            assert_eq!((in_one_unit(length), in_words(length)), (written.to_owned(), words.to_owned()));
        }
    }

    #[test]
    fn the_systems_clocks_tell_the_time_and_do_not_stand_still() {
        let clock = SystemClock::shared();
        // After this was written, and within the years that a time can have.
        assert!(clock.wall() > Timestamp::from_millis(1_790_000_000_000) && clock.wall().millis() < LATEST_MILLIS);
        let before = clock.monotonic();
        while clock.monotonic() == before {
            std::hint::spin_loop();
        }
        assert!(clock.monotonic() > before);
    }

    #[test]
    fn adding_never_wraps_l_01() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        assert_eq!(now.checked_add(Duration::from_millis(1)), Some(Timestamp::from_millis(1_700_000_000_001)));
        assert_eq!(now.checked_add(Duration::MAX), None);
        assert_eq!(Timestamp::from_millis(LATEST_MILLIS).checked_add(Duration::from_millis(1)), None);
    }
}
