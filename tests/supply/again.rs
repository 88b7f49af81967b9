//! A release that is made twice, in other places, at another time and by another user: `deploy/release` gives the same bytes.

use super::{bill, needs, tree};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where one builder works, and what it makes.
struct Builder {
    home: PathBuf,
    cargo: PathBuf,
    checkout: PathBuf,
    target: PathBuf,
    out: PathBuf,
}

impl Builder {
    /// With a copy of the checkout as it is, and what cargo has fetched, where it is or in another place.
    fn at(place: &Path, checkout: &str, fetches_anew: bool) -> Self {
        let [home, target, out] = ["home", "target", "out"].map(|name| place.join(name));
        let checkout = place.join(checkout);
        for folder in [&home, &checkout] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let files = "git ls-files --cached --others --exclude-standard -z | tar --create --null --files-from - --file - | \
                     tar --extract --file - --directory";
        shell(&format!("{files} '{}'", checkout.display()), tree::root());
        let mut cargo = std::env::var_os("CARGO_HOME")
            .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"), PathBuf::from);
        if fetches_anew {
            let (from, to) = (cargo.display(), place.join("cargo"));
            let to = to.display();
            shell(
                &format!(
                    "mkdir '{to}'; cp -al '{from}/registry' '{to}/' 2>/dev/null || cp -a '{from}/registry' '{to}/'"
                ),
                place,
            );
            shell(&format!("cp -a '{from}'/config.toml '{to}/' 2>/dev/null || true"), place);
            cargo = place.join("cargo");
        }
        Self { home, cargo, checkout, target, out }
    }

    /// Runs `deploy/release` by `command`, which may put something in front of it.
    fn build(&self, mut command: Command, name: &str, profile: &str) {
        let done = command
            .arg(self.checkout.join("deploy/release"))
            .arg(&self.out)
            .env("PROFILE", profile)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env("RELEASE_TOOLS", tree::root().join("target/tools"))
            .env("RUSTUP_HOME", rustup())
            .env("CARGO_HOME", &self.cargo)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("HOME", &self.home)
            .env("USER", name)
            .env("LOGNAME", name)
            .output()
            .expect("it can be started");
        let said = String::from_utf8_lossy(&done.stderr);
        let last: Vec<&str> = said.lines().rev().take(30).collect();
        assert!(done.status.success(), "{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        // What was compiled is as large as everything else here together.
        std::fs::remove_dir_all(&self.target).unwrap();
    }

    /// The paths that must not be in what it makes.
    fn places(&self) -> [&Path; 4] {
        [&self.home, &self.cargo, &self.checkout, &self.target]
    }

    fn made(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.out.join(name)).unwrap()
    }
}

fn shell(line: &str, place: &Path) {
    assert!(Command::new("bash").args(["-ec", line]).current_dir(place).status().unwrap().success(), "{line}");
}

/// Where the compilers are that run this: they are found through the home otherwise, which is another one there.
fn rustup() -> PathBuf {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    std::env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from)
}

/// Where two files differ, as far as it helps to find out why.
fn difference(name: &str, one: &[u8], other: &[u8]) -> Option<String> {
    if one == other {
        return None;
    }
    let at = one.iter().zip(other).position(|(one, other)| one != other).unwrap_or(one.len().min(other.len()));
    let mut said = format!("{name} differs: {} and {} bytes, first at {at:#x}", one.len(), other.len());
    if let Some(section) = section_at(one, at) {
        write!(said, ", in the section {section}").expect("a text can be written to");
    }
    for bytes in [one, other] {
        let around = &bytes[at.saturating_sub(60).min(bytes.len())..(at + 100).min(bytes.len())];
        let around: String =
            around.iter().map(|byte| if (32..127).contains(byte) { char::from(*byte) } else { '.' }).collect();
        write!(said, "\n    {around}").expect("a text can be written to");
    }
    let texts = |bytes: &[u8]| -> BTreeSet<String> {
        let printable = bytes.split(|byte| !(32..127).contains(byte)).filter(|text| text.len() >= 8);
        printable.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    };
    let (one, other) = (texts(one), texts(other));
    for (sign, text) in one
        .difference(&other)
        .take(10)
        .map(|text| ('-', text))
        .chain(other.difference(&one).take(10).map(|text| ('+', text)))
    {
        write!(said, "\n    {sign} {text}").expect("a text can be written to");
    }
    Some(said)
}

/// The section of an ELF file of 64 bits in which an offset lies.
fn section_at(elf: &[u8], at: usize) -> Option<String> {
    let number = |from: usize, bytes: usize| -> Option<usize> {
        let bytes = elf.get(from..from + bytes)?;
        usize::try_from(bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))).ok()
    };
    if !elf.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let (table, size, count, names) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?, number(0x3e, 2)?);
    let names = number(table + size * names + 0x18, 8)?;
    (0..count).find_map(|section| {
        let header = table + size * section;
        let (name, kind) = (number(header, 4)?, number(header + 4, 4)?);
        let (offset, length) = (number(header + 0x18, 8)?, number(header + 0x20, 8)?);
        // A section without content in the file is in no place of it.
        let is_it = kind != 8 && (offset..offset + length).contains(&at);
        let text = elf.get(names + name..)?.split(|byte| *byte == 0).next()?;
        is_it.then(|| String::from_utf8_lossy(text).into_owned())
    })
}

/// Which of the places is told of in a file.
fn told<'a>(places: &[&'a Path], file: &[u8]) -> Vec<&'a Path> {
    let is_in = |place: &Path| {
        let place = regex::escape(place.to_str().expect("a path of ours is text"));
        regex::bytes::Regex::new(&place).expect("escaped").is_match(file)
    };
    places.iter().copied().filter(|place| is_in(place)).collect()
}

/// Two builders with nothing in common but source and compilers. The second is minutes later: a time that gets in is another one
/// then. A day that gets in would not be, so it is looked for. `RELEASE_PROFILE=dist` takes the profile of a release, which is
/// built for longer.
#[test]
#[ignore = "alone: builds everything twice, half an hour on two cores (make reproducible)"]
fn a_release_is_the_same_whoever_builds_it_where_and_when_p_03_p_04() {
    if !needs::met(&["git", "unshare"]) {
        return;
    }
    let profile = std::env::var("RELEASE_PROFILE").unwrap_or_else(|_| "again".to_owned());
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Both copies are made before anything is built: somebody may go on working in this checkout.
    let one = Builder::at(&place.path().join("one"), "cloakroom", false);
    let other = Builder::at(&place.path().join("another/with/a/longer/name"), "source/checked-out", true);
    one.build(Command::new("bash"), "one", &profile);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=12345", "--map-group=12345", "bash"]);
    command
        .env("TZ", "Pacific/Auckland")
        .env("LANG", "tr_TR.UTF-8")
        .env("TMPDIR", place.path())
        .env("MAKEFLAGS", "-j3");
    other.build(command, "another", &profile);

    // As compilers write it.
    let today = Command::new("date").args(["+%b %e %Y"]).env("LC_ALL", "C").output().unwrap();
    let today = String::from_utf8_lossy(&today.stdout).trim().to_owned();
    let mut found = Vec::new();
    for name in ["cloakroom", "cloakroom.cdx.json", "SHA256SUMS"] {
        let (made, again) = (one.made(name), other.made(name));
        println!("{name}: {} bytes", made.len());
        found.extend(difference(name, &made, &again));
        let places: Vec<&Path> = one.places().into_iter().chain(other.places()).chain([tree::root()]).collect();
        for told in told(&places, &made).into_iter().chain(told(&places, &again)) {
            found.push(format!("{name} tells of {}", told.display()));
        }
        found.extend(told(&[Path::new(&today)], &made).iter().map(|day| format!("{name} tells of {}", day.display())));
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    println!("profile {profile}: {}", String::from_utf8_lossy(&one.made("SHA256SUMS")).trim());

    let bill: Value = serde_json::from_slice(&one.made("cloakroom.cdx.json")).unwrap();
    let differences = bill::differences(&bill, &tree::locked(&tree::lockfile()), &tree::packages());
    assert!(differences.is_empty(), "\n{}\n", differences.join("\n"));
    let (is_valid, said) = bill::validate(&bill, place.path()).expect("the tools are there");
    assert!(is_valid, "{said}");
    carries_its_list(&one.out.join("cloakroom"), &bill);
    let starts = Command::new(one.out.join("cloakroom")).arg("--version").output().unwrap();
    assert!(starts.status.success(), "{}", String::from_utf8_lossy(&starts.stderr));
}

/// The program itself says what it is made of, and that is what the bill says.
fn carries_its_list(program: &Path, bill: &Value) {
    let done = Command::new(tree::tool("python3"))
        .arg(tree::root().join("tests/supply/read_back.py"))
        .arg("program")
        .arg(program)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let carried: Value = serde_json::from_slice(&done.stdout).unwrap();
    let pairs = |list: &Value| -> BTreeSet<(String, String)> {
        let list = list.as_array().expect("a list");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        list.iter().map(|one| (text(&one["name"]), text(&one["version"]))).collect()
    };
    let carried = pairs(&carried["packages"]);
    let mut listed = pairs(&bill["components"]);
    listed.insert(("cloakroom".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    let (only, missing): (Vec<_>, Vec<_>) =
        (carried.difference(&listed).collect(), listed.difference(&carried).collect());
    assert!(only.is_empty() && missing.is_empty(), "only in the program: {only:?}; only in the bill: {missing:?}");
    println!("the program carries the list of its {} packages", carried.len());
    let done = Command::new(tree::tool("cargo-audit"))
        .args(["audit", "--no-fetch", "--stale", "--db"])
        .arg(super::advisories::place())
        .arg("bin")
        .arg(program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("cargo auditable"), "{said}");
}

#[test]
fn what_differs_between_two_builds_is_found_p_03() {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(difference("it", &program, &program), None);
    // Somewhere in the middle, in a text that is certain to be there.
    // As it is, and not taken apart by the compiler into what it is compared with.
    let text = std::hint::black_box(&b"what is certain to be in this very program"[..]);
    let at = program.windows(text.len()).position(|bytes| bytes == text).expect("it is in this program");
    let mut other = program.clone();
    other[at] = b'W';
    let said = difference("it", &program, &other).expect("they differ");
    assert!(said.contains(&format!("first at {at:#x}, in the section .")), "{said}");
    assert!(said.contains("+ ") && said.contains("What is certain"), "{said}");
    other = program.clone();
    other.push(0);
    assert!(difference("it", &program, &other).expect("one is longer").contains(&format!("{:#x}", program.len())));
    let place = Path::new("what is certain to be in this very");
    assert_eq!(told(&[place, Path::new("/no/such/place at all")], &program[at..at + 60]), [place]);
}
