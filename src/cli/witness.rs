//! `cloakroom witness`: somebody else, on another machine, who remembers how long a vault's log was.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use super::init::files::Folder;
use super::{Exit, Usage, variables};
use crate::config::witness::Config;
use crate::keys::entropy;
use crate::merkle::note::{Name, VerifierKey, WitnessKey, WitnessVerifier};
use crate::server;
use crate::witness::Witness;

/// Cosign the checkpoints of vaults, so that none can go back to an older state unseen.
#[derive(Subcommand)]
pub enum Command {
    Init(InitOptions),
    Serve(ServeOptions),
}

/// Make a witness: configuration, key and an empty memory.
///
/// Nothing is overwritten: DIR must not exist, or be empty. Run it on another machine than the vault's.
#[derive(clap::Args)]
pub struct InitOptions {
    /// The folder to make.
    dir: PathBuf,
    /// The `log.vkey` of a vault whose checkpoints it is to cosign. May be given several times; more can be added to
    /// witness.toml later.
    #[arg(long, required = true, value_name = "FILE")]
    log: Vec<PathBuf>,
    /// The name under which it signs, such as `witness.example/1`. Without it a name is made that nobody has yet.
    #[arg(long)]
    name: Option<String>,
}

/// Run the witness.
///
/// When it is ready it writes one line to standard output: `listening on ADDR:PORT`. SIGTERM and SIGINT end it.
#[derive(clap::Args)]
pub struct ServeOptions {
    /// The witness's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub fn run(command: &Command, output: &mut impl Write) -> anyhow::Result<Exit> {
    match command {
        Command::Init(options) => init(options, output)?,
        Command::Serve(options) => server::witness(&Config::load(&options.config, variables())?)?,
    }
    Ok(Exit::Done)
}

fn init(options: &InitOptions, output: &mut impl Write) -> anyhow::Result<()> {
    let logs = options.log.iter().map(|file| log_key(file)).collect::<anyhow::Result<Vec<_>>>()?;
    let name = match &options.name {
        Some(name) => name.clone(),
        None => format!("cloakroom-witness/{}", hex::encode(entropy::bytes::<4>()?)),
    };
    let name = Name::new(name).map_err(|error| Usage(format!("--name: {error}")))?;
    let folder = Folder::create(&options.dir)?;
    let key = write_all(&folder, name, &logs)
        .with_context(|| format!("init was not finished; remove {} before you run it again", options.dir.display()))?;
    describe(&options.dir, &key, output).context("cannot write to standard output")
}

fn log_key(file: &Path) -> anyhow::Result<VerifierKey> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    text.parse().map_err(|error| Usage(format!("{}: {error}", file.display())).into())
}

fn write_all(folder: &Folder, name: Name, logs: &[VerifierKey]) -> anyhow::Result<WitnessVerifier> {
    let key = WitnessKey::from_seed(name, &entropy::key()?);
    folder.private("witness.key", &key.to_text())?;
    folder.public("witness.vkey", format!("{}\n", key.verifier()).as_bytes())?;
    Witness::create_state(&folder.path("state"))?;
    // Last, so that an init that was cut short can't be served by mistake.
    folder.public("witness.toml", configuration(logs).as_bytes())?;
    folder.sync(&["state"])?;
    Ok(key.verifier())
}

fn configuration(logs: &[VerifierKey]) -> String {
    let mut text = "\
# A witness: https://c2sp.org/tlog-witness. Relative paths start at this file's folder.
[witness]
listen = \"127.0.0.1:7445\"
key = \"witness.key\"
state = \"state\"                     # what it has cosigned; must never go back to an older copy
# With these two it speaks HTTPS, and nothing else; without them plain HTTP.
# certificate = \"witness.pem\"
# private_key = \"witness-tls.key\"

# The line in log.vkey of each vault whose checkpoints it cosigns. While a log's key is being replaced, both have a table.
"
    .to_owned();
    for log in logs {
        // Writing to a text can't fail.
        let _ = writeln!(text, "[[logs]]\nkey = \"{log}\"");
    }
    text
}

fn describe(dir: &Path, key: &WitnessVerifier, output: &mut impl Write) -> std::io::Result<()> {
    let dir = dir.display();
    writeln!(
        output,
        "Made {dir}:
  witness.toml               the configuration
  witness.key, witness.vkey  sign and check its cosignatures
  state/                     what it has cosigned

Start it:
  cloakroom witness serve --config {dir}/witness.toml
Then add to the vault's configuration, with the address under which it reaches this machine:
  [[audit.witnesses]]
  url = \"http://127.0.0.1:7445\"
  key = \"{key}\""
    )
}
