//! A whole vault in memory, for tests: the sample policies and scopes, callers of every kind, and one that may do
//! everything, over a [`Site`] whose disk can be held back, broken, edited and computed anew.

use super::requests::REPEATED;
use super::{
    Call, DetokenizeRequest, Detokenized, Failure, InspectRequest, Inspected, ItemFailure, Parts, Reason, RenewRequest,
    Renewed, RevokeRequest, Revoked, TokenizeItem, TokenizeRequest, Tokenized, Vault,
};
use crate::caller::{Caller, SpiffeId};
use crate::clock::Timestamp;
use crate::crypto::record::{Record, State, Unlocked};
use crate::crypto::state::{Group, Tally};
use crate::crypto::{DataKey, Handle, ScopeId};
use crate::event::{self, Action, Event, ItemOutcome, Outcome, Reveal};
use crate::keys::Keyring;
use crate::ledger::fixture::{Dump, Gate, HANG, Open, Site, waiting};
use crate::ledger::{Receipt, stored_sum};
use crate::limits::bytes;
use crate::policy::{Policy, PolicySource, Rulebook, sample};
use crate::scope::{MaskSettings, Path, Scopes, Settings};
use crate::secret::{Secret, SecretBytes};
use crate::store::{Batch, Found, MemoryStore, Order, ReadError, Row, Rows, Store, Table, Tier};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// May do everything, in every scope.
const TESTER: &str = r#"
    @id("tester-does-all") permit (principal in Cloakroom::Role::"tester", action, resource);
"#;

/// A vault that runs.
pub(crate) struct Fixture {
    pub site: Site,
    pub vault: Arc<Vault>,
    pub policy: Arc<Policy>,
    /// How many times rows were asked for.
    pub reads: Arc<AtomicU64>,
    /// The read of this number panics.
    pub panic_at: Arc<AtomicU64>,
    /// How often somebody asked which rulebook is in force: once at the beginning of each attempt, once for each commit.
    pub asked: Arc<AtomicU64>,
    /// Added to the rulebook's generation: whatever policy decides is out of date before it is written.
    pub unrest: Arc<AtomicU64>,
    open: Open,
}

/// Somebody who calls the vault.
#[derive(Clone)]
pub(crate) struct Client {
    pub vault: Arc<Vault>,
    pub call: Call,
    pub purpose: String,
    pub reveal: Reveal,
    /// Under which it makes its calls; empty for none.
    pub request_id: String,
    pub all_or_nothing: bool,
}

/// A token and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issued {
    pub token: String,
    pub handle: Handle,
    pub expires: Timestamp,
}

/// What a caller of Detokenize is shown, so that it can be compared: values, or by name what went wrong.
pub(crate) type Shown = Result<Vec<Result<Vec<u8>, ItemFailure>>, String>;

struct CountedRows {
    panic_at: Arc<AtomicU64>,
    store: Arc<MemoryStore>,
    reads: Arc<AtomicU64>,
}

// === impl Fixture ===

impl Fixture {
    pub fn new() -> Self {
        Self::over(Site::new())
    }

    /// With a gate before the store, which is open.
    pub fn gated() -> (Self, Gate) {
        let mut site = Site::new();
        let gate = site.restart_gated();
        gate.lift();
        (Self::over(site), gate)
    }

    /// A vault over what is stored.
    pub fn over(site: Site) -> Self {
        let policy = Arc::new(Policy::new(rulebook(&[])));
        let (asked, unrest, reads) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::default());
        let generation = {
            let (policy, asked, unrest) = (Arc::clone(&policy), Arc::clone(&asked), Arc::clone(&unrest));
            move || {
                asked.fetch_add(1, Ordering::SeqCst);
                policy.generation() + unrest.load(Ordering::SeqCst)
            }
        };
        let open = site.open_under(Box::new(generation)).unwrap();
        let keyring = Keyring::open(site.root(), open.vault, Arc::clone(&open.meta), &*site.store).unwrap();
        let panic_at = Arc::new(AtomicU64::new(u64::MAX));
        let rows = Arc::new(CountedRows {
            store: Arc::clone(&site.store),
            reads: Arc::clone(&reads),
            panic_at: Arc::clone(&panic_at),
        });
        let vault = Arc::new(Vault::new(Parts {
            policy: Arc::clone(&policy),
            keyring,
            rows,
            ledger: open.ledger.clone(),
            identity: "spiffe://dev.cloakroom.internal/vault".into(),
            node: "test".into(),
            budget: bytes::Shared::new(usize::MAX / 2, usize::MAX / 2),
        }));
        Self { site, vault, policy, reads, panic_at, asked, unrest, open }
    }

    /// Ends in order and starts again.
    pub fn restart(self) -> Self {
        let mut site = self.close();
        site.restart(None);
        Self::over(site)
    }

    /// Ends in order. What is left is the disk.
    pub fn close(self) -> Site {
        self.open.close();
        self.site
    }

    /// Ends, and holds the log and every row against each other.
    pub fn check(self) -> Vec<Event> {
        self.site_of_checked().check()
    }

    /// As [`Fixture::check`]. What is left is the disk.
    pub fn site_of_checked(self) -> Site {
        let vault = Arc::clone(&self.vault);
        let site = self.close();
        check_rows(&site, vault.keyring(), &site.check());
        site
    }

    pub fn client(&self, name: &str) -> Client {
        let share = Arc::new(self.vault.budget().all().nothing());
        let call = Call { caller: Arc::new(caller(name)), deadline: None, trace_id: String::new(), share };
        let (vault, purpose, request_id) = (Arc::clone(&self.vault), "test".to_owned(), String::new());
        Client { vault, call, purpose, reveal: Reveal::Full, request_id, all_or_nothing: false }
    }

    /// The one that may do everything.
    pub fn tester(&self) -> Client {
        self.client("tester")
    }

    pub fn events(&self) -> Vec<Event> {
        self.site.check()
    }

    pub fn last_event(&self) -> Event {
        let last = self.site.store.scan(Table::Events, &[], &[0xff; 9], Order::Descending, 1).unwrap();
        event::decode(&last[0].1).unwrap()
    }

    /// The event that a receipt stands for.
    pub fn event(&self, receipt: &Receipt) -> Event {
        let key = receipt.sequence().to_be_bytes();
        match &self.site.store.get(Table::Events, &[&key], Tier::Disk).unwrap()[0] {
            Found::Row(bytes) => event::decode(bytes).unwrap(),
            _ => panic!("a receipt without its event"),
        }
    }

    pub fn row(&self, handle: &Handle) -> Vec<u8> {
        match self.site.store.get(Table::Tokens, &[handle.as_bytes()], Tier::Disk).unwrap().remove(0) {
            Found::Row(row) => row,
            _ => panic!("there is no such row"),
        }
    }

    /// Writes a row behind the vault's back, while it runs.
    pub fn put(&self, handle: &Handle, row: &[u8]) {
        let mut batch = Batch::default();
        batch.put(Table::Tokens, handle.as_bytes(), row);
        self.site.store.commit(&batch).unwrap();
    }

    /// Until so many submissions wait for the writer. The tasks of this thread go on meanwhile.
    pub async fn until_waiting(&self, number: usize) {
        let started = Instant::now();
        while waiting(self.vault.ledger()) < number {
            assert!(started.elapsed() < HANG, "{number} submissions come");
            tokio::task::yield_now().await;
        }
    }

    /// A commit of no interest stands before the gate, so that whatever comes now waits behind it.
    pub async fn hold(&self, gate: &Gate) -> tokio::task::JoinHandle<()> {
        gate.shut();
        let tester = self.tester();
        let held = tokio::spawn(async move {
            // Its outcome is what the test makes of it.
            let _ = tester.vault.record_own(own(Action::Unusual, "held back")).await;
        });
        gate.come().await;
        held
    }
}

/// Something that the vault does by itself.
pub(crate) fn own(action: Action, detail: &str) -> super::VaultEvent {
    super::VaultEvent { action, scope: String::new(), detail: detail.to_owned(), changes: Batch::default() }
}

/// Every token row opens, has its expiry row, and changed exactly as often as events say. Nothing was released after it
/// was revoked. Of a purged token the events are left, and neither row.
fn check_rows(site: &Site, keyring: &Keyring, events: &[Event]) {
    let dump = site.dump();
    check_sums(&dump, keyring);
    let keys: BTreeMap<u32, Arc<DataKey>> = dump
        .keys()
        .filter(|(table, _)| *table == Table::Scopes)
        .filter_map(|(_, path)| keyring.scope(&Path::parse(std::str::from_utf8(path).unwrap()).unwrap()))
        .filter_map(|scope| Some((scope.id.0, scope.data?)))
        .collect();
    let (mut expiries, remembered) = expiries(&dump);
    let requests: BTreeSet<&[u8]> =
        dump.keys().filter(|(table, _)| *table == Table::Requests).map(|(_, name)| &name[..]).collect();
    let named: BTreeSet<&[u8]> = remembered.iter().map(Vec::as_slice).collect();
    assert!(requests == named, "a remembered request that is never purged, or none that is");
    let hashes: BTreeSet<&[u8]> = events.iter().map(|event| &event.request_hash[..]).collect();
    assert!(requests.is_subset(&hashes), "no event says of a request that it was remembered");
    let (mut tokens, stories) = (0, stories(events));
    for ((_, key), row) in dump.iter().filter(|((table, _), _)| *table == Table::Tokens) {
        let handle = Handle::try_from(&key[..]).unwrap();
        let record = Record::parse(row).unwrap();
        let header = *record.claimed_header();
        record.unlock_outer(keyring.vault(), &handle, &keys[&header.scope.0]).unwrap();
        let hour = u32::try_from(header.expires.millis() / 3_600_000).unwrap();
        assert!(expiries.remove(&(hour, key.clone())), "a token that is never purged");
        let story = &stories[key];
        let count = |wanted: &str| story.iter().filter(|chapter| *chapter == wanted).count();
        assert_eq!((count("tokenize issued"), &*story[0]), (1, "tokenize issued"), "{story:?}");
        let used = count("detokenize released") + count("detokenize masked");
        let (revoked, renewed) = (count("revoke done") > 0, count("renew done"));
        let limited = if header.uses_left.is_some() { used } else { 0 };
        // One event can use up several uses, and is one change of the row.
        assert!(header.record_version as usize <= 1 + limited + usize::from(revoked) + renewed, "{story:?}");
        assert_eq!(header.record_version > 1, limited > 0 || revoked || renewed > 0, "{story:?}");
        // A token that was renewed may still be named in the hours before.
        if renewed > 0 {
            expiries.retain(|(_, named)| named != key);
        }
        assert_eq!(header.state == State::Revoked, revoked, "{story:?}");
        let after = story.iter().skip_while(|chapter| *chapter != "revoke done");
        assert!(
            after.clone().all(|chapter| !chapter.ends_with("released") && !chapter.ends_with("masked")),
            "{story:?}"
        );
        tokens += 1;
    }
    let issued =
        |event: &Event| event.item_outcomes.iter().filter(|outcome| **outcome == ItemOutcome::Issued as i32).count();
    let issued = events.iter().filter(|event| !event.detail.ends_with(REPEATED)).map(issued).sum::<usize>();
    let purged: u32 = events.iter().filter(|event| event.action() == Action::Purge).map(|event| event.succeeded).sum();
    assert_eq!(issued, tokens + purged as usize, "a token for each that was issued and not purged");
    // One that was renewed into an earlier hour and purged there may still be named in the later one.
    expiries.retain(|(_, named)| !stories[named].iter().any(|chapter| chapter == "renew done"));
    assert!(expiries.is_empty(), "expiries without tokens");
}

/// The sum of each group, added up again from what lies there.
fn check_sums(dump: &Dump, keyring: &Keyring) {
    let key = keyring.state();
    let mut sums: BTreeMap<Vec<u8>, Tally> = BTreeMap::new();
    for ((_, handle), row) in dump.iter().filter(|((table, _), _)| *table == Table::Tokens) {
        let imprint = Record::parse(row).unwrap().imprint();
        let sum = sums.entry(Group::of(&imprint).to_bytes().to_vec()).or_default();
        *sum = sum.plus(&key.record(&Handle::try_from(&handle[..]).unwrap(), &imprint));
    }
    let stored = dump.iter().filter(|((table, _), _)| *table == Table::State);
    let stored: BTreeMap<Vec<u8>, Tally> = stored
        .map(|((_, group), row)| (group.clone(), stored_sum(key, Group::from_bytes(group).unwrap(), row).unwrap()))
        .collect();
    assert!(stored == sums, "{} sums are stored, {} are right", stored.len(), sums.len());
}

/// Hours and handles.
type Expiring = BTreeSet<(u32, Vec<u8>)>;

/// Hour and handle of all tokens that are to expire, each named once in an hour; and the names of remembered requests.
fn expiries(dump: &Dump) -> (Expiring, Vec<Vec<u8>>) {
    let (mut all, mut renewed, mut requests) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for ((_, key), rest) in dump.iter().filter(|((table, _), _)| *table == Table::Expiry) {
        let (hour, named) = key.split_at(4);
        let hour = u32::from_be_bytes(hour.try_into().unwrap());
        match (named.len(), rest.len()) {
            (20, rest_bytes) if rest_bytes % 20 == 0 => {
                for handle in [named].into_iter().chain(rest.chunks(20)) {
                    assert!(all.insert((hour, handle.to_vec())), "named twice");
                }
            }
            // Renewed: maybe once more in an hour that it had left.
            (24, 0) => _ = renewed.insert((hour, named[..20].to_vec())),
            (32, 0) => requests.push(named.to_vec()),
            other => panic!("a row of expiry of {other:?} bytes"),
        }
    }
    all.append(&mut renewed);
    (all, requests)
}

/// What the log says of each token, in order: `detokenize released`, once for each item.
fn stories(events: &[Event]) -> HashMap<Vec<u8>, Vec<String>> {
    let mut stories: HashMap<Vec<u8>, Vec<String>> = HashMap::new();
    for event in events {
        for (place, handle) in event.handles.iter().enumerate() {
            let outcome = event.item_outcomes.get(place).copied().unwrap_or_default();
            let outcome = ItemOutcome::try_from(outcome).unwrap().word();
            let again = if event.detail.ends_with(REPEATED) { "again " } else { "" };
            let chapter = format!("{again}{} {outcome}", event.action().word());
            stories.entry(handle.to_vec()).or_default().push(chapter);
        }
    }
    stories
}

pub(crate) fn caller(name: &str) -> Caller {
    Caller {
        id: SpiffeId::parse(&format!("spiffe://dev.cloakroom.internal/{name}")).unwrap(),
        certificate_sha256: [7; 32],
        not_after: Timestamp::from_millis(4_000_000_000_000),
        peer: "127.0.0.1:54321".to_owned(),
    }
}

/// The sample's scopes and policies without the files named in `without`, and the tester's.
pub(crate) fn rulebook(without: &[&str]) -> Rulebook {
    rulebook_with(&[], without)
}

/// As [`rulebook`], with these scopes more.
pub(crate) fn rulebook_with(more: &[(&str, Settings)], without: &[&str]) -> Rulebook {
    let scope = |prefix: &str, first, last| Settings {
        prefix: Some(prefix.to_owned()),
        mask: Some(MaskSettings { keep_first: first, keep_last: last }),
        ..Settings::default()
    };
    let free = Settings { purpose_required: Some(false), max_value_bytes: Some(1 << 20), ..scope("free", 0, 0) };
    let mut scopes = BTreeMap::from([
        ("pan".to_owned(), scope("pan", 6, 4)),
        ("ssn".to_owned(), scope("ssn", 0, 4)),
        ("email".to_owned(), scope("email", 2, 0)),
        ("free".to_owned(), free),
        ("*/note".to_owned(), scope("note", 0, 0)),
    ]);
    scopes.extend(more.iter().map(|(path, settings)| ((*path).to_owned(), settings.clone())));
    let role = |name: &str| (name.to_owned(), vec![format!("spiffe://dev.cloakroom.internal/{name}")]);
    let roles = ["gateway", "payments", "auditor", "operator", "tester"].map(role).into();
    let files = sample::FILES.iter().copied().chain([("tester.cedar", TESTER)]);
    let kept = files.filter(|(file, _)| !without.contains(file));
    let policies = kept.map(|(file, text)| PolicySource { file: file.to_owned(), text: text.to_owned() }).collect();
    let domains = ["dev.cloakroom.internal".to_owned()];
    Rulebook::load(Scopes::load(&scopes).unwrap(), &roles, policies, &domains).unwrap()
}

// === impl Client ===

impl Client {
    /// The same caller, whose deadline has passed.
    pub fn late(&self) -> Self {
        let deadline = Some(tokio::time::Instant::now());
        Self { call: Call { deadline, ..self.call.clone() }, ..self.clone() }
    }

    /// The same caller, who gives another purpose.
    pub fn purpose(&self, purpose: &str) -> Self {
        Self { purpose: purpose.to_owned(), ..self.clone() }
    }

    /// The same caller, who asks for masked values.
    pub fn masked(&self) -> Self {
        Self { reveal: Reveal::Masked, ..self.clone() }
    }

    /// The same caller, who makes its calls under a request id: the one of this number.
    pub fn request(&self, number: u8) -> Self {
        Self { request_id: format!("00000000-0000-4000-8000-0000000000{number:02x}"), ..self.clone() }
    }

    /// The same caller, who wants all or nothing.
    pub fn all_or_nothing(&self) -> Self {
        Self { all_or_nothing: true, ..self.clone() }
    }

    pub async fn tokenize(&self, scope: &str, items: Vec<TokenizeItem>) -> Result<Tokenized, Failure> {
        let request = TokenizeRequest {
            scope: scope.to_owned(),
            items,
            all_or_nothing: self.all_or_nothing,
            request_id: Secret::new(self.request_id.clone()),
            unsupported: None,
        };
        self.vault.tokenize(&self.call, &request).await
    }

    /// Issues one token for each item, none of which may fail.
    pub async fn issue_all(&self, scope: &str, items: Vec<TokenizeItem>) -> Vec<Issued> {
        let done = self.tokenize(scope, items).await.unwrap_or_else(|failure| panic!("{failure:?}"));
        let issued = |result: Result<super::IssuedToken, ItemFailure>| {
            let issued = result.unwrap_or_else(|failure| panic!("{failure:?}"));
            Issued { handle: issued.handle, expires: issued.expires, token: issued.token.into_exposed() }
        };
        done.results.into_iter().map(issued).collect()
    }

    pub async fn issue(&self, scope: &str, item: TokenizeItem) -> Issued {
        self.issue_all(scope, vec![item]).await.remove(0)
    }

    pub async fn detokenize(&self, scope: &str, tokens: &[&str]) -> Result<Detokenized, Failure> {
        let request = DetokenizeRequest {
            scope: scope.to_owned(),
            tokens: secrets(tokens),
            purpose: self.purpose.clone(),
            reveal: Some(self.reveal),
            request_id: Secret::new(self.request_id.clone()),
            unsupported: None,
        };
        self.vault.detokenize(&self.call, &request).await
    }

    /// As [`Client::detokenize`], for comparing.
    pub async fn show(&self, scope: &str, tokens: &[&str]) -> Shown {
        let done = self.detokenize(scope, tokens).await.map_err(|failure| name(&failure))?;
        Ok(done.results.into_iter().map(|result| result.map(SecretBytes::into_exposed)).collect())
    }

    pub async fn inspect(&self, scope: &str, tokens: &[&str], handles: &[String]) -> Result<Inspected, Failure> {
        let request = InspectRequest { scope: scope.to_owned(), tokens: secrets(tokens), handles: handles.to_vec() };
        self.vault.inspect(&self.call, request).await
    }

    pub async fn revoke(&self, scope: &str, tokens: &[&str], handles: &[String]) -> Result<Revoked, Failure> {
        let request = RevokeRequest {
            scope: scope.to_owned(),
            tokens: secrets(tokens),
            handles: handles.to_vec(),
            reason: "lost".to_owned(),
            request_id: Secret::new(self.request_id.clone()),
        };
        self.vault.revoke(&self.call, request).await
    }

    pub async fn renew(&self, scope: &str, tokens: &[&str], ttl: Option<Duration>) -> Result<Renewed, Failure> {
        let request = RenewRequest {
            scope: scope.to_owned(),
            tokens: secrets(tokens),
            ttl: ttl.map(Ok),
            request_id: Secret::new(self.request_id.clone()),
        };
        self.vault.renew(&self.call, request).await
    }
}

fn secrets(tokens: &[&str]) -> Vec<Secret<String>> {
    tokens.iter().map(|token| Secret::new((*token).to_owned())).collect()
}

/// A value without wishes.
pub(crate) fn item(value: &[u8]) -> TokenizeItem {
    TokenizeItem { value: SecretBytes::new(value.to_vec()), ttl: None, max_uses: 0, has_subject: false }
}

/// A value that may be released so many times.
pub(crate) fn limited(value: &[u8], max_uses: u32) -> TokenizeItem {
    TokenizeItem { max_uses, ..item(value) }
}

/// A value for so long.
pub(crate) fn lasting(value: &[u8], ttl: Duration) -> TokenizeItem {
    TokenizeItem { ttl: Some(Ok(ttl)), ..item(value) }
}

/// What failed, in words that can be compared.
pub(crate) fn name(failure: &Failure) -> String {
    match failure {
        Failure::Denied(_) => "denied".to_owned(),
        Failure::Invalid(violation, _) => format!("{} {}", violation.field, violation.reason.as_str()),
        Failure::AllOrNothing(wrong, _) => {
            let wrong = wrong.iter().map(|(place, reason)| format!(" {place} {}", reason.as_str()));
            format!("all or nothing:{}", wrong.collect::<String>())
        }
        Failure::RequestIdUsed(_) => "request id used".to_owned(),
        Failure::Unimplemented(what, _) => format!("{what} {}", Reason::NotImplemented.as_str()),
        Failure::NotInLog(_) => "not in log".to_owned(),
        Failure::EventsDropped(_) => "events dropped".to_owned(),
        Failure::Overloaded => "overloaded".to_owned(),
        Failure::Unavailable => "unavailable".to_owned(),
        Failure::Conflict(_) => "conflict".to_owned(),
        Failure::DeadlineExceeded(_) => "late".to_owned(),
        Failure::Internal => "internal".to_owned(),
    }
}

/// Where the event of a refusal stands.
pub(crate) fn receipt(failure: &Failure) -> Option<&Receipt> {
    match failure {
        Failure::Denied(receipt)
        | Failure::Invalid(_, receipt)
        | Failure::AllOrNothing(_, receipt)
        | Failure::RequestIdUsed(receipt)
        | Failure::Unimplemented(_, receipt)
        | Failure::NotInLog(receipt)
        | Failure::EventsDropped(receipt)
        | Failure::Conflict(receipt)
        | Failure::DeadlineExceeded(receipt) => receipt.as_ref(),
        Failure::Overloaded | Failure::Unavailable | Failure::Internal => None,
    }
}

/// The outcomes of an event's items.
pub(crate) fn outcomes(event: &Event) -> Vec<ItemOutcome> {
    event.item_outcomes.iter().map(|outcome| ItemOutcome::try_from(*outcome).unwrap()).collect()
}

/// Action, outcome and reason of an event, in words.
pub(crate) fn words(event: &Event) -> String {
    let outcome = Outcome::try_from(event.outcome).unwrap().word();
    format!("{} {outcome} {}", event.action().word(), event.reason).trim_end().to_owned()
}

/// A record's outer lock opened with the scope's key, as an editor with all keys could.
pub(crate) fn unlock(vault: &Vault, scope: &str, handle: &Handle, row: &[u8]) -> (ScopeId, Arc<DataKey>, Unlocked) {
    let keys = vault.keyring().scope(&Path::parse(scope).unwrap()).unwrap();
    let key = keys.data.unwrap();
    let unlocked = Record::parse(row).unwrap().unlock_outer(vault.keyring().vault(), handle, &key).unwrap();
    (keys.id, key, unlocked)
}

impl CountedRows {
    fn note(&self) {
        let number = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(number != self.panic_at.load(Ordering::SeqCst), "read {number} fails as the test wants it");
    }
}

impl Rows for CountedRows {
    fn get(&self, table: Table, keys: &[&[u8]], tier: Tier) -> Result<Vec<Found>, ReadError> {
        self.note();
        self.store.get(table, keys, tier)
    }

    fn get_within(&self, table: Table, keys: &[&[u8]], tier: Tier, bytes: usize) -> Result<Vec<Found>, ReadError> {
        self.note();
        self.store.get_within(table, keys, tier, bytes)
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], order: Order, limit: usize) -> Result<Vec<Row>, ReadError> {
        self.note();
        self.store.scan(table, start, end, order, limit)
    }
}
