//! Events as people and programs read them: a table on a terminal, a line each elsewhere, or JSON Lines.

use std::io::{self, Write};

use crate::cli::Format;
use crate::cli::columns::counted;
use crate::cli::moment::rfc3339;
use crate::cli::terminal::{self, Colour, Terminal};
use crate::config::harmless;
use crate::event::json::Json;
use crate::proto::v1;

/// Where events are written, and how.
pub(super) struct Rows<'a, W> {
    output: &'a mut W,
    terminal: Terminal,
    format: Format,
}

impl<'a, W: Write> Rows<'a, W> {
    /// As asked for; else a table for people and JSON for programs.
    pub(super) fn new(output: &'a mut W, format: Option<Format>) -> Self {
        let terminal = Terminal::of_output();
        let format = format.unwrap_or(if terminal.width().is_some() { Format::Text } else { Format::Json });
        Self { output, terminal, format }
    }

    /// Whether a person reads it.
    pub(super) fn are_read(&self) -> bool {
        self.terminal.width().is_some()
    }

    pub(super) fn write_heading(&mut self) -> io::Result<()> {
        match (self.format, self.terminal.width()) {
            (Format::Text, Some(width)) => {
                let heading = terminal::flow(&heading(), width);
                writeln!(self.output, "{}", self.terminal.colour(Colour::Bold, &heading))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn write(&mut self, event: &v1::AuditEvent) -> io::Result<()> {
        write_event(&mut *self.output, event, self.format, &self.terminal)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn heading() -> Vec<String> {
    ["SEQUENCE", "TIME", "ACTION", "OUTCOME", "ITEMS", "SCOPE", "CALLER", "PURPOSE, REASON, HANDLES"]
        .into_iter()
        .zip(WIDTHS)
        .map(|(name, width)| format!("{name:width$}"))
        .collect()
}

fn write_event(output: &mut impl Write, event: &v1::AuditEvent, format: Format, terminal: &Terminal) -> io::Result<()> {
    match (format, terminal.width()) {
        (Format::Text, Some(width)) => {
            let row = terminal::flow(&cells(event), width);
            let painted = match event.outcome() {
                v1::Outcome::Denied | v1::Outcome::Failed => terminal.colour(Colour::Red, &row),
                v1::Outcome::Allowed | v1::Outcome::Unspecified => row,
            };
            writeln!(output, "{painted}")
        }
        (Format::Text, None) => write_row(output, event),
        (Format::Json, _) => {
            serde_json::to_writer(&mut *output, &Json(&super::domain(event)))?;
            output.write_all(b"\n")
        }
    }
}

/// One line whatever its length, for programs that go by lines.
fn write_row(output: &mut impl Write, event: &v1::AuditEvent) -> io::Result<()> {
    write!(
        output,
        "{:>8}  {:24}  {:11}  {:8}  {:>9}  {:10}  {:44} ",
        event.sequence,
        rfc3339(event.time.as_ref()),
        event.action().as_str_name().trim_start_matches("ACTION_"),
        event.outcome().as_str_name().trim_start_matches("OUTCOME_"),
        items(event),
        harmless(&event.scope),
        harmless(&event.caller),
    )?;
    for note in notes(event) {
        write!(output, " {note}")?;
    }
    writeln!(output)
}

/// The columns on a terminal, in order. What follows them has no width of its own.
const WIDTHS: [usize; 8] = [8, 24, 11, 7, 9, 8, 28, 0];

/// As [`write_row`], a cell for each column and each note.
fn cells(event: &v1::AuditEvent) -> Vec<String> {
    let columns = [
        event.sequence.to_string(),
        rfc3339(event.time.as_ref()),
        event.action().as_str_name().trim_start_matches("ACTION_").to_owned(),
        event.outcome().as_str_name().trim_start_matches("OUTCOME_").to_owned(),
        items(event),
        harmless(&event.scope),
        harmless(&event.caller),
    ];
    let columns = columns.into_iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:width$}"));
    columns.chain(notes(event)).collect()
}

fn items(event: &v1::AuditEvent) -> String {
    match event.count {
        0 => format!("{}/{}", event.succeeded, event.requested),
        count => counted(count, "call"),
    }
}

fn notes(event: &v1::AuditEvent) -> Vec<String> {
    let texts = [("purpose", &event.purpose), ("reason", &event.reason), ("detail", &event.detail)];
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
    let mut notes: Vec<String> = texts.map(|(name, text)| format!("{name}={text:?}")).collect();
    // A batch's thousand handles would hide everything else; JSON has them all.
    if let [handle] = event.handles.as_slice() {
        if let Some(outcome) = event.item_outcomes().next() {
            notes.push(format!("item={}", outcome.as_str_name().trim_start_matches("ITEM_OUTCOME_")));
        }
        if !handle.is_empty() {
            notes.push(format!("handle={}", hex::encode(handle)));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_prints_as_a_row_and_as_json() {
        let event = v1::AuditEvent {
            log_id: "l".to_owned(),
            sequence: 12,
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            action: v1::Action::Detokenize.into(),
            outcome: v1::Outcome::Allowed.into(),
            caller: "spiffe://a/b".to_owned(),
            scope: "pan".to_owned(),
            handles: vec![vec![0xab; 20]],
            requested: 1,
            succeeded: 1,
            purpose: "refund".to_owned(),
            item_outcomes: vec![v1::ItemOutcome::Released.into()],
            ..v1::AuditEvent::default()
        };
        let mut row = Vec::new();
        write_row(&mut row, &event).unwrap();
        let row = String::from_utf8(row).unwrap();
        for part in [
            "12",
            "2023-11-14T22:13:20.000Z",
            "DETOKENIZE",
            "ALLOWED",
            "1/1",
            "purpose=\"refund\"",
            "item=RELEASED",
            "handle=abab",
        ] {
            assert!(row.contains(part), "{part} in {row}");
        }
        let mut json = Vec::new();
        write_event(&mut json, &event, Format::Json, &Terminal::of_output()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["item_outcomes"][0], "RELEASED");
        assert_eq!(json["handles"][0], "ab".repeat(20));
        assert!(json.get("reason").is_none(), "empty fields are left out");
    }

    #[test]
    fn nobodys_text_moves_the_cursor() {
        let event = v1::AuditEvent {
            scope: "pan\x1b[2J".to_owned(),
            caller: "spiffe://a/\u{202e}b".to_owned(),
            purpose: "\x07".to_owned(),
            ..v1::AuditEvent::default()
        };
        let mut row = Vec::new();
        write_row(&mut row, &event).unwrap();
        let row = String::from_utf8(row).unwrap();
        assert!(!row.trim_end().contains(char::is_control) && !row.contains('\u{202e}'), "{row:?}");
    }
}
