//! Every way in which what lies below the ledger can fail: reads one by one, rows of a wrong form, files, threads and
//! randomness. Each is told as what it is, and costs nothing that was acknowledged.

use super::recovery::{log_of, refusal, to_format_2};
use super::witnesses::{LINE, outside, witnessed};
use super::*;
use crate::crypto::ScopeId;
use crate::crypto::state::{Group, MASKED_LENGTH, StateKey, Tally};
use crate::keys::{authentic, entropy};
use crate::ledger::index::IndexKey;
use crate::ledger::open::versioned;
use crate::ledger::state::{BadHead, HEAD_ROW, State};
use crate::ledger::witnesses::Witnessed;
use crate::ledger::{CheckpointDirectory, Genesis, LogKeys, OpenError, ReplayError, StoredHead, stored_sum};
use crate::merkle::Frontier;
use crate::merkle::note::NoteError;
use crate::secret::SecretKey;
use crate::store::{CommitError, Found, MemoryStore, Order, ReadError, Row, Rows, Store, Tier};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

// === reads ===

/// A store of which one read fails, by its number, and every other works.
struct Failing {
    store: Arc<MemoryStore>,
    at: usize,
    reads: AtomicUsize,
}

impl Failing {
    fn ask(&self, table: Table) -> Result<(), ReadError> {
        let is_now = self.reads.fetch_add(1, Ordering::SeqCst) == self.at;
        if is_now { Err(ReadError::Failed { table: table.name(), detail: "the test's".to_owned() }) } else { Ok(()) }
    }
}

impl Rows for Failing {
    fn get(&self, table: Table, keys: &[&[u8]], tier: Tier) -> Result<Vec<Found>, ReadError> {
        self.ask(table)?;
        self.store.get(table, keys, tier)
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], order: Order, limit: usize) -> Result<Vec<Row>, ReadError> {
        self.ask(table)?;
        self.store.scan(table, start, end, order, limit)
    }
}

impl Store for Failing {
    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        self.store.commit(batch)
    }
}

/// A start whose read number `at` fails: what it says, or `None` if it had no such read.
fn start_failing(site: &Site, at: usize) -> Option<OpenError> {
    let store = Arc::new(Failing { store: Arc::clone(&site.store), at, reads: AtomicUsize::new(0) });
    let started = identify(&*store, &site.root()).and_then(|(genesis, meta)| {
        let settings = site.settings(Box::new(|| 1), Signing::by(site.log_key()));
        crate::ledger::open(Arc::clone(&store) as _, &genesis, meta, site.state_key(), settings)
    });
    match started {
        Ok((ledger, running)) => {
            drop(ledger);
            let _nothing_new = running.close();
            None
        }
        Err(error) => Some(error),
    }
}

#[test]
fn a_read_that_fails_anywhere_in_a_start_is_told_as_that_and_changes_nothing_s_04() {
    let copy = tempfile::tempdir().unwrap();
    let mut plain = log_of(3);
    plain.copy = Some(CheckpointDirectory::new(copy.path()));
    plain.open().unwrap().close();
    let open = plain.open().unwrap();
    issue_now(&open, 9).wait().unwrap();
    open.close();
    let mut older = log_of(2);
    to_format_2(&mut older, START);
    let tiles = log_of(300);
    // Its copy is from before the first tile was full.
    let behind = tempfile::tempdir().unwrap();
    let mut long = log_of(100);
    std::fs::copy(long.checkpoints().file(), behind.path().join("checkpoint")).unwrap();
    let open = long.open().unwrap();
    (0..200).for_each(|number| _ = issue_now(&open, number).wait().unwrap());
    open.close();
    long.copy = Some(CheckpointDirectory::new(behind.path()));
    for (site, least) in [(plain, 9), (older, 9), (tiles, 9), (long, 10)] {
        let before = site.dump();
        let mut failed = 0;
        while let Some(error) = start_failing(&site, failed) {
            assert!(matches!(error, OpenError::Read(ReadError::Failed { .. })), "read {failed}: {error}");
            assert!(site.dump() == before, "read {failed}: a refused start changes nothing");
            failed += 1;
        }
        assert!(failed >= least, "{failed} reads");
        site.open().unwrap().close();
        site.check();
    }
}

#[test]
fn what_can_not_be_read_again_is_tried_again_and_no_other_history() {
    let failed = ReadError::Failed { table: "tree", detail: "the test's".to_owned() };
    assert!(matches!(OpenError::from(ReplayError::Read(failed)), OpenError::Read(_)));
    assert!(matches!(OpenError::from(ReplayError::Gap(7)), OpenError::Gap(7)));
}

// === rows of a wrong form ===

/// A MAC says only that somebody with the key wrote it, perhaps a version with a fault.
#[test]
fn a_row_of_meta_with_a_right_mac_and_a_wrong_form_is_named() {
    type Expected = fn(&OpenError) -> bool;
    let cases: [(&str, Vec<u8>, Expected); 6] = [
        ("vault", versioned(&[0x56; 15]), |error| matches!(error, OpenError::Damaged("vault"))),
        ("log", versioned(b"\xff"), |error| matches!(error, OpenError::Damaged("log"))),
        ("log", Vec::new(), |error| matches!(error, OpenError::Damaged("log"))),
        ("log_keys", versioned(b""), |error| matches!(error, OpenError::Damaged("log_keys"))),
        ("kept_from", versioned(&[0; 7]), |error| matches!(error, OpenError::Damaged("kept_from"))),
        // It says that events were dropped which are there.
        ("kept_from", versioned(&2_u64.to_be_bytes()), |error| matches!(error, OpenError::Damaged("kept_from"))),
    ];
    for (name, content, expected) in cases {
        let mut site = log_of(3);
        let (_, meta) = identify(&*site.store, &site.root()).unwrap();
        let sealed = authentic::seal(&meta, Table::Meta, name.as_bytes(), &content);
        site.edit(|rows| rows.put(Table::Meta, name.as_bytes(), &sealed));
        let error = refusal(&site);
        assert!(expected(&error) && error.to_string().contains(&format!("meta/{name}")), "{name}: {error}");
    }
    let mut site = log_of(3);
    site.edit(|rows| rows.put(Table::Meta, b"kept_from", &[1; 41]));
    assert!(matches!(refusal(&site), OpenError::WrongRootKey("kept_from")));
    let mut site = log_of(2);
    to_format_2(&mut site, START);
    site.edit(|rows| rows.put(Table::Meta, b"time", &[1; 41]));
    assert!(matches!(refusal(&site), OpenError::WrongRootKey("time")));
}

#[test]
fn a_head_of_a_newer_version_a_wrong_length_or_other_records_is_refused_c_06() {
    let mut site = log_of(3);
    let (_, meta) = identify(&*site.store, &site.root()).unwrap();
    let key = site.state_key();
    let stored = site.row(Table::Tree, HEAD_ROW).unwrap();
    let content = authentic::open(&meta, Table::Tree, HEAD_ROW, &stored).unwrap().to_vec();
    let sealed = |content: &[u8]| authentic::seal(&meta, Table::Tree, HEAD_ROW, content);
    for length in 0..content.len() {
        let opened = StoredHead::open(&meta, &key, &sealed(&content[..length]));
        assert_eq!(opened.err(), Some(BadHead::Length), "{length} bytes");
    }
    let newer = sealed(&[&[9][..], &content[1..]].concat());
    site.edit(|rows| rows.put(Table::Tree, HEAD_ROW, &newer));
    assert!(matches!(refusal(&site), OpenError::Newer(9)));
    let cut = sealed(&content[..40]);
    site.edit(|rows| rows.put(Table::Tree, HEAD_ROW, &cut));
    assert!(matches!(refusal(&site), OpenError::Head));
    let head = StoredHead::open(&meta, &key, &stored).unwrap();
    let others = StoredHead { total: head.total.plus(&some(7)), ..head }.seal(&meta, &key, [7; 16]);
    site.edit(|rows| rows.put(Table::Tree, HEAD_ROW, &others));
    let error = refusal(&site);
    let found = head.total.plus(&some(7)).records();
    assert!(matches!(&error, OpenError::OtherRecords { found: records, .. } if *records == found), "{error}");
    assert!(error.to_string().contains("another state was put back"), "{error}");
}

#[test]
fn a_key_that_is_none_of_the_index_says_nothing() {
    let key = IndexKey::scope("pan");
    let row = key.at(7);
    assert_eq!(key.sequence(&row), Some(7));
    assert_eq!(key.sequence(&row[..row.len() - 1]), None);
    assert_eq!(IndexKey::read(&row), Some(("its scope".to_owned(), 7)));
    let no_such_kind = [&b"z"[..], &row[1..]].concat();
    for none in [&b""[..], &row[row.len() - 8..], &row[..row.len() - 1], &no_such_kind] {
        assert!(IndexKey::read(none).is_none(), "{none:?}");
    }
}

#[test]
fn a_store_that_takes_no_row_makes_no_vault() {
    let site = Site::bare();
    let store = MemoryStore::with_faults(Box::new(|_, _| Fault::LOST));
    let genesis = Genesis { vault: crate::crypto::VaultId([1; 16]), log_id: LOG.to_owned() };
    let refused = crate::ledger::create(&store, &site.root(), &genesis, site.log_key().verifier()).unwrap_err();
    assert!(matches!(refused, OpenError::Commit(_)), "{refused}");
}

// === the sums ===

fn state_key() -> Arc<StateKey> {
    Arc::new(StateKey::new(SecretKey::new([5; 32])))
}

/// A sum over some records, another for each number.
fn some(number: u32) -> Tally {
    let mut masked = [0; MASKED_LENGTH];
    masked[..4].copy_from_slice(&number.to_be_bytes());
    state_key().unmask(None, &masked)
}

fn group(day: u32) -> Group {
    Group { scope: ScopeId(1), day }
}

/// What one commit with these sums writes.
fn written(state: &mut State, rows: &dyn Rows, sums: &[(Group, Tally)]) -> Result<Batch, Fatal> {
    let meta = Site::bare().root().meta_key(&crate::crypto::VaultId([1; 16]));
    let mut batch = Batch::default();
    state.add(sums);
    state.write(rows, &meta, 1, Hash([0; 32]), START, &mut batch).map(|()| batch)
}

#[test]
fn a_sum_that_is_damaged_begins_anew_and_one_that_can_not_be_read_ends_the_writer() {
    for damage in [true, false] {
        let store = MemoryStore::new();
        let mut first = State::new(state_key(), Tally::default());
        store.commit(&written(&mut first, &store, &[(group(3), some(1))]).unwrap()).unwrap();
        if damage {
            store.damage(Table::State, &group(3).to_bytes());
        } else {
            let mut batch = Batch::default();
            batch.put(Table::State, &group(3).to_bytes(), b"\x09no sum");
            store.commit(&batch).unwrap();
        }
        let mut state = State::new(state_key(), Tally::default());
        store.commit(&written(&mut state, &store, &[(group(3), some(2))]).unwrap()).unwrap();
        let Found::Row(row) = store.get(Table::State, &[&group(3).to_bytes()], Tier::Disk).unwrap().remove(0) else {
            panic!("the row is there");
        };
        assert!(
            stored_sum(&state_key(), group(3), &row).unwrap() == some(2),
            "the head's total tells that one is missing"
        );
    }
    let store = Failing { store: Arc::new(MemoryStore::new()), at: 0, reads: AtomicUsize::new(0) };
    let mut state = State::new(state_key(), Tally::default());
    let ended = written(&mut state, &store, &[(group(3), some(1))]).map(drop).unwrap_err();
    assert_eq!(ended.to_string(), "could not read state: the test's");
}

#[test]
fn without_randomness_no_sum_and_no_head_is_written() {
    for sums in [&[][..], &[(group(3), some(1))]] {
        let mut state = State::new(state_key(), Tally::default());
        let dry = entropy::fixture::dry_after(0);
        let ended = written(&mut state, &MemoryStore::new(), sums);
        drop(dry);
        assert!(matches!(&ended, Err(Fatal::Entropy(_))), "{} sums", sums.len());
        assert!(ended.map(drop).unwrap_err().to_string().contains("no randomness"));
    }
    let mut site = log_of(2);
    to_format_2(&mut site, START);
    let before = site.dump();
    let dry = entropy::fixture::dry_after(0);
    let refused = site.open();
    drop(dry);
    assert!(matches!(refused, Err(OpenError::Random(_))));
    assert!(site.dump() == before, "and data of the older format is as it was");
}

#[test]
fn a_vault_of_the_older_format_without_an_event_is_taken_up_s_13() {
    let mut site = Site::bare();
    let (_, meta) = identify(&*site.store, &site.root()).unwrap();
    let sealed = |name: &[u8], content: &[u8]| authentic::seal(&meta, Table::Meta, name, content);
    let rows = [(&b"time"[..], versioned(&START.millis().to_be_bytes())), (b"format", vec![0, 0, 0, 2])];
    site.edit(|batch| rows.iter().for_each(|(name, content)| batch.put(Table::Meta, name, &sealed(name, content))));
    let open = site.open().unwrap();
    assert_eq!(open.ledger.clock().now(), START);
    issue_now(&open, 1).wait().unwrap();
    open.close();
    assert!(site.row(Table::Meta, b"time").is_none());
    assert_eq!(site.check().len(), 1);
}

#[test]
fn more_sums_than_are_kept_in_memory_are_read_again() {
    let store = MemoryStore::new();
    let mut state = State::new(state_key(), Tally::default());
    let many: Vec<(Group, Tally)> = (0..5_000).map(|day| (group(day), some(day))).collect();
    store.commit(&written(&mut state, &store, &many).unwrap()).unwrap();
    store.commit(&written(&mut state, &store, &[(group(0), some(9))]).unwrap()).unwrap();
    let Found::Row(row) = store.get(Table::State, &[&group(0).to_bytes()], Tier::Disk).unwrap().remove(0) else {
        panic!("the row is there");
    };
    assert!(stored_sum(&state_key(), group(0), &row).unwrap() == some(0).plus(&some(9)));
}

// === files ===

/// A file in the place of a directory: nothing can be written or read below it, by whomever.
struct Aside {
    directory: PathBuf,
    aside: PathBuf,
}

impl Aside {
    fn of(site: &Site) -> Self {
        let directory = site.checkpoints().file().parent().unwrap().to_owned();
        let aside = directory.with_extension("aside");
        std::fs::rename(&directory, &aside).unwrap();
        std::fs::write(&directory, "").unwrap();
        Self { directory, aside }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        std::fs::remove_file(&self.directory).unwrap();
        std::fs::rename(&self.aside, &self.directory).unwrap();
    }
}

#[test]
fn a_copy_that_can_not_be_read_refuses_the_start_and_is_named() {
    let mut site = log_of(2);
    let file = tempfile::NamedTempFile::new().unwrap();
    site.copy = Some(CheckpointDirectory::new(file.path()));
    let said = refusal(&site).to_string();
    let path = file.path().join("checkpoint");
    assert!(said.starts_with(&format!("checkpoint {}: Not a directory", path.display())), "{said}");
    assert!(said.contains("audit.checkpoints_copy"), "{said}");
}

#[test]
fn a_doubt_that_can_not_be_written_down_still_ends_the_process_a_08() {
    let site = log_of(3);
    let open = site.open().unwrap();
    issue_now(&open, 7).wait().unwrap();
    let mut batch = Batch::default();
    batch.delete(Table::Events, &3_u64.to_be_bytes());
    site.store.commit(&batch).unwrap();
    let aside = Aside::of(&site);
    assert_eq!(vouch(&open).err(), Some(Refused::Unavailable));
    let told = site.fatal.lock().unwrap().clone();
    assert!(told.len() == 1 && told[0].contains("not what its tree says"), "{told:?}");
    assert!(!open.ledger.is_alive());
    open.close();
    drop(aside);
    assert!(!site.checkpoints().doubt_file().exists() && site.vouched() == 3);
}

#[test]
fn cosignatures_that_can_not_be_written_stop_nothing_and_come_with_the_next_checkpoint() {
    let mut site = Site::new();
    site.period = Duration::from_millis(1);
    let shown = witnessed(&site);
    let open = site.open().unwrap();
    issue_now(&open, 1).wait().unwrap();
    let started = Instant::now();
    let wait = |what: &str, until: &dyn Fn() -> bool| {
        while !until() {
            assert!(started.elapsed() < HANG, "{what}");
            std::thread::yield_now();
        }
    };
    wait("the checkpoint is written without them", &|| site.vouched() == 2);
    let aside = Aside::of(&site);
    let asked = shown.lock().notes.len();
    {
        let mut shown = shown.lock();
        (shown.line, shown.due) = (Some(LINE), true);
    }
    // Asked twice more: the first answer could not be written, and the thread goes on.
    wait("they are asked again", &|| shown.lock().notes.len() >= asked + 2);
    shown.lock().due = false;
    assert!(open.ledger.is_alive() && site.fatal.lock().unwrap().is_empty());
    drop(aside);
    assert!(!outside(&site).contains(LINE));
    issue_now(&open, 2).wait().unwrap();
    wait("the next one has them", &|| outside(&site).contains(LINE));
    open.close();
    check(&site, &[]);
}

#[test]
fn a_note_that_leads_to_the_next_key_is_written_or_the_end_says_so_a_04() {
    for in_the_copy in [false, true] {
        let mut site = Site::new();
        let copy = tempfile::tempdir().unwrap();
        site.copy = Some(CheckpointDirectory::new(copy.path()));
        let first = site.checkpoints().file().with_file_name("rotations");
        let blocked = if in_the_copy { copy.path().join("rotations") } else { first };
        std::fs::write(&blocked, "").unwrap();
        let successor = crate::merkle::note::LogKey::from_seed(site.log_key().name().clone(), &SecretKey::new([9; 32]));
        let open = site.open_with(Box::new(|| 1), Signing::handover(site.log_key(), successor)).unwrap();
        issue_now(&open, 7).wait().unwrap();
        let said = open.end().unwrap_err().to_string();
        assert!(said.starts_with(&format!("checkpoint {}/2: ", blocked.display())), "{said}");
        assert_eq!(site.vouched(), 1, "the newest is still the one before");
        std::fs::remove_file(&blocked).unwrap();
        site.open().unwrap().end().unwrap();
        assert_eq!(site.vouched(), 2);
    }
}

#[test]
fn keys_know_from_when_on_they_sign_and_open_nothing_from_before() {
    let site = log_of(3);
    let (key, note) = (site.log_key().verifier(), outside(&site));
    let keys = LogKeys::of(key.clone());
    assert_eq!(keys.in_force_from(&key), Some(0));
    assert_eq!(keys.open(&note).unwrap().size(), 3);
    assert!(keys.open("no note").is_err());
    let signed =
        |text: &str| crate::merkle::note::Note::parse(&note.replacen("\n3\n", text, 1)).map(|note| note.to_string());
    assert!(keys.open(&signed("\nthree\n").unwrap()).is_err(), "a note that is no checkpoint");
    let other = crate::merkle::note::LogKey::from_seed(site.log_key().name().clone(), &SecretKey::new([9; 32]));
    assert_eq!(keys.in_force_from(&other.verifier()), None);
    let later = LogKeys::decode(format!("5 {key}\n").as_bytes()).unwrap();
    assert!(matches!(later.open(&note), Err(NoteError::Untrusted)), "nobody signed a log of three events");
}

// === threads and waiting ===

/// Fails as nothing should.
struct Panicking;

impl Witnesses for Panicking {
    fn check_start(&mut self, _: &str, _: u64, _: &mut Prove<'_>) -> Result<(), WitnessError> {
        Ok(())
    }

    fn cosign(&mut self, _: &str, _: u64, _: &mut Prove<'_>) -> Vec<String> {
        panic!("the test asks for a panic")
    }

    fn is_due(&self) -> bool {
        false
    }
}

#[test]
fn an_end_whose_signing_thread_has_failed_says_so_and_loses_no_event_o_06() {
    let mut site = Site::new();
    *site.witnesses.lock().unwrap() = Some(Box::new(Panicking));
    let open = site.open().unwrap();
    issue_now(&open, 7).wait().unwrap();
    assert_eq!(vouch(&open).err(), Some(Refused::Unavailable), "whoever asked is not left waiting");
    assert_eq!(vouch(&open).err(), Some(Refused::Unavailable), "nor who asks when it is gone");
    assert_eq!(open.end().unwrap_err().to_string(), "the thread that signs it has failed");
    assert_eq!(site.vouched(), 1);
    site.restart(None);
    site.open().unwrap().close();
    assert_eq!((site.check().len(), site.vouched()), (2, 2));
}

#[test]
fn who_asks_for_a_checkpoint_while_the_end_comes_is_answered() {
    let mut site = Site::new();
    let gate = site.restart_gated();
    gate.lift();
    let open = site.open().unwrap();
    gate.shut();
    let held = hold_one(&open, &gate, 1);
    let orders = &open.ledger.shared.orders;
    let ask = || {
        let (asker, answer) = oneshot::channel();
        orders.send(checkpointer::Order::Sign(asker)).unwrap();
        answer
    };
    // The first one is taken and waits for the writer, or all three are taken together.
    let answers = [ask(), ask()];
    orders.send(checkpointer::Order::Stop).unwrap();
    gate.lift();
    gate.go(Fault::NONE);
    held.wait().unwrap();
    for answer in answers {
        assert_eq!(answer.blocking_recv().unwrap().unwrap().size(), 2);
    }
    open.close();
    assert_eq!(site.vouched(), 2);
}

#[test]
fn a_queue_that_is_full_says_so_until_the_writer_has_taken_it() {
    let mut site = Site::new();
    site.limits.calls = 1;
    let gate = site.restart_gated();
    gate.lift();
    let open = site.open().unwrap();
    gate.shut();
    let held = hold_one(&open, &gate, 1);
    let waiting = issue_now(&open, 2);
    assert!(!open.ledger.is_full(), "nobody was refused yet");
    assert_eq!(submit(&open.ledger, issue(open.ledger.basis(), 3)).err(), Some(Refused::Overloaded));
    assert!(open.ledger.is_full());
    gate.lift();
    gate.go(Fault::NONE);
    held.wait().unwrap();
    waiting.wait().unwrap();
    assert!(!open.ledger.is_full());
    assert_eq!(open.ledger.unvouched(), 2);
    assert_eq!(vouch(&open).unwrap().size(), 3);
    assert_eq!(open.ledger.unvouched(), 0);
    open.close();
}

#[test]
fn who_has_no_patience_is_told_that_there_is_no_checkpoint() {
    let mut site = Site::new();
    site.limits.patience = Duration::ZERO;
    let gate = site.restart_gated();
    gate.lift();
    let open = site.open().unwrap();
    gate.shut();
    let held = hold_one(&open, &gate, 1);
    assert_eq!(vouch(&open).err(), Some(Refused::Unavailable));
    gate.lift();
    gate.go(Fault::NONE);
    held.wait().unwrap();
    open.close();
    assert_eq!(site.vouched(), 2);
}

#[test]
fn a_clock_that_was_set_back_is_behind_by_what_it_was_set_back_l_03() {
    let mut site = Site::new();
    let open = site.open().unwrap();
    assert_eq!(open.ledger.clock().behind(), Duration::ZERO);
    issue_now(&open, 1).wait().unwrap();
    open.close();
    let back = Duration::from_mins(10);
    site.clock = crate::clock::FakeClock::at(Timestamp::from_millis(START.millis() - 600_000));
    site.restart(None);
    let open = site.open().unwrap();
    assert_eq!(open.ledger.clock().behind(), back);
    open.close();
}

// === witnesses ===

#[test]
fn a_proof_that_can_not_be_made_leaves_the_witness_without_one() {
    let site = log_of(300);
    let tree = site.open().map(|open| {
        let tree = open.ledger.vouched().tree().clone();
        open.close();
        tree
    });
    let tree = tree.unwrap();
    let made = |rows: &dyn Rows, from: u64| {
        let proofs = Arc::default();
        let mut witnessed = Witnessed::by(Some(Box::new(Proving { from, proofs: Arc::clone(&proofs) })));
        witnessed.check_start("note", &tree, rows).unwrap();
        proofs.lock().pop().expect("it was asked")
    };
    assert!(made(&*site.store, 257).is_some());
    let failing = Failing { store: Arc::clone(&site.store), at: 0, reads: AtomicUsize::new(0) };
    assert!(made(&failing, 100).is_none(), "the tile can't be read");
    assert!(made(&MemoryStore::new(), 100).is_none(), "the tile is not there");
    assert!(made(&*site.store, 301).is_none(), "it has seen more");
    // Without witnesses there is nobody to ask and nobody who objects.
    Witnessed::default().check_start("note", &tree, &*site.store).unwrap();
    assert!(Witnessed::default().complete(&tree, &*site.store).is_none());
}

/// Asks for one proof each time, and keeps what it gets.
struct Proving {
    from: u64,
    proofs: Arc<parking_lot::Mutex<Vec<Option<Vec<Hash>>>>>,
}

impl Witnesses for Proving {
    fn check_start(&mut self, _: &str, _: u64, prove: &mut Prove<'_>) -> Result<(), WitnessError> {
        self.proofs.lock().push(prove(self.from));
        Ok(())
    }

    fn cosign(&mut self, _: &str, _: u64, _: &mut Prove<'_>) -> Vec<String> {
        Vec::new()
    }

    fn is_due(&self) -> bool {
        true
    }
}

#[test]
fn nothing_is_completed_before_there_is_a_note_or_while_nobody_is_due() {
    let site = log_of(1);
    let proofs = Arc::default();
    let mut witnessed = Witnessed::by(Some(Box::new(Proving { from: 0, proofs })));
    assert!(witnessed.complete(&Frontier::new(), &*site.store).is_none(), "somebody is due, and there is no note");
    let mut witnessed = Witnessed::by(Some(Box::new(Panicking)));
    assert!(witnessed.complete(&Frontier::new(), &*site.store).is_none(), "nobody is due");
}
