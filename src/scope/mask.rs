//! What a masked answer shows of a value.

use crate::secret::SecretBytes;

/// What stands where something is hidden.
const FILL: u8 = b'*';
/// However short the value, no fewer than this many characters are hidden.
const MIN_HIDDEN: usize = 4;

/// How many characters of a value a masked answer keeps at each end.
///
/// It counts characters (Unicode scalar values) if the value is UTF-8, else bytes. The answer has as many of them as
/// the value. At least a third, rounded up, and four are hidden; where that leaves no room for what should be kept, all
/// are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    keep_first: u32,
    keep_last: u32,
}

impl Mask {
    /// Keeps the given numbers of characters, where the value is long enough. `Mask::default()` keeps none.
    pub fn new(keep_first: u32, keep_last: u32) -> Self {
        Self { keep_first, keep_last }
    }

    /// How many characters it keeps at the front.
    pub fn keep_first(self) -> u32 {
        self.keep_first
    }

    /// How many characters it keeps at the end.
    pub fn keep_last(self) -> u32 {
        self.keep_last
    }

    /// The value with its middle hidden.
    pub fn apply(self, value: &SecretBytes) -> SecretBytes {
        let bytes = value.expose();
        let (first, last) = (self.keep_first as usize, self.keep_last as usize);
        if let Ok(text) = std::str::from_utf8(bytes) {
            let length = text.chars().count();
            let (first, last) = kept(length, first, last);
            let starts = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
            join(&bytes[..starts(first)], length - first - last, &bytes[starts(length - last)..])
        } else {
            let (first, last) = kept(bytes.len(), first, last);
            join(&bytes[..first], bytes.len() - first - last, &bytes[bytes.len() - last..])
        }
    }
}

/// What may be kept of `length` characters: all that was asked for, or nothing.
fn kept(length: usize, first: usize, last: usize) -> (usize, usize) {
    let hidden = length.saturating_sub(first).saturating_sub(last);
    if hidden >= length.div_ceil(3).max(MIN_HIDDEN) { (first, last) } else { (0, 0) }
}

/// The buffer is made at its full size at once, so that growing leaves no copy behind.
fn join(first: &[u8], hidden: usize, last: &[u8]) -> SecretBytes {
    let mut masked = Vec::with_capacity(first.len() + hidden + last.len());
    masked.extend_from_slice(first);
    masked.resize(first.len() + hidden, FILL);
    masked.extend_from_slice(last);
    SecretBytes::new(masked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(value: &[u8], first: u32, last: u32) -> Vec<u8> {
        Mask::new(first, last).apply(&SecretBytes::new(value.to_vec())).into_exposed()
    }

    #[test]
    fn cards_and_numbers_by_hand() {
        for (value, first, last, shown) in [
            ("4111111111111111", 6, 4, "411111******1111"),
            ("123-45-6789", 0, 4, "*******6789"),
            ("123456789", 3, 3, "*********"),
            ("12345678", 0, 4, "****5678"),
            ("1234567", 0, 4, "*******"),
            ("1234", 1, 0, "****"),
            ("", 6, 4, ""),
            ("4111111111111111", 0, 0, "****************"),
            ("4111111111111111", u32::MAX, u32::MAX, "****************"),
            ("\u{e4}\u{f6}\u{fc}45678", 2, 2, "\u{e4}\u{f6}****78"),
        ] {
            assert_eq!(masked(value.as_bytes(), first, last), shown.as_bytes(), "{value} {first} {last}");
        }
        assert_eq!(masked(&[0xff, 1, 2, 3, 4, 5, 6, 7], 1, 1), [&[0xff][..], b"******", &[7]].concat());
    }

    proptest! {
        #[test]
        fn a_third_and_four_are_hidden_or_all(text in "\\PC{0,60}", first in 0u32..40, last in 0u32..40) {
            let shown = String::from_utf8(masked(text.as_bytes(), first, last)).unwrap();
            let (value, shown): (Vec<char>, Vec<char>) = (text.chars().collect(), shown.chars().collect());
            prop_assert_eq!(value.len(), shown.len());
            // The middle is one run of the fill, and what stands around it stood there before.
            let hidden = value.len().saturating_sub((first + last) as usize);
            if hidden * 3 >= value.len() && hidden >= 4 {
                prop_assert_eq!(&shown[..first as usize], &value[..first as usize]);
                prop_assert_eq!(&shown[first as usize + hidden..], &value[first as usize + hidden..]);
                prop_assert!(shown[first as usize..first as usize + hidden].iter().all(|c| *c == '*'));
            } else {
                prop_assert!(shown.iter().all(|c| *c == '*'));
            }
        }

        #[test]
        fn bytes_that_are_not_text_keep_their_length(mut bytes in prop::collection::vec(any::<u8>(), 0..60), first in 0u32..40, last in 0u32..40) {
            bytes.push(0xff);
            let shown = masked(&bytes, first, last);
            prop_assert_eq!(shown.len(), bytes.len());
            let hidden = bytes.len().saturating_sub((first + last) as usize);
            let kept = if hidden * 3 >= bytes.len() && hidden >= 4 { first as usize } else { 0 };
            prop_assert_eq!(&shown[..kept], &bytes[..kept]);
            prop_assert!(shown[kept] == b'*');
        }
    }
}
