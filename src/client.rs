//! A vault seen from outside: profiles, connections over mutual TLS, calls that are safe to make, and typed errors.
//!
//! Invariant: nothing is sent before the other side has proved to be the vault that the profile names; no call waits for longer
//! than its deadline; none is made again that could be done twice; and no error of this module holds a value or a token.
//!
//! It knows the wire and not the vault: with the server it shares `proto` and `tls` alone. It builds without it, too, with the
//! feature `client` in the place of `vault`:
//!
//! ```toml
//! cloakroom = { git = "…", default-features = false, features = ["client"] }
//! ```
//!
//! A gateway that stores a card number, and what it can do about each thing that goes wrong:
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use cloakroom::client::{Client, Error, Profile, Settings, Tokenize};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut settings = Settings::new(Profile::load(Path::new("profiles/gateway.toml"))?)?;
//! settings.deadline = Duration::from_secs(2);
//! let client = Client::new(settings)?;
//!
//! let answer = match client.tokenize(Tokenize::new("pan", [b"4111111111111111".to_vec()])).await {
//!     Ok(answer) => answer,
//!     // A policy is missing, or should be. The auditor finds the event by its number.
//!     Err(Error::Denied(failure)) => return Err(format!("not allowed: {failure}").into()),
//!     // It was tried again as often as that was safe.
//!     Err(error) => return Err(error.into()),
//! };
//! // The event that recorded the call; it may be logged, as handles may. Tokens may not.
//! println!("event {} of {}", answer.receipt.sequence, answer.receipt.log_id);
//! for item in answer.items {
//!     match item {
//!         Ok(issued) => println!("{} until {}", issued.handle, issued.expires.millis()),
//!         Err(failure) => println!("this value was refused: {failure}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **What is tried again.** A call with a request id, whenever no answer came or the vault could not: it knows the call again and
//! gives the same answer. The client draws an id for each call that changes something or releases a value, unless told otherwise.
//! A call without one, only if it never reached the vault or the vault said that nothing was done. Between attempts it waits for a random
//! part of a time that doubles, and never for less than the vault asks.
//!
//! **What is left alone.** After five failures in a row to get any answer ([`breaker::Settings`]) no call is made for a second, and
//! then one, to see. Calls that begin meanwhile fail at once with [`Error::BreakerOpen`]. Deadlines that pass in silence count, so a
//! client whose deadlines are too short for its network does that to itself.
//!
//! **What is renewed.** Certificate, key and authorities are read again when their files change, every half minute at the latest or on
//! [`Client::look`]. New connections are made with what is new, and those of the old identity end when their calls have. If the new files
//! can't be used, the old identity stays and [`Client::identity`] says why.
//!
//! **What stays in memory.** What the caller holds wipes itself. The copies that HTTP/2 and TLS make of a message are wiped only by an
//! allocator that wipes; the program of this crate has one (`zeroizing-alloc`), and so can yours.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::watch;

mod audit;
pub mod breaker;
mod engine;
mod failure;
mod identity;
mod message;
mod pool;
mod profile;
mod retry;
mod settings;
mod surroundings;
mod tokens;

pub use self::audit::Events;
pub use self::failure::{Error, Failure, Receipt, TOO_LONG};
pub use self::identity::IdentityStatus;
pub use self::profile::{Profile, ProfileError};
pub use self::retry::Retry;
pub use self::settings::Settings;
pub use self::surroundings::{Machine, Surroundings};
pub use self::tokens::{
    Answer, Detokenize, Info, Inspect, Issued, Item, Options, Renew, RequestId, Revoke, Token, Tokenize,
};

use self::engine::Engine;
use self::identity::Keeper;
use self::message::Message;
use self::pool::Pool;

#[cfg(test)]
#[cfg(feature = "vault")]
mod tests;

/// How long a call of the command line may take. The server hears of it and does not go on for nobody.
const PLAIN_DEADLINE: Duration = Duration::from_secs(30);

/// A client of one vault. Cloning it is cheap, and clones share everything: connections, breaker, identity. It lives in the tokio
/// runtime that it was made in.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    engine: Engine,
    deadline: Duration,
}

impl Client {
    /// A client that connects with its first call, and looks after its identity by itself.
    ///
    /// # Errors
    /// If the profile's files are not usable, or its address is none.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let (every, surroundings) = (settings.look_every, Arc::clone(&settings.surroundings));
        let client = Self::quiet(settings)?;
        // It ends with the last clone, at the next look.
        let inner = Arc::downgrade(&client.inner);
        tokio::spawn(async move {
            loop {
                surroundings.pause(every).await;
                let Some(inner) = inner.upgrade() else { return };
                inner.pool.look().await;
            }
        });
        Ok(client)
    }

    /// Connects, and checks that the other side is the vault that the profile names. For the command line: calls are made
    /// once, and the identity is that of the moment.
    ///
    /// # Errors
    /// If the profile's files are not usable, nobody answers, or the other side is someone else. Whether the vault accepts
    /// *our* certificate may show only at the first call: so it is in TLS 1.3.
    pub async fn connect(profile: &Profile) -> Result<Self, Error> {
        let client = Self::quiet(Settings {
            deadline: PLAIN_DEADLINE,
            connections: 1,
            retry: Retry::never(),
            breaker: breaker::Settings { failures: 0, ..breaker::Settings::default() },
            ..Settings::plain(profile.clone())
        })?;
        client.inner.pool.line().await?;
        Ok(client)
    }

    fn quiet(settings: Settings) -> Result<Self, Error> {
        let address = settings.profile.address.clone();
        let pool = Pool::new(&address, Keeper::new(settings.profile)?, settings.connections)?;
        let engine = Engine::new(Arc::clone(pool.address()), settings.retry, settings.breaker, settings.surroundings);
        Ok(Self { inner: Arc::new(Inner { pool, engine, deadline: settings.deadline }) })
    }

    /// Looks at the profile's files now: for whoever knows that they have changed.
    pub async fn look(&self) {
        self.inner.pool.look().await;
    }

    /// Which identity the client shows, whether it could be renewed, and every change of that.
    pub fn identity(&self) -> watch::Receiver<IdentityStatus> {
        self.inner.pool.keeper().watch()
    }

    /// What the circuit breaker does, and every change of that.
    pub fn breaker(&self) -> watch::Receiver<breaker::State> {
        self.inner.engine.watch()
    }

    /// Makes a call as the wire has it.
    pub(crate) async fn call<M: Message>(&self, message: M, deadline: Option<Duration>) -> Result<M::Answer, Error> {
        let has_request_id = message.has_request_id();
        let attempt = |left| message::once(&self.inner.pool, message.clone(), left);
        self.inner.engine.run(deadline.unwrap_or(self.inner.deadline), has_request_id, attempt).await
    }

    fn address(&self) -> &Arc<str> {
        self.inner.pool.address()
    }

    fn surroundings(&self) -> &dyn Surroundings {
        self.inner.engine.surroundings()
    }
}
