//! Streams of batches: each message is a call of its own, with its own decision, event and receipt, answered in order.
//!
//! Of one stream at most two batches with large answers are taken in and not yet read by its caller: one whose answer the
//! transport is sending, piece by piece, and one that waits for the transport or is still in work. The next message is
//! read only when there is room for its answer; until then it stays where HTTP/2's window stops the sender.
//! So a slow reader costs a bounded amount of memory, however much is sent.
//!
//! A stream runs in a task of its own. If its batches were run as their answers are asked for, a reader that stops
//! reading would stop an operation half-way, with the tokens that it holds a turn on.

use super::methods::{Counters, Method};
use super::{guard, status};
use crate::clock::Clock;
use crate::limits::bytes::{OF_A_CALL, Share};
use crate::vault::{Call, Failure, Reason, Vault};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Status};

/// Answers that wait for the transport to take them.
const ANSWERS_WAITING: usize = 1;

/// What every stream looks at between its batches.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub vault: Arc<Vault>,
    /// Says whether a certificate is still valid: a stream may outlive it.
    pub clock: Arc<dyn Clock>,
    pub streams: OpenStreams,
    /// True once the vault is stopping. Its sender is the process's assembly; if that is gone, so is the process.
    pub stopped: watch::Receiver<bool>,
}

/// Streams that one caller may have open at once. Each can hold three answers of 4 MiB that nobody reads, and what the
/// transport makes of them.
const STREAMS_OF_A_CALLER: usize = 16;

/// How many streams each caller has open.
#[derive(Clone, Default)]
pub(super) struct OpenStreams(Arc<Mutex<HashMap<String, usize>>>);

/// A stream's place among those of its caller, until its last answer is taken or its caller goes.
pub(super) struct OpenStream {
    all: OpenStreams,
    caller: String,
}

/// One stream's side of the vault.
pub(super) struct Batches {
    pub surroundings: Surroundings,
    pub call: Call,
    pub method: &'static Method,
    /// Counts each batch; `None` where the messages of a stream are no calls of their own.
    pub counters: Option<Counters>,
}

/// Where a stream's messages come from: its caller, or the log that it follows.
pub(super) trait Messages<Q>: Send + 'static {
    /// The next one. It may be dropped while it waits, if the stream is over then.
    fn take(&mut self) -> impl Future<Output = Option<Result<Q, Status>>> + Send;
}

impl<Q, S: Stream<Item = Result<Q, Status>> + Send + Unpin + 'static> Messages<Q> for S {
    fn take(&mut self) -> impl Future<Output = Option<Result<Q, Status>>> + Send {
        self.next()
    }
}

/// Answers in the order of their batches and then, if it was not the caller who ended the stream, why it ended.
pub struct Answers<T> {
    taken: mpsc::Receiver<(T, Arc<Share>)>,
    end: Option<oneshot::Receiver<Result<(), Status>>>,
    /// Held for as long as there may be answers that nobody has taken.
    _place: OpenStream,
}

impl OpenStreams {
    /// A place for one more stream of `caller`; `None` if it has too many.
    fn open(&self, caller: &str) -> Option<OpenStream> {
        let mut open = self.0.lock();
        let streams = open.entry(caller.to_owned()).or_default();
        if *streams >= STREAMS_OF_A_CALLER {
            return None;
        }
        *streams += 1;
        Some(OpenStream { all: self.clone(), caller: caller.to_owned() })
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.all.0.lock();
        if let Some(streams) = open.get_mut(&self.caller) {
            *streams -= 1;
            if *streams == 0 {
                open.remove(&self.caller);
            }
        }
    }
}

impl Batches {
    /// Answers `messages` one after the other with what `each` makes of them, until one fails.
    pub fn answer<Q, A, F>(
        self,
        messages: impl Messages<Q>,
        each: impl Fn(Call, Q) -> F + Send + 'static,
    ) -> Result<Answers<A>, Status>
    where
        Q: Send + 'static,
        A: Send + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        let caller = &self.call.caller;
        let Some(place) = self.surroundings.streams.open(caller.id.as_str()) else {
            self.surroundings.vault.turned_away(caller, self.method.action, Reason::Overloaded);
            self.count(Code::ResourceExhausted);
            return Err(status::of(Failure::Overloaded));
        };
        let (answers, taken) = mpsc::channel(ANSWERS_WAITING);
        let (end, ended) = oneshot::channel();
        // A batch in work is finished though the caller has gone, also if the vault stops.
        let under_way = self.surroundings.vault.begin();
        tokio::spawn(async move {
            let ended = self.run(messages, answers, each).await.map_err(status::unmarked);
            // Nobody is told if the caller has gone.
            let _ = end.send(ended);
            drop(under_way);
        });
        Ok(Answers { taken, end: Some(ended), _place: place })
    }

    async fn run<Q, A, F>(
        mut self,
        mut messages: impl Messages<Q>,
        answers: mpsc::Sender<(A, Arc<Share>)>,
        each: impl Fn(Call, Q) -> F + Send,
    ) -> Result<(), Status>
    where
        F: Future<Output = Result<A, Status>> + Send,
    {
        loop {
            // Room for the answer comes first: see above. An error means that the caller has gone.
            let Ok(room) = self.meanwhile(answers.reserve()).await? else { return Ok(()) };
            let message = tokio::select! {
                message = self.meanwhile(messages.take()) => message?,
                // Who follows a log may wait for long, and nothing else would tell that its caller has gone.
                () = answers.closed() => return Ok(()),
            };
            let message = match message {
                Some(Ok(message)) => message,
                None => return Ok(()),
                Some(Err(status)) => return self.unreadable(&status),
            };
            self.check_certificate()?;
            let share = self.share_of_batch();
            let call = Call { share: Arc::clone(&share), ..self.call.clone() };
            let outcome = in_time(self.call.deadline, each(call, message)).await;
            self.count(outcome.as_ref().map_or_else(Status::code, |_| Code::Ok));
            room.send((outcome?, share));
        }
    }

    /// What has come of the stream so far was this batch's message, and is held by it from now on. Its answer is held until the
    /// transport takes it.
    fn share_of_batch(&self) -> Arc<Share> {
        let of_stream = &self.call.share;
        let of_batch = of_stream.beside();
        of_batch.hold(of_stream.held().saturating_sub(OF_A_CALL));
        of_stream.hold(of_stream.held().min(OF_A_CALL));
        Arc::new(of_batch)
    }

    /// Waits for `event`, but no longer than the stream may last. A vault that is stopping comes before the next batch, and
    /// a batch that is there before the deadline: it then has an event that says that it was late.
    async fn meanwhile<T>(&mut self, event: impl Future<Output = T>) -> Result<T, Status> {
        let ended = tokio::select! {
            biased;
            () = stopping(&mut self.surroundings.stopped) => status::stopping(),
            event = event => return Ok(event),
            () = past(self.call.deadline) => status::deadline_exceeded(),
        };
        self.count(ended.code());
        Err(ended)
    }

    fn count(&self, code: Code) {
        if let Some(counters) = &self.counters {
            counters.count(code);
        }
    }

    fn check_certificate(&self) -> Result<(), Status> {
        let Surroundings { vault, clock, .. } = &self.surroundings;
        guard::check_certificate(vault, &**clock, &self.call.caller, self.method.action)
    }

    /// A message that can't be read: too long, compressed, not protobuf. Or its caller went away in the middle of it; then
    /// there is nothing to tell, and nobody.
    fn unreadable(&self, status: &Status) -> Result<(), Status> {
        if matches!(status.code(), Code::Cancelled | Code::Unknown | Code::Unavailable) {
            return Ok(());
        }
        if let Some(reason) = status::why_unreadable(status.code()) {
            self.surroundings.vault.turned_away(&self.call.caller, self.method.action, reason);
        }
        let status = status::of_transport(status.code()).unwrap_or_else(status::internal);
        self.count(status.code());
        Err(status)
    }
}

/// The outcome of a batch, or DEADLINE_EXCEEDED once nobody waits any more. What it does goes on in its own task.
async fn in_time<A>(deadline: Option<Instant>, work: impl Future<Output = Result<A, Status>>) -> Result<A, Status> {
    let Some(deadline) = deadline else { return work.await };
    tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(status::deadline_exceeded()))
}

async fn past(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn stopping(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the same news.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some((answer, _)) = ready!(self.taken.poll_recv(context)) {
            return Poll::Ready(Some(Ok(answer)));
        }
        let Some(end) = self.end.as_mut() else { return Poll::Ready(None) };
        let ended = ready!(Pin::new(end).poll(context));
        self.end = None;
        // A task that ended without a word has panicked: that must not look like the natural end of the stream.
        Poll::Ready(ended.unwrap_or_else(|_| Err(status::unmarked(status::internal()))).err().map(Err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{FakeClock, Timestamp};
    use crate::grpc::methods;
    use crate::proto::v1;
    use crate::vault::fixture::Fixture;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio_stream::wrappers::ReceiverStream;

    /// A stream of a vault's whose batches are numbers, and answered with the same ones.
    struct Numbers {
        fixture: Fixture,
        clock: Arc<FakeClock>,
        stop: watch::Sender<bool>,
        messages: mpsc::Sender<Result<usize, Status>>,
        answers: Answers<usize>,
        /// How many were begun.
        begun: Arc<AtomicUsize>,
    }

    fn batches(fixture: &Fixture, clock: &Arc<FakeClock>, stopped: watch::Receiver<bool>) -> Batches {
        let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
        let method = &methods::STREAM_TOKENIZE;
        Batches {
            surroundings: Surroundings {
                vault: Arc::clone(&fixture.vault),
                clock,
                streams: OpenStreams::default(),
                stopped,
            },
            call: fixture.client("gateway").call,
            method,
            counters: Some(Counters::of(method)),
        }
    }

    impl Numbers {
        async fn of(count: usize) -> Self {
            let (fixture, clock) = (Fixture::new(), FakeClock::at(Timestamp::from_millis(0)));
            let (stop, stopped) = watch::channel(false);
            let (messages, sent) = mpsc::channel(100);
            for number in 0..count {
                messages.send(Ok(number)).await.unwrap();
            }
            let begun = Arc::<AtomicUsize>::default();
            let counter = Arc::clone(&begun);
            let each = move |_, number| {
                counter.fetch_add(1, Ordering::SeqCst);
                async move { Ok(number) }
            };
            let answers = batches(&fixture, &clock, stopped).answer(ReceiverStream::new(sent), each).ok().unwrap();
            Self { fixture, clock, stop, messages, answers, begun }
        }

        /// Lets everything run that can.
        async fn settle(&self) -> usize {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            self.begun.load(Ordering::SeqCst)
        }

        async fn next(&mut self) -> Option<Result<usize, Code>> {
            self.answers.next().await.map(|answer| answer.map_err(|status| status.code()))
        }
    }

    #[tokio::test]
    async fn no_batch_is_begun_before_there_is_room_for_its_answer() {
        let mut numbers = Numbers::of(50).await;
        for number in 0..50 {
            assert_eq!(numbers.settle().await, number + 1);
            assert_eq!(numbers.next().await, Some(Ok(number)));
        }
        drop(numbers.messages);
        assert!(numbers.answers.next().await.is_none());
    }

    #[tokio::test]
    async fn a_caller_has_so_many_streams_open_and_others_have_theirs() {
        let streams = OpenStreams::default();
        let mut open: Vec<_> = (0..STREAMS_OF_A_CALLER).map(|_| streams.open("one").unwrap()).collect();
        assert!(streams.open("one").is_none());
        assert!(streams.open("other").is_some());
        open.pop();
        assert!(streams.open("one").is_some(), "one has ended");
        drop(open);
        assert!(streams.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_stop_ends_it_before_the_next_batch() {
        let mut numbers = Numbers::of(3).await;
        assert_eq!(numbers.next().await, Some(Ok(0)));
        assert_eq!(numbers.settle().await, 2);
        numbers.stop.send(true).unwrap();
        // What was begun is answered.
        assert_eq!(numbers.next().await, Some(Ok(1)));
        assert_eq!(numbers.next().await, Some(Err(Code::Unavailable)));
        assert_eq!(numbers.next().await, None);
        assert_eq!(numbers.settle().await, 2);
    }

    #[tokio::test]
    async fn a_certificate_that_ends_meanwhile_ends_it_and_is_counted() {
        let mut numbers = Numbers::of(1).await;
        assert_eq!(numbers.next().await, Some(Ok(0)));
        let not_after = numbers.fixture.client("gateway").call.caller.not_after;
        numbers.clock.set_wall(not_after);
        assert_eq!(numbers.settle().await, 1);
        numbers.messages.send(Ok(1)).await.unwrap();
        assert_eq!(numbers.next().await, Some(Err(Code::Unauthenticated)));
        assert_eq!(numbers.settle().await, 1);
        assert_eq!(numbers.fixture.vault.record_refusals().await.unwrap(), 1);
        assert_eq!(numbers.fixture.last_event().reason, "CERTIFICATE_EXPIRED");
    }

    #[tokio::test]
    async fn a_batch_past_the_deadline_is_refused_and_recorded() {
        let (fixture, clock) = (Fixture::new(), FakeClock::at(Timestamp::from_millis(0)));
        let (_stop, stopped) = watch::channel(false);
        let mut batches = batches(&fixture, &clock, stopped);
        batches.call.deadline = Some(Instant::now());
        let vault = Arc::clone(&fixture.vault);
        let each = move |call, batch| crate::grpc::token::tokenize(&vault, call, &methods::STREAM_TOKENIZE, batch);
        let items = vec![v1::TokenizeItem { value: vec![1], ..Default::default() }];
        let batch = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
        let mut answers = batches.answer(tokio_stream::iter([Ok(batch.clone()), Ok(batch)]), each).ok().unwrap();
        let codes: Vec<_> = [answers.next().await, answers.next().await]
            .into_iter()
            .map(|answer| answer.map(|answer| answer.map(drop).map_err(|status| status.code())))
            .collect();
        assert_eq!(codes, [Some(Err(Code::DeadlineExceeded)), None]);
        // Its event is written, whether or not somebody still waits for it.
        while fixture.last_event().reason != "DEADLINE_EXCEEDED" {
            tokio::task::yield_now().await;
        }
        assert_eq!(fixture.last_event().succeeded, 0);
    }

    /// What a reader finds, after one answer, of a stream that ends so.
    async fn end(ended: Option<Result<(), Status>>) -> (usize, Option<Code>) {
        let (answers, taken) = mpsc::channel(1);
        let (tell, end) = oneshot::channel();
        let place = OpenStreams::default().open("a").unwrap();
        let mut stream = Answers { taken, end: Some(end), _place: place };
        let share = Arc::new(crate::limits::bytes::Budget::new(0).nothing());
        answers.send((1, share)).await.unwrap();
        drop(answers);
        match ended {
            Some(ended) => tell.send(ended).unwrap(),
            None => drop(tell),
        }
        let (mut read, mut failed) = (0, None);
        while let Some(answer) = stream.next().await {
            match answer {
                Ok(_) => read += 1,
                Err(status) => failed = Some(status.code()),
            }
        }
        (read, failed)
    }

    #[tokio::test]
    async fn answers_come_before_the_end_and_a_lost_task_is_no_natural_end() {
        assert_eq!(end(Some(Ok(()))).await, (1, None));
        assert_eq!(end(Some(Err(status::stopping()))).await, (1, Some(Code::Unavailable)));
        assert_eq!(end(None).await, (1, Some(Code::Internal)));
    }
}
