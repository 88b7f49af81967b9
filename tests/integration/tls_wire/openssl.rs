//! What OpenSSL's own client gets: no old protocol, no ticket, nothing resumed, no early data.

use super::PATIENCE;
use crate::harness::{Home, Server};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

const MISSING: &str = "this test needs openssl (`deploy/setup test`)";

/// `openssl s_client` as the gateway.
fn client(home: &Home, address: SocketAddr, words: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-servername", "localhost"]);
    for (word, file) in [("-CAfile", "pki/ca.pem"), ("-cert", "pki/gateway.pem"), ("-key", "pki/gateway.key")] {
        command.arg(word).arg(home.file(file));
    }
    command.args(words).stdin(Stdio::null());
    command
}

fn output(mut command: Command) -> (bool, String) {
    let done = command.output().expect(MISSING);
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Everything older than TLS 1.3, and everything but h2. Gives how many were tried.
pub(super) fn downgrades(home: &Home, server: &Server) -> usize {
    let (well, said) = output(client(home, server.address, &["-alpn", "h2", "-tls1_3"]));
    assert!(well && said.contains("New, TLSv1.3, Cipher is TLS_AES_") && said.contains("ALPN protocol: h2"), "{said}");
    // Weak enough that OpenSSL itself would go along.
    let weak = ["-cipher", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"];
    let old: [(&[&str], &str); 8] = [
        // These name no signature algorithms, which is looked at before the version.
        (&["-tls1", "-alpn", "h2"], "alert handshake failure"),
        (&["-tls1_1", "-alpn", "h2"], "alert handshake failure"),
        (&["-tls1_2", "-alpn", "h2"], "alert protocol version"),
        (&["-no_tls1_3", "-alpn", "h2"], "alert protocol version"),
        (&["-tls1_2", "-fallback_scsv", "-alpn", "h2"], "alert protocol version"),
        (&["-tls1_3"], "alert no application protocol"),
        (&["-tls1_3", "-alpn", "http/1.1"], "alert no application protocol"),
        (&["-tls1_3", "-alpn", "h2", "-ciphersuites", "TLS_AES_128_CCM_SHA256"], "alert handshake failure"),
    ];
    for (words, alert) in old {
        let (well, said) = output(client(home, server.address, &[words, &weak].concat()));
        assert!(!well && said.contains(alert) && said.contains("Cipher is (NONE)"), "{words:?}: {said}");
    }
    old.len()
}

/// Six handshakes with what was remembered of the first, and one that stays until the vault has spoken.
pub(super) fn no_ticket(home: &Home, server: &Server) {
    let (well, said) = output(client(home, server.address, &["-alpn", "h2", "-tls1_3", "-reconnect"]));
    let count = |word: &str| said.matches(word).count();
    assert_eq!((well, count("New, TLSv1.3"), count("Reused,")), (true, 6, 0), "{said}");

    let session = home.file("session.pem");
    let out = session.to_str().unwrap();
    let mut command = client(home, server.address, &["-alpn", "h2", "-tls1_3", "-msg", "-sess_out", out, "-ign_eof"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect(MISSING);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    child.stdin.as_mut().unwrap().write_all(preface).unwrap();
    // The answer to our settings. Tickets would have come before it.
    let said = read_until(&mut child, |said| said.windows(9).any(|frame| frame == [0, 0, 0, 4, 1, 0, 0, 0, 0]));
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("<<< TLS 1.3, Handshake") && said.contains("Finished"), "{said}");
    assert!(!said.contains("NewSessionTicket") && !said.contains("New Session Ticket"), "{said}");
    assert!(!session.exists(), "a session was saved: {}", std::fs::read_to_string(&session).unwrap());
}

/// A server with the vault's name, key and authority gives a ticket that allows early data; the vault is offered both.
pub(super) fn a_foreign_ticket_is_refused(home: &Home, server: &Server) {
    let session = home.file("foreign.pem");
    take_ticket(home, &session);
    let early = home.file("early");
    std::fs::write(&early, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let (session, early) = (session.to_str().unwrap(), early.to_str().unwrap());
    let words = ["-alpn", "h2", "-tls1_3", "-sess_in", session, "-early_data", early];
    let (well, said) = output(client(home, server.address, &words));
    assert!(well && said.contains("New, TLSv1.3") && !said.contains("Reused,"), "{said}");
    assert!(said.contains("Early data was rejected"), "{said}");
    println!("T-05: no ticket in 7 handshakes; a foreign ticket was not taken, and its early data rejected");
}

fn take_ticket(home: &Home, session: &Path) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new("openssl");
    command.args([
        "s_server",
        "-accept",
        &address.to_string(),
        "-alpn",
        "h2",
        "-max_early_data",
        "16384",
        "-Verify",
        "1",
    ]);
    for (word, file) in [("-CAfile", "pki/ca.pem"), ("-cert", "pki/server.pem"), ("-key", "pki/server.key")] {
        command.arg(word).arg(home.file(file));
    }
    let mut giver = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect(MISSING);
    read_until(&mut giver, |said| String::from_utf8_lossy(said).contains("ACCEPT"));
    let out = session.to_str().unwrap();
    let mut command = client(home, address, &["-alpn", "h2", "-tls1_3", "-msg", "-sess_out", out, "-ign_eof"]);
    let mut taker = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect(MISSING);
    // It sends two, and each is saved in the place of the other.
    read_until(&mut taker, |said| String::from_utf8_lossy(said).matches("NewSessionTicket").count() >= 2);
    giver.kill().unwrap();
    giver.wait().unwrap();
    // It ends by itself with the connection, and not in the midst of writing the second down.
    taker.wait().unwrap();
    assert!(session.exists(), "the other server gave a ticket");
}

/// Reads what a child says until `enough`. A child that ends before, or never says it, is a failure.
fn read_until(child: &mut Child, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (send, parts) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut rest = Vec::new();
        loop {
            let part = output.fill_buf().unwrap_or_default().to_vec();
            if part.is_empty() || send.send(part.clone()).is_err() {
                // What is not wanted any more is still read, so that it never waits for us.
                let _ = output.read_to_end(&mut rest);
                return;
            }
            output.consume(part.len());
        }
    });
    let mut said = Vec::new();
    while !enough(&said) {
        match parts.recv_timeout(PATIENCE) {
            Ok(part) => said.extend(part),
            Err(error) => {
                let _ = child.kill();
                panic!("{error}: {}", String::from_utf8_lossy(&said));
            }
        }
    }
    drop((parts, reader));
    said
}
