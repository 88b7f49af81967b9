//! Revoke: tokens are taken back, at once and for ever.

use super::attempt::Wanted;
use super::detokenize::data_key;
use super::inspect::Named;
use super::requests::{self, Payload, Request};
use super::shape::{check_batch, check_words, scope_path};
use super::times::{Timed, Times};
use super::{ATTEMPTS, Call, Failure, ItemFailure, Reason, Vault, Violation};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::crypto::record::{Header, State};
use crate::event::{Action, ItemOutcome};
use crate::keys::{ScopeKeys, entropy};
use crate::ledger::Receipt;
use crate::policy;
use crate::scope;
use crate::secret::Secret;
use std::collections::HashMap;

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
        let attempt = self.attempt::<policy::action::Revoke>(wanted, requests::RANDOM_BYTES).await?;
        let before = self.before(wanted, &attempt).await?;
        let keys = self.keys_of(&wanted.path);
        let named = Named::parse(attempt.scope.format(), wanted.tokens, wanted.handles);
        let handles = named.locate(self, &keys);
        if let Some(items) = before {
            return self.conclude_again(wanted, attempt, &handles, items).await;
        }
        let revoking = self.revoke_all(&named, &handles, &keys, attempt.now).await?;
        self.conclude_first(wanted, attempt, &handles, revoking).await
    }

    fn check_revoke(
        &self,
        call: &Call,
        request: &RevokeRequest,
        requested: usize,
    ) -> Result<(scope::Path, Option<Request>), Violation> {
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

    async fn revoke_all(
        &self,
        named: &Named,
        handles: &[Option<Handle>],
        keys: &ScopeKeys,
        now: Timestamp,
    ) -> Result<Timed, Failure> {
        let looked = self.look_up(named, handles, keys).await?;
        let data_key = data_key(self, keys);
        let mut random = entropy::Supply::of(handles.len() * 16)?;
        let mut revoking = Timed::default();
        let mut revoked: HashMap<Handle, Timestamp> = HashMap::new();
        for (place, (handle, looked)) in handles.iter().zip(&looked).enumerate() {
            let (Some(handle), Ok(unlocked)) = (handle, looked) else {
                let outcome = looked.as_ref().err().copied().unwrap_or(ItemOutcome::Malformed);
                revoking.failed(named.failure(place, looked), outcome);
                continue;
            };
            let header = unlocked.header();
            let time = match (header.state, revoked.get(handle)) {
                (_, Some(time)) => *time,
                (State::Revoked, None) => header.changed,
                (State::Active | State::Suspended, None) => {
                    let version = header.record_version.wrapping_add(1);
                    let header = Header { state: State::Revoked, changed: now, record_version: version, ..*header };
                    let row = unlocked.relock(self.keyring.vault(), handle, data_key, &header, random.take());
                    let (key, old) = (self.keyring.state(), unlocked.imprint());
                    revoking.effects.changes.replace(key, handle, &old, &row);
                    revoked.insert(*handle, now);
                    now
                }
            };
            revoking.done(time);
        }
        Ok(revoking)
    }
}
