//! How many bytes calls may hold, over all of them.
//!
//! What a call may ask for is bounded in items and in the length of its messages. How many calls there are at once is bounded by
//! nothing but connections and streams, which is far more than memory has room for. So each call holds a share of one budget:
//! for its being there at all, for its message, for the records that it reads and for an answer that its caller has not taken
//! yet. What does not fit is refused at once, and the others go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a call costs by itself: its tasks, its headers, its place in queues. Small messages and records are in it.
pub const OF_A_CALL: usize = 16 << 10;
/// Up to here messages and records are in [`OF_A_CALL`]: most calls then touch the budget twice, and not more often.
pub const INCLUDED: usize = 4 << 10;

/// Bytes for all calls together.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    held: AtomicUsize,
}

/// What one call holds. It is given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    held: AtomicUsize,
}

/// There is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("calls under way hold all the memory that they may")]
pub struct Exhausted;

impl Budget {
    /// So many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicUsize::new(0) })
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A share with what a call costs by itself.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn call(self: &Arc<Self>) -> Result<Share, Exhausted> {
        let share = self.nothing();
        share.grow(OF_A_CALL)?;
        Ok(share)
    }

    /// A share that holds nothing yet.
    pub fn nothing(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), held: AtomicUsize::new(0) }
    }
}

impl Share {
    /// Another one of the same budget, which holds nothing yet.
    #[must_use]
    pub fn beside(&self) -> Self {
        self.budget.nothing()
    }

    /// Holds `bytes` more.
    ///
    /// # Errors
    /// If there is no room for them; then it holds what it held.
    pub fn grow(&self, bytes: usize) -> Result<(), Exhausted> {
        // Only sums count: no other memory is ordered by them.
        let before = self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.budget.limit {
            self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Exhausted);
        }
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Holds so many from now on, more or fewer, whether or not there is room: they are there already. Where there is none, the
    /// next ones who ask are refused.
    pub fn hold(&self, bytes: usize) {
        let before = self.held.swap(bytes, Ordering::Relaxed);
        self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        self.budget.held.fetch_sub(before, Ordering::Relaxed);
    }

    /// Gives back `bytes` of those that it grew by.
    pub fn shrink(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How many it holds.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(*self.held.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_no_trace_d_07() {
        let budget = Budget::new(3 * OF_A_CALL);
        let (first, second) = (budget.call().unwrap(), budget.call().unwrap());
        assert_eq!(first.grow(OF_A_CALL + 1), Err(Exhausted));
        assert_eq!((first.held(), budget.held()), (OF_A_CALL, 2 * OF_A_CALL));
        first.grow(OF_A_CALL).unwrap();
        assert!(budget.call().is_err());
        assert_eq!(budget.held(), 3 * OF_A_CALL);
        drop(second);
        assert!(budget.call().is_ok());
        // What is there already is counted though there is no room for it.
        first.hold(10 * OF_A_CALL);
        assert!(budget.call().is_err());
        drop(first);
        assert_eq!(budget.held(), 0);
    }

    proptest! {
        /// Whatever calls do, the budget holds the sum of their shares, and nothing when they are gone.
        #[test]
        fn the_budget_holds_the_sum_of_the_shares_d_07(steps in prop::collection::vec((0_usize..4, 0_usize..4, 0_usize..1000), 0..200)) {
            let budget = Budget::new(2000);
            let shares: Vec<Share> = (0..4).map(|_| budget.nothing()).collect();
            for (place, step, bytes) in steps {
                let share = &shares[place];
                match step {
                    0 | 1 => prop_assert_eq!(budget.held() + bytes <= 2000, share.grow(bytes).is_ok()),
                    2 => share.shrink(bytes.min(share.held())),
                    _ => share.hold(bytes),
                }
                prop_assert_eq!(budget.held(), shares.iter().map(Share::held).sum::<usize>());
            }
            drop(shares);
            prop_assert_eq!(budget.held(), 0);
        }
    }
}
