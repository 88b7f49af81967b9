//! Signed checkpoints: C2SP signed-note and tlog-checkpoint with Ed25519, and the log's key.
//!
//! The signatures are made with ed25519-dalek directly. A note library would do, but the ones at hand hand out the private
//! key as plain strings and copies that nothing wipes, and accept spellings of keys that no tool writes. The format is
//! three rules long; a second implementation and vectors made elsewhere check it in the tests.
//!
//! Invariant: what [`Checkpoint::open`] returns was signed by a key that the caller trusts, for the log that the caller
//! named. Texts are parsed strictly, so that a checkpoint has one spelling.
//!
//! This module must not know where keys are kept or which checkpoints were signed before.

mod cosignature;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::Hash;
use crate::secret::{Secret, SecretBytes, SecretKey};

pub use cosignature::{SignedCheckpoint, WitnessKey, WitnessVerifier};

/// The name of a log or of a key: C2SP's grammar for key names, which the origin line should follow too. Not empty, no
/// Unicode white space, no `+`; and here, since it is printed and stored, no control characters and at most 255 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(String);

/// The log's private key. It wipes itself and can't be printed.
pub struct LogKey {
    name: Name,
    id: KeyId,
    key: SigningKey,
}

/// What anyone needs to check the log's signatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifierKey {
    name: Name,
    id: KeyId,
    key: VerifyingKey,
}

/// A statement about a log: so many entries, with this root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    origin: Name,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

/// A text with signatures under it, none of them checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One signature line of a note.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoteSignature {
    name: Name,
    id: KeyId,
    bytes: Vec<u8>,
}

/// Four bytes that tell keys of the same name apart. An index, not a proof.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId(u32);

/// A text is not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name of a log or witness has 1 to 255 bytes without white space, `+` and control characters, like example.com/vault"
)]
pub struct NameError;

/// A text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a key at all.
    #[error("not a key: expected one line of the form {0}")]
    Malformed(&'static str),
    /// A private key where a public one belongs.
    #[error("this is a private key: give the public one, from log.vkey or witness.vkey")]
    Private,
    /// Not Ed25519.
    #[error(
        "the key's algorithm is not Ed25519 (type 1), the only one that logs have here; a witness's key is not a log's"
    )]
    Algorithm,
    /// Not an Ed25519 witness's.
    #[error("the key is not a witness's for Ed25519 cosignatures (type 4), which is the only kind known here")]
    NotAWitness,
    /// The key's id does not follow from its name and public half.
    #[error("the key's name, id and content do not belong together: it was altered or put together by hand")]
    Mismatch,
}

/// A text can't be a checkpoint, or can't be trusted as one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not in the form of a signed note.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// The signed text is not a checkpoint.
    #[error("not a checkpoint: {0}")]
    NotACheckpoint(&'static str),
    /// No signature by a key that is trusted.
    #[error(
        "none of the note's signatures is by a key that was given: see that this is the right vault's log.vkey, and whether \
         the log's key was replaced"
    )]
    Untrusted,
    /// A trusted key's signature does not fit the text.
    #[error("the signature of key {0} does not fit the text: the note was altered")]
    BadSignature(KeyId),
    /// A good signature under a statement about another log.
    #[error("the checkpoint is of another log: {found}")]
    OtherLog {
        /// The log that it is about.
        found: Name,
    },
}

/// The signature type of Ed25519 in C2SP signed-note.
const ED25519: u8 = 0x01;

/// In front of a private key's text, as Go's note package writes it.
const PRIVATE_PREFIX: &str = "PRIVATE+KEY+";

const PRIVATE_FORM: &str = "PRIVATE+KEY+<name>+<id>+<base64>";
const PUBLIC_FORM: &str = "<name>+<id>+<base64>";

/// In front of each signature: em dash, space.
const SIGNATURE_PREFIX: &str = "— ";

/// Far more than sixteen witnesses with post-quantum signatures need.
const MAX_NOTE_BYTES: usize = 1_000_000;
const MAX_SIGNATURES: usize = 100;

impl Name {
    /// Checks the grammar.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if name.is_empty() || name.len() > 255 || name.contains(forbidden) { Err(NameError) } else { Ok(Self(name)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LogKey {
    /// The key that follows from 32 random bytes.
    pub fn from_seed(name: Name, seed: &SecretKey) -> Self {
        let key = SigningKey::from_bytes(seed.expose());
        let id = key_id(&name, ED25519, &key.verifying_key());
        Self { name, id, key }
    }

    /// Reads the text form. One line feed at the end is allowed, as files have it.
    pub fn parse(text: &SecretBytes) -> Result<Self, KeyError> {
        let (name, id, seed) = parse_private(text, ED25519)?;
        let key = Self::from_seed(name, &seed);
        if key.id == id { Ok(key) } else { Err(KeyError::Mismatch) }
    }

    /// The text form: `PRIVATE+KEY+<name>+<id>+<base64 of 0x01 and the seed>` and a line feed. For a file of mode 0600.
    pub fn to_text(&self) -> SecretBytes {
        private_text(&self.name, self.id, ED25519, &self.key)
    }

    /// The name under which it signs.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The public half.
    pub fn verifier(&self) -> VerifierKey {
        VerifierKey { name: self.name.clone(), id: self.id, key: self.key.verifying_key() }
    }

    fn sign(&self, text: &str) -> NoteSignature {
        let signature = sign(&self.key, text.as_bytes());
        NoteSignature { name: self.name.clone(), id: self.id, bytes: signature.to_vec() }
    }
}

/// `SigningKey` wipes its secret half when it is dropped; the rest is public.
impl ZeroizeOnDrop for LogKey {}

impl VerifierKey {
    /// The name under which the key signs.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The key's short id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    fn accepts(&self, text: &str, signature: &[u8]) -> bool {
        verify(&self.key, text.as_bytes(), signature)
    }
}

/// Reads the text form of C2SP signed-note. One line feed at the end is allowed, as files have it.
impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, id, key) = parse_public(text, ED25519)?;
        Ok(Self { name, id, key })
    }
}

/// The text form, without a line feed: `<name>+<id>+<base64 of 0x01 and the public key>`.
impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_public(f, &self.name, self.id, ED25519, &self.key)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl Checkpoint {
    /// A statement that can be signed. Extension lines must not be empty and hold no control characters.
    pub fn new(origin: Name, size: u64, root: Hash, extensions: Vec<String>) -> Result<Self, NoteError> {
        if extensions.iter().any(|line| line.is_empty() || line.contains(char::is_control)) {
            return Err(NoteError::NotACheckpoint("an extension line is empty or holds control characters"));
        }
        Ok(Self { origin, size, root, extensions })
    }

    /// Opens a note: checks that it is a checkpoint of the log `origin` and signed by at least one of `keys`. Signatures of
    /// other keys, such as witnesses, are passed over; a wrong one of a known key spoils the whole.
    pub fn open(note: &str, origin: &Name, keys: &[VerifierKey]) -> Result<Self, NoteError> {
        let note = Note::parse(note)?;
        note.verify(keys)?;
        let checkpoint = Self::parse(note.text())?;
        if checkpoint.origin == *origin {
            Ok(checkpoint)
        } else {
            Err(NoteError::OtherLog { found: checkpoint.origin })
        }
    }

    /// The signed note, with one signature for each key. Two keys sign while one replaces the other.
    ///
    /// Whoever calls this vouches: never sign what does not extend everything that was signed before.
    pub fn sign(&self, keys: &[&LogKey]) -> String {
        let text = self.text();
        let signatures = keys.iter().map(|key| key.sign(&text)).collect();
        Note { text, signatures }.to_string()
    }

    /// The text that is signed: origin, size, root, extensions, a line each.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root.0));
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Reads a text as [`Checkpoint::text`] writes it. It proves nothing: see [`Checkpoint::open`].
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let malformed = NoteError::NotACheckpoint;
        let body = text.strip_suffix('\n').ok_or(malformed("it does not end with a line feed"))?;
        let mut lines = body.split('\n');
        let mut line = || lines.next().ok_or(malformed("it has less than three lines"));
        let origin = Name::new(line()?).map_err(|_| malformed("the first line is not a log's name"))?;
        let size_line = line()?;
        let size: u64 = size_line.parse().map_err(|_| malformed("the second line is not a number"))?;
        if size.to_string() != size_line {
            return Err(malformed("the second line is not a number in its shortest form"));
        }
        let root = BASE64.decode(line()?).ok().and_then(|root| Hash::try_from(root.as_slice()).ok());
        let root = root.ok_or(malformed("the third line is not 32 bytes in base64"))?;
        Self::new(origin, size, root, lines.map(str::to_owned).collect())
    }

    /// Which log it is about; for a vault's log, its `log_id`.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// How many entries the log had.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root over them.
    pub fn root(&self) -> &Hash {
        &self.root
    }

    /// The lines behind the root.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

impl Note {
    /// Reads a note by the rules of C2SP signed-note. It checks no signature.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        let malformed = NoteError::Malformed;
        if note.len() > MAX_NOTE_BYTES {
            return Err(malformed("it is longer than a megabyte"));
        }
        if note.contains(|c| c < '\u{20}' && c != '\n') {
            return Err(malformed("it holds control characters"));
        }
        let end_of_text = note.rfind("\n\n").ok_or(malformed("no empty line parts text and signatures"))? + 1;
        let (text, signatures) = (&note[..end_of_text], &note[end_of_text + 1..]);
        let signatures = signatures.strip_suffix('\n').ok_or(malformed("it does not end with a line feed"))?;
        let signatures = signatures.split('\n').map(NoteSignature::parse).collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(malformed("it has more than 100 signatures"));
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Checks that at least one of `keys` has signed, and that no signature of any of them is wrong.
    pub fn verify(&self, keys: &[VerifierKey]) -> Result<(), NoteError> {
        let mut verified = false;
        for signature in &self.signatures {
            for key in keys.iter().filter(|key| key.id == signature.id && key.name == signature.name) {
                if !key.accepts(&self.text, &signature.bytes) {
                    return Err(NoteError::BadSignature(key.id));
                }
                verified = true;
            }
        }
        if verified { Ok(()) } else { Err(NoteError::Untrusted) }
    }

    /// What is signed, with its last line feed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines, in order.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl NoteSignature {
    /// Who claims to have signed.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// With which key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    fn parse(line: &str) -> Result<Self, NoteError> {
        let malformed = || NoteError::Malformed("a signature line is not: em dash, name, base64");
        let (name, content) =
            line.strip_prefix(SIGNATURE_PREFIX).and_then(|rest| rest.split_once(' ')).ok_or_else(malformed)?;
        let name = Name::new(name).map_err(|_| malformed())?;
        let content = BASE64.decode(content).map_err(|_| malformed())?;
        let (id, bytes) = content.split_first_chunk().ok_or_else(malformed)?;
        if bytes.is_empty() {
            return Err(malformed());
        }
        Ok(Self { name, id: KeyId(u32::from_be_bytes(*id)), bytes: bytes.to_vec() })
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = [&self.id.0.to_be_bytes(), self.bytes.as_slice()].concat();
        write!(f, "{SIGNATURE_PREFIX}{} {}", self.name, BASE64.encode(content))
    }
}

// === the text forms of keys, for each type of signature ===

/// The first four bytes of SHA-256 over name, line feed, type and public key.
/// Every signature of ours is made here.
fn sign(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    key.sign(message).to_bytes()
}

/// Every signature is checked here: strictly, so that no two keys and no two spellings pass for one.
fn verify(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
}

fn key_id(name: &Name, kind: u8, key: &VerifyingKey) -> KeyId {
    let hash =
        Sha256::new().chain_update(name.as_str()).chain_update([b'\n', kind]).chain_update(key.as_bytes()).finalize();
    KeyId(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]))
}

/// `PRIVATE+KEY+<name>+<id>+<base64 of the type and the seed>` and a line feed.
fn private_text(name: &Name, id: KeyId, kind: u8, key: &SigningKey) -> SecretBytes {
    let mut typed_seed = Zeroizing::new([kind; 33]);
    typed_seed[1..].copy_from_slice(key.as_bytes());
    let public_part = format!("{PRIVATE_PREFIX}{name}+{id}+");
    // The buffer has its final size from the start, so that it does not leave a copy behind when it grows.
    let mut text = vec![0; public_part.len() + 44 + 1];
    text[..public_part.len()].copy_from_slice(public_part.as_bytes());
    let length = BASE64
        .encode_slice(typed_seed.as_slice(), &mut text[public_part.len()..])
        .expect("33 bytes are 44 characters of base64");
    text[public_part.len() + length] = b'\n';
    SecretBytes::new(text)
}

fn write_public(f: &mut fmt::Formatter<'_>, name: &Name, id: KeyId, kind: u8, key: &VerifyingKey) -> fmt::Result {
    let mut typed_key = [kind; 33];
    typed_key[1..].copy_from_slice(key.as_bytes());
    write!(f, "{name}+{id}+{}", BASE64.encode(typed_key))
}

/// Name, claimed id and seed; whether they belong together shows once the public half is there.
fn parse_private(text: &SecretBytes, kind: u8) -> Result<(Name, KeyId, SecretKey), KeyError> {
    const MALFORMED: KeyError = KeyError::Malformed(PRIVATE_FORM);
    let text = std::str::from_utf8(text.expose()).map_err(|_| MALFORMED)?;
    let text = text.strip_prefix(PRIVATE_PREFIX).ok_or(MALFORMED)?;
    let (name, id, seed) = parse_key(text, kind, MALFORMED)?;
    Ok((name, id, Secret::new(*seed)))
}

fn parse_public(text: &str, kind: u8) -> Result<(Name, KeyId, VerifyingKey), KeyError> {
    const MALFORMED: KeyError = KeyError::Malformed(PUBLIC_FORM);
    if text.starts_with(PRIVATE_PREFIX) {
        return Err(KeyError::Private);
    }
    let (name, id, public) = parse_key(text, kind, MALFORMED)?;
    let key = VerifyingKey::from_bytes(&public).map_err(|_| MALFORMED)?;
    if key.is_weak() || key_id(&name, kind, &key) != id {
        return Err(KeyError::Mismatch);
    }
    Ok((name, id, key))
}

/// `<name>+<id>+<base64 of the type and 32 bytes>`, with or without a line feed.
fn parse_key(text: &str, kind: u8, malformed: KeyError) -> Result<(Name, KeyId, Zeroizing<[u8; 32]>), KeyError> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let (name, rest) = text.split_once('+').ok_or(malformed)?;
    let (id, content) = rest.split_once('+').ok_or(malformed)?;
    let name = Name::new(name).map_err(|_| malformed)?;
    let id = match u32::from_str_radix(id, 16) {
        Ok(number) if KeyId(number).to_string() == id => KeyId(number),
        _ => return Err(malformed),
    };
    // One byte more than a key has: base64 of 33 bytes has no padding, so a longer key shows here.
    let mut typed_key = Zeroizing::new([0; 36]);
    match BASE64.decode_slice(content, typed_key.as_mut_slice()) {
        Ok(0) | Err(_) => Err(malformed),
        Ok(_) if typed_key[0] != kind => Err(if kind == ED25519 { KeyError::Algorithm } else { KeyError::NotAWitness }),
        Ok(33) => {
            let mut key = Zeroizing::new([0; 32]);
            key.copy_from_slice(&typed_key[1..33]);
            Ok((name, id, key))
        }
        Ok(_) => Err(malformed),
    }
}
