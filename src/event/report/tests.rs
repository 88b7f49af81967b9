//! Reports against a second computation that knows nothing of tables: it keeps all events and looks at them again and
//! again.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::event::Time;

const DAY: u64 = DAY_MILLIS;
const SINCE: u64 = 20_000 * DAY;

fn window(days: u64) -> Window {
    Window { since: Timestamp::from_millis(SINCE), until: Timestamp::from_millis(SINCE + days * DAY), scope: None }
}

fn event(millis: u64, caller: &str, action: Action, outcome: Outcome) -> Event {
    Event {
        time: Some(Time::from(Timestamp::from_millis(SINCE + millis))),
        action: action.into(),
        outcome: outcome.into(),
        caller: caller.to_owned(),
        scope: "pan".to_owned(),
        ..Event::default()
    }
}

fn release(millis: u64, caller: &str, values: usize) -> Event {
    Event {
        purpose: "refund".to_owned(),
        requested: u32::try_from(values).unwrap(),
        succeeded: u32::try_from(values).unwrap(),
        item_outcomes: vec![ItemOutcome::Released.into(); values],
        ..event(millis, caller, Action::Detokenize, Outcome::Allowed)
    }
}

fn report(window: Window, bounds: Bounds, events: &[Event]) -> Summary {
    let mut report = Report::new(window, bounds);
    for event in events {
        report.add(event);
    }
    report.summary()
}

fn whatever() -> impl Strategy<Value = Event> {
    let actions = select([Action::ALL, &[Action::Detokenize; 20], &[Action::Tokenize; 5]].concat());
    let outcomes = select(vec![Outcome::Allowed, Outcome::Allowed, Outcome::Denied, Outcome::Failed]);
    let callers = select(vec!["spiffe://a/x", "spiffe://a/y", "spiffe://b/z", ""]);
    let words = (select(vec!["pan", "ssn", ""]), select(vec!["refund", "support", "<b>"]), select(vec!["", "NO"]));
    let items = prop::collection::vec(select(ItemOutcome::ALL.to_vec()), 0..6);
    let rest = (any::<bool>(), prop_oneof![3 => Just(0), 1 => 1..50_u64], 0..DAY);
    (0..12 * DAY, actions, outcomes, callers, words, items, rest).prop_map(
        |(millis, action, outcome, caller, (scope, purpose, reason), items, (told, count, before))| Event {
            scope: scope.to_owned(),
            purpose: purpose.to_owned(),
            reason: reason.to_owned(),
            requested: u32::try_from(items.len()).unwrap(),
            succeeded: u32::try_from(items.len() / 2).unwrap(),
            item_outcomes: if told { items.iter().map(|item| i32::from(*item)).collect() } else { Vec::new() },
            reveal: if items.len() % 2 == 0 { Reveal::Full } else { Reveal::Masked }.into(),
            peer_address: if caller.is_empty() { "10.0.0.1".to_owned() } else { String::new() },
            count,
            first_time: (count > 0)
                .then(|| Time::from(Timestamp::from_millis((SINCE + millis).saturating_sub(before)))),
            ..event(millis, caller, action, outcome)
        },
    )
}

/// The same numbers, from scratch.
mod naive {
    use super::*;

    pub fn calls(event: &Event) -> u64 {
        if event.count == 0 { 1 } else { event.count }
    }

    pub fn values(event: &Event) -> [u64; 2] {
        let mut values = [0, 0];
        if event.action == Action::Detokenize as i32 && event.outcome == Outcome::Allowed as i32 {
            for item in &event.item_outcomes {
                values[0] += u64::from(*item == ItemOutcome::Released as i32);
                values[1] += u64::from(*item == ItemOutcome::Masked as i32);
            }
            if event.item_outcomes.is_empty() {
                values[usize::from(event.reveal == Reveal::Masked as i32)] = event.succeeded.into();
            }
        }
        values
    }

    pub fn first(event: &Event) -> Timestamp {
        let own = event.timestamp().unwrap();
        event.first_time.map_or(own, |first| Timestamp::try_from(first).unwrap().min(own))
    }

    pub fn who(event: &Event) -> String {
        if event.caller.is_empty() { "unknown, from 10.0.0.1".to_owned() } else { event.caller.clone() }
    }

    /// Which table an event belongs in.
    pub fn table(event: &Event) -> usize {
        match (event.outcome, event.action) {
            (2, _) => 1,
            (3, _) => 2,
            (_, 2) => 0,
            (_, 1 | 3 | 4 | 5) => 3,
            (_, 6) => 4,
            _ => 5,
        }
    }

    pub fn word(event: &Event) -> &str {
        match table(event) {
            0 => &event.purpose,
            1 | 2 => &event.reason,
            _ => "",
        }
    }
}

fn tables(summary: &Summary) -> [&Vec<Row>; 6] {
    [&summary.releases, &summary.denials, &summary.failures, &summary.changes, &summary.questions, &summary.operations]
}

proptest! {
    #[test]
    fn every_row_is_what_a_look_at_all_events_gives(events in prop::collection::vec(whatever(), 0..120)) {
        let window = window(10);
        let summary = report(window.clone(), Bounds::default(), &events);
        let inside: Vec<&Event> = events.iter().filter(|event| event.timestamp().unwrap() < window.until).collect();
        prop_assert_eq!(summary.read.events, inside.len() as u64);
        prop_assert_eq!(summary.folded_calls, 0);
        for (number, rows) in tables(&summary).into_iter().enumerate() {
            let own: Vec<&&Event> = inside.iter().filter(|event| naive::table(event) == number).collect();
            let keys: BTreeSet<_> =
                own.iter().map(|event| (naive::who(event), event.action, &event.scope, naive::word(event))).collect();
            prop_assert_eq!(rows.len(), keys.len());
            for row in rows {
                let mine = own.iter().filter(|event| {
                    Some(naive::who(event)) == row.caller
                        && event.action().word() == row.action
                        && Some(&event.scope) == row.scope.as_ref()
                        && Some(naive::word(event)) == row.word.as_deref()
                });
                prop_assert_eq!(row.calls, mine.clone().map(|event| naive::calls(event)).sum::<u64>());
                prop_assert_eq!(row.full, mine.clone().map(|event| naive::values(event)[0]).sum::<u64>());
                prop_assert_eq!(row.masked, mine.clone().map(|event| naive::values(event)[1]).sum::<u64>());
                prop_assert_eq!(Some(row.first_time), mine.clone().map(|event| naive::first(event)).min());
                prop_assert_eq!(Some(row.last_time), mine.clone().filter_map(|event| event.timestamp()).max());
            }
        }
        let sum = |index: usize| inside.iter().map(|event| naive::values(event)[index]).sum::<u64>();
        prop_assert_eq!((summary.totals.values_full, summary.totals.values_masked), (sum(0), sum(1)));
        prop_assert_eq!(summary.points.iter().map(|point| point.full).sum::<u64>(), sum(0));
        prop_assert_eq!(summary.points.iter().map(|point| point.masked).sum::<u64>(), sum(1));
        prop_assert_eq!(summary.week.iter().flatten().sum::<u64>(), sum(0) + sum(1));
        let denied = inside.iter().filter(|event| naive::table(event) == 1).map(|event| naive::calls(event));
        prop_assert_eq!(summary.totals.denied_calls, denied.sum::<u64>());
    }

    #[test]
    fn whatever_is_folded_no_sum_changes(events in prop::collection::vec(whatever(), 0..120), callers in 0..3_usize, rows in 0..3_usize) {
        let whole = report(window(10), Bounds::default(), &events);
        let folded = report(window(10), Bounds { callers, rows, hours: 3 }, &events);
        prop_assert_eq!(whole.totals, folded.totals);
        prop_assert_eq!(&whole.points, &folded.points);
        for (whole, folded) in tables(&whole).into_iter().zip(tables(&folded)) {
            let sums = |table: &[Row]| table.iter().fold([0; 5], |sums: [u64; 5], row| {
                [sums[0] + row.calls, sums[1] + row.full, sums[2] + row.masked, sums[3] + row.done, sums[4] + row.not_done]
            });
            prop_assert_eq!(sums(whole), sums(folded));
            prop_assert_eq!(whole.iter().map(|row| row.first_time).min(), folded.iter().map(|row| row.first_time).min());
            let named: BTreeSet<_> = folded.iter().filter_map(|row| row.caller.as_ref()).collect();
            prop_assert!(named.len() <= callers);
        }
        let nameless = tables(&folded).into_iter().flatten().filter(|row| row.scope.is_none());
        prop_assert_eq!(folded.folded_calls, nameless.map(|row| row.calls).sum::<u64>());
    }

    #[test]
    fn the_order_of_the_events_does_not_matter(events in prop::collection::vec(whatever(), 0..60)) {
        let mut backwards = events.clone();
        backwards.reverse();
        prop_assert_eq!(
            report(window(10), Bounds::default(), &events),
            report(window(10), Bounds::default(), &backwards)
        );
    }

    #[test]
    fn unusual_hours_are_those_beyond_the_rule(hours in prop::collection::btree_map(0..200_u64, 1..600_usize, 0..40)) {
        let events: Vec<Event> = hours.iter().map(|(hour, values)| release(hour * HOUR_MILLIS, "spiffe://a/x", *values)).collect();
        let summary = report(window(10), Bounds::default(), &events);
        let middle = |mut numbers: Vec<i64>| {
            numbers.sort_unstable();
            // The lower middle one: as many are below it as above, or one fewer.
            numbers.iter().copied().find(|n| numbers.iter().filter(|m| *m <= n).count() * 2 >= numbers.len())
        };
        let values: Vec<i64> = hours.values().map(|values| i64::try_from(*values).unwrap()).collect();
        let expected = match middle(values.clone()) {
            Some(median) if values.len() >= 8 => {
                let deviation = middle(values.iter().map(|value| (value - median).abs()).collect()).unwrap();
                let loud = values.iter().filter(|v| **v > 100 && **v > 2 * median && **v > median + 8 * deviation);
                loud.count()
            }
            _ => 0,
        };
        prop_assert_eq!(summary.unusual.rates_found, expected as u64);
        prop_assert_eq!(summary.unusual.callers_not_judged, u64::from(!hours.is_empty() && hours.len() < 8));
        for rate in &summary.unusual.rates {
            prop_assert_eq!(rate.around[rate.around_place], rate.values);
        }
    }
}

#[test]
fn every_call_is_in_one_sum_and_every_item_in_its_own() {
    let own = |action, outcome, requested, succeeded| Event {
        requested,
        succeeded,
        ..event(0, "spiffe://a/x", action, outcome)
    };
    let mut events = vec![
        Event {
            requested: 4,
            item_outcomes: [ItemOutcome::Released, ItemOutcome::Released, ItemOutcome::Masked, ItemOutcome::Expired]
                .map(i32::from)
                .to_vec(),
            // Where each item is told, the sum that the call gives of them does not count.
            ..own(Action::Detokenize, Outcome::Allowed, 4, 0)
        },
        own(Action::Detokenize, Outcome::Allowed, 9, 5),
        own(Action::Detokenize, Outcome::Denied, 7, 0),
        own(Action::Detokenize, Outcome::Failed, 7, 0),
        own(Action::Tokenize, Outcome::Failed, 7, 0),
        own(Action::Tokenize, Outcome::Allowed, 11, 10),
        own(Action::QueryAudit, Outcome::Allowed, 0, 0),
        own(Action::Purge, Outcome::Allowed, 6, 6),
    ];
    let others = [Action::Inspect, Action::Renew, Action::Revoke];
    events.extend(others.map(|action| own(action, Outcome::Allowed, 3, 2)));
    let summary = report(window(10), Bounds::default(), &events);
    let expected = Totals {
        values_full: 2 + 5,
        values_masked: 1,
        items_withheld: 1 + 4,
        tokens_issued: 10,
        release_calls: 2,
        denied_calls: 1,
        failed_calls: 2,
        change_calls: 1 + 3,
        question_calls: 1,
        operation_calls: 1,
    };
    assert_eq!(summary.totals, expected);
    let items = |rows: &[Row]| rows.iter().map(|row| (row.calls, row.done, row.not_done)).collect::<Vec<_>>();
    assert_eq!(items(&summary.releases), [(2, 3 + 5, 1 + 4)]);
    assert_eq!(items(&summary.operations), [(1, 6, 0)]);
    let changes: Vec<_> = summary.changes.iter().map(|row| (row.action, row.done, row.not_done)).collect();
    assert_eq!(changes.len(), 4);
    for (action, done, not_done) in changes {
        assert_eq!((done, not_done), if action == "tokenize" { (10, 1) } else { (2, 1) }, "{action}");
    }
}

#[test]
fn a_moment_lies_on_its_weekday_and_in_its_hour() {
    let place =
        |day: u64, hour: u64| place_in_week(Timestamp::from_millis(day * DAY + hour * HOUR_MILLIS + 59 * 60_000));
    // 1970-01-01 was a Thursday, the 5th the first Monday; 2024-02-29 was a Thursday too.
    assert_eq!((place(0, 0), place(0, 23)), ((3, 0), (3, 23)));
    assert_eq!((place(3, 1), place(4, 2)), ((6, 1), (0, 2)));
    assert_eq!(place(19_782, 13), (3, 13));
    let events = [release(5 * HOUR_MILLIS, "spiffe://a/x", 3), release(DAY + 5 * HOUR_MILLIS, "spiffe://a/x", 4)];
    let week = report(window(10), Bounds::default(), &events).week;
    // SINCE is a Friday.
    assert_eq!((week[4][5], week[5][5]), (3, 4));
}

#[test]
fn centuries_have_points_too() {
    let years = |years: u64| years * 365 * DAY;
    let events = [release(0, "spiffe://a/x", 1), release(years(200), "spiffe://a/x", 2)];
    let summary = report(window(365 * 300), Bounds::default(), &events);
    assert_eq!((summary.point_seconds, summary.points.len()), (365 * 24 * 3_600, 201));
    assert_eq!(summary.points.iter().map(|point| point.full).sum::<u64>(), 3);
}

/// Seven hours of 10 values, and one more of `values`, in hour 3.
fn hours_with_one_of(values: usize) -> Vec<Event> {
    let usual = (0..8).filter(|hour| *hour != 3).map(|hour| release(hour * HOUR_MILLIS, "spiffe://a/x", 10));
    usual.chain([release(3 * HOUR_MILLIS, "spiffe://a/x", values)]).collect()
}

#[test]
fn an_hour_at_the_threshold_is_not_beyond_it() {
    let unusual = |values| report(window(10), Bounds::default(), &hours_with_one_of(values)).unusual;
    // Eight hours are just enough to judge, and the floor is 100.
    assert_eq!((unusual(100).rates_found, unusual(101).rates_found), (0, 1));
    assert_eq!(unusual(101).callers_not_judged, 0);
    let seven = report(window(10), Bounds::default(), &hours_with_one_of(101)[1..]).unusual;
    assert_eq!((seven.rates_found, seven.callers_not_judged), (0, 1));
}

#[test]
fn hours_without_values_say_nothing_of_what_is_usual() {
    let refused = |hour| event(hour * HOUR_MILLIS, "spiffe://a/x", Action::Detokenize, Outcome::Denied);
    let refused: Vec<_> = (0..20).map(refused).collect();
    let unusual = report(window(10), Bounds::default(), &refused).unusual;
    assert_eq!((unusual.callers_not_judged, unusual.hours_forgotten), (0, false));
    let few = [&refused[..], &hours_with_one_of(101)[1..]].concat();
    assert_eq!(report(window(10), Bounds::default(), &few).unusual.callers_not_judged, 1);
}

#[test]
fn as_many_hours_are_kept_as_there_is_room_for() {
    let with_room_for = |hours| {
        let unusual = report(window(10), Bounds { hours, ..Bounds::default() }, &hours_with_one_of(101)).unusual;
        (unusual.hours_forgotten, unusual.callers_not_judged)
    };
    assert_eq!((with_room_for(9), with_room_for(8), with_room_for(7)), ((false, 0), (false, 0), (true, 1)));
}

#[test]
fn an_unusual_hour_is_shown_with_three_days_before_it_and_one_behind() {
    let mut events = hours_with_one_of(101);
    events.push(release(60 * HOUR_MILLIS, "spiffe://a/x", 10));
    let rate = report(window(10), Bounds::default(), &events).unusual.rates.remove(0);
    assert_eq!((rate.around.len(), rate.around_place, rate.values), (3 + 1 + 24, 3, 101));
    events.push(release(200 * HOUR_MILLIS, "spiffe://a/x", 101));
    events.push(release(201 * HOUR_MILLIS, "spiffe://a/x", 10));
    let rate = report(window(10), Bounds::default(), &events).unusual.rates.remove(1);
    assert_eq!((rate.around.len(), rate.around_place, rate.values), (72 + 1 + 1, 72, 101));
}

#[test]
fn newcomers_are_told_only_where_the_log_is_older_than_a_day() {
    let judged = |millis| {
        let events = [release(millis, "spiffe://a/x", 1), release(9 * DAY + 5, "spiffe://a/y", 1)];
        report(window(10), Bounds::default(), &events).unusual.newcomers_judged
    };
    assert_eq!((judged(9 * DAY - 1), judged(9 * DAY), judged(9 * DAY + 1)), (true, false, false));
}

#[test]
fn one_wild_hour_stands_out_and_does_not_hide_itself() {
    let mut events: Vec<Event> =
        (0..48).map(|hour| release(hour * HOUR_MILLIS, "spiffe://a/x", 20 + (hour % 5) as usize)).collect();
    events.push(release(30 * HOUR_MILLIS + 1, "spiffe://a/x", 900));
    let unusual = report(window(3), Bounds::default(), &events).unusual;
    assert_eq!(unusual.rates.len(), 1);
    let rate = &unusual.rates[0];
    assert_eq!((rate.values, rate.median, rate.deviation, rate.threshold), (920, 22, 1, 100));
    assert_eq!(rate.hour.millis(), SINCE + 30 * HOUR_MILLIS);
    assert_eq!((rate.around.len(), rate.around_place), (48, 30));
}

#[test]
fn a_caller_of_the_last_day_is_new_unless_the_log_is() {
    let old = release(0, "spiffe://a/old", 1);
    let new = event(9 * DAY + 1, "spiffe://a/new", Action::Detokenize, Outcome::Denied);
    let late = release(9 * DAY + 2, "spiffe://a/old", 1);
    let unusual = report(window(10), Bounds::default(), &[old.clone(), new.clone(), late.clone()]).unusual;
    assert!(unusual.newcomers_judged);
    assert_eq!(unusual.newcomers.iter().map(|new| new.caller.as_str()).collect::<Vec<_>>(), ["spiffe://a/new"]);
    let unusual = report(window(10), Bounds::default(), &[new, late]).unusual;
    assert!(!unusual.newcomers_judged && unusual.newcomers.is_empty(), "a log that began today can't tell");
}

#[test]
fn one_callers_purposes_do_not_hide_another_caller() {
    let mut events: Vec<Event> = (0..1000)
        .map(|number| Event { purpose: format!("purpose {number}"), ..release(number, "spiffe://a/loud", 1) })
        .collect();
    events.push(release(2000, "spiffe://a/quiet", 1));
    let summary = report(window(10), Bounds::default(), &events);
    let quiet = summary.releases.iter().filter(|row| row.caller.as_deref() == Some("spiffe://a/quiet"));
    assert_eq!(quiet.map(|row| (row.word.as_deref(), row.full)).collect::<Vec<_>>(), [(Some("refund"), 1)]);
    assert_eq!(summary.folded_calls, 1000 - 64);
    assert_eq!(summary.releases[0].word, None, "what was folded weighs most, so it comes first");
}

#[test]
fn points_are_as_short_as_there_is_room_for() {
    let span = |hours: u64| {
        let events = [release(0, "spiffe://a/x", 1), release(hours * HOUR_MILLIS, "spiffe://a/x", 2)];
        let summary = report(window(10_000), Bounds::default(), &events);
        assert_eq!(summary.points.iter().map(|point| point.full).sum::<u64>(), 3);
        (summary.point_seconds / 3600, summary.points.len())
    };
    assert_eq!(span(0), (1, 1));
    assert_eq!(span(119), (1, 120));
    assert_eq!(span(120), (24, 6));
    assert_eq!(span(24 * 119 + 23), (24, 120));
    // The epoch was a Thursday, and so are the beginnings of weeks.
    assert_eq!(span(24 * 120), (24 * 7, 18));
}

#[test]
fn only_the_window_and_the_scope_count() {
    let of = |scope: &str, millis| Event { scope: scope.to_owned(), ..release(millis, "spiffe://a/x", 1) };
    let events = [of("pan", 0), of("ssn", 0), of("pan", 10 * DAY - 1), of("pan", 10 * DAY)];
    let only = Window { scope: Some("pan".to_owned()), ..window(10) };
    assert_eq!(report(only, Bounds::default(), &events).totals.values_full, 2);
    assert_eq!(report(window(10), Bounds::default(), &events).totals.values_full, 3);
}

#[test]
fn the_json_has_the_documented_names() {
    let denied = Event { reason: "POLICY_DENIED".to_owned(), ..event(5, "", Action::Connect, Outcome::Denied) };
    let summary = report(window(10), Bounds::default(), &[release(0, "spiffe://a/x", 3), denied]);
    let json = serde_json::to_value(&summary).unwrap();
    let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        names(&json),
        "format log_id since until scope read totals unusual releases denials failures changes questions operations \
         point_seconds points week folded_calls"
    );
    assert_eq!(names(&json["releases"][0]), "caller scope purpose calls full masked withheld first_time last_time");
    assert_eq!(names(&json["denials"][0]), "caller action scope reason calls items first_time last_time");
    assert_eq!(json["denials"][0]["action"], "CONNECT");
    assert_eq!(json["denials"][0]["caller"], "unknown");
    assert_eq!(json["since"], "2024-10-04T00:00:00.000Z");
    assert_eq!(json["point_seconds"], 3_600);
}
