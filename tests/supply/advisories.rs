//! Known faults of dependencies, their licences, and where they come from, by `cargo audit` and `cargo deny`.
//!
//! Both read a local copy of the RustSec database, in `$ADVISORY_DB` or beside the checkout, so that nothing here depends on
//! the network. Whether they would find anything is tried with planted faults each time.

use super::{needs, tree};
use cloakroom::clock::SystemClock;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An older copy may lack what matters. It is said and fails nothing: the age is that of the copy, not of the source.
const FRESH_FOR_DAYS: i64 = 7;
/// Where `cargo deny` looks for a copy of the database: it calls it after the address that it would fetch it from.
const DENY_CALLS_IT: &str = "advisory-db-3157b0e258782691";

/// Where the copy should be.
pub fn place() -> PathBuf {
    let beside = tree::root().join("../shared/advisory-db");
    std::env::var_os("ADVISORY_DB").map_or(beside, PathBuf::from)
}

/// Whether the tools are there. If not, it has been said.
fn tools() -> bool {
    let tools = ["cargo-audit", "cargo-deny"].map(tree::tool);
    let needed = [tools[0].to_str(), tools[1].to_str(), Some("git")];
    let needed: Vec<&str> = needed.into_iter().map(|name| name.expect("the checkout's path is text")).collect();
    needs::at_hand(&needed, None)
}

/// The folder with `crates/*/RUSTSEC-*.md`. Not everybody who builds has one, so what needs it is left out where there is none.
fn database() -> Option<PathBuf> {
    let database = place();
    let there = database.join("crates").is_dir();
    if !there {
        println!(
            "no advisory was looked up: there is no local copy of the RustSec database in $ADVISORY_DB or beside the checkout"
        );
    }
    there.then_some(database)
}

/// A copy of the database that more can be put into.
fn copy(database: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-r", "--no-preserve=mode"]).arg(database).arg(to).status();
    assert!(copied.expect("cp can be started").success());
}

/// An advisory that says that every version of `name` is at fault.
fn plant(database: &Path, name: &str) {
    let folder = database.join("crates").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let advisory = format!(
        "```toml\n[advisory]\nid = \"RUSTSEC-2020-9999\"\npackage = \"{name}\"\ndate = \"2020-01-01\"\n\
         [versions]\npatched = []\n```\n\n# Planted\n\nTo be found.\n"
    );
    std::fs::write(folder.join("RUSTSEC-2020-9999.md"), advisory).unwrap();
}

/// What a tool said, and whether it had nothing to complain of.
fn run(command: &mut Command) -> (bool, String) {
    let done = command.output().expect("the tool can be started");
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said)
}

fn audit(database: &Path, lockfile: &Path) -> (bool, String) {
    run(Command::new(tree::tool("cargo-audit"))
        .args(["audit", "--no-fetch", "--stale", "--deny", "warnings", "--db"])
        .arg(database)
        .arg("--file")
        .arg(lockfile))
}

/// `cargo deny` with the rules of deny.toml. It takes the database from a repository, so one is made of the copy.
fn cargo_deny(place: &Path, database: Option<&Path>, manifest: &Path, checks: &[&str]) -> Command {
    let repository = place.join(DENY_CALLS_IT);
    if let Some(database) = database
        && !repository.exists()
    {
        copy(database, &repository);
        let git = |arguments: &[&str]| {
            let name = ["-c", "user.name=copy", "-c", "user.email=copy", "-c", "commit.gpgsign=false"];
            let done = Command::new("git").args(name).args(arguments).current_dir(&repository).output().unwrap();
            assert!(done.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        git(&["init", "--quiet"]);
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "--message", "copy"]);
    }
    let rules = std::fs::read_to_string(tree::root().join("deny.toml")).unwrap();
    let found_at = format!("[advisories]\ndb-path = {:?}\n", place.to_str().expect("a path of ours is text"));
    assert!(rules.contains("[advisories]\n"), "deny.toml has rules for advisories");
    let rules_there = place.join("deny.toml");
    std::fs::write(&rules_there, rules.replace("[advisories]\n", &found_at)).unwrap();
    let mut command = Command::new(tree::tool("cargo-deny"));
    command.current_dir(tree::root()).args(["--offline", "--locked", "--manifest-path"]).arg(manifest);
    command.arg("--config").arg(&rules_there).arg("check").args(checks);
    command
}

/// Days since 1970 of a date.
fn day(date: &str) -> Option<i64> {
    let mut parts = date.split('-').map(str::parse::<i64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    // Years that begin in March, so that the odd day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    Some(365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468)
}

/// When the newest advisory was written: the copy is at least as old as that.
fn newest(database: &Path) -> String {
    let folders = database.join("crates").read_dir().unwrap().map(|folder| folder.unwrap().path());
    let files = folders.filter(|path| path.is_dir()).flat_map(|folder| folder.read_dir().unwrap());
    let dates = files.filter_map(|file| {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("date = \""))?;
        Some(line.trim_end_matches('"').to_owned())
    });
    dates.max().expect("a database has advisories")
}

#[test]
fn no_dependency_has_a_known_fault_or_a_strange_licence_or_origin_p_01() {
    if !tools() {
        return;
    }
    let database = database();
    let mut checks = vec!["bans", "licenses", "sources"];
    if let Some(database) = &database {
        checks.insert(0, "advisories");
        let newest = newest(database);
        let today = i64::try_from(SystemClock::shared().wall().millis() / 86_400_000).unwrap();
        let days = today - day(&newest).expect("advisories have dates");
        println!("the newest advisory is of {newest}, {days} days ago");
        if days > FRESH_FOR_DAYS {
            println!(
                "WARNING: this copy of the database is older than {FRESH_FOR_DAYS} days: fetch a new one before a release"
            );
        }
        let (is_clean, said) = audit(database, &tree::root().join("Cargo.lock"));
        assert!(is_clean, "cargo audit:\n{said}");
    }
    let place = tempfile::tempdir().unwrap();
    let manifest = tree::root().join("Cargo.toml");
    let (is_clean, said) = run(&mut cargo_deny(place.path(), database.as_deref(), &manifest, &checks));
    assert!(is_clean, "cargo deny:\n{said}");
    let summary = checks.iter().map(|check| format!("{check} ok")).collect::<Vec<_>>().join(", ");
    assert!(said.contains(&summary), "cargo deny looked at something else:\n{said}");
}

#[test]
fn a_dependency_with_a_known_fault_is_found_p_01() {
    if !tools() {
        return;
    }
    let Some(database) = database() else { return };
    let place = tempfile::tempdir().unwrap();
    // One of long ago, by name and version alone.
    let old = place.path().join("Cargo.lock");
    let package = |name, version| {
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"{registry}\"\n")
    };
    std::fs::write(&old, format!("version = 4\n\n{}", package("h2", "0.4.3"))).unwrap();
    let (is_clean, said) = audit(&database, &old);
    assert!(!is_clean && said.contains("RUSTSEC-2024-0332"), "cargo audit did not find h2 0.4.3 at fault:\n{said}");
    std::fs::write(&old, format!("version = 4\n\n{}", package("h2", "999.0.0"))).unwrap();
    let (is_clean, said) = audit(&database, &old);
    assert!(is_clean, "{said}");

    // And one that is said to be in what the vault is built from.
    let planted = place.path().join("database");
    copy(&database, &planted);
    plant(&planted, "tokio");
    let (is_clean, said) = audit(&planted, &tree::root().join("Cargo.lock"));
    assert!(!is_clean && said.contains("RUSTSEC-2020-9999"), "cargo audit did not find it:\n{said}");
    let (is_clean, said) =
        run(&mut cargo_deny(place.path(), Some(&planted), &tree::root().join("Cargo.toml"), &["advisories"]));
    assert!(!is_clean && said.contains("RUSTSEC-2020-9999"), "cargo deny did not find it:\n{said}");
}

#[test]
fn a_licence_a_name_or_an_origin_that_is_not_allowed_is_found_p_01() {
    if !tools() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let make = |folder: &str, manifest: &str| {
        let folder = place.path().join(folder);
        std::fs::create_dir_all(folder.join("src")).unwrap();
        std::fs::write(folder.join("src/lib.rs"), "").unwrap();
        let manifest = format!("[package]\nversion = \"1.0.0\"\nedition = \"2024\"\n{manifest}\n[workspace]\n");
        std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        folder.join("Cargo.toml")
    };
    let good = make("good", "name = \"good\"\nlicense = \"MIT\"");
    let strange = make("strange", "name = \"strange\"\nlicense = \"GPL-3.0-only\"");
    make("other", "name = \"native-tls\"\nlicense = \"MIT\"");
    let named =
        make("named", "name = \"named\"\nlicense = \"MIT\"\n[dependencies]\nnative-tls = { path = \"../other\" }");
    // A repository in the folder of another, as an origin of its own.
    let origin = place.path().join("origin");
    let git = |arguments: &[&str]| {
        let name = ["-c", "user.name=x", "-c", "user.email=x", "-c", "commit.gpgsign=false"];
        assert!(Command::new("git").args(name).args(arguments).current_dir(&origin).status().unwrap().success());
    };
    make("origin", "name = \"origin\"\nlicense = \"MIT\"");
    git(&["init", "--quiet"]);
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "--message", "x"]);
    let fetched = format!(
        "name = \"fetched\"\nlicense = \"MIT\"\n[dependencies]\norigin = {{ git = \"file://{}\" }}",
        origin.display()
    );
    let fetched = make("fetched", &fetched);
    // What is fetched goes into a home of its own.
    let home = place.path().join("home");
    for (manifest, check, expected) in [
        (&good, "licenses", None),
        (&good, "bans", None),
        (&good, "sources", None),
        (&strange, "licenses", Some("GPL-3.0-only")),
        (&named, "bans", Some("one TLS library")),
        (&fetched, "sources", Some("origin")),
    ] {
        let locked = Command::new(env!("CARGO"))
            .env("CARGO_HOME", &home)
            .args(["generate-lockfile", "--quiet", "--manifest-path"])
            .arg(manifest)
            .output()
            .unwrap();
        assert!(locked.status.success(), "{}", String::from_utf8_lossy(&locked.stderr));
        let (is_clean, said) = run(cargo_deny(place.path(), None, manifest, &[check]).env("CARGO_HOME", &home));
        match expected {
            None => assert!(is_clean, "{}: {said}", manifest.display()),
            Some(word) => assert!(!is_clean && said.contains(word), "{}: {said}", manifest.display()),
        }
    }
}

#[test]
fn ages_are_counted_in_days_p_01() {
    assert_eq!(day("1970-01-01"), Some(0));
    assert_eq!(day("2000-03-01").unwrap() - day("2000-02-28").unwrap(), 2);
    assert_eq!(day("2026-03-01").unwrap() - day("2026-02-28").unwrap(), 1);
    assert_eq!(day("2026-11-22"), Some(20_779));
    assert_eq!(day("yesterday"), None);
}
