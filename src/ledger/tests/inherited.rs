//! A log that begins anew over records that are there.

use super::*;
use crate::clock::Timestamp;
use crate::crypto::ScopeId;
use crate::crypto::record::{Header, Record, Salts, State, seal};
use crate::crypto::state::{Group, StateKey};
use crate::crypto::{DataKey, KeyVersion, VaultId};
use crate::ledger::fixture::STATE_KEY;
use crate::secret::SecretKey;

fn state_key() -> StateKey {
    StateKey::new(SecretKey::new(STATE_KEY))
}

/// A record of this day, and its row.
fn record(number: u32, day: u64) -> (Handle, Vec<u8>) {
    let time = Timestamp::from_millis(day * 86_400_000);
    let header = Header {
        state: State::Active,
        scope: ScopeId(1),
        index_key: KeyVersion(1),
        data_key: KeyVersion(1),
        record_version: 1,
        created: time,
        changed: time,
        expires: time,
        uses_left: None,
        subject: None,
        fingerprint: None,
    };
    let key = DataKey::new(SecretKey::new([3; 32]));
    let salts = Salts { inner: [1; 16], outer: [2; 16] };
    (handle(number), seal(&VaultId([0x56; 16]), &handle(number), b"token", &key, &header, b"value", &salts))
}

#[test]
fn a_log_begins_with_the_records_and_the_time_of_the_one_before_s_12() {
    let site = Site::bare();
    let (genesis, meta) = identify(&*site.store, &site.root()).unwrap();
    let mark = Timestamp::from_millis(START.millis() + 5 * 3_600_000);
    let mut inheritance = Inheritance { mark, ..Inheritance::default() };
    let mut rows = Batch::default();
    for (number, day) in [(1, 20_000), (2, 20_000), (3, 20_001)] {
        let (handle, row) = record(number, day);
        let imprint = Record::parse(&row).unwrap().imprint();
        let sum = inheritance.groups.entry(Group::of(&imprint)).or_default();
        *sum = sum.plus(&state_key().record(&handle, &imprint));
        rows.put(Table::Tokens, handle.as_bytes(), &row);
    }
    crate::store::Store::commit(&*site.store, &rows).unwrap();
    let verifier = site.log_key().verifier();
    create_over(&*site.store, &meta, &state_key(), &genesis, verifier, &inheritance).unwrap();
    let open = site.open_summing(Arc::new(state_key()), Box::new(|| 1), Signing::by(site.log_key())).unwrap();
    assert!(open.ledger.clock().now() >= mark, "nothing that had expired lives again");
    let head = open.ledger.head().unwrap();
    assert_eq!((head.size, head.state.records), (0, 3));
    assert_eq!(issue_now(&open, 9).wait().unwrap().sequence(), 0);
    assert_eq!(vouch(&open).unwrap().size(), 1);
    open.close();
    let outside = site.newest().unwrap();
    assert!(outside.extensions().iter().any(|line| line.starts_with("state 3 ")), "{outside:?}");
    let open = site.open_summing(Arc::new(state_key()), Box::new(|| 1), Signing::by(site.log_key())).unwrap();
    assert_eq!(open.ledger.head().unwrap().state.records, 3);
    open.close();
}
