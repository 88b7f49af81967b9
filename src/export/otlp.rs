//! OTLP over HTTP: logs in protobuf, posted to a collector.
//!
//! Source: the OpenTelemetry Protocol Specification 1.x and its protos, of which only what is used is written down here.
//! A record carries the same time and the same id whenever it is sent, so a repetition can be told from a new one by
//! `log.record.uid`.

use super::delivery::{Delivered, Failed, Prepared, quoted};
use super::post::{Answer, Post};
use crate::event::severity::Severity;
use prost::Message;
use prost::bytes::Bytes;

const PROTOBUF: &str = "application/x-protobuf";
const NANOS_PER_MILLI: u64 = 1_000_000;

/// A collector.
pub(super) struct Otlp {
    post: Post,
}

impl Otlp {
    pub fn new(post: Post) -> Self {
        Self { post }
    }

    /// Posts the batch and waits for the answer.
    pub async fn send(&mut self, batch: &[Prepared]) -> Result<Delivered, Failed> {
        let body = Bytes::from(request(batch).encode_to_vec());
        delivered(self.post.post(PROTOBUF, &body).await?)
    }

    /// Posts a request without a record, which a collector has to accept: whether it is the content that it refuses.
    pub async fn probe(&mut self) -> Result<(), Failed> {
        delivered(self.post.post(PROTOBUF, &Bytes::new()).await?).map(drop)
    }

    /// Gives up the connection, if there is one.
    pub fn hang_up(&mut self) {
        self.post.hang_up();
    }
}

/// What an answer means. By the specification all of 2xx is success, and a partial one must not be sent again.
fn delivered(answer: Answer) -> Result<Delivered, Failed> {
    let Answer { status, retry_after, .. } = answer;
    match status {
        200..=299 => taken(&answer),
        // Bad data, too much of it, or well-formed and senseless: the same again is refused again.
        400 | 413 | 422 => Err(Failed::Content(status)),
        _ => Err(Failed::Unwilling { said: format!("HTTP {status}"), retry_after }),
    }
}

fn taken(answer: &Answer) -> Result<Delivered, Failed> {
    // A page of a web server is no acknowledgement, whatever its status.
    let other = || Failed::Unwilling {
        said: format!(
            "HTTP {} with {}, which is not what an OTLP collector answers; is the address right?",
            answer.status,
            quoted(&answer.content_type)
        ),
        retry_after: None,
    };
    let content_type = answer.content_type.split(';').next().unwrap_or_default().trim();
    let partial = match content_type {
        _ if answer.body.is_empty() => None,
        PROTOBUF => ExportLogsServiceResponse::decode(answer.body.clone()).map_err(|_| other())?.partial_success,
        "application/json" => Some(in_json(&answer.body).ok_or_else(other)?),
        _ => return Err(other()),
    };
    match partial {
        Some(PartialSuccess { rejected_log_records, error_message }) if rejected_log_records > 0 => {
            let refused = rejected_log_records.unsigned_abs();
            Ok(Delivered::Partly { refused, said: quoted(&error_message) })
        }
        _ => Ok(Delivered::Acknowledged),
    }
}

/// For `src/fuzz`: what is said in the log of an answer is one bounded line, whatever it is.
#[cfg(test)]
pub(super) fn check_answer(answer: Answer) {
    let said = match delivered(answer) {
        Ok(Delivered::Partly { refused, said }) => {
            assert!(refused > 0);
            said
        }
        Ok(_) => return,
        Err(error) => error.to_string(),
    };
    assert!(said.len() < 4096 && !said.contains(char::is_control), "{said:?}");
}

/// For `src/fuzz`: a request can be made of any event.
#[cfg(test)]
pub(super) fn check_request(event: &crate::event::Event) {
    let time = event.timestamp().expect("a decoded event has a time");
    let prepared = Prepared { sequence: event.sequence, time, event: event.clone(), body: "{}".to_owned() };
    let bytes = request(&[prepared]).encode_to_vec();
    ExportLogsServiceRequest::decode(bytes.as_slice()).expect("what is written can be read");
}

/// The answer in JSON, from a collector that always answers so. Protobuf's JSON has numbers of 64 bits as texts.
fn in_json(body: &[u8]) -> Option<PartialSuccess> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let Some(partial) = answer.as_object()?.get("partialSuccess") else { return Some(PartialSuccess::default()) };
    let rejected = &partial["rejectedLogRecords"];
    let rejected_log_records =
        rejected.as_i64().or_else(|| rejected.as_str().and_then(|text| text.parse().ok())).unwrap_or_default();
    let error_message = partial["errorMessage"].as_str().unwrap_or_default().to_owned();
    Some(PartialSuccess { rejected_log_records, error_message })
}

fn request(batch: &[Prepared]) -> ExportLogsServiceRequest {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let log_id = batch.first().map_or("", |first| first.event.log_id.as_str());
    let resource = vec![
        attribute("service.name", Kind::Text("cloakroom".to_owned())),
        attribute("service.version", Kind::Text(version.clone())),
        attribute("service.instance.id", Kind::Text(log_id.to_owned())),
    ];
    let scope = InstrumentationScope { name: "cloakroom.audit".to_owned(), version };
    let log_records = batch.iter().map(record).collect();
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource { attributes: resource }),
            scope_logs: vec![ScopeLogs { scope: Some(scope), log_records }],
        }],
    }
}

fn record(prepared: &Prepared) -> LogRecord {
    let event = &prepared.event;
    let nanos = prepared.time.millis().saturating_mul(NANOS_PER_MILLI);
    let (severity_number, severity_text) = Severity::of(event).opentelemetry();
    let uid = format!("{}/{}", event.log_id, prepared.sequence);
    let sequence = i64::try_from(prepared.sequence).unwrap_or(i64::MAX);
    // W3C's trace ids are 16 bytes; what is none is in the body all the same.
    let trace_id = hex::decode(&event.trace_id).ok().filter(|id| id.len() == 16).unwrap_or_default();
    LogRecord {
        time_unix_nano: nanos,
        severity_number,
        severity_text: severity_text.to_owned(),
        body: Some(AnyValue { kind: Some(Kind::Text(prepared.body.clone())) }),
        attributes: vec![
            attribute("log.record.uid", Kind::Text(uid)),
            attribute("cloakroom.log_id", Kind::Text(event.log_id.clone())),
            attribute("cloakroom.sequence", Kind::Number(sequence)),
        ],
        trace_id,
        observed_time_unix_nano: nanos,
        event_name: "cloakroom.audit".to_owned(),
    }
}

fn attribute(key: &str, value: Kind) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { kind: Some(value) }) }
}

// === opentelemetry.proto.collector.logs.v1, logs.v1, resource.v1, common.v1: what is used of them ===

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportLogsServiceRequest {
    #[prost(message, repeated, tag = "1")]
    pub resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    pub log_records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InstrumentationScope {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LogRecord {
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    #[prost(int32, tag = "2")]
    pub severity_number: i32,
    #[prost(string, tag = "3")]
    pub severity_text: String,
    #[prost(message, optional, tag = "5")]
    pub body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<KeyValue>,
    #[prost(bytes = "vec", tag = "9")]
    pub trace_id: Vec<u8>,
    #[prost(fixed64, tag = "11")]
    pub observed_time_unix_nano: u64,
    #[prost(string, tag = "12")]
    pub event_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "Kind", tags = "1, 3")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Kind {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportLogsServiceResponse {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected_log_records: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

#[cfg(test)]
mod tests;
