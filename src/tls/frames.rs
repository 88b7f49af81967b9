//! How many frames a peer may send that ask for nothing.
//!
//! HTTP/2 has frames that cost their sender nine bytes and the receiver work, a reply even: PING, SETTINGS, PRIORITY,
//! WINDOW_UPDATE, empty DATA, frames of no known type. The library reads them as fast as they come. It holds no memory for
//! them, but a thread that reads them serves its other connections less. So they are counted below it, on the decrypted bytes.
//!
//! An honest peer sends such frames because of something: it begins a call, or has received what it allows more of. Either
//! earns it some. Beyond that it has an allowance that no honest peer needs.

use tokio::time::Instant;

/// What a peer has at the beginning, and never more.
const BURST: u32 = 10_000;
/// What it gets back each second.
const PER_SECOND: u32 = 1_000;
/// What it gets for a call that it begins.
const FOR_A_CALL: u32 = 2;
/// What a call costs that it gives up: who gives up every other one is left alone.
const OF_A_RESET: u32 = 4;
/// DATA with less in it counts.
const SMALL_DATA: u32 = 64;
/// It gets one for so many bytes that it is sent. A reply to PING has 17.
const SENT_BYTES: u64 = 64;

const PREFACE_BYTES: u32 = 24;
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// Follows the frames of one connection.
pub(super) struct Meter {
    head: [u8; HEAD_BYTES],
    /// How much of a frame's head has been read.
    read: usize,
    /// What is still to come before the next head.
    skip: u32,
    left: u32,
    /// Calls that have begun and not come to the end of their messages.
    open: u32,
    filled: Instant,
    sent: u64,
}

impl Meter {
    /// Before the first byte.
    pub(super) fn new(now: Instant) -> Self {
        Self { head: [0; HEAD_BYTES], read: 0, skip: PREFACE_BYTES, left: BURST, open: 0, filled: now, sent: 0 }
    }

    /// Bytes have come. False if with them the peer has gone too far. An honest peer's frames need no look at the clock.
    pub(super) fn received(&mut self, mut bytes: &[u8], clock: &impl Fn() -> Instant) -> bool {
        let mut allowed = true;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let length = bytes.len().min(self.skip as usize);
                self.skip -= u32::try_from(length).expect("it is no more than what is to be skipped");
                bytes = &bytes[length..];
                continue;
            }
            let length = bytes.len().min(HEAD_BYTES - self.read);
            self.head[self.read..self.read + length].copy_from_slice(&bytes[..length]);
            self.read += length;
            bytes = &bytes[length..];
            if self.read == HEAD_BYTES {
                self.read = 0;
                self.skip = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]);
                allowed &= self.frame(clock);
            }
        }
        allowed
    }

    /// Bytes went out.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        self.earn(u32::try_from(self.sent / SENT_BYTES).unwrap_or(BURST));
        self.sent %= SENT_BYTES;
    }

    fn frame(&mut self, clock: &impl Fn() -> Instant) -> bool {
        match (self.head[3], self.head[4]) {
            (HEADERS, flags) => {
                self.earn(FOR_A_CALL);
                self.open = self.open.saturating_add(u32::from(flags & END_STREAM == 0));
                true
            }
            // Each call has one end. More of them can be sent for ever, on a stream that was reset.
            (DATA, flags) if flags & END_STREAM != 0 && self.open > 0 => {
                self.open -= 1;
                true
            }
            // What has contents is limited by windows, which a stream that was reset opens again.
            (DATA, flags) if flags & END_STREAM == 0 && self.skip >= SMALL_DATA => true,
            // The library allows few in a row.
            (CONTINUATION, _) => true,
            (RST_STREAM, _) => {
                self.open = self.open.saturating_sub(1);
                self.pay(OF_A_RESET, clock)
            }
            _ => self.pay(1, clock),
        }
    }

    fn earn(&mut self, earned: u32) {
        self.left = self.left.saturating_add(earned).min(BURST);
    }

    fn pay(&mut self, price: u32, clock: &impl Fn() -> Instant) -> bool {
        if self.left < price {
            let now = clock();
            let passed = now.saturating_duration_since(self.filled).as_millis();
            self.filled = now;
            let more = passed.saturating_mul(u128::from(PER_SECOND)) / 1000;
            self.earn(u32::try_from(more).unwrap_or(BURST));
        }
        let paid = self.left >= price;
        self.left -= if paid { price } else { 0 };
        paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PING: u8 = 6;
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], &vec![7; payload]].concat()
    }

    fn begun(now: Instant) -> Meter {
        let mut meter = Meter::new(now);
        assert!(meter.received(&[0xff; PREFACE_BYTES as usize], &|| now));
        meter
    }

    /// How many of these are taken before it is too much.
    fn taken(meter: &mut Meter, frame: &[u8], now: Instant) -> u32 {
        (0..100_000).take_while(|_| meter.received(frame, &|| now)).count().try_into().unwrap()
    }

    #[test]
    fn frames_that_ask_for_nothing_have_an_end_d_04() {
        for (kind, payload, price) in [
            (PING, 8, 1),
            (SETTINGS, 0, 1),
            (2, 5, 1),
            (WINDOW_UPDATE, 4, 1),
            (DATA, 0, 1),
            (DATA, 63, 1),
            (RST_STREAM, 4, 4),
            (200, 99, 1),
        ] {
            let now = Instant::now();
            let mut meter = begun(now);
            let frame = frame(kind, 0, payload);
            assert_eq!(taken(&mut meter, &frame, now), BURST / price, "{kind}");
            let later = now + Duration::from_secs(2);
            assert_eq!(taken(&mut meter, &frame, later), 2 * PER_SECOND / price, "{kind}");
            assert_eq!(taken(&mut meter, &frame, later + Duration::from_hours(1)), BURST / price, "{kind}");
        }
    }

    #[test]
    fn what_comes_with_calls_and_replies_is_free_d_04() {
        let now = Instant::now();
        let mut meter = begun(now);
        let comes = |meter: &mut Meter, kind, flags, payload| {
            assert!(meter.received(&frame(kind, flags, payload), &|| now), "{kind}");
        };
        // A call, half of them given up, each reply's bytes allowed anew, and a question whether we are there.
        for number in 0..200_000 {
            comes(&mut meter, HEADERS, 4, 90);
            comes(&mut meter, DATA, END_STREAM, 60);
            if number % 2 == 0 {
                comes(&mut meter, RST_STREAM, 0, 4);
            } else {
                meter.sent(150);
                comes(&mut meter, WINDOW_UPDATE, 0, 4);
                comes(&mut meter, PING, 0, 8);
            }
        }
        // One long stream, of which each piece is allowed twice.
        for _ in 0..200_000 {
            meter.sent(16_384);
            comes(&mut meter, WINDOW_UPDATE, 0, 4);
            comes(&mut meter, WINDOW_UPDATE, 0, 4);
        }
        meter.sent(1 << 30);
        assert_eq!(taken(&mut meter, &frame(PING, 0, 8), now), BURST, "and never saves up more than it had");
    }

    #[test]
    fn a_call_has_one_end_d_04() {
        let now = Instant::now();
        for payload in [0, 16_000] {
            let mut meter = begun(now);
            let end = frame(DATA, END_STREAM, payload);
            assert!((0..30_000).all(|_| meter.received(&frame(HEADERS, 4, 90), &|| now)));
            assert_eq!(taken(&mut meter, &end, now), 30_000 + BURST, "{payload}");
        }
    }

    #[test]
    fn what_is_within_a_frame_is_no_frame() {
        let pings = frame(PING, 0, 8).repeat(1_000);
        let mut stream = [0xff; PREFACE_BYTES as usize].to_vec();
        for _ in 0..50 {
            stream.extend(frame(DATA, 0, pings.len()));
            let at = stream.len() - pings.len();
            stream[at..].copy_from_slice(&pings);
        }
        let now = Instant::now();
        let mut meter = Meter::new(now);
        // However the bytes are cut.
        for (number, piece) in stream.chunks(7).enumerate() {
            assert!(meter.received(piece, &|| now), "{number}");
        }
        assert_eq!(taken(&mut meter, &frame(PING, 0, 8), now), BURST);
    }
}
