//! Events in order, from the vault.

use std::collections::VecDeque;

use crate::cli::{Usage, note};
use crate::client::{Client, Error, Events};
use crate::proto::v1;

/// As many as the vault gives at once.
const PAGE_EVENTS: i32 = 1_000;

/// One event after the other, from any on.
pub(super) struct Source<'a> {
    client: &'a Client,
    /// Whether events that are yet to come are wanted.
    endless: bool,
    way: Way,
    /// What came while something else was asked.
    ahead: VecDeque<v1::AuditEvent>,
}

enum Way {
    Unopened,
    /// What comes, and the sequence with which it began.
    Tail(Events, u64),
    /// A vault of a version without that.
    Pages {
        page: VecDeque<v1::AuditEvent>,
        next_page: String,
    },
}

impl<'a> Source<'a> {
    pub(super) fn new(client: &'a Client, endless: bool) -> Self {
        Self { client, endless, way: Way::Unopened, ahead: VecDeque::new() }
    }

    /// The event `sequence`, as soon as there is one. Must be asked for in order.
    pub(super) async fn next(&mut self, sequence: u64) -> anyhow::Result<v1::AuditEvent> {
        match self.ahead.pop_front() {
            Some(event) => Ok(event),
            None => self.receive(sequence).await,
        }
    }

    /// Waits for the vault's answer to another question, and goes on reading meanwhile: on one connection a stream that is
    /// not read holds up every other answer. `sequence` is the next event's.
    pub(super) async fn during<T>(
        &mut self,
        sequence: u64,
        question: impl Future<Output = Result<T, Error>>,
    ) -> anyhow::Result<T> {
        tokio::pin!(question);
        loop {
            let expected = sequence + self.ahead.len() as u64;
            tokio::select! {
                answer = &mut question => return Ok(answer?),
                event = self.receive(expected) => self.ahead.push_back(event?),
            }
        }
    }

    /// Ends the stream, for the same reason: nothing more is wanted of it.
    pub(super) fn close(&mut self) {
        self.way = Way::Unopened;
    }

    async fn receive(&mut self, sequence: u64) -> anyhow::Result<v1::AuditEvent> {
        loop {
            match &mut self.way {
                Way::Unopened => self.way = self.open(sequence).await?,
                Way::Tail(events, begin) => match events.next().await {
                    Ok(Some(event)) => return Ok(event),
                    // Connections have an age: where this one brought something, another will bring the rest.
                    Ok(None) | Err(Error::Unavailable(_) | Error::Unreachable { .. }) if sequence > *begin => {
                        self.way = Way::Unopened;
                    }
                    Ok(None) => anyhow::bail!("the vault ended the stream before event {sequence}"),
                    Err(error) => return Err(error.into()),
                },
                Way::Pages { page, next_page } => match page.pop_front() {
                    Some(event) if event.sequence < sequence => {}
                    Some(event) => return Ok(event),
                    None if next_page.is_empty() => anyhow::bail!("the vault sent no event {sequence}"),
                    None => {
                        let answer = self.client.query_events(request(std::mem::take(next_page))).await?;
                        (*page, *next_page) = (answer.events.into(), answer.next_page_token);
                    }
                },
            }
        }
    }

    async fn open(&self, sequence: u64) -> anyhow::Result<Way> {
        let request_from = v1::TailEventsRequest { filter: None, from_sequence: sequence };
        match self.client.tail_events(request_from).await {
            Ok(events) => Ok(Way::Tail(events, sequence)),
            Err(Error::Unimplemented(_)) if self.endless => {
                Err(Usage("this vault is of a version that can't be followed: export without --follow".to_owned())
                    .into())
            }
            Err(Error::Unimplemented(_)) => {
                note(
                    "cloakroom: this vault is of a version without TailEvents: reading page by page from its beginning",
                );
                let answer = self.client.query_events(request(String::new())).await?;
                Ok(Way::Pages { page: answer.events.into(), next_page: answer.next_page_token })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn request(page_token: String) -> v1::QueryEventsRequest {
    v1::QueryEventsRequest { filter: None, page_size: PAGE_EVENTS, page_token, newest_first: false }
}
