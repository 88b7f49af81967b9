//! How much there may be of a thing: bytes in a value (I-04), items in a batch (I-05); and what the sizes tell (I-04). And which
//! names are names, at every door (I-07).

use crate::harness::{Client, Home, ItemError, PROGRAM, Refusal, Server, TRUST_DOMAIN, info, item, program, texts};
use cloakroom::proto::v1;
use cloakroom::store::{Order, RocksConfig, RocksStore, Rows, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use tonic::Code;

const MIB: usize = 1 << 20;

async fn vault(change: impl FnOnce(&Home)) -> (Home, Server, Client) {
    let home = Home::init();
    let id = format!("spiffe://{TRUST_DOMAIN}/tester");
    home.add_role("tester", &[&id]);
    home.write(
        "policies/tester.cedar",
        "@id(\"tester\")\npermit (principal in Cloakroom::Role::\"tester\", action, resource);\n",
    );
    change(&home);
    let server = home.serve();
    let tester = server.client(&home.authority().client(&id)).await;
    (home, server, tester)
}

/// Standard output of a command of the program that is given `input`, and whether it did all.
fn pipe(home: &Home, server: &Server, who: &str, words: &[&str], input: &[u8]) -> (bool, Vec<u8>, String) {
    let mut command: Command = home.cli(server, who, words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut to, input) = (child.stdin.take().unwrap(), input.to_vec());
    // Beside the reading: neither side may wait for the other with a full pipe.
    let writing = std::thread::spawn(move || to.write_all(&input));
    let done = child.wait_with_output().unwrap();
    // It may have ended before it had read all.
    let _ = writing.join().unwrap();
    (done.status.success(), done.stdout, String::from_utf8(done.stderr).unwrap())
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_gives_back_every_byte_or_refuses_the_line_i_04() {
    let (home, server, _) = vault(|home| {
        home.replace(
            "cloakroom.toml",
            "max_value_bytes = 65536\nmask = { keep_first = 6",
            "max_value_bytes = 1048576\nmask = { keep_first = 6",
        );
    })
    .await;
    let values: Vec<Vec<u8>> = vec![
        vec![0],
        vec![0; 4_096],
        vec![0xff; 257],
        (0..=255).collect(),
        "\u{1f511}\u{10ffff}".into(),
        "é".into(),
        "e\u{301}".into(),
        "\u{fb01}\u{212b}\u{feff}".into(),
        b"two\nlines\r\n".to_vec(),
        b" \t ".to_vec(),
        b"\xc3\x28\x00".to_vec(),
        vec![7; MIB],
    ];
    let lines: String = values.iter().map(|value| base64(value) + "\n").collect();
    let objects: Vec<String> =
        values.iter().map(|value| format!("{{\"value_base64\": \"{}\"}}\n", base64(value))).collect();
    let objects = objects.concat();
    for (form, input) in [("base64", &lines), ("ndjson", &objects)] {
        let words = ["tokenize", "--scope", "pan", "--input", form];
        let (whole, tokens, said) = pipe(&home, &server, "gateway", &words, input.as_bytes());
        assert!(whole, "{form}: {said}");
        let words = ["detokenize", "--scope", "pan", "--purpose", "test", "--output", "base64"];
        let (whole, found, said) = pipe(&home, &server, "payments", &words, &tokens);
        assert!(whole && String::from_utf8(found).unwrap() == lines, "{form}: {said}");
    }
    // As lines: what a line can hold, byte for byte, in and out.
    let plain: Vec<&Vec<u8>> = values.iter().filter(|value| !value.contains(&b'\n') && value.len() < MIB).collect();
    let input: Vec<u8> = plain.iter().flat_map(|value| [value, &b"\n"[..]].concat()).collect();
    let (whole, tokens, said) = pipe(&home, &server, "gateway", &["tokenize", "--scope", "pan"], &input);
    assert!(whole, "{said}");
    let words = ["detokenize", "--scope", "pan", "--purpose", "test"];
    let (whole, found, said) = pipe(&home, &server, "payments", &words, &tokens);
    assert!(whole && found == input, "{said}");
    // CR LF ends a line as LF does: what ends in CR, or may, goes in as base64.
    let (whole, tokens, said) = pipe(&home, &server, "gateway", &["tokenize", "--scope", "pan"], b"a\r\nb\rc\nd\r\r\n");
    assert!(whole, "{said}");
    let (whole, found, said) = pipe(&home, &server, "payments", &words, &tokens);
    assert!(whole && found == b"a\nb\rc\nd\r\n", "{said} {}", String::from_utf8_lossy(&found));
    let (_, help, _) = pipe(&home, &server, "gateway", &["tokenize", "--help"], b"");
    let help = String::from_utf8(help).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("a line ends with LF or CR LF; what may end in CR goes in as base64"), "{help}");
    // Nothing, and one byte too much: a line each, and their neighbour is served.
    let input = format!("\n{}\n{}\n", base64(&vec![7; MIB + 1]), base64(b"good"));
    let words = ["tokenize", "--scope", "pan", "--input", "base64"];
    let (whole, tokens, said) = pipe(&home, &server, "gateway", &words, input.as_bytes());
    let tokens = String::from_utf8(tokens).unwrap();
    let given: Vec<bool> = tokens.lines().map(|line| line.starts_with("pan_")).collect();
    assert!(!whole && given == [false, false, true], "{tokens} {said}");
    assert!(said.lines().count() == 2 && said.contains("line 1: ") && said.contains("line 2: "), "{said}");
    server.stop();
    println!("I-04: {} values through the command line, in three forms", values.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_tells_its_values_size_to_the_step_and_no_more_i_04() {
    let (home, server, tester) = vault(|_| {}).await;
    let mut lengths = BTreeMap::new();
    for length in (1..=600).chain([1_000, 4_000, 4_001, 65_535, 65_536]) {
        lengths.insert(length, 0);
    }
    let mut of_handle = BTreeMap::new();
    let all: Vec<usize> = lengths.keys().copied().collect();
    for chunk in all.chunks(100) {
        let items = chunk.iter().map(|length| item(&vec![0x5a; *length])).collect();
        for (length, issued) in chunk.iter().zip(tester.issue("pan", items).await) {
            of_handle.insert(hex::decode(issued.handle).unwrap(), *length);
        }
    }
    let said = server.log();
    let filter = v1::AuditFilter { scope: "pan".to_owned(), ..Default::default() };
    let mut sizes_of_events = BTreeSet::new();
    for mut event in tester.events(filter).await {
        // One item's event has the same length as any other's: handles have one, and there is nothing else of the item.
        if event.requested == 100 {
            event.detail.clear();
            sizes_of_events.insert((event.handles.len(), event.item_outcomes.len()));
        }
    }
    assert_eq!(sizes_of_events, BTreeSet::from([(100, 100)]));
    server.stop();
    assert!(!said.contains("65535") && !said.contains("65536"), "{said}");
    let store = RocksStore::open(&home.file("data"), &RocksConfig::default()).unwrap();
    for (handle, row) in store.scan(Table::Tokens, &[], &[0xff; 25], Order::Ascending, usize::MAX).unwrap() {
        if let Some(length) = of_handle.get(&handle) {
            lengths.insert(*length, row.len());
        }
    }
    drop(store);
    assert!(lengths.values().all(|stored| *stored > 0), "each record was found");
    // docs/formats.md, by its own words: a 4-byte length in front, then steps of 16 up to 256, then Padmé.
    let step = |length: usize| {
        let framed = length + 4;
        if framed <= 256 {
            return framed.next_multiple_of(16);
        }
        let exponent = framed.ilog2();
        framed.next_multiple_of(1 << (exponent - (exponent.ilog2() + 1)))
    };
    let rest: BTreeSet<usize> = lengths.iter().map(|(length, stored)| stored - step(*length)).collect();
    assert_eq!(rest.len(), 1, "beside its step, a record's length is the same for every value: {rest:?}");
    let told: BTreeSet<usize> = lengths.values().copied().collect();
    println!("I-04: {} lengths of values, {} lengths of records", lengths.len(), told.len());
    home.serve().stop();
}

/// A call with so many items, and what became of it: reasons by item, or the refusal.
async fn ask(tester: &Client, call: &str, tokens: Vec<String>) -> Result<Vec<String>, Refusal> {
    let scope = "pan".to_owned();
    let mut service = tester.tokens();
    let said = |result: Result<(), ItemError>| result.err().map(|error| error.reason).unwrap_or_default();
    Ok(match call {
        "Detokenize" => tester.detokenize("pan", &tokens).await?.into_iter().map(|one| said(one.map(drop))).collect(),
        "InspectTokens" => {
            let request = v1::InspectTokensRequest { scope, tokens, ..Default::default() };
            let answer = service.inspect_tokens(request).await.map_err(|error| Refusal::of(&error))?.into_inner();
            answer.results.into_iter().map(|one| said(info(one).map(drop))).collect()
        }
        "RenewTokens" => {
            let request = v1::RenewTokensRequest { scope, tokens, ..Default::default() };
            let answer = service.renew_tokens(request).await.map_err(|error| Refusal::of(&error))?.into_inner();
            let one = |result: v1::RenewResult| match result.outcome.unwrap() {
                v1::renew_result::Outcome::ExpireTime(_) => String::new(),
                v1::renew_result::Outcome::Error(status) => ItemError::of(&status).reason,
            };
            answer.results.into_iter().map(one).collect()
        }
        _ => {
            let request = v1::RevokeTokensRequest { scope, tokens, ..Default::default() };
            let answer = service.revoke_tokens(request).await.map_err(|error| Refusal::of(&error))?.into_inner();
            answer.results.into_iter().map(|one| said(crate::harness::revoke_time(one).map(drop))).collect()
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_takes_one_to_a_thousand_items_and_duplicates_are_deterministic_i_05() {
    let (_home, server, tester) = vault(|_| {}).await;
    for call in ["Detokenize", "InspectTokens", "RenewTokens", "RevokeTokens"] {
        let tokens = texts(&tester.issue("pan", vec![item(b"same"); 1000]).await);
        for (count, reason) in [(0, "BATCH_EMPTY"), (1001, "BATCH_TOO_LARGE")] {
            let many = tokens.iter().cycle().take(count).cloned().collect();
            let refusal = ask(&tester, call, many).await.unwrap_err();
            assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, reason), "{call}");
            assert!(refusal.receipt.is_some(), "{call}: it has its event");
        }
        let all_good = |count| vec![String::new(); count];
        assert_eq!(ask(&tester, call, tokens[..1].to_vec()).await.unwrap(), all_good(1), "{call}: one");
        assert_eq!(ask(&tester, call, tokens.clone()).await.unwrap(), all_good(1000), "{call}: the most");
        // All the same, twice over: revoking again is no failure, and no other call changes what the next one sees.
        for _ in 0..2 {
            let same = vec![tokens[0].clone(); 1000];
            assert_eq!(ask(&tester, call, same).await.unwrap(), all_good(1000), "{call}: all the same");
        }
        // Good and bad, mixed, keep their places.
        let mixed = vec![tokens[1].clone(), "pan_no".to_owned(), tokens[1].clone(), String::new()];
        let answers = ask(&tester, call, mixed).await.unwrap();
        assert_eq!(answers, ["", "TOKEN_MALFORMED", "", "TOKEN_MALFORMED"], "{call}: mixed");
    }
    // One use, asked for a thousand times in one call: the first gets it, in item order, each time.
    for _ in 0..5 {
        let once = v1::TokenizeItem { max_uses: 1, ..item(b"once") };
        let token = texts(&tester.issue("pan", vec![once]).await).remove(0);
        let found = ask(&tester, "Detokenize", vec![token.clone(); 1000]).await.unwrap();
        assert!(found[0].is_empty() && found[1..].iter().all(|reason| reason == "TOKEN_NOT_FOUND"));
        assert_eq!(ask(&tester, "Detokenize", vec![token]).await.unwrap(), ["TOKEN_NOT_FOUND"]);
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_id_is_one_batch_however_often_it_comes_i_05() {
    let (_home, server, tester) = vault(|_| {}).await;
    let request_id = "7f9c24e8-3b12-4fef-91e0-3dfb0b9e4c1a".to_owned();
    let batch = |count: usize| v1::TokenizeRequest {
        scope: "pan".to_owned(),
        items: vec![item(b"same"); count],
        request_id: request_id.clone(),
        ..Default::default()
    };
    // All of them at the same time, and once more after them.
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (mut service, request) = (tester.tokens(), batch(100));
            tokio::spawn(async move { service.tokenize(request).await.unwrap().into_inner() })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    answers.push(tester.tokens().tokenize(batch(100)).await.unwrap().into_inner());
    let tokens: BTreeSet<Vec<String>> = answers
        .into_iter()
        .map(|answer| answer.results.into_iter().map(|one| crate::harness::issued(one).unwrap().token).collect())
        .collect();
    assert_eq!(tokens.len(), 1, "one answer for all");
    let distinct: BTreeSet<&String> = tokens.iter().flatten().collect();
    assert_eq!(distinct.len(), 100, "and within it each item has a token of its own");
    // Another number of the same items is another request.
    let refusal = crate::harness::refused(tester.tokens().tokenize(batch(99)).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "REQUEST_ID_USED"));
    assert_eq!(tester.tokenize("pan", &[b"4111111111111111"]).await.len(), 1);
    server.stop();
}

/// Names that are none, anywhere: separators in wrong places, dots, case, NUL, spaces, other spellings, too long.
fn no_names() -> Vec<String> {
    let plain = [
        "/",
        "pan/",
        "/pan",
        "a//b",
        "..",
        "../pan",
        "pan/..",
        "./pan",
        "pan/.",
        "PAN",
        "Pan",
        "pan ",
        " pan",
        "pan.",
        "pan\n",
        "p\u{e4}n",
        "pa\u{308}n",
        "p\u{430}n",
        "\u{ff50}an",
        "pan\u{200b}",
        "pan%2f",
        "p\\n",
        "-pan",
        "_pan",
        "pan\t",
    ];
    plain.into_iter().map(str::to_owned).chain(["a".repeat(64), "pan/".repeat(2_560), ["a"; 9].join("/")]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_refused_at_every_door_or_at_none_i_07() {
    let (home, server, tester) = vault(|_| {}).await;
    let configuration = home.read("cloakroom.toml");
    let check = |home: &Home| {
        let mut command = program();
        command.args(["serve", "--check", "--config"]).arg(home.file("cloakroom.toml"));
        let done = command.output().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap())
    };
    assert_eq!(check(&home).0, Some(0), "{}", check(&home).1);
    let mut refused_at = 0;
    for name in no_names() {
        // The audit log's filter.
        let filter = Some(v1::AuditFilter { scope: name.clone(), ..Default::default() });
        let request = v1::QueryEventsRequest { filter, ..Default::default() };
        let refusal = crate::harness::refused(tester.audit().query_events(request).await);
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "FILTER_MALFORMED"), "{name:?}");
        assert_eq!(refusal.fields, ["filter.scope"], "{name:?}");
        // The command line.
        if name.len() < 100 {
            let scope = format!("--scope={name}");
            let (whole, tokens, said) = pipe(&home, &server, "gateway", &["tokenize", &scope], b"4111111111111111\n");
            assert!(!whole && tokens.iter().all(|byte| *byte == b'\n') && !said.is_empty(), "{name:?}: {said}");
        }
        // The configuration, which TOML lets have any text as a key.
        let quoted = format!("\"{}\"", name.escape_default().to_string().replace("\\u{", "\\U{"));
        let quoted = to_toml(&quoted);
        home.write("cloakroom.toml", &format!("{configuration}\n[scopes.{quoted}]\nprefix = \"x\"\n"));
        let (status, said) = check(&home);
        assert_eq!(status, Some(2), "as a scope of the configuration, {name:?}: {said}");
        // A policy's text.
        home.write("cloakroom.toml", &configuration);
        let policy =
            format!("@id(\"x\")\npermit (principal, action, resource == Cloakroom::Scope::{});\n", cedar(&name));
        home.write("policies/x.cedar", &policy);
        let (status, said) = check(&home);
        assert_eq!(status, Some(2), "in a policy, {name:?}: {said}");
        std::fs::remove_file(home.file("policies/x.cedar")).unwrap();
        refused_at += 1;
    }
    assert_eq!(check(&home).0, Some(0));
    assert_eq!(tester.tokenize("pan", &[b"4111111111111111"]).await.len(), 1);
    server.stop();
    println!(
        "I-07: {refused_at} names refused by the audit filter, the command line, the configuration and policies ({PROGRAM})"
    );
}

/// A text as TOML writes it.
fn to_toml(quoted: &str) -> String {
    let mut text = String::new();
    let mut rest = quoted;
    while let Some((before, after)) = rest.split_once("\\U{") {
        let (digits, behind) = after.split_once('}').unwrap();
        text = format!("{text}{before}\\U{digits:0>8}");
        rest = behind;
    }
    text + rest
}

fn cedar(name: &str) -> String {
    format!("\"{}\"", name.escape_default())
}
