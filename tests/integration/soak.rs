//! Hours of load with faults in between: `make soak TIME=8h SEED=7`.
//!
//! What is done to the vault, and when, follows from the seed. Callers run side by side, so two runs with one seed are alike,
//! not equal. After every fault all invariants are looked at. A process that was not hurt goes on, and its memory and open
//! files are printed: whoever reads them judges.

use crate::crash::{self, Kills, hasten};
use crate::harness::{Home, Refusal, Server};
use crate::invariants::Invariants;
use crate::killed;
use crate::needs;
use crate::power;
use crate::promises::{Dice, Plan, Promises, Ready};
use crate::strace::Attached;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tonic::Code;

/// Unless the variable `SOAK` says how long.
const TIME: &str = "40s";
/// After so many rounds the next vault: each check asks for everything that was promised before.
const ROUNDS_OF_ONE: u64 = 12;
/// Of each kind, on vaults of their own, after every second of these, if there is so much time left.
const CUTS: u64 = 20;
const POINTS: usize = 60;
const TIME_OF_OTHERS: Duration = Duration::from_mins(3);
/// What becomes durable by one of these calls, and is cut off there.
const STEPS: [&str; 5] = ["fdatasync", "pwrite64,write", "fsync", "rename", "ftruncate"];

/// What is done to a vault in the midst of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Nothing: the process goes on.
    None,
    /// It stands still for a while.
    Pause,
    /// SIGTERM.
    Stop,
    /// SIGKILL, and more of them while it starts again.
    Kill,
    /// SIGKILL at the n-th call of a kind.
    KillAtStep(&'static str, u64),
    /// The n-th `fdatasync` fails.
    FailedSync(u64),
}

/// What a soak has done.
#[derive(Default)]
struct Soak {
    rounds: BTreeMap<&'static str, u64>,
    kills: Kills,
    calls: u64,
    tokens: u64,
    vaults: u64,
    cuts: u64,
    points: usize,
    /// Of the processes that went on: by how much memory, and open files but for the database's, grew since their first round,
    /// at the most.
    grown_kib: i64,
    more_files: i64,
    slowest_start: Duration,
}

/// One vault, over some rounds.
struct Subject {
    home: Home,
    promises: Promises,
    invariants: Invariants,
    server: Server,
    /// Memory and open files of this process after its first round.
    first: Option<(i64, i64)>,
}

impl Fault {
    fn drawn(dice: &mut Dice) -> Self {
        match dice.below(16) {
            0..=4 => Self::None,
            5..=6 => Self::Pause,
            7..=8 => Self::Stop,
            9..=11 => Self::Kill,
            12..=13 => {
                let step = STEPS[usize::try_from(dice.below(STEPS.len() as u64)).unwrap()];
                let most = 1 << dice.below(9);
                Self::KillAtStep(step, 1 + dice.below(most))
            }
            _ => Self::FailedSync(1 + dice.below(200)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "without a fault",
            Self::Pause => "stood still",
            Self::Stop => "stopped in order",
            Self::Kill => "killed",
            Self::KillAtStep(..) => "killed at a step",
            Self::FailedSync(_) => "a sync failed",
        }
    }

    /// Whether the process is the same afterwards.
    fn spares(self) -> bool {
        matches!(self, Self::None | Self::Pause)
    }

    /// What `strace` does to the process from before the load on.
    fn attach(self, server: &Server) -> Option<Attached> {
        let inject = match self {
            Self::KillAtStep(calls, number) => format!("inject={calls}:signal=SIGKILL:when={number}"),
            Self::FailedSync(number) => format!("inject=fdatasync:error=EIO:when={number}+"),
            _ => return None,
        };
        let trace = format!("trace={}", if let Self::KillAtStep(calls, _) = self { calls } else { "fdatasync" });
        Some(Attached::to(server, &["-e", &trace, "-e", &inject]))
    }

    /// What is done once enough calls were answered.
    #[expect(
        clippy::disallowed_methods,
        reason = "for how long it stands still is what is random; nothing is waited for"
    )]
    fn strike(self, pid: Pid, dice: &mut Dice) {
        let signal = |signal| kill_process(pid, signal).unwrap();
        match self {
            Self::None => {}
            Self::Pause => {
                signal(Signal::STOP);
                std::thread::sleep(Duration::from_millis(dice.below(1_500)));
                signal(Signal::CONT);
            }
            Self::Stop => signal(Signal::TERM),
            // A step that did not come.
            Self::Kill | Self::KillAtStep(..) | Self::FailedSync(_) => signal(Signal::KILL),
        }
    }

    /// Whether calls may fail in this way.
    fn explains(self, failure: &Refusal) -> bool {
        let cut = failure.reason.is_empty() && failure.code != Code::Ok;
        match self {
            Self::None | Self::Pause => false,
            Self::Kill | Self::KillAtStep(..) => cut,
            Self::Stop | Self::FailedSync(_) => cut || failure.code == Code::Unavailable,
        }
    }
}

impl Subject {
    fn new() -> Self {
        let home = Home::init();
        hasten(&home);
        let server = home.serve();
        Self { home, promises: Promises::default(), invariants: Invariants::new(), server, first: None }
    }

    /// One round; the vault that is there afterwards is the next one's.
    async fn round(mut self, fault: Fault, dice: &mut Dice, soak: &mut Soak) -> Self {
        if fault == Fault::Kill {
            let (server, kills, findings) =
                crash::round(&self.home, self.server, &mut self.promises, &mut self.invariants, dice).await;
            assert!(findings.broken.is_empty(), "{:#?}", findings.broken);
            soak.kills.add(&kills);
            soak.add(kills.calls, kills.tokens, findings.started_in);
            return Self { server, first: None, ..self };
        }
        // Before the fault can come: it is to hit calls.
        let ready = Ready::connect(&self.home, &self.server).await;
        let strace = fault.attach(&self.server);
        let callers = usize::try_from(16 + dice.below(80)).unwrap();
        let plan = Plan { seed: dice.next(), callers, calls: 200 + dice.below(3_000), stamp: Box::new(|| 0) };
        let pid = Pid::from_raw(self.server.pid()).unwrap();
        let ended = ready.run(plan, || fault.strike(pid, dice)).await;
        let unexplained: Vec<_> = ended.failures.iter().filter(|failure| !fault.explains(failure)).collect();
        assert!(unexplained.is_empty(), "{fault:?}: {unexplained:?}");
        let (calls, tokens) = (ended.promises.calls, ended.promises.values() as u64);
        self.promises.add(ended.promises);
        if fault.spares() {
            soak.add(calls, tokens, Duration::ZERO);
            let findings = self.promises.check(&self.home, &self.server, u64::MAX).await;
            assert!(findings.broken.is_empty(), "{fault:?}: {:#?}", findings.broken);
            drop(ready);
            let now = (resident_kib(self.server.pid()), open_files(self.server.pid()));
            let first = *self.first.get_or_insert(now);
            soak.grown_kib = soak.grown_kib.max(now.0 - first.0);
            soak.more_files = soak.more_files.max(now.1 - first.1);
            println!("  {} KiB resident, {} files open beside tables", now.0, now.1);
            return self;
        }
        let status = self.server.wait();
        drop(strace);
        assert!(fault != Fault::Stop || status.success(), "it stopped in order: {status}");
        let serve = self.home.serve_command();
        let checked = self.invariants.check(&self.home, serve, &self.promises, u64::MAX).await;
        let (server, findings) = checked.unwrap_or_else(|log| panic!("{fault:?}: the vault does not start:\n{log}"));
        assert!(findings.broken.is_empty(), "{fault:?}: {:#?}", findings.broken);
        self.promises.settle(&self.home, &server).await;
        soak.add(calls, tokens, findings.started_in);
        Self { server, first: None, ..self }
    }

    /// Every use that was left is there, and no other.
    async fn end(self) {
        let broken = self.promises.use_up(&self.home, &self.server).await;
        assert!(broken.is_empty(), "{broken:#?}");
        let findings = self.promises.check_after_use(&self.home, &self.server).await;
        assert!(findings.broken.is_empty(), "{:#?}", findings.broken);
        self.server.stop();
        crate::verify::assert_clean(&self.home);
    }
}

impl Soak {
    fn add(&mut self, calls: u64, tokens: u64, started_in: Duration) {
        self.calls += calls;
        self.tokens += tokens;
        self.slowest_start = self.slowest_start.max(started_in);
    }

    /// What is done to vaults of their own, where there is time for it: kills at any call, and power cuts.
    async fn others(&mut self, until: Instant, dice: &mut Dice) {
        let time_for = |time| Instant::now() + time < until;
        if !time_for(TIME_OF_OTHERS) {
            return;
        }
        let (seed, until) = (dice.next(), Some(until));
        match self.vaults % 2 {
            0 if needs::met(&power::NEEDED) => self.cuts += power::campaign(CUTS, seed, until).await,
            _ => self.points += killed::sweep::sweep(POINTS, seed, until).await.points,
        }
    }

    async fn run(&mut self, until: Instant, dice: &mut Dice) {
        while Instant::now() < until {
            let mut subject = Subject::new();
            self.vaults += 1;
            for _ in 0..ROUNDS_OF_ONE {
                let fault = Fault::drawn(dice);
                println!("{fault:?}");
                subject = subject.round(fault, dice, self).await;
                *self.rounds.entry(fault.name()).or_default() += 1;
                if Instant::now() >= until {
                    break;
                }
            }
            subject.end().await;
            self.others(until, dice).await;
        }
    }
}

impl std::fmt::Display for Soak {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rounds: Vec<String> = self.rounds.iter().map(|(name, count)| format!("{name} {count} times")).collect();
        write!(
            formatter,
            "{} vaults, {}, and {} power cuts and {} kills at a call; {} calls acknowledged, {} tokens: nothing lost. Ready again after {:.2} s at the most. A process \
             that went on grew by {} KiB and {} files at the most",
            self.vaults,
            rounds.join(", "),
            self.cuts,
            self.points,
            self.calls,
            self.tokens,
            self.slowest_start.as_secs_f64(),
            self.grown_kib,
            self.more_files
        )
    }
}

fn resident_kib(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// But for the database's tables, of which there are more with more data.
fn open_files(pid: i32) -> i64 {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let names = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    i64::try_from(names.filter(|name| name.extension().is_none_or(|extension| extension != "sst")).count()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: a soak, as long as SOAK says"]
async fn a_soak_loses_nothing_s_01_s_02_s_04_a_07() {
    if !needs::met(&["strace"]) {
        return;
    }
    let time = std::env::var("SOAK").unwrap_or_else(|_| TIME.to_owned());
    let time = humantime::parse_duration(&time).expect("SOAK is a time such as 40s, 10m or 8h");
    let seed = Dice::seed();
    println!("a soak of {} s, SEED={seed}", time.as_secs());
    let mut soak = Soak::default();
    soak.run(Instant::now() + time, &mut Dice(seed)).await;
    println!("SEED={seed}: {soak}");
}
