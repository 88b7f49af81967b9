//! The sums against their frozen vectors (C-10), and their algebra against schoolbook arithmetic.

use super::*;
use crate::crypto::record::Record;
use crate::secret::Secret;
use proptest::prelude::*;
use serde_json::Value;

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn vectors() -> (Value, StateKey) {
    let vectors: Value = serde_json::from_str(include_str!("../../../tests/vectors/state_v1.json")).unwrap();
    let key = StateKey::new(Secret::new(array(&vectors["state_key"])));
    (vectors, key)
}

fn group_of(case: &Value) -> Group {
    let part = |name: &str| u32::try_from(number(&case[name])).unwrap();
    Group { scope: ScopeId(part("scope")), day: part("day") }
}

#[test]
fn elements_and_sums_are_the_frozen_ones_c_10() {
    let (vectors, key) = vectors();
    let stored: Value = serde_json::from_str(include_str!("../../../tests/vectors/record_v1.json")).unwrap();
    let mut sums: Vec<(Group, Tally)> = Vec::new();
    let mut total = Tally::default();
    for case in vectors["records"].as_array().unwrap() {
        let row = bytes(&stored["records"][usize::try_from(number(&case["record"])).unwrap()]["row"]);
        let imprint = Record::parse(&row).unwrap().imprint();
        assert_eq!((imprint.outer_salt, imprint.outer_tag), (array(&case["outer_salt"]), array(&case["outer_tag"])));
        assert_eq!(Group::of(&imprint), group_of(case));
        let record = key.record(&Handle::from_bytes(array(&case["handle"])), &imprint);
        assert_eq!((record.records, record.sum.to_bytes()), (1, array(&case["element"])));
        total = total.plus(&record);
        match sums.iter_mut().find(|(group, _)| *group == Group::of(&imprint)) {
            Some((_, sum)) => *sum = sum.plus(&record),
            None => sums.push((Group::of(&imprint), record)),
        }
    }
    let frozen = vectors["sums"].as_array().unwrap();
    assert_eq!(frozen.len(), sums.len());
    for case in frozen {
        let group = group_of(case);
        let (_, sum) = sums.iter().find(|(of, _)| *of == group).unwrap();
        assert_eq!((sum.records, sum.sum.to_bytes()), (number(&case["records"]), array(&case["sum"])));
        assert_eq!(group.to_bytes(), array(&case["row_key"]));
        assert_eq!(Group::from_bytes(&group.to_bytes()), Some(group));
        let masked = key.mask(Some(group), array(&case["random"]), sum);
        assert_eq!([&[1][..], &masked].concat(), bytes(&case["row"]));
        assert!(key.unmask(Some(group), &masked) == *sum);
    }
    let head = &vectors["head"];
    assert_eq!((total.records, total.sum.to_bytes()), (number(&head["records"]), array(&head["sum"])));
    let digest = key.digest(number(&head["size"]), &total);
    assert_eq!(digest.digest, array(&head["digest"]));
    assert_eq!(digest.to_string(), head["line"].as_str().unwrap());
    assert_eq!(head["line"].as_str().unwrap().parse(), Ok(digest));
}

#[test]
fn the_documentation_shows_a_sum_c_10() {
    let (vectors, _) = vectors();
    let written: String = include_str!("../../../docs/formats.md").chars().filter(|c| !c.is_whitespace()).collect();
    let records = vectors["records"].as_array().unwrap();
    let sum = vectors["sums"].as_array().unwrap().iter().find(|sum| number(&sum["records"]) == 2).unwrap();
    for case in [&records[0], &records[1], sum, &vectors["head"]] {
        for (name, value) in case.as_object().unwrap() {
            let shown = value.as_str().filter(|_| name != "note").map(|text| text.replace(' ', ""));
            assert!(shown.is_none_or(|text| written.contains(&text)), "docs/formats.md does not show {name} = {value}");
        }
    }
    assert!(written.contains(vectors["state_key"].as_str().unwrap()));
}

#[test]
fn a_line_has_one_spelling() {
    let (vectors, _) = vectors();
    let good = vectors["head"]["line"].as_str().unwrap();
    let digits = good.rsplit(' ').next().unwrap();
    for bad in [
        format!("{good} "),
        format!(" {good}"),
        good.to_uppercase(),
        good.replace("state 5", "state 05"),
        good.replace("state 5", "state +5"),
        good.replace("state 5", "state"),
        good.replace("state", "stat"),
        good.replace(' ', "  "),
        good[..good.len() - 2].to_owned(),
        format!("state 5 {}", digits.to_uppercase()),
        format!("state 18446744073709551616 {digits}"),
        String::new(),
    ] {
        assert_eq!(bad.parse::<StateDigest>(), Err(BadStateLine), "{bad}");
    }
}

#[test]
fn a_key_that_is_no_group_is_refused() {
    for length in (0..20).filter(|length| *length != Group::LENGTH) {
        assert_eq!(Group::from_bytes(&vec![1; length]), None);
    }
}

#[test]
fn a_group_begins_where_its_first_record_can_be() {
    let time = Timestamp::from_millis(1_794_528_000_123);
    let group = Group { scope: ScopeId(3), day: day(time) };
    let begins = group.begins();
    assert!(begins <= time && time.since(begins).as_secs() < 24 * 60 * 60);
    assert_eq!((day(begins), day(Timestamp::from_millis(begins.millis() - 1))), (group.day, group.day - 1));
}

#[test]
fn a_tally_counts_its_records_and_is_empty_without_any() {
    let (_, key) = vectors();
    let imprint = |salt| Imprint {
        scope: ScopeId(1),
        created: Timestamp::from_millis(1_794_528_000_123),
        outer_salt: [salt; 16],
        outer_tag: [salt; 16],
    };
    let record = |salt| key.record(&Handle::from_bytes([salt; 20]), &imprint(salt));
    let both = record(1).plus(&record(2));
    assert_eq!((record(1).records(), both.records()), (1, 2));
    assert!(Tally::default().is_empty() && both.minus(&record(2)).minus(&record(1)).is_empty());
    // Neither a number of records alone nor a sum alone is nothing.
    let instead = record(1).minus(&record(2));
    assert!(instead.records() == 0 && !instead.is_empty() && !record(1).is_empty());
}

// === algebra ===

/// Schoolbook arithmetic, byte by byte, from the right.
fn naive(a: [u8; 32], b: [u8; 32], subtract: bool) -> [u8; 32] {
    let (mut result, mut carry) = ([0; 32], 0);
    for place in (0..32).rev() {
        let digit = if subtract {
            i16::from(a[place]) - i16::from(b[place]) - carry
        } else {
            i16::from(a[place]) + i16::from(b[place]) + carry
        };
        result[place] = u8::try_from(digit.rem_euclid(256)).unwrap();
        carry = i16::from(if subtract { digit < 0 } else { digit > 255 });
    }
    result
}

/// Often with long runs of zeros and ones, over which carries run.
fn any_number() -> impl Strategy<Value = [u8; 32]> {
    let byte = prop_oneof![Just(0), Just(0xff), any::<u8>()];
    prop_oneof![
        any::<[u8; 32]>(),
        prop::collection::vec(byte, 32).prop_map(|bytes| bytes.try_into().unwrap()),
        prop_oneof![Just([0; 32]), Just([0xff; 32])],
    ]
}

/// In numbers, since a tally does not print.
fn any_tally() -> impl Strategy<Value = ([u8; 32], u64)> {
    (any_number(), any::<u64>())
}

fn tally((sum, records): ([u8; 32], u64)) -> Tally {
    Tally { records, sum: Number::from_bytes(sum) }
}

proptest! {
    #[test]
    fn sums_are_those_of_the_schoolbook_c_04(a in any_number(), b in any_number()) {
        let (x, y) = (Number::from_bytes(a), Number::from_bytes(b));
        prop_assert_eq!(x.to_bytes(), a);
        prop_assert_eq!(x.plus(y).to_bytes(), naive(a, b, false));
        prop_assert_eq!(x.minus(y).to_bytes(), naive(a, b, true));
    }

    #[test]
    fn what_is_added_and_taken_away_leaves_nothing_c_05(start in any_tally(), tallies in prop::collection::vec(any_tally(), 0..20)) {
        let (start, tallies) = (tally(start), tallies.into_iter().map(tally).collect::<Vec<_>>());
        let added = tallies.iter().fold(start, |sum, tally| sum.plus(tally));
        let left = tallies.iter().rev().fold(added, |sum, tally| sum.minus(tally));
        prop_assert!(left == start);
    }

    #[test]
    fn their_order_does_not_matter_c_05(tallies in prop::collection::vec(any_tally(), 0..20), seed: u64) {
        let tallies: Vec<Tally> = tallies.into_iter().map(tally).collect();
        let sum = |tallies: &[Tally]| tallies.iter().fold(Tally::default(), |sum, tally| sum.plus(tally));
        let mut shuffled = tallies.clone();
        shuffled.sort_by_key(|tally| tally.sum.0[0].wrapping_mul(seed | 1));
        let (left, right) = shuffled.split_at(shuffled.len() / 2);
        prop_assert!(sum(&tallies) == sum(&shuffled));
        prop_assert!(sum(&tallies) == sum(right).plus(&sum(left)));
    }

    #[test]
    fn a_mask_comes_off_only_in_its_place_c_04(key: [u8; 32], random: [u8; 16], sum in any_tally(), scope: u32, day: u32) {
        let (key, tally) = (StateKey::new(Secret::new(key)), tally(sum));
        let group = Some(Group { scope: ScopeId(scope), day });
        let other = Some(Group { scope: ScopeId(scope), day: day.wrapping_add(1) });
        let masked = key.mask(group, random, &tally);
        prop_assert!(key.unmask(group, &masked) == tally);
        prop_assert!(key.unmask(other, &masked) != tally && key.unmask(None, &masked) != tally);
        // Two masks of one sum have nothing in common but the count.
        let again = key.mask(group, random.map(|byte| byte ^ 1), &tally);
        prop_assert!(masked[16..24] == again[16..24] && masked[24..] != again[24..]);
    }

    #[test]
    fn each_bit_of_a_record_makes_another_element_c_04(handle: [u8; 20], salt: [u8; 16], tag: [u8; 16], bit in 0..(52 * 8_usize)) {
        let key = StateKey::new(Secret::new([7; 32]));
        let record = |bytes: &[u8; 52]| {
            let (handle, rest) = bytes.split_first_chunk::<20>().unwrap();
            let (outer_salt, outer_tag) = rest.split_first_chunk::<16>().unwrap();
            let (scope, created) = (ScopeId(1), Timestamp::from_millis(0));
            let outer_tag = outer_tag.try_into().unwrap();
            key.record(&Handle::from_bytes(*handle), &Imprint { scope, created, outer_salt: *outer_salt, outer_tag })
        };
        let bytes: [u8; 52] = [&handle[..], &salt, &tag].concat().try_into().unwrap();
        let mut other = bytes;
        other[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(record(&bytes) == record(&bytes));
        prop_assert!(record(&bytes) != record(&other));
    }
}
