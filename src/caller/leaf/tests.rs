use super::*;
use crate::caller::forge::{self, Draft, Extension};
use crate::caller::spiffe;

const ID: &str = "spiffe://a.example/payments";

fn draft() -> Draft {
    Draft::client(ID, "authority", forge::p256_key())
}

/// Nothing here verifies signatures, so any bytes do.
fn check_draft(draft: &Draft) -> Result<Leaf, LeafError> {
    check(&draft.signed(|_| vec![0x30, 0]))
}

fn raw(oid: &[u8], critical: bool, value: &[u8]) -> Extension {
    Extension { oid: oid.to_vec(), critical, value: value.to_vec() }
}

#[test]
fn a_good_certificate_yields_its_id_and_times() {
    let der = draft().signed(|_| vec![0x30, 0]);
    let leaf = check(&der).unwrap();
    assert_eq!(leaf.id.as_str(), ID);
    assert_eq!(leaf.not_before.seconds(), 1_577_836_800);
    assert_eq!(leaf.not_after.seconds(), 2_524_607_999);
    assert_eq!(leaf.sha256, <[u8; 32]>::from(Sha256::digest(&der)));
    let caller = crate::caller::Caller::new(&leaf, "192.0.2.7:4711".parse().unwrap());
    assert_eq!((caller.peer.as_str(), caller.not_after), ("192.0.2.7:4711", leaf.not_after));
}

#[test]
fn rules_of_the_frame_t_01() {
    type Change = fn(&mut Draft);
    let rows: [(&str, LeafError, Change); 15] = [
        ("version 1", LeafError::Version, |draft| draft.version = None),
        ("version 2", LeafError::Version, |draft| draft.version = Some(1)),
        ("serial 0", LeafError::SerialNumber, |draft| draft.serial = vec![0]),
        ("serial negative", LeafError::SerialNumber, |draft| draft.serial = vec![0x80, 1]),
        ("serial of 21 bytes", LeafError::SerialNumber, |draft| draft.serial = vec![1; 21]),
        ("serial of 40 bytes", LeafError::SerialNumber, |draft| draft.serial = vec![1; 40]),
        ("serial not minimal", LeafError::SerialNumber, |draft| draft.serial = vec![0, 1]),
        ("SHA-1", LeafError::SignatureAlgorithm, |draft| draft.algorithm = forge::ECDSA_SHA1.to_vec()),
        ("Ed448 signature", LeafError::SignatureAlgorithm, |draft| draft.algorithm = forge::ED448.to_vec()),
        ("two algorithms", LeafError::Malformed, |draft| draft.outer_algorithm = Some(forge::ECDSA_SHA1.to_vec())),
        ("P-192", LeafError::PublicKey, |draft| draft.public_key = forge::p192_key()),
        ("Ed448", LeafError::PublicKey, |draft| draft.public_key = forge::ed448_key()),
        ("RSA-1024", LeafError::RsaKeyTooSmall, |draft| draft.public_key = forge::rsa_key(1024, 1)),
        ("RSA-1024 behind zeros", LeafError::Malformed, |draft| draft.public_key = forge::rsa_key(1024, 200)),
        ("RSA-2040", LeafError::RsaKeyTooSmall, |draft| draft.public_key = forge::rsa_key(2040, 1)),
    ];
    for (what, error, change) in rows {
        let mut bad = draft();
        change(&mut bad);
        assert_eq!(check_draft(&bad).unwrap_err(), error, "{what}");
    }
    let mut strong = draft();
    strong.public_key = forge::rsa_key(2048, 1);
    strong.serial = vec![0x7f; 20];
    check_draft(&strong).expect("RSA-2048 and a serial of 20 bytes");
}

#[test]
fn rules_of_the_extensions_t_01() {
    let rows: Vec<(&str, LeafError, Draft)> = vec![
        ("no key usage", LeafError::KeyUsageMissing, draft().without(forge::KEY_USAGE)),
        ("not critical", LeafError::KeyUsageNotCritical, draft().with(forge::key_usage(false, &[0x80]))),
        ("keyAgreement only", LeafError::NoDigitalSignature, draft().with(forge::key_usage(true, &[0x08]))),
        ("keyCertSign", LeafError::SignsCertificates, draft().with(forge::key_usage(true, &[0x84]))),
        ("cRLSign", LeafError::SignsRevocationLists, draft().with(forge::key_usage(true, &[0x82]))),
        ("no extended usage", LeafError::ExtendedKeyUsageMissing, draft().without(forge::EXTENDED_KEY_USAGE)),
        ("serverAuth only", LeafError::NoClientAuth, draft().with(forge::extended_key_usage(&[1]))),
        ("no purpose at all", LeafError::NoClientAuth, draft().with(forge::extended_key_usage(&[]))),
        ("any purpose", LeafError::NoClientAuth, draft().with(any_purpose())),
        ("CA:TRUE", LeafError::Authority, draft().with(forge::basic_constraints(true, None))),
        ("CA:TRUE, length 0", LeafError::Authority, draft().with(forge::basic_constraints(true, Some(0)))),
        ("unknown critical", LeafError::UnknownCriticalExtension, draft().with(raw(forge::UNHEARD_OF, true, &[5, 0]))),
        (
            "name constraints, critical",
            LeafError::UnknownCriticalExtension,
            draft().with(raw(forge::NAME_CONSTRAINTS, true, &[0x30, 0])),
        ),
        ("key usage of no bits", LeafError::Malformed, draft().with(raw(forge::KEY_USAGE, true, &[0x30, 0]))),
        ("bytes after it", LeafError::Malformed, draft().with(raw(forge::KEY_USAGE, true, &[3, 2, 7, 0x80, 5, 0]))),
        ("extension twice", LeafError::Malformed, twice()),
    ];
    for (what, error, bad) in rows {
        assert_eq!(check_draft(&bad).unwrap_err(), error, "{what}");
    }
    check_draft(&draft().without(forge::BASIC_CONSTRAINTS)).expect("no basic constraints means no authority");
    check_draft(&draft().with(raw(forge::UNHEARD_OF, false, &[5, 0]))).expect("unknown and not critical");
    check_draft(&draft().with(forge::key_usage(true, &[0x88]))).expect("keyAgreement besides");
    check_draft(&draft().with(forge::extended_key_usage(&[1, 2]))).expect("serverAuth besides");
}

#[test]
fn the_only_uri_is_the_id_t_02() {
    let other = "spiffe://a.example/gateway";
    let rows: Vec<(&str, LeafError, Draft)> = vec![
        ("no names", LeafError::NoUri, draft().without(forge::SUBJECT_ALT_NAME)),
        ("names empty", LeafError::NoUri, draft().with(forge::names(&[]))),
        ("id in a DNS name", LeafError::NoUri, draft().with(forge::names(&[forge::dns(ID)]))),
        ("two", LeafError::SeveralUris, draft().with(forge::names(&[forge::uri(ID), forge::uri(other)]))),
        ("twice the same", LeafError::SeveralUris, draft().with(forge::names(&[forge::uri(ID), forge::uri(ID)]))),
        ("one no id", LeafError::SeveralUris, draft().with(forge::names(&[forge::uri(ID), forge::uri("http://x/")]))),
        ("one unreadable", LeafError::SeveralUris, draft().with(forge::names(&[forge::uri(ID), forge::uri(b"\xff")]))),
        ("unreadable", LeafError::Malformed, draft().with(forge::names(&[forge::uri(b"spiffe://a.example/\xff")]))),
        ("cut short", LeafError::Malformed, draft().with(forge::names(&[forge::uri(ID), vec![0x86, 9, 1]]))),
        ("uri constructed", LeafError::SeveralUris, draft().with(forge::names(&[forge::uri(ID), constructed()]))),
        ("id in the common name", LeafError::NoUri, common_name_only()),
    ];
    for (what, error, bad) in rows {
        assert_eq!(check_draft(&bad).unwrap_err(), error, "{what}");
    }
    let beside = draft().with(forge::names(&[forge::dns("payments.a.example"), forge::uri(ID)]));
    assert_eq!(check_draft(&beside).expect("a DNS name beside it").id.as_str(), ID);
}

#[test]
fn spellings_in_certificates_t_02() {
    for (text, error) in spiffe::tests::refused_spellings() {
        let bad = draft().with(forge::names(&[forge::uri(&text)]));
        assert_eq!(check_draft(&bad).unwrap_err(), LeafError::SpiffeId(error), "{text:?}");
    }
    let longest = spiffe::tests::of_length(spiffe::MAX_ID_BYTES);
    let good = draft().with(forge::names(&[forge::uri(&longest)]));
    assert_eq!(check_draft(&good).unwrap().id.as_str(), longest);
}

#[test]
fn a_server_may_lack_an_id_but_not_have_two() {
    let signed = |draft: &Draft| draft.signed(|_| vec![0x30, 0]);
    assert_eq!(spiffe_id(&signed(&draft())).unwrap().unwrap().as_str(), ID);
    assert_eq!(spiffe_id(&signed(&draft().without(forge::SUBJECT_ALT_NAME))), Ok(None));
    let two = draft().with(forge::names(&[forge::uri(ID), forge::uri(ID)]));
    assert_eq!(spiffe_id(&signed(&two)), Err(LeafError::SeveralUris));
}

#[test]
fn intermediates_must_be_authorities_t_01() {
    let signed = |draft: &Draft| draft.signed(|_| vec![0x30, 0]);
    let authority = Draft::authority("middle", "authority", forge::p256_key());
    assert_eq!(check_issuer(&signed(&authority)), Ok(()));
    for bad in [
        authority.clone().without(forge::KEY_USAGE),
        authority.clone().without(forge::BASIC_CONSTRAINTS),
        authority.clone().with(forge::basic_constraints(false, None)),
        authority.clone().with(forge::key_usage(true, &[0x82])),
    ] {
        assert_eq!(check_issuer(&signed(&bad)), Err(LeafError::NotAnIssuer));
    }
    assert_eq!(check_issuer(b"not a certificate"), Err(LeafError::Malformed));
}

#[test]
fn whatever_byte_is_changed_nothing_panics_t_07() {
    let good = draft().signed(|_| vec![0x30, 0]);
    for position in 0..good.len() {
        for value in [0x00, 0x01, 0x30, 0x7f, 0x80, 0x81, 0x84, 0xff] {
            let mut bad = good.clone();
            bad[position] = value;
            let _ = (check(&bad), check_issuer(&bad), spiffe_id(&bad));
        }
        assert_eq!(check(&good[..position]), Err(LeafError::Malformed), "cut after {position} bytes");
    }
    let longer = [good.as_slice(), &[0]].concat();
    assert_eq!(check(&longer), Err(LeafError::Malformed), "a byte after the end");
}

#[test]
fn two_hundred_thousand_mutations_do_not_panic_t_07() {
    const MUTATIONS: usize = 200_000;
    let mut corpus: Vec<Vec<u8>> = forge::spoilt_leaves()
        .into_iter()
        .map(|(_, _, change)| change(draft(), ID).signed(|_| vec![0x30, 0]))
        .chain(
            [draft(), Draft::authority("middle", "authority", forge::rsa_key(2048, 1))]
                .map(|d| d.signed(|_| vec![0x30, 0])),
        )
        .collect();
    corpus
        .push(draft().with(forge::names(&[forge::uri(ID), constructed(), forge::dns("x")])).signed(|_| vec![0x30, 0]));
    let (mut dice, mut passed) = (forge::Dice::seeded(), 0);
    for good in corpus.iter().cycle().take(MUTATIONS) {
        let mut bad = good.clone();
        dice.mutate(&mut bad);
        if let Ok(leaf) = check(&bad) {
            // What passes is a SPIFFE ID in any case, and was in the certificate.
            assert_eq!(SpiffeId::parse(leaf.id.as_str()), Ok(leaf.id.clone()));
            assert!(bad.windows(leaf.id.as_str().len()).any(|part| part == leaf.id.as_str().as_bytes()));
            passed += 1;
        }
        let _ = (check_issuer(&bad), spiffe_id(&bad));
    }
    println!("T-07: {MUTATIONS} mutated certificates, {passed} still follow the leaf's rules");
    assert!(passed > 0, "the mutations are so coarse that nothing gets past the first rule");
}

#[test]
fn reasons_are_fixed_words() {
    for (error, reason) in [
        (LeafError::Malformed, "certificate_malformed"),
        (LeafError::NoUri, "certificate_no_spiffe_id"),
        (LeafError::SpiffeId(SpiffeError::PathMissing), "spiffe_path_missing"),
    ] {
        assert_eq!(error.reason(), reason);
    }
}

#[test]
fn the_size_of_a_key_is_that_of_its_number_and_not_of_its_bytes() {
    let cases: [(&[u8], usize); 7] =
        [(&[], 0), (&[0], 0), (&[0, 0], 0), (&[1], 1), (&[0, 0x80], 8), (&[0, 1, 0], 9), (&[0, 0x7f, 0xff, 0xff], 23)];
    for (integer, expected) in cases {
        assert_eq!(bits(integer), expected, "{integer:?}");
    }
}

fn any_purpose() -> Extension {
    raw(forge::EXTENDED_KEY_USAGE, false, &forge::sequence(&[&forge::tagged(6, &[0x55, 0x1d, 37, 0])]))
}

fn twice() -> Draft {
    let mut draft = draft();
    draft.extensions.push(forge::key_usage(true, &[0x80]));
    draft
}

/// A URI that claims to be constructed from parts. DER does not allow it; it counts as a URI all the same.
fn constructed() -> Vec<u8> {
    forge::tagged(0xa6, &forge::tagged(22, ID.as_bytes()))
}

fn common_name_only() -> Draft {
    let mut draft = draft().without(forge::SUBJECT_ALT_NAME);
    draft.subject = ID.to_owned();
    draft
}
