//! Data that earlier versions wrote: this one reads it, loses nothing of it, and takes it to its own format in one step.
//!
//! `tests/vectors/data_vN.tar.gz` holds the data directory, the checkpoints and the keys of a small vault, as a version
//! with storage format N left them, and `promised.json`, what its clients were told. They are frozen. A version that brings
//! a new format adds its own: `GOLDEN=make` makes the one of the format that is current and leaves the others alone.

use crate::harness::{Home, Server, item, program, texts};
use crate::invariants::Invariants;
use crate::needs;
use crate::promises::{Promises, Stamp};
use crate::strace::{child_of, serve_until};
use cloakroom::crypto::MAC_LENGTH;
use cloakroom::keys::authentic;
use cloakroom::keys::provider::{self, Provider};
use cloakroom::ledger;
use cloakroom::proto::v1;
use cloakroom::store::{Batch, Found, RocksConfig, RocksStore, Rows, Store, Table, Tier};
use rustix::process::{Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::process::Command;
use tonic::Code;

/// Every format that this version can read.
const FORMATS: [u32; 2] = [2, 3];
/// What makes up a vault besides its configuration, policies and certificates, which are this version's own.
const PARTS: [&str; 5] = ["root.key", "log.key", "log.vkey", "checkpoints", "data"];
/// More than a tile of the log holds.
const CALLS: usize = 300;
/// A hundred years: what is frozen is not to expire.
const LIFETIME: i64 = 36_500 * 86_400;

/// What clients were told. These values are nobody's.
#[derive(Serialize, Deserialize)]
struct Promised {
    live: Vec<(String, String)>,
    /// These have one use left.
    limited: Vec<(String, String)>,
    gone: Vec<String>,
    /// Events in the log.
    events: usize,
}

fn archive(format: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/data_v{format}.tar.gz"))
}

/// A home whose scopes let tokens live for long.
fn lasting_home() -> Home {
    let home = Home::init();
    let config = home.read("cloakroom.toml").replace("max_ttl = \"400d\"", "max_ttl = \"36500d\"");
    home.write("cloakroom.toml", &config);
    home
}

/// What a version with this format left, in a home of its own.
fn thawed(format: u32) -> (Home, Promised) {
    let home = lasting_home();
    std::fs::remove_dir_all(home.file("data")).unwrap();
    tar(&["-xzf", &archive(format).display().to_string(), "-C", &home.path().display().to_string()]);
    let promised = serde_json::from_str(&home.read("promised.json")).unwrap();
    (home, promised)
}

fn tar(words: &[&str]) {
    let output = Command::new("tar").args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes the archive of the current format, if that is asked for.
async fn freeze(format: u32) {
    let home = lasting_home();
    let mut promised = Promised { live: Vec::new(), limited: Vec::new(), gone: Vec::new(), events: 0 };
    let long = |value: &str| v1::TokenizeItem { ttl: crate::harness::duration(LIFETIME, 0), ..item(value.as_bytes()) };
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    for number in 0..CALLS {
        let value = format!("frozen value {number}");
        let token = texts(&gateway.issue("pan", vec![long(&value)]).await).remove(0);
        promised.live.push((token, value));
    }
    // One start in between, so that some of it lies in tables and some in the log of writes.
    server.stop();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let payments = server.client(&home.identity("payments")).await;
    let operator = server.client(&home.identity("operator")).await;
    let twice = v1::TokenizeItem { max_uses: 2, ..long("twice") };
    let token = texts(&gateway.issue("pan", vec![twice]).await).remove(0);
    payments.detokenize("pan", std::slice::from_ref(&token)).await.unwrap()[0].as_ref().unwrap();
    promised.limited.push((token, "twice".to_owned()));
    let once = v1::TokenizeItem { max_uses: 1, ..long("once") };
    let token = texts(&gateway.issue("pan", vec![once]).await).remove(0);
    payments.detokenize("pan", std::slice::from_ref(&token)).await.unwrap()[0].as_ref().unwrap();
    promised.gone.push(token);
    let (revoked, _) = promised.live.remove(7);
    let tokens = vec![revoked.clone()];
    let request = v1::RevokeTokensRequest { scope: "pan".to_owned(), tokens, ..Default::default() };
    operator.tokens().revoke_tokens(request).await.unwrap();
    promised.gone.push(revoked);
    let auditor = server.client(&home.identity("auditor")).await;
    promised.events = auditor.events(v1::AuditFilter::default()).await.len();
    server.stop();
    home.write("promised.json", &serde_json::to_string_pretty(&promised).unwrap());
    for name in ["data/LOG", "data/LOCK"] {
        std::fs::remove_file(home.file(name)).unwrap();
    }
    let (archive, folder) = (archive(format).display().to_string(), home.path().display().to_string());
    let mut words =
        vec!["--sort=name", "--owner=0", "--group=0", "--mtime=@0", "--numeric-owner", "--exclude=LOG.old*"];
    words.extend(["-C", &folder, "-czf", &archive, "promised.json"]);
    words.extend(PARTS);
    tar(&words);
}

/// That everything of it is there, with the log and the sums.
async fn holds(home: &Home, promised: &Promised, what: &str) -> Server {
    let checked = Invariants::new().check(home, home.serve_command(), &Promises::default(), Stamp::MAX).await;
    let (server, findings) = checked.unwrap_or_else(|log| panic!("{what}: the vault does not start:\n{log}"));
    assert!(findings.broken.is_empty(), "{what}: {:#?}", findings.broken);
    assert!(findings.events > promised.events, "{what}: {} events", findings.events);
    let payments = server.client(&home.identity("payments")).await;
    let (tokens, values): (Vec<_>, Vec<_>) = promised.live.iter().cloned().unzip();
    let answers = payments.detokenize("pan", &tokens).await.unwrap();
    let answers: Vec<_> = answers.into_iter().map(|answer| String::from_utf8(answer.unwrap()).unwrap()).collect();
    assert!(answers == values, "{what}: a value is another");
    for answer in payments.detokenize("pan", &promised.gone).await.unwrap() {
        assert_eq!(answer.unwrap_err().code, Code::NotFound, "{what}");
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_every_format_is_read_s_13() {
    let current = *FORMATS.last().unwrap();
    if std::env::var("GOLDEN").is_ok_and(|golden| golden == "make") {
        freeze(current).await;
    }
    for format in FORMATS {
        let (home, promised) = thawed(format);
        assert_eq!(stored_format(&home), format);
        holds(&home, &promised, &format!("format {format}")).await.stop();
        assert_eq!(stored_format(&home), current, "it was taken to the current format");
        // And once more as data of the current format, to the last use.
        let server = holds(&home, &promised, &format!("format {format}, again")).await;
        let payments = server.client(&home.identity("payments")).await;
        for (token, value) in &promised.limited {
            let token = std::slice::from_ref(token);
            assert!(payments.detokenize("pan", token).await.unwrap()[0] == Ok(value.clone().into_bytes()));
            assert_eq!(payments.detokenize("pan", token).await.unwrap()[0].as_ref().unwrap_err().code, Code::NotFound);
        }
        server.stop();
    }
}

/// What the row says, whoever wrote it.
fn stored_format(home: &Home) -> u32 {
    let store = RocksStore::open(&home.file("data"), &RocksConfig::default()).unwrap();
    let Found::Row(row) = store.get(Table::Meta, &[b"format"], Tier::Disk).unwrap().remove(0) else {
        panic!("no format")
    };
    u32::from_be_bytes(row[..row.len() - MAC_LENGTH].try_into().unwrap())
}

#[test]
fn data_of_a_newer_format_is_refused_and_left_alone_s_13() {
    let (home, _) = thawed(*FORMATS.last().unwrap());
    let newer = stored_format(&home) + 1;
    {
        let store = RocksStore::open(&home.file("data"), &RocksConfig::default()).unwrap();
        let root = provider::File::new(home.file("root.key")).root_key().unwrap();
        let (_, meta) = ledger::identify(&store, &root).unwrap();
        let mut rows = Batch::default();
        let row = authentic::seal(&meta, Table::Meta, b"format", &newer.to_be_bytes());
        rows.put(Table::Meta, b"format", &row);
        store.commit(&rows).unwrap();
    }
    let log = Server::launch(&home, home.serve_command()).err().expect("it does not start");
    let said = format!("the data has format {newer}, which this version does not know");
    assert!(log.contains(&said), "{log}");
    let output = program().arg("verify").arg("--config").arg(home.file("cloakroom.toml")).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&said));
    assert_eq!(stored_format(&home), newer, "nothing was changed");
}

/// A start that takes the data to another format is killed at each of these steps.
const STEPS: [(&str, std::ops::RangeInclusive<usize>); 4] =
    [("fdatasync", 1..=6), ("fsync", 1..=10), ("rename", 1..=6), ("write", 10..=40)];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: a start killed at fifty steps for each older format"]
async fn killed_on_the_way_to_the_current_format_it_gets_there_s_13() {
    if !needs::met(&["strace"]) {
        return;
    }
    let mut kills = 0;
    for format in FORMATS.into_iter().filter(|format| format != FORMATS.last().unwrap()) {
        for (call, numbers) in STEPS {
            for number in numbers {
                let (home, promised) = thawed(format);
                if let Ok(server) = serve_until(&home, call, number) {
                    // It has served before that step came; strace ends with it.
                    if let Some(vault) = child_of(server.pid()) {
                        let _ = kill_process(vault, Signal::KILL);
                    }
                    server.wait();
                }
                kills += 1;
                holds(&home, &promised, &format!("format {format}, killed at {call} {number}")).await.kill();
            }
        }
    }
    println!("killed at {kills} steps on the way to format {}: nothing lost", FORMATS.last().unwrap());
}
