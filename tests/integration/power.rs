//! Power cuts: the disk as it was at a moment in the midst of the work, without anything that the kernel still had in its
//! caches.
//!
//! The vault works on a file system whose disk is a file of ours: `qemu-storage-daemon` offers it over FUSE and keeps a log
//! of every write and flush ([`replay`]), a loop device makes a block device of it, ext4 stands on that. Clients note with
//! each answer how many entries the log had. Afterwards the disk is made anew from a prefix of the log, mounted, and a
//! vault started on it: everything that was answered when the log had no more than so many entries has to be there. A disk
//! may lose writes that came after the last flush, in any order, so some cuts lose some of them.
//!
//! The same is then done with a vault of which every second `fdatasync` does nothing and says that it succeeded, from the
//! moment when it is ready. What was acknowledged after such a one is durable a moment later, with the next. The check must
//! miss the few that were cut off in that moment, or it proves nothing.

mod replay;

use crate::harness::{Home, Server};
use crate::needs;
use crate::promises::{Dice, Findings, Plan, Promises, run};
use crate::strace::Attached;
use replay::Log;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// So many, or as the variable `POWER_CUTS` says.
const CUTS: u64 = 10;
const CALLS: u64 = 3_000;
const CALLERS: usize = 16;
const DISK_BYTES: u64 = 512 << 20;

/// A hundred times as long as the daemon usually takes.
const PATIENCE: Duration = Duration::from_mins(1);

const NEEDED: [&str; 9] = [
    "qemu-storage-daemon",
    "strace",
    "losetup",
    "mkfs.ext4",
    "mount",
    "umount",
    "/dev/fuse",
    "/dev/loop-control",
    "/proc/self/mounts",
];

#[tokio::test]
#[ignore = "long: power cuts"]
async fn ten_power_cuts_lose_nothing_that_was_acknowledged_s_03() {
    if !needs::met(&NEEDED) {
        return;
    }
    let work = Work::done(Sync::Real).await;
    let begin = Instant::now();
    let mut broken = Vec::new();
    let cuts = work.cuts();
    for cut in &cuts {
        match work.after(cut).await {
            Ok(findings) if findings.broken.is_empty() => println!("{cut}: {}", kept(&findings)),
            Ok(findings) => broken.push(format!("{cut}: {:#?}", findings.broken)),
            Err(log) => broken.push(format!("{cut}: the vault does not start: {log}")),
        }
    }
    let (cuts, seconds) = (cuts.len(), begin.elapsed().as_secs_f64());
    if !broken.is_empty() {
        // The log of writes stays for whoever looks into it.
        let kept = work.folder.keep();
        panic!("{} of {cuts} power cuts, seed {}, in {}: {broken:#?}", broken.len(), work.seed, kept.display());
    }
    println!("{cuts} power cuts: nothing lost; {:.1} s for each to replay, start and check", seconds / cuts as f64);
}

#[tokio::test]
#[ignore = "long: power cuts"]
async fn power_cuts_find_out_an_fdatasync_that_does_nothing_s_03() {
    if !needs::met(&NEEDED) {
        return;
    }
    let work = Work::done(Sync::HalfFaked).await;
    let (mut lost, mut missing, mut refused) = (0, 0, 0);
    let cuts = work.cuts();
    for cut in &cuts {
        match work.after(cut).await {
            Ok(findings) if findings.broken.is_empty() => println!("{cut}: {}", kept(&findings)),
            Ok(findings) => {
                lost += 1;
                // As `Promises::check` says it of a token that nobody revoked.
                missing += findings.broken.iter().filter(|broken| broken.ends_with("answered Err(NotFound)")).count();
                println!("{cut}: {} promises are broken, such as: {}", findings.broken.len(), findings.broken[0]);
            }
            Err(log) => {
                refused += 1;
                println!("{cut}: the vault refuses to start: {}", log.lines().last().unwrap_or_default());
            }
        }
    }
    println!(
        "where every second fdatasync does nothing, {lost} of {} power cuts lose what was acknowledged ({missing} values \
         in all), and after {refused} the vault does not start",
        cuts.len()
    );
    assert!(missing > 0, "no cut shows that values are missing: the check would not notice a loss");
}

fn kept(findings: &Findings) -> String {
    format!(
        "{} values, {} revocations, {} limits of uses and {} releases were there, {} events without a gap",
        findings.values, findings.revoked, findings.limited, findings.released, findings.events
    )
}

/// Whether `fdatasync` does what it says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sync {
    Real,
    /// Every second time it does nothing.
    HalfFaked,
}

/// What a vault has done on a disk, and what it answered meanwhile.
struct Work {
    folder: tempfile::TempDir,
    log: Log,
    promises: Promises,
    /// The log's length when the vault began to answer, and when the last answer came.
    begin: u64,
    end: u64,
    seed: u64,
}

/// A moment, and what the disk loses in it.
#[derive(Debug)]
struct Cut {
    /// The length of the log's prefix.
    length: u64,
    /// Of ten writes after the last flush, about so many are lost.
    lost: u64,
    seed: u64,
}

impl Work {
    /// Has a vault work on a disk of its own.
    async fn done(sync: Sync) -> Self {
        let folder = tempfile::Builder::new().prefix("power-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let seed = Dice::seed();
        let disk = Disk::create(folder.path());
        let mounted = Mounted::new(&disk.device, &[], &folder.path().join("mounted"));
        let home = Home::init_at(&mounted.path.join("vault"));
        let mut serve = home.serve_command();
        if sync == Sync::Real {
            // So little that tables are written to files meanwhile: those have their own syncs. Not where syncs are faked:
            // the start refuses a table that is cut short, and here it is to go on, with values missing.
            serve.env("CLOAKROOM_STORAGE__CACHE_BYTES", "8MiB");
        }
        let server = Server::launch(&home, serve).unwrap_or_else(|log| panic!("the vault did not start:\n{log}"));
        // Counted for each thread; the log is synced by the ledger's.
        let faked = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:retval=0:when=2+2"];
        let _strace = (sync == Sync::HalfFaked).then(|| Attached::to(&server, &faked));
        let log = disk.log.clone();
        let begin = replay::count(&log);
        let stamp = Box::new(move || replay::count(&log));
        let ended = run(&home, &server, Plan { seed, callers: CALLERS, calls: CALLS, stamp }, || {}).await;
        let end = replay::count(&disk.log);
        assert!(ended.failures.is_empty(), "{:?}", ended.failures);
        let tables = std::fs::read_dir(home.file("data")).unwrap().flatten();
        let tables = tables.filter(|file| file.path().extension().is_some_and(|extension| extension == "sst")).count();
        server.kill();
        drop((home, mounted));
        let log_of_writes = disk.log.clone();
        drop(disk);
        println!(
            "{} calls answered, {} tokens, {tables} tables written; {} writes to the disk meanwhile",
            ended.promises.calls,
            ended.promises.values(),
            end - begin
        );
        let log = Log::open(&log_of_writes).unwrap();
        Self { folder, log, promises: ended.promises, begin, end, seed }
    }

    /// Moments spread over the work: at a flush, in between with all that was written, with a half of what was not
    /// flushed lost, and with all of that lost.
    fn cuts(&self) -> Vec<Cut> {
        let mut dice = Dice(self.seed);
        let cuts = std::env::var("POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().expect("POWER_CUTS is a number"));
        let flushes = self.log.flushes();
        let cut = |number| {
            let (from, to) = (self.at(number, cuts), self.at(number + 1, cuts));
            let length = from + dice.below(to - from + 1);
            let flushed = flushes.iter().rev().find(|flush| **flush <= length && **flush >= self.begin);
            let (length, lost) = match number % 4 {
                0 => (*flushed.unwrap_or(&length), 0),
                1 => (length, 0),
                2 => (length, 5),
                _ => (length, 10),
            };
            Cut { length, lost, seed: dice.next() }
        };
        (0..cuts).map(cut).collect()
    }

    /// The log's length after so many parts of the work.
    fn at(&self, part: u64, parts: u64) -> u64 {
        self.begin + (self.end - self.begin) * part / parts
    }

    /// Cuts the power, starts a vault on what is left and asks it for everything that had been answered; or says why it
    /// does not start.
    async fn after(&self, cut: &Cut) -> Result<Findings, String> {
        let path = self.folder.path().join("cut.img");
        // Blank again.
        let image = File::create(&path).unwrap();
        image.set_len(DISK_BYTES).unwrap();
        let mut dice = Dice(cut.seed);
        self.log.replay(cut.length, &image, || dice.below(10) < cut.lost).unwrap();
        drop(image);
        let mounted = Mounted::new(&path.display().to_string(), &["-o", "loop"], &self.folder.path().join("cut"));
        let home = Home::at(&mounted.path.join("vault"));
        let server = Server::launch(&home, home.serve_command())?;
        let findings = self.promises.check(&home, &server, cut.length).await;
        server.kill();
        Ok(findings)
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "cut after {} writes, {} % of the unflushed ones lost", self.length, self.lost * 10)
    }
}

// === the disk ===

/// A block device with an ext4 on it, whose writes are logged. It is taken apart when this is dropped.
struct Disk {
    device: String,
    log: PathBuf,
    export: PathBuf,
    daemon: Child,
}

/// A mounted file system. It is unmounted when this is dropped.
struct Mounted {
    path: PathBuf,
}

impl Disk {
    fn create(folder: &Path) -> Self {
        let (content, log, export) = (folder.join("disk.raw"), folder.join("log.raw"), folder.join("export.raw"));
        File::create(&content).unwrap().set_len(DISK_BYTES).unwrap();
        for file in [&log, &export] {
            File::create(file).unwrap();
        }
        let mut command = Command::new("qemu-storage-daemon");
        for (option, text) in [
            ("--blockdev", format!("driver=file,node-name=content,filename={}", content.display())),
            ("--blockdev", format!("driver=file,node-name=log,filename={}", log.display())),
            ("--blockdev", "driver=blklogwrites,node-name=logged,file=content,log=log,log-sector-size=512".to_owned()),
            ("--export", format!("type=fuse,id=e,node-name=logged,mountpoint={},writable=on", export.display())),
        ] {
            command.args([option, &text]);
        }
        let daemon = command.stdin(Stdio::null()).spawn().unwrap();
        let mut disk = Self { device: String::new(), log, export, daemon };
        disk.wait_for_export();
        disk.device = tool("losetup", &["--find", "--show", &disk.export.display().to_string()]).trim().into();
        tool("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &disk.device]);
        disk
    }

    /// The kernel's list of mounts says when it is there.
    fn wait_for_export(&mut self) {
        let export = self.export.display().to_string();
        let begin = Instant::now();
        while !std::fs::read_to_string("/proc/self/mounts").unwrap().contains(&export) {
            assert!(self.daemon.try_wait().unwrap().is_none(), "qemu-storage-daemon ended");
            assert!(begin.elapsed() < PATIENCE, "qemu-storage-daemon does not offer the disk");
            std::thread::yield_now();
        }
    }
}

impl Drop for Disk {
    /// Nothing here may panic: a test that failed is to leave nothing behind either.
    fn drop(&mut self) {
        if !self.device.is_empty() {
            quietly("losetup", &["--detach", &self.device]);
        }
        unmount(&self.export);
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Mounted {
    fn new(device: &str, options: &[&str], path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let at = path.display().to_string();
        tool("mount", &[options, &[device, &at]].concat());
        Self { path: path.to_owned() }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    let path = path.display().to_string();
    if !quietly("umount", &[&path]) {
        // Busy: it goes as soon as it is not.
        quietly("umount", &["--lazy", &path]);
    }
}

fn quietly(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Runs a program that has to succeed.
fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
