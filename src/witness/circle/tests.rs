//! The vault's side against real witnesses over loopback, and against servers that are none.

use super::*;
use crate::clock::{FakeClock, Timestamp};
use crate::merkle::Hash;
use crate::merkle::note::{SignedCheckpoint, WitnessKey};
use crate::witness::Witness;
use crate::witness::fixture::{History, witness_key};
use crate::witness::server::Door;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;
use tracing::Level;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{self, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// A witness that listens, in a directory that outlasts it.
struct Site {
    folder: tempfile::TempDir,
    name: &'static str,
}

struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Site {
    fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Witness::create_state(&folder.path().join("state")).unwrap();
        Self { folder, name }
    }

    fn serve(&self, log: &History) -> Running {
        self.serve_at(log, 0)
    }

    fn serve_at(&self, log: &History, port: u16) -> Running {
        let state = self.folder.path().join("state");
        let witness = Witness::open(witness_key(self.name), &[log.verifier()], &state, FakeClock::at(START)).unwrap();
        let (tell, address) = channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let door = Door::bind((Ipv4Addr::LOCALHOST, port).into(), None).await.unwrap();
                tell.send(door.local_addr().unwrap()).unwrap();
                door.serve(Arc::new(witness), async {
                    let _ = stopped.await;
                })
                .await;
            });
        });
        Running { address: address.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn member(name: &str, address: SocketAddr) -> Member {
    Member::new(format!("http://{address}").parse().unwrap(), witness_key(name).verifier(), None).unwrap()
}

fn circle(members: Vec<Member>, required: usize) -> (Circle, Arc<FakeClock>) {
    let clock = FakeClock::at(START);
    (Circle::new(members, required, Arc::clone(&clock) as _).unwrap(), clock)
}

fn proof(log: &History, size: u64) -> impl FnMut(u64) -> Option<Vec<Hash>> {
    move |from| Some(log.proof(from, size))
}

fn cosign(circle: &mut Circle, log: &History, size: u64) -> Vec<String> {
    circle.cosign(&log.note(size), size, &mut proof(log, size))
}

fn start(circle: &mut Circle, log: &History, size: u64) -> Result<(), WitnessError> {
    circle.check_start(&log.note(size), size, &mut proof(log, size))
}

/// By whom the note is cosigned, with the lines under it.
fn signers(note: &str, lines: &[String], names: &[&'static str]) -> Vec<&'static str> {
    let note = Note::parse(&format!("{note}{}", lines.concat())).unwrap();
    let cosigned = |name: &&&str| note.cosigned_by(&witness_key(name).verifier()).unwrap().is_some();
    names.iter().filter(cosigned).copied().collect()
}

/// A server that gives every connection this answer, whatever it asks.
fn canned(answer: impl Fn(usize) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut request = vec![0; 65_536];
            // A request of ours comes in one piece over loopback; what it says does not matter.
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer(number).as_bytes());
        }
    });
    address
}

fn answer(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

#[test]
fn each_checkpoint_is_cosigned_by_all() {
    let log = History::new(100);
    let names = ["w.example/1", "w.example/2"];
    let sites = names.map(Site::new);
    let running = [sites[0].serve(&log), sites[1].serve(&log)];
    let members = (0..2).map(|i| member(names[i], running[i].address)).collect();
    let (mut circle, _) = circle(members, 2);
    start(&mut circle, &log, 10).unwrap();
    for size in [10, 11, 40, 40, 99] {
        let lines = cosign(&mut circle, &log, size);
        assert_eq!(signers(&log.note(size), &lines, &names), names, "at {size}");
        assert!(!circle.is_due());
    }
    // A vault that was restarted knows nothing of what they have seen.
    let (mut circle, _) = self::circle(vec![member(names[0], running[0].address)], 1);
    assert_eq!(cosign(&mut circle, &log, 100).len(), 1);
}

#[test]
fn a_log_that_was_turned_back_is_refused_at_the_start_a_05() {
    let log = History::new(100);
    let site = Site::new("w.example/1");
    let running = site.serve(&log);
    let fresh = || circle(vec![member("w.example/1", running.address)], 1).0;
    start(&mut fresh(), &log, 50).unwrap();
    assert!(matches!(start(&mut fresh(), &log, 49), Err(WitnessError::Behind { seen: 50, size: 49, .. })));
    let forged = log.fork(30, 100);
    // Turned back and written to again: shorter, as long, longer.
    assert!(matches!(start(&mut fresh(), &forged, 40), Err(WitnessError::Behind { .. })));
    for size in [50, 60] {
        assert!(matches!(start(&mut fresh(), &forged, size), Err(WitnessError::OtherHistory { .. })), "{size}");
    }
    start(&mut fresh(), &log, 50).unwrap();
    start(&mut fresh(), &log, 51).unwrap();
}

#[test]
fn one_witness_that_contradicts_outweighs_those_that_agree_a_05() {
    let log = History::new(100);
    let names = ["w.example/1", "w.example/2"];
    let sites = names.map(Site::new);
    let running = [sites[0].serve(&log), sites[1].serve(&log)];
    let fresh = |which: &[usize], required| {
        circle(which.iter().map(|i| member(names[*i], running[*i].address)).collect(), required).0
    };
    start(&mut fresh(&[0], 1), &log, 50).unwrap();
    start(&mut fresh(&[1], 1), &log, 20).unwrap();
    for required in 0..=2 {
        assert!(
            matches!(start(&mut fresh(&[0, 1], required), &log, 40), Err(WitnessError::Behind { .. })),
            "{required}"
        );
    }
}

#[test]
fn a_start_without_enough_witnesses_is_refused_unless_they_are_not_required() {
    let log = History::new(100);
    let site = Site::new("w.example/1");
    let running = site.serve(&log);
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let fresh =
        |required| circle(vec![member("w.example/1", running.address), member("w.example/2", gone)], required).0;
    let refused = start(&mut fresh(2), &log, 10).unwrap_err();
    assert!(matches!(refused, WitnessError::TooFew { cosigned: 1, required: 2, .. }), "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains("w.example/2") && text.contains("witnesses_required = 0") && !text.contains("w.example/1 at")
    );
    start(&mut fresh(1), &log, 11).unwrap();
    start(&mut fresh(0), &log, 12).unwrap();
    // A witness that does not know the log says so, and that is passed on.
    let other = Site::new("w.example/3");
    let other = other.serve(&History::of("log.example/other", 1));
    let refused = start(&mut circle(vec![member("w.example/3", other.address)], 1).0, &log, 10).unwrap_err();
    assert!(refused.to_string().contains("does not know the log log.example/vault"), "{refused}");
}

#[test]
fn a_witness_that_is_down_is_left_alone_for_a_while_and_asked_again() {
    let log = History::new(100);
    let site = Site::new("w.example/1");
    let running = site.serve(&log);
    let port = running.address.port();
    let (mut circle, clock) = circle(vec![member("w.example/1", running.address)], 1);
    assert_eq!(cosign(&mut circle, &log, 10).len(), 1);
    drop(running);
    assert_eq!(cosign(&mut circle, &log, 11).len(), 0);
    assert!(!circle.is_due(), "it rests");
    // Up again, but it is not its turn yet, and nobody would know.
    let running = site.serve_at(&log, port);
    assert_eq!(cosign(&mut circle, &log, 12).len(), 0);
    clock.advance(FIRST_PAUSE);
    assert!(circle.is_due());
    let lines = cosign(&mut circle, &log, 12);
    assert_eq!(signers(&log.note(12), &lines, &["w.example/1"]), ["w.example/1"], "the same note, asked again");
    assert!(!circle.is_due());
    drop(running);
}

#[test]
fn pauses_grow_up_to_a_minute() {
    let log = History::new(100);
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (mut circle, clock) = circle(vec![member("w.example/1", gone)], 1);
    let mut pauses = Vec::new();
    for size in 1..=9 {
        cosign(&mut circle, &log, size);
        let mut waited = 0;
        while !circle.is_due() {
            clock.advance(Duration::from_secs(1));
            waited += 1;
        }
        pauses.push(waited);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn a_lost_answer_does_no_harm() {
    let log = History::new(100);
    let site = Site::new("w.example/1");
    let running = site.serve(&log);
    let (mut circle, _) = circle(vec![member("w.example/1", running.address)], 1);
    assert_eq!(cosign(&mut circle, &log, 10).len(), 1);
    // It has remembered more than we know of.
    let (mut other, _) = self::circle(vec![member("w.example/1", running.address)], 1);
    assert_eq!(cosign(&mut other, &log, 20).len(), 1);
    assert_eq!(cosign(&mut circle, &log, 20).len(), 1, "the very same");
    assert_eq!(cosign(&mut circle, &log, 30).len(), 1);
}

#[test]
fn only_a_cosignature_that_verifies_is_kept() {
    let log = History::new(100);
    let signed = SignedCheckpoint::open(&log.note(10), log.key().name(), &[log.verifier()]).unwrap();
    let other = SignedCheckpoint::open(&log.note(11), log.key().name(), &[log.verifier()]).unwrap();
    let line = |key: &WitnessKey, of: &SignedCheckpoint| format!("{}\n", key.cosign(of, 1_790_000_000));
    let (right, stranger) = (witness_key("w.example/1"), witness_key("w.example/2"));
    let own = line(&right, &signed);
    let text = "text/plain";
    let ok = |body: String| answer("200 OK", text, &body);
    for (what, said, kept) in [
        ("the right line", ok(own.clone()), 1),
        ("the right line among others", ok(line(&stranger, &signed) + &own), 1),
        ("another witness's", ok(line(&stranger, &signed)), 0),
        ("of another checkpoint", ok(line(&right, &other)), 0),
        ("nothing", ok(String::new()), 0),
        ("no line", ok("yes\n".to_owned()), 0),
        ("a line that would end the note", ok(format!("\n\n{own}")), 0),
        ("the right line with another status", answer("202 Accepted", text, &own), 0),
        ("a size that is none", answer("409 Conflict", SIZE_TYPE, "010\n"), 0),
        ("a size without line feed", answer("409 Conflict", SIZE_TYPE, "5"), 0),
        ("an error", answer("500 Internal Server Error", text, "no"), 0),
        ("no HTTP", "hello\r\n\r\n".to_owned(), 0),
    ] {
        let address = canned(move |_| said.clone());
        let (mut circle, _) = circle(vec![member("w.example/1", address)], 1);
        let lines = cosign(&mut circle, &log, 10);
        assert_eq!(lines.len(), kept, "{what}");
        assert!(kept == 0 || lines == [own.clone()], "{what}");
    }
}

#[test]
fn a_witness_that_contradicts_a_running_vault_cosigns_nothing_and_rests() {
    let log = History::new(100);
    let site = Site::new("w.example/1");
    let running = site.serve(&log);
    let fresh = || circle(vec![member("w.example/1", running.address)], 1).0;
    assert_eq!(cosign(&mut fresh(), &log, 50).len(), 1);
    let forged = log.fork(30, 100);
    let wandering = canned(|number| answer("409 Conflict", SIZE_TYPE, &format!("{}\n", number + 1)));
    let mut behind = fresh();
    assert_eq!(cosign(&mut behind, &log, 40).len(), 0, "it has seen more");
    let mut forked = fresh();
    assert_eq!(cosign(&mut forked, &forged, 50).len(), 0, "it has seen another of this size");
    let (mut restless, _) = circle(vec![member("w.example/1", wandering)], 1);
    assert_eq!(cosign(&mut restless, &log, 90).len(), 0, "it says something else each time");
    for circle in [&behind, &forked, &restless] {
        assert!(!circle.is_due(), "it is left alone for a while");
    }
    assert_eq!(cosign(&mut fresh(), &log, 51).len(), 1, "the right history goes on");
}

#[test]
fn a_witness_that_talks_nonsense_is_not_asked_for_ever() {
    let log = History::new(100);
    // Each time another size; and always the same one, which it then refuses.
    let wandering = canned(|number| answer("409 Conflict", SIZE_TYPE, &format!("{}\n", number + 1)));
    let (mut restless, _) = circle(vec![member("w.example/1", wandering)], 1);
    assert!(matches!(start(&mut restless, &log, 90), Err(WitnessError::TooFew { .. })));
    let stubborn = canned(|_| answer("409 Conflict", SIZE_TYPE, "90\n"));
    let (mut stubborn, _) = circle(vec![member("w.example/1", stubborn)], 1);
    assert!(matches!(start(&mut stubborn, &log, 90), Err(WitnessError::OtherHistory { .. })));
}

/// A witness that answers with these sizes, one after the other and over again, and how often it was asked.
fn telling(sizes: &'static [u64]) -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = canned(move |number| {
        count.fetch_add(1, Ordering::SeqCst);
        answer("409 Conflict", SIZE_TYPE, &format!("{}\n", sizes[number % sizes.len()]))
    });
    (address, asked)
}

#[test]
fn what_a_witness_says_it_has_seen_is_held_against_what_it_was_shown_a_05() {
    let log = History::new(100);
    for (sizes, questions, said) in [
        // Ahead: nothing that it could be shown helps.
        (&[95][..], 1, "with 95 events, but there are 90"),
        (&[90, 95], 2, "with 95 events, but there are 90"),
        // Shown what it asked for, it refuses.
        (&[90], 2, "another history"),
        (&[40], 2, "w.example/1 says that it has seen 40 events, and then not"),
        (&[1, 2, 3], 3, "w.example/1 says that it has seen 3 events, and then not"),
        (&[1, 2, 90], 3, "w.example/1 says that it has seen 90 events, and then not"),
    ] {
        let (address, asked) = telling(sizes);
        let (mut circle, _) = circle(vec![member("w.example/1", address)], 1);
        let refused = start(&mut circle, &log, 90).unwrap_err().to_string();
        assert!(refused.contains(said), "{sizes:?}: {refused}");
        assert_eq!(asked.load(Ordering::SeqCst), questions, "{sizes:?}");
    }
}

/// The level of each event that names a witness, and which.
#[derive(Clone, Default)]
struct Told(Arc<std::sync::Mutex<Vec<(String, Level)>>>);

impl Layer<Registry> for Told {
    fn on_event(&self, event: &tracing::Event<'_>, _: layer::Context<'_, Registry>) {
        struct Witness(Option<String>);
        impl Visit for Witness {
            fn record_str(&mut self, field: &Field, value: &str) {
                if field.name() == "witness" {
                    self.0 = Some(value.to_owned());
                }
            }

            fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
        }
        let mut witness = Witness(None);
        event.record(&mut witness);
        if let Some(name) = witness.0 {
            self.0.lock().unwrap().push((name, *event.metadata().level()));
        }
    }
}

#[test]
fn each_failure_is_counted_by_its_kind_and_only_a_contradiction_is_told_each_time() {
    let log = History::new(100);
    let site = Site::new("w.example/good");
    let running = site.serve(&log);
    let kinds = [
        ("w.example/ahead", "ahead", [Level::ERROR, Level::ERROR]),
        ("w.example/fork", "fork", [Level::ERROR, Level::ERROR]),
        ("w.example/refused", "refused", [Level::WARN, Level::DEBUG]),
        ("w.example/failed", "failed", [Level::WARN, Level::DEBUG]),
    ];
    let told = Told::default();
    let _seen = tracing::subscriber::set_default(tracing_subscriber::registry().with(told.clone()));
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let figures = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let down = canned(|_| answer("500 Internal Server Error", "text/plain", "no"));
        let members = vec![
            member("w.example/ahead", telling(&[95]).0),
            member("w.example/fork", telling(&[90]).0),
            member("w.example/refused", telling(&[1, 2, 90]).0),
            member("w.example/failed", down),
            member("w.example/good", running.address),
        ];
        let (mut circle, clock) = circle(members, 1);
        for _ in 0..2 {
            assert_eq!(cosign(&mut circle, &log, 90).len(), 1);
            clock.advance(FIRST_PAUSE);
        }
    });
    let figures = figures.render();
    for (witness, kind, levels) in kinds {
        for reason in ["failed", "refused", "ahead", "fork"] {
            let count = if reason == kind { 2 } else { 0 };
            let line =
                format!("cloakroom_witness_failures_total{{witness=\"{witness}\",reason=\"{reason}\"}} {count}\n");
            assert!(figures.contains(&line), "{line}{figures}");
        }
        let told = told.0.lock().unwrap();
        let of_it: Vec<Level> = told.iter().filter(|(name, _)| name == witness).map(|(_, level)| *level).collect();
        assert_eq!(of_it, levels, "{witness}");
    }
}

#[test]
fn without_a_proof_the_others_are_asked_all_the_same() {
    let log = History::new(100);
    let names = ["w.example/1", "w.example/2"];
    let sites = names.map(Site::new);
    let running = [sites[0].serve(&log), sites[1].serve(&log)];
    let (mut first, _) = circle(vec![member(names[0], running[0].address)], 1);
    assert_eq!(cosign(&mut first, &log, 10).len(), 1);
    let (mut both, _) = circle((0..2).map(|i| member(names[i], running[i].address)).collect(), 2);
    let lines = both.cosign(&log.note(20), 20, &mut |_| None);
    assert_eq!(signers(&log.note(20), &lines, &names), ["w.example/2"], "who has seen nothing needs no proof");
}

#[tokio::test]
async fn it_can_be_used_and_dropped_on_a_runtime_s_thread() {
    let log = History::new(10);
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (mut circle, _) = circle(vec![member("w.example/1", gone)], 1);
    assert!(start(&mut circle, &log, 5).is_err());
}
