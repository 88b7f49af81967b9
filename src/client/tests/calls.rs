//! Calls from beginning to end, in a time that passes only where somebody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use tonic::Code;

use super::Stage;
use crate::client::breaker::{self, State};
use crate::client::engine::{Engine, Failed};
use crate::client::{Error, Failure, Retry};

const SECOND: Duration = Duration::from_secs(1);

fn engine(stage: &Arc<Stage>, attempts: u32, failures: u32) -> Engine {
    let retry = Retry { attempts, first: Duration::from_millis(100), longest: SECOND };
    Engine::new("a:1".into(), retry, breaker::Settings { failures, rest: 5 * SECOND }, stage.clone())
}

fn unreachable() -> Error {
    Error::Unreachable { address: "a:1".to_owned(), problem: "refused".to_owned() }
}

fn failure(code: Code) -> Failure {
    Failure { code, reason: Some("SOME_REASON".to_owned()), ..Failure::here(String::new()) }
}

fn interrupted() -> Error {
    Error::Interrupted { address: "a:1".to_owned(), problem: "reset".to_owned() }
}

/// Makes a call whose first attempts fail so, and says what came of it and how often it was made.
async fn call(engine: &Engine, has_id: bool, fails: u32, error: impl Fn() -> Error) -> (Result<u32, Error>, u32) {
    let made = AtomicU32::new(0);
    let attempt = |_| {
        let number = made.fetch_add(1, Ordering::SeqCst);
        let result = if number < fails { Err(error().into()) } else { Ok(number) };
        async { result }
    };
    let result = engine.run(10 * SECOND, has_id, attempt).await;
    (result, made.load(Ordering::SeqCst))
}

#[tokio::test]
async fn pauses_double_and_the_answer_comes_in_the_end() {
    let stage = Stage::with_random(0xff);
    let (result, made) = call(&engine(&stage, 9, 0), true, 6, interrupted).await;
    assert_eq!((result.ok(), made), (Some(6), 7));
    assert_eq!(stage.paused(), [100, 200, 400, 800, 1_000, 1_000].map(Duration::from_millis));
    // Without a request id it was not made again, since it may have been done.
    let (result, made) = call(&engine(&stage, 9, 0), false, 6, interrupted).await;
    assert!(matches!(result, Err(Error::Interrupted { .. })) && made == 1 && stage.paused().is_empty());
    let (result, made) = call(&engine(&stage, 9, 0), false, 6, unreachable).await;
    assert_eq!((result.ok(), made), (Some(6), 7), "it never left, so it may");
    // So often and not more.
    let (result, made) = call(&engine(&stage, 4, 0), true, 6, unreachable).await;
    assert!(matches!(result, Err(Error::Unreachable { .. })) && made == 4);
}

#[tokio::test]
async fn the_time_that_the_vault_asks_for_is_kept() {
    let stage = Stage::with_random(0);
    let limited = || Error::Limited(Failure { retry_after: Some(3 * SECOND), ..failure(Code::ResourceExhausted) });
    let (result, made) = call(&engine(&stage, 9, 0), false, 2, limited).await;
    assert_eq!((result.ok(), made, stage.paused()), (Some(2), 3, vec![3 * SECOND; 2]));
    // Where that is beyond the deadline, nobody waits for it.
    let (result, made) = call(&engine(&stage, 9, 0), false, 9, limited).await;
    assert!(matches!(result, Err(Error::Limited(_))) && made == 4, "three times three seconds fit into ten");
    assert_eq!(stage.paused().len(), 3);
}

#[tokio::test]
async fn nobody_waits_longer_than_the_deadline() {
    let stage = Stage::with_random(0xff);
    let engine = engine(&stage, 1_000, 0);
    let begun = || async { std::future::pending::<Result<(), Failed>>().await };
    let result = engine.run(2 * SECOND, true, |_| begun()).await;
    assert!(matches!(&result, Err(Error::Deadline(failure)) if failure.code == Code::DeadlineExceeded));
    assert_eq!(stage.paused(), [2 * SECOND]);
    // An attempt is told how much is left after the ones before.
    let left = crate::sync::Mutex::new(Vec::new());
    let attempt = |time| {
        left.lock().push(time);
        async { Err::<(), _>(interrupted().into()) }
    };
    let result = engine.run(SECOND, true, attempt).await;
    assert!(matches!(result, Err(Error::Interrupted { .. })), "what went wrong says more than that time is over");
    assert_eq!(*left.lock(), [1_000, 900, 700, 300].map(Duration::from_millis));
}

#[tokio::test]
async fn who_does_not_answer_is_left_alone_and_then_asked_once() {
    let stage = Stage::with_random(0xff);
    let engine = engine(&stage, 1, 3);
    let mut state = engine.watch();
    for _ in 0..3 {
        assert_eq!(*state.borrow_and_update(), State::Closed);
        assert!(matches!(call(&engine, true, 1, unreachable).await, (Err(Error::Unreachable { .. }), 1)));
    }
    assert!(state.has_changed().unwrap() && *state.borrow_and_update() == State::Open);
    let (result, made) = call(&engine, true, 0, unreachable).await;
    assert!(matches!(result, Err(Error::BreakerOpen { retry_after, .. }) if retry_after == 5 * SECOND) && made == 0);
    stage.clock.advance(5 * SECOND);
    // One that gives up while it is the probe leaves the place to the next.
    stage.is_still.store(true, Ordering::SeqCst);
    let mut probe = Box::pin(engine.run(SECOND, true, |_| std::future::pending::<Result<(), Failed>>()));
    let looked = std::future::poll_fn(|context| Poll::Ready(probe.as_mut().poll(context).is_pending()));
    assert!(looked.await && *state.borrow_and_update() == State::HalfOpen);
    let (result, made) = call(&engine, true, 0, unreachable).await;
    assert!(matches!(result, Err(Error::BreakerOpen { .. })) && made == 0, "one at a time");
    drop(probe);
    assert_eq!(*state.borrow_and_update(), State::Open);
    assert_eq!(call(&engine, true, 0, unreachable).await.0.ok(), Some(0));
    assert_eq!(*state.borrow_and_update(), State::Closed);
}

#[tokio::test]
async fn what_the_vault_refuses_never_opens_the_breaker() {
    let stage = Stage::with_random(0);
    let engine = engine(&stage, 1, 2);
    for error in [
        || Error::Denied(failure(Code::PermissionDenied)),
        || Error::Invalid(failure(Code::InvalidArgument)),
        || Error::Limited(failure(Code::ResourceExhausted)),
        || Error::Conflict(failure(Code::Aborted)),
        || Error::Deadline(failure(Code::DeadlineExceeded)),
        || Error::Unimplemented(failure(Code::Unimplemented)),
        || Error::Unexpected(failure(Code::Internal)),
    ] {
        for _ in 0..3 {
            assert_eq!(call(&engine, true, 1, error).await.1, 1);
        }
        assert_eq!(*engine.watch().borrow(), State::Closed);
    }
    for error in [unreachable, interrupted, || Error::late(SECOND), || Error::Unavailable(failure(Code::Unavailable))] {
        let engine = self::engine(&stage, 1, 2);
        for _ in 0..2 {
            assert_eq!(call(&engine, true, 1, error).await.1, 1);
        }
        assert_eq!(*engine.watch().borrow(), State::Open, "{}", error());
    }
}

#[tokio::test]
async fn a_call_that_has_begun_waits_for_the_breaker_and_one_that_has_not_does_not() {
    let stage = Stage::with_random(0);
    // The second failure opens it; the third attempt is the probe after its rest.
    let (result, made) = call(&engine(&stage, 9, 2), true, 2, unreachable).await;
    assert_eq!((result.ok(), made), (Some(2), 3));
    assert_eq!(stage.paused(), [Duration::ZERO, Duration::ZERO, 5 * SECOND]);
    // Without the time for it, what went wrong is said, not that the breaker is open.
    let engine = engine(&stage, 9, 1);
    let result = engine.run(SECOND, true, |_| async { Err::<(), _>(unreachable().into()) }).await;
    assert!(matches!(result, Err(Error::Unreachable { .. })));
}

#[tokio::test]
async fn what_broke_under_many_calls_is_one_failure() {
    let stage = Stage::with_random(0);
    let engine = engine(&stage, 1, 2);
    let attempt = |is_counted| async move { Err::<(), _>(Failed { error: interrupted(), is_counted }) };
    for _ in 0..10 {
        assert!(engine.run(SECOND, true, |_| attempt(false)).await.is_err());
    }
    assert!(engine.run(SECOND, true, |_| attempt(true)).await.is_err());
    assert_eq!(*engine.watch().borrow(), State::Closed);
    assert!(engine.run(SECOND, true, |_| attempt(true)).await.is_err());
    assert_eq!(*engine.watch().borrow(), State::Open);
}
