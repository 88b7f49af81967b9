//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles from the first pause to the longest. Which part of it is waited is random, so that many vaults do not come back
/// to a collector at the same moment.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempts: 0 }
    }

    /// The next pause: at least what the other side asked for, else between a half and the whole of its step. `random` is
    /// any number.
    pub fn next(&mut self, asked: Option<Duration>, random: u32) -> Duration {
        let factor = 1u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        let step = self.first.saturating_mul(factor).min(self.longest);
        self.attempts = self.attempts.saturating_add(1);
        let half = step / 2;
        let jittered = half + half.mul_f64(f64::from(random) / f64::from(u32::MAX));
        jittered.max(asked.unwrap_or_default())
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again() {
        let mut backoff = Backoff::new(SECOND, 30 * SECOND);
        let longest: Vec<u64> = (0..7).map(|_| backoff.next(None, u32::MAX).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 30, 30]);
        for _ in 0..100 {
            assert_eq!(backoff.next(None, 0), 15 * SECOND, "half at the least");
        }
        backoff.reset();
        assert_eq!(backoff.next(None, u32::MAX), SECOND);
    }

    #[test]
    fn what_the_other_side_asks_for_is_kept() {
        let mut backoff = Backoff::new(SECOND, 30 * SECOND);
        assert_eq!(backoff.next(Some(90 * SECOND), u32::MAX), 90 * SECOND);
        assert_eq!(backoff.next(Some(SECOND), u32::MAX), 2 * SECOND, "less than the own pause changes nothing");
    }
}
