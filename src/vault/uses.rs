//! Tokens with limited uses queue here, one caller at a time for each token, so that of those who race exactly as many
//! win as there are uses left, and the rest find the token used up instead of being told to try again.

use crate::crypto::Handle;
use crate::sync::{AsyncMutex, Mutex, OwnedMutexGuard};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// A queue for each token that somebody is using up right now.
pub(super) struct Queues {
    tokens: Mutex<Tokens>,
}

struct Tokens {
    queues: HashMap<Handle, Weak<AsyncMutex<()>>>,
    /// Entries of queues that have emptied are swept when the map has grown to this.
    sweep_at: usize,
    /// It is never swept below this size.
    sweep_at_least: usize,
}

/// A caller's turn at some tokens. Dropping it lets the next ones in.
pub(super) struct Turn {
    handles: Vec<Handle>,
    _guards: Vec<OwnedMutexGuard<()>>,
}

const SWEEP_AT_LEAST: usize = 4096;

impl Default for Queues {
    fn default() -> Self {
        Self::swept_at_least(SWEEP_AT_LEAST)
    }
}

impl Queues {
    /// With a map that is not swept while it is smaller than this.
    fn swept_at_least(sweep_at_least: usize) -> Self {
        Self { tokens: Mutex::new(Tokens { queues: HashMap::new(), sweep_at: sweep_at_least, sweep_at_least }) }
    }

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
            tokens.sweep_at = (2 * tokens.queues.len()).max(tokens.sweep_at_least);
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
