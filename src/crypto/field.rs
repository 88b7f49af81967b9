//! Fields with their length in front.
//!
//! Invariant: two different lists of fields never become the same bytes, whatever the fields hold.

/// Calls `take` with a two-byte big-endian length and a field in turn, without copying the fields.
///
/// # Panics
/// If a field is longer than 65,535 bytes. All that is authenticated so is bounded far below: identifiers, salts,
/// tokens, rows of meta and keys.
pub(super) fn framed<const N: usize, T>(fields: [&[u8]; N], take: impl FnOnce(&[&[u8]]) -> T) -> T {
    let lengths = fields.map(length);
    let mut parts: [[&[u8]; 2]; N] = [[&[]; 2]; N];
    for ((part, length), field) in parts.iter_mut().zip(&lengths).zip(fields) {
        *part = [length, field];
    }
    take(parts.as_flattened())
}

fn length(field: &[u8]) -> [u8; 2] {
    u16::try_from(field.len()).expect("a field is shorter than 64 KiB").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode<const N: usize>(fields: &[Vec<u8>; N]) -> Vec<u8> {
        framed(fields.each_ref().map(Vec::as_slice), |parts| parts.concat())
    }

    fn decode(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut fields = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let (field, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
            fields.push(field.to_vec());
            bytes = rest;
        }
        assert!(bytes.is_empty());
        fields
    }

    fn field() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(0..3_u8, 0..6),
            prop::collection::vec(any::<u8>(), 0..300),
            Just(b"a/b/../c\0".to_vec()),
        ]
    }

    proptest! {
        /// What can be read back in one way only can't have come from two lists.
        #[test]
        fn framing_is_injective_i_07(fields in [field(), field(), field()]) {
            prop_assert_eq!(decode(&encode(&fields)), fields);
        }

        /// The very case that framing is for: the same bytes, cut elsewhere.
        #[test]
        fn a_moved_boundary_changes_the_bytes_i_07(
            joined in prop::collection::vec(any::<u8>(), 1..64),
            a: usize,
            b: usize,
        ) {
            let (a, b) = (a % (joined.len() + 1), b % (joined.len() + 1));
            let cut = |at: usize| [joined[..at].to_vec(), joined[at..].to_vec()];
            prop_assert_eq!(encode(&cut(a)) == encode(&cut(b)), a == b);
        }
    }

    #[test]
    fn the_longest_field_keeps_its_length() {
        let encoded = encode(&[vec![7; 65_535]]);
        assert_eq!(encoded[..2], [0xff, 0xff]);
        assert_eq!(encoded.len(), 65_537);
    }

    #[test]
    #[should_panic(expected = "shorter than 64 KiB")]
    fn a_longer_field_is_never_cut_i_07() {
        encode(&[vec![7; 65_536]]);
    }
}
