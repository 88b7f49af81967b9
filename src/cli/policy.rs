//! `policy`: access policy as code. What is wrong with it, who may do what and why, whether it does what was promised, and
//! what a change of it would change.
//!
//! None of these needs the vault's keys or data: a configuration and its policies are enough. All of them decide with the
//! code that decides real calls.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::{Exit, Usage, variables};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::policy::{Place, Rulebook};
use crate::server;

mod check;
pub(super) mod diff;
mod expect;
mod explain;
mod table;

/// Check, explain, test and compare policies.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Check(check::Options),
    Explain(explain::Options),
    Test(expect::Options),
    Diff(diff::Options),
}

/// Where scopes, roles and policies are.
#[derive(clap::Args)]
struct Rules {
    /// The configuration file that names scopes, roles and the policies' directory.
    #[arg(long, env = "CLOAKROOM_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(command: Command, output: &mut impl Write) -> anyhow::Result<Exit> {
    match command {
        Command::Check(options) => check::run(&options, output),
        Command::Explain(options) => explain::run(&options, output),
        Command::Test(options) => expect::run(&options, output),
        Command::Diff(options) => diff::run(options, output),
    }
}

impl Rules {
    fn configuration(&self) -> anyhow::Result<Config> {
        Ok(Config::load(&self.config, variables())?)
    }

    fn rulebook(&self) -> anyhow::Result<Rulebook> {
        Ok(server::load_rulebook(&self.configuration()?)?)
    }
}

/// One JSON object on a line of its own.
fn write_json(output: &mut impl Write, object: &serde_json::Value) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *output, object).map_err(std::io::Error::from).context("cannot write the output")?;
    writeln!(output).context("cannot write the output")
}

/// Adds file, line and column to a JSON object, as far as they are known.
fn put_place(object: &mut serde_json::Value, place: &Place) {
    let key = match place {
        Place::Setting(key) | Place::Configured { key, .. } => Some(key.as_str()),
        Place::File(_) | Place::Line { .. } => None,
    };
    let column = if let Place::Line { column, .. } = place { Some(*column) } else { None };
    if let Some(file) = place.file() {
        object["file"] = file.into();
    }
    if let Some(line) = place.line() {
        object["line"] = line.into();
    }
    if let Some(column) = column {
        object["column"] = column.into();
    }
    if let Some(key) = key {
        object["setting"] = key.into();
    }
}

/// A moment of the command line, as policy wants it.
fn timestamp(moment: prost_types::Timestamp) -> anyhow::Result<Timestamp> {
    let millis = i128::from(moment.seconds) * 1_000 + i128::from(moment.nanos) / 1_000_000;
    let millis =
        u64::try_from(millis).map_err(|_| Usage("a moment before 1970 is none that a vault has seen".into()))?;
    Ok(Timestamp::from_millis(millis))
}
