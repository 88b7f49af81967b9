//! The client without a vault: what is decided, in what time, and what is made of answers.

mod answers;
mod breaking;
mod calls;
mod retries;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Surroundings;
use crate::clock::{Clock, FakeClock};
use crate::sync::Mutex;

/// Time that passes when somebody waits for it, and randomness that the test gives.
#[derive(Default)]
struct Stage {
    clock: FakeClock,
    /// Every byte that is drawn.
    random: u8,
    /// Then no pause is ever over.
    is_still: AtomicBool,
    paused: Mutex<Vec<Duration>>,
}

impl Stage {
    fn with_random(random: u8) -> Arc<Self> {
        Arc::new(Self { random, ..Self::default() })
    }

    fn paused(&self) -> Vec<Duration> {
        std::mem::take(&mut self.paused.lock())
    }
}

impl Surroundings for Stage {
    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    fn pause(&self, length: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            if self.is_still.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            self.paused.lock().push(length);
            self.clock.advance(length);
        })
    }

    fn random(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        bytes.fill(self.random);
        Ok(())
    }
}
