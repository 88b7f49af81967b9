//! The disk: how long a sync takes, and how much room there is.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::in_words;
use crate::config::Config;
use crate::server::{Finding, Room, bytes_in_words};

const PROBE_BYTES: [u8; 4096] = [0x5a; 4096];
const PROBES: usize = 100;
/// A slow disk gets fewer probes.
const PROBING_AT_MOST: Duration = Duration::from_secs(1);
/// No device has 4 KiB on stable storage so soon: it is memory, or a cache that a power cut empties.
const IMPLAUSIBLE: Duration = Duration::from_micros(20);
/// Each commit waits for one sync.
const SLOW_MEDIAN: Duration = Duration::from_millis(10);
const SLOW_P99: Duration = Duration::from_millis(50);

/// Free room, in bytes: below the first the vault will soon answer no more, below the second somebody should make room.
/// `storage.min_free_bytes` can raise both.
const LITTLE_BYTES: (u64, u64) = (512 << 20, 4 << 30);
/// And in inodes: RocksDB makes some files, not many.
const LITTLE_INODES: (u64, u64) = (1_000, 10_000);

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let sync = match probe(&config.storage.path) {
        Ok(taken) => judge_sync(taken),
        Err(error) => Finding::warn(
            "disk: sync",
            format!("can't be measured in {}: {error}", config.storage.path.display()),
            "run doctor as the vault's user, on a file system that knows O_TMPFILE",
        ),
    };
    let wanted = config.storage.min_free_bytes as u64;
    let room = [("disk: data", &config.storage.path, wanted), ("disk: checkpoints", &config.audit.checkpoints, wanted)];
    // The vault goes on without what is written there.
    let copy = config.audit.checkpoints_copy.as_ref().map(|path| ("disk: checkpoint copy", path, 0));
    let room = room.into_iter().chain(copy).map(|(subject, path, wanted)| match Room::of(path) {
        Ok(room) => judge_room(subject, path, room, wanted),
        Err(error) => Finding::bad(subject, format!("{}: {error}", path.display()), "correct the path, or mount it"),
    });
    std::iter::once(sync).chain(room).collect()
}

/// How long it takes in `directory` to have 4 KiB on the disk. The file has no name, so a vault that runs there never sees
/// it, and nothing is left behind whatever happens.
fn probe(directory: &Path) -> std::io::Result<Vec<Duration>> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?);
    let began = Instant::now();
    let mut taken = Vec::with_capacity(PROBES);
    while taken.len() < PROBES && began.elapsed() < PROBING_AT_MOST {
        let start = Instant::now();
        file.write_all(&PROBE_BYTES)?;
        file.sync_data()?;
        taken.push(start.elapsed());
    }
    Ok(taken)
}

fn judge_sync(mut taken: Vec<Duration>) -> Finding {
    const SUBJECT: &str = "disk: sync";
    taken.sort_unstable();
    let at = |percent: usize| taken.get(taken.len() * percent / 100).or(taken.last()).copied().unwrap_or_default();
    let (median, p99) = (at(50), at(99));
    let seen = format!("4 KiB take {}, 99% at most {}", in_words(median), in_words(p99));
    if median < IMPLAUSIBLE {
        let advice =
            "that is too fast to be true: a disk in memory or a cache without power backing loses acknowledged writes";
        Finding::warn(SUBJECT, seen, advice)
    } else if median > SLOW_MEDIAN || p99 > SLOW_P99 {
        Finding::warn(
            SUBJECT,
            seen,
            "slow: every call waits for one; an SSD with power-loss protection takes under 1 ms",
        )
    } else {
        Finding::ok(SUBJECT, seen)
    }
}

/// `wanted` is what the vault wants to be free, in bytes; once it was less, it must be an eighth more.
fn judge_room(subject: &str, path: &Path, room: Room, wanted: u64) -> Finding {
    let inodes = room.inodes.map_or_else(String::new, |inodes| format!(" and {inodes} inodes"));
    let seen = format!("{} free{inodes} at {}", bytes_in_words(room.bytes), path.display());
    let below = |bytes, inodes| room.bytes < bytes || room.inodes.is_some_and(|left| left < inodes);
    let bad = LITTLE_BYTES.0.max(wanted.saturating_add(wanted / 8));
    let little = LITTLE_BYTES.1.max(bad.saturating_mul(2));
    if below(bad, LITTLE_INODES.0) {
        Finding::bad(subject, seen, "make room now: below storage.min_free_bytes no call is answered")
    } else if below(little, LITTLE_INODES.1) {
        Finding::warn(subject, seen, "make room: below storage.min_free_bytes no call is answered")
    } else {
        Finding::ok(subject, seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Verdict;

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        // A file system that can't do it says so, and so does the finding.
        if let Ok(taken) = probe(folder.path()) {
            assert!(!taken.is_empty());
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn syncs_can_be_too_slow_and_too_fast() {
        let verdict =
            |micros: &[u64]| judge_sync(micros.iter().map(|micros| Duration::from_micros(*micros)).collect()).verdict;
        assert_eq!(verdict(&[400, 500, 600]), Verdict::Ok);
        assert_eq!(verdict(&[2, 3, 900]), Verdict::Warn, "a disk that lies");
        assert_eq!(verdict(&[12_000, 13_000]), Verdict::Warn);
        assert_eq!(verdict(&[500, 500, 60_000]), Verdict::Warn, "stalls");
    }

    #[test]
    fn room_is_counted_in_bytes_and_inodes() {
        let verdict = |bytes, inodes| judge_room("disk", Path::new("/"), Room { bytes, inodes }, 128 << 20).verdict;
        assert_eq!(verdict(1 << 40, None), Verdict::Ok);
        assert_eq!(verdict(1 << 40, Some(1 << 20)), Verdict::Ok);
        assert_eq!(verdict(1 << 30, None), Verdict::Warn);
        assert_eq!(verdict(1 << 40, Some(5_000)), Verdict::Warn);
        assert_eq!(verdict(1 << 20, None), Verdict::Bad);
        assert_eq!(verdict(1 << 40, Some(0)), Verdict::Bad);
    }

    #[test]
    fn room_is_held_against_what_the_vault_wants() {
        let verdict = |bytes, wanted| judge_room("disk", Path::new("/"), Room { bytes, inodes: None }, wanted).verdict;
        let wanted = 800 << 30;
        assert_eq!(verdict(800 << 30, wanted), Verdict::Bad, "once it was full it does not go on");
        assert_eq!(verdict((900 << 30) - 1, wanted), Verdict::Bad);
        assert_eq!(verdict(900 << 30, wanted), Verdict::Warn);
        assert_eq!(verdict(1800 << 30, wanted), Verdict::Ok);
        assert_eq!(verdict(u64::MAX - 1, u64::MAX), Verdict::Bad, "nothing overflows");
    }
}
