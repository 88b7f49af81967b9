//! Durable before answered: an `fdatasync` that returned 0 stands between the last write of a commit to the log and the
//! first byte of the reply; and after one that failed nothing is acknowledged any more.
//!
//! The traces are of the real process. They need root: the process forbids others to look at its files.

use crate::harness::{self, Client, Home, texts};
use crate::needs;
use crate::promises::{Dice, Plan, Promises, run};
use crate::strace::{Step, Target, Traced, parse};
use cloakroom::proto::v1;
use std::collections::HashMap;
use std::path::Path;
use tokio::task::JoinSet;
use tonic::Code;

const UNARY: usize = 1_000;
const BATCHED: usize = 100;
const BATCH: usize = 100;
/// Calls of each connection where several are made at the same time.
const CONCURRENT: usize = 50;
const CONNECTIONS: usize = 8;
/// Calls on each connection before those that are looked at: what belongs to its opening is over then.
const WARM_UP: usize = 3;

/// `EX_IOERR` of sysexits.h.
const EXIT_IO_ERROR: i32 = 74;

#[tokio::test]
async fn an_fdatasync_stands_between_each_commit_and_its_reply() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let vault = Traced::watch(&home);
    let address = vault.server().address;
    let gateway = vault.server().client(&home.identity("gateway")).await;
    let mut answered = 0;
    for number in 0..WARM_UP + UNARY {
        // Reading leaves an event behind and so waits like writing.
        gateway.tokenize("pan", &[format!("value {number}").as_bytes()]).await;
        answered += 1;
    }
    let values: Vec<Vec<u8>> = (0..BATCH).map(|number| format!("value {number} of a batch").into_bytes()).collect();
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    for _ in 0..BATCHED {
        assert_eq!(gateway.tokenize("pan", &values).await.len(), BATCH);
        answered += 1;
    }
    assert_eq!(answered, WARM_UP + UNARY + BATCHED);
    let trace = vault.kill();
    let steps = parse(&trace, &home.file("data"), address);
    let calls = UNARY + BATCHED;
    let syncs = check(&steps, calls, Order::OneAtATime).unwrap_or_else(|broken| panic!("{broken:#?}"));
    println!(
        "{UNARY} unary and {BATCHED} batched calls: {calls} replies, each behind its fdatasync ({syncs} of the log)"
    );

    for (what, doctored) in doctor(&trace, &home.file("data")) {
        let broken = check(&parse(&doctored, &home.file("data"), address), calls, Order::OneAtATime);
        let broken = broken.expect_err(what);
        println!("a trace in which {what}: {}", broken.join("; "));
        assert_eq!(broken.len(), 1, "{what}");
    }
}

#[tokio::test]
async fn concurrent_replies_wait_for_their_own_commit() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let vault = Traced::watch(&home);
    let address = vault.server().address;
    let mut callers = JoinSet::new();
    for number in 0..CONNECTIONS {
        let gateway = vault.server().client(&home.identity("gateway")).await;
        let payments = vault.server().client(&home.identity("payments")).await;
        callers.spawn(ask(gateway, payments, number));
    }
    // They are open until the end: the last word on a connection is no reply.
    let _open = callers.join_all().await;
    let steps = parse(&vault.kill(), &home.file("data"), address);
    let syncs = check(&steps, CONCURRENT, Order::Concurrent).unwrap_or_else(|broken| panic!("{broken:#?}"));
    let replies = 2 * CONNECTIONS * CONCURRENT;
    println!("{replies} replies on {} connections at once, each behind its fdatasync ({syncs})", 2 * CONNECTIONS);
}

/// One call at a time on each of the two connections.
async fn ask(gateway: Client, payments: Client, number: usize) -> [Client; 2] {
    for round in 0..WARM_UP + CONCURRENT {
        let value = format!("value {round} of {number}");
        let tokens = texts(&gateway.tokenize("pan", &[value.as_bytes()]).await);
        assert_eq!(payments.detokenize("pan", &tokens).await.unwrap(), [Ok(value.into_bytes())]);
    }
    [gateway, payments]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// All calls one after the other: whatever was written to the log before a reply belongs to it or to an earlier one.
    OneAtATime,
    /// While one commit's replies leave, the next commit may be on its way to the log.
    Concurrent,
}

/// Looks at the last `calls` replies on each connection that has that many, and says which left too early; or counts the
/// log's `fdatasync`s.
fn check(steps: &[Step], calls: usize, order: Order) -> Result<usize, Vec<String>> {
    let mut broken = Vec::new();
    let writes: Vec<&Step> =
        steps.iter().filter(|step| matches!(step.target, Target::WriteAheadLog(_)) && step.is_write()).collect();
    for (request, reply) in replies(steps, calls) {
        // What the call writes can't have been written before it came. With one at a time everything that was written
        // before the reply left has to be durable, and something was; else that holds at least for the first write after
        // the request, as the call's event is in that or in a later one.
        let own = writes.iter().filter(|write| write.begin > request && write.begin < reply);
        let own: Vec<_> = match order {
            Order::OneAtATime => own.collect(),
            Order::Concurrent => own.take(1).collect(),
        };
        match own.iter().find(|write| !is_durable(steps, write, reply)) {
            _ if own.is_empty() => broken.push(format!("line {reply}: a reply, and nothing was written to the log")),
            Some(write) => {
                broken.push(format!("line {reply}: a reply, and no fdatasync after the write of line {}", write.begin));
            }
            None => {}
        }
    }
    let is_log_sync = |step: &&Step| matches!(step.target, Target::WriteAheadLog(_)) && step.is_sync();
    if broken.is_empty() { Ok(steps.iter().filter(is_log_sync).count()) } else { Err(broken) }
}

/// For each of the last `calls` replies on each connection, the lines at which its request came and its first byte left.
fn replies(steps: &[Step], calls: usize) -> Vec<(usize, usize)> {
    let mut connections: HashMap<&Target, Vec<(usize, usize)>> = HashMap::new();
    let mut asked: HashMap<&Target, usize> = HashMap::new();
    for step in steps {
        if step.is_receipt() {
            asked.entry(&step.target).or_insert(step.begin);
        } else if step.is_send()
            && let Some(request) = asked.remove(&step.target)
        {
            connections.entry(&step.target).or_default().push((request, step.begin));
        }
    }
    assert!(!connections.is_empty(), "there are connections in the trace");
    let mut last = Vec::new();
    for replies in connections.values() {
        assert!(replies.len() >= WARM_UP + calls, "{} replies on a connection", replies.len());
        last.extend(&replies[replies.len() - calls..]);
    }
    last
}

/// Whether a sync of the same file began after `write` had ended, and had succeeded before line `reply`.
fn is_durable(steps: &[Step], write: &Step, reply: usize) -> bool {
    let Some(written) = write.end else { return false };
    let from = steps.partition_point(|step| step.begin <= written);
    steps[from..].iter().take_while(|step| step.begin < reply).any(|step| {
        step.is_sync() && step.target == write.target && step.result == 0 && step.end.is_some_and(|end| end < reply)
    })
}

/// The same trace, changed in one place at a time as if the vault had done wrong there.
fn doctor(trace: &str, data: &Path) -> Vec<(&'static str, String)> {
    let lines: Vec<&str> = trace.lines().collect();
    // A sync in the midst of the calls that begins and ends on one line.
    let is_sync = |line: &&str| line.contains("fdatasync(") && line.contains(".log>") && line.ends_with("= 0");
    let sync = lines.len() / 2 + lines[lines.len() / 2..].iter().position(is_sync).expect("the log is synced");
    let file = data.join("MANIFEST-000005").display().to_string();
    let log = lines[sync].split_once('<').and_then(|(_, rest)| rest.split_once('>')).unwrap().0;
    let with = |line: String| {
        let mut lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        lines[sync] = line;
        lines.join("\n")
    };
    let reply = sync + lines[sync..].iter().position(|line| line.contains("TCP:[")).unwrap();
    let mut swapped = lines.clone();
    swapped.swap(sync, reply);
    vec![
        ("one fdatasync is missing", with(String::new())),
        ("one fdatasync failed", with(lines[sync].replace("= 0", "= -1 EIO (Input/output error)"))),
        ("one fdatasync was of another file", with(lines[sync].replace(log, &file))),
        ("one reply left before the fdatasync", swapped.join("\n")),
    ]
}

#[test]
fn calls_that_overlap_are_read_in_their_order() {
    let trace = "\
        10 recvfrom(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"\"..., 4096, 0, NULL, NULL) = 90\n\
        11 write(7</d/000004.log>, \"\"..., 300) = 300\n\
        11 fdatasync(7</d/000004.log> <unfinished ...>\n\
        10 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"\"..., 100, MSG_NOSIGNAL, NULL, 0 <unfinished ...>\n\
        11 <... fdatasync resumed>)          = 0\n\
        10 <... sendto resumed>)             = 100\n";
    let steps = parse(trace, Path::new("/d"), "127.0.0.1:1".parse().unwrap());
    let [receipt, write, sync, send] = steps.as_slice() else { panic!("{steps:?}") };
    assert!(receipt.is_receipt() && write.is_write() && sync.is_sync() && send.is_send());
    assert_eq!((sync.begin, sync.end, sync.result), (2, Some(4), 0));
    // It was sent while the sync was still under way.
    assert!(!is_durable(&steps, write, send.begin));
    assert!(is_durable(&steps, write, 5));
}

#[tokio::test]
async fn after_a_failed_fdatasync_nothing_is_acknowledged_s_04_a_06() {
    if !needs::met(&["strace"]) {
        return;
    }
    // The first is early, but not before some value has been kept.
    for failing in [16, 150] {
        let home = Home::init();
        // Counted for each thread; the log is synced by the ledger's.
        let inject = format!("inject=fdatasync:error=EIO:when={failing}");
        let vault = Traced::launch(&home, &home.serve_command(), &["-e", "trace=fdatasync,write", "-e", &inject]);
        let address = vault.server().address;
        let plan = Plan { seed: Dice::seed(), callers: 32, calls: u64::MAX, stamp: Box::new(|| 0) };
        let ended = run(&home, vault.server(), plan, || {}).await;
        assert_eq!(ended.failures.len(), 32, "each caller's last call failed");
        assert!(ended.failures.iter().all(|refusal| refusal.code == Code::Unavailable), "{:?}", ended.failures);
        let told = ended.failures.iter().filter(|refusal| refusal.reason == "UNAVAILABLE").count();
        assert!(told > 0, "those who waited were told: {:?}", ended.failures);
        let refused = still_refused(&home, &vault).await;
        let (status, trace) = vault.end();
        assert_eq!(status.code(), Some(EXIT_IO_ERROR));
        no_second_try(&parse(&trace, &home.file("data"), address));
        let findings = kept_after_restart(&home, &ended.promises).await;
        println!(
            "EIO at the {failing}th fdatasync: {} calls were answered before, {told} waiting ones told UNAVAILABLE, {refused} \
             later ones refused; after a restart {findings}",
            ended.promises.calls
        );
    }
}

/// Calls until the process has gone; none may succeed.
async fn still_refused(home: &Home, vault: &Traced) -> usize {
    let mut refused = 0;
    while let Ok(gateway) = vault.server().connect(&home.identity("gateway")).await {
        let items = vec![harness::item(b"too late")];
        let request = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
        let refusal = harness::refused(gateway.tokens().tokenize(request).await);
        assert_ne!(refusal.code, Code::Ok);
        refused += 1;
    }
    refused
}

/// A sync that succeeds after one that failed proves nothing: the kernel may have dropped the pages.
fn no_second_try(steps: &[Step]) {
    let failed: Vec<_> = steps.iter().filter(|step| step.injected).collect();
    let [failed] = failed.as_slice() else { panic!("one fdatasync fails: {failed:?}") };
    assert!(matches!(failed.target, Target::WriteAheadLog(_)), "{failed:?}");
    let after: Vec<_> = steps.iter().filter(|step| step.begin > failed.begin && step.target == failed.target).collect();
    assert!(after.is_empty(), "nothing more is done to the log: {after:?}");
}

async fn kept_after_restart(home: &Home, promises: &Promises) -> String {
    let server = home.serve();
    let findings = promises.check(home, &server, u64::MAX).await;
    assert!(findings.broken.is_empty(), "{:#?}", findings.broken);
    assert!(findings.values > 0 && findings.events > 0, "{findings:?}");
    server.kill();
    format!("{} values and {} releases were there", findings.values, findings.released)
}
