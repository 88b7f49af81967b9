//! Messages, held until they are whole.
//!
//! A message begins with its length, and whoever decodes it sets that much memory aside. So five bytes of a peer would be four
//! megabytes of ours, and a connection has hundreds of calls. What is held here grows with what has come, and the decoder sees
//! a length only together with all that it speaks of, or if it is one to be refused.

use hyper::body::Bytes;
use prost::bytes::BytesMut;
use std::collections::VecDeque;

/// Whether it is compressed, and the length.
const HEAD_BYTES: usize = 5;
/// Small pieces are put together in buffers of so many bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// A call's messages, as far as they have come.
pub(super) struct Gather {
    /// Of the message that is not whole.
    held: VecDeque<BytesMut>,
    /// What may go on.
    ready: VecDeque<Bytes>,
    /// The message's head, as far as it has come.
    head: [u8; HEAD_BYTES],
    read: usize,
    /// How much of the message is to come after its head.
    missing: usize,
    longest: usize,
    /// One that is too long goes through as it comes: it will be refused for its length.
    through: bool,
}

impl Gather {
    /// Of messages that are at most so long.
    pub fn new(longest: usize) -> Self {
        let (held, ready) = (VecDeque::new(), VecDeque::new());
        Self { held, ready, head: [0; HEAD_BYTES], read: 0, missing: 0, longest, through: false }
    }

    /// More has come. What goes on at once is given back: the usual call comes in one piece, which need not wait anywhere.
    pub fn push(&mut self, mut data: Bytes) -> Option<Bytes> {
        let whole = self.follow(&data);
        if whole > 0 && whole == data.len() && self.is_empty() {
            return Some(data);
        }
        if whole > 0 {
            self.release();
            self.ready.push_back(data.split_to(whole));
        }
        if !data.is_empty() {
            self.hold(&data);
        }
        None
    }

    /// Nothing more comes: what is held goes on, and whoever decodes it says what is wrong with it.
    pub fn release(&mut self) {
        self.ready.extend(self.held.drain(..).map(BytesMut::freeze));
    }

    /// The next piece that may go on.
    pub fn next(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// Whether a message has begun to come and is not whole.
    pub fn is_begun(&self) -> bool {
        self.read > 0 || self.missing > 0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.ready.is_empty()
    }

    /// Copied: a small piece may be the last user of a large buffer.
    fn hold(&mut self, data: &[u8]) {
        let fits = self.held.back().is_some_and(|last| last.capacity() - last.len() >= data.len());
        if !fits {
            let capacity = if self.held.is_empty() { data.len() } else { data.len().max(BUFFER_BYTES) };
            self.held.push_back(BytesMut::with_capacity(capacity));
        }
        if let Some(last) = self.held.back_mut() {
            last.extend_from_slice(data);
        }
    }

    /// Where in `data` the last message ends that ends in it. 0: none does.
    fn follow(&mut self, data: &[u8]) -> usize {
        let (mut rest, mut whole) = (data, 0);
        loop {
            if self.through {
                return data.len();
            }
            if self.read == HEAD_BYTES {
                let length = rest.len().min(self.missing);
                self.missing -= length;
                rest = &rest[length..];
                if self.missing > 0 {
                    return whole;
                }
                self.read = 0;
                whole = data.len() - rest.len();
            }
            if rest.is_empty() {
                return whole;
            }
            let length = rest.len().min(HEAD_BYTES - self.read);
            self.head[self.read..self.read + length].copy_from_slice(&rest[..length]);
            self.read += length;
            rest = &rest[length..];
            if self.read == HEAD_BYTES {
                let [_, length @ ..] = self.head;
                self.missing = u32::from_be_bytes(length) as usize;
                self.through = self.missing > self.longest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONGEST: usize = 100;

    fn framed(length: usize) -> Vec<u8> {
        let head = u32::try_from(length).unwrap().to_be_bytes();
        [&[0][..], &head, &vec![7; length]].concat()
    }

    fn ready(gather: &mut Gather) -> Vec<u8> {
        std::iter::from_fn(|| gather.next()).flatten().collect()
    }

    /// How much goes on at each piece, and all that goes on.
    fn pass(bytes: &[u8], piece: usize) -> (Vec<usize>, Vec<u8>) {
        let mut gather = Gather::new(LONGEST);
        let (mut lengths, mut passed) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            let at_once = gather.push(Bytes::copy_from_slice(piece)).unwrap_or_default();
            let on = [at_once.to_vec(), ready(&mut gather)].concat();
            lengths.push(on.len());
            passed.extend(on);
        }
        gather.release();
        passed.extend(ready(&mut gather));
        assert!(gather.is_empty());
        (lengths, passed)
    }

    #[test]
    fn a_message_goes_on_when_it_is_whole_d_05() {
        let message = framed(20);
        assert_eq!(pass(&message, 25).0, [25]);
        assert_eq!(pass(&message, 10).0, [0, 0, 25]);
        assert_eq!(pass(&framed(0), 5).0, [5]);
        let three = [framed(20), framed(0), framed(30)].concat();
        assert_eq!(pass(&three, 1_000).0, [65]);
        assert_eq!(pass(&three, 40).0, [30, 35], "what is whole of it");
    }

    #[test]
    fn nothing_is_set_aside_for_a_length_d_05() {
        let mut gather = Gather::new(4 << 20);
        assert!(gather.push(Bytes::from_static(&[0, 0, 0x40, 0, 0])).is_none());
        assert!(gather.next().is_none() && !gather.is_empty());
        // Nor much for a byte at a time.
        for _ in 0..100_000 {
            assert!(gather.push(Bytes::from_static(&[1])).is_none());
        }
        assert!(gather.next().is_none());
        assert!(gather.held.iter().map(BytesMut::capacity).sum::<usize>() < 100_000 + 2 * BUFFER_BYTES);
        gather.release();
        assert_eq!(ready(&mut gather).len(), 100_005);
    }

    #[test]
    fn a_message_that_is_too_long_goes_on_at_once_d_05() {
        assert_eq!(pass(&framed(LONGEST + 1), 5).0[0], 5);
        let after = [framed(3), framed(LONGEST + 1)].concat();
        assert_eq!(pass(&after, 13).0[0], 13);
        assert_eq!(pass(&[0, 0xff, 0xff, 0xff, 0xff], 1).0, [0, 0, 0, 0, 5]);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_or_moved(
            lengths in prop::collection::vec(0usize..120, 0..8),
            cut in 0usize..20,
            piece in 1usize..50,
        ) {
            let mut bytes = lengths.into_iter().flat_map(framed).collect::<Vec<u8>>();
            bytes.truncate(bytes.len().saturating_sub(cut));
            prop_assert_eq!(pass(&bytes, piece).1, bytes);
        }
    }
}
