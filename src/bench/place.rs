//! A directory of its own, made by `init`, and the servers that run on it: processes of this same program.
//!
//! Invariant: when it is dropped the servers are gone, and then the directory.

use super::{Error, io};
use crate::client::Profile;
use crate::telemetry;
use crate::tls::client::{Config, Connector};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// This program, even if its file has been replaced since it started.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// No setting of the caller's own vault may reach these.
const VARIABLES: &str = "CLOAKROOM_";
const LISTEN_VARIABLES: [&str; 2] = ["CLOAKROOM_SERVER__LISTEN", "CLOAKROOM_OPERATIONS__LISTEN"];
const CONFIGURATION: &str = "cloakroom.toml";
const ANY_PORT: &str = "127.0.0.1:0";

/// The directory.
pub(super) struct Place(PathBuf);

/// A server in a process of its own.
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Place {
    /// Makes the directory inside `parent` and a vault in it.
    pub(super) fn make(parent: &Path) -> Result<Self, Error> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let place = Self(parent.join(format!("cloakroom-bench-{}-{number}", std::process::id())));
        let made = program(&["init"]).arg(&place.0).stdout(Stdio::null()).status();
        if made.map_err(io("can't run init"))?.success() { Ok(place) } else { Err(Error::Start("init")) }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// What the vault that lies here is told.
    pub(super) fn config(&self) -> Result<crate::config::Config, Error> {
        let file = self.0.join(CONFIGURATION);
        crate::config::Config::load(&file, std::iter::empty()).map_err(|error| Error::Connect(error.to_string()))
    }

    /// Adds tables to the configuration, before a server starts.
    pub(super) fn configure(&self, tables: &str) -> Result<(), Error> {
        let file = self.0.join(CONFIGURATION);
        let unwritten = io("can't write the vault's configuration");
        let text = std::fs::read_to_string(&file).map_err(&unwritten)?;
        std::fs::write(&file, format!("{text}\n{tables}")).map_err(&unwritten)
    }

    /// Adds a role, before a server starts.
    pub(super) fn add_role(&self, name: &str, members: &str) -> Result<(), Error> {
        const ROLES: &str = "\n[roles]";
        let file = self.0.join(CONFIGURATION);
        let unwritten = io("can't write the vault's configuration");
        let text = std::fs::read_to_string(&file).map_err(&unwritten)?;
        // Behind the table's name there may be a comment.
        let row = text.find(ROLES).and_then(|start| Some(start + 1 + text[start + 1..].find('\n')? + 1));
        let (before, after) = text.split_at(row.ok_or(Error::Start("init"))?);
        std::fs::write(&file, format!("{before}{name} = [\"{members}\"]\n{after}")).map_err(&unwritten)
    }

    /// Adds policies, before a server starts.
    pub(super) fn permit(&self, policies: &str) -> Result<(), Error> {
        std::fs::write(self.0.join("policies/bench.cedar"), policies).map_err(io("can't write the vault's policies"))
    }

    /// Starts the vault.
    pub(super) fn vault(&self) -> Result<Server, Error> {
        self.vault_with(&[])
    }

    /// Starts the vault with settings from the environment.
    pub(super) fn vault_with(&self, variables: &[(&str, &str)]) -> Result<Server, Error> {
        self.server("the vault", &["serve"], variables)
    }

    /// Starts the floor.
    pub(super) fn floor(&self) -> Result<Server, Error> {
        self.floor_with(&[])
    }

    /// Starts the floor with settings from the environment.
    pub(super) fn floor_with(&self, variables: &[(&str, &str)]) -> Result<Server, Error> {
        self.server("the floor", &["bench", "serve-floor"], variables)
    }

    /// Opens connections as the client `name`.
    pub(super) fn connector(&self, name: &str) -> Result<Connector, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Connect(error.to_string());
        let profile = Profile::load(&self.0.join(format!("profiles/{name}.toml"))).map_err(|error| unusable(&error))?;
        let config = Config {
            authorities: profile.ca,
            certificate: profile.certificate,
            private_key: profile.private_key,
            server_name: profile.server_name,
            server_id: None,
        };
        Connector::new(&config).map_err(|error| unusable(&error))
    }

    /// Has a copy of the log written, as its auditor would: `words` say in which form and where to.
    pub(super) fn export(&self, vault: &Server, words: &[&str]) -> Result<(), Error> {
        let mut command = program(&["audit", "export"]);
        command.args(words).arg("--profile").arg(self.0.join("profiles/auditor.toml"));
        command.env("CLOAKROOM_ADDRESS", vault.address.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
        let done = command.status().map_err(io("can't run an export"))?;
        let failed = || Error::Call { call: "audit export", problem: format!("it ended with {done}") };
        if done.success() { Ok(()) } else { Err(failed()) }
    }

    fn server(&self, name: &'static str, words: &[&str], variables: &[(&str, &str)]) -> Result<Server, Error> {
        let mut command = program(words);
        command.arg("--config").arg(self.0.join(CONFIGURATION)).stdout(Stdio::piped());
        command.env(telemetry::LOG_VARIABLE, "error");
        for variable in LISTEN_VARIABLES {
            command.env(variable, ANY_PORT);
        }
        command.envs(variables.iter().copied());
        let mut child = command.spawn().map_err(io("can't start a server"))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(io("can't read what a server writes"))?;
        }
        // Held in a `Server` from here on, so that it ends whatever happens.
        let mut server = Server { child, address: SocketAddr::from(([0, 0, 0, 0], 0)) };
        let address = line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        server.address = address.ok_or(Error::Start(name))?;
        Ok(server)
    }
}

fn program(words: &[&str]) -> Command {
    let mut command = Command::new(THIS_PROGRAM);
    command.args(words).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(VARIABLES) {
            command.env_remove(name);
        }
    }
    command
}

impl Server {
    /// A process that was started elsewhere. It ends with this.
    pub(super) fn of(child: Child, address: SocketAddr) -> Self {
        Self { child, address }
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// The process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without a warning, and waits until it is gone.
    pub(super) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What it stored is about to be removed, so it need not end in order.
        self.kill();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What can't be removed is found by whoever looks for the space.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
