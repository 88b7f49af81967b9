//! The clock: tokens expire by it, and certificates.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::in_words;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::CheckpointDirectory;
use crate::server::Finding;

/// 2026-01-01, before which there was no Cloakroom, and 2100-01-01.
const YEARS: std::ops::Range<u64> = 1_767_225_600_000..4_102_444_800_000;
/// Files are stamped by a coarser clock than the one that is read here.
const COARSE: Duration = Duration::from_secs(2);
/// A leap that the vault does not follow by itself.
const LEAP: Duration = Duration::from_hours(24);

/// What each daemon leaves under `/run`: its name, the file, and whether the file says that the clock is right or only that
/// the daemon runs.
const DAEMONS: [(&str, &str, bool); 6] = [
    ("systemd-timesyncd", "systemd/timesync/synchronized", true),
    ("chronyd", "chrony/chronyd.pid", false),
    ("chronyd", "chronyd.pid", false),
    ("ntpd", "ntpd.pid", false),
    ("ntpd", "ntpsec/ntpd.pid", false),
    ("openntpd", "openntpd.pid", false),
];

pub(super) fn look(config: &Config, now: Timestamp, running: bool) -> Vec<Finding> {
    let mut found = vec![synchronised(Path::new("/run")), sane(now)];
    let file = CheckpointDirectory::new(&config.audit.checkpoints).file();
    let written = file.metadata().and_then(|metadata| metadata.modified()).ok();
    if let Some(age) = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok()) {
        found.push(against_last_run(Duration::from_millis(now.millis()), age, running));
    }
    found
}

/// The kernel knows too, but only daemons tell in a file.
fn synchronised(run: &Path) -> Finding {
    const SUBJECT: &str = "clock";
    match DAEMONS.iter().find(|(_, file, _)| run.join(file).exists()) {
        Some((name, _, true)) => Finding::ok(SUBJECT, format!("{name} has synchronised it")),
        Some((name, _, false)) => Finding::ok(SUBJECT, format!("{name} runs; whether it is in step, it says itself")),
        None => Finding::warn(
            SUBJECT,
            "nothing on this machine is seen to keep it right",
            "run systemd-timesyncd or chronyd; in a container or virtual machine see that the host does",
        ),
    }
}

fn sane(now: Timestamp) -> Finding {
    const SUBJECT: &str = "clock: year";
    let shown = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(now.millis().min(YEARS.end * 2)));
    if YEARS.contains(&now.millis()) {
        Finding::ok(SUBJECT, shown.to_string())
    } else {
        Finding::bad(SUBJECT, format!("{shown} can't be"), "set the clock before the vault starts")
    }
}

/// The time mark itself is in the database, which must not be opened here. The checkpoint is written while the vault runs,
/// so its file is as old as the last change that the vault made.
fn against_last_run(now: Duration, written: Duration, running: bool) -> Finding {
    const SUBJECT: &str = "clock: last run";
    if written > now + COARSE {
        let behind = in_words(written.saturating_sub(now));
        return Finding::bad(
            SUBJECT,
            format!("the clock is {behind} behind the last checkpoint"),
            "set it right: until it has caught up the vault's time stands still at its mark",
        );
    }
    let since = now.saturating_sub(written);
    let ago = if since < Duration::from_secs(1) { "less than a second".to_owned() } else { in_words(since) };
    let seen = format!("the last checkpoint was written {ago} ago");
    if since > LEAP && !running {
        let advice = "if the vault has not stood still for so long, the clock is ahead: set it right before a start";
        return Finding::warn(SUBJECT, seen, advice);
    }
    Finding::ok(SUBJECT, seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Verdict;

    #[test]
    fn a_daemon_is_known_by_what_it_leaves() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(synchronised(run.path()).verdict, Verdict::Warn);
        std::fs::create_dir_all(run.path().join("systemd/timesync")).unwrap();
        assert_eq!(synchronised(run.path()).verdict, Verdict::Warn, "timesyncd that has not reached a server yet");
        std::fs::write(run.path().join("systemd/timesync/synchronized"), "").unwrap();
        let found = synchronised(run.path());
        assert_eq!((found.verdict, found.seen.as_str()), (Verdict::Ok, "systemd-timesyncd has synchronised it"));
    }

    #[test]
    fn a_year_before_the_program_is_no_year() {
        let verdict = |millis| sane(Timestamp::from_millis(millis)).verdict;
        assert_eq!(verdict(0), Verdict::Bad);
        assert_eq!(verdict(YEARS.start), Verdict::Ok);
        assert_eq!(verdict(YEARS.end), Verdict::Bad);
        assert_eq!(verdict(u64::MAX), Verdict::Bad);
    }

    #[test]
    fn the_clock_is_held_against_the_last_run() {
        let (hour, day) = (Duration::from_hours(1), Duration::from_hours(24));
        let now = Duration::from_hours(500_000);
        let verdict = |written, running| against_last_run(now, written, running).verdict;
        let ago = |time| now.saturating_sub(time);
        assert_eq!(verdict(now, true), Verdict::Ok);
        assert_eq!(verdict(now + Duration::from_millis(5), true), Verdict::Ok);
        assert_eq!(verdict(now + hour, false), Verdict::Bad);
        assert_eq!(verdict(ago(hour), false), Verdict::Ok);
        assert_eq!(verdict(ago(day * 3), false), Verdict::Warn);
        assert_eq!(verdict(ago(day * 3), true), Verdict::Ok, "nobody has called it");
    }
}
