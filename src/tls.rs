//! The door: who may connect, proven by certificate, before a byte of a request is read.
//!
//! Invariant: an [`io::TlsIo`] exists only for a connection on which this process saw a full TLS 1.3 handshake,
//! verified the client's certificate under the bundle of the trust domain that its SPIFFE ID names, and applied every
//! rule of [`crate::caller::leaf`]. Nothing is resumed, so nobody comes in on an older verdict.
//!
//! What stands where: `material` reads certificates and keys from files; `verifier` decides on a client's chain;
//! `config` composes both into what rustls takes; `acceptor` owns the socket and its limits; `io` is the open
//! connection and `connections` the register of all of them, `farewell` what is said to those who can't stay,
//! `frames` how many frames are too many, `waits` since when a call waits for its peer; `client` is the other end, for our own client.
//! `web` is TLS for plain HTTPS, which has nothing to do with callers.
//! `outgoing` is for connections to servers of others.
//!
//! This module knows tonic only by the trait through which it tells handlers who is calling. It knows nothing of
//! requests, policy or the audit log: a refused handshake is handed to whoever started the acceptor.

pub mod acceptor;
pub mod client;
pub mod config;
pub mod connections;
pub mod io;
pub mod material;
pub mod outgoing;
pub mod web;

mod farewell;
mod findings;
mod frames;
mod handshake;
mod provider;
mod verifier;
mod waits;

pub use acceptor::{Acceptor, HandshakeFailure, Worker, origin};
pub use config::{Config, TrustDomainBundle, build_server_config};
pub use connections::Connections;
pub use io::{Account, Connection, TlsIo};
pub use material::{Doubt, ServerIdentity, SetupError, check_bundle, first_end};
pub use outgoing::build_outgoing_config;
pub use waits::{Turns, Wait, Waits};

#[cfg(test)]
mod tests;
