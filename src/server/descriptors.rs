//! File descriptors. Strangers take one with each connection, and the store must never be without.
//!
//! RocksDB that can't open a file fails its write, and a vault that can't write ends. So the door gets what is left beside
//! the store's, and no more.

use crate::tls;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::AsFd;

/// Descriptors for all that is no client's connection: RocksDB's thousand, and some more.
const OTHER_FILES: u64 = 1_200;

/// Takes all descriptors that the system lets this process have. Where it may not, whoever opens says so.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _may_be_refused = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Descriptors that a vault takes whose door has these settings: connections, handshakes, and all else.
pub fn wanted(door: &tls::Config) -> u64 {
    door.max_connections.saturating_add(door.max_handshakes) as u64 + OTHER_FILES
}

/// Lowers the door's limits to what fits, if they don't.
pub(super) fn fit(door: &mut tls::Config) {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return };
    let asked = wanted(door);
    if shrink(door, limit) {
        tracing::warn!(
            limit,
            wanted = asked,
            connections = door.max_connections,
            handshakes = door.max_handshakes,
            "too few file descriptors for server.max_connections: fewer are let in. Raise the limit (LimitNOFILE in the \
             service's unit)"
        );
    }
}

fn shrink(door: &mut tls::Config, limit: u64) -> bool {
    // A store that is small needs far fewer than it may have.
    let room = usize::try_from(limit.saturating_sub(OTHER_FILES).max(limit / 2)).unwrap_or(usize::MAX);
    if door.max_connections.saturating_add(door.max_handshakes) <= room {
        return false;
    }
    door.max_handshakes = door.max_handshakes.min(room / 4).max(1);
    door.max_handshakes_per_peer = door.max_handshakes_per_peer.min(door.max_handshakes / 4).max(1);
    door.max_connections = door.max_connections.min(room - door.max_handshakes).max(1);
    true
}

/// A runtime that can't have its descriptors panics, so they are asked for before it is made.
pub(super) fn spare() -> std::io::Result<()> {
    const WANTED: usize = 8;
    let spared: std::io::Result<Vec<_>> = (0..WANTED).map(|_| std::io::stderr().as_fd().try_clone_to_owned()).collect();
    spared.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_keeps_its_descriptors() {
        let door = || tls::Config::new("127.0.0.1:0".parse().unwrap(), "c", "k");
        let limits = |door: &tls::Config| (door.max_connections, door.max_handshakes, door.max_handshakes_per_peer);
        let whole = limits(&door());
        for (limit, expected) in [
            (1 << 20, whole),
            (wanted(&door()), whole),
            (wanted(&door()) - 1, (4095, 1024, 256)),
            (3_200, (1_500, 500, 125)),
            (1_024, (384, 128, 32)),
            (4, (1, 1, 1)),
        ] {
            let mut door = door();
            assert_eq!(shrink(&mut door, limit), expected != whole, "{limit}");
            assert_eq!(limits(&door), expected, "{limit}");
        }
    }
}
