//! The least that a tree can be continued from.

use super::{Hash, ProofError, empty_root, leaf_hash, node_hash};

/// The roots of the perfect subtrees that a size is the sum of: enough to append leaves and to know the root, and nothing
/// more. A verifier needs no tiles.
///
/// Peaks that come from someone else are a claim about everything before them. The claim holds if a root that follows from
/// them is one that is signed: nobody finds other peaks that lead there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    size: u64,
    /// Largest first, one for each set bit of `size`.
    hashes: Vec<Hash>,
}

impl Peaks {
    /// The tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree of `size` leaves with the peaks `hashes`, largest first. `None` if these are not as many as `size` has.
    pub fn claimed(size: u64, hashes: Vec<Hash>) -> Option<Self> {
        (hashes.len() == size.count_ones() as usize && i64::try_from(size).is_ok()).then_some(Self { size, hashes })
    }

    /// The peaks of the tree of `size` leaves, from its last leaf's bytes and that leaf's inclusion proof in this tree:
    /// every hash in it is a node to the left, and the upper ones are peaks. A claim, as above.
    pub fn before(size: u64, last_leaf: &[u8], proof: &[Hash]) -> Result<Self, ProofError> {
        let no_such_leaf = ProofError::NoSuchLeaf { index: size.wrapping_sub(1), size };
        let height = size.checked_ilog2().map(|_| size.trailing_zeros() as usize).ok_or(no_such_leaf)?;
        let (within, above) = proof.split_at_checked(height).ok_or(ProofError::WrongLength)?;
        let smallest = within.iter().fold(leaf_hash(last_leaf), |node, left| node_hash(left, &node));
        let hashes = above.iter().rev().copied().chain([smallest]).collect();
        Self::claimed(size, hashes).ok_or(ProofError::WrongLength)
    }

    /// Appends one leaf.
    pub fn append(&mut self, leaf: Hash) {
        let mut node = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.hashes.pop().expect("there is a peak for each set bit of the size");
            node = node_hash(&left, &node);
        }
        self.hashes.push(node);
        self.size += 1;
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The peaks, largest first.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// The root of the tree as it stands.
    pub fn root(&self) -> Hash {
        self.hashes.iter().rev().copied().reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root)
    }
}
