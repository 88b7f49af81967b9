//! What the process gives up by itself. (That it leaves no core is `main`'s business, for every command.)

use super::Error;
use rustix::fs::Mode;

/// What a process that holds keys gives up before it has any: programs with more rights than it has, and files that others may
/// read or its group may change, whatever the umask was.
pub(super) fn confine() -> Result<(), Error> {
    rustix::thread::set_no_new_privs(true).map_err(|error| Error::Io {
        what: "can't give up new privileges (PR_SET_NO_NEW_PRIVS)",
        error: error.into(),
    })?;
    let wanted = Mode::from_raw_mode(0o027);
    let before = rustix::process::umask(wanted);
    rustix::process::umask(before | wanted);
    Ok(())
}

/// Whoever runs as root is told, once it serves: a container may have no other user.
pub(super) fn warn_of_root() {
    if rustix::process::geteuid().is_root() {
        tracing::warn!("runs as root, and needs no right of root's: give it a user of its own (docs/operations.md)");
    }
}
