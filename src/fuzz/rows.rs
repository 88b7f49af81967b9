//! What lies on the disk: records, the fields of rows, whole stores of rows, and RocksDB's own log.

use super::{Input, chosen, frozen, piece, text};
use crate::clock::Timestamp;
use crate::crypto::answer::{Lock, Row};
use crate::crypto::record::{Header, Record, Salts, State, seal};
use crate::crypto::state::{Group, StateDigest, StateKey};
use crate::crypto::{DataKey, Handle, KeyVersion, MetaKey, RootKey, ScopeId, VaultId};
use crate::keys::{Keyring, authentic};
use crate::ledger::fixture::Site;
use crate::ledger::{Checkpoints, IndexKey, Outside, identify, log_keys, stored_head, stored_sum};
use crate::secret::{SecretBytes, SecretKey};
use crate::store::{Batch, MemoryStore, Order, Rows, Store, Table};
use crate::vault::fixture::{Fixture, item, limited};
use crate::vault::requests;
use crate::vault::verify::{Subject, verify, verify_index};
use std::cell::OnceCell;
use std::sync::Arc;

const RECORDS: &str = include_str!("../../tests/vectors/record_v1.json");
const ROWS: &str = include_str!("../../tests/vectors/rows_v1.json");
const STATE: &str = include_str!("../../tests/vectors/state_v1.json");
const WRAPPED: &str = include_str!("../../tests/vectors/wrap_v1.json");

const VAULT: VaultId = VaultId([0x56; 16]);

fn hex(value: &serde_json::Value, field: &str) -> Vec<u8> {
    hex::decode(text(value, field)).expect("hexadecimal")
}

fn header(input: &mut Input<'_>) -> Header {
    let flags = input.byte();
    Header {
        state: [State::Active, State::Revoked, State::Suspended][usize::from(input.byte()) % 3],
        scope: ScopeId(u32::from_le_bytes(input.array())),
        index_key: KeyVersion(u32::from_le_bytes(input.array())),
        data_key: KeyVersion(u32::from_le_bytes(input.array())),
        record_version: u32::from_le_bytes(input.array()),
        created: Timestamp::from_millis(input.number()),
        changed: Timestamp::from_millis(input.number()),
        expires: Timestamp::from_millis(input.number()),
        uses_left: (flags & 1 != 0).then(|| u32::from_le_bytes(input.array())),
        subject: (flags & 2 != 0).then(|| input.array()),
        fingerprint: (flags & 4 != 0).then(|| input.array()),
    }
}

/// Any bytes as a row; or a record of any header and value, sealed, changed in one place, and opened.
pub(super) fn record(data: &[u8]) {
    let mut input = Input(data);
    let key = DataKey::new(SecretKey::new([9; 32]));
    let (handle, canonical) = (Handle::from_bytes([3; 20]), b"pan0123456789abcdef");
    if input.byte() & 1 == 0 {
        let Ok(record) = Record::parse(input.rest()) else { return };
        let _ = (record.claimed_header(), record.padded_bytes(), record.imprint());
        assert!(record.unlock_outer(&VAULT, &handle, &key).is_err(), "nobody has sealed this");
        return;
    }
    let header = header(&mut input);
    let (at, flip) = (input.number(), input.byte());
    let salts = Salts { inner: input.array(), outer: input.array() };
    let value = input.rest();
    let mut row = seal(&VAULT, &handle, canonical, &key, &header, value, &salts);
    let at = usize::try_from(at % row.len() as u64).expect("less than a row");
    row[at] ^= flip;
    let opened = Record::parse(&row).ok().and_then(|record| record.unlock_outer(&VAULT, &handle, &key).ok());
    let opened = opened.map(|record| (*record.header(), record.open(&VAULT, &handle, canonical)));
    match opened {
        Some((read, Ok(read_value))) => {
            assert!(flip == 0, "a record that was changed opens");
            assert_eq!(read, header);
            assert!(read_value.expose() == value, "another value comes out");
        }
        _ => assert!(flip != 0, "a record that was sealed does not open"),
    }
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    let vectors = frozen(RECORDS);
    let rows = vectors["records"].as_array().unwrap().iter().map(|record| chosen(0, hex(record, "row")));
    rows.chain((0..8).map(|flags| chosen(1, [flags; 180]))).collect()
}

/// Parsers of single fields, each of which writes what it read.
pub(super) fn fields(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 9 {
        0 => {
            let rest = input.rest();
            if let Some(group) = Group::from_bytes(rest) {
                assert_eq!(group.to_bytes(), rest);
            }
        }
        1 => {
            let Ok(line) = str::from_utf8(input.rest()) else { return };
            if let Ok(digest) = line.parse::<StateDigest>() {
                assert_eq!(digest.to_string(), line);
            }
        }
        2 => {
            let key = StateKey::new(SecretKey::new([5; 32]));
            let group = Group::from_bytes(&[7; Group::LENGTH]).expect("a group");
            let _ = stored_sum(&key, group, input.rest());
        }
        3 => {
            let rest = input.rest();
            if let Some((_, sequence)) = IndexKey::read(rest) {
                assert_eq!(rest.last_chunk(), Some(&sequence.to_be_bytes()));
            }
        }
        4 => drop(Row::parse(input.rest())),
        5 => requests::check_outcomes(input.rest()),
        6 => {
            let Ok(text) = str::from_utf8(input.rest()) else { return };
            if let Some(id) = requests::parse(text) {
                assert_eq!(hex::encode(id.expose()), text.replace('-', "").to_lowercase());
            }
        }
        7 => {
            let (mut row, root) = (input.rest().to_vec(), RootKey::new(SecretKey::new([1; 32])));
            assert!(root.unwrap(&VAULT, "scope/1/data", KeyVersion(1), &row).is_err(), "nobody has wrapped this");
            row.truncate(32);
            row.resize(32, 0);
            let secret = SecretKey::new(row.try_into().expect("32 bytes"));
            let wrapped = root.wrap(&VAULT, "scope/1/data", KeyVersion(1), &secret, [4; 32]);
            let unwrapped = root.unwrap(&VAULT, "scope/1/data", KeyVersion(1), &wrapped).expect("just wrapped");
            assert!(unwrapped.matches(secret.expose()));
        }
        _ => answer(input.rest()),
    }
}

/// A remembered answer of any bytes is opened with its lock alone.
fn answer(data: &[u8]) {
    let secret = SecretKey::new([6; 32]);
    let lock = Lock { vault: &VAULT, name: &[8; 32], secret: &secret, payload: &[2; 32] };
    let row = lock.seal(Timestamp::from_millis(5), [1; 16], &SecretBytes::new(data.to_vec()));
    let read = Row::parse(&row).expect("just sealed");
    assert!(lock.open(&read).is_ok_and(|opened| opened.expose() == data));
    assert!(Lock { payload: &[3; 32], ..lock }.open(&read).is_err());
}

pub(super) fn field_seeds() -> Vec<Vec<u8>> {
    let (rows, state, wrapped) = (frozen(ROWS), frozen(STATE), frozen(WRAPPED));
    let mut seeds = Vec::new();
    for sum in state["sums"].as_array().unwrap() {
        seeds.push(chosen(0, hex(sum, "row_key")));
        seeds.push(chosen(2, hex(sum, "row")));
    }
    seeds.push(chosen(1, format!("cloakroom-state-v1 {}", "0a".repeat(32))));
    let of = |table: &str, field: &str, choice: u8| -> Vec<Vec<u8>> {
        rows[table].as_array().unwrap().iter().map(|row| chosen(choice, hex(row, field))).collect()
    };
    seeds.extend(of("event_index", "row_key", 3));
    seeds.extend(of("requests", "row", 4));
    let mut outcomes = vec![1, 0, 4];
    outcomes.extend(b"pan_");
    outcomes.extend([3; 28]);
    outcomes.extend([2, 0, 0, 0, 0, 0, 0, 0, 9, 3, 4, 5, 6, 0, 11]);
    outcomes.extend(b"VALUE_EMPTY");
    seeds.push(chosen(5, outcomes));
    seeds.push(chosen(6, "00000000-0000-4000-8000-000000000001"));
    seeds.extend(wrapped["wrapped_keys"].as_array().unwrap().iter().map(|key| chosen(7, hex(key, "wrapped"))));
    seeds.push(chosen(8, "an answer"));
    seeds
}

// === a store of rows ===

/// A row by its table and key.
type StoredRow = ((Table, Vec<u8>), Vec<u8>);

struct Stored {
    rows: Vec<StoredRow>,
    meta: Arc<MetaKey>,
    site: Site,
    outside: Outside,
}

thread_local! {
    static STORED: OnceCell<Stored> = const { OnceCell::new() };
}

fn stored_vault() -> Stored {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tester = fixture.tester().request(1);
        let issued = tester.issue_all("pan", vec![item(b"4111111111111111"), limited(b"5500005555555559", 2)]).await;
        let tester = fixture.tester();
        tester.issue("ssn", item(b"078-05-1120")).await;
        tester.show("pan", &[&issued[1].token]).await.unwrap();
        tester.revoke("pan", &[&issued[0].token], &[]).await.unwrap();
    });
    let site = fixture.close();
    let (_, meta) = identify(&*site.store, &site.root()).unwrap();
    let outside = Outside::read(&Checkpoints::of(site.checkpoints()), &site.log_keys()).unwrap();
    Stored { rows: site.dump().into_iter().collect(), meta, site, outside }
}

/// Up to eight changes of a whole vault's rows: one that is there gets another content, loses its end or a bit, goes, or
/// one comes that was not there. With or without a MAC that is right, since whoever has the keys may be an old version.
fn edits(input: &mut Input<'_>, stored: &Stored) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..8 {
        if input.0.is_empty() {
            break;
        }
        let (how, which) = (input.byte(), usize::from(input.byte()));
        let ((mut table, mut key), mut content) = stored.rows[which % stored.rows.len()].clone();
        let is_authentic = how & 0x80 != 0;
        if is_authentic {
            content.truncate(content.len().saturating_sub(32));
        }
        match how & 7 {
            0 => content = input.piece().to_vec(),
            1 => {
                let at = usize::from(u16::from_le_bytes(input.array()));
                let flip = input.byte();
                if let Some(byte) = content.get_mut(at) {
                    *byte ^= flip;
                }
            }
            2 => content.truncate(usize::from(input.byte())),
            3 => {
                batch.delete(table, &key);
                continue;
            }
            4 => {
                table = Table::ALL[usize::from(input.byte()) % Table::ALL.len()];
                key = input.piece().to_vec();
                content = input.piece().to_vec();
            }
            5 => content.extend_from_slice(input.piece()),
            _ => key = input.piece().to_vec(),
        }
        if key.is_empty() {
            continue;
        }
        if is_authentic {
            content = authentic::seal(&stored.meta, table, &key, &content);
        }
        batch.put(table, &key, &content);
    }
    batch
}

/// A whole store after such changes is looked at as the start and `verify` do.
pub(super) fn stored(data: &[u8]) {
    STORED.with(|stored| {
        let stored = stored.get_or_init(stored_vault);
        let batch = edits(&mut Input(data), stored);
        let (store, mut rows) = (MemoryStore::new(), Batch::default());
        stored.rows.iter().for_each(|((table, key), row)| rows.put(*table, key, row));
        rows.append(&batch);
        store.commit(&rows).expect("rows in memory");
        let root = stored.site.root();
        let Ok((genesis, meta)) = identify(&store, &root) else { return };
        let _ = log_keys(&store, &meta);
        let Ok(keyring) = Keyring::open(root, genesis.vault, meta.clone(), &store) else { return };
        let _ = stored_head(&store, &meta, keyring.state());
        let report = verify(&Subject { rows: &store, keyring: &keyring, outside: &stored.outside }, &mut |_| {});
        let report = report.expect("rows in memory can be read");
        let index = verify_index(&store, &mut |_| {}).expect("rows in memory can be read");
        assert!(!batch.is_empty() || (report.is_clean() && index.is_clean()), "{report:?} {index:?}");
        // The checkpoint outside vouches for each record: no change of any row hides another record.
        let found = store.scan(Table::Tokens, &[], &[0xff; 1024], Order::Ascending, usize::MAX).expect("it was read");
        let honest = stored.rows.iter().filter(|((table, _), _)| *table == Table::Tokens);
        let is_honest = honest.map(|((_, key), row)| (key, row)).eq(found.iter().map(|(key, row)| (key, row)));
        assert!(is_honest || !report.records_are_clean(), "records that were changed pass for whole");
    });
}

pub(super) fn stored_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![]];
    for which in 0..40 {
        for how in [1, 2, 3, 0x81, 0x82] {
            seeds.push(vec![how, which, 3, 0, 0x10]);
        }
        seeds.push([&[4, which, which][..], &piece(&[which; 20]), &piece(b"content")].concat());
    }
    seeds
}

/// A RocksDB directory: CURRENT, a list of files, and one log of any bytes. The first byte says which of both is given.
pub(super) fn store_log(data: &[u8]) {
    let mut input = Input(data);
    let is_list = input.byte() & 1 == 1;
    crate::store::check_log(input.rest(), is_list);
}

pub(super) fn store_log_seeds() -> Vec<Vec<u8>> {
    // A batch of one row: sequence, count, put, key, value; in a record of its own.
    let batch = [&1u64.to_le_bytes()[..], &1u32.to_le_bytes(), &[1, 1, b'k', 1, b'v']].concat();
    let length = u16::try_from(batch.len()).expect("short").to_le_bytes();
    let whole = [&[0; 4], &length[..], &[1], &batch].concat();
    let edit = [2, 4, 3, 9, 4, 2, 9, 1];
    let list = [&[0; 4], &[8, 0][..], &[1], &edit].concat();
    vec![chosen(0, &whole), chosen(0, [&whole[..], &whole].concat()), chosen(0, &whole[..9]), chosen(1, list)]
}
