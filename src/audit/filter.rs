//! What the events of an answer must match.

use crate::caller::SpiffeId;
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::event::{self, Action, Event, Outcome};
use crate::keys::{Keyring, ScopeKeys};
use crate::ledger::IndexKey;
use crate::scope;
use crate::secret::Secret;
use crate::token;
use crate::vault::{Reason, Violation, check_words, requests};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// A filter as asked. Empty strings and absent fields match everything.
#[derive(Default)]
pub struct FilterRequest {
    /// A caller's SPIFFE ID, exactly.
    pub caller: String,
    /// A scope, exactly.
    pub scope: String,
    /// A handle, 40 hexadecimal digits.
    pub handle: String,
    /// A token, whose handle is meant; needs `scope`.
    pub token: Option<Secret<String>>,
    /// As [`Action`]'s number; 0 matches all.
    pub action: i32,
    /// As [`Outcome`]'s number; 0 matches all.
    pub outcome: i32,
    /// From this time on.
    pub start: Option<Result<Timestamp, Reason>>,
    /// Before this time.
    pub end: Option<Result<Timestamp, Reason>>,
    /// What for, exactly.
    pub purpose: String,
    /// The trace, 32 hexadecimal digits.
    pub trace_id: String,
    /// A request id; the events of every caller that used it.
    pub request_id: Option<Secret<String>>,
}

/// A filter that is well-formed.
#[derive(Default)]
pub struct Filter {
    caller: Option<String>,
    scope: Option<String>,
    handle: Option<Handle>,
    action: Option<Action>,
    outcome: Option<Outcome>,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    purpose: Option<String>,
    trace_id: Option<String>,
    request: Option<RequestId>,
}

/// A request id: as such to compare with, and as its hash to speak of.
struct RequestId {
    bytes: Secret<[u8; 16]>,
    /// Of the id without a caller: names the question, leads to no event.
    hash: [u8; 32],
}

impl Filter {
    /// Checks what was asked and turns a token into its handle.
    ///
    /// # Errors
    /// Which field is not well-formed.
    pub fn new(request: &FilterRequest, keyring: &Keyring, scopes: &scope::Scopes) -> Result<Self, Violation> {
        let malformed = |field| Violation { field, reason: Reason::FilterMalformed };
        let time = |time: Option<Result<Timestamp, Reason>>, field| time.transpose().map_err(|_| malformed(field));
        Ok(Self {
            caller: caller(&request.caller).map_err(|()| malformed("filter.caller"))?,
            scope: scope_path(&request.scope).map_err(|()| malformed("filter.scope"))?,
            handle: handle(request, keyring, scopes)?,
            action: number(request.action, Action::try_from).map_err(|()| malformed("filter.action"))?,
            outcome: number(request.outcome, Outcome::try_from).map_err(|()| malformed("filter.outcome"))?,
            start: time(request.start, "filter.start_time")?,
            end: time(request.end, "filter.end_time")?,
            purpose: words(&request.purpose).map_err(|()| malformed("filter.purpose"))?,
            trace_id: trace_id(&request.trace_id).map_err(|()| malformed("filter.trace_id"))?,
            request: request_id(request.request_id.as_ref(), keyring).map_err(|()| malformed("filter.request_id"))?,
        })
    }

    /// The index that leads to the fewest events, if one is named.
    pub fn index_key(&self) -> Option<IndexKey> {
        let by_handle = self.handle.map(|handle| IndexKey::handle(handle.as_bytes()));
        let by_caller = || self.caller.as_deref().map(IndexKey::caller);
        let by_scope = || self.scope.as_deref().map(IndexKey::scope);
        by_handle.or_else(by_caller).or_else(by_scope)
    }

    /// The wanted handle, and where its issue stands if [`Filter::index_key`] does not lead there.
    pub fn issue(&self) -> Option<(&Handle, IndexKey)> {
        let handle = self.handle.as_ref()?;
        Some((handle, IndexKey::issues(handle.as_bytes())?))
    }

    /// From which time on and before which, if that was asked.
    pub fn times(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        (self.start, self.end)
    }

    /// Whether `event` is part of the answer.
    pub fn matches(&self, event: &Event, keyring: &Keyring) -> bool {
        let time = event.timestamp().unwrap_or_default();
        self.caller.as_ref().is_none_or(|caller| *caller == event.caller)
            && self.scope.as_ref().is_none_or(|scope| *scope == event.scope)
            && self.handle.is_none_or(|handle| event.handles.iter().any(|named| named.as_ref() == handle.as_bytes()))
            && self.action.is_none_or(|action| event.action == i32::from(action))
            && self.outcome.is_none_or(|outcome| event.outcome == i32::from(outcome))
            && self.start.is_none_or(|start| time >= start)
            && self.end.is_none_or(|end| time < end)
            && self.purpose.as_ref().is_none_or(|purpose| *purpose == event.purpose)
            && self.trace_id.as_ref().is_none_or(|trace_id| *trace_id == event.trace_id)
            && self.request.as_ref().is_none_or(|request| request.is_of(event, keyring))
    }

    /// What a cursor is bound to: the question without its page.
    pub fn binding(&self, newest_first: bool) -> [u8; 32] {
        Sha256::digest(self.words(newest_first).as_bytes()).into()
    }

    /// The question, in the event that records it. A token stands there as its handle.
    pub fn describe(&self, event: &mut Event, newest_first: bool) {
        event.detail = self.words(newest_first);
        event.handles = event::handles(self.handle.iter().map(|handle| Some(handle.as_bytes())));
    }

    fn words(&self, newest_first: bool) -> String {
        let mut words = String::new();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                // Writing to a string does not fail. Quoted and escaped: callers choose these texts.
                let _ = write!(words, "{name}={value:?} ");
            }
        };
        add("caller", self.caller.clone());
        add("scope", self.scope.clone());
        add("handle", self.handle.map(|handle| handle.to_string()));
        add("action", self.action.map(|action| action.word().to_owned()));
        add("outcome", self.outcome.map(|outcome| outcome.word().to_owned()));
        add("start", self.start.map(|time| time.millis().to_string()));
        add("end", self.end.map(|time| time.millis().to_string()));
        add("purpose", self.purpose.clone());
        add("trace_id", self.trace_id.clone());
        add("request", self.request.as_ref().map(|request| hex::encode(request.hash)));
        words.push_str(if newest_first { "newest first" } else { "oldest first" });
        words
    }
}

/// A caller's name, as a certificate may have it: nobody else has events, and the question itself goes into the log.
fn caller(text: &str) -> Result<Option<String>, ()> {
    match text {
        "" => Ok(None),
        text => SpiffeId::parse(text).map(|_| Some(text.to_owned())).map_err(|_| ()),
    }
}

/// A scope's name, as calls may have it: nothing else stands in an event, and the question itself goes into the log.
fn scope_path(text: &str) -> Result<Option<String>, ()> {
    match text {
        "" => Ok(None),
        text => scope::Path::parse(text).map(|_| Some(text.to_owned())).map_err(|_| ()),
    }
}

fn handle(request: &FilterRequest, keyring: &Keyring, scopes: &scope::Scopes) -> Result<Option<Handle>, Violation> {
    let malformed = |field| Violation { field, reason: Reason::FilterMalformed };
    if let Some(token) = &request.token {
        if !request.handle.is_empty() {
            return Err(malformed("filter.token"));
        }
        let path = scope::Path::parse(&request.scope).map_err(|_| malformed("filter.scope"))?;
        let scope = scopes.resolve(&path).ok_or_else(|| malformed("filter.scope"))?;
        let parsed = token::parse(scope.format(), token.expose()).map_err(|_| malformed("filter.token"))?;
        let keys = keyring.scope(&path).unwrap_or_else(ScopeKeys::stand_in);
        return Ok(Some(token::locate(&parsed, keyring.index(), keys.id)));
    }
    match request.handle.as_str() {
        "" => Ok(None),
        handle => handle.parse().map(Some).map_err(|_| malformed("filter.handle")),
    }
}

impl RequestId {
    /// Events hold a hash under a key, of caller and id together.
    fn is_of(&self, event: &Event, keyring: &Keyring) -> bool {
        !event.request_hash.is_empty()
            && keyring.request().locate(&event.caller, self.bytes.expose())[..] == event.request_hash[..]
    }
}

/// A purpose, as calls may have it.
fn words(words: &str) -> Result<Option<String>, ()> {
    if check_words(words) { Ok(Some(words.to_owned()).filter(|words| !words.is_empty())) } else { Err(()) }
}

fn trace_id(text: &str) -> Result<Option<String>, ()> {
    let is_trace = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match text {
        "" => Ok(None),
        _ if is_trace => Ok(Some(text.to_owned())),
        _ => Err(()),
    }
}

/// The question stands in the log, and there a request id stands as a keyed hash only.
fn request_id(text: Option<&Secret<String>>, keyring: &Keyring) -> Result<Option<RequestId>, ()> {
    let Some(text) = text else { return Ok(None) };
    let bytes = requests::parse(text.expose()).ok_or(())?;
    let hash = keyring.request().locate("", bytes.expose());
    Ok(Some(RequestId { bytes, hash }))
}

fn number<T, E>(number: i32, known: impl Fn(i32) -> Result<T, E>) -> Result<Option<T>, ()> {
    match number {
        0 => Ok(None),
        number => known(number).map(Some).map_err(|_| ()),
    }
}
