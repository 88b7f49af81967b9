//! For `src/fuzz`: the forms of events, and what sinks answer.

use super::post::{Answer, check_retry_after};
use super::{Format, cursor, otlp, source, syslog};
use crate::event::Event;
use prost::bytes::Bytes;

/// Whatever an event holds, a syslog message of it is one frame of printable characters, and OTLP can be built.
pub(crate) fn check_forms(event: &Event) {
    for format in [Format::Json, Format::Ocsf] {
        let body = source::body(event, format).expect("an event is JSON");
        let message = syslog::message(event, &body);
        assert!(message.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "a syslog message has other characters");
        let frame = syslog::frame(&message);
        let (length, rest) = frame.split_at(frame.iter().position(|byte| *byte == b' ').expect("a space"));
        assert_eq!(String::from_utf8_lossy(length).parse(), Ok(rest.len() - 1));
    }
    otlp::check_request(event);
}

/// The first two bytes say what it is: an answer of a collector by status and type, a header, or a cursor.
pub(crate) fn check_answer(data: &[u8]) {
    let (choice, rest) = data.split_at(data.len().min(2));
    let [kind, how] = *choice else { return };
    match kind % 3 {
        0 => {
            let content_type = ["application/x-protobuf", "application/json; charset=utf-8", "text/html", ""];
            let content_type = content_type[usize::from(how) % 4].to_owned();
            let status = [200, 202, 400, 429][usize::from(how >> 2) % 4];
            otlp::check_answer(Answer { status, content_type, retry_after: None, body: Bytes::copy_from_slice(rest) });
        }
        1 => check_retry_after(rest),
        _ => cursor::check_content(rest),
    }
}
