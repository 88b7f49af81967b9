//! Cloakroom from outside: a client and a reader of stored records in Python, which share nothing with this crate but
//! its protos and documents. They are in `tests/foreign/`; this runs them on the program and shows what they say.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![allow(clippy::print_stdout, reason = "tests say how much they did")]

#[path = "../src/caller/forge.rs"]
#[allow(dead_code, reason = "only its dice are wanted here")]
mod forge;

use cloakroom::caller::SpiffeId;
use cloakroom::caller::spiffe::SpiffeError;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn a_foreign_client_and_a_foreign_reader_find_what_the_documents_say_t_05_t_11() {
    let done = run()
        .arg(env!("CARGO_BIN_EXE_cloakroom"))
        .stdin(Stdio::null())
        .output()
        .expect("tests/foreign/run can't be started");
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "tests/foreign/run failed: its output is above");
    let last = said.lines().last().unwrap_or_default();
    let passed = last.strip_suffix(" passed, 0 failed").and_then(|passed| passed.parse::<u32>().ok());
    assert!(passed.is_some_and(|passed| passed > 0), "tests/foreign/run checked nothing: {last}");
}

fn run() -> Command {
    let program: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/run");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory");
    let mut command = Command::new(program);
    command.env("CARGO_TARGET_DIR", target);
    command
}

/// The SPIFFE project's own parser and ours, side by side. What we accept it accepts, with the same parts. What it accepts
/// and we don't is one of five things, each of which we refuse on purpose.
#[test]
fn a_foreign_parser_of_ids_agrees_t_02() {
    const IDS: usize = 20_000;
    let mut dice = forge::Dice::seeded();
    let mut ids: Vec<String> = (0..IDS).map(|_| nearly_an_id(&mut dice)).collect();
    ids.extend([2048, 2049].map(|bytes| format!("spiffe://a/{}", "p".repeat(bytes - 11))));
    ids.extend([255, 256].map(|bytes| format!("spiffe://{}/p", "a".repeat(bytes))));
    let answers = ask(&ids);
    assert_eq!(answers.len(), ids.len());
    let (mut both, mut neither, mut theirs) = (0, 0, 0);
    for (id, answer) in ids.iter().zip(&answers) {
        match (SpiffeId::parse(id), answer.as_str()) {
            (Ok(ours), answer) => {
                let parts = format!("{} {}", hex::encode(ours.trust_domain()), hex::encode(ours.path()));
                assert_eq!(answer, parts, "{id:?}");
                both += 1;
            }
            (Err(_), "refused") => neither += 1,
            (Err(error), _) => {
                assert!(refused_on_purpose(id, error), "{id:?}: {error}, and it is accepted elsewhere");
                theirs += 1;
            }
        }
    }
    println!("T-02: {both} ids accepted by both, {neither} by neither, {theirs} by the other alone, each on purpose");
    assert!(both > IDS / 20 && neither > IDS / 20 && theirs > 0, "the ids are not near enough");
}

fn refused_on_purpose(id: &str, error: SpiffeError) -> bool {
    let (start, rest) = id.split_at(9);
    let domain = rest.split('/').next().unwrap_or_default();
    match error {
        // It names no workload.
        SpiffeError::PathMissing => true,
        // An id has one spelling: the other parser writes it in lower case.
        SpiffeError::Scheme => start.eq_ignore_ascii_case("spiffe://"),
        SpiffeError::TrustDomainCharacter => domain != domain.to_lowercase() || domain.ends_with('\n'),
        // Its expression's `$` lets a line's end through.
        SpiffeError::PathCharacter => id.split('/').any(|segment| segment.ends_with('\n')),
        // It has no limits.
        SpiffeError::TooLong | SpiffeError::TrustDomainTooLong => true,
        _ => false,
    }
}

fn nearly_an_id(dice: &mut forge::Dice) -> String {
    const PIECES: [&str; 34] = [
        "a",
        "payments",
        "Payments",
        "x.y",
        "-",
        "_",
        "7",
        ".",
        "..",
        "...",
        "/",
        "/",
        "/",
        "//",
        "%2f",
        "%",
        "?",
        "#",
        ":",
        "@",
        "*",
        " ",
        "\n",
        "\r",
        "\0",
        "\t",
        "\u{430}",
        "\u{200b}",
        "\u{131}",
        "\u{212a}",
        "spiffe://",
        "SPIFFE://",
        "+",
        "~",
    ];
    let mut text = ["spiffe://", "spiffe://", "spiffe://", "spiffe:/", "Spiffe://", ""][dice.below(6)].to_owned();
    text.push_str(["a.example", "a.example", "a", "A.example", ""][dice.below(5)]);
    if dice.below(8) > 0 {
        text.push('/');
    }
    // Mostly good pieces, so that many ids have one fault or none.
    for _ in 0..dice.below(6) {
        let end = if dice.below(5) == 0 { PIECES.len() } else { 7 };
        text.push_str(PIECES[dice.below(end)]);
        if dice.below(4) == 0 {
            text.push('/');
            text.push_str("eu");
        }
    }
    text
}

fn ask(ids: &[String]) -> Vec<String> {
    let mut command = run();
    command.args(["--script", "spiffe_ids.py"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("tests/foreign/run can't be started");
    let lines: String = ids.iter().map(|id| hex::encode(id) + "\n").collect();
    let mut input = child.stdin.take().unwrap();
    // Beside the reading: neither side may wait for the other with a full pipe.
    let writing = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let done = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(done.status.success(), "tests/foreign/run failed");
    let said = String::from_utf8(done.stdout).unwrap();
    said.lines().filter(|line| !line.starts_with("==")).map(str::to_owned).collect()
}
