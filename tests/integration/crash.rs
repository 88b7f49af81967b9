//! The death of the process, `kill -9`, in the midst of many calls.
//!
//! It proves that the process's death loses nothing; what it wrote stays in the kernel's cache. Losing that as well is for
//! `power`.

use crate::harness::Home;
use crate::promises::{Dice, Plan, Promises, run};
use crate::verify;
use tonic::Code;

const KILLS: u64 = 10;
/// As many calls are in flight until the process dies.
const CALLERS: usize = 96;
/// A kill counts if so many calls were never answered. Of those in flight some may have their answer in a socket already.
const CUT_OFF_AT_LEAST: usize = 32;
/// Kills, counted or not, after which something is wrong with the test.
const KILLS_AT_MOST: u64 = 40;
const CALLS_AT_LEAST: u64 = 5_000;

#[tokio::test]
async fn ten_kill_9_lose_nothing_that_was_acknowledged_s_01_a_07_l_05() {
    let home = Home::init();
    let mut promises = Promises::default();
    let mut server = home.serve();
    let mut counted = 0;
    for kill in 1..=KILLS_AT_MOST {
        let seed = Dice::seed();
        // A different moment each time, and always enough in all.
        let calls = CALLS_AT_LEAST / KILLS + Dice(seed).below(200);
        let plan = Plan { seed, callers: CALLERS, calls, stamp: Box::new(|| 0) };
        let pid = rustix::process::Pid::from_raw(server.pid()).unwrap();
        let kill_it = || rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let ended = run(&home, &server, plan, kill_it).await;
        server.kill();
        // As the kill left it, and beside it once it runs again.
        verify::assert_clean(&home);
        let in_flight = ended.in_flight;
        let cut = |failure: &crate::harness::Refusal| failure.reason.is_empty() && failure.code != Code::Ok;
        assert!(ended.failures.iter().all(cut), "nothing failed before the kill: {:?}", ended.failures);
        let (answered, unanswered) = (ended.promises.calls, ended.failures.len());
        promises.add(ended.promises);
        counted += u64::from(unanswered >= CUT_OFF_AT_LEAST);

        server = home.serve();
        verify::assert_clean(&home);
        let findings = promises.check(&home, &server, u64::MAX).await;
        assert!(findings.broken.is_empty(), "after kill {kill}, seed {seed}: {:#?}", findings.broken);
        println!(
            "kill {kill}: {in_flight} calls in flight, {answered} answered since the last, {unanswered} never; then all {} \
             values, {} revocations, {} limits of uses and {} releases were there, {} events without a gap",
            findings.values, findings.revoked, findings.limited, findings.released, findings.events
        );
        if counted == KILLS {
            break;
        }
    }
    assert_eq!(counted, KILLS, "so many kills cut off {CUT_OFF_AT_LEAST} calls");
    assert!(promises.calls >= CALLS_AT_LEAST, "{} calls", promises.calls);
    let broken = promises.use_up(&home, &server).await;
    assert!(broken.is_empty(), "{broken:#?}");
    let findings = promises.check_after_use(&home, &server).await;
    assert!(findings.broken.is_empty(), "{:#?}", findings.broken);
    server.kill();
    verify::assert_clean(&home);
    println!("{KILLS} kill -9: {} calls acknowledged, {} tokens, nothing lost", promises.calls, promises.values());
}
