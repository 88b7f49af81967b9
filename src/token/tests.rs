//! Tokens against their frozen vectors (C-10), and the grammar's edges.

use proptest::prelude::*;
use serde_json::Value;

use super::opaque::{BadPrefix, Prefix};
use super::*;

const VECTORS: &str = include_str!("../../tests/vectors/token_opaque_v1.json");
const UUID_VECTORS: &str = include_str!("../../tests/vectors/token_uuid_v1.json");

fn index_key(byte: u8) -> IndexKey {
    IndexKey::new(Secret::new([byte; 32]))
}

fn format(prefix: &str) -> Format {
    Format::Opaque { prefix: Prefix::parse(prefix).unwrap() }
}

fn malformed(text: &str) -> Option<Malformed> {
    parse(&format("pan"), text).err()
}

proptest! {
    #[test]
    fn what_was_issued_is_read_back(prefix in "[a-z][a-z0-9]{0,15}", scope: u32, second: u32, random: [u8; 16], key: u8) {
        let (format, key, scope) = (format(&prefix), index_key(key), ScopeId(scope));
        let issued = issue(&format, &key, scope, second, random);
        prop_assert_eq!(issued.handle.second(), second);
        let parsed = parse(&format, issued.text.expose()).expect("well formed");
        prop_assert!(parsed.canonical.expose() == issued.canonical.expose());
        prop_assert_eq!(parsed.canonical.expose(), [prefix.as_bytes(), &random].concat());
        prop_assert_eq!(locate(&parsed, &key, scope), issued.handle);
        let length = prefix.len() + 34;
        prop_assert_eq!(issued.text.into_exposed().len(), length);
    }

    #[test]
    fn a_prefix_that_changed_leaves_old_tokens_good(random: [u8; 16], second: u32) {
        let (key, scope) = (index_key(1), ScopeId(1));
        let issued = issue(&format("old"), &key, scope, second, random);
        let parsed = parse(&format("new"), issued.text.expose()).expect("well formed");
        prop_assert_eq!(locate(&parsed, &key, scope), issued.handle);
    }

    #[test]
    fn another_scope_or_key_knows_another_handle_z_04(random: [u8; 16], second: u32) {
        let issued = issue(&format("pan"), &index_key(1), ScopeId(1), second, random);
        let parsed = parse(&format("pan"), issued.text.expose()).expect("well formed");
        prop_assert_ne!(locate(&parsed, &index_key(1), ScopeId(2)), issued.handle);
        prop_assert_ne!(locate(&parsed, &index_key(2), ScopeId(1)), issued.handle);
    }

    /// CRC-32 finds each burst of up to 32 bits, so each wrong character and each two that changed places.
    #[test]
    fn a_typing_error_is_found(random: [u8; 16], at in 4..37_usize, to in "[0-9A-Za-z]") {
        let text = issue(&format("pan"), &index_key(1), ScopeId(1), 7, random).text.into_exposed();
        let mut wrong = text.clone();
        wrong.replace_range(at..=at, &to);
        prop_assert_eq!(malformed(&wrong), (wrong != text).then_some(Malformed::Checksum));
        let mut swapped = text.clone().into_bytes();
        swapped.swap(at, at - usize::from(at > 4));
        let swapped = String::from_utf8(swapped).unwrap();
        prop_assert_eq!(malformed(&swapped), (swapped != text).then_some(Malformed::Checksum));
    }

    #[test]
    fn an_issued_uuid_is_read_back_in_either_case(scope: u32, second: u32, random: [u8; 16], key: u8) {
        let (key, scope) = (index_key(key), ScopeId(scope));
        let issued = issue(&Format::Uuid, &key, scope, second, random);
        prop_assert_eq!(issued.handle.second(), 0);
        let text = issued.text.into_exposed();
        for text in [&text, &text.to_uppercase()] {
            let parsed = parse(&Format::Uuid, text).expect("well formed");
            prop_assert!(parsed.canonical.expose() == issued.canonical.expose());
            prop_assert_eq!(locate(&parsed, &key, scope), issued.handle);
        }
        // 122 of the 128 bits are the random ones, in their places.
        let bytes = hex::decode(text.replace('-', "")).unwrap();
        let fixed = |place: usize| match place { 6 => 0xf0, 8 => 0xc0, _ => 0 };
        prop_assert!((0..16).all(|place| (bytes[place] ^ random[place]) & !fixed(place) == 0));
        prop_assert_eq!((bytes[6] >> 4, bytes[8] >> 6), (4, 2));
    }

    /// There is no checksum: another digit is another token, and anything else is none.
    #[test]
    fn another_character_is_another_uuid_or_none(random: [u8; 16], at in 0..36_usize, to in "\\PC") {
        let key = index_key(1);
        let issued = issue(&Format::Uuid, &key, ScopeId(1), 7, random);
        let mut wrong = issued.text.into_exposed();
        let was = wrong[at..=at].to_owned();
        wrong.replace_range(at..=at, &to);
        match parse(&Format::Uuid, &wrong) {
            Ok(parsed) => {
                prop_assert!(at != 8 || to == "-", "a hyphen can't be replaced");
                let same = was.eq_ignore_ascii_case(&to);
                prop_assert_eq!(locate(&parsed, &key, ScopeId(1)) == issued.handle, same);
            }
            Err(_) => prop_assert!(!was.eq_ignore_ascii_case(&to)),
        }
    }

    #[test]
    fn uuids_have_one_grammar_i_07(text in prop_oneof![
        "[0-9a-fA-F]{7,9}-[0-9a-f]{4}-[3-5][0-9A-F]{3}-[7-9a-dA-D][0-9a-f]{3}-[0-9a-f]{11,13}",
        "\\PC{0,60}",
    ]) {
        let groups: Vec<&str> = text.split('-').collect();
        let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
        let right = lengths == [8, 4, 4, 4, 12]
            && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
            && groups[2].starts_with('4')
            && groups[3].starts_with(['8', '9', 'a', 'b', 'A', 'B']);
        prop_assert_eq!(parse(&Format::Uuid, &text).is_ok(), right);
    }

    #[test]
    fn no_text_makes_parsing_fail_otherwise_i_07(text in "\\PC{0,60}") {
        prop_assert!(malformed(&text).is_some());
        let prefixed = ["pan_", &text].concat();
        prop_assert!(malformed(&prefixed).is_some());
    }

    #[test]
    fn there_is_one_grammar_of_prefixes_i_07(text in prop_oneof!["[a-z0-9_A-Z]{0,18}", "\\PC{0,18}"]) {
        let bytes = text.as_bytes();
        let right = (1..=16).contains(&bytes.len())
            && bytes[0].is_ascii_lowercase()
            && bytes.iter().all(|byte| b"abcdefghijklmnopqrstuvwxyz0123456789".contains(byte));
        match Prefix::parse(&text) {
            Ok(prefix) => prop_assert!(right && prefix.as_str() == text && prefix.to_string() == text),
            Err(BadPrefix) => prop_assert!(!right),
        }
    }
}

#[test]
fn tokens_are_frozen_c_10() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let key = IndexKey::new(Secret::new(bytes(&vectors["index_key"]).try_into().unwrap()));
    let cases = vectors["tokens"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let number = |name: &str| u32::try_from(case[name].as_u64().unwrap()).unwrap();
        let (format, scope) = (format(case["prefix"].as_str().unwrap()), ScopeId(number("scope")));
        let (text, handle) = (case["token"].as_str().unwrap(), case["handle"].as_str().unwrap().parse().unwrap());
        let issued = issue(&format, &key, scope, number("second"), bytes(&case["random"]).try_into().unwrap());
        assert_eq!((issued.text.expose(), issued.handle), (text, handle));
        assert_eq!(issued.canonical.expose(), bytes(&case["canonical"]));
        let located = key.locate(scope, issued.canonical.expose());
        assert_eq!([&located.tail[..], &located.mask].concat(), bytes(&case["hmac"])[..20]);
        let parsed = parse(&format, text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(parsed.masked.unwrap()[..], bytes(&case["masked"]));
        assert_eq!(locate(&parsed, &key, scope), handle);
    }
}

#[test]
fn malformed_tokens_are_frozen_c_10() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = vectors["malformed"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["token"].as_str().unwrap();
        assert_eq!(malformed(text).map(Malformed::reason), case["reason"].as_str(), "{text:?}");
    }
}

#[test]
fn uuids_are_frozen_c_10() {
    let vectors: Value = serde_json::from_str(UUID_VECTORS).unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let key = IndexKey::new(Secret::new(bytes(&vectors["index_key"]).try_into().unwrap()));
    let cases = vectors["tokens"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let scope = ScopeId(u32::try_from(case["scope"].as_u64().unwrap()).unwrap());
        let (text, handle) = (case["token"].as_str().unwrap(), case["handle"].as_str().unwrap().parse().unwrap());
        // Whatever the second, the handle says 0.
        let issued = issue(&Format::Uuid, &key, scope, 216_691_200, bytes(&case["random"]).try_into().unwrap());
        assert_eq!((issued.text.expose(), issued.handle), (text, handle));
        assert_eq!(issued.canonical.expose(), bytes(&case["canonical"]));
        let located = key.locate(scope, issued.canonical.expose());
        assert_eq!([&located.tail[..], &located.mask].concat(), bytes(&case["hmac"])[..20]);
        for read in case["read"].as_array().unwrap() {
            let parsed = parse(&Format::Uuid, read.as_str().unwrap()).unwrap_or_else(|error| panic!("{read}: {error}"));
            assert_eq!(locate(&parsed, &key, scope), handle);
        }
    }
    let cases = vectors["malformed"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["token"].as_str().unwrap();
        let found = parse(&Format::Uuid, text).err().map(Malformed::reason);
        assert_eq!(found, case["reason"].as_str(), "{text:?}");
    }
}

#[test]
fn no_message_repeats_the_token() {
    let wrong = "secret_0000000000000000000000000000000000000000";
    let message = malformed(wrong).unwrap().to_string();
    assert!(!message.contains("secret") && !message.contains("000"));
}

#[test]
fn the_second_counts_from_2020_and_stops_at_its_ends() {
    let at = |millis| second(Timestamp::from_millis(millis));
    assert_eq!(at(0), 0);
    assert_eq!(at(1_577_836_799_999), 0);
    assert_eq!(at(1_577_836_801_999), 1);
    assert_eq!(at(1_794_528_000_123), 216_691_200);
    assert_eq!(at((1_577_836_800 + u64::from(u32::MAX)) * 1000), u32::MAX);
    assert_eq!(at(u64::MAX), u32::MAX);
}

/// A sample of L-07: equal steps of time leave no pattern in the text, and no two tokens are the same.
#[test]
fn tokens_do_not_show_their_time_l_07() {
    let key = index_key(1);
    let mut seen = std::collections::HashSet::new();
    let mut ones = [0_u32; 160];
    let count = 20_000_u32;
    for number in 0..count {
        // Stands in for random bytes; what is looked at is what the mask makes of a clock that hardly moves.
        let random = *key.locate(ScopeId(9), &number.to_be_bytes()).tail.first_chunk().unwrap();
        let text = issue(&format("pan"), &key, ScopeId(1), 216_691_200 + number / 1000, random).text;
        let parsed = opaque::parse(text.expose()).unwrap_or_else(|error| panic!("{error}"));
        let body = [&parsed.masked.unwrap()[..], &parsed.canonical.expose()[3..]].concat();
        for (bit, ones) in ones.iter_mut().enumerate() {
            *ones += u32::from(body[bit / 8] >> (bit % 8) & 1);
        }
        assert!(seen.insert(text.into_exposed()));
    }
    // Six standard deviations of a fair coin (5 * sqrt(20000) / 2 is 353).
    assert!(ones.iter().all(|ones| ones.abs_diff(count / 2) < 425), "{ones:?}");
}

/// Fails to compile if one of the types can be printed, copied or compared with `==` (C-11, A-11).
#[test]
fn tokens_offer_nothing_c_11() {
    trait Unless<Condition> {
        fn holds() {}
    }
    struct Printed;
    struct Copied;
    struct Compared;
    impl<T> Unless<()> for T {}
    impl<T: std::fmt::Debug> Unless<Printed> for T {}
    impl<T: Clone> Unless<Copied> for T {}
    impl<T: PartialEq> Unless<Compared> for T {}
    <Text as Unless<_>>::holds();
    <Canonical as Unless<_>>::holds();
    <Parsed as Unless<_>>::holds();
    <Issued as Unless<_>>::holds();
}

#[test]
fn a_second_of_issue_is_counted_from_2020() {
    // 2020-01-01T00:00:00Z.
    let begin = 1_577_836_800_000;
    let at = |millis| second(Timestamp::from_millis(millis));
    assert_eq!((at(0), at(begin - 1), at(begin), at(begin + 1_999)), (0, 0, 0, 1));
    assert_eq!(at((1 << 41) * 1000), u32::MAX);
    assert_eq!((time_of(0).millis(), time_of(90).millis()), (begin, begin + 90_000));
    assert!([0, 1, 216_691_200, u32::MAX].into_iter().all(|seconds| second(time_of(seconds)) == seconds));
}

#[test]
fn a_token_is_of_the_format_that_it_was_read_in() {
    for (format, other) in [(format("pan"), Format::Uuid), (Format::Uuid, format("pan"))] {
        let issued = issue(&format, &index_key(1), ScopeId(1), 7, [9; 16]);
        let parsed = parse_any(issued.text.expose()).expect("well formed");
        assert!(parsed.is_of(&format) && !parsed.is_of(&other));
    }
    // Another prefix is no other format.
    let issued = issue(&format("pan"), &index_key(1), ScopeId(1), 7, [9; 16]);
    assert!(parse_any(issued.text.expose()).expect("well formed").is_of(&format("ssn")));
}

#[test]
fn a_uuid_has_its_length_and_its_hyphens() {
    let text = issue(&Format::Uuid, &index_key(1), ScopeId(1), 7, [9; 16]).text.into_exposed();
    for wrong in [
        format!("{text}0"),
        text[..35].to_owned(),
        text.replace('-', "0"),
        text.replacen('-', "_", 1),
        text.replace('-', ""),
        String::new(),
    ] {
        assert_eq!(parse(&Format::Uuid, &wrong).err(), Some(Malformed::Shape), "{wrong}");
    }
    assert!(parse(&Format::Uuid, &text).is_ok());
}

#[test]
fn reasons_are_fixed_words() {
    let all = [Malformed::Shape, Malformed::Alphabet, Malformed::Checksum, Malformed::OutOfRange, Malformed::Version];
    assert_eq!(
        all.map(Malformed::reason),
        ["token_shape", "token_alphabet", "token_checksum", "token_out_of_range", "token_version"]
    );
}

#[test]
fn a_prefix_is_shown_as_it_is_written() {
    let longest = "a".repeat(16);
    let prefix = Prefix::parse(&longest).unwrap();
    assert_eq!((prefix.to_string(), format!("{prefix:?}")), (longest.clone(), format!("\"{longest}\"")));
    for wrong in ["", "Pan", "1pan", "p-n", "p n", &"a".repeat(17)] {
        assert!(Prefix::parse(wrong).is_err(), "{wrong}");
    }
}
