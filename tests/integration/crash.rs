//! The death of the process, `kill -9`, in the midst of many calls of every kind, and again while it starts on what that left.
//!
//! It proves that the process's death loses nothing; what it wrote stays in the kernel's cache. Losing that as well is for
//! `power`.
//!
//! The clients' own ledger is in the test's memory. That is as good as a file here: whoever writes it is not killed, and it
//! is written once an answer has come and before anything else is done.

use crate::harness::{Home, Refusal, Server};
use crate::invariants::{COPIES, Invariants};
use crate::promises::{Dice, Findings, Plan, Promises, run};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tonic::Code;

/// In the quick test, and in the long one unless the variable `KILLS` says how many. A run is made again with `SEED`.
const FEW_KILLS: u64 = 6;
const KILLS: u64 = 50;
/// A kill counts if so many calls were in flight and were never answered. Some may have their answer in a socket already.
const CUT_OFF_AT_LEAST: usize = 32;
/// After so many kills the next vault: each check asks for everything that was promised before.
const KILLS_OF_ONE: u64 = 10;
/// Of so many kills one does not count, or something is wrong with the test.
const COUNTED_OF: u64 = 2;
/// Second kills of a start, one after the other, at the most.
const STARTS: u64 = 3;

/// What became of a number of kills.
#[derive(Debug, Default)]
pub struct Kills {
    pub all: u64,
    /// Of those, at how many so many calls were cut off that they count.
    pub counted: u64,
    /// Kills during a start, before the vault was ready.
    pub unready: u64,
    pub calls: u64,
    pub tokens: u64,
    pub unanswered: u64,
    /// Tokens that were issued, durably, and whose reply did not arrive: the kill came between the event and the answer.
    pub issued_in_silence: u64,
    /// The longest time from a start on what a kill had left to the line that says that the vault is ready.
    pub slowest_start: Duration,
}

/// Has the vault of `home` do often what it does seldom: write tables, delete what has expired, write two checkpoints.
pub fn hasten(home: &Home) {
    home.replace("cloakroom.toml", "path = \"data\"", "path = \"data\"\ncache_bytes = \"8MiB\"");
    let checkpoints = "\ncheckpoints = \"checkpoints\"";
    home.replace("cloakroom.toml", checkpoints, &format!("{checkpoints}\ncheckpoints_copy = \"{COPIES}\""));
    home.append("cloakroom.toml", "[purge]\ngrace = \"0s\"\ninterval = \"1s\"\nrows_per_second = 50000\n");
    std::fs::create_dir_all(home.file(COPIES)).unwrap();
}

/// One kill in the midst of a load, perhaps more while the vault starts again, and then every invariant. All is decided by
/// `dice`. The vault that was started runs on.
pub async fn round(
    home: &Home,
    server: Server,
    promises: &mut Promises,
    invariants: &mut Invariants,
    dice: &mut Dice,
) -> (Server, Kills, Findings) {
    let callers = usize::try_from(64 + dice.below(65)).unwrap();
    // From the first answers on, and evenly over the orders of magnitude up to a few seconds of work.
    let calls = (1 << (5 + dice.below(6))) + dice.below(1 << 10);
    let plan = Plan { seed: dice.next(), callers, calls, stamp: Box::new(|| 0) };
    let pid = Pid::from_raw(server.pid()).unwrap();
    let ended = run(home, &server, plan, || kill_process(pid, Signal::KILL).unwrap()).await;
    server.kill();
    let cut = |failure: &Refusal| failure.reason.is_empty() && failure.code != Code::Ok;
    assert!(ended.failures.iter().all(cut), "nothing failed before the kill: {:?}", ended.failures);
    let mut kills = Kills {
        all: 1,
        counted: u64::from(ended.in_flight.min(ended.unanswered) >= CUT_OFF_AT_LEAST),
        calls: ended.promises.calls,
        tokens: ended.promises.values() as u64,
        unanswered: ended.unanswered as u64,
        ..Kills::default()
    };
    promises.add(ended.promises);

    invariants.remember(home);
    for _ in 0..dice.below(STARTS + 1) {
        kills.unready += u64::from(!kill_a_start(home, dice).await);
        invariants.remember(home);
    }
    let checked = invariants.check(home, home.serve_command(), promises, u64::MAX).await;
    let (server, mut findings) = checked.unwrap_or_else(|log| panic!("the vault does not start:\n{log}"));
    kills.slowest_start = findings.started_in;
    kills.issued_in_silence = findings.issued.saturating_sub(promises.values()) as u64;
    if findings.issued > promises.may_be_issued() {
        let most = promises.may_be_issued();
        findings.broken.push(format!("{} tokens were issued, and only {most} were asked for", findings.issued));
    }
    promises.settle(home, &server).await;
    (server, kills, findings)
}

/// Kills the vault at some moment of its start or shortly after it. Whether it was ready by then.
async fn kill_a_start(home: &Home, dice: &mut Dice) -> bool {
    let log = tempfile::Builder::new().prefix("serve-").suffix(".log").tempfile_in(home.path()).unwrap();
    let mut command: Command = home.serve_command();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.keep().unwrap().0).spawn().unwrap();
    // The moment is what is random here. Nothing is waited for.
    tokio::time::sleep(Duration::from_micros(dice.below(150_000))).await;
    let _ = kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::KILL);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    output.stdout.starts_with(b"listening on ")
}

/// So many kills that count, or as many as there is time for.
pub async fn campaign(kills: u64, seed: u64, until: Option<Instant>) -> Kills {
    println!("SEED={seed}");
    let mut dice = Dice(seed);
    let mut all = Kills::default();
    let time_is_left = || until.is_none_or(|until| Instant::now() < until);
    while all.counted < kills && time_is_left() {
        let home = Home::init();
        hasten(&home);
        let (mut promises, mut invariants) = (Promises::default(), Invariants::new());
        let mut server = home.serve();
        for _ in 0..KILLS_OF_ONE {
            let done;
            (server, done) = one(&home, server, &mut promises, &mut invariants, &mut dice, seed).await;
            all.add(&done);
            if all.counted == kills || !time_is_left() {
                break;
            }
        }
        let broken = promises.use_up(&home, &server).await;
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
        let findings = promises.check_after_use(&home, &server).await;
        assert!(findings.broken.is_empty(), "seed {seed}: {:#?}", findings.broken);
        server.stop();
        crate::verify::assert_clean(&home);
        assert!(all.all < 10 || all.counted * COUNTED_OF >= all.all, "{all:?}");
    }
    println!("{all}");
    all
}

async fn one(
    home: &Home,
    server: Server,
    promises: &mut Promises,
    invariants: &mut Invariants,
    dice: &mut Dice,
    seed: u64,
) -> (Server, Kills) {
    let (server, done, findings) = round(home, server, promises, invariants, dice).await;
    assert!(findings.broken.is_empty(), "seed {seed}: {:#?}", findings.broken);
    println!(
        "{} calls answered and {} cut off, then {} kills of a start: {findings}",
        done.calls, done.unanswered, done.unready
    );
    (server, done)
}

impl Kills {
    pub fn add(&mut self, more: &Self) {
        self.all += more.all;
        self.counted += more.counted;
        self.unready += more.unready;
        self.calls += more.calls;
        self.tokens += more.tokens;
        self.unanswered += more.unanswered;
        self.issued_in_silence = self.issued_in_silence.max(more.issued_in_silence);
        self.slowest_start = self.slowest_start.max(more.slowest_start);
    }
}

impl std::fmt::Display for Kills {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} kill -9, {} of them with {CUT_OFF_AT_LEAST} or more calls cut off ({} in all), and {} more before the vault \
             was ready: {} calls acknowledged, {} tokens, nothing lost, and up to {} that nobody was told of; ready again after \
             {:.2} s at the most",
            self.all,
            self.counted,
            self.unanswered,
            self.unready,
            self.calls,
            self.tokens,
            self.issued_in_silence,
            self.slowest_start.as_secs_f64()
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_loses_nothing_that_was_acknowledged_s_01_a_07_l_05() {
    let kills = campaign(FEW_KILLS, Dice::seed(), None).await;
    assert!(kills.counted == FEW_KILLS && kills.calls > 1_000, "{kills:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: fifty kill -9"]
async fn fifty_kill_9_lose_nothing_that_was_acknowledged_s_01_a_07_l_05() {
    let kills = std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().expect("KILLS is a number"));
    let done = campaign(kills, Dice::seed(), None).await;
    // Some of the kills came during a start, and some between an event and its answer.
    assert!(done.counted == kills && done.unready > 0 && done.issued_in_silence > 0, "{done:?}");
}
