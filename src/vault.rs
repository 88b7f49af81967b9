//! The operations on tokens, each one a story that reads from top to bottom.
//!
//! ```text
//!   shape    what is wrong with the request by itself: sizes, alphabets            refused here, before policy
//!   permit   what policy says of this caller, action, scope and context            refused here, before any lookup
//!   held     what was read, opened or made: plaintext that is held, not released
//!   released what the ledger gave back once the event that names it is durable
//! ```
//!
//! If what an operation was based on changed before its commit, it runs again from its policy check, a bounded number of
//! times. Once permitted, an operation is finished and recorded even if its caller has gone; past the caller's deadline
//! only its event is written. Nothing here knows protobuf, gRPC or RocksDB.

mod attempt;
mod detokenize;
mod expiry;
mod inspect;
mod lengths;
mod purge;
mod read;
mod record;
mod renew;
pub(crate) mod requests;
mod revoke;
mod shape;
mod times;
mod timekeeping;
mod tokenize;
mod under_way;
mod uses;
mod weight;
pub mod verify;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use crate::caller::Caller;
use crate::clock::Timestamp;
use crate::crypto::DataKey;
use crate::keys::Keyring;
use crate::keys::entropy::NoEntropy;
use crate::ledger::{Ledger, Receipt, Refused};
use crate::limits::bytes::{self, Exhausted, Share};
use crate::limits::{Rate, Refusals};
use crate::policy::Policy;
use crate::secret::SecretKey;
use crate::store::{ReadError, Rows};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::time::Instant;

pub use detokenize::{DetokenizeRequest, Detokenized};
pub use inspect::{InspectRequest, Inspected, TokenInfo, TokenState};
pub use purge::{PURGED_AT_ONCE, Purged, Sweep};
pub(crate) use record::{Asked, decided};
pub use record::{HandshakeOrigin, Handshakes, VaultEvent, own_event};
pub use renew::{RenewRequest, Renewed};
pub use revoke::{RevokeRequest, Revoked};
pub use shape::{BATCH_AT_MOST, check_words};
pub use tokenize::{IssuedToken, TokenizeItem, TokenizeRequest, Tokenized};
pub use under_way::UnderWay;

/// How often an operation whose basis changed is run again before the caller is told ABORTED.
pub(crate) const ATTEMPTS: usize = 8;

/// Replies are at most 4 MiB; this much of it is left for what surrounds the items.
const REPLY_BYTES_AT_MOST: usize = 4 * 1024 * 1024 - 4096;

/// Records that one call writes anew are at most so long together: what one Tokenize makes can be renewed at once, and the queue
/// before the writer, which has at least 8 MiB, has room for it.
const REWRITTEN_BYTES_AT_MOST: usize = 5 * 1024 * 1024;

/// Tokens: issued, exchanged, looked at, taken back.
pub struct Vault {
    policy: Arc<Policy>,
    keyring: Arc<Keyring>,
    rows: Arc<dyn Rows>,
    ledger: Ledger,
    /// Held while a scope's id or key is being made, so that it is made once.
    making_keys: tokio::sync::Mutex<()>,
    uses: uses::Queues,
    lengths: lengths::Lengths,
    readers: read::Readers,
    budget: bytes::Shared,
    under_way: under_way::Count,
    refusals: Refusals<Arc<str>, record::RefusalKind>,
    /// Whether the log says that the clock has leapt.
    leapt: AtomicBool,
    /// For scopes that have no data key yet: looking for a token there must cost the same as anywhere.
    stand_in_key: Arc<DataKey>,
    /// The vault's own identity, the caller of what it does by itself.
    identity: Arc<str>,
    /// Which process of the vault this is, as events name it.
    node: Arc<str>,
}

/// Who calls, from where, until when.
#[derive(Clone)]
pub struct Call {
    /// The authenticated identity.
    pub caller: Arc<Caller>,
    /// Past this moment nobody waits for the answer.
    pub deadline: Option<Instant>,
    /// The W3C trace id of the caller's request (32 hexadecimal digits), or empty.
    pub trace_id: String,
    /// The memory that it holds.
    pub share: Arc<Share>,
}

/// Why a whole call failed. What became of single items stands in their results.
#[derive(Debug)]
pub enum Failure {
    /// Policy says no, or there is no such scope: deliberately one answer.
    Denied(Option<Receipt>),
    /// The request itself is wrong.
    Invalid(Violation, Option<Receipt>),
    /// Items are wrong, by their places, and the call wanted all or nothing.
    AllOrNothing(Vec<(usize, Reason)>, Option<Receipt>),
    /// The request id was used for another request.
    RequestIdUsed(Option<Receipt>),
    /// It asks for something that does not exist yet.
    Unimplemented(&'static str, Option<Receipt>),
    /// The log has no such event or size.
    NotInLog(Option<Receipt>),
    /// The events have been dropped because of their age.
    EventsDropped(Option<Receipt>),
    /// Too much is under way.
    Overloaded,
    /// The log can't be written, or the store not read.
    Unavailable,
    /// What the operation was based on kept changing.
    Conflict(Option<Receipt>),
    /// The caller's deadline passed before anything was released.
    DeadlineExceeded(Option<Receipt>),
    /// A fault in this program, or no randomness.
    Internal,
}

/// What is wrong with a request, in words that never repeat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, as the protobuf message names it: `items`, `purpose`.
    pub field: &'static str,
    /// The rule that is broken: part of the API.
    pub reason: Reason,
}

/// Why one item failed. Its neighbours do not mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemFailure {
    /// Unknown, expired, revoked, used up or another scope's: one answer.
    NotFound,
    /// The item itself is wrong.
    Invalid(Reason),
    /// The stored record does not open: it was changed or damaged.
    DataLoss,
}

/// The machine-readable words of errors: part of the API, listed in `docs/errors.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is explained by its message, which `description` holds")]
pub enum Reason {
    PolicyDenied,
    NotImplemented,
    ScopeMalformed,
    BatchEmpty,
    BatchTooLarge,
    PurposeRequired,
    PurposeMalformed,
    ReasonMalformed,
    RevealUnknown,
    ReplyTooLarge,
    RecordsTooLarge,
    ValueEmpty,
    ValueTooLarge,
    LifetimeNotPositive,
    LifetimeTooLong,
    SubjectUnsupported,
    AllOrNothing,
    RequestIdMalformed,
    RequestIdUsed,
    TokenMalformed,
    HandleMalformed,
    TokenNotFound,
    RecordDamaged,
    FilterMalformed,
    CursorMalformed,
    PageSizeMalformed,
    SizesReversed,
    NotInLog,
    EventsDropped,
    DeadlineExceeded,
    BasisChanged,
    Overloaded,
    Unavailable,
    Internal,
    Malformed,
    CertificateExpired,
}

// === impl Vault ===

/// What a vault is made of.
pub struct Parts {
    /// Decides.
    pub policy: Arc<Policy>,
    /// Unsealed.
    pub keyring: Keyring,
    /// Reads.
    pub rows: Arc<dyn Rows>,
    /// Writes.
    pub ledger: Ledger,
    /// The vault's own SPIFFE ID.
    pub identity: Arc<str>,
    /// This process's name in events.
    pub node: Arc<str>,
    /// Bytes that calls may hold.
    pub budget: bytes::Shared,
}

impl Vault {
    /// A vault over these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            policy: parts.policy,
            keyring: Arc::new(parts.keyring),
            rows: parts.rows,
            ledger: parts.ledger,
            making_keys: tokio::sync::Mutex::new(()),
            uses: uses::Queues::default(),
            lengths: lengths::Lengths::default(),
            readers: read::Readers::default(),
            budget: parts.budget,
            under_way: under_way::Count::default(),
            refusals: Refusals::new(Rate::OF_A_CALLER),
            leapt: AtomicBool::new(false),
            stand_in_key: Arc::new(DataKey::new(SecretKey::new([0; 32]))),
            identity: parts.identity,
            node: parts.node,
        }
    }

    /// The one writer.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The policy that decides.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// What is stored, to read.
    pub fn rows(&self) -> &Arc<dyn Rows> {
        &self.rows
    }

    /// The bytes that calls may hold.
    pub fn budget(&self) -> &bytes::Shared {
        &self.budget
    }

    /// The keys, to derive handles with.
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    fn now(&self) -> Timestamp {
        self.ledger.clock().now()
    }
}

impl Call {
    pub(crate) fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

// === impl Reason ===

impl Reason {
    /// The word in `ErrorInfo.reason` and in events.
    pub const fn as_str(self) -> &'static str {
        self.text().0
    }

    /// What is wrong and what to do, without a word of the request.
    pub const fn description(self) -> &'static str {
        self.text().1
    }

    const fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::PolicyDenied => ("POLICY_DENIED", "denied"),
            Self::NotImplemented => ("NOT_IMPLEMENTED", "not available in this version; leave it out"),
            Self::ScopeMalformed => ("SCOPE_MALFORMED", "a scope is segments of a-z, 0-9, - and _ joined by /"),
            Self::BatchEmpty => ("BATCH_EMPTY", "name at least one item"),
            Self::BatchTooLarge => ("BATCH_TOO_LARGE", "at most 1,000 items in one call; split the batch"),
            Self::PurposeRequired => ("PURPOSE_REQUIRED", "this scope wants a purpose with each detokenize"),
            Self::PurposeMalformed => (
                "PURPOSE_MALFORMED",
                "a purpose is 1 to 64 of A-Z a-z 0-9 space . _ : / - with at most eight digits, since it is logged",
            ),
            Self::ReasonMalformed => (
                "REASON_MALFORMED",
                "a reason is 1 to 64 of A-Z a-z 0-9 space . _ : / - with at most eight digits, since it is logged",
            ),
            Self::RevealUnknown => ("REVEAL_UNKNOWN", "reveal is REVEAL_FULL or REVEAL_MASKED"),
            Self::ReplyTooLarge => ("REPLY_TOO_LARGE", "the reply would exceed 4 MiB; ask for fewer items at once"),
            Self::RecordsTooLarge => {
                ("RECORDS_TOO_LARGE", "the records together are too long to be changed at once; name fewer of them")
            }
            Self::ValueEmpty => ("VALUE_EMPTY", "a value has at least one byte"),
            Self::ValueTooLarge => ("VALUE_TOO_LARGE", "the value is longer than the scope allows"),
            Self::LifetimeNotPositive => ("LIFETIME_NOT_POSITIVE", "a lifetime is at least one millisecond"),
            Self::LifetimeTooLong => ("LIFETIME_TOO_LONG", "the lifetime is above the scope's ceiling"),
            Self::SubjectUnsupported => ("SUBJECT_UNSUPPORTED", "erasure by subject does not exist yet; leave it out"),
            Self::AllOrNothing => {
                ("ALL_OR_NOTHING", "an item is wrong and the call wanted all or nothing; nothing was issued")
            }
            Self::RequestIdMalformed => ("REQUEST_ID_MALFORMED", "a request id is a UUID of version 4"),
            Self::RequestIdUsed => (
                "REQUEST_ID_USED",
                "this request id was used for another request within a day; draw a new one for each request",
            ),
            Self::TokenMalformed => ("TOKEN_MALFORMED", "not a token of this scope's format (shape or checksum)"),
            Self::HandleMalformed => ("HANDLE_MALFORMED", "a handle is 40 hexadecimal digits"),
            Self::TokenNotFound => ("TOKEN_NOT_FOUND", "not found"),
            Self::RecordDamaged => ("RECORD_DAMAGED", "the stored record was changed or damaged; tell the operator"),
            Self::FilterMalformed => ("FILTER_MALFORMED", "this part of the filter is not well-formed"),
            Self::CursorMalformed => ("CURSOR_MALFORMED", "page_token must come from the same query's last page"),
            Self::PageSizeMalformed => ("PAGE_SIZE_MALFORMED", "page_size is 0 (the default, 100) to 1,000"),
            Self::SizesReversed => ("SIZES_REVERSED", "from_size is the smaller tree's, to_size the larger one's"),
            Self::NotInLog => ("NOT_IN_LOG", "the log has no such event or size; see the newest checkpoint"),
            Self::EventsDropped => (
                "EVENTS_DROPPED",
                "these events were dropped because of their age; begin with the oldest that QueryEvents finds",
            ),
            Self::DeadlineExceeded => ("DEADLINE_EXCEEDED", "the deadline passed before the answer was durable"),
            Self::BasisChanged => ("BASIS_CHANGED", "the tokens or the rulebook kept changing meanwhile; try again"),
            Self::Overloaded => ("OVERLOADED", "too much is under way; try again later"),
            Self::Unavailable => ("UNAVAILABLE", "unavailable"),
            Self::Internal => ("INTERNAL", "internal"),
            Self::Malformed => ("MALFORMED_REQUEST", "malformed request"),
            Self::CertificateExpired => ("CERTIFICATE_EXPIRED", "unauthenticated"),
        }
    }
}

// === errors of the layers below, in the caller's terms ===

impl From<NoEntropy> for Failure {
    fn from(error: NoEntropy) -> Self {
        tracing::error!(%error, "no randomness");
        Self::Internal
    }
}

impl From<Exhausted> for Failure {
    fn from(_: Exhausted) -> Self {
        Self::Overloaded
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        tracing::error!(%error, "the store can't be read");
        Self::Unavailable
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Stale => Self::Conflict(None),
            Refused::Overloaded => Self::Overloaded,
            Refused::Unavailable => Self::Unavailable,
            Refused::Unnamed => {
                tracing::error!("an event did not name what was held. This is a fault in Cloakroom; please report it");
                Self::Internal
            }
        }
    }
}
