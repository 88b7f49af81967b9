//! Z-08: whether a token ever existed, and what became of it, is told by nothing: not by a byte of the answer, not by its
//! shape on the wire, and as far as can be measured not by the time that it takes.

use crate::frames::{self, Answer, framed};
use crate::harness::{Client, Home, Server, TRUST_DOMAIN, duration, eventually, item, texts};
use crate::promises::Dice;
use cloakroom::crypto::{IndexKey, ScopeId};
use cloakroom::proto::v1;
use cloakroom::secret::SecretKey;
use cloakroom::token::{self, Format};
use prost::Message;
use std::collections::BTreeMap;
use std::time::Instant;
use tonic::Code;

const DETOKENIZE: &str = "/cloakroom.v1.TokenService/Detokenize";
const RENEW: &str = "/cloakroom.v1.TokenService/RenewTokens";

/// What may have become of a token that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Unknown,
    Expired,
    Revoked,
    Foreign,
    UsedUp,
    /// Of a scope whose values are long: never issued, and revoked.
    UnknownLong,
    RevokedLong,
    /// For control: it is there, in the same scope.
    Live,
}
use Class::{Expired, Foreign, Live, Revoked, RevokedLong, Unknown, UnknownLong, UsedUp};

const DEAD: [Class; 5] = [Unknown, Expired, Revoked, Foreign, UsedUp];

/// Tokens of each class.
type Tokens = BTreeMap<Class, Vec<String>>;

struct Stage {
    home: Home,
    server: Server,
    tokens: Tokens,
}

const TESTER: &str = "@id(\"tester-may-all\")\npermit (principal in Cloakroom::Role::\"tester\", action, resource);\n";

impl Stage {
    /// A vault with `each` tokens of every class.
    async fn open(each: usize) -> Self {
        let home = Home::init();
        home.add_scope("twin", "pan", "");
        home.add_scope("long", "pan", "");
        home.permit("payments", "detokenize", "long");
        home.add_role("tester", &[&format!("spiffe://{TRUST_DOMAIN}/tester")]);
        home.write("policies/tester.cedar", TESTER);
        let server = home.serve();
        let mut stage = Self { home, server, tokens: Tokens::new() };
        let tester = stage.client("tester").await;
        for class in DEAD.into_iter().chain([UnknownLong, RevokedLong, Live]) {
            let mut made = Vec::new();
            for start in (0..each).step_by(50) {
                made.extend(tokens_of(class, &tester, 50.min(each - start)).await);
            }
            stage.tokens.insert(class, made);
        }
        stage
    }

    /// A new connection of its own.
    async fn client(&self, name: &str) -> Client {
        let id = format!("spiffe://{TRUST_DOMAIN}/{name}");
        self.server.client(&self.home.authority().client(&id)).await
    }
}

async fn tokens_of(class: Class, tester: &Client, count: usize) -> Vec<String> {
    let issue = async |scope: &str, item: v1::TokenizeItem| texts(&tester.issue(scope, vec![item; count]).await);
    let short = || item(b"4111111111111111");
    let long = || item(&vec![0x5a; 48 << 10]);
    let revoke = async |scope: &str, tokens: &[String]| {
        let request =
            v1::RevokeTokensRequest { scope: scope.to_owned(), tokens: tokens.to_vec(), ..Default::default() };
        tester.tokens().revoke_tokens(request).await.unwrap();
    };
    match class {
        Unknown | UnknownLong => (0..count).map(|_| never_issued()).collect(),
        Expired => {
            let tokens = issue("pan", v1::TokenizeItem { ttl: duration(0, 1_000_000), ..short() }).await;
            let over =
                async || tester.detokenize("pan", &tokens).await.unwrap().iter().all(Result::is_err).then_some(());
            eventually("the end of a millisecond", over).await;
            tokens
        }
        Revoked => {
            let tokens = issue("pan", short()).await;
            revoke("pan", &tokens).await;
            tokens
        }
        RevokedLong => {
            let tokens = issue("long", long()).await;
            revoke("long", &tokens).await;
            tokens
        }
        Foreign => issue("twin", short()).await,
        UsedUp => {
            let tokens = issue("pan", v1::TokenizeItem { max_uses: 1, ..short() }).await;
            assert!(tester.detokenize("pan", &tokens).await.unwrap().iter().all(Result::is_ok));
            tokens
        }
        Live => issue("long", long()).await,
    }
}

impl Class {
    fn scope(self) -> &'static str {
        if matches!(self, UnknownLong | RevokedLong | Live) { "long" } else { "pan" }
    }
}

/// A well-formed token that no vault has issued.
fn never_issued() -> String {
    let format = Format::Opaque { prefix: token::opaque::Prefix::parse("pan").unwrap() };
    let random = std::array::from_fn(|_| getrandom::u64().unwrap().to_be_bytes()[0]);
    token::issue(&format, &IndexKey::new(SecretKey::new([9; 32])), ScopeId(1), 1, random).text.into_exposed()
}

fn detokenize(scope: &str, tokens: &[&String]) -> Vec<u8> {
    let tokens = tokens.iter().map(|token| (*token).clone()).collect();
    let purpose = "test".to_owned();
    v1::DetokenizeRequest { scope: scope.to_owned(), tokens, purpose, ..Default::default() }.encode_to_vec()
}

fn renew(tokens: &[&String]) -> Vec<u8> {
    let tokens = tokens.iter().map(|token| (*token).clone()).collect();
    v1::RenewTokensRequest { scope: "pan".to_owned(), tokens, ..Default::default() }.encode_to_vec()
}

// === identity ===

/// An answer without what numbers the call: place in the log, and the date. What is left of lengths must not depend on
/// these either.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    code: i32,
    /// Names and values.
    headers: Vec<(String, Vec<u8>)>,
    trailers: Vec<(String, Vec<u8>)>,
    /// The message.
    message: Vec<u8>,
    /// The pieces of the body, the number's own bytes taken off.
    pieces: Vec<usize>,
    has_receipt: bool,
}

impl Shape {
    fn of(answer: &Answer) -> Self {
        let mut sequence = None;
        let mut headers = |headers: &[(String, Vec<u8>)]| -> Vec<(String, Vec<u8>)> {
            let mut kept = Vec::new();
            for (name, value) in headers {
                let value = match name.as_str() {
                    "date" => vec![0; value.len()],
                    "grpc-status-details-bin" => {
                        let (details, number) = without_sequence(&answer.status(), value);
                        sequence = number;
                        details
                    }
                    _ => value.clone(),
                };
                kept.push((name.clone(), value));
            }
            kept
        };
        let (headers, trailers) = (headers(&answer.headers), headers(&answer.trailers));
        let mut pieces: Vec<usize> = answer.pieces.iter().map(Vec::len).collect();
        let mut message = Vec::new();
        if !pieces.is_empty() {
            let mut decoded: v1::DetokenizeResponse = answer.message();
            let receipt = decoded.receipt.as_mut().unwrap();
            // The number, and the length of the message that it stands in.
            *pieces.last_mut().unwrap() -= prost::encoding::encoded_len_varint(receipt.sequence);
            sequence = Some(receipt.sequence);
            receipt.sequence = 0;
            message = decoded.encode_to_vec();
        }
        let code = answer.code().into();
        Self { code, headers, trailers, message, pieces, has_receipt: sequence.is_some() }
    }
}

/// What the details say, in one order, without the event's number; and their length without its digits.
fn without_sequence(status: &tonic::Status, encoded: &[u8]) -> (Vec<u8>, Option<u64>) {
    use tonic_types::StatusExt;
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    let sequence: Option<u64> = info.metadata.get("sequence").map(|text| text.parse().unwrap());
    let digits = info.metadata.get("sequence").map_or(0, String::len);
    // Base64: four characters for each three bytes, so its length says no more than theirs.
    let length = status.details().len();
    assert_eq!(encoded.len(), (length * 4).div_ceil(3));
    let others: BTreeMap<_, _> = info.metadata.iter().filter(|(key, _)| *key != "sequence").collect();
    let rest = (&info.reason, &info.domain, others, details.bad_request(), details.retry_info());
    (format!("{} {} {rest:?} {}", status.code(), status.message(), length - digits).into_bytes(), sequence)
}

/// Interleaves calls for tokens of every class, and gives the shapes that were seen of each.
async fn shapes(stage: &Stage, callers: &[Client], path: &str, rounds: usize) -> BTreeMap<Class, Vec<Shape>> {
    let mut dice = Dice(Dice::seed());
    let mut seen: BTreeMap<Class, Vec<Shape>> = BTreeMap::new();
    for round in 0..rounds {
        let mut classes = DEAD.to_vec();
        while let Some(class) = (!classes.is_empty()).then(|| classes.swap_remove(pick(&mut dice, classes.len()))) {
            let tokens = &stage.tokens[&class];
            let token = &tokens[round % tokens.len()];
            let body = if path == RENEW { renew(&[token]) } else { detokenize("pan", &[token]) };
            let answer = frames::call(&callers[round % callers.len()], path, &[], framed(&body)).await.unwrap();
            let shape = Shape::of(&answer);
            let shapes = seen.entry(class).or_default();
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
    }
    seen
}

fn pick(dice: &mut Dice, bound: usize) -> usize {
    usize::try_from(dice.below(bound as u64)).unwrap()
}

/// Every class has the same shapes, of which there are `count`.
fn are_one(seen: BTreeMap<Class, Vec<Shape>>, code: Code, count: usize) {
    let mut seen: Vec<(Class, Vec<Shape>)> = seen.into_iter().collect();
    for (_, shapes) in &mut seen {
        shapes.sort();
    }
    let (first, shapes) = &seen[0];
    assert_eq!(shapes.len(), count, "{shapes:?}");
    assert!(shapes.iter().all(|shape| shape.code == i32::from(code)));
    for (class, others) in &seen[1..] {
        assert_eq!(shapes, others, "{first:?} and {class:?} are told apart");
    }
}

async fn identical(each: usize, rounds: usize) {
    let stage = Stage::open(each).await;
    // Who may not is told no, whatever it names: with a receipt, or beyond a rate without one.
    let mut strangers = Vec::new();
    for number in 0..rounds.min(20) {
        strangers.push(stage.client(&format!("stranger-{number}")).await);
    }
    let forty = [strangers[0].clone()];
    are_one(shapes(&stage, &strangers, DETOKENIZE, rounds.min(20)).await, Code::PermissionDenied, 1);
    let beyond = shapes(&stage, &forty, DETOKENIZE, rounds).await;
    let of_some: Vec<bool> = beyond.values().flatten().map(|shape| shape.has_receipt).collect();
    assert!(of_some.contains(&false), "a rate was exceeded");
    let without = |shapes: Vec<Shape>| shapes.into_iter().filter(|shape| !shape.has_receipt).collect();
    are_one(beyond.into_iter().map(|(class, shapes)| (class, without(shapes))).collect(), Code::PermissionDenied, 1);
    // Who may is told that there is nothing.
    let payments = [stage.server.client(&stage.home.identity("payments")).await];
    are_one(shapes(&stage, &payments, DETOKENIZE, rounds).await, Code::Ok, 1);
    let operator = [stage.server.client(&stage.home.identity("operator")).await];
    let mut renewed = shapes(&stage, &operator, RENEW, rounds).await;
    are_one(std::mem::take(&mut renewed), Code::Ok, 1);
    // The comparison finds what is different, and those who are alive still are.
    let live = &stage.tokens[&Live][0];
    let answer = frames::call(&payments[0], DETOKENIZE, &[], framed(&detokenize("long", &[live]))).await.unwrap();
    let unknown = &stage.tokens[&Unknown][0];
    let none = frames::call(&payments[0], DETOKENIZE, &[], framed(&detokenize("pan", &[unknown]))).await.unwrap();
    assert_ne!(Shape::of(&answer), Shape::of(&none));
    assert_eq!(
        payments[0].detokenize("long", std::slice::from_ref(live)).await.unwrap()[0].as_ref().unwrap().len(),
        48 << 10
    );
    println!("Z-08: {} classes of tokens, {} calls each by four callers: one answer", DEAD.len(), rounds);
    stage.server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_a_token_is_told_by_no_byte_z_08() {
    identical(20, 40).await;
}

// === time ===

/// How well the best threshold on the time tells two samples apart: 0.5 is not at all, 1 always.
fn auc(one: &[f64], other: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> =
        one.iter().map(|time| (*time, true)).chain(other.iter().map(|time| (*time, false))).collect();
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut ranks, mut place) = (0.0, 0);
    for tied in all.chunk_by(|one, other| one.0.total_cmp(&other.0).is_eq()) {
        let rank = place as f64 + f64::midpoint(tied.len() as f64, 1.0);
        ranks += rank * tied.iter().filter(|(_, is_one)| *is_one).count() as f64;
        place += tied.len();
    }
    let (n, m) = (one.len() as f64, other.len() as f64);
    let auc = (ranks - n * (n + 1.0) / 2.0) / (n * m);
    auc.max(1.0 - auc)
}

/// Welch's t, of what is below the common 95th percentile: the rest is the disk's.
fn welch(one: &[f64], other: &[f64]) -> f64 {
    let mut all = [one, other].concat();
    all.sort_by(f64::total_cmp);
    let limit = all[all.len() * 95 / 100];
    let moments = |sample: &[f64]| {
        let kept: Vec<f64> = sample.iter().copied().filter(|time| *time <= limit).collect();
        let mean = kept.iter().sum::<f64>() / kept.len() as f64;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (kept.len() as f64 - 1.0);
        (mean, variance / kept.len() as f64)
    };
    let ((one, first), (other, second)) = (moments(one), moments(other));
    (one - other) / (first + second).sqrt()
}

fn median(sample: &[f64]) -> f64 {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Prints what can be told from the time of each pair; the best AUC of all.
fn compare<K: Ord + Copy + std::fmt::Debug>(title: &str, samples: &BTreeMap<K, Vec<f64>>) -> f64 {
    let mut best: f64 = 0.0;
    for (place, (one, times)) in samples.iter().enumerate() {
        println!("Z-08: {title}: {one:?}: {} calls, median {:.1} us", times.len(), median(times));
        for (other, others) in samples.iter().skip(place + 1) {
            let auc = auc(times, others);
            best = best.max(auc);
            println!("Z-08: {title}: {one:?} / {other:?}: AUC {auc:.3}, Welch t {:.1}", welch(times, others));
        }
    }
    best
}

/// The time of `calls` calls, in random order, each with `batch` tokens of one class.
async fn measure(
    stage: &Stage,
    client: &Client,
    path: &str,
    classes: &[Class],
    (calls, batch): (usize, usize),
) -> BTreeMap<Class, Vec<f64>> {
    let mut dice = Dice(Dice::seed());
    let mut times: BTreeMap<Class, Vec<f64>> = BTreeMap::new();
    for number in 0..calls + 200 {
        let class = classes[pick(&mut dice, classes.len())];
        let tokens = &stage.tokens[&class];
        let start = pick(&mut dice, tokens.len());
        let named: Vec<&String> = (0..batch).map(|offset| &tokens[(start + offset) % tokens.len()]).collect();
        let body = framed(&if path == RENEW { renew(&named) } else { detokenize(class.scope(), &named) });
        let begun = Instant::now();
        frames::call(client, path, &[], body).await.unwrap();
        // The first ones warm up.
        if number >= 200 {
            times.entry(class).or_default().push(begun.elapsed().as_secs_f64() * 1e6);
        }
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: Z-08 with 40,000 calls"]
async fn what_became_of_a_token_is_hardly_told_by_the_time_z_08() {
    let stage = Stage::open(200).await;
    let stranger = stage.client("stranger").await;
    let payments = stage.server.client(&stage.home.identity("payments")).await;
    let operator = stage.server.client(&stage.home.identity("operator")).await;
    let five = &DEAD;
    compare("not permitted", &measure(&stage, &stranger, DETOKENIZE, five, (20_000, 1)).await);
    compare("permitted", &measure(&stage, &payments, DETOKENIZE, five, (20_000, 1)).await);
    // A hundred at once make a hundred times as much of the difference.
    compare("permitted, 100 at once", &measure(&stage, &payments, DETOKENIZE, five, (3_000, 100)).await);
    compare("renewing, 100 at once", &measure(&stage, &operator, RENEW, five, (2_000, 100)).await);
    let long = measure(&stage, &payments, DETOKENIZE, &[UnknownLong, RevokedLong], (3_000, 1)).await;
    compare("where values are long", &long);
    // The harness can find a difference: that between a long value and none, in a scope of short ones.
    let control = measure(&stage, &payments, DETOKENIZE, &[Unknown, Live], (600, 40)).await;
    let found = compare("control", &control);
    assert!(found > 0.8, "the harness does not tell a live token with a long value from none: AUC {found}");
    scopes(&stage, &stranger).await;
    cold(stage).await;
}

/// Whether there is a scope, for one who may do nothing in it.
async fn scopes(stage: &Stage, stranger: &Client) {
    let mut dice = Dice(Dice::seed());
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let named: Vec<&String> = stage.tokens[&Unknown].iter().take(100).collect();
    for _ in 0..4_000 {
        let scope = ["pan", "nosuch"][pick(&mut dice, 2)];
        let body = framed(&detokenize(scope, &named));
        let begun = Instant::now();
        frames::call(stranger, DETOKENIZE, &[], body).await.unwrap();
        times.entry(scope).or_default().push(begun.elapsed().as_secs_f64() * 1e6);
    }
    compare("a scope that there is, and one that there is not", &times);
}

/// What lies on disk and not in memory takes longer: said in the threat model, and printed here.
async fn cold(stage: Stage) {
    const ROWS: usize = 20_000;
    let tester = stage.client("tester").await;
    let mut dead = Vec::new();
    for _ in 0..ROWS / 1000 {
        let brief = v1::TokenizeItem { ttl: duration(0, 1_000_000), ..item(b"4111111111111111") };
        dead.extend(texts(&tester.issue("pan", vec![brief; 1000]).await));
    }
    stage.server.stop();
    let server = stage.home.serve();
    let payments = server.client(&stage.home.identity("payments")).await;
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    // One of each block, so that none has been brought into memory by its neighbour.
    for token in dead.iter().step_by(40) {
        for (kind, token) in
            [("expired, first read", token), ("unknown", &never_issued()), ("expired, read again", token)]
        {
            let body = framed(&detokenize("pan", &[token]));
            let begun = Instant::now();
            frames::call(&payments, DETOKENIZE, &[], body).await.unwrap();
            times.entry(kind).or_default().push(begun.elapsed().as_secs_f64() * 1e6);
        }
    }
    compare("after a restart", &times);
    server.stop();
}

#[test]
fn the_statistics_find_what_is_there_and_nothing_else_z_08() {
    let mut dice = Dice(1);
    let mut sample = |shift: f64| (0..2_000).map(|_| dice.below(1_000) as f64 + shift).collect::<Vec<f64>>();
    let (one, same, other) = (sample(0.0), sample(0.0), sample(500.0));
    assert!(auc(&one, &same) < 0.53 && welch(&one, &same).abs() < 4.5);
    assert!(auc(&one, &other) > 0.85 && welch(&one, &other).abs() > 50.0);
    assert!((auc(&[1.0, 2.0], &[3.0, 4.0]) - 1.0).abs() < 1e-9 && (auc(&[1.0], &[1.0]) - 0.5).abs() < 1e-9);
}
