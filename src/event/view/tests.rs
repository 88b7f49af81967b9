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
