//! Request ids: a call that is made again by the same caller, with the same id and the same payload, gets the same outcome
//! and changes nothing a second time, whether its first answer was lost, is still under way, or was given before a restart.
//!
//! What is remembered of a call lies in `requests` for a day, sealed under a key that only the request id and the payload
//! yield. It is written in the same commit as what the call changed, so there is never one without the other.

use super::attempt::{Attempt, Effects, Wanted};
use super::expiry::Expiries;
use super::{Failure, ItemFailure, Reason, Vault, Violation};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::crypto::answer::{Lock, Row};
use crate::event::{Action, Event};
use crate::policy;
use crate::secret::{Secret, SecretBytes, SecretKey};
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
    name: [u8; 32],
    /// What the lock is derived from.
    secret: SecretKey,
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
enum Recalled {
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
    ) -> Result<Option<Box<Request>>, Violation> {
        let malformed = Violation { field: "request_id", reason: Reason::RequestIdMalformed };
        if request_id.is_empty() {
            return Ok(None);
        }
        let id = parse(request_id).ok_or(malformed)?;
        let name = self.keyring.request().locate(caller, id.expose());
        let secret = self.keyring.request().answer_secret(id.expose());
        Ok(Some(Box::new(Request { name, secret, payload: payload().hash() })))
    }

    /// What became of each of the call's items the first time; `None` if this is the first time.
    ///
    /// # Errors
    /// If its request id was used for another payload, which is recorded; or the store can't be read.
    pub(super) async fn before<A: policy::Action>(
        &self,
        wanted: &Wanted<'_>,
        attempt: &Attempt<A>,
    ) -> Result<Option<Vec<Remembered>>, Failure> {
        let Some(request) = &wanted.request else { return Ok(None) };
        // On the heap, like all that is rare.
        match Box::pin(self.recall(request)).await? {
            Recalled::Nothing => Ok(None),
            Recalled::Outcome(items) => Ok(Some(items)),
            Recalled::Another => Err(Box::pin(self.request_id_used(Event::clone(&attempt.event))).await),
        }
    }

    async fn recall(&self, request: &Request) -> Result<Recalled, Failure> {
        // By the mark: a clock that leaps must not make work be done twice.
        let now = self.ledger.clock().mark();
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

/// The detail of an event that had `detail` the first time. A reason has no semicolon.
pub(super) fn repeated(detail: &str) -> String {
    if detail.is_empty() { REPEATED.to_owned() } else { format!("{detail}; {REPEATED}") }
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
        place(&self.name)
    }

    /// Has the outcome remembered with what the call changes.
    pub fn remember<'a>(
        &self,
        vault: &Vault,
        salt: [u8; RANDOM_BYTES],
        items: impl Iterator<Item = Outcome<'a>>,
        effects: &mut Effects,
    ) {
        let now = vault.ledger.clock().mark();
        let until = now.checked_add(REMEMBERED_FOR).unwrap_or(now);
        let row = self.lock(vault).seal(until, salt, &encode(items));
        effects.changes.put(Table::Requests, &self.name, &row);
        Expiries::write_request(until, &self.name, &mut effects.changes);
        effects.touched.push(self.place());
        effects.rewritten.push(self.place());
    }

    fn lock<'a>(&'a self, vault: &'a Vault) -> Lock<'a> {
        Lock { vault: vault.keyring.vault(), name: &self.name, secret: &self.secret, payload: &self.payload }
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

    /// Of all of it.
    pub fn hash(self) -> [u8; 32] {
        self.0.finalize().into()
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

/// For `src/fuzz`: what is read as outcomes is written the same way.
#[cfg(test)]
pub(crate) fn check_outcomes(bytes: &[u8]) {
    let Some(items) = decode(bytes) else { return };
    let mut written = Vec::new();
    for item in &items {
        let outcome = match item {
            Remembered::Issued { token, handle, expires } => Outcome::Issued(token.expose(), handle, *expires),
            Remembered::Time(time) => Outcome::Time(*time),
            Remembered::Released => Outcome::Released,
            Remembered::Failed(failure) => Outcome::Failed(*failure),
        };
        outcome.encode(&mut written);
    }
    assert!(written == bytes, "a second spelling of outcomes was taken");
}

/// See [`Request::place`].
pub(super) fn place(name: &[u8; 32]) -> Handle {
    Handle::from_bytes(*name.first_chunk().expect("20 bytes are fewer than 32"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{RequestKey, VaultId};
    use serde_json::Value;

    fn bytes(value: &Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap()).unwrap()
    }

    fn array<const N: usize>(value: &Value) -> [u8; N] {
        bytes(value).try_into().unwrap()
    }

    /// What a remembered item is when it is remembered once more.
    fn outcome(item: &Remembered) -> Outcome<'_> {
        match item {
            Remembered::Issued { token, handle, expires } => Outcome::Issued(token.expose(), handle, *expires),
            Remembered::Time(time) => Outcome::Time(*time),
            Remembered::Released => Outcome::Released,
            Remembered::Failed(failure) => Outcome::Failed(*failure),
        }
    }

    /// The calls of the vectors, hashed as the operations hash theirs.
    fn payloads(token: &str) -> [Payload; 4] {
        let secret = |text: &str| Secret::new(text.to_owned());
        let hour = Some(Ok(Duration::from_hours(1)));
        let mistyped = format!("{}x", &token[..token.len() - 1]);
        let handle = "7002660127793f2dd6929d37ea6245c84159e65a";
        let first = |payload: Payload| payload.field(b"4111111111111111").lifetime(hour).number(1).number(0);
        let second = |payload: Payload| payload.field(b"").lifetime(None).number(0).number(0);
        [
            second(first(Payload::new(Action::Tokenize, "pan").number(0).number(2))),
            Payload::new(Action::Detokenize, "pan").field(b"refund").field(b"full").tokens(&[
                secret(token),
                secret(&mistyped),
                secret(token),
            ]),
            Payload::new(Action::Renew, "pan").lifetime(None).tokens(&[secret(token)]),
            Payload::new(Action::Revoke, "pan")
                .field(b"lost")
                .tokens(&[secret(token)])
                .list(&[handle], |payload, handle| payload.field(handle.as_bytes())),
        ]
    }

    #[test]
    fn remembered_requests_are_the_frozen_ones_c_10() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/vectors/rows_v1.json")).unwrap();
        let vault = VaultId(array(&vectors["vault_id"]));
        let frozen = vectors["requests"].as_array().unwrap();
        let token = format!("pan_{}1abcdef", "0".repeat(26));
        assert_eq!(frozen.len(), 4);
        for (frozen, payload) in frozen.iter().zip(payloads(&token)) {
            let payload = payload.hash();
            assert_eq!(payload, array(&frozen["payload"]), "{}", frozen["about"]);
            let request_id: [u8; 16] = array(&frozen["request_id"]);
            let key = RequestKey::new(Secret::new(array(&frozen["request_key"])));
            let secret = key.answer_secret(&request_id);
            let name = key.locate(frozen["caller"].as_str().unwrap(), &request_id);
            let stored = bytes(&frozen["row"]);
            assert_eq!(name, array(&frozen["row_key"]));
            let lock = Lock { vault: &vault, name: &name, secret: &secret, payload: &payload };
            let row = Row::parse(&stored).unwrap();
            let answer = lock.open(&row).ok().unwrap();
            assert!(answer.matches(&bytes(&frozen["answer"])));
            let items = decode(answer.expose()).unwrap();
            let again = encode(items.iter().map(outcome));
            assert!(again.matches(answer.expose()));
            assert_eq!(lock.seal(row.until, array(&frozen["salt"]), &again), stored);
            // Another payload, another id, another name, another vault, and any byte of the row.
            let other = [1; 32];
            let other_id = key.answer_secret(&[1; 16]);
            let other_key = RequestKey::new(Secret::new([1; 32])).answer_secret(&request_id);
            for lock in [
                Lock { payload: &other, ..lock },
                Lock { name: &other, ..lock },
                Lock { secret: &other_id, ..lock },
                Lock { secret: &other_key, ..lock },
                Lock { vault: &VaultId([1; 16]), ..lock },
            ] {
                assert!(lock.open(&row).is_err());
            }
            for place in 1..stored.len() {
                let mut edited = stored.clone();
                edited[place] ^= 1;
                assert!(lock.open(&Row::parse(&edited).unwrap()).is_err(), "byte {place}");
            }
            assert!(Row::parse(&stored[..40]).is_err() && Row::parse(&[&[2], &stored[1..]].concat()).is_err());
        }
    }

    #[test]
    fn every_word_of_an_item_is_known_again() {
        for known in OF_ITEMS {
            assert_eq!(reason(known.as_str()), Some(known));
        }
        for malformed in [&[0][..], &[9], &[TIME, 1, 2], &[ISSUED, 0], &[INVALID, 0, 1, b'x'], &[INVALID, 0, 9, b'x']] {
            assert!(decode(malformed).is_none());
        }
    }
}
