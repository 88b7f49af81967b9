//! Versions below which a dependency has a fault that matters here. An advisory says as much for most of them; these hold
//! where there is no copy of the advisories, and say why.

use super::tree::{self, Locked};

/// At least this version, and what is wrong with the ones before.
const FLOORS: [(&str, &str, &str); 13] = [
    ("h2", "0.4.16", "RUSTSEC-2026-0258: empty DATA frames fill a queue without a bound"),
    (
        "rustls-webpki",
        "0.103.13",
        "RUSTSEC-2026-0104: a revocation list panics before its signature is checked; name constraints",
    ),
    ("rustls", "0.23.18", "RUSTSEC-2024-0399: a crafted ClientHello panics"),
    ("tonic", "0.12.3", "RUSTSEC-2024-0376: one failed connection ends the accept loop"),
    ("bytes", "1.11.1", "RUSTSEC-2026-0007: a capacity overflows, and memory is written that is not there"),
    ("aws-lc-sys", "0.39.0", "RUSTSEC-2026-0044, RUSTSEC-2026-0048: certificates are checked wrongly"),
    ("jsonwebtoken", "10.3.0", "CVE-2026-25537: `exp` and `nbf` as strings skip the check"),
    ("tracing-subscriber", "0.3.20", "RUSTSEC-2025-0055: what callers send can write escape sequences into the log"),
    ("time", "0.3.47", "RUSTSEC-2026-0009: a date can use up the stack"),
    ("tokio-postgres", "0.7.18", "RUSTSEC-2026-0178: what a server answers can panic"),
    ("sqlx", "0.8.1", "RUSTSEC-2024-0363: a long value is taken for a statement"),
    ("aes-gcm", "0.10.3", "RUSTSEC-2023-0096: the plaintext stays in the buffer where the tag is wrong"),
    ("lru", "0.18.2", "RUSTSEC-2026-0253: memory is used after it was freed"),
];

/// What must not be in the tree in any version.
const NEVER: [(&str, &str); 2] = [
    ("sharks", "RUSTSEC-2024-0398: biased polynomials; there is no version without"),
    ("openssl-sys", "one TLS library is enough: rustls with aws-lc-rs"),
];

/// The ones that are certain to be in the tree: if they are not found, it is not the tree that was looked at.
const THERE: [&str; 8] =
    ["h2", "rustls-webpki", "rustls", "tonic", "bytes", "aws-lc-sys", "tracing-subscriber", "aes-gcm"];

/// What is below its floor, or must not be there.
fn faults(packages: &[Locked]) -> Vec<String> {
    let below = packages.iter().flat_map(|package| {
        FLOORS
            .iter()
            .filter(|(name, floor, _)| *name == package.name && number(&package.version) < number(floor))
            .map(|(name, floor, why)| format!("{name} {} must be {floor} or newer: {why}", package.version))
    });
    let never = packages.iter().flat_map(|package| {
        NEVER
            .iter()
            .filter(|(name, _)| *name == package.name)
            .map(|(name, why)| format!("{name} {} must not be here: {why}", package.version))
    });
    below.chain(never).collect()
}

/// A version in the order of versions. One before its release is below it.
fn number(version: &str) -> (Vec<u64>, bool) {
    let version = version.split_once('+').map_or(version, |(version, _)| version);
    let (numbers, is_release) = version.split_once('-').map_or((version, true), |(numbers, _)| (numbers, false));
    (numbers.split('.').map(|part| part.parse().expect("a version is made of numbers")).collect(), is_release)
}

#[test]
fn no_dependency_is_below_its_floor_p_01() {
    let packages = tree::locked(&tree::lockfile());
    for name in THERE {
        assert!(
            packages.iter().any(|package| package.name == name),
            "{name} is not in the lockfile: which one is this?"
        );
    }
    let absent: Vec<&str> = FLOORS
        .iter()
        .map(|(name, ..)| *name)
        .filter(|name| packages.iter().all(|package| package.name != *name))
        .collect();
    println!("{} packages, {} floors; not in the tree: {}", packages.len(), FLOORS.len(), absent.join(", "));
    let found = faults(&packages);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn what_is_below_its_floor_is_found_p_01() {
    let planted = |name: &str, version: &str| {
        let (name, version) = (name.to_owned(), version.to_owned());
        faults(&[Locked { name, version, checksum: None }]).len()
    };
    for (name, floor, _) in FLOORS {
        assert_eq!(planted(name, floor), 0, "{name}");
        assert_eq!(planted(name, &format!("{floor}-rc.1")), 1, "{name}");
        assert_eq!(planted(name, "0.0.9"), 1, "{name}");
        assert_eq!(planted(name, "99.0.0"), 0, "{name}");
    }
    // By number, not by letter.
    assert_eq!(planted("h2", "0.4.9"), 1);
    assert_eq!(planted("h2", "0.4.100"), 0);
    assert_eq!(planted("h2", "0.4.16+build"), 0);
    for (name, _) in NEVER {
        assert_eq!(planted(name, "1.0.0"), 1, "{name}");
    }
}
