//! Whoever only calls a vault builds none: what the feature `client` brings along, and what it must not.

use crate::tree::root;
use std::collections::BTreeSet;
use std::process::Command;

/// What takes a quarter of an hour to build, or is a server's.
const NOT_FOR_CLIENTS: [&str; 12] = [
    "rocksdb",
    "librocksdb-sys",
    "cedar-policy",
    "cedar-policy-core",
    "axum",
    "tonic-reflection",
    "clap",
    "rcgen",
    "mimalloc",
    "metrics",
    "bindgen",
    "tracing-subscriber",
];

/// The names of all packages that a build with these features takes, its tools included.
fn packages(features: &[&str]) -> BTreeSet<String> {
    let said = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .args(features)
        .current_dir(root())
        .output()
        .expect("cargo can be started");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let text = String::from_utf8(said.stdout).expect("cargo prints text");
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn a_client_is_built_without_rocksdb_cedar_and_the_server() {
    let client = packages(&["--no-default-features", "--features", "client"]);
    let found: Vec<_> = NOT_FOR_CLIENTS.iter().filter(|name| client.contains(**name)).collect();
    assert!(found.is_empty(), "the feature `client` brings {found:?} along");
    for name in ["tonic", "rustls", "tokio"] {
        assert!(client.contains(name), "and without {name} it is no client");
    }
    // The names are right: the vault has them all.
    let vault = packages(&[]);
    let missing: Vec<_> = NOT_FOR_CLIENTS.iter().filter(|name| !vault.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not even in the vault: are these still their names?");
    println!("{} packages for clients, {} for the vault", client.len(), vault.len());
}
