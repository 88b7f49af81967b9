//! Waking those who wait for a commit.
//!
//! Waking a task on another thread costs more than sealing its value: a queue, a lock and often a system call for each.
//! So a thread that serves requests may register as a [`Worker`]: the writer then sends it one message for each commit,
//! and a task on that thread wakes its neighbours, which is cheap. Threads that are not workers (tests, blocking pools)
//! are woken one by one. Only `server` decides which threads are workers.

use super::{Receipt, Refused};
use parking_lot::Mutex;
use std::cell::Cell;
use tokio::sync::{mpsc, oneshot};

/// How a waiter learns of the outcome.
pub(super) type Outcome = Result<Receipt, Refused>;

/// One who waits, and on which worker.
pub(super) struct Waiter {
    sender: oneshot::Sender<Outcome>,
    worker: Option<usize>,
}

/// A finished submission on its way to its waiter.
pub(super) struct Completion {
    sender: oneshot::Sender<Outcome>,
    outcome: Outcome,
}

/// A network thread's registration. While it lives, and its future is polled on that thread, commits that were awaited
/// there are delivered in one message each.
pub struct Worker {
    completions: mpsc::UnboundedReceiver<Vec<Completion>>,
}

/// Outcomes gathered for one commit, by worker.
#[derive(Default)]
pub(super) struct Wakes {
    workers: Vec<Vec<Completion>>,
}

thread_local! {
    static THIS_WORKER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The workers of this process. A worker that has ended stays in its place with a closed channel; servers start a handful.
static WORKERS: Mutex<Vec<mpsc::UnboundedSender<Vec<Completion>>>> = Mutex::new(Vec::new());

/// Somebody to wait on the current thread.
pub(super) fn waiter() -> (Waiter, oneshot::Receiver<Outcome>) {
    let (sender, receiver) = oneshot::channel();
    (Waiter { sender, worker: THIS_WORKER.get() }, receiver)
}

impl Worker {
    /// Makes the current thread a worker. The thread must then run [`Worker::run`] as a task of its own runtime.
    pub fn register() -> Self {
        let (sender, completions) = mpsc::unbounded_channel();
        let mut workers = WORKERS.lock();
        THIS_WORKER.set(Some(workers.len()));
        workers.push(sender);
        Self { completions }
    }

    /// Delivers outcomes to the tasks of this thread, for as long as it is polled: [`WORKERS`] never closes a channel, so it does
    /// not end by itself.
    pub async fn run(mut self) {
        while let Some(completions) = self.completions.recv().await {
            completions.into_iter().for_each(Completion::deliver);
        }
    }
}

impl Completion {
    /// A waiter that has gone away does not mind.
    fn deliver(self) {
        let _ = self.sender.send(self.outcome);
    }
}

impl Wakes {
    pub fn add(&mut self, waiter: Waiter, outcome: Outcome) {
        let completion = Completion { sender: waiter.sender, outcome };
        let Some(worker) = waiter.worker else { return completion.deliver() };
        if self.workers.len() <= worker {
            self.workers.resize_with(worker + 1, Vec::new);
        }
        self.workers[worker].push(completion);
    }

    /// One message to each worker that has something to learn.
    pub fn send(&mut self) {
        let senders = WORKERS.lock();
        for (sender, completions) in senders.iter().zip(&mut self.workers) {
            if completions.is_empty() {
                continue;
            }
            // A worker that has ended hands them back: then nobody listens, or somebody on another thread does.
            if let Err(unsent) = sender.send(std::mem::take(completions)) {
                unsent.0.into_iter().for_each(Completion::deliver);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_on_a_worker_that_has_ended_is_told_all_the_same() {
        let told = std::thread::spawn(|| {
            let idle = std::thread::spawn(Worker::register).join().unwrap();
            let ended = Worker::register();
            let (waiter, receiver) = waiter();
            drop(ended);
            let mut wakes = Wakes::default();
            wakes.add(waiter, Err(Refused::Stale));
            wakes.send();
            drop(idle);
            receiver.blocking_recv()
        });
        assert_eq!(told.join().unwrap().unwrap().err(), Some(Refused::Stale));
    }
}
