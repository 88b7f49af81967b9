//! A disk that stands still: nothing fails, and nothing answers. Calls end at their deadlines, no more wait than may, the
//! vault says that it is not ready, and goes on by itself when the disk does.

use crate::disks::{EXPORTED, Exported, move_to};
use crate::faults::{good_caller, kept};
use crate::harness::{self, Client, Home, Refusal, Server, eventually, item};
use crate::needs;
use crate::promises::{Dice, Plan, run};
use cloakroom::proto::v1;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::Code;

const DISK_BYTES: u64 = 512 << 20;
/// So many calls may wait; far more are made.
const QUEUE: usize = 64;
const CALLS: usize = 300;
const DEADLINE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: a disk behind a program"]
async fn a_disk_that_stands_still_makes_the_vault_unready_until_it_goes_on_s_11_a_06() {
    if !needs::met(&EXPORTED) {
        return;
    }
    let folder = tempfile::Builder::new().prefix("stall-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let home = Home::init();
    let disk = Exported::new(folder.path(), DISK_BYTES, None);
    move_to(&home, disk.path());
    let mut serve = home.serve_command();
    serve.env("CLOAKROOM_LEDGER__MAX_QUEUED_CALLS", QUEUE.to_string());
    let server = Server::launch(&home, serve).unwrap();
    let pid = server.pid();
    let gateway = server.client(&home.identity("gateway")).await;
    let plan = Plan { seed: Dice::seed(), callers: 16, calls: 400, stamp: Box::new(|| 0) };
    let ended = run(&home, &server, plan, || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    assert_eq!(harness::health(&server, &home).await, tonic_health::ServingStatus::Serving as i32);

    let standstill = disk.stand_still();
    let begin = Instant::now();
    let mut asked = JoinSet::new();
    // Every other has no deadline of its own: those the vault tells after ten seconds.
    for number in 0..CALLS {
        asked.spawn(tokenize(gateway.clone(), (number % 2 == 0).then_some(DEADLINE)));
    }
    let told = eventually("it says that it is not ready", || async {
        let (status, body) = server.get("/readyz");
        status.contains("503").then_some(body)
    });
    assert_eq!(told.await, "not ready: a commit waits for the disk\n");
    let unready = begin.elapsed();
    assert_eq!(server.get("/livez").1, "alive\n", "it is no reason to kill it");
    assert_eq!(harness::health(&server, &home).await, tonic_health::ServingStatus::NotServing as i32);
    assert_eq!(server.metric("cloakroom_not_ready{reason=\"stalled\"}"), 1);
    assert!(server.log().contains("the disk stands still"), "{}", server.log());
    let asked = asked.join_all().await;
    let longest = asked.iter().map(|(_, waited)| *waited).max().unwrap();
    let refusals: Vec<Refusal> = asked.into_iter().map(|(refusal, _)| refusal).collect();
    let of = |code| refusals.iter().filter(|refusal| refusal.code == code).count();
    let (deadline, overloaded, unavailable) =
        (of(Code::DeadlineExceeded) + of(Code::Cancelled), of(Code::ResourceExhausted), of(Code::Unavailable));
    assert_eq!(deadline + overloaded + unavailable, CALLS, "{refusals:?}");
    assert!(deadline > 0 && overloaded > 0 && unavailable > 0, "{deadline} {overloaded} {unavailable}");
    // Those that the writer had taken, and as many as may wait.
    assert!(deadline + unavailable <= 2 * QUEUE, "no more wait than may: {deadline} and {unavailable}");

    drop(standstill);
    let begin = Instant::now();
    eventually("it is ready again", || async { server.get("/readyz").0.contains("200").then_some(()) }).await;
    let ready = begin.elapsed();
    assert_eq!(harness::health(&server, &home).await, tonic_health::ServingStatus::Serving as i32);
    good_caller(&home, &server).await;
    assert_eq!((server.pid(), server.metric("cloakroom_not_ready{reason=\"stalled\"}")), (pid, 0), "by itself");
    server.stop();
    println!(
        "unready {} ms after the disk stood still; {deadline} calls ended at their deadline, {overloaded} were told to come \
         back, {unavailable} were told UNAVAILABLE after at the most {} ms, none was served; ready {} ms after it went on; {}",
        unready.as_millis(),
        longest.as_millis(),
        ready.as_millis(),
        kept(&home, home.serve_command(), &ended.promises).await
    );
}

/// One call that must not be served, and how long that took.
async fn tokenize(gateway: Client, deadline: Option<Duration>) -> (Refusal, Duration) {
    let items = vec![item(b"4111111111111111")];
    let mut request = tonic::Request::new(v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() });
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    let begin = Instant::now();
    let refusal = harness::refused(gateway.tokens().tokenize(request).await);
    (refusal, begin.elapsed())
}
