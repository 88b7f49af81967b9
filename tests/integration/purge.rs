//! What has expired is deleted by the real process while it serves, is gone from its files, and is not deleted because a
//! clock says so that has leapt.

use crate::harness::{self, Client, Home, Server, duration, eventually, texts};
use crate::needs;
use cloakroom::proto::v1;
use cloakroom::store::{Order, RocksConfig, RocksStore, Rows, Table};
use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tonic::Code;

const BATCH: usize = 1000;
const PURGED: &str = "cloakroom_purged_rows_total{table=\"tokens\"}";

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_gone_from_the_files_l_02() {
    gone_from_the_files(5_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: a hundred thousand tokens"]
async fn a_hundred_thousand_that_expired_are_gone_from_the_files_l_02() {
    gone_from_the_files(100_000).await;
}

async fn gone_from_the_files(count: usize) {
    let home = Home::init();
    let server = Server::launch(&home, eager(home.serve_command())).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let load = [load(&home, &server, Arc::clone(&stop)).await, load(&home, &server, Arc::clone(&stop)).await];
    let gateway = server.client(&home.identity("gateway")).await;
    let mut brief: Vec<Vec<u8>> = Vec::with_capacity(count);
    while brief.len() < count {
        let value = |number: usize| v1::TokenizeItem {
            ttl: duration(2, 0),
            ..harness::item(format!("value {number}").as_bytes())
        };
        let items = (brief.len()..(brief.len() + BATCH).min(count)).map(value).collect();
        brief.extend(gateway.issue("pan", items).await.iter().map(handle));
    }
    let purged = async || server.metric(PURGED);
    eventually("all of them are purged", || async { (purged().await == count as u64).then_some(()) }).await;
    stop.store(true, Ordering::Release);
    let mut alive = BTreeSet::new();
    let mut calls = 0;
    for load in load {
        let (issued, made) = load.await.expect("no call of the load fails");
        alive.extend(issued);
        calls += made;
    }
    assert_eq!(server.metric("cloakroom_purge_left_total{reason=\"damaged\"}"), 0);
    let events = purge_events(&home, &server).await;
    assert_eq!(events.iter().map(|event| u64::from(event.succeeded)).sum::<u64>(), count as u64);
    assert!(events.iter().all(|event| event.caller == harness::VAULT_ID && event.handles.is_empty()));
    server.stop();
    assert_eq!(stored(&home.file("data")), (alive.clone(), alive.clone()), "only what is alive is left");
    let files = compacted(&home.file("data"));
    assert_eq!(found(&files, alive.iter()), alive.len(), "what is alive is found, so the search can fail");
    assert_eq!(found(&files, brief.iter()), 0, "and of what was purged no handle");
    println!(
        "{count} tokens of two seconds were purged in {} commits, while {calls} calls went on; {} live ones are left",
        events.len(),
        alive.len()
    );
}

/// The vault with a purge that is always on its heels.
fn eager(mut command: Command) -> Command {
    command.env("CLOAKROOM_PURGE__GRACE", "0s").env("CLOAKROOM_PURGE__INTERVAL", "1s");
    command.env("CLOAKROOM_PURGE__ROWS_PER_SECOND", "50000");
    command
}

type Load = tokio::task::JoinHandle<(Vec<Vec<u8>>, u64)>;

/// Issues tokens that live and gets their values back, until it is told to stop. The handles, and how many calls it made.
async fn load(home: &Home, server: &Server, stop: Arc<AtomicBool>) -> Load {
    let gateway = server.client(&home.identity("gateway")).await;
    let payments = server.client(&home.identity("payments")).await;
    tokio::spawn(async move {
        let (mut handles, mut calls) = (Vec::new(), 0);
        while !stop.load(Ordering::Acquire) {
            let issued = gateway.tokenize("pan", &[b"4111111111111111", b"4000056655665556"]).await;
            let values = payments.detokenize("pan", &texts(&issued)).await.expect("calls go on");
            assert_eq!(values, [Ok(b"4111111111111111".to_vec()), Ok(b"4000056655665556".to_vec())]);
            handles.extend(issued.iter().map(handle));
            calls += 2;
        }
        (handles, calls)
    })
}

fn handle(issued: &v1::IssuedToken) -> Vec<u8> {
    hex::decode(&issued.handle).unwrap()
}

async fn purge_events(home: &Home, server: &Server) -> Vec<v1::AuditEvent> {
    let auditor = server.client(&home.identity("auditor")).await;
    auditor.events(v1::AuditFilter { action: v1::Action::Purge.into(), ..Default::default() }).await
}

/// The handles that have a row in `tokens`, and those that `expiry` leads to.
fn stored(data: &Path) -> (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>) {
    let store = RocksStore::open(data, &RocksConfig::default()).unwrap();
    let rows = |table| store.scan(table, &[], &[0xff; 25], Order::Ascending, usize::MAX).unwrap();
    let tokens = rows(Table::Tokens).into_iter().map(|(key, _)| key).collect();
    let named = |(key, rest): (Vec<u8>, Vec<u8>)| {
        [&key[4..]].into_iter().chain(rest.chunks(20)).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    (tokens, rows(Table::Expiry).into_iter().flat_map(named).collect())
}

/// The content of the files of `tokens` and `expiry` once all of it is compacted.
fn compacted(data: &Path) -> Vec<Vec<u8>> {
    let options = rocksdb::Options::default();
    let families = rocksdb::DB::list_cf(&options, data).unwrap();
    let db = rocksdb::DB::open_cf(&options, data, families).unwrap();
    let tables = [Table::Tokens.name(), Table::Expiry.name()];
    // The lowest level, too: a file that is only moved there still says what was deleted.
    let mut all = rocksdb::CompactOptions::default();
    all.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
    for table in tables {
        let family = db.cf_handle(table).unwrap();
        db.flush_cf(family).unwrap();
        db.compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &all);
    }
    let files = db.live_files().unwrap();
    let of_tables = files.iter().filter(|file| tables.contains(&file.column_family_name.as_str()));
    of_tables.map(|file| std::fs::read(data.join(file.name.trim_start_matches('/'))).unwrap()).collect()
}

/// How many of `handles` stand somewhere in the files. Keys leave out what they share with the one before: the handle's
/// second, and with it perhaps a byte or two.
fn found<'a>(files: &[Vec<u8>], handles: impl Iterator<Item = &'a Vec<u8>>) -> usize {
    const END: usize = 12;
    let ends: HashSet<&[u8]> = handles.map(|handle| &handle[handle.len() - END..]).collect();
    let windows = files.iter().flat_map(|file| file.windows(END));
    windows.filter(|window| ends.contains(window)).collect::<HashSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: a clock that leaps"]
async fn a_leap_purges_nothing_until_it_is_accepted_l_03() {
    if !needs::met(&["faketime"]) {
        return;
    }
    let home = Home::init();
    let server = Server::launch(&home, eager(home.serve_command())).unwrap();
    let gateway = server.client(&home.identity("gateway")).await;
    let item = v1::TokenizeItem { ttl: duration(3600, 0), ..harness::item(b"value") };
    let tokens = texts(&gateway.issue("pan", vec![item]).await);
    server.stop();

    // The clock is wrong from one start to the next.
    let server = Server::launch(&home, leapt(eager(home.serve_command()))).unwrap();
    eventually("a purge looked", || async { server.get("/metrics").1.contains(PURGED).then_some(()) }).await;
    assert_eq!(server.metric(PURGED), 0);
    assert!(leap(&server) > 29.0 * 3600.0, "the metric tells");
    assert_eq!(show(&home, &server, &tokens).await, Err(Code::NotFound), "calls go on, by the clock as it is");
    let auditor = server.client(&home.identity("auditor")).await;
    let filter = v1::AuditFilter { action: v1::Action::Clock.into(), ..Default::default() };
    assert_eq!(auditor.events(filter).await.len(), 1);
    server.stop();

    // It was mended.
    let server = Server::launch(&home, eager(home.serve_command())).unwrap();
    assert_eq!(show(&home, &server, &tokens).await, Ok(b"value".to_vec()));
    assert!(leap(&server) < 1.0);
    server.stop();
    assert!(accept(&home, |command| command).starts_with("there is no leap to accept"));

    // It was right after all.
    let said = accept(&home, leapt);
    assert!(said.starts_with("the time mark moved 10"), "{said}");
    let said = accept(&home, |command| command);
    assert!(said.contains("the clock is 29h 59m") || said.contains("the clock is 30h"), "{said}");
    let server = Server::launch(&home, leapt(eager(home.serve_command()))).unwrap();
    eventually("it is purged", || async { (server.metric(PURGED) == 1).then_some(()) }).await;
    let auditor = server.client(&home.identity("auditor")).await;
    let filter = v1::AuditFilter { action: v1::Action::Clock.into(), ..Default::default() };
    let details: Vec<String> = auditor.events(filter).await.into_iter().map(|event| event.detail).collect();
    assert_eq!(details.iter().filter(|detail| detail.starts_with("an operator accepts the clock")).count(), 1);
    server.stop();
    let server = home.serve();
    assert_eq!(show(&home, &server, &tokens).await, Err(Code::NotFound), "and it does not come back");
    let while_it_runs =
        harness::program().args(["clock", "accept", "--config"]).arg(home.file("cloakroom.toml")).output();
    let said = String::from_utf8(while_it_runs.unwrap().stderr).unwrap();
    assert!(said.contains("stop the vault first"), "{said}");
    server.stop();
}

/// The same command, thirty hours later.
fn leapt(mut command: Command) -> Command {
    // The library is loaded without the program that comes with it: that would stand between the vault and its signals.
    let output = Command::new("faketime").args(["-f", "+30h", "env"]).output().unwrap();
    let environment = String::from_utf8(output.stdout).unwrap();
    let library = environment.lines().find_map(|line| line.strip_prefix("LD_PRELOAD=")).expect("faketime is a library");
    command.env("LD_PRELOAD", library).env("FAKETIME", "+30h").env("DONT_FAKE_MONOTONIC", "1");
    command
}

fn accept(home: &Home, wrap: impl FnOnce(Command) -> Command) -> String {
    let mut command = harness::program();
    command.args(["clock", "accept", "--config"]).arg(home.file("cloakroom.toml"));
    let output = wrap(command).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn show(home: &Home, server: &Server, tokens: &[String]) -> Result<Vec<u8>, Code> {
    let payments: Client = server.client(&home.identity("payments")).await;
    let mut values = payments.detokenize("pan", tokens).await.expect("the call itself succeeds");
    values.remove(0).map_err(|error| error.code)
}

fn leap(server: &Server) -> f64 {
    let (_, body) = server.get("/metrics");
    let value = body.lines().find_map(|line| line.strip_prefix("cloakroom_clock_leap_seconds "));
    value.expect("it is always there").parse().unwrap()
}
