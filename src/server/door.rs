//! The door as the vault has it: its settings, who was refused at it, and who is turned out.

use super::{Error, descriptors, until};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::limits::Gravity;
use crate::tls::{self, Doubt, HandshakeFailure, ServerIdentity};
use crate::vault::Handshakes;
use rustls::pki_types::UnixTime;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often is looked for connections whose peer does nothing.
const STALL_PERIOD: Duration = Duration::from_secs(1);

/// Bound, with as much as there are descriptors for.
pub(super) fn bind(config: &Config) -> Result<tls::Acceptor, Error> {
    descriptors::raise_limit();
    let mut door = settings(config);
    descriptors::fit(&mut door);
    Ok(tls::Acceptor::bind(&door)?)
}

/// Why clients might refuse the vault's certificate. What can't be read has been found elsewhere.
pub(super) fn doubts(config: &Config) -> Vec<Doubt> {
    let (server, door) = (&config.server, settings(config));
    let Ok(own) = ServerIdentity::load(&server.certificate, &server.private_key) else { return Vec::new() };
    let now = Duration::from_millis(SystemClock::shared().wall().millis());
    own.doubts(&door.trust_domains, UnixTime::since_unix_epoch(now))
}

/// As the configuration has it.
pub(super) fn settings(config: &Config) -> tls::Config {
    let server = &config.server;
    let mut tls = tls::Config::new(server.listen, &server.certificate, &server.private_key);
    for domain in &config.trust_domains {
        tls = tls.trust(&domain.name, &domain.bundle);
        tls.crls.extend(domain.crls.iter().cloned());
    }
    tls.max_connections = server.max_connections;
    tls.max_connections_per_caller = server.max_connections_per_caller;
    tls.handshake_timeout = server.handshake_timeout;
    tls
}

/// Counts those that were refused, for metrics and for the log.
pub(super) fn noting(
    handshakes: &Arc<Handshakes>,
    clock: &Arc<dyn Clock>,
) -> impl Fn(HandshakeFailure) + Send + Sync + 'static {
    let (handshakes, clock) = (Arc::clone(handshakes), Arc::clone(clock));
    move |failure| note(&handshakes, &*clock, &failure)
}

fn note(handshakes: &Handshakes, clock: &dyn Clock, failure: &HandshakeFailure) {
    metrics::counter!("cloakroom_handshakes_refused_total", "reason" => failure.reason).increment(1);
    let (peer, now) = (failure.peer.ip(), clock.wall());
    let refused = (failure.reason, gravity(failure));
    handshakes.count(peer, tls::origin(peer), failure.certificate_sha256, refused, now);
}

/// How much it says that a handshake failed. Most rules for certificates are asked before any signature is, so anybody can
/// make up one that breaks them; that an authority of ours signed what was shown is certain with a few reasons only.
fn gravity(failure: &HandshakeFailure) -> Gravity {
    match failure.reason {
        "trust_domain_mismatch"
        | "certificate_revoked"
        | "key_possession_not_proven"
        | "certificate_not_verified"
        | "connection_limit_of_caller" => Gravity::Vouched,
        "certificate_unknown_issuer" | "unknown_trust_domain" => Gravity::Noise,
        _ if failure.certificate_sha256.is_some() => Gravity::Broken,
        _ => Gravity::Noise,
    }
}

/// What a start goes on with, and somebody should look at.
pub(super) fn warn_of_certificates(config: &Config) {
    for domain in config.trust_domains.iter().filter(|domain| domain.crls.is_empty()) {
        tracing::warn!(domain = domain.name, "no revocation lists: a certificate is good until it expires");
    }
    for doubt in doubts(config) {
        tracing::warn!(certificate = %config.server.certificate.display(), "the vault's own certificate: {doubt}");
    }
}

/// Each second, connections whose peer has been waited for too long are closed.
pub(super) async fn close_stalled(connections: tls::Connections, limit: Duration, stopped: watch::Receiver<bool>) {
    let mut stop = std::pin::pin!(until(stopped));
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(STALL_PERIOD) => {
                let closed = connections.close_where(|connection| connection.waits.longest() >= limit);
                metrics::counter!("cloakroom_connections_closed_total", "reason" => "stalled").increment(closed as u64);
            }
        }
    }
}
