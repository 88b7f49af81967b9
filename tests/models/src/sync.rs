//! In the place of the vault's `sync`: the same names, and every use is a point at which another thread may come first.
//!
//! Locks, numbers and channels are shuttle's. What the vault takes from tokio (`Notify`, the lock that is awaited, `watch`) is
//! written anew here by what tokio documents of it: what is tried is how the vault uses them, not tokio.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

pub use shuttle::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};
pub use shuttle::sync::mpsc::{SyncSender, sync_channel};
pub use shuttle::thread::yield_now;

/// Counts towards a limit in the vault; here nothing is limited.
pub struct OwnedSemaphorePermit;

// === parking_lot's way to lock ===

#[derive(Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

pub struct Guard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

#[derive(Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl<T> Mutex<T> {
    pub fn new(content: T) -> Self {
        Self(shuttle::sync::Mutex::new(content))
    }

    pub fn lock(&self) -> Guard<'_, T> {
        Guard(Some(self.0.lock().expect("who panics ends the model")))
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("held, but while it waits")
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held, but while it waits")
    }
}

impl Condvar {
    pub fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn wait<T>(&self, guard: &mut Guard<'_, T>) {
        let held = guard.0.take().expect("held, but while it waits");
        guard.0 = Some(self.0.wait(held).expect("who panics ends the model"));
    }
}

// === tokio's Notify: who called `notified()` before `notify_waiters()` is woken by it ===

#[derive(Default)]
pub struct Notify(Mutex<Notices>);

#[derive(Default)]
struct Notices {
    given: u64,
    waiting: Vec<Waker>,
}

pub struct Notified<'a> {
    of: &'a Notify,
    seen: u64,
}

impl Notify {
    pub fn notified(&self) -> Notified<'_> {
        Notified { of: self, seen: self.0.lock().given }
    }

    pub fn notify_waiters(&self) {
        let waiting = {
            let mut notices = self.0.lock();
            notices.given += 1;
            std::mem::take(&mut notices.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Notified<'_> {
    /// Whether the notice is here already.
    pub fn enable(self: Pin<&mut Self>) -> bool {
        self.of.0.lock().given != self.seen
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut notices = self.of.0.lock();
        if notices.given != self.seen {
            return Poll::Ready(());
        }
        notices.waiting.push(context.waker().clone());
        Poll::Pending
    }
}

// === tokio's lock that is awaited ===

#[derive(Default)]
pub struct AsyncMutex<T> {
    turns: Mutex<Turns>,
    _content: T,
}

#[derive(Default)]
struct Turns {
    is_taken: bool,
    waiting: VecDeque<Waker>,
}

pub struct OwnedMutexGuard<T>(Arc<AsyncMutex<T>>);

struct Locking<T>(Option<Arc<AsyncMutex<T>>>);

impl<T> AsyncMutex<T> {
    pub async fn lock_owned(self: Arc<Self>) -> OwnedMutexGuard<T> {
        Locking(Some(self)).await
    }
}

impl<T> Future for Locking<T> {
    type Output = OwnedMutexGuard<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let lock = self.0.clone().expect("not polled after it was ready");
        let mut turns = lock.turns.lock();
        if turns.is_taken {
            turns.waiting.push_back(context.waker().clone());
            return Poll::Pending;
        }
        turns.is_taken = true;
        drop(turns);
        self.0 = None;
        Poll::Ready(OwnedMutexGuard(lock))
    }
}

impl<T> Drop for OwnedMutexGuard<T> {
    fn drop(&mut self) {
        let waiting = {
            let mut turns = self.0.turns.lock();
            turns.is_taken = false;
            std::mem::take(&mut turns.waiting)
        };
        // Tokio wakes the next alone. All of them is harder: any may come first, and one that has gone away costs nothing.
        waiting.into_iter().for_each(Waker::wake);
    }
}

// === tokio's watch ===

pub mod watch {
    use super::{Guard, Mutex};
    use std::ops::Deref;
    use std::sync::Arc;
    use std::task::{Poll, Waker};

    pub struct Sender<T>(Arc<Mutex<Watched<T>>>);

    pub struct Receiver<T>(Arc<Mutex<Watched<T>>>);

    pub struct Watched<T> {
        value: T,
        waiting: Vec<Waker>,
    }

    pub struct Ref<'a, T>(Guard<'a, Watched<T>>);

    impl<T> Deref for Ref<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.0.value
        }
    }

    impl<T> Sender<T> {
        pub fn new(value: T) -> Self {
            Self(Arc::new(Mutex::new(Watched { value, waiting: Vec::new() })))
        }

        pub fn borrow(&self) -> Ref<'_, T> {
            Ref(self.0.lock())
        }

        pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
            let waiting = {
                let mut watched = self.0.lock();
                modify(&mut watched.value);
                std::mem::take(&mut watched.waiting)
            };
            waiting.into_iter().for_each(Waker::wake);
        }

        pub fn subscribe(&self) -> Receiver<T> {
            Receiver(self.0.clone())
        }
    }

    impl<T> Receiver<T> {
        pub async fn wait_for(&mut self, mut condition: impl FnMut(&T) -> bool) -> Result<(), ()> {
            std::future::poll_fn(|context| {
                let mut watched = self.0.lock();
                if condition(&watched.value) {
                    return Poll::Ready(Ok(()));
                }
                watched.waiting.push(context.waker().clone());
                Poll::Pending
            })
            .await
        }
    }
}
