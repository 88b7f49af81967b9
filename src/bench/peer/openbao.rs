//! An OpenBao as its makers advise for production, as far as one node goes: TLS 1.3 and client certificates at the door, raft storage,
//! an audit device. Initialized and unsealed over its HTTP API.
//!
//! Invariant: it runs on the bench's own directory, listens on loopback alone, gets no setting of the caller's environment, and
//! ends with what holds it.

use crate::bench::driver::{self, Caller};
use crate::bench::place::{Place, Server};
use crate::bench::{Error, io, rest};
use crate::tls::client::Connector;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "bao";
const FOLDER: &str = "openbao";
const AUDIT: &str = "audit.log";
/// What it says itself. Not mixed with what the bench tells: while it elects itself it reports errors that are none.
const SAID: &str = "said";
const LOOK_EVERY: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) struct OpenBao {
    pub(super) server: Server,
    /// Of the root: it may do everything, so no policy is looked at but its own.
    pub(super) token: HeaderValue,
    pub(super) version: String,
    pub(super) audit: Audit,
}

/// The file of its audit device.
pub(super) struct Audit(PathBuf);

/// The program: the one that was named, else what PATH has.
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(named) = named {
        // Absolute, since it is started elsewhere.
        let found = named.canonicalize().ok().filter(|path| path.is_file());
        return found.ok_or_else(|| Error::Missing(format!("there is no program at {}", named.display())));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)).find(|file| file.is_file());
    found.ok_or_else(|| Error::Missing(format!("there is no program `{PROGRAM}` on PATH")))
}

impl OpenBao {
    /// Starts the program in a directory of its own inside the vault's, with the certificates that lie there.
    pub(super) async fn start(place: &Place, program: &Path) -> Result<Self, Error> {
        let folder = place.path().join(FOLDER);
        fs::create_dir_all(folder.join("raft")).map_err(io("can't make OpenBao's directory"))?;
        let [address, cluster] = free_ports()?;
        let file = folder.join("openbao.json");
        fs::write(&file, configuration(place.path(), &folder, address, cluster).to_string())
            .map_err(io("can't write OpenBao's configuration"))?;
        let said = File::create(folder.join(SAID)).map_err(io("can't write beside OpenBao"))?;
        let errors = said.try_clone().map_err(io("can't write beside OpenBao"))?;
        let mut command = Command::new(program);
        command.arg("server").arg("-config").arg(&file).current_dir(&folder);
        command.stdin(Stdio::null()).stdout(said).stderr(errors);
        // What it would take from there is of another server. PATH is for a program that is started by a script.
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("HOME", &folder);
        let child = command.spawn().map_err(io("can't start OpenBao"))?;
        let mut server = Server::of(child, address);
        let mut caller = connect(&mut server, &place.connector("gateway")?, &folder).await?;
        let token = unseal(&mut caller).await?;
        let version = active(&mut caller).await?;
        prepare(&mut caller, &token).await?;
        Ok(Self { server, token, version, audit: Audit(folder.join(AUDIT)) })
    }
}

impl Audit {
    /// How much it holds.
    pub(super) fn bytes(&self) -> Result<u64, Error> {
        let about = fs::metadata(&self.0).map_err(io("can't look at OpenBao's audit file"))?;
        Ok(about.len())
    }
}

/// Free now, and left to who is told of them: it does not tell which ones it found.
fn free_ports() -> Result<[SocketAddr; 2], Error> {
    let bind = || TcpListener::bind("127.0.0.1:0").and_then(|held| held.local_addr().map(|address| (held, address)));
    let unfound = io("can't find a free port");
    // Both are held until both are known, so that they differ.
    let (first, second) = (bind().map_err(&unfound)?, bind().map_err(&unfound)?);
    Ok([first.1, second.1])
}

fn configuration(place: &Path, folder: &Path, address: SocketAddr, cluster: SocketAddr) -> Value {
    let pki = place.join("pki");
    // A description, since its reader takes objects of one field each for one with a longer name.
    let audit = json!({ "description": "as it is in use", "options": { "file_path": folder.join(AUDIT) } });
    json!({
        "storage": { "raft": { "path": folder.join("raft"), "node_id": "bench" } },
        "listener": [{ "tcp": {
            "address": address.to_string(),
            "cluster_address": cluster.to_string(),
            "tls_cert_file": pki.join("server.pem"),
            "tls_key_file": pki.join("server.key"),
            "tls_min_version": "tls13",
            "tls_client_ca_file": pki.join("ca.pem"),
            "tls_require_and_verify_client_cert": true,
        } }],
        "audit": [{ "file": { "file": audit } }],
        "api_addr": format!("https://{address}"),
        "cluster_addr": format!("https://{cluster}"),
        "log_level": "warn",
    })
}

/// Connects as soon as it listens.
async fn connect(server: &mut Server, connector: &Connector, folder: &Path) -> Result<Caller, Error> {
    let began = Instant::now();
    loop {
        let problem = match driver::connect(connector, server.address).await {
            Ok(caller) => return Ok(caller),
            Err(problem) => problem.to_string(),
        };
        if server.has_ended() {
            let said = fs::read_to_string(folder.join(SAID)).unwrap_or_default();
            let last =
                said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing at all").trim().to_owned();
            return Err(Error::Peer { what: "it ended as soon as it was started, and said at last", problem: last });
        }
        if began.elapsed() > PATIENCE {
            return Err(Error::Peer { what: "no connection to it after a minute", problem });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One key share, since nobody but this process is to hold it. The token of the root.
async fn unseal(caller: &mut Caller) -> Result<HeaderValue, Error> {
    const WHAT: &str = "it can't be initialized";
    let incomplete = || Error::Peer { what: WHAT, problem: "its reply is not as expected".to_owned() };
    let shares = json!({ "secret_shares": 1, "secret_threshold": 1 });
    let made = set(caller, WHAT, "/v1/sys/init", None, &shares).await?;
    let key = made["keys"][0].as_str().ok_or_else(incomplete)?;
    let unsealed = set(caller, "it can't be unsealed", "/v1/sys/unseal", None, &json!({ "key": key })).await?;
    if unsealed["sealed"] != false {
        return Err(Error::Peer { what: "it can't be unsealed", problem: "it stays sealed".to_owned() });
    }
    let token = made["root_token"].as_str().and_then(|token| HeaderValue::from_str(token).ok());
    let mut token = token.ok_or_else(incomplete)?;
    // So that it stands in no log of a library.
    token.set_sensitive(true);
    Ok(token)
}

/// Waits until it has elected itself. Its version.
async fn active(caller: &mut Caller) -> Result<String, Error> {
    const WHAT: &str = "it does not become active";
    let began = Instant::now();
    loop {
        let path = PathAndQuery::from_static("/v1/sys/health");
        let asked = rest::ask(caller, &Method::GET, path, None, prost::bytes::Bytes::new()).await;
        let (status, reply) = asked.map_err(|problem| Error::Peer { what: WHAT, problem })?;
        if status == StatusCode::OK {
            let health: Value = serde_json::from_slice(&reply).unwrap_or_default();
            return Ok(health["version"].as_str().unwrap_or("of unknown version").to_owned());
        }
        if began.elapsed() > PATIENCE {
            return Err(Error::Peer { what: WHAT, problem: format!("after a minute it says {status}") });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The engines, and a key for the values.
async fn prepare(caller: &mut Caller, token: &HeaderValue) -> Result<(), Error> {
    let (transit, kv) = (json!({ "type": "transit" }), json!({ "type": "kv", "options": { "version": "1" } }));
    set(caller, "it mounts no transit engine", "/v1/sys/mounts/transit", Some(token), &transit).await?;
    set(caller, "it mounts no store of keys and values", "/v1/sys/mounts/kv", Some(token), &kv).await?;
    let key = json!({ "type": "aes256-gcm96" });
    set(caller, "it makes no key", "/v1/transit/keys/pan", Some(token), &key).await?;
    Ok(())
}

async fn set(
    caller: &mut Caller,
    what: &'static str,
    path: &'static str,
    token: Option<&HeaderValue>,
    body: &Value,
) -> Result<Value, Error> {
    let failed = |problem| Error::Peer { what, problem };
    let asked = rest::ask(caller, &Method::PUT, PathAndQuery::from_static(path), token, body.to_string().into()).await;
    let (status, reply) = asked.map_err(failed)?;
    // Not what the reply says: it may repeat what was sent.
    if !status.is_success() {
        return Err(failed(status.to_string()));
    }
    Ok(serde_json::from_slice(&reply).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_told_with_how_to_have_it() {
        let error = find(Some(Path::new("/nowhere/bao"))).unwrap_err().to_string();
        assert!(error.contains("there is no program at /nowhere/bao") && error.contains("pip install"), "{error}");
    }

    #[test]
    fn what_is_advised_is_what_the_tests_have() {
        let list = include_str!("../../../deploy/tools-long.txt");
        assert!(list.lines().any(|line| line == crate::bench::peer::PACKAGE), "{}", crate::bench::peer::PACKAGE);
    }
}
