//! How messages are read: a request with more fields than any good one has is refused before it is decoded.
//!
//! Two bytes on the wire are an empty item, and an empty item is a hundred bytes in memory. How many items a batch may have is
//! the vault's affair, and it says so in an event; but that comes after decoding, and a message of a million empty items would
//! have cost a hundred megabytes by then.

use prost::Message;
use prost::bytes::Buf;
use std::any::type_name;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// In a request, counted down to the fields of its fields. A batch of a thousand long tokens comes to some ten thousand, since
/// of bytes alone nobody can tell a text from a message.
const FIELDS_AT_MOST: usize = 65_536;

/// A call's two buffers begin with so many bytes, and grow to the length of its message at once. The library's eight thousand for
/// each would be wiped with every call, and push what is still needed out of the processor's caches.
const BUFFER_BYTES: usize = 512;
/// Of a stream's answers, the library's own: as much as goes to the transport at once.
const SENT_AT_ONCE: usize = 32 * 1024;

/// As the generated code wants it.
pub struct Frugal<T, U>(PhantomData<(T, U)>);

/// The reader of one kind of message.
pub struct FrugalDecoder<U> {
    inner: ProstDecoder<U>,
    is_request: bool,
}

/// The writer of one kind of message.
pub struct FrugalEncoder<T>(PhantomData<T>);

impl<T, U> Default for Frugal<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Frugal<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = FrugalEncoder<T>;
    type Decoder = FrugalDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        FrugalEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        // Answers come from the vault, which their reader trusts with more than this. A test holds the names.
        let is_request = type_name::<U>().ends_with("Request");
        FrugalDecoder { inner: ProstDecoder::new(buffers()), is_request }
    }
}

impl<U: Message + Default> Decoder for FrugalDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The transport gives a message in one piece. What came in several would not be counted, so it would not pass.
        let whole = buffer.chunk().len() == buffer.remaining();
        if self.is_request && !(whole && is_modest(buffer.chunk())) {
            // Whoever made the call is told in our own words, as of every message that can't be read.
            return Err(Status::invalid_argument(""));
        }
        self.inner.decode(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl<T: Message> Encoder for FrugalEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // A buffer that grows is copied and wiped each time.
        buffer.reserve(message.encoded_len());
        message.encode(buffer).map_err(|_| Status::internal(""))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, SENT_AT_ONCE)
}

fn is_modest(message: &[u8]) -> bool {
    let mut left = FIELDS_AT_MOST;
    let mut top = Fields(message);
    for field in &mut top {
        let within = Fields(field).count_up_to(left);
        let Some(rest) = left.checked_sub(1 + within) else { return false };
        left = rest;
    }
    true
}

/// The fields of a message, as far as it is one. Those that are numbers are empty.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn count_up_to(self, most: usize) -> usize {
        self.take(most.saturating_add(1)).count()
    }

    fn varint(&mut self) -> Option<u64> {
        let end = self.0.iter().take(10).position(|byte| byte & 0x80 == 0)?;
        let (digits, rest) = self.0.split_at(end + 1);
        self.0 = rest;
        Some(digits.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)))
    }

    fn take_bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self.varint()? & 7 {
            0 => self.varint().map(|_| &[][..]),
            1 => self.take_bytes(8).map(|_| &[][..]),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.take_bytes(length)
            }
            // Groups, which we have none of: they only begin and end.
            3 | 4 => Some(&[]),
            5 => self.take_bytes(4).map(|_| &[][..]),
            // No message. Decoding says so, and stops here as well.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;

    fn tokenize(items: usize) -> v1::TokenizeRequest {
        let item = v1::TokenizeItem { value: vec![0xff; 40], subject: "s".into(), max_uses: 3, ..Default::default() };
        v1::TokenizeRequest { scope: "pan".into(), items: vec![item; items], ..Default::default() }
    }

    #[test]
    fn what_the_vault_takes_is_modest_d_05() {
        assert!(is_modest(&[]));
        assert!(is_modest(&tokenize(1_000).encode_to_vec()));
        assert!(is_modest(&v1::StreamTokenizeRequest { batch: Some(tokenize(1_000)) }.encode_to_vec()));
        // Texts that look like as many fields as a text can.
        let tokens = vec!["\u{0}".repeat(100); 1_000];
        assert!(is_modest(&v1::DetokenizeRequest { tokens, ..Default::default() }.encode_to_vec()));
        let large = v1::TokenizeItem { value: vec![0; 1 << 20], ..Default::default() };
        assert!(is_modest(&v1::TokenizeRequest { items: vec![large; 3], ..Default::default() }.encode_to_vec()));
    }

    #[test]
    fn a_million_empty_items_are_not_d_05() {
        for (field, items) in [(0x12, 1_000_000), (0x12, FIELDS_AT_MOST + 1), (0x1a, 100_000), (0x22, 100_000)] {
            let message = [field, 0].repeat(items);
            assert!(!is_modest(&message));
            // One level down, as a stream's messages have it.
            let mut nested = vec![0x0a];
            prost::encoding::encode_varint(message.len() as u64, &mut nested);
            nested.extend(message);
            assert!(!is_modest(&nested));
        }
        assert!(is_modest(&[0x12, 0].repeat(FIELDS_AT_MOST)));
        assert!(!is_modest(&[0x20, 1].repeat(1_000_000)), "nor numbers");
        // What is no message is left to decoding, which stops where this does.
        assert!(is_modest(&[0xff; 100]) && is_modest(&[0x12, 0xff, 0xff, 1]));
    }

    #[test]
    fn requests_are_called_so_d_05() {
        let files = prost_types::FileDescriptorSet::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let methods = files.file.iter().filter(|file| file.package() == "cloakroom.v1");
        let methods: Vec<_> = methods.flat_map(|file| &file.service).flat_map(|service| &service.method).collect();
        assert!(methods.len() > 10);
        for method in methods {
            assert!(method.input_type().ends_with("Request") && !method.output_type().ends_with("Request"));
        }
        assert!(Frugal::<v1::TokenizeResponse, v1::TokenizeRequest>::default().decoder().is_request);
        assert!(!Frugal::<v1::TokenizeRequest, v1::TokenizeResponse>::default().decoder().is_request);
    }
}
