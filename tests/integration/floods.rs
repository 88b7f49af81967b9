//! D-01 to D-05 and D-10: peers who cost the vault more than themselves, if they can. Each attack runs while good callers
//! call, is bounded or cut off, and leaves nothing behind: no memory, no work, no broken promise.
//!
//! Attackers write their frames themselves ([`raw`]), so that no library keeps them from it. Times are printed, not asserted.

mod accept;
mod calls;
mod frames;
mod raw;
mod resets;
mod slow;

use crate::faults::kept;
use crate::harness::{Client, Home, Server, item};
use crate::promises::{Dice, Plan, Promises, Ready};
use crate::tls_wire::{cpu, mebibytes, memory};
use cloakroom::proto::v1;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A hang is a failure.
const PATIENCE: Duration = Duration::from_mins(2);
/// What an attack may add to the vault's memory, however long it goes on.
const GROWTH_AT_MOST: u64 = 50 << 20;
/// Calls of the good caller before an attack, to compare with.
const QUIET_CALLS: usize = 150;
/// Answers to good callers of every kind during each attack, which are held against the vault afterwards.
const PROMISED_CALLS: u64 = 120;
/// What counts as idle: this part of one processor, over this time.
const IDLE: f64 = 0.1;
/// On a machine that is busy with other things, whoever turns in circles does not run much, but always wants to.
const WANTS: f64 = 0.5;
const IDLE_FOR: Duration = Duration::from_millis(200);

/// A vault that is attacked, and who is good to it.
struct Arena {
    home: Home,
    server: Arc<Server>,
    ready: Ready,
    gateway: Client,
    promises: Promises,
    dice: Dice,
}

/// What an attack did to the vault.
struct Toll {
    /// The most memory that it had, above what it had before.
    growth: u64,
    /// Processor time of the vault, that for good callers included.
    cpu: Duration,
}

impl Arena {
    async fn open(change: impl FnOnce(&mut Command)) -> Self {
        let home = Home::init();
        let mut command = home.serve_command();
        change(&mut command);
        let server = Server::launch(&home, command).unwrap_or_else(|log| panic!("the vault did not start:\n{log}"));
        let ready = Ready::connect(&home, &server).await;
        let gateway = server.client(&home.identity("gateway")).await;
        let server = Arc::new(server);
        let mut arena = Self { home, server, ready, gateway, promises: Promises::default(), dice: Dice(Dice::seed()) };
        // Whatever is made once is made now.
        arena.promise().await;
        arena
    }

    fn plan(&mut self) -> Plan {
        Plan { seed: self.dice.next(), callers: 4, calls: PROMISED_CALLS, stamp: Box::new(|| 0) }
    }

    async fn promise(&mut self) {
        let plan = self.plan();
        let run = self.ready.run(plan, || {}).await;
        assert!(run.failures.is_empty(), "good callers are refused: {:?}", run.failures);
        self.promises.add(run.promises);
    }

    /// Has `attack` go on while good callers call, and waits until the vault is idle again.
    async fn endures<T>(&mut self, what: &str, attack: impl Future<Output = T>) -> (T, Toll) {
        let quiet = probe(&self.gateway, &AtomicBool::new(false), QUIET_CALLS).await;
        let pid = self.server.pid();
        forget_peak(pid);
        let ((before, _), spent) = (memory(pid), cpu(pid));
        let over = Arc::new(AtomicBool::new(false));
        let probing = {
            let (gateway, over) = (self.gateway.clone(), Arc::clone(&over));
            tokio::spawn(async move { probe(&gateway, &over, usize::MAX).await })
        };
        let plan = self.plan();
        let begin = Instant::now();
        let (outcome, took, run) = {
            let attack = async {
                let outcome = attack.await;
                (outcome, begin.elapsed())
            };
            let ((outcome, took), run) = tokio::join!(attack, self.ready.run(plan, || {}));
            (outcome, took, run)
        };
        assert!(run.failures.is_empty(), "{what}: good callers are refused: {:?}; {}", run.failures, self.closed_for());
        self.promises.add(run.promises);
        over.store(true, Ordering::SeqCst);
        let during = probing.await.unwrap();
        let idle = until_idle(pid).await;
        let toll = Toll { growth: memory(pid).1.saturating_sub(before), cpu: cpu(pid).saturating_sub(spent) };
        println!(
            "{what}: {:.2} s; a good caller {} before, {} during; memory at most {:.1} MiB more than the {:.1} MiB before, \
             {:.1} MiB afterwards; {:.2} s of processor; idle after {:.2} s",
            took.as_secs_f64(),
            percentiles(quiet),
            percentiles(during),
            mebibytes(toll.growth),
            mebibytes(before),
            mebibytes(memory(pid).0),
            toll.cpu.as_secs_f64(),
            idle.as_secs_f64(),
        );
        self.gateway.tokenize("pan", &[b"4111111111111111"]).await;
        (outcome, toll)
    }

    /// For attackers, who come while the arena is lent to good callers.
    fn target(&self) -> Arc<Server> {
        Arc::clone(&self.server)
    }

    fn metric(&self, name: &str) -> u64 {
        self.server.metric(name)
    }

    fn closed(&self, reason: &str) -> u64 {
        self.metric(&format!("cloakroom_connections_closed_total{{reason=\"{reason}\"}}"))
    }

    /// Why connections were closed, as the vault counts it.
    fn closed_for(&self) -> String {
        let metrics = self.server.get("/metrics").1;
        let closed = metrics.lines().filter(|line| line.starts_with("cloakroom_connections_closed_total"));
        closed.collect::<Vec<_>>().join("; ")
    }

    /// Everything holds that holds of a vault whatever was done to it.
    async fn close(self) {
        let Self { home, server, promises, .. } = self;
        assert_eq!(server.get("/readyz").1, "ready\n");
        let metrics = server.get("/metrics").1;
        let failed = |line: &&str| line.starts_with("cloakroom_calls_total") && line.contains("\"Internal\"");
        let failed = metrics.lines().filter(failed).find(|line| !line.ends_with(" 0"));
        assert_eq!(failed, None, "nothing that a peer does is a failure of the vault");
        let log = server.log();
        assert!(!log.contains("panic") && !log.contains("ERROR"), "{log}");
        Arc::into_inner(server).expect("the attackers are gone").stop();
        println!("{}", kept(&home, home.serve_command(), &promises).await);
    }
}

/// One good caller, one call after the other.
async fn probe(client: &Client, over: &AtomicBool, calls: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    while took.len() < calls && !over.load(Ordering::SeqCst) {
        let request = v1::TokenizeRequest {
            scope: "pan".to_owned(),
            items: vec![item(b"4111111111111111")],
            ..Default::default()
        };
        let begin = Instant::now();
        let mut tokens = client.tokens();
        let answer = tokio::time::timeout(PATIENCE, tokens.tokenize(request)).await;
        assert!(answer.is_ok_and(|answer| answer.is_ok()), "a good caller is not served");
        took.push(begin.elapsed());
    }
    took
}

fn percentiles(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |part: usize| took.get((took.len() * part / 100).min(took.len().saturating_sub(1)));
    let millis = |part| at(part).map_or(0.0, |took| took.as_secs_f64() * 1e3);
    format!("p50 {:.1} ms p99 {:.1} ms ({})", millis(50), millis(99), took.len())
}

/// For how long the threads of a process have run or waited to run.
fn wanted(pid: i32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
    let nanos = |text: String| text.split(' ').take(2).map(|number| number.parse::<u64>().unwrap()).sum::<u64>();
    Duration::from_nanos(texts.map(nanos).sum())
}

/// Has the most memory that a process had count anew, where the system lets us.
fn forget_peak(pid: i32) {
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// How long it took until the vault did next to nothing.
async fn until_idle(pid: i32) -> Duration {
    let begin = Instant::now();
    loop {
        let (since, spent, wants) = (Instant::now(), cpu(pid), wanted(pid));
        // Not for something to happen: idle is what is so over some time.
        tokio::time::sleep(IDLE_FOR).await;
        let wall = since.elapsed().as_secs_f64();
        let ran = cpu(pid).saturating_sub(spent).as_secs_f64();
        if ran < IDLE * wall && wanted(pid).saturating_sub(wants).as_secs_f64() < WANTS * wall {
            return since - begin;
        }
        assert!(begin.elapsed() < PATIENCE, "the vault is never idle again");
    }
}

// === what the arena can see ===

/// Were it the vault that keeps an attacker's bytes, or that goes on working, this would show it.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_attack_costs_is_seen_d_04() {
    let mut sleeper = Command::new("bash").args(["-c", "while :; do :; done"]).spawn().unwrap();
    let pid = i32::try_from(sleeper.id()).unwrap();
    let idle = tokio::time::timeout(IDLE_FOR * 5, until_idle(pid)).await;
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(idle.is_err(), "a process that turns in circles is not idle");
    let own = i32::try_from(std::process::id()).unwrap();
    let (before, _) = memory(own);
    // Looked at, or the compiler would leave it out.
    let held = std::hint::black_box(vec![1_u8; 2 * usize::try_from(GROWTH_AT_MOST).unwrap()]);
    assert!(memory(own).1 - before > GROWTH_AT_MOST, "{}", held.len());
}
