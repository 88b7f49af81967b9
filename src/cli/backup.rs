//! `cloakroom backup` and `cloakroom restore`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::columns::counted;
use super::terminal::Progress;
use super::{ConfigFile, Exit, Usage, audit, note, stopped_first, variables};
use crate::admin::{BackupError, Manifest};
use crate::config::Config;
use crate::crypto::Handle;
use crate::file;
use crate::server::{self, BackedUp, CopyError};

/// Forty digits a line: a million handles.
const HANDLES_BYTES_AT_MOST: u64 = 64 << 20;

/// Copy the vault's data and checkpoint into DIR, and verify the copy. The vault may run meanwhile.
///
/// Run it on the vault's machine and as its user: the data is only read, and a vault that runs is not asked and not held
/// up. DIR must not exist, or be empty. The copy is of one commit; what was acknowledged before it began is in it. It is
/// read again, opened and checked like by `verify` before manifest.json is written: a directory without that is no
/// backup. Neither the root key nor the log's key is in it. Keep the root key elsewhere: without it a backup is worth
/// nothing.
#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// Where to.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Make a vault from the backup in DIR, where the configuration says and where none is yet.
///
/// The backup is verified first, with the root key. The vault that it makes has the backup's records and keys, and a new
/// log under a new name, whose key it makes: the first event cites the old log's checkpoint. The old log stays in the
/// backup. Tokens with counted uses are suspended, since they may have been used since: nobody is given their values
/// until `restore --accept`. What was revoked since the backup lives again, unless --revoked names it.
#[derive(clap::Args)]
pub(super) struct RestoreOptions {
    #[command(flatten)]
    file: ConfigFile,
    /// The backup.
    #[arg(value_name = "DIR", required_unless_present = "accept", conflicts_with = "accept")]
    directory: Option<PathBuf>,
    /// Handles of tokens that were revoked since, one a line. They are revoked again before anything is served.
    #[arg(long, value_name = "FILE", requires = "directory")]
    revoked: Option<PathBuf>,
    /// Let the tokens that a restore has suspended be used again. The vault must be stopped.
    #[arg(long)]
    accept: bool,
}

/// `verify --backup`.
#[derive(clap::Args)]
pub(super) struct BackupToVerify {
    /// Verify the backup in this directory, not the vault's data: each of its files, its log and its records.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["index", "output"])]
    pub(super) backup: Option<PathBuf>,
    /// Also write the backup's log into this new file, as `audit export` writes it.
    #[arg(long, value_name = "FILE", requires = "backup")]
    log: Option<PathBuf>,
}

pub(super) fn back_up(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let config = Config::load(&options.file.config, variables())?;
    let directory = &options.directory;
    let manifest = shown(|progress| server::back_up(&config, directory, progress))?;
    describe("backup", &manifest, directory, output)?;
    note("cloakroom: the root key is not in it, and without the root key it is worth nothing: keep that elsewhere");
    Ok(Exit::Done)
}

pub(super) fn verify(options: &BackupToVerify, config: &Config, output: &mut impl Write) -> anyhow::Result<Exit> {
    let directory = options.backup.as_deref().unwrap_or(Path::new("."));
    let backup = shown(|progress| server::look_at_backup(config, directory, progress))?;
    describe("ok: backup", backup.manifest(), directory, output)?;
    if let Some(path) = &options.log {
        write_log(&backup, path)?;
    }
    Ok(Exit::Done)
}

pub(super) fn restore(options: &RestoreOptions, output: &mut impl Write) -> anyhow::Result<Exit> {
    let config = Config::load(&options.file.config, variables())?;
    let Some(directory) = &options.directory else {
        let accepted = server::accept_restored(&config).map_err(stopped_first)?;
        writeln!(output, "{} may be used again", counted(accepted, "token")).context(WRITE)?;
        return Ok(Exit::Done);
    };
    let revoked = options.revoked.as_deref().map_or(Ok(BTreeSet::new()), handles)?;
    let named = revoked.len() as u64;
    let restored = shown(|progress| server::restore(&config, directory, &revoked, progress))?;
    describe("restored: backup", &restored.manifest, directory, output)?;
    let (log, key) = (&restored.log_id, restored.public_key.display());
    writeln!(output, "new log    {log}, public key in {key}").context(WRITE)?;
    if named > 0 {
        let (revoked, absent) = (restored.revoked, named - restored.revoked);
        let rest = if absent == 0 { String::new() } else { format!("; {absent} are not in it, or were revoked") };
        writeln!(output, "revoked    {revoked} of {named}{rest}").context(WRITE)?;
    }
    if restored.suspended > 0 {
        let suspended = counted(restored.suspended, "token");
        writeln!(output, "suspended  {suspended} with counted uses, until `cloakroom restore --accept`")
            .context(WRITE)?;
    }
    note("cloakroom: what was revoked since the backup, and is not named by --revoked, lives again");
    Ok(Exit::Done)
}

const WRITE: &str = "cannot write to standard output";

fn describe(what: &str, manifest: &Manifest, directory: &Path, output: &mut impl Write) -> anyhow::Result<()> {
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    let files = counted(manifest.files.len() as u64, "file");
    let (events, records) = (counted(manifest.size, "event"), counted(manifest.records, "record"));
    let Manifest { time, log_id, vouched, .. } = manifest;
    let directory = directory.display();
    writeln!(output, "{what} of {time} in {directory}: {files}, {}, verified", server::bytes_in_words(bytes))
        .context(WRITE)?;
    writeln!(output, "log        {log_id}, {events}, of which its checkpoint vouches for {vouched}").context(WRITE)?;
    writeln!(output, "records    {records}").context(WRITE)
}

/// Runs `work` and shows on a terminal how far it is.
fn shown<T>(work: impl FnOnce(&mut dyn FnMut(&'static str, u64)) -> Result<T, CopyError>) -> anyhow::Result<T> {
    let (mut bytes, mut records) = (Progress::of("MiB"), Progress::of("records"));
    let done = work(&mut |what, count| match what {
        "records" => records.reach(count),
        _ => bytes.reach(count),
    });
    bytes.clear();
    records.clear();
    done.map_err(|error| match error {
        // Its own kind of error says more to the exit status.
        CopyError::Setup(error) => error.into(),
        error @ (CopyError::Taken { .. } | CopyError::Backup(BackupError::NotEmpty(_))) => {
            Usage(error.to_string()).into()
        }
        error => error.into(),
    })
}

/// As far as the backup's checkpoint vouches for it.
fn write_log(backup: &BackedUp, path: &Path) -> anyhow::Result<()> {
    let (rows, checkpoint) = backup.log();
    let events = audit::export_rows(rows, checkpoint, path)?;
    note(&format!("cloakroom: {} written to {}", counted(events, "event"), path.display()));
    let more = backup.manifest().size.saturating_sub(events);
    if more > 0 {
        note(&format!(
            "cloakroom: {} more came after its checkpoint, so none vouches for them",
            counted(more, "event")
        ));
    }
    Ok(())
}

fn handles(path: &Path) -> anyhow::Result<BTreeSet<Handle>> {
    let text = file::read_text(path, HANDLES_BYTES_AT_MOST)
        .map_err(|error| Usage(format!("--revoked {}: {error}", path.display())))?;
    parse_handles(&text).map_err(|error| Usage(format!("--revoked {}: {error}", path.display())).into())
}

fn parse_handles(text: &str) -> anyhow::Result<BTreeSet<Handle>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    // A token that was taken for a handle is not repeated.
    let handle =
        |(place, line): (usize, &str)| line.trim().parse().map_err(|error| anyhow!("line {}: {error}", place + 1));
    lines.map(handle).collect()
}

/// For `src/fuzz`: what is read is read again as it was.
#[cfg(test)]
pub(super) fn check_handles(text: &str) {
    if let Ok(handles) = parse_handles(text) {
        let again: Vec<String> = handles.iter().map(ToString::to_string).collect();
        assert!(parse_handles(&again.join("\n")).is_ok_and(|parsed| parsed == handles));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_place_of_a_handle_is_not_repeated_a_11() {
        let handle = "ab".repeat(20);
        let said = parse_handles(&format!("{handle}\n\npan_x7secretx7\n")).unwrap_err().to_string();
        assert!(said.starts_with("line 3: ") && !said.contains("x7secretx7"), "{said}");
        assert_eq!(parse_handles(&format!(" {handle} \n{handle}\n")).unwrap().len(), 1);
    }
}
