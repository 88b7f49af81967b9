//! The report for a terminal.

use std::fmt::Write;

use super::names::{Names, day, grouped, minute, step, word};
use crate::config::harmless;
use crate::event::report::{Row, Summary, Unusual};

/// A table on a terminal beyond this is for a program.
const ROWS_SHOWN: usize = 40;
/// Unusual hours in text; all are in JSON.
const RATES_SHOWN: usize = 10;
/// Eight heights of a bar.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A cell, and whether it is a number, which stands at the right.
enum Cell {
    Text(String),
    Number(u64),
}

/// The whole report.
pub(super) fn page(summary: &Summary) -> String {
    let names = Names::of(summary);
    let mut page = head(summary, &names);
    page.push_str(&out_of_the_ordinary(&summary.unusual, &names));
    let caller = |row: &Row| Cell::Text(harmless(names.caller(row.caller.as_deref())));
    let text = |text: Option<&str>| Cell::Text(harmless(word(text)));
    let times = |row: &Row| [Cell::Text(minute(row.first_time)), Cell::Text(minute(row.last_time))];
    let releases = |row: &Row| {
        let [first, last] = times(row);
        let (scope, purpose) = (text(row.scope.as_deref()), text(row.word.as_deref()));
        let [full, masked, withheld] = [row.full, row.masked, row.not_done].map(Cell::Number);
        vec![caller(row), scope, purpose, full, masked, withheld, Cell::Number(row.calls), first, last]
    };
    let refusals = |row: &Row| {
        let [first, last] = times(row);
        let action = Cell::Text(row.action.to_uppercase());
        let (scope, reason) = (text(row.scope.as_deref()), text(row.word.as_deref()));
        vec![caller(row), action, scope, reason, Cell::Number(row.calls), first, last]
    };
    let changes = |row: &Row| {
        let [first, last] = times(row);
        let action = Cell::Text(row.action.to_uppercase());
        let [done, not_done] = [row.done, row.not_done].map(Cell::Number);
        vec![caller(row), action, text(row.scope.as_deref()), done, not_done, Cell::Number(row.calls), first, last]
    };
    let questions = |row: &Row| {
        let [first, last] = times(row);
        vec![caller(row), Cell::Number(row.calls), Cell::Number(row.done), first, last]
    };
    let operations = |row: &Row| {
        let [first, last] = times(row);
        let action = Cell::Text(row.action.to_uppercase());
        vec![caller(row), action, text(row.scope.as_deref()), Cell::Number(row.calls), first, last]
    };
    let released = ["CALLER", "SCOPE", "PURPOSE", "FULL", "MASKED", "WITHHELD", "CALLS", "FIRST", "LAST"];
    let refused = ["CALLER", "ACTION", "SCOPE", "REASON", "CALLS", "FIRST", "LAST"];
    let changed = ["CALLER", "ACTION", "SCOPE", "DONE", "NOT DONE", "CALLS", "FIRST", "LAST"];
    section(&mut page, "Who got values, and what for", &released, &summary.releases, releases);
    section(&mut page, "Denied", &refused, &summary.denials, refusals);
    section(&mut page, "Failed", &refused, &summary.failures, refusals);
    section(&mut page, "Tokenized, inspected, renewed, revoked", &changed, &summary.changes, changes);
    section(
        &mut page,
        "Who asked the log",
        &["CALLER", "CALLS", "EVENTS", "FIRST", "LAST"],
        &summary.questions,
        questions,
    );
    let operated = ["CALLER", "ACTION", "SCOPE", "CALLS", "FIRST", "LAST"];
    section(&mut page, "What the vault and its operators did", &operated, &summary.operations, operations);
    page
}

fn head(summary: &Summary, names: &Names) -> String {
    let mut page = String::new();
    let (totals, read) = (&summary.totals, &summary.read);
    let scope = summary.scope.as_deref().map_or("all scopes".to_owned(), |scope| format!("scope {}", harmless(scope)));
    let mut line = |text: String| {
        page.push_str(&text);
        page.push('\n');
    };
    line(format!("Who saw what: {}", if summary.log_id.is_empty() { "no event" } else { &summary.log_id }));
    let places = match (read.first_sequence, read.last_sequence) {
        (Some(first), Some(last)) => format!(", {first} to {last}"),
        _ => String::new(),
    };
    line(format!(
        "{} to {} UTC, {scope}; {} events{places}",
        minute(summary.since),
        minute(summary.until),
        grouped(read.events)
    ));
    if let Some(prefix) = names.prefix() {
        line(format!("Callers are of {prefix} unless they are written in full."));
    }
    if summary.folded_calls > 0 {
        line(format!(
            "{} calls stand in rows of (others): there were more names than are told apart.",
            grouped(summary.folded_calls)
        ));
    }
    line(String::new());
    let figures = [
        [("values in full", totals.values_full), ("calls denied", totals.denied_calls)],
        [("values masked", totals.values_masked), ("calls failed", totals.failed_calls)],
        [("items withheld", totals.items_withheld), ("tokens issued", totals.tokens_issued)],
    ];
    for [(left, one), (right, other)] in figures {
        line(format!("  {left:<16}{:>12}      {right:<16}{:>12}", grouped(one), grouped(other)));
    }
    line(String::new());
    if let (Some(first), Some(last)) = (summary.points.first(), summary.points.last()) {
        let values = |of: fn(&crate::event::report::Point) -> u64| summary.points.iter().map(of).collect::<Vec<_>>();
        let (left, denied) = (values(|point| point.full.saturating_add(point.masked)), values(|point| point.denied));
        let hours = summary.point_seconds < 86_400;
        line(format!("  values  {}  at most {} in one {}", sparks(&left), most(&left), step(summary.point_seconds)));
        line(format!("  denied  {}  at most {}", sparks(&denied), most(&denied)));
        line(format!("          {} to {}", day(first.begin, hours), day(last.begin, hours)));
    }
    page
}

fn most(numbers: &[u64]) -> String {
    grouped(numbers.iter().copied().max().unwrap_or_default())
}

/// A bar for each number. Nothing is no bar.
fn sparks(numbers: &[u64]) -> String {
    let most = numbers.iter().copied().max().unwrap_or_default().max(1);
    let bar = |number: u64| match number {
        0 => ' ',
        number => {
            let place = u128::from(number) * (BARS.len() as u128 - 1) / u128::from(most);
            BARS[usize::try_from(place).unwrap_or_default().min(BARS.len() - 1)]
        }
    };
    numbers.iter().copied().map(bar).collect()
}

fn out_of_the_ordinary(unusual: &Unusual, names: &Names) -> String {
    let mut text = String::from("\nOut of the ordinary\n");
    let mut line = |words: String| {
        // Writing to a text can't fail.
        let _ = writeln!(text, "{}", wrapped(&words));
    };
    for rate in unusual.rates.iter().take(RATES_SHOWN) {
        line(format!(
            "{} got {} values in the hour from {}: its median hour has {}, and more than {} is unusual",
            harmless(names.caller(Some(&rate.caller))),
            grouped(rate.values),
            minute(rate.hour),
            grouped(rate.median),
            grouped(rate.threshold)
        ));
    }
    if unusual.rates_found > RATES_SHOWN as u64 {
        line(format!("{} more such hours: --output json", grouped(unusual.rates_found - RATES_SHOWN as u64)));
    }
    for new in &unusual.newcomers {
        line(format!(
            "{} is new: first seen {}, {} calls",
            harmless(names.caller(Some(&new.caller))),
            minute(new.first_time),
            grouped(new.calls)
        ));
    }
    if unusual.rates.is_empty() && unusual.newcomers.is_empty() {
        line("Nothing, by the rules below.".to_owned());
    }
    line(format!("Hours: {}.", unusual.rate_rule));
    line(format!("New callers: {}.", unusual.newcomer_rule));
    for limit in limits(unusual) {
        line(limit);
    }
    text
}

/// At most about a hundred characters on a line, indented.
fn wrapped(words: &str) -> String {
    const WIDTH: usize = 100;
    let mut text = String::from(" ");
    let mut used = 1;
    for word in words.split(' ') {
        let length = word.chars().count() + 1;
        if used + length > WIDTH {
            text.push_str("\n   ");
            used = 3;
        }
        text.push(' ');
        text.push_str(word);
        used += length;
    }
    text
}

/// What the rules could not be applied to.
pub(super) fn limits(unusual: &Unusual) -> Vec<String> {
    let mut limits = Vec::new();
    if unusual.callers_not_judged > 0 {
        limits.push(format!("Callers with too few hours to be judged: {}.", grouped(unusual.callers_not_judged)));
    }
    if !unusual.newcomers_judged {
        limits.push("Who is new can't be told: no event of the window is older than a day.".to_owned());
    }
    if unusual.calls_not_judged > 0 {
        limits.push(format!("Calls of callers beyond those told apart: {}.", grouped(unusual.calls_not_judged)));
    }
    if unusual.hours_forgotten {
        limits.push("Some callers were judged by their newest hours alone.".to_owned());
    }
    limits
}

fn section(page: &mut String, title: &str, head: &[&str], rows: &[Row], cells: impl Fn(&Row) -> Vec<Cell>) {
    // Writing to a text can't fail.
    let _ = writeln!(page, "\n{title}");
    if rows.is_empty() {
        page.push_str("  Nothing.\n");
        return;
    }
    let shown: Vec<Vec<Cell>> = rows.iter().take(ROWS_SHOWN).map(cells).collect();
    page.push_str(&table(head, &shown));
    if rows.len() > ROWS_SHOWN {
        let _ = writeln!(page, "  {} more rows: --output json", grouped((rows.len() - ROWS_SHOWN) as u64));
    }
}

fn table(head: &[&str], rows: &[Vec<Cell>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.shown().chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let is_number = |column: usize| rows.iter().any(|row| matches!(row.get(column), Some(Cell::Number(_))));
    let mut text = String::new();
    let mut line = |cells: Vec<String>| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let room = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, behind) = if is_number(column) { (room, String::new()) } else { (String::new(), room) };
            let _ = write!(line, "  {before}{cell}{behind}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(head.iter().map(|name| (*name).to_owned()).collect());
    for row in rows {
        line(row.iter().map(Cell::shown).collect());
    }
    text
}

impl Cell {
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => grouped(*number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn the_text_says_what_matters_and_moves_no_cursor() {
        let page = page(&samples::busy());
        for part in [
            "Who saw what: log.example",
            "all scopes; 202 events",
            "unless they are written in full",
            "payments got 800 values in the hour from 2024-10-10 06:00: its median hour has 13",
            "is new: first seen 2024-10-13 14:00",
            "at most 1,105 in one day",
            "POLICY_DENIED",
            "3,381",
        ] {
            assert!(page.contains(part), "{part:?} is not in\n{page}");
        }
        assert!(!page.contains('\x1b') && !page.contains('\u{202e}'));
    }

    #[test]
    fn an_empty_window_is_a_report_too() {
        let page = page(&samples::empty());
        assert!(page.contains("scope pan; 0 events"), "{page}");
        assert!(page.contains("Nothing, by the rules below."), "{page}");
    }

    #[test]
    fn bars_are_as_high_as_numbers_are_large() {
        assert_eq!(sparks(&[0, 1, 50, 100]), " ▁▄█");
        assert_eq!(sparks(&[0, 0]), "  ");
        assert_eq!(sparks(&[]), "");
    }

    #[test]
    fn numbers_stand_at_the_right() {
        let rows = [vec![Cell::Text("a".into()), Cell::Number(7)], vec![Cell::Text("long".into()), Cell::Number(1234)]];
        assert_eq!(table(&["NAME", "N"], &rows), "  NAME      N\n  a         7\n  long  1,234\n");
    }
}
