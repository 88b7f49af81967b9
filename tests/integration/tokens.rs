//! The operations on tokens, at their edges: scopes, batches, sizes, names, words, lifetimes, uses, masks, and what is not a
//! request at all.

use crate::harness::{
    Client, Home, ItemError, Server, TRUST_DOMAIN, duration, eventually, info, issued, item, refused, revoke_time,
    texts, value,
};
use cloakroom::proto::v1::{self, Action, ItemOutcome, Outcome, Reveal, TokenState};
use prost::Message;
use prost::bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

/// A vault with scopes of its own and a tester who may do everything in every scope.
struct Bench {
    home: Home,
    server: Server,
    tester: Client,
}

const TESTER: &str = "@id(\"tester-may-all\")\npermit (principal in Cloakroom::Role::\"tester\", action, resource);\n";
const MIB: usize = 1 << 20;

impl Bench {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&Home)) -> Self {
        let home = Home::init();
        home.add_role("tester", &[&format!("spiffe://{TRUST_DOMAIN}/tester")]);
        home.write("policies/tester.cedar", TESTER);
        change(&home);
        let server = home.serve();
        let tester = server.client(&home.authority().client(&format!("spiffe://{TRUST_DOMAIN}/tester"))).await;
        Self { home, server, tester }
    }

    async fn client(&self, name: &str) -> Client {
        self.server.client(&self.home.identity(name)).await
    }

    /// The event that the last call of `action` left.
    async fn last(&self, action: Action) -> v1::AuditEvent {
        let filter = Some(v1::AuditFilter { action: action.into(), ..Default::default() });
        let request = v1::QueryEventsRequest { filter, page_size: 1, newest_first: true, ..Default::default() };
        self.tester.audit().query_events(request).await.unwrap().into_inner().events.remove(0)
    }

    async fn tokenize(&self, scope: &str, items: Vec<v1::TokenizeItem>) -> Vec<Result<v1::IssuedToken, ItemError>> {
        let request = v1::TokenizeRequest { scope: scope.to_owned(), items, ..Default::default() };
        let answer = self.tester.tokens().tokenize(request).await.unwrap().into_inner();
        answer.results.into_iter().map(issued).collect()
    }

    async fn detokenize(&self, scope: &str, tokens: &[String]) -> Vec<Result<Vec<u8>, ItemError>> {
        self.tester.detokenize(scope, tokens).await.unwrap()
    }

    async fn inspect(
        &self,
        scope: &str,
        tokens: &[String],
        handles: &[String],
    ) -> Vec<Result<v1::TokenInfo, ItemError>> {
        let (tokens, handles) = (tokens.to_vec(), handles.to_vec());
        let request = v1::InspectTokensRequest { scope: scope.to_owned(), tokens, handles };
        let answer = self.tester.tokens().inspect_tokens(request).await.unwrap().into_inner();
        answer.results.into_iter().map(info).collect()
    }

    async fn revoke(
        &self,
        scope: &str,
        tokens: &[String],
        handles: &[String],
    ) -> Vec<Result<prost_types::Timestamp, ItemError>> {
        let (tokens, handles) = (tokens.to_vec(), handles.to_vec());
        let request = v1::RevokeTokensRequest { scope: scope.to_owned(), tokens, handles, ..Default::default() };
        let answer = self.tester.tokens().revoke_tokens(request).await.unwrap().into_inner();
        answer.results.into_iter().map(revoke_time).collect()
    }

    /// A value goes in and comes out: nothing that was refused before has left a mark.
    async fn is_open(&self) {
        let tokens = texts(&self.tester.tokenize("pan", &[b"4111111111111111"]).await);
        assert_eq!(self.detokenize("pan", &tokens).await, [Ok(b"4111111111111111".to_vec())]);
    }
}

fn error(code: Code, reason: &str, message: &str) -> ItemError {
    ItemError { code, reason: reason.to_owned(), message: message.to_owned() }
}

fn not_found() -> ItemError {
    error(Code::NotFound, "TOKEN_NOT_FOUND", "not found")
}

fn malformed() -> ItemError {
    error(Code::InvalidArgument, "TOKEN_MALFORMED", "not a token of this scope's format (shape or checksum)")
}

fn outcomes(event: &v1::AuditEvent) -> Vec<ItemOutcome> {
    event.item_outcomes.iter().map(|code| ItemOutcome::try_from(*code).unwrap()).collect()
}

fn reasons<T>(results: &[Result<T, ItemError>]) -> Vec<&str> {
    results.iter().map(|result| result.as_ref().err().map_or("", |error| error.reason.as_str())).collect()
}

fn handles(issued: &[v1::IssuedToken]) -> Vec<String> {
    issued.iter().map(|issued| issued.handle.clone()).collect()
}

// === scopes ===

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_not_exist_under_another_scope_z_03() {
    // `twin` gives its tokens the same prefix, so that nothing but the scope tells them apart.
    let bench = Bench::with(|home| {
        home.add_scope("twin", "pan", "");
        home.add_scope("pan/below", "pan", "");
        home.permit("payments", "detokenize", "twin");
        home.add_role("beta", &[&format!("spiffe://{TRUST_DOMAIN}/beta")]);
        home.permit("beta", "detokenize", "twin");
    })
    .await;
    let pan = bench.tester.tokenize("pan", &[b"4111111111111111", b"4000056655665556"]).await;
    let (tokens, named) = (texts(&pan), handles(&pan));
    for scope in ["twin", "pan/below", "ssn"] {
        assert_eq!(bench.detokenize(scope, &tokens).await, vec![Err(not_found()); 2], "{scope}");
        let event = bench.last(Action::Detokenize).await;
        assert_eq!(outcomes(&event), [ItemOutcome::Unknown; 2]);
        assert!(event.handles.iter().all(|handle| handle.len() == 20 && !named.contains(&hex::encode(handle))));
        // Whoever may inspect and revoke is not told either, not even by the handle.
        assert_eq!(reasons(&bench.inspect(scope, &tokens, &named).await), ["TOKEN_NOT_FOUND"; 4], "{scope}");
        assert_eq!(reasons(&bench.revoke(scope, &tokens, &named).await), ["TOKEN_NOT_FOUND"; 4], "{scope}");
    }
    // Permitted on both,
    let payments = bench.client("payments").await;
    assert_eq!(payments.detokenize("twin", &tokens).await.unwrap(), vec![Err(not_found()); 2]);
    // on the token's own only, as on one that is not there,
    for scope in ["pan/below", "nosuch"] {
        let denied = payments.detokenize(scope, &tokens).await.unwrap_err();
        let said = (denied.code, denied.reason.as_str(), denied.message.as_str());
        assert_eq!(said, (Code::PermissionDenied, "POLICY_DENIED", "denied"), "{scope}");
    }
    // and on the other only: neither by its own name nor by the token's, and what is there is still read.
    let beta = bench.server.client(&bench.home.authority().client(&format!("spiffe://{TRUST_DOMAIN}/beta"))).await;
    assert_eq!(beta.detokenize("twin", &tokens).await.unwrap(), vec![Err(not_found()); 2]);
    assert_eq!(beta.detokenize("pan", &tokens).await.unwrap_err().code, Code::PermissionDenied);
    let twin = texts(&bench.tester.tokenize("twin", &[b"of the twin"]).await);
    let both = [tokens[0].clone(), twin[0].clone()];
    assert_eq!(beta.detokenize("twin", &both).await.unwrap(), [Err(not_found()), Ok(b"of the twin".to_vec())]);
    // Nothing of this has touched them.
    let values = [Ok(b"4111111111111111".to_vec()), Ok(b"4000056655665556".to_vec())];
    assert_eq!(payments.detokenize("pan", &tokens).await.unwrap(), values);
    println!("Z-03: 3 foreign scopes with 10 items each, 3 callers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_items_keep_their_order_and_their_failures_z_04() {
    use ItemOutcome::{Malformed, Released, Revoked, Unknown};
    let bench = Bench::with(|home| home.add_scope("twin", "pan", "")).await;
    let good: Vec<Vec<u8>> = (0..200).map(|number| format!("value {number}").into_bytes()).collect();
    let good_items = good.iter().map(|value| item(value)).collect();
    let mine = texts(&bench.tester.issue("pan", good_items).await);
    let foreign = texts(&bench.tester.issue("twin", vec![item(b"foreign"); 200]).await);
    let gone = texts(&bench.tester.issue("pan", vec![item(b"gone"); 200]).await);
    bench.revoke("pan", &gone, &[]).await;
    let mut tokens = Vec::new();
    let mut expected = Vec::new();
    let mut expected_outcomes = Vec::new();
    for place in 0..200 {
        let again = (place * 7) % 200;
        tokens.extend([&mine[place], &foreign[place], &gone[place], &mine[again]].map(Clone::clone));
        tokens.push(mistyped(&mine[place]));
        expected.extend([Ok(good[place].clone()), Err(not_found()), Err(not_found()), Ok(good[again].clone())]);
        expected.push(Err(malformed()));
        expected_outcomes.extend([Released, Unknown, Revoked, Released, Malformed]);
    }
    assert_eq!(bench.detokenize("pan", &tokens).await, expected);
    let event = bench.last(Action::Detokenize).await;
    assert_eq!((event.requested, event.succeeded), (1000, 400));
    assert_eq!(outcomes(&event), expected_outcomes);
    assert_eq!(event.handles.len(), 1000);
    assert!(event.handles.iter().enumerate().all(|(place, handle)| handle.is_empty() == (place % 5 == 4)));
    // The scope decides before anything is looked up: one answer, and no word about any item.
    let gateway = bench.client("gateway").await;
    let denied = gateway.detokenize("pan", &tokens).await.unwrap_err();
    assert_eq!((denied.code, denied.message.as_str()), (Code::PermissionDenied, "denied"));
    let event = bench.tester.event(&denied.receipt.unwrap()).await;
    assert_eq!((event.outcome(), event.requested, event.succeeded), (Outcome::Denied, 1000, 0));
    assert_eq!((event.handles.len(), event.item_outcomes.len()), (100, 0));
    println!("Z-04: 1,000 items, 400 released, one event");
}

/// One character of a token is another one.
fn mistyped(token: &str) -> String {
    let (head, tail) = token.split_at(10);
    let other = if tail.starts_with('A') { 'B' } else { 'A' };
    format!("{head}{other}{}", &tail[1..])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_values_keep_their_order_and_their_failures_z_04() {
    let bench = Bench::with(|home| home.add_scope("small", "small", "max_value_bytes = 16")).await;
    let mut items = Vec::new();
    for number in 0..200 {
        items.push(item(format!("value {number}").as_bytes()));
        items.push(item(b""));
        items.push(item(b"longer than 16 bytes"));
        items.push(v1::TokenizeItem { ttl: duration(0, 0), ..item(b"ttl") });
        items.push(v1::TokenizeItem { subject: "somebody".to_owned(), ..item(b"subject") });
    }
    let results = bench.tokenize("small", items).await;
    let expected = ["", "VALUE_EMPTY", "VALUE_TOO_LARGE", "LIFETIME_NOT_POSITIVE", "SUBJECT_UNSUPPORTED"];
    assert_eq!(reasons(&results), expected.repeat(200));
    let event = bench.last(Action::Tokenize).await;
    assert_eq!((event.requested, event.succeeded), (1000, 200));
    let [issued, refused] = [ItemOutcome::Issued, ItemOutcome::Refused];
    assert_eq!(outcomes(&event), [issued, refused, refused, refused, refused].repeat(200));
    let tokens: Vec<String> = results.into_iter().flatten().map(|issued| issued.token).collect();
    let values: Vec<_> = bench.detokenize("small", &tokens).await.into_iter().map(Result::unwrap).collect();
    assert!(values.iter().enumerate().all(|(number, value)| *value == format!("value {number}").into_bytes()));
}

// === values ===

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_byte_for_byte_or_are_refused_i_04() {
    let bench = Bench::with(|home| {
        home.add_scope("small", "small", "max_value_bytes = 300");
        home.add_scope("big", "big", "max_value_bytes = 1048576");
    })
    .await;
    let mut values: Vec<Vec<u8>> = vec![
        (0..=255).collect(),
        "\u{1f511}\u{1f5dd}\u{fe0f}".into(),
        // The same letter, composed and decomposed: two values.
        "é".into(),
        "e\u{301}".into(),
        b"\xff\xfe\x00\xc3\x28".to_vec(),
        b" \r\n\t ".to_vec(),
    ];
    // Around every step of the padding, and each of zeros and of ones.
    for length in (1..=300).filter(|length| length % 16 >= 11 || length % 16 <= 1 || *length > 252) {
        values.push(vec![0; length]);
        values.push(vec![0xff; length]);
    }
    let mut tokens = Vec::new();
    for chunk in values.chunks(1000) {
        let items = chunk.iter().map(|value| item(value)).collect();
        tokens.extend(texts(&bench.tester.issue("small", items).await));
    }
    for (values, tokens) in values.chunks(1000).zip(tokens.chunks(1000)) {
        let found = bench.detokenize("small", tokens).await;
        assert!(found.into_iter().map(Result::unwrap).eq(values.iter().cloned()));
    }
    assert_eq!(
        reasons(&bench.tokenize("small", vec![item(&[7; 300]), item(&[7; 301]), item(b"")]).await),
        ["", "VALUE_TOO_LARGE", "VALUE_EMPTY"]
    );
    // The largest that any scope takes. Three fit one message.
    let large: Vec<Vec<u8>> = (1..=3u8).map(|seed| pattern(seed, MIB)).collect();
    let items = large.iter().map(|value| item(value)).collect();
    let tokens = texts(&bench.tester.issue("big", items).await);
    let found = bench.detokenize("big", &tokens).await;
    assert!(found.into_iter().map(Result::unwrap).eq(large), "1 MiB");
    assert_eq!(reasons(&bench.tokenize("big", vec![item(&pattern(9, MIB + 1))]).await), ["VALUE_TOO_LARGE"]);
    bench.is_open().await;
    println!("I-04: {} values up to 300 bytes and 3 of 1 MiB came back", values.len());
}

/// Bytes that look random and are not.
fn pattern(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u32::from(seed).wrapping_mul(2_654_435_761);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

// === batches ===

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_one_to_a_thousand_items_i_05() {
    let bench = Bench::new().await;
    let tokenize = async |count: usize| {
        let items = vec![item(b"same"); count];
        bench.tester.tokens().tokenize(v1::TokenizeRequest { scope: "pan".into(), items, ..Default::default() }).await
    };
    for (count, reason) in [(0, "BATCH_EMPTY"), (1001, "BATCH_TOO_LARGE")] {
        let refusal = refused(tokenize(count).await);
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, reason));
        assert_eq!(refusal.fields, ["items"]);
        let event = bench.tester.event(&refusal.receipt.unwrap()).await;
        assert_eq!((event.outcome(), event.reason.as_str()), (Outcome::Failed, reason));
        assert_eq!(event.requested as usize, count);
    }
    let issued = bench.tester.issue("pan", vec![item(b"same"); 1000]).await;
    let tokens = texts(&issued);
    let distinct: std::collections::BTreeSet<_> = handles(&issued).into_iter().chain(tokens.clone()).collect();
    assert_eq!(distinct.len(), 2000, "the same value gets another token each time");
    assert_eq!(bench.detokenize("pan", &tokens).await, vec![Ok(b"same".to_vec()); 1000]);
    assert_eq!(bench.detokenize("pan", &vec![tokens[0].clone(); 1000]).await, vec![Ok(b"same".to_vec()); 1000]);
    let mut more = tokens.clone();
    more.push(tokens[0].clone());
    for count in [0, 1001] {
        let refusal = bench.tester.detokenize("pan", &more[..count]).await.unwrap_err();
        assert_eq!((refusal.code, refusal.fields), (Code::InvalidArgument, vec!["tokens".to_owned()]));
        // Of inspecting and revoking, tokens and handles count together.
        let (some, others) = more[..count].split_at(count / 2);
        let request = v1::InspectTokensRequest { scope: "pan".into(), tokens: some.to_vec(), handles: others.to_vec() };
        assert_eq!(refused(bench.tester.tokens().inspect_tokens(request).await).code, Code::InvalidArgument);
        let (tokens, handles) = (some.to_vec(), others.to_vec());
        let request = v1::RevokeTokensRequest { scope: "pan".into(), tokens, handles, ..Default::default() };
        assert_eq!(refused(bench.tester.tokens().revoke_tokens(request).await).code, Code::InvalidArgument);
    }
    bench.is_open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_token_twice_is_two_uses_in_order_i_05() {
    use ItemOutcome::{Released, UsedUp};
    let bench = Bench::new().await;
    let uses = |max_uses| v1::TokenizeItem { max_uses, ..item(b"4111111111111111") };
    let tokens = texts(&bench.tester.issue("pan", vec![uses(1), uses(3), uses(u32::MAX), uses(0)]).await);
    let [once, thrice, often, always] = [0, 1, 2, 3].map(|place: usize| tokens[place].clone());
    let batch = [&once, &thrice, &once, &thrice, &often, &thrice, &always, &thrice, &always].map(Clone::clone);
    let yes = || Ok(b"4111111111111111".to_vec());
    let no = || Err(not_found());
    let found = bench.detokenize("pan", &batch).await;
    assert_eq!(found, [yes(), yes(), no(), yes(), yes(), yes(), yes(), no(), yes()]);
    let expected = [Released, Released, UsedUp, Released, Released, Released, Released, UsedUp, Released];
    assert_eq!(outcomes(&bench.last(Action::Detokenize).await), expected);
    let left: Vec<_> = bench.inspect("pan", &tokens, &[]).await.into_iter().map(Result::unwrap).collect();
    let left: Vec<_> = left.iter().map(|info| (info.uses_left, info.state())).collect();
    let (active, used_up) = (TokenState::Active, TokenState::UsedUp);
    assert_eq!(left, [(Some(0), used_up), (Some(0), used_up), (Some(u32::MAX - 1), active), (None, active)]);
}

// === names and words ===

#[tokio::test(flavor = "multi_thread")]
async fn names_have_one_grammar_and_no_collisions_i_07() {
    let bench = Bench::with(|home| {
        // Names that would be the same if a separator could be mistaken for a letter, or lengths were not written.
        for name in ["a/b", "a-b", "a_b", "ab", "a/b/c", "a/bc"] {
            home.add_scope(name, "t", "");
        }
    })
    .await;
    let long_segment = "a".repeat(64);
    let (deep, long) = (["a"; 9].join("/"), "a/".repeat(127) + "aa");
    let huge = "pan/".repeat(2560);
    let bad = [
        "",
        "/",
        "pan/",
        "/pan",
        "a//b",
        "..",
        "../pan",
        "pan/..",
        "./pan",
        "PAN",
        "Pan",
        "pan ",
        " pan",
        "pan\0",
        "p\u{e4}n",
        "pa\u{308}n",
        "pan\n",
        "*",
        "*/ssn",
        "-pan",
        "_pan",
        "p.n",
        "p\\n",
        "pan%2f",
        "\u{ff50}an",
        &long_segment,
        &deep,
        &long,
        &huge,
    ];
    for name in bad {
        let refusal = bench.tester.detokenize(name, &["x".to_owned()]).await.unwrap_err();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "SCOPE_MALFORMED"), "{name:?}");
        assert_eq!(refusal.fields, ["scope"]);
        assert_eq!(refusal.message, "a scope is segments of a-z, 0-9, - and _ joined by /", "it is never repeated");
    }
    let recorded = v1::AuditFilter { outcome: Outcome::Failed.into(), ..Default::default() };
    for event in bench.tester.events(recorded).await {
        assert_eq!((event.scope.as_str(), event.reason.as_str()), ("", "SCOPE_MALFORMED"));
    }
    // Well-formed, and not one of ours: as any other that is not permitted, with its name in the log.
    let longest = format!("{}/{}/{}/{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63));
    for name in ["nosuch", "a", "a/b/c/d", "0", longest.as_str()] {
        let refusal = bench.tester.detokenize(name, &["x".to_owned()]).await.unwrap_err();
        assert_eq!((refusal.code, refusal.message.as_str()), (Code::PermissionDenied, "denied"), "{name}");
    }
    let scopes = ["a/b", "a-b", "a_b", "ab", "a/b/c", "a/bc"];
    let mut tokens = Vec::new();
    for scope in scopes {
        tokens.extend(texts(&bench.tester.tokenize(scope, &[scope.as_bytes()]).await));
    }
    for (place, scope) in scopes.iter().enumerate() {
        let found = bench.detokenize(scope, &tokens).await;
        let own = |other: usize| if other == place { Ok(scope.as_bytes().to_vec()) } else { Err(not_found()) };
        assert_eq!(found, (0..scopes.len()).map(own).collect::<Vec<_>>());
    }
    println!("I-07: {} names refused, {} scopes kept apart", bad.len(), scopes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn purposes_and_reasons_are_words_for_the_log() {
    let bench = Bench::with(|home| home.add_scope("free", "free", "purpose_required = false")).await;
    let pan = texts(&bench.tester.tokenize("pan", &[b"4111111111111111"]).await);
    let free = texts(&bench.tester.tokenize("free", &[b"4111111111111111"]).await);
    let ask = async |scope: &str, tokens: &[String], purpose: &str| {
        let (scope, tokens, purpose) = (scope.to_owned(), tokens.to_vec(), purpose.to_owned());
        let request = v1::DetokenizeRequest { scope, tokens, purpose, ..Default::default() };
        bench.tester.tokens().detokenize(request).await
    };
    let revoke = async |reason: &str| {
        let (scope, tokens, reason) = ("pan".to_owned(), pan.clone(), reason.to_owned());
        let request = v1::RevokeTokensRequest { scope, tokens, reason, ..Default::default() };
        bench.tester.tokens().revoke_tokens(request).await
    };
    let longest = "x".repeat(64);
    for purpose in ["a", "refund", "ticket OPS-12345678", "a:b/c_d.e-f", " ", "0", longest.as_str()] {
        assert!(ask("pan", &pan, purpose).await.is_ok(), "{purpose:?}");
        assert_eq!(bench.last(Action::Detokenize).await.purpose, purpose);
    }
    let too_long = "x".repeat(65);
    let bad =
        ["4111 1111 1", "123456789", "na\u{ef}ve", "a\nb", "tab\t", "semi;colon", "nul\0", "a@b", "\"", &too_long];
    for words in bad {
        let refusal = refused(ask("pan", &pan, words).await);
        let found = (refusal.code, refusal.reason.as_str(), &*refusal.fields);
        assert_eq!(found, (Code::InvalidArgument, "PURPOSE_MALFORMED", &["purpose".to_owned()][..]), "{words:?}");
        assert!(!refusal.message.contains(words));
        let refusal = refused(revoke(words).await);
        let found = (refusal.code, refusal.reason.as_str(), &*refusal.fields);
        assert_eq!(found, (Code::InvalidArgument, "REASON_MALFORMED", &["reason".to_owned()][..]), "{words:?}");
    }
    // Where it is required, and where it is not.
    let refusal = refused(ask("pan", &pan, "").await);
    let found = (refusal.code, refusal.reason.as_str(), &*refusal.fields);
    assert_eq!(found, (Code::InvalidArgument, "PURPOSE_REQUIRED", &["purpose".to_owned()][..]));
    assert!(ask("free", &free, "").await.is_ok());
    // What was refused is not in the log, and none of it has revoked anything.
    for event in bench.tester.events(v1::AuditFilter { outcome: Outcome::Failed.into(), ..Default::default() }).await {
        assert_eq!((event.purpose.as_str(), event.detail.as_str()), ("", ""), "{event:?}");
    }
    assert!(ask("pan", &pan, "still there").await.is_ok());
    assert!(revoke("lost card OPS-12345678").await.is_ok());
    assert_eq!(bench.last(Action::Revoke).await.detail, "lost card OPS-12345678");
    assert!(revoke("").await.is_ok(), "a reason may be left out");
}

// === masks ===

#[tokio::test(flavor = "multi_thread")]
async fn masks_hide_a_third_and_four_characters_or_all() {
    let bench = Bench::with(|home| home.add_scope("plain", "plain", "")).await;
    let rows: [(&str, &[u8], &[u8]); 15] = [
        ("pan", b"4111111111111111", b"411111******1111"),
        ("pan", b"41111111111111", b"**************"),
        ("pan", b"411111111111111", b"411111*****1111"),
        ("pan", b"4", b"*"),
        ("ssn", b"123-45-6789", b"*******6789"),
        ("ssn", b"1234567", b"*******"),
        ("ssn", b"12345678", b"****5678"),
        ("email", b"anna@example.com", b"an**************"),
        ("email", b"a@b.c", b"*****"),
        ("email", "\u{e4}\u{f6}\u{fc}\u{df}@x.de".as_bytes(), "\u{e4}\u{f6}*******".as_bytes()),
        // Characters, not bytes: each of these four has four.
        ("ssn", "\u{1f511}\u{1f511}\u{1f511}\u{1f511}".as_bytes(), b"****"),
        // A letter and its accent are two.
        ("email", "e\u{301}e\u{301}e\u{301}".as_bytes(), "e\u{301}****".as_bytes()),
        // Not UTF-8: bytes.
        ("ssn", b"\xff\xfe\xfd\xfc1234", b"****1234"),
        ("plain", b"4111111111111111", b"****************"),
        ("plain", b"\0\0", b"**"),
    ];
    for (scope, whole, masked) in rows {
        let issued = bench.tester.issue(scope, vec![v1::TokenizeItem { max_uses: 2, ..item(whole) }]).await;
        let ask = async |reveal: i32| {
            let (scope, tokens, purpose) = (scope.to_owned(), texts(&issued), "look".to_owned());
            let request = v1::DetokenizeRequest { scope, tokens, purpose, reveal, ..Default::default() };
            bench.tester.tokens().detokenize(request).await
        };
        let first = |answer: tonic::Response<v1::DetokenizeResponse>| value(answer.into_inner().results.remove(0));
        let refusal = refused(ask(3).await);
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "REVEAL_UNKNOWN"));
        assert_eq!(first(ask(Reveal::Masked.into()).await.unwrap()).unwrap(), masked, "{scope} {whole:?}");
        let event = bench.last(Action::Detokenize).await;
        assert_eq!((event.reveal(), outcomes(&event)), (Reveal::Masked, vec![ItemOutcome::Masked]));
        // Unspecified is full. A masked answer has used up a use, and what was refused has not.
        assert_eq!(first(ask(0).await.unwrap()).unwrap(), whole);
        let event = bench.last(Action::Detokenize).await;
        assert_eq!((event.reveal(), outcomes(&event)), (Reveal::Full, vec![ItemOutcome::Released]));
        assert_eq!(first(ask(Reveal::Masked.into()).await.unwrap()), Err(not_found()));
    }
}

// === lifetimes ===

#[tokio::test(flavor = "multi_thread")]
async fn lifetimes_are_refused_rather_than_cut_l_01() {
    let bench = Bench::with(|home| home.add_scope("short", "short", "ttl = \"1h\"\nmax_ttl = \"2h\"")).await;
    let live = |ttl| v1::TokenizeItem { ttl, ..item(b"4111111111111111") };
    let rows = [
        (duration(0, 0), Err("LIFETIME_NOT_POSITIVE")),
        (duration(0, 999_999), Err("LIFETIME_NOT_POSITIVE")),
        (duration(-1, 0), Err("LIFETIME_NOT_POSITIVE")),
        (duration(0, -1), Err("LIFETIME_NOT_POSITIVE")),
        (duration(1, -1), Err("LIFETIME_NOT_POSITIVE")),
        (duration(i64::MIN, i32::MIN), Err("LIFETIME_NOT_POSITIVE")),
        (duration(0, 1_000_000_000), Err("LIFETIME_TOO_LONG")),
        (duration(0, i32::MAX), Err("LIFETIME_TOO_LONG")),
        (duration(7200, 1_000_000), Err("LIFETIME_TOO_LONG")),
        (duration(7201, 0), Err("LIFETIME_TOO_LONG")),
        (duration(i64::MAX, 0), Err("LIFETIME_TOO_LONG")),
        (duration(i64::MAX, 999_999_999), Err("LIFETIME_TOO_LONG")),
        (duration(0, 1_000_000), Ok(1)),
        (duration(1, 999_999_999), Ok(1_999)),
        (duration(7200, 0), Ok(7_200_000)),
        (None, Ok(3_600_000)),
    ];
    let results = bench.tokenize("short", rows.iter().map(|(ttl, _)| live(*ttl)).collect()).await;
    let mut good = 0;
    for ((ttl, expected), result) in rows.iter().zip(&results) {
        match (expected, result) {
            (Err(reason), Err(error)) => {
                assert_eq!((error.code, error.reason.as_str()), (Code::InvalidArgument, *reason), "{ttl:?}");
            }
            (Ok(lives), Ok(issued)) => {
                let info = bench.inspect("short", &[], std::slice::from_ref(&issued.handle)).await.remove(0).unwrap();
                assert_eq!(info.expire_time, issued.expire_time);
                assert_eq!(millis(info.expire_time) - millis(info.create_time), *lives, "{ttl:?}");
                good += 1;
            }
            (_, result) => panic!("{ttl:?}: {:?}", result.as_ref().err()),
        }
    }
    assert_eq!(good, 4);
    // The one that lives for a millisecond is over soon, and then it is as if it had never been.
    let short = results[12].as_ref().unwrap().token.clone();
    let state = || async {
        let info = bench.inspect("short", std::slice::from_ref(&short), &[]).await.remove(0).unwrap();
        (info.state() == TokenState::Expired).then_some(())
    };
    eventually("the end of a millisecond", state).await;
    assert_eq!(bench.detokenize("short", &[short]).await, [Err(not_found())]);
    assert_eq!(outcomes(&bench.last(Action::Detokenize).await), [ItemOutcome::Expired]);
}

fn millis(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.unwrap();
    assert_eq!(time.nanos % 1_000_000, 0, "whole milliseconds");
    time.seconds * 1000 + i64::from(time.nanos / 1_000_000)
}

// === the end of tokens ===

#[tokio::test(flavor = "multi_thread")]
async fn revoking_again_gives_the_first_time() {
    use ItemOutcome::{Done, Malformed, Unknown};
    let bench = Bench::new().await;
    let issued = bench.tester.tokenize("pan", &[b"one", b"two", b"three"]).await;
    let (tokens, named) = (texts(&issued), handles(&issued));
    // A token twice, and by its handle as well: one revocation.
    let both = [tokens[0].clone(), tokens[0].clone(), mistyped(&tokens[0])];
    let by_handle = [named[0].clone(), named[1].clone(), "00".repeat(20), "no handle".to_owned()];
    let results = bench.revoke("pan", &both, &by_handle).await;
    let expected = ["", "", "TOKEN_MALFORMED", "", "", "TOKEN_NOT_FOUND", "HANDLE_MALFORMED"];
    assert_eq!(reasons(&results), expected);
    let times: Vec<_> = results.into_iter().flatten().collect();
    assert_eq!(times, vec![times[0]; 4]);
    let event = bench.last(Action::Revoke).await;
    assert_eq!(outcomes(&event), [Done, Done, Malformed, Done, Done, Unknown, Malformed]);
    assert_eq!((event.requested, event.succeeded), (7, 4));
    assert!(millis(Some(times[0])) <= millis(event.time));
    // Time goes on, and the first time stands.
    let later = || async {
        bench.tester.tokenize("pan", &[b"x"]).await;
        (millis(bench.last(Action::Tokenize).await.time) > millis(Some(times[0]))).then_some(())
    };
    eventually("another millisecond", later).await;
    let again = bench.revoke("pan", &tokens[..2], &named[..2]).await;
    assert_eq!(again, vec![Ok(times[0]); 4]);
    let states: Vec<_> =
        bench.inspect("pan", &tokens, &[]).await.into_iter().map(|info| info.unwrap().state()).collect();
    assert_eq!(states, [TokenState::Revoked, TokenState::Revoked, TokenState::Active]);
    assert_eq!(bench.detokenize("pan", &tokens).await, [Err(not_found()), Err(not_found()), Ok(b"three".to_vec())]);
    let revoked = ItemOutcome::Revoked;
    assert_eq!(outcomes(&bench.last(Action::Detokenize).await), [revoked, revoked, ItemOutcome::Released]);
}

// === what does not exist yet ===

#[tokio::test(flavor = "multi_thread")]
async fn options_that_do_not_exist_yet_are_refused_not_ignored() {
    let bench = Bench::new().await;
    let once = v1::TokenizeItem { max_uses: 1, ..item(b"4111111111111111") };
    let tokens = texts(&bench.tester.issue("pan", vec![once]).await);
    let scope = || "pan".to_owned();
    let detokenize = || {
        let (tokens, purpose) = (tokens.clone(), "test".to_owned());
        v1::DetokenizeRequest { scope: scope(), tokens, purpose, ..Default::default() }
    };
    let mut tester = bench.tester.tokens();
    let mut refusals = vec![];
    let nonce = v1::DetokenizeRequest { nonce: vec![1; 16], ..detokenize() };
    refusals.push(("nonce", refused(tester.detokenize(nonce).await)));
    let sent = v1::DetokenizeRequest { send_time: Some(prost_types::Timestamp::default()), ..detokenize() };
    refusals.push(("send_time", refused(tester.detokenize(sent).await)));
    assert_eq!(refusals.len(), 2);
    for (field, refusal) in &refusals {
        let found = (refusal.code, refusal.reason.as_str(), &*refusal.fields);
        assert_eq!(found, (Code::Unimplemented, "NOT_IMPLEMENTED", &[(*field).to_owned()][..]));
        let event = bench.tester.event(refusal.receipt.as_ref().unwrap()).await;
        assert_eq!((event.outcome(), event.reason.as_str()), (Outcome::Failed, "NOT_IMPLEMENTED"), "{field}");
        assert!(event.item_outcomes.is_empty());
    }
    // Who is not permitted learns nothing of what exists.
    let gateway = bench.client("gateway").await;
    let refusal = refused(gateway.tokens().detokenize(v1::DetokenizeRequest { nonce: vec![1], ..detokenize() }).await);
    assert_eq!(refusal.code, Code::PermissionDenied);
    // The token has all its uses still.
    assert_eq!(bench.detokenize("pan", &tokens).await, [Ok(b"4111111111111111".to_vec())]);
}

// === too much ===

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_too_large_is_refused_before_anything_is_used_up() {
    let bench = Bench::with(|home| home.add_scope("big", "big", "max_value_bytes = 1048576")).await;
    let mut issued = Vec::new();
    for seed in 1..=4 {
        let once = v1::TokenizeItem { max_uses: 1, ..item(&pattern(seed, MIB)) };
        issued.extend(bench.tester.issue("big", vec![once]).await);
    }
    let tokens = texts(&issued);
    let refusal = bench.tester.detokenize("big", &tokens).await.unwrap_err();
    let found = (refusal.code, refusal.reason.as_str(), &*refusal.fields);
    assert_eq!(found, (Code::InvalidArgument, "REPLY_TOO_LARGE", &["tokens".to_owned()][..]));
    let event = bench.tester.event(&refusal.receipt.unwrap()).await;
    assert_eq!((event.outcome(), event.succeeded), (Outcome::Failed, 0));
    // Who asked is in the log with every token, and none was released.
    assert_eq!((event.handles.len(), event.item_outcomes.len()), (tokens.len(), tokens.len()));
    assert_eq!(outcomes(&event), [ItemOutcome::Refused; 4]);
    for info in bench.inspect("big", &tokens, &[]).await {
        assert_eq!(info.unwrap().uses_left, Some(1));
    }
    // Fewer at once are given, and the largest reply that is given arrives.
    let found = bench.detokenize("big", &tokens[..3]).await;
    assert!((1..=3).zip(found).all(|(seed, value)| value.unwrap() == pattern(seed, MIB)));
    let fitting = 4 * MIB - 4096 - 16 * 4 - 3 * MIB;
    let thirds = vec![item(&pattern(1, MIB)), item(&pattern(2, MIB)), item(&pattern(3, MIB))];
    let mut tokens = texts(&bench.tester.issue("big", thirds).await);
    tokens.extend(texts(
        &bench.tester.issue("big", vec![item(&pattern(5, fitting)), item(&pattern(6, fitting + 1))]).await,
    ));
    let largest: Vec<String> = [0, 1, 2, 3].map(|place: usize| tokens[place].clone()).to_vec();
    assert_eq!(bench.detokenize("big", &largest).await.iter().flatten().count(), 4);
    let larger: Vec<String> = [0, 1, 2, 4].map(|place: usize| tokens[place].clone()).to_vec();
    assert_eq!(bench.tester.detokenize("big", &larger).await.unwrap_err().reason, "REPLY_TOO_LARGE");
}

// === not a request ===

/// Bytes as they are, in place of messages.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

async fn call_raw(client: &Client, path: &'static str, bytes: Vec<u8>) -> Result<tonic::Response<Vec<u8>>, Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.unwrap();
    grpc.unary(Request::new(bytes), http::uri::PathAndQuery::from_static(path), Raw).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_gets_a_constant_answer() {
    let bench = Bench::new().await;
    let secret = b"4111111111111111-in-a-malformed-message";
    let good = v1::TokenizeRequest { scope: "pan".into(), items: vec![item(secret)], ..Default::default() };
    let good = good.encode_to_vec();
    let mut not_utf8 = vec![0x0a, 4, 0xff, 0xfe, 0xfd, 0xfc];
    not_utf8.extend_from_slice(&good);
    let wrong_type = [&[0x08, 0x01][..], &good].concat();
    let endless_length = [&good[..], &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    let deep = [0x0b; 200].to_vec();
    let undecodable = [good[..good.len() - 5].to_vec(), vec![0xff; 40], not_utf8, wrong_type, endless_length, deep];
    let tokenize = "/cloakroom.v1.TokenService/Tokenize";
    let before = bench.tester.events(v1::AuditFilter::default()).await.len();
    for bytes in undecodable {
        let refusal = refused(call_raw(&bench.tester, tokenize, bytes).await);
        let found = (refusal.code, refusal.message.as_str(), refusal.reason.as_str());
        assert_eq!(found, (Code::InvalidArgument, "malformed request", "MALFORMED_REQUEST"));
    }
    // Fields that nobody knows are no fault: a newer client may send them.
    let unknown_field = [&good[..], &[0xa2, 0x06, 1, b'x']].concat();
    assert!(call_raw(&bench.tester, tokenize, unknown_field).await.is_ok());
    // Up to 4 MiB a message is read, though the value in it is too large for its scope; a byte more is too much.
    for (length, fits) in [(4 * MIB, true), (4 * MIB + 1, false), (5 * MIB, false)] {
        let items = vec![item(&vec![b'4'; length - 15])];
        let large = v1::TokenizeRequest { scope: "pan".into(), items, ..Default::default() }.encode_to_vec();
        assert_eq!(large.len(), length);
        match call_raw(&bench.tester, tokenize, large).await {
            Ok(_) => assert!(fits, "{length}"),
            refusal => {
                let refusal = refused(refusal);
                let found = (refusal.code, refusal.message.as_str(), refusal.reason.as_str());
                assert_eq!(found, (Code::InvalidArgument, "malformed request", "MALFORMED_REQUEST"), "{length}");
                assert!(!fits);
            }
        }
    }
    for path in [
        "/cloakroom.v1.TokenService/Nothing",
        "/cloakroom.v1.TokenService/tokenize",
        "/cloakroom.v1.AdminService/Seal",
        "/cloakroom.v2.TokenService/Tokenize",
        "/grpc.health.v1.Health/Nothing",
        "/",
        "/cloakroom.v1.TokenService/Tokenize/",
    ] {
        let refusal = refused(call_raw(&bench.tester, path, good.clone()).await);
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unimplemented, "NOT_IMPLEMENTED"), "{path}");
    }
    bench.is_open().await;
    let log = bench.server.log();
    assert!(!log.contains("4111111111111111"), "{log}");
    println!("malformed: 6 undecodable, 2 too large, 7 unknown methods; {before} events before");
}

// === formats ===

#[tokio::test(flavor = "multi_thread")]
async fn a_uuid_scope_issues_uuids_and_takes_nothing_else() {
    let scope = |name: &str| format!("[scopes.{name}]\nformat = \"uuid\"\n");
    let bench = Bench::with(|home| home.append("cloakroom.toml", &format!("{}{}", scope("id"), scope("id2")))).await;
    let values: Vec<Vec<u8>> = (0..50_u8).map(|number| vec![number; 20]).collect();
    let issued: Vec<_> = bench.tokenize("id", values.iter().map(|value| item(value)).collect()).await;
    let issued: Vec<_> = issued.into_iter().map(|result| result.unwrap()).collect();
    let tokens = texts(&issued);
    for token in &issued {
        let text = token.token.as_bytes();
        let hyphens: Vec<usize> = (0..text.len()).filter(|&place| text[place] == b'-').collect();
        assert_eq!((text.len(), &hyphens[..]), (36, &[8, 13, 18, 23][..]));
        assert!(text.iter().all(|byte| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f')), "{}", token.handle);
        assert_eq!(text[14], b'4');
        assert!(b"89ab".contains(&text[19]), "{}", token.handle);
        assert!(token.handle.starts_with("00000000"), "there is no room for the second of issue");
    }
    let distinct: std::collections::BTreeSet<_> = issued.iter().map(|token| &token.handle).collect();
    assert_eq!(distinct.len(), 50);
    // Case is no part of a UUID.
    let loud: Vec<String> = tokens.iter().map(|token| token.to_uppercase()).collect();
    for tokens in [&tokens, &loud] {
        let found: Vec<_> = bench.detokenize("id", tokens).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(found, values);
    }
    // Another digit is another token; another form is none; another scope's does not exist.
    let digit = if tokens[0].ends_with('0') { "1" } else { "0" };
    let other = format!("{}{digit}", &tokens[0][..35]);
    let opaque = texts(&bench.tester.tokenize("pan", &[b"4111111111111111"]).await).remove(0);
    let malformed = [tokens[0].replace('-', ""), format!("{{{}}}", tokens[0]), opaque];
    let asked = [vec![other], malformed.to_vec()].concat();
    let failed: Vec<_> = bench.detokenize("id", &asked).await.into_iter().map(|result| result.unwrap_err()).collect();
    let reasons: Vec<_> = failed.iter().map(|error| (error.code, error.reason.as_str())).collect();
    let no_token = (Code::InvalidArgument, "TOKEN_MALFORMED");
    assert_eq!(reasons, [(Code::NotFound, "TOKEN_NOT_FOUND"), no_token, no_token, no_token]);
    let failed = bench.detokenize("id2", &tokens[..1]).await.remove(0).unwrap_err();
    assert_eq!(failed.reason, "TOKEN_NOT_FOUND");
    // Its whole story is found by the token, and each handle has index rows of its own.
    let filter = v1::AuditFilter { scope: "id".to_owned(), token: loud[7].clone(), ..Default::default() };
    let actions: Vec<_> = bench.tester.events(filter).await.iter().map(v1::AuditEvent::action).collect();
    assert_eq!(actions, [Action::Tokenize, Action::Detokenize, Action::Detokenize]);
    let request = v1::RevokeTokensRequest {
        scope: "id".to_owned(),
        tokens: loud[..1].to_vec(),
        handles: vec![issued[1].handle.clone()],
        ..Default::default()
    };
    let answer = bench.tester.tokens().revoke_tokens(request).await.unwrap().into_inner();
    assert!(answer.results.into_iter().all(|result| revoke_time(result).is_ok()));
    let found: Vec<_> = bench.detokenize("id", &tokens[..3]).await.iter().map(Result::is_ok).collect();
    assert_eq!(found, [false, false, true]);
    bench.server.stop();
}

#[test]
fn a_uuid_scope_with_a_prefix_is_refused_with_its_line() {
    let home = Home::init();
    home.append("cloakroom.toml", "[scopes.id]\nformat = \"uuid\"\nprefix = \"id\"\n");
    let line = home.read("cloakroom.toml").lines().count();
    let log = Server::launch(&home, home.serve_command()).err().expect("it must not start");
    let mistake = format!("cloakroom.toml:{line}: scopes.id.prefix: stands with `format = \"uuid\"`");
    assert!(log.contains(&mistake), "{log}");
}
