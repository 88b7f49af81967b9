//! The command line: what an operator, a script or a probe types.
//!
//! Invariant: no value, token or key is ever taken from an argument, which others on the machine can read; they come from
//! files or standard input. No message repeats one.
//!
//! Commands turn words into calls of `client` and `server` and print what comes back. They decide nothing.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::client::{self, Client, Profile};
use crate::config::{self, Config};
use crate::keys::entropy;
use crate::server;
use crate::store::OpenError;

mod audit;
mod backup;
mod batches;
mod bench;
mod clock;
mod columns;
mod doctor;
mod findings;
mod init;
mod input;
mod keys;
mod moment;
mod policy;
mod settings;
mod shells;
mod terminal;
mod tokens;
mod verify;
mod witness;

/// A tokenization vault: hand on a random token instead of the card number, and prove who saw what.
#[derive(Parser)]
#[command(name = "cloakroom", version, max_term_width = 120)]
#[command(
    after_help = "Exit status: 0 all done, 1 some items failed, 2 usage or configuration, 3 denied, 4 unavailable.\n\
                  74, of serve only: the log can't be written, or there is no room."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Options),
    Serve(ServeOptions),
    #[command(subcommand)]
    Config(settings::Command),
    Doctor(doctor::Options),
    Tokenize(tokens::TokenizeOptions),
    Detokenize(tokens::DetokenizeOptions),
    Inspect(tokens::InspectOptions),
    Renew(tokens::RenewOptions),
    Revoke(tokens::RevokeOptions),
    #[command(subcommand)]
    Audit(audit::Command),
    #[command(subcommand)]
    Policy(policy::Command),
    #[command(subcommand)]
    Keys(keys::Command),
    #[command(subcommand)]
    Clock(clock::Command),
    Verify(verify::Options),
    Backup(backup::Options),
    Restore(backup::RestoreOptions),
    #[command(subcommand)]
    Witness(witness::Command),
    Health(HealthOptions),
    Bench(Box<bench::Options>),
    Completions(shells::CompletionsOptions),
    Man(shells::ManOptions),
}

/// Run the vault.
///
/// When it is ready it writes one line to standard output: `listening on ADDR:PORT`. SIGTERM and SIGINT let calls in
/// flight end first. A mistake in configuration, rulebook, certificates or keys ends it with status 2 before any data is
/// touched.
#[derive(clap::Args)]
struct ServeOptions {
    #[command(flatten)]
    file: ConfigFile,
    /// Only look: at configuration, rulebook, keys, certificates, checkpoint and data directory. Nothing is changed, and a
    /// running vault does not notice. Exit status 0 if it would start, else 2.
    #[arg(long)]
    check: bool,
}

/// Which configuration.
#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, env = "CLOAKROOM_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

/// Ask whether the vault is serving, for probes: exit status 0 if it is, else 4.
#[derive(clap::Args)]
struct HealthOptions {
    #[command(flatten)]
    connection: Connection,
}

/// How to reach the vault.
#[derive(clap::Args)]
struct Connection {
    /// A small TOML with address, ca, certificate and private_key.
    #[arg(long, env = "CLOAKROOM_PROFILE", value_name = "FILE")]
    profile: PathBuf,
    /// Instead of the profile's address.
    #[arg(long, env = "CLOAKROOM_ADDRESS", value_name = "HOST:PORT")]
    address: Option<String>,
}

/// What the output looks like.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// JSON: one object, or one a line.
    Json,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Done = 0,
    SomeFailed = 1,
    Usage = 2,
    Denied = 3,
    Unavailable = 4,
    /// `EX_IOERR` of sysexits.h: it helps to start again, as soon as somebody has made room.
    NoRoom = 74,
}

/// A request that can't be right, found on this side.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Runs the command that the process was called with.
pub fn main() -> ! {
    let exit = exit();
    // Where it can't be written there is nobody to tell. What is asked of a command was flushed, and looked at, before.
    let _ = std::io::stdout().flush();
    // Not by returning: that runs the destructors of the store's library, and a thread that looks at the disks, which nobody
    // waits for because a file system may hold it up, may be the last to use the store and make it abort.
    signal_hook::low_level::exit(exit.into())
}

fn exit() -> u8 {
    // Hash tables would panic without it, and TLS would abort, with less to say.
    if let Err(error) = entropy::bytes::<1>() {
        complain(&error.to_string());
        return Exit::Unavailable as u8;
    }
    // A wrong command line ends in here, with status 2 and advice.
    let cli = Cli::parse();
    let exit = run(cli.command).unwrap_or_else(|error| {
        if is_broken_pipe(&error) {
            return Exit::Done;
        }
        complain(&in_words(&error));
        if let Some(proof) = proof_of(&error) {
            note(&proof);
        }
        Exit::after(&error)
    });
    exit as u8
}

fn run(command: Command) -> anyhow::Result<Exit> {
    check_variables()?;
    let mut output = BufWriter::new(std::io::stdout());
    let exit = match command {
        Command::Init(options) => init::run(&options, &mut output).map(|()| Exit::Done)?,
        Command::Serve(options) => serve(&options, &mut output)?,
        Command::Config(command) => settings::run(&command, &mut output)?,
        Command::Doctor(options) => doctor::run(&options, &mut output)?,
        Command::Tokenize(options) => tokens::tokenize(options, &mut output)?,
        Command::Detokenize(options) => tokens::detokenize(options, &mut output)?,
        Command::Inspect(options) => tokens::inspect(options, &mut output)?,
        Command::Renew(options) => tokens::renew(options, &mut output)?,
        Command::Revoke(options) => tokens::revoke(options, &mut output)?,
        Command::Audit(command) => audit::run(command, &mut output)?,
        Command::Policy(command) => policy::run(command, &mut output)?,
        Command::Keys(command) => keys::run(&command, &mut output)?,
        Command::Clock(command) => clock::run(&command, &mut output)?,
        Command::Verify(options) => verify::run(&options, &mut output)?,
        Command::Backup(options) => backup::back_up(&options, &mut output)?,
        Command::Restore(options) => backup::restore(&options, &mut output)?,
        Command::Witness(command) => witness::run(&command, &mut output)?,
        Command::Health(options) => health(&options, &mut output)?,
        Command::Bench(options) => bench::run(&options, &mut output)?,
        Command::Completions(options) => shells::completions(&options, Cli::command(), &mut output)?,
        Command::Man(options) => shells::man(&options, Cli::command(), &mut output)?,
    };
    output.flush().context("cannot write to standard output")?;
    Ok(exit)
}

fn serve(options: &ServeOptions, output: &mut impl Write) -> anyhow::Result<Exit> {
    let config = Config::load(&options.file.config, variables());
    if options.check {
        let findings = match &config {
            Ok(config) => server::check(config),
            Err(error) => server::config_mistakes("configuration", error),
        };
        findings::print(&findings, Format::Text, output)?;
        return Ok(if findings::any_bad(&findings) { Exit::Usage } else { Exit::Done });
    }
    server::run(config?)?;
    Ok(Exit::Done)
}

fn health(options: &HealthOptions, output: &mut impl Write) -> anyhow::Result<Exit> {
    let serving = options.connection.run(async |client| Ok(client.is_serving().await?))?;
    writeln!(output, "{}", if serving { "serving" } else { "not serving" })
        .context("cannot write to standard output")?;
    Ok(if serving { Exit::Done } else { Exit::Unavailable })
}

impl Connection {
    /// The profile, with the address that holds.
    fn load(&self) -> anyhow::Result<Profile> {
        let mut profile = Profile::load(&self.profile)?;
        if let Some(address) = &self.address {
            profile.address.clone_from(address);
        }
        Ok(profile)
    }

    /// Connects and runs `work` to its end, on one thread.
    fn run<T>(&self, work: impl AsyncFnOnce(Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let profile = self.load()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the runtime")?;
        runtime.block_on(async { work(Client::connect(&profile).await?).await })
    }
}

impl Exit {
    /// The status that says best what `error` is.
    fn after(error: &anyhow::Error) -> Self {
        if error.is::<Usage>() || error.is::<config::Error>() || error.is::<client::ProfileError>() {
            return Self::Usage;
        }
        if error.downcast_ref::<server::Error>().is_some_and(server::Error::is_mistake) {
            return Self::Usage;
        }
        if error.downcast_ref::<server::Error>().is_some_and(server::Error::is_lack_of_room) {
            return Self::NoRoom;
        }
        match error.downcast_ref::<client::Error>() {
            Some(client::Error::Denied(_) | client::Error::HandshakeRefused { .. }) => Self::Denied,
            Some(client::Error::Profile { .. } | client::Error::Invalid(_) | client::Error::Unimplemented(_)) => {
                Self::Usage
            }
            Some(
                client::Error::Unreachable { .. }
                | client::Error::OtherServer { .. }
                | client::Error::Interrupted { .. }
                | client::Error::BreakerOpen { .. }
                | client::Error::NoRandomness { .. }
                | client::Error::Deadline(_)
                | client::Error::Limited(_)
                | client::Error::Unavailable(_)
                | client::Error::Conflict(_)
                | client::Error::Unexpected(_),
            ) => Self::Unavailable,
            None => Self::SomeFailed,
        }
    }
}

/// `CLOAKROOM_ADRESS` must not be silently without effect.
fn check_variables() -> anyhow::Result<()> {
    match config::unknown_variables(variables()) {
        mistakes if mistakes.is_empty() => Ok(()),
        mistakes => Err(config::Error::Mistakes(mistakes).into()),
    }
}

/// The environment. What is not text becomes text that no setting takes, so that it is refused and not passed over.
fn variables() -> impl Iterator<Item = (String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

/// How somebody else can make sure that a refused call is in the log.
fn proof_of(error: &anyhow::Error) -> Option<String> {
    let receipt = error.downcast_ref::<client::Error>()?.failure()?.receipt.as_ref()?;
    Some(format!("the auditor can prove it: cloakroom audit prove --sequence {}", receipt.sequence))
}

/// The error with its causes. A message that holds its cause's words already does not say them twice.
fn in_words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// What has to be done first where a command needs the data for itself, and a vault has it.
fn stopped_first(error: server::Error) -> anyhow::Error {
    let runs = matches!(error, server::Error::Store(OpenError::Locked { .. }));
    let error = anyhow::Error::new(error);
    if runs { error.context("stop the vault first") } else { error }
}

/// Writes a message to standard error. If even that fails there is nobody left to tell.
fn complain(message: &str) {
    let _nobody_listens = writeln!(std::io::stderr(), "cloakroom: {message}");
}

/// As [`complain`], without a complaint: how far a long command is.
fn note(progress: &str) {
    let _nobody_listens = writeln!(std::io::stderr(), "{progress}");
}

/// Whoever read our output has seen enough: no mistake.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

/// For `src/fuzz`: the first byte says which of the texts that a command reads the rest is.
#[cfg(test)]
pub(crate) fn check_input(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    match (which % 8, std::str::from_utf8(rest)) {
        (which @ 0..=3, _) => tokens::check_input(which, rest),
        (4, Ok(text)) => {
            if let Ok(time) = moment::moment(text) {
                let _ = moment::rfc3339(Some(&time));
            }
            let _ = moment::lifetime(text);
        }
        (6, Ok(text)) => crate::admin::check_text(text),
        (7, Ok(text)) => backup::check_handles(text),
        _ => policy::diff::check_line(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_and_tokens_are_not_accepted_as_arguments() {
        for words in [
            &["cloakroom", "tokenize", "--profile", "p", "--scope", "pan", "--value", "4111"][..],
            &["cloakroom", "audit", "query", "--profile", "p", "--token", "pan_x"],
        ] {
            assert!(Cli::try_parse_from(words).is_err(), "{words:?}");
        }
        for option in ["--token", "--token-file"] {
            let words = ["cloakroom", "audit", "query", "--profile", "p", "--scope", "pan", option, "pan_x7secretx7"];
            let error = Cli::try_parse_from(words).err().expect("a token is no file");
            assert!(!error.to_string().contains("x7secretx7"), "a token is repeated: {error}");
        }
    }

    #[test]
    fn a_refusal_says_how_it_is_proved() {
        let receipt = Some(client::Receipt { log_id: "l".to_owned(), sequence: 7 });
        let failure = |receipt| client::Failure {
            code: tonic::Code::PermissionDenied,
            reason: None,
            message: String::new(),
            violations: Vec::new(),
            retry_after: None,
            receipt,
        };
        let said =
            |receipt| proof_of(&anyhow::Error::from(client::Error::Denied(failure(receipt))).context("at line 3"));
        assert_eq!(said(receipt).unwrap(), "the auditor can prove it: cloakroom audit prove --sequence 7");
        assert_eq!(said(None), None);
    }

    #[test]
    fn a_vault_that_runs_is_to_be_stopped_first() {
        let locked = OpenError::Locked { path: "data".into(), detail: "lock".to_owned() };
        assert!(in_words(&stopped_first(server::Error::Store(locked))).starts_with("stop the vault first: "));
        let missing = server::Error::Store(OpenError::Missing("data".into()));
        assert!(!in_words(&stopped_first(missing)).contains("stop the vault"));
    }

    #[test]
    fn a_cause_is_said_once() {
        let missing = std::path::Path::new("no/such/file");
        let error = anyhow::Error::from(Profile::load(missing).unwrap_err());
        let words = in_words(&error);
        assert_eq!(words.matches("os error").count(), 1, "{words}");
        assert_eq!(in_words(&anyhow::anyhow!("inner").context("outer")), "outer: inner");
    }

    #[test]
    fn the_exit_status_follows_the_contract() {
        let failure = || client::Failure {
            code: tonic::Code::Unknown,
            reason: None,
            message: String::new(),
            violations: Vec::new(),
            retry_after: None,
            receipt: None,
        };
        assert_eq!(Exit::after(&client::Error::Denied(failure()).into()), Exit::Denied);
        assert_eq!(Exit::after(&client::Error::Unavailable(failure()).into()), Exit::Unavailable);
        assert_eq!(Exit::after(&client::Error::Invalid(failure()).into()), Exit::Usage);
        let context = anyhow::Error::from(client::Error::Denied(failure())).context("at line 3");
        assert_eq!(Exit::after(&context), Exit::Denied, "context does not hide the cause");
    }
}
