//! What was kept passes; and the list of targets is that of the parsers.

use super::control::CONTROLS;
use super::{TARGETS, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Each file of the target's corpus, by name.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let directory = root().join("fuzz/corpus").join(target.name);
    let Ok(files) = fs::read_dir(&directory) else { return Vec::new() };
    let read = |path: PathBuf| (path.display().to_string(), fs::read(&path).unwrap());
    let mut files: Vec<_> = files.map(|file| read(file.unwrap().path())).collect();
    files.sort();
    files
}

/// How many inputs there were, and which failed.
fn replay(targets: &[Target]) -> (usize, Vec<String>) {
    let (mut count, mut failed) = (0, Vec::new());
    for target in targets {
        let seeds = (target.seeds)().into_iter().enumerate().map(|(number, seed)| (format!("seed {number}"), seed));
        for (name, input) in seeds.chain(corpus(target)) {
            let run = std::panic::catch_unwind(|| (target.run)(&input));
            if run.is_err() {
                failed.push(format!("{} on {name}", target.name));
            }
            count += 1;
        }
    }
    (count, failed)
}

#[test]
fn every_input_that_was_kept_passes_i_01() {
    // Two threads: half of the targets each.
    let (one, other) = TARGETS.split_at(TARGETS.len() / 3);
    let (count, failed) = std::thread::scope(|scope| {
        let one = scope.spawn(|| replay(one));
        let (count, failed) = replay(other);
        let (more, also_failed) = one.join().expect("what panics is caught");
        (count + more, [failed, also_failed].concat())
    });
    assert!(failed.is_empty(), "targets that fail:\n{}", failed.join("\n"));
    assert!(count > 500, "{count} inputs: they are not found any more");
    println!("{count} inputs of {} targets", TARGETS.len());
}

#[test]
fn a_control_is_harmless_without_its_word() {
    for control in CONTROLS {
        for seed in (control.seeds)() {
            (control.run)(&seed);
        }
    }
}

/// Parsers by the names that they have here, outside tests: `file::name`.
fn parsers() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![root().join("src")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let file = path.strip_prefix(root()).unwrap().display().to_string();
        let is_source = Path::new(&file).extension().is_some_and(|extension| extension == "rs");
        let of_tests = ["/tests", "fixture", "src/fuzz", "src/bench", "suite.rs", "forge.rs"];
        if !is_source || of_tests.iter().any(|part| file.contains(part)) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let names = code.lines().filter_map(parser);
        found.extend(names.map(|name| format!("{file}::{name}")));
    }
    found
}

/// The name of the parser that this line begins, if it begins one.
fn parser(line: &str) -> Option<&str> {
    let (_, rest) = line.trim_start().split_once("fn ").filter(|(before, _)| {
        before.split_whitespace().all(|word| matches!(word, "const" | "async") || word.starts_with("pub"))
    })?;
    let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_')?;
    let name = &rest[..end];
    let words = ["parse", "decode", "from_bytes", "from_str", "try_from", "from_word", "unwrap", "from_text"];
    let is_one = words.iter().any(|word| name == *word || name.starts_with(&format!("{word}_")));
    (is_one || name == "read" || name.starts_with("read_") || name.starts_with("in_json")).then_some(name)
}

/// The rows of the table in `fuzz/README.md`: a parser, and the targets that reach it or why none has to.
fn listed() -> BTreeMap<String, String> {
    let readme = fs::read_to_string(root().join("fuzz/README.md")).unwrap();
    let rows = readme.lines().filter_map(|line| {
        let (parser, targets) = line.strip_prefix("| `src/")?.split_once("` | ")?;
        Some((format!("src/{parser}"), targets.trim_end_matches(" |").to_owned()))
    });
    rows.collect()
}

#[test]
fn every_parser_has_a_target_i_01() {
    let (parsers, listed) = (parsers(), listed());
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    let mut wrong = Vec::new();
    for parser in &parsers {
        match listed.get(parser) {
            None => {
                wrong.push(format!("{parser}: has no row in fuzz/README.md: give it a target, or say there why not"));
            }
            Some(targets) if targets.starts_with("none: ") => {}
            Some(targets) => {
                let unknown = targets.split(", ").filter(|target| !names.contains(target.trim_matches('`')));
                wrong.extend(unknown.map(|target| format!("{parser}: there is no target {target}")));
            }
        }
    }
    let gone = listed.keys().filter(|row| !parsers.contains(*row) && !is_there(row));
    wrong.extend(gone.map(|row| format!("{row}: is in fuzz/README.md and not in the source")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(parsers.len() > 50, "{} parsers: they are not found any more", parsers.len());
    // Each target is for something.
    let used: String = listed.values().map(String::as_str).collect::<Vec<_>>().join(" ");
    let idle: Vec<_> = names.iter().filter(|name| !used.contains(&format!("`{name}`"))).collect();
    assert!(idle.is_empty(), "no parser is said to be reached by {idle:?}");
}

/// A row may name what is a parser and not called like one.
fn is_there(row: &str) -> bool {
    let Some((file, name)) = row.split_once("::") else { return false };
    fs::read_to_string(root().join(file)).is_ok_and(|text| text.contains(&format!("fn {name}")))
}

#[test]
fn a_new_parser_would_be_noticed() {
    assert_eq!(parser("    pub(super) async fn parse_head(line: &str) -> Option<u64> {"), Some("parse_head"));
    assert_eq!(parser("fn decode(mut bytes: &[u8]) -> Option<Self> {"), Some("decode"));
    assert_eq!(parser("    fn from_str(text: &str) -> Result<Self, ()> {"), Some("from_str"));
    assert_eq!(parser("    // what fn parse( does"), None);
    assert_eq!(parser("fn reads(&self) -> bool {"), None);
}

#[test]
fn the_corpora_are_small_and_of_targets() {
    let directory = root().join("fuzz/corpus");
    let mut bytes = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|target| target.name == name), "fuzz/corpus/{name} is of no target");
        bytes += fs::read_dir(entry.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    }
    assert!(bytes < 2 << 20, "fuzz/corpus has {bytes} bytes: minimize it (see fuzz/README.md)");
}

/// What `fuzz/run` calls: the target in `FUZZ_TARGET`, with the arguments in `FUZZ_ARGUMENTS`, one a line. With `FUZZ_SEEDS`
/// it only writes the seeds there, and without a target it only says which there are.
#[cfg(feature = "fuzz")]
#[test]
fn run_one_target() {
    let Ok(name) = std::env::var("FUZZ_TARGET") else {
        return TARGETS.iter().for_each(|target| println!("target {}", target.name));
    };
    let found = TARGETS.iter().chain(CONTROLS).find(|target| target.name == name);
    let target = found.unwrap_or_else(|| panic!("there is no target {name}; fuzz/README.md lists them"));
    if let Ok(directory) = std::env::var("FUZZ_SEEDS") {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(Path::new(&directory).join(format!("seed-{number:03}")), seed).unwrap();
        }
        return;
    }
    let words = std::env::var("FUZZ_ARGUMENTS").unwrap_or_default();
    let given = words.split('\n').filter(|word| !word.is_empty()).map(str::to_owned);
    // libFuzzer starts the program again, with other arguments, for a merge.
    let program = std::env::var("FUZZ_PROGRAM").unwrap_or_default();
    let length = format!("-max_len={}", target.bytes_at_most);
    let arguments: Vec<String> = [program, length].into_iter().chain(given).collect();
    cloakroom_fuzz_driver::run(target.run, &arguments);
}
