// The writer's queue, what is stale, and the vault's time.

use crate::clock::{Clock, Timestamp};
use crate::crypto::Handle;
use crate::sync::{AtomicU64, Mutex};
use inbox::{Inbox, Load};
use recent::Recent;
use shuttle::thread;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use time::VaultClock;

/// As the vault's, without its patience: nobody waits by the clock here.
pub struct Limits {
    pub calls: usize,
    pub records: usize,
    pub bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    Overloaded,
    Unavailable,
}

const ROOMY: Limits = Limits { calls: 100, records: 100, bytes: 100 };

/// Somebody's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    by: u32,
    number: u32,
}

impl Load for Call {
    fn records(&self) -> usize {
        1
    }

    fn bytes(&self) -> usize {
        1
    }
}

fn caller(inbox: &Arc<Inbox<Call, usize>>, by: u32, limits: &'static Limits) -> thread::JoinHandle<Vec<Call>> {
    let inbox = Arc::clone(inbox);
    thread::spawn(move || {
        let calls = (0..3).map(|number| Call { by, number });
        calls
            .filter(|call| match inbox.push(*call, limits) {
                Ok(()) => true,
                Err(refused) => {
                    // Nothing is refused for want of room where there is some, and nothing as unavailable while it is open.
                    assert!(refused == Refused::Unavailable || limits.calls < 100);
                    assert!(refused == Refused::Overloaded || !inbox.is_open());
                    false
                }
            })
            .collect()
    })
}

/// Everything accepted is taken, once, in its caller's order, never more at once than may wait. Who asks for the head gets an
/// answer or learns that there will be none. Once it is drained the writer ends.
pub fn inbox_takes_all() {
    static LIMITS: Limits = Limits { calls: 2, records: 100, bytes: 100 };
    let inbox = Arc::new(Inbox::<Call, usize>::new());
    let writer = {
        let inbox = Arc::clone(&inbox);
        thread::spawn(move || {
            let mut taken = Vec::new();
            while let Some(work) = inbox.take() {
                assert!(inbox.under_way().is_some());
                assert!(work.entries.len() <= LIMITS.calls);
                taken.extend(work.entries);
                for asker in work.heads {
                    let _ = asker.send(taken.len());
                }
            }
            assert_eq!(inbox.under_way(), None);
            taken
        })
    };
    let callers = [1, 2].map(|by| caller(&inbox, by, &LIMITS));
    let asker = {
        let inbox = Arc::clone(&inbox);
        thread::spawn(move || inbox.ask_head())
    };
    let drainer = {
        let inbox = Arc::clone(&inbox);
        thread::spawn(move || inbox.drain())
    };
    let accepted: Vec<Vec<Call>> = callers.map(|caller| caller.join().unwrap()).into();
    let head = asker.join().unwrap();
    drainer.join().unwrap();
    let taken = writer.join().unwrap();
    assert!(head.is_none_or(|head| head <= taken.len()));
    for (by, accepted) in [1, 2].into_iter().zip(&accepted) {
        let of_it: Vec<Call> = taken.iter().copied().filter(|call| call.by == by).collect();
        assert_eq!(of_it, *accepted);
    }
    assert!(!inbox.is_open());
    assert_eq!(inbox.push(Call { by: 3, number: 0 }, &ROOMY), Err(Refused::Unavailable));
    assert_eq!(inbox.ask_head(), None);
}

/// A writer that fails hands back what it did not take, so that nobody waits for an answer that never comes.
pub fn inbox_hands_back() {
    let inbox = Arc::new(Inbox::<Call, usize>::new());
    let writer = {
        let inbox = Arc::clone(&inbox);
        thread::spawn(move || {
            let work = inbox.take();
            let taken = work.map(|work| work.entries).unwrap_or_default();
            (taken, inbox.close())
        })
    };
    let callers = [1, 2].map(|by| caller(&inbox, by, &ROOMY));
    let asker = {
        let inbox = Arc::clone(&inbox);
        thread::spawn(move || inbox.ask_head())
    };
    let mut accepted = callers.map(|caller| caller.join().unwrap()).concat();
    assert_eq!(asker.join().unwrap(), None);
    let (taken, handed_back) = writer.join().unwrap();
    let mut known = [taken, handed_back].concat();
    known.sort_unstable();
    accepted.sort_unstable();
    assert_eq!(known, accepted);
    assert!(!inbox.is_open());
}

/// A checkpoint waits for a commit to go with, and goes with the first; a newer one replaces it.
pub fn inbox_keeps_checkpoint() {
    let inbox = Arc::new(Inbox::<Call, usize>::new());
    let writer = {
        let inbox = Arc::clone(&inbox);
        thread::spawn(move || {
            let mut stored = Vec::new();
            while let Some(work) = inbox.take() {
                assert!(work.checkpoint.is_none() || !work.entries.is_empty());
                stored.extend(work.checkpoint);
                for asker in work.heads {
                    let _ = asker.send(0);
                }
            }
            stored
        })
    };
    let checkpoints = {
        let inbox = Arc::clone(&inbox);
        thread::spawn(move || {
            for size in ["1", "2"] {
                inbox.ask_head();
                inbox.leave_checkpoint(size.to_owned());
            }
        })
    };
    let caller = caller(&inbox, 1, &ROOMY);
    checkpoints.join().unwrap();
    assert_eq!(caller.join().unwrap().len(), 3);
    // All have gone in; one more commit takes what is left.
    inbox.push(Call { by: 2, number: 0 }, &ROOMY).unwrap();
    inbox.drain();
    let stored = writer.join().unwrap();
    assert!(stored == ["1", "2"] || stored == ["2"], "{stored:?}");
}

/// A call that changes what it has read.
struct Change {
    handle: Handle,
    basis: u64,
    read: u64,
    answer: crate::sync::SyncSender<bool>,
}

impl Load for Change {
    fn records(&self) -> usize {
        1
    }

    fn bytes(&self) -> usize {
        1
    }
}

/// Two calls that read a row before either's change: one of them is refused as stale, and no change is lost. The writer is a
/// few lines here, in the order of the vault's own: stale or not, note, commit, show, answer.
pub fn stale_is_refused() {
    let inbox = Arc::new(Inbox::<Change, ()>::new());
    let visible = Arc::new(AtomicU64::new(0));
    let rows = Arc::new(Mutex::new(BTreeMap::from([(Handle(1), 0u64), (Handle(2), 0)])));
    let writer = {
        let (inbox, visible, rows) = (Arc::clone(&inbox), Arc::clone(&visible), Arc::clone(&rows));
        thread::spawn(move || {
            let mut recent = Recent::default();
            while let Some(work) = inbox.take() {
                let number = visible.load(Ordering::Relaxed) + 1;
                let (mut batch, mut answers) = (Vec::new(), Vec::new());
                for change in work.entries {
                    let is_stale = recent.changed_since(change.basis, &[change.handle]);
                    if !is_stale {
                        recent.note(number, &[change.handle]);
                        batch.push((change.handle, change.read + 1));
                    }
                    answers.push((change.answer, !is_stale));
                }
                if !batch.is_empty() {
                    rows.lock().extend(batch);
                    visible.store(number, Ordering::Release);
                }
                for (asker, done) in answers {
                    let _ = asker.send(done);
                }
            }
        })
    };
    let callers = [1, 1, 2].map(|handle| {
        let (inbox, visible, rows) = (Arc::clone(&inbox), Arc::clone(&visible), Arc::clone(&rows));
        thread::spawn(move || {
            let handle = Handle(handle);
            let mut done = 0;
            for _ in 0..2 {
                let basis = visible.load(Ordering::Acquire);
                let read = rows.lock()[&handle];
                let (answer, answered) = crate::sync::sync_channel(1);
                inbox.push(Change { handle, basis, read, answer }, &ROOMY).unwrap();
                done += u64::from(answered.recv().unwrap());
            }
            (handle, done)
        })
    });
    let mut changed = BTreeMap::from([(Handle(1), 0), (Handle(2), 0)]);
    for caller in callers {
        let (handle, done) = caller.join().unwrap();
        *changed.get_mut(&handle).unwrap() += done;
    }
    inbox.drain();
    writer.join().unwrap();
    assert_eq!(*rows.lock(), changed, "a change was lost");
    // Nobody else touches it, so nothing of it is stale.
    assert_eq!(changed[&Handle(2)], 2);
}

/// Clocks that go along with each other, and that others may move while they are read.
struct Moving {
    wall: AtomicU64,
    monotonic: AtomicU64,
}

const DAY: u64 = 86_400_000;

impl Moving {
    fn tick(&self, millis: u64) {
        self.monotonic.fetch_add(millis, Ordering::SeqCst);
        self.wall.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for Moving {
    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic.load(Ordering::SeqCst))
    }
}

/// The mark never falls, and the time never falls below a mark that somebody has seen, while the wall clock goes back, others
/// look at it, and an operator accepts it.
pub fn mark_never_falls() {
    let clock = Arc::new(Moving { wall: AtomicU64::new(100 * DAY), monotonic: AtomicU64::new(1_000) });
    let shared: Arc<dyn Clock> = Arc::<Moving>::clone(&clock);
    let vault = Arc::new(VaultClock::resume(shared, Timestamp::from_millis(100 * DAY)));
    let readers = [0, 1].map(|_| {
        let vault = Arc::clone(&vault);
        thread::spawn(move || {
            let mut last = vault.mark();
            for _ in 0..3 {
                let now = vault.now();
                assert!(now >= last, "the time fell below the mark");
                let mark = vault.mark();
                assert!(mark >= last, "the mark fell");
                last = mark;
            }
            last
        })
    });
    let others = {
        let vault = Arc::clone(&vault);
        thread::spawn(move || {
            vault.observe();
            vault.accept();
            vault.observe();
        })
    };
    clock.tick(10);
    clock.wall.fetch_sub(40, Ordering::SeqCst);
    clock.tick(20);
    clock.wall.fetch_add(2 * DAY, Ordering::SeqCst);
    let seen = readers.map(|reader| reader.join().unwrap());
    others.join().unwrap();
    assert!(seen.iter().all(|seen| vault.mark() >= *seen));
}
