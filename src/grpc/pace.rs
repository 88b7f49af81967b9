//! Bodies that say whose turn it is: the peer's or ours.
//!
//! The transport asks a reply for its next piece when the peer has room for it, so between two questions, once there was a
//! piece to give, it is the peer who is waited for. A call's one message is the peer's turn until it has come whole.

use crate::tls::{Wait, Waits};
use hyper::body::{Body as _, Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

/// A reply.
struct Reply {
    body: Body,
    wait: Wait,
}

/// The one message of a call.
struct Message {
    body: Body,
    wait: Wait,
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

/// `body`, which the peer of `waits` is to send.
pub(super) fn message(body: Body, waits: &Arc<Waits>) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let wait = waits.begin();
    wait.for_peer(Instant::now());
    Body::new(Message { body, wait })
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

impl hyper::body::Body for Message {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) || self.body.is_end_stream() {
            self.wait.for_us();
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
