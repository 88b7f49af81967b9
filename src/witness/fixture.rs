//! A log to be witnessed, for tests: its events, its key and proofs between any two of its sizes.

use super::Request;
use crate::merkle::note::{Checkpoint, LogKey, Name, VerifierKey, WitnessKey};
use crate::merkle::{Frontier, Hash, Tree, leaf_hash};
use crate::secret::SecretKey;
use std::convert::Infallible;

pub(crate) const ORIGIN: &str = "log.example/vault";

/// A history of a log. It has fewer events than fill a tile, so that proofs need no store.
#[derive(Clone)]
pub(crate) struct History {
    leaves: Vec<Hash>,
    seed: [u8; 32],
    origin: &'static str,
}

impl History {
    pub fn new(size: u64) -> Self {
        Self::of(ORIGIN, size)
    }

    pub fn of(origin: &'static str, size: u64) -> Self {
        let mut history = Self { leaves: Vec::new(), seed: [0x4c; 32], origin };
        history.grow(size, "event");
        history
    }

    /// Appends events up to `size`. Others than `what` make another history.
    pub fn grow(&mut self, size: u64, what: &str) {
        assert!(size < 256, "proofs of more need stored tiles");
        for number in self.leaves.len() as u64..size {
            self.leaves.push(leaf_hash(format!("{what} {number}").as_bytes()));
        }
    }

    /// The same first `size` events, and then others.
    pub fn fork(&self, size: u64, to: u64) -> Self {
        let mut other = self.clone();
        other.leaves.truncate(usize::try_from(size).unwrap());
        other.grow(to, "forged event");
        other
    }

    /// The same history, signed with another key of the same name.
    pub fn signed_with(mut self, seed: [u8; 32]) -> Self {
        self.seed = seed;
        self
    }

    pub fn key(&self) -> LogKey {
        LogKey::from_seed(Name::new(self.origin).unwrap(), &SecretKey::new(self.seed))
    }

    pub fn verifier(&self) -> VerifierKey {
        self.key().verifier()
    }

    pub fn frontier(&self, size: u64) -> Frontier {
        let mut frontier = Frontier::new();
        for leaf in &self.leaves[..usize::try_from(size).unwrap()] {
            assert!(frontier.append(*leaf).is_empty());
        }
        frontier
    }

    pub fn root(&self, size: u64) -> Hash {
        self.frontier(size).root()
    }

    pub fn note(&self, size: u64) -> String {
        self.note_with(size, Vec::new())
    }

    pub fn note_with(&self, size: u64, extensions: Vec<String>) -> String {
        let key = self.key();
        Checkpoint::new(key.name().clone(), size, self.root(size), extensions).unwrap().sign(&[&key])
    }

    pub fn proof(&self, from: u64, to: u64) -> Vec<Hash> {
        Tree::new(&self.frontier(to), |_| Ok::<_, Infallible>(None)).consistency(from, to).unwrap()
    }

    pub fn request(&self, old: u64, size: u64) -> Request {
        Request { old, proof: self.proof(old, size), note: self.note(size) }
    }

    pub fn body(&self, old: u64, size: u64) -> Vec<u8> {
        self.request(old, size).to_body().into_bytes()
    }
}

pub(crate) fn witness_key(name: &str) -> WitnessKey {
    WitnessKey::from_seed(Name::new(name).unwrap(), &SecretKey::new([0x57; 32]))
}
