//! Whether the vault can serve, and if not, why: what `/readyz` and `grpc.health.v1` tell, and a metric.

use super::supervisor::Supervisor;
use crate::grpc::{AuditDoor, TokenDoor};
use crate::proto::v1::audit_service_server::AuditServiceServer;
use crate::proto::v1::token_service_server::TokenServiceServer;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// By these names health is asked for; the empty one stands for the whole vault.
pub(super) const SERVICES: [&str; 3] =
    ["", TokenServiceServer::<TokenDoor>::NAME, AuditServiceServer::<AuditDoor>::NAME];

/// Told by those who watch, followed by those who are asked.
pub(super) struct Readiness(watch::Sender<Reasons>);

/// What keeps the vault from serving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reasons {
    failed: bool,
    stalled: bool,
    full: bool,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A write failed: the process ends.
    Failed,
    /// A commit has been on its way to the disk for too long.
    Stalled,
    /// There is too little room on a disk.
    Full,
}

impl Readiness {
    /// Ready.
    pub fn new() -> Self {
        Self(watch::Sender::new(Reasons::default()))
    }

    /// Says that `reason` holds from now on, or no longer. Whether that is news.
    pub fn set(&self, reason: Reason, holds: bool) -> bool {
        let news = self.0.send_if_modified(|reasons| std::mem::replace(reasons.of(reason), holds) != holds);
        if news {
            let value = if holds { 1.0 } else { 0.0 };
            metrics::gauge!("cloakroom_not_ready", "reason" => reason.word()).set(value);
        }
        news
    }

    /// Why the vault can't serve now; `None` if it can.
    pub fn why_not(&self) -> Option<&'static str> {
        self.0.borrow().why()
    }

    /// Whether the log can't be written any more, so that the process is about to end.
    pub fn has_failed(&self) -> bool {
        self.0.borrow().failed
    }

    async fn tell(&self, health: HealthReporter, supervisor: Supervisor) {
        let mut reasons = self.0.subscribe();
        loop {
            let why_not = reasons.borrow_and_update().why();
            let status = if why_not.is_some() { ServingStatus::NotServing } else { ServingStatus::Serving };
            for service in SERVICES {
                health.set_service_status(service, status).await;
            }
            if reasons.changed().await.is_err() {
                return;
            }
            match self.why_not() {
                Some(why) => supervisor.status(&format!("not ready: {why}")),
                None => supervisor.status("serving"),
            }
        }
    }
}

/// Tells `health` and `supervisor` each time that it changes, until the task is ended.
pub(super) fn tell(readiness: &Arc<Readiness>, health: &HealthReporter, supervisor: &Supervisor) -> JoinHandle<()> {
    let (readiness, health, supervisor) = (Arc::clone(readiness), health.clone(), supervisor.clone());
    tokio::spawn(async move { readiness.tell(health, supervisor).await })
}

/// Whoever asks for health, or watches it, is told that the vault stops, and then nothing more: a stream that does not end would hold
/// up the vault's own end.
pub(super) struct Farewell(HealthReporter);

impl Farewell {
    /// Says it.
    pub async fn say(health: HealthReporter) -> Self {
        for service in SERVICES {
            health.set_service_status(service, ServingStatus::NotServing).await;
        }
        Self(health)
    }

    /// Ends their streams.
    pub async fn leave(mut self) {
        for service in SERVICES {
            self.0.clear_service_status(service).await;
        }
    }
}

impl Reasons {
    fn of(&mut self, reason: Reason) -> &mut bool {
        match reason {
            Reason::Failed => &mut self.failed,
            Reason::Stalled => &mut self.stalled,
            Reason::Full => &mut self.full,
        }
    }

    fn why(self) -> Option<&'static str> {
        match self {
            Self { failed: true, .. } => Some("the log can't be written: the process ends"),
            Self { full: true, .. } => Some("too little room on the disk"),
            Self { stalled: true, .. } => Some("a commit waits for the disk"),
            Self { failed: false, stalled: false, full: false } => None,
        }
    }
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Failed, Self::Stalled, Self::Full];

    /// As the metric has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Stalled => "stalled",
            Self::Full => "full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_no_reason_is_left() {
        let readiness = Readiness::new();
        assert_eq!(readiness.why_not(), None);
        assert!(readiness.set(Reason::Stalled, true) && !readiness.set(Reason::Stalled, true), "news once");
        assert!(readiness.set(Reason::Full, true));
        assert!(readiness.set(Reason::Stalled, false));
        assert_eq!(readiness.why_not(), Some("too little room on the disk"));
        assert!(readiness.set(Reason::Full, false) && !readiness.set(Reason::Full, false));
        assert_eq!(readiness.why_not(), None);
    }

    #[tokio::test]
    async fn the_service_manager_is_told_why_it_is_not_ready() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let manager = tokio::net::UnixDatagram::bind(&path).unwrap();
        let (readiness, supervisor) = (Arc::new(Readiness::new()), Supervisor::at(&path));
        let telling = tell(&readiness, &HealthReporter::new(), &supervisor);
        let mut buffer = [0; 128];
        // It has begun to follow once it has something to tell.
        tokio::task::yield_now().await;
        for (holds, words) in [(true, "STATUS=not ready: a commit waits for the disk"), (false, "STATUS=serving")] {
            readiness.set(Reason::Stalled, holds);
            let length = manager.recv(&mut buffer).await.unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), words);
        }
        telling.abort();
    }
}
