//! Everything that the start looks at before it opens anything, looked at without opening anything.

use super::room::Disks;
use super::{Error, door, identity, log_key, rocks_config, root_key, rulebook, sinks, witness};
use crate::config::{self, Config};
use crate::file;
use crate::ledger::{CheckpointDirectory, LogKeys};
use crate::store::OpenError;
use crate::tls::{self, ServerIdentity, SetupError};
use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::{Flock, FlockType};
use std::path::Path;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is as it should be.
    pub verdict: Verdict,
    /// What was looked at, in a word or two.
    pub subject: String,
    /// What was seen there.
    pub seen: String,
    /// What to do about it. Empty where there is nothing to do.
    pub advice: String,
}

/// Whether a thing is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is.
    Ok,
    /// It works, but somebody should know.
    Warn,
    /// It does not work, or must not stay so.
    Bad,
}

/// Whether a process has the data directory open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// Nobody.
    Free,
    /// The process of this number; 0 if it lives in another namespace.
    By(i32),
}

/// Looks at configuration, rulebook, keys, certificates, revocation lists, checkpoint and data directory. Each is looked at
/// however the others are. Nothing is opened for writing, and no address is bound, so a running vault does not notice.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("configuration", format!("{}", config.file.display()))];
    findings.extend(check_rulebook(config));
    let config::RootKey::File { path } = &config.root_key;
    findings.extend(judged("root key", path.display(), root_key(config).map(drop)));
    let key = log_key(config);
    let path = config.audit.signing_key.display();
    findings.extend(match &key {
        Ok(key) => vec![Finding::ok("log key", format!("{path}, of the log {}", key.name()))],
        Err(error) => mistakes("log key", error),
    });
    findings.extend(check_certificates(config));
    let key = key.ok();
    findings.push(check_checkpoints(config, key.as_ref()));
    findings.extend(config.audit.checkpoints_copy.as_deref().map(|path| check_copy(path, key.as_ref())));
    findings.extend(check_sinks(config, key.as_ref()));
    findings.extend(check_witnesses(config));
    findings.push(check_room(config));
    findings.push(check_data(&config.storage.path));
    findings
}

/// One finding for each mistake of `error`, which came up at `subject`.
pub fn mistakes(subject: &str, error: &Error) -> Vec<Finding> {
    match error {
        Error::Rulebook(errors) => {
            let finding = |mistake: &crate::policy::Mistake| {
                Finding::bad(subject, format!("{}: {}", mistake.place, mistake.what), mistake.hint.clone())
            };
            errors.mistakes().iter().map(finding).collect()
        }
        other => vec![Finding::bad(subject, other.to_string(), "")],
    }
}

/// One finding for each mistake of the configuration.
pub fn config_mistakes(subject: &str, error: &config::Error) -> Vec<Finding> {
    match error {
        config::Error::Mistakes(mistakes) => {
            mistakes.iter().map(|mistake| Finding::bad(subject, mistake.to_string(), "")).collect()
        }
        config::Error::Unreadable { .. } => vec![Finding::bad(subject, error.to_string(), "")],
    }
}

/// Whether a process has the data in `directory` open. `None` if there is no data, or that can't be seen.
pub fn in_use(directory: &Path) -> Option<InUse> {
    // RocksDB's own lock. It is only asked for: taking it, even for a moment, would keep a vault from starting.
    let file = file::open(&directory.join("LOCK")).ok()??;
    let held = rustix::process::fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok()?;
    Some(held.map_or(InUse::Free, |lock| InUse::By(lock.pid.map_or(0, |pid| pid.as_raw_nonzero().get()))))
}

fn check_rulebook(config: &Config) -> Vec<Finding> {
    match rulebook::load(config) {
        Err(error) => mistakes("rulebook", &error),
        Ok(rulebook) => {
            let scopes = rulebook.scopes().iter().count();
            let seen = format!(
                "{scopes} scopes, {} roles, policies in {}, digest {}",
                config.roles.len(),
                config.policies.directory.display(),
                hex::encode(rulebook.digest())
            );
            let warnings = rulebook.warnings().iter().map(|warning| Finding::warn("rulebook", warning.to_string(), ""));
            std::iter::once(Finding::ok("rulebook", seen)).chain(warnings).collect()
        }
    }
}

fn check_certificates(config: &Config) -> Vec<Finding> {
    let server = &config.server;
    let own = ServerIdentity::load(&server.certificate, &server.private_key).map_err(Error::from);
    let good = own.is_ok();
    let mut findings = judged("certificate", server.certificate.display(), own.map(drop));
    findings.extend(certificate_doubts(config));
    findings.extend(identity(config).err().map(|error| Finding::bad("trust domain", error.to_string(), "")));
    for domain in config.trust_domains.iter().filter(|_| good) {
        // The door is made for each domain alone, so that each one's mistakes are found.
        let alone = Config { trust_domains: vec![domain.clone()], ..config.clone() };
        let made = tls::build_server_config(&door::settings(&alone)).map_err(Error::from);
        let lists = match domain.crls.len() {
            0 => "no revocation lists".to_owned(),
            lists => format!("{lists} revocation lists"),
        };
        let seen = format!("{}, {}, {lists}", domain.name, domain.bundle.display());
        findings.extend(judged("trust domain", seen, made.map(drop)));
    }
    findings
}

/// Why clients might refuse the vault, though it can serve.
pub fn certificate_doubts(config: &Config) -> Vec<Finding> {
    let server = &config.server;
    let doubts = door::doubts(config).into_iter();
    let finding = |doubt| Finding::warn("certificate", format!("{}: {doubt}", server.certificate.display()), "");
    doubts.map(finding).collect()
}

/// Bundles with which nobody is let in.
pub fn bundle_mistakes(config: &Config) -> Vec<Finding> {
    let domains = config.trust_domains.iter();
    domains
        .filter_map(|domain| match tls::check_bundle(&domain.name, &domain.bundle) {
            Err(error @ SetupError::NotAnAuthority { .. }) => {
                Some(Finding::bad(&format!("authority of {}", domain.name), error.to_string(), ""))
            }
            _ => None,
        })
        .collect()
}

fn check_checkpoints(config: &Config, key: Option<&crate::merkle::note::LogKey>) -> Finding {
    const SUBJECT: &str = "checkpoint";
    let path = &config.audit.checkpoints;
    if let Err(error) = rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK) {
        let seen = format!("{}: {error}", path.display());
        return Finding::bad(
            SUBJECT,
            seen,
            advice(error, "see that the directory audit.checkpoints exists and is writable"),
        );
    }
    let directory = CheckpointDirectory::new(path);
    let file = directory.file();
    let Some(key) = key else {
        return Finding::warn(SUBJECT, format!("{}: not looked at without the log key", file.display()), "");
    };
    match directory.newest(&LogKeys::of(key.verifier())) {
        Ok(Some(_)) => Finding::ok(SUBJECT, format!("{}, signed by the log key", file.display())),
        Ok(None) => Finding::bad(
            SUBJECT,
            format!("there is no checkpoint in {}, so nothing vouches that the log is whole", path.display()),
            "put the file back, or correct audit.checkpoints",
        ),
        Err(error) => Finding::bad(SUBJECT, error.to_string(), ""),
    }
}

/// A start goes on without what the second directory may hold, but not if it is of another log or was changed.
fn check_copy(path: &Path, key: Option<&crate::merkle::note::LogKey>) -> Finding {
    const SUBJECT: &str = "checkpoint copy";
    if let Err(error) = rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK) {
        let seen = format!("{}: {error}", path.display());
        let otherwise = "make or mount the directory audit.checkpoints_copy, and let this user write there";
        return Finding::bad(SUBJECT, seen, advice(error, otherwise));
    }
    let directory = CheckpointDirectory::new(path);
    let file = directory.file();
    let Some(key) = key else {
        return Finding::warn(SUBJECT, format!("{}: not looked at without the log key", file.display()), "");
    };
    match directory.newest(&LogKeys::of(key.verifier())) {
        Ok(Some(_)) => Finding::ok(SUBJECT, format!("{}, signed by the log key", file.display())),
        Ok(None) => Finding::ok(SUBJECT, format!("none in {} yet", path.display())),
        Err(error) => Finding::bad(SUBJECT, error.to_string(), ""),
    }
}

/// Nobody is asked: a checkpoint that is sent to a witness is a statement.
fn check_witnesses(config: &Config) -> Vec<Finding> {
    let made = |one: &config::Witness| {
        let seen = format!("{} at {}, not asked", one.key.name(), one.url);
        judged("witness", seen, witness::member(one).map(drop).map_err(Error::from))
    };
    config.audit.witnesses.iter().flat_map(made).collect()
}

fn check_sinks(config: &Config, key: Option<&crate::merkle::note::LogKey>) -> Vec<Finding> {
    const SUBJECT: &str = "sink";
    let mut findings = Vec::new();
    for sink in &config.audit.sinks {
        match sinks::look(config, sink, key.map(|key| key.name().as_str())) {
            Ok(seen) if sinks::is_open(sink) => {
                let advice = "events name callers and tokens' handles: use https, with `ca`";
                findings.push(Finding::warn(SUBJECT, format!("{seen}, not encrypted"), advice));
            }
            Ok(seen) => findings.push(Finding::ok(SUBJECT, seen)),
            Err(error) => findings.push(Finding::bad(SUBJECT, error.to_string(), "")),
        }
    }
    findings
}

/// The start's own question.
fn check_room(config: &Config) -> Finding {
    const SUBJECT: &str = "room";
    let disks = Disks::of(config);
    let opening = rocks_config(config).taken_by_opening();
    match disks.full_at_start(opening) {
        Some(full) => Finding::bad(SUBJECT, full.to_string(), ""),
        None => Finding::ok(SUBJECT, disks.wanted(opening)),
    }
}

/// What to do about a directory that can't be written to.
fn advice(error: Errno, otherwise: &'static str) -> &'static str {
    match error {
        Errno::ROFS => "the file system is mounted read-only: look for the reason (dmesg), and mount it for writing",
        _ => otherwise,
    }
}

fn check_data(path: &Path) -> Finding {
    const SUBJECT: &str = "data";
    let shown = path.display();
    // The file that says which of its others are in force: a database has it from its first moment.
    if let Err(error) = std::fs::metadata(path.join("CURRENT")) {
        if error.kind() != std::io::ErrorKind::NotFound {
            return Finding::bad(SUBJECT, OpenError::refused(path, &error).to_string(), "");
        }
        let seen = format!("no data in {shown}: {error}");
        return Finding::bad(SUBJECT, seen, "run `cloakroom init` for a new vault, or correct storage.path");
    }
    if let Err(error) = rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        let advice = advice(error, "let the vault's user own the directory");
        return Finding::bad(SUBJECT, format!("{shown}: {error}"), advice);
    }
    match in_use(path) {
        Some(InUse::Free) => Finding::ok(SUBJECT, format!("{shown}, not in use")),
        Some(InUse::By(0)) => Finding::ok(SUBJECT, format!("{shown}, in use by a running vault")),
        Some(InUse::By(process)) => Finding::ok(SUBJECT, format!("{shown}, in use by process {process}")),
        None => Finding::warn(SUBJECT, format!("{shown}: whether it is in use can't be seen"), ""),
    }
}

fn judged(subject: &str, seen: impl std::fmt::Display, result: Result<(), Error>) -> Vec<Finding> {
    match result {
        Ok(()) => vec![Finding::ok(subject, seen.to_string())],
        Err(error) => mistakes(subject, &error),
    }
}

impl Finding {
    /// It is as it should be.
    pub fn ok(subject: &str, seen: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, subject: subject.to_owned(), seen: seen.into(), advice: String::new() }
    }

    /// Somebody should know.
    pub fn warn(subject: &str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        let (subject, seen, advice) = (subject.to_owned(), seen.into(), advice.into());
        Self { verdict: Verdict::Warn, subject, seen, advice }
    }

    /// It must not stay so.
    pub fn bad(subject: &str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, ..Self::warn(subject, seen, advice) }
    }
}

impl Verdict {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}
