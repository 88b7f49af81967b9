//! The bodies of calls and answers, whose bytes are held in the call's share for as long as they are here.

use crate::limits::bytes::{INCLUDED, OF_A_CALL, Share};
use hyper::body::{Body as _, Frame, SizeHint};
use prost::bytes::Bytes;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::body::Body;

/// As much of an answer as the transport takes at a time. What it has taken is its own until the caller reads it, so of a caller
/// who does not, the rest stays here.
const PIECE: usize = 16 << 10;

/// A call's message as it comes, or a stream's messages. It ends with an error where there is no room for more.
pub(super) struct Incoming {
    inner: Body,
    share: Arc<Share>,
    seen: usize,
}

/// An answer as it goes.
pub(super) struct Outgoing {
    inner: Body,
    share: Arc<Share>,
    /// Whether it is the only one: then it is all that is left of its call.
    is_last: bool,
    rest: Bytes,
}

impl Incoming {
    /// What comes in `inner` is held by `share`.
    pub fn body(inner: Body, share: Arc<Share>) -> Body {
        Body::new(Self { inner, share, seen: 0 })
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        let before = self.seen;
        self.seen = before.saturating_add(bytes);
        if self.seen <= INCLUDED {
            return Ok(());
        }
        let more = if before <= INCLUDED { self.seen } else { bytes };
        // What it means is said where all statuses are: see `status::sanitize`.
        self.share.grow(more).map_err(|_| Status::resource_exhausted(""))
    }
}

impl Outgoing {
    /// What goes out of `inner` is held by `share`, of a single answer `is_last`.
    pub fn body(inner: Body, share: Arc<Share>, is_last: bool) -> Body {
        if inner.is_end_stream() {
            return inner;
        }
        Body::new(Self { inner, share, is_last, rest: Bytes::new() })
    }

    fn piece(&mut self) -> Frame<Bytes> {
        Frame::data(self.rest.split_to(self.rest.len().min(PIECE)))
    }
}

impl hyper::body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(status) = self.hold(data.len())
        {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(data) => {
                    if self.is_last && self.share.held() != OF_A_CALL.max(data.len()) {
                        self.share.hold(OF_A_CALL.max(data.len()));
                    }
                    self.rest = data;
                    self.piece()
                }
                Err(trailers) => trailers,
            })),
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::bytes::Budget;
    use std::convert::Infallible;

    /// A body in one piece.
    struct Whole(Option<Bytes>);

    impl hyper::body::Body for Whole {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, Status>> {
        std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    }

    fn of(bytes: usize) -> Body {
        Body::new(Whole(Some(Bytes::from(vec![7; bytes]))))
    }

    #[tokio::test]
    async fn what_is_on_its_way_is_held_and_given_back_d_07() {
        let budget = Budget::new(1 << 20);
        for bytes in [0, 1, INCLUDED, INCLUDED + 1, 3 * PIECE, 900 << 10] {
            let share = Arc::new(budget.call().unwrap());
            let mut body = Incoming::body(of(bytes), Arc::clone(&share));
            let mut read = 0;
            while let Some(frame) = next(&mut body).await {
                read += frame.unwrap().into_data().unwrap().len();
            }
            let held = if bytes <= INCLUDED { OF_A_CALL } else { OF_A_CALL + bytes };
            assert_eq!((read, budget.held()), (bytes, held));
            drop(body);
            let mut body = Outgoing::body(of(bytes), share, true);
            let (mut sent, mut longest) = (0, 0);
            while let Some(frame) = next(&mut body).await {
                let length = frame.unwrap().into_data().unwrap().len();
                (sent, longest) = (sent + length, longest.max(length));
                assert_eq!(budget.held(), OF_A_CALL.max(bytes), "until the last piece is taken");
            }
            assert_eq!((sent, longest), (bytes, bytes.min(PIECE)));
            drop(body);
            assert_eq!(budget.held(), 0);
        }
        let share = Arc::new(budget.call().unwrap());
        let mut body = Incoming::body(of(1 << 20), share);
        assert_eq!(next(&mut body).await.unwrap().err().unwrap().code(), tonic::Code::ResourceExhausted);
        drop(body);
        assert_eq!(budget.held(), 0);
    }
}
