//! What threads meet at, under one name.
//!
//! The parts that are hard to think through under every order of events take their locks, numbers and channels from here.
//! `tests/models` puts primitives in this module's place that try out the orders, and runs those parts, as they stand.

pub use parking_lot::{Condvar, Mutex};
pub use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};
pub use std::sync::mpsc::{SyncSender, sync_channel};
pub use std::thread::yield_now;
pub use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, OwnedSemaphorePermit, watch};
