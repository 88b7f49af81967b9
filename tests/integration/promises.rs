//! What clients were told, and whether a vault keeps to it.
//!
//! [`run`] has many callers ask a vault at the same time and writes down every answer: those are [`Promises`].
//! [`Promises::check`] asks a vault that was started again on what a fault left behind for all of it. A call without an
//! answer may or may not have happened; every check allows for both, and for nothing else.

use crate::harness::{self, Client, Home, Refusal, Server};
use cloakroom::proto::v1::{self, Action, ItemOutcome};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::{Code, Response, Status};

/// When something was answered, on a scale that the test chooses. Whoever cuts at a moment wants all that came before.
pub type Stamp = u64;

const SCOPE: &str = "pan";
/// Connections of each kind of client.
const CONNECTIONS: usize = 4;
/// Tokens in one question of a check.
const CHUNK: usize = 500;

/// Everything that was answered.
#[derive(Default)]
pub struct Promises {
    issued: Vec<Issued>,
    claims: Vec<Claim>,
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
    stamp: Stamp,
}

/// A limit on uses, and what became of it.
struct Uses {
    at_most: u32,
    released: Vec<Stamp>,
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
}

/// The clients of one run.
struct Clients {
    gateways: Vec<Client>,
    payments: Vec<Client>,
    operators: Vec<Client>,
}

/// How a run ended.
pub struct Run {
    pub promises: Promises,
    /// Calls in flight at the moment when the end was called for.
    pub in_flight: usize,
    /// What those got that were not served: at the most one for each caller, who stops there.
    pub failures: Vec<Refusal>,
}

/// What the callers of one run share.
struct Tally {
    target: u64,
    answered: AtomicU64,
    in_flight: AtomicUsize,
    reached: Notify,
    over: AtomicBool,
    failed: AtomicBool,
    failures: Mutex<Vec<Refusal>>,
    stamp: Box<dyn Fn() -> Stamp + Send + Sync>,
}

/// One caller, with one call at a time.
struct Caller {
    number: usize,
    serial: u64,
    dice: Dice,
    clients: Arc<Clients>,
    tally: Arc<Tally>,
    promises: Promises,
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

/// Has `plan.callers` ask `server` at the same time, until so many calls were answered; then `end` is called once, in the
/// midst of it. The run is over when each caller has its last answer, or none. An answer that is wrong in itself panics.
pub async fn run(home: &Home, server: &Server, plan: Plan, end: impl FnOnce()) -> Run {
    let clients = Arc::new(Clients::connect(home, server).await);
    let tally = Arc::new(Tally {
        target: plan.calls,
        answered: AtomicU64::new(0),
        in_flight: AtomicUsize::new(0),
        reached: Notify::new(),
        over: AtomicBool::new(false),
        failed: AtomicBool::new(false),
        failures: Mutex::default(),
        stamp: plan.stamp,
    });
    let mut callers = JoinSet::new();
    for number in 0..plan.callers {
        let (clients, tally) = (Arc::clone(&clients), Arc::clone(&tally));
        let dice = Dice(plan.seed.wrapping_add(number as u64 * 0x1_0000));
        callers.spawn(Caller { number, serial: 0, dice, clients, tally, promises: Promises::default() }.call());
    }
    let mut promises = Promises::default();
    let mut end = Some(end);
    let mut in_flight = 0;
    loop {
        tokio::select! {
            () = tally.reached.notified() => {
                in_flight = tally.in_flight.load(Ordering::SeqCst);
                end.take().expect("the target is reached once")();
                tally.over.store(true, Ordering::SeqCst);
            }
            done = callers.join_next() => match done {
                Some(done) => promises.add(done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))),
                None => break,
            },
        }
    }
    promises.calls = tally.answered.load(Ordering::SeqCst);
    let failures = std::mem::take(&mut *tally.failures.lock());
    Run { promises, in_flight, failures }
}

// === impl Caller ===

impl Caller {
    async fn call(mut self) -> Promises {
        while !self.tally.over.load(Ordering::SeqCst) {
            let answered = match self.dice.below(10) {
                0..=2 => self.tokenize(1, None).await,
                3 => {
                    let count = self.dice.below(40) + 2;
                    self.tokenize(count, None).await
                }
                4 => self.tokenize(1, Some(2)).await,
                5..=7 => self.detokenize().await,
                8 => self.use_one_up().await,
                _ => self.revoke().await,
            };
            if let Err(refusal) = answered {
                self.tally.failures.lock().push(refusal);
                break;
            }
        }
        self.promises
    }

    async fn tokenize(&mut self, count: u64, at_most: Option<u32>) -> Result<(), Refusal> {
        let values: Vec<Vec<u8>> = (0..count).map(|_| self.value()).collect();
        let items =
            values.iter().map(|value| v1::TokenizeItem { max_uses: at_most.unwrap_or(0), ..harness::item(value) });
        let request = v1::TokenizeRequest { scope: SCOPE.to_owned(), items: items.collect(), ..Default::default() };
        let client = Clients::of(&self.clients.gateways, self.number).tokens();
        let (answer, stamp) = self.tally.ask(async { { client }.tokenize(request).await }).await?;
        let receipt = answer.receipt.expect("an answer has a receipt");
        assert_eq!(answer.results.len(), values.len());
        for ((place, result), value) in answer.results.into_iter().enumerate().zip(values) {
            let v1::IssuedToken { token, handle, .. } = harness::issued(result).expect("each value is good");
            let uses = at_most.map(|at_most| Uses { at_most, released: Vec::new(), unanswered: 0 });
            self.promises.claim(&receipt, place, Action::Tokenize, ItemOutcome::Issued, &handle, stamp);
            self.promises.issued.push(Issued { token, handle, value, uses, end: End::None, stamp });
        }
        Ok(())
    }

    /// Up to four tokens of its own that should all be there.
    async fn detokenize(&mut self) -> Result<(), Refusal> {
        let mut chosen = HashSet::new();
        for _ in 0..=self.dice.below(4) {
            chosen.extend(self.pick(|issued| issued.uses.is_none() && matches!(issued.end, End::None)));
        }
        if chosen.is_empty() {
            return self.tokenize(1, None).await;
        }
        let chosen: Vec<usize> = chosen.into_iter().collect();
        let (receipt, values, stamp) = self.ask_values(&chosen).await?;
        for ((place, value), index) in values.into_iter().enumerate().zip(chosen) {
            let issued = &self.promises.issued[index];
            assert_eq!(value.as_ref(), Ok(&issued.value), "a live token gives its value");
            let handle = issued.handle.clone();
            self.promises.claim(&receipt, place, Action::Detokenize, ItemOutcome::Released, &handle, stamp);
        }
        Ok(())
    }

    async fn use_one_up(&mut self) -> Result<(), Refusal> {
        let Some(index) = self.pick(|issued| issued.uses.is_some()) else { return self.tokenize(1, Some(2)).await };
        self.promises.issued[index].uses.as_mut().unwrap().unanswered += 1;
        let (receipt, mut values, stamp) = self.ask_values(&[index]).await?;
        let issued = &mut self.promises.issued[index];
        let uses = issued.uses.as_mut().unwrap();
        uses.unanswered -= 1;
        let value = values.remove(0);
        if uses.released.len() == uses.at_most as usize {
            assert_eq!(value.map_err(|error| error.code), Err(Code::NotFound), "its uses were used up");
            return Ok(());
        }
        assert_eq!(value.as_ref(), Ok(&issued.value), "it has uses left");
        uses.released.push(stamp);
        let handle = issued.handle.clone();
        self.promises.claim(&receipt, 0, Action::Detokenize, ItemOutcome::Released, &handle, stamp);
        Ok(())
    }

    async fn revoke(&mut self) -> Result<(), Refusal> {
        let live = |issued: &Issued| issued.uses.is_none() && matches!(issued.end, End::None);
        let Some(index) = self.pick(live) else { return self.tokenize(1, None).await };
        self.promises.issued[index].end = End::Perhaps;
        let issued = &self.promises.issued[index];
        let request = v1::RevokeTokensRequest {
            scope: SCOPE.to_owned(),
            tokens: vec![issued.token.clone()],
            ..Default::default()
        };
        let client = Clients::of(&self.clients.operators, self.number).tokens();
        let (answer, stamp) = self.tally.ask(async { { client }.revoke_tokens(request).await }).await?;
        let receipt = answer.receipt.expect("an answer has a receipt");
        harness::revoke_time(answer.results[0].clone()).expect("a live token can be revoked");
        self.promises.issued[index].end = End::Revoked(stamp);
        let handle = self.promises.issued[index].handle.clone();
        self.promises.claim(&receipt, 0, Action::Revoke, ItemOutcome::Done, &handle, stamp);
        Ok(())
    }

    async fn ask_values(&mut self, chosen: &[usize]) -> Result<(v1::AuditReceipt, Values, Stamp), Refusal> {
        let tokens = chosen.iter().map(|index| self.promises.issued[*index].token.clone()).collect();
        let client = Clients::of(&self.clients.payments, self.number).tokens();
        let (answer, stamp) = self.tally.ask(async { { client }.detokenize(detokenize(tokens)).await }).await?;
        let receipt = answer.receipt.expect("an answer has a receipt");
        Ok((receipt, answer.results.into_iter().map(harness::value).collect(), stamp))
    }

    fn pick(&mut self, fits: impl Fn(&Issued) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = self
            .promises
            .issued
            .iter()
            .enumerate()
            .filter(|(_, issued)| fits(issued))
            .map(|(index, _)| index)
            .collect();
        let place = self.dice.below(fitting.len().max(1) as u64);
        fitting.get(usize::try_from(place).unwrap()).copied()
    }

    /// No two values are equal.
    fn value(&mut self) -> Vec<u8> {
        self.serial += 1;
        let mut value = format!("{}-{}-", self.number, self.serial).into_bytes();
        for _ in 0..=self.dice.below(25) {
            value.extend(self.dice.next().to_be_bytes());
        }
        value
    }
}

type Values = Vec<Result<Vec<u8>, harness::ItemError>>;

fn detokenize(tokens: Vec<String>) -> v1::DetokenizeRequest {
    let purpose = "test".to_owned();
    v1::DetokenizeRequest { scope: SCOPE.to_owned(), tokens, purpose, ..Default::default() }
}

// === impl Tally ===

impl Tally {
    /// Makes one call and counts it.
    async fn ask<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<(T, Stamp), Refusal> {
        let too_late = self.failed.load(Ordering::SeqCst);
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let answer = call.await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        match answer {
            Ok(answer) => {
                // Read after the answer came: it may be later than the answer, never earlier.
                let stamp = (self.stamp)();
                assert!(!too_late, "a call that began after another had failed was served");
                if self.answered.fetch_add(1, Ordering::SeqCst) + 1 == self.target {
                    self.reached.notify_one();
                }
                Ok((answer.into_inner(), stamp))
            }
            Err(status) => {
                self.failed.store(true, Ordering::SeqCst);
                Err(Refusal::of(&status))
            }
        }
    }
}

// === impl Clients ===

impl Clients {
    async fn connect(home: &Home, server: &Server) -> Self {
        let mut clients = Self { gateways: Vec::new(), payments: Vec::new(), operators: Vec::new() };
        for _ in 0..CONNECTIONS {
            clients.gateways.push(server.client(&home.identity("gateway")).await);
            clients.payments.push(server.client(&home.identity("payments")).await);
            clients.operators.push(server.client(&home.identity("operator")).await);
        }
        clients
    }

    fn of(clients: &[Client], number: usize) -> &Client {
        &clients[number % clients.len()]
    }
}

// === impl Promises ===

impl Promises {
    pub fn add(&mut self, more: Self) {
        self.issued.extend(more.issued);
        self.claims.extend(more.claims);
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
        self.check_values(&server.client(&home.identity("payments")).await, cut, &mut findings).await;
        self.check_uses(&server.client(&home.identity("operator")).await, cut, &mut findings).await;
        let events = server.client(&home.identity("auditor")).await.events(v1::AuditFilter::default()).await;
        self.check_log(&events, cut, &mut findings);
        findings
    }

    async fn check_values(&self, payments: &Client, cut: Stamp, findings: &mut Findings) {
        let kept = |issued: &&Issued| issued.uses.is_none() && issued.stamp <= cut;
        let kept: Vec<&Issued> = self.issued.iter().filter(kept).collect();
        for chunk in kept.chunks(CHUNK) {
            let tokens = chunk.iter().map(|issued| issued.token.clone()).collect();
            let answer = payments.tokens().detokenize(detokenize(tokens)).await.unwrap().into_inner();
            assert_eq!(answer.results.len(), chunk.len());
            for (issued, result) in chunk.iter().zip(answer.results) {
                let value = harness::value(result).map_err(|error| error.code);
                let right = value.as_ref() == Ok(&issued.value);
                let gone = value == Err(Code::NotFound);
                match issued.end {
                    End::None if right => findings.values += 1,
                    End::Revoked(stamp) if stamp <= cut && gone => findings.revoked += 1,
                    End::Revoked(stamp) if stamp > cut && (right || gone) => {}
                    End::Perhaps if right || gone => {}
                    _ => findings.broken.push(format!("{} answered {:?}", issued.handle, value.map(|_| "a value"))),
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
        let mut releases: HashMap<String, usize> = HashMap::new();
        for event in events {
            for (handle, outcome) in event.handles.iter().zip(event.item_outcomes()) {
                if outcome == ItemOutcome::Released {
                    *releases.entry(hex::encode(handle)).or_default() += 1;
                }
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

impl Uses {
    /// How many may be left if everything up to `cut` happened, and anything else may have.
    fn left(&self, cut: Stamp) -> std::ops::RangeInclusive<u32> {
        let certain = u32::try_from(self.released.iter().filter(|stamp| **stamp <= cut).count()).unwrap();
        let perhaps = u32::try_from(self.released.len()).unwrap() - certain + self.unanswered;
        let most = self.at_most - certain;
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

    /// A seed that no run has had.
    pub fn seed() -> u64 {
        getrandom::u64().unwrap()
    }
}
