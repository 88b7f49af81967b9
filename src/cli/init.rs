//! `cloakroom init`: everything that a vault needs to start, for development.
//!
//! Invariant: nothing that exists is overwritten. Each file is created with `O_EXCL` and its final mode, so that a key is
//! never readable by others, not even for a moment, and the configuration comes last, so that an init that was cut short
//! can't be served by mistake.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::clock::SystemClock;
use crate::config::Config;
use crate::keys::{entropy, provider};
use crate::merkle::note::{LogKey, Name};
use crate::policy;

pub(super) mod files;
mod pki;
mod sample;

use self::files::Folder;

/// Make a configuration, a development CA with certificates, keys and sample policies.
///
/// Nothing is overwritten: DIR must not exist, or be empty. Certificates live for 90 days, the development CA for a year.
#[derive(clap::Args)]
pub struct Options {
    /// The folder to make.
    #[arg(default_value = "cloakroom")]
    dir: PathBuf,
}

/// The folder could not be made.
pub fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<()> {
    let folder = Folder::create(&options.dir)?;
    folder.claim("pki")?;
    write_all(&folder)
        .with_context(|| format!("init was not finished; remove {} before you run it again", options.dir.display()))?;
    describe(&options.dir, output).context("cannot write to standard output")
}

fn write_all(folder: &Folder) -> anyhow::Result<()> {
    let authority = pki::Authority::generate(SystemClock::shared().wall())?;
    folder.public("pki/ca.pem", authority.certificate().as_bytes())?;
    folder.private("pki/ca.key", &authority.private_key())?;
    let server = authority.server_certificate()?;
    folder.public("pki/server.pem", server.chain.as_bytes())?;
    folder.private("pki/server.key", &server.private_key)?;

    folder.directory("profiles")?;
    for name in sample::CLIENTS {
        let client = authority.client_certificate(name)?;
        folder.public(&format!("pki/{name}.pem"), client.chain.as_bytes())?;
        folder.private(&format!("pki/{name}.key"), &client.private_key)?;
        folder.public(&format!("profiles/{name}.toml"), sample::profile(name).as_bytes())?;
    }

    folder.directory("policies")?;
    for (name, text) in policy::sample::FILES {
        folder.public(&format!("policies/{name}"), text.as_bytes())?;
    }
    let (name, text) = policy::sample::TESTS;
    folder.public(&format!("policies/{name}"), text.as_bytes())?;
    provider::File::create(&folder.path("root.key")).context("cannot write root.key")?;
    let log_key = log_key()?;
    folder.private("log.key", &log_key.to_text())?;
    folder.public("log.vkey", format!("{}\n", log_key.verifier()).as_bytes())?;
    folder.directory("checkpoints")?;

    let file = folder.path("cloakroom.toml");
    let config = Config::parse(&file, sample::CONFIGURATION, []).context("the sample configuration must be right")?;
    crate::server::create(&config).context("cannot make the data directory")?;
    folder.public("cloakroom.toml", sample::CONFIGURATION.as_bytes())?;
    folder.sync(&["pki", "profiles", "policies"])
}

/// A new key for the log's checkpoints. Its name is the log's own, never used before: a log that began anew under the name
/// of another could not be told from a rewritten one.
fn log_key() -> anyhow::Result<LogKey> {
    let name = format!("{}/log/{}", sample::TRUST_DOMAIN, hex::encode(entropy::bytes::<4>()?));
    Ok(LogKey::from_seed(Name::new(name)?, &entropy::key()?))
}

fn describe(dir: &Path, output: &mut impl Write) -> std::io::Result<()> {
    let dir = dir.display();
    writeln!(
        output,
        "Made {dir}:
  cloakroom.toml             the configuration
  pki/                       a development CA (ca.key: never for production), certificates for 90 days
  profiles/*.toml            one for each client: {clients}
  policies/*.cedar           who may do what; policies/tests.toml: what they must decide
  root.key                   wraps all other keys; keep a copy elsewhere
  log.key, log.vkey          sign and check the audit log's checkpoints
  data/, checkpoints/        the vault itself, and the log's signed checkpoints

Start it:
  cloakroom serve --config {dir}/cloakroom.toml
Then, in another terminal:
  echo 4111111111111111 | cloakroom tokenize --profile {dir}/profiles/gateway.toml --scope pan
  echo pan_... | cloakroom detokenize --profile {dir}/profiles/payments.toml --scope pan --purpose refund
  cloakroom audit query --profile {dir}/profiles/auditor.toml
After a change of policies, before the vault reads it:
  cloakroom policy check --config {dir}/cloakroom.toml
  cloakroom policy test {dir}/policies/tests.toml --config {dir}/cloakroom.toml",
        clients = sample::CLIENTS.join(", "),
    )
}

#[cfg(test)]
mod tests;
