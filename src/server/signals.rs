//! How the process is told to end.

use super::Error;

/// The signals that end the process in order. Listened for before the vault says that it is ready: whoever has read that
/// may send one.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// Of a terminal that was closed. Nothing can be loaded anew yet, so it means the same.
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    pub fn listen() -> Result<Self, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).map_err(|error| Error::Io { what: "can't listen for signals", error });
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    pub async fn one(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
