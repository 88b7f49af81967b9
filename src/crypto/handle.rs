//! Handles: what a token is called inside the vault, in its log and by its operators.

use std::fmt;
use std::str::FromStr;

/// The second of issue (big endian) and 16 bytes that the index key makes of the token: the key of the token's row.
///
/// It is no secret and does not lead back to the token. As text it is 40 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle([u8; 20]);

/// A text or a row's key that is not a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a handle is 40 lower-case hexadecimal digits; copy it from an audit event or a reply")]
pub struct BadHandle;

impl Handle {
    /// In bytes.
    pub const LENGTH: usize = 20;

    /// From its two parts: seconds since 2020-01-01T00:00:00Z, and [`super::Located::tail`].
    pub fn new(second: u32, tail: [u8; 16]) -> Self {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&second.to_be_bytes());
        bytes[4..].copy_from_slice(&tail);
        Self(bytes)
    }

    /// From the 20 bytes of a row's key.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes, as in a row's key and in an audit event.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// The second of issue, counted from 2020-01-01T00:00:00Z.
    pub fn second(&self) -> u32 {
        u32::from_be_bytes(*self.0.first_chunk().expect("4 bytes are fewer than 20"))
    }
}

impl TryFrom<&[u8]> for Handle {
    type Error = BadHandle;

    fn try_from(bytes: &[u8]) -> Result<Self, BadHandle> {
        bytes.try_into().map(Self).map_err(|_| BadHandle)
    }
}

impl FromStr for Handle {
    type Err = BadHandle;

    fn from_str(text: &str) -> Result<Self, BadHandle> {
        // One spelling only: what is searched for in a log is found by its text.
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(BadHandle);
        }
        let mut bytes = [0; 20];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| BadHandle)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Onto the stack: this is done for each token of each reply.
        let mut digits = [0; 2 * 20];
        hex::encode_to_slice(self.0, &mut digits).expect("40 digits for 20 bytes");
        f.write_str(str::from_utf8(&digits).expect("hexadecimal digits are UTF-8"))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_and_bytes_lead_back(second: u32, tail: [u8; 16]) {
            let handle = Handle::new(second, tail);
            prop_assert_eq!(handle.second(), second);
            prop_assert_eq!(handle.to_string().parse(), Ok(handle));
            prop_assert_eq!(format!("{handle:?}"), handle.to_string());
            prop_assert_eq!(Handle::try_from(&handle.as_bytes()[..]), Ok(handle));
        }

        #[test]
        fn handles_lie_in_the_order_of_their_seconds(a: u32, b: u32, tails: [[u8; 16]; 2]) {
            prop_assume!(a != b);
            prop_assert_eq!(Handle::new(a, tails[0]) < Handle::new(b, tails[1]), a < b);
        }

        #[test]
        fn there_is_one_grammar_i_07(text in "\\PC{0,50}") {
            let right = text.len() == 40 && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
            prop_assert_eq!(text.parse::<Handle>().is_ok(), right);
        }
    }

    #[test]
    fn other_spellings_are_refused_i_07() {
        let text = Handle::new(1, [0xab; 16]).to_string();
        for wrong in
            [text.to_uppercase(), format!("{text}0"), text[1..].to_owned(), format!("0x{}", &text[2..]), String::new()]
        {
            assert_eq!(wrong.parse::<Handle>(), Err(BadHandle));
        }
        assert_eq!(Handle::try_from(&[0; 19][..]), Err(BadHandle));
    }
}
