//! What is signed: only what lies in the store and hashes to the tree, whole, and written outside before anyone sees it.

use super::*;
use crate::crypto::state::Tally;
use crate::ledger::{CheckpointDirectory, OpenError};
use crate::merkle::{Frontier, leaf_hash};

/// A vault whose next events nothing vouches for yet.
fn with_events(number: u32) -> (Site, Open) {
    let site = Site::new();
    let open = site.open().unwrap();
    for number in 1..=number {
        issue_now(&open, number).wait().unwrap();
    }
    (site, open)
}

/// Changes a row under the running vault, as a fault of memory or disk would.
fn change(site: &Site, table: Table, key: &[u8], row: Option<&[u8]>) {
    let mut batch = Batch::default();
    match row {
        Some(row) => batch.put(table, key, row),
        None => batch.delete(table, key),
    }
    crate::store::Store::commit(&site.store.reopen(), &batch).unwrap();
}

#[test]
fn what_was_changed_after_it_was_hashed_is_not_signed_a_08() {
    let mut tried = 0;
    let length = {
        let (site, open) = with_events(3);
        open.close();
        site.row(Table::Events, &2_u64.to_be_bytes()).unwrap().len()
    };
    for at in (0..length).step_by(7) {
        let (site, open) = with_events(3);
        let key = 2_u64.to_be_bytes();
        let mut row = site.row(Table::Events, &key).unwrap();
        row[at] ^= 0x10;
        change(&site, Table::Events, &key, Some(&row));
        assert_eq!(vouch(&open).err(), Some(Refused::Unavailable), "byte {at}");
        assert_refused_for_good(site, open);
        tried += 1;
    }
    println!("before signing: {tried} flipped bits found");
}

/// The old checkpoint stays, the process was told to end, and nothing is acknowledged or signed any more.
fn assert_refused_for_good(site: Site, open: Open) {
    let told = site.fatal.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "told once: {told:?}");
    assert!(told[0].contains("not what its tree says"), "{told:?}");
    assert!(!open.ledger.is_alive());
    assert_eq!(submit(&open.ledger, issue(open.ledger.basis(), 99)).err(), Some(Refused::Unavailable));
    assert_eq!(vouch(&open).err(), Some(Refused::Unavailable));
    assert_eq!(open.ledger.vouched().size(), 1);
    open.close();
    assert_eq!(site.vouched(), 1, "nothing was signed, at the end neither");
    assert!(matches!(site.open().err(), Some(OpenError::Doubted(_))), "somebody has to look first");
}

#[test]
fn an_event_that_is_gone_or_moved_is_not_signed_a_08() {
    for case in 0..3 {
        let (site, open) = with_events(3);
        let (one, two) = (1_u64.to_be_bytes(), 2_u64.to_be_bytes());
        let row = |key: &[u8]| site.row(Table::Events, key).unwrap();
        match case {
            0 => change(&site, Table::Events, &two, None),
            1 => change(&site, Table::Events, &two, Some(&row(&one))),
            _ => {
                let (first, second) = (row(&one), row(&two));
                change(&site, Table::Events, &one, Some(&second));
                change(&site, Table::Events, &two, Some(&first));
            }
        }
        assert_eq!(vouch(&open).err(), Some(Refused::Unavailable), "case {case}");
        assert_refused_for_good(site, open);
    }
}

#[test]
fn a_tile_that_was_changed_is_not_signed_a_08() {
    let (site, open) = with_events(256);
    let mut tile = site.row(Table::Tree, b"tile/0/000").unwrap();
    tile[4000] ^= 1;
    change(&site, Table::Tree, b"tile/0/000", Some(&tile));
    assert_eq!(vouch(&open).err(), Some(Refused::Unavailable));
    assert_refused_for_good(site, open);
}

#[test]
fn what_can_not_be_read_is_not_signed_and_the_vault_goes_on() {
    let (site, open) = with_events(3);
    site.store.damage(Table::Events, &2_u64.to_be_bytes());
    assert_eq!(vouch(&open).err(), Some(Refused::Unavailable));
    assert!(site.fatal.lock().unwrap().is_empty() && open.ledger.is_alive());
    issue_now(&open, 9).wait().unwrap();
    open.close();
    assert_eq!(site.vouched(), 1);
    assert!(!site.checkpoints().doubt_file().exists());
}

#[test]
fn a_checkpoint_on_demand_covers_all_that_is_durable_and_says_when_and_by_which_rules() {
    let (site, open) = with_events(3);
    assert_eq!((open.ledger.vouched().size(), open.ledger.unvouched()), (1, 3));
    let vouched = vouch(&open).unwrap();
    assert_eq!((vouched.size(), open.ledger.unvouched()), (4, 0));
    assert_eq!(open.ledger.vouched().note(), vouched.note());
    let outside = std::fs::read_to_string(site.checkpoints().file()).unwrap();
    assert_eq!(outside, vouched.note(), "what is told stands outside already");
    let checkpoint = site.log_keys().open(vouched.note()).unwrap();
    let lines: Vec<&str> = checkpoint.extensions().iter().map(String::as_str).collect();
    let state = site.state_key().digest(4, &Tally::default()).to_string();
    assert_eq!(lines, ["time 2026-09-21T14:13:20.000Z", &format!("rulebook {}", "72".repeat(32)), &state]);
    let mut tree = Frontier::new();
    for sequence in 0..4_u64 {
        drop(tree.append(leaf_hash(&site.row(Table::Events, &sequence.to_be_bytes()).unwrap())));
    }
    assert_eq!((*checkpoint.root(), vouched.tree().root()), (tree.root(), tree.root()));
    assert_eq!(vouch(&open).unwrap().note(), vouched.note(), "nothing new, nothing signed");
    open.close();
}

#[test]
fn who_follows_the_log_learns_of_every_event() {
    let (site, open) = with_events(2);
    let mut follower = open.ledger.follow();
    assert_eq!(*follower.borrow_and_update(), 3, "what is durable already");
    issue_now(&open, 3).wait().unwrap();
    assert!(follower.has_changed().unwrap());
    assert_eq!(*follower.borrow_and_update(), 4);
    open.close();
    drop(site);
}

// === two directories ===

fn with_copy() -> (Site, tempfile::TempDir) {
    let second = tempfile::tempdir().unwrap();
    let mut site = Site::new();
    site.copy = Some(CheckpointDirectory::new(second.path()));
    (site, second)
}

fn grow(site: &Site, events: u32) {
    let open = site.open().unwrap();
    (0..events).for_each(|number| drop(issue_now(&open, 100 + number).wait().unwrap()));
    open.close();
}

#[test]
fn the_copy_has_the_same_and_may_be_new() {
    let (site, second) = with_copy();
    grow(&site, 3);
    let read = |file: std::path::PathBuf| std::fs::read_to_string(file).unwrap();
    assert_eq!(read(site.checkpoints().file()), read(second.path().join("checkpoint")));
    std::fs::remove_file(second.path().join("checkpoint")).unwrap();
    grow(&site, 1);
    assert_eq!(read(site.checkpoints().file()), read(second.path().join("checkpoint")));
}

#[test]
fn the_copy_alone_finds_that_everything_else_was_turned_back_a_05() {
    let (mut site, _second) = with_copy();
    grow(&site, 3);
    let yesterday = (site.dump(), std::fs::read_to_string(site.checkpoints().file()).unwrap());
    grow(&site, 5);
    let today = site.dump();
    site.edit(|rows| {
        for (table, key) in today.keys() {
            rows.delete(*table, key);
        }
        for ((table, key), row) in &yesterday.0 {
            rows.put(*table, key, row);
        }
    });
    site.checkpoints().write(&yesterday.1).unwrap();
    let error = site.open().err().unwrap();
    assert!(matches!(error, OpenError::TooShort { size: 4, vouched: 9 }), "{error}");
}

#[test]
fn a_copy_of_another_history_is_refused_a_03() {
    let (mut site, second) = with_copy();
    let other = Site::new();
    grow(&other, 2);
    std::fs::copy(other.checkpoints().file(), second.path().join("checkpoint")).unwrap();
    // At least as long as that one, with other events.
    let copy = site.copy.take();
    let open = site.open().unwrap();
    (0..5).for_each(|number| drop(issue_now(&open, 900 + number).wait().unwrap()));
    open.close();
    site.copy = copy;
    let error = site.open().err().unwrap();
    assert!(matches!(error, OpenError::OtherHistory(_, 3)), "{error}");
}

#[test]
fn a_copy_that_can_not_be_written_stops_nothing() {
    let (mut site, _second) = with_copy();
    // Below what is no directory: not even root makes one there.
    site.copy = Some(CheckpointDirectory::new("/proc/nowhere/at/all"));
    grow(&site, 3);
    assert_eq!(site.vouched(), 4);
}
