//! Messages and frames, against a parser that was written from RFC 5424 and RFC 5425 and shares nothing with what it reads.

use super::*;
use crate::clock::Timestamp;
use crate::event::ocsf::tests::whole;
use crate::event::{Action, HANDLE_BYTES, ItemOutcome, Outcome, handles};
use crate::export::source::body;
use crate::export::{Format, tests::parser};
use proptest::prelude::*;

/// What somebody would write who wants to break a log.
const HOSTILE: [&str; 9] = [
    "two\nlines\r\nof it",
    "nul \0, bell \u{7}, delete \u{7f}",
    "\u{1b}[31mred\u{1b}[0m",
    "\u{202e}desrever\u{202c}",
    "\"quotes\", 'single', \\ and ]",
    "<0>1 - - - - - - forged",
    "] [forged x=\"1\"]",
    "\u{feff}a mark, \u{2028} a line, ü, 漢, 😀",
    "1234 5678",
];

fn event_with(text: &str) -> Event {
    let text = text.to_owned();
    Event {
        log_id: text.clone(),
        reason: text.clone(),
        caller: text.clone(),
        scope: text.clone(),
        purpose: text.clone(),
        trace_id: text.clone(),
        peer_address: text.clone(),
        policies: vec![text.clone()],
        node: text.clone(),
        detail: text,
        ..whole()
    }
}

#[test]
fn a_message_has_what_the_rfc_wants() {
    let event = whole();
    let text = message(&event, &body(&event, Format::Json).unwrap());
    let parsed = parser::message(text.as_bytes()).unwrap();
    assert_eq!((parsed.facility, parsed.severity), (13, 6));
    assert_eq!(parsed.timestamp, "2026-09-21T14:13:20.123Z");
    assert_eq!((parsed.hostname.as_str(), parsed.app_name.as_str()), ("vault-eu-1", "cloakroom"));
    assert_eq!((parsed.procid.as_str(), parsed.msgid.as_str()), ("-", "DETOKENIZE"));
    assert_eq!(parsed.parameter("origin", "software"), Some("cloakroom"));
    assert_eq!(parsed.parameter("origin", "swVersion"), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(parsed.parameter("meta", "sequenceId"), Some("4712"));
    assert_eq!(parsed.json()["sequence"], 4711);
}

#[test]
fn what_a_caller_chooses_is_one_well_formed_message_a_13() {
    for text in HOSTILE.iter().map(|text| (*text).to_owned()).chain([HOSTILE.concat().repeat(500)]) {
        for format in [Format::Json, Format::Ocsf] {
            let event = event_with(&text);
            let sent = message(&event, &body(&event, format).unwrap());
            assert!(sent.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "printable ASCII alone: {sent:?}");
            let parsed = parser::message(sent.as_bytes()).unwrap_or_else(|why| panic!("{why}: {sent}"));
            let json = parsed.json();
            let (caller, detail) = match format {
                Format::Json => (&json["caller"], &json["detail"]),
                Format::Ocsf => (&json["actor"]["user"]["uid"], &json["unmapped"]["detail"]),
            };
            assert_eq!((caller.as_str(), detail.as_str()), (Some(text.as_str()), Some(text.as_str())));
            assert!(parsed.hostname.len() <= 255, "{}", parsed.hostname);
            assert_eq!(parser::frames(&frame(&sent)).unwrap(), [sent.as_bytes()]);
        }
    }
}

#[test]
fn structured_data_is_escaped() {
    assert_eq!(parameter("0.1.0"), "0.1.0");
    assert_eq!(parameter("a\"b\\c]d\ne"), "a\\\"b\\\\c\\]de");
    let text = format!("<110>1 - - - - - [x y=\"{}\"] m", parameter("a\"b\\c]d"));
    assert_eq!(parser::message(text.as_bytes()).unwrap().parameter("x", "y"), Some("a\"b\\c]d"));
}

#[test]
fn the_sequence_id_counts_from_one_and_begins_anew() {
    let of = |sequence| {
        let text = message(&Event { sequence, ..whole() }, "{}");
        parser::message(text.as_bytes()).unwrap().parameter("meta", "sequenceId").unwrap().to_owned()
    };
    assert_eq!([of(0), of(2_147_483_646), of(2_147_483_647)], ["1", "2147483647", "1"]);
}

#[test]
fn an_event_without_time_or_node_has_dashes() {
    let text = message(&Event::default(), "{}");
    let parsed = parser::message(text.as_bytes()).unwrap();
    assert_eq!((parsed.timestamp.as_str(), parsed.hostname.as_str()), ("-", "-"));
}

/// docs/siem.md names sizes that receivers have to allow.
#[test]
fn the_longest_events_are_as_long_as_the_docs_say() {
    let handle = [0xff; HANDLE_BYTES];
    let event = Event {
        action: Action::Detokenize.into(),
        outcome: Outcome::Allowed.into(),
        handles: handles((0..1000).map(|_| Some(&handle))),
        item_outcomes: vec![ItemOutcome::Suspended.into(); 1000],
        time: Some(Timestamp::from_millis(1_790_000_000_000).into()),
        caller: format!("spiffe://{}", "x".repeat(2000)),
        policies: vec!["p".repeat(64); 8],
        ..whole()
    };
    let length = |format| message(&event, &body(&event, format).unwrap()).len();
    assert!((50_000..70_000).contains(&length(Format::Json)), "{}", length(Format::Json));
    assert!((120_000..200_000).contains(&length(Format::Ocsf)), "{}", length(Format::Ocsf));
}

proptest! {
    #[test]
    fn frames_come_apart_as_they_were_put_together(messages in prop::collection::vec("\\PC{1,200}", 0..8)) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
        let sent: Vec<&[u8]> = messages.iter().map(String::as_bytes).collect();
        prop_assert_eq!(parser::frames(&stream).unwrap(), sent);
    }

    #[test]
    fn any_text_in_any_field_is_one_message_a_13(text: String) {
        let event = event_with(&text);
        let sent = message(&event, &body(&event, Format::Json).unwrap());
        let parsed = parser::message(sent.as_bytes()).map_err(TestCaseError::fail)?;
        let json = parsed.json();
        prop_assert_eq!(json["purpose"].as_str().unwrap_or_default(), text);
    }
}
