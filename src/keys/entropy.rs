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
    #[cfg(test)]
    fixture::ask()?;
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

/// A system that gives no randomness any more.
#[cfg(test)]
pub(crate) mod fixture {
    use super::NoEntropy;
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Until it is dropped.
    pub struct Dry(());

    /// On this thread, after so many calls more.
    pub fn dry_after(calls: u32) -> Dry {
        LEFT.set(Some(calls));
        Dry(())
    }

    pub(super) fn ask() -> Result<(), NoEntropy> {
        match LEFT.get() {
            Some(0) => Err(NoEntropy(getrandom::Error::UNSUPPORTED)),
            left => {
                LEFT.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }

    impl Drop for Dry {
        fn drop(&mut self) {
            LEFT.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_randomness_nothing_is_made_and_the_advice_says_why() {
        let dry = fixture::dry_after(0);
        let refused = [bytes::<4>().err(), key().err(), Supply::of(4).err()];
        drop(dry);
        for refused in refused {
            let said = refused.unwrap().to_string();
            assert!(said.contains("no randomness") && said.contains("getrandom(2) is allowed"), "{said}");
        }
        assert!(key().is_ok());
    }

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
