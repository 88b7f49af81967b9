//! Checking proofs, by the algorithms of RFC 9162, 2.1.3.2 and 2.1.4.2.
//!
//! Proofs are made by splitting ranges from the root downwards; they are checked here by climbing from the leaf with the
//! bits of two indices. Two ways to the same answer, so that one mistake does not hide in both.

use super::{Hash, empty_root, node_hash};

/// Why a proof proves nothing. What it was to prove may still be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// There is no such leaf.
    #[error("leaf {index} can't be in a tree of {size} leaves")]
    NoSuchLeaf {
        /// The leaf in question.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// The old tree is the larger one.
    #[error("a tree of {from} leaves can't be the beginning of one of {to}")]
    Backwards {
        /// The size of the older tree.
        from: u64,
        /// The size of the newer tree.
        to: u64,
    },
    /// A proof between these sizes has another number of hashes.
    #[error("the proof has too many or too few hashes for these sizes")]
    WrongLength,
    /// The hashes lead to another root than the one that was signed.
    #[error("the proof does not lead to the {which} root: the entry, the proof or the checkpoint was altered")]
    OtherRoot {
        /// Which of the roots: "tree's", "older" or "newer".
        which: &'static str,
    },
}

/// Checks that the leaf with hash `leaf` stands at `index` in the tree of `size` leaves with that `root`.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, root: &Hash, proof: &[Hash]) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::NoSuchLeaf { index, size });
    }
    let mut climb = Climb { index, last: size - 1 };
    let mut node = *leaf;
    for beside in proof {
        node = match climb.step()? {
            Side::Left => node_hash(beside, &node),
            Side::Right => node_hash(&node, beside),
        };
    }
    climb.arrived()?;
    if node == *root { Ok(()) } else { Err(ProofError::OtherRoot { which: "tree's" }) }
}

/// Checks that the tree of `from` leaves with `from_root` is the beginning of the tree of `to` leaves with `to_root`: nothing
/// that was in it has been removed, changed or reordered.
pub fn verify_consistency(
    from: u64,
    from_root: &Hash,
    to: u64,
    to_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if from > to {
        return Err(ProofError::Backwards { from, to });
    }
    if from == 0 || from == to {
        return verify_trivial(from, from_root, to, to_root, proof);
    }
    // Where the old tree is one perfect subtree its root is the start, and the proof leaves it out.
    let (start, proof) = match proof {
        whole if from.is_power_of_two() => (from_root, whole),
        [start, rest @ ..] => (start, rest),
        [] => return Err(ProofError::WrongLength),
    };
    let mut climb = Climb { index: from - 1, last: to - 1 };
    climb.skip_while(|index| index & 1 == 1);
    let (mut older, mut newer) = (*start, *start);
    for beside in proof {
        match climb.step()? {
            Side::Left => {
                older = node_hash(beside, &older);
                newer = node_hash(beside, &newer);
            }
            Side::Right => newer = node_hash(&newer, beside),
        }
    }
    climb.arrived()?;
    if older != *from_root {
        return Err(ProofError::OtherRoot { which: "older" });
    }
    if newer != *to_root {
        return Err(ProofError::OtherRoot { which: "newer" });
    }
    Ok(())
}

/// Between equals and from nothing there is nothing to prove, but the roots must be what they can only be.
fn verify_trivial(from: u64, from_root: &Hash, to: u64, to_root: &Hash, proof: &[Hash]) -> Result<(), ProofError> {
    if !proof.is_empty() {
        return Err(ProofError::WrongLength);
    }
    if from == 0 && *from_root != empty_root() {
        return Err(ProofError::OtherRoot { which: "older" });
    }
    if from == to && from_root != to_root {
        return Err(ProofError::OtherRoot { which: "newer" });
    }
    Ok(())
}

/// On which side of the path the next hash of a proof stands.
pub(super) enum Side {
    Left,
    Right,
}

/// A way up through the tree: the index of the node on the path among those of its height, and that of the last node there.
pub(super) struct Climb {
    pub(super) index: u64,
    pub(super) last: u64,
}

impl Climb {
    /// Climbs past one hash of the proof.
    pub(super) fn step(&mut self) -> Result<Side, ProofError> {
        if self.last == 0 {
            return Err(ProofError::WrongLength);
        }
        let side = if self.index & 1 == 1 || self.index == self.last {
            // At the right edge a node without a sibling moves up unhashed until it has one.
            self.skip_while(|index| index & 1 == 0 && index != 0);
            Side::Left
        } else {
            Side::Right
        };
        self.up();
        Ok(side)
    }

    pub(super) fn arrived(&self) -> Result<(), ProofError> {
        if self.last == 0 { Ok(()) } else { Err(ProofError::WrongLength) }
    }

    fn skip_while(&mut self, condition: impl Fn(u64) -> bool) {
        while condition(self.index) {
            self.up();
        }
    }

    fn up(&mut self) {
        self.index >>= 1;
        self.last >>= 1;
    }
}
