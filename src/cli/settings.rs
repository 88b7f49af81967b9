//! `config show` and `config reference`: what holds, and what there is.

use std::io::Write;

use anyhow::Context;

use super::{ConfigFile, Exit, variables};
use crate::config::{Config, reference};

/// Show the configuration that holds, or describe every key of it.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Print the configuration that holds: the file, the environment laid over it, and defaults.
    ///
    /// It is TOML that gives the same configuration; a comment behind each value says where it comes from. Of keys and
    /// certificates it shows the paths, never the contents.
    Show(ConfigFile),
    /// Print every key with its type, default, unit, an example and its meaning, as Markdown.
    Reference,
}

pub(super) fn run(command: &Command, output: &mut impl Write) -> anyhow::Result<Exit> {
    let text = match command {
        Command::Show(options) => Config::show(&options.config, variables())?,
        Command::Reference => reference::markdown(),
    };
    output.write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(Exit::Done)
}
