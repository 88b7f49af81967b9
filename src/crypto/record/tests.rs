//! Records against their frozen vectors (C-10), and against everyone who edits the store (C-02, C-03, C-06).

use std::ops::Range;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::crypto::IndexKey;

const VECTORS: &str = include_str!("../../../tests/vectors/record_v1.json");

/// Everything that opens one row.
#[derive(Clone)]
struct Place {
    vault: VaultId,
    handle: Handle,
    canonical: Vec<u8>,
    data_key: [u8; 32],
}

impl Place {
    fn new(scope: ScopeId, number: u8) -> Self {
        let canonical = [b"pan".as_slice(), &[number; 16]].concat();
        let located = IndexKey::new(Secret::new([3; 32])).locate(scope, &canonical);
        let handle = Handle::new(1000 + u32::from(number), located.tail);
        Self { vault: VaultId([5; 16]), handle, canonical, data_key: [9; 32] }
    }

    fn key(&self) -> DataKey {
        DataKey::new(Secret::new(self.data_key))
    }

    fn seal(&self, header: &Header, value: &[u8], salts: &Salts) -> Vec<u8> {
        seal(&self.vault, &self.handle, &self.canonical, &self.key(), header, value, salts)
    }

    fn unlock(&self, row: &[u8]) -> Option<Unlocked> {
        Record::parse(row).ok()?.unlock_outer(&self.vault, &self.handle, &self.key()).ok()
    }

    fn open(&self, row: &[u8]) -> Option<Vec<u8>> {
        let opened = self.unlock(row)?.open(&self.vault, &self.handle, &self.canonical).ok()?;
        Some(opened.into_exposed())
    }
}

fn header(scope: u32) -> Header {
    Header {
        state: State::Active,
        scope: ScopeId(scope),
        index_key: KeyVersion(1),
        data_key: KeyVersion(1),
        record_version: 1,
        created: Timestamp::from_millis(1_794_528_000_123),
        changed: Timestamp::from_millis(1_794_528_000_123),
        expires: Timestamp::from_millis(1_797_120_000_123),
        uses_left: None,
        subject: None,
        fingerprint: None,
    }
}

/// Salts as fresh as a test needs them.
fn salts(number: u8) -> Salts {
    Salts { inner: [number; 16], outer: [number ^ 0x80; 16] }
}

fn any_header() -> impl Strategy<Value = Header> {
    let numbers = any::<[u32; 4]>();
    let times = prop::array::uniform3(any::<u64>().prop_map(Timestamp::from_millis));
    let state = prop_oneof![Just(State::Active), Just(State::Revoked), Just(State::Suspended)];
    let optional = any::<(Option<u32>, Option<[u8; 32]>, Option<[u8; 32]>)>();
    (state, numbers, times, optional).prop_map(|(state, numbers, times, (uses_left, subject, fingerprint))| Header {
        state,
        scope: ScopeId(numbers[0]),
        index_key: KeyVersion(numbers[1]),
        data_key: KeyVersion(numbers[2]),
        record_version: numbers[3],
        created: times[0],
        changed: times[1],
        expires: times[2],
        uses_left,
        subject,
        fingerprint,
    })
}

proptest! {
    #[test]
    fn what_was_sealed_opens(header in any_header(), value in prop::collection::vec(any::<u8>(), 0..700), number: u8) {
        let place = Place::new(header.scope, number);
        let row = place.seal(&header, &value, &salts(number));
        prop_assert_eq!(Record::parse(&row).unwrap().header, header);
        let unlocked = place.unlock(&row).expect("opens");
        prop_assert_eq!(unlocked.header(), &header);
        prop_assert!(unlocked.open(&place.vault, &place.handle, &place.canonical).unwrap().matches(&value));
    }

    #[test]
    fn a_changed_record_opens(
        [before, after] in [any_header(), any_header()],
        value in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let place = Place::new(before.scope, 1);
        let after = Header { scope: before.scope, index_key: before.index_key, created: before.created, ..after };
        let unlocked = place.unlock(&place.seal(&before, &value, &salts(1))).unwrap();
        let rotated = Place { data_key: [10; 32], ..place.clone() };
        let row = unlocked.relock(&place.vault, &place.handle, &rotated.key(), &after, [77; 16]);
        prop_assert!(place.unlock(&row).is_none());
        prop_assert_eq!(rotated.unlock(&row).unwrap().header, after);
        prop_assert_eq!(rotated.open(&row), Some(value));
    }

    #[test]
    fn arbitrary_bytes_never_open_c_03(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Place::new(ScopeId(1), 1).unlock(&bytes).is_none());
        let row = [&[FORMAT, 0, 1][..], &bytes].concat();
        prop_assert!(Place::new(ScopeId(1), 1).unlock(&row).is_none());
    }
}

/// A row with every optional field, and one of the same shape that differs from it in every field.
fn two_full_rows() -> [(Place, Header, Vec<u8>); 2] {
    let a = Header { uses_left: Some(5), subject: Some([1; 32]), fingerprint: Some([2; 32]), ..header(7) };
    let later = |time: Timestamp| Timestamp::from_millis(time.millis() + 1);
    let b = Header {
        state: State::Revoked,
        scope: ScopeId(8),
        index_key: KeyVersion(2),
        data_key: KeyVersion(2),
        record_version: 2,
        created: later(a.created),
        changed: later(a.changed),
        expires: later(a.expires),
        uses_left: Some(6),
        subject: Some([3; 32]),
        fingerprint: Some([4; 32]),
    };
    [(1, a, b"4111111111111111"), (2, b, b"5500005555555559")].map(|(number, header, value)| {
        let place = Place::new(header.scope, number);
        let row = place.seal(&header, value, &salts(number));
        (place, header, row)
    })
}

/// Every field of a full row, as the module's documentation lists them.
const FIELDS: [(&str, Range<usize>); 16] = [
    ("state", 2..3),
    ("scope", 3..7),
    ("index key version", 7..11),
    ("data key version", 11..15),
    ("record version", 15..19),
    ("created", 19..27),
    ("changed", 27..35),
    ("expires", 35..43),
    ("uses left", 43..47),
    ("subject", 47..79),
    ("fingerprint", 79..111),
    ("inner salt", 111..127),
    ("outer salt", 127..143),
    ("padded value", 143..175),
    ("inner tag", 175..191),
    ("outer tag", 191..207),
];

#[test]
fn no_field_can_come_from_another_row_c_02() {
    let [(place, _, row), (_, _, other)] = two_full_rows();
    assert!(place.open(&row).is_some());
    assert_eq!(FIELDS.last().unwrap().1.end, row.len());
    // Every run of neighbouring fields, so also both salts, the whole header, everything but the format.
    for (first, (from, start)) in FIELDS.iter().enumerate() {
        for (to, end) in &FIELDS[first..] {
            let mut mixed = row.clone();
            let range = start.start..end.end;
            assert_ne!(mixed[range.clone()], other[range.clone()], "{from} to {to}: the rows must differ");
            mixed[range.clone()].copy_from_slice(&other[range]);
            assert!(place.unlock(&mixed).is_none(), "{from} to {to}");
        }
    }
}

#[test]
fn a_row_opens_only_in_its_place_c_02() {
    let [(place, _, row), (other, ..)] = two_full_rows();
    let moved = [
        ("handle", Place { handle: other.handle, ..place.clone() }),
        ("second", Place { handle: Handle::new(1, place.handle.as_bytes()[4..].try_into().unwrap()), ..place.clone() }),
        ("vault", Place { vault: VaultId([6; 16]), ..place.clone() }),
        ("data key", Place { data_key: [8; 32], ..place.clone() }),
    ];
    for (what, moved) in moved {
        assert!(moved.unlock(&row).is_none(), "{what}");
    }
    // Whoever holds all of the vault's keys gets so far, and no further without the token.
    let unlocked = place.unlock(&row).unwrap();
    let inner = [
        ("token", &place.vault, &place.handle, &other.canonical),
        ("handle", &place.vault, &other.handle, &place.canonical),
        ("vault", &VaultId([6; 16]), &place.handle, &place.canonical),
    ];
    for (what, vault, handle, canonical) in inner {
        assert!(unlocked.open(vault, handle, canonical).is_err(), "{what}");
    }
    assert!(unlocked.open(&place.vault, &place.handle, &place.canonical).is_ok());
}

/// Whoever holds the data key can make any outer lock; the inner one still holds what never changes.
#[test]
fn the_inner_lock_alone_binds_scope_created_and_salt_c_02() {
    let [(place, header, row), (other, other_header, other_row)] = two_full_rows();
    let unlocked = place.unlock(&row).unwrap();
    let opens = |unlocked: Unlocked| unlocked.open(&place.vault, &place.handle, &place.canonical).is_ok();
    let Imprint { outer_salt, outer_tag, .. } = unlocked.imprint();
    let copy = |header: Header, inner_salt, inner: &[u8]| {
        let inner = inner.to_vec();
        Unlocked { header, inner_salt, outer_salt, outer_tag, inner }
    };
    assert!(opens(copy(header, unlocked.inner_salt, &unlocked.inner)));
    assert!(opens(copy(
        Header { created: header.created, scope: header.scope, ..other_header },
        unlocked.inner_salt,
        &unlocked.inner
    )));
    assert!(!opens(copy(Header { scope: other_header.scope, ..header }, unlocked.inner_salt, &unlocked.inner)));
    assert!(!opens(copy(Header { created: other_header.created, ..header }, unlocked.inner_salt, &unlocked.inner)));
    assert!(!opens(copy(header, salts(2).inner, &unlocked.inner)));
    assert!(!opens(copy(header, unlocked.inner_salt, &other.unlock(&other_row).unwrap().inner)));
}

#[test]
fn a_flipped_bit_a_cut_or_a_tail_never_opens_c_03() {
    for (place, _, row) in two_full_rows() {
        assert!(place.open(&row).is_some());
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(place.unlock(&flipped).is_none(), "bit {bit}");
        }
        for length in 0..row.len() {
            assert!(place.unlock(&row[..length]).is_none(), "cut to {length}");
        }
        for tail in [1, 15, 16, 32, 100] {
            assert!(place.unlock(&[&row[..], &vec![0; tail]].concat()).is_none(), "{tail} more");
            assert!(place.unlock(&[&vec![0; tail], &row[..]].concat()).is_none(), "{tail} in front");
        }
        assert!(place.unlock(&vec![0; row.len()]).is_none());
    }
}

#[test]
fn the_inner_lock_does_not_open_when_damaged_c_03() {
    let [(place, _, row), _] = two_full_rows();
    let mut unlocked = place.unlock(&row).unwrap();
    let mut refused = |inner: Vec<u8>| {
        let whole = std::mem::replace(&mut unlocked.inner, inner);
        assert!(unlocked.open(&place.vault, &place.handle, &place.canonical).is_err());
        unlocked.inner = whole.clone();
        whole
    };
    let whole = refused(vec![]);
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        refused(flipped);
    }
    for length in 0..whole.len() {
        refused(whole[..length].to_vec());
    }
}

#[test]
fn what_format_1_does_not_have_is_refused_c_06() {
    let place = Place::new(ScopeId(1), 1);
    let row = place.seal(&header(1), b"value", &salts(1));
    let error_with = |at: usize, byte: u8| {
        let mut other = row.clone();
        other[at] = byte;
        Record::parse(&other).err()
    };
    for byte in 0..=255 {
        if byte != FORMAT {
            assert_eq!(error_with(0, byte), Some(RecordError::UnknownFormat(byte)));
        }
        if byte > KNOWN_FLAGS {
            assert_eq!(error_with(1, byte), Some(RecordError::UnknownFlags(byte)));
        }
        if !(1..=3).contains(&byte) {
            assert_eq!(error_with(2, byte), Some(RecordError::UnknownState(byte)));
        }
    }
    assert_eq!(Record::parse(&[]).err(), Some(RecordError::Length(0)));
    assert_eq!(Record::parse(&row[..row.len() - 1]).err(), Some(RecordError::Length(row.len() - 1)));
}

#[test]
fn another_version_of_the_data_key_does_not_open_c_06() {
    let place = Place::new(ScopeId(1), 1);
    let row = place.seal(&header(1), b"value", &salts(1));
    let mut newer = row.clone();
    newer[11..15].copy_from_slice(&2_u32.to_be_bytes());
    assert_eq!(Record::parse(&newer).unwrap().claimed_header().data_key, KeyVersion(2));
    assert!(place.unlock(&newer).is_none(), "not under the right key");
    assert!(Place { data_key: [10; 32], ..place.clone() }.unlock(&newer).is_none(), "not under version 2");
    assert!(place.open(&row).is_some());
}

#[test]
fn equal_values_do_not_look_equal() {
    let place = Place::new(ScopeId(1), 1);
    let rows = [1, 2].map(|number| place.seal(&header(1), b"4111111111111111", &salts(number)));
    let sealed = |row: &[u8]| row[75..].to_vec();
    assert!(sealed(&rows[0]).chunks(16).zip(sealed(&rows[1]).chunks(16)).all(|(a, b)| a != b));
}

#[test]
fn a_row_tells_within_what_its_value_s_length_lies() {
    let place = Place::new(ScopeId(1), 1);
    for length in [0, 1, 11, 12, 13, 100, 252, 253, 1000, 70_000] {
        let row = place.seal(&header(1), &vec![7; length], &salts(1));
        let record = Record::parse(&row).unwrap();
        let shortest = record.shortest_value();
        assert!(shortest <= length && length < record.padded_bytes(), "{length}: {shortest}");
        // What is counted by it counts at least half of what leaves.
        assert!(length < 64 || 2 * shortest > length, "{length}: {shortest}");
    }
}

#[test]
#[should_panic(expected = "scope, index key and created never change")]
fn a_row_that_could_never_open_is_not_written() {
    let place = Place::new(ScopeId(1), 1);
    let unlocked = place.unlock(&place.seal(&header(1), b"value", &salts(1))).unwrap();
    unlocked.relock(&place.vault, &place.handle, &place.key(), &header(2), [77; 16]);
}

#[test]
fn a_miss_can_be_worked_on_like_a_hit() {
    let place = Place::new(ScopeId(1), 1);
    for padded in [CARD_PADDED_BYTES, padded_bytes(1), padded_bytes(65_536)] {
        let worked_on = dummy_open(&place.vault, &place.handle, &place.canonical, &place.key(), padded);
        assert_eq!(worked_on.len(), padded);
        // Both locks went over all of it: whole blocks of zeros are left nowhere.
        assert!(worked_on.expose().chunks_exact(16).all(|block| block != [0; 16]));
    }
    let row = place.seal(&header(1), &[7; 1000], &salts(1));
    assert_eq!(Record::parse(&row).unwrap().padded_bytes(), padded_bytes(1000));
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a string")).expect("hexadecimal")
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().expect("the right length")
}

fn frozen_header(case: &Value) -> Header {
    let number = |name: &str| u32::try_from(case[name].as_u64().unwrap()).unwrap();
    let time = |name: &str| Timestamp::from_millis(case[name].as_u64().unwrap());
    let optional = |name: &str| (!case[name].is_null()).then(|| array(&case[name]));
    Header {
        state: State::try_from(u8::try_from(number("state")).unwrap()).unwrap(),
        scope: ScopeId(number("scope")),
        index_key: KeyVersion(number("index_key_version")),
        data_key: KeyVersion(number("data_key_version")),
        record_version: number("record_version"),
        created: time("created_ms"),
        changed: time("changed_ms"),
        expires: time("expires_ms"),
        uses_left: (!case["uses_left"].is_null()).then(|| number("uses_left")),
        subject: optional("subject"),
        fingerprint: optional("fingerprint"),
    }
}

#[test]
fn records_are_frozen_c_10() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = vectors["records"].as_array().unwrap();
    assert!(cases.len() >= 5);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let (header, value, row) = (frozen_header(case), bytes(&case["value"]), bytes(&case["row"]));
        let place = Place {
            vault: VaultId(array(&vectors["vault"])),
            handle: case["handle"].as_str().unwrap().parse().unwrap(),
            canonical: bytes(&case["canonical"]),
            data_key: array(&case["data_key"]),
        };
        let salts = Salts { inner: array(&case["inner_salt"]), outer: array(&case["outer_salt"]) };

        let inner_key = inner_lock(&place.vault, &place.handle, &place.canonical, &header, &salts.inner);
        assert!(inner_key.matches(&bytes(&case["inner_key"])), "{name}");
        let outer_key = place.key().outer_key(&place.vault, header.scope, &place.handle, &salts.outer);
        assert!(outer_key.matches(&bytes(&case["outer_key"])), "{name}");
        let mut padded = Vec::new();
        padding::write(&mut padded, &value);
        assert_eq!(padded, bytes(&case["padded"]), "{name}");

        assert_eq!(place.seal(&header, &value, &salts), row, "{name}");
        let record = Record::parse(&row).unwrap();
        assert_eq!((record.claimed_header(), record.front), (&header, &bytes(&case["associated"])[..]), "{name}");
        let unlocked = place.unlock(&row).unwrap();
        assert_eq!(unlocked.inner, bytes(&case["inner_sealed"]), "{name}");
        assert_eq!(place.open(&row), Some(value), "{name}");
    }
}

#[test]
fn a_frozen_record_is_relocked_to_the_next_c_10() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let [before, after] = [0, 1].map(|i| &vectors["records"][i]);
    let (vault, handle) = (VaultId(array(&vectors["vault"])), before["handle"].as_str().unwrap().parse().unwrap());
    let [old_key, new_key] = [before, after].map(|case| DataKey::new(Secret::new(array(&case["data_key"]))));
    let row = bytes(&before["row"]);
    let unlocked = Record::parse(&row).unwrap().unlock_outer(&vault, &handle, &old_key).unwrap();
    let changed = unlocked.relock(&vault, &handle, &new_key, &frozen_header(after), array(&after["outer_salt"]));
    assert_eq!(changed, bytes(&after["row"]));
}
