//! `audit tail`: the log as it grows.
//!
//! Each event is shown once. When the connection breaks it is made again, and the vault is asked to go on behind the last
//! event that was seen; an event that comes again all the same is passed over.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};

use super::filter::Conditions;
use super::rows::Rows;
use crate::cli::{Connection, Exit, Format, note};
use crate::client::{Client, Error, Events};
use crate::proto::v1;

/// How long to wait before the first attempt to connect again, and the longest. It doubles in between.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Follow the log: print each event that matches as soon as it is durable.
///
/// From now on, or with --since or --from-sequence from then on. When the vault is restarted it goes on where it was: no
/// event is left out and none comes twice. Ctrl-C ends it.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    conditions: Conditions,
    /// From this event on; 0 is the log's first.
    #[arg(long, value_name = "SEQUENCE")]
    from_sequence: Option<u64>,
    /// A table, or one JSON object a line. By default a table on a terminal and JSON elsewhere.
    #[arg(long, value_enum)]
    output: Option<Format>,
}

/// Where following stands.
struct Place {
    /// The first sequence that was not seen.
    next: u64,
    /// The log that it counts in, once an event told.
    log_id: Option<String>,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let filter = options.conditions.filter(&options.connection)?;
    let mut rows = Rows::new(output, options.output);
    options.connection.run(async |client| {
        tokio::select! {
            ended = follow(&client, &filter, options.from_sequence, &mut rows) => ended,
            // Whoever stops it has seen enough: all that came has been written.
            stopped = tokio::signal::ctrl_c() => stopped.context("cannot wait for Ctrl-C"),
        }
    })?;
    Ok(Exit::Done)
}

async fn follow(
    client: &Client,
    filter: &v1::AuditFilter,
    from_sequence: Option<u64>,
    rows: &mut Rows<'_, impl Write>,
) -> anyhow::Result<()> {
    let next = match from_sequence {
        Some(sequence) => sequence,
        None => first_place(client, filter.start_time).await?,
    };
    let mut place = Place { next, log_id: None };
    rows.write_heading().and_then(|()| rows.flush()).context("cannot write the output")?;
    // A mistake shows at the first attempt, and is not tried again.
    let mut events = client.tail_events(place.request(filter)).await?;
    let mut wait = FIRST_WAIT;
    loop {
        let seen = place.next;
        let problem = match show(&mut events, &mut place, rows).await? {
            Some(error) if !may_pass(&error) => return Err(error.into()),
            Some(error) => error.to_string(),
            None => "the vault ended it".to_owned(),
        };
        if place.next > seen {
            wait = FIRST_WAIT;
        }
        events = again(client, filter, &place, &problem, &mut wait).await?;
    }
}

/// Shows events until there are no more; then why, if the vault did not just end the stream.
async fn show(
    events: &mut Events,
    place: &mut Place,
    rows: &mut Rows<'_, impl Write>,
) -> anyhow::Result<Option<Error>> {
    loop {
        match events.next().await {
            Ok(Some(event)) => {
                if place.is_new(&event)? {
                    rows.write(&event).and_then(|()| rows.flush()).context("cannot write the output")?;
                    place.go_behind(&event);
                }
            }
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(error)),
        }
    }
}

/// Connects until it works, waiting longer each time.
async fn again(
    client: &Client,
    filter: &v1::AuditFilter,
    place: &Place,
    problem: &str,
    wait: &mut Duration,
) -> anyhow::Result<Events> {
    let mut problem = problem.to_owned();
    loop {
        note(&format!(
            "cloakroom: {problem}; going on from event {} in {}",
            place.next,
            humantime::format_duration(*wait)
        ));
        tokio::time::sleep(*wait).await;
        *wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        match place.resume(client, filter).await {
            Ok(events) => return Ok(events),
            Err(error) => match error.downcast_ref::<Error>() {
                Some(cause) if may_pass(cause) => problem = cause.to_string(),
                _ => return Err(error),
            },
        }
    }
}

/// The first event at or after `since`; without it, or if there is none yet, the place behind the newest.
async fn first_place(client: &Client, since: Option<prost_types::Timestamp>) -> Result<u64, Error> {
    let one = v1::QueryEventsRequest { page_size: 1, ..v1::QueryEventsRequest::default() };
    if since.is_some() {
        let filter = Some(v1::AuditFilter { start_time: since, ..v1::AuditFilter::default() });
        let oldest = client.query_events(v1::QueryEventsRequest { filter, ..one.clone() }).await?.events;
        if let Some(event) = oldest.first() {
            return Ok(event.sequence);
        }
    }
    let newest = client.query_events(v1::QueryEventsRequest { newest_first: true, ..one }).await?.events;
    Ok(newest.first().map_or(0, |event| event.sequence + 1))
}

/// Whether a later attempt can do better.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. }
        | Error::HandshakeRefused { is_said: false, .. }
        | Error::Interrupted { .. }
        | Error::BreakerOpen { .. }
        | Error::Deadline(_)
        | Error::Limited(_)
        | Error::Unavailable(_)
        | Error::Conflict(_)
        | Error::Unexpected(_) => true,
        Error::Profile { .. }
        | Error::NoRandomness { .. }
        | Error::OtherServer { .. }
        | Error::HandshakeRefused { .. }
        | Error::Denied(_)
        | Error::Invalid(_)
        | Error::Unimplemented(_) => false,
    }
}

impl Place {
    fn request(&self, filter: &v1::AuditFilter) -> v1::TailEventsRequest {
        v1::TailEventsRequest { filter: Some(filter.clone()), from_sequence: self.next }
    }

    /// Goes on in the same log. In another one, or one that has gone back, this place means nothing.
    async fn resume(&self, client: &Client, filter: &v1::AuditFilter) -> anyhow::Result<Events> {
        if let Some(log_id) = &self.log_id {
            let newest =
                v1::QueryEventsRequest { page_size: 1, newest_first: true, ..v1::QueryEventsRequest::default() };
            for event in client.query_events(newest).await?.events {
                check_log(log_id, &event.log_id)?;
                self.check_length(&event)?;
            }
        }
        Ok(client.tail_events(self.request(filter)).await?)
    }

    /// A vault whose data was put back by hand goes on under the same name, with other events behind that. After
    /// `restore` the log has another.
    fn check_length(&self, newest: &v1::AuditEvent) -> anyhow::Result<()> {
        let (seen, there) = (self.next, newest.sequence + 1);
        if there < seen {
            bail!(
                "the log has {there} events, but {seen} were there already: an older copy of its data was put back. Follow it \
                 from there with --from-sequence {there}, and keep what was printed"
            );
        }
        Ok(())
    }

    /// Whether the event was not seen yet.
    fn is_new(&self, event: &v1::AuditEvent) -> anyhow::Result<bool> {
        if let Some(log_id) = &self.log_id {
            check_log(log_id, &event.log_id)?;
        }
        Ok(event.sequence >= self.next)
    }

    fn go_behind(&mut self, event: &v1::AuditEvent) {
        self.next = event.sequence + 1;
        if self.log_id.is_none() {
            self.log_id = Some(event.log_id.clone());
        }
    }
}

fn check_log(followed: &str, found: &str) -> anyhow::Result<()> {
    if followed != found {
        bail!(
            "the vault has another log now, {found}, not {followed}: another vault answers there. Follow its log from \
             the beginning with --from-sequence 0"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(log_id: &str, sequence: u64) -> v1::AuditEvent {
        v1::AuditEvent { log_id: log_id.to_owned(), sequence, ..v1::AuditEvent::default() }
    }

    #[test]
    fn what_was_seen_is_not_shown_again_and_the_next_request_begins_behind_it() {
        let mut place = Place { next: 5, log_id: None };
        assert!(!place.is_new(&event("log", 4)).unwrap());
        assert!(place.is_new(&event("log", 5)).unwrap());
        place.go_behind(&event("log", 9));
        assert!(!place.is_new(&event("log", 9)).unwrap());
        assert_eq!(place.request(&v1::AuditFilter::default()).from_sequence, 10);
        let error = place.is_new(&event("other", 10)).unwrap_err().to_string();
        assert!(error.contains("other") && error.contains("--from-sequence 0"), "{error}");
    }

    #[test]
    fn a_log_that_has_gone_back_is_noticed() {
        let mut place = Place { next: 0, log_id: None };
        place.go_behind(&event("log", 9));
        assert!(place.check_length(&event("log", 9)).is_ok() && place.check_length(&event("log", 12)).is_ok());
        let error = place.check_length(&event("log", 8)).unwrap_err().to_string();
        assert!(error.contains("has 9 events, but 10 were there"), "{error}");
    }
}
