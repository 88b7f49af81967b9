//! An event as one line of JSON: what people and other programs read.
//!
//! The field names are those of the protobuf, in its order; empty fields are left out; bytes are lower-case hexadecimal;
//! words of the vocabulary are upper case; times are RFC 3339 in UTC with milliseconds. An event has one spelling, so a
//! line can be made again from the event and compared byte by byte.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use super::{AccessTokenInfo, Action, Event, ItemOutcome, Outcome, Reveal, Time};

/// No word of the vocabulary is longer.
const WORD_BYTES: usize = 32;

/// An event, to be serialized.
pub struct Json<'a>(pub &'a Event);

/// A word of the vocabulary, in upper case.
struct Word(&'static str);

struct Hex<'a>(&'a [u8]);

struct HexList<'a>(&'a [prost::bytes::Bytes]);

struct ItemOutcomes<'a>(&'a [i32]);

struct Moment(Option<Time>);

#[derive(Serialize)]
struct Fields<'a> {
    log_id: &'a str,
    sequence: u64,
    time: Moment,
    action: Word,
    outcome: Word,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    caller: &'a str,
    #[serde(skip_serializing_if = "Hex::is_empty")]
    certificate_sha256: Hex<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<AccessToken<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
    #[serde(skip_serializing_if = "HexList::is_empty")]
    handles: HexList<'a>,
    requested: u32,
    succeeded: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    purpose: &'a str,
    #[serde(skip_serializing_if = "Hex::is_empty")]
    request_hash: Hex<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    peer_address: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    policies: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reveal: Option<Word>,
    #[serde(skip_serializing_if = "Hex::is_empty")]
    rulebook: Hex<'a>,
    #[serde(skip_serializing_if = "ItemOutcomes::is_empty")]
    item_outcomes: ItemOutcomes<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Moment::is_absent")]
    first_time: Moment,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    #[serde(skip_serializing_if = "Hex::is_empty")]
    salt: Hex<'a>,
}

#[derive(Serialize)]
struct AccessToken<'a> {
    issuer: &'a str,
    subject: &'a str,
    token_hash: Hex<'a>,
    actor: &'a str,
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fields::from(self.0).serialize(serializer)
    }
}

impl<'a> From<&'a Event> for Fields<'a> {
    fn from(event: &'a Event) -> Self {
        let reveal = event.reveal();
        Self {
            log_id: &event.log_id,
            sequence: event.sequence,
            time: Moment(event.time),
            action: Word(Action::word(event.action())),
            outcome: Word(Outcome::word(event.outcome())),
            reason: &event.reason,
            caller: &event.caller,
            certificate_sha256: Hex(&event.certificate_sha256),
            access_token: event.access_token.as_ref().map(AccessToken::from),
            scope: &event.scope,
            handles: HexList(&event.handles),
            requested: event.requested,
            succeeded: event.succeeded,
            purpose: &event.purpose,
            request_hash: Hex(&event.request_hash),
            trace_id: &event.trace_id,
            peer_address: &event.peer_address,
            policies: &event.policies,
            node: &event.node,
            reveal: (reveal != Reveal::Unspecified).then(|| Word(reveal.word())),
            rulebook: Hex(&event.rulebook),
            item_outcomes: ItemOutcomes(&event.item_outcomes),
            count: Some(event.count).filter(|count| *count > 0),
            first_time: Moment(event.first_time),
            detail: &event.detail,
            salt: Hex(&event.salt),
        }
    }
}

impl<'a> From<&'a AccessTokenInfo> for AccessToken<'a> {
    fn from(info: &'a AccessTokenInfo) -> Self {
        Self { issuer: &info.issuer, subject: &info.subject, token_hash: Hex(&info.token_hash), actor: &info.actor }
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut upper = [0; WORD_BYTES];
        let upper = &mut upper[..self.0.len()];
        upper.copy_from_slice(self.0.as_bytes());
        upper.make_ascii_uppercase();
        serializer.serialize_str(std::str::from_utf8(upper).expect("words are ASCII"))
    }
}

impl Hex<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // What events hold is a handle, a salt or a digest: almost never longer.
        let mut buffer = [0; 64];
        if let Some(digits) = buffer.get_mut(..2 * self.0.len()) {
            hex::encode_to_slice(self.0, digits).expect("there is room for two digits a byte");
            return serializer.serialize_str(std::str::from_utf8(digits).expect("digits are ASCII"));
        }
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl HexList<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for HexList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|bytes| Hex(bytes)))
    }
}

impl ItemOutcomes<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for ItemOutcomes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for number in self.0 {
            list.serialize_element(&Word(ItemOutcome::try_from(*number).unwrap_or(ItemOutcome::Unspecified).word()))?;
        }
        list.end()
    }
}

impl Moment {
    fn is_absent(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.and_then(|time| crate::clock::Timestamp::try_from(time).ok()) {
            Some(time) => serializer.collect_str(&rfc3339(time)),
            None => serializer.serialize_str(""),
        }
    }
}

/// RFC 3339 in UTC with milliseconds, as events and checkpoints have it.
pub fn rfc3339(time: crate::clock::Timestamp) -> impl std::fmt::Display {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(time.millis()))
}
