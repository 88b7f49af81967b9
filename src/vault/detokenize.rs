//! Detokenize: tokens in, values out, in full or masked.

use super::attempt::{Effects, Wanted};
use super::lengths::StandIns;
use super::read::{Part, Reading};
use super::record::HANDLES_OF_DENIED;
use super::requests::{self, Payload, REPEATED, Remembered, Request};
use super::shape::{check_batch, check_words, scope_path};
use super::uses::Turn;
use super::weight::{REPLY_BYTES_AN_ERROR, REPLY_BYTES_AN_ITEM, Weight};
use super::{ATTEMPTS, Call, Failure, ItemFailure, REPLY_BYTES_AT_MOST, Reason, Vault, Violation};
use crate::clock::Timestamp;
use crate::crypto::record::{Header, Record, State, Unlocked, dummy_open};
use crate::crypto::{DataKey, Handle};
use crate::event::{Action, Event, ItemOutcome, Outcome, Reveal};
use crate::keys::{ScopeKeys, entropy};
use crate::ledger::{Held, Receipt};
use crate::policy;
use crate::scope::{self, Scope};
use crate::secret::{Secret, SecretBytes};
use crate::token::{self, Format, Malformed, Parsed};
use std::collections::HashMap;
use std::sync::Arc;

/// Tokens to be exchanged for their values.
pub struct DetokenizeRequest {
    /// The scope's name, as the caller wrote it.
    pub scope: String,
    /// 1 to 1,000 tokens.
    pub tokens: Vec<Secret<String>>,
    /// Why, for the log.
    pub purpose: String,
    /// In full or masked; `None` if the caller's number is neither.
    pub reveal: Option<Reveal>,
    /// A UUID of version 4, or empty: the call may be made again under it.
    pub request_id: Secret<String>,
    /// Not available yet: an option that was given.
    pub unsupported: Option<&'static str>,
}

/// One result for each token, in order.
pub struct Detokenized {
    /// Value or failure.
    pub results: Vec<Result<SecretBytes, ItemFailure>>,
    /// Where the event stands.
    pub receipt: Receipt,
}

/// How an attempt ended.
enum Attempted {
    Done(Detokenized),
    /// Its basis changed: again from the policy check.
    Stale,
    /// Some tokens count their uses: again, in turn.
    Queue(Vec<Handle>),
}

/// What one attempt has read and opened, before anything is released.
#[derive(Default)]
struct Opened {
    results: Vec<Result<SecretBytes, ItemFailure>>,
    outcomes: Vec<ItemOutcome>,
    /// Where a released item stands, and its handle.
    names: Vec<(usize, Handle)>,
    /// The first expiry among the released.
    valid_until: Option<Timestamp>,
    /// Records of limited-use tokens that lose uses, as they stand after the items so far.
    spent: HashMap<Handle, (Unlocked, Header)>,
}

/// What it takes to open this call's records.
struct Opening<'a> {
    vault: &'a Vault,
    scope_id: crate::crypto::ScopeId,
    data_key: &'a DataKey,
    scope: &'a Scope,
    reveal: Reveal,
    now: Timestamp,
    /// How much to work on for tokens that have no record.
    stand_ins: StandIns,
    /// What became of the items when the call was made before.
    before: Option<Vec<Remembered>>,
}

impl Vault {
    /// Exchanges tokens for their values.
    ///
    /// # Errors
    /// [`Failure`]: nothing was released.
    pub async fn detokenize(&self, call: &Call, request: &DetokenizeRequest) -> Result<Detokenized, Failure> {
        let asked = self.asked(call, Action::Detokenize, &request.scope, request.tokens.len());
        let (path, reveal, named) = match self.check_detokenize(call, request) {
            Ok(shape) => shape,
            Err(violation) => return Err(Box::pin(self.invalid(self.event(&asked)?, violation)).await),
        };
        let wanted = Wanted {
            purpose: &request.purpose,
            reveal,
            tokens: &request.tokens,
            unsupported: request.unsupported,
            request: named,
            ..Wanted::of(asked, path)
        };
        let mut turn: Option<Turn> = None;
        for _ in 0..ATTEMPTS {
            match self.attempt_detokenize(&wanted, turn.as_ref()).await? {
                Attempted::Done(done) => return Ok(done),
                Attempted::Stale => {}
                Attempted::Queue(handles) => {
                    // The old turn goes first, or two callers could wait for each other.
                    drop(turn.take());
                    turn = Some(Box::pin(self.uses.turn(handles)).await);
                }
            }
        }
        Err(Box::pin(self.overtaken(&wanted)).await)
    }

    async fn attempt_detokenize(&self, wanted: &Wanted<'_>, turn: Option<&Turn>) -> Result<Attempted, Failure> {
        let mut attempt = match self.attempt::<policy::action::Detokenize>(wanted, requests::RANDOM_BYTES) {
            Ok(attempt) => attempt,
            Err(over) => return Err(over.await),
        };
        if attempt.scope.purpose_required() && wanted.purpose.is_empty() {
            let violation = Violation { field: "purpose", reason: Reason::PurposeRequired };
            return Err(Box::pin(self.invalid(*attempt.event, violation)).await);
        }
        let before = self.before(wanted, &attempt).await?;
        let keys = self.keys_of(&wanted.path);
        let parsed = parse_all(attempt.scope.format(), wanted.tokens);
        let handles: Vec<_> = parsed.iter().map(|parsed| self.handle_of(parsed, &keys)).collect();
        let opening = Opening {
            vault: self,
            scope_id: keys.id,
            data_key: data_key(self, &keys),
            scope: &attempt.scope,
            reveal: wanted.reveal,
            now: attempt.now,
            stand_ins: self.lengths.stand_ins(keys.id),
            before,
        };
        let mut reading = Reading::of(self, wanted.asked.call, &handles);
        let (mut opened, mut weight) = (Opened::default(), Weight::default());
        let mut limited = Vec::new();
        while let Some(part) = reading.next().await? {
            if opening.weigh(&parsed, &handles, &part, &mut weight) > REPLY_BYTES_AT_MOST {
                opening.claim(&parsed, &handles, &part, &mut opened.outcomes);
                return Err(
                    Box::pin(self.too_long(*attempt.event, Reason::ReplyTooLarge, &handles, opened.outcomes)).await
                );
            }
            limited.extend(opening.limited_uses(&handles[part.places.clone()], &part.rows));
            // Who has to wait for a turn first learns of all for which.
            if limited.is_empty() || turn.is_some_and(|turn| turn.covers(&limited)) {
                let kept = opening.open_all(&parsed, &handles, &part, &mut opened);
                reading.keep(kept);
            }
            if part.places.end < handles.len() && wanted.asked.call.is_late() {
                return Err(Box::pin(self.late(*attempt.event)).await);
            }
        }
        if !limited.is_empty() && !turn.is_some_and(|turn| turn.covers(&limited)) {
            return Ok(Attempted::Queue(limited));
        }
        if opened.reply_bytes() > REPLY_BYTES_AT_MOST {
            return Err(Box::pin(self.too_long(*attempt.event, Reason::ReplyTooLarge, &handles, opened.outcomes)).await);
        }
        opened.describe(&mut attempt.event, &handles);
        let mut effects = opening.spend(&opened)?;
        effects.touched = opened.names.iter().map(|(_, handle)| *handle).collect();
        effects.valid_until = opened.valid_until;
        match (&wanted.request, &opening.before) {
            (None, _) => {}
            (Some(_), Some(_)) => REPEATED.clone_into(&mut attempt.event.detail),
            (Some(request), None) => {
                let items = opened.results.iter().map(to_be_remembered);
                request.remember(self, attempt.random.take(), items, &mut effects);
            }
        }
        let held = Held::new(opened.results, opened.names);
        let Some((results, receipt)) = self.conclude(wanted, attempt, effects, held).await? else {
            return Ok(Attempted::Stale);
        };
        reading.leave();
        Ok(Attempted::Done(Detokenized { results, receipt }))
    }

    fn check_detokenize(
        &self,
        call: &Call,
        request: &DetokenizeRequest,
    ) -> Result<(scope::Path, Reveal, Option<Box<Request>>), Violation> {
        let (path, reveal) = check_shape(request)?;
        let payload = || {
            let payload = Payload::new(Action::Detokenize, &request.scope).field(request.purpose.as_bytes());
            payload.field(reveal.word().as_bytes()).tokens(&request.tokens)
        };
        Ok((path, reveal, self.request(call.caller.id.as_str(), request.request_id.expose(), payload)?))
    }

    /// Where the record of a token would be, from its bytes alone.
    pub(super) fn handle_of(&self, parsed: &Result<Parsed, Malformed>, keys: &ScopeKeys) -> Option<Handle> {
        parsed.as_ref().ok().map(|parsed| token::locate(parsed, self.keyring.index(), keys.id))
    }

    /// The handles of the tokens that a denied caller named, up to a number. Nothing is looked up for it, and it is the same
    /// work whatever scope was named: whether there is one, and of which format, is not told by the time either.
    pub(super) fn handles_of_denied(&self, path: &scope::Path, tokens: &[Secret<String>]) -> Vec<Option<Handle>> {
        let rulebook = self.policy.rulebook();
        let known = rulebook.scopes().resolve(path).zip(self.keyring.scope(path));
        let id = known.as_ref().map_or_else(|| ScopeKeys::stand_in().id, |(_, keys)| keys.id);
        // Their places are kept, for what is named behind them.
        let handle = |token: &Secret<String>| {
            let parsed = token::parse_any(token.expose()).ok()?;
            let handle = std::hint::black_box(token::locate(&parsed, self.keyring.index(), id));
            let is_of_scope = known.as_ref().is_some_and(|(scope, _)| parsed.is_of(scope.format()));
            is_of_scope.then_some(handle)
        };
        tokens.iter().take(HANDLES_OF_DENIED).map(handle).collect()
    }
}

/// Reads tokens of a scope's format, from their bytes alone.
pub(super) fn parse_all(format: &Format, tokens: &[Secret<String>]) -> Vec<Result<Parsed, Malformed>> {
    tokens.iter().map(|token| token::parse(format, token.expose())).collect()
}

fn check_shape(request: &DetokenizeRequest) -> Result<(scope::Path, Reveal), Violation> {
    let path = scope_path(&request.scope)?;
    check_batch("tokens", request.tokens.len())?;
    if !check_words(&request.purpose) {
        return Err(Violation { field: "purpose", reason: Reason::PurposeMalformed });
    }
    match request.reveal {
        Some(Reveal::Unspecified | Reveal::Full) => Ok((path, Reveal::Full)),
        Some(Reveal::Masked) => Ok((path, Reveal::Masked)),
        None => Err(Violation { field: "reveal", reason: Reason::RevealUnknown }),
    }
}

fn to_be_remembered(result: &Result<SecretBytes, ItemFailure>) -> requests::Outcome<'_> {
    match result {
        Ok(_) => requests::Outcome::Released,
        Err(failure) => requests::Outcome::Failed(*failure),
    }
}

// === opening ===

impl Opening<'_> {
    /// The tokens that may lose a use. Dead ones stay dead, so they need no turn: a second attempt would tell them from
    /// unknown ones by the time that it takes. The header is only claimed here; if it lies, the record will not open.
    fn limited_uses(&self, handles: &[Option<Handle>], rows: &[Option<Vec<u8>>]) -> Vec<Handle> {
        if self.before.is_some() {
            // The uses were spent the first time.
            return Vec::new();
        }
        let limited = |row: &[u8]| {
            Record::parse(row).is_ok_and(|record| {
                let header = record.claimed_header();
                header.uses_left.is_some() && why_dead(header, self.now).is_none()
            })
        };
        let rows = handles.iter().zip(rows);
        rows.filter_map(|(handle, row)| handle.filter(|_| row.as_deref().is_some_and(limited))).collect()
    }

    /// Whether the item's value left when the call was made before; `None` if it was not.
    fn released_before(&self, place: usize) -> Option<bool> {
        self.before.as_ref().map(|before| matches!(before.get(place), Some(Remembered::Released)))
    }

    /// Adds what the answer to a part of the items weighs, judged by what their headers claim. Nothing is opened for it: a header
    /// that lies can only have a call refused, or opened in vain. How much all weighs so far.
    fn weigh(
        &self,
        parsed: &[Result<Parsed, Malformed>],
        handles: &[Option<Handle>],
        part: &Part,
        weight: &mut Weight,
    ) -> usize {
        for (place, row) in part.places.clone().zip(&part.rows) {
            let record = row.as_deref().and_then(|row| Record::parse(row).ok());
            let claimed = record.filter(|record| self.claimed(parsed, place, record).is_ok());
            let (Some(record), Some(handle)) = (claimed, &handles[place]) else {
                weight.error();
                continue;
            };
            let takes_use = |left| self.before.is_some() || weight.takes_use(handle, left);
            if record.claimed_header().uses_left.is_none_or(takes_use) {
                weight.value(record.shortest_value());
            } else {
                weight.error();
            }
        }
        weight.bytes
    }

    /// What would become of an item if its record's header is true.
    fn claimed(
        &self,
        parsed: &[Result<Parsed, Malformed>],
        place: usize,
        record: &Record<'_>,
    ) -> Result<(), ItemOutcome> {
        parsed[place].as_ref().map_err(|_| ItemOutcome::Malformed)?;
        let header = record.claimed_header();
        if header.scope == self.scope_id { self.verdict(header, place) } else { Err(ItemOutcome::Corrupt) }
    }

    /// What a call that is refused unopened says of a part of its items.
    fn claim(
        &self,
        parsed: &[Result<Parsed, Malformed>],
        handles: &[Option<Handle>],
        part: &Part,
        outcomes: &mut Vec<ItemOutcome>,
    ) {
        // Parts before this one may have been looked at for limited uses alone.
        outcomes.resize(part.places.start, ItemOutcome::Refused);
        for (place, row) in part.places.clone().zip(&part.rows) {
            let claimed = match (handles[place], row.as_deref().map(Record::parse)) {
                (None, _) => Err(ItemOutcome::Malformed),
                (Some(_), None) => Err(ItemOutcome::Unknown),
                (Some(_), Some(Err(_))) => Err(ItemOutcome::Corrupt),
                (Some(_), Some(Ok(record))) => self.claimed(parsed, place, &record),
            };
            outcomes.push(claimed.err().unwrap_or(ItemOutcome::Refused));
        }
    }

    /// Opens a part of the items. How many bytes are kept of it.
    fn open_all(
        &self,
        parsed: &[Result<Parsed, Malformed>],
        handles: &[Option<Handle>],
        part: &Part,
        opened: &mut Opened,
    ) -> usize {
        let mut kept = 0;
        for (place, row) in part.places.clone().zip(&part.rows) {
            let (Ok(parsed), Some(handle)) = (&parsed[place], &handles[place]) else {
                let failure = ItemFailure::Invalid(Reason::TokenMalformed);
                opened.push(Err(failure), ItemOutcome::Malformed);
                continue;
            };
            match self.open(place, parsed, handle, row.as_deref(), opened) {
                Ok((value, expires)) => {
                    kept += value.len();
                    opened.names.push((place, *handle));
                    opened.valid_until = Some(opened.valid_until.map_or(expires, |until| until.min(expires)));
                    opened.release(value, self.scope, self.reveal);
                }
                Err(ItemOutcome::Corrupt) => opened.push(Err(ItemFailure::DataLoss), ItemOutcome::Corrupt),
                Err(outcome) => opened.push(Err(ItemFailure::NotFound), outcome),
            }
        }
        kept
    }

    /// Opens one record. Every token of the right form takes the same path with the same cryptographic work, whatever
    /// becomes of it: two derivations and two decryptions, on the record or on a stand-in.
    fn open(
        &self,
        place: usize,
        parsed: &Parsed,
        handle: &Handle,
        row: Option<&[u8]>,
        opened: &mut Opened,
    ) -> Result<(SecretBytes, Timestamp), ItemOutcome> {
        let vault = self.vault.keyring.vault();
        let Some(row) = row else {
            _ = dummy_open(vault, handle, parsed.canonical.expose(), self.data_key, self.stand_ins.of(handle));
            return Err(ItemOutcome::Unknown);
        };
        let record = Record::parse(row).map_err(|_| ItemOutcome::Corrupt)?;
        let padded = record.padded_bytes();
        let unlocked = record.unlock_outer(vault, handle, self.data_key).map_err(|_| ItemOutcome::Corrupt)?;
        self.vault.lengths.note(self.scope_id, handle, padded);
        let value = unlocked.open(vault, handle, parsed.canonical.expose()).map_err(|_| ItemOutcome::Corrupt)?;
        let header = opened.spent.get(handle).map_or(*unlocked.header(), |(_, header)| *header);
        if header.scope != self.scope_id {
            return Err(ItemOutcome::Corrupt);
        }
        self.verdict(&header, place)?;
        if let (Some(left), None) = (header.uses_left, &self.before) {
            // Not zero: that is dead.
            let header = Header { uses_left: Some(left - 1), ..header };
            opened.spent.insert(*handle, (unlocked, header));
        }
        Ok((value, header.expires))
    }

    /// Whether an item with this header is released, or why not.
    fn verdict(&self, header: &Header, place: usize) -> Result<(), ItemOutcome> {
        match (why_dead(header, self.now), self.released_before(place)) {
            // It may have been the call itself that used it up.
            (Some(ItemOutcome::UsedUp), Some(true)) if self.now >= header.expires => Err(ItemOutcome::Expired),
            (None | Some(ItemOutcome::UsedUp), Some(true)) | (None, None) => Ok(()),
            (Some(dead), _) => Err(dead),
            // The same outcome as the first time, whatever may have changed.
            (None, Some(false)) => Err(ItemOutcome::Refused),
        }
    }

    /// The rows of tokens that lost uses.
    fn spend(&self, opened: &Opened) -> Result<Effects, Failure> {
        let mut effects = Effects::default();
        if opened.spent.is_empty() {
            return Ok(effects);
        }
        let mut random = entropy::Supply::of(opened.spent.len() * 16)?;
        for (handle, (unlocked, header)) in &opened.spent {
            let record_version = header.record_version.wrapping_add(1);
            let header = Header { changed: self.now, record_version, ..*header };
            let row = unlocked.relock(self.vault.keyring.vault(), handle, self.data_key, &header, random.take());
            effects.changes.replace(self.vault.keyring.state(), handle, &unlocked.imprint(), &row);
        }
        Ok(effects)
    }
}

/// Why a record is not released, if it is not. Valid if and only if `now < expires`.
pub(super) fn why_dead(header: &Header, now: Timestamp) -> Option<ItemOutcome> {
    match header.state {
        State::Revoked => Some(ItemOutcome::Revoked),
        State::Suspended => Some(ItemOutcome::Suspended),
        State::Active if header.uses_left == Some(0) => Some(ItemOutcome::UsedUp),
        State::Active if now >= header.expires => Some(ItemOutcome::Expired),
        State::Active => None,
    }
}

impl Opened {
    fn push(&mut self, result: Result<SecretBytes, ItemFailure>, outcome: ItemOutcome) {
        self.results.push(result);
        self.outcomes.push(outcome);
    }

    fn release(&mut self, value: SecretBytes, scope: &Scope, reveal: Reveal) {
        match reveal {
            Reveal::Masked => self.push(Ok(scope.mask().apply(&value)), ItemOutcome::Masked),
            Reveal::Full | Reveal::Unspecified => self.push(Ok(value), ItemOutcome::Released),
        }
    }

    fn describe(&self, event: &mut Event, handles: &[Option<Handle>]) {
        event.outcome = Outcome::Allowed.into();
        event.succeeded = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        event.handles = crate::event::handles(handles.iter().map(|handle| handle.as_ref().map(Handle::as_bytes)));
        event.item_outcomes = self.outcomes.iter().map(|outcome| (*outcome).into()).collect();
    }

    fn reply_bytes(&self) -> usize {
        let item = |result: &Result<SecretBytes, ItemFailure>| {
            result.as_ref().map_or(REPLY_BYTES_AN_ERROR, |value| value.len() + REPLY_BYTES_AN_ITEM)
        };
        self.results.iter().map(item).sum()
    }
}

/// For a scope that has no data key yet.
pub(super) fn data_key<'a>(vault: &'a Vault, keys: &'a ScopeKeys) -> &'a Arc<DataKey> {
    keys.data.as_ref().unwrap_or(&vault.stand_in_key)
}
