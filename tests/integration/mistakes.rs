//! I-06: a vault with a mistake in its configuration, its environment or its files does not start. It says in one line where the
//! mistake is, what it is and what to do, and ends with a status that tells a mistake from trouble. And there is no switch that
//! turns authentication or the audit log off.

use crate::harness::{Home, PROGRAM, program};
use cloakroom::config::OTHER_VARIABLES;
use cloakroom::config::reference::{Fallback, KEYS, Key, Kind, TABLES};
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

/// A hang is a failure: a hundred times what a refused start takes.
const SECONDS: &str = "60";
const MISTAKE: i32 = 2;
const TROUBLE: i32 = 1;

/// The status with which `serve` ends that must not start, and its one line, without the home's path.
fn refusal(home: &Home, serve: &Command) -> (i32, String) {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", SECONDS]).arg(serve.get_program()).args(serve.get_args()).env_clear();
    for (name, value) in serve.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let done = command.env("PATH", std::env::var_os("PATH").unwrap()).env("CLOAKROOM_LOG", "off").output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap().replace(&format!("{}/", home.path().display()), "");
    assert!(done.stdout.is_empty(), "it started: {}", String::from_utf8_lossy(&done.stdout));
    let line = said.strip_prefix("cloakroom: ").unwrap_or_else(|| panic!("{:?} {said}", done.status));
    (done.status.code().unwrap(), line.trim_end().to_owned())
}

/// A file that has what must be given, and `key` with `value`.
fn with(key: &Key, value: &str) -> String {
    let mut lines = Vec::new();
    for table in TABLES {
        let keys: Vec<_> = KEYS.iter().filter(|other| other.table() == table.name).collect();
        let optional = matches!(table.name, "audit.sinks" | "audit.witnesses" | "scopes.NAME.mask");
        if optional && key.table() != table.name {
            continue;
        }
        lines.push(table.header.replace("NAME", "pan"));
        for other in keys {
            let name = other.last().replace("NAME", "gateway");
            if other.name == key.name {
                lines.push(format!("{name} = {value}"));
            } else if other.default == Fallback::Required {
                lines.push(format!("{name} = {}", other.example));
            }
        }
    }
    lines.join("\n") + "\n"
}

/// Values of another kind, and of the right kind beyond what it takes.
fn wrong(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Text | Kind::Path => &["7", "\"\"", "[\"a\"]"],
        Kind::Texts | Kind::Paths => &["\"a\"", "[7]", "[\"\"]"],
        Kind::Boolean => &["1", "\"yes\""],
        Kind::Address => &["7443", "\"127.0.0.1\"", "\"127.0.0.1:65536\"", "\"localhost:1\""],
        Kind::Choice(_) => &["true", "\"nosuch\"", "\"\""],
        Kind::Integer => &["\"many\"", "-1", "99999999999", "1.5", "99999999999999999999999"],
        Kind::Bytes => &["true", "-1", "\"64\"", "\"64MB\"", "\"99999999999GiB\"", "\"-1KiB\""],
        Kind::Duration => &["10", "\"10\"", "\"10 s\"", "\"99999999w\"", "\"-1s\"", "\"1.5h\""],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_refuses_a_wrong_type_and_a_value_out_of_range_i_06() {
    let home = Home::init();
    let good = home.read("cloakroom.toml");
    let mut tried = 0;
    for key in &KEYS {
        let written = key.name.replace("roles.NAME", "roles.gateway").replace("NAME", "pan");
        let last = key.last().replace("NAME", "gateway");
        for value in wrong(key.kind) {
            let text = with(key, value);
            let line = text.lines().position(|line| line == format!("{last} = {value}")).unwrap() + 1;
            home.write("cloakroom.toml", &text);
            let (status, said) = refusal(&home, &home.serve_command());
            // Both listeners come from the environment, which says so.
            let places = [format!("cloakroom.toml:{line}: {written}: "), "environment variable CLOAKROOM_".to_owned()];
            let from_environment = matches!(key.name, "server.listen" | "operations.listen");
            if from_environment {
                continue;
            }
            assert!(said.starts_with(&places[0]), "{} = {value}: {said}", key.name);
            assert_eq!((status, said.lines().count()), (MISTAKE, 1), "{} = {value}: {said}", key.name);
            tried += 1;
        }
        let Some(variable) = key.variable() else { continue };
        home.write("cloakroom.toml", &good);
        let value = wrong(key.kind).last().unwrap().trim_matches('"');
        // A path can be any text that is not empty.
        let value = if matches!(key.kind, Kind::Text | Kind::Path) { "" } else { value };
        let (status, said) = refusal(&home, home.serve_command().env(&variable, value));
        let place = format!("environment variable {variable}: {}: ", key.name);
        assert!(said.starts_with(&place), "{variable}={value}: {said}");
        assert_eq!((status, said.lines().count()), (MISTAKE, 1), "{said}");
        tried += 1;
    }
    assert!(tried > 3 * KEYS.len(), "{tried}");
    home.write("cloakroom.toml", &good);
    home.serve().stop();
    println!("I-06: {} keys, {tried} wrong values refused by the program", KEYS.len());
}

/// What is wrong, how it becomes so, the status, how the line begins, and what else it says.
type Case = (&'static str, fn(&Home), i32, &'static str, &'static [&'static str]);

fn edit(home: &Home, from: &str, to: &str) {
    home.replace("cloakroom.toml", from, to);
}

fn mode(home: &Home, name: &str, mode: u32) {
    std::fs::set_permissions(home.file(name), Permissions::from_mode(mode)).unwrap();
}

fn pipe(path: &Path) {
    std::fs::remove_file(path).unwrap();
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o600.into(), 0).unwrap();
}

fn folder(path: &Path) {
    std::fs::remove_file(path).unwrap();
    std::fs::create_dir(path).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn file(path: &Path) {
    std::fs::remove_dir_all(path).unwrap();
    std::fs::write(path, "not a folder").unwrap();
}

fn no_audit(home: &Home) {
    let text = home.read("cloakroom.toml");
    let (before, rest) = text.split_once("[audit]\n").unwrap();
    let (_, behind) = rest.split_once("\n[").unwrap();
    home.write("cloakroom.toml", &format!("{before}[{behind}"));
}

fn loops(path: &Path) {
    std::fs::remove_file(path).unwrap();
    symlink(path, path).unwrap();
}

const CASES: &[Case] = &[
    (
        "a key for all",
        |home| mode(home, "root.key", 0o644),
        MISTAKE,
        "cloakroom.toml:",
        &["root_key.path: ", "0644", "chmod 600"],
    ),
    (
        "a key for a group",
        |home| mode(home, "root.key", 0o640),
        MISTAKE,
        "cloakroom.toml:",
        &["root_key.path: ", "0640", "chmod 600"],
    ),
    (
        "a key to be changed",
        |home| mode(home, "root.key", 0o602),
        MISTAKE,
        "cloakroom.toml:",
        &["root_key.path: ", "0602", "chmod 600"],
    ),
    (
        "a log key for all",
        |home| mode(home, "log.key", 0o644),
        MISTAKE,
        "cloakroom.toml:",
        &["audit.signing_key: ", "0644", "chmod 600"],
    ),
    (
        "a TLS key for all",
        |home| mode(home, "pki/server.key", 0o644),
        MISTAKE,
        "cloakroom.toml:",
        &["server.private_key: ", "0644", "chmod 600"],
    ),
    (
        "a TLS key for a group",
        |home| mode(home, "pki/server.key", 0o640),
        MISTAKE,
        "cloakroom.toml:",
        &["server.private_key: ", "0640", "chmod 600"],
    ),
    (
        "a key that would clear the screen",
        |home| edit(home, "[server]\n", "[server]\n\"a\\u001b[2J\\u202e\" = 1\n"),
        MISTAKE,
        "cloakroom.toml:",
        &["server.a\\u{1b}[2J\\u{202e}: unknown key"],
    ),
    (
        "a path with NUL",
        |home| edit(home, "path = \"data\"", "path = \"da\\u0000ta\""),
        MISTAKE,
        "cloakroom.toml:",
        &["storage.path: must not have control characters"],
    ),
    (
        "no root key",
        |home| std::fs::remove_file(home.file("root.key")).unwrap(),
        MISTAKE,
        "cloakroom.toml:",
        &["root_key.path: ", "No such file", "Check the path"],
    ),
    (
        "no TLS key",
        |home| std::fs::remove_file(home.file("pki/server.key")).unwrap(),
        MISTAKE,
        "cloakroom.toml:",
        &["server.private_key: ", "No such file", "Check the path"],
    ),
    (
        "no certificate",
        |home| std::fs::remove_file(home.file("pki/server.pem")).unwrap(),
        MISTAKE,
        "cloakroom.toml:",
        &["server.certificate: ", "No such file", "Check the path"],
    ),
    (
        "no bundle",
        |home| std::fs::remove_file(home.file("pki/ca.pem")).unwrap(),
        MISTAKE,
        "cloakroom.toml:",
        &["trust_domains.bundle: ", "No such file", "Check the path"],
    ),
    (
        "a root key that is a folder",
        |home| folder(&home.file("root.key")),
        MISTAKE,
        "cloakroom.toml:",
        &["root_key.path: ", "not a regular file"],
    ),
    (
        "a root key that is a pipe",
        |home| pipe(&home.file("root.key")),
        MISTAKE,
        "cloakroom.toml:",
        &["root_key.path: ", "not a regular file"],
    ),
    (
        "a log key that is a pipe",
        |home| pipe(&home.file("log.key")),
        MISTAKE,
        "cloakroom.toml:",
        &["audit.signing_key: ", "not a regular file"],
    ),
    (
        "a TLS key that is a pipe",
        |home| pipe(&home.file("pki/server.key")),
        MISTAKE,
        "cloakroom.toml:",
        &["server.private_key: ", "not a regular file"],
    ),
    (
        "a certificate that is a pipe",
        |home| pipe(&home.file("pki/server.pem")),
        MISTAKE,
        "cloakroom.toml:",
        &["server.certificate: ", "not a regular file"],
    ),
    (
        "a configuration that is a pipe",
        |home| pipe(&home.file("cloakroom.toml")),
        MISTAKE,
        "",
        &["cloakroom.toml", "no regular file"],
    ),
    (
        "a checkpoint that is a pipe",
        |home| pipe(&home.file("checkpoints/checkpoint")),
        TROUBLE,
        "",
        &["checkpoints/checkpoint", "no regular file"],
    ),
    (
        "a file of the database that is a pipe",
        |home| pipe(&home.file("data/CURRENT")),
        TROUBLE,
        "",
        &["CURRENT is no regular file"],
    ),
    (
        "a bundle that is a folder",
        |home| folder(&home.file("pki/ca.pem")),
        MISTAKE,
        "cloakroom.toml:",
        &["trust_domains.bundle: ", "not a regular file"],
    ),
    (
        "a root key that leads to itself",
        |home| loops(&home.file("root.key")),
        MISTAKE,
        "cloakroom.toml:",
        &["root_key.path: ", "symbolic link"],
    ),
    (
        "an empty root key",
        |home| home.write("root.key", ""),
        MISTAKE,
        "cloakroom.toml:",
        &["root_key.path: ", "is not a root key"],
    ),
    (
        "an empty log key",
        |home| home.write("log.key", ""),
        MISTAKE,
        "cloakroom.toml:",
        &["audit.signing_key: ", "expected one line"],
    ),
    (
        "an empty TLS key",
        |home| home.write("pki/server.key", ""),
        MISTAKE,
        "cloakroom.toml:",
        &["server.private_key: ", "no private key"],
    ),
    (
        "policies that are a file",
        |home| file(&home.file("policies")),
        MISTAKE,
        "one mistake in the rulebook",
        &["Not a directory", "[policies] directory"],
    ),
    (
        "data that are a file",
        |home| file(&home.file("data")),
        TROUBLE,
        "cloakroom.toml:",
        &["storage.path: ", "Not a directory"],
    ),
    (
        "no data",
        |home| std::fs::remove_dir_all(home.file("data")).unwrap(),
        TROUBLE,
        "cloakroom.toml:",
        &["storage.path: ", "cloakroom init"],
    ),
    (
        "checkpoints that are a file",
        |home| file(&home.file("checkpoints")),
        TROUBLE,
        "cloakroom.toml:",
        &["audit.checkpoints", "Not a directory"],
    ),
    (
        "no checkpoints",
        |home| std::fs::remove_dir_all(home.file("checkpoints")).unwrap(),
        TROUBLE,
        "",
        &["audit.checkpoints", "Put the file back"],
    ),
    (
        "an unknown key",
        |home| edit(home, "[server]\n", "[server]\ninsecure = true\n"),
        MISTAKE,
        "cloakroom.toml:",
        &["server.insecure: unknown key"],
    ),
    (
        "no client certificates",
        |home| edit(home, "[server]\n", "[server]\nclient_auth = \"none\"\n"),
        MISTAKE,
        "cloakroom.toml:",
        &["server.client_auth: unknown key"],
    ),
    (
        "no TLS",
        |home| edit(home, "[server]\n", "[server]\ntls = false\n"),
        MISTAKE,
        "cloakroom.toml:",
        &["server.tls: unknown key"],
    ),
    (
        "no audit",
        |home| edit(home, "[audit]\n", "[audit]\nenabled = false\n"),
        MISTAKE,
        "cloakroom.toml:",
        &["audit.enabled: unknown key"],
    ),
    ("no audit table", no_audit, MISTAKE, "cloakroom.toml:", &["audit: the table [audit] is missing"]),
    (
        "a key twice",
        |home| edit(home, "provider = \"file\"", "provider = \"file\"\nprovider = \"file\""),
        MISTAKE,
        "cloakroom.toml:",
        &["duplicate key"],
    ),
    (
        "a table twice",
        |home| home.append("cloakroom.toml", "[root_key]\n"),
        MISTAKE,
        "cloakroom.toml:",
        &["duplicate key"],
    ),
    (
        "a certificate that is a key",
        |home| edit(home, "\"pki/server.pem\"", "\"pki/server.key\""),
        MISTAKE,
        "cloakroom.toml:",
        &["server.certificate: ", "no certificate"],
    ),
    (
        "another's TLS key",
        |home| edit(home, "\"pki/server.key\"", "\"pki/gateway.key\""),
        MISTAKE,
        "cloakroom.toml:",
        &["server.private_key: ", "does not belong"],
    ),
    (
        "revocation lists",
        |home| edit(home, "crls = []", "crls = [\"x.crl\"]"),
        MISTAKE,
        "cloakroom.toml:",
        &["trust_domains.crls: ", "does not check them"],
    ),
    (
        "bytes that are no text",
        |home| {
            let text = home.read("cloakroom.toml").into_bytes();
            std::fs::write(home.file("cloakroom.toml"), [text, vec![b'\n', 0xff]].concat()).unwrap();
        },
        MISTAKE,
        "cloakroom.toml:",
        &["not UTF-8"],
    ),
    (
        "no file",
        |home| std::fs::remove_file(home.file("cloakroom.toml")).unwrap(),
        MISTAKE,
        "cloakroom.toml: ",
        &["No such file", "cloakroom init"],
    ),
    ("a folder", |home| folder(&home.file("cloakroom.toml")), MISTAKE, "cloakroom.toml: ", &["no regular file"]),
];

/// The home as it was, in place of what a case has left.
fn restore(home: &Home, kept: &Path) {
    for entry in std::fs::read_dir(home.path()).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
            .unwrap();
    }
    let copied = Command::new("cp").arg("-a").arg(kept.join(".")).arg(home.path()).status().unwrap();
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_files_is_said_in_one_line_with_its_place_i_06() {
    let (home, kept) = (Home::init(), tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
    let copied = Command::new("cp").arg("-a").arg(home.path().join(".")).arg(kept.path()).status().unwrap();
    assert!(copied.success());
    for (what, spoil, status, begin, words) in CASES {
        spoil(&home);
        let (ended, said) = refusal(&home, &home.serve_command());
        println!("{what}: {ended}: {said}");
        assert_eq!(ended, *status, "{what}: {said}");
        assert!(said.starts_with(begin) && words.iter().all(|word| said.contains(word)), "{what}: {said}");
        // Mistakes of the rulebook come all together, each with a hint below it.
        assert!(said.lines().count() == 1 || begin.contains("rulebook"), "{what}: {said}");
        restore(&home, kept.path());
    }
    // Links are followed: mounted secrets come so.
    std::fs::rename(home.file("root.key"), home.file("mounted.key")).unwrap();
    symlink(home.file("mounted.key"), home.file("root.key")).unwrap();
    home.serve().stop();
    println!("I-06: {} mistakes in files, each refused", CASES.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_somebody_else_is_refused_and_the_message_says_whose_it_is_i_06() {
    if !crate::needs::met(&["timeout"]) {
        return;
    }
    let home = Home::init();
    for (name, key) in [
        ("root.key", "root_key.path: "),
        ("log.key", "audit.signing_key: "),
        ("pki/server.key", "server.private_key: "),
    ] {
        chown(home.file(name), Some(12_345), None).unwrap();
        let (status, said) = refusal(&home, &home.serve_command());
        assert_eq!((status, said.lines().count()), (MISTAKE, 1), "{said}");
        for word in [key, "belongs to user 12345", "runs as user 0", "chown 0 "] {
            assert!(said.contains(word), "{name}: {said}");
        }
        assert!(!said.contains("chmod"), "the mode is good: {said}");
        chown(home.file(name), Some(0), None).unwrap();
    }
    home.serve().stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_and_variables_are_checked_before_anything_is_opened_i_06() {
    let home = Home::init();
    let serve = |listen: &str, operations: &str| {
        let mut command = home.serve_command();
        command.env("CLOAKROOM_SERVER__LISTEN", listen).env("CLOAKROOM_OPERATIONS__LISTEN", operations);
        command
    };
    for (listen, operations) in
        [("127.0.0.1:7443", "127.0.0.1:7443"), ("0.0.0.0:7443", "127.0.0.1:7443"), ("127.0.0.1:7443", "[::]:7443")]
    {
        let (status, said) = refusal(&home, &serve(listen, operations));
        assert_eq!((status, said.lines().count()), (MISTAKE, 1), "{said}");
        let place = "environment variable CLOAKROOM_OPERATIONS__LISTEN: operations.listen: ";
        assert!(said.starts_with(place) && said.contains("Give each a port of its own"), "{said}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, said) = refusal(&home, &serve(&address, "127.0.0.1:0"));
    assert!(status == TROUBLE && said.contains("server.listen: ") && said.contains("another process"), "{said}");
    let (status, said) = refusal(&home, &serve("127.0.0.1:0", &address));
    assert!(status == TROUBLE && said.contains("operations.listen: "), "{said}");
    let place = "environment variable CLOAKROOM_OPERATIONS__LISTEN: ";
    let words = format!("cannot listen on {address}: ");
    assert!(said.starts_with(place) && said.contains(&words) && said.contains("another process"), "{said}");

    for (name, value, words) in [
        ("CLOAKROOM_SERVER__INSECURE", b"1".to_vec(), "nothing is set by this variable"),
        ("CLOAKROOM_INSECURE", b"1".to_vec(), "nothing is set by this variable"),
        ("CLOAKROOM_AUDIT__ENABLED", b"false".to_vec(), "nothing is set by this variable"),
        ("CLOAKROOM_server__node", b"a".to_vec(), "nothing is set by this variable"),
        ("CLOAKROOM_SERVER__NODE", b"\xff".to_vec(), "server.node: must be"),
        ("CLOAKROOM_SERVER__NODE", b"two\nlines".to_vec(), "server.node: must be"),
        ("CLOAKROOM_SERVER__NODE", vec![b'a'; 10_240], "server.node: must be"),
        ("CLOAKROOM_SERVER__WORKERS", b"".to_vec(), "server.workers: must be"),
    ] {
        let (status, said) = refusal(&home, home.serve_command().env(name, std::ffi::OsString::from_vec(value)));
        assert_eq!((status, said.lines().count()), (MISTAKE, 1), "{said}");
        assert!(said.starts_with(&format!("environment variable {name}: ")) && said.contains(words), "{said}");
    }
    // On all addresses there is a door like any other: nobody without a certificate comes in.
    let server = crate::harness::Server::launch(&home, serve("0.0.0.0:0", "127.0.0.1:0")).unwrap();
    let local = ([127, 0, 0, 1], server.address.port()).into();
    let stranger = crate::harness::Client::connect(local, &home.nobody()).await;
    let served = match stranger {
        Ok(client) => client.tokens().tokenize(cloakroom::proto::v1::TokenizeRequest::default()).await.is_ok(),
        Err(_) => false,
    };
    assert!(!served);
    let gateway = crate::harness::Client::connect(local, &home.identity("gateway")).await.unwrap();
    assert_eq!(gateway.tokenize("pan", &[b"4111111111111111"]).await.len(), 1);
    server.stop();
}

#[test]
fn a_rulebook_that_cannot_be_read_for_want_of_files_is_no_mistake_i_06() {
    let home = Home::init();
    // Found in steps: at some limit the policies are what can't be opened.
    let mut trouble = 0;
    for limit in 4..40 {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}:{limit}")).arg(PROGRAM).args(["serve", "--config"]);
        command.arg(home.file("cloakroom.toml")).env("CLOAKROOM_SERVER__LISTEN", "127.0.0.1:0");
        let (status, said) = refusal(&home, command.env("CLOAKROOM_OPERATIONS__LISTEN", "127.0.0.1:0"));
        if said.contains("Too many open files") || said.contains("os error 24") {
            assert_eq!(status, TROUBLE, "with {limit} open files: {said}");
            trouble += u32::from(said.contains("policies"));
        }
        if said.contains("storage.path") {
            break;
        }
    }
    assert!(trouble > 0, "it was never the policies");
}

/// Words of switches that this program must not have.
const SWITCHES: [&str; 14] = [
    "insecure",
    "no-auth",
    "noauth",
    "no_auth",
    "no-audit",
    "no_audit",
    "disable",
    "skip",
    "without",
    "plaintext",
    "no-tls",
    "anonymous",
    "unsafe",
    "unverified",
];

#[test]
fn no_switch_turns_authentication_or_the_audit_log_off_i_06() {
    let has_switch = |name: &str| SWITCHES.iter().any(|word| name.to_lowercase().contains(word));
    assert!(has_switch("--insecure-skip-verify"), "it would be found");
    for key in &KEYS {
        assert!(!has_switch(key.name), "{}", key.name);
        // The only Boolean there is decides whether a purpose must be given.
        assert!(key.kind != Kind::Boolean || key.name == "scopes.NAME.purpose_required", "{}", key.name);
    }
    // Every option of every command.
    let (mut commands, mut options) = (vec![Vec::new()], BTreeSet::new());
    let mut seen = 0;
    while let Some(words) = commands.pop() {
        seen += 1;
        let help = program().args(&words).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let mut listing = false;
        for line in help.lines() {
            listing = if line.ends_with(':') && !line.starts_with(' ') { line == "Commands:" } else { listing };
            let first = line.split_whitespace().next().unwrap_or_default().to_owned();
            if listing && line.starts_with("  ") && !line.starts_with("    ") && first != "help" {
                commands.push([&words[..], &[first]].concat());
            }
            options
                .extend(line.split([' ', ',', '=', '[', '`']).filter(|word| word.starts_with("--")).map(str::to_owned));
        }
    }
    assert!(seen > 20 && options.len() > 20, "{seen} commands, {options:?}");
    let switches: Vec<_> = options.iter().filter(|option| has_switch(option)).collect();
    assert!(switches.is_empty(), "{switches:?}");
    // And every variable that the program has a name for, hidden or not.
    let binary = std::fs::read(PROGRAM).unwrap();
    let known: Vec<String> = KEYS.iter().filter_map(Key::variable).chain(OTHER_VARIABLES.map(str::to_owned)).collect();
    let mut variables = 0;
    for at in memchr(&binary, b"CLOAKROOM_") {
        let name = &binary[at..(at + 80).min(binary.len())];
        let is_known = known.iter().any(|known| name.starts_with(known.as_bytes()));
        // What names are made from: the prefix alone, or with a table.
        let rest = name[10..].iter().take_while(|c| c.is_ascii_uppercase() || **c == b'_').count();
        let fragment = rest < 3 || name[10..].starts_with(b"CLOAKROOM_") || name[10..].starts_with(b"__");
        assert!(is_known || fragment, "{}", String::from_utf8_lossy(name));
        variables += u32::from(is_known);
    }
    assert!(variables > 3, "the search finds nothing");
    println!("I-06: {seen} commands, {} options, {} keys, {variables} names of variables", options.len(), KEYS.len());
}

fn memchr<'b>(bytes: &'b [u8], word: &'b [u8]) -> impl Iterator<Item = usize> + 'b {
    bytes.windows(word.len()).enumerate().filter(move |(_, window)| *window == word).map(|(at, _)| at)
}
