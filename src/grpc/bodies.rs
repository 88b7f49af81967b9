//! The bodies of calls and answers: what passes here is counted, waits until it is whole, and says whose turn it is.
//!
//! The bytes of a call are held in its share for as long as they are here. Messages go on to be decoded when they are whole
//! (`gather`). The transport asks a reply for its next piece when the peer has room for it, so between two questions, once
//! there was a piece to give, it is the peer who is waited for. A call's one message is the peer's turn until it has come whole.

use super::gather::Gather;
use super::status;
use crate::limits::bytes::{Exhausted, INCLUDED, OF_A_CALL, Share};
use crate::tls::{Wait, Waits};
use crate::vault::Failure;
use http::HeaderMap;
use hyper::body::{Body as _, Frame};
use prost::bytes::Bytes;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tonic::body::Body;
use tonic::{Code, Status};

/// As much of an answer as the transport takes at a time. What it has taken is its own until the caller reads it, so of a caller
/// who does not, the rest stays here.
const PIECE: usize = 16 << 10;

/// The messages of a call, as they come. They end with an error where there is no room for more.
struct Messages {
    body: Body,
    share: Arc<Share>,
    seen: usize,
    gather: Gather,
    /// What comes after all that was gathered: trailers, a failure, or nothing.
    last: Option<Polled>,
    /// Where there is to be one alone, from the beginning; else while one is on its way.
    wait: Wait,
    is_one: bool,
    /// Whether it is the peer's turn.
    is_awaited: bool,
}

/// An answer as it goes.
struct Reply {
    body: Body,
    share: Arc<Share>,
    answer: Answer,
    rest: Bytes,
    wait: Wait,
}

/// What a call is answered with.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// One message, which then is all that is left of its call.
    One,
    /// Any number of them.
    Many,
    /// Any number of them, for which nobody needs a permission: where there is no room for another they end.
    Probes,
}

/// A message until HTTP/2 has sent it, or has dropped it with its stream. It has no bound of its own for what a peer has windows
/// for and does not read.
struct Unsent {
    message: Bytes,
    _share: Arc<Share>,
}

/// What a body has next.
type Polled = Option<Result<Frame<Bytes>, Status>>;

/// `body`, held by `share`, which the peer of `waits` is to send: one message, or as many as it likes, whenever it likes. None is
/// longer than `longest`.
pub(super) fn messages(body: Body, share: Arc<Share>, waits: &Arc<Waits>, is_one: bool, longest: usize) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let wait = if is_one { waits.for_peer() } else { waits.for_nobody() };
    let gather = Gather::new(longest);
    Body::new(Messages { body, share, seen: 0, gather, last: None, wait, is_one, is_awaited: is_one })
}

/// `body`, held by `share`, which the peer of `waits` is to take.
pub(super) fn reply(body: Body, share: Arc<Share>, waits: &Arc<Waits>, answer: Answer) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let wait = waits.for_peer();
    Body::new(Reply { body, share, answer, rest: Bytes::new(), wait })
}

impl hyper::body::Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Polled> {
        loop {
            if let Some(data) = self.gather.next() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if let Some(last) = self.last.take() {
                return Poll::Ready(last);
            }
            let polled = ready!(Pin::new(&mut self.body).poll_frame(context));
            if !matches!(polled, Some(Ok(_))) || self.body.is_end_stream() {
                self.awaits(false);
            }
            match polled.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => match self.hold(data.len()) {
                    Ok(()) => {
                        let whole = self.gather.push(data);
                        if !self.is_one {
                            let is_begun = self.gather.is_begun();
                            self.awaits(is_begun);
                        }
                        if let Some(data) = whole {
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                    }
                    Err(refused) => self.end(Some(Err(refused))),
                },
                Some(Ok(Err(trailers))) => self.end(Some(Ok(trailers))),
                // The connection broke off: nobody hears of it, and nothing here has failed.
                Some(Err(failure)) if failure.code() == Code::Unknown => self.end(Some(Err(Status::cancelled("")))),
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

    fn awaits(&mut self, is_awaited: bool) {
        match (self.is_awaited, is_awaited) {
            (false, true) => self.wait.for_peer(),
            (true, false) => self.wait.for_us(),
            _ => {}
        }
        self.is_awaited = is_awaited;
    }

    fn end(&mut self, last: Polled) {
        self.awaits(false);
        self.gather.release();
        self.last = Some(last);
    }
}

impl hyper::body::Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Polled> {
        // It is asked for the next piece when the peer has room: what went before has been taken, or is on the wire.
        let goes_on = !self.rest.is_empty();
        let polled = self.poll_piece(context);
        match &polled {
            Poll::Ready(Some(Ok(_))) if goes_on => self.wait.taken(PIECE),
            Poll::Ready(Some(Ok(_))) => self.wait.for_peer(),
            Poll::Ready(_) | Poll::Pending => self.wait.for_us(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}

impl Reply {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Polled> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => Some(frame.into_data().map_or_else(Ok, |data| match self.hold(data) {
                Ok(held) => {
                    self.rest = held;
                    Ok(self.piece())
                }
                Err(Exhausted) => self.refuse(),
            })),
            other => other,
        })
    }

    fn refuse(&mut self) -> Result<Frame<Bytes>, Status> {
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        status::of(Failure::Overloaded).add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }

    fn hold(&self, message: Bytes) -> Result<Bytes, Exhausted> {
        let bytes = message.len();
        let share = if let Answer::One = self.answer {
            let held = OF_A_CALL.max(bytes);
            if self.share.held() != held {
                self.share.hold(held);
            }
            Arc::clone(&self.share)
        } else {
            let share = self.share.beside();
            match self.answer {
                Answer::Probes => share.grow(bytes)?,
                // What it tells is done, and has to be told.
                _ => share.add(bytes),
            }
            Arc::new(share)
        };
        Ok(Bytes::from_owner(Unsent { message, _share: share }))
    }

    fn piece(&mut self) -> Frame<Bytes> {
        Frame::data(self.rest.split_to(self.rest.len().min(PIECE)))
    }
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

#[cfg(test)]
mod tests {
    use super::super::MESSAGE_BYTES_AT_MOST;
    use super::*;
    use crate::limits::bytes::Budget;
    use crate::tls::Turns;
    use std::convert::Infallible;
    use std::time::Duration;

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

    /// What comes when somebody says so.
    struct Slow(tokio::sync::mpsc::UnboundedReceiver<Bytes>);

    impl hyper::body::Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(context).map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }

    #[tokio::test]
    async fn a_stream_waits_for_the_rest_of_a_message_and_not_for_the_next_one_d_04() {
        let (budget, turns) = (Budget::new(1 << 20), Arc::new(Turns::default()));
        let waits = Waits::on(Arc::clone(&turns));
        let (send, pieces) = tokio::sync::mpsc::unbounded_channel();
        let share = Arc::new(budget.call().unwrap());
        let mut body = messages(Body::new(Slow(pieces)), share, &waits, false, 100);
        let is_awaited = || {
            turns.pass(Duration::from_millis(1));
            !waits.longest().is_zero()
        };
        for (piece, awaited) in
            [(&[0, 0][..], true), (&[0, 0, 3, 7], true), (&[7, 7], false), (&[0, 0, 0, 0, 1, 7], false)]
        {
            assert!(send.send(Bytes::copy_from_slice(piece)).is_ok());
            let polled = has_some(&mut body).await;
            assert_eq!((polled, is_awaited()), (!awaited, awaited), "{piece:?}");
        }
    }

    /// Whether there is something at once.
    async fn has_some(body: &mut Body) -> bool {
        let polled = std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context))).await;
        polled.is_ready()
    }

    /// A body that its peer does not end.
    struct Broken;

    impl hyper::body::Body for Broken {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
        }
    }

    #[tokio::test]
    async fn a_connection_that_breaks_off_is_no_failure_of_ours() {
        let share = Arc::new(Budget::new(1 << 20).call().unwrap());
        let mut body = messages(Body::new(Broken), share, &Arc::default(), true, MESSAGE_BYTES_AT_MOST);
        assert_eq!(next(&mut body).await.unwrap().err().unwrap().code(), Code::Cancelled);
    }

    #[tokio::test]
    async fn what_is_on_its_way_is_held_and_given_back_d_07() {
        let (budget, waits) = (Budget::new(1 << 20), Arc::default());
        for bytes in [0, 1, INCLUDED, INCLUDED + 1, 3 * PIECE, 900 << 10] {
            let share = Arc::new(budget.call().unwrap());
            let mut body = messages(of(bytes), Arc::clone(&share), &waits, true, MESSAGE_BYTES_AT_MOST);
            let mut read = 0;
            while let Some(frame) = next(&mut body).await {
                read += frame.unwrap().into_data().unwrap().len();
            }
            let held = if bytes <= INCLUDED { OF_A_CALL } else { OF_A_CALL + bytes };
            assert_eq!((read, budget.held()), (bytes, held));
            drop(body);
            let pieces = taken(reply(of(bytes), share, &waits, Answer::One)).await;
            assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), bytes);
            assert_eq!(pieces.iter().map(Bytes::len).max().unwrap(), bytes.min(PIECE));
            for piece in pieces {
                assert_eq!(budget.held(), OF_A_CALL.max(bytes), "until the last piece has left");
                drop(piece);
            }
            assert_eq!(budget.held(), 0);
        }
        let share = Arc::new(budget.call().unwrap());
        let mut body = messages(of(1 << 20), share, &waits, true, MESSAGE_BYTES_AT_MOST);
        assert_eq!(next(&mut body).await.unwrap().err().unwrap().code(), Code::ResourceExhausted);
        drop(body);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn what_a_stream_tells_counts_until_it_has_left_and_reflection_ends_where_there_is_no_room_d_04() {
        let (budget, waits) = (Budget::new(OF_A_CALL + 10), Arc::default());
        for (answer, bytes) in [(Answer::Many, 10), (Answer::Many, 11), (Answer::Probes, 10)] {
            let share = Arc::new(budget.call().unwrap());
            let pieces = taken(reply(of(bytes), share, &waits, answer)).await;
            assert_eq!(budget.held(), bytes, "the call is over");
            drop(pieces);
            assert_eq!(budget.held(), 0);
        }
        let share = Arc::new(budget.call().unwrap());
        let mut body = reply(of(11), share, &waits, Answer::Probes);
        let trailers = next(&mut body).await.unwrap().unwrap().into_trailers().ok().unwrap();
        assert_eq!(trailers["grpc-status"], (Code::ResourceExhausted as i32).to_string());
        assert!(next(&mut body).await.is_none(), "nothing comes after the refusal");
        drop(body);
        assert_eq!(budget.held(), 0);
    }

    /// All of an answer, as HTTP/2 takes it before it has sent any of it.
    async fn taken(mut body: Body) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        while let Some(frame) = next(&mut body).await {
            pieces.push(frame.unwrap().into_data().ok().unwrap());
        }
        pieces
    }
}
