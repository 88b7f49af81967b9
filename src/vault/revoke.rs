//! Revoke: tokens are taken back, at once and for ever.

use super::detokenize::data_key;
use super::inspect::{Named, describe};
use super::record::{Asked, decided};
use super::shape::{check_batch, check_words, scope_path};
use super::{ATTEMPTS, Call, Failure, ItemFailure, Reason, Vault, Violation};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::crypto::record::{Header, State};
use crate::event::{Action, ItemOutcome};
use crate::keys::{ScopeKeys, entropy};
use crate::ledger::{Held, Receipt, Refused, Submission};
use crate::policy::{self, Resource};
use crate::scope;
use crate::secret::Secret;
use crate::store::{Batch, Table};
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
    /// Not available yet: an option that was given.
    pub unsupported: Option<&'static str>,
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
        let asked = Asked::of(call, Action::Revoke, &request.scope, requested);
        let path = match check_shape(&request, requested) {
            Ok(path) => path,
            Err(violation) => return Err(self.invalid(self.event(&asked)?, violation).await),
        };
        for _ in 0..ATTEMPTS {
            if let Some(done) = self.attempt_revoke(&asked, &path, &request).await? {
                return Ok(done);
            }
        }
        Err(self.conflict(self.event(&asked)?).await)
    }

    /// One attempt; `None` if its basis changed.
    async fn attempt_revoke(
        &self,
        asked: &Asked<'_>,
        path: &scope::Path,
        request: &RevokeRequest,
    ) -> Result<Option<Revoked>, Failure> {
        let mut event = self.event(asked)?;
        event.detail.clone_from(&request.reason);
        let basis = self.ledger.basis();
        let now = self.now();
        let (resource, context) = (Resource::Scope(path), asked.context(now));
        let permit = match self.policy.permit::<policy::action::Revoke>(&asked.call.caller, resource, &context) {
            Ok(permit) => permit,
            Err(denied) => {
                let handles = self.named_of_denied(path, &request.tokens, &request.handles);
                return Err(self.denied(event, &denied, &handles).await);
            }
        };
        decided(&mut event, &permit);
        if let Some(option) = request.unsupported {
            return Err(self.unimplemented(event, option).await);
        }
        if asked.call.is_late() {
            return Err(self.late(event).await);
        }
        let scope = permit.scope().ok_or(Failure::Internal)?;
        let keys = self.keyring.scope(path).unwrap_or_else(ScopeKeys::stand_in);
        let named = Named::parse(scope.format(), &request.tokens, &request.handles);
        let handles = named.locate(self, &keys);
        let revoking = self.revoke_all(&named, &handles, &keys, now).await?;
        describe(&mut event, &handles, revoking.outcomes.iter().copied());
        let touched = handles.iter().flatten().copied().collect();
        let basis = basis.decided_by(permit.generation());
        let submission =
            Submission::new(basis, event).with_changes(revoking.rows).resting_on(touched, revoking.rewritten);
        match self.ledger.commit(submission, Held::new(revoking.results, Vec::new())).await {
            Ok((results, receipt)) => Ok(Some(Revoked { results, receipt })),
            Err(Refused::Stale) => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }

    async fn revoke_all(
        &self,
        named: &Named,
        handles: &[Option<Handle>],
        keys: &ScopeKeys,
        now: Timestamp,
    ) -> Result<Revoking, Failure> {
        let looked = self.look_up(named, handles, keys).await?;
        let data_key = data_key(self, keys);
        let mut random = entropy::Supply::of(handles.len() * 16)?;
        let mut revoking = Revoking::default();
        let mut revoked: HashMap<Handle, Timestamp> = HashMap::new();
        for (place, (handle, looked)) in handles.iter().zip(&looked).enumerate() {
            let (Some(handle), Ok(unlocked)) = (handle, looked) else {
                revoking.results.push(Err(named.failure(place, looked)));
                revoking.outcomes.push(looked.as_ref().err().copied().unwrap_or(ItemOutcome::Malformed));
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
                    revoking.rows.put(Table::Tokens, handle.as_bytes(), &row);
                    revoking.rewritten.push(*handle);
                    revoked.insert(*handle, now);
                    now
                }
            };
            revoking.results.push(Ok(time));
            revoking.outcomes.push(ItemOutcome::Done);
        }
        Ok(revoking)
    }
}

fn check_shape(request: &RevokeRequest, requested: usize) -> Result<scope::Path, Violation> {
    let path = scope_path(&request.scope)?;
    check_batch("tokens", requested)?;
    if !check_words(&request.reason) {
        return Err(Violation { field: "reason", reason: Reason::ReasonMalformed });
    }
    Ok(path)
}

/// What one attempt would change, before anything is durable.
#[derive(Default)]
struct Revoking {
    results: Vec<Result<Timestamp, ItemFailure>>,
    outcomes: Vec<ItemOutcome>,
    rows: Batch,
    rewritten: Vec<Handle>,
}
