//! `cloakroom keys`: what an operator does about keys.

use std::io::Write;

use anyhow::Context;
use clap::Subcommand;

use super::{ConfigFile, Exit, stopped_first, variables};
use crate::config::Config;

/// Rotate keys.
#[derive(Subcommand)]
pub enum Command {
    RotateLogKey(RotateOptions),
}

/// Let a new key succeed the one that signs the log's checkpoints.
///
/// The vault must be stopped. An event names both keys, and a checkpoint that both sign is kept in the checkpoint directory
/// under rotations/: give it to whoever verifies with the old key. If the command is cut off, run it again: it goes on.
/// The new public key is written beside the private one, as log.vkey.
#[derive(clap::Args)]
pub struct RotateOptions {
    #[command(flatten)]
    file: ConfigFile,
}

pub fn run(command: &Command, output: &mut impl Write) -> anyhow::Result<Exit> {
    let Command::RotateLogKey(options) = command;
    let config = Config::load(&options.file.config, variables())?;
    let rotated = crate::server::rotate_log_key(&config).map_err(stopped_first)?;
    writeln!(
        output,
        "{}\n  is succeeded by\n{}\n\nBoth signed {}: give it, with the new log.vkey, to whoever verifies the log.",
        rotated.old,
        rotated.new,
        rotated.note.display(),
    )
    .context("cannot write to standard output")?;
    Ok(Exit::Done)
}
