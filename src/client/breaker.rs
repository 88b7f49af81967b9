//! The circuit breaker: who does not answer is left alone for a while.
//!
//! Invariant: it opens after so many failures in a row, and only by failures to get any answer or UNAVAILABLE. While it is open
//! no call is made; after its rest exactly one at a time is let through, and that one's answer decides. What the vault refuses
//! (by policy, as invalid, as too much) is an answer and closes it.
//!
//! Time is a parameter; nothing here waits.

use std::time::Duration;

/// Settings of a breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// After how many failures in a row it opens. 0: never.
    pub failures: u32,
    /// For how long it lets nobody through then.
    pub rest: Duration,
}

/// What it does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls are made.
    Closed,
    /// No call is made. One will be, once its rest is over.
    Open,
    /// One call is on its way, to see whether it is answered.
    HalfOpen,
}

/// What became of a call that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There was an answer, whatever it says.
    Answered,
    /// There was none, or UNAVAILABLE.
    Failed,
    /// Its caller no longer wanted it before either was known.
    Abandoned,
}

/// Leave to make one call. It is to be handed back with what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// How often the breaker had changed when it was given. What belongs to an earlier time decides nothing any more.
    turn: u64,
}

/// The breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: Settings,
    turn: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Closed { failures: u32 },
    Open { since: Duration },
    HalfOpen { since: Duration },
}

impl Default for Settings {
    fn default() -> Self {
        Self { failures: 5, rest: Duration::from_secs(1) }
    }
}

impl Breaker {
    pub fn new(settings: Settings) -> Self {
        Self { settings, turn: 0, place: Place::Closed { failures: 0 } }
    }

    pub fn state(&self) -> State {
        match self.place {
            Place::Closed { .. } => State::Closed,
            Place::Open { .. } => State::Open,
            Place::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Whether a call may be made now.
    ///
    /// # Errors
    /// If not, how long until it is worth asking again: zero while the one that was let through is on its way.
    pub fn ask(&mut self, now: Duration) -> Result<Pass, Duration> {
        match self.place {
            Place::Closed { .. } => {}
            Place::Open { since } => {
                let left = self.settings.rest.saturating_sub(now.saturating_sub(since));
                if !left.is_zero() {
                    return Err(left);
                }
                self.move_to(Place::HalfOpen { since });
            }
            Place::HalfOpen { .. } => return Err(Duration::ZERO),
        }
        Ok(Pass { turn: self.turn })
    }

    /// What became of a call.
    pub fn tell(&mut self, pass: Pass, outcome: Outcome, now: Duration) {
        if pass.turn != self.turn {
            return;
        }
        match (self.place, outcome) {
            (Place::Closed { .. }, Outcome::Answered) => self.place = Place::Closed { failures: 0 },
            (Place::Closed { failures }, Outcome::Failed) => {
                let failures = failures.saturating_add(1);
                if failures == self.settings.failures {
                    self.move_to(Place::Open { since: now });
                } else {
                    self.place = Place::Closed { failures };
                }
            }
            (Place::Closed { .. }, Outcome::Abandoned) => {}
            (Place::HalfOpen { .. }, Outcome::Answered) => self.move_to(Place::Closed { failures: 0 }),
            (Place::HalfOpen { .. }, Outcome::Failed) => self.move_to(Place::Open { since: now }),
            // The next one may try at once: the rest is over.
            (Place::HalfOpen { since }, Outcome::Abandoned) => self.move_to(Place::Open { since }),
            (Place::Open { .. }, _) => unreachable!("no pass is given while it is open"),
        }
    }

    fn move_to(&mut self, place: Place) {
        self.place = place;
        self.turn += 1;
    }
}
