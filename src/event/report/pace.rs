//! What is out of the ordinary: hours in which a caller got far more than it usually does, and callers that are new.
//!
//! Plain arithmetic that anybody can do again with the events: a caller is held against itself alone, by medians, which a
//! few wild hours can't move. It finds what is loud. What stays below the rule is not thereby right.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Bounds, DAY_MILLIS, HOUR_MILLIS, Row, Window, grow, moment};
use crate::clock::Timestamp;

/// Fewer hours say nothing about what is usual.
const HOURS_AT_LEAST: usize = 8;
/// No hour with so few values is called unusual.
const VALUES_FLOOR: u64 = 100;
/// Times the median.
const MEDIANS: u64 = 2;
/// Times the median absolute deviation, above the median.
const DEVIATIONS: u64 = 8;
/// Unusual hours that are shown, the largest first.
const RATES_SHOWN: usize = 100;

/// Whatever the rules found, and the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unusual {
    /// The rule for hours, in words.
    pub rate_rule: &'static str,
    /// The hours that it found, those with the most values first, at most a hundred.
    pub rates: Vec<Rate>,
    /// How many it found.
    pub rates_found: u64,
    /// Callers that got values in too few hours to be judged.
    pub callers_not_judged: u64,
    /// The rule for newcomers, in words.
    pub newcomer_rule: &'static str,
    /// Whether that rule could be applied: the events must reach back further than a day.
    pub newcomers_judged: bool,
    /// The callers that it found.
    pub newcomers: Vec<Newcomer>,
    /// Calls of callers beyond those that are told apart, which neither rule was applied to.
    pub calls_not_judged: u64,
    /// Whether a caller had more hours than are kept, so that it was judged by its newest ones alone.
    pub hours_forgotten: bool,
}

/// An hour in which a caller got far more than it usually does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// Who.
    pub caller: String,
    /// Where the hour begins, UTC.
    #[serde(serialize_with = "moment")]
    pub hour: Timestamp,
    /// Values that left in it, in full or masked.
    pub values: u64,
    /// The caller's median hour.
    pub median: u64,
    /// Its median absolute deviation from that.
    pub deviation: u64,
    /// What an hour must exceed to be called unusual.
    pub threshold: u64,
    /// The values of this caller's hours around it, oldest first: up to three days before it and up to one behind.
    pub around: Vec<u64>,
    /// Which of them is the hour itself.
    pub around_place: usize,
}

/// A caller that was not seen before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Newcomer {
    /// Who.
    pub caller: String,
    /// When it first appears.
    #[serde(serialize_with = "moment")]
    pub first_time: Timestamp,
    /// Its calls, refused ones too.
    pub calls: u64,
}

/// What is usual for a caller.
struct Usual {
    median: u64,
    deviation: u64,
    threshold: u64,
}

/// The rule, with the numbers above.
const RATE_RULE: &str = "an hour is unusual if a caller got more than 100 values in it, more than twice its median, and \
                         more than its median plus 8 times its median absolute deviation, over those hours of the window \
                         in which it got any; a caller with fewer than 8 such hours is not judged";
const NEWCOMER_RULE: &str = "a caller is new if its first call of the window lies within the window's last 24 hours, \
                             while the log has older events in the window";

/// Every caller's pace.
#[derive(Default)]
pub(super) struct Paces {
    callers: BTreeMap<String, Pace>,
    calls_beyond: u64,
}

struct Pace {
    first_time: Timestamp,
    calls: u64,
    /// Values by hour since the epoch; hours with none are left out.
    hours: BTreeMap<u64, u64>,
    hours_forgotten: bool,
}

impl Paces {
    pub(super) fn add(&mut self, caller: &str, time: Timestamp, row: &Row, bounds: Bounds) {
        if !self.callers.contains_key(caller) {
            if self.callers.len() >= bounds.callers {
                grow(&mut self.calls_beyond, row.calls);
                return;
            }
            let pace = Pace { first_time: row.first_time, calls: 0, hours: BTreeMap::new(), hours_forgotten: false };
            self.callers.insert(caller.to_owned(), pace);
        }
        if let Some(pace) = self.callers.get_mut(caller) {
            pace.add(time, row, bounds);
        }
    }

    pub(super) fn unusual(&self, window: &Window, oldest: Option<Timestamp>) -> Unusual {
        let mut loud = Vec::new();
        for (caller, pace) in &self.callers {
            loud.extend(pace.loud().into_iter().map(|(hour, values)| (values, caller, hour, pace)));
        }
        // Stable: hours with equally many stay in the order of their callers' names and of time.
        loud.sort_by_key(|(values, ..)| std::cmp::Reverse(*values));
        let rates = loud.iter().take(RATES_SHOWN).map(|(_, caller, hour, pace)| pace.rate(caller, *hour));
        let last_day = window.until.millis().saturating_sub(DAY_MILLIS);
        let newcomers_judged = oldest.is_some_and(|oldest| oldest.millis() < last_day);
        let is_new = |pace: &Pace| newcomers_judged && pace.first_time.millis() >= last_day;
        let newcomers = self.callers.iter().filter(|(_, pace)| is_new(pace)).map(|(caller, pace)| Newcomer {
            caller: caller.clone(),
            first_time: pace.first_time,
            calls: pace.calls,
        });
        Unusual {
            rate_rule: RATE_RULE,
            rates: rates.collect(),
            rates_found: loud.len() as u64,
            callers_not_judged: self.callers.values().filter(|pace| pace.is_too_young()).count() as u64,
            newcomer_rule: NEWCOMER_RULE,
            newcomers_judged,
            newcomers: newcomers.collect(),
            calls_not_judged: self.calls_beyond,
            hours_forgotten: self.callers.values().any(|pace| pace.hours_forgotten),
        }
    }
}

impl Pace {
    fn add(&mut self, time: Timestamp, row: &Row, bounds: Bounds) {
        grow(&mut self.calls, row.calls);
        self.first_time = self.first_time.min(row.first_time);
        if row.values() > 0 {
            grow(self.hours.entry(time.millis() / HOUR_MILLIS).or_default(), row.values());
            if self.hours.len() > bounds.hours {
                self.hours.pop_first();
                self.hours_forgotten = true;
            }
        }
    }

    fn is_too_young(&self) -> bool {
        !self.hours.is_empty() && self.hours.len() < HOURS_AT_LEAST
    }

    /// The hours beyond the threshold, with their values.
    fn loud(&self) -> Vec<(u64, u64)> {
        if self.hours.len() < HOURS_AT_LEAST {
            return Vec::new();
        }
        let usual = self.usual();
        self.hours
            .iter()
            .filter(|(_, values)| **values > usual.threshold)
            .map(|(hour, values)| (*hour, *values))
            .collect()
    }

    fn usual(&self) -> Usual {
        let middle = median(self.hours.values().copied().collect());
        let deviation = median(self.hours.values().map(|values| values.abs_diff(middle)).collect());
        let above = middle.saturating_add(deviation.saturating_mul(DEVIATIONS));
        let threshold = VALUES_FLOOR.max(middle.saturating_mul(MEDIANS)).max(above);
        Usual { median: middle, deviation, threshold }
    }

    fn rate(&self, caller: &str, hour: u64) -> Rate {
        let Usual { median, deviation, threshold } = self.usual();
        let (around, around_place) = self.around(hour);
        let values = self.hours.get(&hour).copied().unwrap_or_default();
        let (caller, hour) = (caller.to_owned(), Timestamp::from_millis(hour * HOUR_MILLIS));
        Rate { caller, hour, values, median, deviation, threshold, around, around_place }
    }

    /// The hours about `hour`, with those in which nothing left.
    fn around(&self, hour: u64) -> (Vec<u64>, usize) {
        let last = self.hours.last_key_value().map_or(hour, |(last, _)| *last);
        let first = self.hours.first_key_value().map_or(hour, |(first, _)| *first);
        let from = hour.saturating_sub(72).max(first);
        let to = (hour + 24).min(last);
        let values = (from..=to).map(|hour| self.hours.get(&hour).copied().unwrap_or_default());
        (values.collect(), usize::try_from(hour - from).unwrap_or_default())
    }
}

/// The middle one; of two in the middle the lower, so that it is a number that occurred.
fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.get(numbers.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}
