//! Running a vault: backup and restore.
//!
//! A backup is a plain copy of the data as it was at one commit, with the checkpoint that vouches for its log and a manifest
//! that is written last. A restore never goes on with the old log: it begins a new one that cites it.
//!
//! Nothing here holds a key that is not wrapped, and none gets into a copy.

mod accept;
mod backup;
mod manifest;
mod restore;

#[cfg(test)]
pub(crate) use manifest::check_text;

pub use accept::accept;
pub use backup::{BackupError, Copied, Source, back_up, look};
pub use manifest::{BadManifest, Entry, Manifest};
pub use restore::{Carried, RestoreError, carry, citation};
