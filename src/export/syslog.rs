//! Syslog: messages of RFC 5424, in the frames and over the TLS of RFC 5425.
//!
//! The message is the event in JSON, in ASCII alone: what is beyond it, and every control character, is escaped as JSON
//! has it. So it is the same text in every encoding, needs no byte order mark (RFC 5424, section 6.4), and no receiver can
//! be led astray by what a caller chose. Header and structured data hold nothing that a caller chooses.

use super::delivery::{Delivered, Failed, Prepared};
use super::dial::{Dial, Stream};
use crate::event::Event;
use crate::event::json::rfc3339;
use crate::event::severity::Severity;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// "Log audit", of RFC 5424's list.
const FACILITY: u8 = 13;
const APP_NAME: &str = "cloakroom";
/// A stop does not wait longer than this for a receiver.
const FAREWELL_AT_MOST: Duration = Duration::from_secs(1);
/// RFC 5424, section 6.
const HOSTNAME_AT_MOST: usize = 255;
const MSGID_AT_MOST: usize = 32;
/// RFC 5424, section 7.3.1: counts from 1 to this, and then again.
const SEQUENCE_ID_AT_MOST: u64 = 2_147_483_647;

/// A receiver of syslog.
pub(super) struct Syslog {
    dial: Dial,
    open: Option<Stream>,
}

impl Syslog {
    pub fn new(dial: Dial) -> Self {
        Self { dial, open: None }
    }

    /// Writes and flushes the batch. If it fails, or is not waited for, the connection is given up.
    pub async fn send(&mut self, batch: &[Prepared]) -> Result<Delivered, Failed> {
        let frames: Vec<u8> = batch.iter().flat_map(|event| frame(&message(&event.event, &event.body))).collect();
        let mut stream = match self.open.take() {
            Some(stream) => stream,
            None => self.dial.open().await?,
        };
        let broken = |error: std::io::Error| Failed::Broken(error.to_string());
        tokio::select! {
            // What a receiver that has gone away takes is taken by nobody.
            biased;
            gone = until_closed(&mut stream) => return Err(gone),
            () = std::future::ready(()) => {}
        }
        stream.write_all(&frames).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        self.open = Some(stream);
        Ok(Delivered::Written)
    }

    /// Waits until the receiver ends the connection. For ever, if there is none.
    pub async fn closed(&mut self) -> Failed {
        let Some(stream) = &mut self.open else { return std::future::pending().await };
        let gone = until_closed(stream).await;
        self.open = None;
        gone
    }

    /// Ends the connection as RFC 5425, section 4.4 wants it: the receiver is told that nothing was cut off.
    pub async fn end(&mut self) {
        if let Some(mut stream) = self.open.take() {
            // Whoever does not take that in time gets it the hard way.
            let _ = tokio::time::timeout(FAREWELL_AT_MOST, stream.shutdown()).await;
        }
    }

    /// Gives up the connection, if there is one.
    pub fn hang_up(&mut self) {
        self.open = None;
    }
}

/// A receiver has nothing to say, so whatever it says is passed over.
async fn until_closed(stream: &mut Stream) -> Failed {
    let mut passed_over = [0; 256];
    loop {
        match stream.read(&mut passed_over).await {
            Ok(0) => return Failed::Broken("the receiver ended it".to_owned()),
            Ok(_) => {}
            Err(error) => return Failed::Broken(error.to_string()),
        }
    }
}

/// One message: header, structured data, the event.
pub(super) fn message(event: &Event, body: &str) -> String {
    let priority = FACILITY * 8 + Severity::of(event).syslog();
    let time = event.timestamp().map_or_else(|| "-".to_owned(), |time| rfc3339(time).to_string());
    let host = header_field(&event.node, HOSTNAME_AT_MOST);
    let id = header_field(&event.action().word().to_ascii_uppercase(), MSGID_AT_MOST);
    let version = parameter(env!("CARGO_PKG_VERSION"));
    let sequence = event.sequence % SEQUENCE_ID_AT_MOST + 1;
    let body = in_ascii(body);
    format!(
        "<{priority}>1 {time} {host} {APP_NAME} - {id} [origin software=\"{APP_NAME}\" swVersion=\"{version}\"]\
         [meta sequenceId=\"{sequence}\"] {body}"
    )
}

/// RFC 5425, section 4.3: the length in octets, a space, the message.
pub(super) fn frame(message: &str) -> Vec<u8> {
    let mut frame = format!("{} ", message.len()).into_bytes();
    frame.extend_from_slice(message.as_bytes());
    frame
}

/// A field of the header: printable ASCII without spaces, bounded; `-` for none.
fn header_field(text: &str, at_most: usize) -> String {
    let visible = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    match text.chars().take(at_most).map(visible).collect::<String>() {
        empty if empty.is_empty() => "-".to_owned(),
        field => field,
    }
}

/// The value of a parameter in structured data: `"`, `\` and `]` have a backslash in front.
fn parameter(text: &str) -> String {
    let escaped = |c: char| matches!(c, '"' | '\\' | ']').then_some('\\').into_iter().chain([c]);
    text.chars().filter(|c| !c.is_control()).flat_map(escaped).collect()
}

/// JSON in ASCII alone. What is not printable ASCII can only stand within its texts, where `\u` escapes mean the same.
fn in_ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c == ' ' || c.is_ascii_graphic() {
            text.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a text can't fail.
                let _ = std::fmt::Write::write_fmt(&mut text, format_args!("\\u{unit:04x}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests;
