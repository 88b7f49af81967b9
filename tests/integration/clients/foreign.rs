//! The examples of docs/clients in other languages, run as they stand there, each with the packages that it pins.

use crate::harness::{Home, PROGRAM, Server, TRUST_DOMAIN, VAULT_ID};
use crate::needs;
use cloakroom::proto::v1;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{events, serve_at};

/// Each test has one of its own, so that a vault can be started there again.
const PYTHON: &str = "127.77.0.2:7443";
const NODE: &str = "127.77.0.3:7443";

/// A client in another language.
fn foreign(language: &str, file: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(PROGRAM).parent().unwrap().parent().unwrap();
    let mut command = Command::new(root.join("tests/clients/run"));
    command.arg(language).arg(root.join(file)).env("CARGO_TARGET_DIR", target);
    command
}

/// The profiles of a home, with this address.
fn profiles(home: &Home, address: &str) -> PathBuf {
    for name in ["gateway", "payments"] {
        let lines = format!("\"{address}\"\nserver_name = \"localhost\"");
        home.replace(&format!("profiles/{name}.toml"), "\"127.0.0.1:7443\"", &lines);
    }
    home.file("profiles")
}

/// What an example prints is what the log has: the calls with their ids, and the refusal.
async fn shows_what_the_documents_say(language: &str, file: &str, address: &str) {
    let home = Home::init();
    let server = serve_at(&home, address);
    let done = foreign(language, file).arg(profiles(&home, address)).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let sequence_in = |line: &str| {
        let digits = line.split("event ").nth(1).unwrap_or_else(|| panic!("{line} names no event"));
        digits.trim_end_matches(')').parse::<u64>().unwrap()
    };
    let [stored, refused, found, denied, stranger]: [&str; 5] = said.lines().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(refused, "refused: a value has at least one byte");
    assert_eq!(stranger, "another server was told nothing");
    assert!(denied.starts_with("the gateway may not: PERMISSION_DENIED POLICY_DENIED (event "), "{denied}");
    server.stop();
    let server = home.serve();
    let mut recorded = BTreeMap::new();
    for action in [v1::Action::Tokenize, v1::Action::Detokenize] {
        recorded.extend(events(&home, &server, action).await.into_iter().map(|event| (event.sequence, event)));
    }
    assert_eq!(recorded.len(), 3, "and no call more");
    let event = |line| recorded.get(&sequence_in(line)).unwrap_or_else(|| panic!("no event for: {line}"));
    assert!(stored.contains(&hex::encode(&event(stored).handles[0])), "{stored}");
    assert_eq!((event(found).purpose.as_str(), event(found).outcome()), ("refund", v1::Outcome::Allowed));
    assert_eq!(event(denied).outcome(), v1::Outcome::Denied);
    assert!(recorded.values().all(|event| event.request_hash.len() == 32), "each carried a request id");
    assert!(!said.contains("pan_") && !said.contains("4111"), "neither token nor value is printed");
}

/// A client that makes a call for each line.
struct Driver {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    fn start(language: &str, file: &str, profile: &Path) -> Self {
        let mut command = foreign(language, file);
        let mut child = command.arg(profile).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output).lines() }
    }

    fn begin(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn answer(&mut self) -> String {
        self.output.next().expect("it is still there").unwrap()
    }

    fn ask(&mut self, line: &str) -> String {
        self.begin(line);
        self.answer()
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().unwrap().success());
    }
}

/// Puts another certificate in the vault's place, with the name that is wanted and this SPIFFE ID.
fn give_certificate(home: &Home, id: &str) {
    let other = home.authority().client_with(id, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names.push(rcgen::SanType::DnsName("localhost".try_into().unwrap()));
        params.subject_alt_names.push(rcgen::SanType::IpAddress([127, 0, 0, 1].into()));
    });
    let (certificate, key) = other.files.unwrap();
    std::fs::rename(certificate, home.file("pki/server.pem")).unwrap();
    std::fs::rename(key, home.file("pki/server.key")).unwrap();
}

fn is_handle(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Through a kill, a renewed certificate of the vault, and another workload in its place. Gives back the vault with the
/// right certificate, and its driver.
fn goes_on_and_is_not_deceived(language: &str, file: &str, address: &str) -> (Home, Server, Driver) {
    let home = Home::init();
    let server = serve_at(&home, address);
    let profile = profiles(&home, address).join("gateway.toml");
    let mut driver = Driver::start(language, file, &profile);
    let first = driver.ask("tokenize 1");
    assert!(is_handle(&first), "{first}");
    // The call begins while nobody is there, and has the answer of the first time.
    server.kill();
    driver.begin("tokenize 1");
    let server = serve_at(&home, address);
    assert_eq!(driver.answer(), first);
    server.stop();
    give_certificate(&home, VAULT_ID);
    let server = serve_at(&home, address);
    let second = driver.ask("tokenize 2");
    assert!(is_handle(&second), "after the vault's certificate was renewed: {second}");
    server.stop();
    // The name is right and the authority, too.
    give_certificate(&home, &format!("spiffe://{TRUST_DOMAIN}/other"));
    let server = serve_at(&home, address);
    assert_eq!(driver.ask("tokenize 3"), "WrongServer");
    server.stop();
    give_certificate(&home, VAULT_ID);
    let server = serve_at(&home, address);
    assert!(is_handle(&driver.ask("tokenize 4")));
    (home, server, driver)
}

async fn assert_calls(home: &Home, server: Server, calls: usize) {
    server.stop();
    let server = home.serve();
    let handles: std::collections::BTreeSet<_> =
        events(home, &server, v1::Action::Tokenize).await.into_iter().flat_map(|event| event.handles).collect();
    assert_eq!(handles.len(), calls, "one token for each value, and none for the stranger");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_does_what_the_documents_say_t_13_z_01() {
    if needs::at_hand(&["python3"], None) {
        shows_what_the_documents_say("python", "docs/clients/python/example.py", PYTHON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_goes_on_and_is_not_deceived_t_13_l_06() {
    if !needs::at_hand(&["python3"], None) {
        return;
    }
    let address = "127.77.0.4:7443";
    let (home, server, mut driver) = goes_on_and_is_not_deceived("python", "tests/clients/driver.py", address);
    // It trusts one certificate and no other: with that of another workload, the vault itself is refused.
    let other = home.file("pki/payments.pem");
    assert_eq!(driver.ask(&format!("pin {}", other.display())), "pinned");
    let refused = driver.ask("briefly 5");
    assert!(refused.starts_with("UNAVAILABLE"), "{refused}");
    assert_eq!(driver.ask("unpin"), "unpinned");
    assert!(is_handle(&driver.ask("tokenize 6")));
    driver.end();
    assert_calls(&home, server, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: installs Node's packages"]
async fn the_node_example_does_what_the_documents_say_t_13_z_01() {
    if needs::at_hand(&["node", "npm"], None) {
        shows_what_the_documents_say("node", "docs/clients/node/example.js", NODE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: installs Node's packages"]
async fn the_node_example_goes_on_and_is_not_deceived_t_13_l_06() {
    if !needs::at_hand(&["node", "npm"], None) {
        return;
    }
    let (home, server, driver) = goes_on_and_is_not_deceived("node", "tests/clients/driver.js", "127.77.0.5:7443");
    driver.end();
    assert_calls(&home, server, 3).await;
}
