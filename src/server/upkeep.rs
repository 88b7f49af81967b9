//! What the vault does by itself while it runs: it watches the clock, and deletes what expired long enough ago.

use super::until;
use crate::clock::in_words;
use crate::config::{self, Config};
use crate::ledger::Standing;
use crate::vault::{Purged, Sweep, Vault};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CLOCK_PERIOD: Duration = Duration::from_secs(1);
/// A clock that is put right by less than this is no news.
const TELL_BEHIND: Duration = Duration::from_mins(1);
/// After a failure. The log that can't be written ends the process; a busy one shall first get its callers served.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What runs until the vault stops.
pub(super) struct Upkeep(Vec<JoinHandle<()>>);

/// Starts all of it.
pub(super) fn start(vault: &Arc<Vault>, config: &Config, stopped: &watch::Receiver<bool>) -> Upkeep {
    let (vault, stopped) = (|| Arc::clone(vault), || stopped.clone());
    Upkeep(vec![
        tokio::spawn(keep_time(vault(), stopped())),
        tokio::spawn(purge(vault(), config.purge, stopped())),
        tokio::spawn(retain(vault(), config.audit.retention, stopped())),
    ])
}

impl Upkeep {
    /// Waits until all has ended, which it does once the vault stops.
    pub async fn ended(self) {
        for task in self.0 {
            // A panic in one has been logged by the panic hook.
            let _ = task.await;
        }
    }
}

/// Each second, looks at the clock.
async fn keep_time(vault: Arc<Vault>, stopped: watch::Receiver<bool>) {
    let mut stop = std::pin::pin!(until(stopped));
    let mut told_behind = false;
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = look(&vault, &mut told_behind) => {}
        }
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(CLOCK_PERIOD) => {}
        }
    }
}

async fn look(vault: &Vault, told_behind: &mut bool) {
    match vault.keep_time().await {
        Ok(standing) => {
            let ahead = if let Standing::Leapt(ahead) = standing { ahead } else { Duration::ZERO };
            metrics::gauge!("cloakroom_clock_leap_seconds").set(ahead.as_secs_f64());
            let behind = vault.ledger().clock().behind();
            let already = std::mem::replace(told_behind, behind >= TELL_BEHIND);
            if behind >= TELL_BEHIND && !already {
                let behind = in_words(behind);
                tracing::warn!(
                    %behind,
                    "the machine's clock is behind the vault's time, which stands still until the clock has caught up: \
                     until then nothing expires. Look at the clock"
                );
            }
            metrics::gauge!("cloakroom_clock_behind_seconds").set(behind.as_secs_f64());
        }
        Err(failure) => tracing::error!(?failure, "what the clock did could not be written to the log"),
    }
}

/// Purges until the vault stops. A step that is under way then is not waited for: it is committed whole or not at all.
async fn purge(vault: Arc<Vault>, config: config::Purge, stopped: watch::Receiver<bool>) {
    let mut stop = std::pin::pin!(until(stopped));
    let at_once = usize::try_from(config.rows_per_second).unwrap_or(usize::MAX);
    let mut sweep = Sweep::new(config.grace, at_once);
    loop {
        let step = tokio::select! {
            () = &mut stop => return,
            step = vault.purge(&mut sweep) => step,
        };
        metrics::gauge!("cloakroom_purge_lag_seconds").set(sweep.lag().as_secs_f64());
        let pause = match step {
            Ok(purged) => {
                count(&purged);
                purged.pause(config.rows_per_second).unwrap_or(config.interval)
            }
            Err(failure) => {
                tracing::error!(?failure, "what has expired could not be purged; it is tried again");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// How often it is looked for events that are older than they are kept.
const RETENTION_PERIOD: Duration = Duration::from_hours(1);
/// Between two steps of one round, so that callers are served meanwhile.
const RETENTION_PAUSE: Duration = Duration::from_millis(100);

/// Drops the bodies of old events until the vault stops.
async fn retain(vault: Arc<Vault>, retention: Duration, stopped: watch::Receiver<bool>) {
    let mut stop = std::pin::pin!(until(stopped));
    loop {
        let step = tokio::select! {
            () = &mut stop => return,
            step = vault.drop_old_events(retention) => step,
        };
        let pause = match step {
            Ok(dropped) => {
                metrics::counter!("cloakroom_events_dropped_total").increment(dropped.events);
                if dropped.more { RETENTION_PAUSE } else { RETENTION_PERIOD }
            }
            Err(failure) => {
                tracing::error!(?failure, "old events could not be dropped; it is tried again");
                RETENTION_PERIOD
            }
        };
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn count(purged: &Purged) {
    metrics::counter!("cloakroom_purged_rows_total", "table" => "tokens").increment(purged.tokens);
    metrics::counter!("cloakroom_purged_rows_total", "table" => "requests").increment(purged.requests);
    metrics::counter!("cloakroom_purged_rows_total", "table" => "expiry").increment(purged.expiries);
    metrics::counter!("cloakroom_purge_left_total", "reason" => "damaged").increment(purged.damaged);
    metrics::counter!("cloakroom_purge_left_total", "reason" => "no_key").increment(purged.locked);
}
