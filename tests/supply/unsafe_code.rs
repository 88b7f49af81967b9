//! Code that the compiler can't vouch for: none of ours, and no more of others' than was looked at.

use super::tree;
use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How much of it was in each dependency when somebody last looked.
const COUNTS: &str = "tests/supply/unsafe_code.txt";
const HEAD: &str = "\
# How often the word `unsafe` stands in the code (not in comments or texts) of each crate that is linked into the program.
# Written with `UNSAFE=overwrite cargo test --release --locked --test supply`, after a look at what was added.
";

/// How often the word `unsafe` stands in a piece of code, also in the arguments and definitions of macros.
fn count(tokens: TokenStream) -> usize {
    let counts = tokens.into_iter().map(|token| match token {
        TokenTree::Ident(word) => usize::from(word == "unsafe"),
        TokenTree::Group(group) => count(group.stream()),
        _ => 0,
    });
    counts.sum()
}

fn count_text(text: &str) -> Result<usize, String> {
    // A mark of the byte order and a first line for a shell are no tokens.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = match text.strip_prefix("#!") {
        Some(rest) if !rest.trim_start().starts_with('[') => rest.split_once('\n').map_or("", |(_, rest)| rest),
        _ => text,
    };
    text.parse::<TokenStream>().map(count).map_err(|error| error.to_string())
}

fn rust_files(folder: &Path, skipped: &[&str], found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !skipped.contains(&name.as_str()) {
            rust_files(&path, skipped, found);
        } else if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Of a dependency: what may be compiled into the program. Its tests, benches and examples never are.
fn count_crate(folder: &Path) -> usize {
    let mut files = Vec::new();
    rust_files(folder, &["tests", "benches", "examples", "target"], &mut files);
    let counts = files.iter().map(|file| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        // Most need not be read as code. What does not even have matching brackets is a template, or a test of a compiler.
        if text.contains("unsafe") { count_text(&text).unwrap_or_default() } else { 0 }
    });
    counts.sum()
}

fn read(counts: &str) -> BTreeMap<String, usize> {
    let lines = counts.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let pairs = lines.map(|line| line.split_once(' ').unwrap_or_else(|| panic!("{COUNTS}: what is `{line}`?")));
    pairs.map(|(name, count)| (name.to_owned(), count.parse().expect("the second word is a number"))).collect()
}

fn write(counts: &BTreeMap<String, usize>) -> String {
    counts.iter().fold(HEAD.to_owned(), |mut text, (name, count)| {
        writeln!(text, "{name} {count}").expect("a text can be written to");
        text
    })
}

/// What changed since somebody looked.
fn changes(before: &BTreeMap<String, usize>, now: &BTreeMap<String, usize>) -> Vec<String> {
    let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    let said = names.into_iter().filter_map(|name| match (before.get(name), now.get(name)) {
        (Some(before), Some(now)) if before == now => None,
        (Some(before), Some(now)) if now > before => {
            Some(format!("{name} grew from {before} to {now}: look at what was added"))
        }
        (Some(before), Some(now)) => Some(format!("{name} went from {before} to {now}: write it down")),
        (None, Some(now)) => Some(format!("{name} is new, with {now}: look at it")),
        (_, None) => Some(format!("{name} is gone, or has none any more: write it down")),
    });
    said.collect()
}

#[test]
fn no_dependency_has_more_unsafe_code_than_was_looked_at_p_02() {
    let mut now = BTreeMap::new();
    let packages: Vec<_> = tree::packages().into_iter().filter(|package| package.is_linked).collect();
    assert!(packages.len() > 200, "only {} crates are linked: is this the right tree?", packages.len());
    for package in packages.iter().filter(|package| package.name != "cloakroom") {
        let count = count_crate(package.manifest.parent().expect("a manifest lies in a folder"));
        if count > 0 {
            *now.entry(package.name.clone()).or_default() += count;
        }
    }
    let file = tree::root().join(COUNTS);
    if std::env::var("UNSAFE").is_ok_and(|wish| wish == "overwrite") {
        std::fs::write(&file, write(&now)).unwrap();
    }
    let before = read(&std::fs::read_to_string(&file).unwrap_or_default());
    println!(
        "{} crates are linked, {} of them have {} times `unsafe`",
        packages.len(),
        now.len(),
        now.values().sum::<usize>()
    );
    let changes = changes(&before, &now);
    let hint = "When it has been looked at: UNSAFE=overwrite cargo test --release --locked --test supply";
    assert!(changes.is_empty(), "\n{}\n{hint}", changes.join("\n"));
}

#[test]
fn more_unsafe_code_is_found_p_02() {
    for (text, expected) in [
        ("fn f() { unsafe { g() } }", 1),
        ("unsafe fn f() {} unsafe impl Send for S {} unsafe trait T {} unsafe extern \"C\" {}", 4),
        ("m! { a (unsafe { b }) } macro_rules! m { () => { [unsafe { }] } }", 2),
        ("#!/usr/bin/env run\nunsafe fn f() {}", 1),
        ("#![allow(unsafe_code)] // unsafe\n/* unsafe */ /// unsafe\nfn f() { \"unsafe\"; r#\"unsafe\"#; }", 0),
    ] {
        assert_eq!(count_text(text), Ok(expected), "{text}");
    }
    let counts = |text: &str| read(text);
    let before = counts("# head\na 1\nb 2\nc 3\n");
    assert_eq!(changes(&before, &before), Vec::<String>::new());
    assert_eq!(changes(&before, &counts("a 1\nb 3\nc 3\n")), ["b grew from 2 to 3: look at what was added"]);
    assert_eq!(changes(&before, &counts("a 1\nb 2\nc 3\nd 1\n")), ["d is new, with 1: look at it"]);
    assert_eq!(changes(&before, &counts("a 1\nb 2\nc 2\n")).len(), 1);
    assert_eq!(changes(&before, &counts("a 1\nb 2\n")).len(), 1);
    assert_eq!(read(&write(&before)), before);

    let folder = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("src/lib.rs", "unsafe fn f() {}"),
        ("src/deep/er.rs", "fn f() { unsafe {} }"),
        ("build.rs", "unsafe fn f() {}"),
        ("tests/t.rs", "unsafe fn f() {}"),
        ("examples/e.rs", "unsafe fn f() {}"),
        ("src/notes.txt", "unsafe"),
    ] {
        let file = folder.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    assert_eq!(count_crate(folder.path()), 3);
}

/// The word is in none of our files, whatever they are built for, and each of our manifests forbids it to the compiler.
#[test]
fn none_of_ours_is_unsafe_p_02() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "examples", "deploy"] {
        rust_files(&tree::root().join(folder), &["target"], &mut files);
    }
    files.push(tree::root().join("build.rs"));
    assert!(files.len() > 300, "only {} files: is this the right folder?", files.len());
    let found: Vec<String> = files
        .iter()
        .filter(|file| count_text(&std::fs::read_to_string(file).unwrap()).expect("ours parse") > 0)
        .map(|file| file.display().to_string())
        .collect();
    assert!(found.is_empty(), "the word `unsafe` stands in {}", found.join(", "));
    let mut manifests = vec![tree::root().join("Cargo.toml")];
    let folders = tree::root().join("tests").read_dir().unwrap().map(|entry| entry.unwrap().path().join("Cargo.toml"));
    manifests.extend(folders.filter(|manifest| manifest.exists()));
    for file in &manifests {
        let manifest: toml::Table = std::fs::read_to_string(file).unwrap().parse().expect("a manifest is TOML");
        let lint = manifest["lints"]["rust"]["unsafe_code"].as_str();
        assert_eq!(lint, Some("forbid"), "{}: it could be allowed again", file.display());
    }
    println!("{} files of ours under {} manifests, none with `unsafe`", files.len(), manifests.len());
}

/// The manifest's lints, as they stand, hold for the library, the program, the build script, tests, benches and examples,
/// and no file can lift them.
#[test]
fn the_manifest_forbids_unsafe_code_everywhere_p_02() {
    const TARGETS: [&str; 5] = ["src/lib.rs", "src/main.rs", "tests/t.rs", "benches/b.rs", "examples/e.rs"];
    let manifest: toml::Table = std::fs::read_to_string(tree::root().join("Cargo.toml")).unwrap().parse().unwrap();
    let lints = toml::to_string(&toml::Table::from_iter([("lints".to_owned(), manifest["lints"].clone())])).unwrap();
    let place = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let file = place.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    put("Cargo.toml", &format!("[package]\nname = \"planted\"\nedition = \"2024\"\n{lints}\n[workspace]\n"));
    let check = || {
        let done = Command::new(env!("CARGO"))
            .args(["check", "--offline", "--all-targets", "--keep-going", "--message-format", "short"])
            .current_dir(place.path())
            .env("CARGO_TARGET_DIR", place.path().join("target"))
            .env_remove("RUSTFLAGS")
            .output()
            .unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let safe = "fn main() {}";
    let planted = "fn main() { let x = 1u8; let _ = unsafe { *std::ptr::from_ref(&x) }; }";
    put("build.rs", safe);
    let put_all = |targets: &[&str], text: &str| {
        for target in targets {
            put(target, text);
        }
    };
    put_all(&TARGETS, safe);
    let (passes, said) = check();
    assert!(passes, "{said}");
    // What others are built with is tried alone: where it fails, the others are not even tried.
    for planted_in in [&TARGETS[1..], &TARGETS[..1], &["build.rs"]] {
        put_all(planted_in, planted);
        let (passes, said) = check();
        assert!(!passes);
        for target in planted_in {
            let found = said.lines().any(|line| line.starts_with(target) && line.contains("`unsafe` block"));
            assert!(found, "{target} may be unsafe:\n{said}");
        }
        put_all(planted_in, safe);
    }
    // No file can lift it.
    put("tests/t.rs", &format!("#![allow(unsafe_code)]\n{planted}"));
    let (passes, said) = check();
    assert!(!passes && said.contains("allow(unsafe_code) incompatible"), "{said}");
}
