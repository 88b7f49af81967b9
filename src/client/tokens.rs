//! The calls for tokens, with types of their own: values and tokens are [`Secret`]s on both sides of each call.
//!
//! Invariant: an answer has exactly one result for each item, in the order of the items. What does not is no answer.

use std::num::NonZeroU32;
use std::time::Duration;

use super::surroundings::{Surroundings, uuid};
use super::{Client, Error, Failure, Receipt};
use crate::clock::Timestamp;
use crate::proto::v1;
use crate::secret::{Secret, SecretBytes};

/// A token. It is worth nothing without a right, and still does not belong into a log.
pub type Token = Secret<String>;

/// What came of a call.
pub struct Answer<T> {
    /// What became of each item, in order. One that failed does not mind its neighbours.
    pub items: Vec<Result<T, Failure>>,
    /// The event that recorded the call.
    pub receipt: Receipt,
}

/// What a call may say of itself.
#[derive(Default)]
pub struct Options {
    /// How long it may take, retries included. `None`: as long as the client's settings say.
    pub deadline: Option<Duration>,
    /// By what the vault knows it again.
    pub request_id: RequestId,
}

/// By what the vault knows a call again that is repeated. For a day it gives the same answer to the same caller, id and
/// contents, and refuses other contents.
#[derive(Default)]
pub enum RequestId {
    /// The client draws one for the call. It serves for the retries that the client itself makes.
    #[default]
    Drawn,
    /// There is none, so the call is made again only where nothing can have been done. It spares the vault a row.
    Without,
    /// This one, a UUID of version 4 that was drawn for this call alone: for callers that make the same call again
    /// themselves, after a crash of their own for example. It must be kept as the call's values are, and not logged.
    Given(Secret<String>),
}

/// Values to store.
pub struct Tokenize {
    /// The scope, such as `pan`.
    pub scope: String,
    /// 1 to 1,000 of them.
    pub items: Vec<Item>,
    /// Whether nothing shall be issued if one of them is bad.
    pub all_or_nothing: bool,
    /// Deadline and request id.
    pub options: Options,
}

/// A value to store.
pub struct Item {
    /// The value. The buffer is handed on to the call.
    pub value: SecretBytes,
    /// How long its token lives. `None`: as long as the scope says.
    pub ttl: Option<Duration>,
    /// How often it may be released. `None`: without limit.
    pub max_uses: Option<NonZeroU32>,
}

/// A token that was issued.
pub struct Issued {
    /// The token.
    pub token: Token,
    /// Its name in the audit log. It may be logged.
    pub handle: String,
    /// When it ends to live.
    pub expires: Timestamp,
}

/// Tokens to exchange for their values.
pub struct Detokenize {
    /// The scope to which the tokens belong.
    pub scope: String,
    /// 1 to 1,000 of them.
    pub tokens: Vec<Token>,
    /// What for. It stands in the audit log, in clear.
    pub purpose: String,
    /// Whether the values shall be masked.
    pub masked: bool,
    /// Deadline and request id.
    pub options: Options,
}

/// Tokens to ask about.
pub struct Inspect {
    /// The scope to which they belong.
    pub scope: String,
    /// The tokens; their results come first.
    pub tokens: Vec<Token>,
    /// Others, by their handles.
    pub handles: Vec<String>,
    /// How long the call may take.
    pub deadline: Option<Duration>,
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its name in the audit log.
    pub handle: String,
    /// Whether it lives.
    pub state: v1::TokenState,
    /// When it was issued.
    pub created: Timestamp,
    /// When it ends to live.
    pub expires: Timestamp,
    /// How often its value may still be released. `None`: without limit.
    pub uses_left: Option<u32>,
    /// The version of the scope's data key.
    pub key_version: u32,
}

/// Tokens to live for longer, or shorter.
pub struct Renew {
    /// The scope to which they belong.
    pub scope: String,
    /// 1 to 1,000 of them.
    pub tokens: Vec<Token>,
    /// How long, from now on. `None`: as long as the scope says.
    pub ttl: Option<Duration>,
    /// Deadline and request id.
    pub options: Options,
}

/// Tokens to end.
pub struct Revoke {
    /// The scope to which they belong.
    pub scope: String,
    /// The tokens; their results come first.
    pub tokens: Vec<Token>,
    /// Others, by their handles.
    pub handles: Vec<String>,
    /// Why. It stands in the audit log, in clear.
    pub reason: String,
    /// Deadline and request id.
    pub options: Options,
}

impl Tokenize {
    /// Values with the scope's defaults.
    pub fn new(scope: &str, values: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let items = values.into_iter().map(Item::new).collect();
        Self { scope: scope.to_owned(), items, all_or_nothing: false, options: Options::default() }
    }
}

impl Item {
    /// A value with the scope's defaults.
    pub fn new(value: Vec<u8>) -> Self {
        Self { value: SecretBytes::new(value), ttl: None, max_uses: None }
    }
}

impl Detokenize {
    /// In full, for this purpose.
    pub fn new(scope: &str, purpose: &str, tokens: impl IntoIterator<Item = Token>) -> Self {
        Self {
            scope: scope.to_owned(),
            tokens: tokens.into_iter().collect(),
            purpose: purpose.to_owned(),
            masked: false,
            options: Options::default(),
        }
    }
}

impl RequestId {
    fn text(self, surroundings: &dyn Surroundings) -> Result<String, Error> {
        match self {
            Self::Drawn => Ok(uuid(surroundings)?.expose().clone()),
            Self::Without => Ok(String::new()),
            Self::Given(id) => Ok(id.expose().clone()),
        }
    }
}

impl Client {
    /// Stores values and gives a token for each.
    ///
    /// # Errors
    /// If the call as a whole failed: nothing was issued, or ([`Error::Interrupted`], [`Error::Deadline`]) nobody knows.
    pub async fn tokenize(&self, call: Tokenize) -> Result<Answer<Issued>, Error> {
        let count = call.items.len();
        let Options { deadline, request_id } = call.options;
        let message = v1::TokenizeRequest {
            scope: call.scope,
            items: call.items.into_iter().map(item).collect::<Result<_, _>>()?,
            request_id: request_id.text(self.surroundings())?,
            all_or_nothing: call.all_or_nothing,
        };
        let answer = self.call(message, deadline).await?;
        self::answer(answer.results, answer.receipt, count, issued)
    }

    /// Gives values back.
    ///
    /// # Errors
    /// As [`Client::tokenize`].
    pub async fn detokenize(&self, call: Detokenize) -> Result<Answer<SecretBytes>, Error> {
        let count = call.tokens.len();
        let Options { deadline, request_id } = call.options;
        let reveal = if call.masked { v1::Reveal::Masked } else { v1::Reveal::Full };
        let message = v1::DetokenizeRequest {
            scope: call.scope,
            tokens: texts(&call.tokens),
            purpose: call.purpose,
            reveal: reveal.into(),
            request_id: request_id.text(self.surroundings())?,
            ..v1::DetokenizeRequest::default()
        };
        let answer = self.call(message, deadline).await?;
        self::answer(answer.results, answer.receipt, count, |result| match result.outcome {
            Some(v1::detokenize_result::Outcome::Value(value)) => Ok(Ok(SecretBytes::new(value))),
            Some(v1::detokenize_result::Outcome::Error(status)) => Ok(Err(Failure::of_item(&status))),
            None => Err(incomplete()),
        })
    }

    /// Asks for what is known of tokens, never for their values. It carries no request id, so it is not made again after it
    /// may have been recorded.
    ///
    /// # Errors
    /// As [`Client::tokenize`].
    pub async fn inspect(&self, call: Inspect) -> Result<Answer<Info>, Error> {
        let count = call.tokens.len() + call.handles.len();
        let message =
            v1::InspectTokensRequest { scope: call.scope, tokens: texts(&call.tokens), handles: call.handles };
        let answer = self.call(message, call.deadline).await?;
        self::answer(answer.results, answer.receipt, count, |result| match result.outcome {
            Some(v1::inspect_result::Outcome::Info(info)) => self::info(info).map(Ok),
            Some(v1::inspect_result::Outcome::Error(status)) => Ok(Err(Failure::of_item(&status))),
            None => Err(incomplete()),
        })
    }

    /// Gives tokens another lifetime, counted from now, and tells when each ends.
    ///
    /// # Errors
    /// As [`Client::tokenize`].
    pub async fn renew(&self, call: Renew) -> Result<Answer<Timestamp>, Error> {
        let count = call.tokens.len();
        let Options { deadline, request_id } = call.options;
        let message = v1::RenewTokensRequest {
            scope: call.scope,
            tokens: texts(&call.tokens),
            ttl: call.ttl.map(lifetime).transpose()?,
            request_id: request_id.text(self.surroundings())?,
        };
        let answer = self.call(message, deadline).await?;
        self::answer(answer.results, answer.receipt, count, |result| match result.outcome {
            Some(v1::renew_result::Outcome::ExpireTime(end)) => time(Some(end)).map(Ok),
            Some(v1::renew_result::Outcome::Error(status)) => Ok(Err(Failure::of_item(&status))),
            None => Err(incomplete()),
        })
    }

    /// Ends tokens, and tells since when each is: revoking again gives the first time.
    ///
    /// # Errors
    /// As [`Client::tokenize`].
    pub async fn revoke(&self, call: Revoke) -> Result<Answer<Timestamp>, Error> {
        let count = call.tokens.len() + call.handles.len();
        let Options { deadline, request_id } = call.options;
        let message = v1::RevokeTokensRequest {
            scope: call.scope,
            tokens: texts(&call.tokens),
            reason: call.reason,
            handles: call.handles,
            request_id: request_id.text(self.surroundings())?,
        };
        let answer = self.call(message, deadline).await?;
        self::answer(answer.results, answer.receipt, count, |result| match result.outcome {
            Some(v1::revoke_result::Outcome::RevokeTime(end)) => time(Some(end)).map(Ok),
            Some(v1::revoke_result::Outcome::Error(status)) => Ok(Err(Failure::of_item(&status))),
            None => Err(incomplete()),
        })
    }
}

fn answer<R, T>(
    results: Vec<R>,
    receipt: Option<v1::AuditReceipt>,
    asked: usize,
    read: impl Fn(R) -> Result<Result<T, Failure>, Error>,
) -> Result<Answer<T>, Error> {
    if results.len() != asked {
        let problem = format!("the answer has {} results for {asked} items", results.len());
        return Err(Error::malformed_answer(problem));
    }
    let receipt = receipt.ok_or_else(|| Error::malformed_answer("the answer has no receipt".to_owned()))?;
    let items = results.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(Answer { items, receipt: Receipt { log_id: receipt.log_id, sequence: receipt.sequence } })
}

fn incomplete() -> Error {
    Error::malformed_answer("a result has neither a value nor an error".to_owned())
}

fn item(item: Item) -> Result<v1::TokenizeItem, Error> {
    Ok(v1::TokenizeItem {
        value: item.value.into_exposed(),
        ttl: item.ttl.map(lifetime).transpose()?,
        max_uses: item.max_uses.map_or(0, NonZeroU32::get),
        subject: String::new(),
    })
}

fn issued(result: v1::TokenizeResult) -> Result<Result<Issued, Failure>, Error> {
    match result.outcome {
        Some(v1::tokenize_result::Outcome::Issued(issued)) => {
            let expires = time(issued.expire_time)?;
            Ok(Ok(Issued { token: Token::new(issued.token), handle: issued.handle, expires }))
        }
        Some(v1::tokenize_result::Outcome::Error(status)) => Ok(Err(Failure::of_item(&status))),
        None => Err(incomplete()),
    }
}

fn info(info: v1::TokenInfo) -> Result<Info, Error> {
    Ok(Info {
        state: info.state(),
        created: time(info.create_time)?,
        expires: time(info.expire_time)?,
        handle: info.handle,
        uses_left: info.uses_left,
        key_version: info.key_version,
    })
}

fn texts(tokens: &[Token]) -> Vec<String> {
    tokens.iter().map(|token| token.expose().clone()).collect()
}

fn lifetime(length: Duration) -> Result<prost_types::Duration, Error> {
    let too_long = |_| Error::Invalid(Failure::here("a lifetime is longer than protobuf can say".to_owned()));
    prost_types::Duration::try_from(length).map_err(too_long)
}

fn time(time: Option<prost_types::Timestamp>) -> Result<Timestamp, Error> {
    let millis = |time: prost_types::Timestamp| {
        let seconds = u64::try_from(time.seconds).ok()?.checked_mul(1_000)?;
        seconds.checked_add(u64::try_from(time.nanos).ok()? / 1_000_000)
    };
    let millis = time.and_then(millis);
    millis
        .map(Timestamp::from_millis)
        .ok_or_else(|| Error::malformed_answer("a time is missing or malformed".to_owned()))
}
