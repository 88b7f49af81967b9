//! The JSON of [`crate::event::json`] from a view, without making anything but the text. A test holds both to the same
//! bytes.

use super::{AccessToken, Packed, Repeated, View};
use crate::clock::Timestamp;
use crate::event::json::rfc3339;
use crate::event::{ItemOutcome, Reveal};

/// Writes events as JSON. It remembers the text of the last second, since neighbours share it.
#[derive(Clone, Default)]
pub struct Renderer {
    second: Option<u64>,
    /// `2026-09-21T14:13:20`, for `second`.
    text: String,
}

impl Renderer {
    /// The whole event, as [`crate::event::json::Json`] has it.
    pub fn event(&mut self, view: &View<'_>, log_id: &str, sequence: u64, line: &mut Vec<u8>) {
        line.push(b'{');
        text(line, "\"log_id\":", log_id);
        line.extend_from_slice(b",\"sequence\":");
        decimal(line, sequence);
        self.rest(view, line);
        line.push(b'}');
    }

    /// All fields but the sequence, without braces, for a line that has begun with that.
    pub fn fields(&mut self, view: &View<'_>, log_id: &str, line: &mut Vec<u8>) {
        text(line, "\"log_id\":", log_id);
        self.rest(view, line);
    }

    fn rest(&mut self, view: &View<'_>, line: &mut Vec<u8>) {
        line.extend_from_slice(b",\"time\":");
        self.moment(view.time, line);
        line.extend_from_slice(b",\"action\":");
        word(line, view.action().word());
        line.extend_from_slice(b",\"outcome\":");
        word(line, view.outcome().word());
        text_if_any(line, ",\"reason\":", view.reason);
        text(line, ",\"caller\":", view.caller);
        hex_if_any(line, ",\"certificate_sha256\":", view.certificate_sha256);
        if let Some(token) = &view.access_token {
            access_token(line, token);
        }
        text_if_any(line, ",\"scope\":", view.scope);
        handles(line, view.handles);
        line.extend_from_slice(b",\"requested\":");
        decimal(line, view.requested.into());
        line.extend_from_slice(b",\"succeeded\":");
        decimal(line, view.succeeded.into());
        text_if_any(line, ",\"purpose\":", view.purpose);
        hex_if_any(line, ",\"request_hash\":", view.request_hash);
        text_if_any(line, ",\"trace_id\":", view.trace_id);
        text_if_any(line, ",\"peer_address\":", view.peer_address);
        policies(line, view.policies);
        text_if_any(line, ",\"node\":", view.node);
        if let Some(reveal) = Reveal::try_from(view.reveal).ok().filter(|reveal| *reveal != Reveal::Unspecified) {
            line.extend_from_slice(b",\"reveal\":");
            word(line, reveal.word());
        }
        hex_if_any(line, ",\"rulebook\":", view.rulebook);
        item_outcomes(line, view.item_outcomes);
        if view.count > 0 {
            line.extend_from_slice(b",\"count\":");
            decimal(line, view.count);
        }
        if let Some(time) = view.first_time {
            line.extend_from_slice(b",\"first_time\":");
            match Timestamp::try_from(time) {
                Ok(time) => self.moment(time, line),
                Err(_) => line.extend_from_slice(b"\"\""),
            }
        }
        text_if_any(line, ",\"detail\":", view.detail);
        hex_if_any(line, ",\"salt\":", view.salt);
    }

    fn moment(&mut self, time: Timestamp, line: &mut Vec<u8>) {
        if self.second != Some(time.seconds()) {
            self.text = rfc3339(time).to_string();
            self.text.truncate(self.text.len() - ".000Z".len());
            self.second = Some(time.seconds());
        }
        line.push(b'"');
        line.extend_from_slice(self.text.as_bytes());
        let [hundreds, tens, ones] = [100, 10, 1].map(|unit| b'0' + (time.millis() / unit % 10) as u8);
        line.extend_from_slice(&[b'.', hundreds, tens, ones, b'Z', b'"']);
    }
}

/// `key` with comma and colon, then the text in quotes.
fn text(line: &mut Vec<u8>, key: &str, text: &str) {
    line.extend_from_slice(key.as_bytes());
    quoted(line, text);
}

fn text_if_any(line: &mut Vec<u8>, key: &str, content: &str) {
    if !content.is_empty() {
        text(line, key, content);
    }
}

fn hex_if_any(line: &mut Vec<u8>, key: &str, bytes: &[u8]) {
    if !bytes.is_empty() {
        line.extend_from_slice(key.as_bytes());
        hex_quoted(line, bytes);
    }
}

fn access_token(line: &mut Vec<u8>, token: &AccessToken<'_>) {
    line.extend_from_slice(b",\"access_token\":{");
    text(line, "\"issuer\":", token.issuer);
    text(line, ",\"subject\":", token.subject);
    line.extend_from_slice(b",\"token_hash\":");
    hex_quoted(line, token.token_hash);
    text(line, ",\"actor\":", token.actor);
    line.push(b'}');
}

fn handles(line: &mut Vec<u8>, handles: Repeated<'_>) {
    list(line, ",\"handles\":", handles.iter(), hex_quoted);
}

fn policies(line: &mut Vec<u8>, policies: Repeated<'_>) {
    list(line, ",\"policies\":", policies.iter(), |line, id| {
        quoted(line, std::str::from_utf8(id).expect("the view has checked it"));
    });
}

fn item_outcomes(line: &mut Vec<u8>, outcomes: Packed<'_>) {
    list(line, ",\"item_outcomes\":", outcomes.iter(), |line, number| {
        word(line, ItemOutcome::try_from(number).unwrap_or(ItemOutcome::Unspecified).word());
    });
}

/// A list that is not empty, or nothing.
fn list<T>(line: &mut Vec<u8>, key: &str, elements: impl Iterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) {
    let mut before = key;
    let mut bracket: &[u8] = b"[";
    let mut any = false;
    for element in elements {
        line.extend_from_slice(before.as_bytes());
        line.extend_from_slice(bracket);
        write(line, element);
        (before, bracket, any) = (",", b"", true);
    }
    if any {
        line.push(b']');
    }
}

fn word(line: &mut Vec<u8>, word: &str) {
    line.push(b'"');
    line.extend(word.bytes().map(|byte| byte.to_ascii_uppercase()));
    line.push(b'"');
}

fn hex_quoted(line: &mut Vec<u8>, bytes: &[u8]) {
    line.push(b'"');
    let begin = line.len();
    line.resize(begin + 2 * bytes.len(), 0);
    hex::encode_to_slice(bytes, &mut line[begin..]).expect("there is room for two digits a byte");
    line.push(b'"');
}

/// A text as a JSON string.
pub(crate) fn quoted(line: &mut Vec<u8>, text: &str) {
    line.push(b'"');
    // Looked at as a whole first: almost no text has anything to escape, and this can be done many bytes at a time.
    if text.bytes().fold(false, |any, byte| any | must_be_escaped(byte)) {
        text.bytes().for_each(|byte| escaped(line, byte));
    } else {
        line.extend_from_slice(text.as_bytes());
    }
    line.push(b'"');
}

fn must_be_escaped(byte: u8) -> bool {
    matches!(byte, 0..0x20 | b'"' | b'\\')
}

fn escaped(line: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x09 => b't',
        0x0a => b'n',
        0x0c => b'f',
        0x0d => b'r',
        _ if byte < 0x20 => {
            let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            return line.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
        }
        _ => return line.push(byte),
    };
    line.extend_from_slice(&[b'\\', short]);
}

/// A number in decimal.
pub(crate) fn decimal(line: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[begin..]);
}
