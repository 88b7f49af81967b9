//! Request ids: a call that is made again by the same caller, with the same id and the same payload, gets the same outcome
//! and changes nothing a second time, whether its first answer was lost, is still under way, or was given before a restart.
//!
//! What is remembered of a call lies in `requests` for a day, sealed under a key that only the request id and the payload
//! yield. It is written in the same commit as what the call changed, so there is never one without the other.

use super::attempt::Effects;
use super::expiry::Expiries;
use super::{Failure, ItemFailure, Reason, Vault, Violation};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::crypto::answer::{Lock, Row};
use crate::event::Action;
use crate::secret::{Secret, SecretBytes};
use crate::store::{Found, Table, Tier};
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// How long an outcome is remembered.
pub const REMEMBERED_FOR: Duration = Duration::from_hours(24);

/// What an event's detail says of a call that was answered from memory.
pub(super) const REPEATED: &str = "repeated";

/// The salt under which an answer is sealed.
pub(super) const RANDOM_BYTES: usize = 16;

/// The name that a call's outcome is remembered by.
pub(super) struct Request {
    id: Secret<[u8; 16]>,
    name: [u8; 32],
    payload: [u8; 32],
}

/// Everything that a call asks for, hashed field by field. Two calls with the same hash ask for the same.
pub(super) struct Payload(Sha256);

/// What became of one item, as it is remembered.
pub(super) enum Remembered {
    /// This token was issued.
    Issued { token: Secret<String>, handle: Handle, expires: Timestamp },
    /// It was renewed until then, or revoked then.
    Time(Timestamp),
    /// Its value left.
    Released,
    /// It failed.
    Failed(ItemFailure),
}

/// What is known of a request id.
pub(super) enum Recalled {
    /// Nothing: the call is the first of its kind.
    Nothing,
    /// This became of each of its items.
    Outcome(Vec<Remembered>),
    /// It was used for another payload.
    Another,
}

const ISSUED: u8 = 1;
const TIME: u8 = 2;
const RELEASED: u8 = 3;
const NOT_FOUND: u8 = 4;
const DATA_LOSS: u8 = 5;
const INVALID: u8 = 6;

impl Vault {
    /// The name of a call's outcome; `None` if the caller gave no request id.
    pub(super) fn request(
        &self,
        caller: &str,
        request_id: &str,
        payload: impl FnOnce() -> Payload,
    ) -> Result<Option<Request>, Violation> {
        let malformed = Violation { field: "request_id", reason: Reason::RequestIdMalformed };
        if request_id.is_empty() {
            return Ok(None);
        }
        let id = parse(request_id).ok_or(malformed)?;
        let name = self.keyring.request().locate(caller, id.expose());
        Ok(Some(Request { id, name, payload: payload().0.finalize().into() }))
    }

    /// What became of the call the first time.
    pub(super) async fn recall(&self, request: Option<&Request>, now: Timestamp) -> Result<Recalled, Failure> {
        let Some(request) = request else { return Ok(Recalled::Nothing) };
        let row = match self.rows.get(Table::Requests, &[&request.name], Tier::Memory)?.pop() {
            Some(Found::Cold) => {
                let (rows, name) = (Arc::clone(&self.rows), request.name);
                let read = tokio::task::spawn_blocking(move || rows.get(Table::Requests, &[&name], Tier::Disk));
                read.await.map_err(|_| Failure::Internal)??.pop()
            }
            found => found,
        };
        let Some(Found::Row(row)) = row else { return Ok(Recalled::Nothing) };
        let Ok(row) = Row::parse(&row) else { return Ok(Recalled::Another) };
        if now >= row.until {
            return Ok(Recalled::Nothing);
        }
        let answer = request.lock(self).open(&row).ok().and_then(|answer| decode(answer.expose()));
        Ok(answer.map_or(Recalled::Another, Recalled::Outcome))
    }
}

/// The 16 bytes of a UUID of version 4 (RFC 9562).
pub(crate) fn parse(text: &str) -> Option<Secret<[u8; 16]>> {
    if !text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) {
        return None;
    }
    let digits = Secret::new(text.replace('-', ""));
    let mut id = Secret::new([0; 16]);
    hex::decode_to_slice(digits.expose(), id.expose_mut()).ok()?;
    let bytes = id.expose();
    (bytes[6] >> 4 == 4 && bytes[8] >> 6 == 0b10).then_some(id)
}

impl Request {
    /// As events hold it: a keyed hash of caller and request id.
    pub fn hash(&self) -> Bytes {
        Bytes::copy_from_slice(&self.name)
    }

    /// What stands for the row where handles are compared: of those who make the same call at the same time, one commits
    /// and the others find that what they rest on has changed. 160 bits of a keyed hash are never a token's handle.
    pub fn place(&self) -> Handle {
        Handle::from_bytes(*self.name.first_chunk().expect("20 bytes are fewer than 32"))
    }

    /// Has the outcome remembered with what the call changes.
    pub fn remember<'a>(
        &self,
        vault: &Vault,
        now: Timestamp,
        salt: [u8; RANDOM_BYTES],
        items: impl Iterator<Item = Outcome<'a>>,
        effects: &mut Effects,
    ) {
        let until = now.checked_add(REMEMBERED_FOR).unwrap_or(now);
        let row = self.lock(vault).seal(until, salt, &encode(items));
        effects.rows.put(Table::Requests, &self.name, &row);
        Expiries::write_request(until, &self.name, &mut effects.rows);
        effects.touched.push(self.place());
        effects.rewritten.push(self.place());
    }

    fn lock<'a>(&'a self, vault: &'a Vault) -> Lock<'a> {
        Lock { vault: vault.keyring.vault(), name: &self.name, request_id: self.id.expose(), payload: &self.payload }
    }
}

impl Payload {
    /// Of an action on a scope.
    pub fn new(action: Action, scope: &str) -> Self {
        Self(Sha256::new()).field(action.word().as_bytes()).field(scope.as_bytes())
    }

    /// With its length in front, so that no two lists of fields are the same bytes.
    pub fn field(mut self, field: &[u8]) -> Self {
        self.0.update((field.len() as u64).to_be_bytes());
        self.0.update(field);
        self
    }

    /// A number.
    pub fn number(self, number: u64) -> Self {
        self.field(&number.to_be_bytes())
    }

    /// A list, its length in front.
    pub fn list<T>(self, items: &[T], add: impl Fn(Self, &T) -> Self) -> Self {
        items.iter().fold(self.number(items.len() as u64), add)
    }

    /// Tokens.
    pub fn tokens(self, tokens: &[Secret<String>]) -> Self {
        self.list(tokens, |payload, token| payload.field(token.expose().as_bytes()))
    }

    /// An optional lifetime in nanoseconds, or why it is none.
    pub fn lifetime(self, ttl: Option<Result<Duration, Reason>>) -> Self {
        match ttl {
            None => self.field(b""),
            Some(Ok(ttl)) => self.field(&ttl.as_nanos().to_be_bytes()),
            Some(Err(reason)) => self.field(reason.as_str().as_bytes()),
        }
    }
}

/// What became of a call's items: one after the other, each beginning with what it is.
fn encode<'a>(items: impl Iterator<Item = Outcome<'a>>) -> SecretBytes {
    let mut bytes = Vec::new();
    items.for_each(|item| item.encode(&mut bytes));
    SecretBytes::new(bytes)
}

/// What became of one item, to be remembered.
pub(super) enum Outcome<'a> {
    /// See [`Remembered::Issued`].
    Issued(&'a str, &'a Handle, Timestamp),
    /// See [`Remembered::Time`].
    Time(Timestamp),
    /// See [`Remembered::Released`].
    Released,
    /// See [`Remembered::Failed`].
    Failed(ItemFailure),
}

impl Outcome<'_> {
    /// Of an item that has a time.
    pub fn of_time(result: &Result<Timestamp, ItemFailure>) -> Self {
        result.as_ref().map_or_else(|failure| Self::Failed(*failure), |time| Self::Time(*time))
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Issued(token, handle, expires) => {
                bytes.push(ISSUED);
                text(token, bytes);
                bytes.extend_from_slice(handle.as_bytes());
                bytes.extend_from_slice(&expires.millis().to_be_bytes());
            }
            Self::Time(time) => {
                bytes.push(TIME);
                bytes.extend_from_slice(&time.millis().to_be_bytes());
            }
            Self::Released => bytes.push(RELEASED),
            Self::Failed(ItemFailure::NotFound) => bytes.push(NOT_FOUND),
            Self::Failed(ItemFailure::DataLoss) => bytes.push(DATA_LOSS),
            Self::Failed(ItemFailure::Invalid(reason)) => {
                bytes.push(INVALID);
                text(reason.as_str(), bytes);
            }
        }
    }
}

fn text(text: &str, bytes: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).expect("tokens and reasons are far shorter than 64 KiB");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// `None` if it is not the encoding of outcomes: then it was sealed by another version.
fn decode(mut bytes: &[u8]) -> Option<Vec<Remembered>> {
    let mut items = Vec::new();
    while let Some((kind, rest)) = bytes.split_first() {
        bytes = rest;
        items.push(match *kind {
            ISSUED => Remembered::Issued {
                token: Secret::new(take_text(&mut bytes)?.to_owned()),
                handle: Handle::from_bytes(*take::<{ Handle::LENGTH }>(&mut bytes)?),
                expires: take_time(&mut bytes)?,
            },
            TIME => Remembered::Time(take_time(&mut bytes)?),
            RELEASED => Remembered::Released,
            NOT_FOUND => Remembered::Failed(ItemFailure::NotFound),
            DATA_LOSS => Remembered::Failed(ItemFailure::DataLoss),
            INVALID => Remembered::Failed(ItemFailure::Invalid(reason(take_text(&mut bytes)?)?)),
            _ => return None,
        });
    }
    Some(items)
}

/// What may be wrong with an item by itself.
const OF_ITEMS: [Reason; 7] = [
    Reason::ValueEmpty,
    Reason::ValueTooLarge,
    Reason::LifetimeNotPositive,
    Reason::LifetimeTooLong,
    Reason::SubjectUnsupported,
    Reason::TokenMalformed,
    Reason::HandleMalformed,
];

fn reason(word: &str) -> Option<Reason> {
    OF_ITEMS.into_iter().find(|reason| reason.as_str() == word)
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(taken)
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = u16::from_be_bytes(*take(bytes)?);
    let (taken, rest) = bytes.split_at_checked(length.into())?;
    *bytes = rest;
    str::from_utf8(taken).ok()
}

fn take_time(bytes: &mut &[u8]) -> Option<Timestamp> {
    take(bytes).map(|millis| Timestamp::from_millis(u64::from_be_bytes(*millis)))
}
