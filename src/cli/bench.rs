//! `cloakroom bench`: the figures of this machine.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::{Exit, Format, variables};
use crate::bench::{self, AuditSettings, Settings};
use crate::config::Config;

/// Measure a vault on this machine, against a gRPC echo behind the same door.
///
/// Makes a vault of its own in a temporary directory and removes it at the end; no other vault is touched. It takes four
/// to six minutes and some gigabytes of disk, and wants the machine for itself.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Options {
    /// Under a minute instead: shorter and fewer rounds. What --rounds and --seconds say comes first.
    #[arg(long)]
    quick: bool,
    /// How often everything is measured; the table has medians.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// How long one server is measured at one setting.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Where the temporary directory is made: the disk that is measured. By default the system's place for such.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// How many tokens the vault holds when the measuring begins.
    #[arg(long, value_name = "NUMBER")]
    tokens: Option<usize>,
    /// Only these calls: tokenize, tokenize-1, tokenize-100, detokenize, detokenize-1, detokenize-100, detokenize-old;
    /// latency, latency-1 or latency-100 for calls at a steady rate.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// A table, or everything with all rounds.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Write everything with all rounds to this file besides.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What `bench` measures besides calls, and what it starts besides a vault.
#[derive(clap::Subcommand)]
enum Command {
    Audit(AuditOptions),
    /// Serve the echo.
    #[command(hide = true)]
    ServeFloor(super::ConfigFile),
}

/// Measure the log: questions and proofs on a log of a million events, and what its tree costs a call.
///
/// Makes a vault of its own in a temporary directory and removes it at the end. It takes about two minutes and a gigabyte of
/// disk, and wants the machine for itself.
#[derive(clap::Args)]
struct AuditOptions {
    /// A hundred thousand events and shorter rounds. What --events and --seconds say comes first.
    #[arg(long)]
    quick: bool,
    /// Events in the log before the first question.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1000..))]
    events: Option<u32>,
    /// How long each kind of question is asked.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Where the temporary directory is made: the disk that is measured. By default the system's place for such.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// A table, or everything as JSON.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    match &options.command {
        Some(Command::ServeFloor(serve)) => {
            bench::serve_floor(&Config::load(&serve.config, variables())?)?;
            return Ok(Exit::Done);
        }
        Some(Command::Audit(options)) => {
            let report = bench::run_audit(&options.settings(), &mut super::note)?;
            match options.output {
                Format::Text => write!(output, "{report}"),
                Format::Json => writeln!(output, "{}", encoded(&report)?),
            }
            .context("cannot write to standard output")?;
            return Ok(Exit::Done);
        }
        None => {}
    }
    // Opened first: a wrong name should not come up after minutes.
    let json = options.json.as_ref().map(|path| {
        File::create(path).with_context(|| format!("cannot write {}", path.display())).map(|file| (path, file))
    });
    let json = json.transpose()?;
    let report = bench::run(&options.settings(), &mut super::note)?;
    match options.output {
        Format::Text => write!(output, "{report}"),
        Format::Json => writeln!(output, "{}", encoded(&report)?),
    }
    .context("cannot write to standard output")?;
    if let Some((path, mut file)) = json {
        writeln!(file, "{}", encoded(&report)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Exit::Done)
}

impl Options {
    fn settings(&self) -> Settings {
        let directory = self.directory.clone().unwrap_or_else(std::env::temp_dir);
        let mut settings = if self.quick { Settings::quick(directory) } else { Settings::full(directory) };
        if let Some(rounds) = self.rounds {
            settings.rounds = rounds.into();
        }
        if let Some(seconds) = self.seconds {
            settings.seconds = seconds;
        }
        if let Some(tokens) = self.tokens {
            settings.tokens = tokens;
        }
        settings.only.clone_from(&self.only);
        settings
    }
}

impl AuditOptions {
    fn settings(&self) -> AuditSettings {
        let directory = self.directory.clone().unwrap_or_else(std::env::temp_dir);
        let mut settings = if self.quick { AuditSettings::quick(directory) } else { AuditSettings::full(directory) };
        if let Some(events) = self.events {
            settings.events = usize::try_from(events).unwrap_or(usize::MAX);
        }
        if let Some(seconds) = self.seconds {
            settings.seconds = seconds;
        }
        settings
    }
}

fn encoded(report: &impl serde::Serialize) -> anyhow::Result<String> {
    serde_json::to_string_pretty(report).context("cannot write the report as JSON")
}

/// At least so long that something is measured, and not for ever.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("give a number of seconds from 0.05 to 600".to_owned()),
    }
}
