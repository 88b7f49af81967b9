//! The one place where failures become gRPC statuses. Messages are constants; nothing of a request or of an inner error
//! gets into one.

use crate::ledger::Receipt;
use crate::vault::{Failure, ItemFailure, Reason, Violation};
use http::HeaderMap;
use prost::Message;
use std::collections::HashMap;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// `ErrorInfo.domain` of everything that this server says.
pub const DOMAIN: &str = "cloakroom";

/// When to come back after too much.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Wrong items that one status names.
const VIOLATIONS_AT_MOST: usize = 20;

/// Marks a status as made here, for [`sanitize`]; taken off before it leaves.
const MARK: &str = "cloakroom-made";

/// A whole call's failure.
pub fn of(failure: Failure) -> Status {
    match failure {
        Failure::Denied(receipt) => made(Code::PermissionDenied, Reason::PolicyDenied, receipt.as_ref(), |_| {}),
        Failure::Invalid(violation, receipt) => invalid(&violation, receipt.as_ref()),
        Failure::AllOrNothing(wrong, receipt) => all_or_nothing(&wrong, receipt.as_ref()),
        Failure::RequestIdUsed(receipt) => {
            made(Code::FailedPrecondition, Reason::RequestIdUsed, receipt.as_ref(), |_| {})
        }
        Failure::Unimplemented(field, receipt) => {
            invalid(&Violation { field, reason: Reason::NotImplemented }, receipt.as_ref())
        }
        Failure::NotInLog(receipt) => made(Code::NotFound, Reason::NotInLog, receipt.as_ref(), |_| {}),
        Failure::EventsDropped(receipt) => {
            made(Code::FailedPrecondition, Reason::EventsDropped, receipt.as_ref(), |_| {})
        }
        Failure::Overloaded => made(Code::ResourceExhausted, Reason::Overloaded, None, |details| {
            details.set_retry_info(Some(RETRY_AFTER));
        }),
        Failure::Unavailable => made(Code::Unavailable, Reason::Unavailable, None, |_| {}),
        Failure::Conflict(receipt) => made(Code::Aborted, Reason::BasisChanged, receipt.as_ref(), |_| {}),
        Failure::DeadlineExceeded(receipt) => {
            made(Code::DeadlineExceeded, Reason::DeadlineExceeded, receipt.as_ref(), |_| {})
        }
        Failure::Internal => internal(),
    }
}

/// A fault in this program.
pub fn internal() -> Status {
    made(Code::Internal, Reason::Internal, None, |_| {})
}

/// A panic that has its event.
pub fn of_panic(receipt: &Receipt) -> Status {
    made(Code::Internal, Reason::Internal, Some(receipt), |_| {})
}

/// A method that the table does not have.
pub fn no_such_method() -> Status {
    made(Code::Unimplemented, Reason::NotImplemented, None, |_| {})
}

/// The connection's certificate is no longer valid.
pub fn certificate_expired() -> Status {
    made(Code::Unauthenticated, Reason::CertificateExpired, None, |_| {})
}

/// The caller's deadline has passed, and with it all interest in the answer.
pub fn deadline_exceeded() -> Status {
    made(Code::DeadlineExceeded, Reason::DeadlineExceeded, None, |_| {})
}

/// The vault is stopping: what has no answer was not begun.
pub fn stopping() -> Status {
    made(Code::Unavailable, Reason::Unavailable, None, |_| {})
}

/// One item's failure, for its place in the results.
pub fn of_item(failure: ItemFailure) -> tonic_types::Status {
    let (code, reason) = match failure {
        ItemFailure::NotFound => (Code::NotFound, Reason::TokenNotFound),
        ItemFailure::Invalid(reason) => (Code::InvalidArgument, reason),
        ItemFailure::DataLoss => (Code::DataLoss, Reason::RecordDamaged),
    };
    let info = tonic_types::ErrorDetails::with_error_info(reason.as_str(), DOMAIN, HashMap::new());
    // The details of a whole status are a google.rpc.Status: taken apart again for the item's own.
    let details = tonic_types::Status::decode(Status::with_error_details(code, "", info).details());
    tonic_types::Status {
        code: code.into(),
        message: reason.description().to_owned(),
        details: details.map(|status| status.details).unwrap_or_default(),
    }
}

/// What the transport made of a failure before any of this code ran, put into terms that leak nothing and retry rightly:
/// undecodable messages, oversize, timeouts. Statuses made here pass, and lose their mark. Gives the code of what was
/// replaced.
pub fn sanitize(headers: &mut HeaderMap) -> Option<Code> {
    if headers.remove(MARK).is_some() {
        return None;
    }
    let code = headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))?;
    let status = of_transport(code)?;
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        headers.remove(name);
    }
    // Encoding a status of constants does not fail; if it did, a status without details is left by the transport.
    let _ = status.add_header(headers);
    headers.remove(MARK);
    Some(code)
}

/// Why a message could not be read, if `code` is what the transport says of one. Not if its caller went away in the middle.
pub fn why_unreadable(code: Code) -> Option<Reason> {
    match code {
        Code::Unimplemented => Some(Reason::NotImplemented),
        // There was no room for all of it.
        Code::ResourceExhausted => Some(Reason::Overloaded),
        Code::Internal | Code::OutOfRange | Code::InvalidArgument => Some(Reason::Malformed),
        _ => None,
    }
}

/// What stands for a code that the transport chose. `None` for one that means what it says.
pub fn of_transport(code: Code) -> Option<Status> {
    Some(match code {
        Code::Ok => return None,
        // Our own handlers mark theirs: this is health or reflection, whose texts repeat what was asked for.
        Code::NotFound => Status::new(Code::NotFound, "not found"),
        // A compressed message: none is taken.
        Code::Unimplemented => made(Code::Unimplemented, Reason::NotImplemented, None, |_| {}),
        Code::Internal | Code::OutOfRange | Code::InvalidArgument => {
            made(Code::InvalidArgument, Reason::Malformed, None, |_| {})
        }
        Code::Cancelled | Code::DeadlineExceeded => deadline_exceeded(),
        Code::ResourceExhausted => made(Code::ResourceExhausted, Reason::Overloaded, None, |details| {
            details.set_retry_info(Some(RETRY_AFTER));
        }),
        Code::Unavailable => made(Code::Unavailable, Reason::Unavailable, None, |_| {}),
        _ => internal(),
    })
}

/// A status for a stream's trailers, where [`sanitize`] does not come.
pub fn unmarked(mut status: Status) -> Status {
    status.metadata_mut().remove(MARK);
    status
}

/// Names the items, as many as fit into the headers that a status travels in.
fn all_or_nothing(wrong: &[(usize, Reason)], receipt: Option<&Receipt>) -> Status {
    made(Code::InvalidArgument, Reason::AllOrNothing, receipt, |details| {
        for (place, reason) in wrong.iter().take(VIOLATIONS_AT_MOST) {
            details.add_bad_request_violation(format!("items[{place}]"), reason.description());
        }
    })
}

fn invalid(violation: &Violation, receipt: Option<&Receipt>) -> Status {
    let code = if violation.reason == Reason::NotImplemented { Code::Unimplemented } else { Code::InvalidArgument };
    made(code, violation.reason, receipt, |details| {
        details.add_bad_request_violation(violation.field, violation.reason.description());
    })
}

fn made(code: Code, reason: Reason, receipt: Option<&Receipt>, more: impl FnOnce(&mut ErrorDetails)) -> Status {
    let mut metadata = HashMap::new();
    if let Some(receipt) = receipt {
        metadata.insert("log_id".to_owned(), receipt.log_id().to_string());
        metadata.insert("sequence".to_owned(), receipt.sequence().to_string());
    }
    let mut details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, metadata);
    more(&mut details);
    let mut marks = MetadataMap::new();
    marks.insert(MARK, tonic::metadata::MetadataValue::from_static("1"));
    Status::with_error_details_and_metadata(code, reason.description(), details, marks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_the_transport_says_is_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static("13"));
        headers.insert("grpc-message", HeaderValue::from_static("failed to decode Protobuf message: secret_field"));
        sanitize(&mut headers);
        assert_eq!(headers["grpc-status"], "3");
        assert!(!headers["grpc-message"].to_str().unwrap().contains("secret"));
        assert!(headers.get(MARK).is_none());
    }

    #[test]
    fn a_symbol_that_there_is_not_is_not_repeated_i_02() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static("5"));
        headers.insert("grpc-message", HeaderValue::from_static("symbol 'evil' not found"));
        sanitize(&mut headers);
        assert_eq!(
            (&headers["grpc-status"], &headers["grpc-message"]),
            (&"5".parse().unwrap(), &"not%20found".parse().unwrap())
        );
    }

    #[test]
    fn what_is_made_here_passes_and_loses_its_mark() {
        let mut headers = HeaderMap::new();
        of(Failure::Internal).add_header(&mut headers).unwrap();
        assert!(headers.get(MARK).is_some());
        sanitize(&mut headers);
        assert_eq!(headers["grpc-status"], "13");
        assert!(headers.get(MARK).is_none());
    }

    #[test]
    fn what_ends_a_stream_carries_no_mark() {
        let mut headers = HeaderMap::new();
        unmarked(of(Failure::Overloaded)).add_header(&mut headers).unwrap();
        assert_eq!(headers["grpc-status"], "8");
        assert!(headers.get(MARK).is_none());
    }

    #[test]
    fn an_item_carries_its_reason() {
        let status = of_item(ItemFailure::NotFound);
        assert_eq!(status.code, i32::from(Code::NotFound));
        assert_eq!(status.details.len(), 1);
        assert!(status.details[0].type_url.ends_with("google.rpc.ErrorInfo"));
    }
}
