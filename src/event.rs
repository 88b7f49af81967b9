//! The audit vocabulary and its canonical bytes.
//!
//! An [`Event`] says who did what to which handles, whether it was allowed, and why. It is the `AuditEvent` of the public
//! interface, field by field.
//!
//! Its canonical bytes are what the log stores and what the tree hashes: a version byte and the protobuf encoding of the
//! event in ascending field order, defaults left out, without `log_id` and `sequence`, which follow from the place in the
//! log. They come in two steps, because the request knows everything but the time, and the one writer stamps that:
//! [`Event::encode_body`] on the request's side, [`finish`] on the writer's.
//!
//! Invariant: an event has one spelling. [`decode`] encodes again what it has read and refuses any other.
//!
//! Events hold no value and no token, so they may be printed. This module must not know how events come about, how they are
//! stored or who may read them.

pub mod json;
pub mod ocsf;
pub mod report;
pub mod severity;
pub mod view;

#[cfg(test)]
mod tests;

use prost::Message;
use prost::bytes::{Bytes, BytesMut};

use crate::clock::Timestamp;

/// The first byte of an event as stored.
pub const VERSION: u8 = 0x01;

/// The length of a handle in an event.
pub const HANDLE_BYTES: usize = 20;

/// The length of an event's salt.
pub const SALT_BYTES: usize = 16;

/// The last second of the year 9999, where `google.protobuf.Timestamp` ends.
const LATEST_SECOND: i64 = 253_402_300_799;

const NANOS_PER_MILLI: i32 = 1_000_000;

/// Protobuf's wire types that occur here.
const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// The key of field 3, `time`.
const TIME_KEY: u8 = 3 << 3 | LENGTH_DELIMITED;

/// One record of one request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// The log it is in. Not part of the canonical bytes.
    #[prost(string, tag = "1")]
    pub log_id: String,
    /// Its place in the log, from 0; the leaf's index. Not part of the canonical bytes.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// When it was written. Never decreases along a log. Not part of the body: [`finish`] puts it in.
    #[prost(message, optional, tag = "3")]
    pub time: Option<Time>,
    /// What was asked for.
    #[prost(enumeration = "Action", tag = "4")]
    pub action: i32,
    /// Whether it was permitted, or failed as a whole.
    #[prost(enumeration = "Outcome", tag = "5")]
    pub outcome: i32,
    /// Why not, as one fixed word.
    #[prost(string, tag = "6")]
    pub reason: String,
    /// The SPIFFE ID that asked.
    #[prost(string, tag = "7")]
    pub caller: String,
    /// The SHA-256 of the certificate that said so.
    #[prost(bytes = "bytes", tag = "8")]
    pub certificate_sha256: Bytes,
    /// The access token presented with it, if any.
    #[prost(message, optional, tag = "9")]
    pub access_token: Option<AccessTokenInfo>,
    /// The scope that was named.
    #[prost(string, tag = "10")]
    pub scope: String,
    /// One handle for each item, empty where an item had none. See [`handles`].
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub handles: Vec<Bytes>,
    /// How many items were asked for.
    #[prost(uint32, tag = "12")]
    pub requested: u32,
    /// How many of them were done.
    #[prost(uint32, tag = "13")]
    pub succeeded: u32,
    /// What for, in the caller's words.
    #[prost(string, tag = "14")]
    pub purpose: String,
    /// A keyed hash of the request id.
    #[prost(bytes = "bytes", tag = "15")]
    pub request_hash: Bytes,
    /// The trace that the request belonged to.
    #[prost(string, tag = "16")]
    pub trace_id: String,
    /// Where the connection came from.
    #[prost(string, tag = "17")]
    pub peer_address: String,
    /// The ids of the policies that decided.
    #[prost(string, repeated, tag = "18")]
    pub policies: Vec<String>,
    /// The vault process that wrote it.
    #[prost(string, tag = "19")]
    pub node: String,
    /// Whether values were asked for in full or masked.
    #[prost(enumeration = "Reveal", tag = "20")]
    pub reveal: i32,
    /// The digest of the rulebook that decided.
    #[prost(bytes = "bytes", tag = "21")]
    pub rulebook: Bytes,
    /// What became of each item, in request order.
    #[prost(enumeration = "ItemOutcome", repeated, tag = "22")]
    pub item_outcomes: Vec<i32>,
    /// In a summary: how many it stands for.
    #[prost(uint64, tag = "23")]
    pub count: u64,
    /// In a summary: when the first of them was.
    #[prost(message, optional, tag = "24")]
    pub first_time: Option<Time>,
    /// What else belongs to it: an auditor's filter, a reason given, key ids.
    #[prost(string, tag = "25")]
    pub detail: String,
    /// Sixteen random bytes, so that a dropped body can't be guessed from its hash.
    #[prost(bytes = "bytes", tag = "26")]
    pub salt: Bytes,
}

/// A point in time, on the wire the same as `google.protobuf.Timestamp`. Events have whole milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds within the second, a multiple of a million.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// What an event says of an access token.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct AccessTokenInfo {
    /// Who issued it.
    #[prost(string, tag = "1")]
    pub issuer: String,
    /// For whom.
    #[prost(string, tag = "2")]
    pub subject: String,
    /// A hash of the token, to find it again.
    #[prost(bytes = "bytes", tag = "3")]
    pub token_hash: Bytes,
    /// Who acts for the subject.
    #[prost(string, tag = "4")]
    pub actor: String,
}

/// Stored bytes are not an event of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is nothing.
    #[error("an event can't be empty")]
    Empty,
    /// Written by a newer program, or not an event at all.
    #[error("the event has format version {0}, this program knows version 1: use a newer one")]
    Version(u8),
    /// Not the encoding of an event.
    #[error("the event's bytes are damaged: {0}")]
    Malformed(String),
    /// An event, but spelled in another way than the one that is hashed.
    #[error("the event is not in canonical form, so this program did not write it")]
    NotCanonical,
    /// No time, or one that is not whole milliseconds between 1970 and 9999.
    #[error("the event's time is missing or is not whole milliseconds between the years 1970 and 9999")]
    Time,
}

impl Event {
    /// When it was written, if it has been.
    pub fn timestamp(&self) -> Option<Timestamp> {
        Timestamp::try_from(self.time?).ok()
    }

    /// The canonical bytes of everything but version and time: fields 4 to 26. `log_id`, `sequence` and `time` are left
    /// out whether or not they are set.
    ///
    /// Written out by hand, though the derived encoder gives the same bytes (a test holds both to it): this is the
    /// definition of what is hashed, and no release of a library may change it. It is also twice as fast.
    pub fn encode_body(&self) -> Vec<u8> {
        let mut body = Body(Vec::with_capacity(384 + 24 * self.handles.len()));
        body.number(4, sign_extended(self.action));
        body.number(5, sign_extended(self.outcome));
        body.bytes(6, self.reason.as_bytes());
        body.bytes(7, self.caller.as_bytes());
        body.bytes(8, &self.certificate_sha256);
        body.message(9, self.access_token.as_ref());
        body.bytes(10, self.scope.as_bytes());
        self.handles.iter().for_each(|handle| body.element(11, handle));
        body.number(12, self.requested.into());
        body.number(13, self.succeeded.into());
        body.bytes(14, self.purpose.as_bytes());
        body.bytes(15, &self.request_hash);
        body.bytes(16, self.trace_id.as_bytes());
        body.bytes(17, self.peer_address.as_bytes());
        self.policies.iter().for_each(|policy| body.element(18, policy.as_bytes()));
        body.bytes(19, self.node.as_bytes());
        body.number(20, sign_extended(self.reveal));
        body.bytes(21, &self.rulebook);
        body.packed(22, &self.item_outcomes);
        body.number(23, self.count);
        body.message(24, self.first_time.as_ref());
        body.bytes(25, self.detail.as_bytes());
        body.bytes(26, &self.salt);
        body.0
    }
}

/// Bytes in the making, by the rules of proto3: a field at its default is left out.
struct Body(Vec<u8>);

impl Body {
    fn number(&mut self, tag: u8, number: u64) {
        if number != 0 {
            self.key(tag, VARINT);
            self.varint(number);
        }
    }

    fn bytes(&mut self, tag: u8, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.element(tag, bytes);
        }
    }

    /// One of several, which is written even if it is empty.
    fn element(&mut self, tag: u8, bytes: &[u8]) {
        self.key(tag, LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message that is there is written, even if all its fields are at their defaults.
    fn message(&mut self, tag: u8, message: Option<&impl Message>) {
        if let Some(message) = message {
            self.element(tag, &message.encode_to_vec());
        }
    }

    fn packed(&mut self, tag: u8, numbers: &[i32]) {
        let mut content = Self(Vec::with_capacity(numbers.len()));
        for number in numbers {
            content.varint(sign_extended(*number));
        }
        self.bytes(tag, &content.0);
    }

    fn key(&mut self, tag: u8, wire_type: u8) {
        self.varint(u64::from(tag) << 3 | u64::from(wire_type));
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push((number & 0x7f) as u8);
    }
}

/// Protobuf writes a negative enumeration value as ten bytes of varint. There is none, but the bytes must not depend on it.
fn sign_extended(number: i32) -> u64 {
    i64::from(number).cast_unsigned()
}

/// The event as it is stored and hashed: version, time, body.
pub fn finish(body: &[u8], time: Timestamp) -> Vec<u8> {
    let time = Time::from(time);
    let length = time.encoded_len();
    let mut bytes = Vec::with_capacity(3 + length + body.len());
    bytes.extend_from_slice(&[VERSION, TIME_KEY]);
    time.encode_length_delimited(&mut bytes).expect("a vector takes what it is given");
    bytes.extend_from_slice(body);
    bytes
}

/// Reads an event as stored. `log_id` and `sequence` are left for the caller, who knows where it lay.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let (version, encoded) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    // Copied once, so that the fields can share the copy instead of each having its own.
    let mut event =
        Event::decode(Bytes::copy_from_slice(encoded)).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    let time = event.time.take().ok_or(DecodeError::Time)?;
    let timestamp = Timestamp::try_from(time).map_err(|_| DecodeError::Time)?;
    if finish(&event.encode_body(), timestamp) != bytes {
        return Err(DecodeError::NotCanonical);
    }
    event.time = Some(time);
    Ok(event)
}

/// The handles of an event's items, in request order; `None` for an item that had none. They share one allocation.
pub fn handles<'a>(items: impl ExactSizeIterator<Item = Option<&'a [u8; HANDLE_BYTES]>>) -> Vec<Bytes> {
    let mut all = BytesMut::with_capacity(items.len() * HANDLE_BYTES);
    let present: Vec<bool> = items
        .map(|item| {
            all.extend_from_slice(item.map_or(&[], |handle| handle.as_slice()));
            item.is_some()
        })
        .collect();
    let mut rest = all.freeze();
    present.into_iter().map(|present| if present { rest.split_to(HANDLE_BYTES) } else { Bytes::new() }).collect()
}

impl From<Timestamp> for Time {
    fn from(time: Timestamp) -> Self {
        let nanos = (time.millis() % 1000) as i32 * NANOS_PER_MILLI;
        // Not lossy: a number of milliseconds, divided by a thousand, is below 2^63.
        Self { seconds: time.seconds().cast_signed(), nanos }
    }
}

impl TryFrom<Time> for Timestamp {
    type Error = DecodeError;

    fn try_from(time: Time) -> Result<Self, DecodeError> {
        let Time { seconds, nanos } = time;
        let whole_millis = (0..1000 * NANOS_PER_MILLI).contains(&nanos) && nanos % NANOS_PER_MILLI == 0;
        if !(0..=LATEST_SECOND).contains(&seconds) || !whole_millis {
            return Err(DecodeError::Time);
        }
        Ok(Timestamp::from_millis(
            seconds.cast_unsigned() * 1000 + u64::from((nanos / NANOS_PER_MILLI).cast_unsigned()),
        ))
    }
}

/// Declares an enumeration of the vocabulary: its numbers on the wire and its words on the command line.
macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
        #[repr(i32)]
        pub enum $name {
            /// Not said.
            Unspecified = 0,
            $($(#[$variant_doc])* $variant = $number,)*
        }

        impl $name {
            /// All of them that say something, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The lower-case word for it; "unspecified" where nothing is said.
            pub const fn word(self) -> &'static str {
                match self {
                    Self::Unspecified => "unspecified",
                    $(Self::$variant => $word,)*
                }
            }

            /// What the word stands for. No word stands for nothing said.
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

vocabulary! {
    /// What was asked for, or what the vault did by itself.
    Action {
        /// Values in, tokens out.
        Tokenize = 1 "tokenize",
        /// Tokens in, values out.
        Detokenize = 2 "detokenize",
        /// Metadata of tokens.
        Inspect = 3 "inspect",
        /// A new lifetime.
        Renew = 4 "renew",
        /// An end to tokens.
        Revoke = 5 "revoke",
        /// A question to the log.
        QueryAudit = 6 "query_audit",
        /// A connection, where it failed.
        Connect = 7 "connect",
        /// The process began.
        Start = 16 "start",
        /// The process ended in order.
        Stop = 17 "stop",
        /// New configuration, rulebook, certificates.
        Reload = 18 "reload",
        /// The clock leapt, or a leap was accepted.
        Clock = 19 "clock",
        /// Expired rows were deleted.
        Purge = 20 "purge",
        /// A data key was made.
        CreateKey = 21 "create_key",
        /// Keys were replaced by newer ones.
        RotateKeys = 22 "rotate_keys",
        /// Rows were put under newer keys.
        Rewrap = 23 "rewrap",
        /// The keys left memory.
        Seal = 24 "seal",
        /// The keys came into memory.
        Unseal = 25 "unseal",
        /// A copy was made.
        Backup = 26 "backup",
        /// A copy was put back.
        Restore = 27 "restore",
        /// A scope's keys were destroyed.
        Shred = 28 "shred",
        /// A subject's values were destroyed.
        Erase = 29 "erase",
        /// Deletion was suspended.
        Hold = 30 "hold",
        /// Values left for another system.
        Export = 31 "export",
        /// Values came from another system.
        Import = 32 "import",
        /// The store was checked.
        Verify = 33 "verify",
        /// A second person agreed.
        Approve = 34 "approve",
        /// A token that nobody should use was used.
        Honey = 35 "honey",
        /// Something out of the ordinary was noticed.
        Unusual = 36 "unusual",
    }
}

vocabulary! {
    /// What became of a request as a whole.
    Outcome {
        /// Permitted, whatever became of the items.
        Allowed = 1 "allowed",
        /// Policy said no.
        Denied = 2 "denied",
        /// Permitted or not yet decided, and it did not happen.
        Failed = 3 "failed",
    }
}

vocabulary! {
    /// How much of a value is shown.
    Reveal {
        /// All of it.
        Full = 1 "full",
        /// What the scope's mask leaves.
        Masked = 2 "masked",
    }
}

vocabulary! {
    /// What became of one item of a request.
    ItemOutcome {
        /// A token was issued.
        Issued = 1 "issued",
        /// The value left in full.
        Released = 2 "released",
        /// The value left masked.
        Masked = 3 "masked",
        /// Inspected, renewed or revoked.
        Done = 4 "done",
        /// There is no such token here.
        Unknown = 5 "unknown",
        /// Its time was over.
        Expired = 6 "expired",
        /// It had been revoked.
        Revoked = 7 "revoked",
        /// It had no uses left.
        UsedUp = 8 "used_up",
        /// It was suspended.
        Suspended = 9 "suspended",
        /// Not a token of the scope's format.
        Malformed = 10 "malformed",
        /// The row does not open.
        Corrupt = 11 "corrupt",
        /// Another change came between.
        Conflict = 12 "conflict",
        /// A limit was reached.
        Limited = 13 "limited",
        /// A bad value, lifetime or the like.
        Refused = 14 "refused",
    }
}
