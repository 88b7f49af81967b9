//! The operations over a whole vault in memory. Most tests end with [`Fixture::check`], which computes the log anew and
//! holds every row against it.

use super::fixture::*;
use super::*;
use crate::event::{Action, Event, ItemOutcome};
use crate::store::{Fault, Table};
use std::sync::atomic::Ordering;
use std::time::Duration;

mod damage;
mod expiry;
mod making;
mod purge;
mod races;
mod refusals;
mod renewing;
mod requests;
mod states;
mod uses;
mod verify;

const PAN: &[u8] = b"4111111111111111";

#[expect(clippy::unnecessary_wraps, reason = "it is compared with what a call shows")]
fn values(values: &[&[u8]]) -> Shown {
    Ok(values.iter().map(|value| Ok(value.to_vec())).collect())
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with what a call shows")]
fn nothing(number: usize) -> Shown {
    Ok(vec![Err(ItemFailure::NotFound); number])
}

/// A source of numbers that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn pick(&mut self, below: usize) -> usize {
        usize::try_from(self.roll(below as u64)).unwrap()
    }
}
