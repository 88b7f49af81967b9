//! Power cuts: the disk as it was at a moment in the midst of the work, without anything that the kernel still had in its
//! caches.
//!
//! The vault works on a file system whose disk is a file of ours: `qemu-storage-daemon` offers it over FUSE and keeps a log
//! of every write and flush ([`replay`]), a loop device makes a block device of it, ext4 or xfs stands on that. Clients note
//! with each answer how many entries the log had. Afterwards the disk is made anew from a prefix of the log, mounted, and a
//! vault started on it: everything that was answered when the log had no more than so many entries has to be there. A disk
//! may lose writes that came after the last flush, in any order, and keep parts of them; so some cuts lose some of them.
//!
//! While the writes are logged the vault starts, works, stops, has its log's key succeeded by another, starts again and works
//! on. It writes tables and purges meanwhile.
//!
//! The same is then done with a vault of which every second `fdatasync` does nothing and says that it succeeded, from the
//! moment when it is ready, and with one whose checkpoints are not synced. The check must miss what was answered in that
//! moment, or it proves nothing.

mod replay;

use crate::crash::hasten;
use crate::harness::{Home, Server, program};
use crate::invariants::Invariants;
use crate::needs;
use crate::promises::{Dice, Findings, Plan, Promises, Run, Stamp, run};
use crate::strace::Attached;
use replay::Log;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// So many, or as the variable `POWER_CUTS` says. A run is made again with `SEED`.
const CUTS: u64 = 50;
/// Cuts of one vault's work, at the most. The file systems take turns.
const CUTS_OF_ONE: u64 = 100;
/// In a control.
const CONTROL_CUTS: usize = 12;
/// Calls before and after the stop.
const CALLS: u64 = 1_500;
const CALLERS: usize = 16;
/// No smaller than xfs wants it.
const DISK_BYTES: u64 = 512 << 20;

/// A hundred times as long as the daemon usually takes.
const PATIENCE: Duration = Duration::from_mins(1);

pub const NEEDED: [&str; 10] = [
    "qemu-storage-daemon",
    "strace",
    "losetup",
    "mkfs.ext4",
    "mkfs.xfs",
    "mount",
    "umount",
    "/dev/fuse",
    "/dev/loop-control",
    "/proc/self/mounts",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: power cuts"]
async fn fifty_power_cuts_lose_nothing_that_was_acknowledged_s_03_a_07() {
    if !needs::met(&NEEDED) {
        return;
    }
    let cuts = std::env::var("POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().expect("POWER_CUTS is a number"));
    let done = campaign(cuts, Dice::seed(), None).await;
    assert_eq!(done, cuts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: power cuts"]
async fn power_cuts_find_out_an_fdatasync_that_does_nothing_s_03() {
    if !needs::met(&NEEDED) {
        return;
    }
    let work = Work::with(FileSystem::Ext4, Dice::seed(), Fault::Syncs).await;
    let cuts = work.cuts_at(&work.promises.answers());
    let (mut lost, mut missing, mut refused) = (0, 0, 0);
    work.each(cuts, |cut, outcome| match outcome {
        Ok(findings) if findings.broken.is_empty() => println!("{cut}: {findings}"),
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
    })
    .await;
    println!(
        "where every second fdatasync does nothing, {lost} of {CONTROL_CUTS} power cuts lose what was acknowledged \
         ({missing} values in all), and after {refused} the vault does not start"
    );
    assert!(missing > 0, "no cut shows that values are missing: the check would not notice a loss");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: power cuts"]
async fn power_cuts_find_out_checkpoints_that_are_not_synced_s_03() {
    if !needs::met(&NEEDED) {
        return;
    }
    let work = Work::with(FileSystem::Ext4, Dice::seed(), Fault::Checkpoints).await;
    let cuts = work.cuts_at(&work.promises.times_of_notes());
    let (mut older, mut other) = (0, 0);
    work.each(cuts, |cut, outcome| {
        let broken = outcome.map_or_else(|log| vec![log], |findings| findings.broken);
        let is_older = |broken: &&String| broken.starts_with("a checkpoint of ") && broken.contains(" was given");
        older += usize::from(broken.iter().any(|broken| is_older(&broken)));
        other += broken.iter().filter(|broken| !is_older(broken)).count();
        println!("{cut}: {broken:#?}");
    })
    .await;
    println!(
        "where checkpoints are not synced, after {older} of {CONTROL_CUTS} power cuts one is missing that was given"
    );
    assert!(older > 0, "the check would not notice that a checkpoint is lost");
    assert_eq!(other, 0, "and all else is there");
}

/// So many cuts, or as many as there is time for: the work of one vault after the other, on either file system in turn. How
/// many there were.
pub async fn campaign(cuts: u64, seed: u64, until: Option<Instant>) -> u64 {
    println!("SEED={seed}");
    let mut dice = Dice(seed);
    let mut done = 0;
    let time_is_left = || until.is_none_or(|until| Instant::now() < until);
    // At least one on each.
    let of_one = (cuts.div_ceil(2)).clamp(1, CUTS_OF_ONE);
    for file_system in [FileSystem::Ext4, FileSystem::Xfs].into_iter().cycle() {
        if done >= cuts || !time_is_left() {
            break;
        }
        let mut work = Work::with(file_system, dice.next(), Fault::None).await;
        let chosen = work.cuts(of_one.min(cuts - done));
        let begin = Instant::now();
        let mut broken = Vec::new();
        let mut number: u64 = 0;
        work.each(chosen, |cut, outcome| {
            number += 1;
            match outcome {
                Ok(findings) if findings.broken.is_empty() => println!("{file_system:?} {cut}: {findings}"),
                Ok(findings) => broken.push(format!("{cut}: {:#?}", findings.broken)),
                Err(log) => broken.push(format!("{cut}: the vault does not start: {log}")),
            }
            time_is_left()
        })
        .await;
        if !broken.is_empty() {
            let kept = work.keep();
            panic!("{} of {number} power cuts, seed {seed}, in {}: {broken:#?}", broken.len(), kept.display());
        }
        done += number;
        let each = begin.elapsed().as_secs_f64() / number as f64;
        println!(
            "{number} power cuts on {file_system:?}: nothing lost; {each:.2} s for each to replay, start and check"
        );
    }
    println!("{done} power cuts: nothing lost");
    done
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileSystem {
    Ext4,
    Xfs,
}

/// What the vault does while the writes are logged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// All that it does.
    None,
    /// Every second `fdatasync` does nothing.
    Syncs,
    /// No `fsync` of a checkpoint does anything.
    Checkpoints,
}

/// What a vault has done on a disk, and what it answered meanwhile.
struct Work {
    folder: Folder,
    log: Log,
    promises: Promises,
    /// How far the log reached when `init` was done, when the vault was first started, and when the last answer came.
    made: u64,
    begin: u64,
    end: u64,
    /// How far it reached when no client called, from and to no client calls: starts, a stop, the rotation of the log's key.
    pauses: Vec<(u64, u64)>,
    seed: u64,
    /// The log's public key at the beginning.
    key: String,
}

/// A moment, and what the disk loses in it.
#[derive(Debug)]
struct Cut {
    /// The length of the log's prefix.
    length: u64,
    loses: Loses,
    seed: u64,
}

/// Of the writes after the last flush.
#[derive(Clone, Copy, Debug)]
enum Loses {
    Nothing,
    Half,
    /// Of each write all from some sector on.
    Ends,
    All,
}

impl Work {
    /// Has a vault work on a disk of its own.
    async fn with(file_system: FileSystem, seed: u64, fault: Fault) -> Self {
        let folder = Folder::new();
        let disk = Disk::create(&folder.path, file_system);
        let mounted = Mounted::new(&disk.device, &[], &folder.path.join("mounted"));
        let home = Home::init_at(&mounted.path.join("vault"));
        let made = replay::reach(&disk.log);
        hasten(&home);
        // What this test has written besides the vault.
        rustix::fs::syncfs(File::open(&mounted.path).unwrap()).unwrap();
        let key = home.read("log.vkey");
        let begin = replay::reach(&disk.log);
        let mut pauses = Vec::new();
        let ended = match fault {
            Fault::None => worked(&home, &disk.log, seed, &mut pauses).await,
            Fault::Syncs | Fault::Checkpoints => worked_badly(&home, &disk.log, seed, fault).await,
        };
        let end = replay::reach(&disk.log);
        assert!(ended.failures.is_empty(), "{:?}", ended.failures);
        let tables = std::fs::read_dir(home.file("data")).unwrap().flatten();
        let tables = tables.filter(|file| file.path().extension().is_some_and(|extension| extension == "sst")).count();
        drop((home, mounted));
        let log = Log::open(&disk.log).unwrap();
        drop(disk);
        println!(
            "{} calls answered, {} tokens, {tables} tables; {} writes to the disk meanwhile and {} flushes",
            ended.promises.calls,
            ended.promises.values(),
            log.length_at(end) - log.length_at(begin),
            log.flushes().iter().filter(|flush| (begin..=end).contains(&log.reach_of(**flush))).count()
        );
        Self { folder, log, promises: ended.promises, made, begin, end, pauses, seed, key }
    }

    /// Moments spread over the work, in their order: at flushes, in between with all that was written, with a half of what
    /// was not flushed lost, with parts of each write lost, with all of it lost, when something had just been answered, and
    /// in the pauses.
    fn cuts(&self, cuts: u64) -> Vec<Cut> {
        let mut dice = Dice(self.seed);
        let flushes = self.log.flushes();
        let flushes: Vec<u64> = flushes.into_iter().map(|flush| self.log.reach_of(flush)).collect();
        let flushes: Vec<u64> = flushes.into_iter().filter(|flush| (self.begin..=self.end).contains(flush)).collect();
        let answers = self.promises.answers();
        let cut = |number| {
            if number == 0 {
                return Cut { length: self.log.length_at(self.made), loses: Loses::All, seed: dice.next() };
            }
            let (from, to) = (self.at(number, cuts), self.at(number + 1, cuts));
            let reach = from + dice.below(to - from + 1);
            // All flushes are among them, if there are cuts enough.
            let of = |moments: &[u64]| moments[usize::try_from(number * moments.len() as u64 / cuts).unwrap()];
            let (reach, loses) = match number % 7 {
                0 => (of(&flushes), Loses::Nothing),
                1 => (reach, Loses::Nothing),
                2 => (reach, Loses::Half),
                3 => (reach, Loses::Ends),
                4 => (reach, Loses::All),
                5 => (of(&answers), Loses::All),
                _ => {
                    let (from, to) = self.pauses[usize::try_from(dice.below(self.pauses.len() as u64)).unwrap()];
                    let loses = [Loses::Nothing, Loses::Half, Loses::Ends, Loses::All];
                    (from + dice.below(to - from + 1), loses[usize::try_from(dice.below(4)).unwrap()])
                }
            };
            Cut { length: self.log.length_at(reach), loses, seed: dice.next() }
        };
        let mut cuts: Vec<Cut> = (0..cuts).map(cut).collect();
        cuts.sort_by_key(|cut| cut.length);
        cuts
    }

    /// At some of these moments, with all lost that was not flushed.
    fn cuts_at(&self, moments: &[Stamp]) -> Vec<Cut> {
        assert!(moments.len() >= CONTROL_CUTS, "{} moments", moments.len());
        let moment = |number| moments[number * moments.len() / CONTROL_CUTS];
        (0..CONTROL_CUTS)
            .map(|number| Cut { length: self.log.length_at(moment(number)), loses: Loses::All, seed: 0 })
            .collect()
    }

    /// How far the log reached after so many parts of the work.
    fn at(&self, part: u64, parts: u64) -> u64 {
        self.begin + (self.end - self.begin) * part / parts
    }

    /// Cuts the power at each of these moments, in their order, and says what was left, until `tell` has enough.
    async fn each<T: Verdict>(&self, cuts: Vec<Cut>, mut tell: impl FnMut(&Cut, Result<Findings, String>) -> T) {
        let mut disk = replay::Disk::blank(&self.log, &self.folder.path.join("base.img"), DISK_BYTES).unwrap();
        for cut in cuts {
            let image = self.folder.path.join("cut.img");
            let mut dice = Dice(cut.seed);
            disk.cut(cut.length, &image, |sectors| cut.loses.kept(sectors, &mut dice)).unwrap();
            let outcome = self.after(&cut, &image).await;
            if !tell(&cut, outcome).goes_on() {
                break;
            }
        }
    }

    /// Starts a vault on what is left and asks it for everything that had been answered; or says why it does not start.
    async fn after(&self, cut: &Cut, image: &Path) -> Result<Findings, String> {
        let at = self.folder.path.join("cut");
        let mounted = Mounted::new(&image.display().to_string(), &["-o", "loop"], &at);
        let home = Home::at(&mounted.path.join("vault"));
        let mut invariants = Invariants::trusting(&self.key);
        let checked =
            invariants.check(&home, home.serve_command(), &self.promises, self.log.reach_of(cut.length)).await;
        let checked = match checked {
            Err(log) if log.contains("keys rotate-log-key") => {
                // The one thing that somebody has to do, and the vault says what.
                succeed(&home);
                invariants.check(&home, home.serve_command(), &self.promises, self.log.reach_of(cut.length)).await
            }
            checked => checked,
        };
        let (server, findings) = checked?;
        server.kill();
        Ok(findings)
    }

    /// Leaves the log of writes for whoever looks into it.
    fn keep(&mut self) -> PathBuf {
        let kept = tempfile::Builder::new().prefix("power-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
        std::fs::copy(self.folder.path.join("log.raw"), kept.join("log.raw")).unwrap();
        kept
    }
}

/// Starts, works, stops, has the log's key succeeded by another, and works again until the process is killed. `pauses`: when
/// no client calls.
async fn worked(home: &Home, log: &Path, seed: u64, pauses: &mut Vec<(u64, u64)>) -> Run {
    let work = async |server: &Server, seed| {
        let log = log.to_owned();
        let plan = Plan { seed, callers: CALLERS, calls: CALLS, stamp: Box::new(move || replay::reach(&log)) };
        run(home, server, plan, || {}).await
    };
    let mut paused_at = replay::reach(log);
    let mut pause = |ends: bool| {
        let now = replay::reach(log);
        if ends {
            pauses.push((paused_at, now));
        }
        paused_at = now;
    };
    let server = home.serve();
    pause(true);
    let mut first = work(&server, seed).await;
    pause(false);
    server.stop();
    pause(true);
    succeed(home);
    pause(true);
    let server = home.serve();
    pause(true);
    let second = work(&server, seed.wrapping_add(1)).await;
    server.kill();
    first.promises.add(second.promises);
    first.failures.extend(second.failures);
    first
}

/// Works with syncs that do nothing.
async fn worked_badly(home: &Home, log: &Path, seed: u64, fault: Fault) -> Run {
    let mut serve = home.serve_command();
    // No tables: a start refuses one that is cut short, and here it is to go on, with values missing.
    serve.env("CLOAKROOM_STORAGE__CACHE_BYTES", "256MiB");
    let server = Server::launch(home, serve).unwrap_or_else(|log| panic!("the vault did not start:\n{log}"));
    let (_strace, callers) = if fault == Fault::Syncs {
        // Counted for each thread; the log is synced by the ledger's.
        (Attached::to(&server, &["-e", "trace=fdatasync", "-e", "inject=fdatasync:retval=0:when=2+2"]), CALLERS)
    } else {
        // One caller: the next commit's sync would take the checkpoint along.
        (Attached::to_thread(&server, "checkpoints", &["-e", "trace=fsync", "-e", "inject=fsync:retval=0"]), 1)
    };
    let log = log.to_owned();
    let plan = Plan { seed, callers, calls: CALLS, stamp: Box::new(move || replay::reach(&log)) };
    let ended = run(home, &server, plan, || {}).await;
    server.kill();
    ended
}

/// Has the log's key succeeded by another, or what was begun of that finished.
fn succeed(home: &Home) {
    let words = ["keys", "rotate-log-key", "--config"];
    let output = program().args(words).arg(home.file("cloakroom.toml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What somebody says who is told of a cut: nothing, or whether to go on.
trait Verdict {
    fn goes_on(self) -> bool;
}

impl Verdict for () {
    fn goes_on(self) -> bool {
        true
    }
}

impl Verdict for bool {
    fn goes_on(self) -> bool {
        self
    }
}

impl Loses {
    /// How many sectors remain of a write of so many.
    fn kept(self, sectors: u64, dice: &mut Dice) -> u64 {
        match self {
            Self::Nothing => sectors,
            Self::Half => sectors * dice.below(2),
            Self::Ends => dice.below(sectors + 1),
            Self::All => 0,
        }
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { length, loses, .. } = self;
        write!(formatter, "cut after {length} writes, of the unflushed ones it loses {loses:?}")
    }
}

// === the disk ===

/// A folder in memory, so that only what the vault waits for takes time. It is gone when this is dropped.
struct Folder {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

/// A block device with a file system on it, whose writes are logged. It is taken apart when this is dropped.
struct Disk {
    device: String,
    log: PathBuf,
    export: PathBuf,
    daemon: Child,
}

/// A mounted file system. It is unmounted when this is dropped.
pub struct Mounted {
    pub path: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("power-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().to_owned();
        tool("mount", &["-t", "tmpfs", "-o", "size=4g", "tmpfs", &path.display().to_string()]);
        Self { path, _directory: directory }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

impl Disk {
    fn create(folder: &Path, file_system: FileSystem) -> Self {
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
        wait_for_export(&disk.export, &mut disk.daemon);
        disk.device = tool("losetup", &["--find", "--show", &disk.export.display().to_string()]).trim().into();
        match file_system {
            FileSystem::Ext4 => {
                tool("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", &disk.device])
            }
            FileSystem::Xfs => tool("mkfs.xfs", &["-q", "-K", &disk.device]),
        };
        disk
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
    pub fn new(device: &str, options: &[&str], path: &Path) -> Self {
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

/// The kernel's list of mounts says when what `qemu-storage-daemon` offers is there.
pub fn wait_for_export(export: &Path, daemon: &mut Child) {
    let export = export.display().to_string();
    let begin = Instant::now();
    while !std::fs::read_to_string("/proc/self/mounts").unwrap().contains(&export) {
        assert!(daemon.try_wait().unwrap().is_none(), "qemu-storage-daemon ended");
        assert!(begin.elapsed() < PATIENCE, "qemu-storage-daemon does not offer the disk");
        std::thread::yield_now();
    }
}

pub fn unmount(path: &Path) {
    let path = path.display().to_string();
    if !quietly("umount", &[&path]) {
        // Busy: it goes as soon as it is not.
        quietly("umount", &["--lazy", &path]);
    }
}

pub fn quietly(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Runs a program that has to succeed.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
