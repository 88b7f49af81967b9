//! Five times as many calls as the vault can do, and ten times as many connections as usual.
//!
//! The vault has one core to itself, its callers have the others: on a machine with few, what callers cost would be taken for the
//! vault's. How many calls it can do is what the same callers get when each waits for its answer.

use crate::bytes::{budget, memory};
use crate::faults::{good_caller, kept};
use crate::frames::framed;
use crate::harness::{Home, Server, eventually, issued, texts};
use crate::needs;
use crate::open_loop::{Answer, Timed, Wire, closed_loop, open_loop, percentile};
use crate::promises::{Dice, Plan, run};
use cloakroom::proto::v1::{self, Action, Outcome};
use hyper::body::Bytes;
use parking_lot::Mutex;
use prost::Message;
use std::collections::{BTreeMap, HashSet};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::Code;

const TOKENIZE: &str = "/cloakroom.v1.TokenService/Tokenize";
const TIMES: f64 = 5.0;
/// Callers who wait, when it is measured what the vault can do.
const IN_FLIGHT: u64 = 48;
const CONNECTIONS: usize = 24;
/// Work for the vault that costs a caller little.
const ITEMS: usize = 100;
const DEADLINE: Duration = Duration::from_secs(1);
/// Of so many answers one's tokens are exchanged again.
const LOOKED_INTO: usize = 20;
const MIB: usize = 1 << 20;

// === five times as many calls ===

/// What a caller was told.
struct Told {
    code: Code,
    reason: String,
    /// Of an answer: its event, and a token.
    receipt: Option<(u64, String)>,
}

impl Told {
    fn of(answer: Result<Answer, String>) -> Self {
        let answer = answer.expect("each call is answered");
        if answer.code() != Code::Ok {
            let refusal = answer.refusal();
            return Self { code: refusal.code, reason: refusal.reason, receipt: None };
        }
        let mut message = v1::TokenizeResponse::decode(&*answer.message).unwrap();
        assert_eq!(message.results.len(), ITEMS);
        let token = issued(message.results.swap_remove(0)).unwrap().token;
        Self { code: Code::Ok, reason: String::new(), receipt: Some((message.receipt.unwrap().sequence, token)) }
    }
}

/// One vault on one core, with callers on open connections.
struct Crowd {
    server: Server,
    wires: Arc<Vec<Wire>>,
    body: Bytes,
}

impl Crowd {
    async fn gather(home: &Home) -> Self {
        let serve = home.serve_command();
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(serve.get_program()).args(serve.get_args()).env("CLOAKROOM_SERVER__WORKERS", "1");
        for (name, value) in serve.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let server = Server::launch(home, command).unwrap();
        let mut wires = Vec::new();
        for _ in 0..CONNECTIONS {
            wires.push(Wire::open(&server, &home.identity("gateway")).await.unwrap());
        }
        let items = vec![crate::harness::item(b"4111111111111111"); ITEMS];
        let request = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
        Self { server, wires: Arc::new(wires), body: framed(&request.encode_to_vec()).into() }
    }

    fn caller(&self) -> impl Fn(u64) -> Calling + Clone + Send + 'static {
        let (wires, body) = (Arc::clone(&self.wires), self.body.clone());
        move |number| {
            let wire = wires[usize::try_from(number).unwrap() % wires.len()].clone();
            let body = body.clone();
            Box::pin(async move {
                let timeout = format!("{}m", DEADLINE.as_millis());
                Told::of(wire.call(TOKENIZE, &[("grpc-timeout", timeout.as_bytes())], body).await)
            })
        }
    }
}

type Calling = std::pin::Pin<Box<dyn Future<Output = Told> + Send>>;

/// Calls that were done, a second, of those that were due in the midst of it: neither its first nor its last tenth.
fn goodput(calls: &[Timed<Told>], lasting: Duration) -> f64 {
    let midst = lasting / 10..lasting * 9 / 10;
    let good = |call: &&Timed<Told>| {
        midst.contains(&(call.due + call.took)) && call.outcome.code == Code::Ok && call.took <= DEADLINE
    };
    calls.iter().filter(good).count() as f64 / (lasting * 8 / 10).as_secs_f64()
}

fn millis(mut times: Vec<Duration>) -> String {
    let [half, most, all] = [50, 99, 100].map(|percent| percentile(&mut times, percent).as_secs_f64() * 1e3);
    format!("{half:.1} ms (half), {most:.1} ms (99 %), {all:.1} ms (all)")
}

async fn overloaded(measured: Duration, lasting: Duration) {
    if !needs::met(&["taskset"]) {
        return;
    }
    let home = Home::init();
    let crowd = Crowd::gather(&home).await;
    let before = closed_loop(IN_FLIGHT, measured, crowd.caller()).await;
    let capacity = goodput(&before, measured);
    assert!(before.iter().all(|call| call.outcome.code == Code::Ok), "nobody is refused whose callers wait");
    let calls = open_loop(TIMES * capacity, lasting, crowd.caller()).await;
    let over = Instant::now();
    // It is as before when a call takes no longer than it did.
    let mut usual: Vec<Duration> = before.iter().map(|call| call.took).collect();
    let usual = percentile(&mut usual, 99);
    let (call, probes) = (crowd.caller(), Mutex::new(Vec::new()));
    eventually("calls as before", || async {
        let begin = Instant::now();
        let told = call(0).await;
        let is_usual = told.code == Code::Ok && begin.elapsed() <= usual;
        probes.lock().push(told);
        is_usual.then_some(())
    })
    .await;
    let recovered = over.elapsed();

    let good = goodput(&calls, lasting);
    let mut codes: BTreeMap<(String, String), Vec<Duration>> = BTreeMap::new();
    for call in &calls {
        let of = (format!("{:?}", call.outcome.code), call.outcome.reason.clone());
        codes.entry(of).or_default().push(call.took);
    }
    println!(
        "D-07: {capacity:.0} calls a second of {ITEMS} values at the peak, {:.0} asked for, {good:.0} done: {:.0} % of the peak",
        TIMES * capacity,
        100.0 * good / capacity
    );
    for ((code, reason), times) in codes {
        println!("D-07: {} × {code} {reason}: {}", times.len(), millis(times));
    }
    println!("D-07: as before {:.0} ms after the last answer", recovered.as_secs_f64() * 1e3);
    let all: Vec<Told> = before.into_iter().chain(calls).map(|call| call.outcome).chain(probes.into_inner()).collect();
    accounted_for(&home, &crowd.server, &all).await;
    let (peak, most) = (memory(&crowd.server, "VmHWM"), budget(256 * MIB, 256 * MIB, 64 * MIB, 1024));
    println!("D-07: {} MiB resident at the peak, of {} MiB that the formula gives", peak / MIB, most / MIB);
    assert!(peak < most, "{peak} of {most}");
    let plan = Plan { seed: Dice::seed(), callers: 16, calls: 300, stamp: Box::new(|| 0) };
    let ended = run(&home, &crowd.server, plan, || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    crowd.server.stop();
    println!("D-07: {}", kept(&home, home.serve_command(), &ended.promises).await);
}

/// Every call was done and told so, or refused and not done, or may have been done: nothing else.
async fn accounted_for(home: &Home, server: &Server, all: &[Told]) {
    let told = |code: Code| all.iter().filter(|told| told.code == code).count();
    let (done, shed) = (told(Code::Ok), told(Code::ResourceExhausted));
    let unknown = told(Code::DeadlineExceeded) + told(Code::Unavailable);
    assert_eq!(done + shed + unknown, all.len(), "no other answer");
    for told in all.iter().filter(|told| told.code == Code::ResourceExhausted) {
        assert_eq!(told.reason, "OVERLOADED");
    }
    let auditor = server.client(&home.identity("auditor")).await;
    let caller = home.identity("gateway").id;
    let filter = v1::AuditFilter { caller, action: Action::Tokenize.into(), ..Default::default() };
    // Who was refused is counted, and the count comes with the next summary.
    let events = eventually("summaries of all that were refused", || async {
        let events = auditor.events(filter.clone()).await;
        let refused = events.iter().filter(|event| event.reason == "OVERLOADED");
        let counted: u64 = refused.map(|event| event.count.max(1)).sum();
        assert!(counted <= shed as u64, "{counted} of {shed}");
        (counted == shed as u64).then_some(events)
    })
    .await;
    let written: HashSet<u64> = events
        .iter()
        .filter(|event| event.outcome() == Outcome::Allowed)
        .map(|event| {
            assert_eq!(usize::try_from(event.succeeded).unwrap(), ITEMS, "wholly or not at all");
            event.sequence
        })
        .collect();
    let acknowledged: HashSet<u64> = all.iter().filter_map(|told| told.receipt.as_ref()).map(|(at, _)| *at).collect();
    assert_eq!(acknowledged.len(), done, "each with an event of its own");
    assert!(acknowledged.is_subset(&written), "an acknowledged call has no event");
    assert!(written.len() - done <= unknown, "a call was done that was refused");
    let tokens: Vec<String> = all
        .iter()
        .filter_map(|told| told.receipt.as_ref())
        .step_by(LOOKED_INTO)
        .map(|(_, token)| token.clone())
        .collect();
    let payments = server.client(&home.identity("payments")).await;
    for some in tokens.chunks(500) {
        let values = payments.detokenize("pan", some).await.unwrap();
        assert!(values.iter().all(|value| value.as_deref() == Ok(b"4111111111111111")));
    }
    println!(
        "D-07: {done} done and told so, {} done and not told in time, {shed} refused and counted in the log, {} values looked at",
        written.len() - done,
        tokens.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_times_the_load_is_shed_and_what_is_served_is_served_in_time_d_07() {
    overloaded(Duration::from_secs(2), Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: D-07 for half a minute"]
async fn half_a_minute_of_five_times_the_load_d_07() {
    overloaded(Duration::from_secs(5), Duration::from_secs(30)).await;
}

// === ten times as many connections ===

/// So many connections that say nothing, then all ask at once. One more is closed at the door.
async fn idle_then_all(connections: usize) {
    if !needs::met(&[]) {
        return;
    }
    let descriptors = connections as u64 + 1_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = rustix::process::Rlimit {
        current: Some(descriptors),
        maximum: limit.maximum.map(|most| most.max(descriptors)),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
    let home = Home::init();
    let mut serve = home.serve_command();
    serve.env("CLOAKROOM_SERVER__MAX_CONNECTIONS", connections.to_string());
    // All of them are the gateway's.
    serve.env("CLOAKROOM_SERVER__MAX_CONNECTIONS_PER_CALLER", connections.to_string());
    let server = Server::launch(&home, serve).unwrap();
    assert!(!server.log().contains("too few file descriptors"), "{}", server.log());
    let before = memory(&server, "VmRSS");
    let identity = home.identity("gateway");
    let server = Arc::new(server);
    let mut wires: Vec<Wire> = Vec::new();
    while wires.len() < connections {
        let mut opening = JoinSet::new();
        for _ in 0..64.min(connections - wires.len()) {
            let (server, identity) = (Arc::clone(&server), identity.clone());
            opening.spawn(async move {
                let wire = Wire::open(&server, &identity).await.unwrap();
                // A client has shaken hands before the vault has looked at its certificate.
                let answer = wire.call("/grpc.health.v1.Health/Check", &[], framed(&[]).into()).await;
                assert_eq!(answer.expect("it is let in").code(), Code::Ok);
                wire
            });
        }
        wires.extend(opening.join_all().await);
    }
    let idle = memory(&server, "VmRSS");
    let each = idle.saturating_sub(before) / connections;
    // One more finds no place, and is told so by the end of its connection.
    let refused = Wire::open(&server, &home.identity("payments")).await;
    let refused = match refused {
        Ok(wire) => wire.call("/grpc.health.v1.Health/Check", &[], framed(&[]).into()).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "there were more connections than may be");
    let begin = Instant::now();
    let items = vec![crate::harness::item(b"4111111111111111")];
    let request = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
    let body = Bytes::from(framed(&request.encode_to_vec()));
    let mut asking = JoinSet::new();
    for wire in &wires {
        let (wire, body) = (wire.clone(), body.clone());
        asking.spawn(async move { wire.call(TOKENIZE, &[], body).await.expect("the connection stays") });
    }
    let answers = asking.join_all().await;
    let took = begin.elapsed();
    let served: Vec<v1::TokenizeResponse> = answers
        .iter()
        .filter(|answer| answer.code() == Code::Ok)
        .map(|answer| v1::TokenizeResponse::decode(&*answer.message).unwrap())
        .collect();
    let shed = answers.iter().filter(|answer| answer.code() == Code::ResourceExhausted).count();
    assert_eq!(served.len() + shed, connections, "all are served or refused");
    let (peak, most) = (memory(&server, "VmHWM"), budget(256 * MIB, 256 * MIB, 64 * MIB, connections));
    println!(
        "D-06: {connections} connections: {} KiB for each while idle; all asked: {} served, {shed} refused in {took:?}; {} MiB resident at \
         the peak, of {} MiB that the formula gives",
        each / 1024,
        served.len(),
        peak / MIB,
        most / MIB
    );
    assert!(peak < most && each < 64 * 1024, "{peak} of {most}, {each} for each");
    let tokens: Vec<String> = served.into_iter().flat_map(|answer| texts_of(answer.results)).collect();
    drop(wires.split_off(connections - 8));
    let payments = eventually("a place", || async { server.connect(&home.identity("payments")).await.ok() }).await;
    let found = eventually("a good caller", || async {
        payments.detokenize("pan", &tokens[..tokens.len().min(1000)]).await.ok()
    })
    .await;
    assert!(found.iter().all(|value| value.as_deref() == Ok(b"4111111111111111")));
    drop((wires, payments));
    let server = Arc::into_inner(server).unwrap();
    good_caller(&home, &server).await;
    server.stop();
}

fn texts_of(results: Vec<v1::TokenizeResult>) -> Vec<String> {
    texts(&results.into_iter().map(|result| issued(result).unwrap()).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_connections_all_ask_at_once_d_06() {
    idle_then_all(1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: D-06 with ten thousand connections"]
async fn ten_thousand_idle_connections_all_ask_at_once_d_06() {
    idle_then_all(10_000).await;
}
