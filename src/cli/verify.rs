//! `cloakroom verify`: whether the records are those that the last commit left.

use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Value, json};

use super::backup::BackupToVerify;
use super::columns::{aligned, counted};
use super::terminal::{Colour, Progress, Terminal};
use super::{ConfigFile, Exit, Format, variables};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::server::verify_data;
use crate::store::{self, TornEnd};
use crate::vault::verify::{Against, Finding, IndexFinding, IndexReport, Report, WrongGroup};

/// Check that no record is missing, added, older than its last change, or damaged.
///
/// Opens the outer lock of every record, adds them up, and holds the sums against the newest checkpoint outside or, where that
/// is older, against what the last commit left. What does not fit is named by its handle. The vault may run meanwhile: its data
/// is read as it was at one moment. Run it as the vault's user. Nothing is changed and no value is opened. Whether the log is
/// whole is for `audit verify`. Exit status 0, or 1 if something is wrong.
#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    backup: BackupToVerify,
    /// Also read every event, and see that the index by which events are found by caller, scope or handle leads to each of
    /// them and nowhere else. It takes as long as reading the log once.
    #[arg(long)]
    index: bool,
    /// A summary and a line for each finding, or one JSON object.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let config = Config::load(&options.file.config, variables())?;
    if options.backup.backup.is_some() {
        return super::backup::verify(&options.backup, &config, output);
    }
    let mut progress = (Progress::of("records"), Progress::of("events"));
    let report = verify_data(&config, options.index, &mut |what, count| match what {
        "records" => progress.0.reach(count),
        _ => progress.1.reach(count),
    });
    progress.0.clear();
    progress.1.clear();
    let report = report.map_err(|error| match error {
        // Its own kind of error says more to the exit status.
        crate::server::VerifyError::Open(error) => anyhow::Error::from(error),
        read @ crate::server::VerifyError::Read(_) => read.into(),
    })?;
    let torn = store::torn_end(&config.storage.path).map_err(crate::server::Error::from)?;
    let text = match options.output {
        Format::Text => in_text(&report, Terminal::of_output()) + &torn.as_ref().map_or_else(String::new, torn_in_text),
        Format::Json => {
            let mut json = in_json(&report);
            json["log_passed_over"] = torn.as_ref().map(torn_in_json).into();
            format!("{json}\n")
        }
    };
    output.write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(if report.is_clean() { Exit::Done } else { Exit::SomeFailed })
}

/// Nobody was told of a record that was torn. Who wonders why a record is not there should see it all the same.
fn torn_in_text(TornEnd { file, offset }: &TornEnd) -> String {
    format!(
        "passed over: what stands in the log {file} from byte {offset} on, which a crash tore or the vault is writing just now\n"
    )
}

fn torn_in_json(TornEnd { file, offset }: &TornEnd) -> Value {
    json!({ "file": file, "offset": offset })
}

fn in_text(report: &Report, terminal: Terminal) -> String {
    let mut text = records_in_text(report, terminal);
    if let Some(index) = &report.index {
        text.push_str(&index_in_text(index, terminal));
    }
    if report.damaged_filters > 0 {
        let (wrong, files) = (terminal.colour(Colour::Red, "wrong"), counted(report.damaged_filters, "table file"));
        // Writing to a text can't fail.
        let _ = writeln!(
            text,
            "{wrong}: the filter of {files} can't be read. No record needs it and nothing is lost, but the disk has changed \
             what was written"
        );
    }
    if !report.is_clean() {
        text.push_str("keep a copy of data and checkpoints as they are; docs/operations.md says how to go on\n");
    }
    text
}

fn index_in_text(index: &IndexReport, terminal: Terminal) -> String {
    let (rows, events) = (counted(index.rows, "row"), counted(index.events, "event"));
    if index.is_clean() {
        let ok = terminal.colour(Colour::Green, "ok");
        return format!("{ok}: the index of events, of {rows}, leads to {events}, to each and nowhere else\n");
    }
    let wrong = terminal.colour(Colour::Red, "wrong");
    let mut text = format!(
        "{wrong}: the index of events, of {rows}, does not lead to {events} as it should: what is found by caller, scope or \
         handle is not all that there is\n"
    );
    let row = |finding: &IndexFinding| {
        let event = finding.event.map_or_else(|| "no event".to_owned(), |event| format!("event {event}"));
        vec!["index".to_owned(), finding.kind.as_str().to_owned(), event, format!("by {}", finding.by)]
    };
    text.push_str(&aligned(&index.findings.iter().map(row).collect::<Vec<_>>()));
    // Writing to a text can't fail.
    if index.more > 0 {
        let _ = writeln!(text, "and {} more", index.more);
    }
    if index.blocks_left > 0 {
        let _ = writeln!(text, "and more among {} of events, too many to look at", counted(index.blocks_left, "block"));
    }
    text
}

fn records_in_text(report: &Report, terminal: Terminal) -> String {
    let events = counted(report.size, "event");
    let against = match report.against {
        Against::Checkpoint => format!("held against the newest checkpoint outside, of {events}"),
        Against::LastCommit => format!(
            "held against what the last commit left, of {events}; the newest checkpoint outside is older, or says nothing of \
             records"
        ),
        Against::Nothing => "held against nothing: no commit and no checkpoint says what there should be".to_owned(),
    };
    let there = format!("{} in {}", counted(report.records, "record"), counted(report.groups, "group"));
    if report.records_are_clean() {
        let ok = terminal.colour(Colour::Green, "ok");
        return format!("{ok}: {there} of scope and day, and none is missing, added, stale or damaged\n{against}\n");
    }
    let wrong = terminal.colour(Colour::Red, "wrong");
    let verdict = match report.expected {
        _ if report.fits && report.log.is_none() && report.groups_wrong_in_all == 0 => {
            "and they are right, but there are rows among them that are none of theirs".to_owned()
        }
        _ if report.fits && report.log.is_none() => {
            "and they are right, but the sums over groups of them are not".to_owned()
        }
        _ if report.fits => "and they are those of the last commit, but that is not what the log says".to_owned(),
        Some(expected) if expected != report.records => format!("and there should be {expected}"),
        Some(_) => "as many as there should be, but not the same".to_owned(),
        None => "and nothing says how many there should be".to_owned(),
    };
    // Writing to a text can't fail.
    let mut text = format!("{wrong}: {there} open, {verdict}\n{against}\n");
    if let Some(log) = &report.log {
        let _ = writeln!(text, "the log: {log}");
    }
    let groups: Vec<Vec<String>> = report.groups_wrong.iter().map(group_row).collect();
    text.push_str(&aligned(&groups));
    let more = report.groups_wrong_in_all - report.groups_wrong.len() as u64;
    if more > 0 {
        let _ = writeln!(text, "and {} more", counted(more, "group"));
    }
    let findings: Vec<Vec<String>> = report.findings.iter().map(finding_row).collect();
    text.push_str(&aligned(&findings));
    if report.more > 0 {
        let _ = writeln!(text, "and {} more", report.more);
    }
    text
}

fn group_row(group: &WrongGroup) -> Vec<String> {
    let expected = match group.expected {
        None => "its sum is damaged".to_owned(),
        Some(expected) if expected == group.found => "as many as there should be, but not the same".to_owned(),
        // A record that was put back and deleted once more.
        Some(expected) if expected.cast_signed() < 0 => "more were deleted than were ever added".to_owned(),
        Some(expected) => format!("there should be {expected}"),
    };
    vec!["group".to_owned(), group.scope.clone(), date(group.day), counted(group.found, "record"), expected]
}

fn finding_row(finding: &Finding) -> Vec<String> {
    let kind = if finding.certain { finding.kind.as_str().to_owned() } else { format!("{}?", finding.kind.as_str()) };
    let event = finding.event.map_or_else(String::new, |event| format!("event {event}"));
    let day = finding.day.map(date).unwrap_or_default();
    vec![kind, finding.handle.to_string(), finding.scope.clone(), day, event, finding.why.clone()]
}

fn in_json(report: &Report) -> Value {
    let group = |group: &WrongGroup| json!({ "scope": group.scope, "day": date(group.day), "expected": group.expected, "found": group.found });
    let finding = |finding: &Finding| {
        json!({
            "kind": finding.kind.as_str(), "handle": finding.handle.to_string(), "scope": finding.scope,
            "day": finding.day.map(date), "certain": finding.certain, "event": finding.event, "why": finding.why,
        })
    };
    let index = |index: &IndexReport| {
        let finding =
            |finding: &IndexFinding| json!({ "kind": finding.kind.as_str(), "event": finding.event, "by": finding.by });
        json!({
            "clean": index.is_clean(), "events": index.events, "rows": index.rows, "more": index.more,
            "blocks_left": index.blocks_left, "findings": index.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    };
    json!({
        "clean": report.is_clean(),
        "records": report.records,
        "expected": report.expected,
        "groups": report.groups,
        "size": report.size,
        "against": match report.against {
            Against::Checkpoint => "checkpoint",
            Against::LastCommit => "last commit",
            Against::Nothing => "nothing",
        },
        "records_fit": report.fits,
        "log": report.log,
        "groups_wrong": report.groups_wrong.iter().map(group).collect::<Vec<_>>(),
        "groups_wrong_in_all": report.groups_wrong_in_all,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "more": report.more,
        "damaged_filters": report.damaged_filters,
        "index": report.index.as_ref().map(index),
    })
}

/// A day as `2026-11-22`. Far in the future there is none.
fn date(time: Timestamp) -> String {
    // What a damaged record claims may be beyond what a calendar knows.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since = Duration::from_millis(time.millis()).min(LAST);
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Handle;
    use crate::vault::verify::{IndexKind, Kind};

    fn report() -> Report {
        let day = Timestamp::from_millis(1_790_000_000_000 / 86_400_000 * 86_400_000);
        let group = WrongGroup { scope: "pan".to_owned(), day, expected: Some(3), found: 2 };
        let finding = Finding {
            kind: Kind::Missing,
            handle: Handle::from_bytes([0xab; 20]),
            scope: "pan".to_owned(),
            day: Some(day),
            certain: false,
            event: Some(7),
            why: "gone".to_owned(),
        };
        Report {
            size: 9,
            expected: Some(3),
            records: 2,
            groups: 1,
            against: Against::LastCommit,
            groups_wrong: vec![group],
            groups_wrong_in_all: 2,
            findings: vec![finding],
            more: 4,
            ..Report::default()
        }
    }

    #[test]
    fn a_report_says_what_is_wrong_and_what_it_was_held_against() {
        let terminal = Terminal::none();
        let handle = "ab".repeat(20);
        let expected = format!(
            "wrong: 2 records in 1 group open, and there should be 3\n\
             held against what the last commit left, of 9 events; the newest checkpoint outside is older, or says nothing of records\n\
             group  pan  2026-09-21  2 records  there should be 3\n\
             and 1 group more\n\
             missing?  {handle}  pan  2026-09-21  event 7  gone\n\
             and 4 more\n\
             keep a copy of data and checkpoints as they are; docs/operations.md says how to go on\n"
        );
        assert_eq!(in_text(&report(), terminal), expected);
        let clean =
            Report { fits: true, against: Against::Checkpoint, records: 1, groups: 1, size: 1, ..Report::default() };
        let expected = "ok: 1 record in 1 group of scope and day, and none is missing, added, stale or damaged\n\
                        held against the newest checkpoint outside, of 1 event\n";
        assert_eq!(in_text(&clean, terminal), expected);
        let json = in_json(&report());
        assert_eq!((json["clean"].as_bool(), json["findings"][0]["kind"].as_str()), (Some(false), Some("missing")));
        assert_eq!(json["groups_wrong"][0]["day"], "2026-09-21");
    }

    #[test]
    fn a_row_that_was_added_does_not_make_the_sums_wrong() {
        let added = Finding { kind: Kind::Added, certain: true, event: None, ..report().findings.remove(0) };
        let report =
            Report { fits: true, records: 3, expected: Some(3), findings: vec![added], more: 0, ..Report::default() };
        let said = in_text(&report, Terminal::none());
        let verdict = "wrong: 3 records in 0 groups open, and they are right, but there are rows among them that are none of theirs\n";
        assert!(said.starts_with(verdict), "{said}");
        assert!(!said.contains("sums"), "{said}");
        let sums = Report { groups_wrong_in_all: 1, findings: Vec::new(), ..report };
        assert!(in_text(&sums, Terminal::none()).contains("but the sums over groups of them are not"));
    }

    #[test]
    fn what_is_wrong_with_the_index_is_said_and_counts() {
        let finding = |event, kind, by: &str| IndexFinding { event, kind, by: by.to_owned() };
        let index = IndexReport {
            events: 9,
            rows: 1,
            findings: vec![
                finding(None, IndexKind::Extra, "nothing"),
                finding(Some(7), IndexKind::Missing, "its caller"),
            ],
            more: 3,
            blocks_left: 2,
        };
        let records =
            Report { fits: true, against: Against::Checkpoint, records: 1, groups: 1, size: 9, ..Report::default() };
        let report = Report { index: Some(index), ..records };
        assert!(report.records_are_clean() && !report.is_clean());
        let expected = "ok: 1 record in 1 group of scope and day, and none is missing, added, stale or damaged\n\
                        held against the newest checkpoint outside, of 9 events\n\
                        wrong: the index of events, of 1 row, does not lead to 9 events as it should: what is found by caller, \
                        scope or handle is not all that there is\n\
                        index  extra    no event  by nothing\n\
                        index  missing  event 7   by its caller\n\
                        and 3 more\n\
                        and more among 2 blocks of events, too many to look at\n\
                        keep a copy of data and checkpoints as they are; docs/operations.md says how to go on\n";
        assert_eq!(in_text(&report, Terminal::none()), expected);
        let json = in_json(&report);
        assert_eq!((&json["clean"], &json["index"]["clean"]), (&false.into(), &false.into()));
        assert_eq!(json["index"]["findings"][1], json!({ "kind": "missing", "event": 7, "by": "its caller" }));
    }

    #[test]
    fn what_was_passed_over_is_said() {
        let torn = TornEnd { file: "000013.log".to_owned(), offset: 5870 };
        let expected = "passed over: what stands in the log 000013.log from byte 5870 on, which a crash tore or the vault is \
                        writing just now\n";
        assert_eq!(torn_in_text(&torn), expected);
        assert_eq!(torn_in_json(&torn), json!({ "file": "000013.log", "offset": 5870 }));
    }

    #[test]
    fn a_day_that_no_calendar_knows_is_its_last() {
        assert_eq!(date(Timestamp::from_millis(u64::MAX)), "9999-12-31");
        assert_eq!(date(Timestamp::from_millis(0)), "1970-01-01");
    }
}
