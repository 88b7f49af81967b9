//! What a backup says of itself: `manifest.json`, format 1.
//!
//! It names the vault, the log and how far it had come, and each file of the copy with its length and SHA-256. A MAC
//! under a key that only the root key yields stands at its end, so that who edits a copy can't make a manifest for it. It
//! is written last: a directory without one is no backup.
//!
//! Invariant: a text has one meaning and a manifest one text. What is read is written again and compared, so whatever the MAC
//! does not cover can't be there.

use crate::crypto::{MAC_LENGTH, MetaKey, RootKey, VaultId};
use crate::merkle::Hash;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Component, Path};

/// The format that this program writes, and the only one that it reads.
const FORMAT: u32 = 1;
/// In the place of table and row's key under the MAC. No table has this name.
const MAC_PLACE: (&str, &[u8]) = ("backup", b"manifest");

/// A backup, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// The version of the program that made it.
    pub program: String,
    /// When, by RFC 3339.
    pub time: String,
    vault: String,
    /// The log's name.
    pub log_id: String,
    /// Events in the log, as the last commit left it.
    pub size: u64,
    root: String,
    /// Events that the newest checkpoint in the copy vouches for.
    pub vouched: u64,
    /// Records.
    pub records: u64,
    /// The files, by ascending path.
    pub files: Vec<Entry>,
    mac: String,
}

/// A file of the copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Below the backup's directory, with `/` between its parts.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// In hexadecimal digits.
    pub sha256: String,
}

/// What a manifest says of the log, to be put into it.
pub struct Described {
    /// Whose data.
    pub vault: VaultId,
    /// The log's name.
    pub log_id: String,
    /// The number of events.
    pub size: u64,
    /// The tree's root over them.
    pub root: Hash,
    /// Events that a checkpoint vouches for.
    pub vouched: u64,
    /// Records.
    pub records: u64,
}

/// A text is no manifest of a backup.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadManifest {
    /// Written by a newer version.
    #[error("it has format {0}, which this version does not know. Use the version that wrote it or a newer one")]
    Newer(u32),
    /// Not what is written.
    #[error("it is not as `cloakroom backup` writes it: it was changed")]
    Changed,
    /// The MAC does not verify.
    #[error("its MAC does not verify: it was changed, or the root key is another vault's")]
    Forged,
}

/// The one field that every format has.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

impl Manifest {
    /// A manifest of these files.
    pub fn new(described: &Described, time: String, mut files: Vec<Entry>, meta: &MetaKey) -> Self {
        files.sort_unstable();
        let mut manifest = Self {
            format: FORMAT,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            time,
            vault: hex::encode(described.vault.0),
            log_id: described.log_id.clone(),
            size: described.size,
            root: hex::encode(described.root.0),
            vouched: described.vouched,
            records: described.records,
            files,
            mac: String::new(),
        };
        manifest.mac = hex::encode(meta.mac(MAC_PLACE.0, MAC_PLACE.1, &manifest.digest()));
        manifest
    }

    /// Reads one. Nothing of it is proven before [`Manifest::authenticate`].
    ///
    /// # Errors
    /// If it is of another format, or was not written so.
    pub fn parse(text: &str) -> Result<Self, BadManifest> {
        let Versioned { format } = serde_json::from_str(text).map_err(|_| BadManifest::Changed)?;
        if format != FORMAT {
            return Err(BadManifest::Newer(format));
        }
        let manifest: Self = serde_json::from_str(text).map_err(|_| BadManifest::Changed)?;
        let ascend = manifest.files.is_sorted_by(|one, next| one.path < next.path);
        let lead_inside = manifest.files.iter().all(|file| leads_inside(&file.path));
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        // One spelling only.
        if ascend && lead_inside && manifest.mac.bytes().all(is_digit) && manifest.to_text() == text {
            Ok(manifest)
        } else {
            Err(BadManifest::Changed)
        }
    }

    /// As it is written.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("strings and numbers are JSON");
        text.push('\n');
        text
    }

    /// What the MAC is over: the text with an empty `mac`, hashed, since a field under a MAC has at most 65,535 bytes.
    fn digest(&self) -> [u8; 32] {
        let unsigned = Self { mac: String::new(), ..self.clone() };
        Sha256::digest(unsigned.to_text()).into()
    }

    /// Whether it was made with this root key. Until then it is only a claim.
    ///
    /// # Errors
    /// If not.
    pub fn authenticate(&self, root: &RootKey) -> Result<(), BadManifest> {
        let (mut vault, mut mac) = (VaultId([0; 16]), [0; MAC_LENGTH]);
        let is_hex = hex::decode_to_slice(&self.vault, &mut vault.0).and(hex::decode_to_slice(&self.mac, &mut mac));
        let meta = root.meta_key(&vault);
        let is_ours = is_hex.is_ok() && meta.verify(MAC_PLACE.0, MAC_PLACE.1, &self.digest(), &mac);
        if is_ours { Ok(()) } else { Err(BadManifest::Forged) }
    }

    /// Whether it describes this.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, described: &Described) -> Result<(), BadManifest> {
        let Described { vault, log_id, size, root, vouched, records } = described;
        let says = (&self.vault, &self.log_id, self.size, &self.root, self.vouched, self.records);
        let is = (&hex::encode(vault.0), log_id, *size, &hex::encode(root.0), *vouched, *records);
        if says == is { Ok(()) } else { Err(BadManifest::Changed) }
    }
}

/// Whether a path names a file below the backup's directory, and has one spelling.
fn leads_inside(path: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
    let parts = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let spelled_once = path.split('/').all(|part| !part.is_empty() && part != ".");
    parts && spelled_once && path.chars().all(is_plain)
}

/// For `src/fuzz`: what is read is written as it was, and leads nowhere else.
#[cfg(test)]
pub(crate) fn check_text(text: &str) {
    if let Ok(manifest) = Manifest::parse(text) {
        assert_eq!(manifest.to_text(), text);
        assert!(manifest.files.iter().all(|file| !file.path.contains("..") && !file.path.starts_with('/')));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretKey;

    const VAULT: VaultId = VaultId([0x56; 16]);

    fn root(key: u8) -> RootKey {
        RootKey::new(SecretKey::new([key; 32]))
    }

    fn meta() -> MetaKey {
        root(1).meta_key(&VAULT)
    }

    fn found(manifest: &Manifest) -> Result<(), BadManifest> {
        manifest.authenticate(&root(1)).and_then(|()| manifest.check(&described()))
    }

    fn described() -> Described {
        Described {
            vault: VAULT,
            log_id: "example.org/log".to_owned(),
            size: 7,
            root: Hash([0x52; 32]),
            vouched: 6,
            records: 3,
        }
    }

    fn entry(path: &str) -> Entry {
        Entry { path: path.to_owned(), bytes: 16, sha256: "ab".repeat(32) }
    }

    fn manifest() -> Manifest {
        let files = vec![entry("data/CURRENT"), entry("checkpoints/checkpoint")];
        Manifest::new(&described(), "2026-11-22T10:00:00Z".to_owned(), files, &meta())
    }

    /// The same as in docs/formats.md.
    #[test]
    fn the_format_is_frozen() {
        let text = manifest().to_text();
        let frozen = include_str!("../../tests/vectors/backup_manifest_v1.json");
        assert_eq!(text.replace(env!("CARGO_PKG_VERSION"), "0.1.0"), frozen);
        // Its MAC is over these very bytes, the version of the program among them.
        let frozen = Manifest::parse(frozen).unwrap();
        found(&frozen).unwrap();
    }

    #[test]
    fn every_byte_that_is_changed_is_found_o_04() {
        let text = manifest().to_text();
        for at in 0..text.len() {
            let mut edited = text.clone().into_bytes();
            edited[at] ^= 1;
            let Ok(edited) = String::from_utf8(edited) else { continue };
            let found = Manifest::parse(&edited).and_then(|manifest| found(&manifest));
            assert!(found.is_err(), "byte {at}");
        }
        for edited in [format!(" {text}"), format!("{text}\n"), text.replace(": ", ":"), String::new()] {
            assert_eq!(Manifest::parse(&edited).unwrap_err(), BadManifest::Changed);
        }
    }

    #[test]
    fn it_is_believed_with_the_vault_s_root_key_alone_and_for_its_own_log() {
        let manifest = manifest();
        found(&manifest).unwrap();
        assert_eq!(manifest.authenticate(&root(2)), Err(BadManifest::Forged));
        for other in [
            Described { size: 8, ..described() },
            Described { root: Hash([0; 32]), ..described() },
            Described { vouched: 7, ..described() },
            Described { records: 4, ..described() },
            Described { log_id: "example.org/other".to_owned(), ..described() },
        ] {
            assert_eq!(manifest.check(&other), Err(BadManifest::Changed));
        }
    }

    #[test]
    fn a_database_may_have_any_number_of_files() {
        let files = (0..20_000).map(|number| entry(&format!("data/{number:06}.sst"))).collect();
        let text = Manifest::new(&described(), String::new(), files, &meta()).to_text();
        found(&Manifest::parse(&text).unwrap()).unwrap();
    }

    #[test]
    fn a_newer_format_is_named_and_paths_lead_inside() {
        let newer = manifest().to_text().replacen("\"format\": 1", "\"format\": 2", 1);
        assert_eq!(Manifest::parse(&newer), Err(BadManifest::Newer(2)));
        for path in ["../root.key", "/etc/passwd", "data/../../x", "data//x", "data/./x", "", "data/", "data/a b", "."]
        {
            assert!(!leads_inside(path), "{path}");
            let text = Manifest::new(&described(), String::new(), vec![entry(path)], &meta()).to_text();
            assert_eq!(Manifest::parse(&text), Err(BadManifest::Changed), "{path}");
        }
        assert!(leads_inside("checkpoints/rotations/12"));
        let twice = Manifest::new(&described(), String::new(), vec![entry("a"), entry("a")], &meta()).to_text();
        assert_eq!(Manifest::parse(&twice), Err(BadManifest::Changed));
    }
}
