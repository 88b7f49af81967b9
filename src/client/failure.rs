//! What can go wrong with a call, by the caller's situation, with all that the server said about it.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use crate::clock::in_one_unit;
use crate::tls::client::Mistrust;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The server's reasons (ErrorInfo) where a batch is too long: its answer, or the records that it would change. Nothing was done:
/// asking in smaller batches works.
pub const TOO_LONG: [&str; 2] = ["REPLY_TOO_LARGE", "RECORDS_TOO_LARGE"];

/// Why a call, or the connection for it, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The profile, or a file that it names, is not usable.
    #[error("the profile can't be used: {problem}")]
    Profile {
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// Nobody answers there, or not a vault that the profile would believe.
    #[error("cannot reach the vault at {address}: {problem}. Is it running, and is the profile's address right?")]
    Unreachable {
        /// The address of the profile.
        address: String,
        /// What the system or TLS said.
        problem: String,
    },
    /// Somebody answers there, and it is not the vault that the profile names.
    #[error("{problem}. Is the profile's address right?")]
    OtherServer {
        /// Who it is, or why it is not known.
        problem: String,
    },
    /// The vault did not accept our certificate.
    #[error(
        "the vault at {address} refused the connection: {problem}. Is the profile's certificate valid, and of a trust domain that the vault knows?"
    )]
    HandshakeRefused {
        /// The address of the profile.
        address: String,
        /// What TLS said.
        problem: String,
        /// Whether it said so. If not, it may have closed the connection for another reason, such as its end.
        is_said: bool,
    },
    /// The connection broke before the answer was there. The call may have been done.
    #[error(
        "the connection to the vault at {address} broke: {problem}. Whether the call was done is not known; with its request id it can be made again"
    )]
    Interrupted {
        /// The address of the profile.
        address: String,
        /// What the system, TLS or HTTP/2 said.
        problem: String,
    },
    /// So many calls in a row got no answer that none is made for a while.
    #[error("the vault at {address} did not answer so often that it is left alone; try again in {}", in_one_unit(*.retry_after))]
    BreakerOpen {
        /// The address of the profile.
        address: String,
        /// How long it is left alone.
        retry_after: Duration,
    },
    /// The time for the call was over, here or at the vault. It may have been done.
    #[error("{0}")]
    Deadline(Failure),
    /// No request id can be drawn.
    #[error("the system has no randomness for a request id: {source}")]
    NoRandomness {
        /// What the system said.
        source: std::io::Error,
    },
    /// Policy, or an access token's check, said no.
    #[error("{0}. A policy of the vault must name this caller, action and scope; some ask for a purpose")]
    Denied(Failure),
    /// The request itself is not right.
    #[error("{0}")]
    Invalid(Failure),
    /// Too much: later is better.
    #[error("{0}")]
    Limited(Failure),
    /// The vault can't at the moment: sealed, not ready, or its log can't be written.
    #[error("{0}")]
    Unavailable(Failure),
    /// Others changed the same tokens too often at the same time. Nothing was done.
    #[error("{0}")]
    Conflict(Failure),
    /// This version of the vault does not have what was asked for.
    #[error("{0}")]
    Unimplemented(Failure),
    /// Something else, which should not happen.
    #[error("{0}. This should not happen; the vault's own log has more")]
    Unexpected(Failure),
}

/// What the server said about a failed call or item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The status code.
    pub code: Code,
    /// ErrorInfo's reason.
    pub reason: Option<String>,
    /// In words.
    pub message: String,
    /// Fields and what is wrong with each.
    pub violations: Vec<(String, String)>,
    /// How long to wait before the next attempt.
    pub retry_after: Option<Duration>,
    /// The event that recorded the refusal.
    pub receipt: Option<Receipt>,
}

/// Where the event of a call stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The log.
    pub log_id: String,
    /// The event's sequence in it.
    pub sequence: u64,
}

impl Error {
    /// What became of the connection.
    pub(super) fn from_transport(address: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let address = address.to_owned();
        match mistrust(error) {
            Some(Mistrust::OfUs(problem)) => {
                return Self::HandshakeRefused { address, problem: problem.clone(), is_said: true };
            }
            Some(Mistrust::Silent(problem)) => {
                return Self::HandshakeRefused { address, problem: problem.clone(), is_said: false };
            }
            Some(Mistrust::OfServer(problem)) => return Self::OtherServer { problem: problem.clone() },
            None => {}
        }
        let problem = innermost(error);
        // What the other side says about our certificate comes as a TLS alert.
        if problem.contains("fatal alert") {
            Self::HandshakeRefused { address, problem, is_said: true }
        } else {
            Self::Unreachable { address, problem }
        }
    }

    /// What a status means for the caller. `is_unsent`: the request is known never to have left.
    pub(super) fn from_status(address: &str, status: &Status, is_unsent: bool) -> Self {
        // Only what was made on this side has a source: the connection broke, there is no answer.
        if let Some(source) = status.source()
            && status.details().is_empty()
        {
            return match Self::from_transport(address, source) {
                Self::Unreachable { address, problem } if !is_unsent => Self::Interrupted { address, problem },
                other => other,
            };
        }
        let failure = Failure::new(status.code(), status.message(), &status.get_error_details());
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied(failure),
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::NotFound
            | Code::AlreadyExists => Self::Invalid(failure),
            Code::ResourceExhausted => Self::Limited(failure),
            Code::DeadlineExceeded => Self::Deadline(failure),
            Code::Unavailable | Code::Cancelled => Self::Unavailable(failure),
            Code::Aborted => Self::Conflict(failure),
            Code::Unimplemented => Self::Unimplemented(failure),
            Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Self::Unexpected(failure),
        }
    }

    /// The server's answer does not fit the request.
    pub fn malformed_answer(message: String) -> Self {
        Self::Unexpected(Failure { code: Code::Internal, ..Failure::here(message) })
    }

    /// There was no answer in time.
    pub(super) fn late(deadline: Duration) -> Self {
        let message = format!("no answer within {}; whether the call was done is not known", in_one_unit(deadline));
        Self::Deadline(Failure { code: Code::DeadlineExceeded, ..Failure::here(message) })
    }

    /// The word for the reason, which is part of the API (docs/errors.md), if the vault said one.
    pub fn reason(&self) -> Option<&str> {
        self.failure()?.reason.as_deref()
    }

    /// The event that recorded the refusal, if there is one.
    pub fn receipt(&self) -> Option<&Receipt> {
        self.failure()?.receipt.as_ref()
    }

    /// What the server said, if it was asked at all.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Profile { .. }
            | Self::Unreachable { .. }
            | Self::OtherServer { .. }
            | Self::HandshakeRefused { .. }
            | Self::Interrupted { .. }
            | Self::BreakerOpen { .. }
            | Self::NoRandomness { .. } => None,
            Self::Deadline(failure)
            | Self::Denied(failure)
            | Self::Invalid(failure)
            | Self::Limited(failure)
            | Self::Unavailable(failure)
            | Self::Conflict(failure)
            | Self::Unimplemented(failure)
            | Self::Unexpected(failure) => Some(failure),
        }
    }
}

impl Failure {
    /// What is said about one item of a batch.
    pub fn of_item(status: &tonic_types::Status) -> Self {
        use tonic_types::RpcStatusExt as _;
        Self::new(Code::from_i32(status.code), &status.message, &status.get_error_details())
    }

    /// What was found on this side about an answer that came.
    pub fn here(message: String) -> Self {
        let code = Code::FailedPrecondition;
        Self { code, reason: None, message, violations: Vec::new(), retry_after: None, receipt: None }
    }

    fn new(code: Code, message: &str, details: &ErrorDetails) -> Self {
        let info = details.error_info();
        let receipt = info.and_then(|info| {
            let sequence = info.metadata.get("sequence")?.parse().ok()?;
            Some(Receipt { log_id: info.metadata.get("log_id")?.clone(), sequence })
        });
        let violations = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
        Self {
            code,
            reason: info.map(|info| info.reason.clone()),
            message: message.to_owned(),
            violations: violations.iter().map(|one| (one.field.clone(), one.description.clone())).collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            receipt,
        }
    }

    /// The code's name on the wire, such as `NOT_FOUND`.
    pub fn code_name(&self) -> &'static str {
        match self.code {
            Code::Ok => "OK",
            Code::Cancelled => "CANCELLED",
            Code::Unknown => "UNKNOWN",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::Aborted => "ABORTED",
            Code::OutOfRange => "OUT_OF_RANGE",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::DataLoss => "DATA_LOSS",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code_name())?;
        if let Some(reason) = &self.reason {
            write!(formatter, " ({reason})")?;
        }
        write!(formatter, ": {}", self.message)?;
        for (field, description) in &self.violations {
            if *description == self.message {
                write!(formatter, " (field {field})")?;
            } else {
                write!(formatter, "; {field}: {description}")?;
            }
        }
        if let Some(wait) = self.retry_after {
            write!(formatter, "; try again in {}", in_one_unit(wait))?;
        }
        if let Some(receipt) = &self.receipt {
            write!(formatter, "; recorded as event {} of {}", receipt.sequence, receipt.log_id)?;
        }
        Ok(())
    }
}

/// What the connector found out, somewhere in the chain. An I/O error names its content's cause as its own, and not its
/// content.
fn mistrust<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Mistrust> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let content = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = content.and_then(|content| content.downcast_ref()) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The cause at the end of the chain: what wraps it only says that something failed.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn what_the_server_says_is_kept() {
        let mut details = ErrorDetails::new();
        let metadata = HashMap::from([("log_id".to_owned(), "l".to_owned()), ("sequence".to_owned(), "7".to_owned())]);
        details.set_error_info("POLICY", "cloakroom", metadata);
        let status = Status::with_error_details(Code::PermissionDenied, "not permitted", details);
        let error = Error::from_status("a:1", &status, false);
        assert!(matches!(&error, Error::Denied(_)));
        let failure = error.failure().unwrap();
        assert_eq!(failure.reason.as_deref(), Some("POLICY"));
        assert_eq!(failure.receipt, Some(Receipt { log_id: "l".to_owned(), sequence: 7 }));
        assert_eq!(failure.to_string(), "PERMISSION_DENIED (POLICY): not permitted; recorded as event 7 of l");
    }

    #[test]
    fn what_is_wrong_with_the_only_field_is_said_once() {
        let failure = |description: &str| Failure {
            violations: vec![("scope".to_owned(), description.to_owned())],
            ..Failure::here("not a scope".to_owned())
        };
        assert_eq!(failure("not a scope").to_string(), "FAILED_PRECONDITION: not a scope (field scope)");
        assert_eq!(failure("too long").to_string(), "FAILED_PRECONDITION: not a scope; scope: too long");
    }

    #[test]
    fn who_mistrusts_whom_is_told_apart_t_13() {
        let told = |mistrust| Error::from_transport("a:1", &std::io::Error::other(mistrust));
        let error = told(Mistrust::OfUs("it said no".to_owned()));
        assert!(matches!(&error, Error::HandshakeRefused { .. }));
        assert!(error.to_string().starts_with("the vault at a:1 refused the connection: it said no. "), "{error}");
        let error = told(Mistrust::OfServer("the server at a:1 is b".to_owned()));
        assert_eq!(error.to_string(), "the server at a:1 is b. Is the profile's address right?");
        let error = Error::from_transport("a:1", &std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert!(matches!(error, Error::Unreachable { .. }));
    }

    #[test]
    fn limits_tell_when_to_come_back() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(250)));
        let status = Status::with_error_details(Code::ResourceExhausted, "too many calls", details);
        let error = Error::from_status("a:1", &status, false);
        assert_eq!(error.failure().unwrap().retry_after, Some(Duration::from_millis(250)));
        assert!(error.to_string().ends_with("try again in 250ms"), "{error}");
    }
}
