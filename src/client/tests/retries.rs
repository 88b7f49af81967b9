//! What may be made again, and how long is waited.

use std::time::Duration;

use proptest::prelude::*;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::Stage;
use crate::client::retry::{Retry, Verdict, verdict};
use crate::client::surroundings::uuid;
use crate::client::{Error, Failure};
use crate::clock::in_one_unit;
use crate::token;

const AGAIN: Verdict = Verdict::Again(Duration::ZERO);
const LATER: Duration = Duration::from_millis(250);

/// As the vault says it: with its word, and with a time to come back where it is wanted.
fn said(code: Code, retry_after: Option<Duration>) -> Error {
    let mut details = ErrorDetails::new();
    details.set_error_info("SOME_REASON", "cloakroom", std::collections::HashMap::new());
    if let Some(wait) = retry_after {
        details.set_retry_info(Some(wait));
    }
    Error::from_status("a:1", &Status::with_error_details(code, "words", details), false)
}

/// Code, whether it says when to come back, and what follows: with a request id, and without.
const SAID: [(Code, bool, Verdict, Verdict); 19] = [
    (Code::Ok, false, Verdict::Final, Verdict::Final),
    (Code::Cancelled, false, Verdict::Final, Verdict::Final),
    (Code::Unknown, false, Verdict::Final, Verdict::Final),
    (Code::InvalidArgument, false, Verdict::Final, Verdict::Final),
    (Code::DeadlineExceeded, false, Verdict::Final, Verdict::Final),
    (Code::NotFound, false, Verdict::Final, Verdict::Final),
    (Code::AlreadyExists, false, Verdict::Final, Verdict::Final),
    (Code::PermissionDenied, false, Verdict::Final, Verdict::Final),
    (Code::PermissionDenied, true, Verdict::Final, Verdict::Final),
    (Code::ResourceExhausted, false, Verdict::Final, Verdict::Final),
    (Code::ResourceExhausted, true, Verdict::Again(LATER), Verdict::Again(LATER)),
    (Code::FailedPrecondition, false, Verdict::Final, Verdict::Final),
    (Code::Aborted, false, AGAIN, AGAIN),
    (Code::OutOfRange, false, Verdict::Final, Verdict::Final),
    (Code::Unimplemented, false, Verdict::Final, Verdict::Final),
    (Code::Internal, false, Verdict::Final, Verdict::Final),
    (Code::Unavailable, false, AGAIN, Verdict::Final),
    (Code::DataLoss, false, Verdict::Final, Verdict::Final),
    (Code::Unauthenticated, false, Verdict::Final, Verdict::Final),
];

#[test]
fn each_status_is_tried_again_only_where_nothing_can_be_done_twice_l_06() {
    for (code, says_when, with_id, without_id) in SAID {
        let error = said(code, says_when.then_some(LATER));
        assert_eq!(verdict(&error, true), with_id, "{code:?}, with a request id");
        assert_eq!(verdict(&error, false), without_id, "{code:?}, without");
    }
    // None was forgotten.
    for number in 0..=16 {
        let code = Code::from_i32(number);
        assert!(SAID.iter().any(|(one, ..)| *one == code), "{code:?} is not in the table");
    }
}

#[test]
fn what_never_left_is_told_from_what_may_have_arrived_l_06() {
    let address = || "a:1".to_owned();
    let problem = || "p".to_owned();
    let refused = |is_said| Error::HandshakeRefused { address: address(), problem: problem(), is_said };
    for (error, with_id, without_id) in [
        (Error::Unreachable { address: address(), problem: problem() }, AGAIN, AGAIN),
        (Error::Interrupted { address: address(), problem: problem() }, AGAIN, Verdict::Final),
        (refused(false), AGAIN, AGAIN),
        (refused(true), Verdict::Final, Verdict::Final),
        (Error::OtherServer { problem: problem() }, Verdict::Final, Verdict::Final),
        (Error::Profile { problem: problem() }, Verdict::Final, Verdict::Final),
        (Error::NoRandomness { source: std::io::Error::other("none") }, Verdict::Final, Verdict::Final),
        (Error::late(LATER), Verdict::Final, Verdict::Final),
        (Error::BreakerOpen { address: address(), retry_after: LATER }, Verdict::Again(LATER), Verdict::Again(LATER)),
    ] {
        assert_eq!(verdict(&error, true), with_id, "{error}");
        assert_eq!(verdict(&error, false), without_id, "{error}");
    }
    // A connection that broke is one or the other, by whether the request had left it.
    let broken = || Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
    assert!(matches!(Error::from_status("a:1", &broken(), false), Error::Interrupted { .. }));
    assert!(matches!(Error::from_status("a:1", &broken(), true), Error::Unreachable { .. }));
    // Whose word it is does not depend on how it came: an answer is no broken connection.
    let error = Error::from_status("a:1", &Status::unavailable("words"), false);
    assert!(matches!(&error, Error::Unavailable(Failure { reason: None, .. })), "{error}");
}

proptest! {
    /// Full jitter: no less than was asked for, no more than the step on top, and the step doubles up to its end.
    #[test]
    fn a_pause_lies_between_what_was_asked_for_and_its_step(
        failed in 1..200u32, first in 0..5_000u64, more in 0..60_000u64, asked in 0..100_000u64, random: u8,
    ) {
        let [first, longest, asked] = [first, first + more, asked].map(Duration::from_millis);
        let retry = Retry { attempts: 1, first, longest };
        let pause = |random| retry.pause(failed, asked, Stage::with_random(random).as_ref());
        let step = u32::try_from(1u64 << (failed - 1).min(31)).map_or(longest, |factor| first.saturating_mul(factor)).min(longest);
        prop_assert!(pause(random) >= asked && pause(random) <= asked + step, "{}", in_one_unit(pause(random)));
        prop_assert_eq!(pause(0), asked, "nothing of it");
        prop_assert_eq!(pause(0xff), asked + step, "all of it");
        prop_assert!(pause(random) <= pause(random.saturating_add(1)), "and all between");
    }

    /// What is drawn is what the vault takes for a request id, and holds all the randomness that there is room for.
    #[test]
    fn a_drawn_request_id_is_a_uuid_of_version_4(random: u8) {
        let text = uuid(Stage::with_random(random).as_ref()).expect("there is randomness");
        prop_assert!(token::parse(&token::Format::Uuid, text.expose()).is_ok());
        let digits = format!("{random:02x}");
        prop_assert_eq!(text.expose().matches(&*digits).count() >= 14, true);
    }
}
