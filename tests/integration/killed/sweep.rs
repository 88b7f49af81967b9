//! The vault killed at the n-th call of any kind by which something reaches a disk or a client, wherever that is: while
//! `init` makes it, in its start, in the thread of its writer, of its checkpoints, of flush and compaction, of the network, in
//! an orderly stop, and while its log's key is succeeded by another.
//!
//! What is counted is counted in one undisturbed pass through each phase. Then a number of points is chosen that is spread
//! over all of them, or all.

use crate::crash::hasten;
use crate::harness::{Home, Refusal, Server, program};
use crate::invariants::Invariants;
use crate::needs;
use crate::promises::{Dice, Plan, Promises, Ready, run};
use crate::strace::{Attached, child_of, wrapped};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

/// So many, or as the variable `CRASH_POINTS` says: a number, or `all`. A run is made again with `SEED`.
const POINTS: usize = 200;
/// Points for one vault, one after the other: each check asks for everything that was promised before.
const POINTS_OF_ONE: usize = 12;
const CALLERS: usize = 16;
/// Calls of clients in which a thread comes to its point.
const CALLS: u64 = 400;
/// Large batches meanwhile, where tables are to be written.
const BATCHES: u64 = 3;

/// By which something reaches a disk.
const TO_DISK: [&str; 11] = [
    "fdatasync",
    "fsync",
    "write",
    "pwrite64",
    "rename",
    "openat",
    "unlink",
    "ftruncate",
    "fallocate",
    "sync_file_range",
    "mkdir",
];
/// By which a request comes and a reply leaves.
const TO_CLIENTS: [&str; 4] = ["recvfrom", "sendto", "writev", "read"];

const PHASES: [Phase; 9] = [
    Phase::Init,
    Phase::Start,
    Phase::Thread("ledger"),
    Phase::Thread("checkpoints"),
    Phase::Thread("rocksdb:high"),
    Phase::Thread("rocksdb:low"),
    Phase::Thread("network-0"),
    Phase::Stop,
    Phase::Rotation,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Init,
    Start,
    /// Under load, in the thread of this name.
    Thread(&'static str),
    Stop,
    Rotation,
}

/// Where the process is killed: when one of its threads, or the one of the phase, begins `call` for the `number`-th time.
#[derive(Clone, Copy, Debug)]
struct Point {
    phase: Phase,
    call: &'static str,
    number: usize,
}

/// What became of the points.
#[derive(Debug, Default)]
pub struct Swept {
    pub points: usize,
    /// At so many the process was killed; at the others it was done before.
    pub killed: usize,
    pub calls: u64,
    pub tokens: usize,
}

/// One vault, killed again and again.
struct Victim {
    home: Home,
    promises: Promises,
    invariants: Invariants,
    server: Option<Server>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: kills at two hundred calls"]
async fn killed_at_any_call_it_loses_nothing_that_was_acknowledged_s_02_a_07() {
    if !needs::met(&["strace"]) {
        return;
    }
    let points = match std::env::var("CRASH_POINTS") {
        Ok(all) if all == "all" => usize::MAX,
        Ok(points) => points.parse().expect("CRASH_POINTS is a number, or `all`"),
        Err(_) => POINTS,
    };
    let swept = sweep(points, Dice::seed(), None).await;
    assert!(swept.killed * 2 >= swept.points, "most points are reached: {swept:?}");
}

/// So many points, or as many as there is time for.
pub async fn sweep(points: usize, seed: u64, until: Option<Instant>) -> Swept {
    println!("SEED={seed}");
    let mut dice = Dice(seed);
    let points = choose(&survey().await, points, &mut dice);
    let mut swept = Swept::default();
    let mut killed: BTreeMap<Phase, usize> = BTreeMap::new();
    for points in points.chunks(POINTS_OF_ONE) {
        let mut victim = Victim::new();
        for point in points {
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            let was_killed = victim.kill_at(*point, &mut dice).await;
            swept.points += 1;
            swept.killed += usize::from(was_killed);
            *killed.entry(point.phase).or_default() += usize::from(was_killed);
            if point.phase != Phase::Init {
                let became = if was_killed { "killed" } else { "done before" };
                victim.check(&format!("seed {seed}, {point:?}, {became}")).await;
            }
        }
        swept.calls += victim.promises.calls;
        swept.tokens += victim.promises.values();
        victim.end(seed).await;
    }
    println!(
        "killed at {} of {} points, {killed:?}: {} calls acknowledged, {} tokens, nothing lost",
        swept.killed, swept.points, swept.calls, swept.tokens
    );
    swept
}

/// How often each call is made in each phase, by the thread that makes it most often.
async fn survey() -> Vec<(Phase, &'static str, usize)> {
    let mut found = Vec::new();
    for phase in PHASES {
        let mut victim = Victim::new();
        let trace = victim.home.file("trace");
        let calls = phase.calls();
        let options = ["-o", &trace.display().to_string(), "-e", &format!("trace={}", calls.join(","))];
        victim.pass(phase, &options, &mut Dice(0)).await;
        let counts = count(&std::fs::read_to_string(&trace).unwrap());
        found.extend(calls.iter().filter_map(|call| Some((phase, *call, *counts.get(*call)?))));
    }
    found
}

/// How often each call stands in a trace, by the thread that makes it most often: that is how `strace` counts.
fn count(trace: &str) -> HashMap<String, usize> {
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    for line in trace.lines() {
        // Where only one thread is traced it has no number.
        let (thread, text) =
            line.split_once(' ').filter(|(thread, _)| thread.parse::<u32>().is_ok()).unwrap_or(("", line));
        if let Some((call, _)) = text.trim_start().split_once('(')
            && !text.contains("resumed>")
        {
            *counts.entry((thread, call)).or_default() += 1;
        }
    }
    let mut most = HashMap::new();
    for ((_, call), count) in counts {
        let largest = most.entry(call.to_owned()).or_insert(0);
        *largest = count.max(*largest);
    }
    most
}

/// At the most so many of all points, as many of each call in each phase as there are, the first and the last among them.
fn choose(found: &[(Phase, &'static str, usize)], points: usize, dice: &mut Dice) -> Vec<Point> {
    let number_of = |each: usize| found.iter().map(|(_, _, count)| *count.min(&each)).sum::<usize>();
    let most = found.iter().map(|(_, _, count)| *count).max().unwrap_or(0);
    let each = (1..=most).rev().find(|each| number_of(*each) <= points).unwrap_or(1);
    let mut chosen = Vec::new();
    for (phase, call, count) in found {
        let (phase, call) = (*phase, *call);
        let wanted = each.min(*count);
        let from = |place: usize| if wanted == 1 { 0 } else { place * (count - 1) / (wanted - 1) };
        for place in 0..wanted {
            let width = if place == 0 || place + 1 == wanted { 1 } else { from(place + 1) - from(place) };
            let number = 1 + from(place) + usize::try_from(dice.below(width.max(1) as u64)).unwrap();
            chosen.push(Point { phase, call, number });
        }
    }
    // In any order: what one kill leaves, the next finds.
    for last in (1..chosen.len()).rev() {
        chosen.swap(last, usize::try_from(dice.below(last as u64 + 1)).unwrap());
    }
    chosen
}

impl Phase {
    fn calls(self) -> &'static [&'static str] {
        match self {
            Self::Thread("network-0") => &TO_CLIENTS,
            _ => &TO_DISK,
        }
    }
}

impl Victim {
    fn new() -> Self {
        let home = Home::init();
        hasten(&home);
        let invariants = Invariants::trusting(&home.read("log.vkey"));
        Self { home, promises: Promises::default(), invariants, server: None }
    }

    /// Whether it was killed: it may be done before.
    async fn kill_at(&mut self, point: Point, dice: &mut Dice) -> bool {
        let Point { phase, call, number } = point;
        let inject = format!("inject={call}:signal=SIGKILL:when={number}");
        let options = ["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject];
        self.pass(phase, &options, dice).await
    }

    /// Goes through a phase under `strace` with these options. Whether that killed it.
    async fn pass(&mut self, phase: Phase, options: &[&str], dice: &mut Dice) -> bool {
        match phase {
            Phase::Init => init(&self.home.file("new"), options),
            Phase::Start => self.start(options),
            Phase::Thread(name) => self.work(name, options, dice).await,
            Phase::Stop => self.stop(options, dice).await,
            Phase::Rotation => {
                if let Some(server) = self.server.take() {
                    server.kill();
                }
                !rotate(&self.home, Some(options)).status.success()
            }
        }
    }

    /// On what a kill left.
    fn start(&mut self, options: &[&str]) -> bool {
        if let Some(server) = self.server.take() {
            server.kill();
        }
        let Ok(server) = Server::launch(&self.home, wrapped(&self.home.serve_command(), options)) else { return true };
        // Without `strace` it would run on.
        if let Some(vault) = child_of(server.pid()) {
            let _ = kill_process(vault, Signal::KILL);
        }
        server.wait();
        false
    }

    async fn work(&mut self, thread: &str, options: &[&str], dice: &mut Dice) -> bool {
        let server = self.server.take().unwrap_or_else(|| self.home.serve());
        let ready = Ready::connect(&self.home, &server).await;
        let strace = Attached::to_thread(&server, thread, options);
        let plan = Plan { seed: dice.next(), callers: CALLERS, calls: CALLS, stamp: Box::new(|| 0) };
        let batches = if thread.starts_with("rocksdb") { BATCHES } else { 0 };
        let large = ready.bulk(batches, dice.next());
        let mut killed = true;
        let (large, ended) = tokio::join!(large, ready.run(plan, || killed = false));
        if !killed {
            let _ = kill_process(Pid::from_raw(server.pid()).unwrap(), Signal::KILL);
        }
        let cut = |failure: &Refusal| failure.reason.is_empty();
        assert!(ended.failures.iter().all(cut), "nothing failed before the kill: {:?}", ended.failures);
        self.promises.add(ended.promises);
        self.promises.add(large);
        server.wait();
        strace.end();
        killed
    }

    async fn stop(&mut self, options: &[&str], dice: &mut Dice) -> bool {
        let server = self.server.take().unwrap_or_else(|| self.home.serve());
        let plan = Plan { seed: dice.next(), callers: CALLERS, calls: CALLS / 4, stamp: Box::new(|| 0) };
        self.promises.add(run(&self.home, &server, plan, || {}).await.promises);
        let strace = Attached::to(&server, options);
        server.terminate();
        let killed = !server.wait().success();
        strace.end();
        killed
    }

    async fn check(&mut self, what: &str) {
        let checked = self.invariants.check(&self.home, self.home.serve_command(), &self.promises, u64::MAX).await;
        let checked = match checked {
            Err(log) if log.contains("keys rotate-log-key") => {
                // The one thing that somebody has to do, and the vault says what.
                let again = rotate(&self.home, None);
                assert!(again.status.success(), "{what}: {}", String::from_utf8_lossy(&again.stderr));
                self.invariants.check(&self.home, self.home.serve_command(), &self.promises, u64::MAX).await
            }
            checked => checked,
        };
        let (server, findings) = checked.unwrap_or_else(|log| panic!("{what}: the vault does not start:\n{log}"));
        assert!(findings.broken.is_empty(), "{what}: {:#?}", findings.broken);
        self.promises.settle(&self.home, &server).await;
        println!("{what}: {findings}");
        self.server = Some(server);
    }

    async fn end(mut self, seed: u64) {
        let server = self.server.take().unwrap_or_else(|| self.home.serve());
        let broken = self.promises.use_up(&self.home, &server).await;
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
        let findings = self.promises.check_after_use(&self.home, &server).await;
        assert!(findings.broken.is_empty(), "seed {seed}: {:#?}", findings.broken);
        server.stop();
        crate::verify::assert_clean(&self.home);
    }
}

/// `cloakroom init` under `strace`. What it leaves when it is killed is no vault, or a whole one.
fn init(folder: &Path, options: &[&str]) -> bool {
    let mut command = program();
    let output = wrapped(command.arg("init").arg(folder), options).output().unwrap();
    if output.status.success() {
        Home::at(folder).serve().stop();
        std::fs::remove_dir_all(folder).unwrap();
        return false;
    }
    let left = Home::at(folder);
    if folder.is_dir()
        && let Ok(server) = Server::launch(&left, left.serve_command())
    {
        server.stop();
    }
    // What was begun is not gone on with, and not taken for an empty folder.
    let empty = std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    if !empty {
        let again = program().arg("init").arg(folder).output().unwrap();
        assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("is not empty"));
        std::fs::remove_dir_all(folder).unwrap();
    }
    Home::init_at(folder).serve().stop();
    std::fs::remove_dir_all(folder).unwrap();
    true
}

fn rotate(home: &Home, options: Option<&[&str]>) -> Output {
    let mut command: Command = program();
    command.args(["keys", "rotate-log-key", "--config"]).arg(home.file("cloakroom.toml"));
    let output = match options {
        Some(options) => wrapped(&command, options).output(),
        None => command.output(),
    };
    output.unwrap()
}

#[test]
fn points_are_spread_over_all_phases() {
    let found = [(Phase::Init, "write", 3), (Phase::Start, "write", 100), (Phase::Stop, "fsync", 1)];
    let chosen = choose(&found, 14, &mut Dice(7));
    let numbers = |phase| {
        let mut numbers: Vec<usize> =
            chosen.iter().filter(|point| point.phase == phase).map(|point| point.number).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!((numbers(Phase::Init), numbers(Phase::Stop)), (vec![1, 2, 3], vec![1]));
    let start = numbers(Phase::Start);
    assert_eq!((start.len(), start[0], *start.last().unwrap()), (10, 1, 100));
    let all = choose(&found, usize::MAX, &mut Dice(7));
    assert_eq!(all.len(), 104);
    let trace = "1 write(3, \"\"..., 1) = 1\n2 write(3, <unfinished ...>\n1 fsync(3) = 0\n2 <... write resumed>) = 1\n\
                 2 write(3) = 1\n";
    let counted = count(trace);
    assert_eq!((counted["write"], counted["fsync"]), (2, 1));
    assert_eq!(count("write(3) = 1\nwrite(3) = 1\n")["write"], 2);
}
