//! What clients were told, and whether a vault keeps to it.
//!
//! [`run`] has many callers ask a vault at the same time and writes down every answer: those are [`Promises`].
//! [`Promises::check`] asks a vault that was started again on what a fault left behind for all of it. A call without an
//! answer may or may not have happened; every check allows for both, and for nothing else.

mod load;

pub use load::{Ready, Run, run};

use crate::harness::{self, Client, Home, Server};
use cloakroom::clock::SystemClock;
use cloakroom::proto::v1::{self, Action, ItemOutcome};
use load::{SCOPE, detokenize};
use prost::Message;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::Code;

/// When something was answered, on a scale that the test chooses. Whoever cuts at a moment wants all that came before.
pub type Stamp = u64;

/// Tokens in one question of a check.
const CHUNK: usize = 500;
/// Bytes of values in its answer: a message has 4 MiB at the most.
const ANSWER_BYTES: usize = 3 << 20;
/// Calls of a check at the same time.
const AT_ONCE: usize = 64;

/// Everything that was answered.
#[derive(Default)]
pub struct Promises {
    issued: Vec<Issued>,
    claims: Vec<Claim>,
    /// Events that an auditor was shown.
    seen: Vec<Seen>,
    /// Checkpoints that an auditor was given.
    notes: Vec<(Stamp, String)>,
    /// Calls under a request id that were answered.
    once: Vec<Once>,
    /// Those that were not.
    pending: Vec<Pending>,
    /// Tokens that were asked for, whether or not there was an answer.
    may_be_issued: usize,
    /// Calls that were answered.
    pub calls: u64,
}

/// A token that somebody holds.
struct Issued {
    token: String,
    handle: String,
    value: Vec<u8>,
    uses: Option<Uses>,
    end: End,
    /// Nanoseconds since 1970, as it was issued.
    expires: u128,
    /// Whether that may come while the test runs.
    brief: bool,
    /// When another lifetime was answered, and which; none where there is no answer.
    renewals: Vec<Option<(Stamp, u128)>>,
    stamp: Stamp,
}

/// What an auditor was shown.
struct Seen {
    sequence: u64,
    digest: [u8; 32],
    stamp: Stamp,
}

/// A call to Tokenize under a request id, and the first of the tokens that it got, by its place.
struct Once {
    request: v1::TokenizeRequest,
    first: usize,
    stamp: Stamp,
}

/// One that may have happened.
struct Pending {
    request: v1::TokenizeRequest,
}

/// A limit on uses, and what became of it.
struct Uses {
    at_most: u32,
    released: Vec<Stamp>,
    /// When it was first said that none is left.
    used_up: Option<Stamp>,
    /// Calls without an answer: each may have used one up.
    unanswered: u32,
}

/// Whether the token was revoked.
enum End {
    None,
    /// It was asked for, and there is no answer.
    Perhaps,
    Revoked(Stamp),
}

/// An answer says that this is in the log: the event, and in it, at `place`, the handle with this outcome.
struct Claim {
    log_id: String,
    sequence: u64,
    place: usize,
    action: Action,
    handle: String,
    outcome: ItemOutcome,
    stamp: Stamp,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Findings {
    /// In words, each promise that is broken.
    pub broken: Vec<String>,
    /// Values that came back, byte for byte.
    pub values: usize,
    /// Tokens whose uses left were as they must be.
    pub limited: usize,
    /// Revocations that held.
    pub revoked: usize,
    /// Releases, in answers, that have their event.
    pub released: usize,
    /// Events in the log, without a gap.
    pub events: usize,
    /// Tokens that were gone because their time was over.
    pub expired: usize,
    /// Lifetimes that are the ones answered.
    pub renewed: usize,
    /// Events that are still as an auditor was shown them.
    pub shown: usize,
    /// Calls that got the same tokens again under the same request id.
    pub repeated: usize,
    /// Tokens that the log says were issued.
    pub issued: usize,
    /// How long the vault took to be ready on what was left.
    pub started_in: Duration,
}

impl std::fmt::Display for Findings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { values, limited, revoked, released, events, expired, renewed, shown, repeated, .. } = self;
        write!(
            formatter,
            "{values} values, {revoked} revocations, {limited} limits of uses, {expired} ends, {renewed} renewals, {repeated} \
             tokens asked for again and {released} releases were there; {events} events without a gap, {shown} of them as \
             they had been shown"
        )
    }
}

/// A random number generator (SplitMix64) whose sequence is known from its seed.
pub struct Dice(pub u64);

/// How many callers there are, and when they are to stop.
pub struct Plan {
    pub seed: u64,
    pub callers: usize,
    /// After so many answers `end` is called for.
    pub calls: u64,
    /// Read at each answer.
    pub stamp: Box<dyn Fn() -> Stamp + Send + Sync>,
}

// === impl Promises ===

impl Promises {
    pub fn add(&mut self, mut more: Self) {
        for once in &mut more.once {
            once.first += self.issued.len();
        }
        self.issued.extend(more.issued);
        self.claims.extend(more.claims);
        self.seen.extend(more.seen);
        self.notes.extend(more.notes);
        self.once.extend(more.once);
        self.pending.extend(more.pending);
        self.may_be_issued += more.may_be_issued;
        self.calls += more.calls;
    }

    /// Values that somebody holds a token for.
    pub fn values(&self) -> usize {
        self.issued.len()
    }

    /// What was put in, and what was given for it.
    pub fn secrets(&self) -> impl Iterator<Item = (&str, &[u8], &str)> {
        self.issued.iter().map(|issued| (issued.handle.as_str(), issued.value.as_slice(), issued.token.as_str()))
    }

    /// The checkpoints that were given out up to `cut`.
    pub fn notes(&self, cut: Stamp) -> impl Iterator<Item = &str> {
        self.notes.iter().filter(move |(stamp, _)| *stamp <= cut).map(|(_, note)| note.as_str())
    }

    /// When something was answered, from the first time on.
    pub fn answers(&self) -> Vec<Stamp> {
        let claims = self.claims.iter().map(|claim| claim.stamp);
        let answers: BTreeSet<Stamp> = claims.chain(self.notes.iter().map(|(stamp, _)| *stamp)).collect();
        answers.into_iter().collect()
    }

    /// When a checkpoint was given out.
    pub fn times_of_notes(&self) -> Vec<Stamp> {
        self.notes.iter().map(|(stamp, _)| *stamp).collect()
    }

    /// More tokens than this can't have been issued, if nobody else asked.
    pub fn may_be_issued(&self) -> usize {
        self.may_be_issued
    }

    /// Makes the calls again that had a request id and no answer. Whether or not each of them had happened, from now on it
    /// has happened, once. How many there were.
    pub async fn settle(&mut self, home: &Home, server: &Server) -> usize {
        let pending = std::mem::take(&mut self.pending);
        let gateway = server.client(&home.identity("gateway")).await;
        for Pending { request } in &pending {
            let answer = gateway.tokens().tokenize(request.clone()).await.unwrap().into_inner();
            let first = self.issued.len();
            self.keep_issued(request.items.clone(), answer, Stamp::MAX);
            self.once.push(Once { request: request.clone(), first, stamp: Stamp::MAX });
        }
        pending.len()
    }

    fn keep_issued(&mut self, items: Vec<v1::TokenizeItem>, answer: v1::TokenizeResponse, stamp: Stamp) {
        let receipt = answer.receipt.expect("an answer has a receipt");
        assert_eq!(answer.results.len(), items.len());
        for ((place, result), item) in answer.results.into_iter().enumerate().zip(items) {
            let v1::IssuedToken { token, handle, expire_time } = harness::issued(result).expect("each value is good");
            let limit = Uses { at_most: item.max_uses, released: Vec::new(), used_up: None, unanswered: 0 };
            self.claim(&receipt, place, Action::Tokenize, ItemOutcome::Issued, &handle, stamp);
            self.issued.push(Issued {
                token,
                handle,
                value: item.value,
                uses: (item.max_uses > 0).then_some(limit),
                end: End::None,
                expires: nanos(&expire_time.expect("a token has an end")),
                brief: item.ttl.is_some(),
                renewals: Vec::new(),
                stamp,
            });
        }
    }

    /// The answer to a call that had been answered before: the same tokens, from `first` on.
    fn keep_repeated(&mut self, answer: v1::TokenizeResponse, first: usize, stamp: Stamp) {
        let receipt = answer.receipt.expect("an answer has a receipt");
        for (place, result) in answer.results.into_iter().enumerate() {
            let token = harness::issued(result).expect("it was issued before").token;
            let issued = &self.issued[first + place];
            assert!(token == issued.token, "another token under the same request id");
            let handle = issued.handle.clone();
            self.claim(&receipt, place, Action::Tokenize, ItemOutcome::Issued, &handle, stamp);
        }
    }

    fn claim(
        &mut self,
        receipt: &v1::AuditReceipt,
        place: usize,
        action: Action,
        outcome: ItemOutcome,
        handle: &str,
        stamp: Stamp,
    ) {
        let (log_id, sequence) = (receipt.log_id.clone(), receipt.sequence);
        self.claims.push(Claim { log_id, sequence, place, action, handle: handle.to_owned(), outcome, stamp });
    }

    /// Asks the vault for everything that was answered up to `cut`.
    pub async fn check(&self, home: &Home, server: &Server, cut: Stamp) -> Findings {
        let mut findings = Findings::default();
        let operator = server.client(&home.identity("operator")).await;
        self.check_values(&server.client(&home.identity("payments")).await, cut, &mut findings).await;
        self.check_uses(&operator, cut, &mut findings).await;
        self.check_renewals(&operator, cut, &mut findings).await;
        self.check_repetitions(&server.client(&home.identity("gateway")).await, cut, &mut findings).await;
        let events = server.client(&home.identity("auditor")).await.events(v1::AuditFilter::default()).await;
        self.check_log(&events, cut, &mut findings);
        findings
    }

    async fn check_values(&self, payments: &Client, cut: Stamp, findings: &mut Findings) {
        let kept = |issued: &&Issued| issued.uses.is_none() && issued.stamp <= cut;
        let kept: Vec<&Issued> = self.issued.iter().filter(kept).collect();
        for chunk in chunks(&kept) {
            let tokens = chunk.iter().map(|issued| issued.token.clone()).collect();
            let asked_at = now();
            let answer = payments.tokens().detokenize(detokenize(tokens)).await.unwrap().into_inner();
            let answered_at = now();
            assert_eq!(answer.results.len(), chunk.len());
            for (issued, result) in chunk.iter().zip(answer.results) {
                let value = harness::value(result).map_err(|error| error.code);
                let right = value.as_ref() == Ok(&issued.value);
                let gone = value == Err(Code::NotFound);
                match issued.end {
                    _ if issued.expires <= asked_at && gone => findings.expired += 1,
                    // It ended before, and lives again; or its end came while it was asked for.
                    _ if issued.expires <= asked_at => findings.broken.push(issued.answered(value)),
                    _ if issued.expires <= answered_at && (right || gone) => {}
                    End::None if right => findings.values += 1,
                    End::Revoked(stamp) if stamp <= cut && gone => findings.revoked += 1,
                    End::Revoked(stamp) if stamp > cut && (right || gone) => {}
                    End::Perhaps if right || gone => {}
                    _ => findings.broken.push(issued.answered(value)),
                }
            }
        }
    }

    /// The last lifetime that was answered holds, or a later one.
    async fn check_renewals(&self, operator: &Client, cut: Stamp, findings: &mut Findings) {
        let kept = |issued: &&Issued| !issued.renewals.is_empty() && issued.stamp <= cut;
        let kept: Vec<&Issued> = self.issued.iter().filter(kept).collect();
        for chunk in kept.chunks(CHUNK) {
            let handles = chunk.iter().map(|issued| issued.handle.clone()).collect();
            let request = v1::InspectTokensRequest { scope: SCOPE.to_owned(), handles, ..Default::default() };
            let answer = operator.tokens().inspect_tokens(request).await.unwrap().into_inner();
            for (issued, result) in chunk.iter().zip(answer.results) {
                let until = harness::info(result).ok().and_then(|info| info.expire_time).map(|time| nanos(&time));
                match until {
                    Some(until) if issued.may_last(until, cut) => findings.renewed += 1,
                    until => findings.broken.push(format!("{} lasts until {until:?}", issued.handle)),
                }
            }
        }
    }

    /// The same call under the same request id gets the same tokens.
    async fn check_repetitions(&self, gateway: &Client, cut: Stamp, findings: &mut Findings) {
        let kept: Vec<&Once> = self.once.iter().filter(|once| once.stamp <= cut).collect();
        for chunk in kept.chunks(AT_ONCE) {
            let ask = |(place, once): (usize, &&Once)| {
                let (mut client, request) = (gateway.tokens(), once.request.clone());
                async move { (place, client.tokenize(request).await.unwrap().into_inner()) }
            };
            let answers: JoinSet<_> = chunk.iter().enumerate().map(ask).collect();
            for (place, answer) in answers.join_all().await {
                let issued = &self.issued[chunk[place].first..];
                for (issued, result) in issued.iter().zip(answer.results) {
                    match harness::issued(result) {
                        Ok(again) if again.token == issued.token => findings.repeated += 1,
                        _ => findings.broken.push(format!("{} is not what its request id gives again", issued.handle)),
                    }
                }
            }
        }
    }

    async fn check_uses(&self, operator: &Client, cut: Stamp, findings: &mut Findings) {
        let kept = |issued: &&Issued| issued.uses.is_some() && issued.stamp <= cut;
        let kept: Vec<&Issued> = self.issued.iter().filter(kept).collect();
        for chunk in kept.chunks(CHUNK) {
            let handles = chunk.iter().map(|issued| issued.handle.clone()).collect();
            let request = v1::InspectTokensRequest { scope: SCOPE.to_owned(), handles, ..Default::default() };
            let answer = operator.tokens().inspect_tokens(request).await.unwrap().into_inner();
            assert_eq!(answer.results.len(), chunk.len());
            for (issued, result) in chunk.iter().zip(answer.results) {
                let left = harness::info(result).map(|info| info.uses_left);
                let range = issued.uses.as_ref().unwrap().left(cut);
                match left {
                    Ok(Some(left)) if range.contains(&left) => findings.limited += 1,
                    left => findings.broken.push(format!("{} has uses left: {left:?}, not {range:?}", issued.handle)),
                }
            }
        }
    }

    fn check_log(&self, events: &[v1::AuditEvent], cut: Stamp, findings: &mut Findings) {
        findings.events = events.len();
        for (place, event) in events.iter().enumerate() {
            if event.sequence != place as u64 {
                findings.broken.push(format!("event {} stands in place {place} of the log", event.sequence));
                return;
            }
        }
        for claim in self.claims.iter().filter(|claim| claim.stamp <= cut) {
            match claim.broken(events) {
                None if claim.outcome == ItemOutcome::Released => findings.released += 1,
                None => {}
                Some(why) => findings.broken.push(format!("the {:?} of {}: {why}", claim.action, claim.handle)),
            }
        }
        for seen in self.seen.iter().filter(|seen| seen.stamp <= cut) {
            let event = usize::try_from(seen.sequence).ok().and_then(|place| events.get(place));
            if event.is_some_and(|event| Seen::new(event, 0).digest == seen.digest) {
                findings.shown += 1;
            } else {
                findings.broken.push(format!("event {} is not what an auditor was shown", seen.sequence));
            }
        }
        let mut releases: HashMap<String, usize> = HashMap::new();
        let mut first_times = HashSet::new();
        for event in events {
            let first_time = event.outcome() == v1::Outcome::Allowed && !event.detail.ends_with("repeated");
            if first_time && !event.request_hash.is_empty() && !first_times.insert(&event.request_hash) {
                findings.broken.push(format!("event {} does again what was done under its request id", event.sequence));
            }
            for (handle, outcome) in event.handles.iter().zip(event.item_outcomes()) {
                if outcome == ItemOutcome::Released {
                    *releases.entry(hex::encode(handle)).or_default() += 1;
                }
                findings.issued += usize::from(first_time && outcome == ItemOutcome::Issued);
            }
        }
        for issued in &self.issued {
            let released = releases.get(&issued.handle).copied().unwrap_or(0);
            if issued.uses.as_ref().is_some_and(|uses| released > uses.at_most as usize) {
                findings.broken.push(format!("{} was released {released} times", issued.handle));
            }
        }
    }

    /// As [`Promises::check`] once [`Promises::use_up`] has used up what was left.
    pub async fn check_after_use(&self, home: &Home, server: &Server) -> Findings {
        let mut findings = Findings::default();
        self.check_values(&server.client(&home.identity("payments")).await, Stamp::MAX, &mut findings).await;
        let events = server.client(&home.identity("auditor")).await.events(v1::AuditFilter::default()).await;
        self.check_log(&events, Stamp::MAX, &mut findings);
        findings
    }

    /// Uses up every token that has a limit, and says which gave more or fewer values than it must.
    pub async fn use_up(&self, home: &Home, server: &Server) -> Vec<String> {
        let mut broken = Vec::new();
        let payments = server.client(&home.identity("payments")).await;
        let mut released: HashMap<&str, u32> = HashMap::new();
        let limited: Vec<&Issued> = self.issued.iter().filter(|issued| issued.uses.is_some()).collect();
        let most = limited.iter().filter_map(|issued| Some(issued.uses.as_ref()?.at_most)).max().unwrap_or(0);
        for _ in 0..=most {
            for chunk in limited.chunks(CHUNK) {
                let tokens = chunk.iter().map(|issued| issued.token.clone()).collect();
                let answer = payments.tokens().detokenize(detokenize(tokens)).await.unwrap().into_inner();
                for (issued, result) in chunk.iter().zip(answer.results) {
                    match harness::value(result) {
                        Ok(value) if value == issued.value => *released.entry(&issued.handle).or_default() += 1,
                        Err(error) if error.code == Code::NotFound => {}
                        other => broken.push(format!("{}: {:?}", issued.handle, other.map(|_| "another value"))),
                    }
                }
            }
        }
        for issued in limited {
            let range = issued.uses.as_ref().unwrap().left(Stamp::MAX);
            let got = released.get(issued.handle.as_str()).copied().unwrap_or(0);
            if !range.contains(&got) {
                broken.push(format!("{} had {got} uses left, not {range:?}", issued.handle));
            }
        }
        broken
    }
}

impl Issued {
    /// Lives for long, and can be used as often as one likes.
    fn is_plain(&self) -> bool {
        self.uses.is_none() && !self.brief && matches!(self.end, End::None)
    }

    /// What is wrong about an answer, without saying it.
    fn answered(&self, value: Result<Vec<u8>, Code>) -> String {
        format!("{} answered {:?}", self.handle, value.map(|_| "a value"))
    }

    /// Whether it may be that this is its end, if everything up to `cut` happened, and anything else may have.
    fn may_last(&self, until: u128, cut: Stamp) -> bool {
        let mut ends = vec![self.expires];
        let mut unknown = false;
        for renewal in &self.renewals {
            match renewal {
                Some((stamp, end)) if *stamp <= cut => ends = vec![*end],
                Some((_, end)) => ends.push(*end),
                None => unknown = true,
            }
        }
        // Lifetimes are random: one without an answer may be shorter or longer.
        unknown || ends.contains(&until)
    }
}

impl Seen {
    fn new(event: &v1::AuditEvent, stamp: Stamp) -> Self {
        Self { sequence: event.sequence, digest: Sha256::digest(event.encode_to_vec()).into(), stamp }
    }
}

/// What fits in one question and its answer.
fn chunks<'i>(issued: &[&'i Issued]) -> Vec<Vec<&'i Issued>> {
    let (mut chunks, mut bytes) = (vec![Vec::new()], 0);
    for issued in issued {
        if chunks.last().is_some_and(|chunk| chunk.len() == CHUNK) || bytes + issued.value.len() > ANSWER_BYTES {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += issued.value.len();
        chunks.last_mut().expect("there is one").push(*issued);
    }
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

/// Nanoseconds since 1970.
fn nanos(time: &prost_types::Timestamp) -> u128 {
    u128::try_from(time.seconds).unwrap() * 1_000_000_000 + u128::try_from(time.nanos).unwrap()
}

/// Now, to the millisecond, as the vault's clock has it.
fn now() -> u128 {
    u128::from(SystemClock::shared().wall().millis()) * 1_000_000
}

impl Uses {
    /// How many may be left if everything up to `cut` happened, and anything else may have.
    fn left(&self, cut: Stamp) -> std::ops::RangeInclusive<u32> {
        let certain = u32::try_from(self.released.iter().filter(|stamp| **stamp <= cut).count()).unwrap();
        let perhaps = u32::try_from(self.released.len()).unwrap() - certain + self.unanswered;
        let most = if self.used_up.is_some_and(|stamp| stamp <= cut) { 0 } else { self.at_most - certain };
        most.saturating_sub(perhaps)..=most
    }
}

impl Claim {
    /// Why the log does not bear it out.
    fn broken(&self, events: &[v1::AuditEvent]) -> Option<String> {
        let place = usize::try_from(self.sequence).unwrap();
        let Some(event) = events.get(place) else { return Some(format!("event {} is not there", self.sequence)) };
        let named = event.handles.get(self.place).map(hex::encode);
        let outcome = event.item_outcomes().nth(self.place);
        let right = event.log_id == self.log_id
            && event.action() == self.action
            && named.as_ref() == Some(&self.handle)
            && outcome == Some(self.outcome);
        let what = format!("event {} says {:?} {named:?} {outcome:?}", self.sequence, event.action());
        (!right).then_some(what)
    }
}

// === impl Dice ===

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A UUID of version 4.
    pub fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        let (time, middle, version) = (high >> 32, (high >> 16) & 0xffff, high & 0xfff);
        let (variant, node) = ((low >> 48) & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
        format!("{time:08x}-{middle:04x}-4{version:03x}-{variant:04x}-{node:012x}")
    }

    /// The seed in the environment variable `SEED`, so that a run can be done again, or one that no run has had. It is printed.
    pub fn seed() -> u64 {
        let drawn = || getrandom::u64().unwrap();
        let seed = std::env::var("SEED").map_or_else(|_| drawn(), |seed| seed.parse().expect("SEED is a number"));
        println!("SEED={seed}");
        seed
    }
}

// === what the checks can see ===

/// Breaks one promise of each kind. The words that each must be found by.
fn spoil(promises: &mut Promises) -> [&'static str; 8] {
    let plain: Vec<usize> = (0..promises.issued.len()).filter(|place| promises.issued[*place].is_plain()).collect();
    let [value, ended, revoked, renewed] = [0, 1, 2, 3].map(|place| plain[place]);
    promises.issued[value].value[0] ^= 1;
    promises.issued[ended].expires = 1;
    promises.issued[revoked].end = End::Revoked(0);
    promises.issued[renewed].renewals = vec![Some((0, 1))];
    let found =
        [value, ended, revoked].map(|place| format!("{} answered Ok(\"a value\")", promises.issued[place].handle));
    let [value, ended, revoked] = found.map(|words| &*words.leak());

    let unused = |issued: &&mut Issued| issued.uses.as_ref().is_some_and(|uses| uses.left(Stamp::MAX) == (2..=2));
    let used_up = promises.issued.iter_mut().find(unused).expect("one was not used yet");
    used_up.uses.as_mut().unwrap().used_up = Some(0);
    promises.seen[0].digest[0] ^= 1;
    promises.claims[0].outcome = ItemOutcome::Corrupt;
    promises.once[0].first = renewed;
    [
        value,
        ended,
        revoked,
        "lasts until",
        "has uses left: Ok(Some(2)), not 0..=0",
        "is not what an auditor was shown",
        ": event ",
        "is not what its request id gives again",
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_promise_of_each_kind_is_found_s_01() {
    let home = Home::init();
    let server = home.serve();
    let plan = Plan { seed: Dice::seed(), callers: 16, calls: 600, stamp: Box::new(|| 0) };
    let mut promises = run(&home, &server, plan, || {}).await.promises;
    let findings = promises.check(&home, &server, Stamp::MAX).await;
    assert!(findings.broken.is_empty(), "{:#?}", findings.broken);
    let Findings { values, limited, revoked, released, renewed, shown, repeated, .. } = findings;
    assert!([values, limited, revoked, released, renewed, shown, repeated].iter().all(|found| *found > 0));
    assert_eq!(findings.issued, promises.may_be_issued());

    let kinds = spoil(&mut promises);
    let broken = promises.check(&home, &server, Stamp::MAX).await.broken;
    for words in kinds {
        assert!(broken.iter().any(|broken| broken.contains(words)), "{words}: {broken:#?}");
    }
    // A checkpoint that was given, and is not outside.
    server.stop();
    promises.notes.push((0, format!("{}\n1000000000\n", promises.notes[0].1.lines().next().unwrap())));
    let mut broken = Vec::new();
    crate::invariants::check_outside(&home, &promises, Stamp::MAX, &mut broken);
    assert!(broken.len() == 1 && broken[0].starts_with("a checkpoint of 1000000000 events was given"), "{broken:#?}");
    let server = home.serve();
    let payments = server.client(&home.identity("payments")).await;
    let good = promises.issued.iter().rev().find(|issued| issued.is_plain()).unwrap();
    assert!(payments.detokenize(SCOPE, std::slice::from_ref(&good.token)).await.unwrap()[0] == Ok(good.value.clone()));
    server.stop();
}
