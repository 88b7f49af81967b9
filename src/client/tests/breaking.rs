//! The circuit breaker against its rules, under any order of events.

use std::time::Duration;

use proptest::prelude::*;

use crate::client::breaker::{Breaker, Outcome, Settings, State};

const REST: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    /// Hands back one of the passes that are out.
    Tell(usize, Outcome),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![1 => Just(Outcome::Answered), 3 => Just(Outcome::Failed), 1 => Just(Outcome::Abandoned)];
    prop_oneof![
        2 => Just(Step::Ask),
        2 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Tell(which, outcome)),
        1 => (0..7_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn it_lets_through_what_its_rules_say_whatever_happens(steps in prop::collection::vec(step(), 1..200), failures in 0..4u32) {
        let mut breaker = Breaker::new(Settings { failures, rest: REST });
        let mut now = Duration::ZERO;
        // Passes that are out, and in which of the breaker's times each was given.
        let mut out = Vec::new();
        let (mut times, mut in_a_row, mut opened_at) = (0, 0, Duration::ZERO);
        for step in steps {
            let before = breaker.state();
            match step {
                Step::Wait(millis) => now += Duration::from_millis(millis),
                Step::Ask => {
                    let left = (opened_at + REST).saturating_sub(now);
                    let (expected, after) = match before {
                        State::Closed => (Ok(()), State::Closed),
                        State::HalfOpen => (Err(Duration::ZERO), State::HalfOpen),
                        State::Open if left.is_zero() => (Ok(()), State::HalfOpen),
                        State::Open => (Err(left), State::Open),
                    };
                    let asked = breaker.ask(now);
                    prop_assert_eq!((asked.map(drop), breaker.state()), (expected, after));
                    times += u32::from(before != after);
                    out.extend(asked.map(|pass| (pass, times)));
                }
                Step::Tell(..) if out.is_empty() => {}
                Step::Tell(which, outcome) => {
                    let (pass, given) = out.swap_remove(which % out.len());
                    breaker.tell(pass, outcome, now);
                    let after = match (before, outcome) {
                        // It began before the breaker last changed, so it decides nothing any more.
                        _ if given != times => before,
                        (State::Closed, Outcome::Failed) => {
                            in_a_row += 1;
                            if in_a_row == failures { State::Open } else { State::Closed }
                        }
                        (State::Closed, Outcome::Abandoned) => State::Closed,
                        (_, Outcome::Answered) => State::Closed,
                        (_, Outcome::Failed | Outcome::Abandoned) => State::Open,
                    };
                    prop_assert_eq!(breaker.state(), after, "{:?} while {:?}", outcome, before);
                    if given == times && (outcome == Outcome::Answered || before != after) {
                        in_a_row = 0;
                    }
                    if before != after {
                        times += 1;
                        if outcome == Outcome::Failed {
                            opened_at = now;
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn failures_in_a_row_open_it_and_one_answer_closes_it() {
    let mut breaker = Breaker::new(Settings { failures: 3, rest: REST });
    let mut now = Duration::from_secs(100);
    let call = |breaker: &mut Breaker, now, outcome| {
        let pass = breaker.ask(now).expect("it lets it through");
        breaker.tell(pass, outcome, now);
        breaker.state()
    };
    for outcome in [Outcome::Failed, Outcome::Failed, Outcome::Answered, Outcome::Failed, Outcome::Failed] {
        assert_eq!(call(&mut breaker, now, outcome), State::Closed, "an answer between begins the count again");
    }
    assert_eq!(call(&mut breaker, now, Outcome::Failed), State::Open);
    now += Duration::from_millis(4_999);
    assert_eq!(breaker.ask(now), Err(Duration::from_millis(1)));
    now += Duration::from_millis(1);
    let probe = breaker.ask(now).expect("its rest is over");
    assert_eq!((breaker.state(), breaker.ask(now)), (State::HalfOpen, Err(Duration::ZERO)), "one at a time");
    breaker.tell(probe, Outcome::Abandoned, now);
    assert_eq!(call(&mut breaker, now, Outcome::Failed), State::Open, "who gave up leaves the place to the next");
    now += REST;
    assert_eq!(call(&mut breaker, now, Outcome::Answered), State::Closed);
    // A count of zero never opens it.
    let mut never = Breaker::new(Settings { failures: 0, rest: REST });
    assert!((0..1_000).all(|_| call(&mut never, now, Outcome::Failed) == State::Closed));
}
