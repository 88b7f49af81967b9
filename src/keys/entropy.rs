//! Randomness: the operating system's CSPRNG, and nothing in between. If it fails, so does the call; nothing falls back.

use crate::secret::{SecretBytes, SecretKey};

/// The operating system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no randomness ({0}). Nothing was made; see that getrandom(2) is allowed")]
pub struct NoEntropy(getrandom::Error);

/// Fills `buffer`. One system call, so callers with many items ask once for all of them.
///
/// # Errors
/// If the system call fails.
pub fn fill(buffer: &mut [u8]) -> Result<(), NoEntropy> {
    getrandom::fill(buffer).map_err(NoEntropy)
}

/// An array of random bytes.
///
/// # Errors
/// As [`fill`].
pub fn bytes<const N: usize>() -> Result<[u8; N], NoEntropy> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// A new key of 256 bits.
///
/// # Errors
/// As [`fill`].
pub fn key() -> Result<SecretKey, NoEntropy> {
    let mut key = SecretKey::new([0; 32]);
    fill(key.expose_mut())?;
    Ok(key)
}

/// Randomness for a whole batch, from one system call, handed out piece by piece and wiped at the end.
pub struct Supply {
    bytes: SecretBytes,
    taken: usize,
}

impl Supply {
    /// `length` random bytes.
    ///
    /// # Errors
    /// As [`fill`].
    pub fn of(length: usize) -> Result<Self, NoEntropy> {
        let mut bytes = SecretBytes::new(vec![0; length]);
        fill(bytes.expose_mut())?;
        Ok(Self { bytes, taken: 0 })
    }

    /// The next `N` bytes.
    ///
    /// # Panics
    /// If more is taken than was asked for: handing out the same bytes twice would be worse.
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let rest = &self.bytes.expose()[self.taken..];
        let piece = *rest.first_chunk().expect("a supply is as long as what is taken from it");
        self.taken += N;
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supply_never_hands_out_the_same_bytes_twice() {
        let mut supply = Supply::of(48).unwrap();
        let all = supply.bytes.expose().clone();
        let pieces: Vec<[u8; 16]> = (0..3).map(|_| supply.take()).collect();
        assert_eq!(pieces.concat(), all);
    }

    #[test]
    #[should_panic(expected = "as long as what is taken")]
    fn a_supply_that_runs_out_panics() {
        Supply::of(15).unwrap().take::<16>();
    }
}
