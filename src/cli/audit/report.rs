//! `audit report`: a stretch of the log, counted, for people who answer for it.

mod chart;
mod html;
mod names;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;

use super::pages::Pages;
use crate::cli::moment::moment;
use crate::cli::terminal::{Progress, Terminal};
use crate::cli::{Connection, Exit, Usage};
use crate::client::Client;
use crate::clock::{SystemClock, Timestamp};
use crate::event::report::{Bounds, Report, Summary, Window};
use crate::proto::v1;

/// Sum up the log: who got how much of what and what for, who was refused, what was changed, what is unusual.
///
/// Reads every event of the stretch once, in bounded memory. --output html makes one page with charts that needs nothing
/// else: no scripts, nothing from the network; it can be sent, archived and printed.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    connection: Connection,
    /// From this time on: RFC 3339, or how long ago, such as 7d.
    #[arg(long, value_parser = moment, default_value = "30d")]
    since: prost_types::Timestamp,
    /// Before this time: RFC 3339, or how long ago, such as 1d. By default now.
    #[arg(long, value_parser = moment)]
    until: Option<prost_types::Timestamp>,
    /// Only what names this scope. Questions to the log name none.
    #[arg(long)]
    scope: Option<String>,
    /// By default what FILE ends with (.html, .json or .txt); without FILE text on a terminal and JSON elsewhere.
    #[arg(long, value_enum)]
    output: Option<Shape>,
    /// Where to write it; standard output if it is left out.
    file: Option<PathBuf>,
}

/// What the report looks like.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// For a terminal.
    Text,
    /// One JSON object, for programs.
    Json,
    /// One page with charts.
    Html,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let now = SystemClock::shared().wall();
    let until = options.until.map_or(now, timestamp);
    let window = Window { since: timestamp(options.since), until, scope: options.scope.clone() };
    if window.since >= window.until {
        return Err(Usage("--since is not before --until: there is no time between them".to_owned()).into());
    }
    let shape = options.shape()?;
    let mut report = Report::new(window.clone(), Bounds::default());
    options.connection.run(async |client| read(&client, &window, &mut report).await)?;
    let written = shape.write(&report.summary(), now)?;
    match &options.file {
        Some(file) => {
            std::fs::write(file, written).with_context(|| format!("cannot write {}", file.display()))?;
        }
        None => output.write_all(written.as_bytes()).context("cannot write to standard output")?,
    }
    Ok(Exit::Done)
}

impl Options {
    fn shape(&self) -> Result<Shape, Usage> {
        let ending = self.file.as_deref().and_then(Path::extension).map(|ending| ending.to_string_lossy());
        Ok(match (self.output, &self.file, ending.as_deref()) {
            (Some(shape), ..) => shape,
            (None, Some(_), Some("html" | "htm")) => Shape::Html,
            (None, Some(_), Some("json")) => Shape::Json,
            (None, Some(_), Some("txt") | None) => Shape::Text,
            (None, Some(_), Some(other)) => {
                return Err(Usage(format!(
                    "a report can't be a .{other} file: end the name in .html, .json or .txt, or say what it is to be with \
                     --output"
                )));
            }
            (None, None, _) if Terminal::of_output().width().is_some() => Shape::Text,
            (None, None, _) => Shape::Json,
        })
    }
}

impl Shape {
    fn write(self, summary: &Summary, now: Timestamp) -> anyhow::Result<String> {
        Ok(match self {
            Self::Text => text::page(summary),
            Self::Json => serde_json::to_string_pretty(summary).context("cannot write the report as JSON")? + "\n",
            Self::Html => html::page(summary, now),
        })
    }
}

/// Adds every event of the window, oldest first, a page at a time.
async fn read(client: &Client, window: &Window, report: &mut Report) -> anyhow::Result<()> {
    let filter = v1::AuditFilter {
        scope: window.scope.clone().unwrap_or_default(),
        start_time: Some(on_the_wire(window.since)),
        end_time: Some(on_the_wire(window.until)),
        ..v1::AuditFilter::default()
    };
    let mut pages = Pages::new(client, filter, false);
    let mut progress = Progress::new();
    while let Some(events) = pages.next(u64::MAX).await? {
        for event in &events {
            report.add(&super::domain(event));
        }
        progress.advance(events.len());
    }
    Ok(())
}

/// What is before the epoch or beyond the year 9999 is as good as those.
fn timestamp(time: prost_types::Timestamp) -> Timestamp {
    let millis = u64::try_from(time.nanos / 1_000_000).unwrap_or_default();
    let seconds = u64::try_from(time.seconds).unwrap_or_default().min(253_402_300_799);
    Timestamp::from_millis(seconds * 1000 + millis)
}

fn on_the_wire(time: Timestamp) -> prost_types::Timestamp {
    (std::time::UNIX_EPOCH + std::time::Duration::from_millis(time.millis())).into()
}

/// Made-up summaries for the tests of what prints them.
#[cfg(test)]
mod samples {
    use super::*;
    use crate::event::{Action, Event, ItemOutcome, Outcome, Time};

    const HOUR: u64 = 3_600_000;
    const SINCE: u64 = 20_000 * 24 * HOUR;

    fn event(hour: u64, caller: &str, action: Action, outcome: Outcome) -> Event {
        Event {
            log_id: "log.example".to_owned(),
            time: Some(Time::from(Timestamp::from_millis(SINCE + hour * HOUR))),
            action: action.into(),
            outcome: outcome.into(),
            caller: caller.to_owned(),
            scope: "pan".to_owned(),
            ..Event::default()
        }
    }

    /// Ten days with a wild hour, a newcomer, and texts of callers who mean harm.
    pub(super) fn busy() -> Summary {
        let window = Window {
            since: Timestamp::from_millis(SINCE),
            until: Timestamp::from_millis(SINCE + 240 * HOUR),
            scope: None,
        };
        let mut report = Report::new(window, Bounds::default());
        for hour in 0..200 {
            let values = if hour == 150 { 800 } else { 10 + usize::try_from(hour % 7).unwrap() };
            report.add(&Event {
                purpose: "refund".to_owned(),
                requested: u32::try_from(values).unwrap(),
                item_outcomes: vec![ItemOutcome::Released.into(); values],
                ..event(hour, "spiffe://a.example/payments", Action::Detokenize, Outcome::Allowed)
            });
        }
        report.add(&Event {
            reason: "POLICY_DENIED".to_owned(),
            purpose: "</script><script>alert(1)</script>".to_owned(),
            scope: "<img src=x onerror=alert(1)>\u{202e}\x1b[2J".to_owned(),
            ..event(230, "spiffe://a.example/\"><svg onload=alert(1)>", Action::Detokenize, Outcome::Denied)
        });
        report.add(&Event {
            purpose: "a&b<c>'d'\"e\"".to_owned(),
            item_outcomes: vec![ItemOutcome::Masked.into(); 3],
            requested: 3,
            ..event(100, "spiffe://b.example/other", Action::Detokenize, Outcome::Allowed)
        });
        report.summary()
    }

    pub(super) fn empty() -> Summary {
        let window = Window {
            since: Timestamp::from_millis(SINCE),
            until: Timestamp::from_millis(SINCE + 24 * HOUR),
            scope: Some("pan".to_owned()),
        };
        Report::new(window, Bounds::default()).summary()
    }
}
