//! Names and numbers as people read them, the same in text and on the page.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::event::json::rfc3339;
use crate::event::report::{Row, Summary};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Callers without the beginning that most of them share.
pub(super) struct Names {
    /// `spiffe://domain/`.
    prefix: Option<String>,
}

impl Names {
    pub(super) fn of(summary: &Summary) -> Self {
        let mut domains = BTreeMap::<&str, usize>::new();
        let tables = [
            &summary.releases,
            &summary.denials,
            &summary.failures,
            &summary.changes,
            &summary.questions,
            &summary.operations,
        ];
        let callers = tables.into_iter().flatten().filter_map(|row| row.caller.as_deref());
        for domain in callers.filter_map(domain) {
            *domains.entry(domain).or_default() += 1;
        }
        let prefix = domains.into_iter().max_by_key(|(_, rows)| *rows).map(|(domain, _)| domain.to_owned());
        Self { prefix }
    }

    /// What short names leave out, if there are any.
    pub(super) fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    pub(super) fn caller<'a>(&self, caller: Option<&'a str>) -> &'a str {
        let Some(caller) = caller else { return "(others)" };
        self.prefix().and_then(|prefix| caller.strip_prefix(prefix)).unwrap_or(caller)
    }
}

/// A scope, a purpose or a reason.
pub(super) fn word(word: Option<&str>) -> &str {
    match word {
        None => "(others)",
        Some("") => "-",
        Some(word) => word,
    }
}

/// `spiffe://domain/` of a SPIFFE ID.
fn domain(caller: &str) -> Option<&str> {
    const SCHEME: &str = "spiffe://";
    let slash = caller.strip_prefix(SCHEME)?.find('/')?;
    caller.get(..=SCHEME.len() + slash)
}

/// `2026-11-21 06:30`, UTC.
pub(super) fn minute(time: Timestamp) -> String {
    let text = rfc3339(time).to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

/// `21 Nov`, with the hour where hours matter.
pub(super) fn day(time: Timestamp, with_hour: bool) -> String {
    let text = rfc3339(time).to_string();
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(|digits| digits.parse::<usize>().ok());
    let month = number(5..7).and_then(|month| MONTHS.get(month.checked_sub(1)?)).copied().unwrap_or_default();
    let date = format!("{} {month}", number(8..10).unwrap_or_default());
    match text.get(11..16) {
        Some(hour) if with_hour => format!("{date} {hour}"),
        _ => date,
    }
}

/// `1,234`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Full and masked values by what `name` says of each row, the most first.
pub(super) fn sums<'a>(rows: &'a [Row], name: impl Fn(&'a Row) -> &'a str) -> Vec<(&'a str, u64, u64)> {
    let mut sums = BTreeMap::<&str, (u64, u64)>::new();
    for row in rows {
        let sum = sums.entry(name(row)).or_default();
        sum.0 = sum.0.saturating_add(row.full);
        sum.1 = sum.1.saturating_add(row.masked);
    }
    let mut sums: Vec<_> = sums.into_iter().map(|(name, (full, masked))| (name, full, masked)).collect();
    sums.retain(|(_, full, masked)| full.saturating_add(*masked) > 0);
    sums.sort_by_key(|(_, full, masked)| std::cmp::Reverse(full.saturating_add(*masked)));
    sums
}

/// What a point of the course of time is, in words.
pub(super) fn step(point_seconds: u64) -> &'static str {
    match point_seconds {
        3_600 => "hour",
        86_400 => "day",
        604_800 => "week",
        2_592_000 => "30 days",
        _ => "year",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_read_well() {
        let time = Timestamp::from_millis(1_795_240_800_000);
        assert_eq!(minute(time), "2026-11-21 06:00");
        assert_eq!((day(time, false), day(time, true)), ("21 Nov".to_owned(), "21 Nov 06:00".to_owned()));
        assert_eq!((grouped(0), grouped(999), grouped(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
    }

    #[test]
    fn only_the_shared_beginning_is_left_out() {
        let names = Names { prefix: Some("spiffe://a.example/".to_owned()) };
        assert_eq!(names.caller(Some("spiffe://a.example/payments")), "payments");
        assert_eq!(names.caller(Some("spiffe://b.example/payments")), "spiffe://b.example/payments");
        assert_eq!(names.caller(None), "(others)");
        assert_eq!(domain("spiffe://a.example/x/y"), Some("spiffe://a.example/"));
        assert_eq!(domain("unknown, from 10.0.0.1"), None);
    }
}
