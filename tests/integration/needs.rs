//! What a test needs of the machine beside the program itself.
//!
//! Faults are made with `strace`, mounts and a look into another process's memory, which only root may have. Someone
//! without it can still run the other tests: what is left out says so, and why. As root, and where `CI=true`, nothing is
//! left out: there a test whose needs are not met fails. Whoever runs the tests gives a file in `NOT_RUN` to which each that
//! is left out adds a line, so that they are counted (`deploy/test`).

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Whether this process is root and has all of `needed`: programs by name, files by path.
pub fn met(needed: &[&str]) -> bool {
    let root = rustix::process::geteuid().is_root();
    let mut missing: Vec<String> =
        needed.iter().filter(|name| !is_there(name)).map(|name| format!("{name} (`deploy/setup test-long`)")).collect();
    if !root {
        missing.push("to be root".to_owned());
    }
    if missing.is_empty() {
        return true;
    }
    let missing = format!("this test needs {}", missing.join(", and "));
    assert!(!root && std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
    note(&missing);
    false
}

/// Whether all of `needed` is there, for a test that anybody may run; `wanted` is what else it lacks, in words.
#[allow(dead_code, reason = "it is for tests/supply, which has this file, too")]
pub fn at_hand(needed: &[&str], wanted: Option<&str>) -> bool {
    let missing = needed
        .iter()
        .filter(|name| !is_there(name))
        .map(|name| format!("{name} (`deploy/setup test`, or `test-long` for a long one)"));
    let missing: Vec<String> = missing.chain(wanted.map(str::to_owned)).collect();
    if missing.is_empty() {
        return true;
    }
    let missing = format!("this test needs {}", missing.join(", and "));
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
    note(&missing);
    false
}

/// Says that something was not run, and why.
fn note(why: &str) {
    println!("LEFT OUT: {why}");
    if let Some(list) = std::env::var_os("NOT_RUN") {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let mut list =
            File::options().append(true).create(true).open(list).expect("the file in NOT_RUN can be written");
        writeln!(list, "{name}: {why}").expect("the file in NOT_RUN can be written");
    }
}

fn is_there(name: &str) -> bool {
    if name.starts_with('/') {
        return Path::new(name).exists();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(name).exists())
}
