//! What scanners see of the door: `sslscan` and `testssl.sh` against the real vault.
//!
//! Neither offers h2 nor shows a certificate, so as they are they see a door that is shut. To let them look, they are run
//! again with both: a library in front of OpenSSL's (`offer_h2.c`) does it where they connect through that, and a proxy puts
//! h2 into the hellos that they write by hand, which never become connections.

use super::good_callers_are_served;
use crate::harness::Home;
use crate::needs;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What testssl.sh finds and what is as it should be, each with the reason.
const EXPLAINED: [(&str, &str); 1] =
    [("cert_revocation", "certificates of the development authority are short-lived and name no revocation list")];

/// Severities that fail.
const TOO_BAD: [&str; 4] = ["MEDIUM", "HIGH", "CRITICAL", "FATAL"];

/// Findings that show that it has looked.
const SEEN: [(&str, &str); 6] = [
    ("SSLv2", "not offered"),
    ("TLS1_2", "not offered"),
    ("TLS1_3", "offered"),
    ("ALPN_HTTP2", "h2"),
    ("heartbleed", "not vulnerable"),
    ("cipherlist_STRONG", "offered"),
];

const SUITES: [&str; 3] = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: testssl.sh looks for a minute and a half"]
async fn scanners_find_nothing_that_is_not_explained_t_06() {
    if !needs::met(&["sslscan", "testssl", "openssl", "g++"]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    let open = server.client(&home.identity("gateway")).await;
    tokio::task::block_in_place(|| {
        let library = compile(&home);
        let proxy = offer_h2(server.address);
        // As it is, it sees nothing at all.
        let bare = sslscan(&home, None, server.address);
        assert_eq!(protocols(&bare), [("2", 0), ("3", 0), ("1.0", 0), ("1.1", 0), ("1.2", 0), ("1.3", 0)], "{bare}");
        assert!(!bare.contains("<cipher "), "{bare}");
        let found = sslscan(&home, Some(&library), proxy);
        assert_eq!(faults_of_sslscan(&found), Vec::<String>::new(), "{found}");
        let findings = testssl(&home, &library, proxy, &[]);
        judge(&findings);
        control(&home, &library);
    });
    good_callers_are_served(&home, &server, &open).await;
    server.stop();
}

/// Both find what is wrong with a server that is wrong: one that takes TLS 1.2, without encryption.
fn control(home: &Home, library: &Path) {
    let (address, mut child) = wrong_server(home);
    let faults = faults_of_sslscan(&sslscan(home, Some(library), address));
    assert!(faults.iter().any(|fault| fault.contains("1.2")), "{faults:?}");
    let found = testssl(home, library, address, &["--std"]);
    let _ = child.kill();
    let _ = child.wait();
    let faults = faults_of_testssl(&found);
    assert!(faults.iter().any(|fault| fault.contains("cipherlist_NULL")), "{faults:?}");
    println!("scanners: the control has {} faults for testssl.sh", faults.len());
}

fn wrong_server(home: &Home) -> (SocketAddr, Child) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-tls1_2", "-cipher", "eNULL:ECDHE:@SECLEVEL=0", "-alpn", "h2"]);
    command.args(["-accept", &address.to_string()]).arg("-cert").arg(home.file("pki/server.pem"));
    command.arg("-key").arg(home.file("pki/server.key"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ACCEPT") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "openssl s_server ended");
    }
    std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
    (address, child)
}

fn compile(home: &Home) -> PathBuf {
    let library = home.file("offer_h2.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/tls_wire/offer_h2.c");
    let mut command = Command::new("g++");
    command.args(["-x", "c", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    library
}

fn with_library(command: &mut Command, home: &Home, library: &Path) {
    command.env("LD_PRELOAD", library);
    command.env("CLIENT_CERTIFICATE", home.file("pki/gateway.pem")).env("CLIENT_KEY", home.file("pki/gateway.key"));
}

// === sslscan ===

fn sslscan(home: &Home, library: Option<&Path>, address: SocketAddr) -> String {
    let report = home.file("sslscan.xml");
    let mut command = Command::new("sslscan");
    command.args(["--no-colour", "--show-sigs"]).arg(format!("--xml={}", report.display())).arg(address.to_string());
    if let Some(library) = library {
        with_library(&mut command, home, library);
    }
    let done = command.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    std::fs::read_to_string(report).unwrap()
}

/// The attribute `name` of each element `element`.
fn attributes<'a>(report: &'a str, element: &str, name: &str) -> Vec<&'a str> {
    let tags = report.split('<').filter(|tag| tag.split_whitespace().next() == Some(element));
    tags.filter_map(|tag| tag.split(&format!(" {name}=\"")).nth(1)?.split('"').next()).collect()
}

fn protocols(report: &str) -> Vec<(&str, u8)> {
    let versions = attributes(report, "protocol", "version");
    let enabled = attributes(report, "protocol", "enabled").into_iter().map(|enabled| enabled.parse().unwrap());
    versions.into_iter().zip(enabled).collect()
}

fn faults_of_sslscan(report: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let expected = [("2", 0), ("3", 0), ("1.0", 0), ("1.1", 0), ("1.2", 0), ("1.3", 1)];
    if protocols(report) != expected {
        faults.push(format!("protocols {:?}", protocols(report)));
    }
    let mut suites = attributes(report, "cipher", "cipher");
    suites.sort_unstable();
    if suites != SUITES {
        faults.push(format!("suites {suites:?}"));
    }
    let strengths = attributes(report, "cipher", "strength");
    if strengths.iter().any(|strength| !["strong", "acceptable"].contains(strength)) {
        faults.push(format!("strengths {strengths:?}"));
    }
    let groups = attributes(report, "group", "name");
    if groups != ["secp256r1 (NIST P-256)", "secp384r1 (NIST P-384)", "x25519"] {
        faults.push(format!("groups {groups:?}"));
    }
    for (element, name) in [("heartbleed", "vulnerable"), ("renegotiation", "supported"), ("compression", "supported")]
    {
        if attributes(report, element, name).iter().any(|value| *value != "0") {
            faults.push(format!("{element} {name}"));
        }
    }
    for wanted in ["<self-signed>false<", "<expired>false<", "<signature-algorithm>ecdsa-with-SHA256<"] {
        if !report.contains(wanted) {
            faults.push(format!("not {wanted}"));
        }
    }
    println!("sslscan: {suites:?} over {groups:?}, {} faults", faults.len());
    faults
}

// === testssl.sh ===

fn testssl(home: &Home, library: &Path, address: SocketAddr, words: &[&str]) -> Vec<Value> {
    let report = home.file(&format!("testssl-{}.json", address.port()));
    let mut command = Command::new("testssl");
    command.args(["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--openssl-timeout", "5"]);
    command.arg("--add-ca").arg(home.file("pki/ca.pem")).arg("--jsonfile").arg(&report).args(words);
    with_library(&mut command, home, library);
    // Its status counts what it found; the report says what.
    let done = command.arg(address.to_string()).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let findings: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(report).expect(&said)).expect(&said);
    assert!(!findings.is_empty(), "{said}");
    findings
}

fn judge(findings: &[Value]) {
    for (id, word) in SEEN {
        let seen = findings
            .iter()
            .any(|finding| finding["id"] == id && finding["finding"].as_str().is_some_and(|text| text.contains(word)));
        assert!(seen, "it did not look: {id} is not {word:?} in {findings:?}");
    }
    let faults = faults_of_testssl(findings);
    println!("testssl.sh: {} findings, {} faults", findings.len(), faults.len());
    assert!(faults.is_empty(), "{faults:#?}");
}

fn faults_of_testssl(findings: &[Value]) -> Vec<String> {
    let bad = findings.iter().filter(|finding| TOO_BAD.iter().any(|severity| finding["severity"] == *severity));
    let explained = |finding: &&Value| EXPLAINED.iter().find(|(id, _)| finding["id"] == *id);
    let mut faults = Vec::new();
    for finding in bad {
        match explained(&finding) {
            Some((id, reason)) => println!("testssl.sh: {id}: {}: {reason}", finding["finding"]),
            None => faults.push(finding.to_string()),
        }
    }
    faults
}

// === the proxy ===

/// Passes connections on, and puts h2 into hellos that name no protocol.
fn offer_h2(vault: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(vault) else { continue };
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || pass_on(from, to, Vec::new()));
            std::thread::spawn(move || {
                let first = first_record(&client);
                pass_on(client, server, with_h2(first));
            });
        }
    });
    address
}

/// Either side may go at any time; then so does the other.
fn pass_on(mut from: TcpStream, mut to: TcpStream, first: Vec<u8>) {
    let _ = to.write_all(&first).and_then(|()| std::io::copy(&mut from, &mut to).map(drop));
    let _ = to.shutdown(Shutdown::Write);
}

/// What comes first, up to the end of its record if it is one of a handshake.
fn first_record(mut client: &TcpStream) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let whole = match bytes.as_slice() {
            [22, _, _, high, low, content @ ..] => content.len() >= usize::from(u16::from_be_bytes([*high, *low])),
            [first, ..] => *first != 22,
            [] => false,
        };
        if whole {
            return bytes;
        }
        match client.read(&mut buffer) {
            Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
            _ => return bytes,
        }
    }
}

fn with_h2(record: Vec<u8>) -> Vec<u8> {
    changed(&record).unwrap_or(record)
}

/// `None` if it is no ClientHello with extensions, or names a protocol already.
fn changed(record: &[u8]) -> Option<Vec<u8>> {
    const ALPN_H2: [u8; 9] = [0, 16, 0, 5, 0, 3, 2, b'h', b'2'];
    let short = |bytes: &[u8], at: usize| Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let hello = record.get(5..5 + short(record, 3)?)?;
    if (record[0], *hello.first()?) != (22, 1) {
        return None;
    }
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(*hello.get(at)?);
    at += 2 + short(hello, at)?;
    at += 1 + usize::from(*hello.get(at)?);
    let extensions = hello.get(at + 2..at + 2 + short(hello, at)?)?;
    let mut next = 0;
    while next < extensions.len() {
        if short(extensions, next)? == 16 {
            return None;
        }
        next += 4 + short(extensions, next + 2)?;
    }
    let length = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    // In front: a ticket has to be last.
    let body = [&hello[4..at], &length(extensions.len() + ALPN_H2.len()), &ALPN_H2, extensions].concat();
    let message = [&[1, 0], &length(body.len())[..], &body].concat();
    let rest = &record[5 + hello.len()..];
    Some([&record[..3], &length(message.len()), &message, rest].concat())
}
