//! Tokenize: values in, tokens out.

use super::expiry::Expiries;
use super::record::{Asked, decided};
use super::shape::{check_batch, scope_path};
use super::{ATTEMPTS, Call, Failure, ItemFailure, REPLY_BYTES_AT_MOST, Reason, Vault, VaultEvent, Violation};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::crypto::record::{self, Header, Salts, State};
use crate::event::{self, Action, Event, ItemOutcome, Outcome};
use crate::keys::{FIRST_VERSION, NewScopeKeys, ScopeKeys, entropy};
use crate::ledger::{Held, Receipt, Refused, Submission};
use crate::policy::{self, Resource};
use crate::scope::{self, Scope};
use crate::secret::SecretBytes;
use crate::store::{Batch, Table};
use crate::token;
use std::time::Duration;

/// Values to be exchanged for tokens.
pub struct TokenizeRequest {
    /// The scope's name, as the caller wrote it.
    pub scope: String,
    /// 1 to 1,000.
    pub items: Vec<TokenizeItem>,
    /// Not available yet: an option that was given.
    pub unsupported: Option<&'static str>,
}

/// One value.
pub struct TokenizeItem {
    /// 1 byte to the scope's limit.
    pub value: SecretBytes,
    /// The token's lifetime; the scope's default if absent. `Err` if it was negative or out of range.
    pub ttl: Option<Result<Duration, Reason>>,
    /// How often the value may be released; 0 for no limit.
    pub max_uses: u32,
    /// Whether a subject was given: not available yet.
    pub has_subject: bool,
}

/// A token that was issued.
pub struct IssuedToken {
    /// The token. It is secret: whoever holds it and is permitted gets the value.
    pub token: token::Text,
    /// From then on it is not found.
    pub expires: Timestamp,
    /// The token's only name inside the vault.
    pub handle: Handle,
}

/// One result for each item, in order.
pub struct Tokenized {
    /// Token or failure.
    pub results: Vec<Result<IssuedToken, ItemFailure>>,
    /// Where the event stands.
    pub receipt: Receipt,
}

/// What one attempt has made, before anything is durable.
#[derive(Default)]
struct Made {
    results: Vec<Result<IssuedToken, ItemFailure>>,
    rows: Batch,
}

/// What it takes to make this call's tokens.
struct Mint<'a> {
    vault: &'a Vault,
    scope: &'a Scope,
    keys: &'a ScopeKeys,
    now: Timestamp,
    second: u32,
}

/// Randomness for one item: the token's 128 bits and the two salts.
const RANDOM_BYTES_AN_ITEM: usize = 16 + 16 + 16;

/// What is stored of a token besides its value, which padding makes longer by an eighth at the most.
const ROW_BYTES_BESIDE_VALUE: usize = 224;

/// A token, its handle in hexadecimal, its expiry and what frames them, or an error, in a reply.
const REPLY_BYTES_AN_ITEM: usize = 256;

impl Vault {
    /// Exchanges values for tokens.
    ///
    /// # Errors
    /// [`Failure`]: nothing was issued.
    pub async fn tokenize(&self, call: &Call, request: TokenizeRequest) -> Result<Tokenized, Failure> {
        let asked = Asked::of(call, Action::Tokenize, &request.scope, request.items.len());
        let path = match check_shape(&request) {
            Ok(path) => path,
            Err(violation) => return Err(self.invalid(self.event(&asked)?, violation).await),
        };
        for _ in 0..ATTEMPTS {
            if let Some(done) = self.attempt_tokenize(&asked, &path, &request).await? {
                return Ok(done);
            }
        }
        Err(self.conflict(self.event(&asked)?).await)
    }

    /// One attempt; `None` if its basis changed.
    async fn attempt_tokenize(
        &self,
        asked: &Asked<'_>,
        path: &scope::Path,
        request: &TokenizeRequest,
    ) -> Result<Option<Tokenized>, Failure> {
        let basis = self.ledger.basis();
        let now = self.now();
        let context = asked.context(now);
        let resource = Resource::Scope(path);
        let permit = match self.policy.permit::<policy::action::Tokenize>(&asked.call.caller, resource, &context) {
            Ok(permit) => permit,
            Err(denied) => return Err(self.denied(self.event(asked)?, &denied, &[]).await),
        };
        if let Some(option) = request.unsupported {
            return Err(self.unimplemented(self.decided_event(asked, &permit)?, option).await);
        }
        if asked.call.is_late() {
            return Err(self.late(self.decided_event(asked, &permit)?).await);
        }
        // For the event's salt too: a system call costs as much as sealing a value.
        let mut random = entropy::Supply::of(event::SALT_BYTES + request.items.len() * RANDOM_BYTES_AN_ITEM)?;
        let mut event = self.event_salted(asked, random.take());
        decided(&mut event, &permit);
        let scope = permit.scope().ok_or(Failure::Internal)?;
        let keys = self.keys_for_tokenize(path, now).await?;
        let mint = Mint { vault: self, scope, keys: &keys, now, second: token::second(now) };
        let made = mint.make(&request.items, random)?;
        made.describe(&mut event);
        let names = made.names();
        let basis = basis.decided_by(permit.generation());
        let submission = Submission::new(basis, event).with_changes(made.rows);
        match self.ledger.commit(submission, Held::new(made.results, names)).await {
            Ok((results, receipt)) => Ok(Some(Tokenized { results, receipt })),
            Err(Refused::Stale) => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Gives each scope that the rulebook names its id, so that events of a start or reload come with them.
    ///
    /// # Errors
    /// If the log can't be written.
    pub async fn name_scopes(&self, named: Vec<scope::Path>) -> Result<(), Failure> {
        let now = self.now();
        let _only_one = self.making_keys.lock().await;
        for path in named {
            if let Some(mut new) = self.prepare_keys(&path, false, now)? {
                let changes = std::mem::take(&mut new.rows);
                let (scope, detail) = (path.as_str().to_owned(), format!("scope id {}", new.id()));
                self.record_own(VaultEvent { action: Action::Reload, scope, detail, changes }).await?;
                let _ = self.keyring.admit(new);
            }
        }
        Ok(())
    }

    fn prepare_keys(
        &self,
        path: &scope::Path,
        with_data_key: bool,
        now: Timestamp,
    ) -> Result<Option<NewScopeKeys>, Failure> {
        self.keyring.prepare(path, with_data_key, now).map_err(|error| {
            tracing::error!(%error, scope = path.as_str(), "the scope's id or key could not be made");
            Failure::Unavailable
        })
    }

    /// The scope's id and data key, made if this is the scope's first Tokenize. The key is durable, with an event of its
    /// own, before anything is sealed under it.
    async fn keys_for_tokenize(&self, path: &scope::Path, now: Timestamp) -> Result<ScopeKeys, Failure> {
        if let Some(keys) = self.keyring.scope(path).filter(|keys| keys.data.is_some()) {
            return Ok(keys);
        }
        // On the heap: it happens once in a scope's life.
        Box::pin(self.make_keys(path, now)).await
    }

    async fn make_keys(&self, path: &scope::Path, now: Timestamp) -> Result<ScopeKeys, Failure> {
        let _only_one = self.making_keys.lock().await;
        let Some(mut new) = self.prepare_keys(path, true, now)? else {
            // Somebody else made it while this call waited.
            return self.keyring.scope(path).ok_or(Failure::Internal);
        };
        let changes = std::mem::take(&mut new.rows);
        let detail = format!("{} version {}", new.key_id.as_deref().unwrap_or_default(), FIRST_VERSION);
        let scope = path.as_str().to_owned();
        self.record_own(VaultEvent { action: Action::CreateKey, scope, detail, changes }).await?;
        Ok(self.keyring.admit(new))
    }
}

fn check_shape(request: &TokenizeRequest) -> Result<scope::Path, Violation> {
    let path = scope_path(&request.scope)?;
    check_batch("items", request.items.len())?;
    Ok(path)
}

impl Mint<'_> {
    /// Tokens and rows for all items. What is wrong with one item does not touch its neighbours.
    fn make(&self, items: &[TokenizeItem], mut random: entropy::Supply) -> Result<Made, Failure> {
        let mut made = Made::default();
        made.results.reserve_exact(items.len());
        // A buffer that grows is copied and wiped each time.
        let row_bytes = |item: &TokenizeItem| ROW_BYTES_BESIDE_VALUE + item.value.len() + item.value.len() / 8;
        made.rows.reserve(items.len() + 1, items.iter().map(row_bytes).sum());
        let mut expiries = Expiries::default();
        for item in items {
            let result = match check_item(self.scope, item, self.now) {
                Ok(expires) => {
                    let issued = self.issue(item, expires, &mut random, &mut made.rows)?;
                    expiries.add(expires, &issued.handle);
                    Ok(issued)
                }
                Err(reason) => Err(ItemFailure::Invalid(reason)),
            };
            made.results.push(result);
        }
        expiries.write(&mut made.rows);
        Ok(made)
    }

    fn issue(
        &self,
        item: &TokenizeItem,
        expires: Timestamp,
        random: &mut entropy::Supply,
        rows: &mut Batch,
    ) -> Result<IssuedToken, Failure> {
        let keyring = &self.vault.keyring;
        let data_key = self.keys.data.as_ref().ok_or(Failure::Internal)?;
        let issued = token::issue(self.scope.format(), keyring.index(), self.keys.id, self.second, random.take());
        let header = Header {
            state: State::Active,
            scope: self.keys.id,
            index_key: FIRST_VERSION,
            data_key: FIRST_VERSION,
            record_version: 1,
            created: self.now,
            changed: self.now,
            expires,
            uses_left: (item.max_uses > 0).then_some(item.max_uses),
            subject: None,
            fingerprint: None,
        };
        let salts = Salts { inner: random.take(), outer: random.take() };
        let (canonical, value) = (issued.canonical.expose(), item.value.expose());
        let row = record::seal(keyring.vault(), &issued.handle, canonical, data_key, &header, value, &salts);
        rows.put(Table::Tokens, issued.handle.as_bytes(), &row);
        Ok(IssuedToken { token: issued.text, expires, handle: issued.handle })
    }
}

impl Made {
    fn describe(&self, event: &mut Event) {
        let names = self.results.iter().map(|result| result.as_ref().ok().map(|issued| issued.handle.as_bytes()));
        event.handles = event::handles(names);
        event.outcome = Outcome::Allowed.into();
        let issued = self.results.iter().filter(|result| result.is_ok()).count();
        event.succeeded = u32::try_from(issued).unwrap_or(u32::MAX);
        let outcome = |issued: bool| if issued { ItemOutcome::Issued } else { ItemOutcome::Refused };
        event.item_outcomes = self.results.iter().map(|result| outcome(result.is_ok()).into()).collect();
    }

    fn names(&self) -> Vec<(usize, Handle)> {
        let issued = self.results.iter().enumerate();
        issued.filter_map(|(place, result)| Some((place, result.as_ref().ok()?.handle))).collect()
    }
}

// A thousand items' replies fit the message limit, so Tokenize need not weigh its reply.
const _: () = assert!(super::BATCH_AT_MOST * REPLY_BYTES_AN_ITEM < REPLY_BYTES_AT_MOST);

/// The item's expiry, or what is wrong with it. A lifetime above the ceiling is refused, never cut.
fn check_item(scope: &Scope, item: &TokenizeItem, now: Timestamp) -> Result<Timestamp, Reason> {
    if item.value.is_empty() {
        return Err(Reason::ValueEmpty);
    }
    if item.value.len() > scope.max_value_bytes() {
        return Err(Reason::ValueTooLarge);
    }
    if item.has_subject {
        return Err(Reason::SubjectUnsupported);
    }
    let ttl = item.ttl.unwrap_or(Ok(scope.ttl()))?;
    if ttl.as_millis() == 0 {
        return Err(Reason::LifetimeNotPositive);
    }
    if ttl > scope.max_ttl() {
        return Err(Reason::LifetimeTooLong);
    }
    now.checked_add(ttl).ok_or(Reason::LifetimeTooLong)
}
