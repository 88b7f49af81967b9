//! One sink's loop: read, send, wait for the acknowledgement, move the cursor.

use super::backoff::Backoff;
use super::cursor::Cursor;
use super::delivery::{Delivered, Failed, Prepared};
use super::dial::Dial;
use super::otlp::Otlp;
use super::post::Post;
use super::progress::Progress;
use super::source::{self, EVENTS_AT_MOST, Found};
use super::syslog::Syslog;
use super::{Format, From, Log, Settings, SetupError, Target};
use std::pin::pin;
use std::time::Duration;

/// How long things take. Tests have their own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// A batch must be through in this, connecting included.
    pub deadline: Duration,
    /// What was written to a receiver that never acknowledges counts as taken after this, if the connection is still
    /// there: one that has gone away says so within a round trip.
    pub settling: Duration,
    /// The cursor is stored so often at the most. What was sent since is sent again after a crash.
    pub storing: Duration,
    /// Gauges are set so often at the least.
    pub showing: Duration,
    /// The first and the longest pause after a failure.
    pub pauses: (Duration, Duration),
}

const PACE: Pace = Pace {
    deadline: Duration::from_secs(10),
    settling: Duration::from_secs(1),
    storing: Duration::from_secs(1),
    showing: Duration::from_secs(1),
    pauses: (Duration::from_millis(500), Duration::from_mins(1)),
};

/// So many events in a row are set aside. If a sink refuses more than that, it is the sink that is wrong.
const SET_ASIDE_AT_MOST: u32 = 16;

/// Sends the log to one sink.
pub struct Follower {
    log: Log,
    sink: Sink,
    format: Format,
    pace: Pace,
    cursor: Cursor,
    progress: Progress,
    backoff: Backoff,
    /// What the cursor's file says.
    stored: u64,
    /// When it was written, or could not be.
    stored_at: Option<Duration>,
    /// Whether the last attempt to write it failed, which the log has been told.
    unstorable: bool,
    /// Events that are sent at once. Less than the most while the sink refuses content, to find out which.
    at_once: usize,
    /// Events set aside since the last that was taken.
    set_aside: u32,
}

enum Sink {
    Syslog(Syslog),
    Otlp(Otlp),
}

impl Follower {
    /// Opens the sink's cursor. Nothing is sent before [`Follower::run`].
    ///
    /// # Errors
    /// If the cursor is of no use or the sink's host can't be.
    pub fn open(settings: Settings, log: Log) -> Result<Self, SetupError> {
        Self::paced(settings, log, PACE)
    }

    pub(super) fn paced(settings: Settings, log: Log, pace: Pace) -> Result<Self, SetupError> {
        let Settings { name, target, tls, format, from, cursors } = settings;
        let sink = match target {
            Target::Syslog { host, port } => Sink::Syslog(Syslog::new(Dial::new(&host, port, tls)?)),
            Target::Otlp { url } => {
                let host = url.host().unwrap_or_default().to_owned();
                let port = url.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
                Sink::Otlp(Otlp::new(Post::new(Dial::new(&host, port, tls)?, url)))
            }
        };
        let durable = *log.durable.borrow();
        let (cursor, next) = Cursor::open(&cursors, &name, &log.log_id, durable)?;
        let begin = match (next, from) {
            (Some(next), _) => next,
            (None, From::Beginning) => 0,
            (None, From::Now) => durable,
        };
        if next.is_none() {
            // At once: what is written before the first batch is through must not be passed over by the next start.
            cursor.store(begin)?;
        }
        let progress = Progress::new(&name, begin);
        let backoff = Backoff::new(pace.pauses.0, pace.pauses.1);
        Ok(Self {
            log,
            sink,
            format,
            pace,
            cursor,
            progress,
            backoff,
            stored: begin,
            stored_at: None,
            unstorable: false,
            at_once: EVENTS_AT_MOST,
            set_aside: 0,
        })
    }

    /// The sink's name.
    pub fn name(&self) -> &str {
        &self.progress.name
    }

    /// Follows the log until `stop`. What is not settled by then is sent again by the next start.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = self.step() => {}
            }
        }
        self.sink.end().await;
        self.store().await;
    }

    async fn step(&mut self) {
        let now = self.log.clock.monotonic();
        // A connection that ended while something else was done must not count as one that is still there.
        if self.progress.settles_at(self.pace.settling).is_some_and(|at| at <= now)
            && let Some(gone) = self.sink.gone().await
        {
            return self.fail(&gone).await;
        }
        self.progress.settle(now, self.pace.settling);
        self.progress.show(&self.log);
        if self.stored_at.is_none_or(|when| now.saturating_sub(when) >= self.pace.storing) {
            self.store().await;
        }
        let durable = *self.log.durable.borrow_and_update();
        if self.progress.sent >= durable {
            return self.wait().await;
        }
        match self.read(durable).await {
            Ok(Found::Begins(first)) => self.progress.skip_to(first),
            Ok(Found::Events(batch)) => {
                if let Err(failure) = self.deliver(&batch).await {
                    self.fail(&failure).await;
                }
            }
            Err(failure) => self.fail(&failure).await,
        }
    }

    /// Until there are more events, or the next thing is due.
    async fn wait(&mut self) {
        let now = self.log.clock.monotonic();
        let settles = self.progress.settles_at(self.pace.settling).map(|at| at.saturating_sub(now));
        let due = settles.map_or(self.pace.showing, |due| due.min(self.pace.showing));
        let durable = &mut self.log.durable;
        let more = async {
            // Whoever counted the commits is gone: there will be none any more, and the stop comes.
            if durable.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let gone = tokio::select! {
            () = more => return,
            () = tokio::time::sleep(due) => return,
            gone = self.sink.closed() => gone,
        };
        // An idle connection may end. With something unsettled on it, that has to be sent again.
        if self.progress.settles_at(self.pace.settling).is_some() {
            self.fail(&gone).await;
        }
    }

    async fn read(&self, durable: u64) -> Result<Found, Failed> {
        let (log, format, from) = (self.log.clone(), self.format, self.progress.sent);
        let read = tokio::task::spawn_blocking(move || source::read(&log, format, from, durable)).await;
        read.map_err(|_| Failed::Log("a fault in Cloakroom while reading; please report it".to_owned()))?
    }

    /// Sends a batch in as many parts as it takes.
    async fn deliver(&mut self, batch: &[Prepared]) -> Result<(), Failed> {
        let mut rest = batch;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(self.at_once.min(rest.len()));
            self.progress.sending(part);
            match self.attempt(part).await {
                Ok(delivered) => {
                    self.delivered(part, delivered).await;
                    rest = behind;
                }
                Err(Failed::Content(_)) if part.len() > 1 => self.at_once = part.len() / 2,
                Err(Failed::Content(status)) => {
                    self.refused(part, status).await?;
                    rest = behind;
                }
                Err(failure) => {
                    if let Failed::Timeout(_) = failure {
                        // The way may be slow: less gets through in the same time.
                        self.at_once = (part.len() / 4).max(1);
                    }
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    async fn delivered(&mut self, part: &[Prepared], delivered: Delivered) {
        let now = self.log.clock.monotonic();
        match delivered {
            Delivered::Written => self.progress.written(part, now),
            Delivered::Acknowledged => self.progress.acknowledged(part, now),
            Delivered::Partly { refused, said } => {
                let (first, last) = ends(part);
                tracing::error!(
                    sink = self.progress.name,
                    events = refused,
                    first,
                    last,
                    said,
                    "the sink refuses some of these events for good: they are not sent again. They stay in the log"
                );
                self.write_down(first, last, refused, "partial success").await;
                self.progress.acknowledged(part, now);
            }
        }
        self.backoff.reset();
        self.set_aside = 0;
        self.at_once = (self.at_once * 2).min(EVENTS_AT_MOST);
    }

    /// One event that the sink refuses for its content. If it accepts a request with nothing in it, it is the event that it
    /// can't take, and those behind it go on; else, or if that happens again and again, it is the sink.
    async fn refused(&mut self, part: &[Prepared], status: u16) -> Result<(), Failed> {
        if self.set_aside >= SET_ASIDE_AT_MOST || self.sink.probe(self.pace.deadline).await.is_err() {
            return Err(Failed::Unwilling { said: format!("HTTP {status} to everything"), retry_after: None });
        }
        self.set_aside += 1;
        let (first, last) = ends(part);
        tracing::error!(
            sink = self.progress.name,
            sequence = first,
            status,
            "the sink refuses this event for good: it is set aside, and those behind it are sent. It stays in the log"
        );
        self.write_down(first, last, 1, &format!("HTTP {status}")).await;
        self.progress.pass_over(last + 1, self.log.clock.monotonic());
        Ok(())
    }

    async fn write_down(&mut self, first: u64, last: u64, events: u64, why: &str) {
        self.progress.refused(events);
        let (cursor, why) = (self.cursor.clone(), why.to_owned());
        let written = tokio::task::spawn_blocking(move || cursor.set_aside(first, last, events, &why)).await;
        if let Ok(Err(error)) = written {
            tracing::error!(sink = self.progress.name, %error, "what the sink refused could not be written down");
        }
    }

    async fn attempt(&mut self, part: &[Prepared]) -> Result<Delivered, Failed> {
        let mut sending = pin!(tokio::time::timeout(self.pace.deadline, self.sink.send(part)));
        loop {
            tokio::select! {
                sent = &mut sending => return sent.unwrap_or(Err(Failed::Timeout(self.pace.deadline))),
                () = tokio::time::sleep(self.pace.showing) => self.progress.show(&self.log),
            }
        }
    }

    /// What is not settled is to be sent again, after a pause.
    async fn fail(&mut self, failure: &Failed) {
        self.sink.hang_up();
        self.progress.take_back();
        self.progress.failed(failure, self.log.clock.monotonic());
        // Without randomness the pause is the longest of its step.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        let mut pause = pin!(tokio::time::sleep(self.backoff.next(failure.retry_after(), random)));
        loop {
            self.progress.show(&self.log);
            tokio::select! {
                () = &mut pause => return,
                () = tokio::time::sleep(self.pace.showing) => {}
            }
        }
    }

    /// Moves the cursor to what is settled, if that is news.
    async fn store(&mut self) {
        let next = self.progress.settled;
        if self.stored == next {
            return;
        }
        let cursor = self.cursor.clone();
        let stored = tokio::task::spawn_blocking(move || cursor.store(next)).await;
        self.stored_at = Some(self.log.clock.monotonic());
        match stored {
            Ok(Ok(())) => {
                self.stored = next;
                self.unstorable = false;
            }
            // Sending goes on: without a cursor a later start repeats, and loses nothing.
            Ok(Err(error)) => {
                if !std::mem::replace(&mut self.unstorable, true) {
                    let sink = &self.progress.name;
                    tracing::error!(sink, %error, "the sink's cursor can't be stored: it is tried again and again");
                }
            }
            // A panic, which has been logged by the panic hook.
            Err(_) => {}
        }
    }
}

impl Sink {
    async fn send(&mut self, batch: &[Prepared]) -> Result<Delivered, Failed> {
        match self {
            Self::Syslog(syslog) => syslog.send(batch).await,
            Self::Otlp(otlp) => otlp.send(batch).await,
        }
    }

    async fn probe(&mut self, deadline: Duration) -> Result<(), Failed> {
        match self {
            Self::Syslog(_) => Ok(()),
            Self::Otlp(otlp) => {
                tokio::time::timeout(deadline, otlp.probe()).await.unwrap_or(Err(Failed::Timeout(deadline)))
            }
        }
    }

    /// Waits until the receiver ends the connection. For ever, where that is no news.
    async fn closed(&mut self) -> Failed {
        match self {
            Self::Syslog(syslog) => syslog.closed().await,
            Self::Otlp(_) => std::future::pending().await,
        }
    }

    /// Whether the receiver has ended the connection by now.
    async fn gone(&mut self) -> Option<Failed> {
        tokio::select! {
            biased;
            gone = self.closed() => Some(gone),
            () = std::future::ready(()) => None,
        }
    }

    /// Ends the connection in order.
    async fn end(&mut self) {
        match self {
            Self::Syslog(syslog) => syslog.end().await,
            Self::Otlp(otlp) => otlp.hang_up(),
        }
    }

    fn hang_up(&mut self) {
        match self {
            Self::Syslog(syslog) => syslog.hang_up(),
            Self::Otlp(otlp) => otlp.hang_up(),
        }
    }
}

/// The first and the last sequence of a part, which has at least one event.
fn ends(part: &[Prepared]) -> (u64, u64) {
    let sequence = |event: Option<&Prepared>| event.map_or(0, |event| event.sequence);
    (sequence(part.first()), sequence(part.last()))
}
