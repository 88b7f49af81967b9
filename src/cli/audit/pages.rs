//! An answer of the log, page after page.

use crate::client::{Client, Error};
use crate::proto::v1;

/// As many as the server gives at most. It may send fewer.
const PAGE_EVENTS: u64 = 1000;

/// A question, and how far it has been answered.
pub(super) struct Pages<'a> {
    client: &'a Client,
    filter: v1::AuditFilter,
    newest_first: bool,
    /// Where to go on; `None` behind the last page.
    token: Option<String>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(client: &'a Client, filter: v1::AuditFilter, newest_first: bool) -> Self {
        Self { client, filter, newest_first, token: Some(String::new()) }
    }

    /// The next page, of at most `wanted` events, maybe of none; `None` behind the last.
    pub(super) async fn next(&mut self, wanted: u64) -> Result<Option<Vec<v1::AuditEvent>>, Error> {
        let Some(page_token) = self.token.take() else { return Ok(None) };
        let request = v1::QueryEventsRequest {
            filter: Some(self.filter.clone()),
            page_size: i32::try_from(wanted.min(PAGE_EVENTS)).unwrap_or(i32::MAX),
            page_token,
            newest_first: self.newest_first,
        };
        let page = self.client.query_events(request).await?;
        self.token = Some(page.next_page_token).filter(|token| !token.is_empty());
        Ok(Some(page.events))
    }
}
