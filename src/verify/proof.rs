//! One event and the proof that it is in the log: a C2SP tlog-proof whose extra data is the event's canonical bytes.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Settings;
use super::report::{Fault, Vouched};
use super::trust::Trust;
use crate::event::view::{Renderer, View};
use crate::event::{DecodeError, decode};
use crate::merkle::note::{Checkpoint, Note, NoteError};
use crate::merkle::{Hash, ProofError, leaf_hash, verify_inclusion};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
const EXTRA: &str = "extra ";
const INDEX: &str = "index ";

/// An event with its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The event's sequence.
    pub sequence: u64,
    /// Its canonical bytes.
    pub leaf: Vec<u8>,
    /// RFC 6962, 2.1.1: from the leaf's sibling up.
    pub hashes: Vec<Hash>,
    /// The checkpoint that they lead to.
    pub note: String,
}

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The event, as JSON.
    pub event: String,
    /// The checkpoint under which it is.
    pub vouched: Vouched,
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproved {
    /// Not a proof.
    #[error("not a proof as `audit prove` writes it (C2SP tlog-proof with the event as extra data): {0}")]
    Form(&'static str),
    /// The checkpoint can't be trusted.
    #[error("the proof's checkpoint: {0}")]
    Note(Fault),
    /// The bytes are no event.
    #[error("the proof's event: {0}")]
    Leaf(DecodeError),
    /// It does not lead to the signed root.
    #[error("event {sequence} is not proved: {problem}")]
    Path {
        /// Which event.
        sequence: u64,
        /// Why not.
        problem: ProofError,
    },
}

impl Proof {
    /// Checks the proof against the keys of `settings`, whose other fields are not looked at.
    pub fn verify(&self, settings: &Settings) -> Result<Proved, Unproved> {
        let refused = |error: NoteError| Unproved::Note(Fault::Note(error));
        let note = Note::parse(&self.note).map_err(refused)?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(refused)?;
        if settings.keys.first().is_none_or(|key| key.name() != checkpoint.origin()) {
            return Err(refused(NoteError::OtherLog { found: checkpoint.origin().clone() }));
        }
        let (size, root) = (checkpoint.size(), *checkpoint.root());
        let keys = Trust::new(&settings.keys).signers(&note, size).map_err(Unproved::Note)?;
        verify_inclusion(&leaf_hash(&self.leaf), self.sequence, size, &root, &self.hashes)
            .map_err(|problem| Unproved::Path { sequence: self.sequence, problem })?;
        let view = View::read(&self.leaf)
            .ok_or_else(|| Unproved::Leaf(decode(&self.leaf).err().unwrap_or(DecodeError::NotCanonical)))?;
        let mut event = Vec::new();
        Renderer::default().event(&view, checkpoint.origin().as_str(), self.sequence, &mut event);
        let event = String::from_utf8_lossy(&event).into_owned();
        Ok(Proved { event, vouched: Vouched { size, root, keys, note: self.note.clone() } })
    }
}

impl FromStr for Proof {
    type Err = Unproved;

    fn from_str(text: &str) -> Result<Self, Unproved> {
        let (head, note) = text.split_once("\n\n").ok_or(Unproved::Form("no empty line parts proof and checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(Unproved::Form("the first line is another"));
        }
        let extra = lines.next().and_then(|line| line.strip_prefix(EXTRA));
        let leaf = extra.and_then(|text| BASE64.decode(text).ok()).ok_or(Unproved::Form("no event as extra data"))?;
        let index = lines.next().and_then(|line| line.strip_prefix(INDEX)).unwrap_or_default();
        let sequence: u64 = index.parse().map_err(|_| Unproved::Form("no index"))?;
        if sequence.to_string() != index {
            return Err(Unproved::Form("the index is not a number in its shortest form"));
        }
        let hash = |line: &str| BASE64.decode(line).ok().and_then(|bytes| Hash::try_from(bytes.as_slice()).ok());
        let hashes: Option<Vec<Hash>> = lines.map(hash).collect();
        let hashes = hashes.ok_or(Unproved::Form("a line of the path is not 32 bytes in base64"))?;
        Ok(Self { sequence, leaf, hashes, note: note.to_owned() })
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}\n{EXTRA}{}\n{INDEX}{}", BASE64.encode(&self.leaf), self.sequence)?;
        for hash in &self.hashes {
            writeln!(f, "{}", BASE64.encode(hash.as_bytes()))?;
        }
        write!(f, "\n{}", self.note)
    }
}
