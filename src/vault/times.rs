//! What renewing and revoking have in common: each item comes to a time, and the same again is answered from memory.

use super::attempt::{Attempt, Effects, Wanted};
use super::inspect::describe;
use super::requests::{self, Remembered};
use super::{Failure, ItemFailure, REWRITTEN_BYTES_AT_MOST, Reason, Vault};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::crypto::record::Imprint;
use crate::crypto::state::StateKey;
use crate::event::ItemOutcome;
use crate::ledger::{Held, Receipt};
use crate::policy;

/// A time for each item.
pub(super) type Times = Vec<Result<Timestamp, ItemFailure>>;

/// What one attempt would change, before anything is durable.
#[derive(Default)]
pub(super) struct Timed {
    results: Times,
    outcomes: Vec<ItemOutcome>,
    pub effects: Effects,
    /// Whether there was no room for one more record; nothing is written then.
    is_too_long: bool,
}

impl Timed {
    /// A record that changes. How long it is; `None` if all of them together would be too long.
    pub fn rewrite(&mut self, key: &StateKey, handle: &Handle, old: &Imprint, row: &[u8]) -> Option<usize> {
        let changes = &mut self.effects.changes;
        self.is_too_long = changes.rows().size() + row.len() > REWRITTEN_BYTES_AT_MOST;
        if self.is_too_long {
            return None;
        }
        changes.replace(key, handle, old, row);
        Some(row.len())
    }

    /// The next item was done, and this is its time.
    pub fn done(&mut self, time: Timestamp) {
        self.results.push(Ok(time));
        self.outcomes.push(ItemOutcome::Done);
    }

    /// The next item failed.
    pub fn failed(&mut self, failure: ItemFailure, outcome: ItemOutcome) {
        self.results.push(Err(failure));
        self.outcomes.push(outcome);
    }

    /// What became of the items the first time, as exact as it is remembered; the first event says more.
    pub fn again(items: Vec<Remembered>) -> Self {
        let mut timed = Self::default();
        for item in items {
            match item {
                Remembered::Time(time) => timed.done(time),
                Remembered::Failed(failure) => timed.failed(failure, outcome_of(failure)),
                // Nothing else is remembered of these actions, whose names are part of what opens the row.
                Remembered::Issued { .. } | Remembered::Released => {
                    timed.failed(ItemFailure::DataLoss, ItemOutcome::Corrupt);
                }
            }
        }
        timed
    }
}

impl Vault {
    /// Commits what was done for the first time, and has it remembered.
    pub(super) async fn conclude_first<A: policy::Action>(
        &self,
        wanted: &Wanted<'_>,
        mut attempt: Attempt<A>,
        handles: &[Option<Handle>],
        mut timed: Timed,
    ) -> Result<Option<(Times, Receipt)>, Failure> {
        if timed.is_too_long {
            let reason = Reason::RecordsTooLarge;
            return Err(Box::pin(self.too_long(*attempt.event, reason, handles, timed.outcomes)).await);
        }
        timed.effects.touched.extend(handles.iter().flatten());
        if let Some(request) = &wanted.request {
            let items = timed.results.iter().map(requests::Outcome::of_time);
            request.remember(self, attempt.random.take(), items, &mut timed.effects);
        }
        self.conclude_times(wanted, attempt, handles, timed).await
    }

    /// Records that what was done before was asked for again.
    pub(super) async fn conclude_again<A: policy::Action>(
        &self,
        wanted: &Wanted<'_>,
        mut attempt: Attempt<A>,
        handles: &[Option<Handle>],
        items: Vec<Remembered>,
    ) -> Result<Option<(Times, Receipt)>, Failure> {
        attempt.event.detail = requests::repeated(wanted.detail);
        self.conclude_times(wanted, attempt, handles, Timed::again(items)).await
    }

    async fn conclude_times<A: policy::Action>(
        &self,
        wanted: &Wanted<'_>,
        mut attempt: Attempt<A>,
        handles: &[Option<Handle>],
        timed: Timed,
    ) -> Result<Option<(Times, Receipt)>, Failure> {
        describe(&mut attempt.event, handles, timed.outcomes.iter().copied());
        self.conclude(wanted, attempt, timed.effects, Held::new(timed.results, Vec::new())).await
    }
}

fn outcome_of(failure: ItemFailure) -> ItemOutcome {
    match failure {
        ItemFailure::NotFound => ItemOutcome::Unknown,
        ItemFailure::DataLoss => ItemOutcome::Corrupt,
        ItemFailure::Invalid(Reason::TokenMalformed | Reason::HandleMalformed) => ItemOutcome::Malformed,
        ItemFailure::Invalid(_) => ItemOutcome::Refused,
    }
}
