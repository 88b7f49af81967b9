//! Operations that are under way. They are finished and recorded though their callers have gone, also when the vault is told
//! to stop: its threads wait for them.

use super::Vault;
use crate::sync::{AtomicUsize, Notify};
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How many there are.
#[derive(Default)]
pub(super) struct Count {
    number: AtomicUsize,
    none: Notify,
}

/// Held for as long as one of them runs.
pub struct UnderWay(Arc<Vault>);

impl Vault {
    /// One more, until what comes back is dropped.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.number.fetch_add(1, Ordering::SeqCst);
        UnderWay(Arc::clone(self))
    }

    /// Waits until there are none.
    pub async fn idle(&self) {
        loop {
            let mut none = pin!(self.under_way.none.notified());
            // From here on no news is missed.
            none.as_mut().enable();
            if self.under_way.number.load(Ordering::SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl Deref for UnderWay {
    type Target = Vault;

    fn deref(&self) -> &Vault {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.number.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.under_way.none.notify_waiters();
        }
    }
}
