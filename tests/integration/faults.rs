//! What happens when the system refuses: errors of writes and syncs, a full disk, one that can't be written any more, data
//! that is taken away. In each case nothing is acknowledged that is not there afterwards, no value and no token leaves
//! without its event, and what was acknowledged before is kept.

use crate::disks::{EXPORTED, Exported, Image, LOOP, copy_of, data_files, move_to};
use crate::harness::{self, Client, Home, Refusal, Server, eventually, item, texts};
use crate::invariants::Invariants;
use crate::needs;
use crate::power::tool;
use crate::promises::{Dice, Plan, Promises, Run, Stamp, run};
use crate::strace::Attached;
use cloakroom::proto::v1;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tonic::Code;

/// `EX_IOERR` of sysexits.h.
const EXIT_IO_ERROR: i32 = 74;
/// How long an end may take: a hundred times what is usual.
const END_AT_MOST: Duration = Duration::from_mins(2);
const MIB: u64 = 1 << 20;
/// Served while no checkpoint can be written.
const CALLS_MEANWHILE: usize = 30;
/// So little memory for tables that they are written to files all the time.
const SMALL_CACHE: (&str, &str) = ("CLOAKROOM_STORAGE__CACHE_BYTES", "8MiB");

fn plan(callers: usize, calls: u64) -> Plan {
    Plan { seed: Dice::seed(), callers, calls, stamp: Box::new(|| 0) }
}

fn small(home: &Home) -> Command {
    let mut serve = home.serve_command();
    serve.env(SMALL_CACHE.0, SMALL_CACHE.1);
    serve
}

fn launch(home: &Home, serve: Command) -> Server {
    Server::launch(home, serve).unwrap_or_else(|log| panic!("the vault did not start:\n{log}"))
}

/// Waits for the end, which must come by itself, and says how long that took.
fn end(server: Server) -> (ExitStatus, Duration, String) {
    let begin = Instant::now();
    let (pid, log) = (server.pid(), server.log_file());
    let (send, ended) = channel();
    std::thread::spawn(move || send.send(server.wait()));
    let status = ended.recv_timeout(END_AT_MOST).unwrap_or_else(|_| {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
        panic!("the vault did not end by itself:\n{}", std::fs::read_to_string(&log).unwrap())
    });
    (status, begin.elapsed(), std::fs::read_to_string(&log).unwrap())
}

/// Starts the vault on what is left, and checks all six invariants.
pub async fn kept(home: &Home, serve: Command, promises: &Promises) -> String {
    let (server, findings) = Invariants::new().check(home, serve, promises, Stamp::MAX).await.unwrap();
    assert!(findings.broken.is_empty(), "{:#?}", findings.broken);
    assert!(findings.values > 0 || promises.values() == 0, "{findings:?}");
    good_caller(home, &server).await;
    server.stop();
    format!("{} values, {} releases, {} events were there", findings.values, findings.released, findings.events)
}

pub async fn good_caller(home: &Home, server: &Server) {
    let tokens = texts(&server.client(&home.identity("gateway")).await.tokenize("pan", &[b"4111111111111111"]).await);
    let values = server.client(&home.identity("payments")).await.detokenize("pan", &tokens).await.unwrap();
    assert_eq!(values, [Ok(b"4111111111111111".to_vec())]);
}

/// A vault that has worked, with tables in files and a log, and was killed.
async fn worked() -> (Home, Promises) {
    let home = Home::init();
    let server = launch(&home, small(&home));
    let ended = run(&home, &server, plan(24, 1_500), || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    server.kill();
    (home, ended.promises)
}

// === errors of writes and syncs ===

/// What fails, of which files, and whether that ends the process.
struct Fault {
    what: &'static str,
    inject: &'static str,
    files: fn(&Home) -> Vec<PathBuf>,
    ends: bool,
}

const FAULTS: [Fault; 12] = [
    Fault { what: "fdatasync of the log: EIO", inject: "fdatasync:error=EIO", files: logs, ends: true },
    Fault {
        what: "the tenth fdatasync of the log: EIO",
        inject: "fdatasync:error=EIO:when=10",
        files: logs,
        ends: true,
    },
    Fault { what: "write to the log: EIO", inject: "write,pwrite64:error=EIO", files: logs, ends: true },
    Fault { what: "write to the log: ENOSPC", inject: "write,pwrite64:error=ENOSPC", files: logs, ends: true },
    Fault { what: "write to the log: EDQUOT", inject: "write,pwrite64:error=EDQUOT", files: logs, ends: true },
    Fault { what: "write to the log: EROFS", inject: "write,pwrite64:error=EROFS", files: logs, ends: true },
    Fault { what: "sync of a table file: EIO", inject: "fdatasync,fsync:error=EIO", files: tables, ends: true },
    Fault { what: "write to a table file: EIO", inject: "write,pwrite64:error=EIO", files: tables, ends: true },
    Fault { what: "sync of the manifest: EIO", inject: "fdatasync,fsync:error=EIO", files: manifest, ends: true },
    Fault {
        what: "sync of the data directory: EIO",
        inject: "fsync,fdatasync:error=EIO",
        files: directory,
        ends: true,
    },
    Fault { what: "sync of a checkpoint: EIO", inject: "fsync,fdatasync:error=EIO", files: checkpoint, ends: false },
    Fault {
        what: "sync of the checkpoints' directory: EIO",
        inject: "fsync:error=EIO",
        files: checkpoints,
        ends: false,
    },
];

fn logs(home: &Home) -> Vec<PathBuf> {
    coming(home, "log")
}

fn tables(home: &Home) -> Vec<PathBuf> {
    coming(home, "sst")
}

fn manifest(home: &Home) -> Vec<PathBuf> {
    vec![std::fs::canonicalize(home.file("data").join(home.read("data/CURRENT").trim())).unwrap()]
}

fn directory(home: &Home) -> Vec<PathBuf> {
    vec![std::fs::canonicalize(home.file("data")).unwrap()]
}

fn checkpoint(home: &Home) -> Vec<PathBuf> {
    vec![std::fs::canonicalize(home.file("checkpoints")).unwrap().join("checkpoint.new")]
}

fn checkpoints(home: &Home) -> Vec<PathBuf> {
    vec![std::fs::canonicalize(home.file("checkpoints")).unwrap()]
}

/// The newest log; or the table files that will be made next, by the numbers that come.
fn coming(home: &Home, kind: &str) -> Vec<PathBuf> {
    let data = std::fs::canonicalize(home.file("data")).unwrap();
    let newest = newest_number(&data);
    let log = data_files(home, ".log").pop().expect("there is a log");
    let next = (newest + 1..newest + 60).map(|number| data.join(format!("{number:06}.{kind}")));
    let newest_log = std::fs::canonicalize(log).unwrap();
    (kind == "log").then_some(newest_log).into_iter().chain(next).collect()
}

/// The store numbers its files, whatever they are, in one row.
fn newest_number(data: &Path) -> u64 {
    let number = |path: &Path| {
        let name = path.file_stem()?.to_str()?.trim_start_matches("MANIFEST-").trim_start_matches("OPTIONS-");
        name.parse::<u64>().ok()
    };
    std::fs::read_dir(data).unwrap().flatten().filter_map(|entry| number(&entry.path())).max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: one vault for each fault"]
async fn no_failed_write_or_sync_of_any_file_is_followed_by_a_lie_s_04_a_06() {
    if !needs::met(&["strace"]) {
        return;
    }
    let (origin, before) = worked().await;
    for fault in FAULTS {
        let (_folder, home) = copy_of(&origin);
        one_fault(&home, &before, &fault).await;
    }
}

async fn one_fault(home: &Home, before: &Promises, fault: &Fault) {
    let server = launch(home, small(home));
    let files = (fault.files)(home);
    let trace = home.file("trace");
    let (calls, _) = fault.inject.split_once(':').unwrap();
    let mut options = vec!["-y".to_owned(), "-o".to_owned(), trace.display().to_string()];
    options.extend(["-e".to_owned(), format!("trace={calls}"), "-e".to_owned(), format!("inject={}", fault.inject)]);
    options.extend(files.iter().flat_map(|file| ["-P".to_owned(), file.display().to_string()]));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let attached = Attached::to(&server, &options);
    let Run { promises, failures, .. } = if fault.ends {
        run(home, &server, plan(24, u64::MAX), || {}).await
    } else {
        // Calls go on; only who asks for a checkpoint is refused, and the callers of `run` may.
        for _ in 0..CALLS_MEANWHILE {
            good_caller(home, &server).await;
        }
        Run { promises: Promises::default(), in_flight: 0, unanswered: 0, failures: Vec::new() }
    };
    let mut told = failures.iter().filter(|refusal| refusal.code == Code::Unavailable).count();
    assert_eq!(told, failures.len(), "{}: {failures:?}", fault.what);
    let outcome = if fault.ends {
        assert_eq!(failures.len(), 24, "{}: each caller's last call failed", fault.what);
        let (status, after, log) = end(server);
        assert_eq!(status.code(), Some(EXIT_IO_ERROR), "{}: {log}", fault.what);
        assert!(log.contains("the process ends"), "{}: {log}", fault.what);
        format!("ended {} ms after the last answer", after.as_millis())
    } else {
        told += usize::from(checkpoint_fails(home, &server).await);
        drop(attached);
        // By itself, with the next one.
        let auditor = server.client(&home.identity("auditor")).await;
        auditor.audit().get_checkpoint(v1::GetCheckpointRequest {}).await.unwrap();
        server.kill();
        "calls went on, no checkpoint was given out meanwhile".to_owned()
    };
    let trace = std::fs::read_to_string(trace).unwrap();
    let injected = trace.lines().filter(|line| line.contains("(INJECTED)")).count();
    assert!(injected > 0, "{}: nothing failed\n{trace}", fault.what);
    if fault.ends {
        no_second_sync(&trace, fault.what);
    }
    let answered = promises.calls;
    let mut all = Promises::default();
    all.add(promises);
    let kept = kept(home, small(home), &all).await;
    let server = home.serve();
    let findings = before.check(home, &server, Stamp::MAX).await;
    assert!(findings.broken.is_empty(), "{}: {:#?}", fault.what, findings.broken);
    println!(
        "{}: {answered} calls answered, {injected} failed, {told} callers told UNAVAILABLE, {outcome}; {kept}",
        fault.what
    );
}

/// A checkpoint that can't be made durable is not given out, and that is counted.
async fn checkpoint_fails(home: &Home, server: &Server) -> bool {
    let auditor = server.client(&home.identity("auditor")).await;
    let refusal = harness::refused(auditor.audit().get_checkpoint(v1::GetCheckpointRequest {}).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "UNAVAILABLE"));
    assert!(server.metric("cloakroom_checkpoint_failures_total") > 0);
    true
}

/// A sync that succeeds after one of the same file that failed proves nothing: the kernel may have dropped the pages.
fn no_second_sync(trace: &str, what: &str) {
    let file = |line: &str| Some(line.split_once('<')?.1.split_once('>')?.0.to_owned());
    let mut failed: Vec<String> = Vec::new();
    for line in trace.lines().filter(|line| line.contains("sync(")) {
        let Some(name) = file(line) else { continue };
        if line.contains("(INJECTED)") {
            failed.push(name);
        } else if !Path::new(&name).is_dir() {
            assert!(!failed.contains(&name), "{what}: {name} was synced again after that had failed: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_whose_files_can_not_be_written_says_so_and_the_next_goes_on_s_04() {
    if !needs::met(&["strace"]) {
        return;
    }
    let (home, promises) = worked().await;
    let data = std::fs::canonicalize(home.file("data")).unwrap();
    let mut refused = 0;
    for (call, error, word) in [
        ("fsync,fdatasync", "EIO", "The disk fails"),
        ("rename", "EIO", "The disk fails"),
        ("write,pwrite64", "ENOSPC", "The disk is full"),
    ] {
        let serve = small(&home);
        let mut strace = Command::new("strace");
        strace.args(["-f", "--quiet=all", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:error={error}:when=1+")]);
        // The names that CURRENT is written under before it is renamed, and those of the next manifest and tables.
        let newest = newest_number(&data);
        let names = (newest + 1..newest + 100).flat_map(|number| {
            [format!("{number:06}.dbtmp"), format!("MANIFEST-{number:06}"), format!("{number:06}.sst")]
        });
        for name in names {
            strace.arg("-P").arg(data.join(name));
        }
        strace.arg(serve.get_program()).args(serve.get_args());
        for (name, value) in serve.get_envs() {
            match value {
                Some(value) => strace.env(name, value),
                None => strace.env_remove(name),
            };
        }
        let log = Server::launch(&home, strace).err().unwrap_or_else(|| panic!("{call} {error}: it starts"));
        assert!(log.contains(word) && log.contains(&data.display().to_string()), "{call} {error}: {log}");
        println!("{call} {error}: {}", log.lines().last().unwrap_or_default());
        refused += 1;
    }
    assert_eq!(refused, 3);
    println!("{}", kept(&home, small(&home), &promises).await);
}

/// The disk itself fails from its n-th flush on, and the file system with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: a disk behind a program"]
async fn a_disk_that_fails_a_flush_ends_the_process_and_loses_nothing_s_04() {
    if !needs::met(&EXPORTED) {
        return;
    }
    for flushes in [150, 400] {
        let folder = tempfile::Builder::new().prefix("flush-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let home = Home::init();
        let filter = failing_flush(flushes);
        let disk = Exported::new(folder.path(), 512 * MIB, Some((&filter, "filter")));
        move_to(&home, disk.path());
        let server = launch(&home, small(&home));
        let Run { promises, failures, .. } = run(&home, &server, plan(16, u64::MAX), || {}).await;
        assert!(failures.iter().all(|refusal| refusal.code == Code::Unavailable), "{failures:?}");
        let (status, after, log) = end(server);
        assert_eq!(status.code(), Some(EXIT_IO_ERROR), "{log}");
        let why = log.lines().find(|line| line.contains("the process ends")).unwrap_or_default().to_owned();
        drop(disk);
        // The same disk, mended.
        let _disk = Exported::new(folder.path(), 512 * MIB, None);
        println!(
            "flush {flushes} and all later ones fail: {} calls answered, ended after {} ms ({why}); {}",
            promises.calls,
            after.as_millis(),
            kept(&home, small(&home), &promises).await
        );
    }
}

/// A filter that passes on so many flushes and then fails each.
fn failing_flush(number: u64) -> String {
    let state = |state: u64| serde_json::json!({ "event": "flush_to_disk", "state": state, "new_state": state + 1 });
    let states: Vec<_> = (1..number).map(state).collect();
    let error = serde_json::json!({ "event": "flush_to_disk", "state": number, "errno": 5, "once": false });
    serde_json::json!({
        "driver": "blkdebug", "node-name": "filter", "image": "content", "set-state": states, "inject-error": [error],
    })
    .to_string()
}

// === a full disk ===

/// One call of each rpc, and what it was told. None may succeed.
async fn all_refused(home: &Home, server: &Server, tokens: &[String]) -> usize {
    let (gateway, payments) =
        (server.client(&home.identity("gateway")).await, server.client(&home.identity("payments")).await);
    let (operator, auditor) =
        (server.client(&home.identity("operator")).await, server.client(&home.identity("auditor")).await);
    let mut refused: Vec<(&str, Refusal)> = Vec::new();
    let scope = || "pan".to_owned();
    let tokens = || tokens.to_vec();
    let tokenize = v1::TokenizeRequest { scope: scope(), items: vec![item(b"4111111111111111")], ..Default::default() };
    let detokenize =
        v1::DetokenizeRequest { scope: scope(), tokens: tokens(), purpose: "test".into(), ..Default::default() };
    refused.push(("Tokenize", harness::refused(gateway.tokens().tokenize(tokenize.clone()).await)));
    refused.push(("Detokenize", harness::refused(payments.tokens().detokenize(detokenize.clone()).await)));
    let masked = v1::DetokenizeRequest { reveal: v1::Reveal::Masked.into(), ..detokenize.clone() };
    refused.push(("Detokenize, masked", harness::refused(payments.tokens().detokenize(masked).await)));
    let denied = harness::refused(gateway.tokens().detokenize(detokenize).await);
    assert!(matches!(denied.code, Code::Unavailable | Code::PermissionDenied), "{denied:?}");
    let inspect = v1::InspectTokensRequest { scope: scope(), tokens: tokens(), ..Default::default() };
    refused.push(("InspectTokens", harness::refused(operator.tokens().inspect_tokens(inspect).await)));
    let revoke = v1::RevokeTokensRequest { scope: scope(), tokens: tokens(), ..Default::default() };
    refused.push(("RevokeTokens", harness::refused(operator.tokens().revoke_tokens(revoke).await)));
    let renew = v1::RenewTokensRequest { scope: scope(), tokens: tokens(), ..Default::default() };
    refused.push(("RenewTokens", harness::refused(operator.tokens().renew_tokens(renew).await)));
    refused.extend(streams_refused(&gateway, &payments, tokens()).await);
    let query = v1::QueryEventsRequest::default();
    refused.push(("QueryEvents", harness::refused(auditor.audit().query_events(query).await)));
    refused.push(("TailEvents", first_of_tail(&auditor).await));
    for (rpc, refusal) in &refused {
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "UNAVAILABLE"), "{rpc}: {refusal:?}");
    }
    refused.len()
}

async fn streams_refused(gateway: &Client, payments: &Client, tokens: Vec<String>) -> Vec<(&'static str, Refusal)> {
    let batch =
        v1::TokenizeRequest { scope: "pan".into(), items: vec![item(b"4111111111111111")], ..Default::default() };
    let tokenize = v1::StreamTokenizeRequest { batch: Some(batch) };
    let batch = v1::DetokenizeRequest { scope: "pan".into(), tokens, purpose: "test".into(), ..Default::default() };
    let detokenize = v1::StreamDetokenizeRequest { batch: Some(batch) };
    let issued = match gateway.tokens().stream_tokenize(tokio_stream::iter([tokenize])).await {
        Ok(answers) => answers.into_inner().message().await.map(|answer| assert!(answer.is_none(), "a token left")),
        Err(status) => Err(status),
    };
    let released = match payments.tokens().stream_detokenize(tokio_stream::iter([detokenize])).await {
        Ok(answers) => answers.into_inner().message().await.map(|answer| assert!(answer.is_none(), "a value left")),
        Err(status) => Err(status),
    };
    vec![
        ("StreamTokenize", Refusal::of(&issued.expect_err("it is refused"))),
        ("StreamDetokenize", Refusal::of(&released.expect_err("it is refused"))),
    ]
}

async fn first_of_tail(auditor: &Client) -> Refusal {
    match auditor.audit().tail_events(v1::TailEventsRequest::default()).await {
        Ok(events) => match events.into_inner().message().await {
            Ok(_) => panic!("an event left"),
            Err(status) => Refusal::of(&status),
        },
        Err(status) => Refusal::of(&status),
    }
}

/// A home on a small disk of its own, and the environment in which so much of it must be free.
fn on(image: &Image, min_free: u64) -> (Home, impl Fn(&Home) -> Command) {
    let home = Home::init();
    home.permit("operator", "renew", "pan");
    move_to(&home, image.path());
    let serve = move |home: &Home| {
        let mut serve = small(home);
        serve.env("CLOAKROOM_STORAGE__MIN_FREE_BYTES", min_free.to_string());
        serve
    };
    (home, serve)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_refuses_calls_and_serves_again_when_there_is_room_s_05_a_06() {
    if !needs::met(&LOOP) {
        return;
    }
    let image = Image::new(256 * MIB, &[]);
    let (home, serve) = on(&image, 64 * MIB);
    let server = launch(&home, serve(&home));
    let pid = server.pid();
    let tokens = texts(&server.client(&home.identity("gateway")).await.tokenize("pan", &[b"5500005555555559"]).await);
    let mut filler = None;
    let ended = run(&home, &server, Plan { calls: 600, ..plan(24, 0) }, || filler = Some(image.fill(32 * MIB))).await;
    let why = eventually("readiness says why", || async {
        let (status, body) = server.get("/readyz");
        status.contains("503").then_some(body)
    });
    assert_eq!(why.await, "not ready: too little room on the disk\n");
    let health = harness::health(&server, &home).await;
    let refused = all_refused(&home, &server, &tokens).await;
    assert_eq!(health, tonic_health::ServingStatus::NotServing as i32);
    assert_eq!(server.metric("cloakroom_not_ready{reason=\"full\"}"), 1);
    assert!(server.log().contains("too little room on the disk of"), "{}", server.log());
    std::fs::remove_file(filler.unwrap()).unwrap();
    eventually("it is ready again", || async { server.get("/readyz").0.contains("200").then_some(()) }).await;
    good_caller(&home, &server).await;
    assert_eq!(server.pid(), pid, "by itself");
    assert_eq!(harness::health(&server, &home).await, tonic_health::ServingStatus::Serving as i32);

    // Full again: an orderly stop has room for its last event and checkpoint.
    let filler = image.fill(32 * MIB);
    eventually("full again", || async { server.get("/readyz").0.contains("503").then_some(()) }).await;
    server.stop();
    // And a start says what is wrong, with the status after which to try again.
    let mut command = serve(&home);
    let said = command.output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(EXIT_IO_ERROR), "{text}");
    assert!(text.contains("too little room on the disk of") && text.contains("Make room; nothing is lost"), "{text}");
    std::fs::remove_file(filler).unwrap();
    let found = kept(&home, serve(&home), &ended.promises).await;
    let (calls, failed) = (ended.promises.calls, ended.failures.len());
    println!(
        "{calls} calls answered, {failed} callers refused when it was full, {refused} kinds of calls refused; {found}"
    );
    stopped_in_order(&home, &serve(&home)).await;
}

/// The database's new log has its blocks at once: a start that leaves less than is wanted is not begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_wants_room_for_what_opening_takes_s_05() {
    if !needs::met(&LOOP) {
        return;
    }
    let image = Image::new(320 * MIB, &[]);
    let home = Home::init();
    move_to(&home, image.path());
    let filler = image.fill(132 * MIB);
    // As configured: 128 MiB free, and the usual memory.
    let mut serve = home.serve_command();
    let refused = serve.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(EXIT_IO_ERROR), "{said}");
    assert!(said.contains("that opening the database takes want 198 MiB"), "{said}");
    let looked = home.serve_command().arg("--check").output().unwrap();
    let said = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert_eq!(looked.status.code(), Some(2), "{said}");
    assert!(said.contains("bad   room") && said.contains("want 198 MiB"), "{said}");
    std::fs::remove_file(filler).unwrap();
    let filler = image.fill(204 * MIB);
    let server = launch(&home, home.serve_command());
    let pid = server.pid();
    eventually("it is ready", || async { server.get("/readyz").0.contains("200").then_some(()) }).await;
    texts(&server.client(&home.identity("gateway")).await.tokenize("pan", &[b"5500005555555559"]).await);
    assert_eq!(server.pid(), pid);
    // The log that a killed vault leaves gives back what it has beyond its end.
    server.kill();
    assert!(image.free() < 198 * MIB, "{}", image.free());
    let server = launch(&home, home.serve_command());
    eventually("it is ready", || async { server.get("/readyz").0.contains("200").then_some(()) }).await;
    server.stop();
    std::fs::remove_file(filler).unwrap();
}

/// The last vault but one wrote that it stopped.
async fn stopped_in_order(home: &Home, serve: &Command) {
    let mut again = home.serve_command();
    for (name, value) in serve.get_envs() {
        if let Some(value) = value {
            again.env(name, value);
        }
    }
    let server = launch(home, again);
    let events = server.client(&home.identity("auditor")).await.events(v1::AuditFilter::default()).await;
    let of = |action| events.iter().filter(|event| event.action() == action).count();
    assert_eq!((of(v1::Action::Start), of(v1::Action::Stop)), (3, 2), "each start but the last has its stop");
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_a_byte_left_ends_the_process_and_loses_nothing_s_05_a_06() {
    if !needs::met(&LOOP) {
        return;
    }
    let image = Image::new(160 * MIB, &[]);
    let (home, serve) = on(&image, 0);
    let server = launch(&home, serve(&home));
    let filler = image.fill(3 * MIB);
    let ended = run(&home, &server, plan(24, u64::MAX), || {}).await;
    assert!(ended.failures.iter().all(|refusal| refusal.code == Code::Unavailable), "{:?}", ended.failures);
    let (status, after, log) = end(server);
    assert_eq!(status.code(), Some(EXIT_IO_ERROR), "{log}");
    assert!(log.contains("No space left on device") || log.contains("in the background"), "{log}");

    // There is still no room: it starts and goes on from what is there, or says what is wrong and changes nothing.
    let rest = image.free();
    let again = match Server::launch(&home, serve(&home)) {
        Err(log) => {
            assert!(log.contains("The disk is full") || log.contains("the log can't be written"), "{log}");
            "refused".to_owned()
        }
        Ok(server) => {
            server.terminate();
            let (status, _, log) = end(server);
            assert!(matches!(status.code(), Some(0 | EXIT_IO_ERROR)), "{status}: {log}");
            format!("possible, and its stop too ({status})")
        }
    };
    std::fs::remove_file(filler).unwrap();
    println!(
        "{} calls answered until the disk was full ({rest} bytes left), ended after {} ms; a start on it: {again}; with room \
         again {}",
        ended.promises.calls,
        after.as_millis(),
        kept(&home, serve(&home), &ended.promises).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_inodes_refuses_calls_and_serves_again_when_there_are_some_s_05() {
    if !needs::met(&LOOP) {
        return;
    }
    let image = Image::new(128 * MIB, &["-N", "1024"]);
    let (home, small) = on(&image, MIB);
    // With the usual memory: a table that the store begins just when the last inode is gone is a failed write, and ends the
    // process as it should. Here none is begun.
    let serve = |home: &Home| {
        let mut serve = small(home);
        serve.env_remove(SMALL_CACHE.0);
        serve
    };
    let server = launch(&home, serve(&home));
    let tokens = texts(&server.client(&home.identity("gateway")).await.tokenize("pan", &[b"5500005555555559"]).await);
    let ended = run(&home, &server, plan(8, 200), || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    let many = image.path().join("many");
    std::fs::create_dir(&many).unwrap();
    let take = |from: u32| {
        (from..)
            .take_while(|number| std::fs::File::create(many.join(format!("{number}"))).is_ok())
            .map(|number| number + 1)
    };
    // As they run out: a few are left when the vault sees it. All at once, a file of the database could fail first, and then
    // the process ends as it does where a disk is full to the last byte.
    let left = || rustix::fs::statvfs(image.path()).unwrap().f_favail;
    let next = take(0).find(|_| left() < 50).expect("there were more");
    eventually("not ready", || async { server.get("/readyz").0.contains("503").then_some(()) }).await;
    take(next).last();
    let refused = all_refused(&home, &server, &tokens).await;
    std::fs::remove_dir_all(&many).unwrap();
    eventually("it is ready again", || async { server.get("/readyz").0.contains("200").then_some(()) }).await;
    good_caller(&home, &server).await;
    server.stop();
    println!(
        "without an inode: {refused} kinds of calls refused; {}",
        kept(&home, serve(&home), &ended.promises).await
    );
}

// === data that can't be reached any more ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_that_goes_read_only_ends_the_process_s_06() {
    if !needs::met(&LOOP) {
        return;
    }
    let image = Image::new(256 * MIB, &[]);
    let (home, serve) = on(&image, MIB);
    let server = launch(&home, serve(&home));
    let ended = run(&home, &server, plan(16, 400), || image.abort()).await;
    assert!(ended.failures.iter().all(|refusal| refusal.code == Code::Unavailable), "{:?}", ended.failures);
    let (status, after, log) = end(server);
    assert_eq!(status.code(), Some(EXIT_IO_ERROR), "{log}");
    image.mend(&["-o", "ro"]);
    let log = Server::launch(&home, serve(&home)).err().expect("it does not start");
    assert!(log.contains("read-only") && log.contains(&home.file("checkpoints").display().to_string()), "{log}");
    image.mend(&[]);
    println!(
        "{} calls answered, ended {} ms after it became read-only; {}",
        ended.promises.calls,
        after.as_millis(),
        kept(&home, serve(&home), &ended.promises).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_is_deleted_or_moved_ends_the_process_and_nothing_is_made_in_its_place_s_06() {
    for moved in [true, false] {
        let home = Home::init();
        let server = launch(&home, small(&home));
        let ended = run(&home, &server, plan(16, 300), || {}).await;
        assert!(ended.failures.is_empty(), "{:?}", ended.failures);
        if moved {
            std::fs::rename(home.file("data"), home.file("elsewhere")).unwrap();
        } else {
            // The vault makes new files meanwhile.
            while home.file("data").exists() {
                let _ = std::fs::remove_dir_all(home.file("data"));
            }
        }
        let (status, after, log) = end(server);
        assert_eq!(status.code(), Some(EXIT_IO_ERROR), "{log}");
        assert!(log.contains("was deleted, moved or mounted over") && log.contains("/data"), "{log}");
        let log = Server::launch(&home, small(&home)).err().expect("it does not start");
        assert!(log.contains("no data in"), "{log}");
        assert!(!home.file("data").exists(), "nothing is made in its place");
        print!("ended after {} ms; ", after.as_millis());
        if moved {
            std::fs::rename(home.file("elsewhere"), home.file("data")).unwrap();
            println!("put back, {}", kept(&home, small(&home), &ended.promises).await);
        } else {
            println!("deleted: refused");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_vault_on_the_same_data_is_refused_and_the_first_goes_on_s_06() {
    let home = Home::init();
    let first = home.serve();
    let ended = run(&home, &first, plan(8, 100), || {
        for _ in 0..3 {
            let log = Server::launch(&home, home.serve_command()).err().expect("a second one does not start");
            assert!(log.contains("is in use by another process"), "{log}");
        }
    });
    let ended = ended.await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    let other = home.serve_command().output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    good_caller(&home, &first).await;
    first.stop();
    println!("{}", kept(&home, home.serve_command(), &ended.promises).await);
}

/// The vault as a user to whom modes mean something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permissions_that_are_lost_are_named_and_cost_nothing_s_06() {
    if !needs::met(&["setpriv", "chown"]) {
        return;
    }
    let (_folder, home) = home_of_nobody();
    let server = launch(&home, as_nobody(&small(&home), &[]));
    let ended = run(&home, &server, plan(16, 300), || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    // What is open stays open; the next file can't be made.
    mode(&home.file("data"), "000");
    let Run { promises, failures, .. } = run(&home, &server, plan(16, u64::MAX), || {}).await;
    assert!(failures.iter().all(|refusal| refusal.code == Code::Unavailable), "{failures:?}");
    let (status, after, log) = end(server);
    assert_eq!(status.code(), Some(EXIT_IO_ERROR), "{log}");
    let log = Server::launch(&home, as_nobody(&small(&home), &[])).err().expect("it does not start");
    assert!(log.contains("Permission denied") && log.contains("Give the directory"), "{log}");
    mode(&home.file("data"), "700");
    for name in ["CURRENT", "LOCK"] {
        mode(&home.file("data").join(name), "000");
        let log = Server::launch(&home, as_nobody(&small(&home), &[])).err().expect("it does not start");
        assert!(log.contains("Permission denied") && log.contains(name), "{name}: {log}");
        mode(&home.file("data").join(name), "644");
    }
    mode(&home.file("checkpoints"), "000");
    let log = Server::launch(&home, as_nobody(&small(&home), &[])).err().expect("it does not start");
    assert!(log.contains("Permission denied") && log.contains("checkpoints"), "{log}");
    mode(&home.file("checkpoints"), "700");
    let mut all = ended.promises;
    all.add(promises);
    // Keys have to be those of whoever looks, and the checks are root's.
    tool("chown", &["-R", "root", &home.path().display().to_string()]);
    println!(
        "without permission to the data directory: ended after {} ms; {}",
        after.as_millis(),
        kept(&home, small(&home), &all).await
    );
}

/// A home that belongs to nobody, in a place that everybody can reach.
pub fn home_of_nobody() -> (tempfile::TempDir, Home) {
    let folder = tempfile::Builder::new().prefix("vault-").tempdir().unwrap();
    let home = Home::init_at(&folder.path().join("home"));
    tool("chown", &["-R", "nobody", &folder.path().display().to_string()]);
    mode(folder.path(), "755");
    // The program too: where it was built, nobody may look.
    std::fs::copy(harness::PROGRAM, folder.path().join("cloakroom")).unwrap();
    mode(&folder.path().join("cloakroom"), "755");
    (folder, home)
}

/// The same command as nobody, with `more` words for `prlimit` where they are given.
pub fn as_nobody(serve: &Command, limits: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
    if !limits.is_empty() {
        command.arg("prlimit").args(limits);
    }
    let config = serve.get_args().last().map(Path::new).unwrap();
    command.arg(config.parent().and_then(Path::parent).unwrap().join("cloakroom")).args(serve.get_args());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn mode(path: &Path, mode: &str) {
    tool("chmod", &[mode, &path.display().to_string()]);
}
