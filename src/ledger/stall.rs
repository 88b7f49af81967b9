//! For how long the writer has been at the same work: a disk that stands still fails nothing, it only never answers.

use std::time::Duration;

/// Looks at the writer from time to time. No clock is read where calls are served: that what the writer is at has not
/// changed since the last look is all that has to be known.
#[derive(Default)]
pub struct Stall {
    /// What it was at, and when that was seen first.
    seen: Option<(u64, Duration)>,
}

impl Stall {
    /// For how long the writer has been at what it is at now: never longer than it really is, and shorter by no more than the
    /// time between two looks. `under_way` as the ledger tells it, `now` on a clock that never runs backwards.
    pub fn look(&mut self, under_way: Option<u64>, now: Duration) -> Duration {
        let Some(number) = under_way else {
            self.seen = None;
            return Duration::ZERO;
        };
        match self.seen {
            Some((seen, since)) if seen == number => now.saturating_sub(since),
            _ => {
                self.seen = Some((number, now));
                Duration::ZERO
            }
        }
    }
}
