//! T-01, T-02, T-11 and T-12 through real handshakes. The rows for the leaf's own rules are in `caller::leaf` too; here
//! they show that nobody gets past the acceptor with them.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

use super::door::{Authority, Credentials, Door, PAYMENTS, signing_key, write_pem};
use crate::caller::forge::{self, Dice, Draft, Extension};
use crate::caller::spiffe;
use crate::tls::provider::provider;
use crate::tls::verifier::DomainVerifier;
use crate::tls::{TrustDomainBundle, build_server_config, server};

#[tokio::test]
async fn spoilt_leaves_are_refused_t_01() {
    let mut door = Door::open().await;
    for (what, reason, change) in forge::spoilt_leaves() {
        let credentials = door.a.client_with(PAYMENTS, |draft| change(draft, PAYMENTS));
        door.refuses(what, &credentials, reason).await;
    }
}

#[tokio::test]
async fn chains_that_do_not_verify_are_refused_t_01() {
    let mut door = Door::open().await;
    for (what, reason, credentials) in bad_chains(&door.a) {
        door.refuses(what, &credentials, reason).await;
    }
}

fn bad_chains(a: &Authority) -> Vec<(&'static str, &'static str, Credentials)> {
    let below = |name: &str, change: fn(Draft) -> Draft| {
        let middle = a.intermediate(name, change);
        middle.client(PAYMENTS).below(&middle)
    };
    let mut flipped = a.client(PAYMENTS);
    *flipped.chain[0].last_mut().unwrap() ^= 1;
    let mut longer = a.client(PAYMENTS);
    longer.chain[0].push(0);
    let mut not_der = a.client(PAYMENTS);
    not_der.chain[0] = b"not a certificate".to_vec();
    let foreign = Credentials { key: a.client(PAYMENTS).key, ..a.client(PAYMENTS) };
    let middle = a.intermediate("middle", |draft| draft);
    let constrained = a.intermediate("ends here", |draft| draft.with(forge::basic_constraints(true, Some(0))));
    let too_deep = constrained.intermediate("too deep", |draft| draft);
    let mut many = a.client(PAYMENTS);
    many.chain.extend(std::iter::repeat_n(middle.der.clone(), 7));
    vec![
        ("unknown authority", "certificate_unknown_issuer", Authority::new("stranger").client(PAYMENTS)),
        ("same name, other key", "certificate_bad_signature", Authority::new("a").client(PAYMENTS)),
        ("self-signed", "certificate_unknown_issuer", self_signed()),
        ("signature changed", "certificate_bad_signature", flipped),
        ("a byte after the end", "certificate_malformed", longer),
        ("not DER", "certificate_malformed", not_der),
        ("another's key", "key_possession_not_proven", foreign),
        ("intermediate not sent", "certificate_unknown_issuer", middle.client(PAYMENTS)),
        ("path length exceeded", "certificate_chain_invalid", {
            too_deep.client(PAYMENTS).below(&too_deep).below(&constrained)
        }),
        ("intermediate without CA flag", "certificate_intermediate_not_issuer", {
            below("no flag", |draft| draft.without(forge::BASIC_CONSTRAINTS))
        }),
        ("intermediate CA:FALSE", "certificate_intermediate_not_issuer", {
            below("false", |draft| draft.with(forge::basic_constraints(false, None)))
        }),
        ("intermediate without keyCertSign", "certificate_intermediate_not_issuer", {
            below("cannot sign", |draft| draft.with(forge::key_usage(true, &[0x02])))
        }),
        ("intermediate expired", "certificate_expired", {
            below("late", |draft| Draft { not_after: "200102000000Z".into(), ..draft })
        }),
        ("intermediate for servers only", "certificate_no_client_auth", {
            below("servers", |draft| draft.with(forge::extended_key_usage(&[1])))
        }),
        ("intermediate signed with SHA-1", "certificate_signature_algorithm", {
            below("old", |draft| Draft { algorithm: forge::ECDSA_SHA1.into(), ..draft })
        }),
        ("intermediate with URI constraints", "certificate_chain_invalid", {
            below("constrained", |draft| draft.with(uri_constraint()))
        }),
        ("a leaf as intermediate", "certificate_intermediate_not_issuer", leaf_as_issuer(a)),
        ("seven intermediates", "certificate_chain_too_long", many),
    ]
}

#[tokio::test]
async fn good_chains_come_in_t_01() {
    let door = Door::open().await;
    let middle = door.a.intermediate("middle", |draft| draft);
    let lower = middle.intermediate("lower", |draft| draft);
    let deep = lower.client(PAYMENTS).below(&lower).below(&middle);
    assert!(door.visit(&deep).await.greeting.starts_with(PAYMENTS));
    let mut six = vec![door.a.intermediate("level 0", |draft| draft)];
    for number in 1..6 {
        six.push(six[number - 1].intermediate(&format!("level {number}"), |draft| draft));
    }
    let deepest = six.iter().rev().fold(six[5].client(PAYMENTS), Credentials::below);
    assert!(door.visit(&deepest).await.greeting.starts_with(PAYMENTS));
    let with_root = door.a.client(PAYMENTS).below(&door.a);
    assert!(door.visit(&with_root).await.greeting.starts_with(PAYMENTS));
    let algorithms: [&'static SignatureAlgorithm; 4] =
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256];
    for algorithm in algorithms {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let draft = Draft::client(PAYMENTS, &door.a.name, key.subject_public_key_info());
        let credentials = Credentials { chain: vec![door.a.sign(&draft)], key: signing_key(&key) };
        assert!(door.visit(&credentials).await.greeting.starts_with(PAYMENTS));
    }
}

/// What the certificate library makes when asked nicely is what the door wants.
#[tokio::test]
async fn certificates_from_a_library_come_in_t_01() {
    let door = Door::open().await;
    let issuer = Issuer::from_ca_cert_der(&door.a.der.clone().into(), &door.a.key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(PAYMENTS.try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let credentials = Credentials { chain: vec![certificate.der().to_vec()], key: signing_key(&key) };
    assert!(door.visit(&credentials).await.greeting.starts_with(PAYMENTS));
}

#[tokio::test]
async fn spellings_of_ids_are_refused_t_02() {
    let mut door = Door::open().await;
    for (text, error) in spiffe::tests::refused_spellings() {
        let credentials = door.a.client(&text);
        door.refuses(&format!("{text:?}"), &credentials, error.reason()).await;
    }
    let names: [(&str, &str, Vec<Vec<u8>>); 4] = [
        ("two ids", "certificate_several_uris", vec![forge::uri(PAYMENTS), forge::uri("spiffe://a.example/x")]),
        ("an id and a web page", "certificate_several_uris", vec![forge::uri(PAYMENTS), forge::uri("http://x/")]),
        ("bytes that are no text", "certificate_malformed", vec![forge::uri(b"spiffe://a.example/\xff")]),
        ("a name cut short", "certificate_malformed", vec![forge::uri(PAYMENTS), vec![0x86, 9, 1]]),
    ];
    for (what, reason, names) in names {
        let credentials = door.a.client_with(PAYMENTS, |draft| draft.with(forge::names(&names)));
        door.refuses(what, &credentials, reason).await;
    }
    let longest = spiffe::tests::of_length(spiffe::MAX_ID_BYTES);
    assert!(door.visit(&door.a.client(&longest)).await.greeting.starts_with(&longest));
}

#[tokio::test]
async fn an_authority_speaks_for_its_own_domain_only_t_11() {
    let mut door = Door::open().await;
    let confused = door.b.client(PAYMENTS);
    door.refuses("b speaks for a", &confused, "trust_domain_mismatch").await;
    let confused = door.a.client("spiffe://b.example/gateway");
    door.refuses("a speaks for b", &confused, "trust_domain_mismatch").await;
    let middle = door.b.intermediate("middle", |draft| draft);
    let confused = middle.client(PAYMENTS).below(&middle);
    door.refuses("an intermediate of b speaks for a", &confused, "trust_domain_mismatch").await;
    let both = Authority { name: "a".into(), ..Authority::new("b") };
    let confused = both.client(PAYMENTS);
    door.refuses("a stranger under the name of a", &confused, "certificate_bad_signature").await;
    let elsewhere = door.a.client("spiffe://c.example/x");
    door.refuses("a speaks for a domain that nobody knows", &elsewhere, "trust_domain_mismatch").await;
    let stranger = Authority::new("c").client("spiffe://c.example/x");
    door.refuses("a stranger from elsewhere", &stranger, "unknown_trust_domain").await;
    for lookalike in ["spiffe://a.example.b.example/payments", "spiffe://a-example/payments", "spiffe://a/payments"] {
        let credentials = Authority::new("c").client(lookalike);
        door.refuses(lookalike, &credentials, "unknown_trust_domain").await;
    }
}

/// Domains often give their authorities the same name; then it is not the name that gives the foreign one away.
#[tokio::test]
async fn authorities_of_one_name_are_told_apart_t_11() {
    let mut door = Door::open().await;
    let twin = Authority::new("a");
    write_pem(&door.files.path().join("b.pem"), "CERTIFICATE", &twin.der);
    door.server_config.store(build_server_config(&door.config).unwrap());
    let (own, outcome) = door.knock(door.client_config(Some(&twin.client(PAYMENTS)))).await;
    assert!(outcome.is_err());
    let failure = door.failure().await;
    assert_eq!((failure.reason, failure.peer), ("trust_domain_mismatch", own));
    door.visit(&door.a.client(PAYMENTS)).await.is_served().await;
    door.visit(&twin.client("spiffe://b.example/gateway")).await.is_served().await;
}

#[tokio::test]
async fn an_authority_that_was_removed_lets_nobody_in_t_12() {
    let mut door = Door::open().await;
    let before = door.a.client(PAYMENTS);
    let mut guest = door.visit(&before).await;
    let after = Authority::new("a");
    write_pem(&door.files.path().join("a.pem"), "CERTIFICATE", &after.der);
    door.server_config.store(build_server_config(&door.config).unwrap());
    let (_, outcome) = door.knock(door.client_config(Some(&before))).await;
    assert!(outcome.is_err());
    assert_eq!(door.failure().await.reason, "certificate_bad_signature");
    door.visit(&after.client(PAYMENTS)).await.is_served().await;
    // Those who are in stay until somebody closes their connections.
    guest.is_served().await;
    assert_eq!(door.connections.close_where(|connection| connection.caller.certificate_sha256 == before.sha256()), 1);
    assert!(guest.echo().await.is_err());
}

/// Permits URIs under `a.example` only; no library here checks such a constraint, so the chain must not pass.
fn uri_constraint() -> Extension {
    let subtree = forge::sequence(&[&forge::uri("a.example")]);
    forge::critical(forge::NAME_CONSTRAINTS, &forge::sequence(&[&forge::tagged(0xa0, &subtree)]))
}

fn self_signed() -> Credentials {
    let key = KeyPair::generate().unwrap();
    let draft = Draft::client(PAYMENTS, "client", key.subject_public_key_info());
    Credentials { chain: vec![draft.signed(|bytes| key.sign(bytes).unwrap())], key: signing_key(&key) }
}

fn leaf_as_issuer(a: &Authority) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let der = a.sign(&Draft::client(PAYMENTS, &a.name, key.subject_public_key_info()));
    let leaf = Authority { name: "client".into(), key, der };
    leaf.client("spiffe://a.example/vault").below(&leaf)
}

/// Mutations of good chains, through all that looks at a chain before its owner is known: none panics, and none is let in
/// but the one that was not changed. `SEED=N` draws the same again.
#[test]
fn mutated_chains_neither_panic_nor_pass_t_01_t_07() {
    const MUTATIONS: usize = 100_000;
    let a = Authority::new("a");
    let files = tempfile::tempdir().unwrap();
    write_pem(&files.path().join("a.pem"), "CERTIFICATE", &a.der);
    let bundle = TrustDomainBundle { name: "a.example".to_owned(), bundle: files.path().join("a.pem") };
    let verifier = DomainVerifier::new(vec![server::bundle(&bundle).unwrap()], &provider()).unwrap();
    let middle = a.intermediate("middle", |draft| draft);
    let many =
        |draft: Draft| draft.with(forge::names(&[forge::uri(PAYMENTS), forge::dns("x"), forge::tagged(0x87, &[0; 4])]));
    let chains = [
        a.client(PAYMENTS).chain,
        a.client_with(PAYMENTS, many).chain,
        a.client_with(PAYMENTS, |draft| draft.with(forge::key_usage(true, &[0xa0]))).below(&middle).chain,
        middle.client(PAYMENTS).below(&middle).chain,
    ];
    let mut dice = Dice::seeded();
    let verify = |chain: &[Vec<u8>]| {
        let ders: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let (leaf, issuers) = ders.split_first().unwrap();
        verifier.verify_client_cert(leaf, issuers, UnixTime::now()).is_ok()
    };
    let mut refused = 0;
    for chain in chains.iter().cycle().take(MUTATIONS) {
        let mut changed = chain.clone();
        let which = dice.below(changed.len());
        dice.mutate(&mut changed[which]);
        let passed = verify(&changed);
        // An intermediate that is not needed may be anything that is one.
        assert!(!passed || changed[0] == chain[0], "{}", hex::encode(&changed[0]));
        refused += usize::from(!passed);
    }
    assert!(chains.iter().all(|chain| verify(chain)), "unchanged they all pass");
    println!("T-07: {MUTATIONS} mutated chains, {refused} refused");
    assert!(refused > MUTATIONS / 2, "{refused}");
}
