//! Times and durations as people and protobuf write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::SystemClock;

/// RFC 3339 with milliseconds, UTC; empty if there is no time, or none that a calendar knows.
pub(super) fn rfc3339(time: Option<&prost_types::Timestamp>) -> String {
    let system = time.copied().and_then(|time| SystemTime::try_from(time).ok());
    // The formatter knows nothing beyond the year 9999.
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    match system.filter(|time| (UNIX_EPOCH..=last).contains(time)) {
        Some(time) => humantime::format_rfc3339_millis(time).to_string(),
        None => String::new(),
    }
}

/// A lifetime such as `90s` or `30d`, for an option.
pub(super) fn lifetime(text: &str) -> Result<prost_types::Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|_| "write it like 90s, 12h or 30d".to_owned())?;
    prost_types::Duration::try_from(duration).map_err(|_| "too long".to_owned())
}

/// A moment for an option: RFC 3339 such as `2026-11-21T10:00:00Z`, or how long ago, such as `2h`.
pub(super) fn moment(text: &str) -> Result<prost_types::Timestamp, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time.into());
    }
    let ago = humantime::parse_duration(text)
        .map_err(|_| "write it like 2026-11-21T10:00:00Z, or how long ago, like 2h".to_owned())?;
    let now = Duration::from_millis(SystemClock::shared().wall().millis());
    Ok((UNIX_EPOCH + now.saturating_sub(ago)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let time = moment("2026-11-21T10:00:00Z").unwrap();
        assert_eq!(rfc3339(Some(&time)), "2026-11-21T10:00:00.000Z");
        assert_eq!(rfc3339(None), "");
        let far = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
        assert_eq!(rfc3339(Some(&far)), "");
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn lifetimes_have_units() {
        assert_eq!(lifetime("90s").unwrap().seconds, 90);
        assert_eq!(lifetime("30d").unwrap().seconds, 30 * 86_400);
        assert!(lifetime("30").is_err());
    }
}
