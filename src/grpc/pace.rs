//! Bodies that say whose turn it is: the peer's or ours.
//!
//! The transport asks a reply for its next piece when the peer has room for it, so between two questions, once there was a
//! piece to give, it is the peer who is waited for. A call's one message is the peer's turn until it has come whole.
//! Messages go on to be decoded when they are whole (`gather`).

use super::MESSAGE_BYTES_AT_MOST;
use super::gather::Gather;
use crate::tls::{Wait, Waits};
use hyper::body::{Body as _, Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

/// A reply.
struct Reply {
    body: Body,
    wait: Wait,
}

/// The messages of a call.
struct Messages {
    body: Body,
    gather: Gather,
    /// What comes after all that was gathered: trailers, a failure, or nothing.
    last: Option<Option<Result<Frame<Bytes>, Status>>>,
    /// Where there is to be one alone.
    wait: Option<Wait>,
}

/// `body`, which the peer of `waits` is to take.
pub(super) fn reply(body: Body, waits: &Arc<Waits>) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let wait = waits.begin();
    wait.for_peer(Instant::now());
    Body::new(Reply { body, wait })
}

/// `body`, which the peer of `waits` is to send: one message, or as many as it likes, whenever it likes.
pub(super) fn messages(body: Body, waits: &Arc<Waits>, is_one: bool) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let wait = is_one.then(|| {
        let wait = waits.begin();
        wait.for_peer(Instant::now());
        wait
    });
    Body::new(Messages { body, gather: Gather::new(MESSAGE_BYTES_AT_MOST), last: None, wait })
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl hyper::body::Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(_))) => self.wait.for_peer(Instant::now()),
            Poll::Ready(_) | Poll::Pending => self.wait.for_us(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl hyper::body::Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        loop {
            if let Some(data) = self.gather.next() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if let Some(last) = self.last.take() {
                return Poll::Ready(last);
            }
            let polled = ready!(Pin::new(&mut self.body).poll_frame(context));
            if let Some(wait) = &self.wait
                && (!matches!(polled, Some(Ok(_))) || self.body.is_end_stream())
            {
                wait.for_us();
            }
            match polled.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.gather.push(data),
                Some(Ok(Err(trailers))) => self.end(Some(Ok(trailers))),
                Some(Err(failure)) => self.end(Some(Err(failure))),
                None => self.end(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.gather.is_empty() && self.body.is_end_stream()
    }
}

impl Messages {
    fn end(&mut self, last: Option<Result<Frame<Bytes>, Status>>) {
        self.gather.release();
        self.last = Some(last);
    }
}
