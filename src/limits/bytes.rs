//! How many bytes calls may hold, over all of them.
//!
//! What a call may ask for is bounded in items and in the length of its messages. How many calls there are at once is bounded by
//! nothing but connections and streams, which is far more than memory has room for. So each call holds a share of one budget:
//! for its being there at all, for its message, for the records that it reads and for an answer that its caller has not taken
//! yet. What does not fit is refused at once, and the others go on.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// What a call costs by itself: its tasks, its headers, its place in queues. Small messages and records are in it.
pub const OF_A_CALL: usize = 16 << 10;
/// Up to here messages and records are in [`OF_A_CALL`]: most calls then touch the budget twice, and not more often.
pub const INCLUDED: usize = 4 << 10;

/// Bytes for all calls together, or for those of one caller: then they count in the other one, too.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    held: AtomicUsize,
    of: Option<Arc<Budget>>,
}

/// A budget of which no caller has more than a part.
#[derive(Debug)]
pub struct Shared {
    all: Arc<Budget>,
    of_each: usize,
    callers: Mutex<HashMap<String, Weak<Budget>>>,
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
        Arc::new(Self { limit, held: AtomicUsize::new(0), of: None })
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

    fn take(&self, bytes: usize) -> Result<(), Exhausted> {
        // Only sums count: no other memory is ordered by them.
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.limit;
        let taken = if fits { self.of.as_ref().map_or(Ok(()), |of| of.take(bytes)) } else { Err(Exhausted) };
        if taken.is_err() {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Counts what is there already, whether or not there is room for it.
    fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        if let Some(of) = &self.of {
            of.add(bytes);
        }
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(of) = &self.of {
            of.give_back(bytes);
        }
    }
}

impl Shared {
    /// `limit` for all, of which each caller has `of_each` at the most.
    pub fn new(limit: usize, of_each: usize) -> Self {
        Self { all: Budget::new(limit), of_each, callers: Mutex::default() }
    }

    /// That for all together.
    pub fn all(&self) -> &Arc<Budget> {
        &self.all
    }

    /// That of the caller with this name, the same one for as long as anybody has it.
    pub fn of(&self, caller: &str) -> Arc<Budget> {
        let mut callers = self.callers.lock();
        if let Some(budget) = callers.get(caller).and_then(Weak::upgrade) {
            return budget;
        }
        // Those who have gone are forgotten when the map would grow for another.
        if callers.len() == callers.capacity() {
            callers.retain(|_, budget| budget.strong_count() > 0);
        }
        let held = AtomicUsize::new(0);
        let budget = Arc::new(Budget { limit: self.of_each, held, of: Some(Arc::clone(&self.all)) });
        callers.insert(caller.to_owned(), Arc::downgrade(&budget));
        budget
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
        self.budget.take(bytes)?;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Holds so many from now on, more or fewer, whether or not there is room: they are there already. Where there is none, the
    /// next ones who ask are refused.
    pub fn hold(&self, bytes: usize) {
        let before = self.held.swap(bytes, Ordering::Relaxed);
        self.budget.add(bytes);
        self.budget.give_back(before);
    }

    /// Holds so many more, as [`Self::hold`] does.
    pub fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.budget.add(bytes);
    }

    /// Gives back `bytes` of those that it grew by.
    pub fn shrink(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.give_back(bytes);
    }

    /// How many it holds.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(*self.held.get_mut());
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

    #[test]
    fn one_caller_has_a_part_and_the_others_the_rest_d_07() {
        let shared = Shared::new(4 * OF_A_CALL, 2 * OF_A_CALL);
        let one = shared.of("one");
        let shares = [one.call().unwrap(), shared.of("one").call().unwrap()];
        assert!(shared.of("one").call().is_err(), "all connections of a caller count together");
        let other = shared.of("other").call().unwrap();
        assert_eq!((one.held(), shared.all().held()), (2 * OF_A_CALL, 3 * OF_A_CALL));
        // What is there already is counted for its caller and for all.
        other.add(5 * OF_A_CALL);
        assert!(shared.of("third").call().is_err());
        other.shrink(5 * OF_A_CALL);
        drop((shares, other, one));
        assert_eq!(shared.all().held(), 0);
        for number in 0..10_000 {
            shared.of(&number.to_string()).call().unwrap();
        }
        assert!(shared.callers.lock().len() < 100, "who has gone is forgotten");
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
