//! Views against the decoder and the serializer that define what they must say.

use super::*;
use crate::event::json::Json;
use crate::event::tests::any_event;
use crate::event::{AccessTokenInfo, Event, decode, finish};
use proptest::prelude::*;
use prost::bytes::Bytes;

fn rendered(bytes: &[u8], log_id: &str, sequence: u64) -> String {
    let mut line = Vec::new();
    Renderer::default().event(&View::read(bytes).unwrap(), log_id, sequence, &mut line);
    String::from_utf8(line).unwrap()
}

fn serialized(bytes: &[u8], log_id: &str, sequence: u64) -> String {
    let event = Event { log_id: log_id.to_owned(), sequence, ..decode(bytes).unwrap() };
    serde_json::to_string(&Json(&event)).unwrap()
}

/// Bytes that are often a canonical event, and often just not.
fn nearly_canonical() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::option::of((
        "[ -~\"\\\\\n\u{1}]{0,9}",
        "[a-z]{0,3}",
        prop::collection::vec(any::<u8>(), 0..40),
        "[a-z]{0,3}",
    ));
    let first = prop::option::of((any::<i64>(), any::<i32>()));
    (any_event(), 0u64..253_402_300_799_999, token, first).prop_map(|(mut event, millis, token, first)| {
        event.access_token = token.map(|(issuer, subject, token_hash, actor)| AccessTokenInfo {
            issuer,
            subject,
            token_hash: Bytes::from(token_hash),
            actor,
        });
        event.first_time = event.first_time.or(first.map(|(seconds, nanos)| Time { seconds, nanos }));
        finish(&event.encode_body(), Timestamp::from_millis(millis))
    })
}

#[test]
fn frozen_events_are_read_and_refused_as_by_the_decoder() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/vectors/event_v1.json")).unwrap();
    for frozen in vectors["events"].as_array().unwrap() {
        let bytes = hex::decode(frozen["canonical"].as_str().unwrap()).unwrap();
        assert_eq!(rendered(&bytes, "l", 7), serialized(&bytes, "l", 7), "{}", frozen["name"]);
    }
    for frozen in vectors["refused"].as_array().unwrap() {
        let bytes = hex::decode(frozen["bytes"].as_str().unwrap()).unwrap();
        assert_eq!(View::read(&bytes), None, "{}", frozen["why"]);
    }
}

#[test]
fn every_byte_of_a_frozen_event_can_be_any_other_and_both_agree_a_01() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/vectors/event_v1.json")).unwrap();
    for frozen in vectors["events"].as_array().unwrap() {
        let bytes = hex::decode(frozen["canonical"].as_str().unwrap()).unwrap();
        for place in 0..bytes.len().min(400) {
            for byte in [0, 1, 2, 0x7f, 0x80, 0xff, bytes[place] ^ 1, bytes[place].wrapping_add(1)] {
                let mut other = bytes.clone();
                other[place] = byte;
                assert_eq!(View::read(&other).is_some(), decode(&other).is_ok(), "byte {place} as {byte}");
            }
        }
    }
}

#[test]
fn every_character_is_escaped_as_by_the_serializer() {
    for byte in 0..=0x7f_u8 {
        for text in [String::from(char::from(byte)), format!("ä{}b", char::from(byte))] {
            let mut line = Vec::new();
            quoted(&mut line, &text);
            assert_eq!(String::from_utf8(line).unwrap(), serde_json::to_string(&text).unwrap(), "{byte:#x}");
        }
    }
}

#[test]
fn the_fields_are_those_of_the_event_but_for_the_sequence() {
    let event = Event { caller: "spiffe://a/x".to_owned(), detail: "a detail".to_owned(), ..Event::default() };
    let time = Timestamp::from_millis(1_790_000_000_123);
    let bytes = finish(&event.encode_body(), time);
    let view = View::read(&bytes).unwrap();
    assert_eq!((view.time(), view.detail()), (time, "a detail"));
    let mut fields = Vec::new();
    Renderer::default().fields(&view, "l", &mut fields);
    let whole = rendered(&bytes, "l", 7).replacen(r#""sequence":7,"#, "", 1);
    assert_eq!(format!("{{{}}}", String::from_utf8(fields).unwrap()), whole);
}

#[test]
fn a_number_has_64_bits_and_no_more() {
    let read = |bytes: &[u8]| {
        let mut fields = Fields(bytes);
        fields.varint().map(|number| (number, fields.0.len()))
    };
    let nine = [0xff; 9];
    assert_eq!(read(&[&nine[..], &[1, 7]].concat()), Some((u64::MAX, 1)));
    assert_eq!(read(&[&[0x80; 9][..], &[1]].concat()), Some((1 << 63, 0)));
    assert_eq!(read(&[&nine[..], &[2]].concat()), None);
    assert_eq!(read(&[&nine[..], &[0]].concat()), None);
    assert_eq!(read(&[&nine[..], &[0x81, 0]].concat()), None);
    assert_eq!((read(&[0]), read(&[0x80, 0]), read(&[0x80]), read(&[])), (Some((0, 0)), None, None, None));
}

proptest! {
    #[test]
    fn a_view_says_what_the_serializer_says(bytes in nearly_canonical(), log_id in "[!-~ä]{1,20}", sequence: u64) {
        prop_assert_eq!(rendered(&bytes, &log_id, sequence), serialized(&bytes, &log_id, sequence));
    }

    #[test]
    fn a_view_and_the_decoder_accept_the_same_bytes(
        bytes in nearly_canonical(),
        place: prop::sample::Index,
        byte: u8,
        change in 0u8..4,
    ) {
        let mut bytes = bytes;
        let place = place.index(bytes.len());
        match change {
            0 => bytes[place] = byte,
            1 => bytes.insert(place, byte),
            2 => { bytes.remove(place); }
            _ => bytes.truncate(place),
        }
        prop_assert_eq!(View::read(&bytes).is_some(), decode(&bytes).is_ok());
    }

    #[test]
    fn a_renderer_remembers_nothing_wrong(millis in prop::collection::vec(0u64..253_402_300_799_999, 1..20)) {
        let mut renderer = Renderer::default();
        for millis in millis.iter().flat_map(|millis| [*millis, (millis + 1).min(253_402_300_799_999)]) {
            let bytes = finish(&[], Timestamp::from_millis(millis));
            let mut line = Vec::new();
            renderer.event(&View::read(&bytes).unwrap(), "l", 0, &mut line);
            prop_assert_eq!(String::from_utf8(line).unwrap(), serialized(&bytes, "l", 0));
        }
    }
}
