//! Whether a call that failed may be made again, and after what pause.
//!
//! Invariant: a call that carries no request id is made again only if it never reached the vault, or the vault said that
//! nothing of it was done. One that carries one may be made again whenever that could help: the vault gives the same answer
//! to the same id, so nothing is done twice.

use std::time::Duration;

use tonic::Code;

use super::Error;
use super::surroundings::{Surroundings, part_of};

/// How often a call is made, and what lies between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often at the most, the first time included. 1: never again.
    pub attempts: u32,
    /// The longest that the first pause can be. Each further one can be twice as long.
    pub first: Duration,
    /// What no pause grows beyond, unless the vault asks for a longer one.
    pub longest: Duration,
}

/// What is to be done after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Give up.
    Final,
    /// Try again, not before so long.
    Again(Duration),
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 8, first: Duration::from_millis(50), longest: Duration::from_secs(2) }
    }
}

impl Retry {
    /// A call is made once.
    pub fn never() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// The pause after the failure number `failed`, counted from 1: full jitter, which spreads those who failed together
    /// over all of the time there is, but never less than was asked for. What was asked for is the same for all of them, so
    /// the jitter comes on top.
    pub(super) fn pause(&self, failed: u32, asked: Duration, surroundings: &dyn Surroundings) -> Duration {
        let factor = 1u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        let step = self.first.saturating_mul(factor).min(self.longest);
        asked.saturating_add(part_of(step, surroundings))
    }
}

/// May it be made again? `has_request_id`: whether the vault would know it again.
pub(super) fn verdict(error: &Error, has_request_id: bool) -> Verdict {
    let again_if = |may: bool| if may { Verdict::Again(Duration::ZERO) } else { Verdict::Final };
    match error {
        // It never reached a vault: the connection was not made, or broke before the request was sent.
        Error::Unreachable { .. } | Error::HandshakeRefused { is_said: false, .. } => again_if(true),
        // It was sent, and nobody knows what became of it.
        Error::Interrupted { .. } => again_if(has_request_id),
        // The vault's word that it did not do it because its log could not be written, or, after ten seconds of waiting,
        // that it does not know whether it did.
        Error::Unavailable(failure) => again_if(failure.code == Code::Unavailable && has_request_id),
        // Nothing was done, and it says when to come back. Without that word it is a limit that stays.
        Error::Limited(failure) => failure.retry_after.map_or(Verdict::Final, Verdict::Again),
        // Nothing was done, since others were quicker.
        Error::Conflict(_) => again_if(true),
        // Somebody else gets the call at once that the breaker does not let through.
        Error::BreakerOpen { retry_after, .. } => Verdict::Again(*retry_after),
        // What was refused will be refused again, and what is over is over.
        Error::Profile { .. }
        | Error::NoRandomness { .. }
        | Error::OtherServer { .. }
        | Error::HandshakeRefused { is_said: true, .. }
        | Error::Denied(_)
        | Error::Invalid(_)
        | Error::Deadline(_)
        | Error::Unimplemented(_)
        | Error::Unexpected(_) => Verdict::Final,
    }
}
