//! A witness: somebody else who remembers how long a log was and what its root was, and says so with a signature.
//!
//! A log that is put back to an older state, or that shows two histories, looks right by itself: everything that could
//! contradict it was put back, too. A witness on another machine can contradict it. It cosigns a checkpoint only if it
//! extends the one that it cosigned before (C2SP tlog-witness and tlog-cosignature), so who sees its cosignature knows that
//! this is the one history.
//!
//! Invariants:
//!
//! * A cosignature leaves only after what was cosigned is remembered durably.
//! * For one log, sizes never decrease and each cosigned tree begins with all that were cosigned before. Checking and
//!   remembering are one step: of two requests at the same time one waits.
//! * Nothing is cosigned that is not signed by a key that was configured for that log.
//! * What was remembered and can't be read is an error, never a new beginning.
//!
//! `request` is the body of the one call, `state` the files, `server` the HTTP side. `circle` is the vault's side: all the
//! witnesses that it asks. Only these two need the feature `vault`. The witness knows nothing of events: it sees sizes and
//! hashes.

#[cfg(feature = "vault")]
pub(crate) mod circle;
mod request;
#[cfg(feature = "vault")]
pub mod server;
pub(crate) mod state;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::merkle::note::{Checkpoint, Name, Note, NoteError, SignedCheckpoint, VerifierKey, WitnessKey};
use crate::merkle::{ProofError, empty_root, verify_consistency};
use state::Directory;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

#[cfg(feature = "vault")]
pub use circle::{Circle, Member};
pub use request::{REQUEST_BYTES_AT_MOST, Request};
pub use state::{NotStored, Seen, StateError};

/// A witness of some logs.
pub struct Witness {
    key: WitnessKey,
    logs: BTreeMap<Name, Log>,
    directory: Directory,
    clock: Arc<dyn Clock>,
}

struct Log {
    /// Usually one; two while one replaces the other.
    keys: Vec<VerifierKey>,
    memory: Mutex<Memory>,
}

/// What is known of a log. Held while a checkpoint of it is looked at, so that one at a time is.
enum Memory {
    /// What was cosigned last, if anything was.
    Certain(Option<Seen>),
    /// A write failed when the file may have been replaced already. Only a start, which reads it, can tell.
    Uncertain,
}

/// Why a checkpoint is not cosigned. Nothing was remembered.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not in the form of the protocol.
    #[error("not a request to add a checkpoint: {0}")]
    Malformed(&'static str),
    /// The checkpoint is not a note, or not one of a log.
    #[error("{0}")]
    NotACheckpoint(NoteError),
    /// No such log was configured.
    #[error("this witness does not know the log {0}: its operator has to add the log's vkey to witness.toml")]
    UnknownLog(Name),
    /// Not signed by the log's key.
    #[error("{0}")]
    Untrusted(NoteError),
    /// The proof leads backwards.
    #[error("the old size {old} is larger than the checkpoint's, {size}")]
    Backwards {
        /// Where the proof begins.
        old: u64,
        /// The checkpoint's size.
        size: u64,
    },
    /// The proof begins elsewhere than at what was cosigned last.
    #[error("the last cosigned checkpoint has size {0}")]
    OtherSize(u64),
    /// The log shows two histories.
    #[error("a checkpoint of size {0} with another root has been cosigned: the log shows two histories")]
    OtherRoot(u64),
    /// The checkpoint does not extend what was cosigned last, as far as the proof can tell.
    #[error("the checkpoint is not shown to extend the last cosigned one: {0}")]
    BadProof(ProofError),
    /// It can't be remembered, so it must not be cosigned.
    #[error("the checkpoint can't be remembered: {0}")]
    NotStored(#[from] NotStored),
    /// After an earlier failure to remember.
    #[error("it is not certain what was remembered last of this log: the witness must be started again")]
    Uncertain,
}

impl Witness {
    /// Makes an empty state directory for a new witness.
    ///
    /// # Errors
    /// If something is there already, or the file system refuses.
    pub fn create_state(directory: &Path) -> Result<(), StateError> {
        Directory::create(directory)
    }

    /// A witness with this key for the logs with these keys, which remembers in `directory`. Several keys of one name are
    /// several keys of one log.
    ///
    /// # Errors
    /// If another process uses the directory, or anything in it can't be read.
    pub fn open(
        key: WitnessKey,
        logs: &[VerifierKey],
        directory: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StateError> {
        let directory = Directory::open(directory)?;
        let mut known: BTreeMap<Name, Log> = BTreeMap::new();
        for log in logs {
            if let Some(known) = known.get_mut(log.name()) {
                known.keys.push(log.clone());
                continue;
            }
            let memory = Mutex::new(Memory::Certain(directory.load(log.name())?));
            known.insert(log.name().clone(), Log { keys: vec![log.clone()], memory });
        }
        Ok(Self { key, logs: known, directory, clock })
    }

    /// The witness's name.
    pub fn name(&self) -> &Name {
        self.key.name()
    }

    /// Looks at a submitted checkpoint and, if it extends what was cosigned before, remembers it and returns the signature
    /// line, with its line feed. Blocks on the disk.
    ///
    /// # Errors
    /// [`Refused`]: nothing was signed.
    pub fn add_checkpoint(&self, body: &[u8]) -> Result<String, Refused> {
        let request = Request::parse(body).map_err(Refused::Malformed)?;
        let claimed = Note::parse(&request.note).map_err(Refused::NotACheckpoint)?;
        let claimed = Checkpoint::parse(claimed.text()).map_err(Refused::NotACheckpoint)?;
        let origin = claimed.origin();
        let log = self.logs.get(origin).ok_or_else(|| Refused::UnknownLog(origin.clone()))?;
        let signed = SignedCheckpoint::open(&request.note, origin, &log.keys).map_err(Refused::Untrusted)?;
        if request.old > claimed.size() {
            return Err(Refused::Backwards { old: request.old, size: claimed.size() });
        }
        // A panic while it was held leaves what a failed write leaves.
        let mut memory = log.memory.lock().map_err(|_| Refused::Uncertain)?;
        let Memory::Certain(seen) = *memory else { return Err(Refused::Uncertain) };
        check(&request, signed.checkpoint(), seen)?;
        let cosignature = self.key.cosign(&signed, self.clock.wall().seconds().max(1));
        let line = format!("{cosignature}\n");
        let now = Seen { size: claimed.size(), root: *claimed.root() };
        if seen == Some(now) {
            return Ok(line);
        }
        let cosigned = Note::parse(&format!("{}{line}", request.note)).map_err(Refused::NotACheckpoint)?;
        if let Err(error) = self.directory.store(origin, &cosigned) {
            if error.replaced {
                *memory = Memory::Uncertain;
            }
            return Err(error.into());
        }
        *memory = Memory::Certain(Some(now));
        Ok(line)
    }
}

/// The rules of tlog-witness, in its order.
fn check(request: &Request, checkpoint: &Checkpoint, seen: Option<Seen>) -> Result<(), Refused> {
    let last = seen.unwrap_or(Seen { size: 0, root: empty_root() });
    if request.old != last.size {
        return Err(Refused::OtherSize(last.size));
    }
    if seen.is_some() && checkpoint.size() == last.size && *checkpoint.root() != last.root {
        return Err(Refused::OtherRoot(last.size));
    }
    verify_consistency(last.size, &last.root, checkpoint.size(), checkpoint.root(), &request.proof)
        .map_err(Refused::BadProof)
}

impl Refused {
    /// The HTTP status that tlog-witness has for it.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::NotACheckpoint(_) | Self::Backwards { .. } => 400,
            Self::Untrusted(_) => 403,
            Self::UnknownLog(_) => 404,
            Self::OtherSize(_) | Self::OtherRoot(_) => 409,
            Self::BadProof(_) => 422,
            Self::NotStored(_) | Self::Uncertain => 503,
        }
    }
}
