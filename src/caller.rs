//! Who is calling: the identity that a client certificate proves, as plain data.
//!
//! Invariant: a [`Caller`] holds exactly one well-formed SPIFFE ID, taken from the only URI name of a certificate that
//! satisfied every rule in [`leaf`]. Ids are compared byte for byte; nothing here normalises one into another.
//!
//! This module is pure. It reads certificates, it does not verify signatures, chains or times, and it knows nothing of
//! sockets: whoever makes a [`Caller`] from a [`leaf::Leaf`] must have verified that leaf's chain first.

pub mod leaf;
pub mod spiffe;

#[cfg(test)]
#[cfg_attr(not(feature = "vault"), allow(dead_code))] // servers' certificates are for the tests of `tls`
pub(crate) mod forge;

use std::net::SocketAddr;

pub use spiffe::{SpiffeId, TrustDomain};

use crate::clock::Timestamp;

/// The authenticated identity behind one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The SPIFFE ID that policy decides on.
    pub id: SpiffeId,
    /// SHA-256 of the client certificate as it was sent (DER). Audit events carry it, and a certificate-bound access
    /// token must name it.
    pub certificate_sha256: [u8; 32],
    /// The last moment at which the certificate is valid. A connection outlives its certificate, so each call compares.
    pub not_after: Timestamp,
    /// The peer's address as `ip:port`, for the audit event only. No decision may depend on it.
    pub peer: String,
}

impl Caller {
    /// The caller behind a leaf whose chain was verified, on a connection from `peer`.
    pub fn new(leaf: &leaf::Leaf, peer: SocketAddr) -> Self {
        Self { id: leaf.id.clone(), certificate_sha256: leaf.sha256, not_after: leaf.not_after, peer: peer.to_string() }
    }
}
