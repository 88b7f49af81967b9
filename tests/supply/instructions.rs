//! How many instructions each pure piece of a call takes. Clocks lie on machines that others use; instructions are the same again.
//!
//! `benches/instructions.txt` has the last figures, for one compiler and one kind of processor, and others' are not held against them. After a change that is meant to be,
//! `INSTRUCTIONS=overwrite` writes them anew.

use super::{needs, tree};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In percent. Hash tables have other seeds each time, and memory other addresses.
const TOLERANCE: f64 = 3.0;
/// The difference between two runs is what one more costs, without the start.
const TIMES: [u64; 2] = [1_000, 3_000];

/// Each piece takes no more instructions than it did, and no fewer either: what became better is written down.
#[test]
#[ignore = "long: each piece some thousand times under valgrind, and the benchmark is built"]
fn the_pieces_of_a_call_take_as_many_instructions_as_before() {
    if !needs::at_hand(&["valgrind"], None) {
        return;
    }
    let program = program();
    let compiler = format!("{} for {}", compiler(), processor());
    let path = tree::root().join("benches/instructions.txt");
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let names = names(&recorded);
    let counts: BTreeMap<&str, u64> = PIECES.iter().map(|name| (*name, count(&program, name))).collect();
    let mut text =
        format!("# Instructions of one piece each (benches/pieces.rs), counted by valgrind.\ncompiler\t{compiler}\n");
    let mut other = Vec::new();
    for name in PIECES {
        let (now, before) = (counts[name], names.get(name).copied().unwrap_or(0));
        let change = 100.0 * (now as f64 - before as f64) / (before.max(1) as f64);
        println!("{name:<24} {now:>9}  {change:>+7.1} %");
        writeln!(text, "{name}\t{now}").unwrap();
        if change.abs() > TOLERANCE {
            other.push(format!("{name}: {before} before, {now} now"));
        }
    }
    if std::env::var("INSTRUCTIONS").is_ok_and(|what| what == "overwrite") {
        std::fs::write(&path, text).unwrap();
        return;
    }
    if !recorded.contains(&format!("compiler\t{compiler}\n")) {
        println!("not compared: they were counted with another compiler than {compiler}");
        return;
    }
    assert!(other.is_empty(), "if that is meant to be, say why and run it with INSTRUCTIONS=overwrite: {other:#?}");
}

/// All that `benches/pieces.rs` has.
const PIECES: [&str; 10] = [
    "mint",
    "locate",
    "seal",
    "open",
    "sum up",
    "policy, remembered",
    "policy, decided",
    "encode event of 1",
    "encode event of 100",
    "hash event of 1",
];

fn names(recorded: &str) -> BTreeMap<&str, u64> {
    recorded
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(name, count)| Some((name, count.parse().ok()?)))
        .collect()
}

/// As `make test` builds everything, so that only the benchmark itself is compiled.
fn program() -> PathBuf {
    let done = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--bench", "pieces", "--message-format=json"])
        .current_dir(tree::root())
        .output()
        .expect("cargo can be started");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8_lossy(&done.stdout);
    let artifacts = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut built = artifacts.filter(|artifact| artifact["target"]["name"] == "pieces");
    let path = built.find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
    path.expect("cargo says where it is")
}

fn compiler() -> String {
    let done = Command::new("rustc").arg("--version").current_dir(tree::root()).output().expect("there is a compiler");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// What of it the libraries choose their code by.
fn processor() -> String {
    const CHOSEN_BY: [&str; 7] = ["aes", "avx2", "avx512f", "bmi2", "erms", "sha_ni", "vaes"];
    let said = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = said.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let has = |name: &&&str| flags.split_whitespace().any(|flag| flag == **name);
    let found: Vec<&str> = CHOSEN_BY.iter().filter(has).copied().collect();
    format!("{} with {}", std::env::consts::ARCH, found.join(" "))
}

fn count(program: &Path, name: &str) -> u64 {
    let [few, many] = TIMES.map(|times| instructions(program, name, times));
    many.checked_sub(few).expect("more cost more") / (TIMES[1] - TIMES[0])
}

fn instructions(program: &Path, name: &str, times: u64) -> u64 {
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=2"])
        .arg(program)
        .args(["--times", &times.to_string(), name])
        .env_clear()
        .output()
        .expect("valgrind can be started");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.split_once("Collected : ")).expect("callgrind says how many");
    line.1.trim().parse().expect("a number")
}
