//! What calls may cost in memory: one that names as much as it may, and many of them at once, with callers who take no answer.
//!
//! The vault's resident memory at its peak is held against the budget that `docs/operations.md` gives to operators.

use crate::faults::{good_caller, kept};
use crate::frames::{DATA, HEADERS, Line, framed};
use crate::harness::{Client, Home, ItemError, Refusal, Server, refused, texts, value};
use crate::promises::{Dice, Plan, run};
use cloakroom::proto::v1::{self, Action, ItemOutcome};
use prost::Message;
use std::io::Write;
use std::process::Stdio;
use tokio::task::JoinSet;
use tonic::Code;

const MIB: usize = 1 << 20;
const SCOPE: &str = "big";
/// Tokens of a mebibyte each.
const TOKENS: usize = 18;
/// Records that one call names.
const MANY: usize = 150;
/// Calls at the same time.
const AT_ONCE: usize = 4;

// As the vault of these tests is configured.
const CACHE: usize = 32 * MIB;
const IN_FLIGHT: usize = 48 * MIB;
const QUEUED: usize = 16 * MIB;

/// What `docs/operations.md` says of memory, for these settings and so many connections.
pub fn budget(cache: usize, in_flight: usize, queued: usize, connections: usize) -> usize {
    300 * MIB + cache + 3 * in_flight + 4 * queued + connections * 64 * 1024
}

/// In bytes: `VmHWM` is the most there ever was, `VmRSS` what there is.
pub fn memory(server: &Server, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

fn home() -> Home {
    let home = Home::init();
    let settings = format!("path = \"data\"\ncache_bytes = {CACHE}");
    home.replace("cloakroom.toml", "path = \"data\"", &settings);
    home.replace("cloakroom.toml", "[operations]", &format!("max_bytes_in_flight = {IN_FLIGHT}\n\n[operations]"));
    home.append("cloakroom.toml", &format!("[ledger]\nmax_queued_bytes = {QUEUED}\n"));
    home.add_scope(SCOPE, SCOPE, &format!("max_value_bytes = {MIB}"));
    home.add_role("giants", &["spiffe://dev.cloakroom.internal/giant", "spiffe://dev.cloakroom.internal/neighbour"]);
    for action in ["tokenize", "detokenize", "inspect", "renew", "revoke"] {
        home.permit("giants", action, SCOPE);
    }
    home
}

/// One who may do everything with large values.
struct Giant<'a> {
    server: &'a Server,
    client: Client,
    auditor: Client,
}

impl Giant<'_> {
    async fn issue(&self, count: usize) -> Vec<String> {
        let mut tokens = Vec::new();
        while tokens.len() < count {
            let values: Vec<Vec<u8>> = (0..3).map(|number| vec![b'a' + number; MIB]).collect();
            let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            tokens.extend(texts(&self.client.tokenize(SCOPE, &values).await));
        }
        tokens
    }

    fn detokenizing(tokens: Vec<String>) -> v1::DetokenizeRequest {
        v1::DetokenizeRequest { scope: SCOPE.to_owned(), tokens, purpose: "test".to_owned(), ..Default::default() }
    }

    async fn detokenize(&self, tokens: Vec<String>) -> Result<Vec<Result<Vec<u8>, ItemError>>, Refusal> {
        let answer = self.client.tokens().detokenize(Self::detokenizing(tokens)).await;
        Ok(answer.map_err(|status| Refusal::of(&status))?.into_inner().results.into_iter().map(value).collect())
    }

    fn renewing(tokens: Vec<String>) -> v1::RenewTokensRequest {
        v1::RenewTokensRequest { scope: SCOPE.to_owned(), tokens, ..Default::default() }
    }

    fn revoking(tokens: Vec<String>) -> v1::RevokeTokensRequest {
        v1::RevokeTokensRequest { scope: SCOPE.to_owned(), tokens, ..Default::default() }
    }

    /// Each of `calls`, `AT_ONCE` times at the same time.
    async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        call: impl Fn(Client) -> F,
        client: &Client,
    ) -> Vec<T> {
        let mut calls = JoinSet::new();
        (0..AT_ONCE).for_each(|_| _ = calls.spawn(call(client.clone())));
        calls.join_all().await
    }

    /// The event of a refusal, which must have all items.
    async fn recorded(&self, refusal: &Refusal, items: usize) -> v1::AuditEvent {
        let event = self.auditor.event(refusal.receipt.as_ref().expect("it has an event")).await;
        assert_eq!((event.handles.len(), event.item_outcomes.len(), event.succeeded), (items, items, 0));
        event
    }

    fn says(&self, what: &str) {
        println!("bytes: {what}: {} MiB resident at the most so far", memory(self.server, "VmHWM") / MIB);
    }
}

/// Hundreds of records of a mebibyte each, in every call that reads records, alone and several at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_call_reads_and_writes_is_bounded_in_bytes_d_07() {
    let home = home();
    let server = home.serve();
    let client = server.client(&home.authority().client("spiffe://dev.cloakroom.internal/giant")).await;
    let auditor = server.client(&home.identity("auditor")).await;
    let giant = Giant { server: &server, client, auditor };
    let tokens = giant.issue(TOKENS).await;
    giant.says("issued");

    too_long_to_answer(&giant, &tokens).await;
    too_long_to_write(&giant, &tokens).await;
    dead_ones_weigh_as_much_as_unknown_ones(&giant).await;
    halves_are_asked_for(&home, &giant, &tokens).await;
    nobody_takes_the_answers(&home, &giant, &tokens).await;
    large_messages_that_never_end(&home, &giant).await;

    let (peak, most) = (memory(&server, "VmHWM"), budget(CACHE, IN_FLIGHT, QUEUED, 20));
    println!("bytes: {} MiB resident at the peak, of {} MiB that the formula gives", peak / MIB, most / MIB);
    assert!(peak < most, "{peak} of {most}");
    good_caller(&home, &server).await;
    let plan = Plan { seed: Dice::seed(), callers: 16, calls: 300, stamp: Box::new(|| 0) };
    let ended = run(&home, &server, plan, || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    server.stop();
    println!("bytes: {}", kept(&home, home.serve_command(), &ended.promises).await);
}

async fn too_long_to_answer(giant: &Giant<'_>, tokens: &[String]) {
    let same = vec![tokens[0].clone(); MANY];
    let refusal = giant.detokenize(same.clone()).await.err().unwrap();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "REPLY_TOO_LARGE"));
    let event = giant.recorded(&refusal, MANY).await;
    assert!(event.item_outcomes().all(|outcome| outcome == ItemOutcome::Refused));
    let call = |client: Client| {
        let request = Giant::detokenizing(vec![tokens[1].clone(); MANY]);
        async move { refused(client.tokens().detokenize(request).await).reason }
    };
    let reasons = Giant::all(call, &giant.client).await;
    // Each holds two parts when it is found to be too much; where they have no room together, some are told that.
    assert!(reasons.iter().all(|reason| ["REPLY_TOO_LARGE", "OVERLOADED"].contains(&reason.as_str())), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason == "REPLY_TOO_LARGE"));
    giant.says("hundreds of values of a mebibyte, refused");
    // What is looked at is not kept.
    let request = v1::InspectTokensRequest { scope: SCOPE.to_owned(), tokens: same, ..Default::default() };
    let infos = giant.client.tokens().inspect_tokens(request).await.unwrap().into_inner().results;
    assert_eq!(infos.len(), MANY);
    giant.says("hundreds of records of a mebibyte, inspected");
    assert_eq!(giant.detokenize(tokens[..3].to_vec()).await.unwrap().into_iter().flatten().count(), 3);
}

async fn too_long_to_write(giant: &Giant<'_>, tokens: &[String]) {
    let refusal = refused(giant.client.tokens().renew_tokens(Giant::renewing(tokens.to_vec())).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "RECORDS_TOO_LARGE"));
    let event = giant.recorded(&refusal, tokens.len()).await;
    assert_eq!(event.action(), Action::Renew);
    let refusal = refused(giant.client.tokens().revoke_tokens(Giant::revoking(tokens.to_vec())).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "RECORDS_TOO_LARGE"));
    giant.recorded(&refusal, tokens.len()).await;
    // Nothing of either was written.
    assert_eq!(giant.detokenize(tokens[..2].to_vec()).await.unwrap().into_iter().flatten().count(), 2);
    let many = |client: Client| {
        let request = Giant::renewing(tokens.to_vec());
        async move { refused(client.tokens().renew_tokens(request).await).reason }
    };
    let reasons = Giant::all(many, &giant.client).await;
    assert!(reasons.iter().all(|reason| ["RECORDS_TOO_LARGE", "OVERLOADED"].contains(&reason.as_str())), "{reasons:?}");
    // What one call made can be renewed at once, and the same token twice is written once.
    let twice: Vec<String> = tokens[..3].iter().chain(&tokens[..3]).cloned().collect();
    let renewed = giant.client.tokens().renew_tokens(Giant::renewing(twice)).await.unwrap().into_inner();
    assert_eq!(renewed.results.len(), 6);
    giant.says("eighteen records of a mebibyte, not renewed and not revoked");
}

async fn dead_ones_weigh_as_much_as_unknown_ones(giant: &Giant<'_>) {
    let dead = giant.issue(3).await;
    giant.client.tokens().revoke_tokens(Giant::revoking(dead.clone())).await.unwrap();
    let live = giant.issue(3).await;
    let unknown = "big_0000000000000000000000000003FIOPr";
    let outcome = |dead: &str| {
        let tokens = live.iter().map(String::as_str).chain(std::iter::repeat_n(dead, MANY - 3));
        giant.detokenize(tokens.map(str::to_owned).collect())
    };
    let (known, never) = (outcome(&dead[0]).await.unwrap(), outcome(&unknown_of(unknown)).await.unwrap());
    assert_eq!(known.iter().flatten().count(), 3);
    assert!(known == never, "a dead token is told from one that never was");
    giant.says("hundreds of dead records of a mebibyte beside three live ones");
}

/// A well-formed token that was never issued: the checksum is made right.
fn unknown_of(text: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let body = &text[..text.len() - 6];
    let mut crc = !0_u32;
    for byte in body.bytes() {
        crc ^= u32::from(byte);
        (0..8).for_each(|_| crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 });
    }
    let mut rest = !crc;
    let mut sum = [0_u8; 6];
    for place in sum.iter_mut().rev() {
        *place = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    format!("{body}{}", std::str::from_utf8(&sum).unwrap())
}

/// The command line asks for fewer by itself.
async fn halves_are_asked_for(home: &Home, giant: &Giant<'_>, tokens: &[String]) {
    let mut command = home.cli(giant.server, "payments", &["renew", "--scope", SCOPE]);
    let (certificate, key) = giant.client.identity.files.clone().unwrap();
    let profile = home.read("profiles/payments.toml");
    let profile = profile.replace("../pki/payments.pem", &certificate.display().to_string());
    home.write("profiles/giant.toml", &profile.replace("../pki/payments.key", &key.display().to_string()));
    command.env("CLOAKROOM_PROFILE", home.file("profiles/giant.toml"));
    let mut renewing = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    renewing.stdin.take().unwrap().write_all(tokens.join("\n").as_bytes()).unwrap();
    let output = tokio::task::spawn_blocking(move || renewing.wait_with_output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), tokens.len());
    giant.says("eighteen records of a mebibyte, renewed by the command line");
}

/// Calls for three mebibytes each by one who reads nothing of them. What has no room in his half is refused, and the others
/// wait: a neighbour is served all the while.
async fn nobody_takes_the_answers(home: &Home, giant: &Giant<'_>, tokens: &[String]) {
    let identity = home.authority().client("spiffe://dev.cloakroom.internal/giant");
    let request = framed(&Giant::detokenizing(tokens[..3].to_vec()).encode_to_vec());
    let (mut refused, mut begun) = (0, 0);
    let mut lines = Vec::new();
    for _ in 0..4 {
        let mut line = Line::open(giant.server, &identity).await;
        for stream in (1..=31).step_by(2) {
            line.call(stream, "/cloakroom.v1.TokenService/Detokenize", &[], &request).await;
            // Whichever answer comes: the head of this one, or that it was too much.
            loop {
                let frame = line.next().await.expect("the connection stays");
                if frame.kind == HEADERS && frame.stream == stream {
                    let has_ended = frame.flags & 1 == 1;
                    (refused, begun) = (refused + usize::from(has_ended), begun + usize::from(!has_ended));
                    break;
                }
                assert!(matches!(frame.kind, DATA | 4 | 8), "{frame:?}");
            }
        }
        lines.push(line);
    }
    let most = IN_FLIGHT / 2 / (3 * MIB);
    println!("bytes: of 64 answers of 3 MiB that nobody takes {begun} wait and {refused} calls were refused");
    assert!(begun <= most && refused >= 64 - most && begun > most / 2, "{begun} of {most}");
    giant.says("answers that nobody takes");
    let neighbour = home.authority().client("spiffe://dev.cloakroom.internal/neighbour");
    let neighbour = giant.server.client(&neighbour).await;
    for _ in 0..3 {
        assert!(neighbour.detokenize(SCOPE, &tokens[..3]).await.unwrap().iter().all(Result::is_ok));
    }
    // On another connection he is told so too, and served as soon as there is room again.
    let told = giant.detokenize(tokens[..3].to_vec()).await.err().unwrap();
    assert_eq!((told.code, told.reason.as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    drop(lines);
    crate::harness::eventually("room", || async { giant.detokenize(tokens[..3].to_vec()).await.ok() }).await;
}

/// Callers who send almost all of a large message and then nothing more.
async fn large_messages_that_never_end(home: &Home, giant: &Giant<'_>) {
    let identity = home.authority().client("spiffe://dev.cloakroom.internal/giant");
    let message = v1::TokenizeRequest {
        scope: SCOPE.to_owned(),
        items: vec![v1::TokenizeItem { value: vec![b'x'; 3 * MIB], ..Default::default() }],
        ..Default::default()
    };
    let whole = framed(&message.encode_to_vec());
    let mut lines = Vec::new();
    let mut refused = 0;
    for _ in 0..30 {
        let mut line = Line::open(giant.server, &identity).await;
        let sent = line.send_most(1, "/cloakroom.v1.TokenService/Tokenize", &whole[..whole.len() - 10]).await;
        refused += usize::from(!sent);
        lines.push(line);
    }
    println!("bytes: of 30 messages of 3 MiB without an end {refused} were refused");
    // The last mebibyte of each may still lie in the window of its connection, where nobody has read it yet.
    assert!(refused >= 30 - IN_FLIGHT / (2 * MIB), "{refused}");
    giant.says("messages that never end");
    drop(lines);
    crate::harness::eventually("room", || async {
        giant.client.tokens().tokenize(message.clone()).await.ok().map(drop)
    })
    .await;
    // Who was refused is in the log, if only as a number.
    let told = || async {
        let events =
            giant.auditor.events(v1::AuditFilter { action: Action::Tokenize.into(), ..Default::default() }).await;
        events.iter().any(|event| event.reason == "OVERLOADED" && event.count > 0).then_some(())
    };
    crate::harness::eventually("a summary of who was refused", told).await;
}
