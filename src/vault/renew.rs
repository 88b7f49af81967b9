//! Renew: tokens get another lifetime, counted from now, within their scope's ceiling.

use super::attempt::{Effects, Wanted};
use super::detokenize::{data_key, why_dead};
use super::expiry::{self, Expiries};
use super::inspect::{Looked, Named, describe};
use super::requests::{self, Payload, Recalled, Request};
use super::revoke::Times;
use super::shape::{check_batch, scope_path};
use super::{ATTEMPTS, Call, Failure, ItemFailure, Reason, Vault, Violation};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::crypto::record::Header;
use crate::event::{Action, ItemOutcome, Reveal};
use crate::keys::{ScopeKeys, entropy};
use crate::ledger::{Held, Receipt};
use crate::policy;
use crate::scope::{self, Scope};
use crate::secret::Secret;
use crate::store::Table;
use std::collections::HashMap;
use std::time::Duration;

/// Tokens to be renewed.
pub struct RenewRequest {
    /// The scope's name, as the caller wrote it.
    pub scope: String,
    /// 1 to 1,000.
    pub tokens: Vec<Secret<String>>,
    /// The new lifetime, from now on; the scope's default if absent. `Err` if it was negative or out of range.
    pub ttl: Option<Result<Duration, Reason>>,
    /// A UUID of version 4, or empty: the call may be made again under it.
    pub request_id: Secret<String>,
}

/// One result for each token, in order.
pub struct Renewed {
    /// When it now expires, or why not.
    pub results: Times,
    /// Where the event stands.
    pub receipt: Receipt,
}

/// What one attempt would change, before anything is durable.
#[derive(Default)]
struct Renewing {
    results: Times,
    outcomes: Vec<ItemOutcome>,
    effects: Effects,
}

/// What it takes to renew one token.
struct Terms<'a> {
    scope: &'a Scope,
    ttl: Option<Result<Duration, Reason>>,
    now: Timestamp,
}

impl Vault {
    /// Gives live tokens another lifetime, which may be shorter than what they had left. None lives longer than its scope's
    /// ceiling after it was issued.
    ///
    /// # Errors
    /// [`Failure`]: nothing was renewed.
    pub async fn renew(&self, call: &Call, request: RenewRequest) -> Result<Renewed, Failure> {
        let asked = self.asked(call, Action::Renew, &request.scope, request.tokens.len());
        let (path, named) = match self.check_renew(call, &request) {
            Ok(shape) => shape,
            Err(violation) => return Err(self.invalid(self.event(&asked)?, violation).await),
        };
        let wanted = Wanted {
            asked,
            path,
            purpose: "",
            reveal: Reveal::Unspecified,
            detail: "",
            tokens: &request.tokens,
            handles: &[],
            unsupported: None,
            request: named,
        };
        for _ in 0..ATTEMPTS {
            if let Some((results, receipt)) = self.attempt_renew(&wanted, request.ttl).await? {
                return Ok(Renewed { results, receipt });
            }
        }
        Err(self.overtaken(&wanted).await)
    }

    async fn attempt_renew(
        &self,
        wanted: &Wanted<'_>,
        ttl: Option<Result<Duration, Reason>>,
    ) -> Result<Option<(Times, Receipt)>, Failure> {
        let mut attempt = self.attempt::<policy::action::Renew>(wanted, requests::RANDOM_BYTES).await?;
        let before = match self.recall(wanted.request.as_ref()).await? {
            Recalled::Nothing => None,
            Recalled::Another => return Err(self.request_id_used(attempt.event).await),
            Recalled::Outcome(items) => Some(items),
        };
        let keys = self.keys_of(&wanted.path);
        let named = Named::parse(attempt.scope.format(), wanted.tokens, &[]);
        let handles = named.locate(self, &keys);
        let renewing = if let Some(items) = before {
            attempt.event.detail = requests::repeated(wanted.detail);
            let (results, outcomes) = requests::times_again(items);
            Renewing { results, outcomes, effects: Effects::default() }
        } else {
            let looked = self.look_up(&named, &handles, &keys).await?;
            let terms = Terms { scope: &attempt.scope, ttl, now: attempt.now };
            let mut renewing = self.renew_all(&terms, &named, &handles, &looked, &keys)?;
            renewing.effects.touched.extend(handles.iter().flatten());
            if let Some(request) = &wanted.request {
                let items = renewing.results.iter().map(requests::Outcome::of_time);
                request.remember(self, attempt.random.take(), items, &mut renewing.effects);
            }
            renewing
        };
        describe(&mut attempt.event, &handles, renewing.outcomes.iter().copied());
        self.conclude(wanted, attempt, renewing.effects, Held::new(renewing.results, Vec::new())).await
    }

    fn renew_all(
        &self,
        terms: &Terms<'_>,
        named: &Named,
        handles: &[Option<Handle>],
        looked: &[Looked],
        keys: &ScopeKeys,
    ) -> Result<Renewing, Failure> {
        let data_key = data_key(self, keys);
        let mut random = entropy::Supply::of(handles.len() * 16)?;
        let mut renewing = Renewing::default();
        let mut renewed: HashMap<Handle, Timestamp> = HashMap::new();
        for (place, (handle, looked)) in handles.iter().zip(looked).enumerate() {
            let (Some(handle), Ok(unlocked)) = (handle, looked) else {
                renewing.push(Err(named.failure(place, looked)), looked.as_ref().err().copied());
                continue;
            };
            if let Some(expires) = renewed.get(handle) {
                renewing.push(Ok(*expires), None);
                continue;
            }
            let header = unlocked.header();
            if let Some(dead) = why_dead(header, terms.now) {
                renewing.push(Err(ItemFailure::NotFound), Some(dead));
                continue;
            }
            let expires = match terms.expiry(header) {
                Ok(expires) => expires,
                Err(reason) => {
                    renewing.push(Err(ItemFailure::Invalid(reason)), Some(ItemOutcome::Refused));
                    continue;
                }
            };
            let record_version = header.record_version.wrapping_add(1);
            let later = Header { expires, changed: terms.now, record_version, ..*header };
            let row = unlocked.relock(self.keyring.vault(), handle, data_key, &later, random.take());
            let rows = &mut renewing.effects.rows;
            rows.put(Table::Tokens, handle.as_bytes(), &row);
            if expiry::hour(expires) != expiry::hour(header.expires) {
                Expiries::write_renewed(expires, handle, record_version, rows);
            }
            renewing.effects.rewritten.push(*handle);
            renewed.insert(*handle, expires);
            renewing.push(Ok(expires), None);
        }
        Ok(renewing)
    }

    fn check_renew(&self, call: &Call, request: &RenewRequest) -> Result<(scope::Path, Option<Request>), Violation> {
        let path = scope_path(&request.scope)?;
        check_batch("tokens", request.tokens.len())?;
        let payload = || Payload::new(Action::Renew, &request.scope).lifetime(request.ttl).tokens(&request.tokens);
        Ok((path, self.request(call.caller.id.as_str(), request.request_id.expose(), payload)?))
    }
}

impl Terms<'_> {
    /// When a token expires after it was renewed, or what is wrong with that. A lifetime above the ceiling is refused, never
    /// cut.
    fn expiry(&self, header: &Header) -> Result<Timestamp, Reason> {
        let ttl = self.ttl.unwrap_or(Ok(self.scope.ttl()))?;
        if ttl.as_millis() == 0 {
            return Err(Reason::LifetimeNotPositive);
        }
        let expires = self.now.checked_add(ttl).ok_or(Reason::LifetimeTooLong)?;
        // A token that was made while the clock was ahead must not have more than others from now on.
        let created = header.created.min(self.now);
        let ceiling = created.checked_add(self.scope.max_ttl()).ok_or(Reason::LifetimeTooLong)?;
        if expires > ceiling { Err(Reason::LifetimeTooLong) } else { Ok(expires) }
    }
}

impl Renewing {
    fn push(&mut self, result: Result<Timestamp, ItemFailure>, outcome: Option<ItemOutcome>) {
        let otherwise = if result.is_ok() { ItemOutcome::Done } else { ItemOutcome::Malformed };
        self.outcomes.push(outcome.unwrap_or(otherwise));
        self.results.push(result);
    }
}
