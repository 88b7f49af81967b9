//! `cloakroom clock`: what an operator says about the machine's clock.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;

use super::{Exit, stopped_first, variables};
use crate::clock::in_words;
use crate::config::Config;
use crate::server::accept_clock;

/// Less is what a time server corrects.
const TELL_BEHIND: Duration = Duration::from_mins(1);

/// Say that the machine's clock is right.
#[derive(Subcommand)]
pub enum Command {
    Accept(AcceptOptions),
}

/// Accept the machine's clock after a leap of a day or more, so that purging goes on.
///
/// The vault must be stopped. Look at the clock first: what has expired by it is dead for good then, and is deleted once
/// its grace period is over.
#[derive(clap::Args)]
pub struct AcceptOptions {
    /// The configuration file.
    #[arg(long, env = "CLOAKROOM_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

pub fn run(command: &Command, output: &mut impl Write) -> anyhow::Result<Exit> {
    let Command::Accept(options) = command;
    let config = Config::load(&options.config, variables())?;
    let accepted = accept_clock(&config).map_err(stopped_first)?;
    let said = match accepted {
        (Some(moved), _) => format!("the time mark moved {} s forward to the clock", moved.as_secs()),
        (None, behind) if behind >= TELL_BEHIND => format!(
            "there is no leap to accept: the clock is {} behind the time mark, and nothing expires until it has caught up. If \
             the clock is wrong, set it right",
            in_words(behind)
        ),
        (None, _) => "there is no leap to accept: the clock is less than a day ahead of the time mark".to_owned(),
    };
    writeln!(output, "{said}").context("cannot write to standard output")?;
    Ok(Exit::Done)
}
