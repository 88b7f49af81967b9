//! The door: who may connect, proven by certificate, before a byte of a request is read.
//!
//! Invariant: an [`io::TlsIo`] exists only for a connection on which this process saw a full TLS 1.3 handshake,
//! verified the client's certificate under the bundle of the trust domain that its SPIFFE ID names, and applied every
//! rule of [`crate::caller::leaf`]. Nothing is resumed, so nobody comes in on an older verdict.
//!
//! What stands where: `material` reads certificates and keys from files, and `server` has the rules for those of a server;
//! `verifier` decides on a client's chain;
//! `config` composes both into what rustls takes; `acceptor` owns the socket and its limits; `io` is the open
//! connection and `connections` the register of all of them, `farewell` what is said to those who can't stay,
//! `frames` how many frames are too many, `waits` since when a call waits for its peer; `client` is the other end, for our own client.
//! `web` is TLS for plain HTTPS, which has nothing to do with callers.
//! `outgoing` is for connections to servers of others. `client` and what it needs build without the feature `vault`.
//!
//! This module knows tonic only by the trait through which it tells handlers who is calling. It knows nothing of
//! requests, policy or the audit log: a refused handshake is handed to whoever started the acceptor.

#[cfg(feature = "vault")]
pub mod acceptor;
pub mod client;
#[cfg(feature = "vault")]
pub mod config;
#[cfg(feature = "vault")]
pub mod connections;
#[cfg(feature = "vault")]
pub mod io;
pub mod material;
#[cfg(feature = "vault")]
pub mod outgoing;
#[cfg(feature = "vault")]
pub mod server;
#[cfg(feature = "vault")]
pub mod web;

#[cfg(feature = "vault")]
mod farewell;
#[cfg(feature = "vault")]
mod findings;
#[cfg(feature = "vault")]
mod frames;
#[cfg(feature = "vault")]
mod handshake;
mod provider;
#[cfg(feature = "vault")]
mod verifier;
#[cfg(feature = "vault")]
mod waits;

pub use material::SetupError;
#[cfg(feature = "vault")]
pub use {
    acceptor::{Acceptor, HandshakeFailure, Worker, origin},
    config::{Config, TrustDomainBundle, build_server_config},
    connections::Connections,
    io::{Account, Connection, TlsIo},
    outgoing::build_outgoing_config,
    server::{Doubt, ServerIdentity, check_bundle, first_end},
    waits::{Turns, Wait, Waits},
};

#[cfg(test)]
#[cfg(feature = "vault")]
mod tests;
