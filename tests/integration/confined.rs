//! O-08: what a vault may do on its machine, seen from `/proc`: as a user without rights, on a read-only system, with no core,
//! no memory for others, no listener beyond its configuration and nobody that it calls.

use crate::harness::{Home, Server, texts};
use crate::needs;
use crate::strace::{Traced, child_of};
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

async fn work(home: &Home, server: &Server) {
    let gateway = server.client(&home.identity("gateway")).await;
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    let payments = server.client(&home.identity("payments")).await;
    assert_eq!(payments.detokenize("pan", &tokens).await.unwrap(), [Ok(b"4111111111111111".to_vec())]);
}

fn status(pid: i32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok()).collect()
}

fn field<'s>(status: &'s str, name: &str) -> &'s str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

/// Local addresses of the sockets on which a process listens, as `/proc` writes them.
fn listeners(pid: i32) -> BTreeSet<String> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links: BTreeSet<PathBuf> = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6", "unix", "raw", "raw6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if table == "unix" {
                // Flags: it accepts connections.
                let is_ours = links.contains(Path::new(&format!("socket:[{}]", words[6])));
                if is_ours && words[3] == "00010000" {
                    found.insert(format!("unix {}", words.get(7).unwrap_or(&"")));
                }
                continue;
            }
            let (local, state, inode) = (words[1], words[3], words[9]);
            // Of TCP those that listen; of the others every one that has a port.
            if links.contains(Path::new(&format!("socket:[{inode}]"))) && (!table.starts_with("tcp") || state == "0A") {
                found.insert(format!("{table} {local}"));
            }
        }
    }
    found
}

fn as_in_proc(address: std::net::SocketAddr) -> String {
    let std::net::SocketAddr::V4(address) = address else { panic!("{address}") };
    format!("tcp {:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_listened_on_beyond_the_configuration_and_nobody_is_called_o_08() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let traced = Traced::launch(&home, &home.serve_command(), &["-e", "trace=connect,bind,listen,execve,ptrace"]);
    let server = traced.server();
    work(&home, server).await;
    let vault = child_of(server.pid()).unwrap().as_raw_nonzero().get();
    let expected = BTreeSet::from([as_in_proc(server.address), as_in_proc(server.operations)]);
    assert_eq!(listeners(vault), expected);
    // The reading sees a listener that should not be there: this process opens one.
    let ours = i32::try_from(std::process::id()).unwrap();
    let extra = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(listeners(ours).contains(&as_in_proc(extra.local_addr().unwrap())));
    server.get("/metrics");
    let trace = traced.kill();
    let calls = |name: &str| trace.lines().filter(|line| line.contains(&format!(" {name}("))).collect::<Vec<_>>();
    assert_eq!(calls("connect"), [""; 0], "it called somebody");
    assert_eq!(calls("listen").len(), 2, "{trace}");
    assert_eq!(calls("bind").len(), 2, "{trace}");
    assert_eq!(calls("execve").len(), 1, "its own start: {trace}");
    home.serve().stop();
}

/// The command as a user without rights, in a mount namespace of its own in which only `writable` can be written to.
fn confined(home: &Home, writable: &[&str]) -> Command {
    let mut script = String::from("set -e\n");
    for name in writable {
        let path = home.file(name);
        script += &["mount --bind '", &path.display().to_string(), "' '", &path.display().to_string(), "'\n"].concat();
    }
    let mut kept: Vec<String> = writable.iter().map(|name| format!("{}", home.file(name).display())).collect();
    kept.extend(["/proc*", "/sys*", "/dev*"].map(str::to_owned));
    let kept = kept.join("|");
    script += &[
        "while read -r _ mount _; do\n  case \"$mount\" in ",
        &kept,
        ") ;; *) mount -o remount,bind,ro \"$mount\" 2>/dev/null || true ;; esac\ndone < /proc/self/mounts\n",
    ]
    .concat();
    // The control: the system is read-only indeed.
    let written = home.file("written").display().to_string();
    let refused = "' 2>/dev/null; then echo 'the system can be written to' >&2; exit 99; fi\n";
    script += &["if touch '", &written, refused].concat();
    script.push_str(
        "umask 0\nexec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all \"$@\"\n",
    );
    let serve = home.serve_command();
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "bash", "-c", &script, "bash"]);
    command.arg(serve.get_program()).args(serve.get_args());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            give(&entry.path(), user);
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// What another process of the same user gets of a file of a process.
fn asks_for(pid: i32, name: &str) -> bool {
    let file = format!("/proc/{pid}/{name}");
    let mut cat = Command::new("setpriv");
    cat.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "head", "-c", "1", &file]);
    cat.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_as_nobody_on_a_read_only_system_and_keeps_its_memory_to_itself_o_08() {
    if !needs::met(&["unshare", "setpriv", "mount"]) {
        return;
    }
    let home = Home::init();
    give(home.path(), NOBODY);
    let before: BTreeSet<PathBuf> = files(home.path()).into_iter().collect();
    let server = Server::launch(&home, confined(&home, &["data", "checkpoints"]))
        .unwrap_or_else(|log| panic!("the vault did not start:\n{log}"));
    work(&home, &server).await;
    let pid = server.pid();
    for thread in status(pid) {
        let name = field(&thread, "Name").to_owned();
        assert_eq!(field(&thread, "Uid"), "65534\t65534\t65534\t65534", "{name}");
        assert_eq!(field(&thread, "Groups"), "", "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(&thread, set), "0000000000000000", "{name} {set}");
        }
        assert_eq!(field(&thread, "NoNewPrivs"), "1", "{name}");
        assert_eq!(field(&thread, "VmSwap"), "0 kB", "{name}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "{limits}");
    // Not dumpable: its files in /proc belong to root, and its own user gets none of them.
    assert_eq!(std::fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid(), 0);
    for name in ["mem", "environ", "maps", "auxv"] {
        assert!(!asks_for(pid, name), "another process of its user reads its {name}");
    }
    let mut plain = Command::new("setpriv");
    plain.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "1000"]);
    let mut plain = plain.spawn().unwrap();
    let other = i32::try_from(plain.id()).unwrap();
    crate::harness::eventually("an ordinary process can be read by its user", || async {
        asks_for(other, "environ").then_some(())
    })
    .await;
    plain.kill().unwrap();
    plain.wait().unwrap();
    // Its umask was 0. Nothing that it made is for others, or for its group to change.
    let mut made = 0;
    for folder in ["data", "checkpoints"] {
        for file in files(&home.file(folder)).into_iter().filter(|file| !before.contains(file)) {
            if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("LOG.old")) {
                // What `init` wrote, under another name, in a folder that is closed to others.
                continue;
            }
            let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o027, 0, "{} has mode {mode:o}", file.display());
            made += 1;
        }
    }
    assert!(made > 0, "it made no file");
    assert!(!server.log().contains("runs as root"));
    server.stop();
    // Where it can't write its data it does not start, and says of which setting that is.
    let said = Server::launch(&home, confined(&home, &["checkpoints"])).err().expect("it has nowhere to write");
    assert!(said.contains("cloakroom.toml:") && said.contains("storage.path: "), "{said}");
}

/// A command of the program as a user without rights.
fn as_nobody(home: &Home, words: &[&str]) -> Command {
    let serve = home.serve_command();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(serve.get_program()).args(words);
    command.arg("--config").arg(home.file("cloakroom.toml"));
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn told(mut command: Command) -> (Option<i32>, String) {
    let done = command.output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8(said).unwrap())
}

fn set_mode(home: &Home, name: &str, mode: u32) {
    std::fs::set_permissions(home.file(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_its_checkpoint_says_so_and_is_no_success_o_06() {
    if !needs::met(&["setpriv"]) {
        return;
    }
    let home = Home::init();
    give(home.path(), NOBODY);
    let server = Server::launch(&home, as_nobody(&home, &["serve"])).unwrap();
    work(&home, &server).await;
    set_mode(&home, "checkpoints", 0o500);
    let gateway = server.client(&home.identity("gateway")).await;
    let tokens = texts(&gateway.tokenize("pan", &[b"5500005555555559"]).await);
    server.terminate();
    let log = server.log_file();
    assert_eq!(server.wait().code(), Some(1));
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("stopped: the last event is written; the checkpoint is not: "), "{log}");
    assert!(!log.contains("the last event and checkpoint are written"), "{log}");

    // A start would not be able to write one either: it is refused, and so say those who only look.
    let (status, said) = told(as_nobody(&home, &["serve"]));
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("audit.checkpoints: ") && said.contains("Permission denied"), "{said}");
    for (words, status) in [(&["serve", "--check"][..], 2), (&["doctor"], 1)] {
        let (ended, said) = told(as_nobody(&home, words));
        let line = said.lines().find(|line| line.starts_with("bad   checkpoint")).unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains("Permission denied") && ended == Some(status), "{words:?} {said}");
    }
    set_mode(&home, "checkpoints", 0o700);

    // Data that can't be read is no reason to make a new vault.
    set_mode(&home, "data", 0o000);
    let (status, said) = told(as_nobody(&home, &["serve", "--check"]));
    assert_eq!(status, Some(2), "{said}");
    let line = said.lines().find(|line| line.starts_with("bad   data")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("can't be opened") && line.contains("Give the directory"), "{line}");
    assert!(!said.contains("cloakroom init"), "{said}");
    set_mode(&home, "data", 0o700);

    // What was acknowledged is there.
    let server = Server::launch(&home, as_nobody(&home, &["serve"])).unwrap();
    let payments = server.client(&home.identity("payments")).await;
    assert_eq!(payments.detokenize("pan", &tokens).await.unwrap(), [Ok(b"5500005555555559".to_vec())]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_it_serves_and_says_that_it_should_not_o_08() {
    if !needs::met(&[]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    work(&home, &server).await;
    let said = server.log();
    let warnings = said.lines().filter(|line| line.contains("WARN") && line.contains("runs as root")).count();
    assert_eq!(warnings, 1, "{said}");
    server.stop();
}
