//! The command line as people see it: each page of tests/cli is run as it stands there, and what the program prints is held
//! against what the page shows.
//!
//! A page is Markdown. In its blocks marked `console`, a line that begins with `$ ` is a command for bash, all in one folder
//! that is made for the page; what follows up to the next command is its output, standard output and standard error as they
//! come, after a line `? N` where it ends with a status other than 0 (of a pipeline: the last such one). A page with the line `<!-- a vault serves -->` finds a
//! running vault: `vault/` is what `init` made, and CLOAKROOM_ADDRESS leads there.
//!
//! What is random stands in the pages as `[TOKEN]`, `[HANDLE]`, `[TIME]` and so on; `[..]` is anything on a line and `...`
//! any number of lines. `CLI=overwrite cargo test --release --test cli` writes what the program prints into the pages: read
//! the difference before you keep it, and put `[..]` back where it overwrote one.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use regex::Regex;
use snapbox::{Assert, Data, Redactions};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cloakroom");
const VAULT: &str = "<!-- a vault serves -->";

/// A test for each page, and the list of them.
macro_rules! pages {
    ($($page:ident),* $(,)?) => {
        const PAGES: &[&str] = &[$(stringify!($page)),*];
        $(#[test] fn $page() { run(stringify!($page)); })*
    };
}

pages!(
    usage,
    completions,
    init,
    configuration,
    serve_check,
    policy,
    doctor,
    tokens,
    audit,
    verify,
    records,
    backup,
    terminal,
    unreachable,
    witness
);

#[test]
fn every_page_is_run() {
    let mut found: Vec<String> = folder()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let mut listed = PAGES.to_vec();
    found.sort_unstable();
    listed.sort_unstable();
    assert_eq!(found, listed, "left: files in tests/cli; right: the list in tests/cli.rs");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli")
}

fn run(page: &str) {
    let path = folder().join(format!("{page}.md"));
    let text = std::fs::read_to_string(&path).unwrap();
    let place = Place::make(text.contains(VAULT));
    let printed = place.play(&text);
    Assert::new()
        .action_env("CLI")
        .normalize_paths(false)
        .redact_with(place.redactions())
        .eq(Data::text(printed), Data::read_from(&path, Some(snapbox::data::DataFormat::Text)));
}

/// Where a page is run.
struct Place {
    folder: tempfile::TempDir,
    vault: Option<Vault>,
}

/// A running vault. It is killed when this is dropped.
struct Vault {
    child: Child,
    address: String,
}

impl Place {
    fn make(with_vault: bool) -> Self {
        // On a real file system, since a temporary one may be in memory.
        let folder = tempfile::Builder::new().prefix("cli-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut place = Self { folder, vault: None };
        if with_vault {
            place.vault = Some(place.serve());
        }
        place
    }

    fn serve(&self) -> Vault {
        let made = self.bash("cloakroom init vault").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut command = self.bash("exec cloakroom serve --config vault/cloakroom.toml 2> serve.log");
        command.env("CLOAKROOM_SERVER__LISTEN", "127.0.0.1:0").env("CLOAKROOM_OPERATIONS__LISTEN", "127.0.0.1:0");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        // It ends with the process, so this never waits for a vault that is gone.
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let mut vault = Vault { child, address: String::new() };
        match first.strip_prefix("listening on ") {
            Some(address) => address.trim().clone_into(&mut vault.address),
            None => panic!("{}", std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default()),
        }
        vault
    }

    /// `script`, in the page's folder and an environment that is the same everywhere.
    fn bash(&self, script: &str) -> Command {
        let programs = Path::new(PROGRAM).parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-c", script]).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_clear().env("PATH", format!("{programs}:{path}")).env("LC_ALL", "C.UTF-8");
        if let Some(vault) = &self.vault {
            command.env("CLOAKROOM_ADDRESS", &vault.address);
        }
        command
    }

    /// The page with what the program prints in the place of what the page shows.
    fn play(&self, page: &str) -> String {
        let mut played = String::new();
        let mut console = false;
        for line in page.lines() {
            match line {
                "```console" => console = true,
                "```" => console = false,
                _ => {}
            }
            let command = line.strip_prefix("$ ").filter(|_| console);
            if command.is_some() || !console || line == "```console" {
                played.push_str(line);
                played.push('\n');
            }
            if let Some(command) = command {
                played.push_str(&self.print(command));
            }
        }
        played
    }

    /// What a command prints, its status in front.
    fn print(&self, command: &str) -> String {
        let output = self.bash(&format!("set -o pipefail\n{{ {command}\n}} 2>&1")).output().unwrap();
        let mut printed = String::new();
        match output.status.code() {
            Some(0) => {}
            Some(status) => writeln!(printed, "? {status}").unwrap(),
            None => writeln!(printed, "? killed").unwrap(),
        }
        printed.push_str(&String::from_utf8_lossy(&output.stdout));
        if !printed.is_empty() && !printed.ends_with('\n') {
            printed.push('\n');
        }
        printed
    }

    fn redactions(&self) -> Redactions {
        let mut redactions = Redactions::new();
        redactions.insert("[FOLDER]", self.folder.path().display().to_string()).unwrap();
        for (placeholder, expression) in [
            ("[TOKEN]", r"\b(?:pan|ssn|email)_[0-9A-Za-z]{33}\b"),
            ("[HANDLE]", r"\b[0-9a-f]{40}\b"),
            ("[SALT]", r"\b[0-9a-f]{32}\b"),
            ("[DIGEST]", r"\b[0-9a-f]{64}\b"),
            ("[TIME]", r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"),
            ("[LOG]", r"\bdev\.cloakroom\.internal/log/[0-9a-f]{8}\b"),
            ("[ADDRESS]", r"\b127\.0\.0\.1:(?:[1-6]\d{4})\b"),
            ("[KEY]", r"\bkey (?<redacted>[0-9a-f]{8})\b"),
            ("[PROCESS]", r"\bprocess (?<redacted>\d+)\b"),
        ] {
            redactions.insert(placeholder, Regex::new(expression).unwrap()).unwrap();
        }
        let version = format!(r"\bcloakroom (?<redacted>{})\b", env!("CARGO_PKG_VERSION").replace('.', r"\."));
        redactions.insert("[VERSION]", Regex::new(&version).unwrap()).unwrap();
        redactions
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
