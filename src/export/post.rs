//! An HTTP/1.1 client that does one thing: posts a body to one address and reads a short answer. The connection is kept.

use super::delivery::Failed;
use super::dial::Dial;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request, Uri};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prost::bytes::{Bytes, BytesMut};
use std::pin::Pin;
use std::time::Duration;
use tokio::task::JoinHandle;

/// An answer is a few bytes; what is longer is cut.
const ANSWER_AT_MOST: usize = 64 * 1024;
/// A receiver may ask to be left alone for so long.
const RETRY_AFTER_AT_MOST: Duration = Duration::from_hours(1);

/// Posts to one address.
pub(super) struct Post {
    dial: Dial,
    url: Uri,
    open: Option<Open>,
}

/// What came back.
pub(super) struct Answer {
    pub status: u16,
    pub content_type: String,
    pub retry_after: Option<Duration>,
    pub body: Bytes,
}

/// An open connection, and the task that moves its bytes.
struct Open {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Post {
    pub fn new(dial: Dial, url: Uri) -> Self {
        Self { dial, url, open: None }
    }

    /// Posts `body`. A kept connection may have been ended by the other side meanwhile; then it is tried once more on a new
    /// one.
    pub async fn post(&mut self, content_type: &str, body: &Bytes) -> Result<Answer, Failed> {
        if let Some(kept) = self.open.take().filter(|open| !open.sender.is_closed())
            && let Ok(answer) = self.on(kept, content_type, body).await
        {
            return Ok(answer);
        }
        let stream = TokioIo::new(self.dial.open().await?);
        let (sender, connection) = http1::handshake(stream).await.map_err(broken)?;
        // How it ends shows in the answer.
        let task = tokio::spawn(async move { drop(connection.await) });
        self.on(Open { sender, task }, content_type, body).await
    }

    /// Gives up the connection, if there is one.
    pub fn hang_up(&mut self) {
        self.open = None;
    }

    async fn on(&mut self, mut open: Open, content_type: &str, body: &Bytes) -> Result<Answer, Failed> {
        open.sender.ready().await.map_err(broken)?;
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::post(path)
            .header(HOST, self.url.authority().map_or("", |authority| authority.as_str()))
            .header(USER_AGENT, concat!("cloakroom/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, content_type)
            .header(CONTENT_LENGTH, body.len())
            .body(Full::new(body.clone()))
            .map_err(|error| Failed::Broken(error.to_string()))?;
        let response = open.sender.send_request(request).await.map_err(broken)?;
        let (head, content) = response.into_parts();
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let body = read(content).await?;
        self.open = Some(open);
        Ok(Answer {
            status: head.status.as_u16(),
            content_type: text(CONTENT_TYPE),
            retry_after: retry_after(&head.headers),
            body,
        })
    }
}

async fn read(mut content: Incoming) -> Result<Bytes, Failed> {
    let mut body = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut content).poll_frame(cx)).await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            let room = ANSWER_AT_MOST - body.len();
            body.extend_from_slice(&data[..data.len().min(room)]);
            if body.len() == ANSWER_AT_MOST {
                break;
            }
        }
    }
    Ok(body.freeze())
}

/// In seconds. A date is passed over: it would be held against a clock that may not be the other's.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_AT_MOST))
}

/// For `src/fuzz`: nobody makes the vault wait for longer.
#[cfg(test)]
pub(super) fn check_retry_after(value: &[u8]) {
    if let Ok(value) = http::HeaderValue::from_bytes(value) {
        let said = retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]));
        assert!(said.is_none_or(|said| said <= RETRY_AFTER_AT_MOST));
    }
}

fn broken(error: hyper::Error) -> Failed {
    Failed::Broken(error.to_string())
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_up_to_an_hour() {
        let said = |value: &'static str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, http::HeaderValue::from_static(value))]))
        };
        assert_eq!(said("7"), Some(Duration::from_secs(7)));
        assert_eq!(said(" 0 "), Some(Duration::ZERO));
        assert_eq!(said("999999"), Some(RETRY_AFTER_AT_MOST));
        assert_eq!(said("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(said("-1"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
