//! What holds of a vault whatever was done to it. [`Invariants::check`] starts one on what a fault has left and looks:
//!
//! 1. everything acknowledged can be read, with the same bytes;
//! 2. every value that left has its event;
//! 3. the log verifies offline, without a gap, against its key and every checkpoint that was ever outside;
//! 4. no value and no token lies in the data directory or in what the vault said;
//! 5. no thread of it has panicked;
//! 6. the records are those that its sums and its log say.

use crate::harness::{Home, Server, program};
use crate::needles::{Found, Needles};
use crate::promises::{Findings, Promises, Stamp};
use crate::verify::try_verify;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Of so many tokens and values it is looked whether they lie somewhere. Each is a search for a hundred pieces of it.
const SECRETS: usize = 24;
/// Where a vault of these tests has the copies of its checkpoints, if it has any.
pub const COPIES: &str = "copies";
/// Shorter ones are found by chance.
const SECRET_AT_LEAST: usize = 12;

/// What is remembered of one vault from one fault to the next, outside of it.
pub struct Invariants {
    /// `notes`: every checkpoint that was found outside the database or given out. Beside it what a check needs.
    folder: tempfile::TempDir,
    /// The log's public key from before it was succeeded by another, if it was.
    trusted: Option<String>,
}

impl Invariants {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("seen-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::create_dir(folder.path().join("notes")).unwrap();
        Self { folder, trusted: None }
    }

    /// Of a log whose key may be succeeded by another meanwhile: this is the text of the first one's `log.vkey`.
    pub fn trusting(key: &str) -> Self {
        Self { trusted: Some(key.to_owned()), ..Self::new() }
    }

    /// Checks what a fault has left of the vault in `home`, which does not run, and starts it with `serve`. Everything that
    /// was answered up to `cut` must be there. The vault that was started runs on.
    ///
    /// # Errors
    /// What the vault said, if it does not start.
    pub async fn check(
        &mut self,
        home: &Home,
        serve: Command,
        promises: &Promises,
        cut: Stamp,
    ) -> Result<(Server, Findings), String> {
        let mut broken = Vec::new();
        self.remember(home);
        self.remember_given(promises, cut);
        check_outside(home, promises, cut, &mut broken);
        check_sums(home, "as it was left", &mut broken);
        let begin = Instant::now();
        let server = Server::launch(home, serve)?;
        let started_in = begin.elapsed();
        let mut findings = promises.check(home, &server, cut).await;
        findings.started_in = started_in;
        findings.broken.append(&mut broken);
        self.check_log(home, &server, &mut findings.broken);
        check_sums(home, "beside the running vault", &mut findings.broken);
        check_files(home, promises, &mut findings.broken);
        Ok((server, findings))
    }

    /// Keeps the newest checkpoint, from wherever one is.
    pub fn remember(&mut self, home: &Home) {
        for name in ["checkpoints", COPIES] {
            if let Ok(note) = std::fs::read_to_string(home.file(name).join("checkpoint")) {
                self.keep(&note);
            }
        }
    }

    /// Keeps the checkpoints that were given to an auditor up to `cut`, too.
    fn remember_given(&self, promises: &Promises, cut: Stamp) {
        for note in promises.notes(cut) {
            self.keep(note);
        }
    }

    fn keep(&self, note: &str) {
        let file = self.notes().join(hex::encode(&Sha256::digest(note)[..16]));
        if !file.exists() {
            std::fs::write(file, note).unwrap();
        }
    }

    fn notes(&self) -> PathBuf {
        self.folder.path().join("notes")
    }

    fn check_log(&self, home: &Home, server: &Server, broken: &mut Vec<String>) {
        let copy = self.folder.path().join("log.jsonl");
        let _ = std::fs::remove_file(&copy);
        let exported = home.cli(server, "auditor", &["audit", "export", &copy.display().to_string()]).output().unwrap();
        if !exported.status.success() {
            broken.push(format!("the log can't be exported: {}", String::from_utf8_lossy(&exported.stderr)));
            return;
        }
        let mut verify = program();
        verify.args(["audit", "verify"]).arg(&copy).arg("--key");
        if let Some(trusted) = &self.trusted {
            let key = self.folder.path().join("log.vkey");
            std::fs::write(&key, trusted).unwrap();
            verify.arg(key);
        } else {
            verify.arg(home.file("log.vkey"));
        }
        let rotations = home.file("checkpoints/rotations");
        if self.trusted.is_some() && rotations.exists() {
            verify.arg("--checkpoint").arg(rotations);
        }
        let verified = verify.arg("--checkpoint").arg(self.notes()).output().unwrap();
        if !verified.status.success() {
            broken.push(format!("the log does not verify: {}", String::from_utf8_lossy(&verified.stdout)));
        }
        let _ = std::fs::remove_file(&copy);
    }
}

/// A checkpoint that was given to somebody stands outside the database, or a newer one does: in each place for them.
pub fn check_outside(home: &Home, promises: &Promises, cut: Stamp, broken: &mut Vec<String>) {
    let given = promises.notes(cut).map(size).max().unwrap_or(0);
    for name in ["checkpoints", COPIES] {
        if name == COPIES && !home.file(COPIES).exists() {
            continue;
        }
        let outside = std::fs::read_to_string(home.file(name).join("checkpoint"));
        let outside = outside.map_or(0, |note| size(&note));
        if outside < given {
            broken.push(format!("a checkpoint of {given} events was given, and the one in {name} is of {outside}"));
        }
    }
}

/// How many events a checkpoint is of: its second line.
fn size(note: &str) -> u64 {
    note.lines().nth(1).and_then(|line| line.parse().ok()).expect("a checkpoint has a size")
}

fn check_sums(home: &Home, when: &str, broken: &mut Vec<String>) {
    match try_verify(home) {
        Ok((true, report)) if report["clean"] == true => {}
        Ok((_, report)) => broken.push(format!("`cloakroom verify`, {when}: {report:#}")),
        Err(said) => broken.push(format!("`cloakroom verify`, {when}: {said}")),
    }
}

/// Nothing that was put in or given out stands in a file, and no file speaks of a panic.
fn check_files(home: &Home, promises: &Promises, broken: &mut Vec<String>) {
    let mut needles = Needles::default();
    let step = (promises.values() / SECRETS).max(1);
    for (handle, value, token) in promises.secrets().step_by(step) {
        if value.len() >= SECRET_AT_LEAST {
            needles.add(&format!("the value of {handle}"), value);
        }
        needles.add(&format!("the token of {handle}"), token.as_bytes());
    }
    let mut found = Found::default();
    for file in files(home.path()) {
        let name = file.display().to_string();
        let Ok(bytes) = std::fs::read(&file) else { continue };
        needles.find(&bytes, &name, &mut found);
        let log = file.extension().is_some_and(|extension| extension == "log") && name.contains("/serve-");
        if log && String::from_utf8_lossy(&bytes).contains("a thread panicked") {
            broken.push(format!("{name} speaks of a panic"));
        }
    }
    broken.extend(found.names);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(self::files(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

// === what the checks can see ===

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_invariant_of_each_kind_is_found() {
    use crate::promises::{Dice, Plan, run};
    let home = Home::init();
    let server = home.serve();
    let plan = Plan { seed: Dice::seed(), callers: 8, calls: 200, stamp: Box::new(|| 0) };
    let promises = run(&home, &server, plan, || {}).await.promises;
    server.stop();
    let mut invariants = Invariants::new();
    let (server, findings) = invariants.check(&home, home.serve_command(), &promises, Stamp::MAX).await.unwrap();
    assert!(findings.broken.is_empty(), "{:#?}", findings.broken);
    assert!(findings.values > 0 && findings.released > 0 && findings.revoked > 0 && findings.limited > 0);
    server.stop();

    // A value in a file, a token in a log, and a panic.
    let (_, value, token) = promises.secrets().find(|(_, value, _)| value.len() >= SECRET_AT_LEAST).unwrap();
    std::fs::write(home.file("data/forgotten"), value).unwrap();
    home.write("serve-1.log", &format!("{token}\nERROR a fault in Cloakroom: a thread panicked."));
    // Another history: the log of a vault of the same name, made from the same keys.
    let other = Home::init();
    std::fs::copy(other.file("log.vkey"), home.file("log.vkey")).unwrap();
    let (_server, findings) = invariants.check(&home, home.serve_command(), &promises, Stamp::MAX).await.unwrap();
    for part in ["the value of", "the token of", "speaks of a panic", "the log does not verify"] {
        assert!(findings.broken.iter().any(|broken| broken.contains(part)), "{part}: {:#?}", findings.broken);
    }
}
