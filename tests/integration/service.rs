//! The vault under a service manager: what it tells it, and whether it gets by on what the unit leaves it.

use crate::harness::{Home, Server, texts};
use crate::needs;
use crate::strace::Traced;
use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A hang is a failure.
const PATIENCE: Duration = Duration::from_mins(2);

/// A service manager's end of the protocol, under an abstract name: a path in a checkout can be too long for one.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn listen(home: &Home) -> Self {
        let name = format!("cloakroom-test{}", home.path().display()).replace('/', "-");
        let name = name[name.len().saturating_sub(80)..].to_owned();
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, name: format!("@{name}") }
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("the vault says something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// All up to the first that says `word`, which is the last one.
    fn up_to(&self, word: &str) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            said.push(self.next());
            if said.last().unwrap().lines().any(|line| line == word) {
                return said;
            }
        }
    }
}

async fn work(home: &Home, server: &Server) {
    let gateway = server.client(&home.identity("gateway")).await;
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    let payments = server.client(&home.identity("payments")).await;
    assert_eq!(payments.detokenize("pan", &tokens).await.unwrap(), [Ok(b"4111111111111111".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_of_the_start_of_life_and_of_the_end_o_08() {
    let home = Home::init();
    let manager = Manager::listen(&home);
    let mut command = home.serve_command();
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "400000");
    let server = Server::launch(&home, command).unwrap();
    let first = manager.up_to("READY=1");
    assert!(first[0].starts_with("STATUS=opening the data"), "{first:?}");
    assert_eq!(first.last().unwrap(), &format!("READY=1\nSTATUS=serving on {}", server.address));
    assert!(first.iter().all(|said| !said.contains("STOPPING")), "{first:?}");
    // Signs of life go on.
    manager.up_to("WATCHDOG=1");
    manager.up_to("WATCHDOG=1");
    work(&home, &server).await;
    manager.up_to("WATCHDOG=1");
    server.terminate();
    let last = manager.up_to("STOPPING=1");
    assert!(last.iter().all(|said| !said.contains("not ready")), "{last:?}");
    assert_eq!(last.last().unwrap(), "STOPPING=1\nSTATUS=stopping: calls in flight may finish");
    assert!(server.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_that_is_meant_for_another_process_gets_nothing_and_a_manager_that_is_gone_stops_nobody() {
    let home = Home::init();
    let manager = Manager::listen(&home);
    let mut command = home.serve_command();
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let server = Server::launch(&home, command).unwrap();
    manager.up_to("READY=1");
    work(&home, &server).await;
    server.terminate();
    let rest = manager.up_to("STOPPING=1");
    assert!(rest.iter().all(|said| !said.contains("WATCHDOG")), "{rest:?}");
    assert!(server.wait().success());
    for nowhere in ["@nobody listens here", "/is/not/there", "vsock:2:1"] {
        let mut command = home.serve_command();
        command.env("NOTIFY_SOCKET", nowhere).env("WATCHDOG_USEC", "400000");
        let server = Server::launch(&home, command).unwrap();
        work(&home, &server).await;
        server.stop();
    }
}

// === the unit's filter ===

fn unit() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/cloakroom.service");
    std::fs::read_to_string(file).unwrap()
}

/// The values of a setting, in order.
fn settings<'u>(unit: &'u str, name: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

/// The system calls of a group, as this machine's systemd knows it.
fn group(name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let said = Command::new("systemd-analyze").args(["syscall-filter", name]).output().unwrap();
    assert!(said.status.success(), "{name}: {}", String::from_utf8_lossy(&said.stderr));
    let text = String::from_utf8(said.stdout).unwrap();
    let lines = text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.flat_map(group).collect()
}

/// What the unit's filter lets through.
fn allowed(unit: &str) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for line in settings(unit, "SystemCallFilter") {
        let (names, is_without) = line.strip_prefix('~').map_or((line, false), |names| (names, true));
        let calls: BTreeSet<String> = names.split_whitespace().flat_map(group).collect();
        if is_without {
            allowed.retain(|call| !calls.contains(call));
        } else {
            allowed.extend(calls);
        }
    }
    allowed
}

/// The name of the call in a line of a trace: `1234 openat(AT_FDCWD, …`. The second half of one that was interrupted has none.
fn call(line: &str) -> Option<&str> {
    let (_, rest) = line.trim_start().split_once(' ')?;
    let name = rest.trim_start().split_once('(')?.0;
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vault_gets_by_on_the_system_calls_that_its_unit_leaves_it_o_08() {
    if !needs::met(&["strace", "systemd-analyze"]) {
        return;
    }
    let home = Home::init();
    // A start after a crash does more than the first one.
    let server = home.serve();
    work(&home, &server).await;
    server.kill();
    let manager = Manager::listen(&home);
    let mut command = home.serve_command();
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "400000");
    let traced = Traced::launch(&home, &command, &[]);
    work(&home, traced.server()).await;
    traced.server().get("/metrics");
    manager.up_to("WATCHDOG=1");
    traced.terminate();
    let (status, trace) = traced.end();
    assert!(status.success());
    let (unit, used) = (unit(), trace.lines().filter_map(call).collect::<BTreeSet<_>>());
    let allowed = allowed(&unit);
    let refused: Vec<_> = used.iter().filter(|call| !allowed.contains(**call)).collect();
    println!("O-08: {} system calls used, {} allowed", used.len(), allowed.len());
    assert!(refused.is_empty(), "the unit refuses what the vault does: {refused:?}");
    assert!(used.len() > 40 && used.contains("fdatasync") && used.contains("accept4"), "{used:?}");
    for never in ["ptrace", "mount", "bpf", "init_module", "reboot", "setuid", "chown", "keyctl", "io_uring_setup"] {
        assert!(!allowed.contains(never), "{never} is let through");
    }
    // The other filters: no memory that can be written and run, and no kind of socket beyond those named.
    let families: BTreeSet<&str> = settings(&unit, "RestrictAddressFamilies")[0].split_whitespace().collect();
    for line in trace.lines() {
        let name = call(line);
        if matches!(name, Some("mmap" | "mprotect" | "pkey_mprotect")) {
            let is_bad = line.contains("PROT_EXEC") && (line.contains("PROT_WRITE") || name != Some("mmap"));
            assert!(!is_bad, "{line}");
        }
        if name == Some("socket") {
            let family = line.split_once("socket(").unwrap().1.split(',').next().unwrap();
            assert!(families.contains(family), "{line}");
        }
    }
}
