//! The lines of an export: one for each entry, and checkpoints between them. One way to write each, so that a reader can
//! write a line again and compare. `docs/formats.md` has the definition, `tests/vectors/export_v1.json` examples.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::event::view::{Renderer, View, decimal, quoted};
use crate::merkle::{HASH_BYTES, Hash, Peaks};

pub(super) const SEQUENCE: &str = "{\"sequence\":";
pub(super) const HASH: &str = ",\"hash\":\"";
pub(super) const LEAF: &str = ",\"leaf\":\"";
pub(super) const DROPPED: &str = ",\"dropped\":true}";
pub(super) const CHECKPOINT: &str = "{\"checkpoint\":";
pub(super) const START: &str = "{\"start\":";
pub(super) const CONSISTENCY: &str = "{\"consistency\":";

/// What leads from the last entry of a part to a checkpoint of a larger log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consistency {
    /// How many entries lie before the end of the part.
    pub from: u64,
    /// The checkpoint's size.
    pub to: u64,
    /// RFC 6962, 2.1.2.
    pub hashes: Vec<Hash>,
}

/// Writes the line of an entry whose canonical bytes are `leaf`.
pub fn entry(renderer: &mut Renderer, event: &View<'_>, log: &str, sequence: u64, leaf: &[u8], line: &mut Vec<u8>) {
    head(sequence, &crate::merkle::leaf_hash(leaf), line);
    line.extend_from_slice(LEAF.as_bytes());
    let begin = line.len();
    let length = base64::encoded_len(leaf.len(), true).expect("an entry is much shorter than half the address space");
    line.resize(begin + length, 0);
    BASE64.encode_slice(leaf, &mut line[begin..]).expect("there is room for what it becomes");
    line.push(b'"');
    tail(renderer, event, log, line);
    line.push(b'\n');
}

/// Writes the line of an entry that has no body any more.
pub fn dropped(sequence: u64, hash: &Hash, line: &mut Vec<u8>) {
    head(sequence, hash, line);
    line.extend_from_slice(DROPPED.as_bytes());
    line.push(b'\n');
}

/// Writes the line of a checkpoint: behind the last entry that it is about.
pub fn checkpoint(note: &str, line: &mut Vec<u8>) {
    line.extend_from_slice(CHECKPOINT.as_bytes());
    quoted(line, note);
    line.extend_from_slice(b"}\n");
}

/// Writes the line with which a part begins whose first entry is not the log's.
pub fn start(log: &str, before: &Peaks, line: &mut Vec<u8>) {
    line.extend_from_slice(START.as_bytes());
    line.extend_from_slice(b"{\"log_id\":");
    quoted(line, log);
    line.extend_from_slice(b",\"sequence\":");
    decimal(line, before.size());
    line.extend_from_slice(b",\"peaks\":");
    hashes(before.hashes(), line);
    line.extend_from_slice(b"}}\n");
}

/// Writes the line that stands between the last entry of a part and a checkpoint of a larger log.
pub fn consistency(proof: &Consistency, line: &mut Vec<u8>) {
    line.extend_from_slice(CONSISTENCY.as_bytes());
    line.extend_from_slice(b"{\"from\":");
    decimal(line, proof.from);
    line.extend_from_slice(b",\"to\":");
    decimal(line, proof.to);
    line.extend_from_slice(b",\"hashes\":");
    hashes(&proof.hashes, line);
    line.extend_from_slice(b"}}\n");
}

/// What follows the leaf, up to the end of the line.
pub(super) fn tail(renderer: &mut Renderer, event: &View<'_>, log: &str, line: &mut Vec<u8>) {
    line.push(b',');
    renderer.fields(event, log, line);
    line.push(b'}');
}

/// Takes the sequence and the hash, as written, off the front of an entry's line. `None`: it does not begin so.
pub fn parse_head(line: &str) -> Option<(u64, &str, &str)> {
    let rest = line.strip_prefix(SEQUENCE)?;
    let (number, rest) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
    if number.len() > 1 && number.starts_with('0') {
        return None;
    }
    let (hash, rest) = rest.strip_prefix(HASH)?.split_at_checked(2 * HASH_BYTES)?;
    Some((number.parse().ok()?, hash, rest.strip_prefix('"')?))
}

/// Reads a hash in lower-case hexadecimal.
pub fn parse_hash(text: &str) -> Option<Hash> {
    let mut hash = Hash([0; HASH_BYTES]);
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    hex::decode_to_slice(text, &mut hash.0).ok()?;
    Some(hash)
}

/// Reads a checkpoint's line, without its line feed.
pub fn parse_checkpoint(line: &str) -> Option<String> {
    let note: String = serde_json::from_str(line.strip_prefix(CHECKPOINT)?.strip_suffix('}')?).ok()?;
    let mut again = Vec::new();
    checkpoint(&note, &mut again);
    is(line, &again).then_some(note)
}

/// Reads the line with which a part begins, of the log `log`.
pub fn parse_start(line: &str, log: &str) -> Option<Peaks> {
    #[derive(serde::Deserialize)]
    struct Fields {
        sequence: u64,
        peaks: Vec<String>,
    }
    let fields: Fields = serde_json::from_str(line.strip_prefix(START)?.strip_suffix('}')?).ok()?;
    let peaks = fields.peaks.iter().map(|text| parse_hash(text)).collect::<Option<_>>()?;
    let peaks = Peaks::claimed(fields.sequence, peaks)?;
    let mut again = Vec::new();
    start(log, &peaks, &mut again);
    is(line, &again).then_some(peaks)
}

/// Reads the line that leads from a part's end to a checkpoint.
pub fn parse_consistency(line: &str) -> Option<Consistency> {
    #[derive(serde::Deserialize)]
    struct Fields {
        from: u64,
        to: u64,
        hashes: Vec<String>,
    }
    let fields: Fields = serde_json::from_str(line.strip_prefix(CONSISTENCY)?.strip_suffix('}')?).ok()?;
    let hashes = fields.hashes.iter().map(|text| parse_hash(text)).collect::<Option<_>>()?;
    let proof = Consistency { from: fields.from, to: fields.to, hashes };
    let mut again = Vec::new();
    consistency(&proof, &mut again);
    is(line, &again).then_some(proof)
}

/// Whether `line` is what was written, which has a line feed.
fn is(line: &str, written: &[u8]) -> bool {
    written.strip_suffix(b"\n") == Some(line.as_bytes())
}

fn head(sequence: u64, hash: &Hash, line: &mut Vec<u8>) {
    line.extend_from_slice(SEQUENCE.as_bytes());
    decimal(line, sequence);
    line.extend_from_slice(HASH.as_bytes());
    line.extend_from_slice(&hex_digits(hash));
    line.push(b'"');
}

pub(super) fn hex_digits(hash: &Hash) -> [u8; 2 * HASH_BYTES] {
    let mut digits = [0; 2 * HASH_BYTES];
    hex::encode_to_slice(hash.as_bytes(), &mut digits).expect("there is room for two digits a byte");
    digits
}

fn hashes(hashes: &[Hash], line: &mut Vec<u8>) {
    line.push(b'[');
    for (at, hash) in hashes.iter().enumerate() {
        line.extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
        line.extend_from_slice(&hex_digits(hash));
        line.push(b'"');
    }
    line.push(b']');
}
