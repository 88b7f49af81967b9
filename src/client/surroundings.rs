//! What a client asks of the machine: the time, a pause, and randomness. As a parameter, so that tests neither wait nor guess.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use crate::clock::{Clock, SystemClock};
use crate::secret::Secret;

/// The port.
pub trait Surroundings: Send + Sync {
    /// Time since some fixed point; it never runs backwards.
    fn now(&self) -> Duration;
    /// Is done after so long.
    fn pause(&self, length: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// Fills `bytes` at random, unpredictably for others.
    ///
    /// # Errors
    /// If the machine has no randomness.
    fn random(&self, bytes: &mut [u8]) -> std::io::Result<()>;
}

/// The operating system, and tokio's timer.
pub struct Machine {
    clock: Arc<dyn Clock>,
}

impl Machine {
    /// The machine, behind the port.
    pub fn shared() -> Arc<dyn Surroundings> {
        Arc::new(Self { clock: SystemClock::shared() })
    }
}

impl Surroundings for Machine {
    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    fn pause(&self, length: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(length))
    }

    fn random(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        getrandom::fill(bytes).map_err(std::io::Error::other)
    }
}

/// A part of `whole`, each as likely as every other. Without randomness all of it.
pub(super) fn part_of(whole: Duration, surroundings: &dyn Surroundings) -> Duration {
    let mut bytes = [0xff; 4];
    let _ = surroundings.random(&mut bytes);
    whole.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

/// A UUID of version 4 (RFC 9562).
pub(super) fn uuid(surroundings: &dyn Surroundings) -> Result<Secret<String>, Error> {
    let mut bytes = Secret::new([0; 16]);
    let missing = |source| Error::NoRandomness { source };
    surroundings.random(bytes.expose_mut()).map_err(missing)?;
    let bytes = bytes.expose_mut();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    // With its full capacity from the start: a buffer that grows leaves a copy behind.
    let mut text = String::with_capacity(36);
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 0x0f] {
            text.push(char::from_digit(digit.into(), 16).expect("four bits are a digit"));
        }
    }
    Ok(Secret::new(text))
}
