//! A million lines through `cloakroom tokenize` and back through `cloakroom detokenize`, in constant memory.

use crate::harness::{Home, Server};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

const FEW: u64 = 100_000;
const MANY: u64 = 1_000_000;
/// The process is looked at after so many lines of its output.
const LOOK: u64 = 1_000;

#[test]
#[ignore = "long: a million lines"]
fn a_million_lines_take_no_more_memory_than_a_hundred_thousand() {
    let home = Home::init();
    let server = home.serve();
    let few = there_and_back(&home, &server, FEW);
    let many = there_and_back(&home, &server, MANY);
    server.stop();
    for (command, few, many) in [("tokenize", few.0, many.0), ("detokenize", few.1, many.1)] {
        println!("peak memory of `cloakroom {command}`: {few} KiB for {FEW} lines, {many} KiB for {MANY}");
        assert!(many <= few + few / 10, "{command}: {many} KiB for {MANY} lines, {few} KiB for {FEW}");
    }
}

/// The peaks of resident memory, in KiB, of the commands that tokenize so many lines and give them back, in their order.
fn there_and_back(home: &Home, server: &Server, lines: u64) -> (u64, u64) {
    let value = |number: u64| format!("{number:016}");
    let (values, tokens) = (home.file("values"), home.file("tokens"));
    let mut file = BufWriter::new(File::create(&values).unwrap());
    for number in 0..lines {
        writeln!(file, "{}", value(number)).unwrap();
    }
    file.into_inner().unwrap();

    // From a pipe.
    let mut issued = BufWriter::new(File::create(&tokens).unwrap());
    let mut seen = HashSet::new();
    let tokenize = start(home, server, "gateway", &["tokenize", "--scope", "pan"], Some(&values));
    let there = read(tokenize, lines, |_, token| {
        writeln!(issued, "{token}").unwrap();
        assert!(seen.insert(token), "no token is there twice");
    });
    issued.into_inner().unwrap();

    // From a file.
    let words = ["detokenize", "--scope", "pan", "--purpose", "test", tokens.to_str().unwrap()];
    let detokenize = start(home, server, "payments", &words, None);
    let back = read(detokenize, lines, |number, text| assert_eq!(text, value(number), "in the order of the input"));
    (there, back)
}

/// Starts a command whose standard input, if it has one, is a pipe into which `input` is poured.
fn start(home: &Home, server: &Server, client: &str, words: &[&str], input: Option<&PathBuf>) -> Child {
    let mut command = home.cli(server, client, words);
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).spawn().unwrap();
    if let Some((mut pipe, path)) = child.stdin.take().zip(input.cloned()) {
        std::thread::spawn(move || std::io::copy(&mut File::open(path).unwrap(), &mut pipe).unwrap());
    }
    child
}

/// Reads all lines, and the process's peak as it goes: when the last line is there nothing is left to be done.
fn read(mut child: Child, lines: u64, mut line: impl FnMut(u64, String)) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let output = BufReader::new(child.stdout.take().unwrap());
    let (mut count, mut peak) = (0, 0);
    for text in output.lines() {
        line(count, text.unwrap());
        count += 1;
        if count.is_multiple_of(LOOK) || count == lines {
            // A process that has ended has no memory: the last look before counts.
            peak = high_water_mark(Path::new(&status)).unwrap_or(peak);
        }
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(count, lines);
    assert!(peak > 0, "the peak was seen");
    peak
}

/// `VmHWM:     12345 kB`
fn high_water_mark(status: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}
