//! Renew: tokens get another lifetime, counted from now, within their scope's ceiling.

use super::attempt::Wanted;
use super::detokenize::{data_key, why_dead};
use super::expiry::{self, Expiries};
use super::inspect::{Looked, Named};
use super::requests::{self, Payload, Request};
use super::shape::{check_batch, scope_path};
use super::times::{Timed, Times};
use super::{ATTEMPTS, Call, Failure, ItemFailure, Reason, Vault, Violation};
use crate::clock::Timestamp;
use crate::crypto::record::{Header, Unlocked};
use crate::crypto::{DataKey, Handle};
use crate::event::{Action, ItemOutcome};
use crate::keys::entropy;
use crate::ledger::Receipt;
use crate::policy;
use crate::scope::{self, Scope};
use crate::secret::Secret;
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

/// What it takes to renew one token.
struct Terms<'a> {
    scope: &'a Scope,
    ttl: Option<Result<Duration, Reason>>,
    now: Timestamp,
}

/// What one attempt has renewed.
struct Renewing<'a> {
    vault: &'a Vault,
    data_key: &'a DataKey,
    random: entropy::Supply,
    timed: Timed,
    /// By handle: the same token twice is renewed once.
    renewed: HashMap<Handle, Timestamp>,
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
        let wanted = Wanted { tokens: &request.tokens, request: named, ..Wanted::of(asked, path) };
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
        let attempt = match self.attempt::<policy::action::Renew>(wanted, requests::RANDOM_BYTES) {
            Ok(attempt) => attempt,
            Err(over) => return Err(over.await),
        };
        let before = self.before(wanted, &attempt).await?;
        let keys = self.keys_of(&wanted.path);
        let named = Named::parse(attempt.scope.format(), wanted.tokens, &[]);
        let handles = named.locate(self, &keys);
        if let Some(items) = before {
            return self.conclude_again(wanted, attempt, &handles, items).await;
        }
        let terms = Terms { scope: &attempt.scope, ttl, now: attempt.now };
        let mut renewing = Renewing {
            vault: self,
            data_key: data_key(self, &keys),
            random: entropy::Supply::of(handles.len() * 16)?,
            timed: Timed::default(),
            renewed: HashMap::new(),
        };
        let each = |place: usize, looked: Looked| match (&handles[place], looked) {
            (Some(handle), Ok(unlocked)) => renewing.renew(&terms, handle, &unlocked),
            (_, looked) => {
                let outcome = looked.as_ref().err().copied().unwrap_or(ItemOutcome::Malformed);
                renewing.timed.failed(named.failure(place, &looked), outcome);
                Some(0)
            }
        };
        let _reading = self.look_up(wanted, &named, &handles, &keys, each).await?;
        let timed = renewing.timed;
        self.conclude_first(wanted, attempt, &handles, timed).await
    }

    fn check_renew(
        &self,
        call: &Call,
        request: &RenewRequest,
    ) -> Result<(scope::Path, Option<Box<Request>>), Violation> {
        let path = scope_path(&request.scope)?;
        check_batch("tokens", request.tokens.len())?;
        let payload = || Payload::new(Action::Renew, &request.scope).lifetime(request.ttl).tokens(&request.tokens);
        Ok((path, self.request(call.caller.id.as_str(), request.request_id.expose(), payload)?))
    }
}

impl Renewing<'_> {
    /// One token whose record is there. How long its new row is; `None` if there is no room for that.
    fn renew(&mut self, terms: &Terms<'_>, handle: &Handle, unlocked: &Unlocked) -> Option<usize> {
        if let Some(expires) = self.renewed.get(handle) {
            self.timed.done(*expires);
            return Some(0);
        }
        let header = unlocked.header();
        if let Some(dead) = why_dead(header, terms.now) {
            self.timed.failed(ItemFailure::NotFound, dead);
            return Some(0);
        }
        let expires = match terms.expiry(header) {
            Ok(expires) => expires,
            Err(reason) => {
                self.timed.failed(ItemFailure::Invalid(reason), ItemOutcome::Refused);
                return Some(0);
            }
        };
        let record_version = header.record_version.wrapping_add(1);
        let later = Header { expires, changed: terms.now, record_version, ..*header };
        let keyring = &self.vault.keyring;
        let row = unlocked.relock(keyring.vault(), handle, self.data_key, &later, self.random.take());
        let kept = self.timed.rewrite(keyring.state(), handle, &unlocked.imprint(), &row)?;
        if expiry::hour(expires) != expiry::hour(header.expires) {
            Expiries::write_renewed(expires, handle, record_version, &mut self.timed.effects.changes);
        }
        self.renewed.insert(*handle, expires);
        self.timed.done(expires);
        Some(kept)
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
