//! The ledger's rows, byte by byte: against frozen ones, and as keys that can't be mistaken for one another.

use super::*;
use crate::crypto::VaultId;
use crate::crypto::state::StateKey;
use crate::event::{self, Action};
use proptest::prelude::*;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/rows_v1.json")).unwrap()
}

/// What differs in storage format 3.
fn newer_vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/head_v2.json")).unwrap()
}

/// The rows of `meta` in the current format: those of format 2 but for the format's number, and without a time mark.
fn frozen_meta(frozen: &Value) -> fixture::Dump {
    let rows = frozen["meta"].as_array().unwrap().iter().filter(|row| row["name"] != "time");
    let rows = rows.map(|row| ((Table::Meta, unhex(&row["row_key"])), unhex(&row["row"])));
    let mut rows: fixture::Dump = rows.collect();
    let newer = newer_vectors();
    let before = rows.insert((Table::Meta, unhex(&newer["format_row_key"])), unhex(&newer["format_row"]));
    assert!(before.is_some());
    rows
}

fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// The vault of the vectors.
fn frozen_site(frozen: &Value) -> Site {
    let key = |name: &str| unhex(&frozen[name]).try_into().unwrap();
    let vault = VaultId(unhex(&frozen["vault_id"]).try_into().unwrap());
    let genesis = Genesis { vault, log_id: frozen["log_id"].as_str().unwrap().to_owned() };
    let created = Timestamp::from_millis(number(&frozen["created_millis"]));
    Site::named(&genesis, key("root_key"), key("log_seed"), created)
}

#[test]
fn the_rows_of_meta_are_the_frozen_ones() {
    let frozen = vectors();
    let site = frozen_site(&frozen);
    let expected = frozen_meta(&frozen);
    assert_eq!(expected.len(), 4);
    assert!(site.dump() == expected);
    let (genesis, _) = identify(&*site.store, &site.root()).unwrap();
    assert_eq!((genesis.vault.0.to_vec(), genesis.log_id.as_str()), (unhex(&frozen["vault_id"]), LOG));
}

#[test]
fn index_keys_are_the_frozen_ones() {
    for frozen in vectors()["event_index"].as_array().unwrap() {
        let subject = frozen["subject"].as_str().unwrap();
        let key = match frozen["kind"].as_str().unwrap() {
            "caller" => IndexKey::caller(subject),
            "scope" => IndexKey::scope(subject),
            "handle" => IndexKey::handle(&hex::decode(subject).unwrap()),
            "issue" => IndexKey::issues(&hex::decode(subject).unwrap()).unwrap(),
            other => panic!("{other}"),
        };
        let sequence = number(&frozen["sequence"]);
        assert_eq!(key.at(sequence), unhex(&frozen["row_key"]), "{subject}");
        assert_eq!(key.sequence(&unhex(&frozen["row_key"])), Some(sequence));
    }
}

#[test]
fn a_row_of_the_index_says_in_words_what_it_leads_by() {
    let handle = [&[0, 0, 0, 9][..], &[0xab; 16]].concat();
    let known = [
        (IndexKey::caller("spiffe://a/x"), "its caller".to_owned()),
        (IndexKey::scope("pan"), "its scope".to_owned()),
        (IndexKey::handle(&handle), format!("the handle 00000009{}", "ab".repeat(16))),
        (IndexKey::issues(&handle).unwrap(), "what was issued in its second".to_owned()),
    ];
    for (key, by) in known {
        let row_key = key.at(7);
        assert_eq!(IndexKey::read(&row_key), Some((by, 7)));
        // A subject of another length, or of a kind that there is not.
        assert_eq!(IndexKey::read(&row_key[1..]), None);
        assert_eq!(IndexKey::read(&[&row_key[..1], &[0], &row_key[1..]].concat()), None);
        assert_eq!(IndexKey::read(&[b"x", &row_key[1..]].concat()), None);
    }
    for short in [&b""[..], b"c", &[0; 8]] {
        assert_eq!(IndexKey::read(short), None);
    }
}

fn frozen_event(frozen: &Value) -> Event {
    let handles = frozen["handles"].as_array().unwrap();
    let outcomes = frozen["item_outcomes"].as_array().unwrap();
    let word = |frozen: &Value| i32::try_from(number(frozen)).unwrap();
    Event {
        action: word(&frozen["action"]),
        outcome: word(&frozen["outcome"]),
        caller: frozen["caller"].as_str().unwrap().to_owned(),
        scope: frozen["scope"].as_str().unwrap().to_owned(),
        handles: handles.iter().map(|handle| unhex(handle).into()).collect(),
        requested: u32::try_from(handles.len()).unwrap(),
        succeeded: u32::try_from(handles.iter().filter(|handle| !unhex(handle).is_empty()).count()).unwrap(),
        item_outcomes: outcomes.iter().map(word).collect(),
        detail: frozen["detail"].as_str().unwrap().to_owned(),
        salt: unhex(&frozen["salt"]).into(),
        ..Event::default()
    }
}

#[test]
fn a_log_of_two_events_is_the_frozen_one_in_every_row() {
    let frozen = vectors();
    let site = frozen_site(&frozen);
    let log = &frozen["log"];
    assert_eq!(unhex(&log["state_key"]), fixture::STATE_KEY, "the one that the checkpoints are made with");
    for (place, event) in log["events"].as_array().unwrap().iter().enumerate() {
        let time = Timestamp::from_millis(number(&event["time_millis"]));
        site.clock.advance(time.since(crate::clock::Clock::wall(&*site.clock)));
        let open = site.open().unwrap();
        if place == 1 {
            // As the one who signs leaves it for the next commit.
            let note = std::fs::read_to_string(site.checkpoints().file()).unwrap();
            assert_eq!(note, log["checkpoint_after_one"].as_str().unwrap());
            open.ledger.shared.queue.leave_checkpoint(note);
        }
        submit(&open.ledger, Submission::new(open.ledger.basis(), frozen_event(event))).unwrap().wait().unwrap();
        open.close();
    }
    let note = std::fs::read_to_string(site.checkpoints().file()).unwrap();
    assert_eq!(note, log["checkpoint_after_two"].as_str().unwrap());

    let mut expected = frozen_meta(&frozen);
    for (table, rows) in [(Table::Events, "rows"), (Table::Tree, "tree")] {
        for row in log[rows].as_array().unwrap() {
            expected.insert((table, unhex(&row["row_key"])), unhex(&row["row"]));
        }
    }
    for row in log["event_index"].as_array().unwrap() {
        expected.insert((Table::EventIndex, unhex(&row["row_key"])), unhex(&row["row"]));
    }
    let mut stored = site.dump();
    // It is another each time: its mask is random.
    let head = stored.remove(&(Table::Tree, b"head".to_vec())).unwrap();
    let (_, meta) = identify(&*site.store, &site.root()).unwrap();
    let head = StoredHead::open(&meta, &site.state_key(), &head).unwrap();
    assert!(head.size == 2 && head.total.is_empty());
    let last = log["events"].as_array().unwrap().last().unwrap();
    assert_eq!(head.mark, Some(Timestamp::from_millis(number(&last["time_millis"]))));
    for (place, row) in &expected {
        assert_eq!(
            stored.get(place).map(hex::encode),
            Some(hex::encode(row)),
            "{:?} {}",
            place.0,
            hex::encode(&place.1)
        );
    }
    assert_eq!(stored.len(), expected.len());
    site.check();
}

#[test]
fn a_head_is_the_frozen_one_c_10() {
    let (rows, frozen) = (vectors(), include_str!("../../../tests/vectors/state_v1.json"));
    let frozen: Value = serde_json::from_str(frozen).unwrap();
    let site = frozen_site(&rows);
    let (_, meta) = identify(&*site.store, &site.root()).unwrap();
    let key = StateKey::new(crate::secret::Secret::new(unhex(&frozen["state_key"]).try_into().unwrap()));
    let (case, newer) = (&frozen["head"], newer_vectors());
    let mark = Timestamp::from_millis(number(&newer["time_mark_millis"]));
    for (frozen, mark) in [(case, None), (&newer, Some(mark))] {
        let stored = unhex(&frozen["row"]);
        let head = StoredHead::open(&meta, &key, &stored).unwrap();
        assert_eq!((head.size, head.root.0.to_vec()), (number(&case["size"]), unhex(&case["root"])));
        assert_eq!(head.mark, mark);
        assert_eq!(key.digest(head.size, &head.total).to_string(), case["line"].as_str().unwrap());
        assert_eq!(head.seal(&meta, &key, unhex(&frozen["random"]).try_into().unwrap()), stored);
        for place in 0..stored.len() {
            let mut edited = stored.clone();
            edited[place] ^= 1;
            assert!(StoredHead::open(&meta, &key, &edited).is_err(), "byte {place}");
        }
        for length in 0..stored.len() {
            assert!(StoredHead::open(&meta, &key, &stored[..length]).is_err(), "{length} bytes");
        }
    }
}

/// What an index row stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Caller(String),
    Scope(String),
    Handle([u8; 20]),
    /// The second of a handle that has one.
    Issues([u8; 4]),
}

fn subject() -> impl Strategy<Value = Subject> {
    let text = || prop_oneof!["[a-b/.]{1,4}", "[ -~]{1,40}", Just("pan/../ssn\0".to_owned())];
    let handle = prop_oneof![any::<[u8; 20]>(), (0..4_u8).prop_map(|byte| [byte; 20])];
    prop_oneof![
        text().prop_map(Subject::Caller),
        text().prop_map(Subject::Scope),
        handle.prop_map(Subject::Handle),
        (1..u32::MAX).prop_map(|second| Subject::Issues(second.to_be_bytes())),
    ]
}

fn index_key(subject: &Subject) -> IndexKey {
    match subject {
        Subject::Caller(caller) => IndexKey::caller(caller),
        Subject::Scope(scope) => IndexKey::scope(scope),
        Subject::Handle(handle) => IndexKey::handle(handle),
        Subject::Issues(second) => IndexKey::issues(&[&second[..], &[7; 16]].concat()).unwrap(),
    }
}

proptest! {
    #[test]
    fn index_rows_are_injective_and_do_not_reach_into_one_another_i_07(
        one in subject(), other in subject(), first in 0..u64::MAX, second in 0..u64::MAX,
    ) {
        let (one_key, other_key) = (index_key(&one), index_key(&other));
        prop_assert_eq!(one_key.at(first) == other_key.at(second), (&one, first) == (&other, second));
        prop_assert_eq!(one_key.sequence(&one_key.at(first)), Some(first));
        prop_assert_eq!(one_key.sequence(&other_key.at(first)), (one == other).then_some(first));
        // A scan over all of one subject's rows meets no row of another.
        let range = one_key.at(0)..one_key.at(u64::MAX);
        prop_assert_eq!(range.contains(&other_key.at(second)), one == other);
        // In the log's order.
        prop_assert_eq!(one_key.at(first).cmp(&one_key.at(second)), first.cmp(&second));
    }
}

#[test]
fn a_batch_that_is_issued_has_one_row_for_each_second_and_all_else_one_for_each_handle() {
    let handle =
        |second: u8, tail: u8| -> [u8; 20] { [&[0, 0, 0, second][..], &[tail; 16]].concat().try_into().unwrap() };
    let handles = [handle(9, 3), handle(8, 1), handle(9, 2), handle(9, 3), handle(0, 5)];
    let named = || event::handles(handles.iter().map(Some));
    let event = |action: Action| Event { action: action.into(), handles: named(), ..Event::default() };
    let row = |key: IndexKey, content: &[u8]| IndexRow { key, content: content.to_vec() };
    let bare = |handle: &[u8; 20]| row(IndexKey::handle(handle), &[]);

    let issues = |handle: &[u8; 20], content: &[u8]| row(IndexKey::issues(handle).unwrap(), content);
    let of_tokenize = [bare(&handles[4]), issues(&handles[1], &[1, 1]), issues(&handles[0], &[2, 2, 3, 3])];
    assert_eq!(IndexRow::of(&event(Action::Tokenize)), of_tokenize);
    let of_detokenize = [4, 1, 2, 0].map(|place| bare(&handles[place]));
    assert_eq!(IndexRow::of(&event(Action::Detokenize)), of_detokenize);

    assert!(
        IndexKey::may_have_issued(&[2, 2, 3, 3], &handles[0]) && IndexKey::may_have_issued(&[2, 2, 3, 3], &handles[2])
    );
    // Not across two marks, and not where there is none.
    assert!(!IndexKey::may_have_issued(&[1, 3, 3, 1], &handles[0]) && !IndexKey::may_have_issued(&[], &handles[0]));
    assert_eq!((IndexKey::issues(&handles[4]), IndexKey::issues(&[1; 19]), IndexKey::issues(&[])), (None, None, None));
}
