//! The log of a running vault, copied while it grows, and verified: across kills of either side and a change of its key.

use crate::harness::{Home, Server, eventually, program};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Some calls, each an event.
async fn work(home: &Home, server: &Server, calls: usize) {
    let gateway = server.client(&home.identity("gateway")).await;
    for _ in 0..calls {
        gateway.tokenize("pan", &[b"4111111111111111"]).await;
    }
}

fn ended_well(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What `audit verify` says, and its status.
fn verify(log: &Path, key: &Path, checkpoints: &[&Path]) -> (String, i32) {
    let mut command = program();
    command.args(["audit", "verify"]).arg(log).arg("--key").arg(key);
    for path in checkpoints {
        command.arg("--checkpoint").arg(path);
    }
    let output = command.output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

fn interrupt(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_trusted_through_the_old_one_and_the_old_one_no_more_a_04() {
    let home = Home::init();
    let (log, tiles, old_key) = (home.file("log.jsonl"), home.file("tiles"), home.file("old.vkey"));
    std::fs::copy(home.file("log.vkey"), &old_key).unwrap();
    let server = home.serve();
    work(&home, &server, 5).await;
    let file = log.display().to_string();
    ended_well(&mut home.cli(&server, "auditor", &["audit", "export", &file]));
    server.stop();
    let older = home.read("checkpoints/checkpoint");
    home.write("older.note", &older);

    ended_well(program().args(["keys", "rotate-log-key", "--config"]).arg(home.file("cloakroom.toml")));
    let server = home.serve();
    work(&home, &server, 5).await;
    ended_well(&mut home.cli(&server, "auditor", &["audit", "export", &file, "--resume"]));
    let directory = tiles.display().to_string();
    ended_well(&mut home.cli(&server, "auditor", &["audit", "export", "--tiles", &directory]));
    server.stop();

    let (rotations, older) = (home.file("checkpoints/rotations"), home.file("older.note"));
    for copy in [&log, &tiles] {
        let (said, status) = verify(copy, &old_key, &[&rotations, &older]);
        assert_eq!(status, 0, "{said}");
        assert!(said.contains("was succeeded by"), "{said}");
        let (said, status) = verify(copy, &old_key, &[]);
        assert_eq!(status, 1, "{said}");
        assert!(said.contains("names as successor") && said.contains("rotations"), "{said}");
    }
    assert_eq!(verify(&tiles, &home.file("log.vkey"), &[]).1, 0, "who has the new key needs no chain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_follows_is_whole_when_it_is_interrupted() {
    let home = Home::init();
    let server = home.serve();
    work(&home, &server, 3).await;
    let mut command = home.cli(&server, "auditor", &["audit", "export", "--follow", "--checkpoint-every", "1h"]);
    let mut follower = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap());
    let mut copy = String::new();
    // The first checkpoint says that it has caught up; what comes now comes as it happens.
    let mut read_until = |what: &str| {
        let begin = copy.len();
        while !copy[begin..].contains(what) {
            assert_ne!(lines.read_line(&mut copy).unwrap(), 0, "it ended before {what}: {copy}");
        }
    };
    read_until("{\"checkpoint\"");
    for _ in 0..3 {
        work(&home, &server, 1).await;
        read_until("TOKENIZE");
    }
    interrupt(follower.id());
    lines.read_to_string(&mut copy).unwrap();
    assert!(follower.wait().unwrap().success());
    assert!(copy.lines().last().unwrap().starts_with("{\"checkpoint\""), "it ends with a checkpoint");
    home.write("followed.jsonl", &copy);
    let (said, status) = verify(&home.file("followed.jsonl"), &home.file("log.vkey"), &[]);
    assert_eq!(status, 0, "{said}");
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_maker_and_whose_vault_were_killed_goes_on_without_gap_or_duplicate() {
    let home = Home::init();
    let log = home.file("log.jsonl");
    let file = log.display().to_string();
    for _ in 0..4 {
        let server = home.serve();
        let mut command = home.cli(&server, "auditor", &["audit", "export", &file, "--resume", "--follow"]);
        let mut follower = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let before = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        work(&home, &server, 20).await;
        eventually("the copy grows", async || {
            let length = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
            (length > before + 10_000).then_some(())
        })
        .await;
        follower.kill().unwrap();
        follower.wait().unwrap();
        // What the kill left of a last line.
        let torn = std::fs::read(&log).unwrap();
        std::fs::write(&log, &torn[..torn.len() - 7]).unwrap();
        server.kill();
    }
    let server = home.serve();
    ended_well(&mut home.cli(&server, "auditor", &["audit", "export", &file, "--resume"]));
    server.kill();
    let (said, status) = verify(&log, &home.file("log.vkey"), &[]);
    assert_eq!(status, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_copied_though_far_more_follows_than_a_connection_holds() {
    let home = Home::init();
    let server = home.serve();
    // A stream that nobody reads fills the connection's window: the proof that ends a part must come through nevertheless.
    let gateway = server.client(&home.identity("gateway")).await;
    let values = vec![b"4111111111111111".as_slice(); 500];
    for _ in 0..20 {
        gateway.tokenize("pan", &values).await;
    }
    work(&home, &server, 400).await;
    let part = home.file("part.jsonl");
    let file = part.display().to_string();
    let words = ["audit", "export", "--from", "5", "--to", "9", &file];
    ended_well(&mut home.cli(&server, "auditor", &words));
    let (said, status) = verify(&part, &home.file("log.vkey"), &[]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("5, from 5 to 9"), "{said}");
    server.stop();
}
