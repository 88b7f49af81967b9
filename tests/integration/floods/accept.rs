//! D-10: `accept` fails, in every way that Linux knows. The loop goes on, and does not turn in circles.

use crate::faults::good_caller;
use crate::harness::{Home, eventually, texts};
use crate::needs;
use crate::promises::{Dice, Plan, run};
use crate::strace::Attached;
use std::path::Path;
use std::time::{Duration, Instant};

/// Errors that say something of the process or the system, and those of one connection.
const OF_THE_SYSTEM: [&str; 4] = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"];
const OF_ONE_PEER: [&str; 7] =
    ["ECONNABORTED", "EPROTO", "EPERM", "ENETDOWN", "EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH"];
/// How often each fails.
const FAILURES: usize = 6;
/// The pauses before the n-th attempt are at least so long in all.
const PAUSES: [u64; 8] = [0, 10, 30, 70, 150, 310, 630, 1270];

fn accepts(trace: &Path) -> usize {
    let trace = std::fs::read_to_string(trace).unwrap_or_default();
    trace.lines().filter(|line| line.contains("(INJECTED)")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_accept_says_the_loop_goes_on_and_does_not_spin_d_10() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    let plan = Plan { seed: Dice::seed(), callers: 8, calls: 300, stamp: Box::new(|| 0) };
    let ended = run(&home, &server, plan, || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    let gateway = server.client(&home.identity("gateway")).await;
    let payments = server.client(&home.identity("payments")).await;
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    for error in OF_THE_SYSTEM.into_iter().chain(OF_ONE_PEER) {
        let trace = home.file(&format!("accepts-{error}"));
        let inject = format!("inject=accept4:error={error}:when=1..{FAILURES}");
        let name = trace.display().to_string();
        let strace = Attached::to(&server, &["-o", &name, "-e", "trace=accept4", "-e", &inject]);
        let begin = Instant::now();
        good_caller(&home, &server).await;
        let (tried, took) = (accepts(&trace), begin.elapsed());
        assert!(tried >= 1, "{error} was injected");
        println!("D-10: {error}: {tried} failures, a good caller in after {:.0} ms", took.as_secs_f64() * 1e3);
        drop(strace);
    }
    // As long as there is nothing to be had, whoever is inside is served, and the loop rests in between.
    let trace = home.file("accepts");
    let name = trace.display().to_string();
    let begin = Instant::now();
    let strace = Attached::to(&server, &["-o", &name, "-e", "trace=accept4", "-e", "inject=accept4:error=EMFILE"]);
    let waiting = tokio::spawn({
        let (address, identity) = (server.address, home.identity("gateway"));
        async move { crate::harness::Client::connect(address, &identity).await.is_ok() }
    });
    let mut served = 0;
    while accepts(&trace) < PAUSES.len() {
        assert_eq!(payments.detokenize("pan", &tokens).await.unwrap(), [Ok(b"4111111111111111".to_vec())]);
        served += 1;
    }
    let (tried, took) = (accepts(&trace), begin.elapsed());
    println!("D-10: {tried} failures in {:.2} s, {served} calls served meanwhile", took.as_secs_f64());
    let at_least = Duration::from_millis(PAUSES[PAUSES.len() - 1]);
    assert!(took >= at_least, "{tried} attempts within {took:?}: it turns in circles");
    drop(strace);
    eventually("who waited comes in", || async { waiting.is_finished().then_some(()) }).await;
    assert!(waiting.await.unwrap());
    good_caller(&home, &server).await;
    assert_eq!(server.get("/readyz").1, "ready\n");
    server.stop();
    println!("{}", crate::faults::kept(&home, home.serve_command(), &ended.promises).await);
}
