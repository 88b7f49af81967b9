//! The Merkle tree over the audit log, as RFC 6962 defines it: hashes, tiles, proofs, signed checkpoints.
//!
//! * [`Frontier`] is the writer's end: leaves go in, full tiles come out, the root is always at hand.
//! * [`Tree`] is the reader's end: roots of any earlier size and proofs, from stored tiles and a frontier.
//! * [`Peaks`] is what a verifier appends to: the root, and no tiles.
//! * [`verify_inclusion`] and [`verify_consistency`] are the sceptic's end. They share nothing with the making of proofs
//!   but the two hash functions below.
//! * [`note`] signs and opens checkpoints.
//!
//! Invariant: what has been a root once stays provable for ever. Tiles and roots depend on the leaves alone, so a tree that
//! is built again from the same events has the same bytes throughout.
//!
//! This module must not know what a leaf means, where tiles are stored or what time it is. It does no I/O: the offline
//! verifier needs nothing else but [`crate::event`].

mod frontier;
pub mod note;
mod peaks;
mod proof;
mod tile;
mod tree;

#[cfg(test)]
mod tests;

use sha2::{Digest, Sha256};

pub use frontier::Frontier;
pub use peaks::Peaks;
pub use proof::{ProofError, verify_consistency, verify_inclusion};
pub use tile::{TILE_BYTES, TILE_WIDTH, Tile, TileId, TilePathError};
pub use tree::{Tree, TreeError};

/// A SHA-256 hash: of a leaf, of an inner node, of a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; HASH_BYTES]);

/// The length of a hash in bytes.
pub const HASH_BYTES: usize = 32;

/// Something that should be a hash does not have 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash has 32 bytes, this has {0}")]
pub struct HashLengthError(pub usize);

/// In front of a leaf's bytes, so that no inner node can pass for a leaf or the other way round (RFC 6962, 2.1).
const LEAF_PREFIX: u8 = 0x00;

/// In front of the two children of an inner node.
const NODE_PREFIX: u8 = 0x01;

/// The hash of one leaf: `SHA-256(0x00 ‖ content)`.
pub fn leaf_hash(content: &[u8]) -> Hash {
    Hash(Sha256::new_with_prefix([LEAF_PREFIX]).chain_update(content).finalize().into())
}

/// The hash of an inner node: `SHA-256(0x01 ‖ left ‖ right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut content = [NODE_PREFIX; 1 + 2 * HASH_BYTES];
    content[1..=HASH_BYTES].copy_from_slice(&left.0);
    content[1 + HASH_BYTES..].copy_from_slice(&right.0);
    Hash(Sha256::digest(content).into())
}

/// The root of the tree without leaves: the SHA-256 of nothing.
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

impl Hash {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = HashLengthError;

    fn try_from(bytes: &[u8]) -> Result<Self, HashLengthError> {
        bytes.try_into().map(Self).map_err(|_| HashLengthError(bytes.len()))
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
