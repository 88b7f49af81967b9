//! How a client behaves.

use std::sync::Arc;
use std::time::Duration;

use super::breaker;
use super::retry::Retry;
use super::surroundings::{Machine, Surroundings};
use super::{Error, Profile};

/// What a client needs to know. [`Settings::new`] has defaults for all but the profile.
#[derive(Clone)]
pub struct Settings {
    /// Where the vault is, who calls, and whom to expect.
    pub profile: Profile,
    /// How long a call may take where it does not say so itself. By default ten seconds, as long as the vault itself waits
    /// for its disk.
    pub deadline: Duration,
    /// Over how many connections calls go. Each carries many calls at once; a second one helps where one processor core is
    /// too little for encryption. A vault limits the connections of each caller.
    pub connections: usize,
    /// How often a call is made, and what lies between.
    pub retry: Retry,
    /// When a vault that does not answer is left alone.
    pub breaker: breaker::Settings,
    /// How often the profile's files are looked at, to see whether they have changed. Calls never look.
    pub look_every: Duration,
    /// Time and randomness.
    pub surroundings: Arc<dyn Surroundings>,
}

impl Settings {
    /// The defaults.
    ///
    /// # Errors
    /// If the profile names no `server_id`. A certificate of the same authority with the right host name may belong to
    /// another workload: only the SPIFFE ID says that it is the vault.
    pub fn new(profile: Profile) -> Result<Self, Error> {
        if profile.server_id.is_none() {
            let problem = "it names no server_id, the SPIFFE ID that the vault's certificate must have, such as \
                           server_id = \"spiffe://example.org/vault\"";
            return Err(Error::Profile { problem: problem.to_owned() });
        }
        Ok(Self::plain(profile))
    }

    /// The same for whoever takes the profile as it is.
    pub(super) fn plain(profile: Profile) -> Self {
        Self {
            profile,
            deadline: Duration::from_secs(10),
            connections: 2,
            retry: Retry::default(),
            breaker: breaker::Settings::default(),
            look_every: Duration::from_secs(30),
            surroundings: Machine::shared(),
        }
    }
}
