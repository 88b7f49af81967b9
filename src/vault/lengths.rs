//! How long the records of each scope are, as a sample of them.
//!
//! Looking for a token that has no record works on as many bytes as a record of the sample has. With a constant instead, the
//! time would tell that a token whose value was long has died and not merely never been.

use crate::crypto::record::CARD_PADDED_BYTES;
use crate::crypto::{Handle, ScopeId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Records in the sample of a scope.
const SAMPLE: usize = 32;
/// More is never worked on for a token that has no record: a thousand of them in one call are not to cost a second. It is what
/// a scope's values may have unless its configuration says more.
const WORK_AT_MOST: usize = 64 << 10;

/// A sample of each scope whose records were met since the start.
#[derive(Default)]
pub(super) struct Lengths(Mutex<HashMap<ScopeId, Sample>>);

#[derive(Default)]
struct Sample {
    /// The records whose handles have the smallest tails. These are as good as random, and the choice depends neither on the
    /// order in which records are met nor on how often: it soon stands still, and so does what is worked on for one token.
    records: Vec<(u64, usize)>,
    lengths: Arc<[usize]>,
}

/// What to work on where there is no record.
pub(super) struct StandIns(Option<Arc<[usize]>>);

impl Lengths {
    /// Notes a record that was issued or met.
    pub fn note(&self, scope: ScopeId, handle: &Handle, padded: usize) {
        let (tail, padded) = (part(handle, 4), padded.min(WORK_AT_MOST));
        let mut samples = self.0.lock();
        let sample = samples.entry(scope).or_default();
        if sample.records.len() == SAMPLE && sample.records.last().is_some_and(|(largest, _)| tail >= *largest) {
            return;
        }
        let Err(place) = sample.records.binary_search_by_key(&tail, |(tail, _)| *tail) else { return };
        sample.records.insert(place, (tail, padded));
        sample.records.truncate(SAMPLE);
        sample.lengths = sample.records.iter().map(|(_, padded)| *padded).collect();
    }

    /// For the tokens of one call. Asked for by every call, whether it needs any or not.
    pub fn stand_ins(&self, scope: ScopeId) -> StandIns {
        StandIns(self.0.lock().get(&scope).map(|sample| Arc::clone(&sample.lengths)))
    }
}

impl StandIns {
    /// Always the same for the same token, as long as the sample is.
    pub fn of(&self, handle: &Handle) -> usize {
        let lengths = self.0.as_deref().unwrap_or_default();
        let place = part(handle, 12).checked_rem(lengths.len() as u64).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| lengths.get(place)).copied().unwrap_or(CARD_PADDED_BYTES)
    }
}

/// Eight bytes of the tail of a handle, which begins with its second.
fn part(handle: &Handle, from: usize) -> u64 {
    handle.as_bytes()[from..from + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn handle(number: u32) -> Handle {
        Handle::new(number, *Sha256::digest(number.to_be_bytes()).first_chunk().unwrap())
    }

    #[test]
    fn what_is_worked_on_is_as_long_as_the_records_are_z_08() {
        let lengths = Lengths::default();
        let scope = ScopeId(1);
        assert_eq!(lengths.stand_ins(scope).of(&handle(1)), CARD_PADDED_BYTES, "nothing is known yet");
        // A quarter is long.
        let padded = |number: u32| if number.is_multiple_of(4) { 49_152 } else { 32 };
        (0..10_000).for_each(|number| lengths.note(scope, &handle(number), padded(number)));
        let stand_ins = lengths.stand_ins(scope);
        let long = (20_000..30_000).filter(|number| stand_ins.of(&handle(*number)) == 49_152).count();
        assert!((1_000..5_000).contains(&long), "{long} of 10,000");
        // A few bytes or a million: the work has a bound.
        lengths.note(ScopeId(4), &handle(1), 1 << 20);
        assert_eq!(lengths.stand_ins(ScopeId(4)).of(&handle(2)), WORK_AT_MOST);
        // The same again, in another order, and records of other scopes change nothing.
        let other = Lengths::default();
        for number in (0..10_000).rev().chain(0..10_000) {
            other.note(scope, &handle(number), padded(number));
            other.note(ScopeId(2), &handle(number), 64);
        }
        for number in 0..1_000 {
            assert_eq!(other.stand_ins(scope).of(&handle(number)), stand_ins.of(&handle(number)));
            assert_eq!(other.stand_ins(ScopeId(2)).of(&handle(number)), 64);
        }
        assert_eq!(lengths.stand_ins(ScopeId(3)).of(&handle(1)), CARD_PADDED_BYTES);
    }
}
