//! Backup and restore with the real program: beside a vault that serves, put back where none is, cut off anywhere, and edited
//! by somebody in between.

use crate::harness::{Home, Server, item, program, texts};
use crate::needles::{Found, Needles};
use crate::needs;
use crate::verify::assert_clean;
use cloakroom::merkle::note::{Checkpoint, VerifierKey};
use cloakroom::proto::v1;
use cloakroom::store::{Batch, Order, RocksConfig, RocksSnapshot, RocksStore, Row, Rows, Store, Table};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const CALLERS: usize = 64;
/// Tokens that are exchanged for their values once they were restored.
const SAMPLED: usize = 10_000;

// === words ===

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn with_config(home: &Home, words: &[&str], directory: &Path) -> Command {
    let mut command = program();
    command.args(words).arg(directory).arg("--config").arg(home.file("cloakroom.toml"));
    command
}

fn back_up(home: &Home, directory: &Path) -> Output {
    with_config(home, &["backup"], directory).output().unwrap()
}

fn look(home: &Home, directory: &Path) -> Output {
    with_config(home, &["verify", "--backup"], directory).output().unwrap()
}

fn restore(home: &Home, directory: &Path, more: &[&str]) -> Output {
    with_config(home, &["restore"], directory).args(more).output().unwrap()
}

fn done(output: &Output) -> String {
    let said = said(output);
    assert!(output.status.success(), "{said}");
    said
}

/// What it says, and that it did not do it.
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", said(output));
    said(output)
}

/// A machine with all that `home` has but data, checkpoints and log key.
struct Fresh {
    home: Home,
    _folder: tempfile::TempDir,
}

fn fresh(home: &Home) -> Fresh {
    let folder = tempfile::Builder::new().prefix("restored-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["cloakroom.toml", "root.key", "pki", "profiles", "policies"] {
        copy(&home.file(name), &folder.path().join(name));
    }
    Fresh { home: Home::at(folder.path()), _folder: folder }
}

fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn rows(data: &Path, table: Table) -> Vec<Row> {
    let snapshot = RocksSnapshot::open(data, &RocksConfig::default()).unwrap();
    snapshot.scan(table, &[], &[0xff; 64], Order::Ascending, usize::MAX).unwrap()
}

fn key(home: &Home) -> VerifierKey {
    home.read("log.vkey").parse().unwrap()
}

/// The whole log, exported and verified offline.
fn assert_log_verifies(home: &Home, server: &Server) {
    let log = home.file("log.jsonl");
    let _ = fs::remove_file(&log);
    done(&home.cli(server, "auditor", &["audit", "export", &log.display().to_string()]).output().unwrap());
    let output = program().args(["audit", "verify"]).arg(&log).arg("--key").arg(home.file("log.vkey")).output();
    assert!(done(&output.unwrap()).contains("VERIFIED"));
}

async fn event(home: &Home, server: &Server, action: v1::Action) -> Vec<v1::AuditEvent> {
    let auditor = server.client(&home.identity("auditor")).await;
    auditor.events(v1::AuditFilter { action: action.into(), ..Default::default() }).await
}

async fn states(home: &Home, server: &Server, handles: &[String]) -> Vec<v1::TokenState> {
    let operator = server.client(&home.identity("operator")).await;
    let request = v1::InspectTokensRequest { scope: "pan".into(), handles: handles.to_vec(), ..Default::default() };
    let answer = operator.tokens().inspect_tokens(request).await.unwrap().into_inner();
    answer.results.into_iter().map(|result| crate::harness::info(result).unwrap().state()).collect()
}

// === whole ===

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_beside_64_callers_restores_what_was_acknowledged_before_it_o_04_s_12() {
    let home = Home::init();
    let server = home.serve();
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let gateway = server.client(&home.identity("gateway")).await;
    let mut load = Vec::new();
    for caller in 0..CALLERS {
        let (gateway, acknowledged) = (gateway.tokens(), Arc::clone(&acknowledged));
        let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
        load.push(tokio::spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let values: [String; 8] = std::array::from_fn(|place| format!("value {caller} {number} {place}"));
                let items = values.iter().map(|value| item(value.as_bytes())).collect();
                let request = v1::TokenizeRequest { scope: "pan".into(), items, ..Default::default() };
                let answer = gateway.clone().tokenize(request).await.unwrap().into_inner();
                let tokens = answer.results.into_iter().map(|result| crate::harness::issued(result).unwrap().token);
                acknowledged.lock().unwrap().extend(tokens.zip(values));
                made.fetch_add(8, Ordering::AcqRel);
            }
        }));
    }
    crate::harness::eventually("some tokens", || {
        let many = made.load(Ordering::Acquire) > 12_000;
        async move { many.then_some(()) }
    })
    .await;
    let before = acknowledged.lock().unwrap().clone();
    let (at, directory) = (home.path().to_owned(), home.file("backup"));
    let said = tokio::task::spawn_blocking(move || done(&back_up(&Home::at(&at), &directory))).await.unwrap();
    assert!(server.get("/readyz").0.contains("200"), "it stays ready");
    let meanwhile = made.load(Ordering::Acquire) - before.len() as u64;
    stop.store(true, Ordering::Release);
    for caller in load {
        caller.await.unwrap();
    }
    assert!(said.contains("verified") && said.contains("without the root key it is worth nothing"), "{said}");
    assert!(meanwhile > 0, "there were calls while it was made");
    server.stop();

    let backup = home.file("backup");
    assert!(done(&look(&home, &backup)).starts_with("ok: backup of "));
    let new = fresh(&home);
    let said = done(&restore(&new.home, &backup, &[]));
    assert!(said.contains("new log    dev.cloakroom.internal/log/"), "{said}");
    // Set, count and content of the records are those of the backup, and the sums say so.
    let records = rows(&backup.join("data"), Table::Tokens);
    assert!(rows(&new.home.file("data"), Table::Tokens) == records);
    let report = assert_clean(&new.home);
    assert_eq!(report["records"], records.len());
    assert!(records.len() >= before.len());

    let server = new.home.serve();
    let payments = server.client(&new.home.identity("payments")).await;
    let step = (before.len() / SAMPLED).max(1);
    let sample: Vec<_> = before.iter().step_by(step).collect();
    for some in sample.chunks(500) {
        let tokens: Vec<String> = some.iter().map(|(token, _)| token.clone()).collect();
        let values = payments.detokenize("pan", &tokens).await.unwrap();
        let values: Vec<String> = values.into_iter().map(|value| String::from_utf8(value.unwrap()).unwrap()).collect();
        assert!(values.iter().eq(some.iter().map(|(_, value)| value)));
    }
    assert_cites(&home, &backup, &new.home, &server).await;
    assert_log_verifies(&new.home, &server);
    server.stop();
    assert_clean(&new.home);
    println!("{} acknowledged before, {meanwhile} meanwhile, {} in the backup", before.len(), records.len());
}

/// The new log's first event names the old log, and the size and root of the checkpoint that the backup has.
async fn assert_cites(old: &Home, backup: &Path, new: &Home, server: &Server) {
    let old_key = key(old);
    let note = fs::read_to_string(backup.join("checkpoints/checkpoint")).unwrap();
    let checkpoint = Checkpoint::open(&note, old_key.name(), std::slice::from_ref(&old_key)).unwrap();
    let restores = event(new, server, v1::Action::Restore).await;
    let [first] = &restores[..] else { panic!("one: {restores:?}") };
    assert_eq!((first.sequence, first.log_id.as_str()), (0, key(new).name().as_str()));
    assert_ne!(key(new).name(), old_key.name());
    let cited = format!(
        "before it the log {}: checkpoint of {} events with root {}, log key {old_key};",
        old_key.name(),
        checkpoint.size(),
        checkpoint.root()
    );
    assert!(first.detail.contains(&cited), "{cited}\n{}", first.detail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_log_stays_readable_and_each_restore_begins_another_s_12() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    gateway.tokenize("pan", &[b"4111111111111111"]).await;
    let backup = home.file("backup");
    done(&back_up(&home, &backup));
    let log = home.file("old.jsonl");
    let said = done(&with_config(&home, &["verify", "--backup"], &backup).arg("--log").arg(&log).output().unwrap());
    assert!(said.contains("old.jsonl"), "{said}");
    let verified = program().args(["audit", "verify"]).arg(&log).arg("--key").arg(home.file("log.vkey")).output();
    assert!(done(&verified.unwrap()).contains("VERIFIED"));
    let (one, other) = (fresh(&home), fresh(&home));
    for new in [&one.home, &other.home] {
        done(&restore(new, &backup, &[]));
    }
    let logs = [key(&home), key(&one.home), key(&other.home)].map(|key| key.name().clone());
    assert!(logs[0] != logs[1] && logs[1] != logs[2] && logs[0] != logs[2], "{logs:?}");
    // Neither is a vault to restore into.
    for (new, taken) in [(&home, "data"), (&one.home, "data")] {
        let said = refused(&restore(new, &backup, &[]));
        assert!(said.contains(&new.file(taken).display().to_string()) && said.contains("never writes over"), "{said}");
    }
    // Nor is one whose data was taken away: the log key would sign two histories.
    for (moved, left) in [("data", "checkpoints"), ("checkpoints", "log.key"), ("log.key", "log.vkey")] {
        fs::rename(one.home.file(moved), one.home.file(&format!("{moved}.away"))).unwrap();
        let said = refused(&restore(&one.home, &backup, &[]));
        assert!(said.contains(&one.home.file(left).display().to_string()), "{said}");
    }
    fs::rename(one.home.file("log.vkey"), one.home.file("log.vkey.away")).unwrap();
    done(&restore(&one.home, &backup, &[]));
    one.home.serve().stop();
    assert_clean(&one.home);
    // The vault that the backup is of has served on all the while.
    gateway.tokenize("pan", &[b"4111111111111111"]).await;
    server.stop();
    assert_clean(&home);
}

// === what changes on the way ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counted_uses_wait_for_an_operator_and_revocations_are_carried_after_s_12() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let counted = |value: &[u8]| v1::TokenizeItem { max_uses: 2, ..item(value) };
    let items = vec![counted(b"4111111111111111"), counted(b"5500000000000004"), item(b"340000000000009")];
    let more = vec![counted(b"6011000000000004"), item(b"30000000000004")];
    let issued = gateway.issue("pan", items.into_iter().chain(more).collect()).await;
    let (tokens, handles) = (texts(&issued), issued.iter().map(|one| one.handle.clone()).collect::<Vec<_>>());
    let payments = server.client(&home.identity("payments")).await;
    // The second is used up; of the first, one use is left.
    for token in [1, 1, 0] {
        assert!(payments.detokenize("pan", &tokens[token..=token]).await.unwrap()[0].is_ok());
    }
    let backup = home.file("backup");
    done(&back_up(&home, &backup));
    // Spent after the backup, which knows of a use that is left; and revoked.
    assert!(payments.detokenize("pan", &tokens[..1]).await.unwrap()[0].is_ok());
    server.stop();

    let new = fresh(&home);
    let strange = "00".repeat(20);
    new.home.write("revoked", &format!("{}\n{}\n{strange}\n", handles[3], handles[4]));
    let said = done(&restore(&new.home, &backup, &["--revoked", &new.home.file("revoked").display().to_string()]));
    assert!(said.contains("revoked    2 of 3; 1 are not in it") && said.contains("suspended  1 token "), "{said}");
    assert_clean(&new.home);
    let server = new.home.serve();
    let payments = server.client(&new.home.identity("payments")).await;
    let shown = payments.detokenize("pan", &tokens).await.unwrap();
    let shown: Vec<bool> = shown.iter().map(Result::is_ok).collect();
    assert_eq!(shown, [false, false, true, false, false]);
    let (suspended, revoked) = (v1::TokenState::Suspended, v1::TokenState::Revoked);
    let expected = [suspended, v1::TokenState::UsedUp, v1::TokenState::Active, revoked, revoked];
    assert_eq!(states(&new.home, &server, &handles).await, expected);
    let detail = &event(&new.home, &server, v1::Action::Restore).await[0].detail;
    assert!(detail.contains("1 tokens with counted uses are suspended"), "{detail}");
    let named = &event(&new.home, &server, v1::Action::Revoke).await[0];
    let mut named_handles: Vec<String> = named.handles.iter().map(hex::encode).collect();
    named_handles.sort();
    let mut expected = handles[3..].to_vec();
    expected.sort();
    assert_eq!((named.scope.as_str(), named_handles), ("pan", expected));

    // An operator who does not stop the vault is told to.
    let accept = || program().args(["restore", "--accept", "--config"]).arg(new.home.file("cloakroom.toml")).output();
    assert!(refused(&accept().unwrap()).contains("stop the vault first"));
    server.stop();
    assert_eq!(done(&accept().unwrap()), "1 token may be used again\n");
    assert_eq!(done(&accept().unwrap()), "0 tokens may be used again\n");
    assert_clean(&new.home);
    let server = new.home.serve();
    let payments = server.client(&new.home.identity("payments")).await;
    for is_left in [true, false] {
        assert_eq!(payments.detokenize("pan", &tokens[..1]).await.unwrap()[0].is_ok(), is_left);
    }
    let [_, accepted] = &event(&new.home, &server, v1::Action::Restore).await[..] else { panic!("two") };
    assert!(accepted.detail.starts_with("accepted by an operator"), "{}", accepted.detail);
    assert_eq!((accepted.scope.as_str(), hex::encode(&accepted.handles[0])), ("pan", handles[0].clone()));
    assert_log_verifies(&new.home, &server);
    server.stop();
}

/// The new log says nothing of who was issued before it: sums still say what is wrong, and nothing that is right is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_edited_after_a_restore_is_still_found_c_04_c_05() {
    let home = Home::init();
    let server = home.serve();
    server.client(&home.identity("gateway")).await.tokenize("pan", &[b"4111111111111111", b"5500000000000004"]).await;
    let backup = home.file("backup");
    done(&back_up(&home, &backup));
    server.stop();
    let new = fresh(&home);
    done(&restore(&new.home, &backup, &[]));
    let (handle, _) = rows(&new.home.file("data"), Table::Tokens).remove(0);
    let store = RocksStore::open(&new.home.file("data"), &RocksConfig::default()).unwrap();
    let mut batch = Batch::default();
    batch.delete(Table::Tokens, &handle);
    store.commit(&batch).unwrap();
    drop(store);
    let (done, report) = crate::verify::verify(&new.home);
    assert!(!done && report["expected"] == 2 && report["records"] == 1, "{report:#}");
    assert_eq!(report["groups_wrong"].as_array().unwrap().len(), 1);
    assert!(report["findings"].as_array().unwrap().iter().all(|finding| finding["kind"] == "missing"), "{report:#}");
    assert!(refused(&back_up(&new.home, &new.home.file("backup"))).contains("is not right"));
}

// === what is refused ===

#[test]
fn a_backup_that_was_edited_anywhere_is_refused_by_name_o_04_i_06() {
    let home = Home::init();
    home.serve().stop();
    let backup = home.file("backup");
    done(&back_up(&home, &backup));
    let new = fresh(&home);
    let untouched = || assert!(!new.home.file("data").exists() && !new.home.file("log.key").exists());
    let found = files(&backup);
    assert!(found.len() > 5, "{found:?}");
    for path in &found {
        let good = fs::read(path).unwrap();
        let refuse = |what: &str| {
            for said in [refused(&look(&home, &backup)), refused(&restore(&new.home, &backup, &[]))] {
                assert!(said.contains(&path.display().to_string()) || said.contains("manifest.json"), "{what}: {said}");
            }
            untouched();
        };
        let mut edited = good.clone();
        let middle = edited.len() / 2;
        if let Some(byte) = edited.get_mut(middle) {
            *byte ^= 1;
            fs::write(path, &edited).unwrap();
            refuse("a byte was changed");
        }
        fs::write(path, [&good[..], b"x"].concat()).unwrap();
        refuse("it is longer");
        fs::remove_file(path).unwrap();
        refuse("it is missing");
        fs::write(path, &good).unwrap();
    }
    let stranger = backup.join("data/999999.log");
    fs::write(&stranger, "").unwrap();
    assert!(refused(&look(&home, &backup)).contains("999999.log is not in its manifest"));
    fs::remove_file(&stranger).unwrap();
    done(&look(&home, &backup));
    // A file and its line, changed together by somebody without the root key.
    let (checkpoint, manifest) = (backup.join("checkpoints/checkpoint"), backup.join("manifest.json"));
    let (note, text) = (fs::read(&checkpoint).unwrap(), fs::read_to_string(&manifest).unwrap());
    fs::write(&manifest, text.replace("\"records\": 0", "\"records\": 1")).unwrap();
    let said = refused(&look(&home, &backup));
    assert!(said.contains("manifest.json: its MAC does not verify"), "{said}");
    fs::write(&manifest, &text).unwrap();
    assert_eq!(fs::read(&checkpoint).unwrap(), note);
    // Another vault's root key, before anything is written.
    let other = Home::init();
    fs::copy(other.file("root.key"), new.home.file("root.key")).unwrap();
    for said in [refused(&look(&new.home, &backup)), refused(&restore(&new.home, &backup, &[]))] {
        assert!(said.contains("the root key is another vault's"), "{said}");
    }
    untouched();
}

#[test]
fn nothing_is_written_over_and_a_disk_keeps_its_room_s_05() {
    let home = Home::init();
    let backup = home.file("backup");
    fs::create_dir(&backup).unwrap();
    fs::write(backup.join("diary"), "dear").unwrap();
    let said = refused(&back_up(&home, &backup));
    assert!(said.contains("is not empty, and nothing is written over"), "{said}");
    assert_eq!(files(&backup), [backup.join("diary")]);
    assert!(refused(&look(&home, &backup)).contains("has no manifest.json: it is no backup"));
    fs::remove_dir_all(&backup).unwrap();
    home.replace("cloakroom.toml", "path = \"data\"", "path = \"data\"\nmin_free_bytes = 17592186044416");
    let said = refused(&back_up(&home, &backup));
    assert!(said.contains("too little room on the disk of") && said.contains("storage.min_free_bytes"), "{said}");
    assert!(files(&backup).is_empty(), "and it has not begun");
    home.write("checkpoints/doubt", "why");
    assert!(refused(&back_up(&home, &backup)).contains("doubt says that a checkpoint was refused"));
    fs::remove_file(home.file("checkpoints/doubt")).unwrap();
    fs::remove_file(home.file("checkpoints/checkpoint")).unwrap();
    assert!(refused(&back_up(&home, &backup)).contains("there is no checkpoint in"));
}

#[test]
fn a_vault_is_made_in_one_step_and_where_there_is_room_s_05() {
    let home = Home::init();
    let backup = home.file("backup");
    done(&back_up(&home, &backup));
    let new = fresh(&home);
    let untouched = || {
        for name in ["data.restoring", "checkpoints", "log.key", "log.vkey"] {
            assert!(!new.home.file(name).exists(), "{name} was made");
        }
    };
    fs::create_dir(new.home.file("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", new.home.file("data")).unwrap();
    let said = refused(&restore(&new.home, &backup, &[]));
    assert!(said.contains("it is a mount point or leads elsewhere"), "{said}");
    untouched();
    fs::remove_file(new.home.file("data")).unwrap();
    let mut full = with_config(&new.home, &["restore"], &backup);
    let said = refused(&full.env("CLOAKROOM_STORAGE__MIN_FREE_BYTES", "17592186044416").output().unwrap());
    assert!(said.contains("too little room on the disk of"), "{said}");
    untouched();
    // An empty directory is as good as none.
    fs::create_dir(new.home.file("data")).unwrap();
    done(&restore(&new.home, &backup, &[]));
}

// === cut off ===

/// A disk that is full in the middle, whatever it said before.
#[test]
fn a_disk_that_fills_up_meanwhile_leaves_no_backup_and_no_vault_s_05() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let backup = home.file("backup");
    let mut failed = 0;
    for number in 1..20 {
        let output = under_strace(&with_config(&home, &["backup"], &backup), "write", number, "error=ENOSPC");
        if output.status.success() {
            break;
        }
        // Behind the last of its files it writes what it says.
        if !backup.join("manifest.json").exists() {
            failed += 1;
            let said = refused(&output);
            assert!(said.contains("No space left on device"), "{number}: {said}");
            assert!(said.contains(&backup.display().to_string()), "{number}: it names the file: {said}");
            assert!(refused(&look(&home, &backup)).contains("it is no backup"));
        }
        fs::remove_dir_all(&backup).unwrap();
    }
    assert!(failed > 4, "failed {failed} times");
    let _ = fs::remove_dir_all(&backup);
    done(&back_up(&home, &backup));
    let new = fresh(&home);
    for number in [2, 5, 9] {
        let output = under_strace(&with_config(&new.home, &["restore"], &backup), "fdatasync", number, "error=ENOSPC");
        refused(&output);
        assert!(!new.home.file("data").exists(), "{number}");
        assert!(refused(&restore(&new.home, &backup, &[])).contains("an earlier restore was cut off"));
        clear(&new.home);
    }
    done(&restore(&new.home, &backup, &[]));
}

/// Takes away what a restore has made.
fn clear(home: &Home) {
    for name in ["data", "data.restoring", "checkpoints"] {
        let _ = fs::remove_dir_all(home.file(name));
    }
    for name in ["log.key", "log.vkey"] {
        let _ = fs::remove_file(home.file(name));
    }
}

/// What makes something durable, and which of them a backup does not survive.
const BACKUP_STEPS: [(&str, &[usize]); 2] = [("fsync", &[1, 2, 4, 7, 9, 10, 11, 12, 13]), ("rename", &[1])];
const RESTORE_STEPS: [(&str, &[usize]); 3] =
    [("fsync", &[1, 2, 3, 4, 8, 12, 16, 20, 24, 28]), ("fdatasync", &[1, 2, 4, 6, 8]), ("rename", &[1, 2, 3, 4, 5])];

fn killed_at(command: &Command, call: &str, number: usize) -> Output {
    under_strace(command, call, number, "signal=SIGKILL")
}

/// The same command, with something that happens to its n-th call of this name.
fn under_strace(command: &Command, call: &str, number: usize, what: &str) -> Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-s", "0", "--quiet=all", "-o", "/dev/null", "-e"]);
    strace.args([&format!("trace={call}"), "-e", &format!("inject={call}:{what}:when={number}")]);
    strace.arg(command.get_program()).args(command.get_args());
    strace.output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_killed_anywhere_is_none_and_the_vault_goes_on_o_04_s_02() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let (mut killed, mut tokens) = (0, 0);
    for (call, numbers) in BACKUP_STEPS {
        for number in numbers {
            let backup = home.file(&format!("backup-{call}-{number}"));
            let output = killed_at(&with_config(&home, &["backup"], &backup), call, *number);
            if output.status.success() {
                done(&look(&home, &backup));
                continue;
            }
            killed += 1;
            if backup.join("manifest.json").exists() {
                // Behind the rename it is one, whoever was killed.
                done(&look(&home, &backup));
            } else {
                let said = refused(&look(&home, &backup));
                assert!(said.contains("has no manifest.json: it is no backup"), "{call} {number}: {said}");
                if fs::read_dir(&backup).is_ok_and(|mut entries| entries.next().is_some()) {
                    assert!(refused(&back_up(&home, &backup)).contains("a backup was cut off there: remove it"));
                }
            }
            tokens += gateway.tokenize("pan", &[b"4111111111111111"]).await.len();
        }
    }
    assert!(killed > 5, "killed {killed} times");
    done(&back_up(&home, &home.file("backup")));
    server.stop();
    assert_eq!(assert_clean(&home)["records"], tokens);
    println!("backup: killed at {killed} steps");
}

#[test]
fn a_restore_that_is_killed_anywhere_leaves_nothing_that_starts_o_04_s_02() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let backup = home.file("backup");
    done(&back_up(&home, &backup));
    let new = fresh(&home);
    let (mut killed, mut finished) = (0, 0);
    for (call, numbers) in RESTORE_STEPS {
        for number in numbers {
            let output = killed_at(&with_config(&new.home, &["restore"], &backup), call, *number);
            let is_made = new.home.file("data/CURRENT").exists();
            killed += usize::from(!output.status.success());
            finished += usize::from(is_made);
            if is_made {
                // It was moved to its place, and so is whole.
                new.home.serve().stop();
                assert_clean(&new.home);
            } else {
                assert!(!output.status.success(), "{call} {number}");
                let log = Server::launch(&new.home, new.home.serve_command()).err().expect("there is no vault");
                assert!(log.contains("log.key") || log.contains("no data in"), "{call} {number}: {log}");
                let said = refused(&restore(&new.home, &backup, &[]));
                assert!(said.contains("data.restoring is there already"), "{call} {number}: {said}");
                assert!(said.contains("an earlier restore was cut off"), "{call} {number}: {said}");
            }
            clear(&new.home);
        }
    }
    assert!(killed > 10, "killed {killed} times");
    done(&restore(&new.home, &backup, &[]));
    new.home.serve().stop();
    println!("restore: killed at {killed} steps, {finished} times it was finished");
}

// === what is in it ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_token_or_open_key_is_in_a_backup_a_11_o_04() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let values: Vec<String> = (0..50).map(|number| format!("canary {number} qzjxkvbw {}", number * 7919)).collect();
    let bytes: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
    let tokens = texts(&gateway.tokenize("pan", &bytes).await);
    let payments = server.client(&home.identity("payments")).await;
    assert!(payments.detokenize("pan", &tokens[..5]).await.unwrap().iter().all(Result::is_ok));
    let backup = home.file("backup");
    let said = done(&back_up(&home, &backup));
    server.stop();

    let mut needles = Needles::default();
    for (number, (value, token)) in values.iter().zip(&tokens).enumerate() {
        needles.add(&format!("value {number}"), value.as_bytes());
        needles.add(&format!("token {number}"), &token.as_bytes()[4..]);
    }
    let root = fs::read(home.file("root.key")).unwrap();
    needles.add("root key", root.trim_ascii());
    let log_key = home.read("log.key");
    needles.add("log key", log_key.trim().splitn(5, '+').nth(4).unwrap().as_bytes());
    let mut found = Found::default();
    needles.find(said.as_bytes(), "what it says", &mut found);
    for path in files(&backup) {
        needles.find(&fs::read(&path).unwrap(), &path.display().to_string(), &mut found);
    }
    assert!(found.names.is_empty(), "{:#?}", found.names);
    // They are found where they are.
    needles.find(tokens[0].as_bytes(), "a control", &mut found);
    needles.find(&root, "a control", &mut found);
    assert!(found.names.len() >= 2);
}
