//! What is asked of the servers: requests, encoded beforehand, and how to tell a right reply from a wrong one.

use super::Error;
use super::floor::{self, Echo};
use super::rest::Rest;
use crate::proto::v1::{self, detokenize_result, tokenize_result};
use http::uri::PathAndQuery;
use prost::Message;
use prost::bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// The scope of `init` in which all happens.
pub(super) const SCOPE: &str = "pan";
const PURPOSE: &str = "bench";

/// Which server, and as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The vault, as the caller that may tokenize.
    Gateway,
    /// The vault, as the caller that may detokenize.
    Payments,
    /// The vault, as the caller that may ask the log.
    Auditor,
    /// The echo.
    Floor,
    /// Another product.
    Peer,
}

/// Calls of one kind.
#[derive(Clone)]
pub(super) struct Load {
    pub target: Target,
    pub path: PathAndQuery,
    /// Sent in turn, again and again.
    pub requests: Arc<[Bytes]>,
    pub expected: Expected,
    pub care: Care,
}

/// Which replies are looked into, and what becomes of a wrong one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Now and then, and a wrong one is the end: the server is our own.
    Sampled,
    /// All, and a wrong one is counted as failed, like a call that was refused.
    Each,
}

/// What each reply must hold, every item a success.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// So many tokens.
    Tokens(usize),
    /// So many values.
    Values(usize),
    /// So many bytes.
    Echo(usize),
    /// So many events at least.
    Events(usize),
    /// A proof of inclusion, with its event.
    Proof,
    /// What another product answers over HTTP.
    Rest(Arc<Rest>),
}

impl Target {
    pub(super) const ALL: [Self; 5] = [Self::Gateway, Self::Payments, Self::Auditor, Self::Floor, Self::Peer];
    /// Of vault and floor.
    pub(super) const OWN: [Self; 4] = [Self::Gateway, Self::Payments, Self::Auditor, Self::Floor];
}

impl std::fmt::Debug for Load {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} different requests of {}", self.requests.len(), self.name())
    }
}

impl Load {
    /// So many different Tokenize calls of so many values each.
    pub(super) fn tokenize(values: usize, calls: usize) -> Self {
        Self::tokenize_in(values, calls, |_| SCOPE.to_owned(), None)
    }

    /// The same, of tokens that live for this long only.
    pub(super) fn tokenize_briefly(values: usize, calls: usize, lifetime: Duration) -> Self {
        Self::tokenize_in(values, calls, |_| SCOPE.to_owned(), Some(lifetime))
    }

    /// The same; each call's number says in which scope.
    pub(super) fn tokenize_in(
        values: usize,
        calls: usize,
        scope: impl Fn(usize) -> String,
        lifetime: Option<Duration>,
    ) -> Self {
        let seconds = |lifetime: Duration| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let ttl = lifetime.map(|lifetime| prost_types::Duration { seconds: seconds(lifetime), nanos: 0 });
        let item = |number: usize| v1::TokenizeItem { value: card_number(number), ttl, ..v1::TokenizeItem::default() };
        let request = |number: usize| v1::TokenizeRequest {
            scope: scope(number),
            items: (0..values).map(|place| item(number * values + place)).collect(),
            ..v1::TokenizeRequest::default()
        };
        Self {
            target: Target::Gateway,
            path: PathAndQuery::from_static("/cloakroom.v1.TokenService/Tokenize"),
            requests: (0..calls).map(|number| request(number).encode_to_vec().into()).collect(),
            expected: Expected::Tokens(values),
            care: Care::Sampled,
        }
    }

    /// Detokenize calls of so many of `tokens` each, going through all of them.
    pub(super) fn detokenize<'t>(values: usize, tokens: impl Iterator<Item = &'t str>) -> Self {
        let tokens: Vec<&str> = tokens.collect();
        Self::detokenize_in(values, tokens.chunks_exact(values).map(|chunk| (SCOPE, chunk)))
    }

    /// Detokenize calls of so many tokens each, with the scope of each.
    pub(super) fn detokenize_in<'t, T: AsRef<str> + 't>(
        values: usize,
        calls: impl Iterator<Item = (&'t str, &'t [T])>,
    ) -> Self {
        let request = |(scope, tokens): (&str, &[T])| v1::DetokenizeRequest {
            scope: scope.to_owned(),
            tokens: tokens.iter().map(|token| token.as_ref().to_owned()).collect(),
            purpose: PURPOSE.to_owned(),
            ..v1::DetokenizeRequest::default()
        };
        Self {
            target: Target::Payments,
            path: PathAndQuery::from_static("/cloakroom.v1.TokenService/Detokenize"),
            requests: calls.map(|call| request(call).encode_to_vec().into()).collect(),
            expected: Expected::Values(values),
            care: Care::Sampled,
        }
    }

    /// Echoes with as many bytes in and out as calls of the vault have.
    pub(super) fn echo(request_bytes: usize, reply_bytes: usize) -> Self {
        let request: Bytes = Echo::sized(request_bytes, reply_bytes).encode_to_vec().into();
        Self {
            target: Target::Floor,
            path: PathAndQuery::from_static(floor::PATH),
            requests: [request].into(),
            expected: Expected::Echo(reply_bytes),
            care: Care::Sampled,
        }
    }

    /// Questions to the log, each with a page of `page_size` events at the most and `least` at the least.
    pub(super) fn questions(filters: Vec<v1::AuditFilter>, page_size: usize, least: usize) -> Self {
        let request = |filter| v1::QueryEventsRequest {
            filter: Some(filter),
            page_size: i32::try_from(page_size).unwrap_or_default(),
            newest_first: true,
            ..v1::QueryEventsRequest::default()
        };
        Self {
            target: Target::Auditor,
            path: PathAndQuery::from_static("/cloakroom.v1.AuditService/QueryEvents"),
            requests: filters.into_iter().map(|filter| request(filter).encode_to_vec().into()).collect(),
            expected: Expected::Events(least),
            care: Care::Sampled,
        }
    }

    /// Proofs of inclusion in the tree of the newest checkpoint.
    pub(super) fn proofs(sequences: impl Iterator<Item = u64>) -> Self {
        let request = |sequence| v1::GetInclusionProofRequest { sequence, tree_size: 0 };
        Self {
            target: Target::Auditor,
            path: PathAndQuery::from_static("/cloakroom.v1.AuditService/GetInclusionProof"),
            requests: sequences.map(|sequence| request(sequence).encode_to_vec().into()).collect(),
            expected: Expected::Proof,
            care: Care::Sampled,
        }
    }

    /// How the calls are called.
    pub(super) fn name(&self) -> &'static str {
        match self.expected {
            Expected::Tokens(_) => "Tokenize",
            Expected::Values(_) => "Detokenize",
            Expected::Echo(_) => "Echo",
            Expected::Events(_) => "QueryEvents",
            Expected::Proof => "GetInclusionProof",
            Expected::Rest(ref rest) => rest.name(),
        }
    }

    /// The same, with each reply looked into.
    pub(super) fn with_care(self) -> Self {
        Self { care: Care::Each, ..self }
    }

    /// Whether such an error is counted; any other one is the end.
    pub(super) fn counts(&self, error: &Error) -> bool {
        self.care == Care::Each || matches!(error, Error::Refused { .. })
    }

    /// The same, of the first so many requests only.
    pub(super) fn first(&self, requests: usize) -> Self {
        Self { requests: self.requests.iter().take(requests).cloned().collect(), ..self.clone() }
    }

    /// The same requests in turn, so many in all.
    pub(super) fn repeated(&self, requests: usize) -> Self {
        Self { requests: self.requests.iter().cycle().take(requests).cloned().collect(), ..self.clone() }
    }

    /// The length of each reply, if it is always the same.
    pub(super) fn reply_bytes(&self) -> usize {
        match self.expected {
            Expected::Echo(length) => length,
            Expected::Tokens(_) | Expected::Values(_) | Expected::Events(_) | Expected::Proof | Expected::Rest(_) => 0,
        }
    }

    /// The length of one request.
    pub(super) fn request_bytes(&self) -> usize {
        self.requests.first().map_or(0, Bytes::len)
    }
}

impl Expected {
    /// Whether a reply is what it should be.
    pub(super) fn is_met_by(&self, reply: &[u8]) -> bool {
        match *self {
            Self::Tokens(count) => tokens_of(reply).is_some_and(|tokens| tokens.len() == count),
            Self::Values(count) => v1::DetokenizeResponse::decode(reply).is_ok_and(|reply| {
                let is_value = |result: &v1::DetokenizeResult| {
                    matches!(&result.outcome, Some(detokenize_result::Outcome::Value(value)) if !value.is_empty())
                };
                reply.results.len() == count && reply.results.iter().all(is_value)
            }),
            Self::Echo(length) => reply.len() == length,
            Self::Events(least) => {
                v1::QueryEventsResponse::decode(reply).is_ok_and(|reply| reply.events.len() >= least)
            }
            Self::Proof => proof_of(reply).is_some_and(|proof| !proof.hashes.is_empty() && !proof.event.is_empty()),
            // By status and number too, where it arrives.
            Self::Rest(_) => false,
        }
    }
}

/// The tokens of a Tokenize reply; `None` if it is not one, or an item of it failed.
pub(super) fn tokens_of(reply: &[u8]) -> Option<Vec<String>> {
    let token = |result: v1::TokenizeResult| match result.outcome {
        Some(tokenize_result::Outcome::Issued(issued)) => Some(issued.token),
        _ => None,
    };
    v1::TokenizeResponse::decode(reply).ok()?.results.into_iter().map(token).collect()
}

/// The proof of a GetInclusionProof reply.
pub(super) fn proof_of(reply: &[u8]) -> Option<v1::InclusionProof> {
    v1::GetInclusionProofResponse::decode(reply).ok()?.proof
}

/// Sixteen digits, of no card: they begin with a digit that no issuer has.
pub(super) fn card_number(number: usize) -> Vec<u8> {
    format!("0{number:015}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_with_a_failed_item_is_not_taken_for_a_right_one() {
        let value =
            |value: &[u8]| v1::DetokenizeResult { outcome: Some(detokenize_result::Outcome::Value(value.to_vec())) };
        let failed =
            v1::DetokenizeResult { outcome: Some(detokenize_result::Outcome::Error(tonic_types::Status::default())) };
        let reply = |results: Vec<v1::DetokenizeResult>| {
            v1::DetokenizeResponse { results, ..v1::DetokenizeResponse::default() }.encode_to_vec()
        };
        assert!(Expected::Values(2).is_met_by(&reply(vec![value(b"1"), value(b"2")])));
        assert!(!Expected::Values(2).is_met_by(&reply(vec![value(b"1"), failed])));
        assert!(!Expected::Values(2).is_met_by(&reply(vec![value(b"1")])));
        assert!(!Expected::Values(1).is_met_by(b"\xff"));
        assert!(!Expected::Echo(3).is_met_by(b"1234"));
        let page = v1::QueryEventsResponse { events: vec![v1::AuditEvent::default()], ..Default::default() };
        assert!(Expected::Events(1).is_met_by(&page.encode_to_vec()));
        assert!(!Expected::Events(2).is_met_by(&page.encode_to_vec()));
        assert!(!Expected::Proof.is_met_by(&v1::GetInclusionProofResponse::default().encode_to_vec()));
    }

    #[test]
    fn a_wrong_reply_is_counted_only_where_each_is_looked_into() {
        let (wrong, refused) = (
            Error::Call { call: "Tokenize", problem: "the reply is not as expected".to_owned() },
            Error::Refused { call: "Tokenize" },
        );
        let load = Load::tokenize(1, 1);
        assert!(load.counts(&refused) && !load.counts(&wrong), "it ends the measurement");
        let load = load.with_care();
        assert!(load.counts(&refused) && load.counts(&wrong));
    }

    #[test]
    fn requests_of_a_kind_are_equally_long_and_not_equal() {
        for values in [1, 100] {
            let load = Load::tokenize(values, 3);
            assert!(load.requests.iter().all(|request| request.len() == load.request_bytes()));
            assert!(load.requests[0] != load.requests[1]);
            let echo = Load::echo(load.request_bytes(), 500);
            assert_eq!(echo.request_bytes(), load.request_bytes());
        }
    }
}
