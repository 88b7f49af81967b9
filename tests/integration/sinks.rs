//! Audit events on their way to a SIEM, from the real program over mutual TLS to a receiver of syslog, and over HTTP to a
//! collector. Both receivers are written from the standards and share nothing with what sends.

#[expect(dead_code, reason = "the tests of single messages ask for more of it")]
#[path = "../../src/export/tests/parser.rs"]
mod parser;

use crate::harness::{Home, Identity, Server, eventually, program};
use crate::memory::{Secrets, Work};
use crate::needs;
use crate::promises::{Dice, Plan, run};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// A hundred times what anything here takes.
const PATIENCE: Duration = Duration::from_mins(2);
const KILLS: usize = 5;

// === the receivers ===

/// What a receiver was sent, each event as JSON text.
struct Receiver {
    port: u16,
    seen: watch::Receiver<Vec<String>>,
    /// Everything as it came, undecoded.
    raw: watch::Receiver<Vec<u8>>,
    /// Connections that the vault ended in order.
    ended: watch::Receiver<u32>,
    task: tokio::task::JoinHandle<()>,
}

struct Book {
    seen: watch::Sender<Vec<String>>,
    raw: watch::Sender<Vec<u8>>,
    ended: watch::Sender<u32>,
}

impl Receiver {
    /// A receiver of syslog over TLS 1.3, which wants a certificate of the authority `siem`.
    async fn syslog(home: &Home, port: u16) -> Self {
        let tls = TlsAcceptor::from(Arc::new(server_tls(home)));
        Self::start(port, move |stream, book| {
            let tls = tls.clone();
            async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                let mut buffer = Vec::new();
                loop {
                    match stream.read_buf(&mut buffer).await {
                        // Only after a close_notify: without one this is an error.
                        Ok(0) => {
                            book.ended.send_modify(|ended| *ended += 1);
                            return;
                        }
                        Ok(_) => {}
                        Err(_) => return,
                    }
                    while let Some((message, rest)) = parser::first_frame(&buffer).unwrap() {
                        book.raw.send_modify(|raw| raw.extend_from_slice(message));
                        let text = parser::message(message).unwrap().text;
                        book.seen.send_modify(|seen| seen.push(String::from_utf8(text).unwrap()));
                        buffer = rest.to_vec();
                    }
                }
            }
        })
        .await
    }

    /// A collector of OTLP over HTTP, without TLS.
    async fn otlp() -> Self {
        Self::start(0, |mut stream, book| async move {
            let mut buffer = Vec::new();
            while let Some(body) = request(&mut stream, &mut buffer).await {
                book.raw.send_modify(|raw| raw.extend_from_slice(&body));
                let texts = bodies(&body);
                book.seen.send_modify(|seen| seen.extend(texts));
                let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    async fn start<F: Future<Output = ()> + Send + 'static>(
        port: u16,
        serve: impl Fn(TcpStream, Arc<Book>) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, sees) = watch::channel(Vec::new());
        let (raw, raws) = watch::channel(Vec::new());
        let (ended, ends) = watch::channel(0);
        let book = Arc::new(Book { seen, raw, ended });
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&book)));
            }
        });
        Self { port, seen: sees, raw: raws, ended: ends, task }
    }

    fn events(&self) -> Vec<serde_json::Value> {
        self.seen.borrow().iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    fn sequences(&self) -> Vec<u64> {
        self.events().iter().map(sequence).collect()
    }

    /// Until so many different events are there.
    async fn until_all(&self, events: u64) {
        let mut seen = self.seen.clone();
        let last = format!("\"sequence\":{},", events - 1);
        let came =
            tokio::time::timeout(PATIENCE, seen.wait_for(|seen| seen.iter().any(|text| text.contains(&last)))).await;
        drop(came.expect("this was never sent").unwrap());
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// In the vault's own JSON, or in OCSF.
fn sequence(event: &serde_json::Value) -> u64 {
    event["sequence"].as_u64().or_else(|| event["metadata"]["sequence"].as_u64()).unwrap()
}

fn server_tls(home: &Home) -> rustls::ServerConfig {
    let identity = siem(home);
    let (certificate, key) = identity.files.unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(home.file("pki/siem.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build().unwrap();
    rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap()
}

/// The receiver's certificate, for 127.0.0.1, of an authority of its own.
fn siem(home: &Home) -> Identity {
    home.existing_authority("siem").client_with("spiffe://siem.example/receiver", |params| {
        params.subject_alt_names = vec![rcgen::SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    })
}

/// Adds a sink of syslog on `port`, with a certificate that the receiver wants to see.
fn add_syslog(home: &Home, port: u16, more: &str) {
    let client = home.existing_authority("siem").client("spiffe://siem.example/vault").files.unwrap();
    let table = format!(
        "[[audit.sinks]]\nname = \"siem\"\ntype = \"syslog\"\naddress = \"127.0.0.1:{port}\"\nca = \"pki/siem.pem\"\n\
         certificate = \"{}\"\nprivate_key = \"{}\"\n{more}\n",
        client.0.display(),
        client.1.display()
    );
    home.append("cloakroom.toml", &table);
}

fn add_otlp(home: &Home, name: &str, port: u16, more: &str) {
    let table =
        format!("[[audit.sinks]]\nname = \"{name}\"\ntype = \"otlp\"\naddress = \"http://127.0.0.1:{port}\"\n{more}\n");
    home.append("cloakroom.toml", &table);
}

/// The body of the next request; `None` when there is none any more.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            assert!(head.starts_with("post /v1/logs http/1.1\r\n"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let whole = end + 4 + length.trim().parse::<usize>().unwrap();
            if buffer.len() >= whole {
                let body = buffer[end + 4..whole].to_vec();
                buffer.drain(..whole);
                return Some(body);
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The bodies of the records of a request: `resource_logs = 1`, `scope_logs = 2`, `log_records = 2`, `body = 5`,
/// `string_value = 1`.
fn bodies(request: &[u8]) -> Vec<String> {
    let mut level = vec![request.to_vec()];
    for tag in [1, 2, 2, 5, 1] {
        level = level.iter().flat_map(|message| fields(message, tag)).collect();
    }
    level.into_iter().map(|text| String::from_utf8(text).unwrap()).collect()
}

/// The length-delimited fields of this number.
fn fields(mut message: &[u8], tag: u32) -> Vec<Vec<u8>> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    let mut found = Vec::new();
    while !message.is_empty() {
        let (number, kind) = decode_key(&mut message).unwrap();
        if number == tag && kind == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut message).unwrap()).unwrap();
            let (content, rest) = message.split_at(length);
            found.push(content.to_vec());
            message = rest;
        } else {
            skip_field(kind, number, &mut message, DecodeContext::default()).unwrap();
        }
    }
    found
}

/// Each sequence for the first time in order and without a gap, from 0 to before `end`.
fn assert_no_gap(name: &str, seen: &[u64], end: u64) {
    let mut next = 0;
    for sequence in seen {
        assert!(*sequence <= next, "{name}: {sequence} came before {next}");
        next = next.max(sequence + 1);
    }
    assert_eq!(next, end, "{name}");
}

/// The log as an auditor gets it, as JSON lines.
fn query(home: &Home, server: &Server) -> Vec<String> {
    let output = home.cli(server, "auditor", &["audit", "query", "--output", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The value of a gauge of a sink, as it is written.
fn gauge(server: &Server, name: &str, sink: &str) -> f64 {
    let (_, body) = server.get("/metrics");
    let start = format!("{name}{{sink=\"{sink}\"}} ");
    body.lines().find_map(|line| line.strip_prefix(&start)).map_or(f64::NAN, |value| value.parse().unwrap())
}

async fn until_gauge(server: &Server, name: &str, sink: &str, right: impl Fn(f64) -> bool) {
    eventually(&format!("{name} of {sink}"), async || right(gauge(server, name, sink)).then_some(())).await;
}

fn is_zero(value: f64) -> bool {
    value.abs() < f64::EPSILON
}

fn is_one(value: f64) -> bool {
    (value - 1.0).abs() < f64::EPSILON
}

// === the tests ===

#[tokio::test(flavor = "multi_thread")]
async fn sinks_get_what_the_auditor_gets() {
    let home = Home::init();
    home.new_authority("siem");
    let (syslog, otlp, ocsf) = (Receiver::syslog(&home, 0).await, Receiver::otlp().await, Receiver::otlp().await);
    add_syslog(&home, syslog.port, "");
    add_otlp(&home, "plain", otlp.port, "");
    add_otlp(&home, "ocsf", ocsf.port, "format = \"ocsf\"");
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    for number in 0..50 {
        gateway.tokenize("pan", &[format!("value {number}").as_bytes(), b"another"]).await;
    }
    let asked = query(&home, &server);
    let all = asked.len() as u64;
    assert!(all > 50, "{all}");
    for receiver in [&syslog, &otlp, &ocsf] {
        receiver.until_all(all).await;
    }
    let (from_syslog, from_otlp) = (syslog.seen.borrow().clone(), otlp.seen.borrow().clone());
    assert_eq!(from_otlp[..asked.len()], asked, "to a collector the very same text goes");
    let parsed = |text: &String| serde_json::from_str::<serde_json::Value>(text).unwrap();
    for (sent, asked) in from_syslog.iter().zip(&asked) {
        assert_eq!(parsed(sent), parsed(asked));
    }
    for (object, asked) in ocsf.events().iter().zip(&asked) {
        assert_eq!(object["class_uid"], 6003);
        assert_eq!(object["metadata"]["sequence"], parsed(asked)["sequence"]);
        assert_eq!(object["actor"]["user"]["uid"], parsed(asked)["caller"]);
    }
    for sink in ["siem", "plain", "ocsf"] {
        until_gauge(&server, "cloakroom_sink_lag_events", sink, is_zero).await;
        assert!(is_zero(gauge(&server, "cloakroom_sink_stuck", sink)), "{sink}");
        assert!(gauge(&server, "cloakroom_sink_sent_events_total", sink) >= all as f64, "{sink}");
    }
    let (log, before) = (server.log(), otlp.sequences().len() as u64);
    assert!(!log.contains("takes no events"), "{log}");
    server.stop();
    let mut ended = syslog.ended.clone();
    let told = tokio::time::timeout(PATIENCE, ended.wait_for(|ended| *ended == 1)).await;
    drop(told.expect("the receiver is told that nothing was cut off").unwrap());
    // The next start sends what the stop wrote, and not all over again.
    let server = home.serve();
    let asked = query(&home, &server).len() as u64;
    for receiver in [&syslog, &otlp, &ocsf] {
        receiver.until_all(asked).await;
        assert_no_gap("after a restart", &receiver.sequences()[..], receiver.sequences().iter().max().unwrap() + 1);
    }
    assert_eq!(
        otlp.sequences().len() as u64,
        *otlp.sequences().last().unwrap() + 1,
        "none came twice ({before} before)"
    );
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_sending_and_cursor_loses_nothing() {
    let home = Home::init();
    home.new_authority("siem");
    let (syslog, otlp) = (Receiver::syslog(&home, 0).await, Receiver::otlp().await);
    add_syslog(&home, syslog.port, "");
    add_otlp(&home, "collector", otlp.port, "");
    let mut server = home.serve();
    for kill in 1..=KILLS {
        let seed = Dice::seed();
        let plan = Plan { seed, callers: 16, calls: 150 + Dice(seed).below(150), stamp: Box::new(|| 0) };
        let pid = rustix::process::Pid::from_raw(server.pid()).unwrap();
        let kill_it = || rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        run(&home, &server, plan, kill_it).await;
        server.kill();
        server = home.serve();
        println!(
            "kill {kill}: {} messages of syslog, {} records",
            syslog.seen.borrow().len(),
            otlp.seen.borrow().len()
        );
    }
    let all = query(&home, &server).len() as u64;
    let mut again = 0;
    for (name, receiver) in [("syslog", &syslog), ("otlp", &otlp)] {
        receiver.until_all(all).await;
        let seen = receiver.sequences();
        let end = seen.iter().max().unwrap() + 1;
        assert!(end >= all);
        assert_no_gap(name, &seen, end);
        println!("{name}: {end} events, {} sent again", seen.len() as u64 - end);
        again += seen.len() as u64 - end;
    }
    assert!(again > 0, "no kill came between sending and the cursor, so nothing was proven");
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_stuck_holds_up_nobody_and_says_so_once() {
    let home = Home::init();
    home.new_authority("siem");
    // One that is not there, and one that takes connections and never says a word.
    let place = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let absent = place.local_addr().unwrap().port();
    drop(place);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    add_syslog(&home, absent, "");
    add_otlp(&home, "silent", silent.local_addr().unwrap().port(), "");
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    until_gauge(&server, "cloakroom_sink_stuck", "siem", is_one).await;
    let before = gauge(&server, "cloakroom_sink_lag_events", "silent");
    for _ in 0..200 {
        gateway.tokenize("pan", &[b"a value"]).await;
    }
    for sink in ["siem", "silent"] {
        until_gauge(&server, "cloakroom_sink_lag_events", sink, |lag| lag >= before + 200.0).await;
        until_gauge(&server, "cloakroom_sink_lag_seconds", sink, |lag| lag > 0.0).await;
    }
    until_gauge(&server, "cloakroom_sink_failures_total", "siem", |_| {
        server.metric("cloakroom_sink_failures_total{sink=\"siem\",reason=\"unreachable\"}") >= 3
    })
    .await;
    let said = |words: &str| server.log().matches(words).count();
    assert_eq!(said("the sink takes no events"), 1, "{}", server.log());
    let receiver = Receiver::syslog(&home, absent).await;
    receiver.until_all(query(&home, &server).len() as u64).await;
    until_gauge(&server, "cloakroom_sink_stuck", "siem", is_zero).await;
    until_gauge(&server, "cloakroom_sink_lag_events", "siem", is_zero).await;
    assert_eq!(said("the sink takes events again"), 1, "{}", server.log());
    assert_no_gap("siem", &receiver.sequences(), receiver.sequences().len() as u64);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_named_authority_gets_events() {
    let home = Home::init();
    home.new_authority("siem");
    home.new_authority("impostor");
    let receiver = Receiver::syslog(&home, 0).await;
    add_syslog(&home, receiver.port, "");
    // The receiver's own authority is put out of the vault's sight.
    let client = home.read("cloakroom.toml").replace("ca = \"pki/siem.pem\"", "ca = \"pki/impostor.pem\"");
    home.write("cloakroom.toml", &client);
    let server = home.serve();
    eventually("it is refused", async || {
        let refused = server.metric("cloakroom_sink_failures_total{sink=\"siem\",reason=\"handshake\"}");
        (refused >= 2).then_some(())
    })
    .await;
    assert!(receiver.raw.borrow().is_empty(), "not a byte was told");
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_found_at_start_with_their_line() {
    let home = Home::init();
    home.new_authority("siem");
    let good = home.read("cloakroom.toml");
    let check = || {
        let output =
            program().args(["serve", "--check", "--config"]).arg(home.file("cloakroom.toml")).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    add_syslog(&home, 6514, "");
    let (status, said) = check();
    assert!(
        status == Some(0) && said.contains("siem, syslog to 127.0.0.1:6514, no cursor yet: begins at the first"),
        "{said}"
    );
    let whole = home.read("cloakroom.toml");
    let line = 1 + whole.lines().position(|line| line == "[[audit.sinks]]").unwrap();
    let lines: Vec<&str> = whole.lines().filter(|line| !line.starts_with("private_key = \"/")).collect();
    home.write("cloakroom.toml", &lines.join("\n"));
    let (status, said) = check();
    let words = format!("cloakroom.toml:{line}: audit.sinks.siem: `certificate` and `private_key` belong together");
    assert!(status == Some(2) && said.contains(&words), "{said}");
    home.write("cloakroom.toml", &whole.replace("pki/siem.pem", "pki/none.pem"));
    let (status, said) = check();
    assert!(
        status == Some(2) && said.contains(&format!("cloakroom.toml:{line}: ")) && said.contains("none.pem"),
        "{said}"
    );
    // A cursor of another log, and one ahead of this one: the start names the file and says what to do.
    home.write("cloakroom.toml", &whole);
    std::fs::create_dir(home.file("sinks")).unwrap();
    home.write("sinks/siem.cursor", "{\"version\":1,\"log_id\":\"another\",\"next\":0}");
    let (status, said) = check();
    assert!(status == Some(2) && said.contains("siem.cursor") && said.contains("move the file away"), "{said}");
    let log_id = home.read("log.vkey").split('+').next().unwrap().to_owned();
    home.write("sinks/siem.cursor", &format!("{{\"version\":1,\"log_id\":\"{log_id}\",\"next\":99}}"));
    let mut command = home.serve_command();
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("99 events were sent, but the log has"), "{said}");
    // And it leaves no mark: the log is as it was, and with the file away it starts.
    std::fs::remove_file(home.file("sinks/siem.cursor")).unwrap();
    home.serve().stop();
    home.write(
        "cloakroom.toml",
        &(good + "[[audit.sinks]]\nname = \"a\"\ntype = \"otlp\"\naddress = \"http://siem.example\"\n"),
    );
    let (status, said) = check();
    assert!(
        status == Some(0) && said.contains("to http://siem.example/v1/logs") && said.contains("not encrypted"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_to_sinks_holds_no_value_and_no_token_a_11() {
    // Work::done counts the vault's sockets.
    if !needs::met(&["/proc/self/fd"]) {
        return;
    }
    let home = Home::init();
    home.new_authority("siem");
    let (syslog, ocsf) = (Receiver::syslog(&home, 0).await, Receiver::otlp().await);
    add_syslog(&home, syslog.port, "");
    add_otlp(&home, "ocsf", ocsf.port, "format = \"ocsf\"");
    let server = home.serve();
    // Their connections stay open, and count as the vault's own.
    syslog.until_all(1).await;
    ocsf.until_all(1).await;
    let mut secrets = Secrets::default();
    Work::done(&home, &server, &mut secrets).await;
    let all = query(&home, &server).len() as u64;
    for (name, receiver) in [("syslog", &syslog), ("ocsf", &ocsf)] {
        receiver.until_all(all).await;
        let raw = receiver.raw.borrow().clone();
        assert_eq!(secrets.found_in(&raw, name), [""; 0], "secrets that left for {name}");
        assert!(raw.windows(10).any(|window| window == b"/payments\""), "the search would find what is there");
    }
    server.stop();
}
