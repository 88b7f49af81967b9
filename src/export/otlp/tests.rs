//! Requests and answers as the specification has them.

use super::*;
use crate::event::ocsf::tests::whole;
use std::time::Duration;

fn answer(status: u16, content_type: &str, body: &[u8]) -> Answer {
    let body = Bytes::copy_from_slice(body);
    Answer { status, content_type: content_type.to_owned(), retry_after: Some(Duration::from_secs(7)), body }
}

fn partial(rejected: i64, said: &str) -> Vec<u8> {
    let partial = PartialSuccess { rejected_log_records: rejected, error_message: said.to_owned() };
    ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec()
}

#[test]
fn a_request_is_what_the_protos_say_byte_by_byte() {
    let event = whole();
    let time = event.timestamp().unwrap();
    let prepared = Prepared { sequence: 4711, time, event, body: "{}".to_owned() };
    let bytes = request(&[prepared]).encode_to_vec();
    // `protoc --decode_raw` of such a request, against opentelemetry-proto 1.x: fields by number, in order.
    let read = |bytes: &[u8]| ExportLogsServiceRequest::decode(bytes).unwrap();
    let sent = read(&bytes);
    let [resource_logs] = &sent.resource_logs[..] else { panic!("one resource") };
    let text = |attributes: &[KeyValue], key: &str| {
        let found = attributes.iter().find(|attribute| attribute.key == key).unwrap();
        match found.value.clone().unwrap().kind.unwrap() {
            Kind::Text(text) => text,
            Kind::Number(number) => number.to_string(),
        }
    };
    let resource = &resource_logs.resource.as_ref().unwrap().attributes;
    assert_eq!(text(resource, "service.name"), "cloakroom");
    assert_eq!(text(resource, "service.instance.id"), "dev.cloakroom.internal/1a2b");
    let record = &resource_logs.scope_logs[0].log_records[0];
    assert_eq!(record.time_unix_nano, 1_790_000_000_123_000_000);
    assert_eq!(record.observed_time_unix_nano, record.time_unix_nano, "a repetition is the same record");
    assert_eq!((record.severity_number, record.severity_text.as_str()), (9, "INFO"));
    assert_eq!(record.body.clone().unwrap().kind, Some(Kind::Text("{}".to_owned())));
    assert_eq!(text(&record.attributes, "log.record.uid"), "dev.cloakroom.internal/1a2b/4711");
    assert_eq!(text(&record.attributes, "cloakroom.sequence"), "4711");
    assert_eq!(hex::encode(&record.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(record.event_name, "cloakroom.audit");
    // Keys of the record on the wire: 1 fixed64, 2 varint, 3, 5, 6, 9 length-delimited, 11 fixed64, 12 length-delimited.
    let record = record.encode_to_vec();
    assert_eq!(record[..1], [1 << 3 | 1]);
    assert_eq!(record[9..11], [2 << 3, 9]);
    assert_eq!(record[11..13], [3 << 3 | 2, 4]);
}

#[test]
fn a_trace_id_that_is_none_is_left_out_of_the_record() {
    for trace_id in ["", "4bf9", "not hexadecimal, and long enough!"] {
        let event = crate::event::Event { trace_id: trace_id.to_owned(), ..whole() };
        let time = event.timestamp().unwrap();
        assert!(record(&Prepared { sequence: 0, time, event, body: String::new() }).trace_id.is_empty());
    }
}

#[test]
fn success_is_all_of_2xx_with_an_answer_of_a_collector() {
    for (status, content_type, body) in [
        (200, PROTOBUF, &b""[..]),
        (200, "application/x-protobuf; charset=x", &b""[..]),
        (202, "", b""),
        (204, "text/plain", b""),
        (200, "application/json", b"{}"),
        (200, "application/json", b"{\"partialSuccess\":{}}"),
        (200, PROTOBUF, &partial(0, "a warning")),
    ] {
        let said = delivered(answer(status, content_type, body)).unwrap();
        assert_eq!(said, Delivered::Acknowledged, "{status} {content_type}");
    }
    for (content_type, body) in [
        ("text/html", &b"<html>welcome</html>"[..]),
        ("", b"OK"),
        (PROTOBUF, b"\xff\xff\xff"),
        ("application/json", b"welcome"),
        ("application/json", b"[]"),
    ] {
        let failed = delivered(answer(200, content_type, body)).unwrap_err();
        assert!(failed.to_string().contains("is the address right?"), "{content_type}: {failed}");
    }
}

#[test]
fn partial_success_counts_what_was_refused_and_its_words_are_made_harmless() {
    let hostile = format!("no\n\u{202e}{}", "x".repeat(1000));
    let Delivered::Partly { refused, said } = delivered(answer(200, PROTOBUF, &partial(3, &hostile))).unwrap() else {
        panic!("it is partial")
    };
    assert_eq!(refused, 3);
    assert!(said.starts_with("no\\n\\u{202e}xxx") && said.len() < 300, "{said}");
    for number in ["3", "\"3\""] {
        let json = format!("{{\"partialSuccess\":{{\"rejectedLogRecords\":{number},\"errorMessage\":\"no\"}}}}");
        let said = delivered(answer(200, "application/json", json.as_bytes())).unwrap();
        assert_eq!(said, Delivered::Partly { refused: 3, said: "no".to_owned() });
    }
}

#[test]
fn content_is_refused_for_good_and_everything_else_only_for_now() {
    for status in [400, 413, 422] {
        assert!(matches!(delivered(answer(status, "", b"")), Err(Failed::Content(found)) if found == status));
    }
    for status in [100, 301, 307, 401, 403, 404, 405, 408, 429, 500, 501, 502, 503, 504] {
        let failed = delivered(answer(status, "", b"")).unwrap_err();
        assert_eq!(failed.reason(), "unwilling", "{status}");
        assert_eq!(failed.retry_after(), Some(Duration::from_secs(7)), "{status}");
    }
}
