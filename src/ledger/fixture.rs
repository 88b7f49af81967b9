//! A ledger over memory, for tests: what outlasts the process, faults and pauses as a test asks for them, and a checker
//! that computes the whole log anew from what is stored.
//!
//! The checker shares no code with what it checks but the event's decoder and the opening of a note.

use super::queue::Entry;
use super::{
    CheckpointDirectory, Checkpoints, Generation, Genesis, Ledger, Limits, LogKeys, OpenError, Receipt, Refused,
    Running, Settings, Signing, Submission, Witnesses, create, identify, log_keys, open, stored_head, stored_sum, wake,
};
use crate::clock::{FakeClock, Timestamp};
use crate::crypto::state::{Group, StateKey, Tally};
use crate::crypto::{Handle, MetaKey, RootKey, VaultId};
use crate::event::{self, Action, Event, ItemOutcome, Outcome};
use crate::keys::Keyring;
use crate::merkle::note::{Checkpoint, LogKey, Name};
use crate::secret::SecretKey;
use crate::store::{Batch, Fault, Faults, MemoryStore, Order, Rows, Store, Table};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot::{self, error::TryRecvError};

/// When every site begins: in September 2026.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);
pub(crate) const LOG: &str = "dev.cloakroom.internal/vault";
const ROOT_KEY: [u8; 32] = [0x52; 32];
pub(super) const STATE_KEY: [u8; 32] = [0x53; 32];
const LOG_SEED: [u8; 32] = [0x4c; 32];
const VAULT: VaultId = VaultId([0x56; 16]);
/// Nothing takes a hundredth of this; a test that hangs shall fail.
pub(crate) const HANG: Duration = Duration::from_mins(2);

/// What stands around a ledger and outlasts it.
pub(crate) struct Site {
    pub store: Arc<MemoryStore>,
    pub clock: Arc<FakeClock>,
    /// The rulebook's generation, where no policy gives it.
    pub generation: Arc<AtomicU64>,
    /// What `on_fatal` was told, once for each call.
    pub fatal: Arc<Mutex<Vec<String>>>,
    pub limits: Limits,
    /// How often checkpoints are signed. So long by default that only the end signs one.
    pub period: Duration,
    pub root: [u8; 32],
    pub log_key: (&'static str, [u8; 32]),
    /// A second directory for checkpoints.
    pub copy: Option<CheckpointDirectory>,
    /// For the next opening.
    pub witnesses: Mutex<Option<Box<dyn Witnesses>>>,
    folder: tempfile::TempDir,
}

/// A ledger that runs.
pub(crate) struct Open {
    pub ledger: Ledger,
    pub vault: VaultId,
    pub meta: Arc<MetaKey>,
    running: Running,
}

/// Holds each commit back until the test says what becomes of it, while it is shut. Once it is dropped, all pass.
pub(crate) struct Gate {
    shut: Arc<AtomicBool>,
    arrived: Receiver<u64>,
    go: Sender<Fault>,
}

/// Who waits for a submission.
pub(crate) struct Answer {
    receipt: oneshot::Receiver<Result<Receipt, Refused>>,
    came: Option<Result<Receipt, Refused>>,
}

/// Every row of a store.
pub(crate) type Dump = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

// === impl Site ===

impl Site {
    /// A vault as `init` leaves it: named, with its keys, one event and one checkpoint.
    pub fn new() -> Self {
        let site = Self::bare();
        let (_, meta) = identify(&*site.store, &site.root()).unwrap();
        let (keys, state) = Keyring::create(&site.root(), &VAULT, &meta, START).unwrap();
        let open = site.open_summing(state, Box::new(|| 1), Signing::by(site.log_key())).unwrap();
        let scope = String::new();
        let first = Event { action: Action::CreateKey.into(), scope, ..event("init", &[]) };
        let first = Submission::new(open.ledger.basis(), first).with_changes(keys);
        assert_eq!(submit(&open.ledger, first).unwrap().wait().unwrap().sequence(), 0);
        open.close();
        site
    }

    /// A vault that has nothing but its names.
    pub fn bare() -> Self {
        Self::named(&Genesis { vault: VAULT, log_id: LOG.to_owned() }, ROOT_KEY, LOG_SEED, START)
    }

    /// As [`Site::bare`], with names and keys of the test's own.
    pub fn named(genesis: &Genesis, root: [u8; 32], log_seed: [u8; 32], start: Timestamp) -> Self {
        let site = Self {
            store: Arc::new(MemoryStore::new()),
            clock: FakeClock::at(start),
            generation: Arc::new(AtomicU64::new(1)),
            fatal: Arc::default(),
            limits: Limits { calls: 100_000, records: 10_000_000, bytes: 1 << 30, patience: HANG },
            period: HANG * 1000,
            root,
            log_key: (LOG, log_seed),
            copy: None,
            witnesses: Mutex::default(),
            folder: tempfile::tempdir().unwrap(),
        };
        create(&*site.store, &site.root(), genesis, site.log_key().verifier()).unwrap();
        site
    }

    pub fn root(&self) -> RootKey {
        RootKey::new(SecretKey::new(self.root))
    }

    pub fn log_key(&self) -> LogKey {
        LogKey::from_seed(Name::new(self.log_key.0).unwrap(), &SecretKey::new(self.log_key.1))
    }

    pub fn checkpoints(&self) -> CheckpointDirectory {
        CheckpointDirectory::new(self.folder.path())
    }

    /// The size that the checkpoint outside vouches for.
    pub fn vouched(&self) -> u64 {
        self.newest().map_or(0, |checkpoint| checkpoint.size())
    }

    /// The checkpoint outside.
    pub fn newest(&self) -> Option<Checkpoint> {
        self.checkpoints().newest(&self.log_keys()).unwrap().map(|(checkpoint, _)| checkpoint)
    }

    /// The log's public keys, as the data names them.
    pub fn log_keys(&self) -> LogKeys {
        let (_, meta) = identify(&*self.store, &self.root()).unwrap();
        log_keys(&*self.store, &meta).unwrap()
    }

    /// What a crash leaves: the store opened again, with these faults.
    pub fn restart(&mut self, faults: Option<Faults>) {
        self.store = Arc::new(match faults {
            Some(faults) => self.store.reopen_with_faults(faults),
            None => self.store.reopen(),
        });
    }

    /// As [`Site::restart`], with a gate before the store.
    pub fn restart_gated(&mut self) -> Gate {
        let (gate, faults) = gate();
        self.restart(Some(faults));
        gate
    }

    pub fn open(&self) -> Result<Open, OpenError> {
        let generation = Arc::clone(&self.generation);
        self.open_under(Box::new(move || generation.load(Ordering::SeqCst)))
    }

    /// Opens with a rulebook's generation of the test's own.
    pub fn open_under(&self, rulebook_generation: Generation) -> Result<Open, OpenError> {
        self.open_with(rulebook_generation, Signing::by(self.log_key()))
    }

    /// Opens with signers of the test's own.
    pub fn open_with(&self, rulebook_generation: Generation, signing: Signing) -> Result<Open, OpenError> {
        self.open_summing(self.state_key(), rulebook_generation, signing)
    }

    /// The one that is stored; of a vault without keys, one of the fixture's own.
    pub fn state_key(&self) -> Arc<StateKey> {
        let own = || Arc::new(StateKey::new(SecretKey::new(STATE_KEY)));
        let Ok((genesis, meta)) = identify(&*self.store, &self.root()) else { return own() };
        let keyring = Keyring::open(self.root(), genesis.vault, meta, &*self.store);
        keyring.map_or_else(|_| own(), |keyring| Arc::clone(keyring.state()))
    }

    /// As [`Site::open`], with the key of the sums over the records.
    pub(super) fn open_summing(
        &self,
        state: Arc<StateKey>,
        rulebook_generation: Generation,
        signing: Signing,
    ) -> Result<Open, OpenError> {
        let (genesis, meta) = identify(&*self.store, &self.root())?;
        let store = Arc::clone(&self.store);
        let settings = self.settings(rulebook_generation, signing);
        let (ledger, running) = open(store, &genesis, Arc::clone(&meta), state, settings)?;
        Ok(Open { ledger, vault: genesis.vault, meta, running })
    }

    /// How a ledger of this site runs.
    pub fn settings(&self, rulebook_generation: Generation, signing: Signing) -> Settings {
        let fatal = Arc::clone(&self.fatal);
        Settings {
            limits: self.limits.clone(),
            checkpoints: Checkpoints { directory: self.checkpoints(), copy: self.copy.clone() },
            checkpoint_period: self.period,
            signing,
            witnesses: self.witnesses.lock().unwrap().take(),
            clock: Arc::clone(&self.clock) as _,
            rulebook_generation,
            rulebook_digest: Box::new(|| [0x72; 32]),
            on_fatal: Box::new(move |error| fatal.lock().unwrap().push(error.to_string())),
        }
    }

    /// Changes the store behind the vault's back.
    pub fn edit(&mut self, change: impl FnOnce(&mut Batch)) {
        self.restart(None);
        let mut batch = Batch::default();
        change(&mut batch);
        self.store.commit(&batch).unwrap();
    }

    pub fn row(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.dump().remove(&(table, key.to_vec()))
    }

    pub fn dump(&self) -> Dump {
        let rows = |table: Table| {
            let found = self.store.scan(table, &[], &[0xff; 64], Order::Ascending, usize::MAX).unwrap();
            found.into_iter().map(move |(key, row)| ((table, key), row))
        };
        Table::ALL.into_iter().flat_map(rows).collect()
    }

    /// Computes the whole log anew and holds every row that it made against that. The events, if all is well.
    pub fn check(&self) -> Vec<Event> {
        let dump = self.dump();
        let events = decode_all(&dump);
        let leaves = leaves(&dump);
        check_tiles(&dump, &leaves);
        check_index(&dump, &events);
        self.check_checkpoints(&dump, &leaves);
        self.check_head(&dump, &leaves);
        events
    }

    /// The head is that of the log, and all sums together are the head's.
    fn check_head(&self, dump: &Dump, leaves: &[[u8; 32]]) {
        let (_, meta) = identify(&*self.store, &self.root()).unwrap();
        let key = self.state_key();
        let Some(head) = stored_head(&*self.store, &meta, &key).unwrap() else {
            return assert!(leaves.is_empty() && rows_of(dump, Table::State).next().is_none(), "no head");
        };
        assert_eq!((head.size, head.root.0), (leaves.len() as u64, root(leaves)), "the head is of another log");
        let total = rows_of(dump, Table::State).fold(Tally::default(), |total, (group, row)| {
            let sum = stored_sum(&key, Group::from_bytes(group).unwrap(), row).unwrap();
            assert!(!sum.is_empty(), "a row of a group that is empty");
            total.plus(&sum)
        });
        assert!(total == head.total, "the sums do not add up to the head's");
    }

    fn check_checkpoints(&self, dump: &Dump, leaves: &[[u8; 32]]) {
        let check = |checkpoint: &Checkpoint| {
            let size = usize::try_from(checkpoint.size()).unwrap();
            assert!(size <= leaves.len(), "a checkpoint speaks of {size} events, and there are {}", leaves.len());
            assert_eq!(checkpoint.root().0, root(&leaves[..size]), "the checkpoint's root over {size} events");
            size
        };
        let outside = self.newest();
        let outside = outside.as_ref().map_or(0, check);
        if let Some(note) = dump.get(&(Table::Tree, b"checkpoint".to_vec())) {
            let note = std::str::from_utf8(note).unwrap();
            let inside = check(&self.log_keys().open(note).unwrap());
            assert!(inside <= outside, "what is stored inside was outside before");
        }
    }
}

/// Numbers without gaps, each event in its one spelling, times that never decrease.
fn decode_all(dump: &Dump) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for (number, (key, bytes)) in rows_of(dump, Table::Events).enumerate() {
        assert_eq!(key, (number as u64).to_be_bytes(), "events are numbered without gaps");
        let event = event::decode(bytes).unwrap_or_else(|error| panic!("event {number}: {error}"));
        if let Some(before) = events.last() {
            assert!(before.timestamp() <= event.timestamp(), "event {number} is earlier than the one before");
        }
        events.push(event);
    }
    events
}

fn leaves(dump: &Dump) -> Vec<[u8; 32]> {
    rows_of(dump, Table::Events).map(|(_, bytes)| hash(&[&[0], bytes])).collect()
}

/// Exactly the full tiles, and in them exactly these hashes.
fn check_tiles(dump: &Dump, leaves: &[[u8; 32]]) {
    let mut expected = BTreeSet::new();
    let (mut level, mut hashes) = (0, leaves.to_vec());
    while hashes.len() >= 256 {
        for (index, tile) in hashes.chunks_exact(256).enumerate() {
            let place =
                if index < 1000 { format!("{index:03}") } else { format!("x{:03}/{:03}", index / 1000, index % 1000) };
            expected.insert((format!("tile/{level}/{place}").into_bytes(), tile.concat()));
        }
        hashes = hashes.chunks_exact(256).map(root).collect();
        level += 1;
    }
    let is_tile = |(key, _): &(&[u8], &[u8])| !matches!(*key, b"checkpoint" | b"head");
    let stored: BTreeSet<_> =
        rows_of(dump, Table::Tree).filter(is_tile).map(|(key, row)| (key.to_vec(), row.to_vec())).collect();
    assert!(stored == expected, "{} tiles are stored, {} are right", stored.len(), expected.len());
}

/// Each event under its caller, its scope and each of its handles, or the second of its handles, and nothing else.
fn check_index<'a>(dump: &Dump, events: &'a [Event]) {
    let mut expected: BTreeMap<Vec<u8>, BTreeSet<&[u8]>> = BTreeMap::new();
    for (number, event) in events.iter().enumerate() {
        let mut add = |kind: &[u8], subject: &[u8], marked: Option<&'a [u8]>| {
            if !subject.is_empty() {
                let row = [kind, subject, &(number as u64).to_be_bytes()].concat();
                expected.entry(row).or_default().extend(marked);
            }
        };
        let short = |text: &str| if text.is_empty() { Vec::new() } else { hash(&[text.as_bytes()])[..16].to_vec() };
        add(b"c", &short(&event.caller), None);
        add(b"s", &short(&event.scope), None);
        for handle in &event.handles {
            let is_issue = event.action() == Action::Tokenize && handle.len() == 20 && handle[..4] != [0; 4];
            if is_issue { add(b"i", &handle[..4], Some(&handle[..])) } else { add(b"h", handle, None) }
        }
    }
    let marks = |handles: BTreeSet<&[u8]>| handles.into_iter().flat_map(|handle| handle[4..6].to_vec()).collect();
    let expected: BTreeMap<Vec<u8>, Vec<u8>> =
        expected.into_iter().map(|(key, handles)| (key, marks(handles))).collect();
    let stored: BTreeMap<_, _> =
        rows_of(dump, Table::EventIndex).map(|(key, row)| (key.to_vec(), row.to_vec())).collect();
    assert!(stored == expected, "{} index rows are stored, {} are right", stored.len(), expected.len());
}

fn rows_of(dump: &Dump, table: Table) -> impl Iterator<Item = (&[u8], &[u8])> {
    dump.range((table, Vec::new())..)
        .take_while(move |((of, _), _)| *of == table)
        .map(|((_, key), row)| (&key[..], &row[..]))
}

/// RFC 6962, 2.1, as it is written there.
pub(crate) fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => hash(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            hash(&[&[1], &root(left), &root(right)])
        }
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), Digest::chain_update).finalize().into()
}

// === impl Open, Gate, Answer ===

impl Open {
    /// Ends in order, as far as it still can.
    pub fn close(self) {
        let _last_checkpoint = self.end();
    }

    /// As [`Open::close`], and whether the last checkpoint is written.
    pub fn end(self) -> Result<(), super::Unvouched> {
        self.running.close()
    }
}

/// Faults that the test decides one by one, and the test's end of it.
pub(crate) fn gate() -> (Gate, Faults) {
    let (tell, arrived) = channel();
    let (go, decided) = channel();
    let shut = Arc::new(AtomicBool::new(true));
    let is_shut = Arc::clone(&shut);
    let faults: Faults = Box::new(move |number, _| match is_shut.load(Ordering::SeqCst).then(|| tell.send(number)) {
        Some(Ok(())) => decided.recv().unwrap_or(Fault::NONE),
        _ => Fault::NONE,
    });
    (Gate { shut, arrived, go }, faults)
}

impl Gate {
    /// From now on commits wait.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }

    /// From now on they pass. One that stands here already still waits.
    pub fn lift(&self) {
        self.shut.store(false, Ordering::SeqCst);
    }

    /// As [`Gate::arrived`], while the tasks of this thread go on.
    pub async fn come(&self) -> u64 {
        let started = Instant::now();
        loop {
            match self.arrived.try_recv() {
                Ok(number) => return number,
                Err(_) => tokio::task::yield_now().await,
            }
            assert!(started.elapsed() < HANG, "a commit comes");
        }
    }

    /// Waits until a commit stands before the store, and says which, from 0.
    pub fn arrived(&self) -> u64 {
        self.arrived.recv_timeout(HANG).expect("a commit comes")
    }

    /// Whether one stands there now.
    pub fn is_empty(&self) -> bool {
        self.arrived.try_recv().is_err()
    }

    /// Lets the one that stands there go on.
    pub fn go(&self, fault: Fault) {
        self.go.send(fault).expect("a commit waits");
    }

    /// Lets the next one pass.
    pub fn pass(&self) {
        self.arrived();
        self.go(Fault::NONE);
    }
}

impl Answer {
    /// Waits. A writer that is gone is unavailable, as it is for [`Ledger::commit`].
    pub fn wait(mut self) -> Result<Receipt, Refused> {
        // Asked again and again, since a test that runs in a runtime must not block it.
        let started = Instant::now();
        while self.is_open() {
            assert!(started.elapsed() < HANG, "an answer comes");
            std::thread::yield_now();
        }
        self.came.expect("it came")
    }

    /// Whether there is none yet.
    pub fn is_open(&mut self) -> bool {
        if self.came.is_none() {
            self.came = match self.receipt.try_recv() {
                Ok(outcome) => Some(outcome),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Closed) => Some(Err(Refused::Unavailable)),
            };
        }
        self.came.is_none()
    }
}

/// Hands a submission over without waiting.
pub(crate) fn submit(ledger: &Ledger, submission: Submission) -> Result<Answer, Refused> {
    let (waiter, receipt) = wake::waiter();
    ledger.shared.queue.push(Entry::new(submission, waiter), &ledger.shared.limits)?;
    Ok(Answer { receipt, came: None })
}

/// How many submissions wait for the writer.
pub(crate) fn waiting(ledger: &Ledger) -> usize {
    ledger.shared.queue.waiting()
}

/// An event that names `handles` as issued.
pub(crate) fn event(detail: &str, handles: &[Handle]) -> Event {
    Event {
        action: Action::Tokenize.into(),
        outcome: Outcome::Allowed.into(),
        caller: "spiffe://dev.cloakroom.internal/gateway".to_owned(),
        scope: "pan".to_owned(),
        handles: event::handles(handles.iter().map(|handle| Some(handle.as_bytes()))),
        item_outcomes: vec![ItemOutcome::Issued.into(); handles.len()],
        detail: detail.to_owned(),
        salt: vec![0x5a; event::SALT_BYTES].into(),
        ..Event::default()
    }
}
