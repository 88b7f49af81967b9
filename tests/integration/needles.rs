//! Looks for secrets in bytes of any kind: as they are, and in every way in which a program might have written them down.
//!
//! A secret is looked for in pieces of twelve bytes, since the rest of it may have been overwritten.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::collections::{BTreeSet, HashMap};

/// Bytes of a piece: too many to be found by chance.
const PIECE: usize = 12;
/// A piece begins at every so many bytes.
const STEP: usize = 5;
/// So many bytes at the start of a needle are compared first.
const KEY: usize = 3;

/// What to look for.
#[derive(Default)]
pub struct Needles {
    all: Vec<Needle>,
    /// By their first bytes.
    by_key: HashMap<[u8; KEY], Vec<usize>>,
    /// The keys again, as bits: most of what is looked through begins nothing.
    keys: Vec<u64>,
}

struct Needle {
    bytes: Vec<u8>,
    name: String,
}

/// How many secrets were found, and some of them in words.
#[derive(Debug, Default)]
pub struct Found {
    pub names: BTreeSet<String>,
}

impl Needles {
    /// Adds a secret of at least twelve bytes, called `name`.
    pub fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= PIECE, "{name} is too short to be told from chance");
        let last = secret.len() - PIECE;
        for at in (0..last).step_by(STEP).chain([last]) {
            for (way, bytes) in written(&secret[at..at + PIECE]) {
                self.add_needle(Needle { bytes, name: format!("{name} ({way})") });
            }
        }
    }

    fn add_needle(&mut self, needle: Needle) {
        let key = needle.bytes[..KEY].try_into().unwrap();
        self.keys.resize(1 << (8 * KEY - 6), 0);
        let bit = number(key);
        self.keys[bit / 64] |= 1 << (bit % 64);
        self.by_key.entry(key).or_default().push(self.all.len());
        self.all.push(needle);
    }

    /// Bytes that two neighbouring parts of what is looked through must have in common.
    pub fn overlap(&self) -> usize {
        self.all.iter().map(|needle| needle.bytes.len()).max().unwrap_or(0)
    }

    /// Notes in `found` what of it is in `bytes`, which are called `place`.
    pub fn find(&self, bytes: &[u8], place: &str, found: &mut Found) {
        if self.all.is_empty() {
            return;
        }
        for (at, key) in bytes.windows(KEY).enumerate() {
            let key: [u8; KEY] = key.try_into().unwrap();
            let bit = number(key);
            if self.keys[bit / 64] & (1 << (bit % 64)) == 0 {
                continue;
            }
            for index in self.by_key.get(&key).into_iter().flatten() {
                let needle = &self.all[*index];
                if bytes[at..].starts_with(&needle.bytes) {
                    found.names.insert(format!("{} in {place}", needle.name));
                }
            }
        }
    }
}

fn number([a, b, c]: [u8; KEY]) -> usize {
    usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
}

/// The ways to write bytes down.
fn written(piece: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let reversed: Vec<u8> = piece.iter().rev().copied().collect();
    let decimal: Vec<String> = piece.iter().map(ToString::to_string).collect();
    let mut ways = vec![
        ("as it is", piece.to_vec()),
        ("reversed", reversed),
        ("in hex", hex::encode(piece).into_bytes()),
        ("in HEX", hex::encode_upper(piece).into_bytes()),
        ("in UTF-16, little end first", piece.iter().flat_map(|byte| [*byte, 0]).collect()),
        ("in UTF-16, big end first", piece.iter().flat_map(|byte| [0, *byte]).collect()),
        ("as a list of numbers", decimal.join(", ").into_bytes()),
        ("escaped", piece.escape_ascii().to_string().into_bytes()),
    ];
    for before in 0..3 {
        // What stands before decides how the bits fall. Characters that also hold bits of neighbours are left out.
        let shifted = [vec![0; before], piece.to_vec()].concat();
        let from = (before * 8).div_ceil(6);
        let to = shifted.len() * 8 / 6;
        ways.push(("in base64", STANDARD_NO_PAD.encode(&shifted).into_bytes()[from..to].to_vec()));
        ways.push(("in base64 for URLs", URL_SAFE_NO_PAD.encode(&shifted).into_bytes()[from..to].to_vec()));
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"\x00zK\xff\xfe9Qx+\x80\x81_mR7wLq0T";

    fn finds(needles: &Needles, bytes: &[u8]) -> bool {
        let mut found = Found::default();
        needles.find(bytes, "here", &mut found);
        !found.names.is_empty()
    }

    #[test]
    fn a_secret_is_found_however_it_was_written_down() {
        let mut needles = Needles::default();
        needles.add("it", SECRET);
        assert!(!finds(&needles, &[b'.'; 4096]));
        for (way, bytes) in written(SECRET) {
            assert!(finds(&needles, &[b"some", bytes.as_slice(), b"thing"].concat()), "{way}");
        }
        for before in 0..7 {
            let text = [vec![b'!'; before], SECRET.to_vec(), b"behind".to_vec()].concat();
            assert!(finds(&needles, STANDARD_NO_PAD.encode(&text).as_bytes()), "{before}");
            assert!(finds(&needles, URL_SAFE_NO_PAD.encode(&text).as_bytes()), "{before}");
            assert!(finds(&needles, format!("{text:?}").as_bytes()), "{before}");
        }
    }

    #[test]
    fn a_part_of_a_secret_is_found() {
        let mut needles = Needles::default();
        needles.add("it", SECRET);
        assert!(finds(&needles, &SECRET[..PIECE]));
        assert!(finds(&needles, &SECRET[SECRET.len() - PIECE..]));
        assert!(finds(&needles, &[&[0; 4], &SECRET[4..]].concat()));
        assert!(!finds(&needles, &SECRET[..PIECE - 1]));
    }
}
