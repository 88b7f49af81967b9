//! Questions to the log over a whole vault in memory. Every answer is held against a plain search through all events.

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::event::ItemOutcome;
use crate::ledger::fixture::{event as plain_event, submit};
use crate::secret::Secret;
use crate::store::{Batch, Fault, Store};
use crate::vault::fixture::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod pages;
mod proofs;
mod questions;
mod retention;
mod tails;

const PAN: &[u8] = b"4111111111111111";

fn id(name: &str) -> String {
    format!("spiffe://dev.cloakroom.internal/{name}")
}

fn ask(filter: FilterRequest) -> QueryRequest {
    QueryRequest { filter, page_size: 0, page_token: String::new(), newest_first: false }
}

async fn query(client: &Client, request: QueryRequest) -> Result<Page, Failure> {
    client.vault.query_events(&client.call, request).await
}

/// Pages until there are no more; how many there were.
async fn all_pages(
    client: &Client,
    filter: impl Fn() -> FilterRequest,
    page_size: i32,
    newest_first: bool,
) -> (Vec<Event>, usize) {
    let (mut events, mut pages, mut page_token) = (Vec::new(), 0, String::new());
    loop {
        let request = QueryRequest { filter: filter(), page_size, page_token, newest_first };
        let page = query(client, request).await.unwrap_or_else(|failure| panic!("{failure:?}"));
        assert!(page_size == 0 || page.events.len() <= usize::try_from(page_size).unwrap());
        events.extend(page.events);
        pages += 1;
        if page.next_page_token.is_empty() {
            return (events, pages);
        }
        page_token = page.next_page_token;
    }
}

/// The whole log as an auditor is shown it.
fn whole_log(f: &Fixture) -> Vec<Event> {
    let place = |(sequence, event): (usize, Event)| Event {
        log_id: f.vault.ledger().log_id().to_string(),
        sequence: sequence as u64,
        ..event
    };
    f.events().into_iter().enumerate().map(place).collect()
}

/// A log with events of many callers, scopes, actions and outcomes; three tokens that have a history.
async fn busy_vault() -> (Fixture, Vec<Issued>) {
    let f = Fixture::new();
    let mut issued = Vec::new();
    for round in 0..6 {
        for scope in ["pan", "ssn", "email"] {
            let token = f.client("gateway").issue(scope, item(PAN)).await;
            f.client("payments").show(scope, &[&token.token]).await.ok();
            f.client("payments").masked().show(scope, &[&token.token, "malformed", &token.token]).await.ok();
            f.client("stranger").show(scope, &[&token.token]).await.unwrap_err();
            f.client("operator").inspect(scope, &[], &[token.handle.to_string()]).await.unwrap();
            issued.push(token);
            f.site.clock.advance(Duration::from_secs(7));
        }
        let last = issued.last().unwrap().handle.to_string();
        f.client("operator").revoke("email", &[], &[last]).await.unwrap();
        f.tester().show("nowhere", &["x"]).await.unwrap_err();
        f.client("gateway").show("pan", &[]).await.unwrap_err();
        assert!(f.vault.record_refusals().await.unwrap() <= round * 3);
    }
    (f, vec![issued[0].clone(), issued[7].clone(), issued[17].clone()])
}
