//! Keys at rest: every key but the root key is stored sealed under a key derived from the root key.
//!
//! A wrapped key, format 1: `0x01 ‖ salt (32) ‖ ciphertext (32) ‖ tag (16)`. Vault, key id, version and salt go into the
//! derivation, what stands in front of the ciphertext is associated data: a wrapped key that was moved to another
//! vault, id or version does not open.

use super::aead::TAG_BYTES;
use super::{KeyVersion, RootKey, VaultId};
use crate::secret::{Secret, SecretKey};

/// The format that this program writes.
const FORMAT: u8 = 1;
const SALT_BYTES: usize = 32;
const KEY_BYTES: usize = 32;

/// Bytes of a wrapped key.
pub const WRAPPED_KEY_LENGTH: usize = 1 + SALT_BYTES + KEY_BYTES + TAG_BYTES;

/// Why a wrapped key could not be unwrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// Its first byte is not a format that this program knows.
    #[error("wrapped key: format {0} is unknown; use the version of this program that wrote it, or a newer one")]
    UnknownFormat(u8),
    /// It is not as long as its format says.
    #[error("wrapped key: {0} bytes long instead of {WRAPPED_KEY_LENGTH}; restore the store from a backup")]
    Length(usize),
    /// The root key is not the one that wrapped it, or the row was moved or edited.
    #[error("wrapped key: it does not open under this root key; check that the root key belongs to this vault")]
    DoesNotOpen,
}

impl RootKey {
    /// Seals `key` for storage. `salt` is fresh and random, so that the derived key seals this once.
    pub fn wrap(
        &self,
        vault: &VaultId,
        key_id: &str,
        version: KeyVersion,
        key: &SecretKey,
        salt: [u8; SALT_BYTES],
    ) -> Vec<u8> {
        let mut wrapped = Vec::with_capacity(WRAPPED_KEY_LENGTH);
        wrapped.push(FORMAT);
        wrapped.extend(salt);
        wrapped.extend(key.expose());
        let (head, text) = wrapped.split_at_mut(1 + SALT_BYTES);
        let tag = self.wrapping_key(vault, key_id, version, &salt).seal(head, text);
        wrapped.extend(tag);
        wrapped
    }

    /// Opens what [`RootKey::wrap`] sealed under the same vault, id and version.
    pub fn unwrap(
        &self,
        vault: &VaultId,
        key_id: &str,
        version: KeyVersion,
        wrapped: &[u8],
    ) -> Result<SecretKey, WrapError> {
        match wrapped.first() {
            Some(&FORMAT) => {}
            Some(&format) => return Err(WrapError::UnknownFormat(format)),
            None => return Err(WrapError::Length(0)),
        }
        let whole: &[u8; WRAPPED_KEY_LENGTH] = wrapped.try_into().map_err(|_| WrapError::Length(wrapped.len()))?;
        let (head, sealed) = whole.split_at(1 + SALT_BYTES);
        let (text, tag) = sealed.split_at(KEY_BYTES);
        let salt = head[1..].try_into().expect("32 bytes stand after the format byte");
        let tag = tag.try_into().expect("16 bytes are left after the ciphertext");
        let mut key = Secret::new([0; KEY_BYTES]);
        key.expose_mut().copy_from_slice(text);
        match self.wrapping_key(vault, key_id, version, salt).open(head, key.expose_mut(), tag) {
            Ok(()) => Ok(key),
            Err(_) => Err(WrapError::DoesNotOpen),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VAULT: VaultId = VaultId([0x5a; 16]);
    const VERSION: KeyVersion = KeyVersion(1);

    fn root(byte: u8) -> RootKey {
        RootKey::new(Secret::new([byte; 32]))
    }

    fn wrapped() -> Vec<u8> {
        root(1).wrap(&VAULT, "index", VERSION, &Secret::new([9; 32]), [7; 32])
    }

    proptest! {
        #[test]
        fn what_was_wrapped_unwraps(
            [root_key, key, salt]: [[u8; 32]; 3],
            vault: [u8; 16],
            id in "[a-z/0-9]{1,20}",
            version: u32,
        ) {
            let root = RootKey::new(Secret::new(root_key));
            let (vault, version) = (VaultId(vault), KeyVersion(version));
            let wrapped = root.wrap(&vault, &id, version, &Secret::new(key), salt);
            prop_assert_eq!(wrapped.len(), WRAPPED_KEY_LENGTH);
            let unwrapped = root.unwrap(&vault, &id, version, &wrapped);
            prop_assert!(unwrapped.is_ok_and(|unwrapped| unwrapped.matches(&key)));
        }
    }

    #[test]
    fn a_wrapped_key_opens_only_in_its_place_c_02() {
        let wrapped = wrapped();
        let opens = |root: RootKey, vault, id: &str, version| root.unwrap(&vault, id, version, &wrapped).is_ok();
        assert!(opens(root(1), VAULT, "index", VERSION));
        assert!(!opens(root(2), VAULT, "index", VERSION));
        assert!(!opens(root(1), VaultId([0; 16]), "index", VERSION));
        assert!(!opens(root(1), VAULT, "request", VERSION));
        assert!(!opens(root(1), VAULT, "data/1", VERSION));
        assert!(!opens(root(1), VAULT, "index", KeyVersion(2)));
    }

    #[test]
    fn two_wrapped_keys_cannot_be_mixed_c_02() {
        let (a, b) = (wrapped(), root(1).wrap(&VAULT, "index", VERSION, &Secret::new([8; 32]), [6; 32]));
        for range in [1..33, 33..65, 65..81] {
            let mut mixed = a.clone();
            mixed[range.clone()].copy_from_slice(&b[range]);
            assert_eq!(root(1).unwrap(&VAULT, "index", VERSION, &mixed).err(), Some(WrapError::DoesNotOpen));
        }
    }

    #[test]
    fn a_damaged_wrapped_key_does_not_open_c_03() {
        let wrapped = wrapped();
        let error = |bytes: &[u8]| root(1).unwrap(&VAULT, "index", VERSION, bytes).err().expect("refused");
        for bit in 0..wrapped.len() * 8 {
            let mut flipped = wrapped.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 8 { WrapError::UnknownFormat(flipped[0]) } else { WrapError::DoesNotOpen };
            assert_eq!(error(&flipped), expected, "bit {bit}");
        }
        for length in 0..wrapped.len() {
            assert_eq!(error(&wrapped[..length]), WrapError::Length(length));
        }
        assert_eq!(error(&[&wrapped[..], &[0]].concat()), WrapError::Length(WRAPPED_KEY_LENGTH + 1));
        assert_eq!(error(&[0; WRAPPED_KEY_LENGTH]), WrapError::UnknownFormat(0));
    }

    #[test]
    fn every_other_format_is_refused_c_06() {
        for format in (0..=255).filter(|format| *format != FORMAT) {
            let mut other = wrapped();
            other[0] = format;
            let error = root(1).unwrap(&VAULT, "index", VERSION, &other).err();
            assert_eq!(error, Some(WrapError::UnknownFormat(format)));
        }
    }
}
