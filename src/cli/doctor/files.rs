//! Who can reach keys and data.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Access;

use crate::config::{Config, RootKey};
use crate::server::Finding;

const GROUP_AND_OTHERS: u32 = 0o077;
const WRITE: u32 = 0o022;
const READ_OR_ENTER: u32 = 0o055;
const ENTER: u32 = 0o011;

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let RootKey::File { path: root_key } = &config.root_key;
    let keys =
        [("root key", root_key), ("log key", &config.audit.signing_key), ("private key", &config.server.private_key)];
    let directories = [("data directory", &config.storage.path), ("checkpoints", &config.audit.checkpoints)];
    let keys = keys.into_iter().map(|(subject, path)| key(subject, path));
    let sinks = &config.audit.sinks;
    let of_sinks =
        sinks.iter().filter_map(|sink| sink.private_key.as_ref()).map(|path| key("private key of a sink", path));
    // Made by the first start that sends events.
    let cursors = &config.audit.sink_cursors;
    let cursors = cursors.exists().then(|| directory("sink cursors", cursors));
    let copy = config.audit.checkpoints_copy.as_ref().map(|path| ("checkpoint copy", path));
    let directories = directories.into_iter().chain(copy).map(|(subject, path)| directory(subject, path));
    keys.chain(of_sinks).chain(directories).chain(cursors).collect()
}

fn key(subject: &str, path: &Path) -> Finding {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Finding::bad(subject, format!("{shown}: {error}"), "correct the path"),
    };
    let mode = metadata.mode() & 0o7777;
    if mode & GROUP_AND_OTHERS != 0 {
        let seen = format!("{shown} has mode {mode:04o}: others can reach it");
        return Finding::bad(subject, seen, format!("run chmod 600 {shown}; who had access may have a copy"));
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&metadata.uid()) {
        let seen = format!("{shown} belongs to user {}, not to the one who runs this", metadata.uid());
        return Finding::bad(subject, seen, "run doctor as the vault's user, or give it the file");
    }
    Finding::ok(subject, format!("{shown}, mode {mode:04o}"))
}

fn directory(subject: &str, path: &Path) -> Finding {
    let shown = path.display();
    let mode = match std::fs::metadata(path) {
        Ok(metadata) => metadata.mode() & 0o7777,
        Err(error) => return Finding::bad(subject, format!("{shown}: {error}"), "correct the path, or mount it"),
    };
    let seen = format!("{shown}, mode {mode:04o}");
    if let Err(error) = rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK) {
        let advice =
            "let the vault's user own it, on a file system that is mounted for writing; run doctor as that user";
        return Finding::bad(subject, format!("{seen}: this user can't write there: {error}"), advice);
    }
    if !is_passable(path) {
        return Finding::ok(subject, seen);
    }
    if mode & WRITE != 0 {
        return Finding::bad(subject, format!("{seen}: others can write there"), format!("run chmod 700 {shown}"));
    }
    if mode & READ_OR_ENTER != 0 {
        return Finding::warn(subject, format!("{seen}: others can look into it"), format!("run chmod 700 {shown}"));
    }
    Finding::ok(subject, seen)
}

/// Whether others can come as far as `path`: one closed folder above it keeps them out.
fn is_passable(path: &Path) -> bool {
    let absolute = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().skip(1).all(|folder| std::fs::metadata(folder).is_ok_and(|found| found.mode() & ENTER != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Verdict;
    use std::os::unix::fs::PermissionsExt;

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        assert_eq!(key("root key", &path).verdict, Verdict::Bad);
        std::fs::write(&path, "").unwrap();
        for (mode, verdict) in
            [(0o600, Verdict::Ok), (0o400, Verdict::Ok), (0o640, Verdict::Bad), (0o604, Verdict::Bad)]
        {
            set(&path, mode);
            assert_eq!(key("root key", &path).verdict, verdict, "{mode:o}");
        }
    }

    #[test]
    fn a_closed_folder_above_keeps_others_out() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for (above, mode, verdict) in [
            (0o700, 0o777, Verdict::Ok),
            (0o711, 0o700, Verdict::Ok),
            (0o755, 0o755, Verdict::Warn),
            (0o755, 0o775, Verdict::Bad),
        ] {
            set(folder.path(), above);
            set(&data, mode);
            assert_eq!(directory("data directory", &data).verdict, verdict, "{above:o} {mode:o}");
        }
    }
}
