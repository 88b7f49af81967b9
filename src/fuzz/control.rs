//! Faults that are planted, so that it shows whether one would be found. `tests/fuzz.rs` runs them.

use super::Target;

pub(super) const CONTROLS: &[Target] = &[
    Target { name: "control_crash", run: crash, seeds, bytes_at_most: 64 },
    Target { name: "control_slow", run: slow, seeds, bytes_at_most: 64 },
    Target { name: "control_large", run: large, seeds, bytes_at_most: 64 },
];

fn seeds() -> Vec<Vec<u8>> {
    vec![b"nothing of what is looked for".to_vec()]
}

/// Behind eight bytes that nobody guesses: only who sees how far an input came gets there one byte after another.
fn magic(data: &[u8], word: [u8; 4]) -> bool {
    for (byte, wanted) in data.iter().zip(word) {
        if *byte != wanted {
            return false;
        }
    }
    data.get(4..8).is_some_and(|number| number == 0xdead_beef_u32.to_le_bytes())
}

fn crash(data: &[u8]) {
    assert!(!magic(data, *b"FUZZ"), "planted");
}

/// Half a second of work, at least: counted, since the clock goes on for who has to wait for a processor.
fn slow(data: &[u8]) {
    if magic(data, *b"SLOW") {
        let mut hash = [0; 32];
        for _ in 0..5_000_000 {
            hash = crate::merkle::leaf_hash(&hash).0;
        }
        std::hint::black_box(hash);
    }
}

/// 65 MiB, one after the other.
fn large(data: &[u8]) {
    if magic(data, *b"HUGE") {
        let held: Vec<Vec<u8>> = (0..65).map(|number| vec![number; 1 << 20]).collect();
        std::hint::black_box(held);
    }
}
