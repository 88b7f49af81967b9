//! The targets of `src/fuzz.rs` under libFuzzer, for a while. `fuzz/README.md` says what they are.
//!
//! `FUZZ_SECONDS` says how long each (60), `FUZZ_SEED` with which random numbers (drawn, and printed), `FUZZ_TARGETS` which
//! (all; with commas between them).

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![allow(clippy::print_stdout, reason = "tests say how much they did")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

/// At once.
const PROCESSES: usize = 2;
/// Thirty times what a control takes to be found, and far less than chance would need.
const CONTROL_RUNS: u32 = 4_000_000;

/// What came of one target.
struct Outcome {
    target: String,
    passed: bool,
    log: String,
}

#[test]
#[ignore = "long: each target for a minute (FUZZ_SECONDS, FUZZ_SEED, FUZZ_TARGETS)"]
fn every_target_holds_against_a_fuzzer_i_01() {
    let seed = std::env::var("FUZZ_SEED").ok().map_or_else(drawn, |seed| seed.parse().expect("a number"));
    let seconds: u32 = std::env::var("FUZZ_SECONDS").map_or(60, |seconds| seconds.parse().expect("a number"));
    said(&run("build", &[]), "the targets can't be built");
    for (control, word) in
        [("control_crash", "planted"), ("control_slow", "too slow: "), ("control_large", "too large: ")]
    {
        must_be_found(control, word, seed);
    }
    let targets = targets();
    println!("{} targets, {seconds} s each, FUZZ_SEED={seed}", targets.len());
    let (queue, outcomes) = (Mutex::new(targets.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                while let Some(target) = { queue.lock().unwrap().next() } {
                    let outcome = fuzz(target, seconds, seed);
                    println!("{}", row(&outcome));
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    assert_eq!(outcomes.len(), targets.len());
    let findings: Vec<String> = outcomes.iter().filter(|outcome| !outcome.passed).map(finding).collect();
    assert!(findings.is_empty(), "{} targets have findings:\n{}", findings.len(), findings.join("\n"));
    let blind: Vec<&str> = outcomes.iter().filter(|one| executed(one) == 0).map(|one| one.target.as_str()).collect();
    assert!(blind.is_empty(), "nothing was run of {blind:?}");
    let executions: u64 = outcomes.iter().map(executed).sum();
    println!("{executions} executions of {} targets, no finding", outcomes.len());
}

/// A fuzzer that sees where inputs get to finds eight bytes that nobody guesses.
fn must_be_found(control: &str, word: &str, seed: u32) {
    let folder = work().join(control);
    // What an earlier run has found would be a shorter way.
    let _ = fs::remove_dir_all(&folder);
    let found = run("fuzz", &[control, &format!("-runs={CONTROL_RUNS}"), &format!("-seed={seed}")]);
    let log = String::from_utf8_lossy(&found.stderr).into_owned() + &String::from_utf8_lossy(&found.stdout);
    let is_found = !found.status.success() && log.contains(word);
    assert!(is_found, "{control} was not found: the fuzzer is blind, and the other targets show nothing\n{log}");
    let executions =
        log.lines().filter_map(|line| line.strip_prefix('#')?.split_whitespace().next()?.parse::<u64>().ok());
    println!("{control}: found after {} executions or a few more", executions.max().unwrap_or_default());
}

fn fuzz(target: &str, seconds: u32, seed: u32) -> Outcome {
    let done = run("fuzz", &[target, &format!("-max_total_time={seconds}"), &format!("-seed={seed}")]);
    let log = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    fs::write(work().join(target).join("log"), &log).unwrap();
    Outcome { target: target.to_owned(), passed: done.status.success(), log }
}

fn finding(outcome: &Outcome) -> String {
    let said = ["panicked at", "too slow", "too large", "ERROR: libFuzzer", "Test unit written to"];
    let lines: Vec<&str> = outcome.log.lines().filter(|line| said.iter().any(|word| line.contains(word))).collect();
    format!(
        "{}:\n  {}\n  again: fuzz/run replay {} FILE (all that was said is in target/fuzz/{0}/log)",
        outcome.target,
        lines.join("\n  "),
        outcome.target
    )
}

/// One line of figures: executions, features at the beginning and the end, and the most that an input cost.
fn row(outcome: &Outcome) -> String {
    let log = &outcome.log;
    let features = |line: Option<&str>| line.and_then(|line| after(line, "ft: ")).unwrap_or_default();
    let begun = features(log.lines().find(|line| line.contains("INITED")));
    let ended = features(log.lines().rfind(|line| line.starts_with('#') && line.contains("ft: ")));
    let statistic = |name| log.lines().rev().find_map(|line| after(line, name)).unwrap_or_default();
    format!(
        "{:<16} {:>9} executions, features {begun} -> {ended}, {} inputs more, slowest {} us, most memory {} KiB, process {} MiB{}",
        outcome.target,
        executed(outcome),
        statistic("stat::new_units_added:"),
        statistic("slowest_us="),
        statistic("largest_bytes=") / 1024,
        statistic("stat::peak_rss_mb:"),
        if outcome.passed { "" } else { "  FOUND SOMETHING" }
    )
}

fn executed(outcome: &Outcome) -> u64 {
    outcome.log.lines().find_map(|line| after(line, "stat::number_of_executed_units:")).unwrap_or_default()
}

/// The number behind `name` in a line.
fn after(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    rest.split_whitespace().next()?.parse().ok()
}

fn targets() -> Vec<String> {
    let listed = said(&run("list", &[]), "the targets can't be listed");
    let all: Vec<String> = listed.lines().map(str::to_owned).collect();
    assert!(all.len() > 20, "{} targets", all.len());
    let Ok(wanted) = std::env::var("FUZZ_TARGETS") else { return all };
    let wanted: Vec<String> = wanted.split(',').map(str::to_owned).collect();
    assert!(wanted.iter().all(|one| all.contains(one)), "there are {all:?}");
    wanted
}

fn said(output: &Output, problem: &str) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}:\n{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(what: &str, arguments: &[&str]) -> Output {
    let program = root().join("fuzz/run");
    let mut command = Command::new(program);
    // Cargo sets these for the tests that it runs, and would take them for a change of what it builds.
    for (name, _) in std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST") || name == "LD_LIBRARY_PATH"
        })
    }) {
        command.env_remove(name);
    }
    command.arg(what).args(arguments).output().expect("fuzz/run can't be started")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn work() -> PathBuf {
    root().join("target/fuzz")
}

fn drawn() -> u32 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("randomness");
    // Zero would let libFuzzer draw one.
    u32::from_le_bytes(bytes).max(1)
}

#[test]
fn the_figures_are_read_as_libfuzzer_prints_them() {
    let log = "#40\tINITED cov: 812 ft: 1630 corp: 37/21Kb exec/s: 0 rss: 100Mb\n\
               #9000\tNEW    cov: 900 ft: 1701 corp: 60/31Kb lim: 4096 exec/s: 90 rss: 101Mb\n\
               #9100\tDONE   cov: 900 ft: 1702 corp: 60/31Kb lim: 4096 exec/s: 90 rss: 101Mb\n\
               stat::number_of_executed_units: 9100\nstat::new_units_added:          23\nstat::peak_rss_mb:              101\n\
               figures: slowest_us=1800 largest_bytes=20480\n";
    let outcome = Outcome { target: "event".into(), passed: true, log: log.into() };
    assert_eq!(
        row(&outcome),
        "event                 9100 executions, features 1630 -> 1702, 23 inputs more, slowest 1800 us, most memory 20 KiB, \
         process 101 MiB"
    );
    assert!(Path::new(&root().join("fuzz/run")).exists());
}
