//! Opening: what is on disk is held against the checkpoint outside, the root key and the log key. Every inconsistency has
//! its name, and a refused start changes nothing.

use super::*;
use crate::crypto::state::MASKED_LENGTH;
use crate::keys::authentic;
use crate::ledger::state::HEAD_ROW;
use crate::ledger::{
    CheckpointDirectory, Checkpoints, OpenError, Outside, StoredHead, check as check_log, identify, stored_head,
};
use crate::merkle::note::{Checkpoint, NoteError};

/// A closed log of `events` events, all of them vouched for.
pub(super) fn log_of(events: u32) -> Site {
    let site = Site::new();
    let open = site.open().unwrap();
    let answers: Vec<Answer> = (1..events).map(|number| issue_now(&open, number)).collect();
    assert!(answers.into_iter().all(|answer| answer.wait().is_ok()));
    open.close();
    assert_eq!((site.check().len(), site.vouched()), (events as usize, u64::from(events)));
    site
}

/// Why it does not open. Nothing was changed by trying.
pub(super) fn refusal(site: &Site) -> OpenError {
    let before = site.dump();
    let checkpoint = std::fs::read(site.checkpoints().file()).ok();
    let error = site.open().err().expect("it must not open");
    assert!(site.dump() == before, "a refused start changes nothing");
    assert_eq!(std::fs::read(site.checkpoints().file()).ok(), checkpoint);
    error
}

fn key(sequence: u64) -> [u8; 8] {
    sequence.to_be_bytes()
}

/// Flips one bit of a row.
fn flip(site: &mut Site, table: Table, row_key: &[u8], at: usize) {
    let mut row = site.row(table, row_key).unwrap();
    row[at] ^= 1;
    site.edit(|rows| rows.put(table, row_key, &row));
}

#[test]
fn a_log_that_is_shorter_than_its_checkpoint_is_refused_a_02() {
    for missing in 1..=5_u64 {
        let mut site = log_of(5);
        site.edit(|rows| (5 - missing..5).for_each(|sequence| rows.delete(Table::Events, &key(sequence))));
        let error = refusal(&site);
        assert!(matches!(error, OpenError::TooShort { size, vouched: 5 } if size == 5 - missing), "{error}");
    }
}

#[test]
fn an_event_that_is_missing_is_named_a_02() {
    for missing in 0..4_u64 {
        let mut site = log_of(5);
        site.edit(|rows| rows.delete(Table::Events, &key(missing)));
        let error = refusal(&site);
        assert!(matches!(error, OpenError::Gap(sequence) if sequence == missing), "{error}");
    }
}

#[test]
fn an_event_that_was_changed_is_found_a_01() {
    let mut tried = 0;
    let mut site = log_of(5);
    for sequence in 0..5_u64 {
        let good = site.row(Table::Events, &key(sequence)).unwrap();
        for at in 0..good.len() {
            flip(&mut site, Table::Events, &key(sequence), at);
            let error = refusal(&site);
            assert!(matches!(error, OpenError::WrongHash { from: 0, to: 5 }), "byte {at} of event {sequence}: {error}");
            tried += 1;
            site.edit(|rows| rows.put(Table::Events, &key(sequence), &good));
        }
    }
    site.open().unwrap().close();
    println!("recovery: {tried} changed events found");
}

#[test]
fn events_that_changed_places_are_found_a_02() {
    let mut site = log_of(5);
    let (one, two) = (site.row(Table::Events, &key(1)).unwrap(), site.row(Table::Events, &key(2)).unwrap());
    site.edit(|rows| {
        rows.put(Table::Events, &key(1), &two);
        rows.put(Table::Events, &key(2), &one);
    });
    assert!(matches!(refusal(&site), OpenError::WrongHash { .. }));
}

#[test]
fn an_event_behind_the_checkpoint_must_be_that_of_the_last_commit_a_02() {
    // No checkpoint vouches for it yet, but the head does.
    let mut site = log_of(5);
    let (good, head) = (site.row(Table::Events, &key(4)).unwrap(), site.row(Table::Tree, b"head").unwrap());
    for bad in [&b"\x01nonsense"[..], b"\x02", &good] {
        site.edit(|rows| rows.put(Table::Events, &key(5), bad));
        assert!(matches!(refusal(&site), OpenError::OtherSize { size: 6, head: 5 }));
    }
    let open = {
        site.edit(|rows| rows.delete(Table::Events, &key(5)));
        site.open().unwrap()
    };
    let outside = std::fs::read(site.checkpoints().file()).unwrap();
    issue_now(&open, 5).wait().unwrap();
    issue_now(&open, 6).wait().unwrap();
    open.close();
    // As it would be had the process died before it signed.
    std::fs::write(site.checkpoints().file(), outside).unwrap();
    let (five, six) = (site.row(Table::Events, &key(5)).unwrap(), site.row(Table::Events, &key(6)).unwrap());
    for at in 0..six.len() {
        flip(&mut site, Table::Events, &key(6), at);
        assert!(matches!(refusal(&site), OpenError::WrongHash { from: 5, to: 7 }), "byte {at}");
        site.edit(|rows| rows.put(Table::Events, &key(6), &six));
    }
    site.edit(|rows| rows.delete(Table::Events, &key(6)));
    assert!(matches!(refusal(&site), OpenError::OtherSize { size: 6, head: 7 }), "cut off behind the checkpoint");
    site.edit(|rows| rows.put(Table::Events, &key(6), &five));
    assert!(matches!(refusal(&site), OpenError::WrongHash { .. }));
    site.edit(|rows| rows.put(Table::Tree, b"head", &head));
    assert!(matches!(refusal(&site), OpenError::OtherSize { size: 7, head: 5 }), "an older head was put back");
    site.edit(|rows| rows.delete(Table::Tree, b"head"));
    assert!(matches!(refusal(&site), OpenError::Head));
}

#[test]
fn a_row_that_no_log_has_is_refused() {
    for name in [&[0xff; 8][..], b"xyz", &[0xff; 7]] {
        let mut site = log_of(5);
        site.edit(|rows| rows.put(Table::Events, name, b""));
        let error = refusal(&site);
        assert!(matches!(error, OpenError::Damaged("events")), "{name:x?}: {error}");
    }
}

#[test]
fn tiles_are_held_against_the_checkpoint_too() {
    for events in [256, 257, 600] {
        for change in 0..3 {
            let mut site = log_of(events);
            let tile = b"tile/0/000";
            match change {
                0 => flip(&mut site, Table::Tree, tile, 77),
                1 => site.edit(|rows| rows.delete(Table::Tree, tile)),
                _ => site.edit(|rows| rows.put(Table::Tree, tile, b"short")),
            }
            let error = refusal(&site);
            assert!(matches!(error, OpenError::WrongHash { .. }), "{events} events, change {change}: {error}");
        }
    }
    // Completed behind the checkpoint: the events themselves tell.
    let mut site = log_of(250);
    let checkpoint = std::fs::read_to_string(site.checkpoints().file()).unwrap();
    let open = site.open().unwrap();
    (300..320).for_each(|number| drop(issue_now(&open, number).wait().unwrap()));
    open.close();
    site.checkpoints().write(&checkpoint).unwrap();
    assert!(site.open().map(Open::close).is_ok(), "a checkpoint may be older");
    site.checkpoints().write(&checkpoint).unwrap();
    flip(&mut site, Table::Tree, b"tile/0/000", 5);
    assert!(matches!(refusal(&site), OpenError::WrongHash { from: 0, to: 256 }));
}

/// What `cloakroom verify` holds a log against, beside a vault that runs or without one.
fn checked(site: &Site) -> Result<(), OpenError> {
    let (_, meta) = identify(&*site.store, &site.root()).unwrap();
    let keys = site.log_keys();
    let outside = Outside::read(&Checkpoints { directory: site.checkpoints(), copy: site.copy.clone() }, &keys)?;
    check_log(&*site.store, &outside, &meta, &site.state_key())
}

#[test]
fn a_check_finds_what_a_start_would_a_02() {
    let mut site = log_of(5);
    checked(&site).unwrap();
    let event = site.row(Table::Events, &key(2)).unwrap();
    site.edit(|rows| rows.delete(Table::Events, &key(2)));
    assert!(matches!(checked(&site), Err(OpenError::Gap(2))));
    site.edit(|rows| rows.put(Table::Events, &key(2), &event));
    flip(&mut site, Table::Events, &key(4), 20);
    assert!(matches!(checked(&site), Err(OpenError::WrongHash { .. })));
    flip(&mut site, Table::Events, &key(4), 20);
    site.edit(|rows| rows.delete(Table::Events, &key(0)));
    assert!(matches!(checked(&site), Err(OpenError::Gap(0))));
}

#[test]
fn records_that_the_checkpoint_does_not_vouch_for_are_refused_c_04() {
    let mut site = log_of(5);
    let (_, meta) = identify(&*site.store, &site.root()).unwrap();
    let state = site.state_key();
    let head = stored_head(&*site.store, &meta, &state).unwrap().unwrap();
    let outside = Outside::read(&Checkpoints::of(site.checkpoints()), &site.log_keys()).unwrap();
    assert_eq!(outside.newest().map(Checkpoint::size), Some(5));
    assert_eq!(outside.state(5), Some(state.digest(5, &head.total)));
    assert_eq!((outside.state(4), outside.state(6)), (None, None), "it speaks of its own size alone");
    // A head of the right log, with other records.
    let forged = StoredHead { total: state.unmask(None, &[1; MASKED_LENGTH]), ..head };
    let row = forged.seal(&meta, &state, [7; 16]);
    site.edit(|rows| rows.put(Table::Tree, HEAD_ROW, &row));
    for error in [refusal(&site), checked(&site).unwrap_err()] {
        assert!(matches!(error, OpenError::OtherRecords { found: 0x0101_0101_0101_0101, vouched: 0 }), "{error}");
    }
}

#[test]
fn a_log_of_which_only_the_copy_knows_is_not_begun_anew_a_05() {
    let copy = tempfile::tempdir().unwrap();
    let mut site = Site::bare();
    site.copy = Some(CheckpointDirectory::new(copy.path()));
    std::fs::copy(log_of(5).checkpoints().file(), copy.path().join("checkpoint")).unwrap();
    let error = refusal(&site);
    assert!(matches!(&error, OpenError::NoCheckpoint(path) if *path == site.checkpoints().file()), "{error}");
    // The control: where neither knows of any, it is a new one.
    std::fs::remove_file(copy.path().join("checkpoint")).unwrap();
    site.open().unwrap().close();
}

#[test]
fn without_its_checkpoint_a_log_is_not_opened() {
    let site = log_of(5);
    let file = site.checkpoints().file();
    let checkpoint = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(refusal(&site), OpenError::NoCheckpoint(path) if path == file));
    // A crash while it was being replaced leaves the old one.
    site.checkpoints().write(&checkpoint).unwrap();
    std::fs::write(file.with_extension("new"), "half of a").unwrap();
    site.open().unwrap().close();
    site.check();
}

#[test]
fn a_checkpoint_that_was_altered_is_refused_a_04() {
    let site = log_of(5);
    let good = std::fs::read_to_string(site.checkpoints().file()).unwrap();
    let invalid = |text: &str| {
        std::fs::write(site.checkpoints().file(), text).unwrap();
        match refusal(&site) {
            OpenError::Checkpoint(CheckpointError::Invalid { error, .. }) => error,
            other => panic!("{other}"),
        }
    };
    assert!(matches!(invalid(&good.replacen("\n5\n", "\n4\n", 1)), NoteError::BadSignature(_)));
    assert!(matches!(invalid(""), NoteError::Malformed(_)));
    assert!(matches!(invalid(&good[..good.len() - 9]), NoteError::Malformed(_)));
    std::fs::write(site.checkpoints().file(), vec![b'x'; 70_000]).unwrap();
    assert!(matches!(refusal(&site), OpenError::Checkpoint(CheckpointError::Io { .. })));
    std::fs::write(site.checkpoints().file(), [0xff, 0xfe]).unwrap();
    assert!(matches!(refusal(&site), OpenError::Checkpoint(CheckpointError::Io { .. })));
}

#[test]
fn an_older_copy_of_everything_is_found_a_05() {
    let mut site = log_of(5);
    let yesterday = site.dump();
    let open = site.open().unwrap();
    (10..15).for_each(|number| drop(issue_now(&open, number).wait().unwrap()));
    open.close();
    let today = site.dump();
    site.edit(|rows| {
        for (table, key) in today.keys() {
            rows.delete(*table, key);
        }
        for ((table, key), row) in &yesterday {
            rows.put(*table, key, row);
        }
    });
    assert!(site.dump() == yesterday);
    let error = refusal(&site);
    assert!(matches!(error, OpenError::TooShort { size: 5, vouched: 10 }), "{error}");
}

#[test]
fn another_log_key_is_refused() {
    let mut site = log_of(5);
    site.log_key.0 = "another.example/vault";
    let error = refusal(&site);
    assert!(matches!(&error, OpenError::WrongLogKey { key, data } if key == "another.example/vault" && data == LOG));
    // The same name, and another key.
    site.log_key = (LOG, [9; 32]);
    let error = refusal(&site);
    assert!(matches!(error, OpenError::RetiredLogKey { known: false, .. }), "{error}");
}

#[test]
fn another_root_key_is_refused_before_anything_is_opened() {
    let mut site = log_of(5);
    site.root[31] ^= 1;
    let error = refusal(&site);
    assert!(matches!(error, OpenError::WrongRootKey("format")), "{error}");
    assert!(!error.to_string().contains("5252"), "no key in a message");
}

#[test]
fn a_newer_format_is_refused_and_named_c_06() {
    for (name, newer) in [
        ("format", vec![0, 0, 0, 4]),
        ("vault", [&[2][..], &[0x56; 16]].concat()),
        ("log", b"\x02log".to_vec()),
        ("log_keys", b"\x020 key".to_vec()),
    ] {
        let mut site = log_of(2);
        let meta = site.open().map(|open| (Arc::clone(&open.meta), open.close()).0).unwrap();
        let row = authentic::seal(&meta, Table::Meta, name.as_bytes(), &newer);
        site.edit(|rows| rows.put(Table::Meta, name.as_bytes(), &row));
        let error = refusal(&site);
        let expected = if name == "format" { 4 } else { 2 };
        assert!(matches!(error, OpenError::Newer(format) if format == expected), "{name}: {error}");
    }
}

#[test]
fn the_format_of_before_is_refused_and_named_c_06() {
    let mut site = log_of(2);
    let meta = site.open().map(|open| (Arc::clone(&open.meta), open.close()).0).unwrap();
    let row = authentic::seal(&meta, Table::Meta, b"format", &[0, 0, 0, 1]);
    site.edit(|rows| rows.put(Table::Meta, b"format", &row));
    let error = refusal(&site);
    assert!(matches!(error, OpenError::Older(1)), "{error}");
}

#[test]
fn rows_of_meta_can_not_be_edited_moved_or_removed() {
    let mut tried = 0;
    let mut site = log_of(2);
    for name in ["format", "vault", "log", "log_keys"] {
        let good = site.row(Table::Meta, name.as_bytes()).unwrap();
        for at in 0..good.len() {
            flip(&mut site, Table::Meta, name.as_bytes(), at);
            let error = refusal(&site);
            let named = matches!(error, OpenError::WrongRootKey(_) | OpenError::Newer(_) | OpenError::Older(_));
            assert!(named, "byte {at} of meta/{name}: {error}");
            tried += 1;
            site.edit(|rows| rows.put(Table::Meta, name.as_bytes(), &good));
        }
        site.edit(|rows| rows.put(Table::Meta, name.as_bytes(), b"short"));
        assert!(matches!(refusal(&site), OpenError::Damaged(row) | OpenError::WrongRootKey(row) if row == name));
        site.edit(|rows| rows.delete(Table::Meta, name.as_bytes()));
        assert!(matches!(refusal(&site), OpenError::Damaged(row) if row == name));
        site.edit(|rows| rows.put(Table::Meta, name.as_bytes(), &good));
    }
    site.open().unwrap().close();
    let log = site.row(Table::Meta, b"log").unwrap();
    site.edit(|rows| rows.put(Table::Meta, b"log_keys", &log));
    assert!(matches!(refusal(&site), OpenError::WrongRootKey("log_keys")), "a row that was moved does not verify");
    println!("recovery: {tried} bytes of meta flipped, all found");
}

#[test]
fn time_goes_on_where_the_mark_left_it_l_03() {
    let mut site = Site::new();
    let open = site.open().unwrap();
    site.clock.advance(Duration::from_hours(5));
    let later = issue_now(&open, 1).wait().unwrap().time();
    open.close();
    assert_eq!(later, START.checked_add(Duration::from_hours(5)).unwrap());
    site.clock = crate::clock::FakeClock::at(START);
    site.restart(None);
    let open = site.open().unwrap();
    assert_eq!(open.ledger.clock().now(), later, "the clock was set back, and time stands");
    open.close();
}

#[test]
fn the_mark_can_not_be_put_back_alone_l_03() {
    let mut site = log_of(2);
    let older = site.row(Table::Tree, HEAD_ROW).unwrap();
    let open = site.open().unwrap();
    site.clock.advance(Duration::from_hours(5));
    issue_now(&open, 3).wait().unwrap();
    open.close();
    site.edit(|rows| rows.put(Table::Tree, HEAD_ROW, &older));
    assert!(matches!(refusal(&site), OpenError::OtherSize { .. }), "the head is of another log");
}

/// As a version with storage format 2 would have left this vault.
pub(super) fn to_format_2(site: &mut Site, mark: Timestamp) {
    let (_, meta) = identify(&*site.store, &site.root()).unwrap();
    let key = site.state_key();
    let head = StoredHead::open(&meta, &key, &site.row(Table::Tree, HEAD_ROW).unwrap()).unwrap();
    let head = StoredHead { mark: None, ..head }.seal(&meta, &key, [7; 16]);
    let row = |name: &[u8], content: &[u8]| authentic::seal(&meta, Table::Meta, name, content);
    let time = row(b"time", &[&[1][..], &mark.millis().to_be_bytes()].concat());
    let format = row(b"format", &[0, 0, 0, 2]);
    site.edit(|rows| {
        rows.put(Table::Tree, HEAD_ROW, &head);
        rows.put(Table::Meta, b"time", &time);
        rows.put(Table::Meta, b"format", &format);
    });
}

#[test]
fn data_of_format_2_is_taken_up_in_one_commit_s_13_l_03() {
    let mut site = log_of(2);
    let mark = START.checked_add(Duration::from_hours(9)).unwrap();
    to_format_2(&mut site, mark);
    let before = site.dump();
    // The commit fails: nothing was changed, and the next start does it.
    site.restart(Some(Box::new(|_, _| Fault { applied: false, reported: true })));
    assert!(matches!(site.open(), Err(OpenError::Commit(_))));
    assert!(site.dump() == before);
    site.restart(None);
    let open = site.open().unwrap();
    assert_eq!(open.ledger.clock().now(), mark, "time goes on where it was");
    open.close();
    let after = site.dump();
    assert_eq!(after.len(), before.len() - 1, "the mark's own row is gone");
    site.check();

    // What only format 2 has, put back in data that was taken up: its mark would be believed.
    let current = site.row(Table::Meta, b"format").unwrap();
    let older = |name: &[u8]| before[&(Table::Meta, name.to_vec())].clone();
    site.edit(|rows| {
        rows.put(Table::Meta, b"format", &older(b"format"));
        rows.put(Table::Meta, b"time", &older(b"time"));
    });
    assert!(matches!(refusal(&site), OpenError::Head));
    site.edit(|rows| rows.put(Table::Meta, b"format", &current));
    // Its head in data of the current format was put there by somebody.
    let head = before[&(Table::Tree, HEAD_ROW.to_vec())].clone();
    site.edit(|rows| rows.put(Table::Tree, HEAD_ROW, &head));
    assert!(matches!(refusal(&site), OpenError::Head));
    // And so was a lone mark of the older format in such data without its mark.
    let mut site = log_of(2);
    to_format_2(&mut site, mark);
    site.edit(|rows| rows.delete(Table::Meta, b"time"));
    assert!(matches!(refusal(&site), OpenError::Damaged("time")));
}

#[test]
fn a_log_of_many_tiles_is_whole_and_opens_again() {
    for events in [255, 256, 257, 511, 512, 513, 66_000] {
        let mut site = Site::new();
        let gate = site.restart_gated();
        let open = site.open().unwrap();
        let held = hold_one(&open, &gate, 1);
        let waiting: Vec<Answer> = (2..events).map(|number| issue_now(&open, number)).collect();
        gate.go(Fault::NONE);
        gate.pass();
        assert!(held.wait().is_ok() && waiting.into_iter().all(|answer| answer.wait().is_ok()));
        open.close();
        assert_eq!(site.check().len(), events as usize);
        site.restart(None);
        let open = site.open().unwrap();
        (0..3).for_each(|_| drop(issue_now(&open, events).wait().unwrap()));
        let head = open.ledger.head().unwrap();
        open.close();
        assert_eq!((site.check().len() as u64, site.vouched()), (head.size, head.size));
        println!("tiles: a log of {} events, computed anew", head.size);
    }
}
