//! Vaults and witnesses as real processes, over loopback.

use crate::harness::{Home, Server, program};
use crate::needs;
use crate::strace::Attached;
use cloakroom::merkle::note::{Checkpoint, LogKey, Name, Note, VerifierKey, WitnessVerifier};
use cloakroom::merkle::{Frontier, Tree, leaf_hash};
use cloakroom::secret::SecretKey;
use cloakroom::witness::Request;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A hang is a failure: this is a hundred times what anything here usually takes.
const PATIENCE: Duration = Duration::from_mins(2);

/// A directory that `cloakroom witness init` made.
pub struct Site {
    folder: tempfile::TempDir,
}

/// A running witness. It is killed when this is dropped.
pub struct Witness {
    child: Child,
    address: SocketAddr,
}

// === Site ===

impl Site {
    /// A witness of the log whose key is in this file.
    pub fn init(log: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("witness-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let output = program().args(["witness", "init"]).arg(folder.path()).arg("--log").arg(log).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn key(&self) -> WitnessVerifier {
        std::fs::read_to_string(self.file("witness.vkey")).unwrap().parse().unwrap()
    }

    fn command(&self, listen: &str) -> Command {
        let mut command = program();
        command.args(["witness", "serve", "--config"]).arg(self.file("witness.toml"));
        command.env("CLOAKROOM_WITNESS__LISTEN", listen);
        command
    }

    pub fn serve(&self) -> Witness {
        self.serve_at("127.0.0.1:0")
    }

    fn serve_at(&self, listen: &str) -> Witness {
        let log = std::fs::File::options().create(true).append(true).open(self.file("serve.log")).unwrap();
        let mut command = self.command(listen);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on ").and_then(|address| address.trim().parse().ok());
        Witness {
            child,
            address: address.unwrap_or_else(|| {
                let log = std::fs::read_to_string(self.file("serve.log"));
                panic!("the witness did not start: {line:?}\n{log:?}")
            }),
        }
    }

    /// Has the vault ask this witness.
    pub fn watch(&self, home: &Home, url: &str) {
        let table = format!("[[audit.witnesses]]\nurl = \"{url}\"\nkey = \"{}\"\n", self.key());
        home.append("cloakroom.toml", &table);
    }
}

impl Witness {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends SIGKILL and waits.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for an end that must be a success.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === the vault's side ===

/// A vault that one running witness watches.
fn watched() -> (Home, Site, Witness) {
    let home = Home::init();
    let site = Site::init(&home.file("log.vkey"));
    let witness = site.serve();
    site.watch(&home, &witness.url());
    (home, site, witness)
}

async fn tokenize(vault: &Server, home: &Home, count: usize) {
    let gateway = vault.client(&home.identity("gateway")).await;
    for number in 0..count {
        gateway.tokenize("pan", &[format!("value {number}").as_bytes()]).await;
    }
}

/// Stops a vault, while this side's connections can end: they need the runtime that the wait would block.
async fn stop(vault: Server) {
    tokio::task::spawn_blocking(|| vault.stop()).await.unwrap();
}

/// The newest checkpoint, verified as the log's.
fn checkpoint(home: &Home) -> (Checkpoint, Note) {
    let text = home.read("checkpoints/checkpoint");
    let key: VerifierKey = home.read("log.vkey").parse().unwrap();
    (Checkpoint::open(&text, key.name(), std::slice::from_ref(&key)).unwrap(), Note::parse(&text).unwrap())
}

/// Why the vault does not start.
fn refusal(home: &Home) -> String {
    Server::launch(home, home.serve_command()).map(drop).expect_err("it must not start")
}

/// Waits until `holds`. It is asked for over and over: there is nothing to wait for but a file of another process.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// Data and checkpoints, everything that a vault writes.
const STATE: [&str; 2] = ["data", "checkpoints"];

fn copy(home: &Home, from: &str, to: &str) {
    for name in STATE {
        let (from, to) = (home.file(&format!("{name}{from}")), home.file(&format!("{name}{to}")));
        let _ = std::fs::remove_dir_all(&to);
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    }
}

#[tokio::test]
async fn every_checkpoint_is_cosigned_and_verifies() {
    let (home, site, witness) = watched();
    let vault = home.serve();
    for _ in 0..3 {
        let size = checkpoint(&home).0.size() + 5;
        tokenize(&vault, &home, 5).await;
        let cosigned = || checkpoint(&home).1.cosigned_by(&site.key()).unwrap().is_some();
        wait_until("the newest checkpoint is cosigned", || checkpoint(&home).0.size() >= size && cosigned());
    }
    let counter = format!("cloakroom_witness_cosignatures_total{{witness=\"{}\"}}", site.key().name());
    assert!(vault.metric(&counter) >= 4, "one at the start, and one for each round");
    stop(vault).await;
    let (last, note) = checkpoint(&home);
    assert!(note.cosigned_by(&site.key()).unwrap().is_some(), "the one at the end, too");
    assert!(last.size() >= 17);
    stop(home.serve()).await;
    witness.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_verifies_that_the_witness_has_cosigned_the_copy_a_05() {
    let (home, site, _witness) = watched();
    let vault = home.serve();
    tokenize(&vault, &home, 3).await;
    let copy = home.file("log.jsonl").display().to_string();
    let exported = home.cli(&vault, "auditor", &["audit", "export", &copy]).output().unwrap();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    stop(vault).await;
    let verify = |key: &Path| {
        let mut command = program();
        command.args(["audit", "verify", &copy, "--key"]).arg(home.file("log.vkey")).arg("--witness").arg(key);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, said) = verify(&site.file("witness.vkey"));
    assert_eq!(status, 0, "{said}");
    assert!(said.contains(&format!("witness      {} cosigned", site.key().name())), "{said}");
    let stranger = Site::init(&home.file("log.vkey"));
    let (status, said) = verify(&stranger.file("witness.vkey"));
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("was cosigned by") && said.contains("NOT VERIFIED"), "{said}");
    assert_eq!(verify(&home.file("log.vkey")).0, 2, "the log's key is no witness's");
}

#[tokio::test]
async fn yesterday_s_copy_of_everything_is_refused_a_05() {
    let (home, site, witness) = watched();
    let vault = home.serve();
    tokenize(&vault, &home, 5).await;
    stop(vault).await;
    copy(&home, "", ".yesterday");
    let vault = home.serve();
    tokenize(&vault, &home, 5).await;
    stop(vault).await;
    copy(&home, "", ".today");
    let (seen, size) = (checkpoint(&home).0.size(), {
        copy(&home, ".yesterday", "");
        checkpoint(&home).0.size()
    });
    assert!(seen > size);
    let said = refusal(&home);
    let expected =
        format!("the witness {} has cosigned this log with {seen} events, but there are {size}", site.key().name());
    assert!(said.contains(&expected), "{expected}\n{said}");
    assert_eq!(checkpoint(&home).0.size(), size, "nothing was changed");
    // That nobody is required does not mean that nobody is believed.
    let mut command = home.serve_command();
    command.env("CLOAKROOM_AUDIT__WITNESSES_REQUIRED", "0");
    assert!(Server::launch(&home, command).map(drop).expect_err("refused all the same").contains(&expected));
    copy(&home, ".today", "");
    stop(home.serve()).await;

    // Without a witness nothing contradicts the copy: it is the witness that has found it.
    copy(&home, ".yesterday", "");
    let whole = home.read("cloakroom.toml");
    home.write("cloakroom.toml", whole.split("[[audit.witnesses]]").next().unwrap());
    let vault = home.serve();
    tokenize(&vault, &home, 20).await;
    stop(vault).await;
    assert!(checkpoint(&home).0.size() > seen);
    // It has grown past what the witness saw, but it is another history.
    home.write("cloakroom.toml", &whole);
    let said = refusal(&home);
    assert!(said.contains(&format!("the witness {} has cosigned another history", site.key().name())), "{said}");
    copy(&home, ".today", "");
    let size = checkpoint(&home).0.size();
    // The start and stop above have moved the witness on; what it saw last is not in this copy.
    assert!(refusal(&home).contains(&format!("but there are {size}")));
    witness.stop();
}

#[tokio::test]
async fn of_two_vaults_on_copies_of_one_log_the_second_history_is_not_cosigned() {
    let (home, site, witness) = watched();
    stop(home.serve()).await;
    let copied = Home::init();
    for name in ["cloakroom.toml", "root.key", "log.key", "log.vkey", "data", "checkpoints"] {
        let (from, to) = (home.file(name), copied.file(name));
        let _ = std::fs::remove_dir_all(&to);
        assert!(Command::new("cp").arg("-aT").arg(from).arg(to).status().unwrap().success());
    }
    let first = home.serve();
    let size = checkpoint(&home).0.size() + 5;
    tokenize(&first, &home, 5).await;
    wait_until("the first goes on", || {
        checkpoint(&home).0.size() >= size && checkpoint(&home).1.cosigned_by(&site.key()).unwrap().is_some()
    });
    // The copy is behind: that is refused. Without a check at its start it would find out a second later.
    let said = refusal(&copied);
    assert!(said.contains("acknowledged events are missing"), "{said}");
    stop(first).await;

    let whole = copied.read("cloakroom.toml");
    copied.write("cloakroom.toml", whole.split("[[audit.witnesses]]").next().unwrap());
    let grown = copied.serve();
    tokenize(&grown, &copied, 60).await;
    stop(grown).await;
    assert!(checkpoint(&copied).0.size() > checkpoint(&home).0.size());
    copied.write("cloakroom.toml", &whole);
    assert!(refusal(&copied).contains("another history"));

    // Both run before either knows of the other: nobody saw a second history when they started.
    let twin = Home::init();
    for name in ["cloakroom.toml", "root.key", "log.key", "log.vkey", "data", "checkpoints"] {
        let (from, to) = (home.file(name), twin.file(name));
        let _ = std::fs::remove_dir_all(&to);
        assert!(Command::new("cp").arg("-aT").arg(from).arg(to).status().unwrap().success());
    }
    let listen = witness.address.to_string();
    witness.kill();
    let vaults = [&home, &twin].map(|home| {
        let mut command = home.serve_command();
        command.env("CLOAKROOM_AUDIT__WITNESSES_REQUIRED", "0");
        Server::launch(home, command).unwrap_or_else(|log| panic!("{log}"))
    });
    let witness = site.serve_at(&listen);
    for (vault, home) in vaults.iter().zip([&home, &twin]) {
        tokenize(vault, home, 5).await;
    }
    let name = site.key().name().to_string();
    let counted = |vault: &Server, reason: &str| {
        vault.metric(&format!("cloakroom_witness_failures_total{{witness=\"{name}\",reason=\"{reason}\"}}"))
    };
    let contradicted = |vault: &Server| counted(vault, "fork") + counted(vault, "ahead") > 0;
    wait_until("one of them is contradicted", || vaults.iter().any(&contradicted));
    let loser = vaults.iter().find(|vault| contradicted(vault)).unwrap();
    assert!(loser.log().contains("a witness contradicts this log"));
    for (vault, home) in vaults.into_iter().zip([&home, &twin]) {
        tokenize(&vault, home, 1).await;
        stop(vault).await;
    }
    let cosigned = [&home, &twin].map(|home| checkpoint(home).1.cosigned_by(&site.key()).unwrap().is_some());
    assert!(cosigned != [true, true], "at most one history is cosigned");
    witness.stop();
}

#[tokio::test]
async fn a_witness_that_is_down_stops_no_call_and_is_asked_again() {
    let (home, site, witness) = watched();
    let vault = home.serve();
    let listen = witness.address.to_string();
    let before = checkpoint(&home).0.size();
    witness.kill();
    tokenize(&vault, &home, 5).await;
    wait_until("a checkpoint is written without it", || {
        checkpoint(&home).0.size() >= before + 5 && checkpoint(&home).1.cosigned_by(&site.key()).unwrap().is_none()
    });
    let name = site.key().name().to_string();
    let failures = format!("cloakroom_witness_failures_total{{witness=\"{name}\",reason=\"failed\"}}");
    wait_until("it is tried again", || vault.metric(&failures) >= 2);
    let warned = |log: &str| log.matches("checkpoints are written without it").count();
    assert_eq!(warned(&vault.log()), 1, "said once\n{}", vault.log());
    // Comes back where it was; no event arrives.
    let size = checkpoint(&home).0.size();
    let witness = site.serve_at(&listen);
    wait_until("the last checkpoint is completed", || checkpoint(&home).1.cosigned_by(&site.key()).unwrap().is_some());
    assert_eq!(checkpoint(&home).0.size(), size, "the very same");
    assert!(vault.log().contains("the witness cosigns again"));
    tokenize(&vault, &home, 1).await;
    stop(vault).await;
    witness.stop();

    let said = refusal(&home);
    assert!(said.contains("0 of the 1 witnesses that are required") && said.contains(&name), "{said}");
    let mut command = home.serve_command();
    command.env("CLOAKROOM_AUDIT__WITNESSES_REQUIRED", "0");
    let vault = Server::launch(&home, command).unwrap_or_else(|log| panic!("{log}"));
    tokenize(&vault, &home, 1).await;
    stop(vault).await;
}

#[tokio::test]
async fn over_https_the_witness_proves_who_it_is() {
    let home = Home::init();
    let site = Site::init(&home.file("log.vkey"));
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(home.file("witness-ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    std::fs::write(site.file("witness.pem"), certificate.pem()).unwrap();
    let mut private = std::fs::File::options();
    let private = private.write(true).create_new(true).mode(0o600).open(site.file("tls.key"));
    private.unwrap().write_all(own.serialize_pem().as_bytes()).unwrap();
    let toml = std::fs::read_to_string(site.file("witness.toml")).unwrap();
    let tls = "[witness]\ncertificate = \"witness.pem\"\nprivate_key = \"tls.key\"";
    std::fs::write(site.file("witness.toml"), toml.replace("[witness]", tls)).unwrap();
    let witness = site.serve();
    site.watch(&home, &format!("https://localhost:{}", witness.address.port()));

    let said = refusal(&home);
    assert!(said.contains("has to prove who it is, but no authorities are given"), "{said}");
    home.append("cloakroom.toml", "ca = \"pki/ca.pem\"\n");
    let said = refusal(&home);
    assert!(said.contains("0 of the 1 witnesses") && said.contains("UnknownIssuer"), "{said}");
    home.replace("cloakroom.toml", "ca = \"pki/ca.pem\"", "ca = \"witness-ca.pem\"");
    let vault = home.serve();
    tokenize(&vault, &home, 3).await;
    stop(vault).await;
    assert!(checkpoint(&home).1.cosigned_by(&site.key()).unwrap().is_some());
    witness.stop();
}

#[tokio::test]
async fn a_log_s_new_key_is_believed_once_the_witness_has_been_told() {
    let (home, site, witness) = watched();
    let rotate =
        program().args(["keys", "rotate-log-key", "--config"]).arg(home.file("cloakroom.toml")).output().unwrap();
    assert!(rotate.status.success(), "{}", String::from_utf8_lossy(&rotate.stderr));
    let (_, note) = checkpoint(&home);
    assert_eq!(note.signatures().len(), 3, "of both keys, and the witness's, who knows the old one");
    assert!(note.cosigned_by(&site.key()).unwrap().is_some());
    let said = refusal(&home);
    assert!(said.contains("0 of the 1 witnesses") && said.contains("it answered 403"), "{said}");
    let listen = witness.address.to_string();
    witness.stop();
    let toml = std::fs::read_to_string(site.file("witness.toml")).unwrap();
    let told = format!("{toml}[[logs]]\nkey = \"{}\"\n", home.read("log.vkey").trim_end());
    std::fs::write(site.file("witness.toml"), told).unwrap();
    let witness = site.serve_at(&listen);
    let vault = home.serve();
    tokenize(&vault, &home, 1).await;
    stop(vault).await;
    assert!(checkpoint(&home).1.cosigned_by(&site.key()).unwrap().is_some());
    witness.stop();
}

// === the witness alone ===

/// A log of the test's own. It has fewer events than fill a tile, so that proofs need no store.
#[derive(Clone)]
struct Log {
    events: Vec<String>,
}

impl Log {
    fn new(events: usize) -> Self {
        Self { events: (0..events).map(|number| format!("event {number}")).collect() }
    }

    /// The same first `size` events, and then others.
    fn fork(&self, size: usize) -> Self {
        let forged =
            |(number, event): (usize, &String)| if number < size { event.clone() } else { format!("not {event}") };
        Self { events: self.events.iter().enumerate().map(forged).collect() }
    }

    fn key() -> LogKey {
        LogKey::from_seed(Name::new("log.example/vault").unwrap(), &SecretKey::new([7; 32]))
    }

    fn site() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log.vkey");
        std::fs::write(&file, format!("{}\n", Self::key().verifier())).unwrap();
        Site::init(&file)
    }

    fn frontier(&self, size: u64) -> Frontier {
        let mut frontier = Frontier::new();
        for event in &self.events[..usize::try_from(size).unwrap()] {
            assert!(frontier.append(leaf_hash(event.as_bytes())).is_empty(), "no tile is full");
        }
        frontier
    }

    fn note(&self, size: u64) -> String {
        let key = Self::key();
        Checkpoint::new(key.name().clone(), size, self.frontier(size).root(), vec![]).unwrap().sign(&[&key])
    }

    fn body(&self, old: u64, size: u64) -> String {
        let tree = self.frontier(size);
        let proof = Tree::new(&tree, |_| Ok::<_, Infallible>(None)).consistency(old, size).unwrap();
        Request { old, proof, note: self.note(size) }.to_body()
    }
}

/// The status and body of the answer; `None` if the connection broke.
fn post(address: SocketAddr, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /add-checkpoint HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().unwrap(), body.to_owned()))
}

/// The size that the witness has cosigned last.
fn size_of(witness: &Witness, log: &Log) -> u64 {
    // From one past the end nothing is ever right, so this changes nothing.
    let most = log.events.len() as u64;
    let wrong = log.body(0, most).replacen("old 0", &format!("old {most}"), 1);
    let (status, body) = post(witness.address, &wrong).unwrap();
    assert_eq!(status, 409, "{body}");
    body.trim_end().parse().unwrap()
}

/// Everything with which a witness touches a file or a socket between a request's first byte and its answer's last.
const STEPS: [&str; 10] =
    ["accept4", "openat", "read", "recvfrom", "write", "writev", "sendto", "fsync", "rename", "close"];

/// What became of a request under which the witness may have been killed.
struct Outcome {
    cosigned: bool,
    killed: bool,
}

/// Kills the witness when one of its threads does `step` for the `number`th time after `body` was sent.
fn killed_at(witness: Witness, step: &str, number: u32, body: &str) -> Outcome {
    let inject = format!("inject={step}:signal=KILL:when={number}");
    let pid = i32::try_from(witness.child.id()).unwrap();
    let strace = Attached::to_process(pid, &["-e", &format!("trace={step}"), "-e", &inject]);
    let answer = post(witness.address, body);
    let killed = post(witness.address, "").is_none();
    drop(strace);
    witness.kill();
    let cosigned = answer.as_ref().is_some_and(|(status, body)| *status == 200 && body.ends_with('\n'));
    assert!(killed || cosigned, "{answer:?}");
    Outcome { cosigned, killed }
}

#[test]
fn killed_between_any_two_steps_it_forgets_nothing_that_it_cosigned_a_05() {
    if !needs::met(&["strace"]) {
        return;
    }
    let log = Log::new(255);
    let site = Log::site();
    let witness = site.serve();
    assert_eq!(post(witness.address, &log.body(0, 2)).unwrap().0, 200);
    witness.kill();
    let (mut last, mut before, mut after, mut between) = (2, 0, 0, 0);
    for step in STEPS {
        for number in 1..20 {
            let next = last + 1;
            let outcome = killed_at(site.serve(), step, number, &log.body(last, next));
            let witness = site.serve();
            let now = size_of(&witness, &log);
            let place = format!("{step} number {number}");
            assert!(
                now == next || (now == last && !outcome.cosigned),
                "{place}: from {last} to {next} it came to {now}"
            );
            match (outcome.killed, now == next, outcome.cosigned) {
                (true, false, _) => before += 1,
                (true, true, false) => between += 1,
                (true, true, true) => after += 1,
                (false, ..) => {}
            }
            // Neither an older size nor another history.
            let forged = log.fork(usize::try_from(now).unwrap() - 1);
            for (old, size) in [(now - 1, now), (now, now), (now, now + 1), (0, now + 1)] {
                let (status, body) = post(witness.address, &forged.body(old, size)).unwrap();
                assert!(status == 409 || status == 422, "{place}: {old} to {size}: {status} {body}");
            }
            assert_eq!(post(witness.address, &log.body(now - 1, now)).unwrap().0, 409);
            assert_eq!(post(witness.address, &log.body(now, now)).unwrap().0, 200, "it goes on from there");
            witness.kill();
            last = now;
            if !outcome.killed {
                break;
            }
            assert!(number < 19, "a request does not take so many of {step}");
        }
    }
    println!("killed {before} times before it was remembered, {between} before it was said, {after} afterwards");
    assert!(before >= 5 && between >= 1, "before {before}, between {between}");
}

#[test]
fn of_requests_at_the_same_time_one_goes_on_from_each_size() {
    let log = Log::new(255);
    let site = Log::site();
    let witness = site.serve();
    let mut last = 0;
    while last < 200 {
        let submit = |size: u64| {
            let (body, address) = (log.body(last, size), witness.address);
            std::thread::spawn(move || (size, post(address, &body).unwrap()))
        };
        let threads: Vec<_> = (1..=8).map(|step| submit(last + step)).collect();
        let answers: Vec<(u64, (u16, String))> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let won: Vec<u64> = answers.iter().filter(|(_, (status, _))| *status == 200).map(|(size, _)| *size).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        assert!(
            answers
                .iter()
                .all(|(size, (status, body))| *size == won[0]
                    || (*status, body.trim_end()) == (409, &*won[0].to_string()))
        );
        last = won[0];
    }
    witness.stop();
}

#[test]
fn a_second_witness_on_the_same_state_and_a_damaged_state_are_refused() {
    let log = Log::new(20);
    let site = Log::site();
    let witness = site.serve();
    assert_eq!(post(witness.address, &log.body(0, 10)).unwrap().0, 200);
    let ended = |output: Output| (output.status.code(), String::from_utf8(output.stderr).unwrap());
    let (status, said) = ended(site.command("127.0.0.1:0").output().unwrap());
    assert!(status == Some(1) && said.contains("in use by another process"), "{status:?} {said}");
    witness.kill();
    let state = std::fs::read_dir(site.file("state")).unwrap().map(|entry| entry.unwrap().path());
    let file = state.into_iter().find(|path| path.file_name().unwrap() != "lock").unwrap();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let (status, said) = ended(site.command("127.0.0.1:0").output().unwrap());
    assert!(status == Some(1) && said.contains("is damaged") && said.contains("must not forget"), "{status:?} {said}");
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(size_of(&site.serve(), &log), 10);
}

#[test]
fn what_is_not_the_protocol_is_answered_and_costs_little() {
    let log = Log::new(20);
    let site = Log::site();
    let witness = site.serve();
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(witness.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may hang up before it has read everything.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    };
    let with = |line: &str, body: &str| {
        format!("{line} HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    for (request, status) in [
        (with("GET /add-checkpoint", ""), "405"),
        (with("POST /", ""), "404"),
        (with("POST /add-checkpoint/", ""), "404"),
        (with("POST /add-checkpoint", "old 0"), "400"),
        (with("POST /add-checkpoint", &"x".repeat(300_000)), "413"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let first = ask(&request);
        assert!(first.contains(&format!(" {status} ")), "{}: {first}", request.lines().next().unwrap());
    }
    // One that says nothing keeps no other waiting.
    let _silent: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(witness.address).unwrap()).collect();
    assert_eq!(post(witness.address, &log.body(0, 20)).unwrap().0, 200);
}
