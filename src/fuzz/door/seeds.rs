//! Calls from which a fuzzer begins.

use super::super::{chosen, piece};
use super::{AUDIT, HANDLE, TOKEN, TOKENS, framed};
use crate::event::Action;
use crate::proto::v1;
use prost::Message;

fn message(who: u8, message: &impl Message) -> Vec<u8> {
    chosen(who, message.encode_to_vec())
}

fn scopes() -> impl Iterator<Item = String> {
    ["pan", "ssn", "acme/note", "nowhere", "../pan", ""].into_iter().map(str::to_owned)
}

fn tokens() -> Vec<String> {
    (0..4).map(|number| format!("{TOKEN}{number}")).chain(["pan_nonsense".to_owned()]).collect()
}

fn handles() -> Vec<String> {
    (0..4).map(|number| format!("{HANDLE}{number}")).chain(["0f".repeat(20)]).collect()
}

const REQUEST_ID: &str = "00000000-0000-4000-8000-000000000001";

fn tokenize_requests() -> impl Iterator<Item = v1::TokenizeRequest> {
    scopes().flat_map(|scope| {
        [false, true].map(|all_or_nothing| v1::TokenizeRequest {
            scope: scope.clone(),
            items: vec![
                v1::TokenizeItem { value: b"4111111111111111".to_vec(), ..Default::default() },
                v1::TokenizeItem {
                    value: vec![0; 40],
                    ttl: Some(prost_types::Duration { seconds: 60, nanos: 5 }),
                    max_uses: 2,
                    ..Default::default()
                },
                v1::TokenizeItem { subject: "somebody".into(), ..Default::default() },
            ],
            request_id: if all_or_nothing { REQUEST_ID.into() } else { String::new() },
            all_or_nothing,
        })
    })
}

fn detokenize_requests() -> impl Iterator<Item = v1::DetokenizeRequest> {
    scopes().flat_map(|scope| {
        [v1::Reveal::Full, v1::Reveal::Masked].map(|reveal| v1::DetokenizeRequest {
            scope: scope.clone(),
            tokens: tokens(),
            purpose: "refund".into(),
            reveal: reveal.into(),
            ..Default::default()
        })
    })
}

pub(in crate::fuzz) fn tokenize() -> Vec<Vec<u8>> {
    tokenize_requests().zip(0..).map(|(request, who)| message(who % 3, &request)).collect()
}

pub(in crate::fuzz) fn detokenize() -> Vec<Vec<u8>> {
    detokenize_requests().zip(0..).map(|(request, who)| message(who % 3, &request)).collect()
}

pub(in crate::fuzz) fn inspect() -> Vec<Vec<u8>> {
    let request = |scope| v1::InspectTokensRequest { scope, tokens: tokens(), handles: handles() };
    scopes().map(|scope| message(0, &request(scope))).collect()
}

pub(in crate::fuzz) fn renew() -> Vec<Vec<u8>> {
    let request = |scope| v1::RenewTokensRequest {
        scope,
        tokens: tokens(),
        ttl: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        request_id: REQUEST_ID.into(),
    };
    scopes().map(|scope| message(0, &request(scope))).collect()
}

pub(in crate::fuzz) fn revoke() -> Vec<Vec<u8>> {
    let request = |scope| v1::RevokeTokensRequest {
        scope,
        tokens: tokens(),
        handles: handles(),
        reason: "lost".into(),
        request_id: REQUEST_ID.into(),
    };
    scopes().map(|scope| message(0, &request(scope))).collect()
}

pub(in crate::fuzz) fn stream() -> Vec<Vec<u8>> {
    let one = tokenize_requests().map(|batch| v1::StreamTokenizeRequest { batch: Some(batch) }.encode_to_vec());
    let other = detokenize_requests().map(|batch| v1::StreamDetokenizeRequest { batch: Some(batch) }.encode_to_vec());
    let one: Vec<u8> = one.take(4).flat_map(|message| piece(&message)).collect();
    let other: Vec<u8> = other.take(4).flat_map(|message| piece(&message)).collect();
    vec![chosen(0, one), chosen(0x80, other), vec![0], vec![0x80, 1, 0, 0xff]]
}

fn filters() -> Vec<v1::AuditFilter> {
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let action = i32::from(Action::Tokenize as u8);
    vec![
        v1::AuditFilter::default(),
        v1::AuditFilter { caller: "spiffe://dev.cloakroom.internal/tester".into(), action, ..Default::default() },
        v1::AuditFilter { scope: "pan".into(), token: "token-1".into(), ..Default::default() },
        v1::AuditFilter { handle: "handle-2".into(), outcome: 1, ..Default::default() },
        v1::AuditFilter { start_time: time(1_780_000_000), end_time: time(1_799_000_000), ..Default::default() },
        v1::AuditFilter {
            purpose: "test".into(),
            trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
            request_id: REQUEST_ID.into(),
            ..Default::default()
        },
    ]
}

pub(in crate::fuzz) fn query() -> Vec<Vec<u8>> {
    let request = |(number, filter)| v1::QueryEventsRequest {
        filter: Some(filter),
        page_size: number,
        page_token: if number == 3 { "AQAAAAAAAAABAAAAAAAAAAA".into() } else { String::new() },
        newest_first: number % 2 == 0,
    };
    (0..).zip(filters()).map(|numbered| message(0, &request(numbered))).collect()
}

pub(in crate::fuzz) fn tail() -> Vec<Vec<u8>> {
    let request = |filter| v1::TailEventsRequest { filter: Some(filter), from_sequence: 0 };
    filters().into_iter().map(|filter| message(0, &request(filter))).collect()
}

pub(in crate::fuzz) fn proof() -> Vec<Vec<u8>> {
    let inclusion = v1::GetInclusionProofRequest { sequence: 1, tree_size: 2 };
    let consistency = v1::GetConsistencyProofRequest { from_size: 1, to_size: 3 };
    vec![
        vec![0, 0],
        chosen(0, message(1, &inclusion)),
        chosen(0, message(2, &consistency)),
        chosen(3, message(2, &consistency)),
    ]
}

pub(in crate::fuzz) fn head() -> Vec<Vec<u8>> {
    let body = framed(&v1::InspectTokensRequest { scope: "pan".into(), ..Default::default() }.encode_to_vec());
    let head = |head: &str| [head.as_bytes(), b"\n", &body].concat();
    vec![
        head(&format!("{TOKENS}InspectTokens\n10S\n00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nidentity")),
        head(&format!("{TOKENS}InspectTokens\n99999999H\n\ngzip")),
        head(&format!("{TOKENS}Nothing\n1n\n\n")),
        head(&format!("{AUDIT}GetCheckpoint\n5m\n00-0-0-0\n")),
        head("/grpc.health.v1.Health/Check\n100u\n\n"),
    ]
}
