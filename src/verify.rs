//! The offline verifier: what an auditor runs against a copy of the log, without a vault and without trusting one.
//!
//! It takes an export ([`lines`]) or a directory of tiles ([`tiles`]), the log's public key, and checkpoints that were kept
//! from earlier, and holds everything against everything: each entry's bytes are canonical, hash to the hash beside them
//! and say what the readable fields say; sequences have no gap; times never decrease; the tree has the root that was
//! signed, at each size for which there is a checkpoint. [`Report`] says what holds, and what does not from which entry on.
//! [`proof`] checks one event without the others.
//!
//! Invariant: a report without findings means that every entry is under a root that a trusted key has signed, and that
//! every checkpoint that was given belongs to the same history. Memory does not grow with the log.
//!
//! This module does no I/O of its own, knows no clock, and shares nothing with the ledger but [`crate::merkle`] and
//! [`crate::event`].

pub mod export;
mod log;
mod lines;
pub mod proof;
mod report;
mod tiles;
mod trust;

#[cfg(test)]
mod tests;

pub use lines::lines;
pub use report::{Fault, Finding, Gone, Report, Vouched};
pub use tiles::{Fetch, bundle_path, partial_path, tiles};

use crate::merkle::note::VerifierKey;

/// What a verifier is given besides the log itself.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The keys that are trusted to begin with. All have the log's name, which is the origin of its checkpoints.
    pub keys: Vec<VerifierKey>,
    /// Checkpoints that were kept from earlier, as they were: signed notes.
    pub checkpoints: Vec<Kept>,
    /// An entry that the report shall have in full.
    pub sequence: Option<u64>,
}

/// A checkpoint that was kept, and what it is called in findings, such as its file's name.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What findings call it.
    pub name: String,
    /// The note.
    pub note: String,
}
