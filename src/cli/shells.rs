//! `completions` and `man`: what shells and `man` know of the command line, made from its one definition.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;

use super::Exit;

/// Print completions for a shell.
///
/// bash: cloakroom completions bash > /etc/bash_completion.d/cloakroom. zsh: into a folder of $fpath as _cloakroom. fish:
/// into ~/.config/fish/completions/cloakroom.fish.
#[derive(clap::Args)]
pub(super) struct CompletionsOptions {
    /// For which shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or write one for each command into a folder.
#[derive(clap::Args)]
pub(super) struct ManOptions {
    /// Write cloakroom.1, cloakroom-tokenize.1 and so on there, over older ones. Without it, cloakroom.1 is printed.
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn completions(
    options: &CompletionsOptions,
    mut command: clap::Command,
    output: &mut impl Write,
) -> anyhow::Result<Exit> {
    let shell = match options.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // In memory first: what generates it panics where a write fails, as into a pipe that nobody reads any more.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "cloakroom", &mut script);
    output.write_all(&script).context("cannot write to standard output")?;
    Ok(Exit::Done)
}

pub(super) fn man(options: &ManOptions, command: clap::Command, output: &mut impl Write) -> anyhow::Result<Exit> {
    match &options.dir {
        None => clap_mangen::Man::new(command).render(output).context("cannot write to standard output")?,
        Some(dir) => {
            let failed = || format!("cannot write manual pages into {}", dir.display());
            std::fs::create_dir_all(dir).with_context(failed)?;
            clap_mangen::generate_to(command, dir).with_context(failed)?;
        }
    }
    Ok(Exit::Done)
}
