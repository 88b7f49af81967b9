//! What every store is held to: one test for each sentence of the contract. `run_on!` makes them for an implementation.

use super::{Batch, Found, Order, Row, Store, Table, Tier};
use std::sync::atomic::{AtomicBool, Ordering};

/// Opens one and the same data, again after each drop.
pub(super) type Reopen = Box<dyn Fn() -> Box<dyn Store>>;

/// For an implementation that `open` opens.
pub(super) fn reopen<S: Store + 'static>(open: impl Fn() -> S + 'static) -> Reopen {
    Box::new(move || Box::new(open()))
}

/// Makes a test of each case. `$place` is evaluated for each: a [`Reopen`] of a new, empty place.
macro_rules! run_on {
    ($place:expr) => {
        $crate::store::suite::run_on! { $place =>
            puts_and_deletes_keep_their_order
            empty_is_not_absent
            answers_stand_in_the_order_of_the_keys
            tables_are_separate
            keys_may_be_any_bytes
            scans_keep_bounds_order_and_limit
            scans_of_nothing_are_empty
            a_scan_is_one_snapshot
            a_large_batch_is_whole
            an_empty_batch_changes_nothing
            commits_outlast_the_process
            the_latest_content_wins
        }
    };
    ($place:expr => $($case:ident)*) => {$(
        #[test]
        fn $case() {
            let reopen: $crate::store::suite::Reopen = $place;
            $crate::store::suite::$case(&reopen);
        }
    )*};
}
pub(super) use run_on;

fn put(store: &dyn Store, table: Table, rows: &[(&[u8], &[u8])]) {
    let mut batch = Batch::default();
    for (key, content) in rows {
        batch.put(table, key, content);
    }
    store.commit(&batch).unwrap();
}

fn row(store: &dyn Store, table: Table, key: &[u8]) -> Option<Vec<u8>> {
    let on_disk = one(store, table, key, Tier::Disk);
    match one(store, table, key, Tier::Memory) {
        Found::Cold => {}
        in_memory => assert!(in_memory == on_disk, "both tiers tell the same"),
    }
    match on_disk {
        Found::Row(content) => Some(content),
        Found::Absent => None,
        Found::Cold => panic!("the disk tier never answers cold"),
    }
}

fn one(store: &dyn Store, table: Table, key: &[u8], tier: Tier) -> Found {
    let mut found = store.get(table, &[key], tier).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn everything(store: &dyn Store, table: Table) -> Vec<Row> {
    store.scan(table, b"", &[0xff; 64], Order::Ascending, usize::MAX).unwrap()
}

pub(super) fn puts_and_deletes_keep_their_order(reopen: &Reopen) {
    let store = reopen();
    put(&*store, Table::Tokens, &[(b"there", b"old")]);

    let mut batch = Batch::default();
    batch.put(Table::Tokens, b"put, deleted", b"1");
    batch.delete(Table::Tokens, b"put, deleted");
    batch.delete(Table::Tokens, b"deleted, put");
    batch.put(Table::Tokens, b"deleted, put", b"2");
    batch.put(Table::Tokens, b"twice", b"3");
    batch.put(Table::Tokens, b"twice", b"4");
    batch.delete(Table::Tokens, b"there");
    batch.delete(Table::Tokens, b"never there");
    store.commit(&batch).unwrap();

    let expected: Vec<Row> = vec![(b"deleted, put".to_vec(), b"2".to_vec()), (b"twice".to_vec(), b"4".to_vec())];
    assert_eq!(everything(&*store, Table::Tokens), expected);
    assert_eq!(row(&*store, Table::Tokens, b"put, deleted"), None);
    assert_eq!(row(&*store, Table::Tokens, b"there"), None);
}

pub(super) fn empty_is_not_absent(reopen: &Reopen) {
    let store = reopen();
    put(&*store, Table::Expiry, &[(b"bucket", b"")]);
    assert_eq!(row(&*store, Table::Expiry, b"bucket"), Some(Vec::new()));
    assert_eq!(row(&*store, Table::Expiry, b"bucke"), None);
    assert_eq!(row(&*store, Table::Expiry, b"buckets"), None);
    assert_eq!(everything(&*store, Table::Expiry), [(b"bucket".to_vec(), Vec::new())]);
}

pub(super) fn answers_stand_in_the_order_of_the_keys(reopen: &Reopen) {
    let store = reopen();
    let keys: Vec<[u8; 4]> = (0..100u32).map(u32::to_be_bytes).collect();
    for key in keys.iter().step_by(2) {
        put(&*store, Table::Tokens, &[(key, key)]);
    }
    // Not sorted, with a key asked for twice: callers pass handles as they come.
    let asked: Vec<&[u8]> = keys.iter().rev().chain(&keys[40..45]).map(|key| &key[..]).collect();
    let found = store.get(Table::Tokens, &asked, Tier::Disk).unwrap();
    assert_eq!(found.len(), asked.len());
    for (key, found) in asked.iter().zip(found) {
        let expected = if key[3] % 2 == 0 { Found::Row(key.to_vec()) } else { Found::Absent };
        assert!(found == expected, "key {key:?}");
    }
    assert!(store.get(Table::Tokens, &[], Tier::Disk).unwrap().is_empty());
}

pub(super) fn tables_are_separate(reopen: &Reopen) {
    let store = reopen();
    let mut batch = Batch::default();
    for table in Table::ALL {
        batch.put(table, b"the same key", table.name().as_bytes());
    }
    store.commit(&batch).unwrap();
    let mut delete = Batch::default();
    delete.delete(Table::Meta, b"the same key");
    store.commit(&delete).unwrap();
    for table in Table::ALL {
        let expected = (table != Table::Meta).then(|| table.name().as_bytes().to_vec());
        assert_eq!(row(&*store, table, b"the same key"), expected);
    }
}

pub(super) fn keys_may_be_any_bytes(reopen: &Reopen) {
    let store = reopen();
    let keys: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"a\0b", "käse".as_bytes(), &[0xff], &[0xff, 0xff, 0]];
    for key in keys {
        put(&*store, Table::Meta, &[(key, key)]);
    }
    for key in keys {
        assert_eq!(row(&*store, Table::Meta, key), Some(key.to_vec()));
    }
    let mut sorted = keys;
    sorted.sort_unstable();
    assert!(everything(&*store, Table::Meta).iter().map(|(key, _)| &key[..]).eq(sorted), "keys sort by unsigned bytes");
}

pub(super) fn scans_keep_bounds_order_and_limit(reopen: &Reopen) {
    let store = reopen();
    for n in 0..10u8 {
        put(&*store, Table::Events, &[(&[1, n], &[n])]);
    }
    put(&*store, Table::Events, &[(&[0, 9], b"before"), (&[2], b"behind")]);

    let scan = |start: &[u8], end: &[u8], order, limit| -> Vec<u8> {
        let rows = store.scan(Table::Events, start, end, order, limit).unwrap();
        rows.iter()
            .map(|(key, content)| (key[0] == 1 && content == &key[1..], key[1]))
            .map(|(whole, n)| {
                assert!(whole, "a row of another range, or without its content");
                n
            })
            .collect()
    };
    assert_eq!(scan(&[1, 3], &[1, 6], Order::Ascending, 99), [3, 4, 5], "the end is not included");
    assert_eq!(scan(&[1, 3], &[1, 6], Order::Descending, 99), [5, 4, 3]);
    assert_eq!(scan(&[1], &[2], Order::Ascending, 2), [0, 1], "bounds need not be keys");
    assert_eq!(scan(&[1], &[2], Order::Descending, 2), [9, 8]);
    assert_eq!(scan(&[1, 9], &[1, 9, 0], Order::Descending, 99), [9], "the key itself and nothing else");
}

pub(super) fn scans_of_nothing_are_empty(reopen: &Reopen) {
    let store = reopen();
    put(&*store, Table::Events, &[(b"b", b"row")]);
    let bounds: [(&[u8], &[u8]); 5] = [(b"b", b"b"), (b"c", b"b"), (b"", b""), (b"", b"b"), (b"c", b"d")];
    for (start, end) in bounds {
        for order in [Order::Ascending, Order::Descending] {
            assert!(store.scan(Table::Events, start, end, order, 9).unwrap().is_empty(), "{start:?}..{end:?}");
        }
    }
    assert!(store.scan(Table::Events, b"", b"z", Order::Ascending, 0).unwrap().is_empty());
}

/// Each commit writes one number into all of a range's rows; a scan that sees two numbers saw half of a commit.
pub(super) fn a_scan_is_one_snapshot(reopen: &Reopen) {
    const ROWS: u16 = 500;
    let store = reopen();
    let write = |number: u32| {
        let mut batch = Batch::default();
        for row in 0..ROWS {
            batch.put(Table::Events, &row.to_be_bytes(), &number.to_be_bytes());
        }
        store.commit(&batch).unwrap();
    };
    write(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                for order in [Order::Ascending, Order::Descending] {
                    let rows = store.scan(Table::Events, b"", &[0xff; 3], order, usize::MAX).unwrap();
                    assert_eq!(rows.len(), usize::from(ROWS));
                    assert!(rows.windows(2).all(|pair| pair[0].1 == pair[1].1), "half of a commit was seen");
                }
            }
        });
        for number in 1..=50 {
            write(number);
            let key = (ROWS - 1).to_be_bytes();
            assert_eq!(
                row(&*store, Table::Events, &key),
                Some(number.to_be_bytes().to_vec()),
                "a commit is seen at once"
            );
        }
        done.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
}

pub(super) fn a_large_batch_is_whole(reopen: &Reopen) {
    let store = reopen();
    let mut batch = Batch::default();
    let mut part = Batch::default();
    let large = vec![0xab; 3 << 20];
    for n in 0..20_000u32 {
        part.clear();
        part.put(Table::Tokens, &n.to_be_bytes(), &[7; 170]);
        part.put(Table::Events, &n.to_be_bytes(), if n == 10_000 { &large } else { b"event" });
        batch.append(&part);
    }
    assert_eq!(batch.len(), 40_000);
    store.commit(&batch).unwrap();
    drop(store);

    let store = reopen();
    assert_eq!(everything(&*store, Table::Tokens).len(), 20_000);
    assert_eq!(everything(&*store, Table::Events).len(), 20_000);
    assert!(row(&*store, Table::Events, &10_000u32.to_be_bytes()) == Some(large), "a row of some megabytes");
}

pub(super) fn an_empty_batch_changes_nothing(reopen: &Reopen) {
    let store = reopen();
    store.commit(&Batch::default()).unwrap();
    assert!(Table::ALL.iter().all(|table| everything(&*store, *table).is_empty()));
}

pub(super) fn commits_outlast_the_process(reopen: &Reopen) {
    for round in 0..4u8 {
        let store = reopen();
        let expected: Vec<Row> = (0..round).map(|n| (vec![n], vec![n; 5])).collect();
        assert_eq!(everything(&*store, Table::Keys), expected, "round {round}");
        put(&*store, Table::Keys, &[(&[round], &[round; 5])]);
        let mut batch = Batch::default();
        batch.delete(Table::Scopes, &[round]);
        batch.put(Table::Scopes, &[round + 1], b"");
        store.commit(&batch).unwrap();
        assert_eq!(everything(&*store, Table::Scopes), [(vec![round + 1], Vec::new())]);
    }
}

pub(super) fn the_latest_content_wins(reopen: &Reopen) {
    let store = reopen();
    put(&*store, Table::Tokens, &[(b"a", b"1")]);
    put(&*store, Table::Tokens, &[(b"a", b"a longer one")]);
    assert_eq!(row(&*store, Table::Tokens, b"a"), Some(b"a longer one".to_vec()));
    put(&*store, Table::Tokens, &[(b"a", b"")]);
    drop(store);
    assert_eq!(row(&*reopen(), Table::Tokens, b"a"), Some(Vec::new()));
}
