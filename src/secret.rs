//! Bytes that wipe themselves and do not print.
//!
//! A value, a token's canonical bytes and every key live in one of these from the moment they are read until they are
//! dropped. None of them implements `Debug`, `Display`, `Clone` or `PartialEq`: printing one, copying one by accident or
//! comparing two with `==` does not compile. Comparisons go through [`Secret::matches`], which takes constant time.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Something that must not be printed and is wiped when it is dropped.
pub struct Secret<T: Zeroize>(Zeroizing<T>);

/// A value or other secret of variable length. The buffer is never grown, so no copy stays behind in freed memory.
pub type SecretBytes = Secret<Vec<u8>>;

/// A key of 256 bits.
pub type SecretKey = Secret<[u8; 32]>;

impl<T: Zeroize> Secret<T> {
    /// Takes ownership of `inner`. The caller keeps no copy.
    pub fn new(inner: T) -> Self {
        Self(Zeroizing::new(inner))
    }

    /// The bare content. Named so that each use can be found and asked why.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// The bare content, to be written in place.
    pub fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize + AsRef<[u8]>> Secret<T> {
    /// Whether both hold the same bytes, in a time that depends on the length alone.
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.as_ref().ct_eq(other).into()
    }
}

impl SecretBytes {
    /// The length in bytes. Lengths are not secret: policy and limits decide on them.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing inside.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands the buffer to a caller that must own it, such as a reply that is about to be encoded. From then on only the
    /// wiping allocator clears it.
    pub fn into_exposed(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_compares_content_and_length() {
        let secret = SecretBytes::new(b"4111".to_vec());
        assert!(secret.matches(b"4111"));
        assert!(!secret.matches(b"4112"));
        assert!(!secret.matches(b"411"));
    }

    /// `Probe::<T>::NAME` is true if and only if `T` has the trait: an inherent constant wins over a trait's.
    struct Probe<T>(std::marker::PhantomData<T>);

    macro_rules! probes {
        ($($name:ident: $trait:path),+ $(,)?) => {
            trait Without {
                $(const $name: bool = false;)+
            }
            impl<T> Without for Probe<T> {}
            $(impl<T: $trait> Probe<T> {
                const $name: bool = true;
            })+
            /// Of all these traits, which a type has.
            macro_rules! offers {
                ($type:ty) => {
                    [$((stringify!($trait), Probe::<$type>::$name)),+].into_iter().filter(|(_, is)| *is).collect::<Vec<_>>()
                };
            }
        };
    }

    probes! {
        DEBUG: std::fmt::Debug,
        DISPLAY: std::fmt::Display,
        LOWER_HEX: std::fmt::LowerHex,
        SERIALIZE: serde::Serialize,
        CLONE: Clone,
        EQUAL: PartialEq,
        ORDERED: PartialOrd,
        HASHED: std::hash::Hash,
        DEREF: std::ops::Deref,
        BYTES: AsRef<[u8]>,
        BORROWED: std::borrow::Borrow<[u8]>,
        PLAIN: Into<Vec<u8>>,
    }

    /// So what holds one can't derive it either; what is written by hand is looked for by tests/secrets.rs.
    #[test]
    fn a_secret_offers_nothing_p_08() {
        assert!(offers!(SecretBytes).is_empty(), "{:?}", offers!(SecretBytes));
        assert!(offers!(SecretKey).is_empty(), "{:?}", offers!(SecretKey));
        assert!(offers!(Secret<String>).is_empty(), "{:?}", offers!(Secret<String>));
        // The probe sees what is there.
        assert_eq!((offers!(String).len(), offers!(Vec<u8>).len(), offers!(u8).len()), (10, 10, 8));
    }

    #[test]
    fn its_length_is_no_secret() {
        let [value, nothing] = [&b"4111"[..], b""].map(|bytes| SecretBytes::new(bytes.to_vec()));
        assert_eq!((value.len(), nothing.len()), (4, 0));
        assert!(nothing.is_empty() && !value.is_empty());
        assert_eq!(value.into_exposed(), b"4111");
    }
}
