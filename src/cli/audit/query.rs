//! `audit query`: who saw what, when and why.

use std::collections::VecDeque;
use std::io::Write;

use anyhow::Context;

use super::filter::Conditions;
use super::pages::Pages;
use super::rows::Rows;
use crate::cli::columns::counted;
use crate::cli::moment::moment;
use crate::cli::{Connection, Exit, Format, note};
use crate::client::Client;
use crate::proto::v1;

/// Find events. All conditions that are given must hold.
///
/// The newest 100 of them, in the order of the log, and a word on standard error if there are more. On a terminal: a table.
/// Elsewhere: one JSON object a line, with all fields; bytes are lower-case hex.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    conditions: Conditions,
    /// The event with this number alone, as it stands in receipts.
    #[arg(long, value_name = "N", conflicts_with_all = ["Conditions", "until", "newest_first", "limit"])]
    sequence: Option<u64>,
    /// Before this time: RFC 3339, or how long ago, such as 5m.
    #[arg(long, value_parser = moment)]
    until: Option<prost_types::Timestamp>,
    /// Newest first, not in the order of the log.
    #[arg(long)]
    newest_first: bool,
    /// At most so many events: the newest. 0: all.
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// A table, or one JSON object a line. By default a table on a terminal and JSON elsewhere.
    #[arg(long, value_enum)]
    output: Option<Format>,
}

/// What was found.
struct Found {
    events: u64,
    /// There are more than were wanted.
    more: bool,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let filter = v1::AuditFilter { end_time: options.until, ..options.conditions.filter(&options.connection)? };
    let mut rows = Rows::new(output, options.output);
    if let Some(sequence) = options.sequence {
        return one(options, sequence, &mut rows);
    }
    let found = options.connection.run(async |client| query(&client, filter, options, &mut rows).await)?;
    if found.more {
        let limit = options.limit;
        note(&format!(
            "cloakroom: these are the newest {limit}; there are more: all with --limit 0, fewer with --since 1h and other conditions"
        ));
    } else if found.events == 0 {
        note("cloakroom: no event matches");
    } else if rows.are_read() {
        note(&format!("cloakroom: {}, and no more", counted(found.events, "event")));
    }
    Ok(Exit::Done)
}

/// One event by its number. Queries ask for what events say; it is the stream that can begin anywhere.
fn one(options: &Options, sequence: u64, rows: &mut Rows<'_, impl Write>) -> anyhow::Result<Exit> {
    let event = options.connection.run(async |client| {
        let request = v1::TailEventsRequest { filter: None, from_sequence: sequence };
        Ok(client.tail_events(request).await?.next().await?)
    })?;
    // Its body may be gone because of its age; then the stream begins behind it.
    match event.filter(|event| event.sequence == sequence) {
        Some(event) => rows
            .write_heading()
            .and_then(|()| rows.write(&event))
            .and_then(|()| rows.flush())
            .context("cannot write the output")?,
        None => note("cloakroom: no event matches"),
    }
    Ok(Exit::Done)
}

/// Without a limit events are written as they come. With one the newest are wanted, whichever way they are shown.
async fn query(
    client: &Client,
    filter: v1::AuditFilter,
    options: &Options,
    rows: &mut Rows<'_, impl Write>,
) -> anyhow::Result<Found> {
    let limited = options.limit > 0;
    let limit = if limited { options.limit } else { u64::MAX };
    let newest_first = options.newest_first || limited;
    let mut pages = Pages::new(client, filter, newest_first);
    let mut found = Found { events: 0, more: false };
    let mut held = VecDeque::new();
    rows.write_heading().context("cannot write the output")?;
    while !found.more {
        // One more than is wanted, to know whether there is one more.
        let left = limit - found.events;
        let Some(events) = pages.next(left.saturating_add(1)).await? else { break };
        for event in events {
            if found.events == limit {
                found.more = true;
                break;
            }
            found.events += 1;
            if newest_first == options.newest_first {
                rows.write(&event).context("cannot write the output")?;
            } else {
                held.push_front(event);
            }
        }
        rows.flush().context("cannot write the output")?;
    }
    for event in &held {
        rows.write(event).context("cannot write the output")?;
    }
    rows.flush().context("cannot write the output")?;
    Ok(found)
}
