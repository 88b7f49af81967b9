//! Keys, scopes and their rows: against frozen ones, and against everybody who edits the database.

use super::*;
use crate::store::{Change, MemoryStore, Store};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

const VAULT: VaultId = VaultId([0x56; 16]);
const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_123);

fn root(byte: u8) -> RootKey {
    RootKey::new(SecretKey::new([byte; 32]))
}

fn meta() -> Arc<MetaKey> {
    Arc::new(root(1).meta_key(&VAULT))
}

fn path(name: &str) -> scope::Path {
    scope::Path::parse(name).unwrap()
}

/// A store with the keys of a new vault.
fn created() -> MemoryStore {
    let store = MemoryStore::new();
    store.commit(&Keyring::create(&root(1), &VAULT, &meta(), NOW).unwrap().0).unwrap();
    store
}

fn open(store: &MemoryStore) -> Result<Keyring, KeyringError> {
    Keyring::open(root(1), VAULT, meta(), store)
}

/// A store with two scopes that have been used and one that was only named.
fn used() -> MemoryStore {
    let store = created();
    let keyring = open(&store).unwrap();
    for (name, with_data_key) in [("pan", true), ("acme/ssn", true), ("email", false)] {
        let _ = made(&store, &keyring, name, with_data_key);
    }
    store
}

fn made(store: &MemoryStore, keyring: &Keyring, name: &str, with_data_key: bool) -> ScopeKeys {
    let mut new = keyring.prepare(&path(name), with_data_key, NOW).unwrap().expect("there is something to make");
    store.commit(&std::mem::take(&mut new.rows)).unwrap();
    keyring.admit(new)
}

fn rows(store: &MemoryStore, table: Table) -> BTreeMap<Vec<u8>, Vec<u8>> {
    all_rows(store, table).unwrap().into_iter().collect()
}

fn put(store: &MemoryStore, table: Table, row_key: &[u8], row: &[u8]) {
    let mut batch = Batch::default();
    batch.put(table, row_key, row);
    store.commit(&batch).unwrap();
}

fn delete(store: &MemoryStore, table: Table, row_key: &[u8]) {
    let mut batch = Batch::default();
    batch.delete(table, row_key);
    store.commit(&batch).unwrap();
}

fn only_row(batch: &Batch) -> (Table, Vec<u8>, Vec<u8>) {
    let mut changes = batch.changes();
    match (changes.next(), changes.next()) {
        (Some(Change::Put { table, key, content }), None) => (table, key.to_vec(), content.to_vec()),
        _ => panic!("one row is put"),
    }
}

// === frozen ===

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/vectors/rows_v1.json")).unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    unhex(value).try_into().unwrap()
}

#[test]
fn key_rows_are_the_frozen_ones() {
    let frozen = vectors();
    let (root, vault) = (RootKey::new(SecretKey::new(array(&frozen["root_key"]))), VaultId(array(&frozen["vault_id"])));
    let meta = root.meta_key(&vault);
    let created = Timestamp::from_millis(frozen["created_millis"].as_u64().unwrap());
    let mut seen = 0;
    for key in frozen["keys"].as_array().unwrap() {
        let id = key["id"].as_str().unwrap();
        assert_eq!(key["version"].as_u64(), Some(FIRST_VERSION.0.into()));
        let (row_key, row) = (unhex(&key["row_key"]), unhex(&key["row"]));
        let (read_id, read) = read_key(&root, &vault, &meta, &row_key, &row).unwrap();
        assert_eq!(read_id, id);
        assert!(read.matches(&unhex(&key["key"])), "{id}");
        let mut written = Batch::default();
        put_key(&mut written, &root, &vault, &meta, id, &read, array(&key["salt"]), created);
        assert_eq!(only_row(&written), (Table::Keys, row_key, row), "{id}");
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn scope_rows_are_the_frozen_ones() {
    let frozen = vectors();
    let root = RootKey::new(SecretKey::new(array(&frozen["root_key"])));
    let meta = root.meta_key(&VaultId(array(&frozen["vault_id"])));
    let mut seen = 0;
    for scope in frozen["scopes"].as_array().unwrap() {
        let (name, id) =
            (scope["path"].as_str().unwrap(), ScopeId(u32::try_from(scope["id"].as_u64().unwrap()).unwrap()));
        let (row_key, row) = (unhex(&scope["row_key"]), unhex(&scope["row"]));
        assert_eq!(read_scope(&meta, &row_key, &row).unwrap(), (name.to_owned(), id));
        let mut written = Batch::default();
        put_scope(&mut written, &meta, name, id);
        assert_eq!(only_row(&written), (Table::Scopes, row_key, row), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 3);
}

// === ids and keys ===

#[test]
fn a_scope_keeps_its_id_and_key_over_a_restart() {
    let store = used();
    let keyring = open(&store).unwrap();
    let known = |name| keyring.scope(&path(name)).map(|keys| (keys.id.0, keys.data.is_some()));
    assert_eq!(known("pan"), Some((1, true)));
    assert_eq!(known("acme/ssn"), Some((2, true)));
    assert_eq!(known("email"), Some((3, false)));
    assert!(known("acme").is_none() && known("ssn").is_none());
    assert!(keyring.prepare(&path("pan"), true, NOW).unwrap().is_none(), "there is nothing to make");
    assert!(keyring.prepare(&path("email"), false, NOW).unwrap().is_none());
    assert_eq!(made(&store, &keyring, "email", true).id, ScopeId(3), "the id that it was given before");
    assert_eq!(made(&store, &keyring, "new", true).id, ScopeId(4));
    let again = open(&store).unwrap();
    assert!(again.scope(&path("email")).unwrap().data.is_some());
    assert_eq!(again.scope(&path("new")).unwrap().id, ScopeId(4));
}

#[test]
fn what_is_not_admitted_is_not_used() {
    let store = created();
    let keyring = open(&store).unwrap();
    drop(keyring.prepare(&path("pan"), true, NOW).unwrap());
    assert!(keyring.scope(&path("pan")).is_none());
}

#[test]
fn an_id_is_never_given_twice_whatever_became_of_the_first() {
    let store = created();
    let keyring = open(&store).unwrap();
    // Its rows become durable, but the one who made it never hears of it: a commit whose outcome stayed unknown.
    let unheard = keyring.prepare(&path("a"), true, NOW).unwrap().unwrap();
    store.commit(&unheard.rows).unwrap();
    let other = made(&store, &keyring, "b", true);
    assert_ne!(other.id, unheard.id());
    assert_eq!(open(&store).unwrap().scope(&path("a")).unwrap().id, unheard.id(), "as a restart finds it");
    // The same scope gets it again, with another key in the place of the one that nobody used.
    assert_eq!(made(&store, &keyring, "a", true).id, unheard.id());
    let reopened = open(&store).unwrap();
    assert_eq!(reopened.scope(&path("a")).unwrap().id, unheard.id());
    assert_eq!(reopened.scope(&path("b")).unwrap().id, other.id);
    assert_eq!(made(&store, &keyring, "c", false).id, ScopeId(3));
}

#[test]
fn keys_are_random_and_differ() {
    let store = used();
    let keyring = open(&store).unwrap();
    let mut wrapped: Vec<Vec<u8>> = rows(&store, Table::Keys).into_values().collect();
    for row in &mut wrapped {
        row.drain(..18);
    }
    wrapped.sort();
    wrapped.dedup_by(|one, other| one[1..33] == other[1..33] || one[33..65] == other[33..65]);
    assert_eq!(wrapped.len(), 5, "index, request, state and two data keys: no salt and no key twice");
    assert_eq!(keyring.vault(), &VAULT);
}

// === an editor of the database ===

#[test]
fn a_wrong_root_key_or_vault_is_recognised_before_anything_opens() {
    let store = used();
    let other = root(2);
    let other_meta = Arc::new(other.meta_key(&VAULT));
    let error = Keyring::open(other, VAULT, other_meta, &store).err().unwrap();
    assert!(matches!(&error, KeyringError::WrongRootKey(row) if row.starts_with("keys/")), "{error}");
    let elsewhere = VaultId([0x57; 16]);
    let error = Keyring::open(root(1), elsewhere, Arc::new(root(1).meta_key(&elsewhere)), &store).err().unwrap();
    assert!(matches!(error, KeyringError::WrongRootKey(_)), "{error}");
}

#[test]
fn no_bit_of_a_row_can_be_flipped_c_02() {
    let mut tried = 0;
    let store = used();
    for table in [Table::Keys, Table::Scopes] {
        for (row_key, row) in rows(&store, table) {
            for bit in 0..row.len() * 8 {
                let mut flipped = row.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                put(&store, table, &row_key, &flipped);
                let error = open(&store).err().expect("refused");
                let name = authentic::row_name(table, &row_key);
                assert!(
                    matches!(&error, KeyringError::WrongRootKey(row) if *row == name),
                    "bit {bit} of {name}: {error}"
                );
                tried += 1;
            }
            for length in 0..row.len() {
                put(&store, table, &row_key, &row[..length]);
                assert!(matches!(open(&store), Err(KeyringError::WrongRootKey(_))));
            }
            put(&store, table, &row_key, &[&row[..], b"\0"].concat());
            assert!(matches!(open(&store), Err(KeyringError::WrongRootKey(_))));
            put(&store, table, &row_key, &row);
        }
    }
    assert!(open(&store).is_ok());
    println!("keys: {tried} flipped bits of rows of keys and scopes, all refused");
}

#[test]
fn rows_can_not_be_swapped_or_moved_c_02() {
    let store = used();
    let mut tried = 0;
    for table in [Table::Keys, Table::Scopes] {
        let all = rows(&store, table);
        for (one, row) in &all {
            for other in all.keys().filter(|other| *other != one) {
                put(&store, table, other, row);
                assert!(matches!(open(&store), Err(KeyringError::WrongRootKey(_))), "{one:?} at {other:?}");
                put(&store, table, other, &all[other]);
                tried += 1;
            }
            // Under a name that nobody has, as a second scope of the same id would be.
            put(&store, table, b"mine", row);
            assert!(matches!(open(&store), Err(KeyringError::WrongRootKey(_))));
            delete(&store, table, b"mine");
        }
    }
    // From one table into the other.
    let (row_key, row) = rows(&store, Table::Scopes).pop_first().unwrap();
    put(&store, Table::Keys, &row_key, &row);
    assert!(matches!(open(&store), Err(KeyringError::WrongRootKey(_))));
    delete(&store, Table::Keys, &row_key);
    assert!(open(&store).is_ok());
    println!("keys: {tried} swaps, all refused");
}

#[test]
fn rows_can_not_be_removed_where_it_would_matter() {
    let store = used();
    let index = key_row_key(INDEX_KEY_ID, FIRST_VERSION);
    let row = rows(&store, Table::Keys).remove(&index).unwrap();
    delete(&store, Table::Keys, &index);
    assert!(matches!(open(&store), Err(KeyringError::Damaged(row)) if row == "keys/index"));
    put(&store, Table::Keys, &index, &row);
    // Without its row the scope's id would be given to the next scope.
    delete(&store, Table::Scopes, b"acme/ssn");
    let error = open(&store).err().unwrap();
    assert!(matches!(&error, KeyringError::Damaged(row) if row.contains("keys/data/2")), "{error}");
}

#[test]
fn two_scopes_of_one_id_are_refused() {
    let store = used();
    let mut batch = Batch::default();
    put_scope(&mut batch, &meta(), "zz", ScopeId(1));
    store.commit(&batch).unwrap();
    let error = open(&store).err().unwrap();
    assert!(matches!(&error, KeyringError::Damaged(row) if row == "scopes/zz"), "{error}");
}

#[test]
fn a_newer_row_is_refused_and_named_c_06() {
    for (table, row_key) in [(Table::Keys, key_row_key("data/1", FIRST_VERSION)), (Table::Scopes, b"pan".to_vec())] {
        let store = used();
        let mut content = authentic::open(&meta(), table, &row_key, &rows(&store, table)[&row_key]).unwrap().to_vec();
        content[0] = 2;
        put(&store, table, &row_key, &authentic::seal(&meta(), table, &row_key, &content));
        let before = rows(&store, table);
        let error = open(&store).err().unwrap();
        assert!(
            matches!(&error, KeyringError::Newer { row, format: 2 } if row.contains("pan") || row.contains("data/1"))
        );
        assert!(rows(&store, table) == before, "nothing is changed");
        put(&store, table, &row_key, &authentic::seal(&meta(), table, &row_key, b""));
        assert!(matches!(open(&store), Err(KeyringError::Damaged(_))));
    }
    // A second version of a key is for a later program.
    let store = used();
    let row_key = key_row_key("data/1", KeyVersion(2));
    let content = [0; KEY_ROW_LENGTH].map(|_| 1);
    put(&store, Table::Keys, &row_key, &authentic::seal(&meta(), Table::Keys, &row_key, &content));
    assert!(matches!(open(&store), Err(KeyringError::Damaged(_))));
}

#[test]
fn messages_name_rows_and_hold_no_key() {
    let store = used();
    for (row_key, row) in rows(&store, Table::Keys) {
        put(&store, Table::Keys, &row_key, &row[..40]);
        let message = open(&store).err().unwrap().to_string();
        assert!(message.contains("keys/") && message.chars().all(|c| !c.is_control()), "{message}");
        assert!(!message.contains(&hex::encode(&row[19..27])));
        put(&store, Table::Keys, &row_key, &row);
    }
}

fn key_id() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("index".to_owned()),
        Just("request".to_owned()),
        any::<u32>().prop_map(|id| data_key_id(ScopeId(id)))
    ]
}

proptest! {
    #[test]
    fn key_row_keys_are_injective_i_07(
        one in key_id(), other in key_id(), version in 1..u32::MAX, other_version in 1..u32::MAX,
    ) {
        let (one_key, other_key) = (key_row_key(&one, KeyVersion(version)), key_row_key(&other, KeyVersion(other_version)));
        prop_assert_eq!(one_key == other_key, (&one, version) == (&other, other_version));
        // Nor does one id's range of versions reach into another's: `data/1` and `data/10`.
        let all = key_row_key(&one, KeyVersion(0))..=key_row_key(&one, KeyVersion(u32::MAX));
        prop_assert_eq!(all.contains(&other_key), one == other);
    }

    #[test]
    fn a_mac_is_good_for_its_place_only_i_07(
        row_key in prop::collection::vec(any::<u8>(), 0..20),
        content in prop::collection::vec(any::<u8>(), 0..40),
        shift in 0..20_usize,
    ) {
        let row = authentic::seal(&meta(), Table::Meta, &row_key, &content);
        prop_assert_eq!(authentic::open(&meta(), Table::Meta, &row_key, &row), Some(&content[..]));
        prop_assert!(authentic::open(&meta(), Table::Keys, &row_key, &row).is_none());
        prop_assert_eq!(authentic::claimed(&row), Some(&content[..]));
        // The same bytes, cut elsewhere between key and content.
        let joined = [&row_key[..], &row[..]].concat();
        let cut = shift.min(joined.len());
        let moved = authentic::open(&meta(), Table::Meta, &joined[..cut], &joined[cut..]).is_some();
        prop_assert_eq!(moved, cut == row_key.len());
    }
}

// === what fails below it ===

fn said(refused: Result<Keyring, KeyringError>) -> String {
    refused.map(drop).unwrap_err().to_string()
}

#[test]
fn without_randomness_no_key_is_made() {
    // Three keys, and a salt for each.
    for calls in 0..6 {
        let dry = entropy::fixture::dry_after(calls);
        let made = Keyring::create(&root(1), &VAULT, &meta(), NOW);
        drop(dry);
        assert!(made.map(drop).unwrap_err().to_string().contains("no randomness"), "{calls}");
    }
    let store = created();
    let keyring = open(&store).unwrap();
    for calls in 0..2 {
        let dry = entropy::fixture::dry_after(calls);
        let made = keyring.prepare(&path("pan"), true, NOW);
        drop(dry);
        assert!(matches!(made, Err(KeyringError::Entropy(_))), "{calls}");
    }
    assert!(keyring.scope(&path("pan")).is_none());
    assert_eq!(made(&store, &keyring, "pan", true).id, ScopeId(1), "and the scope is as if nothing had been");
}

#[test]
fn a_row_that_the_disk_can_not_read_is_an_error_and_no_key_that_is_missing_s_09() {
    for (table, row_key) in [(Table::Keys, key_row_key(INDEX_KEY_ID, FIRST_VERSION)), (Table::Scopes, b"pan".to_vec())]
    {
        let store = used();
        store.damage(table, &row_key);
        assert!(matches!(open(&store), Err(KeyringError::Read(_))), "{table:?}");
    }
}

#[test]
fn each_key_that_is_missing_is_named() {
    for id in [INDEX_KEY_ID, REQUEST_KEY_ID, STATE_KEY_ID] {
        let store = used();
        delete(&store, Table::Keys, &key_row_key(id, FIRST_VERSION));
        assert_eq!(said(open(&store)), format!("the row keys/{id} is missing or damaged. Restore from a backup"));
    }
}

/// A MAC says only that somebody with the key wrote it, perhaps a version with a fault.
#[test]
fn a_row_with_a_right_mac_and_a_wrong_form_is_damaged_and_named() {
    let sealed = |table, row_key: &[u8], content: &[u8]| authentic::seal(&meta(), table, row_key, content);
    let key_row = [&[ROW_FORMAT, ACTIVE][..], &[0; KEY_ROW_LENGTH - 2]].concat();
    let not_text = [b"\xfe\xfe\0".as_slice(), &FIRST_VERSION.0.to_be_bytes()].concat();
    let other_version = key_row_key(INDEX_KEY_ID, KeyVersion(FIRST_VERSION.0 + 1));
    let right = key_row_key(INDEX_KEY_ID, FIRST_VERSION);
    for (table, row_key, content) in [
        (Table::Keys, b"key".to_vec(), key_row.clone()),
        (Table::Keys, not_text, key_row.clone()),
        (Table::Keys, other_version, key_row.clone()),
        (Table::Keys, right.clone(), key_row[..KEY_ROW_LENGTH - 1].to_vec()),
        (Table::Keys, right.clone(), Vec::new()),
        // A key that was wrapped by nobody.
        (Table::Keys, right, key_row),
        (Table::Scopes, b"\xfe".to_vec(), vec![ROW_FORMAT, 0, 0, 0, 9]),
        (Table::Scopes, b"pan".to_vec(), vec![ROW_FORMAT, 0, 0, 9]),
        (Table::Scopes, b"pan".to_vec(), Vec::new()),
    ] {
        let store = used();
        put(&store, table, &row_key, &sealed(table, &row_key, &content));
        let said = said(open(&store));
        let expected = format!("the row {} is missing or damaged", authentic::row_name(table, &row_key));
        assert!(said.starts_with(&expected), "{said}");
    }
}

#[test]
fn a_vault_that_is_full_of_scopes_says_so_and_gives_no_id_twice() {
    let keyring = open(&created()).unwrap();
    let full = (0..SCOPES_AT_MOST).map(|number| (number.to_string(), ScopeKeys::stand_in()));
    keyring.scopes.store(Arc::new(full.collect()));
    let refused = keyring.prepare(&path("pan"), true, NOW).map(drop).unwrap_err().to_string();
    assert_eq!(refused, "this vault has 1000000 scopes, the most it can hold");
    // Whose number is the last that there is.
    let store = created();
    let mut rows = Batch::default();
    put_scope(&mut rows, &meta(), "last", ScopeId(u32::MAX));
    store.commit(&rows).unwrap();
    let keyring = open(&store).unwrap();
    assert!(matches!(keyring.prepare(&path("pan"), false, NOW), Err(KeyringError::TooManyScopes)));
    assert_eq!(keyring.prepare(&path("last"), true, NOW).unwrap().map(|new| new.id()), Some(ScopeId(u32::MAX)));
}

#[test]
fn a_scope_that_was_only_named_has_no_data_key_to_give() {
    let keyring = open(&used()).unwrap();
    let ids: HashSet<ScopeId> = ["pan", "email"].iter().map(|name| keyring.scope(&path(name)).unwrap().id).collect();
    let keys = keyring.data_keys(&ids);
    assert_eq!(keys.keys().copied().collect::<Vec<_>>(), [keyring.scope(&path("pan")).unwrap().id]);
}
