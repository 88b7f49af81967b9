//! What the vault watches while it runs: whether its writer goes on, whether there is room on the disks, and whether the
//! store can write out its files. All of it is looked at from outside, so that calls pay nothing for it.

use super::readiness::{Readiness, Reason};
use super::room::Disks;
use super::supervisor::{Supervisor, Writing};
use super::{Error, until};
use crate::clock::Clock;
use crate::ledger::{Fatal, Ledger, Stall};
use crate::store::RocksStore;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Checkpoints come each second. If events have waited ten times as long for one, it is time to say so.
const UNVOUCHED_AT_MOST: Duration = Duration::from_secs(10);
const STALL_PERIOD: Duration = Duration::from_millis(100);
/// What fits into a disk in this time is far below what is kept free.
const DISK_PERIOD: Duration = Duration::from_millis(200);

/// What is watched, and who is told.
pub(super) struct Subject {
    pub ledger: Ledger,
    pub store: Arc<RocksStore>,
    pub readiness: Arc<Readiness>,
    pub clock: Arc<dyn Clock>,
    pub disks: Disks,
    pub stall_after: Duration,
    pub supervisor: Supervisor,
}

/// What runs until the vault stops.
pub(super) struct Watch {
    commits: JoinHandle<()>,
    /// Ends the thread when it is dropped.
    _stopping: Sender<()>,
}

/// Starts all of it.
///
/// # Errors
/// If there is no thread to be had.
pub(super) fn start(subject: Subject, stopped: &watch::Receiver<bool>) -> Result<Watch, Error> {
    let subject = Arc::new(subject);
    let commits = tokio::spawn(commits(Arc::clone(&subject), stopped.clone()));
    let (stopping, told) = channel();
    let thread = std::thread::Builder::new().name("disks".to_owned());
    // Not waited for at the end: a file system that stands still must not hold that up.
    let _detached = thread
        .spawn(move || watch_disk(&subject, &told))
        .map_err(|error| Error::Io { what: "can't start the thread that watches the disks", error })?;
    Ok(Watch { commits, _stopping: stopping })
}

impl Watch {
    /// Waits until all has ended, which it does once the vault stops.
    pub async fn ended(self) {
        // A panic in it has been logged by the panic hook.
        let _ = self.commits.await;
    }
}

/// For how long events have waited for a checkpoint. A disk of checkpoints that stands still holds up nobody, and so nobody
/// would see that what is acknowledged meanwhile could be cut off without a trace.
#[derive(Default)]
struct Unvouched {
    /// Since when, and how far the checkpoints had come then.
    since: Option<(u64, Duration)>,
    is_told: bool,
}

impl Unvouched {
    fn look(&mut self, ledger: &Ledger, now: Duration) {
        let waited = self.waited(ledger.unvouched(), ledger.vouched().size(), now);
        metrics::gauge!("cloakroom_checkpoint_wait_seconds").set(waited.as_secs_f64());
        let is_long = waited > UNVOUCHED_AT_MOST;
        match (is_long, std::mem::replace(&mut self.is_told, is_long)) {
            (true, false) => tracing::error!(
                ?waited,
                "no checkpoint vouches for the newest events: calls go on, but until one does, those could be cut off \
                 unseen. Look at the disks of audit.checkpoints and audit.checkpoints_copy"
            ),
            (false, true) => tracing::info!("checkpoints vouch for the newest events again"),
            _ => {}
        }
    }

    fn waited(&mut self, events: u64, vouched: u64, now: Duration) -> Duration {
        self.since = match self.since {
            _ if events == 0 => None,
            Some((size, since)) if size == vouched => Some((size, since)),
            _ => Some((vouched, now)),
        };
        self.since.map_or(Duration::ZERO, |(_, since)| now.saturating_sub(since))
    }
}

/// For how long the writer has been at the same work.
async fn commits(subject: Arc<Subject>, stopped: watch::Receiver<bool>) {
    let mut stop = std::pin::pin!(until(stopped));
    let (mut stall, mut unvouched) = (Stall::default(), Unvouched::default());
    let mut signs = subject.supervisor.signs_of_life();
    loop {
        let now = subject.clock.monotonic();
        let waited = stall.look(subject.ledger.under_way(), now);
        metrics::gauge!("cloakroom_commit_wait_seconds").set(waited.as_secs_f64());
        metrics::gauge!("cloakroom_queued_calls").set(subject.ledger.queued() as f64);
        unvouched.look(&subject.ledger, now);
        signs.look(now, Writing { waited, has_failed: subject.readiness.has_failed() });
        let stalled = waited > subject.stall_after;
        match (subject.readiness.set(Reason::Stalled, stalled), stalled) {
            (true, true) => tracing::error!(
                ?waited,
                path = %subject.disks.data().display(),
                "the disk stands still: a commit has been on its way for longer than ledger.stall_after. The vault is not \
                 ready until it goes on. Look at the disk (dmesg, iostat -x 1)"
            ),
            (true, false) => tracing::info!("the disk goes on: the vault is ready again"),
            (false, _) => {}
        }
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(STALL_PERIOD) => {}
        }
    }
}

/// Looks at the disks until the vault stops. On a thread of its own: a file system that stands still answers late, and where
/// no more threads can be had nothing must depend on a new one.
fn watch_disk(subject: &Subject, stopping: &Receiver<()>) {
    let mut was_full = false;
    loop {
        was_full = look_at_disk(subject, was_full);
        if stopping.recv_timeout(DISK_PERIOD) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Whether there is room, whether the data is still where it was, and whether the store has failed out of everybody's sight.
fn look_at_disk(subject: &Subject, was_full: bool) -> bool {
    // First what explains the other.
    if let Some(path) = subject.disks.replaced() {
        subject.ledger.give_up(&Fatal::Gone(path));
    }
    metrics::gauge!("cloakroom_tokens").set(subject.store.estimated_tokens() as f64);
    let errors = subject.store.background_errors();
    if errors > 0 {
        subject.ledger.give_up(&Fatal::Background(errors));
    }
    let full = subject.disks.full(was_full);
    let is_full = full.is_some();
    if is_full {
        subject.ledger.pause();
    } else {
        subject.ledger.resume();
    }
    match (subject.readiness.set(Reason::Full, is_full), full) {
        (true, Some(full)) => tracing::error!("{full}. Until then no call is answered"),
        (true, None) => tracing::info!("there is room on the disks again: calls are answered"),
        (false, _) => {}
    }
    is_full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_wait_for_a_checkpoint_from_the_last_one_on_s_11() {
        let second = Duration::from_secs;
        let mut unvouched = Unvouched::default();
        assert_eq!(unvouched.waited(0, 5, second(1)), Duration::ZERO);
        assert_eq!(unvouched.waited(3, 5, second(2)), Duration::ZERO);
        assert_eq!(unvouched.waited(9, 5, second(14)), second(12), "none came since");
        assert_eq!(unvouched.waited(1, 14, second(15)), Duration::ZERO, "one came; there are newer events");
        assert_eq!(unvouched.waited(2, 14, second(16)), second(1));
        assert_eq!(unvouched.waited(0, 16, second(17)), Duration::ZERO);
    }
}
