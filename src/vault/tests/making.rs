//! Tokenize: what comes back, what is stored, and how a scope's id and key come about.

use super::*;
use crate::scope;

#[tokio::test]
async fn values_come_back_byte_for_byte_i_04() {
    let f = Fixture::new();
    let tester = f.tester();
    let long = vec![0xa5; 1 << 20];
    let lengths: Vec<Vec<u8>> = [11, 12, 13, 27, 28, 29, 251, 252, 253, 254, 65_535, 65_536, 65_537]
        .into_iter()
        .map(|length| (0..length).map(|n: usize| u8::try_from(n % 251).unwrap()).collect())
        .collect();
    let mut all: Vec<&[u8]> =
        vec![b"\0", b"x", &[0; 64], "𝟜111 ☂ naïve e\u{301}".as_bytes(), &[0xff, 0xfe, 0x00, 0x80], b"\r\n", &long];
    all.extend(lengths.iter().map(Vec::as_slice));
    let issued = tester.issue_all("free", all.iter().map(|value| item(value)).collect()).await;
    for (value, issued) in all.iter().zip(&issued) {
        assert_eq!(tester.show("free", &[&issued.token]).await, values(&[value]), "{} bytes", value.len());
    }
    let f = f.restart();
    assert_eq!(f.tester().show("free", &[&issued[6].token]).await, values(&[&long]));
    println!("values: {} round trips", all.len());
    f.check();
}

#[tokio::test]
async fn a_bad_item_does_not_sink_its_neighbours() {
    use ItemOutcome::{Issued, Refused};
    let f = Fixture::new();
    let invalid = |reason| Err(ItemFailure::Invalid(reason));
    let items = vec![
        item(b"first"),
        item(b""),
        item(&[b'x'; 65_536]),
        item(&[b'x'; 65_537]),
        TokenizeItem { has_subject: true, ..item(PAN) },
        lasting(PAN, Duration::ZERO),
        limited(b"last", u32::MAX),
    ];
    let done = f.client("gateway").tokenize("pan", items).await.unwrap();
    let results: Vec<_> =
        done.results.iter().map(|result| result.as_ref().map(|_| ()).map_err(|failure| *failure)).collect();
    let expected = [
        Ok(()),
        invalid(Reason::ValueEmpty),
        Ok(()),
        invalid(Reason::ValueTooLarge),
        invalid(Reason::SubjectUnsupported),
        invalid(Reason::LifetimeNotPositive),
        Ok(()),
    ];
    assert_eq!(results, expected);
    let event = f.event(&done.receipt);
    assert_eq!(outcomes(&event), [Issued, Refused, Issued, Refused, Refused, Refused, Issued]);
    assert_eq!((event.requested, event.succeeded, words(&event).as_str()), (7, 3, "tokenize allowed"));
    for (handle, result) in event.handles.iter().zip(&done.results) {
        let issued = result.as_ref().ok().map(|issued| issued.handle.as_bytes().to_vec());
        assert_eq!(handle.to_vec(), issued.unwrap_or_default());
    }
    f.check();
}

#[tokio::test]
async fn the_event_says_who_and_by_which_rule() {
    let f = Fixture::new();
    let mut gateway = f.client("gateway");
    gateway.call.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736".to_owned();
    let receipt = gateway.tokenize("pan", vec![item(PAN)]).await.unwrap().receipt;
    let event = f.event(&receipt);
    assert_eq!(event.caller, "spiffe://dev.cloakroom.internal/gateway");
    assert_eq!((event.certificate_sha256.as_ref(), event.peer_address.as_str()), (&[7; 32][..], "127.0.0.1:54321"));
    assert_eq!((event.scope.as_str(), event.node.as_str()), ("pan", "test"));
    assert_eq!(event.policies, ["gateway-tokenizes-pan"]);
    assert_eq!(event.rulebook, f.policy.rulebook().digest().to_vec());
    assert_eq!(event.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(event.salt.len(), 16);
    let again = f.event(&gateway.tokenize("pan", vec![item(PAN)]).await.unwrap().receipt);
    assert_ne!(event.salt, again.salt, "each has a salt of its own");
    f.check();
}

#[tokio::test]
async fn equal_values_get_different_tokens() {
    let f = Fixture::new();
    let issued = f.tester().issue_all("pan", (0..1000).map(|_| item(PAN)).collect()).await;
    let mut tokens: Vec<&str> = issued.iter().map(|issued| issued.token.as_str()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 1000);
    let mut rows: Vec<Vec<u8>> = issued.iter().map(|issued| f.row(&issued.handle)[43..].to_vec()).collect();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), 1000, "nor can one see on disk that the values are equal");
    f.check();
}

#[tokio::test]
async fn neither_value_nor_token_is_stored_in_clear_a_11() {
    let f = Fixture::new();
    let tester = f.tester();
    let value = b"canary-4929-1853-0042-7716-yranac";
    let issued = tester.issue("pan", item(value)).await;
    tester.show("pan", &[&issued.token]).await.unwrap();
    tester.masked().show("pan", &[&issued.token]).await.unwrap();
    tester.show("ssn", &[&issued.token]).await.unwrap();
    tester.inspect("pan", &[&issued.token], &[]).await.unwrap();
    f.client("gateway").show("pan", &[&issued.token]).await.unwrap_err();
    tester.revoke("pan", &[&issued.token], &[]).await.unwrap();
    tester.tokenize("pan", vec![lasting(value, Duration::ZERO)]).await.unwrap();
    let needles = [&value[..], &value[7..27], issued.token.as_bytes(), &issued.token.as_bytes()[4..31], b"7716"];
    let holds = |row: &[u8]| needles.iter().any(|needle| row.windows(needle.len()).any(|window| window == *needle));
    assert!(holds(b"...canary-4929-1853-0042-7716-yranac..."), "the search finds what is there");
    for ((table, key), row) in f.site.dump() {
        assert!(!holds(&row) && !holds(&key), "in {}", table.name());
    }
    f.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_scopes_key_is_made_once_and_before_it_is_used() {
    const CALLERS: usize = 32;
    let f = Fixture::new();
    for scope in ["pan", "acme/note", "b/note"] {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let tester = f.tester();
                tokio::spawn(async move { tester.issue(scope, item(PAN)).await.token })
            })
            .collect();
        for caller in callers {
            let token = caller.await.unwrap();
            assert_eq!(f.tester().show(scope, &[&token]).await, values(&[PAN]));
        }
    }
    let keyring = f.vault.keyring();
    let ids =
        ["pan", "acme/note", "b/note"].map(|name| keyring.scope(&scope::Path::parse(name).unwrap()).unwrap().id.0);
    assert_eq!(ids, [1, 2, 3]);
    let events = f.check();
    for (scope, id) in ["pan", "acme/note", "b/note"].into_iter().zip(ids) {
        let story: Vec<_> = events.iter().filter(|event| event.scope == scope).collect();
        let made = story.iter().filter(|event| event.action() == Action::CreateKey).count();
        assert_eq!((made, story[0].action()), (1, Action::CreateKey), "{scope}");
        assert_eq!(story[0].detail, format!("data/{id} version 1"));
        assert_eq!(story[0].caller, "spiffe://dev.cloakroom.internal/vault");
    }
}

#[tokio::test]
async fn a_key_that_is_not_durable_is_not_used() {
    for fault in [Fault::LOST, Fault::UNKNOWN] {
        let (f, gate) = Fixture::gated();
        gate.shut();
        let tester = f.tester();
        let call = tokio::spawn(async move { name(&tester.tokenize("pan", vec![item(PAN)]).await.err().unwrap()) });
        gate.come().await;
        gate.go(fault);
        assert_eq!(call.await.unwrap(), "unavailable");
        assert!(f.vault.keyring().scope(&scope::Path::parse("pan").unwrap()).is_none());
        gate.lift();
        let f = f.restart();
        assert_eq!(f.events().len(), if fault.applied { 2 } else { 1 });
        let token = f.tester().issue("pan", item(PAN)).await.token;
        assert_eq!(f.tester().show("pan", &[&token]).await, values(&[PAN]));
        f.check();
    }
}

#[tokio::test]
async fn two_scopes_never_share_an_id_whatever_became_of_a_commit() {
    let (f, gate) = Fixture::gated();
    gate.shut();
    // The caller goes while the key's commit is under way. It will be durable, and nobody hears of it.
    let tester = f.tester();
    let gone = tokio::spawn(async move { tester.tokenize("a/note", vec![item(PAN)]).await.map(|_| ()) });
    gate.come().await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    gate.lift();
    gate.go(Fault::NONE);
    let b = f.tester().issue("b/note", item(b"b")).await.token;
    let id = |f: &Fixture, name: &str| f.vault.keyring().scope(&scope::Path::parse(name).unwrap()).map(|keys| keys.id);
    let id_of_b = id(&f, "b/note");
    let f = f.restart();
    assert_eq!(id(&f, "b/note"), id_of_b);
    assert!(id(&f, "a/note").is_some_and(|id| Some(id) != id_of_b), "it was durable");
    let a = f.tester().issue("a/note", item(b"a")).await.token;
    assert_eq!(f.tester().show("a/note", &[&a, &b]).await, Ok(vec![Ok(b"a".to_vec()), Err(ItemFailure::NotFound)]));
    assert_eq!(f.tester().show("b/note", &[&b]).await, values(&[b"b"]));
    f.check();
}

#[tokio::test]
async fn scopes_get_their_ids_once() {
    let f = Fixture::new();
    let named = || f.policy.rulebook().scopes().iter().filter_map(|scope| scope.pattern().exact()).collect::<Vec<_>>();
    f.vault.name_scopes(named()).await.unwrap();
    let events = f.events();
    assert_eq!(events.len(), 1 + 4, "one each, none for a pattern");
    assert!(events[1..].iter().all(|event| words(event) == "reload allowed" && event.detail.starts_with("scope id ")));
    f.vault.name_scopes(named()).await.unwrap();
    assert_eq!(f.events().len(), 5);
    let known = |f: &Fixture, name: &str| {
        f.vault.keyring().scope(&scope::Path::parse(name).unwrap()).map(|keys| (keys.id, keys.data.is_some()))
    };
    let before = known(&f, "pan").unwrap();
    assert!(!before.1, "a key is for the first Tokenize to make");
    f.tester().issue("pan", item(PAN)).await;
    assert_eq!(known(&f, "pan"), Some((before.0, true)));
    let f = f.restart();
    assert_eq!(known(&f, "pan"), Some((before.0, true)));
    f.check();
}

#[tokio::test]
async fn detokenizing_makes_no_key() {
    let f = Fixture::new();
    let token = f.tester().issue("pan", item(PAN)).await.token;
    let before = f.site.dump();
    assert_eq!(f.tester().show("email", &[&token]).await, nothing(1));
    f.tester().inspect("acme/note", &[&token], &[]).await.unwrap();
    f.tester().revoke("acme/note", &[&token], &[]).await.unwrap();
    let after = f.site.dump();
    for table in [Table::Scopes, Table::Keys, Table::Tokens, Table::Expiry] {
        assert!(before.iter().filter(|row| row.0.0 == table).eq(after.iter().filter(|row| row.0.0 == table)));
    }
    f.check();
}

#[tokio::test]
async fn nothing_in_an_event_follows_from_a_guess_of_the_value_a_12() {
    let f = Fixture::new();
    let card: &[u8] = b"4111111111111111";
    let social: &[u8] = b"078051120";
    let mut handles = Vec::new();
    for scope in ["pan", "ssn"] {
        for value in [card, card, social] {
            handles.push(f.client("gateway").issue(scope, item(value)).await.handle);
        }
    }
    // Twice in one scope and once in another: no two names are alike behind the second of issue.
    let tails: std::collections::BTreeSet<Vec<u8>> =
        handles.iter().map(|handle| handle.as_bytes()[4..].to_vec()).collect();
    assert_eq!(tails.len(), handles.len());
    // What somebody would compute who guesses the value and everything that is no secret.
    let log_id = f.vault.ledger().log_id().to_string();
    let public: [&[u8]; 7] = [b"", b"pan", b"ssn", b"\0\0\0\x01", b"\0\0\0\x02", log_id.as_bytes(), &[0x56; 16]];
    let mut guesses = Vec::new();
    for value in [card, social] {
        for key in public {
            guesses.push(sha256(&[key, value].concat()));
            guesses.push(sha256(&[value, key].concat()));
            guesses.push(hmac_sha256(key, value));
        }
    }
    let events = f.events();
    assert!(events.len() > handles.len());
    let mut compared = 0;
    for event in &events {
        let bytes = event.encode_body();
        for guess in &guesses {
            // Eight bytes of one would do to recognise it; also as text.
            let digits = hex::encode(&guess[..8]);
            let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
            assert!(!holds(&guess[..8]) && !holds(digits.as_bytes()));
            compared += 1;
        }
    }
    println!("low entropy: {compared} comparisons");
}

fn sha256(content: &[u8]) -> Vec<u8> {
    <sha2::Sha256 as sha2::Digest>::digest(content).to_vec()
}

fn hmac_sha256(key: &[u8], content: &[u8]) -> Vec<u8> {
    use hmac::{KeyInit, Mac};
    let hmac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key).expect("any length will do");
    hmac.chain_update(content).finalize().into_bytes().to_vec()
}
