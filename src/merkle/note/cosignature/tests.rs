//! Cosignatures against frozen vectors that another program made with another Ed25519.

use super::super::{LogKey, PUBLIC_FORM};
use super::*;
use crate::merkle::leaf_hash;
use proptest::prelude::*;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/cosignature_v1.json")).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn secret(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

fn witness_keys(vectors: &Value) -> Vec<WitnessKey> {
    let keys = vectors["keys"].as_array().unwrap();
    keys.iter().map(|key| WitnessKey::parse(&secret(text(key, "private"))).ok().unwrap()).collect()
}

fn log_key() -> LogKey {
    LogKey::from_seed(Name::new("log.example").unwrap(), &SecretKey::new([1; 32]))
}

fn witness_key() -> WitnessKey {
    WitnessKey::from_seed(Name::new("witness.example").unwrap(), &SecretKey::new([2; 32]))
}

fn signed(key: &LogKey, size: u64, extensions: Vec<String>) -> SignedCheckpoint {
    let checkpoint = Checkpoint::new(key.name().clone(), size, leaf_hash(b"root"), extensions).unwrap();
    SignedCheckpoint::open(&checkpoint.sign(&[key]), key.name(), &[key.verifier()]).unwrap()
}

#[test]
fn frozen_keys_are_read_and_written() {
    let vectors = vectors();
    for (frozen, key) in vectors["keys"].as_array().unwrap().iter().zip(witness_keys(&vectors)) {
        assert_eq!(key.name().as_str(), text(frozen, "name"));
        assert_eq!(key.verifier().id().to_string(), text(frozen, "id"));
        assert_eq!(key.to_text().expose(), format!("{}\n", text(frozen, "private")).as_bytes());
        assert_eq!(key.verifier().to_string(), text(frozen, "public"));
        assert_eq!(text(frozen, "public").parse(), Ok(key.verifier()));
        assert_eq!(format!("{}\n", text(frozen, "public")).parse(), Ok(key.verifier()));
    }
}

#[test]
fn frozen_cosignatures_are_made_and_verified() {
    let vectors = vectors();
    let log: VerifierKey = text(&vectors, "log").parse().unwrap();
    let keys = witness_keys(&vectors);
    for frozen in vectors["cosignatures"].as_array().unwrap() {
        let key = &keys[usize::try_from(frozen["signer"].as_u64().unwrap()).unwrap()];
        let time = frozen["time"].as_u64().unwrap();
        let signed = SignedCheckpoint::open(text(frozen, "note"), log.name(), std::slice::from_ref(&log)).unwrap();
        assert_eq!(format!("{}\n", key.cosign(&signed, time)), text(frozen, "line"), "{}", text(frozen, "name"));
        let cosigned = Note::parse(text(frozen, "cosigned")).unwrap();
        assert_eq!(cosigned.cosigned_by(&key.verifier()), Ok(Some(time)));
        assert_eq!(
            Checkpoint::open(text(frozen, "cosigned"), log.name(), std::slice::from_ref(&log)).as_ref(),
            Ok(signed.checkpoint()),
            "cosignatures do not disturb who trusts the log alone"
        );
    }
}

#[test]
fn frozen_wrong_cosignatures_are_refused() {
    let vectors = vectors();
    let key = witness_keys(&vectors)[0].verifier();
    for frozen in vectors["refused"].as_array().unwrap() {
        let refusal = match Note::parse(text(frozen, "note")).unwrap().cosigned_by(&key) {
            Ok(None) => "none",
            Ok(Some(_)) => "accepted",
            Err(NoteError::BadSignature(_)) => "bad signature",
            Err(_) => "another error",
        };
        assert_eq!(refusal, text(frozen, "error"), "{}", text(frozen, "why"));
    }
}

#[test]
fn only_what_a_trusted_log_signed_can_be_cosigned() {
    let (ours, other) = (log_key(), LogKey::from_seed(Name::new("log.example").unwrap(), &SecretKey::new([9; 32])));
    let note = Checkpoint::new(ours.name().clone(), 5, leaf_hash(b"root"), vec![]).unwrap().sign(&[&other]);
    assert_eq!(SignedCheckpoint::open(&note, ours.name(), &[ours.verifier()]), Err(NoteError::Untrusted));
    assert_eq!(SignedCheckpoint::open(&note, ours.name(), &[]), Err(NoteError::Untrusted));
    assert!(SignedCheckpoint::open(&note, ours.name(), &[other.verifier()]).is_ok());
}

#[test]
fn keys_of_logs_and_witnesses_are_not_mistaken_for_each_other() {
    let seed = SecretKey::new([3; 32]);
    let name = Name::new("same.example").unwrap();
    let (log, witness) = (LogKey::from_seed(name.clone(), &seed), WitnessKey::from_seed(name, &seed));
    assert_ne!(log.verifier().id(), witness.verifier().id(), "the type is part of the id");
    assert_eq!(log.verifier().to_string().parse::<WitnessVerifier>(), Err(KeyError::NotAWitness));
    assert_eq!(witness.verifier().to_string().parse::<VerifierKey>(), Err(KeyError::Algorithm));
    assert_eq!(WitnessKey::parse(&log.to_text()).err(), Some(KeyError::NotAWitness));
    assert_eq!(LogKey::parse(&witness.to_text()).err(), Some(KeyError::Algorithm));
    let whole = String::from_utf8(witness.to_text().expose().clone()).unwrap();
    assert_eq!(whole.parse::<WitnessVerifier>(), Err(KeyError::Private));
    assert_eq!(WitnessKey::parse(&secret(&whole.replace("same", "sane"))).err(), Some(KeyError::Mismatch));
    let public = witness.verifier().to_string();
    assert_eq!(public.replace("same", "sane").parse::<WitnessVerifier>(), Err(KeyError::Mismatch));
    assert_eq!(format!("{public}A").parse::<WitnessVerifier>(), Err(KeyError::Malformed(PUBLIC_FORM)));
}

#[test]
fn a_cosignature_is_no_signature_of_a_log_with_the_same_seed() {
    let seed = SecretKey::new([3; 32]);
    let name = Name::new("same.example").unwrap();
    let (log, witness) = (LogKey::from_seed(name.clone(), &seed), WitnessKey::from_seed(name, &seed));
    let signed = signed(&log, 5, vec![]);
    let cosignature = witness.cosign(&signed, 1_790_000_000);
    // The log's id with the bytes of the cosignature.
    let bytes = cosignature.bytes[TIME_BYTES..].to_vec();
    let passed_off = NoteSignature { name: log.name().clone(), id: log.verifier().id(), bytes };
    let note = Note { text: signed.note().text().to_owned(), signatures: vec![passed_off] };
    assert_eq!(note.verify(&[log.verifier()]), Err(NoteError::BadSignature(log.verifier().id())));
}

#[test]
fn the_witness_key_wipes_itself_and_does_not_print() {
    fn wipes<T: ZeroizeOnDrop>() {}
    // Two ways to read `check` for a type with `Debug` or `Clone`: then this does not compile.
    trait Mute<Why> {
        fn check() {}
    }
    struct Prints;
    struct Copies;
    impl<T> Mute<()> for T {}
    impl<T: fmt::Debug> Mute<Prints> for T {}
    impl<T: Clone> Mute<Copies> for T {}
    wipes::<WitnessKey>();
    <WitnessKey as Mute<_>>::check();
}

proptest! {
    #[test]
    fn what_is_cosigned_verifies_and_nothing_else(
        size: u64,
        seconds in 1..=u64::MAX / 2,
        extensions in prop::collection::vec("[ -~ä☂]{1,20}", 0..3),
        place: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let (log, witness) = (log_key(), witness_key());
        let signed = signed(&log, size, extensions);
        let cosignature = witness.cosign(&signed, seconds);
        prop_assert_eq!(witness.verifier().accepts(signed.note().text(), &cosignature), Some(seconds));
        let mut altered = cosignature;
        let place = place.index(altered.bytes.len());
        altered.bytes[place] ^= 1 << bit;
        prop_assert_eq!(witness.verifier().accepts(signed.note().text(), &altered), None);
    }
}
