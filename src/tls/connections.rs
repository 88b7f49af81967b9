//! The register of open connections, through which they can be closed from outside.
//!
//! Draining closes what is left at its deadline; revoking a certificate closes the connections that it opened. HTTP/2
//! keeps connections for days, so neither can wait for clients to go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use super::io::Connection;
use crate::caller::SpiffeId;
use crate::sync::{AtomicBool, AtomicU64, Mutex, OwnedSemaphorePermit, watch};

/// A handle on the register. Clones share it.
#[derive(Clone)]
pub struct Connections(Arc<Register>);

struct Register {
    next_number: AtomicU64,
    /// How many are open; whoever drains waits for zero.
    open: watch::Sender<usize>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_number: HashMap<u64, Arc<Entry>>,
    /// How many are whose.
    by_caller: HashMap<SpiffeId, usize>,
}

struct Entry {
    connection: Arc<Connection>,
    closed: AtomicBool,
    /// The task that drives the connection, asleep until something can be read or written.
    waker: Mutex<Option<Waker>>,
}

/// A connection's place in the register. Dropping it gives the place up, and with it the permit.
pub(super) struct Registration {
    register: Arc<Register>,
    number: u64,
    entry: Arc<Entry>,
    /// Counts towards the limit on connections for as long as this lives.
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self(Arc::new(Register {
            next_number: AtomicU64::new(0),
            open: watch::Sender::new(0),
            entries: Mutex::default(),
        }))
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        *self.0.open.borrow()
    }

    /// Closes every connection for which `condemned` is true, whatever it is doing, and returns how many.
    pub fn close_where(&self, condemned: impl Fn(&Connection) -> bool) -> usize {
        // The list is copied first: waking a task may drop its connection, which takes the lock again.
        let entries: Vec<_> =
            self.0.entries.lock().by_number.values().filter(|entry| condemned(&entry.connection)).cloned().collect();
        for entry in &entries {
            entry.close();
        }
        entries.len()
    }

    /// Closes every connection and returns how many there were.
    pub fn close_all(&self) -> usize {
        self.close_where(|_| true)
    }

    /// Waits until no connection is open.
    pub async fn drained(&self) {
        // The sender lives in the register that `self` holds, so this can't end early.
        let _ = self.0.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// A place for `connection`, unless its caller has `limit` of them already.
    pub(super) fn register(
        &self,
        connection: Arc<Connection>,
        permit: OwnedSemaphorePermit,
        limit: usize,
    ) -> Option<Registration> {
        let number = self.0.next_number.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry { connection, closed: AtomicBool::new(false), waker: Mutex::default() });
        let mut entries = self.0.entries.lock();
        let of_caller = entries.by_caller.entry(entry.connection.caller.id.clone()).or_default();
        if *of_caller >= limit {
            return None;
        }
        *of_caller += 1;
        entries.by_number.insert(number, entry.clone());
        drop(entries);
        self.0.open.send_modify(|open| *open += 1);
        Some(Registration { register: self.0.clone(), number, entry, _permit: permit })
    }
}

impl Registration {
    /// Whether the connection has been closed from outside.
    pub(super) fn is_closed(&self) -> bool {
        self.entry.closed.load(Ordering::Acquire)
    }

    /// Sees to it that the task is woken when the connection is closed from outside. False if it already is.
    pub(super) fn wake_on_close(&self, context: &Context<'_>) -> bool {
        let mut waker = self.entry.waker.lock();
        if !waker.as_ref().is_some_and(|held| held.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        drop(waker);
        // Read after the waker is in place: a close before that point is seen here, a later one finds the waker.
        !self.is_closed()
    }
}

impl Entries {
    fn remove(&mut self, number: u64) {
        let Some(entry) = self.by_number.remove(&number) else { return };
        let caller = &entry.connection.caller.id;
        if let Some(of_caller) = self.by_caller.get_mut(caller) {
            *of_caller -= 1;
            if *of_caller == 0 {
                self.by_caller.remove(caller);
            }
        }
    }
}

impl Entry {
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.register.entries.lock().remove(self.number);
        self.register.open.send_modify(|open| *open -= 1);
    }
}
