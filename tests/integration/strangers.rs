//! T-01, T-02, T-11 and T-12 on the real vault: who shows what certificate, and what becomes of it.
//!
//! Each stranger comes from an address of its own and tries to call. The call must not arrive, the log must have the
//! reason, the address and the certificate's hash, and what stands in the certificate must not get into any log.

use crate::forge::{self, Draft};
use crate::harness::{Client, Home, Identity, Server, TRUST_DOMAIN, eventually, item, refused, texts};
use cloakroom::proto::v1::{self, Action, AuditFilter, Outcome};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tonic::Code;

/// What strangers write wherever they may, to see where it comes out: a colour, a line of its own, a word to look for.
const CANARY: &str = "\u{1b}[31mdoor-canary\n2026 ERROR door-canary";
const CANARY_WORD: &str = "door-canary";

/// AlgorithmIdentifiers: RSA with MD5, SHA-1 and SHA-256.
const RSA_MD5: u8 = 4;
const RSA_SHA1: u8 = 5;
const RSA_SHA256: u8 = 11;

/// An authority whose certificates may be wrong in any way.
pub struct Authority {
    pub name: String,
    pub key: KeyPair,
    pub der: Vec<u8>,
}

/// What a stranger shows, leaf first, and the key that it signs its handshake with.
pub struct Shown {
    pub chain: Vec<Vec<u8>>,
    pub key: KeyPair,
}

/// One that must be refused, and why.
struct Case {
    what: String,
    reason: String,
    shown: Shown,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = Draft::authority(name, name, key.subject_public_key_info()).signed(|bytes| key.sign(bytes).unwrap());
        Self { name: name.to_owned(), key, der }
    }

    /// An intermediate authority below this one, which `change` may spoil before it is signed.
    pub fn intermediate(&self, name: &str, change: impl FnOnce(Draft) -> Draft) -> Self {
        let key = KeyPair::generate().unwrap();
        let draft = change(Draft::authority(name, &self.name, key.subject_public_key_info()));
        Self { name: name.to_owned(), der: self.sign(&draft), key }
    }

    pub fn sign(&self, draft: &Draft) -> Vec<u8> {
        draft.signed(|bytes| self.key.sign(bytes).unwrap())
    }

    pub fn draft(&self, id: &str, key: &KeyPair) -> Draft {
        Draft { subject: CANARY.to_owned(), ..Draft::client(id, &self.name, key.subject_public_key_info()) }
    }

    pub fn client(&self, id: &str) -> Shown {
        self.client_with(id, |draft| draft)
    }

    pub fn client_with(&self, id: &str, change: impl FnOnce(Draft) -> Draft) -> Shown {
        let key = KeyPair::generate().unwrap();
        Shown { chain: vec![self.sign(&change(self.draft(id, &key)))], key }
    }

    /// Has the vault trust it for the domain whose authorities are in `pki/BUNDLE.pem`.
    pub fn join(&self, home: &Home, bundle: &str) {
        home.append(&format!("pki/{bundle}.pem"), &pem(&self.der));
    }
}

impl Shown {
    pub fn below(mut self, issuer: &Authority) -> Self {
        self.chain.push(issuer.der.clone());
        self
    }

    pub fn sha256(&self) -> Vec<u8> {
        Sha256::digest(&self.chain[0]).to_vec()
    }

    /// A client's configuration that shows this, whether the two belong together or not.
    pub fn tls(&self, home: &Home) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(home.file("pki/ca.pem")).unwrap()).unwrap();
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let chain = self.chain.iter().cloned().map(CertificateDer::from).collect();
        let mut config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    async fn connect(&self, home: &Home, server: &Server, from: IpAddr) -> Client {
        let identity = Identity {
            id: String::new(),
            authorities: home.file("pki/ca.pem"),
            files: None,
            certificate_sha256: self.sha256(),
        };
        Client::connect_as(server.address, &identity, self.tls(home), from).await.expect("the vault's side is good")
    }
}

fn case(what: impl Into<String>, reason: impl Into<String>, shown: Shown) -> Case {
    Case { what: what.into(), reason: reason.into(), shown }
}

pub fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

pub fn id(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{name}")
}

/// An address of this machine that is this case's alone.
pub fn address(block: u8, number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, block, u8::try_from(number).unwrap() + 1))
}

/// Each case tries to call, from an address of its own; then the log is held against what was tried.
async fn all_are_refused(home: &Home, server: &Server, block: u8, cases: &[Case]) {
    let gateway = server.client(&home.identity("gateway")).await;
    gateway.tokenize("pan", &[b"4111111111111111"]).await;
    let calls = calls_of(server);
    let mut tried = BTreeMap::new();
    for (number, case) in cases.iter().enumerate() {
        let from = address(block, number);
        let client = case.shown.connect(home, server, from).await;
        let request = v1::TokenizeRequest { scope: "pan".to_owned(), items: vec![item(b"x")], ..Default::default() };
        let refusal = refused(client.tokens().tokenize(request).await);
        assert!(
            refusal.reason.is_empty() && refusal.receipt.is_none(),
            "{}: the vault answered {refusal:?}",
            case.what
        );
        let key = (from.to_string(), case.reason.clone(), case.shown.sha256());
        tried.insert(key, client.connections().len() as u64);
    }
    assert_eq!(calls_of(server), calls, "a stranger's call reached a handler");
    // An open connection works, and so does a new one.
    gateway.tokenize("pan", &[b"4111111111111111"]).await;
    server.client(&home.identity("gateway")).await.tokenize("pan", &[b"4111111111111111"]).await;

    let auditor = server.client(&home.identity("auditor")).await;
    let total: u64 = tried.values().sum();
    let recorded = || async {
        let filter = AuditFilter { action: Action::Connect.into(), ..AuditFilter::default() };
        let mut events = auditor.events(filter).await;
        events.retain(|event| tried.keys().any(|key| key.0 == event.peer_address));
        (events.iter().map(|event| event.count).sum::<u64>() >= total).then_some(events)
    };
    let events = eventually("the refusals in the log", recorded).await;
    let mut found = BTreeMap::new();
    for event in &events {
        assert_eq!((event.outcome(), event.caller.as_str(), event.scope.as_str()), (Outcome::Denied, "", ""));
        let key = (event.peer_address.clone(), event.reason.clone(), event.certificate_sha256.clone());
        *found.entry(key).or_default() += event.count;
    }
    for (number, case) in cases.iter().enumerate() {
        let from = address(block, number).to_string();
        let reasons: Vec<&String> = found.keys().filter(|key| key.0 == from).map(|key| &key.1).collect();
        assert_eq!(reasons, [&case.reason], "{}", case.what);
    }
    assert_eq!(found, tried);
    let others = auditor.events(AuditFilter::default()).await;
    let ours = |peer: &str| tried.keys().any(|key| peer.starts_with(&format!("{}:", key.0)));
    let handled = others.iter().find(|event| ours(&event.peer_address));
    assert_eq!(handled, None);
    says_nothing_of_strangers(server, &others);
}

/// How many calls were answered with tokens, whatever the answer.
fn calls_of(server: &Server) -> Vec<String> {
    let (_, metrics) = server.get("/metrics");
    let mut lines: Vec<_> = metrics.lines().filter(|line| line.contains("TokenService/")).map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// Nothing of what strangers wrote is in the process's log, in metrics or in events.
fn says_nothing_of_strangers(server: &Server, events: &[v1::AuditEvent]) {
    let log = server.log();
    assert!(log.contains("serving"), "{log}");
    let expected = ["INFO", "no revocation lists", "runs as root"];
    let strange = log.lines().find(|line| !expected.iter().any(|word| line.contains(word)));
    assert_eq!(strange, None, "strangers write no lines");
    for (what, text) in [("the log", log), ("metrics", server.get("/metrics").1), ("events", format!("{events:?}"))] {
        assert!(!text.contains(CANARY_WORD), "{what}");
    }
}

// === T-01 ===

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_certificate_is_refused_and_recorded_t_01() {
    let home = Home::init();
    let root = Authority::new("forger");
    root.join(&home, "ca");
    let mut cases = Vec::new();
    for (what, reason, change) in forge::spoilt_leaves() {
        let gateway = id("gateway");
        cases.push(case(what, reason, root.client_with(&gateway, |draft| change(draft, &gateway))));
    }
    cases.extend(bad_chains(&root));
    cases.extend(of_openssl(&home, &root));
    assert!(cases.len() >= 60, "{}", cases.len());
    let server = home.serve();
    // The forger's good certificates are good: it is what was spoilt that keeps the others out.
    let middle = root.intermediate("middle", |draft| draft);
    for good in [root.client(&id("gateway")), middle.client(&id("gateway")).below(&middle)] {
        let client = good.connect(&home, &server, IpAddr::V4(Ipv4Addr::LOCALHOST)).await;
        client.tokenize("pan", &[b"4111111111111111"]).await;
    }
    all_are_refused(&home, &server, 1, &cases).await;
    println!("T-01: {} bad certificates, all refused and recorded", cases.len());
    server.stop();
}

fn bad_chains(root: &Authority) -> Vec<Case> {
    let gateway = id("gateway");
    let below = |name: &str, change: fn(Draft) -> Draft| {
        let middle = root.intermediate(name, change);
        middle.client(&gateway).below(&middle)
    };
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut shown = root.client(&gateway);
        change(&mut shown.chain[0]);
        shown
    };
    let middle = root.intermediate("middle", |draft| draft);
    let constrained = root.intermediate("ends here", |draft| draft.with(forge::basic_constraints(true, Some(0))));
    let too_deep = constrained.intermediate("too deep", |draft| draft);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = Authority { name: "leaf".to_owned(), der: root.sign(&root.draft(&gateway, &leaf_key)), key: leaf_key };
    let self_made = KeyPair::generate().unwrap();
    let own = Draft::client(&gateway, "client", self_made.subject_public_key_info());
    let own = own.signed(|bytes| self_made.sign(bytes).unwrap());
    let mut many = root.client(&gateway);
    many.chain.extend(std::iter::repeat_n(middle.der.clone(), 7));
    let stolen = Shown { key: KeyPair::generate().unwrap(), ..root.client(&gateway) };
    vec![
        case("unknown authority", "certificate_unknown_issuer", Authority::new("stranger").client(&gateway)),
        case("same name, other key", "certificate_bad_signature", Authority::new("forger").client(&gateway)),
        case("self-signed", "certificate_unknown_issuer", Shown { chain: vec![own], key: self_made }),
        case(
            "a bit of the signature flipped",
            "certificate_bad_signature",
            changed(|der| *der.last_mut().unwrap() ^= 1),
        ),
        case("a byte after the end", "certificate_malformed", changed(|der| der.push(0))),
        case("cut short", "certificate_malformed", changed(|der| der.truncate(100))),
        case("no certificate at all in it", "certificate_malformed", changed(|der| *der = CANARY.into())),
        case("somebody else's key", "key_possession_not_proven", stolen),
        case("intermediate not sent", "certificate_unknown_issuer", middle.client(&gateway)),
        case("path length exceeded", "certificate_chain_invalid", {
            too_deep.client(&gateway).below(&too_deep).below(&constrained)
        }),
        case("intermediate without CA flag", "certificate_intermediate_not_issuer", {
            below("no flag", |draft| draft.without(forge::BASIC_CONSTRAINTS))
        }),
        case("intermediate CA:FALSE", "certificate_intermediate_not_issuer", {
            below("false", |draft| draft.with(forge::basic_constraints(false, None)))
        }),
        case("intermediate without keyCertSign", "certificate_intermediate_not_issuer", {
            below("cannot sign", |draft| draft.with(forge::key_usage(true, &[0x02])))
        }),
        case("intermediate expired", "certificate_expired", {
            below("late", |draft| Draft { not_after: "200102000000Z".into(), ..draft })
        }),
        case("intermediate for servers only", "certificate_no_client_auth", {
            below("servers", |draft| draft.with(forge::extended_key_usage(&[1])))
        }),
        case("intermediate with a critical extension that nobody knows", "certificate_chain_invalid", {
            below("critical", |draft| draft.with(forge::critical(forge::UNHEARD_OF, &[5, 0])))
        }),
        case("a leaf as intermediate", "certificate_intermediate_not_issuer", leaf.client(&gateway).below(&leaf)),
        case("seven intermediates", "certificate_chain_too_long", many),
        case("an authority's own certificate", "certificate_extended_key_usage_missing", {
            let key = KeyPair::from_pem(&root.key.serialize_pem()).unwrap();
            let leaf = Draft::authority("forger", "forger", key.subject_public_key_info())
                .with(forge::key_usage(true, &[0x80]));
            Shown { chain: vec![root.sign(&leaf.with(forge::basic_constraints(false, None)))], key }
        }),
    ]
}

/// Signatures and keys that only OpenSSL makes any more, each right in itself and made by an authority in the bundle.
/// A client with such a key can't sign a handshake here with it, so another signs: the refusal comes before that.
fn of_openssl(home: &Home, root: &Authority) -> Vec<Case> {
    home.write("pki/forger.key", &root.key.serialize_pem());
    let leaf = |name: &str, algorithm: Vec<u8>, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let key = KeyPair::generate().unwrap();
        let draft = Draft::client(&id("gateway"), name, key.subject_public_key_info());
        Shown { chain: vec![Draft { algorithm, ..draft }.signed(sign)], key }
    };
    let with_key = |name: &str, words: &[&str]| {
        make_key(home, name, words);
        root.client_with(&id("gateway"), |draft| Draft { public_key: public_key(home, name), ..draft })
    };
    let sha1 = leaf("forger", forge::ECDSA_SHA1.to_vec(), &|bytes| digest_signed(home, "forger", "-sha1", bytes));
    let mut cases = vec![
        case("a true ECDSA signature over SHA-1", "certificate_signature_algorithm", sha1),
        case("a true RSA-1024 key", "certificate_rsa_key_too_small", {
            with_key("rsa-1024-leaf", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"])
        }),
        case("a true P-192 key", "certificate_public_key", {
            with_key("p-192", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime192v1"])
        }),
        case("a true secp256k1 key", "certificate_public_key", {
            with_key("k1", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"])
        }),
        case("a P-256 key whose curve is spelled out", "certificate_public_key", {
            let curve =
                ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"];
            with_key("explicit", &curve)
        }),
        case("a true Ed448 key", "certificate_public_key", with_key("ed448-leaf", &["-algorithm", "ED448"])),
        case("a DSA key", "certificate_public_key", with_dsa_key(home, root)),
    ];
    let rsa = ["-algorithm", "RSA", "-pkeyopt"];
    for (name, bits) in [("rsa", "rsa_keygen_bits:2048"), ("rsa-1024", "rsa_keygen_bits:1024")] {
        make_key(home, name, &[&rsa[..], &[bits]].concat());
        let authority =
            Draft { algorithm: rsa_with(RSA_SHA256), ..Draft::authority(name, name, public_key(home, name)) };
        let authority = authority.signed(|bytes| digest_signed(home, name, "-sha256", bytes));
        home.append("pki/ca.pem", &pem(&authority));
    }
    for (what, name, algorithm, hash, reason) in [
        ("a true RSA signature over SHA-1", "rsa", RSA_SHA1, "-sha1", "certificate_signature_algorithm"),
        ("a true RSA signature over MD5", "rsa", RSA_MD5, "-md5", "certificate_signature_algorithm"),
        ("an authority with RSA-1024", "rsa-1024", RSA_SHA256, "-sha256", "certificate_bad_signature"),
    ] {
        let shown = leaf(name, rsa_with(algorithm), &|bytes| digest_signed(home, name, hash, bytes));
        cases.push(case(what, reason, shown));
    }
    make_key(home, "ed448", &["-algorithm", "ED448"]);
    let ed448 =
        Draft { algorithm: forge::ED448.to_vec(), ..Draft::authority("ed448", "ed448", public_key(home, "ed448")) };
    home.append("pki/ca.pem", &pem(&ed448.signed(|bytes| ed448_signed(home, bytes))));
    let shown = leaf("ed448", forge::ED448.to_vec(), &|bytes| ed448_signed(home, bytes));
    cases.push(case("an authority with Ed448", "certificate_signature_algorithm", shown));
    cases
}

fn rsa_with(hash: u8) -> Vec<u8> {
    vec![0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, hash, 5, 0]
}

fn make_key(home: &Home, name: &str, words: &[&str]) {
    let out = home.file(&format!("pki/{name}.key"));
    openssl(&[&["genpkey", "-out", out.to_str().unwrap()], words].concat(), b"");
}

fn with_dsa_key(home: &Home, root: &Authority) -> Shown {
    let at = |name: &str| home.file(&format!("pki/{name}")).to_str().unwrap().to_owned();
    openssl(&["dsaparam", "-out", &at("dsa.pem"), "1024"], b"");
    openssl(&["gendsa", "-out", &at("dsa.key"), &at("dsa.pem")], b"");
    root.client_with(&id("gateway"), |draft| Draft { public_key: public_key(home, "dsa"), ..draft })
}

/// Its SubjectPublicKeyInfo.
fn public_key(home: &Home, name: &str) -> Vec<u8> {
    let key = home.file(&format!("pki/{name}.key"));
    openssl(&["pkey", "-in", key.to_str().unwrap(), "-pubout", "-outform", "DER"], b"")
}

fn digest_signed(home: &Home, name: &str, hash: &str, bytes: &[u8]) -> Vec<u8> {
    let key = home.file(&format!("pki/{name}.key"));
    openssl(&["dgst", hash, "-sign", key.to_str().unwrap()], bytes)
}

fn ed448_signed(home: &Home, bytes: &[u8]) -> Vec<u8> {
    let (key, file) = (home.file("pki/ed448.key"), home.file("pki/to-be-signed"));
    std::fs::write(&file, bytes).unwrap();
    openssl(&["pkeyutl", "-sign", "-inkey", key.to_str().unwrap(), "-rawin", "-in", file.to_str().unwrap()], b"")
}

fn openssl(words: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    let piped = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("this test needs openssl (`deploy/setup test`)");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

// === T-02 ===

#[tokio::test(flavor = "multi_thread")]
async fn ids_have_one_spelling_at_the_door_t_02() {
    let home = Home::init();
    let root = Authority::new("forger");
    root.join(&home, "ca");
    let server = home.serve();
    let gateway = id("gateway");
    let spelt = |text: &[u8]| root.client_with(&gateway, |draft| draft.with(forge::names(&[forge::uri(text)])));
    let named = |names: &[Vec<u8>]| root.client_with(&gateway, |draft| draft.with(forge::names(names)));
    let of_length = |bytes: usize| {
        let start = id("");
        format!("{start}{}", "p".repeat(bytes - start.len()))
    };
    let mut cases: Vec<Case> = [
        ("no path", &id("")[..id("").len() - 1], "spiffe_path_missing"),
        ("no path but a slash", &id(""), "spiffe_path_trailing_slash"),
        ("a slash at the end", &id("gateway/"), "spiffe_path_trailing_slash"),
        ("two slashes", &id("/gateway"), "spiffe_path_empty_segment"),
        ("two slashes within", &id("a//gateway"), "spiffe_path_empty_segment"),
        ("a segment .", &id("./gateway"), "spiffe_path_dot_segment"),
        ("a segment ..", &id("x/../gateway"), "spiffe_path_dot_segment"),
        ("an upper-case host", "spiffe://DEV.cloakroom.internal/gateway", "spiffe_trust_domain_character"),
        ("percent-encoding", &id("gatewa%79"), "spiffe_path_character"),
        ("a slash, percent-encoded", &id("x%2fgateway"), "spiffe_path_character"),
        ("the host percent-encoded", "spiffe://%64ev.cloakroom.internal/gateway", "spiffe_trust_domain_character"),
        ("user information", &gateway.replace("//", "//me@"), "spiffe_trust_domain_character"),
        ("user and password", &gateway.replace("//", "//me:x@"), "spiffe_trust_domain_character"),
        ("a port", &gateway.replace(".internal", ".internal:443"), "spiffe_trust_domain_character"),
        ("a query", &id("gateway?x=y"), "spiffe_path_character"),
        ("an empty query", &id("gateway?"), "spiffe_path_character"),
        ("a fragment", &id("gateway#x"), "spiffe_path_character"),
        ("http", &gateway.replace("spiffe:", "http:"), "spiffe_id_scheme"),
        ("the scheme in upper case", &gateway.replace("spiffe:", "SPIFFE:"), "spiffe_id_scheme"),
        ("a space before", &format!(" {gateway}"), "spiffe_id_scheme"),
        ("a line after", &format!("{gateway}\n"), "spiffe_path_character"),
        ("nothing", "", "spiffe_id_scheme"),
        ("2049 bytes", &of_length(2049), "spiffe_id_too_long"),
        ("60 KiB", &of_length(60_000), "spiffe_id_too_long"),
        ("a host of 256", &format!("spiffe://{}/gateway", "a".repeat(256)), "spiffe_trust_domain_too_long"),
        ("a zero byte", &id("gateway\0"), "spiffe_path_character"),
        ("a zero byte, and then another name", &id("gateway\0/x"), "spiffe_path_character"),
        ("a Cyrillic а", &id("g\u{430}teway"), "spiffe_path_character"),
        ("a width of zero", &id("gate\u{200b}way"), "spiffe_path_character"),
        ("the canary", &id(CANARY), "spiffe_path_character"),
    ]
    .into_iter()
    .map(|(what, text, reason)| case(what, reason, spelt(text.as_bytes())))
    .collect();
    let (own, other) = (forge::uri(&gateway), forge::uri(id("payments")));
    cases.extend([
        case("no URI", "certificate_no_spiffe_id", named(&[forge::dns("localhost")])),
        case("two ids", "certificate_several_uris", named(&[own.clone(), other])),
        case("the same id twice", "certificate_several_uris", named(&[own.clone(), own.clone()])),
        case("an id and a page", "certificate_several_uris", named(&[own.clone(), forge::uri("https://example.org/")])),
        case("a page and an id", "certificate_several_uris", named(&[forge::uri("https://example.org/"), own.clone()])),
        case("Latin-1 in an IA5String", "certificate_malformed", spelt(&[gateway.as_bytes(), b"\xe9"].concat())),
        case("a name cut short", "certificate_malformed", named(&[own, vec![0x86, 9, 1]])),
        case("only in the common name", "certificate_no_spiffe_id", {
            root.client_with(&gateway, |draft| {
                Draft { subject: gateway.clone(), ..draft }.without(forge::SUBJECT_ALT_NAME)
            })
        }),
        case("only as a DNS name", "certificate_no_spiffe_id", named(&[forge::dns(&gateway)])),
    ]);
    all_are_refused(&home, &server, 2, &cases).await;

    // The longest that there is gets in, and is in the log to its last byte.
    let longest = of_length(2048);
    let client = root.client(&longest).connect(&home, &server, address(3, 0)).await;
    let request = v1::TokenizeRequest { scope: "pan".to_owned(), items: vec![item(b"x")], ..Default::default() };
    let denied = refused(client.tokens().tokenize(request).await);
    assert_eq!((denied.code, denied.reason.as_str()), (Code::PermissionDenied, "POLICY_DENIED"));
    let auditor = server.client(&home.identity("auditor")).await;
    assert_eq!(auditor.event(&denied.receipt.unwrap()).await.caller, longest);
    println!("T-02: {} spellings refused, 2048 bytes accepted", cases.len());
    server.stop();
}

// === T-11, T-12 ===

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_speaks_for_its_own_domain_alone_t_11() {
    let home = Home::init();
    let partner = Authority::new("partner");
    home.write("pki/partner.pem", &pem(&partner.der));
    home.trust("partner.example", "partner");
    // It bears the name of the vault's own authority: then it is not the name that gives it away.
    let twin = Authority::new("Cloakroom development CA");
    home.write("pki/twin.pem", &pem(&twin.der));
    home.trust("twin.example", "twin");
    let own = Authority::new("forger");
    own.join(&home, "ca");
    let server = home.serve();
    let middle = partner.intermediate("middle", |draft| draft);
    let crossed = |by: &Authority, under: &str| {
        let key = KeyPair::generate().unwrap();
        let issuer = Draft::authority(under, &by.name, key.subject_public_key_info());
        Authority { name: under.to_owned(), der: by.sign(&issuer), key }
    };
    let pretender = crossed(&partner, "forger");
    let mismatch = "trust_domain_mismatch";
    let cases = [
        case("the partner speaks for us", mismatch, partner.client(&id("gateway"))),
        case("an intermediate of the partner does", mismatch, middle.client(&id("gateway")).below(&middle)),
        case("one that calls itself like our authority", mismatch, pretender.client(&id("gateway")).below(&pretender)),
        case("a twin of our authority", mismatch, twin.client(&id("gateway"))),
        case("we speak for the partner", mismatch, own.client("spiffe://partner.example/gateway")),
        case("the twin speaks for the partner", mismatch, twin.client("spiffe://partner.example/gateway")),
        case("the partner speaks for nobody's domain", mismatch, partner.client("spiffe://nobody.example/gateway")),
        case("a longer domain", mismatch, partner.client(&format!("spiffe://{TRUST_DOMAIN}.partner.example/gateway"))),
        case("a domain below", mismatch, partner.client("spiffe://eu.partner.example/gateway")),
    ];
    all_are_refused(&home, &server, 4, &cases).await;
    // As itself the partner comes in, and what it may do there is policy's affair.
    let guest = partner.client("spiffe://partner.example/gateway").connect(&home, &server, address(5, 0)).await;
    let denied = guest.detokenize("pan", &["x".to_owned()]).await.unwrap_err();
    assert_eq!((denied.code, denied.reason.as_str()), (Code::PermissionDenied, "POLICY_DENIED"));
    println!("T-11: {} chains that speak for others, all refused as {mismatch}", cases.len());
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_exact_id_on_the_current_bundle_counts_t_12() {
    let home = Home::init();
    let previous = Authority::new("forger");
    let bundle = home.read("pki/ca.pem");
    previous.join(&home, "ca");
    let server = home.serve();
    // One key pair in two certificates: what counts is the certificate that is shown.
    let key = KeyPair::generate().unwrap();
    let with_one_key = |name: &str| {
        let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        Shown { chain: vec![previous.sign(&previous.draft(&id(name), &key))], key }
    };
    let (gateway, payments) = (with_one_key("gateway"), with_one_key("payments"));
    let as_gateway = gateway.connect(&home, &server, address(6, 0)).await;
    let as_payments = payments.connect(&home, &server, address(6, 1)).await;
    let tokens = texts(&as_gateway.tokenize("pan", &[b"4111111111111111"]).await);
    assert_eq!(as_payments.detokenize("pan", &tokens).await.unwrap(), [Ok(b"4111111111111111".to_vec())]);
    assert_eq!(as_gateway.detokenize("pan", &tokens).await.unwrap_err().code, Code::PermissionDenied);
    let auditor = server.client(&home.identity("auditor")).await;
    let events = auditor.events(AuditFilter { scope: "pan".to_owned(), ..AuditFilter::default() }).await;
    let calls = events.iter().filter(|event| event.caller != id("vault"));
    let who: Vec<_> = calls.map(|event| (event.caller.clone(), event.certificate_sha256.clone())).collect();
    let of = |name: &str, shown: &Shown| (id(name), shown.sha256());
    assert_eq!(who, [of("gateway", &gateway), of("payments", &payments), of("gateway", &gateway)]);
    // What looks like an id with rights is another's, without any, if it gets in at all.
    for lookalike in
        ["Payments", "PAYMENTS", "payments.", "payments_", "paymentѕ", "pay-ments", "payments/x", "payrnents"]
    {
        let client = previous.client(&id(lookalike)).connect(&home, &server, address(6, 2)).await;
        let failure = client.detokenize("pan", &tokens).await.unwrap_err();
        let denied = failure.code == Code::PermissionDenied && failure.reason == "POLICY_DENIED";
        assert_eq!(denied, lookalike.is_ascii(), "{lookalike}: {failure:?}");
    }
    server.stop();

    // The authority is replaced by one of the same name. Whoever it vouched for stays outside.
    let current = Authority::new("forger");
    home.write("pki/ca.pem", &bundle);
    current.join(&home, "ca");
    let server = home.serve();
    let cases = [
        case("the id with rights, of the previous authority", "certificate_bad_signature", payments),
        case(
            "a new certificate of the previous authority",
            "certificate_bad_signature",
            previous.client(&id("payments")),
        ),
        case("the current one below the previous", "certificate_bad_signature", {
            let middle = previous.intermediate("forger", |draft| draft);
            middle.client(&id("payments")).below(&middle)
        }),
    ];
    all_are_refused(&home, &server, 7, &cases).await;
    let client = current.client(&id("payments")).connect(&home, &server, address(6, 3)).await;
    assert_eq!(client.detokenize("pan", &tokens).await.unwrap(), [Ok(b"4111111111111111".to_vec())]);
    server.stop();
}
