//! `audit query`: who saw what, when and why.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;

use crate::caller::SpiffeId;
use crate::cli::moment::{moment, rfc3339};
use crate::cli::terminal::{self, Colour, Terminal};
use crate::cli::{Connection, Exit, Format, Usage, input, note};
use crate::client::Client;
use crate::event::json::Json;
use crate::proto::v1;
use crate::secret::SecretBytes;

/// A page of the answer. The server may send fewer.
const PAGE_EVENTS: u64 = 500;
/// A token or request id is short; more than this is not one.
const TOKEN_BYTES: u64 = 4_096;

/// Find events. All conditions that are given must hold.
///
/// Without conditions: the oldest 100, and a word on standard error if there are more. As text: a table, one line for each
/// event except on a terminal that is too narrow for that. With --output json: one event a line, with all its fields; bytes
/// are lower-case hex.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    connection: Connection,
    /// Of this caller: a SPIFFE ID, such as spiffe://dev.cloakroom.internal/payments.
    #[arg(long, value_name = "SPIFFE ID", value_parser = spiffe_id)]
    caller: Option<String>,
    /// In this scope.
    #[arg(long)]
    scope: Option<String>,
    /// About the token with this handle.
    #[arg(long, conflicts_with = "token_file")]
    handle: Option<String>,
    /// About the token that stands in this file, or in standard input for -; with --scope. Only its handle is recorded.
    #[arg(long, value_name = "FILE", requires = "scope")]
    token_file: Option<PathBuf>,
    /// Only this action.
    #[arg(long, value_enum)]
    action: Option<Action>,
    /// Only with this outcome.
    #[arg(long, value_enum)]
    outcome: Option<Outcome>,
    /// Only with this purpose, exactly.
    #[arg(long)]
    purpose: Option<String>,
    /// Only of this trace: 32 hexadecimal digits, as in a W3C traceparent.
    #[arg(long, value_name = "TRACE ID")]
    trace_id: Option<String>,
    /// Of the call whose request id stands in this file, or in standard input for -. Only its keyed hash is recorded.
    #[arg(long, value_name = "FILE")]
    request_id_file: Option<PathBuf>,
    /// From this time on: RFC 3339, or how long ago, such as 2h.
    #[arg(long, value_parser = moment)]
    since: Option<prost_types::Timestamp>,
    /// Before this time: RFC 3339, or how long ago, such as 5m.
    #[arg(long, value_parser = moment)]
    until: Option<prost_types::Timestamp>,
    /// Newest first, not oldest first. With a --limit: the newest, not the oldest.
    #[arg(long)]
    newest_first: bool,
    /// At most so many events. 0: all.
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// A table, or one JSON object a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Actions by the names that people use.
#[derive(Clone, Copy, ValueEnum)]
enum Action {
    Tokenize,
    Detokenize,
    Inspect,
    Renew,
    Revoke,
    QueryAudit,
    Connect,
    Start,
    Stop,
    Reload,
    Clock,
    Purge,
    CreateKey,
    RotateKeys,
    Rewrap,
    Seal,
    Unseal,
    Backup,
    Restore,
    Shred,
    Erase,
    Hold,
    Export,
    Import,
    Verify,
    Approve,
    Honey,
    Unusual,
}

#[derive(Clone, Copy, ValueEnum)]
enum Outcome {
    Allowed,
    Denied,
    Failed,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let filter = filter(options)?;
    let (limit, format, newest_first) = (options.limit, options.output, options.newest_first);
    let more =
        options.connection.run(async |client| query(&client, filter, newest_first, limit, format, output).await)?;
    if more {
        let (end, other) = if newest_first { ("newest", "") } else { ("oldest", ", the newest with --newest-first") };
        note(&format!(
            "cloakroom: these are the {end} {limit}; there are more: all with --limit 0{other}, fewer with --since 1h and other conditions"
        ));
    }
    Ok(Exit::Done)
}

/// `payments` would be looked for, and never found: callers are known by whole SPIFFE IDs.
fn spiffe_id(text: &str) -> Result<String, String> {
    match SpiffeId::parse(text) {
        Ok(id) => Ok(id.as_str().to_owned()),
        Err(problem) => {
            Err(format!("{problem}; write a whole SPIFFE ID, such as spiffe://dev.cloakroom.internal/payments"))
        }
    }
}

fn filter(options: &Options) -> anyhow::Result<v1::AuditFilter> {
    let from_file =
        |file: &Option<PathBuf>, what| file.as_deref().map_or(Ok(String::new()), |file| read_one(file, what));
    Ok(v1::AuditFilter {
        caller: options.caller.clone().unwrap_or_default(),
        scope: options.scope.clone().unwrap_or_default(),
        handle: options.handle.clone().unwrap_or_default(),
        token: from_file(&options.token_file, "token")?,
        action: options.action.map_or(v1::Action::Unspecified, Action::on_the_wire).into(),
        outcome: options.outcome.map_or(v1::Outcome::Unspecified, Outcome::on_the_wire).into(),
        start_time: options.since,
        end_time: options.until,
        purpose: options.purpose.clone().unwrap_or_default(),
        trace_id: options.trace_id.clone().unwrap_or_default(),
        request_id: from_file(&options.request_id_file, "request id")?,
    })
}

/// The one word in `file`, without white space around it. It is secret, so it comes from no argument.
fn read_one(file: &Path, what: &str) -> anyhow::Result<String> {
    let mut content = SecretBytes::new(Vec::new());
    input::open(Some(file))?
        .take(TOKEN_BYTES)
        .read_to_end(content.expose_mut())
        .with_context(|| format!("cannot read a {what} from {}", file.display()))?;
    let word = std::str::from_utf8(content.expose()).map(str::trim).unwrap_or_default();
    if word.is_empty() || word.contains(char::is_whitespace) {
        return Err(Usage(format!("{}: expected one {what} and nothing else", file.display())).into());
    }
    Ok(word.to_owned())
}

/// Asks page after page until there are `limit` events, or no more. Says whether there are more.
async fn query(
    client: &Client,
    filter: v1::AuditFilter,
    newest_first: bool,
    limit: u64,
    format: Format,
    output: &mut impl Write,
) -> anyhow::Result<bool> {
    let mut left = if limit == 0 { u64::MAX } else { limit };
    let mut page_token = String::new();
    let terminal = Terminal::of_output();
    if let (Format::Text, Some(width)) = (format, terminal.width()) {
        writeln!(output, "{}", terminal.colour(Colour::Bold, &terminal::flow(&heading(), width)))
            .context("cannot write the output")?;
    }
    loop {
        // One more than is printed, to know whether there is one more.
        let page_size = i32::try_from(left.saturating_add(1).min(PAGE_EVENTS)).unwrap_or(i32::MAX);
        let request = v1::QueryEventsRequest { filter: Some(filter.clone()), page_size, page_token, newest_first };
        let page = client.query_events(request).await?;
        let room = usize::try_from(left).unwrap_or(usize::MAX);
        for event in page.events.iter().take(room) {
            write_event(output, event, format, &terminal).context("cannot write the output")?;
        }
        output.flush().context("cannot write the output")?;
        if page.events.len() > room {
            return Ok(true);
        }
        left -= page.events.len() as u64;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(false);
        }
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
        event.scope,
        event.caller,
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
        event.scope.clone(),
        event.caller.clone(),
    ];
    let columns = columns.into_iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:width$}"));
    columns.chain(notes(event)).collect()
}

fn items(event: &v1::AuditEvent) -> String {
    match event.count {
        0 => format!("{}/{}", event.succeeded, event.requested),
        count => format!("{count} calls"),
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

impl Action {
    fn on_the_wire(self) -> v1::Action {
        let name = self.to_possible_value().map(|value| value.get_name().to_uppercase().replace('-', "_"));
        name.and_then(|name| v1::Action::from_str_name(&format!("ACTION_{name}")))
            .expect("every action of the command line is one of the protobuf: a test goes through them")
    }
}

impl Outcome {
    fn on_the_wire(self) -> v1::Outcome {
        match self {
            Self::Allowed => v1::Outcome::Allowed,
            Self::Denied => v1::Outcome::Denied,
            Self::Failed => v1::Outcome::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_its_counterpart() {
        for action in Action::value_variants() {
            assert_ne!(action.on_the_wire(), v1::Action::Unspecified);
        }
        // All but UNSPECIFIED, and none twice.
        let known = (1..64).filter(|number| v1::Action::try_from(*number).is_ok()).count();
        assert_eq!(Action::value_variants().len(), known);
    }

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
    fn a_token_comes_from_a_file_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "pan_abc\n").unwrap();
        assert_eq!(read_one(&file, "token").unwrap(), "pan_abc");
        for wrong in ["", "\n", "two tokens", "one\ntwo\n"] {
            std::fs::write(&file, wrong).unwrap();
            assert!(read_one(&file, "token").is_err(), "{wrong:?}");
        }
    }
}
