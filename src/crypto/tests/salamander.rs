//! What commits a sealed row to its keys (C-09), since AES-GCM does not.
//!
//! Who knows two keys can make one ciphertext with one tag that opens under both, to different texts: an *invisible
//! salamander* (Dodis, Grubbs, Ristenpart, Woodage, "Fast Message Franking: From Invisible Salamanders to Encryptment", 2018;
//! Albertini and others, "How to Abuse and Fix Authenticated Encryption Without Key Commitment", 2020). Here some are made, of
//! each kind of row that is sealed. Each does open under both keys, as long as nobody asks where they come from. They are
//! refused because no caller brings a key: which one opens a row follows from names that only one key can have.
//!
//! * The inner lock's key follows from the token, and the row's key, the handle, is an HMAC of it: 16 bytes that a second
//!   token does not have, short of a collision of HMAC-SHA256 cut to 128 bits, which takes the index key and 2^64 steps.
//! * The outer lock's key follows from scope, version of the data key, handle and salt. The row names version and scope under
//!   its tag, and no other version is tried.
//! * A wrapped key's row ends with a whole HMAC-SHA256 under a key that follows from the root key.
//! * A remembered answer lies under a whole HMAC-SHA256 of its request id.

use aes_gcm::KeyInit;
use aes_gcm::aes::Aes256Enc;
use aes_gcm::aes::cipher::BlockCipherEncrypt;

use super::super::aead::OneTimeKey;
use super::*;
use crate::clock::Timestamp;
use crate::crypto::record::{Header, Record, Salts, State};

const VAULT: VaultId = VaultId([5; 16]);
const SCOPE: ScopeId = ScopeId(7);
const SALTS: Salts = Salts { inner: [1; 16], outer: [2; 16] };
const CREATED: u64 = 1_794_528_000_123;
/// Blocks of a sealed text, of which the last one is chosen by algebra.
const BLOCKS: usize = 4;
const TEXT_BYTES: usize = BLOCKS * 16;

// === the algebra of GCM (NIST SP 800-38D) ===

/// An element of GCM's field, its bits in GCM's order: the highest is the coefficient of 1.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Element(u128);

impl Element {
    const ONE: Self = Self(1 << 127);

    fn of(block: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes[..block.len()].copy_from_slice(block);
        Self(u128::from_be_bytes(bytes))
    }

    fn plus(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    fn times(self, other: Self) -> Self {
        let (mut product, mut power) = (0, other.0);
        for bit in (0..128).rev() {
            if self.0 >> bit & 1 == 1 {
                product ^= power;
            }
            power = (power >> 1) ^ if power & 1 == 1 { 0xe1 << 120 } else { 0 };
        }
        Self(product)
    }

    fn power(self, exponent: u32) -> Self {
        (0..exponent).fold(Self::ONE, |power, _| power.times(self))
    }

    /// By Fermat: to the power of 2^128 - 2.
    fn inverse(self) -> Self {
        let (mut inverse, mut square) = (Self::ONE, self);
        for _ in 1..128 {
            square = square.times(square);
            inverse = inverse.times(square);
        }
        inverse
    }
}

/// What GCM makes of a key, under the nonce that is always used here.
struct Opened {
    cipher: Aes256Enc,
    hash_key: Element,
}

impl Opened {
    fn new(key: &[u8; 32]) -> Self {
        let cipher = Aes256Enc::new(key.into());
        let hash_key = Element(Self::encrypt(&cipher, 0));
        Self { cipher, hash_key }
    }

    fn encrypt(cipher: &Aes256Enc, block: u128) -> u128 {
        let mut block = block.to_be_bytes().into();
        cipher.encrypt_block(&mut block);
        u128::from_be_bytes(block.into())
    }

    /// The block that the text's block is added to.
    fn stream(&self, block: usize) -> [u8; 16] {
        Self::encrypt(&self.cipher, 2 + block as u128).to_be_bytes()
    }

    /// The tag of a ciphertext.
    fn tag(&self, associated: &[u8], sealed: &[u8]) -> Element {
        let lengths = (associated.len() as u128) << 67 | (sealed.len() as u128) << 3;
        let blocks = associated.chunks(16).chain(sealed.chunks(16)).map(Element::of).chain([Element(lengths)]);
        let hash = blocks.fold(Element(0), |hash, block| hash.plus(block).times(self.hash_key));
        hash.plus(Element(Self::encrypt(&self.cipher, 1)))
    }
}

/// A ciphertext and its tag that open under both keys: what stands in `blocks` is kept, and the last block is solved for.
fn salamander(keys: &[[u8; 32]; 2], associated: &[u8], blocks: &[u8]) -> (Vec<u8>, [u8; 16]) {
    let [a, b] = keys.each_ref().map(Opened::new);
    let mut sealed = [blocks, &[0; 16]].concat();
    // Behind the last block stands only that of the lengths, so it counts with the square of the hash key. Both tags are the
    // same if x·a² + tag(a) = x·b² + tag(b).
    let difference = a.tag(associated, &sealed).plus(b.tag(associated, &sealed));
    let last = difference.times(a.hash_key.power(2).plus(b.hash_key.power(2)).inverse());
    let end = sealed.len() - 16;
    sealed[end..].copy_from_slice(&last.0.to_be_bytes());
    let tag = a.tag(associated, &sealed);
    assert_eq!(tag, b.tag(associated, &sealed));
    (sealed, tag.0.to_be_bytes())
}

fn opened(key: [u8; 32], associated: &[u8], sealed: &[u8], tag: [u8; 16]) -> Option<Vec<u8>> {
    let mut text = sealed.to_vec();
    OneTimeKey::new(Secret::new(key)).open(associated, &mut text, &tag).ok().map(|()| text)
}

#[test]
fn the_field_is_gcms() {
    let element = Element(0x66e9_4bd4_ef8a_2c3b_884c_fa59_ca34_2b2e);
    // GHASH of one block, from test case 2 of the GCM paper.
    let (block, lengths) = (Element(0x0388_dace_60b6_a392_f328_c2b9_71b2_fe78), Element(0x80));
    let hash = block.times(element).plus(lengths).times(element);
    assert_eq!(hash, Element(0xf38c_bb1a_d692_23dc_c345_7ae5_b6b0_f885));
    assert_eq!(element.times(element.inverse()), Element::ONE);
    assert_eq!(element.power(2), element.times(element));
}

/// The control: without something that commits, it works.
#[test]
fn one_ciphertext_opens_under_two_keys_where_nothing_commits_c_09() {
    let keys = [[3; 32], [4; 32]];
    let (sealed, tag) = salamander(&keys, b"front", b"some blocks that are the same...");
    let texts = keys.map(|key| opened(key, b"front", &sealed, tag).expect("it opens"));
    assert_ne!(texts[0], texts[1]);
    assert!(opened([5; 32], b"front", &sealed, tag).is_none());
}

// === tokens ===

fn data_key(byte: u8) -> DataKey {
    DataKey::new(Secret::new([byte; 32]))
}

fn header(version: u32) -> Header {
    let time = Timestamp::from_millis(CREATED);
    Header {
        state: State::Active,
        scope: SCOPE,
        index_key: KeyVersion(1),
        data_key: KeyVersion(version),
        record_version: 1,
        created: time,
        changed: time,
        expires: Timestamp::from_millis(u64::MAX),
        uses_left: None,
        subject: None,
        fingerprint: None,
    }
}

fn canonical(number: u32) -> Vec<u8> {
    [&b"pan"[..], &u128::from(number).to_be_bytes()].concat()
}

fn inner(handle: &Handle, number: u32) -> [u8; 32] {
    let fields = [INNER, &VAULT.0, &SCOPE.0.to_be_bytes(), handle.as_bytes(), &CREATED.to_be_bytes(), &SALTS.inner];
    *kdf::Source::from_secret(&canonical(number)).derive(fields).expose()
}

/// The place of a token, as the vault finds it.
fn place(index: &IndexKey, number: u32) -> Handle {
    Handle::new(216_691_200, index.locate(SCOPE, &canonical(number)).tail)
}

/// The front of a row and its outer lock around `sealed`, as who has the data key can make them.
fn row_around(handle: &Handle, key: &DataKey, sealed: &[u8]) -> Vec<u8> {
    let whole = record::seal(&VAULT, handle, &canonical(0), key, &header(1), b"", &SALTS);
    let front = &whole[..43 + 32];
    let mut text = sealed.to_vec();
    let tag = key.outer_key(&VAULT, SCOPE, handle, &SALTS.outer).seal(front, &mut text);
    [front, &text, &tag].concat()
}

#[test]
fn a_row_that_would_open_for_two_tokens_is_found_for_one_c_09() {
    let (index, key) = (IndexKey::new(Secret::new([3; 32])), data_key(9));
    // The thief has every key and as many tokens as he likes. The value's length stands in front, so he looks for two tokens
    // under which the first four bytes of a text come out the same, in the row of a third.
    let stolen = place(&index, 0);
    let mut seen = std::collections::HashMap::new();
    let (one, other) = (1..)
        .find_map(|number| {
            let stream = Opened::new(&inner(&stolen, number)).stream(0);
            Some((seen.insert(stream[..4].to_vec(), number)?, number))
        })
        .expect("there are more tokens than such bytes");
    let keys = [inner(&stolen, one), inner(&stolen, other)];
    let mut blocks = [0; TEXT_BYTES - 16];
    let length = u32::try_from(TEXT_BYTES - 4).unwrap().to_be_bytes();
    let texts = [[&length[..], b"to Alice: 10"].concat(), b"to Bob: 10000000".to_vec()];
    for ((block, text), key) in texts.iter().enumerate().zip(&keys) {
        for (place, (byte, stream)) in text.iter().zip(Opened::new(key).stream(block)).enumerate() {
            blocks[block * 16 + place] = byte ^ stream;
        }
    }
    let (sealed, tag) = salamander(&keys, &[], &blocks);
    let row = row_around(&stolen, &key, &[&sealed[..], &tag].concat());
    let unlocked = Record::parse(&row).unwrap().unlock_outer(&VAULT, &stolen, &key).unwrap();
    let values = [one, other].map(|number| unlocked.open(&VAULT, &stolen, &canonical(number)).ok().unwrap());
    assert!(
        values[0].expose().starts_with(b"to Alice: 10") && values[1].expose()[12..].starts_with(b"to Bob: 10000000")
    );
    assert!(!values[0].matches(values[1].expose()), "the control: one row, two values");

    // And yet neither of the two is ever asked for there: the place says whose row it is.
    for number in [one, other] {
        let found = place(&index, number);
        assert_ne!(found, stolen, "its tail commits to the token");
        // Put where the vault looks for it, the row does not open.
        assert!(Record::parse(&row).unwrap().unlock_outer(&VAULT, &found, &key).is_err());
    }
    let honest = place(&index, one);
    let row = record::seal(&VAULT, &honest, &canonical(one), &key, &header(1), b"good", &SALTS);
    let unlocked = Record::parse(&row).unwrap().unlock_outer(&VAULT, &honest, &key).unwrap();
    assert!(unlocked.open(&VAULT, &honest, &canonical(one)).is_ok_and(|value| value.matches(b"good")));
    println!("one row with two values for two of {} tokens, and a place of its own for each", seen.len());
}

// === data keys ===

#[test]
fn a_row_that_would_open_under_two_data_keys_names_one_c_09() {
    let index = IndexKey::new(Secret::new([3; 32]));
    let handle = place(&index, 1);
    let versions = [data_key(9), data_key(10)];
    let outer = |key: &DataKey| {
        let fields = [OUTER, &VAULT.0, &SCOPE.0.to_be_bytes()[..], handle.as_bytes(), &SALTS.outer];
        *key.0.derive(fields).expose()
    };
    let keys = versions.each_ref().map(outer);
    let whole = record::seal(&VAULT, &handle, &canonical(1), &versions[0], &header(1), b"", &SALTS);
    let front = &whole[..43 + 32];
    let (sealed, tag) = salamander(&keys, front, &[0x5a; TEXT_BYTES - 16]);
    let row = [front, &sealed, &tag].concat();
    let record = Record::parse(&row).unwrap();
    assert!(
        versions.iter().all(|key| record.unlock_outer(&VAULT, &handle, key).is_ok()),
        "the control: it opens twice"
    );
    // The keyring has one key for a scope and a version, and the version stands under both tags.
    assert_eq!(record.claimed_header().data_key, KeyVersion(1));
    let mut renamed = row.clone();
    renamed[11..15].copy_from_slice(&2_u32.to_be_bytes());
    let renamed = Record::parse(&renamed).unwrap();
    assert_eq!(renamed.claimed_header().data_key, KeyVersion(2));
    assert!(versions.iter().all(|key| renamed.unlock_outer(&VAULT, &handle, key).is_err()));
    // Nor does what comes out open for the token.
    for key in &versions {
        assert!(record.unlock_outer(&VAULT, &handle, key).unwrap().open(&VAULT, &handle, &canonical(1)).is_err());
    }
}

// === root keys ===

#[test]
fn a_wrapped_key_that_would_open_under_two_root_keys_verifies_under_one_c_09() {
    let roots = [1, 2].map(|byte| RootKey::new(Secret::new([byte; 32])));
    let (id, version) = ("index", KeyVersion(1));
    // The key is two blocks long, and one of them is solved for.
    let mut wrapped = roots[0].wrap(&VAULT, id, version, &Secret::new([9; 32]), [7; 32]);
    let wrapping = |root: &RootKey| {
        let fields = [WRAP, &VAULT.0, id.as_bytes(), &version.0.to_be_bytes(), &[7; 32]];
        *root.0.derive(fields).expose()
    };
    let head = wrapped[..33].to_vec();
    let (sealed, tag) = salamander(&roots.each_ref().map(wrapping), &head, &wrapped[33..49]);
    wrapped.truncate(33);
    wrapped.extend([&sealed[..], &tag].concat());
    let keys = roots
        .each_ref()
        .map(|root| root.unwrap(&VAULT, id, version, &wrapped).unwrap_or_else(|_| panic!("the control")));
    assert!(!keys[0].matches(keys[1].expose()), "one row, two keys");
    let [mine, other] = roots.each_ref().map(|root| root.meta_key(&VAULT));
    let mac = mine.mac("keys", b"index", &wrapped);
    assert!(mine.verify("keys", b"index", &wrapped, &mac));
    assert!(!other.verify("keys", b"index", &wrapped, &mac), "the row's MAC commits to the root key");
}
