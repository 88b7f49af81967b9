//! The least that a tree can be continued from.

use super::proof::{Climb, Side};
use super::{Hash, ProofError, empty_root, node_hash};

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

    /// What lies before leaf `index`, from that leaf's inclusion proof in the tree of `size` leaves: the hashes in it that
    /// stand to the left are the peaks. No leaf before it is needed, so they may be gone. A claim, as above.
    pub fn before(index: u64, size: u64, proof: &[Hash]) -> Result<Self, ProofError> {
        if index >= size {
            return Err(ProofError::NoSuchLeaf { index, size });
        }
        let mut climb = Climb { index, last: size - 1 };
        let mut left = Vec::new();
        for hash in proof {
            if let Side::Left = climb.step()? {
                left.push(*hash);
            }
        }
        climb.arrived()?;
        left.reverse();
        Self::claimed(index, left).ok_or(ProofError::WrongLength)
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
