//! The vault killed at its n-th `fsync`, `rename` or `fdatasync`: between any two steps of a commit and of a checkpoint. What
//! it leaves is a log that verifies offline, against every checkpoint that was ever outside; and a log is never made by a
//! mistake in a path.

pub mod sweep;

use crate::harness::{Home, Server, program};
use crate::needs;
use crate::strace::serve_until;
use std::path::Path;

/// What makes something durable, and which of them the process does not survive. A start makes some twenty.
const STEPS: [(&str, &[usize]); 3] =
    [("fsync", &[1, 3, 8, 14, 21, 23, 24, 26]), ("rename", &[1, 2, 5, 6, 7, 8]), ("fdatasync", &[1, 2, 3, 9, 40])];

/// Tokenizes and has checkpoints signed until the vault is gone. How many tokens were acknowledged.
async fn work(home: &Home, server: &Server) -> usize {
    let gateway = server.client(&home.identity("gateway")).await.tokens();
    let auditor = server.client(&home.identity("auditor")).await.audit();
    let mut acknowledged = 0;
    // Far more than any of the steps needs, so that a vault that is not killed ends the test and not the other way round.
    for _ in 0..2_000 {
        let items = vec![crate::harness::item(b"4111111111111111")];
        let request = cloakroom::proto::v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
        if gateway.clone().tokenize(request).await.is_err() {
            return acknowledged;
        }
        acknowledged += 1;
        if auditor.clone().get_checkpoint(cloakroom::proto::v1::GetCheckpointRequest {}).await.is_err() {
            return acknowledged;
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_any_two_steps_the_log_verifies_s_02_a_07() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    std::fs::create_dir(home.file("seen")).unwrap();
    let (mut kills, mut acknowledged) = (0, 0);
    for (call, numbers) in STEPS {
        for number in numbers {
            // During a start it may be killed before it serves.
            if let Ok(server) = serve_until(&home, call, *number) {
                acknowledged += work(&home, &server).await;
                // strace ends as the vault did.
                assert!(!server.wait().success(), "{call} {number}: it was killed");
            }
            kills += 1;
            let note = home.read("checkpoints/checkpoint");
            home.write(&format!("seen/{kills}"), &note);
            assert!(!home.file("checkpoints/doubt").exists(), "{call} {number}");

            let server = home.serve();
            let copy = home.file("log.jsonl");
            let _ = std::fs::remove_file(&copy);
            let exported =
                home.cli(&server, "auditor", &["audit", "export", &copy.display().to_string()]).output().unwrap();
            assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
            server.stop();
            assert_verifies(&home, &copy, &format!("{call} {number}"));
        }
    }
    assert!(acknowledged > 20, "{acknowledged} acknowledged");
    println!("killed at {kills} steps, {acknowledged} tokens acknowledged between them: the log verified each time");
}

/// Against the key and every checkpoint that a kill has left.
fn assert_verifies(home: &Home, copy: &Path, what: &str) {
    let mut verify = program();
    verify.args(["audit", "verify"]).arg(copy).arg("--key").arg(home.file("log.vkey"));
    let output = verify.arg("--checkpoint").arg(home.file("seen")).output().unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_wrong_path_never_makes_a_new_log() {
    let home = Home::init();
    home.serve().stop();
    let good = home.read("cloakroom.toml");
    let refused = |from: &str, to: &str, word: &str| {
        home.write("cloakroom.toml", &good.replacen(from, to, 1));
        let log = Server::launch(&home, home.serve_command()).err().expect("it does not start");
        assert!(log.contains(word), "{log}");
        for name in ["dato", "checkpoint", "other.key"] {
            assert!(!home.file(name).exists(), "{name} was made");
        }
    };
    refused("path = \"data\"", "path = \"dato\"", "no data in");
    refused("checkpoints = \"checkpoints\"", "checkpoints = \"checkpoint\"", "there is no checkpoint in");
    let with_key = "checkpoints = \"checkpoints\"\nsigning_key = \"other.key\"";
    refused("checkpoints = \"checkpoints\"", with_key, "other.key");
    home.write("cloakroom.toml", &good);
    home.serve().stop();
}
