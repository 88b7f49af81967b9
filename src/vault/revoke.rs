//! Revoke: tokens are taken back, at once and for ever.

use super::attempt::Wanted;
use super::detokenize::data_key;
use super::inspect::{Looked, Named};
use super::requests::{self, Payload, Request};
use super::shape::{check_batch, check_words, scope_path};
use super::times::{Timed, Times};
use super::{ATTEMPTS, Call, Failure, ItemFailure, Reason, Vault, Violation};
use crate::clock::Timestamp;
use crate::crypto::record::{Header, State, Unlocked};
use crate::crypto::{DataKey, Handle};
use crate::event::{Action, ItemOutcome};
use crate::keys::entropy;
use crate::ledger::Receipt;
use crate::policy;
use crate::scope;
use crate::secret::Secret;
use std::collections::HashSet;

/// Tokens and handles to take back.
pub struct RevokeRequest {
    /// The scope's name, as the caller wrote it.
    pub scope: String,
    /// Together with `handles` 1 to 1,000.
    pub tokens: Vec<Secret<String>>,
    /// Handles, 40 hexadecimal digits each.
    pub handles: Vec<String>,
    /// Why, for the log. May be empty.
    pub reason: String,
    /// A UUID of version 4, or empty: the call may be made again under it.
    pub request_id: Secret<String>,
}

/// One result for each token, then for each handle, in order.
pub struct Revoked {
    /// When it was revoked (the first time), or why not.
    pub results: Vec<Result<Timestamp, ItemFailure>>,
    /// Where the event stands.
    pub receipt: Receipt,
}

/// What one attempt has revoked.
struct Revoking<'a> {
    vault: &'a Vault,
    data_key: &'a DataKey,
    now: Timestamp,
    random: entropy::Supply,
    timed: Timed,
    /// The same token twice is revoked once.
    revoked: HashSet<Handle>,
}

impl Vault {
    /// Takes tokens back. Again is no error: the first time stands.
    ///
    /// # Errors
    /// [`Failure`]: nothing was revoked.
    pub async fn revoke(&self, call: &Call, request: RevokeRequest) -> Result<Revoked, Failure> {
        let requested = request.tokens.len() + request.handles.len();
        let asked = self.asked(call, Action::Revoke, &request.scope, requested);
        let (path, named) = match self.check_revoke(call, &request, requested) {
            Ok(shape) => shape,
            Err(violation) => return Err(self.invalid(self.event(&asked)?, violation).await),
        };
        let wanted = Wanted {
            detail: &request.reason,
            tokens: &request.tokens,
            handles: &request.handles,
            request: named,
            ..Wanted::of(asked, path)
        };
        for _ in 0..ATTEMPTS {
            if let Some((results, receipt)) = self.attempt_revoke(&wanted).await? {
                return Ok(Revoked { results, receipt });
            }
        }
        Err(self.overtaken(&wanted).await)
    }

    async fn attempt_revoke(&self, wanted: &Wanted<'_>) -> Result<Option<(Times, Receipt)>, Failure> {
        let attempt = match self.attempt::<policy::action::Revoke>(wanted, requests::RANDOM_BYTES) {
            Ok(attempt) => attempt,
            Err(over) => return Err(over.await),
        };
        let before = self.before(wanted, &attempt).await?;
        let keys = self.keys_of(&wanted.path);
        let named = Named::parse(attempt.scope.format(), wanted.tokens, wanted.handles);
        let handles = named.locate(self, &keys);
        if let Some(items) = before {
            return self.conclude_again(wanted, attempt, &handles, items).await;
        }
        let mut revoking = Revoking {
            vault: self,
            data_key: data_key(self, &keys),
            now: attempt.now,
            random: entropy::Supply::of(handles.len() * 16)?,
            timed: Timed::default(),
            revoked: HashSet::new(),
        };
        let each = |place: usize, looked: Looked| match (&handles[place], looked) {
            (Some(handle), Ok(unlocked)) => revoking.revoke(handle, &unlocked),
            (_, looked) => {
                let outcome = looked.as_ref().err().copied().unwrap_or(ItemOutcome::Malformed);
                revoking.timed.failed(named.failure(place, &looked), outcome);
                Some(0)
            }
        };
        let _reading = self.look_up(wanted, &named, &handles, &keys, each).await?;
        let timed = revoking.timed;
        self.conclude_first(wanted, attempt, &handles, timed).await
    }

    fn check_revoke(
        &self,
        call: &Call,
        request: &RevokeRequest,
        requested: usize,
    ) -> Result<(scope::Path, Option<Box<Request>>), Violation> {
        let path = scope_path(&request.scope)?;
        check_batch("tokens", requested)?;
        if !check_words(&request.reason) {
            return Err(Violation { field: "reason", reason: Reason::ReasonMalformed });
        }
        let payload = || {
            let payload = Payload::new(Action::Revoke, &request.scope).field(request.reason.as_bytes());
            payload.tokens(&request.tokens).list(&request.handles, |payload, handle| payload.field(handle.as_bytes()))
        };
        Ok((path, self.request(call.caller.id.as_str(), request.request_id.expose(), payload)?))
    }
}

impl Revoking<'_> {
    /// One token whose record is there. How long its new row is; `None` if there is no room for that.
    fn revoke(&mut self, handle: &Handle, unlocked: &Unlocked) -> Option<usize> {
        let header = unlocked.header();
        if self.revoked.contains(handle) {
            self.timed.done(self.now);
            return Some(0);
        }
        if header.state == State::Revoked {
            self.timed.done(header.changed);
            return Some(0);
        }
        let version = header.record_version.wrapping_add(1);
        let header = Header { state: State::Revoked, changed: self.now, record_version: version, ..*header };
        let keyring = &self.vault.keyring;
        let row = unlocked.relock(keyring.vault(), handle, self.data_key, &header, self.random.take());
        let kept = self.timed.rewrite(keyring.state(), handle, &unlocked.imprint(), &row)?;
        self.revoked.insert(*handle);
        self.timed.done(self.now);
        Some(kept)
    }
}
