//! Nothing of a value or a token stays behind: not in files, not in anything that the vault says of itself, and once the
//! last connection has closed not in its memory either. Nothing of a key leaves its memory.
//!
//! Planted secrets go through every kind of call, good and bad, with the vault's own log at its most talkative. Then
//! everything is searched for them. The same search finds some in the memory of a vault that is the same but for the
//! allocator, which does not wipe there.

use crate::harness::{self, Client, Home, Server, eventually, texts};
use crate::needles::{Found, Needles};
use crate::needs;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cloakroom::crypto::{KeyVersion, WRAPPED_KEY_LENGTH};
use cloakroom::keys::authentic;
use cloakroom::keys::provider::{self, Provider};
use cloakroom::proto::v1;
use cloakroom::store::{Order, RocksConfig, RocksStore, Rows, Table};
use prost::Message;
use prost::bytes::{Buf, BufMut};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

const PAGE: usize = 4096;
/// Callers at the same time.
const CROWD: usize = 12;
/// Pages looked at in one go.
const PAGES_A_LOOK: usize = 256;
/// A hundred times what it takes from the end of a connection to the end of all that belonged to it.
const PATIENCE: Duration = Duration::from_mins(1);
/// The most talkative that anyone can ask for, also of the libraries that see requests in clear.
const LEVELS: &str = "trace,h2=trace,h2::codec=trace,h2::proto=trace,h2::hpack=trace,hyper=trace,hyper::proto=trace,\
                      tonic=trace,tonic::transport=trace,tower=trace,rustls=trace,rustls::conn=trace,mio=trace";

/// Those libraries' modules, as the log names them.
const LIBRARIES: [&str; 7] = ["h2::", "hyper::", "hyper_util::", "tonic::", "tower::", "rustls::", "mio::"];

#[tokio::test]
async fn nothing_of_a_value_or_token_stays_behind_a_11() {
    if !needs::met(&["/proc/self/pagemap"]) {
        return;
    }
    let home = Home::init();
    let marker = Marker::plant(&home);
    // A place of its own for what is only there for a while.
    std::fs::create_dir(home.file("tmp")).unwrap();
    let mut serve = talkative(home.serve_command());
    serve.env("TMPDIR", home.file("tmp"));
    let server = Server::launch(&home, serve).unwrap();
    let mut secrets = Secrets::default();
    let mut work = Work::done(&home, &server, &mut secrets).await;
    marker.ask_for(&home, &server).await;
    work.said.extend(on_the_command_line(&home, &server, &mut secrets));
    work.said.extend(views_of_the_log(&home, &server));
    assert!(!in_memory(&marker.needles, server.pid()).names.is_empty(), "the search finds what is in memory");
    let looks = until_gone(&secrets.needles, server.pid());
    let mut outside = Found::default();
    work.said.extend(of_process(&server));
    for (name, bytes) in &work.said {
        secrets.needles.find(bytes, name, &mut outside);
    }
    server.terminate();
    let output = server.rest_of_output().join("\n");
    let log = server.log();
    let chatter = |line: &&str| LIBRARIES.iter().any(|library| line.contains(&format!(" {library}")));
    let chatter = log.lines().filter(|line| line.contains("TRACE") || line.contains("DEBUG")).filter(chatter).count();
    assert_eq!(chatter, 0, "lines of libraries that see requests in clear, in the log");
    drop(server);
    assert_eq!(std::fs::read_dir(home.file("tmp")).unwrap().count(), 0, "nothing is written to a temporary place");
    // A start moves what is in RocksDB's log into table files, so that those are searched as well.
    home.serve().stop();
    let written = [files(&home), vec![("output".to_owned(), output.into_bytes())]].concat();
    // After that: to read the keys the store has to be opened.
    let keys = keys(&home);
    let mut marked = Found::default();
    for (name, bytes) in written.iter().chain(&work.said) {
        secrets.needles.find(bytes, name, &mut outside);
        keys.find(bytes, name, &mut outside);
        marker.needles.find(bytes, name, &mut marked);
    }
    assert!(outside.names.is_empty(), "{:#?}", outside.names);
    for place in [".sst", "audit export", "audit report", "audit query"] {
        assert!(
            marked.names.iter().any(|name| name.contains(place)),
            "the search finds what is in {place}: {marked:?}"
        );
    }
    assert!(written.iter().any(|(name, _)| name.ends_with("/data/LOG")), "what RocksDB says of itself is searched");
    println!(
        "{} secrets went through {} calls: none in {} files, nor in {} statuses, events and metrics, nor in memory (look {looks})",
        secrets.count,
        work.calls,
        written.len(),
        work.said.len(),
    );
}

#[tokio::test]
async fn without_the_wiping_allocator_some_stay_in_memory_a_11() {
    if !needs::met(&["/proc/self/pagemap"]) {
        return;
    }
    let home = Home::init();
    let serve = home.serve_command();
    let mut command = Command::new(unwiped());
    command.args(serve.get_args());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let server = Server::launch(&home, talkative(command)).unwrap();
    let mut secrets = Secrets::default();
    Work::done(&home, &server, &mut secrets).await;
    let found = in_memory(&secrets.needles, server.pid());
    server.kill();
    let of = |what: &str| found.names.iter().filter(|name| name.contains(what)).count();
    println!(
        "without the wiping allocator {} pieces of values and {} of tokens are in memory",
        of("value"),
        of("token")
    );
    assert!(of("value") > 0 && of("token") > 0, "the search would not find what stays behind");
}

/// Kills a vault with a signal after which the system writes down its memory, of whoever lets it.
#[test]
fn a_vault_leaves_no_core_a_11() {
    use std::os::unix::process::ExitStatusExt;
    let home = Home::init();
    let serve = home.serve_command();
    let mut command = Command::new("sh");
    // Whoever starts it allows any core.
    command
        .args(["-c", "ulimit -c unlimited 2>/dev/null || ulimit -c $(ulimit -H -c); cd \"$0\" && exec \"$@\""])
        .arg(home.path());
    command.arg(serve.get_program()).args(serve.get_args());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let server = Server::launch(&home, command).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["0", "0", "bytes"]);
    let pid = rustix::process::Pid::from_raw(server.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
    let status = server.wait();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false), "{status}");
    let left = std::fs::read_dir(home.path()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with("core")));
    home.serve().stop();
}

/// The same program without the wiping allocator. Cargo builds examples together with the tests.
fn unwiped() -> PathBuf {
    let program = Path::new(harness::PROGRAM).parent().unwrap().join("examples/unwiped");
    assert!(program.exists(), "build it first: cargo build --release --locked --example unwiped --test tidy");
    program
}

fn talkative(mut serve: Command) -> Command {
    serve.env("CLOAKROOM_LOG", LEVELS);
    serve
}

/// Looks again and again until nothing is found: a connection's socket closes a moment before what belonged to it is
/// freed. Says how many looks that took.
fn until_gone(needles: &Needles, pid: i32) -> usize {
    let begin = Instant::now();
    for looks in 1.. {
        let found = in_memory(needles, pid);
        if found.names.is_empty() {
            return looks;
        }
        assert!(begin.elapsed() < PATIENCE, "still in memory: {:#?}", found.names);
        println!("look {looks}: {} pieces, such as {:?}", found.names.len(), found.names.first());
    }
    unreachable!("it ends by a look or by the clock")
}

// === other ways in and out ===

/// Values and tokens, good and bad, through the client on the command line. What it says of them, without what was asked
/// for.
fn on_the_command_line(home: &Home, server: &Server, secrets: &mut Secrets) -> Vec<(String, Vec<u8>)> {
    let mut said = Vec::new();
    let mut run = |name: &str, words: &[&str], input: &[u8], answered: bool| {
        let file = home.file("input");
        std::fs::write(&file, input).unwrap();
        let mut command = home.cli(server, name, words);
        let output = command.stdin(File::open(&file).unwrap()).output().unwrap();
        std::fs::remove_file(&file).unwrap();
        said.push((format!("what {words:?} complains about"), output.stderr));
        if !answered {
            said.push((format!("what {words:?} answers"), output.stdout.clone()));
        }
        output.stdout
    };
    let tokenize = ["tokenize", "--scope", "pan"];
    let value = secrets.text("a value in a line");
    let tokens = run("gateway", &tokenize, format!("{value}\n").as_bytes(), true);
    let tokens = String::from_utf8(tokens).unwrap();
    secrets.token("a token in a line", tokens.trim());
    // Refused: for its length, as no base64, as no JSON, by policy.
    let long = secrets.text("a long value in a line").repeat(3_000);
    run("gateway", &tokenize, format!("{long}\n").as_bytes(), false);
    let wrong = format!("{}!\n", secrets.text("a value that is no base64"));
    run("gateway", &[&tokenize[..], &["--input", "base64"]].concat(), wrong.as_bytes(), false);
    let wrong = format!("{{\"value\": \"{}\n", secrets.text("a value in what is no JSON"));
    run("gateway", &[&tokenize[..], &["--input", "ndjson"]].concat(), wrong.as_bytes(), false);
    run("payments", &tokenize, format!("{}\n", secrets.text("a value that may not come in")).as_bytes(), false);
    let detokenize = ["detokenize", "--scope", "pan", "--purpose", "test"];
    run("payments", &detokenize, tokens.as_bytes(), true);
    let stray = format!("{}\npan_{}\n", secrets.text("no token in a line"), secrets.text("hardly a token in a line"));
    run("payments", &detokenize, stray.as_bytes(), false);
    run("auditor", &detokenize, tokens.as_bytes(), false);
    run("operator", &["inspect", "--scope", "pan"], stray.as_bytes(), false);
    run("operator", &["revoke", "--scope", "ssn"], tokens.as_bytes(), false);
    said
}

/// The log in every form in which it leaves the vault by itself.
fn views_of_the_log(home: &Home, server: &Server) -> Vec<(String, Vec<u8>)> {
    let run = |words: &[&str]| {
        let output = home.cli(server, "auditor", words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        [output.stdout, output.stderr].concat()
    };
    let (lines, page) = (home.file("export.jsonl"), home.file("report.html"));
    let words = |path: &Path| path.display().to_string();
    let mut views = vec![
        ("what audit export says".to_owned(), run(&["audit", "export", &words(&lines)])),
        ("what audit report says".to_owned(), run(&["audit", "report", &words(&page)])),
        ("audit query as a table".to_owned(), run(&["audit", "query", "--limit", "0", "--output", "text"])),
    ];
    views.push(("audit export".to_owned(), std::fs::read(lines).unwrap()));
    views.push(("audit report".to_owned(), std::fs::read(page).unwrap()));
    views
}

// === planting ===

/// Everything that must not be found.
#[derive(Default)]
pub(crate) struct Secrets {
    needles: Needles,
    count: usize,
}

impl Secrets {
    /// The names of those that are in `bytes`, in any form that is looked for.
    pub(crate) fn found_in(&self, bytes: &[u8], place: &str) -> Vec<String> {
        assert!(self.count > 0, "nothing was planted");
        let mut found = Found::default();
        self.needles.find(bytes, place, &mut found);
        found.names.into_iter().collect()
    }

    /// 32 random characters.
    fn text(&mut self, name: &str) -> String {
        const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
        let mut random = [0; 32];
        getrandom::fill(&mut random).unwrap();
        let text: String =
            random.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect();
        self.plant(name, text.as_bytes());
        text
    }

    /// 32 random bytes.
    fn bytes(&mut self, name: &str) -> Vec<u8> {
        let mut random = vec![0; 32];
        getrandom::fill(&mut random).unwrap();
        self.plant(name, &random);
        random
    }

    /// A token: its text behind the prefix, and the random bytes that it stands for.
    fn token(&mut self, name: &str, token: &str) {
        let (prefix, number) = token.split_once('_').unwrap();
        self.plant(name, number.as_bytes());
        let parsed = cloakroom::token::opaque::parse(token).unwrap_or_else(|_| panic!("a token can be read"));
        self.plant(&format!("{name}, its bytes"), &parsed.canonical.expose()[prefix.len()..]);
    }

    fn plant(&mut self, name: &str, secret: &[u8]) {
        self.count += 1;
        self.needles.add(name, secret);
    }
}

/// Something that is no secret and has to be found, in memory and on disk: a scope's name.
struct Marker {
    name: String,
    needles: Needles,
}

impl Marker {
    fn plant(home: &Home) -> Self {
        let mut random = [0; 16];
        getrandom::fill(&mut random).unwrap();
        let name = format!("m{}", hex::encode(random));
        home.add_scope(&name, "mark", "");
        let mut needles = Needles::default();
        needles.add("the marker", name.as_bytes());
        Self { name, needles }
    }

    /// Brings it into the log.
    async fn ask_for(&self, home: &Home, server: &Server) {
        let gateway = server.client(&home.identity("gateway")).await;
        let items = vec![harness::item(b"1")];
        let request = v1::TokenizeRequest { scope: self.name.clone(), items, ..Default::default() };
        assert!(gateway.tokens().tokenize(request).await.is_err(), "no policy permits it");
    }
}

/// What was done to a vault, and what it said.
pub(crate) struct Work {
    calls: u64,
    /// What clients were told, without values and tokens: statuses and events; and the metrics.
    said: Vec<(String, Vec<u8>)>,
}

/// The clients of one vault.
struct Clients {
    gateway: Client,
    payments: Client,
    operator: Client,
    auditor: Client,
}

impl Work {
    /// Has secrets go through every kind of call, then closes all connections and waits until the vault has.
    pub(crate) async fn done(home: &Home, server: &Server, secrets: &mut Secrets) -> Self {
        let before = sockets(server.pid());
        let clients = Clients {
            gateway: server.client(&home.identity("gateway")).await,
            payments: server.client(&home.identity("payments")).await,
            operator: server.client(&home.identity("operator")).await,
            auditor: server.client(&home.identity("auditor")).await,
        };
        let tokens = good_calls(&clients, secrets).await;
        let mut said = refused_calls(&clients, secrets, &tokens).await;
        said.extend(malformed_calls(&clients, secrets, &tokens).await);
        crowd(home, server, secrets).await;
        said.push(("the metrics".to_owned(), server.get("/metrics").1.into_bytes()));
        for event in clients.auditor.events(v1::AuditFilter::default()).await {
            said.push((format!("event {}", event.sequence), event.encode_to_vec()));
        }
        let calls = calls(&server.get("/metrics").1);
        drop(clients);
        eventually("the vault closes what its clients closed", async || {
            (sockets(server.pid()) == before).then_some(())
        })
        .await;
        Self { calls, said }
    }
}

/// All that were counted, whatever their method and code.
fn calls(metrics: &str) -> u64 {
    let counted = metrics.lines().filter(|line| line.starts_with("cloakroom_calls_total{"));
    counted.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// Values in, values out, masked, looked at, revoked; and what the auditor asks about them. Returns live tokens.
async fn good_calls(clients: &Clients, secrets: &mut Secrets) -> Vec<String> {
    let mut live = Vec::new();
    for scope in ["pan", "ssn", "email"] {
        let mut values: Vec<Vec<u8>> = vec![secrets.text(&format!("a value of {scope}")).into_bytes()];
        for number in 0..20 {
            values.push(secrets.bytes(&format!("value {number} of {scope}")));
        }
        // Longer than a TLS record and than a frame of HTTP/2.
        values.push(secrets.text(&format!("a long value of {scope}")).repeat(1_000).into_bytes());
        values.push(secrets.text(&format!("another long value of {scope}")).repeat(300).into_bytes());
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        // Two one by one, the others in one batch.
        let (single, batch) = values.split_at(2);
        let mut tokens = texts(&clients.gateway.tokenize(scope, batch).await);
        for value in single {
            tokens.extend(texts(&clients.gateway.tokenize(scope, &[value]).await));
        }
        for (number, token) in tokens.iter().enumerate() {
            secrets.token(&format!("token {number} of {scope}"), token);
        }
        let reveal = if scope == "ssn" { v1::Reveal::Masked } else { v1::Reveal::Full };
        for asked in [tokens.clone(), vec![tokens[6].clone()]] {
            let request = v1::DetokenizeRequest {
                scope: scope.to_owned(),
                tokens: asked,
                purpose: "test".to_owned(),
                reveal: reveal.into(),
                ..Default::default()
            };
            let answer = clients.payments.tokens().detokenize(request).await;
            assert_eq!(answer.is_ok(), scope != "email", "payments may not see these");
        }
        let inspect =
            v1::InspectTokensRequest { scope: scope.to_owned(), tokens: tokens.clone(), ..Default::default() };
        clients.operator.tokens().inspect_tokens(inspect).await.unwrap();
        let ended = tokens[..4].to_vec();
        let revoke = v1::RevokeTokensRequest { scope: scope.to_owned(), tokens: ended, ..Default::default() };
        clients.operator.tokens().revoke_tokens(revoke).await.unwrap();
        let filter = v1::AuditFilter { scope: scope.to_owned(), token: tokens[1].clone(), ..Default::default() };
        assert!(!clients.auditor.events(filter).await.is_empty());
        live.push(tokens[7].clone());
    }
    live
}

/// The statuses that clients got.
#[derive(Default)]
struct Statuses(Vec<(String, Vec<u8>)>);

impl Statuses {
    /// Notes the status of a call that must fail as a whole.
    fn of_call<T>(&mut self, what: &str, answer: Result<T, Status>) {
        let Err(status) = answer else { panic!("{what} succeeded") };
        self.0.push((format!("the words of the status: {what}"), format!("{status:?}").into_bytes()));
        self.0.push((format!("the details of the status: {what}"), status.details().to_vec()));
    }

    /// Notes the statuses of items that must fail each.
    fn of_items(&mut self, what: &str, statuses: impl Iterator<Item = tonic_types::Status>) {
        let before = self.0.len();
        self.0.extend(statuses.map(|status| (format!("the status of an item: {what}"), status.encode_to_vec())));
        assert!(self.0.len() > before, "{what}: no item was refused");
    }
}

/// Calls that are well formed, and refused: as a whole or item by item. Returns what was said.
async fn refused_calls(clients: &Clients, secrets: &mut Secrets, tokens: &[String]) -> Vec<(String, Vec<u8>)> {
    let [pan, ssn, _] = tokens else { panic!("a token for each scope") };
    let mut said = Statuses::default();
    let all = |scope: &str, tokens: &[&String]| v1::DetokenizeRequest {
        scope: scope.to_owned(),
        tokens: tokens.iter().map(ToString::to_string).collect(),
        purpose: "test".to_owned(),
        ..Default::default()
    };
    // Another scope's token; one that was mangled; what is none at all.
    let mangled = format!("{}{}", &pan[..pan.len() - 1], if pan.ends_with('x') { 'y' } else { 'x' });
    let stray = secrets.text("no token");
    let prefixed = format!("pan_{}", secrets.text("hardly a token"));
    let answer = clients.payments.tokens().detokenize(all("pan", &[ssn, &mangled, &stray, &prefixed])).await.unwrap();
    let errors = answer.into_inner().results.into_iter().map(|result| match result.outcome {
        Some(v1::detokenize_result::Outcome::Error(status)) => status,
        _ => panic!("none of these is a token of the scope"),
    });
    said.of_items("what is no token", errors);
    // Who may not.
    said.of_call("the gateway asks", clients.gateway.tokens().detokenize(all("pan", &[pan])).await);
    said.of_call("masked only", clients.payments.tokens().detokenize(all("ssn", &[ssn])).await);
    said.of_call("the auditor asks", clients.auditor.tokens().detokenize(all("pan", &[pan])).await);
    // Secrets where they do not belong.
    let misplaced = secrets.text("a value as a scope");
    said.of_call("a value as a scope", clients.payments.tokens().detokenize(all(&misplaced, &[pan])).await);
    let purpose = format!("{} {}", secrets.text("a value as a purpose"), "and on and on".repeat(5));
    let request = v1::DetokenizeRequest { purpose, ..all("pan", &[pan]) };
    said.of_call("a value as a purpose", clients.payments.tokens().detokenize(request).await);
    let request = v1::DetokenizeRequest { nonce: secrets.bytes("a value as a nonce"), ..all("pan", &[pan]) };
    said.of_call("a value as a nonce", clients.payments.tokens().detokenize(request).await);
    let request = v1::DetokenizeRequest { request_id: secrets.text("a value as a request id"), ..all("pan", &[pan]) };
    said.of_call("a value as a request id", clients.payments.tokens().detokenize(request).await);
    let reason = format!("{}\n", secrets.text("a value as a reason"));
    let request =
        v1::RevokeTokensRequest { scope: "pan".to_owned(), tokens: vec![pan.clone()], reason, ..Default::default() };
    said.of_call("a value as a reason", clients.operator.tokens().revoke_tokens(request).await);
    let filter =
        v1::AuditFilter { token: secrets.text("no token, asked for"), scope: "pan".to_owned(), ..Default::default() };
    let request = v1::QueryEventsRequest { filter: Some(filter), ..Default::default() };
    said.of_call("a question about no token", clients.auditor.audit().query_events(request).await);
    refused_items(clients, secrets, &mut said).await;
    said.0
}

/// Items that are refused for what they are, in a call that is good, and in one that is not permitted.
async fn refused_items(clients: &Clients, secrets: &mut Secrets, said: &mut Statuses) {
    let too_large = secrets.text("a value that is too large").repeat(3_000).into_bytes();
    let items = vec![
        v1::TokenizeItem {
            ttl: harness::duration(-1, 0),
            ..harness::item(&secrets.bytes("a value with a bad lifetime"))
        },
        v1::TokenizeItem { subject: "s".to_owned(), ..harness::item(&secrets.bytes("a value with a subject")) },
        v1::TokenizeItem { value: too_large, ..Default::default() },
    ];
    let request = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
    said.of_call("payments tokenizes", clients.payments.tokens().tokenize(request.clone()).await);
    let answer = clients.gateway.tokens().tokenize(request).await.unwrap();
    let errors = answer.into_inner().results.into_iter().filter_map(|result| match result.outcome {
        Some(v1::tokenize_result::Outcome::Error(status)) => Some(status),
        _ => None,
    });
    said.of_items("what is no good item", errors);
}

/// What is no request, or is none any more. Returns what was said.
async fn malformed_calls(clients: &Clients, secrets: &mut Secrets, tokens: &[String]) -> Vec<(String, Vec<u8>)> {
    let mut said = Statuses::default();
    let items = vec![harness::item(&secrets.bytes("a value in a malformed message"))];
    let good = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() }.encode_to_vec();
    let mut bodies = vec![
        good[..good.len() - 3].to_vec(),
        [good.as_slice(), &[0xff; 12]].concat(),
        // The scope as a number; an item as a number; text that is not UTF-8.
        [good.as_slice(), &[0x08, 1]].concat(),
        [good.as_slice(), &[0x10, 1]].concat(),
        [good.as_slice(), &[0x0a, 2, 0xff, 0xfe]].concat(),
    ];
    let text = secrets.text("a value that is no message");
    bodies.push(text.clone().into_bytes());
    // More than a message may have.
    bodies.push([good.as_slice(), &[0x12, 0x80, 0x80, 0x80, 4], text.repeat(300_000).as_bytes()].concat());
    for method in ["TokenService/Tokenize", "TokenService/Detokenize", "AuditService/QueryEvents", "TokenService/None"]
    {
        for body in &bodies {
            said.of_call("a malformed message", raw(&clients.gateway, method, body.clone()).await);
        }
    }
    // Secrets in metadata, and more of them than are taken.
    for length in [1, 2_000] {
        let value = secrets.text("a value in metadata").repeat(length);
        let mut request = Request::new(v1::DetokenizeRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {value}").parse().unwrap());
        said.of_call("a value in metadata", clients.payments.tokens().detokenize(request).await);
    }
    given_up(clients, secrets, &tokens[0]).await;
    said.0
}

/// Calls that nobody waits for any more: some before they are sent, some while the vault works, some after the answer came.
async fn given_up(clients: &Clients, secrets: &mut Secrets, token: &str) {
    for steps in (0..8_000).step_by(200) {
        let value = secrets.bytes("a value that nobody waits for");
        let token = [token.to_owned()];
        let patience = async {
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = async { clients.gateway.tokenize("pan", &[&value]).await } => {}
            _ = async { clients.payments.detokenize("pan", &token).await } => {}
            () = patience => {}
        }
    }
}

/// Many connections, so that all network threads have some, and their calls meet in the writer.
async fn crowd(home: &Home, server: &Server, secrets: &mut Secrets) {
    let mut callers = JoinSet::new();
    for caller in 0..CROWD {
        let gateway = server.client(&home.identity("gateway")).await;
        let payments = server.client(&home.identity("payments")).await;
        let values: Vec<Vec<u8>> = (0..8).map(|number| secrets.bytes(&format!("value {number} of {caller}"))).collect();
        callers.spawn(async move {
            let mut tokens = Vec::new();
            for pair in values.chunks(2) {
                let pair: Vec<&[u8]> = pair.iter().map(Vec::as_slice).collect();
                let issued = texts(&gateway.tokenize("pan", &pair).await);
                assert_eq!(payments.detokenize("pan", &issued).await.unwrap().len(), 2);
                tokens.extend(issued);
            }
            tokens
        });
    }
    for token in callers.join_all().await.concat() {
        secrets.token("a token of many callers", &token);
    }
}

/// Calls a method of the vault with any bytes as its message.
async fn raw(client: &Client, method: &str, body: Vec<u8>) -> Result<(), Status> {
    let path = format!("/cloakroom.v1.{method}").parse().unwrap();
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    grpc.unary(Request::new(body), path, Plain).await.map(drop)
}

/// Bytes as they are.
#[derive(Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

// === searching ===

/// How many sockets a process has.
fn sockets(pid: i32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// Looks through every page that the process has in memory.
fn in_memory(needles: &Needles, pid: i32) -> Found {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let pages = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let mut found = Found::default();
    let mut looked_at = 0;
    for region in maps.lines() {
        let mut words = region.split_whitespace();
        let (begin, end) = words.next().unwrap().split_once('-').unwrap();
        let name = words.nth(4).unwrap_or("anonymous memory");
        let (begin, end) = (u64::from_str_radix(begin, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        // The kernel's own pages.
        if !name.starts_with("[v") {
            looked_at += in_region(needles, (begin, end), name, &memory, &pages, &mut found);
        }
    }
    assert!(looked_at > 1_000, "only {looked_at} pages could be read");
    found
}

/// Returns how many pages there were.
fn in_region(
    needles: &Needles,
    (begin, end): (u64, u64),
    name: &str,
    memory: &File,
    pages: &File,
    found: &mut Found,
) -> usize {
    let (page, overlap) = (PAGE as u64, needles.overlap());
    let mut looked_at = 0;
    let mut text: Vec<u8> = Vec::new();
    let mut flags = vec![0; PAGES_A_LOOK * 8];
    for at in (begin..end).step_by(PAGE * PAGES_A_LOOK) {
        let count = usize::try_from((end - at) / page).unwrap().min(PAGES_A_LOOK);
        let known = pages.read_exact_at(&mut flags[..count * 8], at / page * 8).is_ok();
        for (address, flags) in (at..).step_by(PAGE).zip(flags[..count * 8].chunks_exact(8)) {
            // The highest bit says that the page is there, the next that it was swapped out.
            let is_there = flags[7] & 0xc0 != 0;
            let mut content = [0; PAGE];
            if known && is_there && memory.read_exact_at(&mut content, address).is_ok() {
                text.extend_from_slice(&content);
                looked_at += 1;
            } else {
                needles.find(&text, name, found);
                text.clear();
            }
        }
        needles.find(&text, name, found);
        text.drain(..text.len().saturating_sub(overlap));
    }
    looked_at
}

/// What the system tells anyone about the process.
fn of_process(server: &Server) -> Vec<(String, Vec<u8>)> {
    let read = |name: &str| std::fs::read(format!("/proc/{}/{name}", server.pid())).unwrap();
    ["cmdline", "environ", "comm"].map(|name| (name.to_owned(), read(name))).into()
}

/// All files that the vault has written, and what it wrote to standard error.
fn files(home: &Home) -> Vec<(String, Vec<u8>)> {
    let mut folders = vec![home.file("data"), home.file("checkpoints")];
    let logs = std::fs::read_dir(home.path()).unwrap().flatten().map(|file| file.path());
    let mut paths: Vec<PathBuf> =
        logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    assert!(!paths.is_empty(), "the log is there");
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { paths.push(path) }
        }
    }
    paths.into_iter().map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

/// Every key of the vault, in clear.
fn keys(home: &Home) -> Needles {
    let mut needles = Needles::default();
    let root_file = home.read("root.key");
    needles.add("the root key", &hex::decode(root_file.trim().rsplit_once(':').unwrap().1).unwrap());
    // `PRIVATE+KEY+name+hash+key`, and the key may have the sign in it, too.
    let log_key = BASE64.decode(home.read("log.key").trim().splitn(5, '+').last().unwrap()).unwrap();
    needles.add("the log key", &log_key[1..]);
    let server_key: String = home.read("pki/server.key").lines().filter(|line| !line.starts_with('-')).collect();
    // In PKCS #8 the secret number of a P-256 key stands here.
    needles.add("the server's private key", &BASE64.decode(server_key).unwrap()[36..68]);
    let root = provider::File::new(home.file("root.key")).root_key().unwrap();
    let store = RocksStore::open(&home.file("data"), &RocksConfig::default()).unwrap();
    let (genesis, meta) = cloakroom::ledger::identify(&store, &root).unwrap();
    let rows = store.scan(Table::Keys, &[], &[0xff], Order::Ascending, usize::MAX).unwrap();
    for (row_key, row) in &rows {
        let content = authentic::open(&meta, Table::Keys, row_key, row).unwrap();
        let id = std::str::from_utf8(&row_key[..row_key.len() - 5]).unwrap();
        let wrapped = &content[content.len() - WRAPPED_KEY_LENGTH..];
        let key = root.unwrap(&genesis.vault, id, KeyVersion(1), wrapped).unwrap();
        needles.add(&format!("the key {id}"), key.expose());
    }
    assert_eq!(rows.len(), 6, "index, request, state, and three scopes");
    needles
}
