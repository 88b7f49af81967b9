//! Policy as code, against a vault that runs: what the commands say of a call is what the vault says to it.

use crate::harness::{Client, Home, Refusal, Server, TRUST_DOMAIN, item, program, texts};
use cloakroom::proto::v1;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Output;
use tonic::Code;

const CALLS: usize = 1_000;

/// Rules of every kind beside the sample's: a pattern, a forbid, conditions on purpose, number, time and role.
const MORE: &str = r#"
@id("nobody-reads-in-bulk")
forbid (principal, action == Cloakroom::Action::"detokenize", resource)
when { context.requested > 2 }
unless { principal in Cloakroom::Role::"operator" };

@id("acme-all")
permit (principal in Cloakroom::TrustDomain::"dev.cloakroom.internal",
  action in [Cloakroom::Action::"tokenize", Cloakroom::Action::"renew"], resource in Cloakroom::Scope::"acme");

@id("gateway-inspects-a-few")
permit (principal in Cloakroom::Role::"gateway", action == Cloakroom::Action::"inspect", resource)
when { context.requested < 3 && context.now < datetime("2100-01-01") };

@id("once")
permit (principal, action == Cloakroom::Action::"revoke", resource)
when { context.now < datetime("2020-01-01") };

@id("stranger-audits-refunds")
permit (principal == Cloakroom::Workload::"spiffe://dev.cloakroom.internal/stranger",
  action == Cloakroom::Action::"detokenize", resource == Cloakroom::Scope::"ssn")
when { ["audit", "refund"].contains(context.purpose) && context.reveal == "masked" };

@id("operator-overflows")
permit (principal in Cloakroom::Role::"operator", action == Cloakroom::Action::"tokenize", resource)
when { context.requested * 4611686018427387904 > 0 };
"#;

const NAMES: [&str; 5] = ["gateway", "payments", "auditor", "operator", "stranger"];
const SCOPES: [&str; 6] = ["pan", "ssn", "email", "acme/card", "other/card", "none"];
const PURPOSES: [&str; 3] = ["", "refund", "audit"];
/// Detokenize more often than the others: most conditions are about it.
const ACTIONS: [&str; 8] =
    ["tokenize", "detokenize", "detokenize", "detokenize", "inspect", "renew", "revoke", "queryAudit"];

/// One call, drawn at random.
struct Drawn {
    name: &'static str,
    action: &'static str,
    scope: &'static str,
    purpose: &'static str,
    masked: bool,
    requested: u64,
}

/// The same draws each time: a failure can be looked at again. (SplitMix64.)
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % bound as u64).unwrap()
    }

    /// Some refusals first, before each caller has had so many that further ones are only counted; then at random.
    fn calls(mut self) -> impl Iterator<Item = Drawn> {
        let inspect =
            |name| Drawn { name, action: "inspect", scope: "email", purpose: "", masked: false, requested: 1 };
        let refund = Drawn { action: "detokenize", purpose: "refund", ..inspect("payments") };
        let other = Drawn { action: "tokenize", scope: "other/card", ..inspect("gateway") };
        let first = [inspect("payments"), inspect("auditor"), inspect("stranger"), inspect("auditor"), refund, other];
        first.into_iter().chain(std::iter::repeat_with(move || self.call()))
    }

    fn call(&mut self) -> Drawn {
        Drawn {
            name: NAMES[self.below(NAMES.len())],
            action: ACTIONS[self.below(ACTIONS.len())],
            scope: SCOPES[self.below(SCOPES.len())],
            purpose: PURPOSES[self.below(PURPOSES.len())],
            masked: self.below(2) == 1,
            requested: 1 + self.below(4) as u64,
        }
    }
}

impl Drawn {
    /// Makes the call and says whether policy allowed it.
    async fn is_allowed(&self, client: &Client) -> bool {
        let (mut tokens, scope) = (client.tokens(), self.scope.to_owned());
        let count = usize::try_from(self.requested).unwrap();
        // Tokens that are none: what becomes of items is not policy's.
        let named = || vec![format!("{}_none", self.scope.replace('/', "")); count];
        let answer = match self.action {
            "tokenize" => {
                let items = vec![item(b"4111111111111111"); count];
                let request = v1::TokenizeRequest { scope, items, ..Default::default() };
                tokens.tokenize(request).await.map(drop)
            }
            "detokenize" => {
                let reveal = if self.masked { v1::Reveal::Masked } else { v1::Reveal::Full };
                let purpose = self.purpose.to_owned();
                let request = v1::DetokenizeRequest {
                    scope,
                    tokens: named(),
                    purpose,
                    reveal: reveal.into(),
                    ..Default::default()
                };
                tokens.detokenize(request).await.map(drop)
            }
            "inspect" => {
                let request = v1::InspectTokensRequest { scope, tokens: named(), ..Default::default() };
                tokens.inspect_tokens(request).await.map(drop)
            }
            "renew" => {
                let request = v1::RenewTokensRequest { scope, tokens: named(), ..Default::default() };
                tokens.renew_tokens(request).await.map(drop)
            }
            "revoke" => {
                let request = v1::RevokeTokensRequest { scope, tokens: named(), ..Default::default() };
                tokens.revoke_tokens(request).await.map(drop)
            }
            _ => {
                let request = v1::QueryEventsRequest { page_size: 1, ..Default::default() };
                client.audit().query_events(request).await.map(drop)
            }
        };
        let Err(status) = answer else { return true };
        let refusal = Refusal::of(&status);
        match (refusal.code, refusal.reason.as_str()) {
            (Code::PermissionDenied, "POLICY_DENIED") => false,
            // Only who is permitted gets so far.
            (Code::InvalidArgument, "PURPOSE_REQUIRED") | (Code::Unimplemented, "NOT_IMPLEMENTED") => true,
            other => panic!("{} {} {}: {other:?}", self.name, self.action, self.scope),
        }
    }

    /// The call as an expectation of `policy test`.
    fn expectation(&self, now: &str, allowed: bool) -> String {
        let mut text = format!(
            "[[expect]]\ncaller = \"spiffe://{TRUST_DOMAIN}/{}\"\naction = \"{}\"\nnow = {now}\ndecision = \"{}\"\n",
            self.name,
            self.action,
            if allowed { "allow" } else { "deny" },
        );
        if self.action != "queryAudit" {
            write!(text, "scope = \"{}\"\nrequested = {}\n", self.scope, self.requested).unwrap();
        }
        if self.action == "detokenize" {
            let reveal = if self.masked { "masked" } else { "full" };
            write!(text, "purpose = \"{}\"\nreveal = \"{reveal}\"\n", self.purpose).unwrap();
        }
        text
    }
}

fn policy(home: &Home, words: &[&str]) -> (Option<i32>, String, String) {
    let output: Output =
        program().arg("policy").args(words).arg("--config").arg(home.file("cloakroom.toml")).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn lines(output: &str) -> Vec<serde_json::Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn clients(home: &Home, server: &Server) -> BTreeMap<&'static str, Client> {
    let mut clients = BTreeMap::new();
    for name in NAMES {
        let stranger = || home.authority().client(&format!("spiffe://{TRUST_DOMAIN}/stranger"));
        let identity = if name == "stranger" { stranger() } else { home.identity(name) };
        clients.insert(name, server.client(&identity).await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_real_calls_are_decided_as_policy_test_says_and_diff_sees_what_a_change_changes() {
    let home = Home::init();
    home.add_scope("*/card", "card", "");
    home.write("policies/more.cedar", MORE);
    assert_eq!(policy(&home, &["check"]).0, Some(0));
    let server = home.serve();
    let clients = clients(&home, &server).await;

    let now = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since_epoch(&home));
    let (mut expected, mut allowed, mut first) = (String::new(), 0, None);
    for drawn in Draws(1).calls().take(CALLS) {
        let is_allowed = drawn.is_allowed(&clients[drawn.name]).await;
        allowed += usize::from(is_allowed);
        first.get_or_insert_with(|| drawn.expectation(&now.to_string(), !is_allowed));
        expected += &drawn.expectation(&now.to_string(), is_allowed);
    }
    assert!((CALLS / 10..CALLS * 9 / 10).contains(&allowed), "{allowed} were allowed: that shows little");
    let file = home.file("calls.toml");
    home.write("calls.toml", &expected);
    let (status, output, complaint) = policy(&home, &["test", file.to_str().unwrap()]);
    assert_eq!((status, output.as_str()), (Some(0), "1000 expectations: all met\n"), "{complaint}");
    // And the test could have failed.
    home.write("calls.toml", &format!("{expected}{}", first.unwrap()));
    let (status, output, _) = policy(&home, &["test", file.to_str().unwrap()]);
    assert_eq!(status, Some(1));
    assert!(output.ends_with("1001 expectations: 1 not met\n") && output.contains("    expected "), "{output}");

    changes(&home, &server, &clients["auditor"]).await;
    server.stop();
}

/// `policy diff` against the calls above, with the log itself as oracle.
async fn changes(home: &Home, server: &Server, auditor: &Client) {
    // Refusals that were only counted are written each second; until then they are not in the log for either side.
    let events = auditor.events(v1::AuditFilter::default()).await;
    let last = events.last().unwrap();
    let saved: Vec<u8> = {
        let query = &["audit", "query", "--limit", "0", "--output", "json"];
        let output = home.cli(server, "auditor", query).output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    std::fs::write(home.file("events.jsonl"), &saved).unwrap();
    let file = home.file("events.jsonl");
    let from_file = ["diff", "--output", "json", "--events", file.to_str().unwrap()];

    let (status, output, complaint) = policy(home, &from_file);
    assert_eq!(status, Some(0), "{output}{complaint}");
    let summary = lines(&output).pop().unwrap();
    assert_eq!((&summary["changed"], summary["same"].as_u64() > Some(100)), (&0.into(), true), "{summary}");
    assert!(summary["events"].as_u64() > Some(last.sequence), "{summary}");

    // Payments gets e-mail addresses instead of card numbers, the gateway puts cards of others in instead of e-mail
    // addresses, and everyone may look at the state of tokens in `email`.
    home.replace("policies/gateway.cedar", "Scope::\"email\"", "Scope::\"other/card\"");
    home.replace(
        "policies/payments.cedar",
        "resource == Cloakroom::Scope::\"pan\"",
        "resource == Cloakroom::Scope::\"email\"",
    );
    let inspect = "@id(\"all-inspect-email\") permit (principal, action == Cloakroom::Action::\"inspect\", \
                   resource == Cloakroom::Scope::\"email\");\n";
    home.write("policies/inspect.cedar", inspect);
    let expected = expected_changes(&saved);
    assert!(expected.len() >= 7, "{expected:?}");
    let (status, output, complaint) = policy(home, &from_file);
    assert_eq!(status, Some(1), "{complaint}");
    assert_eq!(found_changes(&output), expected, "{output}");

    // The same from the running vault, where there are a few more events by now: questions to the log.
    let from_vault = home
        .cli(server, "auditor", &["policy", "diff", "--output", "json", "--config"])
        .arg(home.file("cloakroom.toml"))
        .output()
        .unwrap();
    assert_eq!(from_vault.status.code(), Some(1));
    assert_eq!(found_changes(&String::from_utf8(from_vault.stdout).unwrap()), expected);
    // Nothing was recorded after the end of time.
    let (status, output, _) = policy(home, &[&from_file[..], &["--since", "2999-01-01T00:00:00Z"]].concat());
    assert_eq!((status, lines(&output).pop().unwrap()["events"].as_u64()), (Some(0), Some(0)));
    // Whoever may not ask the log is told so.
    let denied =
        home.cli(server, "gateway", &["policy", "diff", "--config"]).arg(home.file("cloakroom.toml")).output().unwrap();
    assert_eq!(denied.status.code(), Some(3));
}

/// Decision before and after, caller, action and scope, with the number of calls.
type Changes = BTreeMap<(String, String, String, String), u64>;

/// What the change above changes, read off the events by hand.
fn expected_changes(events: &[u8]) -> Changes {
    let mut expected = Changes::new();
    for event in lines(std::str::from_utf8(events).unwrap()) {
        let field = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let (caller, scope, few) = (field("caller"), field("scope"), event["requested"].as_u64() <= Some(2));
        let is_payments = caller.ends_with("/payments");
        let way = match (field("action").as_str(), scope.as_str(), field("outcome").as_str()) {
            _ if !event["count"].is_null() => continue,
            ("DETOKENIZE", "pan", "ALLOWED") if is_payments => "deny",
            ("DETOKENIZE", "email", "DENIED") if is_payments && few && !field("purpose").is_empty() => "allow",
            ("INSPECT", "email", "DENIED") => "allow",
            ("TOKENIZE", "email", "ALLOWED") if caller.ends_with("/gateway") => "deny",
            ("TOKENIZE", "other/card", "DENIED") if caller.ends_with("/gateway") => "allow",
            _ => continue,
        };
        *expected.entry((way.to_owned(), caller, field("action").to_lowercase(), scope)).or_default() += 1;
    }
    expected
}

fn found_changes(output: &str) -> Changes {
    let changes = lines(output).into_iter().filter(|line| line["kind"] == "change");
    let field = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap().to_owned();
    changes
        .map(|line| {
            assert_ne!(line["was"], line["would_be"]);
            let key = (field(&line, "would_be"), field(&line, "caller"), field(&line, "action"), field(&line, "scope"));
            (key, line["calls"].as_u64().unwrap())
        })
        .collect()
}

/// About now: a file that was just written says so.
fn since_epoch(home: &Home) -> std::time::Duration {
    let written = std::fs::metadata(home.file("policies/more.cedar")).unwrap().modified().unwrap();
    written.duration_since(std::time::UNIX_EPOCH).unwrap()
}

#[test]
fn check_ends_as_serve_would() {
    let home = Home::init();
    let (status, output, _) = policy(&home, &["check", "--deny-warnings"]);
    assert_eq!(status, Some(0), "the sample has neither mistakes nor warnings: {output}");
    assert!(output.starts_with("0 mistakes, 0 warnings; 3 scopes, 4 roles, 8 policies, rulebook "), "{output}");
    let tests = home.file("policies/tests.toml");
    assert_eq!(policy(&home, &["test", tests.to_str().unwrap()]).0, Some(0));

    home.add_role("support", &[]);
    let (status, output, _) = policy(&home, &["check"]);
    assert_eq!(status, Some(0));
    let line = 1 + home.read("cloakroom.toml").lines().position(|line| line.starts_with("support =")).unwrap();
    let place =
        format!("cloakroom.toml:{line}: roles.support: warning: nobody holds the role `support` [empty-role]\n");
    assert!(output.contains(&place), "{output}");
    assert_eq!(policy(&home, &["check", "--deny-warnings"]).0, Some(2));

    home.replace("policies/gateway.cedar", "Scope::\"email\"", "Scope::\"emial\"");
    home.replace("cloakroom.toml", "prefix = \"ssn\"", "prefix = \"SSN\"");
    let (status, output, _) = policy(&home, &["check", "--output", "json"]);
    assert_eq!(status, Some(2));
    let found = lines(&output);
    let whats: Vec<_> = found.iter().filter_map(|line| line["what"].as_str()).collect();
    assert_eq!(whats, ["is not a prefix", "unknown scope `emial`"], "{output}");
    assert_eq!((&found[1]["hint"], &found[1]["line"]), (&"did you mean `email`?".into(), &24.into()), "{output}");
    let serve = home.serve_command().output().unwrap();
    assert_eq!(serve.status.code(), Some(2));
    let complaint = String::from_utf8(serve.stderr).unwrap();
    assert!(
        complaint.contains("2 mistakes in the rulebook:") && complaint.contains("did you mean `email`?"),
        "{complaint}"
    );

    home.replace("cloakroom.toml", "[policies]", "[polices]");
    let (status, output, _) = policy(&home, &["check"]);
    assert!(status == Some(2) && output.contains(": mistake: ") && output.contains("polices"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_and_single_answers_are_what_the_vault_does() {
    let home = Home::init();
    let (status, output, _) = policy(&home, &["explain", "--output", "json"]);
    assert_eq!(status, Some(0));
    let cell = |caller: &str, action: &str, scope: &str| {
        let is_it =
            |line: &serde_json::Value| line["caller"] == caller && line["action"] == action && line["scope"] == scope;
        let line = lines(&output).into_iter().find(is_it).unwrap();
        line["decision"].as_str().unwrap().to_owned()
    };
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let payments = server.client(&home.identity("payments")).await;
    assert_eq!(cell("gateway", "tokenize", "pan"), "yes");
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    assert_eq!(cell("payments", "detokenize", "pan"), "when");
    assert_eq!(payments.detokenize("pan", &tokens).await.unwrap().len(), 1);
    assert_eq!(cell("gateway", "detokenize", "pan"), "no");
    assert_eq!(gateway.detokenize("pan", &tokens).await.unwrap_err().code, Code::PermissionDenied);
    let others = "all others of dev.cloakroom.internal";
    assert_eq!(cell(others, "inspect", "email"), "no");

    let caller = format!("spiffe://{TRUST_DOMAIN}/payments");
    let call = ["explain", "--caller", &caller, "--action", "detokenize", "--scope", "ssn", "--purpose", "refund"];
    let (status, output, _) = policy(&home, &call);
    assert_eq!(status, Some(0));
    assert!(output.starts_with(&format!("no: {caller} may not detokenize in ssn\n")), "{output}");
    assert!(output.contains("payments.cedar:22:1") || output.contains("context.reveal == \"masked\""), "{output}");
    let (_, output, _) = policy(&home, &[&call[..], &["--reveal", "masked", "--output", "json"]].concat());
    let answer = lines(&output).pop().unwrap();
    assert_eq!(
        (&answer["decision"], &answer["policies"][0]["id"]),
        (&"allow".into(), &"payments-sees-ssn-masked".into())
    );
    let (status, _, complaint) = policy(&home, &["explain", "--caller", &caller, "--action", "detokenise"]);
    assert!(status == Some(2) && complaint.contains("did you mean `detokenize`?"), "{complaint}");
}
