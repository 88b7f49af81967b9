//! Tokenize: values in, tokens out.

use super::attempt::{Attempt, Effects, Wanted};
use super::expiry::Expiries;
use super::requests::{self, Payload, REPEATED, Remembered, Request};
use super::shape::{check_batch, scope_path};
use super::{ATTEMPTS, Call, Failure, ItemFailure, REPLY_BYTES_AT_MOST, Reason, Vault, VaultEvent, Violation};
use crate::clock::Timestamp;
use crate::crypto::Handle;
use crate::crypto::record::{self, Header, Salts, State};
use crate::event::{self, Action, Event, ItemOutcome, Outcome};
use crate::keys::{FIRST_VERSION, NewScopeKeys, ScopeKeys, entropy};
use crate::ledger::{Changes, Held, Receipt};
use crate::policy;
use crate::scope::{self, Scope};
use crate::secret::{Secret, SecretBytes};
use crate::token;
use std::time::Duration;

/// Values to be exchanged for tokens.
pub struct TokenizeRequest {
    /// The scope's name, as the caller wrote it.
    pub scope: String,
    /// 1 to 1,000.
    pub items: Vec<TokenizeItem>,
    /// Whether nothing is to be issued if one item is wrong.
    pub all_or_nothing: bool,
    /// A UUID of version 4, or empty: the call may be made again under it.
    pub request_id: Secret<String>,
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

/// A result for each item.
type Issues = Vec<Result<IssuedToken, ItemFailure>>;

/// What one attempt has made, before anything is durable.
#[derive(Default)]
struct Made {
    results: Issues,
    effects: Effects,
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
    pub async fn tokenize(&self, call: &Call, request: &TokenizeRequest) -> Result<Tokenized, Failure> {
        let asked = self.asked(call, Action::Tokenize, &request.scope, request.items.len());
        let (path, named) = match self.check_tokenize(call, request) {
            Ok(shape) => shape,
            Err(violation) => return Err(Box::pin(self.invalid(self.event(&asked)?, violation)).await),
        };
        let wanted = Wanted { unsupported: request.unsupported, request: named, ..Wanted::of(asked, path) };
        for _ in 0..ATTEMPTS {
            if let Some((results, receipt)) = self.attempt_tokenize(&wanted, request).await? {
                return Ok(Tokenized { results, receipt });
            }
        }
        Err(Box::pin(self.overtaken(&wanted)).await)
    }

    async fn attempt_tokenize(
        &self,
        wanted: &Wanted<'_>,
        request: &TokenizeRequest,
    ) -> Result<Option<(Issues, Receipt)>, Failure> {
        let random = requests::RANDOM_BYTES + request.items.len() * RANDOM_BYTES_AN_ITEM;
        let mut attempt = match self.attempt::<policy::action::Tokenize>(wanted, random) {
            Ok(attempt) => attempt,
            Err(over) => return Err(over.await),
        };
        if let Some(items) = self.before(wanted, &attempt).await? {
            REPEATED.clone_into(&mut attempt.event.detail);
            return Made::again(items).conclude(self, wanted, attempt).await;
        }
        let keys = self.keys_for_tokenize(&wanted.path, attempt.now).await?;
        let second = token::second(attempt.now);
        let mint = Mint { vault: self, scope: &attempt.scope, keys: &keys, now: attempt.now, second };
        let mut made = mint.make(&request.items, &mut attempt.random)?;
        if request.all_or_nothing {
            let wrong = made.wrong();
            if !wrong.is_empty() {
                return Err(Box::pin(self.all_or_nothing(*attempt.event, wrong)).await);
            }
        }
        if let Some(request) = &wanted.request {
            let items = made.results.iter().map(to_be_remembered);
            request.remember(self, attempt.random.take(), items, &mut made.effects);
        }
        made.conclude(self, wanted, attempt).await
    }

    fn check_tokenize(
        &self,
        call: &Call,
        request: &TokenizeRequest,
    ) -> Result<(scope::Path, Option<Box<Request>>), Violation> {
        let path = scope_path(&request.scope)?;
        check_batch("items", request.items.len())?;
        let payload = || {
            let item = |payload: Payload, item: &TokenizeItem| {
                let payload = payload.field(item.value.expose()).lifetime(item.ttl).number(item.max_uses.into());
                payload.number(item.has_subject.into())
            };
            let payload = Payload::new(Action::Tokenize, &request.scope).number(request.all_or_nothing.into());
            payload.list(&request.items, item)
        };
        Ok((path, self.request(call.caller.id.as_str(), request.request_id.expose(), payload)?))
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

fn to_be_remembered(result: &Result<IssuedToken, ItemFailure>) -> requests::Outcome<'_> {
    match result {
        Ok(issued) => requests::Outcome::Issued(issued.token.expose(), &issued.handle, issued.expires),
        Err(failure) => requests::Outcome::Failed(*failure),
    }
}

impl Mint<'_> {
    /// Tokens and rows for all items. What is wrong with one item does not touch its neighbours.
    fn make(&self, items: &[TokenizeItem], random: &mut entropy::Supply) -> Result<Made, Failure> {
        let mut made = Made::default();
        made.results.reserve_exact(items.len());
        // A buffer that grows is copied and wiped each time.
        let row_bytes = |item: &TokenizeItem| ROW_BYTES_BESIDE_VALUE + item.value.len() + item.value.len() / 8;
        made.effects.changes.reserve(items.len() + 1, items.iter().map(row_bytes).sum());
        let mut expiries = Expiries::default();
        for item in items {
            let result = match check_item(self.scope, item, self.now) {
                Ok(expires) => {
                    let issued = self.issue(item, expires, random, &mut made.effects.changes)?;
                    expiries.add(expires, &issued.handle);
                    Ok(issued)
                }
                Err(reason) => Err(ItemFailure::Invalid(reason)),
            };
            made.results.push(result);
        }
        expiries.write(&mut made.effects.changes);
        Ok(made)
    }

    fn issue(
        &self,
        item: &TokenizeItem,
        expires: Timestamp,
        random: &mut entropy::Supply,
        changes: &mut Changes,
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
        changes.insert(keyring.state(), &issued.handle, &row);
        self.vault.lengths.note(self.keys.id, &issued.handle, record::padded_bytes(value.len()));
        Ok(IssuedToken { token: issued.text, expires, handle: issued.handle })
    }
}

impl Made {
    /// What was made the first time, to be handed out once more.
    fn again(items: Vec<Remembered>) -> Self {
        let result = |item| match item {
            Remembered::Issued { token, handle, expires } => {
                Ok(IssuedToken { token: token::Text::remembered(token), expires, handle })
            }
            Remembered::Failed(failure) => Err(failure),
            // Nothing else is remembered of this action, whose name is part of what opens the row.
            Remembered::Time(_) | Remembered::Released => Err(ItemFailure::DataLoss),
        };
        Self { results: items.into_iter().map(result).collect(), effects: Effects::default() }
    }

    /// The items that are wrong, by their places.
    fn wrong(&self) -> Vec<(usize, Reason)> {
        let wrong = |(place, result): (usize, &Result<IssuedToken, ItemFailure>)| match result {
            Err(ItemFailure::Invalid(reason)) => Some((place, *reason)),
            _ => None,
        };
        self.results.iter().enumerate().filter_map(wrong).collect()
    }

    fn conclude<'a>(
        self,
        vault: &'a Vault,
        wanted: &Wanted<'_>,
        mut attempt: Attempt<policy::action::Tokenize>,
    ) -> impl Future<Output = Result<Option<(Issues, Receipt)>, Failure>> + use<'a> {
        self.describe(&mut attempt.event);
        let names = self.names();
        vault.conclude(wanted, attempt, self.effects, Held::new(self.results, names))
    }

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
