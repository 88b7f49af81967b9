//! Whether the time of a comparison tells where a secret and a guess differ (C-11): `cargo bench --bench constant_time`
//! `[-- SAMPLES [SEED]]`.
//!
//! Each function of the vault that compares something secret is given guesses that are wrong in their first byte and guesses
//! that are wrong in their last, in random order, and each call is timed. Welch's t between the two classes is computed over
//! all calls and over the fastest 50 to 99 percent of them, since interruptions hide small differences; the largest |t| is
//! printed. Below 5 nothing was seen (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?", 2017). A comparison
//! that stops at the first difference is measured in the same way: if its leak is not seen, the run is worth nothing, and
//! fails. The one crate for this, dudect-bencher, needs clap 2, which nobody keeps; the arithmetic is a page.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use cloakroom::clock::Timestamp;
use cloakroom::crypto::answer::{Lock, Row};
use cloakroom::crypto::record::{self, Header, Record, Salts, State};
use cloakroom::crypto::{DataKey, Handle, KeyVersion, RootKey, ScopeId, VaultId};
use cloakroom::secret::{Secret, SecretBytes, SecretKey};
use std::hint::black_box;
use std::time::Instant;

/// Below it, nothing was seen.
const THRESHOLD: f64 = 5.0;
const LONG: usize = 1024;
const VAULT: VaultId = VaultId([1; 16]);

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let mut number = |otherwise| arguments.next().map_or(otherwise, |text| text.parse().expect("a number"));
    let (samples, seed) = (number(300_000), number(u64::from(std::process::id())));
    println!("{samples} calls each, seed {seed}; |t| below {THRESHOLD} means that nothing was seen");
    let mut bench = Bench { samples, random: seed | 1 };

    let secret = Secret::new([0x5a_u8; LONG]);
    let stopping = |guess: &[u8]| secret.expose().iter().zip(guess).position(|(one, other)| one != other).is_none();
    let control = bench.tell("control: a comparison that stops at the first difference", secret.expose(), 0, stopping);
    bench.tell("Secret::matches, 1,024 bytes", secret.expose(), 0, |guess| secret.matches(guess));
    let short = SecretKey::new([0x5a; 32]);
    bench.tell("Secret::matches, 32 bytes", short.expose(), 0, |guess| short.matches(guess));
    rows(&mut bench);
    assert!(control >= THRESHOLD, "the planted leak was not seen: this machine can't tell; try more samples");
}

/// What stands in the database, edited in the first or last byte of its tag or ciphertext.
fn rows(bench: &mut Bench) {
    let root = RootKey::new(SecretKey::new([2; 32]));
    let meta = root.meta_key(&VAULT);
    let tag = meta.mac("meta", b"row", b"content");
    bench.tell("MetaKey::verify, the tag", &tag, 0, |guess| meta.verify("meta", b"row", b"content", guess));

    let wrapped = root.wrap(&VAULT, "index", KeyVersion(1), &SecretKey::new([3; 32]), [4; 32]);
    let unwrap = |row: &[u8]| root.unwrap(&VAULT, "index", KeyVersion(1), row).is_ok();
    bench.tell("RootKey::unwrap, the tag", &wrapped, wrapped.len() - 16, unwrap);

    let (secret, name, payload) = (SecretKey::new([5; 32]), [6; 32], [7; 32]);
    let lock = Lock { vault: &VAULT, name: &name, secret: &secret, payload: &payload };
    let row = lock.seal(Timestamp::from_millis(1), [8; 16], &SecretBytes::new(vec![9; 64]));
    let open = |row: &[u8]| Row::parse(row).is_ok_and(|row| lock.open(&row).is_ok());
    bench.tell("answer::Lock::open, the tag", &row, row.len() - 16, open);

    let (key, handle) = (DataKey::new(SecretKey::new([10; 32])), Handle::new(7, [11; 16]));
    let salts = Salts { inner: [12; 16], outer: [13; 16] };
    let time = Timestamp::from_millis(1);
    let header = Header {
        state: State::Active,
        scope: ScopeId(1),
        index_key: KeyVersion(1),
        data_key: KeyVersion(1),
        record_version: 1,
        created: time,
        changed: time,
        expires: time,
        uses_left: None,
        subject: None,
        fingerprint: None,
    };
    let canonical = [14; 24];
    let row = record::seal(&VAULT, &handle, &canonical, &key, &header, b"4111111111111111", &salts);
    let unlock = |row: &[u8]| Record::parse(row).is_ok_and(|row| row.unlock_outer(&VAULT, &handle, &key).is_ok());
    bench.tell("Record::unlock_outer, the tag", &row, row.len() - 16, unlock);
    let unlocked = Record::parse(&row).ok().and_then(|row| row.unlock_outer(&VAULT, &handle, &key).ok());
    let unlocked = unlocked.expect("it was just sealed");
    let open = |token: &[u8]| unlocked.open(&VAULT, &handle, token).is_ok();
    bench.tell("Unlocked::open, the token", &canonical, 0, open);
}

struct Bench {
    samples: u64,
    random: u64,
}

impl Bench {
    /// Times `compare` on copies of `right` that are wrong in the byte at `from` or in the last one.
    fn tell(&mut self, title: &str, right: &[u8], from: usize, compare: impl Fn(&[u8]) -> bool) -> f64 {
        assert!(compare(right), "{title}: what is right is taken");
        let mut guess = right.to_vec();
        let mut times = [vec![], vec![]];
        // The first tenth warms up.
        for sample in 0..self.samples + self.samples / 10 {
            let class = usize::from(self.coin());
            let wrong = if class == 0 { from } else { right.len() - 1 };
            // Both bytes are written in each class, so that the copy leaves the caches alike.
            guess[from] = right[from] ^ u8::from(wrong == from);
            guess[right.len() - 1] = right[right.len() - 1] ^ u8::from(wrong != from);
            let begin = Instant::now();
            let taken = compare(black_box(&guess));
            let time = begin.elapsed().as_nanos();
            assert!(!black_box(taken), "{title}: what is wrong is refused");
            if sample >= self.samples / 10 {
                times[class].push(time as f64);
            }
        }
        let largest = largest_t(&times);
        let word = if largest < THRESHOLD { "nothing seen" } else { "told apart" };
        println!("{title:<58} max |t| {largest:7.2}  {word}");
        largest
    }

    /// xorshift64: the order of the classes needs no more.
    fn coin(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random & (1 << 32) != 0
    }
}

fn largest_t(times: &[Vec<f64>; 2]) -> f64 {
    let mut all = times.concat();
    all.sort_by(f64::total_cmp);
    let limits = [50, 60, 70, 80, 90, 95, 99, 100].map(|percent| all[(all.len() - 1) * percent / 100]);
    limits.iter().map(|limit| welch(times, *limit).abs()).fold(0.0, f64::max)
}

/// Welch's t of what took `limit` at most. 0 where there is nothing to compare.
fn welch(times: &[Vec<f64>; 2], limit: f64) -> f64 {
    let moments = |times: &[f64]| {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for time in times.iter().filter(|time| **time <= limit) {
            count += 1.0;
            let distance = time - mean;
            mean += distance / count;
            squares += distance * (time - mean);
        }
        (mean, squares / (count - 1.0) / count)
    };
    let ((left, first), (right, second)) = (moments(&times[0]), moments(&times[1]));
    let spread = (first + second).sqrt();
    if spread > 0.0 { (left - right) / spread } else { 0.0 }
}
