//! What the system allows a process, and where it puts memory.

use std::path::Path;

use rustix::process::{DumpableBehavior, Resource};

use crate::config::Config;
use crate::server::{Finding, bytes_in_words, descriptors_wanted};

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    // The vault raises its own limit to what it may have.
    let files = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = text("/sys/fs/cgroup/memory.max").trim().parse().ok();
    vec![
        judge_files(files, descriptors_wanted(config)),
        cores(),
        judge_swap(&text("/proc/swaps"), &|device| text(&format!("/sys/block/{device}/dm/uuid"))),
        judge_memory(total_memory(&text("/proc/meminfo")).into_iter().chain(limit).min(), config.memory_at_most()),
    ]
}

/// `None` is no limit.
fn judge_files(limit: Option<u64>, needed: u64) -> Finding {
    const SUBJECT: &str = "limit: open files";
    match limit {
        Some(limit) if limit < needed => Finding::bad(
            SUBJECT,
            format!("{limit} for this user, and connections, handshakes and the store want {needed}: fewer are let in"),
            format!("raise it (LimitNOFILE={needed} in the service's unit), or lower server.max_connections"),
        ),
        Some(limit) => Finding::ok(SUBJECT, format!("{limit} for this user, {needed} wanted")),
        None => Finding::ok(SUBJECT, "no limit"),
    }
}

/// The program forbids its own core dumps before anything else; here it looks whether that worked.
fn cores() -> Finding {
    const SUBJECT: &str = "limit: core dumps";
    let limit = rustix::process::getrlimit(Resource::Core).current;
    let dumpable = rustix::process::dumpable_behavior();
    if limit == Some(0) && dumpable == Ok(DumpableBehavior::NotDumpable) {
        Finding::ok(SUBJECT, "none: the program forbids them for itself")
    } else {
        Finding::bad(
            SUBJECT,
            "possible: a core file would hold values and keys",
            "report this with your kernel's version",
        )
    }
}

/// `swaps` is `/proc/swaps`, and `mapper` gives the device mapper's word for a device.
fn judge_swap(swaps: &str, mapper: &dyn Fn(&str) -> String) -> Finding {
    const SUBJECT: &str = "swap";
    let devices: Vec<&str> = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let harmless = |device: &&str| {
        let name = Path::new(device).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Compressed memory is memory; and what lies under dm-crypt is sealed.
        device.starts_with("/dev/zram") || mapper(name).starts_with("CRYPT-")
    };
    let open: Vec<&str> = devices.iter().filter(|device| !harmless(device)).copied().collect();
    match (devices.is_empty(), open.is_empty()) {
        (true, _) => Finding::ok(SUBJECT, "none"),
        (false, true) => Finding::ok(SUBJECT, format!("{}, in memory or encrypted", devices.join(", "))),
        (false, false) => Finding::warn(
            SUBJECT,
            format!("{}: memory is not locked, so values and keys can be written there in clear", open.join(", ")),
            "turn it off (swapoff -a), encrypt it, or set MemorySwapMax=0 for the service",
        ),
    }
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// `available` is the smaller of the machine's memory and the limit of this process's group.
fn judge_memory(available: Option<u64>, needed: u64) -> Finding {
    const SUBJECT: &str = "memory";
    let Some(available) = available else {
        return Finding::warn(SUBJECT, "how much there is can't be seen", "");
    };
    let seen = format!("{} in all, the vault takes up to {}", bytes_in_words(available), bytes_in_words(needed));
    if needed > available {
        Finding::bad(
            SUBJECT,
            seen,
            "lower server.max_bytes_in_flight, storage.cache_bytes or ledger.max_queued_bytes, or give it more",
        )
    } else if needed > available / 4 * 3 {
        Finding::warn(
            SUBJECT,
            seen,
            "little is left for the system's own cache: lower server.max_bytes_in_flight or storage.cache_bytes, or give it more",
        )
    } else {
        Finding::ok(SUBJECT, seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Verdict;

    #[test]
    fn open_files_must_do_for_all_connections() {
        assert_eq!(judge_files(Some(3_247), 3_248).verdict, Verdict::Bad);
        assert_eq!(judge_files(Some(3_248), 3_248).verdict, Verdict::Ok);
        assert_eq!(judge_files(None, 1 << 40).verdict, Verdict::Ok);
    }

    #[test]
    fn swap_is_fine_in_memory_and_under_encryption() {
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        let mapper = |device: &str| if device == "dm-1" { "CRYPT-PLAIN-swap".to_owned() } else { String::new() };
        let verdict = |rows: &str| judge_swap(&format!("{head}{rows}"), &mapper).verdict;
        assert_eq!(verdict(""), Verdict::Ok);
        assert_eq!(verdict("/dev/zram0 partition 1 0 100\n/dev/dm-1 partition 1 0 -2\n"), Verdict::Ok);
        assert_eq!(verdict("/dev/dm-1 partition 1 0 -2\n/swapfile file 1 0 -3\n"), Verdict::Warn);
        assert_eq!(verdict("/dev/dm-2 partition 1 0 -2\n"), Verdict::Warn);
    }

    #[test]
    fn memory_is_held_against_the_cache() {
        assert_eq!(total_memory("MemTotal:        8 kB\nMemFree: 1 kB\n"), Some(8_192));
        assert_eq!(judge_memory(Some(1 << 30), 2 << 30).verdict, Verdict::Bad);
        assert_eq!(judge_memory(Some(4 << 30), (4 << 30) - 1).verdict, Verdict::Warn);
        assert_eq!(judge_memory(Some(4 << 30), 1 << 30).verdict, Verdict::Ok);
        assert_eq!(judge_memory(None, 1).verdict, Verdict::Warn);
    }
}
