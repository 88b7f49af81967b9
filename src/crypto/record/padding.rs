//! How long a value looks.
//!
//! `length (4, big endian) ‖ value ‖ zeros`, to a multiple of 16 bytes up to 256 and by Padmé above: a length keeps only
//! its highest bits, so that at most 12 % is added and lengths of one octave are told apart in 16 steps or few more.

use crate::secret::SecretBytes;

const LENGTH_BYTES: usize = 4;
const STEP: usize = 16;
const LAST_STEP: usize = 256;

/// The length of a value of `length` bytes once it is padded.
pub(super) fn padded(length: usize) -> usize {
    step_above(LENGTH_BYTES + length)
}

/// The shortest value, or one even shorter, that is `padded` bytes long once it is padded. It is above half of the longest.
pub(super) fn shortest(padded: usize) -> usize {
    // A step is a sixteenth at the most, or `STEP`.
    padded.saturating_sub(LENGTH_BYTES + (padded / 16).max(STEP))
}

/// Whether padding can lead to this length.
pub(super) fn is_step(length: usize) -> bool {
    length >= STEP && length <= LENGTH_BYTES + u32::MAX as usize && step_above(length) == length
}

/// Adds the padded value to `row`.
pub(super) fn write(row: &mut Vec<u8>, value: &[u8]) {
    let length = u32::try_from(value.len()).expect("a value is shorter than 4 GiB");
    let end = row.len() + padded(value.len());
    row.extend(length.to_be_bytes());
    row.extend_from_slice(value);
    row.resize(end, 0);
}

/// The value alone, or `None` if no value is padded so. In place, so that the value is not copied about.
pub(super) fn strip(mut padded_value: SecretBytes) -> Option<SecretBytes> {
    let bytes = padded_value.expose_mut();
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let zeros = rest.get(length..)?;
    if zeros.iter().any(|byte| *byte != 0) || padded(length) != bytes.len() {
        return None;
    }
    bytes.copy_within(LENGTH_BYTES..LENGTH_BYTES + length, 0);
    bytes.truncate(length);
    Some(padded_value)
}

fn step_above(length: usize) -> usize {
    if length <= LAST_STEP {
        return length.next_multiple_of(STEP);
    }
    // Padmé (Nikitin and others, "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019).
    let exponent = length.ilog2();
    let kept_bits = exponent.ilog2() + 1;
    length.next_multiple_of(1 << (exponent - kept_bits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_value_is_shorter_than_its_padding_says_d_07() {
        for length in (0..70_000).chain((70_000..3 << 20).step_by(997)) {
            let shortest = shortest(padded(length));
            assert!(shortest <= length && (length < 64 || 2 * shortest > length), "{length}: {shortest}");
        }
    }

    fn secret(bytes: &[u8]) -> SecretBytes {
        SecretBytes::new(bytes.to_vec())
    }

    proptest! {
        #[test]
        fn stripping_undoes_padding(
            value in prop::collection::vec(any::<u8>(), 0..2000),
            front in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut row = front.clone();
            write(&mut row, &value);
            prop_assert_eq!(&row[..front.len()], &front[..]);
            prop_assert_eq!(row.len() - front.len(), padded(value.len()));
            prop_assert!(is_step(padded(value.len())));
            prop_assert!(strip(secret(&row[front.len()..])).is_some_and(|stripped| stripped.matches(&value)));
        }

        #[test]
        fn a_step_holds_its_lengths_and_little_more(length in 0..100_000_000_usize) {
            let with_length = length + 4;
            let step = padded(length);
            prop_assert!(step >= with_length);
            prop_assert!(step - with_length < 16 || step - with_length <= with_length * 12 / 100);
            prop_assert_eq!(padded(step - 4), step);
            prop_assert!(padded(length + 1) >= step);
        }
    }

    #[test]
    fn the_steps_are_these() {
        let cases = [
            (0, 16),
            (12, 16),
            (13, 32),
            (16, 32),
            (28, 32),
            (252, 256),
            (253, 272),
            (268, 272),
            (269, 288),
            (508, 512),
            (509, 544),
            (1020, 1024),
            (1021, 1088),
            (4092, 4096),
            (65_532, 65_536),
            (65_533, 67_584),
        ];
        for (length, expected) in cases {
            assert_eq!(padded(length), expected, "{length}");
        }
        assert!((0..16).chain([17, 31, 257, 264, 520]).all(|length| !is_step(length)));
        // The length has four bytes, so that no value is padded to more than this.
        assert!(is_step(1 << 32) && !is_step(1 << 33));
    }

    #[test]
    fn what_no_value_is_padded_to_is_refused() {
        assert!(strip(secret(&[0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])).is_some());
        assert!(strip(secret(&[0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])).is_none());
        assert!(strip(secret(&[0, 0, 0, 13, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])).is_none());
        assert!(strip(secret(&[255; 16])).is_none());
        assert!(strip(secret(&[0; 32])).is_none());
        assert!(strip(secret(&[0; 3])).is_none());
        assert!(strip(secret(&[])).is_none());
    }
}
