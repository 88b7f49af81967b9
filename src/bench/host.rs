//! The machine that is measured, in words. Nothing that could not be read is made up.

use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

const UNKNOWN: &str = "unknown";

/// What a reader must know of it to make sense of the figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Host {
    pub(super) cores: usize,
    cpu: String,
    kernel: String,
    memory_bytes: u64,
    /// On which the vault lies.
    file_system: String,
    device: String,
}

impl Host {
    /// This one. `directory` is where the vault lies.
    pub(super) fn look(directory: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (file_system, device) = mounted(&read("/proc/self/mounts"), &absolute(directory));
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            kernel: Some(read("/proc/sys/kernel/osrelease").trim().to_owned())
                .filter(|release| !release.is_empty())
                .unwrap_or_else(|| UNKNOWN.to_owned()),
            memory_bytes: kibibytes(&read("/proc/meminfo"), "MemTotal").unwrap_or_default(),
            file_system,
            device,
        }
    }

    /// For a table of two columns.
    pub(super) fn rows(&self) -> Vec<[String; 2]> {
        let gibibytes = format!("{:.1} GiB", self.memory_bytes as f64 / f64::from(1 << 30));
        [
            ("CPU", self.cpu.clone()),
            ("cores", self.cores.to_string()),
            ("memory", gibibytes),
            ("kernel", format!("Linux {}", self.kernel)),
            ("disk", format!("{} on {}", self.file_system, self.device)),
        ]
        .map(|(name, what)| [name.to_owned(), what])
        .into()
    }
}

/// Of `name\t: what` the first.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A row of `/proc/meminfo` or `/proc/PID/status`, in bytes.
pub(super) fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

/// The file system and the device of the longest mount that `path` lies in.
fn mounted(mounts: &str, path: &Path) -> (String, String) {
    let parts = mounts.lines().filter_map(|line| {
        let mut parts = line.split(' ');
        let (device, place, kind) = (parts.next()?, parts.next()?, parts.next()?);
        path.starts_with(place).then(|| (place.len(), kind.to_owned(), device.to_owned()))
    });
    // Of two at one place the later one hides the earlier.
    let deepest = parts.max_by_key(|(length, ..)| *length);
    deepest.map_or_else(|| (UNKNOWN.to_owned(), UNKNOWN.to_owned()), |(_, kind, device)| (kind, device))
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_is_the_one() {
        let mounts =
            "/dev/a / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n/dev/b /disk xfs rw 0 0\n/dev/c /disk btrfs rw 0 0\n";
        let of = |path: &str| mounted(mounts, Path::new(path));
        assert_eq!(of("/home"), ("ext4".to_owned(), "/dev/a".to_owned()));
        assert_eq!(of("/dev/shm/x").0, "tmpfs");
        assert_eq!(of("/diskette").0, "ext4", "a name that only begins like a mount");
        assert_eq!(of("/disk/x").0, "btrfs");
        assert_eq!(mounted("", Path::new("/")).0, UNKNOWN);
    }

    #[test]
    fn rows_of_proc_are_read() {
        let text = "Name:\tcloakroom\nVmRSS:\t  1024 kB\n";
        assert_eq!(kibibytes(text, "VmRSS"), Some(1 << 20));
        assert_eq!(kibibytes(text, "Name"), None);
        assert_eq!(kibibytes(text, "VmSwap"), None);
    }

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let host = Host::look(&std::env::temp_dir());
        assert!(host.memory_bytes > 0 && host.kernel != UNKNOWN, "{host:?}");
    }
}
