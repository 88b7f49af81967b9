//! Followers against receivers that do what receivers do: are slow, go away in the middle, never read, say no.
//!
//! Nothing here waits for a while: a test waits for what the receiver saw or what the cursor says.

mod collector;
pub(crate) mod parser;
mod relay;

use super::follower::Pace;
use super::*;
use crate::clock::{SystemClock, Timestamp};
use crate::event::{self, Action, Event, Outcome};
use crate::store::{Batch, MemoryStore, Store, Table};
use collector::{Collector, Reply};
use relay::Relay;
use std::time::Duration;
use tokio::sync::oneshot;

const LOG: &str = "dev.cloakroom.internal/vault";
/// Nothing takes a hundredth of this; a test that hangs shall fail.
const HANG: Duration = Duration::from_mins(2);
const MILLISECOND: Duration = Duration::from_millis(1);

/// As in earnest, but for impatient tests.
const QUICK: Pace = Pace {
    deadline: HANG,
    settling: Duration::ZERO,
    storing: Duration::ZERO,
    showing: MILLISECOND,
    pauses: (MILLISECOND, Duration::from_millis(4)),
};

/// A log, and the place of a cursor.
struct Site {
    store: Arc<MemoryStore>,
    durable: watch::Sender<u64>,
    folder: tempfile::TempDir,
}

/// A follower that runs.
struct Running {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Site {
    /// With so many events.
    fn new(events: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Self { store: Arc::new(MemoryStore::new()), durable: watch::Sender::new(0), folder };
        site.write(events, 0);
        site.commit();
        site
    }

    /// The same log, for a sink that has no cursor yet.
    fn with_fresh_cursor(&self) -> Self {
        let (store, durable) = (Arc::clone(&self.store), self.durable.clone());
        Self { store, durable, folder: tempfile::tempdir().unwrap() }
    }

    /// Writes so many events more, each with as many handles. They are not durable before [`Site::commit`].
    fn write(&self, events: u64, handles: usize) {
        let first = self.store.scan(Table::Events, &[], &[0xff; 9], crate::store::Order::Descending, 1).unwrap();
        let first = first.first().map_or(0, |(key, _)| u64::from_be_bytes(key[..].try_into().unwrap()) + 1);
        let mut batch = Batch::default();
        for sequence in first..first + events {
            let handle = [0xaa; event::HANDLE_BYTES];
            let event = Event {
                action: Action::Detokenize.into(),
                outcome: Outcome::Allowed.into(),
                caller: format!("spiffe://dev.cloakroom.internal/{sequence}"),
                handles: event::handles((0..handles).map(|_| Some(&handle))),
                ..Event::default()
            };
            let time = Timestamp::from_millis(1_790_000_000_000 + sequence);
            batch.put(Table::Events, &sequence.to_be_bytes(), &event::finish(&event.encode_body(), time));
        }
        self.store.commit(&batch).unwrap();
    }

    fn commit(&self) {
        let rows = self.store.scan(Table::Events, &[], &[0xff; 9], crate::store::Order::Descending, 1).unwrap();
        let size = rows.first().map_or(0, |(key, _)| u64::from_be_bytes(key[..].try_into().unwrap()) + 1);
        self.durable.send_replace(size);
    }

    fn drop_events(&self, sequences: std::ops::Range<u64>) {
        let mut batch = Batch::default();
        sequences.for_each(|sequence| batch.delete(Table::Events, &sequence.to_be_bytes()));
        self.store.commit(&batch).unwrap();
    }

    fn log(&self) -> Log {
        Log {
            rows: Arc::clone(&self.store) as _,
            durable: self.durable.subscribe(),
            log_id: LOG.into(),
            clock: SystemClock::shared(),
        }
    }

    fn follow(&self, target: Target, pace: Pace) -> Running {
        self.follow_from(target, pace, From::Beginning)
    }

    fn follow_from(&self, target: Target, pace: Pace, from: From) -> Running {
        let (name, cursors) = ("test".to_owned(), self.folder.path().to_owned());
        let settings = Settings { name, target, tls: None, format: Format::Json, from, cursors };
        let follower = Follower::paced(settings, self.log(), pace).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(follower.run(async { drop(stopped.await) }));
        Running { stop, task }
    }

    /// What the cursor's file says.
    fn cursor(&self) -> Option<u64> {
        check_cursor(self.folder.path(), "test", Some(LOG)).unwrap()
    }

    fn refused(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.path().join("test.refused")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Until the cursor says `next`.
    async fn reaches(&self, next: u64) {
        let reaching = async {
            while self.cursor() != Some(next) {
                tokio::task::yield_now().await;
            }
        };
        let reached = tokio::time::timeout(HANG, reaching).await;
        reached.unwrap_or_else(|_| panic!("the cursor is at {:?}, not at {next}", self.cursor()));
    }
}

impl Running {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }

    /// As a kill -9 would: nothing is finished.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Sequences as a receiver saw them: each first time in order and without a gap, from `first` to before `end`.
fn assert_in_order(seen: &[u64], first: u64, end: u64) {
    let mut next = first;
    for sequence in seen {
        assert!(*sequence <= next, "{sequence} came before {next}: {seen:?}");
        next = next.max(sequence + 1);
    }
    assert_eq!(next, end, "{seen:?}");
}

// === OTLP ===

#[tokio::test]
async fn a_collector_gets_every_event_once_and_in_order() {
    let site = Site::new(1300);
    let collector = Collector::start(|_| Reply::taken()).await;
    let running = site.follow(collector.target(), QUICK);
    site.reaches(1300).await;
    for _ in 0..20 {
        site.write(3, 1);
        site.commit();
    }
    site.reaches(1360).await;
    running.stop().await;
    let seen = collector.seen();
    assert_eq!(seen, (0..1360).collect::<Vec<u64>>(), "a quiet collector gets nothing twice");
    assert!(collector.requests() >= 3, "1,300 events are more than one batch");
    assert_eq!(collector.connections(), 1, "the connection is kept");
}

#[tokio::test]
async fn what_is_not_durable_is_not_sent() {
    let site = Site::new(5);
    site.write(5, 0);
    let collector = Collector::start(|_| Reply::taken()).await;
    let running = site.follow(collector.target(), QUICK);
    site.reaches(5).await;
    assert_eq!(collector.seen(), [0, 1, 2, 3, 4]);
    site.commit();
    site.reaches(10).await;
    running.stop().await;
    assert_in_order(&collector.seen(), 0, 10);
}

#[tokio::test]
async fn a_collector_that_says_not_now_gets_the_same_again() {
    for status in [429, 503, 500, 401, 404] {
        let site = Site::new(600);
        let collector = Collector::start(move |request| match request.number {
            0..=3 => Reply::status(status).with("retry-after: 0"),
            _ => Reply::taken(),
        })
        .await;
        let running = site.follow(collector.target(), QUICK);
        site.reaches(600).await;
        running.stop().await;
        assert_in_order(&collector.seen(), 0, 600);
        assert_eq!(collector.accepted(), (0..600).collect::<Vec<u64>>(), "{status}");
        assert_eq!(site.refused(), [serde_json::Value::Null; 0], "{status}: nothing is given up");
    }
}

#[tokio::test]
async fn one_event_that_is_refused_is_set_aside_and_the_others_arrive() {
    let site = Site::new(700);
    let poison = [0, 77, 78, 699];
    let collector = Collector::start(move |request| {
        let bad = request.sequences.iter().any(|sequence| poison.contains(sequence));
        if bad { Reply::status(400) } else { Reply::taken() }
    })
    .await;
    let running = site.follow(collector.target(), QUICK);
    site.reaches(700).await;
    running.stop().await;
    let good: Vec<u64> = (0..700).filter(|sequence| !poison.contains(sequence)).collect();
    assert_eq!(collector.accepted(), good);
    let refused: Vec<u64> = site.refused().iter().map(|line| line["first"].as_u64().unwrap()).collect();
    assert_eq!(refused, poison, "what did not arrive is written down");
    assert_eq!(
        site.refused()[0],
        serde_json::json!({"log_id": LOG, "first": 0, "last": 0, "events": 1, "why": "HTTP 400"})
    );
}

#[tokio::test]
async fn a_collector_that_refuses_everything_loses_nothing() {
    let site = Site::new(300);
    let (wrong, _) = watch::channel(true);
    let is_wrong = wrong.subscribe();
    let collector =
        Collector::start(move |_| if *is_wrong.borrow() { Reply::status(400) } else { Reply::taken() }).await;
    let running = site.follow(collector.target(), QUICK);
    // Several whole rounds, each down to one event and to an empty request.
    collector.until(|requests| requests.iter().filter(|request| request.sequences.is_empty()).count() >= 3).await;
    assert_eq!(site.refused(), [serde_json::Value::Null; 0], "it is the collector, not the events");
    wrong.send_replace(false);
    site.reaches(300).await;
    running.stop().await;
    assert_eq!(collector.accepted(), (0..300).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_collector_that_takes_only_what_is_empty_gets_sixteen_chances() {
    let site = Site::new(100);
    let (wrong, _) = watch::channel(true);
    let is_wrong = wrong.subscribe();
    let collector = Collector::start(move |request| {
        if *is_wrong.borrow() && !request.sequences.is_empty() { Reply::status(422) } else { Reply::taken() }
    })
    .await;
    let running = site.follow(collector.target(), QUICK);
    // The seventeenth is tried again and again.
    collector.until(|requests| requests.iter().filter(|request| request.sequences == [16]).count() >= 3).await;
    assert_eq!(site.refused().len(), 16);
    wrong.send_replace(false);
    site.reaches(100).await;
    running.stop().await;
    assert_eq!(collector.accepted(), (16..100).collect::<Vec<u64>>());
}

#[tokio::test]
async fn partial_success_goes_on_and_is_written_down() {
    let site = Site::new(10);
    let collector = Collector::start(|request| match request.number {
        0 => Reply::partly(2),
        _ => Reply::taken(),
    })
    .await;
    let running = site.follow(collector.target(), QUICK);
    site.reaches(10).await;
    running.stop().await;
    assert_eq!(collector.seen(), (0..10).collect::<Vec<u64>>(), "the protocol forbids to send it again");
    let why = "partial success";
    assert_eq!(site.refused(), [serde_json::json!({"log_id": LOG, "first": 0, "last": 9, "events": 2, "why": why})]);
}

#[tokio::test]
async fn a_web_server_that_is_no_collector_gets_nothing_acknowledged() {
    let site = Site::new(10);
    let collector = Collector::start(|request| match request.number {
        0..=2 => Reply::page(),
        _ => Reply::taken(),
    })
    .await;
    let running = site.follow(collector.target(), QUICK);
    site.reaches(10).await;
    running.stop().await;
    assert_eq!(collector.accepted(), (0..10).collect::<Vec<u64>>());
    assert_eq!(collector.requests(), 4);
}

#[tokio::test]
async fn a_collector_that_hangs_up_or_never_answers_gets_the_same_again() {
    let site = Site::new(10);
    let collector = Collector::start(|request| match request.number {
        0 => Reply::hang_up(),
        1 => Reply::never(),
        2 => Reply::half(),
        _ => Reply::taken(),
    })
    .await;
    let running = site.follow(collector.target(), Pace { deadline: Duration::from_millis(200), ..QUICK });
    site.reaches(10).await;
    running.stop().await;
    assert_in_order(&collector.seen(), 0, 10);
    assert_eq!(collector.accepted(), (0..10).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_kept_connection_that_was_ended_costs_nothing() {
    let site = Site::new(1);
    let collector = Collector::start(|_| Reply::taken().and_close()).await;
    let running = site.follow(collector.target(), QUICK);
    for events in 1..=5 {
        site.reaches(events).await;
        site.write(1, 0);
        site.commit();
    }
    site.reaches(6).await;
    running.stop().await;
    assert_eq!(collector.accepted(), [0, 1, 2, 3, 4, 5]);
}

// === syslog ===

#[tokio::test]
async fn a_relay_gets_every_event_in_order() {
    let site = Site::new(1000);
    let relay = Relay::start(|_| relay::Manner::Reads).await;
    let running = site.follow(relay.target(), QUICK);
    relay.until(|seen| seen.len() >= 1000).await;
    site.reaches(1000).await;
    running.stop().await;
    assert_eq!(relay.seen(), (0..1000).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_relay_that_hangs_up_in_the_midst_of_a_message_gets_it_again() {
    let site = Site::new(0);
    // More than fits between the two, so that it is cut while it is being written.
    site.write(400, 100);
    site.commit();
    let relay = Relay::start(|connection| match connection {
        0 => relay::Manner::HangsUpAfter(10),
        1 => relay::Manner::HangsUpAfter(1_000),
        2 => relay::Manner::HangsUpAfter(500_003),
        3 => relay::Manner::HangsUpAtOnce,
        _ => relay::Manner::Reads,
    })
    .await;
    let pace = Pace { settling: Duration::from_secs(1), ..QUICK };
    let running = site.follow(relay.target(), pace);
    relay.until(|seen| seen.contains(&399)).await;
    site.reaches(400).await;
    running.stop().await;
    assert_in_order(&relay.seen(), 0, 400);
    assert!(relay.connections() >= 5);
}

#[tokio::test]
async fn what_was_flushed_to_a_relay_that_then_went_away_is_sent_again() {
    let site = Site::new(3);
    let relay = Relay::start(|connection| match connection {
        // It takes all three, and dies with them.
        0 => relay::Manner::ForgetsAfter(3),
        _ => relay::Manner::Reads,
    })
    .await;
    let running = site.follow(relay.target(), Pace { settling: Duration::from_secs(1), ..QUICK });
    relay.until(|seen| seen.len() >= 3).await;
    site.reaches(3).await;
    running.stop().await;
    assert_eq!(relay.seen(), [0, 1, 2], "what it forgot came again");
    assert_eq!(relay.connections(), 2);
}

#[tokio::test]
async fn a_relay_that_never_reads_holds_up_its_own_follower_alone() {
    let site = Site::new(0);
    // Ten megabytes: more than all buffers between them.
    site.write(2000, 110);
    site.commit();
    let relay = Relay::start(|connection| match connection {
        0 | 1 => relay::Manner::NeverReads,
        _ => relay::Manner::Reads,
    })
    .await;
    let collector = Collector::start(|_| Reply::taken()).await;
    let stuck = site.follow(relay.target(), Pace { deadline: Duration::from_millis(300), settling: HANG, ..QUICK });
    // A second sink of the same log is through long before.
    let other = site.with_fresh_cursor();
    let running = other.follow(collector.target(), QUICK);
    other.reaches(2000).await;
    running.stop().await;
    relay.until_connections(3).await;
    assert_eq!(site.cursor(), Some(0), "nothing of it counts as taken");
    relay.until(|seen| seen.contains(&1999)).await;
    stuck.stop().await;
    assert_in_order(&relay.seen(), 0, 2000);
}

#[tokio::test]
async fn a_relay_that_is_not_there_yet_is_found_later() {
    let site = Site::new(10);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let running = site.follow(Target::Syslog { host: "127.0.0.1".to_owned(), port }, QUICK);
    let relay = Relay::start_at(port, |_| relay::Manner::Reads).await;
    relay.until(|seen| seen.len() >= 10).await;
    site.reaches(10).await;
    running.stop().await;
    assert_eq!(relay.seen(), (0..10).collect::<Vec<u64>>());
}

// === the cursor ===

#[tokio::test]
async fn a_kill_between_sending_and_cursor_repeats_and_loses_nothing() {
    let site = Site::new(500);
    let collector = Collector::start(|_| Reply::taken()).await;
    for round in 1..=5 {
        // What it wrote to its cursor is gone with it, as if it had died before.
        let running = site.with_fresh_cursor().follow(collector.target(), QUICK);
        let all = 500 * round;
        collector.until(|requests| requests.iter().any(|request| request.sequences.contains(&(all - 1)))).await;
        running.kill().await;
        site.write(500, 0);
        site.commit();
    }
    let running = site.follow(collector.target(), QUICK);
    site.reaches(3000).await;
    running.stop().await;
    assert_in_order(&collector.seen(), 0, 3000);
    assert!(collector.seen().len() >= 500 + 1000 + 1500 + 2000 + 2500 + 3000, "each began at the same place");
}

#[tokio::test]
async fn a_stop_leaves_a_cursor_that_goes_on() {
    let site = Site::new(100);
    let collector = Collector::start(|_| Reply::taken()).await;
    let running = site.follow(collector.target(), Pace { storing: HANG, ..QUICK });
    collector
        .until(|requests| requests.iter().any(|request| request.sequences.contains(&99) && request.answered))
        .await;
    // Its answer may still be on the way; when the next one comes, it has arrived.
    site.write(1, 0);
    site.commit();
    collector.until(|requests| requests.iter().any(|request| request.sequences.contains(&100))).await;
    running.stop().await;
    let at = site.cursor().unwrap();
    assert!(at >= 100, "{at}");
    let seen = collector.seen().len();
    let running = site.follow(collector.target(), QUICK);
    let size = *site.durable.borrow();
    site.reaches(size).await;
    running.stop().await;
    assert_in_order(&collector.seen(), 0, size);
    assert!(collector.seen().len() - seen <= 1, "what had been acknowledged is not sent again");
}

#[tokio::test]
async fn from_now_leaves_out_what_is_there_and_nothing_else() {
    let site = Site::new(50);
    let collector = Collector::start(|_| Reply::taken()).await;
    let running = site.follow_from(collector.target(), QUICK, From::Now);
    assert_eq!(site.cursor(), Some(50), "stored before anything is sent");
    running.kill().await;
    site.write(5, 0);
    site.commit();
    let running = site.follow_from(collector.target(), QUICK, From::Now);
    site.reaches(55).await;
    running.stop().await;
    assert_eq!(collector.seen(), [50, 51, 52, 53, 54]);
}

#[tokio::test]
async fn what_retention_dropped_is_skipped_and_a_hole_is_not() {
    let site = Site::new(100);
    site.drop_events(0..40);
    let collector = Collector::start(|_| Reply::taken()).await;
    let running = site.follow(collector.target(), QUICK);
    site.reaches(100).await;
    running.stop().await;
    assert_eq!(collector.seen(), (40..100).collect::<Vec<u64>>());

    let site = Site::new(100);
    site.drop_events(60..61);
    let collector = Collector::start(|_| Reply::taken()).await;
    let running = site.follow(collector.target(), QUICK);
    site.reaches(60).await;
    running.stop().await;
    assert_eq!(
        collector.seen(),
        (0..60).collect::<Vec<u64>>(),
        "what comes behind a hole is not sent as if it were all"
    );
}

#[tokio::test]
async fn a_log_of_which_nothing_is_left_is_skipped() {
    let site = Site::new(100);
    site.drop_events(0..100);
    let collector = Collector::start(|_| Reply::taken()).await;
    let running = site.follow(collector.target(), QUICK);
    site.reaches(100).await;
    running.stop().await;
    assert_eq!(collector.seen(), [0; 0]);
}
