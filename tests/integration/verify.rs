//! `cloakroom verify` on the data of the real process: beside it while it serves, after it was killed, and after somebody
//! edited what it left.

use crate::harness::{Home, Server, program, texts};
use cloakroom::proto::v1;
use cloakroom::store::{Batch, Found, RocksConfig, RocksSnapshot, RocksStore, Rows, Store, Table, Tier};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Looks at a vault that writes, so often.
const LOOKS: usize = 12;
const BATCH: usize = 100;

/// What `verify` says of a home, as JSON, and whether it ended with status 0.
pub fn verify(home: &Home) -> (bool, Value) {
    try_verify(home).unwrap_or_else(|said| panic!("{said}"))
}

/// As [`verify`], or what it says if it has nothing to report.
pub fn try_verify(home: &Home) -> Result<(bool, Value), String> {
    let mut command = program();
    let output = command.arg("verify").arg("--config").arg(home.file("cloakroom.toml")).args(["--output", "json"]);
    let output = output.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&said);
    let report = report.map_err(|_| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((output.status.success(), report))
}

/// That nothing is wrong.
pub fn assert_clean(home: &Home) -> Value {
    let (done, report) = verify(home);
    assert!(done && report["clean"] == true, "{report:#}");
    assert_eq!(report["records"], report["expected"]);
    report
}

/// Kinds and handles.
fn findings(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |finding: &Value| (text(&finding["kind"]), text(&finding["handle"]));
    report["findings"].as_array().unwrap().iter().map(of).collect()
}

fn row(rows: &dyn Rows, handle: &str) -> Vec<u8> {
    match rows.get(Table::Tokens, &[&hex::decode(handle).unwrap()], Tier::Disk).unwrap().remove(0) {
        Found::Row(row) => row,
        _ => panic!("there is no such row"),
    }
}

/// Changes the database of a vault that is stopped.
fn edit(home: &Home, change: impl FnOnce(&mut Batch)) {
    let store = RocksStore::open(&home.file("data"), &RocksConfig::default()).unwrap();
    let mut batch = Batch::default();
    change(&mut batch);
    store.commit(&batch).unwrap();
}

async fn revoke(home: &Home, server: &Server, token: &str) {
    let operator = server.client(&home.identity("operator")).await;
    let request = v1::RevokeTokensRequest {
        scope: "pan".into(),
        tokens: vec![token.into()],
        ..v1::RevokeTokensRequest::default()
    };
    operator.tokens().revoke_tokens(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_writes_is_clean_whenever_one_looks_c_04_c_05() {
    let home = Home::init();
    assert_eq!(assert_clean(&home)["against"], "checkpoint");
    // Small tables and logs, so that files come and go while somebody looks.
    let server = home.serve();
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    for number in 0..4 {
        let gateway = server.client(&home.identity("gateway")).await;
        let stop = Arc::clone(&stop);
        load.push(tokio::spawn(async move {
            let values: Vec<Vec<u8>> = (0..BATCH).map(|place| format!("value {number} {place}").into_bytes()).collect();
            let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            let mut issued = 0;
            while !stop.load(Ordering::Acquire) {
                issued += gateway.tokenize("pan", &values).await.len() as u64;
            }
            issued
        }));
    }
    let mut seen = Vec::new();
    for _ in 0..LOOKS {
        let home = home.path().to_owned();
        let report = tokio::task::spawn_blocking(move || assert_clean(&Home::at(&home))).await.unwrap();
        seen.push(report["records"].as_u64().unwrap());
    }
    stop.store(true, Ordering::Release);
    let mut issued = 0;
    for load in load {
        issued += load.await.unwrap();
    }
    server.stop();
    let report = assert_clean(&home);
    assert_eq!((&report["records"], &report["against"]), (&Value::from(issued), &Value::from("checkpoint")));
    assert!(seen.is_sorted() && seen.first() < seen.last(), "it saw the vault write: {seen:?}");
    println!("{LOOKS} looks at a vault that issued {issued} tokens, at {seen:?} of them");
}

#[tokio::test]
async fn a_row_put_back_and_a_row_deleted_are_named_c_04_c_05() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let issued = gateway.tokenize("pan", &[b"4111111111111111", b"5500000000000004", b"340000000000009"]).await;
    let tokens = texts(&issued);
    let [revoked, deleted, _] = [0, 1, 2].map(|place: usize| issued[place].handle.clone());
    let old = row(&RocksSnapshot::open(&home.file("data"), &RocksConfig::default()).unwrap(), &revoked);
    revoke(&home, &server, &tokens[0]).await;
    server.stop();
    assert_clean(&home);

    edit(&home, |rows| rows.put(Table::Tokens, &hex::decode(&revoked).unwrap(), &old));
    let (done, report) = verify(&home);
    assert!(!done && report["against"] == "checkpoint", "{report:#}");
    assert_eq!(findings(&report), [("stale".to_owned(), revoked.clone())]);
    // Nothing else notices: the row is authentic, and the token lives.
    let server = home.serve();
    let payments = server.client(&home.identity("payments")).await;
    assert!(payments.detokenize("pan", &tokens[..1]).await.unwrap()[0].is_ok());
    // While it runs the check says so, too.
    assert_eq!(findings(&verify(&home).1), [("stale".to_owned(), revoked.clone())]);
    server.stop();

    edit(&home, |rows| rows.delete(Table::Tokens, &hex::decode(&deleted).unwrap()));
    let (done, report) = verify(&home);
    assert!(!done, "{report:#}");
    let mut named = findings(&report);
    named.sort();
    assert_eq!(named, [("missing".to_owned(), deleted), ("stale".to_owned(), revoked)]);
    let said = program().arg("verify").arg("--config").arg(home.file("cloakroom.toml")).output().unwrap();
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.starts_with("wrong: 2 records in 1 group open, and there should be 3\n"), "{said}");
}
