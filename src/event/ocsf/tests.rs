//! The mapping against a schema of the class, against the table in docs/siem.md, and against the event that it came from.

use super::*;
use crate::event::json::Json;
use crate::event::tests::any_event;
use crate::event::{AccessTokenInfo, HANDLE_BYTES, handles};
use proptest::prelude::*;
use prost::bytes::Bytes;

const TABLE: &str = include_str!("../../../docs/siem.md");

/// An event in which every field says something of its own.
pub(crate) fn whole() -> Event {
    let bytes = |seed: u8, length: usize| -> Bytes { vec![seed; length].into() };
    let (first, third) = ([0x11; HANDLE_BYTES], [0x13; HANDLE_BYTES]);
    Event {
        log_id: "dev.cloakroom.internal/1a2b".to_owned(),
        sequence: 4711,
        time: Some(Timestamp::from_millis(1_790_000_000_123).into()),
        action: Action::Detokenize.into(),
        outcome: Outcome::Allowed.into(),
        reason: "POLICY_DENIED".to_owned(),
        caller: "spiffe://dev.cloakroom.internal/payments".to_owned(),
        certificate_sha256: bytes(0xce, 32),
        access_token: Some(AccessTokenInfo {
            issuer: "https://issuer.example".to_owned(),
            subject: "a subject".to_owned(),
            token_hash: bytes(0x70, 32),
            actor: "an actor".to_owned(),
        }),
        scope: "acme/ssn".to_owned(),
        handles: handles([Some(&first), None, Some(&third)].into_iter()),
        requested: 3,
        succeeded: 2,
        purpose: "refund".to_owned(),
        request_hash: bytes(0x4e, 32),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
        peer_address: "192.0.2.7:41234".to_owned(),
        policies: vec!["payments-reads".to_owned(), "support".to_owned()],
        node: "vault-eu-1".to_owned(),
        reveal: Reveal::Masked.into(),
        rulebook: bytes(0x2b, 32),
        item_outcomes: vec![ItemOutcome::Masked.into(), ItemOutcome::Malformed.into(), ItemOutcome::Released.into()],
        count: 12,
        first_time: Some(Timestamp::from_millis(1_790_000_000_001).into()),
        detail: "a detail".to_owned(),
        salt: bytes(0x5a, 16),
    }
}

fn canonical(event: &Event) -> Value {
    serde_json::to_value(Json(event)).unwrap()
}

// === the schema ===

/// What is wrong with `value` by `schema`: of JSON Schema, the words that the schema uses.
fn violations(schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    const KNOWN: [&str; 8] =
        ["$comment", "$schema", "type", "enum", "required", "properties", "additionalProperties", "items"];
    for word in schema.as_object().unwrap().keys() {
        assert!(KNOWN.contains(&word.as_str()) || word == "anyOf", "{place}: the test does not know `{word}`");
    }
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("{place}: the test does not know the type {other}"),
    };
    if !schema["type"].as_str().is_none_or(is) {
        found.push(format!("{place} is not of type {}", schema["type"]));
    }
    if !schema["enum"].as_array().is_none_or(|allowed| allowed.contains(value)) {
        found.push(format!("{place} is {value}"));
    }
    let lacks = |schema: &Value| -> Vec<String> {
        let names = schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
        names.filter(|name| value.get(name).is_none()).map(str::to_owned).collect()
    };
    found.extend(lacks(schema).into_iter().map(|name| format!("{place} lacks {name}")));
    if !schema["anyOf"].as_array().is_none_or(|choices| choices.iter().any(|choice| lacks(choice).is_empty())) {
        found.push(format!("{place} has none of {}", schema["anyOf"]));
    }
    if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, inner) in object {
            match properties.get(name) {
                Some(schema) => violations(schema, inner, &format!("{place}.{name}"), found),
                None => found.push(format!("{place}.{name} is not in the schema")),
            }
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().enumerate().for_each(|(at, inner)| violations(items, inner, &format!("{place}[{at}]"), found));
    }
}

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/ocsf_api_activity_v1_3_0.json")).unwrap()
}

fn checked(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    violations(&schema(), object, "event", &mut found);
    found
}

#[test]
fn the_schema_finds_what_is_wrong() {
    let good = api_activity(&whole(), "1.2.3");
    assert_eq!(checked(&good), [""; 0]);
    let spoiled = |change: &dyn Fn(&mut Value)| {
        let mut object = good.clone();
        change(&mut object);
        checked(&object)
    };
    assert_eq!(spoiled(&|event| event["time"] = json!("now")), ["event.time is not of type \"integer\""]);
    assert_eq!(spoiled(&|event| event["class_uid"] = json!(6002)), ["event.class_uid is 6002"]);
    assert_eq!(spoiled(&|event| drop(event.as_object_mut().unwrap().remove("api"))), ["event lacks api"]);
    assert_eq!(spoiled(&|event| event["surprise"] = json!(1)), ["event.surprise is not in the schema"]);
    assert_eq!(spoiled(&|event| event["resources"][0] = json!({})).len(), 1);
}

#[test]
fn every_action_and_outcome_is_an_event_of_the_class() {
    for action in Action::ALL {
        for outcome in Outcome::ALL {
            let event = Event { action: (*action).into(), outcome: (*outcome).into(), ..whole() };
            let object = api_activity(&event, "1.2.3");
            assert_eq!(checked(&object), [""; 0], "{action:?} {outcome:?}");
            assert_eq!(object["type_uid"], json!(600_300 + object["activity_id"].as_u64().unwrap()));
            assert_eq!(object["status"] == "Success", *outcome == Outcome::Allowed);
        }
    }
    assert_eq!(checked(&api_activity(&Event::default(), "")), [""; 0], "an event that says nothing");
}

// === nothing is lost ===

/// The event again, from its OCSF form alone.
fn again(object: &Value) -> Event {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bytes = |value: &Value| Bytes::from(hex::decode(value.as_str().unwrap_or_default()).unwrap());
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let time = |value: &Value| value.as_u64().map(|millis| Timestamp::from_millis(millis).into());
    let (metadata, actor, rest) = (&object["metadata"], &object["actor"], &object["unmapped"]);
    let word = |value: &Value| text(value).to_lowercase();
    let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let tokens: Vec<Value> = all(&object["resources"]).into_iter().filter(|one| one["type"] == "token").collect();
    let place = |value: &Value| value.as_u64().map(|place| usize::try_from(place).unwrap());
    let mut handles = vec![Bytes::new(); place(&rest["handles"]).unwrap_or(tokens.len())];
    for token in &tokens {
        handles[place(&token["data"]["item"]).unwrap()] = bytes(&token["uid"]);
    }
    let source = &object["src_endpoint"];
    let peer_address = match (source["ip"].as_str(), source["port"].as_u64()) {
        (Some(ip), Some(port)) => SocketAddr::new(ip.parse().unwrap(), u16::try_from(port).unwrap()).to_string(),
        (Some(ip), None) => ip.to_owned(),
        (None, _) => text(&source["name"]),
    };
    let scope = all(&object["resources"]).into_iter().find(|one| one["type"] == "scope");
    Event {
        log_id: text(&metadata["log_name"]),
        sequence: metadata["sequence"].as_u64().unwrap(),
        time: metadata.get("original_time").and_then(|_| time(&object["time"])),
        action: Action::from_word(&word(&metadata["event_code"])).map_or(0, Into::into),
        outcome: Outcome::from_word(&word(&object["status_code"])).map_or(0, Into::into),
        reason: text(&object["status_detail"]),
        caller: text(&actor["user"]["uid"]),
        certificate_sha256: bytes(&actor["user"]["credential_uid"]),
        access_token: actor.get("session").map(|session| AccessTokenInfo {
            issuer: text(&session["issuer"]),
            subject: text(&actor["user"]["uid_alt"]),
            token_hash: bytes(&session["credential_uid"]),
            actor: text(&rest["access_token_actor"]),
        }),
        scope: scope.map(|scope| text(&scope["name"])).unwrap_or_default(),
        handles,
        requested: number(&rest["requested"]),
        succeeded: number(&rest["succeeded"]),
        purpose: text(&rest["purpose"]),
        request_hash: bytes(&object["api"]["request"]["uid"]),
        trace_id: text(&metadata["correlation_uid"]),
        peer_address,
        policies: all(&actor["authorizations"]).iter().map(|one| text(&one["policy"]["uid"])).collect(),
        node: text(&object["dst_endpoint"]["name"]),
        reveal: Reveal::from_word(&word(&rest["reveal"])).map_or(0, Into::into),
        rulebook: bytes(&rest["rulebook"]),
        item_outcomes: all(&rest["item_outcomes"])
            .iter()
            .map(|outcome| ItemOutcome::from_word(&word(outcome)).map_or(0, Into::into))
            .collect(),
        count: object["count"].as_u64().unwrap_or_default(),
        first_time: time(&object["start_time"]),
        detail: text(&rest["detail"]),
        salt: bytes(&rest["salt"]),
    }
}

#[test]
fn nothing_of_a_whole_event_is_lost() {
    assert_eq!(again(&api_activity(&whole(), "1.2.3")), whole());
}

#[test]
fn an_address_that_would_be_spelled_in_another_way_stays_as_it_is() {
    let source = |peer: &str| {
        let event = Event { peer_address: peer.to_owned(), ..whole() };
        api_activity(&event, "1.2.3")["src_endpoint"].clone()
    };
    assert_eq!(source("[2001:db8::1]:443"), json!({ "ip": "2001:db8::1", "port": 443 }));
    assert_eq!(source("2001:db8::1"), json!({ "ip": "2001:db8::1" }));
    assert_eq!(source("[fe80::1%2]:443"), json!({ "name": "[fe80::1%2]:443" }));
    assert_eq!(source("2001:DB8::1"), json!({ "name": "2001:DB8::1" }));
    assert_eq!(source(""), json!({ "svc_name": "cloakroom" }));
}

fn one_of<T: Copy>(all: &[T], number: i32) -> T {
    all[number.unsigned_abs() as usize % all.len()]
}

proptest! {
    #[test]
    fn nothing_of_any_event_is_lost_and_each_is_of_the_class(
        event in any_event(),
        log_id in ".{0,20}",
        sequence: u64,
        more in (".{0,20}", ".{0,20}", ".{0,9}", any::<bool>()),
        peer in prop_oneof![
            any::<std::net::SocketAddr>().prop_map(|peer| peer.to_string()),
            any::<std::net::IpAddr>().prop_map(|peer| peer.to_string()),
            ".{0,20}",
        ],
    ) {
        let (trace_id, node, subject, present) = more;
        let token = AccessTokenInfo { subject, ..AccessTokenInfo::default() };
        let event = Event {
            log_id,
            sequence,
            trace_id,
            node,
            peer_address: peer,
            time: present.then(|| Timestamp::from_millis(sequence % 253_402_300_800_000).into()),
            access_token: present.then_some(token),
            // There are no others in a log, and numbers without a word have none here either.
            action: one_of(Action::ALL, event.action).into(),
            outcome: one_of(Outcome::ALL, event.outcome).into(),
            reveal: one_of(Reveal::ALL, event.reveal).into(),
            item_outcomes: event.item_outcomes.iter().map(|item| one_of(ItemOutcome::ALL, *item).into()).collect(),
            ..event
        };
        let object = api_activity(&event, "1.2.3");
        prop_assert_eq!(checked(&object), Vec::<String>::new());
        let text = serde_json::to_string(&object).unwrap();
        prop_assert_eq!(again(&serde_json::from_str(&text).unwrap()), event);
    }
}

// === the table in docs ===

/// The rows of the table: field, attributes, how its value stands there.
fn rows() -> Vec<(String, Vec<String>, String)> {
    let start = "| event field | OCSF attribute | value there |";
    let table = TABLE.split_once(start).expect("docs/siem.md has the table").1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let [field, attributes, value] = cells[..] else { panic!("not three cells: {line}") };
        (cell(field), attributes.split(", ").map(cell).collect(), value.trim().to_owned())
    })
    .collect()
}

/// The value or values at a path such as `actor.authorizations[].policy.uid`.
fn at<'v>(value: &'v Value, path: &str) -> Vec<&'v Value> {
    path.split('.').fold(vec![value], |found, step| match step.strip_suffix("[]") {
        Some(name) => found.iter().filter_map(|value| value.get(name)?.as_array()).flatten().collect(),
        None => found.iter().filter_map(|value| value.get(step)).collect(),
    })
}

#[test]
fn the_table_in_docs_says_where_everything_is() {
    let event = whole();
    let (object, plain) = (api_activity(&event, "1.2.3"), canonical(&event));
    let mut named = Vec::new();
    for (field, attributes, how) in rows() {
        let given = at(&plain, &field);
        assert!(!given.is_empty(), "the table has the field {field}, which events have not");
        named.push(field.split(['.', '[']).next().unwrap().to_owned());
        for attribute in &attributes {
            let found = at(&object, attribute);
            assert!(!found.is_empty(), "the table has {attribute} for {field}, which is not there");
            let found: Vec<String> = found.iter().map(|value| in_words(value)).collect();
            let expected = expected(&given, &how, &event, &field);
            assert_eq!(found, expected, "{field} → {attribute} ({how})");
        }
    }
    for field in plain.as_object().unwrap().keys() {
        assert!(named.contains(field), "docs/siem.md does not say where {field} is");
    }
}

fn in_words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn expected(given: &[&Value], how: &str, event: &Event, field: &str) -> Vec<String> {
    let words: Vec<String> = given.iter().map(|value| in_words(value)).collect();
    match how {
        "as it is" => words,
        "in lower case" => words.iter().map(|word| word.to_lowercase()).collect(),
        "milliseconds since 1970" => {
            vec![millis(if field == "time" { event.time } else { event.first_time }).to_string()]
        }
        "each that is not empty" => words
            .iter()
            .flat_map(|list| serde_json::from_str::<Vec<String>>(list).unwrap())
            .filter(|word| !word.is_empty())
            .collect(),
        "each" => words.iter().flat_map(|list| serde_json::from_str::<Vec<String>>(list).unwrap()).collect(),
        "the address" => words.iter().map(|peer| peer.rsplit_once(':').unwrap().0.to_owned()).collect(),
        "the port" => words.iter().map(|peer| peer.rsplit_once(':').unwrap().1.to_owned()).collect(),
        other => panic!("the test does not know `{other}`"),
    }
}

#[test]
fn an_event_reads_as_a_sentence_and_says_who_and_from_where() {
    let activity = api_activity(&whole(), "1.0.0");
    assert_eq!(
        activity["message"],
        "DETOKENIZE ALLOWED in acme/ssn by spiffe://dev.cloakroom.internal/payments for refund: POLICY_DENIED"
    );
    let observables = activity["observables"].as_array().unwrap();
    let seen: Vec<_> = observables.iter().map(|it| (it["name"].as_str(), it["value"].as_str())).collect();
    assert_eq!(
        seen,
        [
            (Some("actor.user.uid"), Some("spiffe://dev.cloakroom.internal/payments")),
            (Some("src_endpoint.ip"), Some("192.0.2.7"))
        ]
    );
    let nobody = Event { caller: String::new(), ..whole() };
    assert_eq!(api_activity(&nobody, "1.0.0")["observables"].as_array().unwrap().len(), 1);
}

#[test]
fn policies_that_refuse_are_shown_as_refusing() {
    for (outcome, decision) in
        [(Outcome::Allowed, "allowed"), (Outcome::Denied, "denied"), (Outcome::Failed, "allowed")]
    {
        let activity = api_activity(&Event { outcome: outcome.into(), ..whole() }, "1.0.0");
        let decisions = activity["actor"]["authorizations"].as_array().unwrap();
        assert!(decisions.iter().all(|it| it["decision"] == decision), "{outcome:?}");
        assert_eq!(decisions.len(), 2);
    }
}

#[test]
fn only_a_summary_has_a_count() {
    let count = |count| api_activity(&Event { count, ..whole() }, "1.0.0").get("count").cloned();
    assert_eq!((count(0), count(1)), (None, Some(json!(1))));
}
