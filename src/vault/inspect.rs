//! Inspect: what is known of tokens, never their values. A right of its own, since it alone tells the states apart.

use super::attempt::{Effects, Wanted};
use super::detokenize::{data_key, parse_all, why_dead};
use super::read::Reading;
use super::shape::{check_batch, scope_path};
use super::{ATTEMPTS, Call, Failure, ItemFailure, Reason, Vault};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::crypto::record::{Header, Record, Unlocked, dummy_unlock};
use crate::event::{self, Action, Event, ItemOutcome, Outcome};
use crate::keys::ScopeKeys;
use crate::ledger::{Held, Receipt};
use crate::policy;
use crate::secret::Secret;
use crate::token::{Format, Malformed, Parsed};

/// Tokens and handles to look at.
pub struct InspectRequest {
    /// The scope's name, as the caller wrote it.
    pub scope: String,
    /// Together with `handles` 1 to 1,000.
    pub tokens: Vec<Secret<String>>,
    /// Handles, 40 hexadecimal digits each.
    pub handles: Vec<String>,
}

/// One result for each token, then for each handle, in order.
pub struct Inspected {
    /// Information or failure.
    pub results: Vec<Result<TokenInfo, ItemFailure>>,
    /// Where the event stands.
    pub receipt: Receipt,
}

/// What is known of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its only name inside the vault.
    pub handle: Handle,
    /// When it was issued.
    pub created: Timestamp,
    /// From then on it is not found.
    pub expires: Timestamp,
    /// Uses that are left; absent if not limited.
    pub uses_left: Option<u32>,
    /// The version of the data key that locks it.
    pub key_version: u32,
    /// What has become of it.
    pub state: TokenState,
}

/// What has become of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// It can be detokenized.
    Active,
    /// Its lifetime is over.
    Expired,
    /// It was taken back.
    Revoked,
    /// Its uses are used up.
    UsedUp,
    /// Held back until an operator accepts it.
    Suspended,
}

/// How the items of a request name their records.
pub(super) struct Named {
    tokens: Vec<Result<Parsed, Malformed>>,
    handles: Vec<Option<Handle>>,
}

/// What a record's authentic header says, or why there is none.
pub(super) type Looked = Result<Unlocked, ItemOutcome>;

impl Vault {
    /// Looks at tokens.
    ///
    /// # Errors
    /// [`Failure`]: nothing was told.
    pub async fn inspect(&self, call: &Call, request: InspectRequest) -> Result<Inspected, Failure> {
        let requested = request.tokens.len() + request.handles.len();
        let asked = self.asked(call, Action::Inspect, &request.scope, requested);
        let shape = scope_path(&request.scope).and_then(|path| check_batch("tokens", requested).map(|()| path));
        let path = match shape {
            Ok(path) => path,
            Err(violation) => return Err(self.invalid(self.event(&asked)?, violation).await),
        };
        let wanted = Wanted { tokens: &request.tokens, handles: &request.handles, ..Wanted::of(asked, path) };
        for _ in 0..ATTEMPTS {
            if let Some((results, receipt)) = self.attempt_inspect(&wanted).await? {
                return Ok(Inspected { results, receipt });
            }
        }
        Err(self.overtaken(&wanted).await)
    }

    async fn attempt_inspect(
        &self,
        wanted: &Wanted<'_>,
    ) -> Result<Option<(Vec<Result<TokenInfo, ItemFailure>>, Receipt)>, Failure> {
        let mut attempt = match self.attempt::<policy::action::Inspect>(wanted, 0) {
            Ok(attempt) => attempt,
            Err(over) => return Err(over.await),
        };
        let keys = self.keys_of(&wanted.path);
        let named = Named::parse(attempt.scope.format(), wanted.tokens, wanted.handles);
        let handles = named.locate(self, &keys);
        let (mut results, mut outcomes) = (Vec::with_capacity(handles.len()), Vec::with_capacity(handles.len()));
        let each = |place: usize, looked: Looked| {
            results.push(match (&handles[place], &looked) {
                (Some(handle), Ok(unlocked)) => Ok(info(handle, unlocked.header(), attempt.now)),
                _ => Err(named.failure(place, &looked)),
            });
            outcomes.push(looked.map_or_else(|outcome| outcome, |_| ItemOutcome::Done));
            Some(0)
        };
        let _reading = self.look_up(wanted, &named, &handles, &keys, each).await?;
        describe(&mut attempt.event, &handles, outcomes.into_iter());
        let effects = Effects { touched: handles.iter().flatten().copied().collect(), ..Effects::default() };
        self.conclude(wanted, attempt, effects, Held::new(results, Vec::new())).await
    }

    /// The authentic headers of records, by handle, one after the other. No token is needed: only the outer lock is opened. `each`
    /// says how many bytes it keeps of a record, or `None` to be shown no more. What comes back holds what is kept.
    pub(super) async fn look_up<'a>(
        &'a self,
        wanted: &'a Wanted<'_>,
        named: &Named,
        handles: &'a [Option<Handle>],
        keys: &ScopeKeys,
        mut each: impl FnMut(usize, Looked) -> Option<usize> + Send,
    ) -> Result<Reading<'a>, Failure> {
        let (data_key, stand_ins) = (data_key(self, keys), self.lengths.stand_ins(keys.id));
        let look = |place: usize, handle: &Option<Handle>, row: Option<Vec<u8>>| {
            let handle = handle.as_ref().ok_or(ItemOutcome::Malformed)?;
            // Renewing does not tell dead tokens from unknown ones, so neither may the time that it takes.
            let unknown = || {
                drop(dummy_unlock(self.keyring.vault(), handle, data_key, stand_ins.of(handle)));
                ItemOutcome::Unknown
            };
            let row = row.ok_or_else(unknown)?;
            let record = Record::parse(&row).map_err(|_| ItemOutcome::Corrupt)?;
            // A handle given as such may be another scope's: that one does not exist here. The header is only claimed,
            // but a lie can only hide a record from an inspector, and it would not open anyway. The handle of a token was
            // made for this scope, so there another scope's row is one that was moved.
            if record.claimed_header().scope != keys.id && !named.is_token(place) {
                return Err(unknown());
            }
            let padded = record.padded_bytes();
            let unlocked = record.unlock_outer(self.keyring.vault(), handle, data_key);
            let unlocked = unlocked.map_err(|_| ItemOutcome::Corrupt)?;
            self.lengths.note(keys.id, handle, padded);
            Ok(unlocked)
        };
        let mut reading = Reading::of(self, wanted.asked.call, handles);
        while let Some(part) = reading.next().await? {
            let is_last = part.places.end == handles.len();
            for (place, row) in part.places.zip(part.rows) {
                let Some(kept) = each(place, look(place, &handles[place], row)) else { return Ok(reading) };
                reading.keep(kept);
            }
            if !is_last && wanted.asked.call.is_late() {
                // Nothing is kept of what nobody waits for.
                break;
            }
        }
        Ok(reading)
    }
}

/// What an event says of items that were looked at or changed.
pub(super) fn describe(event: &mut Event, handles: &[Option<Handle>], outcomes: impl Iterator<Item = ItemOutcome>) {
    event.outcome = Outcome::Allowed.into();
    event.handles = event::handles(handles.iter().map(|handle| handle.as_ref().map(Handle::as_bytes)));
    event.item_outcomes = outcomes.map(i32::from).collect();
    let done = event.item_outcomes.iter().filter(|outcome| **outcome == i32::from(ItemOutcome::Done)).count();
    event.succeeded = u32::try_from(done).unwrap_or(u32::MAX);
}

fn info(handle: &Handle, header: &Header, now: Timestamp) -> TokenInfo {
    let state = match why_dead(header, now) {
        Some(ItemOutcome::Revoked) => TokenState::Revoked,
        Some(ItemOutcome::Suspended) => TokenState::Suspended,
        Some(ItemOutcome::UsedUp) => TokenState::UsedUp,
        Some(_) => TokenState::Expired,
        None => TokenState::Active,
    };
    TokenInfo {
        handle: *handle,
        created: header.created,
        expires: header.expires,
        uses_left: header.uses_left,
        key_version: header.data_key.0,
        state,
    }
}

impl Named {
    pub fn parse(format: &Format, tokens: &[Secret<String>], handles: &[String]) -> Self {
        Self { tokens: parse_all(format, tokens), handles: handles.iter().map(|handle| handle.parse().ok()).collect() }
    }

    /// Tokens first, then handles.
    pub fn locate(&self, vault: &Vault, keys: &ScopeKeys) -> Vec<Option<Handle>> {
        let tokens = self.tokens.iter().map(|parsed| vault.handle_of(parsed, keys));
        tokens.chain(self.handles.iter().copied()).collect()
    }

    fn is_token(&self, place: usize) -> bool {
        place < self.tokens.len()
    }

    /// What the caller is told of an item that was not found, by its place.
    pub fn failure(&self, place: usize, looked: &Looked) -> ItemFailure {
        match looked {
            Err(ItemOutcome::Malformed) if self.is_token(place) => ItemFailure::Invalid(Reason::TokenMalformed),
            Err(ItemOutcome::Malformed) => ItemFailure::Invalid(Reason::HandleMalformed),
            Err(ItemOutcome::Corrupt) => ItemFailure::DataLoss,
            _ => ItemFailure::NotFound,
        }
    }
}
