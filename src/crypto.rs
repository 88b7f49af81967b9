//! The whole key tree, and one type for each use of a key.
//!
//! ```text
//! root key, from its provider
//! ├─ HKDF "wrap", vault, key id, version, salt ──▶ seals one wrapped key, once      RootKey::wrap
//! │    ├─ "index"           index key   ── HMAC scope, canonical bytes ─▶ handle's tail, mask of the second
//! │    ├─ "request"         request key ── HMAC "request", caller, id  ─▶ name of a remembered request
//! │    ├─ "state"           state key   ── HMAC handle, outer lock     ─▶ a record's element in the sums over all
//! │    └─ "data/<scope id>" data key    ── HKDF "outer", vault, scope, handle, salt ─▶ outer lock, once
//! └─ HKDF "meta", vault ──▶ meta key    ── HMAC table, row key, content ─▶ MAC of a row of meta, keys or scopes
//!
//! token's canonical bytes, which the vault does not keep
//! └─ HKDF "inner", vault, scope, handle, created, salt ──▶ inner lock, once
//!
//! request id, which the vault does not keep, under HMAC "answer" with the request key
//! └─ HKDF "answer", vault, name, payload's hash, salt ──▶ lock of a remembered answer, once
//! ```
//!
//! Invariants: every field under an HMAC or in HKDF's info has its length in front, so no two lists of fields are the
//! same bytes. A key that seals is derived from 16 or more fresh random bytes, seals once and is dropped. Nothing here
//! reads a clock, draws a random number or does I/O; it does not know what a value means or who asks for it.

use std::fmt;

use crate::secret::SecretKey;

mod aead;
pub mod answer;
mod field;
mod handle;
mod kdf;
mod mac;
pub mod record;
pub mod state;
mod wrap;

pub use handle::{BadHandle, Handle};
pub use wrap::{WRAPPED_KEY_LENGTH, WrapError};

/// In HKDF's info where a data key becomes the outer lock of one record.
const OUTER: &[u8] = b"cloakroom/v1/outer";
/// In HKDF's info where a token becomes the inner lock of its record.
const INNER: &[u8] = b"cloakroom/v1/inner";
/// In HKDF's info where the root key becomes the lock of one wrapped key.
const WRAP: &[u8] = b"cloakroom/v1/wrap";
/// In HKDF's info where the root key becomes the meta key.
const META: &[u8] = b"cloakroom/v1/meta";
/// First field under the request key's HMAC, and in HKDF's info, where a request id becomes the lock of its remembered
/// answer.
const ANSWER: &[u8] = b"cloakroom/v1/answer";
/// First field under the request key's HMAC.
const REQUEST: &[u8] = b"cloakroom/v1/request";

/// Bytes of a MAC over a row of meta, keys or scopes.
pub const MAC_LENGTH: usize = 32;

/// A vault's identity: 16 random bytes drawn when it is made. Part of every key that seals, so that rows of one vault do
/// not open in another, even under the same root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VaultId(pub [u8; 16]);

/// A scope's number inside one vault, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(pub u32);

/// Which version of a key, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyVersion(pub u32);

/// Wraps all other keys. Held as HKDF's keyed state: the key itself can't be had back from it.
pub struct RootKey(kdf::Source);

/// Authenticates rows of meta, keys and scopes, and so recognises a wrong root key before anything is opened with it.
pub struct MetaKey(mac::Keyed);

/// Names tokens: turns a token's canonical bytes into its handle.
pub struct IndexKey(mac::Keyed);

/// Names remembered requests.
pub struct RequestKey(mac::Keyed);

/// One scope's data key at one version: the source of its records' outer locks.
pub struct DataKey(kdf::Source);

/// What the index key says about a token.
pub struct Located {
    /// The last 16 bytes of the token's handle.
    pub tail: [u8; 16],
    /// Covers the second of issue inside the token.
    pub mask: [u8; 4],
}

impl RootKey {
    /// From the provider's key.
    pub fn new(key: SecretKey) -> Self {
        Self(kdf::Source::from_secret(key.expose()))
    }

    /// The key under which this vault's meta and key rows are authenticated.
    pub fn meta_key(&self, vault: &VaultId) -> MetaKey {
        MetaKey(mac::Keyed::new(self.0.derive([META, &vault.0]).expose()))
    }

    fn wrapping_key(&self, vault: &VaultId, key_id: &str, version: KeyVersion, salt: &[u8; 32]) -> aead::OneTimeKey {
        aead::OneTimeKey::new(self.0.derive([WRAP, &vault.0, key_id.as_bytes(), &version.0.to_be_bytes(), salt]))
    }
}

impl MetaKey {
    /// The MAC of the row of `table` whose key is `row_key`: a row that is moved does not verify.
    pub fn mac(&self, table: &str, row_key: &[u8], content: &[u8]) -> [u8; MAC_LENGTH] {
        self.0.tag([table.as_bytes(), row_key, content])
    }

    /// Whether `tag` is that MAC, in constant time.
    pub fn verify(&self, table: &str, row_key: &[u8], content: &[u8], tag: &[u8]) -> bool {
        self.0.verify([table.as_bytes(), row_key, content], tag)
    }
}

impl IndexKey {
    /// From the unwrapped key.
    pub fn new(key: SecretKey) -> Self {
        Self(mac::Keyed::new(key.expose()))
    }

    /// One HMAC for both, because a token's second can be unmasked only once its tail is known anyway.
    pub fn locate(&self, scope: ScopeId, canonical: &[u8]) -> Located {
        let tag = self.0.tag([&scope.0.to_be_bytes(), canonical]);
        let (tail, rest) = tag.split_first_chunk().expect("16 bytes are fewer than 32");
        let mask = rest.first_chunk().expect("16 bytes are left");
        Located { tail: *tail, mask: *mask }
    }
}

impl RequestKey {
    /// From the unwrapped key.
    pub fn new(key: SecretKey) -> Self {
        Self(mac::Keyed::new(key.expose()))
    }

    /// The name under which the answer to this caller's request is remembered. It does not lead back to the request id.
    pub fn locate(&self, caller: &str, request_id: &[u8]) -> [u8; 32] {
        self.0.tag([REQUEST, caller.as_bytes(), request_id])
    }

    /// What the lock of the remembered answer is derived from. It takes the request id, which the vault does not keep, and
    /// the vault's key: callers may be careless with their ids.
    pub fn answer_secret(&self, request_id: &[u8; 16]) -> SecretKey {
        SecretKey::new(self.0.tag([ANSWER, request_id]))
    }
}

impl DataKey {
    /// From the unwrapped key.
    pub fn new(key: SecretKey) -> Self {
        Self(kdf::Source::from_secret(key.expose()))
    }

    fn outer_key(&self, vault: &VaultId, scope: ScopeId, handle: &Handle, salt: &[u8; 16]) -> aead::OneTimeKey {
        let fields = [OUTER, &vault.0, &scope.0.to_be_bytes(), handle.as_bytes(), salt];
        aead::OneTimeKey::new(self.0.derive(fields))
    }
}

/// The inner lock's key. It needs the token and nothing that the vault holds back.
fn inner_key(
    canonical: &[u8],
    vault: &VaultId,
    scope: ScopeId,
    handle: &Handle,
    created: [u8; 8],
    salt: &[u8; 16],
) -> aead::OneTimeKey {
    let fields = [INNER, &vault.0, &scope.0.to_be_bytes(), handle.as_bytes(), &created, salt];
    aead::OneTimeKey::new(kdf::Source::from_secret(canonical).derive(fields))
}

impl fmt::Display for VaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
