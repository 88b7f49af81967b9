//! The key tree against its frozen vectors (C-10), and what its types must not offer.

mod salamander;

use serde_json::Value;

use super::*;
use crate::secret::Secret;

const VECTORS: &str = include_str!("../../tests/vectors/wrap_v1.json");
const FORMATS: &str = include_str!("../../docs/formats.md");

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a string")).expect("hexadecimal")
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().expect("the right length")
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().expect("a number")).expect("32 bits")
}

fn vectors() -> (Value, VaultId, RootKey) {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let vault = VaultId(array(&vectors["vault"]));
    let root = RootKey::new(Secret::new(array(&vectors["root_key"])));
    (vectors, vault, root)
}

#[test]
fn wrapped_keys_are_frozen_c_10() {
    let (vectors, vault, root) = vectors();
    let cases = vectors["wrapped_keys"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let (key_id, version) = (case["key_id"].as_str().unwrap(), KeyVersion(number(&case["version"])));
        let (key, wrapped, salt) = (array::<32>(&case["key"]), bytes(&case["wrapped"]), array(&case["salt"]));
        assert!(root.wrapping_key(&vault, key_id, version, &salt).matches(&bytes(&case["wrapping_key"])), "{key_id}");
        assert_eq!(root.wrap(&vault, key_id, version, &Secret::new(key), salt), wrapped, "{key_id}");
        let unwrapped =
            root.unwrap(&vault, key_id, version, &wrapped).unwrap_or_else(|error| panic!("{key_id}: {error}"));
        assert!(unwrapped.matches(&key), "{key_id}");
    }
}

#[test]
fn macs_of_rows_are_frozen_c_10() {
    let (vectors, vault, root) = vectors();
    let meta = root.meta_key(&vault);
    for case in vectors["macs"].as_array().unwrap() {
        let (table, row_key, content) =
            (case["table"].as_str().unwrap(), bytes(&case["row_key"]), bytes(&case["content"]));
        let mac = array(&case["mac"]);
        assert_eq!(meta.mac(table, &row_key, &content), mac);
        assert!(meta.verify(table, &row_key, &content, &mac));
    }
    let key = mac::Keyed::new(&bytes(&vectors["meta_key"]));
    assert_eq!(key.tag([b"meta", b"a", b"b"]), meta.mac("meta", b"a", b"b"));
}

#[test]
fn names_of_requests_are_frozen_c_10() {
    let (vectors, ..) = vectors();
    let key = RequestKey::new(Secret::new(array(&vectors["request_key"])));
    let request = &vectors["request"];
    let name = key.locate(request["caller_text"].as_str().unwrap(), &bytes(&request["request_id"]));
    assert_eq!(name, array(&request["hmac"]));
}

#[test]
fn a_row_that_was_moved_or_edited_does_not_verify_c_02() {
    let vault = VaultId([1; 16]);
    let meta = RootKey::new(Secret::new([7; 32])).meta_key(&vault);
    let mac = meta.mac("keys", b"index", b"content");
    assert!(meta.verify("keys", b"index", b"content", &mac));
    assert!(!meta.verify("meta", b"index", b"content", &mac));
    assert!(!meta.verify("keys", b"indexc", b"ontent", &mac));
    assert!(!meta.verify("keysi", b"ndex", b"content", &mac));
    assert!(!meta.verify("keys", b"index", b"other", &mac));
    assert!(!meta.verify("keys", b"index", b"content", &mac[1..]));
    for bit in 0..256 {
        let mut flipped = mac;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!meta.verify("keys", b"index", b"content", &flipped));
    }
}

#[test]
fn another_root_key_or_vault_is_recognised() {
    let mac_under =
        |root, vault| RootKey::new(Secret::new([root; 32])).meta_key(&VaultId([vault; 16])).mac("meta", b"", b"");
    assert_ne!(mac_under(1, 1), mac_under(2, 1));
    assert_ne!(mac_under(1, 1), mac_under(1, 2));
}

#[test]
fn a_scope_is_part_of_every_name_z_04() {
    let key = IndexKey::new(Secret::new([3; 32]));
    let [a, b] = [1, 2].map(|scope| key.locate(ScopeId(scope), b"pan0123456789abcdef"));
    assert_ne!(a.tail, b.tail);
    assert_ne!(a.mask, b.mask);
}

/// Each value of the worked example stands in the documentation as it stands in the frozen vectors.
#[test]
fn the_documentation_shows_the_frozen_values_c_10() {
    let written: String = FORMATS.chars().filter(|c| !c.is_whitespace()).collect();
    let shows = |name: &str, value: &Value| match value {
        Value::String(text) if name != "name" && name != "note" => {
            assert!(written.contains(text.as_str()), "docs/formats.md does not show {name} = {text}");
        }
        _ => {}
    };
    let token: Value = serde_json::from_str(include_str!("../../tests/vectors/token_opaque_v1.json")).unwrap();
    let record: Value = serde_json::from_str(include_str!("../../tests/vectors/record_v1.json")).unwrap();
    let (wrap, ..) = vectors();
    for name in ["vault", "root_key", "root_prk", "meta_info", "meta_key"] {
        shows(name, &wrap[name]);
    }
    let worked = [
        &wrap["wrapped_keys"][0],
        &wrap["wrapped_keys"][2],
        &wrap["macs"][0],
        &token["tokens"][0],
        &record["records"][0],
    ];
    for (name, value) in worked.iter().flat_map(|case| case.as_object().unwrap()) {
        shows(name, value);
    }
}

/// As they stand in messages, logs and files.
#[test]
fn names_are_shown_in_their_one_spelling() {
    assert_eq!(VaultId([0xab; 16]).to_string(), "ab".repeat(16));
    assert_eq!(ScopeId(7).to_string(), "7");
    assert_eq!(KeyVersion(12).to_string(), "12");
}

/// Fails to compile if one of the types can be printed, copied or compared with `==` (C-11, A-11).
#[test]
fn secrets_offer_nothing_c_11() {
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
    <RootKey as Unless<_>>::holds();
    <MetaKey as Unless<_>>::holds();
    <IndexKey as Unless<_>>::holds();
    <RequestKey as Unless<_>>::holds();
    <DataKey as Unless<_>>::holds();
    <state::StateKey as Unless<_>>::holds();
    <Located as Unless<_>>::holds();
    <aead::OneTimeKey as Unless<_>>::holds();
    <kdf::Source as Unless<_>>::holds();
    <mac::Keyed as Unless<_>>::holds();
    <record::Unlocked as Unless<_>>::holds();
}
