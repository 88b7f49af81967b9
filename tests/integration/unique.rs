//! Nothing is drawn twice: no token, no salt, no mask. So each key that seals, seals once.
//!
//! A record's outer lock has the key `HKDF(data key, "outer", vault, scope, handle, salt)`, its inner lock the key
//! `HKDF(token, "inner", vault, scope, handle, created, salt)`, with the length of each field in front, so that other fields
//! are other bytes. The data key of a scope and version is one secret, and a token is one; so two sealings have the same key
//! only if they have the same salt. These tests look at the salts alone, which is more than is needed: that no two are the
//! same, over all scopes, handles and versions, after crashes, and in two vaults that went on from the same copy of a disk.
//! The nonce is always the same; so the number of keys is the number of messages.

use crate::harness::{Client, Home, Server, texts};
use crate::verify::assert_clean;
use cloakroom::crypto::{IndexKey, ScopeId};
use cloakroom::keys::entropy::Supply;
use cloakroom::proto::v1;
use cloakroom::secret::Secret;
use cloakroom::store::{Order, RocksConfig, RocksSnapshot, Rows, Table};
use cloakroom::token::{self, Format, opaque};
use std::collections::HashMap;
use std::path::Path;

// === what was drawn ===

/// Every random piece that a store holds, and whose it is.
#[derive(Default)]
struct Drawn {
    /// By the piece: the table, and all of the row that it stands in.
    pieces: HashMap<[u8; 16], (Table, u64)>,
    records: usize,
    resealed: usize,
}

/// A record's salts stand behind its header, whose length its flags say.
fn salts(row: &[u8]) -> [&[u8]; 2] {
    let optional = [4, 32, 32].iter().enumerate().filter(|(bit, _)| row[1] >> bit & 1 == 1);
    let front = 43 + optional.map(|(_, length)| length).sum::<usize>();
    [&row[front..front + 16], &row[front + 16..front + 32]]
}

impl Drawn {
    /// Adds what a stopped or running vault's store holds now. A row that is as it was brings nothing new.
    fn look(&mut self, home: &Home) {
        let rows = RocksSnapshot::open(&home.file("data"), &RocksConfig::default()).unwrap();
        let mut records = 0;
        for (table, pieces) in [
            (Table::Tokens, salts as fn(&[u8]) -> [&[u8]; 2]),
            // The halves of a wrapped key's salt, behind its row's format, state and times and its own format.
            (Table::Keys, |row| [&row[19..35], &row[35..51]]),
            (Table::Requests, |row| [&row[9..25], &row[9..25]]),
            (Table::State, |row| [&row[1..17], &row[1..17]]),
        ] {
            for (key, row) in all(&rows, table) {
                let [first, second] = pieces(&row);
                if table == Table::Tokens {
                    records += 1;
                    // The inner lock is made once for a handle, the outer one for each version of the record.
                    self.add(first, table, identity(&[b"inner", &key, &row[19..27]]));
                    let version = u32::from_be_bytes(row[15..19].try_into().unwrap());
                    let is_new = self.add(second, table, identity(&[b"outer", &key, &row]));
                    self.resealed += usize::from(is_new && version > 1);
                } else {
                    self.add(first, table, identity(&[&key, &row]));
                    self.add(second, table, identity(&[&key, &row]));
                }
            }
        }
        self.records = self.records.max(records);
    }

    /// Whether it is new. It must not be another's.
    fn add(&mut self, piece: &[u8], table: Table, whose: u64) -> bool {
        match self.pieces.insert(piece.try_into().unwrap(), (table, whose)) {
            None => true,
            Some(before) => {
                assert!(
                    before == (table, whose),
                    "a piece of {} was drawn before, in {}",
                    table.name(),
                    before.0.name()
                );
                false
            }
        }
    }
}

/// Tells rows apart; 64 bits of SHA-256 do.
fn identity(parts: &[&[u8]]) -> u64 {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    u64::from_be_bytes(hash.finalize()[..8].try_into().unwrap())
}

fn all(rows: &dyn Rows, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut found, mut next) = (Vec::new(), Vec::new());
    loop {
        let some = rows.scan(table, &next, &[0xff; 40], Order::Ascending, 10_000).unwrap();
        let Some((last, _)) = some.last() else { return found };
        next = [&last[..], &[0]].concat();
        found.extend(some);
    }
}

#[test]
#[should_panic(expected = "was drawn before")]
fn a_piece_that_comes_twice_is_found_c_07() {
    let mut drawn = Drawn::default();
    drawn.add(&[1; 16], Table::Tokens, identity(&[b"one"]));
    drawn.add(&[1; 16], Table::Tokens, identity(&[b"one"]));
    drawn.add(&[1; 16], Table::Tokens, identity(&[b"other"]));
}

// === vaults that crash, and one that becomes two ===

async fn client(home: &Home, server: &Server, name: &str) -> Client {
    server.client(&home.identity(name)).await
}

/// Issues tokens for one value, every tenth with a limit, until there are so many or the vault is gone. The tokens that were
/// acknowledged.
async fn issue(home: &Home, server: &Server, count: usize) -> Vec<String> {
    let gateway = client(home, server, "gateway").await;
    let mut tokens = Vec::new();
    while tokens.len() < count {
        let item = |number| v1::TokenizeItem {
            max_uses: u32::from(number % 10 == 0) * 1000,
            ..crate::harness::item(b"4111111111111111")
        };
        let items = (0..1000.min(count - tokens.len())).map(item).collect();
        let request_id = if tokens.is_empty() { uuid() } else { String::new() };
        let request = v1::TokenizeRequest { scope: "pan".to_owned(), items, request_id, ..Default::default() };
        let Ok(answer) = gateway.tokens().tokenize(request).await else { break };
        let results = answer.into_inner().results;
        tokens.extend(results.into_iter().map(|result| crate::harness::issued(result).unwrap().token));
    }
    tokens
}

fn uuid() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    (bytes[6], bytes[8]) = (bytes[6] & 0x0f | 0x40, bytes[8] & 0x3f | 0x80);
    let digits = hex::encode(bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// Changes tokens, so that each gets a new outer lock: uses where they are limited, and renewals.
async fn reseal(home: &Home, server: &Server, tokens: &[String]) {
    let (payments, operator) = (client(home, server, "payments").await, client(home, server, "operator").await);
    for tokens in tokens.chunks(500) {
        assert!(payments.detokenize("pan", tokens).await.unwrap().iter().all(Result::is_ok));
        let tokens = tokens.to_vec();
        let renew = v1::RenewTokensRequest { scope: "pan".to_owned(), tokens, ..Default::default() };
        operator.tokens().renew_tokens(renew).await.unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

async fn nothing_is_drawn_twice(records: usize, kills: usize) {
    let home = Home::init();
    let mut drawn = Drawn::default();
    let mut tokens: Vec<String> = Vec::new();
    for _ in 0..kills {
        let server = home.serve();
        // The last call is cut off wherever it is.
        let mut some = issue(&home, &server, records / kills).await;
        let pid = rustix::process::Pid::from_raw(server.pid()).unwrap();
        let (more, ()) = tokio::join!(issue(&home, &server, usize::MAX / 2), async {
            reseal(&home, &server, &some[..some.len().min(2_000)]).await;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        });
        server.kill();
        some.extend(more);
        tokens.extend(some);
        drawn.look(&home);
    }
    // Snapshot and fork: two vaults go on from one disk, under the same keys, and do the same to the same tokens.
    let twin = tempfile::Builder::new().prefix("twin-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    copy(home.path(), &twin.path().join("vault"));
    let twin = Home::at(&twin.path().join("vault"));
    let servers = [home.serve(), twin.serve()];
    let again = tokens[..tokens.len().min(2_000)].to_vec();
    let part = records / 10;
    let go_on = async |home: &Home, server: &Server| {
        let issued = issue(home, server, part).await;
        reseal(home, server, &again).await;
        let shown = client(home, server, "payments").await.detokenize("pan", &again[..2]).await.unwrap();
        assert!(shown.iter().all(Result::is_ok));
        issued
    };
    let (one, other) = tokio::join!(go_on(&home, &servers[0]), go_on(&twin, &servers[1]));
    tokens.extend(one);
    tokens.extend(other);
    for (home, server) in [&home, &twin].into_iter().zip(servers) {
        server.stop();
        drawn.look(home);
        assert_clean(home);
    }
    let issued = tokens.len();
    assert!(issued >= records && drawn.records >= records, "{issued} tokens, {} records", drawn.records);
    let mut stats = Statistics::default();
    for (number, token) in tokens.iter().enumerate() {
        let parsed = opaque::parse(token).unwrap_or_else(|_| panic!("a token can be read"));
        let random = parsed.canonical.expose()[3..].try_into().unwrap();
        stats.add(u32::try_from(number).unwrap(), parsed.masked.unwrap(), random);
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), issued, "a token came twice");
    stats.assert_uniform("tokens of one value from vaults that crashed");
    println!(
        "{kills} kill -9 and a fork: {issued} tokens acknowledged, {} records and {} locks made anew: {} pieces of randomness, \
         none of them twice",
        drawn.records,
        drawn.resealed,
        drawn.pieces.len()
    );
    assert!(drawn.resealed > again.len(), "locks were made anew in both");
}

#[tokio::test(flavor = "multi_thread")]
async fn salts_and_tokens_of_vaults_that_crash_and_fork_never_repeat_c_07_l_07() {
    nothing_is_drawn_twice(20_000, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: C-07 with a million records"]
async fn a_million_salts_and_tokens_of_vaults_that_crash_and_fork_never_repeat_c_07_l_07() {
    nothing_is_drawn_twice(1_000_000, 10).await;
}

// === how tokens are distributed ===

/// Fewer than one in so many good generators would look as bad.
const IMPOSSIBLE: f64 = 1e-9;
/// Bytes of a token's body: the masked second and the random bytes.
const BODY: usize = 20;

/// Counts of what would all be equally frequent.
struct Statistics {
    tokens: u64,
    ones: [u64; BODY * 8],
    bytes: Vec<[u64; 256]>,
    /// Of each token and the one before it, added without carry.
    changes: Vec<[u64; 256]>,
    /// A bit of the number, which stands for time, against a bit of the body: how often both are alike.
    alike: Box<[[u64; BODY * 8]; 8]>,
    last: [u8; BODY],
}

impl Default for Statistics {
    fn default() -> Self {
        let (bytes, changes) = (vec![[0; 256]; BODY], vec![[0; 256]; BODY]);
        Self { tokens: 0, ones: [0; BODY * 8], bytes, changes, alike: Box::new([[0; BODY * 8]; 8]), last: [0; BODY] }
    }
}

impl Statistics {
    /// A token of a moment.
    fn add(&mut self, second: u32, masked: [u8; 4], random: [u8; 16]) {
        let mut body = [0; BODY];
        body[..4].copy_from_slice(&masked);
        body[4..].copy_from_slice(&random);
        for (place, byte) in body.iter().enumerate() {
            self.bytes[place][usize::from(*byte)] += 1;
            if self.tokens > 0 {
                self.changes[place][usize::from(*byte ^ self.last[place])] += 1;
            }
            for bit in 0..8 {
                let one = byte >> bit & 1;
                self.ones[place * 8 + bit] += u64::from(one);
                for (of_time, alike) in self.alike.iter_mut().enumerate() {
                    alike[place * 8 + bit] += u64::from(u32::from(one) == second >> of_time & 1);
                }
            }
        }
        self.last = body;
        self.tokens += 1;
    }

    /// What is looked at, and the chance that as much or more comes of a good generator.
    fn chances(&self) -> [(&'static str, f64); 4] {
        let tokens = self.tokens as f64;
        // Of n throws of a coin, the square of the distance from n/2 over n/4; of n of a die with 256 sides, as usual.
        let coins = |counts: &mut dyn Iterator<Item = u64>| -> f64 {
            counts.map(|count| (count as f64 - tokens / 2.0).powi(2) / (tokens / 4.0)).sum()
        };
        let dice = |counts: &[[u64; 256]]| -> f64 {
            let square = |count: &u64, expected: f64| (*count as f64 - expected).powi(2) / expected;
            counts
                .iter()
                .map(|of| {
                    let expected = of.iter().sum::<u64>() as f64 / 256.0;
                    of.iter().map(|count| square(count, expected)).sum::<f64>()
                })
                .sum()
        };
        let coin_count = (BODY * 8) as f64;
        let die_count = (BODY * 255) as f64;
        [
            ("bits", chance(coins(&mut self.ones.iter().copied()), coin_count)),
            ("bytes", chance(dice(&self.bytes), die_count)),
            ("from one to the next", chance(dice(&self.changes), die_count)),
            ("against time", chance(coins(&mut self.alike.iter().flatten().copied()), 8.0 * coin_count)),
        ]
    }

    fn assert_uniform(&self, what: &str) {
        for (of, chance) in self.chances() {
            println!("{what}, {of}: p = {chance:.6}");
            assert!(chance > IMPOSSIBLE && chance < 1.0 - IMPOSSIBLE, "{what}, {of}: p = {chance:e}");
        }
    }
}

/// The chance that a chi-square of so many degrees of freedom is as large or larger, by Wilson and Hilferty (1931), which is
/// good where there are many.
fn chance(chi_square: f64, freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    upper_tail(((chi_square / freedom).cbrt() - (1.0 - spread)) / spread.sqrt())
}

/// Of the normal distribution beyond `z`: by its continued fraction far out, by its series near the middle.
fn upper_tail(z: f64) -> f64 {
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if z < 0.0 {
        1.0 - upper_tail(-z)
    } else if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for step in 1..100 {
            term *= z * z / f64::from(2 * step + 1);
            sum += term;
        }
        0.5 - density * sum
    } else {
        density / (1..200).rev().fold(z, |fraction, step| z + f64::from(step) / fraction)
    }
}

#[test]
fn chances_are_those_of_the_tables_l_07() {
    let near = |ours: f64, table: f64| (ours / table - 1.0).abs() < 0.01;
    for (z, table) in [(0.0, 0.5), (1.0, 0.158_655), (2.0, 0.022_750), (3.0, 0.001_349_9), (6.0, 9.865_9e-10)] {
        assert!(near(upper_tail(z), table), "{z}: {}", upper_tail(z));
    }
    assert!(near(upper_tail(-1.0), 0.841_345));
    // The table's 5 % and 1 % of 100 degrees of freedom.
    assert!(near(chance(124.342, 100.0), 0.05) && near(chance(135.807, 100.0), 0.01));
}

/// Makes tokens as the vault does, from the system's randomness in pieces of a batch, while time goes on.
fn generate(count: u32, spoil: impl Fn(u32, &mut [u8; 16])) -> (Statistics, Vec<u128>) {
    let key = IndexKey::new(Secret::new([7; 32]));
    let format = Format::Opaque { prefix: opaque::Prefix::parse("pan").unwrap() };
    let (mut stats, mut seen) = (Statistics::default(), Vec::with_capacity(count as usize));
    for batch in 0..count.div_ceil(1000) {
        let mut supply = Supply::of(1000 * 48).unwrap();
        for number in batch * 1000..count.min((batch + 1) * 1000) {
            let mut random: [u8; 16] = supply.take();
            // The two salts of its record.
            let _: ([u8; 16], [u8; 16]) = (supply.take(), supply.take());
            spoil(number, &mut random);
            let second = 216_691_200 + u32::try_from(u64::from(number) * 1024 / u64::from(count)).unwrap();
            let issued = token::issue(&format, &key, ScopeId(1), second, random);
            let parsed = opaque::parse(issued.text.expose()).unwrap_or_else(|_| panic!("a token can be read"));
            let random: [u8; 16] = parsed.canonical.expose()[3..].try_into().unwrap();
            stats.add(second, parsed.masked.unwrap(), random);
            seen.push(u128::from_be_bytes(random));
        }
    }
    seen.sort_unstable();
    (stats, seen)
}

fn repeats(sorted: &[u128]) -> usize {
    sorted.windows(2).filter(|pair| pair[0] == pair[1]).count()
}

fn tokens_are_random(count: u32) {
    let (stats, seen) = generate(count, |_, _| {});
    assert_eq!((repeats(&seen), seen.len()), (0, count as usize));
    stats.assert_uniform(&format!("{count} tokens"));
}

#[test]
fn tokens_are_uniform_and_none_comes_twice_l_07() {
    tokens_are_random(200_000);
}

#[test]
#[ignore = "long: L-07 with ten million tokens"]
fn ten_million_tokens_are_uniform_and_none_comes_twice_l_07() {
    tokens_are_random(10_000_000);
}

/// Makes randomness worse.
type Spoil = fn(u32, &mut [u8; 16]);

/// The control: each of these generators is found out.
#[test]
fn tokens_of_a_bad_generator_are_found_out_l_07() {
    let worst = |stats: &Statistics| {
        let chances = stats.chances().map(|(_, chance)| chance.min(1.0 - chance));
        chances.into_iter().fold(1.0, f64::min)
    };
    let spoilt: [(&str, Spoil); 4] = [
        ("a byte that is never above 250", |_, random| random[5] %= 251),
        ("one bit that is set too often", |number, random| random[9] |= u8::from(number % 10 == 0)),
        ("the time in it", |number, random| random[15] = random[15] & 0xfe | u8::try_from(number / 49 % 2).unwrap()),
        ("a counter", |number, random| random[..4].copy_from_slice(&number.to_be_bytes())),
    ];
    for (what, spoil) in spoilt {
        let (stats, _) = generate(50_000, spoil);
        println!("{what}: p = {:e}", worst(&stats));
        assert!(worst(&stats) < IMPOSSIBLE, "{what} was not found out: {:?}", stats.chances());
    }
    let (_, seen) = generate(50_000, |_, random| random[..14].fill(0));
    assert!(repeats(&seen) > 0, "tokens that come twice were not found");
}

/// Through the whole vault: the same value and many values give tokens that look alike.
#[tokio::test]
async fn tokens_do_not_depend_on_their_values_l_07() {
    let home = Home::init();
    let server = home.serve();
    let gateway = client(&home, &server, "gateway").await;
    let mut stats = Statistics::default();
    // What stands for time here is the value: its lowest bits.
    for number in 0..20_u32 {
        let values: Vec<Vec<u8>> = (0..1000).map(|place: u32| (number * 1000 + place).to_be_bytes().to_vec()).collect();
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        for (place, token) in (0..).zip(texts(&gateway.tokenize("pan", &values).await)) {
            let parsed = opaque::parse(&token).unwrap_or_else(|_| panic!("a token can be read"));
            let random = parsed.canonical.expose()[3..].try_into().unwrap();
            stats.add(number * 1000 + place, parsed.masked.unwrap(), random);
        }
    }
    stats.assert_uniform("tokens against their values");
    server.stop();
}
