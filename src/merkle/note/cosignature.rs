//! Cosignatures of witnesses: C2SP tlog-cosignature, `cosignature/v1` with Ed25519.
//!
//! A cosignature says: at this time, this was the largest tree of the log that I had seen, and it extends every one that I
//! cosigned before. What is signed is the checkpoint's whole text behind two lines of its own, so that no signature of a log
//! can pass for one of a witness or the other way round.
//!
//! Invariant: a [`WitnessKey`] signs nothing but a [`SignedCheckpoint`], and there is one only where the signature of a log's
//! key that the caller named has been verified.

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{SigningKey, VerifyingKey};
use zeroize::ZeroizeOnDrop;

use super::{Checkpoint, KeyError, KeyId, Name, Note, NoteError, NoteSignature, VerifierKey};
use crate::secret::{SecretBytes, SecretKey};

/// The signature type of Ed25519 cosignatures in C2SP signed-note.
const COSIGNATURE: u8 = 0x04;

/// Keeps the signatures of witnesses and logs apart.
const HEADER: &str = "cosignature/v1";

/// The time in front of the signature.
const TIME_BYTES: usize = 8;

/// A witness's private key. It wipes itself and can't be printed.
pub struct WitnessKey {
    name: Name,
    id: KeyId,
    key: SigningKey,
}

/// What anyone needs to check a witness's cosignatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessVerifier {
    name: Name,
    id: KeyId,
    key: VerifyingKey,
}

/// A checkpoint as its log signed it: the signature has been verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    note: Note,
    checkpoint: Checkpoint,
}

impl WitnessKey {
    /// The key that follows from 32 random bytes.
    pub fn from_seed(name: Name, seed: &SecretKey) -> Self {
        let key = SigningKey::from_bytes(seed.expose());
        let id = super::key_id(&name, COSIGNATURE, &key.verifying_key());
        Self { name, id, key }
    }

    /// Reads the text form. One line feed at the end is allowed, as files have it.
    pub fn parse(text: &SecretBytes) -> Result<Self, KeyError> {
        let (name, id, seed) = super::parse_private(text, COSIGNATURE)?;
        let key = Self::from_seed(name, &seed);
        if key.id == id { Ok(key) } else { Err(KeyError::Mismatch) }
    }

    /// The text form: `PRIVATE+KEY+<name>+<id>+<base64 of 0x04 and the seed>` and a line feed. For a file of mode 0600.
    pub fn to_text(&self) -> SecretBytes {
        super::private_text(&self.name, self.id, COSIGNATURE, &self.key)
    }

    /// The witness's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The public half.
    pub fn verifier(&self) -> WitnessVerifier {
        WitnessVerifier { name: self.name.clone(), id: self.id, key: self.key.verifying_key() }
    }

    /// The cosignature, made at `seconds` since 1970.
    ///
    /// Whoever calls this vouches that the checkpoint extends everything that this key cosigned before for the same log, and
    /// that it will remember having cosigned this one.
    pub fn cosign(&self, signed: &SignedCheckpoint, seconds: u64) -> NoteSignature {
        let signature = super::sign(&self.key, message(signed.note.text(), seconds).as_bytes());
        let bytes = [&seconds.to_be_bytes()[..], &signature].concat();
        NoteSignature { name: self.name.clone(), id: self.id, bytes }
    }
}

/// `SigningKey` wipes its secret half when it is dropped; the rest is public.
impl ZeroizeOnDrop for WitnessKey {}

impl WitnessVerifier {
    /// The witness's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The key's short id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether `signature` claims to be this witness's. It proves nothing.
    pub fn claims(&self, signature: &NoteSignature) -> bool {
        signature.id == self.id && signature.name == self.name
    }

    /// When the witness cosigned `text`, in seconds since 1970; `None` if `signature` is not by this key or not for this
    /// text.
    pub fn accepts(&self, text: &str, signature: &NoteSignature) -> Option<u64> {
        let (time, bytes) = signature.bytes.split_first_chunk::<TIME_BYTES>()?;
        let seconds = u64::from_be_bytes(*time);
        // The format leaves nothing above; and a time of zero would say nothing about the tree being the largest.
        let in_range = seconds != 0 && i64::try_from(seconds).is_ok();
        let good =
            self.claims(signature) && in_range && super::verify(&self.key, message(text, seconds).as_bytes(), bytes);
        good.then_some(seconds)
    }
}

/// Reads the text form of C2SP signed-note. One line feed at the end is allowed, as files have it.
impl FromStr for WitnessVerifier {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, id, key) = super::parse_public(text, COSIGNATURE)?;
        Ok(Self { name, id, key })
    }
}

/// The text form, without a line feed: `<name>+<id>+<base64 of 0x04 and the public key>`.
impl fmt::Display for WitnessVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::write_public(f, &self.name, self.id, COSIGNATURE, &self.key)
    }
}

impl SignedCheckpoint {
    /// As [`Checkpoint::open`], and keeps the note.
    pub fn open(note: &str, origin: &Name, keys: &[VerifierKey]) -> Result<Self, NoteError> {
        let checkpoint = Checkpoint::open(note, origin, keys)?;
        Ok(Self { note: Note::parse(note)?, checkpoint })
    }

    /// What the log states.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note with its signatures.
    pub fn note(&self) -> &Note {
        &self.note
    }
}

impl Note {
    /// When the witness with `key` cosigned this, in seconds since 1970. `None` if it did not.
    ///
    /// # Errors
    /// If there is a cosignature that claims to be by this key and is not: then the whole note is spoiled.
    pub fn cosigned_by(&self, key: &WitnessVerifier) -> Result<Option<u64>, NoteError> {
        let mut latest = None;
        for signature in self.signatures.iter().filter(|signature| key.claims(signature)) {
            let seconds = key.accepts(&self.text, signature).ok_or(NoteError::BadSignature(key.id))?;
            latest = latest.max(Some(seconds));
        }
        Ok(latest)
    }
}

fn message(text: &str, seconds: u64) -> String {
    format!("{HEADER}\ntime {seconds}\n{text}")
}
