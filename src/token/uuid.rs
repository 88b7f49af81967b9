//! Version 4 UUIDs (RFC 9562), for columns and interfaces that are typed so.
//!
//! 122 random bits, written as 36 characters in lower case. There is no room for the second of issue nor for a checksum:
//! handles begin with second 0, and a mistyped token is mostly another one that does not exist. Case is no part of a
//! UUID, and software between may change it, so reading takes either; the canonical bytes are the same.

use super::{Canonical, Malformed, Parsed, Text};

/// Bytes of a UUID.
const BYTES: usize = 16;
/// Characters of one.
const CHARS: usize = 36;
/// Where a group of digits begins in the text and in the bytes, and how many bytes it has. Hyphens stand between.
const GROUPS: [(usize, usize, usize); 5] = [(0, 0, 4), (9, 4, 2), (14, 6, 2), (19, 8, 2), (24, 10, 6)];

/// What makes the token: its 16 bytes, with version and variant in their places.
pub(super) fn canonical(mut random: [u8; BYTES]) -> Canonical {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    Canonical::new(&[], &random)
}

/// Writes a token.
pub(super) fn assemble(canonical: &Canonical) -> Text {
    let mut digits = [0; 2 * BYTES];
    hex::encode_to_slice(canonical.expose(), &mut digits).expect("16 bytes are 32 digits");
    let digits = str::from_utf8(&digits).expect("hexadecimal digits are UTF-8");
    // With its full capacity from the start: a buffer that grows leaves a copy behind.
    let mut text = String::with_capacity(CHARS);
    for (_, start, length) in GROUPS {
        if start > 0 {
            text.push('-');
        }
        text.push_str(&digits[2 * start..2 * (start + length)]);
    }
    Text::new(text)
}

/// Reads a token, in lower or upper case.
pub(super) fn parse(text: &str) -> Result<Parsed, Malformed> {
    let text = text.as_bytes();
    let hyphens = GROUPS.iter().skip(1).all(|(start, ..)| text.get(start - 1) == Some(&b'-'));
    if text.len() != CHARS || !hyphens {
        return Err(Malformed::Shape);
    }
    let mut bytes = [0; BYTES];
    for (at, start, length) in GROUPS {
        let digits = &text[at..at + 2 * length];
        hex::decode_to_slice(digits, &mut bytes[start..start + length]).map_err(|_| Malformed::Alphabet)?;
    }
    if bytes[6] >> 4 != 4 || bytes[8] >> 6 != 0b10 {
        return Err(Malformed::Version);
    }
    Ok(Parsed { canonical: Canonical::new(&[], &bytes), masked: None })
}
