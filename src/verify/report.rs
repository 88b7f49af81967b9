//! What a verifier says.

use std::fmt;

use crate::clock::Timestamp;
use crate::event::DecodeError;
use crate::merkle::Hash;
use crate::merkle::note::{KeyId, Name, Note, NoteError, WitnessVerifier};

/// Findings that are kept. What comes after the first few rarely helps, and a hostile file could have millions.
const MAX_FINDINGS: usize = 20;

/// What was found in a log. It holds if there are no [`Report::findings`].
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Which log it is.
    pub log: Option<Name>,
    /// The first entry's sequence: 0 but for a part of a log.
    pub first: u64,
    /// How many entries were read, those without a body included.
    pub entries: u64,
    /// Of these, how many have a hash only.
    pub dropped: u64,
    /// The first entry's time.
    pub first_time: Option<Timestamp>,
    /// The last entry's time.
    pub last_time: Option<Timestamp>,
    /// How many checkpoints vouch for what was read.
    pub checkpoints: u64,
    /// The newest of them.
    pub vouched: Option<Vouched>,
    /// Those that had been kept and hold, oldest first, and what each is called.
    pub kept: Vec<(String, Vouched)>,
    /// Successions of keys that were followed, oldest first: old key, new key, the size that both signed.
    pub rotations: Vec<(KeyId, KeyId, u64)>,
    /// What witnesses were asked for have cosigned: the witness, the size, and when, in seconds since 1970.
    pub cosigned: Vec<(Name, u64, u64)>,
    /// The entry that was asked for, as JSON.
    pub event: Option<String>,
    /// What does not hold, in the order in which it was noticed. At most twenty.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more_findings: u64,
}

/// A checkpoint that fits what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// How many entries it is about.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// The trusted keys that signed it.
    pub keys: Vec<KeyId>,
    /// The note itself.
    pub note: String,
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The first entry that it is about, where it is about entries.
    pub entry: Option<u64>,
    /// Where it was noticed: a line's number, a file's name.
    pub place: String,
    /// What.
    pub fault: Fault,
}

/// What can be wrong. Each says what an honest log would have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not written by an export.
    #[error("this is not what an export writes here: {0}")]
    Form(&'static str),
    /// Another entry than the next.
    #[error("entry {expected} belongs here and entry {found} stands here: entries were removed, repeated or moved")]
    Sequence {
        /// The entry that belongs there.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// The bytes are no event.
    #[error("the entry's bytes are not a canonical event: {0}")]
    Leaf(DecodeError),
    /// The bytes have another hash.
    #[error("the entry's bytes do not have the hash that stands beside them; {0}")]
    Hash(Altered),
    /// The readable fields are others than those of the bytes.
    #[error("the readable fields are not those of the entry's bytes: what is signed says otherwise")]
    Fields,
    /// Written under another log's name.
    #[error("the entry says that it is of another log, and the key is of {expected}")]
    OtherLog {
        /// The log that the keys are of.
        expected: Name,
    },
    /// Time ran backwards.
    #[error("the entry is older than the one before it, which no vault writes")]
    Time,
    /// A hash without a body in front of which there is a body.
    #[error("the entry has no body, though older ones have: bodies are dropped from the beginning on")]
    DroppedLater,
    /// A hash without a body, and no event that says so.
    #[error(
        "the entry has no body, and no event of the log says that its body was dropped (PURGE, `events before N dropped`)"
    )]
    DroppedUnsaid,
    /// The tree is not the one that was signed.
    #[error("the checkpoint of {size} entries is not of these entries: at least one of entries {since} to {} was altered, added, removed or moved", size - 1)]
    OtherRoot {
        /// How many entries the last checkpoint before it vouches for.
        since: u64,
        /// How many it is about.
        size: u64,
        /// The note.
        note: String,
    },
    /// Two signed checkpoints that can't both be of one log.
    #[error("FORK: the log's key has signed two histories. These two checkpoints are the evidence; keep both files")]
    Fork {
        /// The one that does not fit what was read.
        one: String,
        /// The one that does.
        other: String,
    },
    /// Entries behind the last checkpoint.
    #[error("no checkpoint vouches for these {0} entries: an export ends with a checkpoint")]
    Uncovered(u64),
    /// The log was longer once.
    #[error(
        "the checkpoint of {size} entries is not reached: entries from {end} on are missing (the log was cut, or this copy is older)"
    )]
    NotReached {
        /// How many entries it is about.
        size: u64,
        /// Where the copy ends.
        end: u64,
    },
    /// Nothing can be said about a checkpoint from before the copy begins.
    #[error("the checkpoint of {size} entries is from before the first entry here: export from {size} or earlier")]
    BeforeStart {
        /// How many entries it is about.
        size: u64,
    },
    /// A checkpoint that can't be trusted.
    #[error("{0}")]
    Note(NoteError),
    /// A signature of a key that had been succeeded.
    #[error("signed by key {old} alone, which entry {sequence} retired: whoever has the old key could have made it")]
    Retired {
        /// The key.
        old: KeyId,
        /// The entry that says so.
        sequence: u64,
    },
    /// A successor that the old key did not confirm.
    #[error(
        "signed by key {new}, which entry {sequence} names as successor of a trusted one, but no checkpoint signed by both was given: give checkpoints/rotations/<size> with --checkpoint, or the new log.vkey with --key"
    )]
    Unconfirmed {
        /// The key.
        new: KeyId,
        /// The entry that names it.
        sequence: u64,
    },
    /// A checkpoint stands where it does not belong.
    #[error("a checkpoint of {size} entries stands behind {end}: in an export each stands behind its last entry")]
    Misplaced {
        /// How many entries it is about.
        size: u64,
        /// How many entries there were.
        end: u64,
    },
    /// The proof at the end of a part does not hold.
    #[error("the proof that leads from the last entry to the checkpoint does not hold: {0}")]
    Consistency(crate::merkle::ProofError),
    /// A file of a directory of tiles is not there or has another length.
    #[error("{0}")]
    File(Gone),
    /// A tile's hash is not the root of the tile below.
    #[error(
        "this tile's hash for entries {first} to {last} is not what the tile below it has: one of the two was altered"
    )]
    Tile {
        /// The first entry under it.
        first: u64,
        /// The last.
        last: u64,
    },
    /// A witness did not cosign.
    #[error(
        "no checkpoint that fits this copy was cosigned by {0}: that witness has not seen this log, or another one"
    )]
    NotCosigned(Name),
    /// Nothing at all.
    #[error("there is nothing here: no entry and no checkpoint")]
    Empty,
    /// A checkpoint of a log that has entries, and none of them.
    #[error("there is no entry here, only a checkpoint: nothing of what was signed is shown")]
    NoEntries,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It is not there.
    Missing,
    /// It has another length than it must have.
    Length {
        /// What belongs there, in bytes.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// It ends within an entry, or goes on behind the last.
    Torn,
}

/// Which of an entry's two forms was altered, as far as a checkpoint tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Altered {
    /// There was no checkpoint behind it that tells.
    Unknown,
    /// The tree with the hash is the signed one.
    Bytes,
    /// The tree with the bytes is the signed one.
    Hash,
}

impl Report {
    /// Holds what was verified against a witness: at least one checkpoint that fits must be cosigned by it. The largest is
    /// kept in [`Report::cosigned`]; without any, or with a cosignature that is not the witness's, there is a finding.
    pub fn hold_against(&mut self, witness: &WitnessVerifier) {
        let mut largest = None;
        let mut faults = Vec::new();
        for vouched in self.vouched.iter().chain(self.kept.iter().map(|(_, vouched)| vouched)) {
            match Note::parse(&vouched.note).and_then(|note| note.cosigned_by(witness)) {
                Ok(Some(seconds)) => largest = largest.max(Some((vouched.size, seconds))),
                Ok(None) => {}
                Err(error) => faults.push(Fault::Note(error)),
            }
        }
        match largest {
            Some((size, seconds)) => self.cosigned.push((witness.name().clone(), size, seconds)),
            None => faults.push(Fault::NotCosigned(witness.name().clone())),
        }
        for fault in faults {
            self.note(None, "cosignatures", fault);
        }
    }

    /// Whether everything holds.
    pub fn holds(&self) -> bool {
        self.findings.is_empty()
    }

    /// The first entry that something is wrong with.
    pub fn first_bad(&self) -> Option<u64> {
        self.findings.iter().filter_map(|finding| finding.entry).min()
    }

    pub(super) fn note(&mut self, entry: Option<u64>, place: impl fmt::Display, fault: Fault) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { entry, place: place.to_string(), fault });
        } else {
            self.more_findings += 1;
        }
    }

    /// Whether one of the entries from `first` to before `end` was found to be bad.
    pub(super) fn names_one_of(&self, first: u64, end: u64) -> bool {
        self.findings.iter().any(|finding| finding.entry.is_some_and(|entry| (first..end).contains(&entry)))
    }

    /// A checkpoint told which of the forms of the entries with two was altered.
    pub(super) fn told(&mut self, altered: Altered) {
        for finding in &mut self.findings {
            if finding.fault == Fault::Hash(Altered::Unknown) {
                finding.fault = Fault::Hash(altered);
            }
        }
    }
}

impl Fault {
    /// The signed notes that show it, for whoever must be convinced.
    pub fn evidence(&self) -> Vec<&str> {
        match self {
            Self::Fork { one, other } => vec![one, other],
            Self::OtherRoot { note, .. } => vec![note],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(entry) = self.entry {
            write!(f, "entry {entry}, ")?;
        }
        write!(f, "{}: {}", self.place, self.fault)
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the file is missing, though the checkpoint's size says that it is there"),
            Self::Length { expected, found } => write!(f, "the file has {found} bytes where {expected} belong"),
            Self::Torn => f.write_str("the file ends within an entry, or goes on behind its last one"),
        }
    }
}

impl fmt::Display for Altered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "one of the two was altered",
            Self::Bytes => "the hash is the one that was signed, so the entry was altered",
            Self::Hash => "the bytes are those that were signed, so only the hash was altered",
        })
    }
}
