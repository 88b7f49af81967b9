//! `cloakroom audit tail` through crashes of the vault: nothing is skipped, nothing comes twice.

use crate::harness::{Home, Server, eventually};
use cloakroom::proto::v1::AuditFilter;
use parking_lot::Mutex;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::Arc;

/// A tail in a process of its own, killed when this is dropped.
struct Tail {
    child: Child,
    /// The sequences of the events that it printed, as they came.
    seen: Arc<Mutex<Vec<u64>>>,
}

impl Tail {
    fn follow(home: &Home, server: &Server, words: &[&str]) -> Self {
        let mut command = home.cli(server, "auditor", &["audit", "tail"]);
        let mut child = command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let printed = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event: serde_json::Value = serde_json::from_str(&line).unwrap();
                printed.lock().push(event["sequence"].as_u64().unwrap());
            }
        });
        Self { child, seen }
    }

    async fn has_seen(&self, sequence: u64) {
        let ask = || async { self.seen.lock().contains(&sequence).then_some(()) };
        eventually("the tail to show an event", ask).await;
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same vault again, where clients look for it.
fn serve_again(home: &Home, address: SocketAddr) -> Server {
    let mut command = home.serve_command();
    command.env("CLOAKROOM_SERVER__LISTEN", address.to_string());
    Server::launch(home, command).unwrap_or_else(|log| panic!("the vault did not start again:\n{log}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_survives_crashes_and_shows_every_event_once() {
    let home = Home::init();
    let mut server = home.serve();
    let address = server.address;
    let mut whole = Tail::follow(&home, &server, &["--from-sequence", "0"]);
    let issued = Tail::follow(&home, &server, &["--from-sequence", "0", "--action", "tokenize", "--caller", "gateway"]);
    let mut last = 0;
    for round in 0..3 {
        let gateway = server.client(&home.identity("gateway")).await;
        for _ in 0..20 {
            gateway.tokenize("pan", &[b"4111111111111111"]).await;
        }
        let auditor = server.client(&home.identity("auditor")).await;
        let filter = AuditFilter { action: cloakroom::proto::v1::Action::Tokenize.into(), ..AuditFilter::default() };
        let events = auditor.events(filter).await;
        assert_eq!(events.len(), 20 * (round + 1));
        last = events.last().unwrap().sequence;
        if round < 2 {
            // In the first crash the tails have seen all of it, in the second they may be anywhere.
            if round == 0 {
                whole.has_seen(last).await;
                issued.has_seen(last).await;
            }
            server.kill();
            server = serve_again(&home, address);
        }
    }
    whole.has_seen(last).await;
    issued.has_seen(last).await;

    let auditor = server.client(&home.identity("auditor")).await;
    let filter = AuditFilter { action: cloakroom::proto::v1::Action::Tokenize.into(), ..AuditFilter::default() };
    let tokenized: Vec<u64> = auditor.events(filter).await.iter().map(|event| event.sequence).collect();
    assert_eq!(*issued.seen.lock(), tokenized);

    // Whoever stops it with Ctrl-C is content.
    let pid = rustix::process::Pid::from_raw(i32::try_from(whole.child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(whole.child.wait().unwrap().code(), Some(0));
    let seen = whole.seen.lock().clone();
    assert!(seen.iter().copied().eq(0..seen.len() as u64), "skipped or doubled: {seen:?}");
    assert!(seen.len() as u64 > last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_ends_where_nobody_reads_and_begins_at_the_end_of_the_log() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    gateway.tokenize("pan", &[b"4111111111111111"]).await;
    let tail = Tail::follow(&home, &server, &["--action", "tokenize"]);
    // It has asked: from here on events are its to show.
    let auditor = server.client(&home.identity("auditor")).await;
    let opened = || async {
        let filter = AuditFilter { action: cloakroom::proto::v1::Action::QueryAudit.into(), ..AuditFilter::default() };
        auditor.events(filter).await.iter().any(|event| event.detail.starts_with("tail from")).then_some(())
    };
    eventually("the tail to be opened", opened).await;
    gateway.tokenize("pan", &[b"4111111111111111"]).await;
    let filter = AuditFilter { action: cloakroom::proto::v1::Action::Tokenize.into(), ..AuditFilter::default() };
    let second = auditor.events(filter).await[1].sequence;
    tail.has_seen(second).await;
    assert_eq!(*tail.seen.lock(), [second], "what was there before is not shown");

    let mut closed = home.cli(&server, "auditor", &["audit", "tail", "--from-sequence", "0"]);
    let mut child = closed.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
