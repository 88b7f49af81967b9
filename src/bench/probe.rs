//! What the system says: CPU of processes, who else was busy, how long the disk takes.

use super::{Error, io};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// `USER_HZ`, in which `/proc/stat` counts, whatever the kernel's own ticks are.
const TICKS_A_SECOND: f64 = 100.0;
const PROBE_BYTES: [u8; 4096] = [0x5a; 4096];
const PROBES: usize = 300;
/// A slow disk gets fewer probes.
const PROBING_AT_MOST: Duration = Duration::from_millis(500);

/// CPU since the machine started, in seconds of one core.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    busy: f64,
    stolen: f64,
}

/// A moment: what everybody had used by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    at: Instant,
    vault: Duration,
    floor: Duration,
    client: Duration,
    machine: Machine,
}

/// From one moment to another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    /// Wall clock.
    pub(super) seconds: f64,
    pub(super) vault: f64,
    pub(super) floor: f64,
    pub(super) client: f64,
    /// By processes that have nothing to do with this, and by the kernel for them.
    pub(super) others: f64,
    /// By other guests of the host.
    pub(super) stolen: f64,
}

impl Moment {
    /// Now.
    pub(super) fn now(vault: u32, floor: u32) -> Result<Self, Error> {
        Ok(Self {
            at: Instant::now(),
            vault: cpu_of(vault)?,
            floor: cpu_of(floor)?,
            client: cpu_of(std::process::id())?,
            machine: Machine::now()?,
        })
    }

    /// What was used since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Used {
        let seconds = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64();
        let vault = seconds(self.vault, earlier.vault);
        let floor = seconds(self.floor, earlier.floor);
        let client = seconds(self.client, earlier.client);
        let busy = self.machine.busy - earlier.machine.busy;
        Used {
            seconds: (self.at - earlier.at).as_secs_f64(),
            vault,
            floor,
            client,
            others: (busy - vault - floor - client).max(0.0),
            stolen: self.machine.stolen - earlier.machine.stolen,
        }
    }
}

impl Machine {
    fn now() -> Result<Self, Error> {
        let text = fs::read_to_string("/proc/stat").map_err(io("can't read /proc/stat"))?;
        let first = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = first.split_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
        let of =
            |columns: &[usize]| columns.iter().filter_map(|column| ticks.get(*column)).sum::<f64>() / TICKS_A_SECOND;
        // user nice system idle iowait irq softirq steal
        Ok(Self { busy: of(&[0, 1, 2, 5, 6]), stolen: of(&[7]) })
    }
}

/// The CPU that all threads of a process have used, those of its libraries too. Threads that ended are left out; the
/// servers keep theirs.
pub(super) fn cpu_of(process: u32) -> Result<Duration, Error> {
    cpu_of_threads(process, |_| true)
}

/// The CPU that its threads of this name have used.
pub(super) fn cpu_of_thread(process: u32, name: &str) -> Result<Duration, Error> {
    cpu_of_threads(process, |thread| fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim() == name))
}

fn cpu_of_threads(process: u32, wanted: impl Fn(&Path) -> bool) -> Result<Duration, Error> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).map_err(io("a server has gone"))?;
    let threads = threads.flatten().filter(|thread| wanted(&thread.path()));
    let nanos = threads.filter_map(|thread| {
        let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    Ok(Duration::from_nanos(nanos.sum()))
}

/// What a process has in memory.
pub(super) fn resident_bytes(process: u32) -> Result<u64, Error> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).map_err(io("a server has gone"))?;
    Ok(super::host::kibibytes(&status, "VmRSS").unwrap_or_default())
}

/// What a directory's files hold together. Room that was only set aside behind a file's end is not counted: it does not grow with
/// what is stored.
pub(super) fn disk_bytes(directory: &Path) -> Result<u64, Error> {
    let mut sum = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).map_err(io("can't look at the vault's disk"))?.flatten() {
            // A file may have gone meanwhile: the vault is at work.
            match entry.metadata() {
                Ok(about) if about.is_dir() => left.push(entry.path()),
                Ok(about) => sum += about.len(),
                Err(_) => {}
            }
        }
    }
    Ok(sum)
}

/// Waits until a process does next to nothing, so that what it still had to do is not taken for what is measured; not for
/// ever.
pub(super) async fn settled(process: u32) -> Result<(), Error> {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    const AT_MOST: Duration = Duration::from_mins(2);
    const IDLE: f64 = 0.02;
    let began = Instant::now();
    let mut before = cpu_of(process)?;
    while began.elapsed() < AT_MOST {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = cpu_of(process)?;
        if now.saturating_sub(before).as_secs_f64() < LOOK_EVERY.as_secs_f64() * IDLE {
            break;
        }
        before = now;
    }
    Ok(())
}

/// How long it takes in `directory` to append 4 KiB to a file and have them on the disk.
pub(super) fn fdatasync(directory: &Path) -> Result<Vec<Duration>, Error> {
    let path = directory.join("probe");
    let failed = io("can't write beside the vault");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(&failed)?;
    let began = Instant::now();
    let mut taken = Vec::with_capacity(PROBES);
    while taken.len() < PROBES && began.elapsed() < PROBING_AT_MOST {
        let start = Instant::now();
        file.write_all(&PROBE_BYTES).and_then(|()| file.sync_data()).map_err(&failed)?;
        taken.push(start.elapsed());
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_uses_is_seen_from_outside() {
        let (process, parent) = (std::process::id(), std::os::unix::process::parent_id());
        let before = Moment::now(process, parent).unwrap();
        let mut sum = 0_u64;
        while before.at.elapsed() < Duration::from_millis(50) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let used = Moment::now(process, parent).unwrap().since(&before);
        assert!(used.vault > 0.0 && used.seconds >= 0.05, "{used:?}");
    }

    #[test]
    fn memory_and_disk_are_seen() {
        assert!(resident_bytes(std::process::id()).unwrap() > 0);
        let folder = tempfile::tempdir().unwrap();
        let before = disk_bytes(folder.path()).unwrap();
        fs::create_dir(folder.path().join("inside")).unwrap();
        fs::write(folder.path().join("inside/file"), vec![1; 100_000]).unwrap();
        assert_eq!(disk_bytes(folder.path()).unwrap(), before + 100_000);
    }

    #[test]
    fn the_probe_writes_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let taken = fdatasync(folder.path()).unwrap();
        let written = fs::metadata(folder.path().join("probe")).unwrap().len();
        assert!(!taken.is_empty());
        assert_eq!(written, (taken.len() * PROBE_BYTES.len()) as u64);
    }
}
