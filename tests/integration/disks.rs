//! Disks that a test can spoil: small ones, ones that fail at a moment, ones that stand still.

use crate::harness::Home;
use crate::power::{Mounted, quietly, tool, unmount, wait_for_export};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What a file system in a file needs.
pub const LOOP: [&str; 6] = ["losetup", "mkfs.ext4", "mount", "umount", "/dev/loop-control", "/proc/self/mounts"];
/// What a disk behind a program needs.
pub const EXPORTED: [&str; 8] = [
    "qemu-storage-daemon",
    "losetup",
    "mkfs.ext4",
    "mount",
    "umount",
    "/dev/fuse",
    "/dev/loop-control",
    "/proc/self/mounts",
];

/// An ext4 in a file. It is unmounted and gone when this is dropped.
pub struct Image {
    pub mounted: Mounted,
    device: String,
    _folder: tempfile::TempDir,
}

/// A block device behind `qemu-storage-daemon`, with an ext4 on it. It is taken apart when this is dropped.
pub struct Exported {
    mounted: Option<Mounted>,
    device: String,
    export: PathBuf,
    daemon: Child,
}

/// A disk that stands still. To be dropped before whatever waits for it: a process can't even be killed meanwhile.
pub struct Standstill(Pid);

impl Drop for Standstill {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

impl Image {
    /// Of so many bytes; `options` are for `mkfs.ext4`.
    pub fn new(bytes: u64, options: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("image-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = folder.path().join("image");
        File::create(&file).unwrap().set_len(bytes).unwrap();
        let device = tool("losetup", &["--find", "--show", &file.display().to_string()]).trim().to_owned();
        // Nothing is kept for root: the vault of the tests is root.
        let format = ["-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        tool("mkfs.ext4", &[&format[..], options, &[&device]].concat());
        let mounted = Mounted::new(&device, &[], &folder.path().join("mounted"));
        Self { mounted, device, _folder: folder }
    }

    pub fn path(&self) -> &Path {
        &self.mounted.path
    }

    /// As an ext4 does by itself after an error: from now on nothing can be written.
    pub fn abort(&self) {
        tool("mount", &["-o", "remount,abort", &self.path().display().to_string()]);
    }

    /// After [`Image::abort`]: unmounted, checked and mounted again.
    pub fn mend(&self, options: &[&str]) {
        let path = self.path().display().to_string();
        tool("umount", &[&path]);
        // Status 1: it was not clean, and is now.
        let _ = Command::new("e2fsck").args(["-p", &self.device]).output().unwrap();
        tool("mount", &[options, &[&self.device, &path]].concat());
    }

    /// Bytes that are free for anybody.
    pub fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(self.path()).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// A file that takes so much room that about `left` bytes are free.
    pub fn fill(&self, left: u64) -> PathBuf {
        let filler = self.path().join("filler");
        let file = File::create(&filler).unwrap();
        let bytes = self.free().saturating_sub(left);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.max(1)).unwrap();
        file.sync_all().unwrap();
        filler
    }
}

impl Drop for Image {
    /// Nothing here may panic: a test that failed is to leave nothing behind either.
    fn drop(&mut self) {
        unmount(&self.mounted.path);
        quietly("losetup", &["--detach", &self.device]);
    }
}

impl Exported {
    /// Over the file `content`, which is made with so many bytes if it is not there. `filter` may put something between: it
    /// is given the options for a node `filter` above the node `content`, and says which node is exported.
    pub fn new(folder: &Path, bytes: u64, filter: Option<(&str, &str)>) -> Self {
        let (content, export) = (folder.join("content.raw"), folder.join("export.raw"));
        let is_new = !content.exists();
        if is_new {
            File::create(&content).unwrap().set_len(bytes).unwrap();
        }
        File::create(&export).unwrap();
        let mut command = Command::new("qemu-storage-daemon");
        let file = format!("driver=file,node-name=content,filename={}", content.display());
        command.args(["--blockdev", &file]);
        let mut top = "content";
        if let Some((options, node)) = filter {
            command.args(["--blockdev", options]);
            command.args(["--blockdev", &format!("driver=raw,node-name=top,file={node}")]);
            top = "top";
        }
        let offer = format!("type=fuse,id=e,node-name={top},mountpoint={},writable=on", export.display());
        command.args(["--export", &offer]);
        let daemon = command.stdin(Stdio::null()).spawn().unwrap();
        let mut disk = Self { mounted: None, device: String::new(), export, daemon };
        wait_for_export(&disk.export, &mut disk.daemon);
        disk.device = tool("losetup", &["--find", "--show", &disk.export.display().to_string()]).trim().into();
        if is_new {
            tool("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &disk.device]);
        }
        disk.mounted = Some(Mounted::new(&disk.device, &[], &folder.join("mounted")));
        disk
    }

    pub fn path(&self) -> &Path {
        &self.mounted.as_ref().expect("it is mounted").path
    }

    fn daemon(&self) -> Pid {
        Pid::from_child(&self.daemon)
    }

    /// From now on nothing is read or written, until what comes back is dropped.
    pub fn stand_still(&self) -> Standstill {
        kill_process(self.daemon(), Signal::STOP).unwrap();
        Standstill(self.daemon())
    }
}

impl Drop for Exported {
    /// Nothing here may panic: a test that failed is to leave nothing behind either.
    fn drop(&mut self) {
        drop(self.mounted.take());
        if !self.device.is_empty() {
            quietly("losetup", &["--detach", &self.device]);
        }
        unmount(&self.export);
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Moves data and checkpoints of a home that is not in use onto another disk. What the vault says stays on this one.
pub fn move_to(home: &Home, disk: &Path) {
    for name in ["data", "checkpoints"] {
        let to = disk.join(name);
        copy(&home.file(name), &to);
        std::fs::remove_dir_all(home.file(name)).unwrap();
        std::os::unix::fs::symlink(&to, home.file(name)).unwrap();
    }
    // It was durable where it came from.
    tool("sync", &["--file-system", &disk.display().to_string()]);
}

/// A home with all of its files, copied.
pub fn copy_of(home: &Home) -> (tempfile::TempDir, Home) {
    let folder = tempfile::Builder::new().prefix("copy-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    copy(home.path(), folder.path());
    let copy = Home::at(folder.path());
    (folder, copy)
}

/// Copies a directory with all in it, and their modes.
pub fn copy(from: &Path, to: &Path) {
    let words = ["-a", "--no-target-directory", &from.display().to_string(), &to.display().to_string()];
    tool("cp", &words);
}

/// The files of a home's data whose names end so, the oldest first.
pub fn data_files(home: &Home, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.file("data")).unwrap().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| has_end(path, end)).collect();
    files.sort();
    files
}

fn has_end(path: &Path, end: &str) -> bool {
    path.file_name().unwrap_or_default().to_string_lossy().ends_with(end)
}
