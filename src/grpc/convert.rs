//! Protobuf's numbers and times to the domain's and back.

use crate::clock::Timestamp;
use crate::event;
use crate::ledger::Receipt;
use crate::proto::v1;
use crate::secret::Secret;
use crate::vault::Reason;
use std::time::Duration;

/// Takes a field's buffer, without a copy.
pub fn secrets(texts: Vec<String>) -> Vec<Secret<String>> {
    texts.into_iter().map(Secret::new).collect()
}

/// A lifetime. Rounded down to milliseconds, so never longer than asked for.
pub fn lifetime(duration: prost_types::Duration) -> Result<Duration, Reason> {
    let nanos = u32::try_from(duration.nanos).map_err(|_| Reason::LifetimeNotPositive)?;
    let seconds = u64::try_from(duration.seconds).map_err(|_| Reason::LifetimeNotPositive)?;
    if nanos >= 1_000_000_000 {
        return Err(Reason::LifetimeTooLong);
    }
    Ok(Duration::new(seconds, nanos))
}

/// A time, rounded down to milliseconds. Before 1970 there is nothing.
pub fn time(time: prost_types::Timestamp) -> Result<Timestamp, Reason> {
    let seconds = u64::try_from(time.seconds).map_err(|_| Reason::FilterMalformed)?;
    let millis = u64::try_from(time.nanos).map_err(|_| Reason::FilterMalformed)? / 1_000_000;
    let millis = seconds.checked_mul(1000).and_then(|seconds| seconds.checked_add(millis));
    millis.map(Timestamp::from_millis).ok_or(Reason::FilterMalformed)
}

/// A time for the wire.
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    // Both fit: a timestamp ends with the year 9999.
    let seconds = i64::try_from(time.seconds()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(time.millis() % 1000).unwrap_or(0) * 1_000_000;
    prost_types::Timestamp { seconds, nanos }
}

/// A receipt for the wire.
pub fn receipt(receipt: &Receipt) -> v1::AuditReceipt {
    v1::AuditReceipt { log_id: receipt.log_id().to_string(), sequence: receipt.sequence() }
}

/// An event for the wire.
pub fn event(event: event::Event) -> v1::AuditEvent {
    let time = |time: event::Time| prost_types::Timestamp { seconds: time.seconds, nanos: time.nanos };
    v1::AuditEvent {
        log_id: event.log_id,
        sequence: event.sequence,
        time: event.time.map(time),
        action: event.action,
        outcome: event.outcome,
        reason: event.reason,
        caller: event.caller,
        certificate_sha256: event.certificate_sha256.into(),
        access_token: event.access_token.map(|token| v1::AccessTokenInfo {
            issuer: token.issuer,
            subject: token.subject,
            token_hash: token.token_hash.into(),
            actor: token.actor,
        }),
        scope: event.scope,
        handles: event.handles.into_iter().map(Into::into).collect(),
        requested: event.requested,
        succeeded: event.succeeded,
        purpose: event.purpose,
        request_hash: event.request_hash.into(),
        trace_id: event.trace_id,
        peer_address: event.peer_address,
        policies: event.policies,
        node: event.node,
        reveal: event.reveal,
        rulebook: event.rulebook.into(),
        item_outcomes: event.item_outcomes,
        count: event.count,
        first_time: event.first_time.map(time),
        detail: event.detail,
        salt: event.salt.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_never_negative_and_never_wrap_l_01() {
        let lifetime = |seconds, nanos| lifetime(prost_types::Duration { seconds, nanos });
        assert_eq!(lifetime(0, 1_000_000), Ok(Duration::from_millis(1)));
        assert_eq!(lifetime(-1, 0), Err(Reason::LifetimeNotPositive));
        assert_eq!(lifetime(0, -1), Err(Reason::LifetimeNotPositive));
        assert_eq!(lifetime(0, i32::MAX), Err(Reason::LifetimeTooLong));
        assert!(lifetime(i64::MAX, 0).is_ok(), "the scope's ceiling refuses it");
    }
}
