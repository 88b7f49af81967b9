//! Where the next page begins: opaque to callers, and good for the same question only.

use crate::vault::{Reason, Violation};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const FORMAT: u8 = 1;
const BINDING_LENGTH: usize = 8;
const LENGTH: usize = 1 + 8 + BINDING_LENGTH;

/// A place in the log. It grants nothing: the next page is asked for by the same right as the first.
pub(super) struct Cursor {
    /// The sequence to go on from.
    pub next: u64,
}

impl Cursor {
    pub fn encode(&self, binding: &[u8]) -> String {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.next.to_be_bytes());
        bytes.extend_from_slice(&binding[..BINDING_LENGTH]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub fn parse(token: &str, binding: &[u8]) -> Result<Self, Violation> {
        let malformed = || Violation { field: "page_token", reason: Reason::CursorMalformed };
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| malformed())?;
        let bytes: [u8; LENGTH] = bytes.try_into().map_err(|_| malformed())?;
        let (next, bound_to) = bytes[1..].split_at(8);
        if bytes[0] != FORMAT || bound_to != &binding[..BINDING_LENGTH] {
            return Err(malformed());
        }
        Ok(Self { next: u64::from_be_bytes(next.try_into().map_err(|_| malformed())?) })
    }
}

/// For `src/fuzz`: what is read as a cursor is written the same way.
#[cfg(test)]
pub(crate) fn check_page_token(token: &str) {
    let binding = [0; 32];
    if let Ok(cursor) = Cursor::parse(token, &binding) {
        assert_eq!(cursor.encode(&binding), token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_question_only() {
        let token = Cursor { next: 77 }.encode(&[1; 32]);
        assert_eq!(Cursor::parse(&token, &[1; 32]).unwrap().next, 77);
        assert!(Cursor::parse(&token, &[2; 32]).is_err());
        for bad in ["", "AAAA", "!!", &token[1..]] {
            assert!(Cursor::parse(bad, &[1; 32]).is_err(), "{bad}");
        }
    }
}
