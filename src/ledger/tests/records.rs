//! Records, and the sums over them that each commit brings up to date.

use super::*;
use crate::crypto::record::{Header, Imprint, Record, Salts, State, seal};
use crate::crypto::state::{Group, StateKey, Tally};
use crate::crypto::{DataKey, KeyVersion, ScopeId, VaultId};
use crate::ledger::stored_head;
use crate::secret::Secret;
use crate::store::Change;

const DAY: u64 = 86_400_000;

/// A record of this scope and day, as it is after `changes` of it.
fn record(number: u32, scope: u32, day: u64, changes: u8) -> Vec<u8> {
    let created = Timestamp::from_millis(day * DAY);
    let header = Header {
        state: State::Active,
        scope: ScopeId(scope),
        index_key: KeyVersion(1),
        data_key: KeyVersion(1),
        record_version: 1,
        created,
        changed: created,
        expires: Timestamp::from_millis((day + 1) * DAY),
        uses_left: None,
        subject: None,
        fingerprint: None,
    };
    let key = DataKey::new(Secret::new([9; 32]));
    let salts = Salts { inner: [1; 16], outer: [changes; 16] };
    seal(&VaultId([5; 16]), &handle(number), b"pan", &key, &header, b"4111111111111111", &salts)
}

fn imprint(row: &[u8]) -> Imprint {
    Record::parse(row).unwrap().imprint()
}

fn key() -> StateKey {
    StateKey::new(Secret::new([8; 32]))
}

fn group(scope: u32, day: u32) -> Group {
    Group { scope: ScopeId(scope), day }
}

/// Whether the sums are those of exactly these records.
fn adds(changes: &Changes, expected: &[(Group, Tally)]) -> bool {
    let mut sums = changes.sums().to_vec();
    sums.sort_unstable_by_key(|(group, _)| *group);
    sums == expected
}

#[test]
fn what_changes_of_the_records_is_added_to_the_sum_of_its_group_c_04() {
    let key = key();
    let [one, two, three, four] = [record(1, 7, 10, 0), record(2, 7, 10, 0), record(3, 7, 11, 0), record(4, 8, 10, 0)];
    let element = |number, row: &[u8]| key.record(&handle(number), &imprint(row));
    let mut changes = Changes::default();
    assert!(changes.is_empty());
    for (number, row) in [(1, &one), (3, &three), (2, &two), (4, &four)] {
        changes.insert(&key, &handle(number), row);
    }
    assert!(!changes.is_empty());
    let both = element(1, &one).plus(&element(2, &two));
    let mut expected = [(group(7, 10), both), (group(7, 11), element(3, &three)), (group(8, 10), element(4, &four))];
    assert!(adds(&changes, &expected));
    assert_eq!(changes.rewritten(), [], "nobody has read what is new");

    // What was read is taken away again, and what is written in its place is added.
    let newer = record(1, 7, 10, 1);
    let mut more = Changes::default();
    more.replace(&key, &handle(1), &imprint(&one), &newer);
    more.remove(&key, &handle(3), &imprint(&three));
    let replaced = element(1, &newer).minus(&element(1, &one));
    let removed = Tally::default().minus(&element(3, &three));
    assert!(adds(&more, &[(group(7, 10), replaced), (group(7, 11), removed)]));
    assert_eq!(more.rewritten(), [handle(1), handle(3)]);

    changes.append(&more);
    expected[0].1 = element(1, &newer).plus(&element(2, &two));
    expected[1].1 = Tally::default();
    assert!(adds(&changes, &expected));
    assert_eq!(changes.rewritten(), more.rewritten());
    let rows: Vec<(Vec<u8>, Option<Vec<u8>>)> = changes
        .rows()
        .changes()
        .map(|change| match change {
            Change::Put { table: Table::Tokens, key, content } => (key.to_vec(), Some(content.to_vec())),
            Change::Delete { table: Table::Tokens, key } => (key.to_vec(), None),
            _ => panic!("only records were changed"),
        })
        .collect();
    let named = |number, row| (handle(number).as_bytes().to_vec(), row);
    let written = [
        named(1, Some(one)),
        named(3, Some(three)),
        named(2, Some(two)),
        named(4, Some(four)),
        named(1, Some(newer)),
        named(3, None),
    ];
    assert_eq!(rows, written);
}

/// Hands over what `change` makes, with an event, and waits.
fn change(open: &Open, basis: Basis, change: impl FnOnce(&mut Changes)) -> Result<(), Refused> {
    let mut changes = Changes::default();
    change(&mut changes);
    let submission = Submission::new(basis, event("records", &[])).with_changes(changes);
    submit(&open.ledger, submission).unwrap().wait().map(drop)
}

/// How many records there are by the head, and in how many groups; after the whole log and all sums were computed anew.
fn counted(site: &Site, open: &Open) -> (u64, usize) {
    site.check();
    let head = stored_head(&*site.store, &open.meta, &site.state_key()).unwrap().unwrap();
    assert_eq!(open.ledger.head().unwrap().state, site.state_key().digest(head.size, &head.total));
    (head.total.records(), site.dump().keys().filter(|(table, _)| *table == Table::State).count())
}

#[test]
fn the_head_and_the_sums_follow_each_commit_c_04_c_05() {
    let site = Site::new();
    let key = site.state_key();
    let mut open = site.open().unwrap();
    assert_eq!(counted(&site, &open), (0, 0));
    let now = |open: &Open| open.ledger.basis();
    let rows: Vec<Vec<u8>> = (0..6).map(|number| record(number, 7, 10 + u64::from(number % 2), 0)).collect();
    change(&open, now(&open), |changes| {
        (0..6).zip(&rows).for_each(|(number, row)| changes.insert(&key, &handle(number), row));
    })
    .unwrap();
    assert_eq!(counted(&site, &open), (6, 2));
    let newer = record(1, 7, 11, 1);
    let basis = now(&open);
    change(&open, basis, |changes| changes.replace(&key, &handle(1), &imprint(&rows[1]), &newer)).unwrap();
    assert_eq!(counted(&site, &open), (6, 2));
    // What a sum takes away must be what is stored: who read the row before that has to read it again.
    let stale = change(&open, basis, |changes| changes.remove(&key, &handle(1), &imprint(&rows[1])));
    assert_eq!(stale, Err(Refused::Stale));
    assert_eq!(counted(&site, &open), (6, 2));
    for (number, left) in [(1, (5, 2)), (3, (4, 2)), (5, (3, 1))] {
        // The sums are taken up again from what is stored.
        open.close();
        open = site.open().unwrap();
        let old = if number == 1 { &newer } else { &rows[number as usize] };
        change(&open, now(&open), |changes| changes.remove(&key, &handle(number), &imprint(old))).unwrap();
        assert_eq!(counted(&site, &open), left, "a group that is empty has no row");
    }
    open.close();
}

#[test]
fn no_two_sums_are_stored_under_the_same_mask_c_04() {
    let site = Site::new();
    let key = site.state_key();
    let open = site.open().unwrap();
    let mut masks = std::collections::BTreeSet::new();
    // More than randomness is drawn for at once.
    let rounds: u32 = 200;
    for number in 0..rounds {
        let row = record(number, 7, 10, 0);
        change(&open, open.ledger.basis(), |changes| changes.insert(&key, &handle(number), &row)).unwrap();
        let sum = site.row(Table::State, &group(7, 10).to_bytes()).unwrap();
        let head = site.row(Table::Tree, b"head").unwrap();
        masks.insert(sum[1..17].to_vec());
        // Before the MAC at the end stands what is masked.
        let masked = head.len() - crate::crypto::MAC_LENGTH - crate::crypto::state::MASKED_LENGTH;
        masks.insert(head[masked..masked + 16].to_vec());
    }
    assert_eq!(masks.len(), 2 * rounds as usize);
    assert_eq!(counted(&site, &open), (rounds.into(), 1));
    open.close();
}

#[test]
fn a_sum_that_was_damaged_begins_anew_and_the_head_still_has_the_right_total_c_04() {
    let mut site = Site::new();
    let key = site.state_key();
    let open = site.open().unwrap();
    let rows = [record(1, 7, 10, 0), record(2, 7, 10, 0)];
    change(&open, open.ledger.basis(), |changes| changes.insert(&key, &handle(1), &rows[0])).unwrap();
    open.close();
    let name = group(7, 10).to_bytes();
    let good = site.row(Table::State, &name).unwrap();
    let newer = [&[good[0] + 1], &good[1..]].concat();
    for damaged in [&newer[..], &good[..good.len() - 1], b""] {
        assert!(stored_sum(&key, group(7, 10), damaged).is_none());
    }
    assert!(stored_sum(&key, group(7, 10), &good).unwrap() == key.record(&handle(1), &imprint(&rows[0])));
    site.edit(|batch| batch.put(Table::State, &name, &newer));
    let open = site.open().unwrap();
    change(&open, open.ledger.basis(), |changes| changes.insert(&key, &handle(2), &rows[1])).unwrap();
    let head = stored_head(&*site.store, &open.meta, &key).unwrap().unwrap();
    assert_eq!(head.total.records(), 2);
    let sum = stored_sum(&key, group(7, 10), &site.row(Table::State, &name).unwrap()).unwrap();
    assert!(sum == key.record(&handle(2), &imprint(&rows[1])), "whoever adds up finds that one is missing");
    open.close();
}
