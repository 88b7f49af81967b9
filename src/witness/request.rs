//! The body of `add-checkpoint`: what the log had when the witness last looked, the proof from there, and the new checkpoint.

use crate::merkle::{HASH_BYTES, Hash};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt::Write as _;

/// More than any request has: a note with sixteen post-quantum signatures, and a proof, stay below half of it.
pub const REQUEST_BYTES_AT_MOST: usize = 256 * 1024;

/// A tree of 2^64 leaves has no longer proof.
const PROOF_LINES_AT_MOST: usize = 63;

/// A submitted checkpoint. Nothing in it has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The size from which the proof leads.
    pub old: u64,
    /// The consistency proof from there to the checkpoint.
    pub proof: Vec<Hash>,
    /// The checkpoint, a signed note.
    pub note: String,
}

impl Request {
    /// Reads a body. The error says what is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, &'static str> {
        if body.len() > REQUEST_BYTES_AT_MOST {
            return Err("the request is longer than 256 KiB");
        }
        let body = std::str::from_utf8(body).map_err(|_| "the request is not UTF-8")?;
        let (head, note) = body.split_once("\n\n").ok_or("no empty line parts proof and checkpoint")?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old = old.and_then(decimal).ok_or("the first line is not `old` and a size in its shortest form")?;
        let proof: Option<Vec<Hash>> = lines.map(hash).collect();
        let proof = proof.ok_or("a line of the proof is not 32 bytes in base64")?;
        if proof.len() > PROOF_LINES_AT_MOST {
            return Err("the proof has more than 63 lines");
        }
        Ok(Self { old, proof, note: note.to_owned() })
    }

    /// The body, as [`Request::parse`] reads it.
    pub fn to_body(&self) -> String {
        let mut body = format!("old {}\n", self.old);
        for hash in &self.proof {
            // Writing to a text can't fail.
            let _ = writeln!(body, "{}", BASE64.encode(hash.0));
        }
        body + "\n" + &self.note
    }
}

/// A number in its one spelling.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn hash(line: &str) -> Option<Hash> {
    let bytes = BASE64.decode(line).ok()?;
    <[u8; HASH_BYTES]>::try_from(bytes).ok().map(Hash)
}
