//! Many callers at the same time, who do everything that a vault is for and write down each answer.

use super::{Dice, End, Issued, Once, Pending, Plan, Promises, Seen, Stamp};
use crate::harness::{self, Client, Home, Refusal, Server};
use cloakroom::proto::v1::{self, Action, ItemOutcome};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Code, Response, Status};

pub(super) const SCOPE: &str = "pan";
/// Connections of each kind of client.
const CONNECTIONS: usize = 4;
/// Seconds that a token lives which is to be purged in the midst of the load, at the most.
const BRIEF: u64 = 3;
/// Events in a page that an auditor asks for.
const PAGE: i32 = 20;
/// Callers who race for a token's only use, at the most.
const RACERS: u64 = 8;

/// Bytes of a large value, and how many are in a batch.
const LARGE: usize = 60_000;
const LARGE_VALUES: usize = 40;

/// How a run ended.
pub struct Run {
    pub promises: Promises,
    /// Calls in flight at the moment when the end was called for.
    pub in_flight: usize,
    /// Calls that were never answered.
    pub unanswered: usize,
    /// What those got that were not served: at the most one for each caller, who stops there.
    pub failures: Vec<Refusal>,
}

/// The clients of one run.
struct Clients {
    gateways: Vec<Client>,
    payments: Vec<Client>,
    operators: Vec<Client>,
    auditors: Vec<Client>,
}

/// Clients with open connections: what happens from now on happens to calls.
pub struct Ready(Arc<Clients>);

/// What the callers of one run share.
struct Tally {
    target: u64,
    answered: AtomicU64,
    unanswered: AtomicUsize,
    in_flight: AtomicUsize,
    reached: Notify,
    over: AtomicBool,
    /// What the first one that failed was told.
    failed: OnceLock<String>,
    failures: Mutex<Vec<Refusal>>,
    stamp: Box<dyn Fn() -> Stamp + Send + Sync>,
}

/// One caller, with one call at a time, but for races.
struct Caller {
    number: usize,
    serial: u64,
    dice: Dice,
    clients: Arc<Clients>,
    tally: Arc<Tally>,
    promises: Promises,
}

/// Follows the log while the others call.
struct Tail {
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

/// Has `plan.callers` ask `server` at the same time, until so many calls were answered; then `end` is called once, in the
/// midst of it. The run is over when each caller has its last answer, or none. An answer that is wrong in itself panics.
pub async fn run(home: &Home, server: &Server, plan: Plan, end: impl FnOnce()) -> Run {
    Ready::connect(home, server).await.run(plan, end).await
}

// === impl Ready ===

impl Ready {
    pub async fn connect(home: &Home, server: &Server) -> Self {
        Self(Arc::new(Clients::connect(home, server).await))
    }

    /// As [`run`].
    pub async fn run(&self, plan: Plan, end: impl FnOnce()) -> Run {
        let tally = Arc::new(Tally {
            target: plan.calls,
            answered: AtomicU64::new(0),
            unanswered: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            reached: Notify::new(),
            over: AtomicBool::new(false),
            failed: OnceLock::new(),
            failures: Mutex::default(),
            stamp: plan.stamp,
        });
        let tail = Tail::follow(Clients::of(&self.0.auditors, 0), Arc::clone(&tally));
        let mut callers = JoinSet::new();
        for number in 0..plan.callers {
            let (clients, tally) = (Arc::clone(&self.0), Arc::clone(&tally));
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
        promises.seen.extend(tail.end().await);
        promises.calls = tally.answered.load(Ordering::SeqCst);
        let failures = std::mem::take(&mut *tally.failures.lock());
        Run { promises, in_flight, unanswered: tally.unanswered.load(Ordering::SeqCst), failures }
    }

    /// Has so many batches of large values kept, until one is not answered: megabytes, so that tables are written.
    pub async fn bulk(&self, batches: u64, seed: u64) -> Promises {
        let mut promises = Promises::default();
        let mut dice = Dice(seed);
        let gateway = Clients::of(&self.0.gateways, 0);
        for _ in 0..batches {
            let mut value = || (0..LARGE / 8).flat_map(|_| dice.next().to_be_bytes()).collect::<Vec<u8>>();
            let items: Vec<_> = (0..LARGE_VALUES).map(|_| harness::item(&value())).collect();
            let request = v1::TokenizeRequest { scope: SCOPE.to_owned(), items: items.clone(), ..Default::default() };
            let Ok(answer) = gateway.tokens().tokenize(request).await else { break };
            promises.keep_issued(items, answer.into_inner(), 0);
            promises.calls += 1;
        }
        promises
    }
}

// === impl Caller ===

impl Caller {
    async fn call(mut self) -> Promises {
        while !self.tally.over.load(Ordering::SeqCst) {
            let answered = match self.dice.below(32) {
                0..=6 => self.tokenize(1, None).await,
                7..=8 => {
                    let count = self.dice.below(40) + 2;
                    self.tokenize(count, None).await
                }
                9..=10 => self.tokenize(1, Some(2)).await,
                11 => self.tokenize_briefly().await,
                12 => self.tokenize_once().await,
                13..=18 => self.detokenize().await,
                19..=21 => self.use_one_up().await,
                22 => self.race().await,
                23 => self.look_at_a_brief_one().await,
                24..=25 => self.revoke().await,
                26 => self.renew().await,
                27..=28 => self.inspect().await,
                29 => self.tokenize_again().await,
                30 => self.query().await,
                _ => self.checkpoint().await,
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
        self.issue(request).await.map(drop)
    }

    /// For so short a time that it is purged while the load goes on.
    async fn tokenize_briefly(&mut self) -> Result<(), Refusal> {
        let seconds = i64::try_from(self.dice.below(BRIEF) + 1).unwrap();
        let item = v1::TokenizeItem { ttl: harness::duration(seconds, 0), ..harness::item(&self.value()) };
        let request = v1::TokenizeRequest { scope: SCOPE.to_owned(), items: vec![item], ..Default::default() };
        self.issue(request).await.map(drop)
    }

    /// Under a request id, so that it can be asked for again.
    async fn tokenize_once(&mut self) -> Result<(), Refusal> {
        let items = (0..=self.dice.below(3)).map(|_| harness::item(&self.value())).collect();
        let request_id = self.dice.uuid();
        let request = v1::TokenizeRequest { scope: SCOPE.to_owned(), items, request_id, ..Default::default() };
        self.promises.pending.push(Pending { request: request.clone() });
        let (first, stamp) = self.issue(request).await?;
        let Pending { request } = self.promises.pending.pop().expect("it was put there before the call");
        self.promises.once.push(Once { request, first, stamp });
        Ok(())
    }

    async fn issue(&mut self, request: v1::TokenizeRequest) -> Result<(usize, Stamp), Refusal> {
        let items = request.items.clone();
        self.promises.may_be_issued += items.len();
        let client = Clients::of(&self.clients.gateways, self.number).tokens();
        let (answer, stamp) = self.tally.ask(async { { client }.tokenize(request).await }).await?;
        let first = self.promises.issued.len();
        self.promises.keep_issued(items, answer, stamp);
        Ok((first, stamp))
    }

    /// What was answered under a request id is answered again, to two at once.
    async fn tokenize_again(&mut self) -> Result<(), Refusal> {
        let count = self.promises.once.len() as u64;
        if count == 0 {
            return self.tokenize_once().await;
        }
        let once = &self.promises.once[usize::try_from(self.dice.below(count)).unwrap()];
        let (request, first) = (once.request.clone(), once.first);
        let client = Clients::of(&self.clients.gateways, self.number).tokens();
        let ask = || {
            let (tally, mut client, request) = (Arc::clone(&self.tally), client.clone(), request.clone());
            async move { tally.ask(client.tokenize(request)).await }
        };
        for answer in JoinSet::from_iter([ask(), ask()]).join_all().await {
            let (answer, stamp) = answer?;
            self.promises.keep_repeated(answer, first, stamp);
        }
        Ok(())
    }

    /// Up to four tokens of its own that should all be there.
    async fn detokenize(&mut self) -> Result<(), Refusal> {
        let mut chosen = HashSet::new();
        for _ in 0..=self.dice.below(4) {
            chosen.extend(self.pick(Issued::is_plain));
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

    /// It is there until its end, and not a moment longer.
    async fn look_at_a_brief_one(&mut self) -> Result<(), Refusal> {
        let brief = |issued: &Issued| issued.brief && issued.uses.is_none();
        let Some(index) = self.pick(brief) else { return self.tokenize_briefly().await };
        let asked_at = super::now();
        let (receipt, mut values, stamp) = self.ask_values(&[index]).await?;
        let issued = &self.promises.issued[index];
        match values.remove(0) {
            Ok(value) => {
                assert!(asked_at < issued.expires, "an expired token gave its value");
                assert!(value == issued.value, "a token gave another value");
                let handle = issued.handle.clone();
                self.promises.claim(&receipt, 0, Action::Detokenize, ItemOutcome::Released, &handle, stamp);
            }
            Err(error) => {
                assert_eq!(error.code, Code::NotFound);
                assert!(super::now() >= issued.expires, "a token was gone before its end");
            }
        }
        Ok(())
    }

    async fn use_one_up(&mut self) -> Result<(), Refusal> {
        let Some(index) = self.pick(|issued| issued.uses.is_some()) else { return self.tokenize(1, Some(2)).await };
        self.use_up(index, 1).await
    }

    /// Several at once for the one use of a token.
    async fn race(&mut self) -> Result<(), Refusal> {
        let before = self.promises.issued.len();
        self.tokenize(1, Some(1)).await?;
        let racers = usize::try_from(self.dice.below(RACERS - 1)).unwrap() + 2;
        self.use_up(before, racers).await
    }

    /// Asks so many times at once for the value of a token that has a limit.
    async fn use_up(&mut self, index: usize, times: usize) -> Result<(), Refusal> {
        let uses = self.promises.issued[index].uses.as_mut().unwrap();
        uses.unanswered += u32::try_from(times).unwrap();
        let answers: JoinSet<_> = (0..times).map(|_| self.ask_values(&[index])).collect();
        let mut refusal = None;
        for answer in answers.join_all().await {
            let (receipt, mut values, stamp) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    refusal = Some(error);
                    continue;
                }
            };
            let issued = &mut self.promises.issued[index];
            let uses = issued.uses.as_mut().unwrap();
            uses.unanswered -= 1;
            match values.remove(0) {
                Ok(value) => {
                    assert!(value == issued.value, "a token gave another value");
                    assert!(uses.released.len() < uses.at_most as usize, "its uses were used up");
                    uses.released.push(stamp);
                    let handle = issued.handle.clone();
                    self.promises.claim(&receipt, 0, Action::Detokenize, ItemOutcome::Released, &handle, stamp);
                }
                Err(error) => {
                    assert_eq!(error.code, Code::NotFound);
                    // Whatever had used it up was durable before this was said.
                    uses.used_up = Some(uses.used_up.map_or(stamp, |earlier| earlier.min(stamp)));
                }
            }
        }
        let uses = self.promises.issued[index].uses.as_ref().unwrap();
        let all_answered = uses.unanswered == 0 && uses.used_up.is_some();
        assert!(!all_answered || uses.released.len() == uses.at_most as usize, "a use was lost");
        refusal.map_or(Ok(()), Err)
    }

    async fn revoke(&mut self) -> Result<(), Refusal> {
        let Some(index) = self.pick(Issued::is_plain) else { return self.tokenize(1, None).await };
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

    /// For longer than it would have lived.
    async fn renew(&mut self) -> Result<(), Refusal> {
        let Some(index) = self.pick(Issued::is_plain) else { return self.tokenize(1, None).await };
        self.promises.issued[index].renewals.push(None);
        let days = i64::try_from(31 + self.dice.below(300)).unwrap();
        let request = v1::RenewTokensRequest {
            scope: SCOPE.to_owned(),
            tokens: vec![self.promises.issued[index].token.clone()],
            ttl: harness::duration(days * 86_400, 0),
            ..Default::default()
        };
        let client = Clients::of(&self.clients.operators, self.number).tokens();
        let (answer, stamp) = self.tally.ask(async { { client }.renew_tokens(request).await }).await?;
        let receipt = answer.receipt.expect("an answer has a receipt");
        let Some(v1::renew_result::Outcome::ExpireTime(until)) = answer.results[0].outcome.clone() else {
            panic!("a live token can be renewed")
        };
        let issued = &mut self.promises.issued[index];
        *issued.renewals.last_mut().unwrap() = Some((stamp, super::nanos(&until)));
        let handle = issued.handle.clone();
        self.promises.claim(&receipt, 0, Action::Renew, ItemOutcome::Done, &handle, stamp);
        Ok(())
    }

    /// One of its own, by its handle.
    async fn inspect(&mut self) -> Result<(), Refusal> {
        let Some(index) = self.pick(|issued| !issued.brief) else { return self.tokenize(1, None).await };
        let handle = self.promises.issued[index].handle.clone();
        let request =
            v1::InspectTokensRequest { scope: SCOPE.to_owned(), handles: vec![handle.clone()], ..Default::default() };
        let client = Clients::of(&self.clients.operators, self.number).tokens();
        let (answer, stamp) = self.tally.ask(async { { client }.inspect_tokens(request).await }).await?;
        let info = harness::info(answer.results[0].clone()).expect("it can be inspected");
        let issued = &self.promises.issued[index];
        let revoked = matches!(issued.end, End::Revoked(_));
        assert_eq!(info.state() == v1::TokenState::Revoked, revoked, "the state is the one that was answered");
        if let Some(uses) = &issued.uses {
            assert!(info.uses_left.is_some_and(|left| uses.left(Stamp::MAX).contains(&left)), "so many uses are left");
        }
        let receipt = answer.receipt.expect("an answer has a receipt");
        self.promises.claim(&receipt, 0, Action::Inspect, ItemOutcome::Done, &handle, stamp);
        Ok(())
    }

    /// The newest events. What an auditor was shown stays as it was.
    async fn query(&mut self) -> Result<(), Refusal> {
        let request = v1::QueryEventsRequest { page_size: PAGE, newest_first: true, ..Default::default() };
        let client = Clients::of(&self.clients.auditors, self.number).audit();
        let (answer, stamp) = self.tally.ask(async { { client }.query_events(request).await }).await?;
        self.promises.seen.extend(answer.events.iter().map(|event| Seen::new(event, stamp)));
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<(), Refusal> {
        let client = Clients::of(&self.clients.auditors, self.number).audit();
        let request = v1::GetCheckpointRequest {};
        let (answer, stamp) = self.tally.ask(async { { client }.get_checkpoint(request).await }).await?;
        self.promises.notes.push((stamp, answer.checkpoint.expect("a checkpoint was asked for").note));
        Ok(())
    }

    fn ask_values(&self, chosen: &[usize]) -> impl Future<Output = Result<Answered, Refusal>> + Send + use<> {
        let tokens = chosen.iter().map(|index| self.promises.issued[*index].token.clone()).collect();
        let mut client = Clients::of(&self.clients.payments, self.number).tokens();
        let tally = Arc::clone(&self.tally);
        async move {
            let (answer, stamp) = tally.ask(client.detokenize(detokenize(tokens))).await?;
            let receipt = answer.receipt.expect("an answer has a receipt");
            Ok((receipt, answer.results.into_iter().map(harness::value).collect(), stamp))
        }
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

/// Values or failures, and the event that says so.
type Answered = (v1::AuditReceipt, Vec<Result<Vec<u8>, harness::ItemError>>, Stamp);

pub(super) fn detokenize(tokens: Vec<String>) -> v1::DetokenizeRequest {
    let purpose = "test".to_owned();
    v1::DetokenizeRequest { scope: SCOPE.to_owned(), tokens, purpose, ..Default::default() }
}

// === impl Tally ===

impl Tally {
    /// Makes one call and counts it.
    async fn ask<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<(T, Stamp), Refusal> {
        let failed_before = self.failed.get();
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let answer = call.await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        match answer {
            Ok(answer) => {
                // Read after the answer came: it may be later than the answer, never earlier.
                let stamp = (self.stamp)();
                assert!(
                    failed_before.is_none(),
                    "a call that began after another had failed was served: {failed_before:?}"
                );
                if self.answered.fetch_add(1, Ordering::SeqCst) + 1 == self.target {
                    self.reached.notify_one();
                }
                Ok((answer.into_inner(), stamp))
            }
            Err(status) => {
                let _ = self.failed.set(format!("{:?}: {}", status.code(), status.message()));
                self.unanswered.fetch_add(1, Ordering::SeqCst);
                Err(Refusal::of(&status))
            }
        }
    }
}

// === impl Tail ===

impl Tail {
    /// From the first event on, until the vault is gone.
    fn follow(auditor: &Client, tally: Arc<Tally>) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (shown, mut client) = (Arc::clone(&seen), auditor.audit());
        let task = tokio::spawn(async move {
            let newest = v1::QueryEventsRequest { page_size: 1, newest_first: true, ..Default::default() };
            let Ok(newest) = client.query_events(newest).await else { return };
            let mut next = newest.into_inner().events.first().map_or(0, |event| event.sequence);
            let request = v1::TailEventsRequest { filter: None, from_sequence: next };
            let Ok(tail) = client.tail_events(request).await else { return };
            let mut tail = tail.into_inner();
            while let Ok(Some(v1::TailEventsResponse { event: Some(event) })) = tail.message().await {
                assert_eq!(event.sequence, next, "a tail skips nothing and repeats nothing");
                next += 1;
                shown.lock().push(Seen::new(&event, (tally.stamp)()));
            }
        });
        Self { seen, task }
    }

    async fn end(self) -> Vec<Seen> {
        self.task.abort();
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        std::mem::take(&mut *self.seen.lock())
    }
}

// === impl Clients ===

impl Clients {
    async fn connect(home: &Home, server: &Server) -> Self {
        let mut clients =
            Self { gateways: Vec::new(), payments: Vec::new(), operators: Vec::new(), auditors: Vec::new() };
        for _ in 0..CONNECTIONS {
            clients.gateways.push(server.client(&home.identity("gateway")).await);
            clients.payments.push(server.client(&home.identity("payments")).await);
            clients.operators.push(server.client(&home.identity("operator")).await);
            clients.auditors.push(server.client(&home.identity("auditor")).await);
        }
        clients
    }

    fn of(clients: &[Client], number: usize) -> &Client {
        &clients[number % clients.len()]
    }
}
