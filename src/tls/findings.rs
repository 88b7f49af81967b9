//! What the certificate verifier found out during one handshake, for the acceptor.
//!
//! rustls calls the verifier deep inside a handshake and tells the acceptor of its verdict only by an error that also
//! decides which alert the client sees. To keep our reasons to ourselves and the alerts standard, the verifier writes
//! what it found into a slot of the task that performs the handshake. The slot lives exactly as long as that handshake.

use std::cell::RefCell;

use crate::caller::leaf::Leaf;

/// Filled in as far as the handshake came.
#[derive(Default)]
pub(super) struct Findings {
    /// SHA-256 of the client's certificate, as soon as one was seen, good or bad.
    pub certificate_sha256: Option<[u8; 32]>,
    /// The client's certificate, once it has been verified. Still `None` after a handshake means that the verifier did
    /// not run in it, and nobody may come in like that.
    pub leaf: Option<Leaf>,
    /// Why the certificate was refused.
    pub reason: Option<&'static str>,
}

tokio::task_local! {
    static SLOT: RefCell<Findings>;
}

/// Runs `handshake` with a fresh slot and returns what was written there.
pub(super) async fn observe<F: Future>(handshake: F) -> (F::Output, Findings) {
    SLOT.scope(RefCell::default(), async {
        let output = handshake.await;
        (output, SLOT.with(RefCell::take))
    })
    .await
}

/// Writes into the slot of the handshake that is being performed; does nothing outside one.
pub(super) fn note(write: impl FnOnce(&mut Findings)) {
    // Nobody is listening outside `observe`, and then there is nothing to tell.
    let _ = SLOT.try_with(|slot| write(&mut slot.borrow_mut()));
}
