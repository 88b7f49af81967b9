//! Events against frozen vectors, and the canonical form against everything that is not it.

use super::*;
use crate::merkle::leaf_hash;
use proptest::prelude::*;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/vectors/event_v1.json")).unwrap()
}

fn unhex(value: &Value) -> Bytes {
    hex::decode(value.as_str().unwrap_or_default()).unwrap().into()
}

/// An event from its description in the vectors, field by field: what is not there is left at its default.
fn described(fields: &Value) -> Event {
    let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
    let bytes = |name: &str| unhex(&fields[name]);
    let number = |name: &str| fields[name].as_u64().unwrap_or_default();
    let small = |name: &str| u32::try_from(number(name)).unwrap();
    let word = |name: &str| i32::try_from(number(name)).unwrap();
    let list = |name: &str| fields[name].as_array().cloned().unwrap_or_default();
    let access_token = fields.get("access_token").map(|token| AccessTokenInfo {
        issuer: token["issuer"].as_str().unwrap_or_default().to_owned(),
        subject: token["subject"].as_str().unwrap_or_default().to_owned(),
        token_hash: unhex(&token["token_hash"]),
        actor: token["actor"].as_str().unwrap_or_default().to_owned(),
    });
    Event {
        log_id: String::new(),
        sequence: 0,
        time: None,
        action: word("action"),
        outcome: word("outcome"),
        reason: text("reason"),
        caller: text("caller"),
        certificate_sha256: bytes("certificate_sha256"),
        access_token,
        scope: text("scope"),
        handles: list("handles").iter().map(unhex).collect(),
        requested: small("requested"),
        succeeded: small("succeeded"),
        purpose: text("purpose"),
        request_hash: bytes("request_hash"),
        trace_id: text("trace_id"),
        peer_address: text("peer_address"),
        policies: list("policies").iter().map(|id| id.as_str().unwrap().to_owned()).collect(),
        node: text("node"),
        reveal: word("reveal"),
        rulebook: bytes("rulebook"),
        item_outcomes: list("item_outcomes")
            .iter()
            .map(|outcome| i32::try_from(outcome.as_u64().unwrap()).unwrap())
            .collect(),
        count: number("count"),
        first_time: fields
            .get("first_time_millis")
            .map(|millis| Timestamp::from_millis(millis.as_u64().unwrap()).into()),
        detail: text("detail"),
        salt: bytes("salt"),
    }
}

#[test]
fn frozen_events_are_encoded_hashed_and_decoded() {
    for frozen in vectors()["events"].as_array().unwrap() {
        let name = frozen["name"].as_str().unwrap();
        let time = Timestamp::from_millis(frozen["time_millis"].as_u64().unwrap());
        let mut event = described(&frozen["event"]);
        let body = event.encode_body();
        assert_eq!(hex::encode(&body), frozen["body"].as_str().unwrap(), "{name}");
        let bytes = finish(&body, time);
        assert_eq!(hex::encode(&bytes), frozen["canonical"].as_str().unwrap(), "{name}");
        assert_eq!(leaf_hash(&bytes).to_string(), frozen["leaf_hash"].as_str().unwrap(), "{name}");
        event.time = Some(time.into());
        assert_eq!(decode(&bytes), Ok(event.clone()), "{name}");
        event.log_id = "log.example".into();
        event.sequence = 7;
        assert_eq!(event.encode_body(), body, "place and time are not part of the body: {name}");
    }
}

#[test]
fn what_is_not_canonical_is_refused() {
    for frozen in vectors()["refused"].as_array().unwrap() {
        let refusal = match decode(&unhex(&frozen["bytes"])) {
            Ok(_) => "decoded",
            Err(DecodeError::Empty) => "empty",
            Err(DecodeError::Version(_)) => "version",
            Err(DecodeError::Malformed(_)) => "malformed",
            Err(DecodeError::NotCanonical) => "not canonical",
            Err(DecodeError::Time) => "time",
        };
        assert_eq!(refusal, frozen["error"].as_str().unwrap(), "{}", frozen["why"]);
    }
}

#[test]
fn the_vocabulary_has_the_numbers_of_the_interface() {
    let words = |range: std::ops::RangeInclusive<i32>| -> Vec<&str> {
        range.filter_map(|number| Action::try_from(number).ok()).map(Action::word).collect()
    };
    assert_eq!(
        words(0..=15),
        ["unspecified", "tokenize", "detokenize", "inspect", "renew", "revoke", "query_audit", "connect"]
    );
    assert_eq!(words(16..=25)[..5], ["start", "stop", "reload", "clock", "purge"]);
    assert_eq!(words(21..=30).join(" "), "create_key rotate_keys rewrap seal unseal backup restore shred erase hold");
    assert_eq!(words(31..=99), ["export", "import", "verify", "approve", "honey", "unusual"]);
    assert_eq!(Action::Unusual as i32, 36);
    assert_eq!(Outcome::ALL.iter().map(|outcome| *outcome as i32).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(Reveal::ALL.iter().map(|reveal| *reveal as i32).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(ItemOutcome::ALL.iter().map(|item| *item as i32).collect::<Vec<_>>(), (1..=14).collect::<Vec<_>>());
    assert_eq!(ItemOutcome::Refused as i32, 14);
}

#[test]
fn words_go_there_and_back() {
    for action in Action::ALL {
        assert_eq!(Action::from_word(action.word()), Some(*action));
        assert!(action.word().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    }
    for outcome in ItemOutcome::ALL {
        assert_eq!(ItemOutcome::from_word(outcome.word()), Some(*outcome));
    }
    assert_eq!(Outcome::from_word("denied"), Some(Outcome::Denied));
    assert_eq!(Reveal::from_word("masked"), Some(Reveal::Masked));
    for word in ["", "unspecified", "Tokenize", "TOKENIZE", " tokenize"] {
        assert_eq!(Action::from_word(word), None);
    }
}

#[test]
fn handles_keep_their_order_and_their_gaps() {
    let (one, two) = ([1; HANDLE_BYTES], [2; HANDLE_BYTES]);
    let made = handles([Some(&one), None, Some(&two), None].into_iter());
    assert_eq!(made, [&one[..], &[], &two[..], &[]]);
    assert!(handles(std::iter::empty()).is_empty());
}

#[test]
fn times_are_whole_milliseconds_l_01() {
    for millis in [0, 1, 999, 1000, 1_790_000_000_123, 253_402_300_799_999] {
        let time = Time::from(Timestamp::from_millis(millis));
        assert_eq!(Timestamp::try_from(time), Ok(Timestamp::from_millis(millis)));
    }
    for (seconds, nanos) in [(-1, 0), (0, -1_000_000), (0, 1), (0, 999_999_999), (0, 1_000_000_000), (i64::MAX, 0)] {
        assert_eq!(Timestamp::try_from(Time { seconds, nanos }), Err(DecodeError::Time));
    }
}

pub(super) fn any_event() -> impl Strategy<Value = Event> {
    let bytes = |length: usize| prop::collection::vec(any::<u8>(), 0..=length).prop_map(Bytes::from);
    let handle = prop::option::of(any::<[u8; HANDLE_BYTES]>());
    let text = || "[ -~ä☂]{0,20}";
    let who = (any::<i32>(), any::<i32>(), text(), text(), bytes(32), text());
    let what = (prop::collection::vec(handle, 0..20), any::<u32>(), any::<u32>(), text(), bytes(32));
    let how = (prop::collection::vec("[a-z-]{0,9}", 0..4), any::<i32>(), prop::collection::vec(any::<i32>(), 0..20));
    let rest = (any::<u64>(), prop::option::of(0u64..253_402_300_799_999), text(), any::<[u8; SALT_BYTES]>());
    (who, what, how, rest).prop_map(|(who, what, how, rest)| Event {
        action: who.0,
        outcome: who.1,
        reason: who.2,
        caller: who.3,
        certificate_sha256: who.4,
        scope: who.5,
        handles: handles(what.0.iter().map(Option::as_ref)),
        requested: what.1,
        succeeded: what.2,
        purpose: what.3,
        request_hash: what.4,
        policies: how.0,
        reveal: how.1,
        item_outcomes: how.2,
        count: rest.0,
        first_time: rest.1.map(|millis| Timestamp::from_millis(millis).into()),
        detail: rest.2,
        salt: Bytes::copy_from_slice(&rest.3),
        ..Event::default()
    })
}

proptest! {
    #[test]
    fn events_come_back_as_they_went_in(event in any_event(), millis in 0u64..253_402_300_799_999) {
        let time = Timestamp::from_millis(millis);
        let bytes = finish(&event.encode_body(), time);
        let expected = Event { time: Some(time.into()), ..event };
        prop_assert_eq!(&bytes[1..], expected.encode_to_vec(), "the bytes are the event's own encoding");
        prop_assert_eq!(decode(&bytes), Ok(expected));
    }

    #[test]
    fn what_decodes_has_one_spelling(event in any_event(), place: prop::sample::Index, byte: u8) {
        let mut bytes = finish(&event.encode_body(), Timestamp::from_millis(1_790_000_000_000));
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if let Ok(event) = decode(&bytes) {
            let time = event.time.and_then(|time| Timestamp::try_from(time).ok()).unwrap();
            prop_assert_eq!(finish(&event.encode_body(), time), bytes);
        }
    }

    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&[&[VERSION], bytes.as_slice()].concat());
    }
}
