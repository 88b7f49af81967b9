//! The log's key is succeeded by another, with the real program killed at every durable step of that.

use crate::harness::{Home, Server, program};
use crate::needs;
use cloakroom::merkle::note::{Checkpoint, VerifierKey};
use cloakroom::proto::v1;
use std::collections::BTreeMap;
use std::process::{Command, Output};

/// Calls after which something new may be on the disk.
const STEPS: [&str; 3] = ["fsync", "fdatasync", "rename"];
/// More than the command makes of any of them.
const STEPS_AT_MOST: usize = 100;

fn rotate(home: &Home, under: Option<(&str, usize)>) -> Output {
    let plain = program();
    let mut command = match under {
        None => program(),
        Some((call, number)) => {
            let mut strace = Command::new("strace");
            strace.args(["-f", "-s", "0", "--quiet=all", "-o", "/dev/null", "-e"]);
            strace.args([&format!("trace={call}"), "-e", &format!("inject={call}:signal=SIGKILL:when={number}")]);
            strace.arg(plain.get_program());
            for (name, value) in plain.get_envs() {
                match value {
                    Some(value) => strace.env(name, value),
                    None => strace.env_remove(name),
                };
            }
            strace
        }
    };
    command.args(["keys", "rotate-log-key", "--config"]).arg(home.file("cloakroom.toml")).output().unwrap()
}

fn public_key(home: &Home) -> VerifierKey {
    home.read("log.vkey").parse().unwrap()
}

/// The notes that two keys have signed, by size.
fn bridges(home: &Home) -> BTreeMap<u64, String> {
    let entries = std::fs::read_dir(home.file("checkpoints/rotations")).unwrap();
    let sizes = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap());
    sizes.map(|size: u64| (size, home.read(&format!("checkpoints/rotations/{size}")))).collect()
}

fn opens(note: &str, key: &VerifierKey) -> Option<Checkpoint> {
    Checkpoint::open(note, key.name(), std::slice::from_ref(key)).ok()
}

/// Follows the log's events and those notes from `trusted` on, as a verifier does, to the key that signs now.
fn follow(events: &[v1::AuditEvent], bridges: &BTreeMap<u64, String>, trusted: VerifierKey) -> VerifierKey {
    let mut key = trusted;
    for event in events {
        let (old, new) = event.detail.strip_prefix("log key ").unwrap().split_once(" is succeeded by ").unwrap();
        assert_eq!(old, key.to_string(), "each key is succeeded by one other");
        let new: VerifierKey = new.parse().unwrap();
        let signed = |(size, note): (&u64, &String)| {
            opens(note, &key).is_some_and(|checkpoint| checkpoint.size() == *size) && opens(note, &new).is_some()
        };
        assert!(bridges.range(event.sequence + 1..).any(signed), "a note that both have signed");
        key = new;
    }
    key
}

/// Serves once more, so that the log grows; the checkpoint must stand under the new key's signature. All rotations so far.
async fn serve_and_sign(home: &Home) -> Vec<v1::AuditEvent> {
    let server = home.serve();
    server.client(&home.identity("gateway")).await.tokenize("pan", &[b"4111111111111111"]).await;
    let auditor = server.client(&home.identity("auditor")).await;
    let answer = auditor.audit().get_checkpoint(v1::GetCheckpointRequest {}).await.unwrap().into_inner();
    assert!(opens(&answer.checkpoint.unwrap().note, &public_key(home)).is_some());
    let filter = v1::AuditFilter { action: v1::Action::RotateKeys.into(), ..Default::default() };
    let events = auditor.events(filter).await;
    server.stop();
    events
}

// Two threads: connections must hear that the vault stops while this one waits for its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_is_killed_anywhere_goes_on_when_run_again_a_04() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let first = public_key(&home);
    let mut events = Vec::new();
    let (mut killed, mut refused) = (0, 0);
    for call in STEPS {
        for number in 1..STEPS_AT_MOST {
            let before = public_key(&home);
            let output = rotate(&home, Some((call, number)));
            let was_killed = !output.status.success();
            if was_killed {
                killed += 1;
                match Server::launch(&home, home.serve_command()) {
                    Ok(server) => server.stop(),
                    Err(log) => {
                        assert!(log.contains("rotate-log-key"), "{call} {number}: {log}");
                        refused += 1;
                    }
                }
                // Cut off behind its last step, it is done: then this is another rotation.
                let again = rotate(&home, None);
                assert!(again.status.success(), "{call} {number}: {}", String::from_utf8_lossy(&again.stderr));
            }
            let after = public_key(&home);
            assert_ne!(after, before, "{call} {number}");
            assert!(!home.file("log.key.next").exists());
            events = serve_and_sign(&home).await;
            if !was_killed {
                break;
            }
        }
    }
    assert!(killed > 20, "killed {killed} times");
    let last = follow(&events, &bridges(&home), first);
    assert_eq!(last, public_key(&home), "whoever trusts the first key gets to the last one");
    assert!(opens(&home.read("checkpoints/checkpoint"), &last).is_some());
    println!(
        "rotation: killed at {killed} steps, {refused} times the vault then refused to start until it was finished"
    );
}
