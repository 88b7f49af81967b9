//! What is too long for one call: an answer, or records that it would write anew.
//!
//! Answers are weighed by the lengths of the records alone, before anything is opened: a call that names a thousand values of a
//! megabyte is not to cost a gigabyte of decryption before it is refused. Only what would be released has a weight of its own. All
//! else weighs as one error does, whatever there is behind it, so a dead token weighs as much as one that never was.

use super::{Failure, Reason, Vault, Violation};
use crate::crypto::Handle;
use crate::event::{self, Event, ItemOutcome, Outcome};
use std::collections::HashMap;

/// Framing of one value in a reply.
pub(super) const REPLY_BYTES_AN_ITEM: usize = 16;
/// An item's error in a reply.
pub(super) const REPLY_BYTES_AN_ERROR: usize = 256;

/// How long the answer to a call is at the least, as far as its records have been read.
#[derive(Default)]
pub(super) struct Weight {
    pub bytes: usize,
    /// Uses that tokens with limited uses have left behind the items so far.
    uses: HashMap<Handle, u32>,
}

impl Weight {
    /// An item whose value has at least so many bytes.
    pub fn value(&mut self, bytes: usize) {
        self.bytes += bytes + REPLY_BYTES_AN_ITEM;
    }

    /// An item that has none.
    pub fn error(&mut self) {
        self.bytes += REPLY_BYTES_AN_ERROR;
    }

    /// Whether a token that had `left` uses before the call has one more for its next item, which takes it.
    pub fn takes_use(&mut self, handle: &Handle, left: u32) -> bool {
        let left = self.uses.entry(*handle).or_insert(left);
        let has_one = *left > 0;
        *left = left.saturating_sub(1);
        has_one
    }
}

impl Vault {
    /// Refuses what is too long. Whether it is depends on what became of each token, so who is told of it leaves an event with all
    /// of them each time, as one who gets an answer does: nobody is to probe unseen. What was not looked at any more is refused.
    pub(super) async fn too_long(
        &self,
        mut event: Event,
        reason: Reason,
        handles: &[Option<Handle>],
        outcomes: Vec<ItemOutcome>,
    ) -> Failure {
        let withheld = |outcome: &ItemOutcome| match outcome {
            ItemOutcome::Released | ItemOutcome::Masked | ItemOutcome::Done => ItemOutcome::Refused,
            dead => *dead,
        };
        event.item_outcomes = outcomes.iter().map(|outcome| withheld(outcome).into()).collect();
        event.item_outcomes.resize(handles.len(), ItemOutcome::Refused.into());
        event.handles = event::handles(handles.iter().map(|handle| handle.as_ref().map(Handle::as_bytes)));
        (event.outcome, event.reason, event.succeeded) = (Outcome::Failed.into(), reason.as_str().into(), 0);
        match self.record_event(event).await {
            Ok(receipt) => Failure::Invalid(Violation { field: "tokens", reason }, Some(receipt)),
            Err(failure) => failure,
        }
    }
}
