//! What each pure piece of a call costs: `cargo bench --bench pieces [-- NAME]`, a minute for all, those whose names contain NAME.
//!
//! Nothing here waits for a disk or a wire; `commit` measures those, and `cloakroom bench` the whole. Time is printed beside that
//! of SHA-256 over 64 bytes in the same run: only the ratio means something on a machine that others use.
//!
//! `-- --times N NAME` does one piece N times and prints nothing: under valgrind, the difference between two such runs is what
//! one costs in instructions, which no other process changes (`tests/supply/instructions.rs` holds them to
//! `benches/instructions.txt`).

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use cloakroom::caller::{Caller, SpiffeId};
use cloakroom::clock::Timestamp;
use cloakroom::crypto::record::{self, Header, Record, Salts, State};
use cloakroom::crypto::state::StateKey;
use cloakroom::crypto::{DataKey, Handle, IndexKey, KeyVersion, ScopeId, VaultId};
use cloakroom::event::{self, Action, Event, ItemOutcome, Outcome, Reveal};
use cloakroom::merkle::{Frontier, leaf_hash};
use cloakroom::policy::action::Detokenize;
use cloakroom::policy::{self, Context, Policy, PolicySource, Resource, Rulebook};
use cloakroom::scope::{Path, Scopes, Settings};
use cloakroom::secret::SecretKey;
use cloakroom::token::opaque::Prefix;
use cloakroom::token::{self, Format};
use mimalloc::MiMalloc;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};
use zeroizing_alloc::ZeroAlloc;

/// As the program has it: wiping costs, too.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

const VAULT: VaultId = VaultId([1; 16]);
const SCOPE: ScopeId = ScopeId(1);
const CARD: &[u8] = b"4111111111111111";
const DOMAIN: &str = "bench.example";
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
/// For one round of one piece; the best of the rounds is printed.
const ROUND: Duration = Duration::from_millis(500);
const ROUNDS: usize = 8;

/// One of them, to be done again and again.
type Piece = Box<dyn FnMut()>;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let first = arguments.next();
    if first.as_deref() == Some("--times") {
        let times: u64 = arguments.next().and_then(|times| times.parse().ok()).expect("--times N NAME");
        let name = arguments.next().expect("--times N NAME");
        let (_, mut piece) = pieces().into_iter().find(|(other, _)| *other == name).expect("a piece of this name");
        (0..times).for_each(|_| piece());
        return;
    }
    let wanted = first.unwrap_or_default();
    let mut yardstick: Piece = Box::new(|| {
        black_box(Sha256::digest(black_box([0_u8; 64])));
    });
    let yard = best(&mut yardstick);
    println!("{:<24} {:>10}  {:>8}", "piece", "ns", "÷ sha256");
    println!("{:<24} {yard:>10.1}  {:>8.2}", "sha256 of 64 bytes", 1.0);
    for (name, mut piece) in pieces() {
        if name.contains(&wanted) {
            let cost = best(&mut piece);
            println!("{name:<24} {cost:>10.1}  {:>8.2}", cost / yard);
        }
    }
}

/// Nanoseconds for one, in the round that was disturbed least.
fn best(piece: &mut Piece) -> f64 {
    let round = |piece: &mut Piece| {
        let (begin, mut done) = (Instant::now(), 0_u32);
        while begin.elapsed() < ROUND {
            (0..100).for_each(|_| piece());
            done += 100;
        }
        begin.elapsed().as_secs_f64() * 1e9 / f64::from(done)
    };
    (0..ROUNDS).map(|_| round(piece)).fold(f64::INFINITY, f64::min)
}

fn pieces() -> Vec<(&'static str, Piece)> {
    let mut all = tokens();
    all.extend(records());
    all.extend(decisions());
    all.extend(log());
    all
}

/// A token is made, and found again by its text.
fn tokens() -> Vec<(&'static str, Piece)> {
    let format = Format::Opaque { prefix: Prefix::parse("pan").expect("it is one") };
    let (key, other_key) = (IndexKey::new(SecretKey::new([2; 32])), IndexKey::new(SecretKey::new([2; 32])));
    let issued = token::issue(&format, &key, SCOPE, 7, [3; 16]);
    let text = issued.text.into_exposed();
    let mut random = 0_u128;
    let (mint_format, parse_format) = (format.clone(), format);
    vec![
        (
            "mint",
            Box::new(move || {
                random += 1;
                drop(black_box(token::issue(&mint_format, &key, SCOPE, 7, random.to_be_bytes())));
            }),
        ),
        (
            "locate",
            Box::new(move || {
                let parsed = token::parse(&parse_format, black_box(&text)).expect("it was just issued");
                black_box(token::locate(&parsed, &other_key, SCOPE));
            }),
        ),
    ]
}

/// A card's number behind two locks, and out again; and what `verify` sums up of it.
fn records() -> Vec<(&'static str, Piece)> {
    let data_key = || DataKey::new(SecretKey::new([4; 32]));
    let (handle, canonical) = (Handle::new(7, [5; 16]), [6; 24]);
    let header = Header {
        state: State::Active,
        scope: SCOPE,
        index_key: KeyVersion(1),
        data_key: KeyVersion(1),
        record_version: 1,
        created: NOW,
        changed: NOW,
        expires: NOW,
        uses_left: None,
        subject: None,
        fingerprint: None,
    };
    let seal = move |key: &DataKey, number: u128| {
        let salts = Salts { inner: number.to_be_bytes(), outer: [7; 16] };
        record::seal(&VAULT, &handle, &canonical, key, &header, black_box(CARD), &salts)
    };
    let (sealing, opening, state) = (data_key(), data_key(), StateKey::new(SecretKey::new([8; 32])));
    let row = seal(&sealing, 0);
    let imprint = Record::parse(&row).expect("it was just sealed").imprint();
    let mut number = 0;
    vec![
        (
            "seal",
            Box::new(move || {
                number += 1;
                drop(black_box(seal(&sealing, number)));
            }),
        ),
        (
            "open",
            Box::new(move || {
                let record = Record::parse(black_box(&row)).expect("it was just sealed");
                let unlocked = record.unlock_outer(&VAULT, &handle, &opening).expect("with its key");
                drop(black_box(unlocked.open(&VAULT, &handle, &canonical).expect("by its token")));
            }),
        ),
        (
            "sum up",
            Box::new(move || {
                black_box(state.record(&handle, black_box(&imprint)));
            }),
        ),
    ]
}

/// What policy says: as it is remembered, and as it has to be decided where a policy looks at what changes from call to call.
fn decisions() -> Vec<(&'static str, Piece)> {
    let ask = |condition: &str| {
        let (policy, caller) = (policy(condition), caller());
        let path = Path::parse("pan").expect("it is one");
        let context = Context { purpose: "refund", reveal: policy::Reveal::Full, requested: 1, now: NOW };
        let piece: Piece = Box::new(move || {
            let permit = policy.permit::<Detokenize>(&caller, Resource::Scope(&path), black_box(&context));
            assert!(black_box(permit).is_ok(), "a policy permits it");
        });
        piece
    };
    vec![("policy, remembered", ask("")), ("policy, decided", ask("when { context.requested < 1000 }"))]
}

/// A rulebook with fifty policies, of which three are about what is asked.
fn policy(condition: &str) -> Policy {
    let settings = Settings { prefix: Some("pan".into()), ..Settings::default() };
    let scopes = Scopes::load(&BTreeMap::from([("pan".to_owned(), settings)])).expect("it is right");
    let names: Vec<String> = (0..25).map(|number| format!("service{number}")).collect();
    let id = |name: &String| vec![format!("spiffe://{DOMAIN}/{name}")];
    let roles = names.iter().map(|name| (name.clone(), id(name))).collect();
    let permit = |name: &String, action: &str, condition: &str| {
        format!(
            "@id(\"{name}-{action}\") permit(principal in Cloakroom::Role::\"{name}\", action == Cloakroom::Action::\"{action}\", \
             resource in Cloakroom::Scope::\"pan\") {condition};\n"
        )
    };
    let mut text: String = names.iter().skip(1).map(|name| permit(name, "detokenize", "")).collect();
    text.extend(names.iter().skip(1).map(|name| permit(name, "tokenize", "")));
    text.push_str(&permit(&names[0], "detokenize", condition));
    let sources = vec![PolicySource { file: "bench.cedar".to_owned(), text }];
    Policy::new(Rulebook::load(scopes, &roles, sources, &[DOMAIN.to_owned()]).expect("it is right"))
}

fn caller() -> Caller {
    Caller {
        id: SpiffeId::parse(&format!("spiffe://{DOMAIN}/service0")).expect("it is one"),
        certificate_sha256: [9; 32],
        not_after: NOW,
        peer: "127.0.0.1:1".to_owned(),
    }
}

/// The event of a call of one value, and of a hundred; and its place in the tree.
fn log() -> Vec<(&'static str, Piece)> {
    let encode = |values: usize| {
        let event = sample(values);
        let piece: Piece = Box::new(move || drop(black_box(event::finish(&black_box(&event).encode_body(), NOW))));
        piece
    };
    let stored = event::finish(&sample(1).encode_body(), NOW);
    let mut frontier = Frontier::new();
    vec![
        ("encode event of 1", encode(1)),
        ("encode event of 100", encode(100)),
        ("hash event of 1", Box::new(move || drop(black_box(frontier.append(leaf_hash(black_box(&stored))))))),
    ]
}

fn sample(values: usize) -> Event {
    let handle = [1; 20];
    let count = u32::try_from(values).expect("a few");
    Event {
        action: Action::Detokenize.into(),
        outcome: Outcome::Allowed.into(),
        caller: format!("spiffe://{DOMAIN}/service0"),
        certificate_sha256: Bytes::from_static(&[2; 32]),
        scope: "pan".to_owned(),
        handles: event::handles((0..values).map(|_| Some(&handle))),
        requested: count,
        succeeded: count,
        purpose: "refund".to_owned(),
        peer_address: "127.0.0.1:50000".to_owned(),
        policies: vec!["bench.cedar:1".to_owned()],
        node: "vault-1".to_owned(),
        reveal: Reveal::Full.into(),
        rulebook: Bytes::from_static(&[3; 32]),
        item_outcomes: vec![ItemOutcome::Released.into(); values],
        salt: Bytes::from_static(&[4; 16]),
        ..Event::default()
    }
}
