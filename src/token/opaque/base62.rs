//! Numbers in base62 of a fixed width: `0-9A-Za-z`, most significant digit first, zeros in front.
//!
//! Invariant: each number has one spelling, and each spelling that decodes is that of its number.

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const NOT_A_DIGIT: u8 = 255;
const VALUES: [u8; 256] = values();

/// As many digits at a time as fit into 32 bits.
const GROUP: usize = 5;
const GROUP_BASE: u64 = 62_u64.pow(5);
const WIDTH: usize = 27;

pub(super) fn is_digit(byte: u8) -> bool {
    VALUES[usize::from(byte)] != NOT_A_DIGIT
}

/// 160 bits as 27 digits: 62^27 is a little more than 2^160.
pub(super) fn encode(bytes: &[u8; 20]) -> [u8; WIDTH] {
    let mut limbs = to_limbs(bytes);
    let mut digits = [0; WIDTH];
    for group in digits.rchunks_mut(GROUP) {
        let mut remainder = 0;
        for limb in &mut limbs {
            let dividend = remainder << 32 | u64::from(*limb);
            *limb = low_half(dividend / GROUP_BASE);
            remainder = dividend % GROUP_BASE;
        }
        for digit in group.iter_mut().rev() {
            *digit = DIGITS[(remainder % 62) as usize];
            remainder /= 62;
        }
    }
    digits
}

/// The number back, or `None` if it is 2^160 or more. The digits have passed [`is_digit`].
pub(super) fn decode(digits: &[u8; WIDTH]) -> Option<[u8; 20]> {
    let mut limbs = [0_u32; 5];
    let (first, groups) = digits.split_at(WIDTH % GROUP);
    for group in std::iter::once(first).chain(groups.chunks(GROUP)) {
        let mut carry = group.iter().fold(0, |number, digit| number * 62 + u64::from(VALUES[usize::from(*digit)]));
        for limb in limbs.iter_mut().rev() {
            let product = u64::from(*limb) * GROUP_BASE + carry;
            *limb = low_half(product);
            carry = product >> 32;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(from_limbs(&limbs))
}

/// 32 bits as 6 digits.
pub(super) fn encode_small(mut number: u32) -> [u8; 6] {
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number % 62) as usize];
        number /= 62;
    }
    digits
}

fn to_limbs(bytes: &[u8; 20]) -> [u32; 5] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_be_bytes(words[i]))
}

fn from_limbs(limbs: &[u32; 5]) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (word, limb) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(limbs) {
        *word = limb.to_be_bytes();
    }
    bytes
}

/// The high half is what the caller carries on.
const fn low_half(number: u64) -> u32 {
    let [.., a, b, c, d] = number.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

const fn values() -> [u8; 256] {
    let mut values = [NOT_A_DIGIT; 256];
    let mut value = 0;
    while value < 62 {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Digit by digit and byte by byte, with nothing clever.
    fn slow_decode(digits: &[u8]) -> Option<[u8; 20]> {
        let mut number = [0_u8; 20];
        for digit in digits {
            let mut carry = DIGITS.iter().position(|d| d == digit).unwrap();
            for byte in number.iter_mut().rev() {
                let product = usize::from(*byte) * 62 + carry;
                *byte = u8::try_from(product % 256).unwrap();
                carry = product / 256;
            }
            if carry != 0 {
                return None;
            }
        }
        Some(number)
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(bytes: [u8; 20]) {
            let digits = encode(&bytes);
            prop_assert!(digits.iter().copied().all(is_digit));
            prop_assert_eq!(decode(&digits), Some(bytes));
            prop_assert_eq!(slow_decode(&digits), Some(bytes));
        }

        #[test]
        fn a_spelling_that_decodes_is_the_only_one(digits in "[0-9A-Za-z]{27}") {
            let digits: [u8; 27] = digits.into_bytes().try_into().unwrap();
            prop_assert_eq!(decode(&digits), slow_decode(&digits));
            if let Some(bytes) = decode(&digits) {
                prop_assert_eq!(encode(&bytes), digits);
            }
        }

        #[test]
        fn order_is_kept(a: [u8; 20], b: [u8; 20]) {
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), a.cmp(&b));
        }

        #[test]
        fn small_numbers_are_numbers(number: u32) {
            let mut bytes = [0; 20];
            bytes[16..].copy_from_slice(&number.to_be_bytes());
            prop_assert_eq!(&encode(&bytes)[21..], &encode_small(number)[..]);
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(&encode(&[0; 20]), b"000000000000000000000000000");
        let largest = encode(&[255; 20]);
        assert_eq!(decode(&largest), Some([255; 20]));
        let mut next = largest;
        let last = next.last_mut().unwrap();
        *last = DIGITS[usize::from(VALUES[usize::from(*last)]) + 1];
        assert_eq!(decode(&next), None);
        assert_eq!(decode(b"zzzzzzzzzzzzzzzzzzzzzzzzzzz"), None);
        assert_eq!((0..=255).filter(|byte| is_digit(*byte)).count(), 62);
    }
}
