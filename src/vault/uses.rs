//! Tokens with limited uses queue here, one caller at a time for each token, so that of those who race exactly as many
//! win as there are uses left, and the rest find the token used up instead of being told to try again.

use crate::crypto::Handle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// A queue for each token that somebody is using up right now.
#[derive(Default)]
pub(super) struct Queues {
    tokens: Mutex<Tokens>,
}

struct Tokens {
    queues: HashMap<Handle, Weak<AsyncMutex<()>>>,
    /// Entries of queues that have emptied are swept when the map has grown to this.
    sweep_at: usize,
}

/// A caller's turn at some tokens. Dropping it lets the next ones in.
pub(super) struct Turn {
    handles: Vec<Handle>,
    _guards: Vec<OwnedMutexGuard<()>>,
}

/// The map is never swept below this size.
const SWEEP_AT_LEAST: usize = 4096;

impl Default for Tokens {
    fn default() -> Self {
        Self { queues: HashMap::new(), sweep_at: SWEEP_AT_LEAST }
    }
}

impl Queues {
    /// Waits for a turn at all of `handles`. Taken in their order, so two callers never wait for each other.
    pub async fn turn(&self, mut handles: Vec<Handle>) -> Turn {
        handles.sort_unstable();
        handles.dedup();
        let mut guards = Vec::with_capacity(handles.len());
        for handle in &handles {
            guards.push(self.queue(*handle).lock_owned().await);
        }
        Turn { handles, _guards: guards }
    }

    fn queue(&self, handle: Handle) -> Arc<AsyncMutex<()>> {
        let mut tokens = self.tokens.lock();
        if let Some(queue) = tokens.queues.get(&handle).and_then(Weak::upgrade) {
            return queue;
        }
        if tokens.queues.len() >= tokens.sweep_at {
            tokens.queues.retain(|_, queue| queue.strong_count() > 0);
            // Twice what is left: sweeping costs each entry once or twice, however many queues there are.
            tokens.sweep_at = (2 * tokens.queues.len()).max(SWEEP_AT_LEAST);
        }
        let queue = Arc::default();
        tokens.queues.insert(handle, Arc::downgrade(&queue));
        queue
    }
}

impl Turn {
    /// Whether it is the caller's turn at all of these.
    pub fn covers(&self, handles: &[Handle]) -> bool {
        handles.iter().all(|handle| self.handles.binary_search(handle).is_ok())
    }
}
