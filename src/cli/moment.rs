//! Times and durations as people and protobuf write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::SystemClock;
use crate::config;

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

/// A length of time for an option, by the configuration's grammar.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text)
        .ok_or_else(|| "write a whole number and one of ms, s, m, h, d, w, such as 90s, 12h or 30d".to_owned())
}

/// A lifetime such as `90s` or `30d`, for an option.
pub(super) fn lifetime(text: &str) -> Result<prost_types::Duration, String> {
    let duration = duration(text)?;
    prost_types::Duration::try_from(duration).map_err(|_| "too long".to_owned())
}

/// A moment for an option: RFC 3339 such as `2026-11-21T10:00:00Z`, or how long ago, such as `2h`.
pub(super) fn moment(text: &str) -> Result<prost_types::Timestamp, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time.into());
    }
    let ago = config::duration(text).ok_or_else(|| {
        "write it like 2026-11-21T10:00:00Z, or how long ago, with one of ms, s, m, h, d, w, like 2h".to_owned()
    })?;
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
        // By the configuration's grammar and no other: 1M could be a month or a mistake.
        for wrong in ["30", "1M", "1y", "30 days", "1h 30m", "1.5h", "-1s", ""] {
            assert!(lifetime(wrong).unwrap_err().contains("one of ms, s, m, h, d, w"), "{wrong}");
            assert!(moment(wrong).is_err(), "{wrong}");
        }
        assert_eq!(lifetime("2w").unwrap().seconds, 14 * 86_400);
    }
}
