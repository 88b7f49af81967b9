//! The ledger's threads, from their start to their end.

use super::checkpointer::{self, Checkpointer};
use super::open::OpenError;
use super::writer::Writer;
use super::{Head, Ledger, Shared};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

/// The ledger's threads. Keep it until the end and [`Running::close`] it.
pub struct Running {
    ledger: Ledger,
    writer: JoinHandle<Option<Head>>,
    checkpointer: JoinHandle<Checkpointer>,
}

/// The last checkpoint could not be signed or written, and why. The events are.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unvouched(String);

/// Starts them.
pub(super) fn start(
    shared: Arc<Shared>,
    writer: Writer,
    mut checkpointer: Checkpointer,
    ordered: Receiver<checkpointer::Order>,
    period: Duration,
) -> Result<(Ledger, Running), OpenError> {
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let writer = thread("ledger").spawn(move || writer.run()).map_err(OpenError::Thread)?;
    let signing = move || {
        checkpointer.run(period, &ordered);
        checkpointer
    };
    let checkpointer = thread("checkpoints").spawn(signing).map_err(OpenError::Thread)?;
    let ledger = Ledger { shared };
    Ok((ledger.clone(), Running { ledger, writer, checkpointer }))
}

impl Running {
    /// Finishes what waits, signs the last checkpoint and ends the threads.
    ///
    /// # Errors
    /// If the last checkpoint could not be written. The next start goes by the one before.
    pub fn close(self) -> Result<(), Unvouched> {
        // Its end of the channel gone, or a message: both end the thread's wait.
        let _ = self.ledger.shared.orders.send(checkpointer::Order::Stop);
        let checkpointer = self.checkpointer.join();
        self.ledger.shared.queue.drain();
        // A writer that failed or panicked has called `on_fatal`; there is nothing left to sign for.
        let head = self.writer.join();
        let Ok(Some(head)) = head else { return Ok(()) };
        let Ok(mut checkpointer) = checkpointer else {
            return Err(Unvouched("the thread that signs it has failed".to_owned()));
        };
        match checkpointer.sign(&head) {
            Ok(_) => Ok(()),
            Err(_) => Err(Unvouched(checkpointer.failed)),
        }
    }
}

// === recovery ===
