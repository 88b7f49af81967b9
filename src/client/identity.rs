//! What the client shows and by what it judges, read again when its files change.
//!
//! Invariant: there is always an identity that can be used. New files take its place only when all of them can be read and fit
//! together; until then the old one stays, and [`IdentityStatus`] says why.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Error, Profile};
use crate::clock::Timestamp;
use crate::sync::{AsyncMutex, watch};
use crate::tls::client::Connector;

/// Which identity a client has, and whether it could be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityStatus {
    /// Counted from 1, one more with each that was read.
    pub generation: u64,
    /// Until when its certificate is good.
    pub not_after: Option<Timestamp>,
    /// Why the newest files could not take its place. They are looked at again when they change.
    pub problem: Option<String>,
}

pub(super) struct Identity {
    pub connector: Connector,
    pub generation: u64,
}

/// Holds the newest identity that could be read.
pub(super) struct Keeper {
    profile: Profile,
    current: ArcSwap<Identity>,
    /// What the files were like when they were last read. Held while they are looked at.
    seen: AsyncMutex<Stamp>,
    status: watch::Sender<IdentityStatus>,
}

/// By what a change of a file is told: which file it is, how long, and when it was changed, to the nanosecond. A link leads to
/// what it points to, so a link that points elsewhere is a change.
#[derive(Clone, PartialEq, Eq)]
struct Stamp([Option<[i64; 7]>; 3]);

impl Keeper {
    /// Reads the files for the first time.
    pub fn new(profile: Profile) -> Result<Self, Error> {
        // Before they are read: a change in between is seen the next time.
        let seen = AsyncMutex::new(Stamp::of(&profile));
        let connector = profile.connector()?;
        let (status, _) =
            watch::channel(IdentityStatus { generation: 1, not_after: connector.not_after(), problem: None });
        let current = ArcSwap::from_pointee(Identity { connector, generation: 1 });
        Ok(Self { profile, current, seen, status })
    }

    pub fn current(&self) -> Arc<Identity> {
        self.current.load_full()
    }

    pub fn watch(&self) -> watch::Receiver<IdentityStatus> {
        self.status.subscribe()
    }

    /// Looks at the files, and reads them if they changed. Whether there is a new identity.
    pub async fn look(&self) -> bool {
        let mut seen = self.seen.lock().await;
        let (profile, before) = (self.profile.clone(), seen.clone());
        let read = tokio::task::spawn_blocking(move || {
            let stamp = Stamp::of(&profile);
            (stamp != before).then(|| (stamp, profile.connector()))
        });
        let Ok(Some((stamp, read))) = read.await else { return false };
        *seen = stamp;
        match read {
            Ok(connector) => {
                let generation = self.current.load().generation + 1;
                let not_after = connector.not_after();
                self.current.store(Arc::new(Identity { connector, generation }));
                self.status.send_replace(IdentityStatus { generation, not_after, problem: None });
                true
            }
            Err(error) => {
                let problem = Some(error.to_string());
                tracing::warn!(%error, "the client keeps its identity: the new files can't be used");
                self.status.send_modify(|status| status.problem = problem);
                false
            }
        }
    }
}

impl Stamp {
    fn of(profile: &Profile) -> Self {
        Self([&profile.ca, &profile.certificate, &profile.private_key].map(|path| stamp(path)))
    }
}

fn stamp(path: &Path) -> Option<[i64; 7]> {
    let found = std::fs::metadata(path).ok()?;
    let [device, inode, length] = [found.dev(), found.ino(), found.len()].map(u64::cast_signed);
    Some([device, inode, length, found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()])
}
