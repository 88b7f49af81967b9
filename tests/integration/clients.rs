//! The client library against the real process: kills, a vault that stands still, certificates that change on disk, and somebody
//! else in the vault's place.

mod foreign;

use crate::harness::{Home, Server, TRUST_DOMAIN, VAULT_ID, eventually};
use cloakroom::client::{
    Answer, Client, Detokenize, Error, Failure, IdentityStatus, Inspect, Issued, Options, Profile, Renew, RequestId,
    Retry, Revoke, Settings, Token, Tokenize, breaker,
};
use cloakroom::proto::v1;
use cloakroom::secret::{Secret, SecretBytes};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);

/// As the profile that `init` wrote says, with the address that holds.
fn settings(home: &Home, address: &str, name: &str) -> Settings {
    let mut profile = Profile::load(&home.file(&format!("profiles/{name}.toml"))).unwrap();
    address.clone_into(&mut profile.address);
    // The address may be one that the certificate does not have.
    profile.server_name = Some("localhost".to_owned());
    let mut settings = Settings::new(profile).unwrap();
    settings.deadline = MINUTE;
    settings
}

fn client(home: &Home, server: &Server, name: &str) -> Client {
    Client::new(settings(home, &server.address.to_string(), name)).unwrap()
}

/// On an address that nobody else has, so that it can be started there again.
fn serve_at(home: &Home, address: &str) -> Server {
    let mut command: Command = home.serve_command();
    command.env("CLOAKROOM_SERVER__LISTEN", address);
    Server::launch(home, command).unwrap_or_else(|log| panic!("the vault did not start:\n{log}"))
}

fn only<T>(answer: Answer<T>) -> Result<T, Failure> {
    assert_eq!(answer.items.len(), 1);
    answer.items.into_iter().next().unwrap()
}

/// Answers and what holds a secret have no `Debug`, so `unwrap` won't do.
fn good<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

fn bad<T>(result: Result<T, Error>) -> Error {
    result.err().expect("it fails")
}

async fn tokenize(client: &Client, value: &str) -> Issued {
    let answer = good(client.tokenize(Tokenize::new("pan", [value.as_bytes().to_vec()])).await);
    only(answer).unwrap_or_else(|failure| panic!("{failure}"))
}

async fn events(home: &Home, server: &Server, action: v1::Action) -> Vec<v1::AuditEvent> {
    let auditor = server.client(&home.identity("auditor")).await;
    auditor.events(v1::AuditFilter { action: action.into(), ..Default::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_has_its_types_and_every_refusal_its_event_z_01() {
    let home = Home::init();
    let server = home.serve();
    let [gateway, payments, operator] = ["gateway", "payments", "operator"].map(|name| client(&home, &server, name));
    let issued = tokenize(&gateway, "4111111111111111").await;
    let token = || Token::new(issued.token.expose().clone());
    let call = || Detokenize::new("pan", "refund", [token(), Token::new("pan_nothing".to_owned())]);
    let answer = good(payments.detokenize(call()).await);
    let [value, nothing]: [Result<SecretBytes, Failure>; 2] = answer.items.try_into().ok().unwrap();
    assert!(value.ok().unwrap().matches(b"4111111111111111"));
    assert_eq!(nothing.err().unwrap().reason.as_deref(), Some("TOKEN_MALFORMED"), "and its neighbour did not mind");
    let masked = good(payments.detokenize(Detokenize { masked: true, ..call() }).await);
    assert!(masked.items[0].as_ref().ok().unwrap().matches(b"411111******1111"));

    let denied = bad(gateway.detokenize(call()).await);
    assert!(matches!(denied, Error::Denied(_)) && denied.reason() == Some("POLICY_DENIED"));
    let receipt = denied.receipt().expect("a refusal has an event").clone();
    let recorded = events(&home, &server, v1::Action::Detokenize).await;
    let recorded = recorded.iter().find(|event| event.sequence == receipt.sequence).unwrap();
    assert_eq!((recorded.outcome(), &recorded.log_id), (v1::Outcome::Denied, &receipt.log_id));
    assert!(recorded.caller.ends_with("/gateway"));
    let invalid = bad(payments.detokenize(Detokenize::new("pan", "no: 4111 1111 1111", [token()])).await);
    assert!(matches!(invalid, Error::Invalid(_)) && invalid.reason() == Some("PURPOSE_MALFORMED"), "{invalid}");

    let inspect = || Inspect {
        scope: "pan".to_owned(),
        tokens: vec![token()],
        handles: vec![issued.handle.clone()],
        deadline: None,
    };
    let known = good(operator.inspect(inspect()).await).items;
    let first = known[0].as_ref().unwrap();
    assert_eq!((first.state, &first.handle, first.expires), (v1::TokenState::Active, &issued.handle, issued.expires));
    assert_eq!(known[1].as_ref().unwrap(), first, "the same one by its handle");
    let day = Duration::from_hours(24);
    let renew = Renew { scope: "pan".to_owned(), tokens: vec![token()], ttl: Some(day), options: Options::default() };
    let end = only(good(operator.renew(renew).await)).unwrap();
    assert!(end < issued.expires && end > first.created);
    let revoke = || Revoke {
        scope: "pan".to_owned(),
        tokens: vec![token()],
        handles: Vec::new(),
        reason: "stolen".to_owned(),
        options: Options::default(),
    };
    let first_time = only(good(operator.revoke(revoke()).await)).unwrap();
    assert_eq!(only(good(operator.revoke(revoke()).await)).unwrap(), first_time);
    assert_eq!(good(operator.inspect(inspect()).await).items[0].as_ref().unwrap().state, v1::TokenState::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_calls_at_once_go_over_two_connections() {
    let home = Home::init();
    let server = home.serve();
    let gateway = client(&home, &server, "gateway");
    let calls: Vec<_> = (0..500)
        .map(|number| {
            let gateway = gateway.clone();
            tokio::spawn(async move { tokenize(&gateway, &format!("value {number}")).await.handle })
        })
        .collect();
    let mut handles = BTreeSet::new();
    for call in calls {
        handles.insert(call.await.unwrap());
    }
    assert_eq!(handles.len(), 500);
    let peers: BTreeSet<String> =
        events(&home, &server, v1::Action::Tokenize).await.into_iter().map(|event| event.peer_address).collect();
    assert_eq!(peers.len(), 2, "{peers:?}");
}

/// A connection that has come of age is closed in order. A call that meets that moment and was not begun goes over the next one,
/// though it carries no request id. Where the vault's word for that is lost with the connection, only a call that carries
/// one does.
#[tokio::test(flavor = "multi_thread")]
async fn connections_come_of_age_and_no_call_is_made_twice_l_06() {
    let home = Home::init();
    let (hour, moment) = ("# max_connection_age = \"1h\" ", "max_connection_age = \"50ms\" ");
    home.replace("cloakroom.toml", hour, moment);
    let server = home.serve();
    let gateway = client(&home, &server, "gateway");
    let (mut calls, mut unknown) = (0, 0);
    for _ in 0..20 {
        let batch: Vec<_> = (0..50)
            .map(|number| {
                let (gateway, has_id) = (gateway.clone(), number % 2 == 0);
                let request_id = if has_id { RequestId::Drawn } else { RequestId::Without };
                let options = Options { request_id, ..Options::default() };
                let call = Tokenize { options, ..Tokenize::new("pan", [b"a value".to_vec()]) };
                tokio::spawn(async move {
                    match gateway.tokenize(call).await {
                        Ok(_) => true,
                        Err(Error::Interrupted { .. }) if !has_id => false,
                        Err(error) => panic!("{error}"),
                    }
                })
            })
            .collect();
        calls += batch.len();
        for call in batch {
            unknown += usize::from(!call.await.unwrap());
        }
    }
    // An auditor's connection would come of age, too.
    server.stop();
    home.replace("cloakroom.toml", moment, hour);
    let recorded = events(&home, &home.serve(), v1::Action::Tokenize).await;
    let tokens: BTreeSet<_> = recorded.iter().flat_map(|event| &event.handles).collect();
    assert!((calls - unknown..=calls).contains(&tokens.len()), "{} for {calls}, {unknown} unknown", tokens.len());
    let peers: BTreeSet<_> = recorded.iter().map(|event| &event.peer_address).collect();
    assert!(peers.len() > 2, "none came of age");
    println!("{calls} calls over {} connections, of {unknown} it is not known whether they were done", peers.len());
}

/// The vault is killed in the midst of calls and started again, four times. Each value ends up with one token, and the
/// log knows of no other.
#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_through_kill_9_with_one_token_for_each_value_l_06_s_01() {
    const ADDRESS: &str = "127.77.0.1:7443";
    const TASKS: usize = 16;
    let home = Home::init();
    let mut server = serve_at(&home, ADDRESS);
    let mut settings = settings(&home, ADDRESS, "gateway");
    // As long as it takes: a start is not timed.
    settings.retry = Retry { attempts: u32::MAX, ..Retry::default() };
    settings.breaker = breaker::Settings { failures: 20, rest: Duration::from_millis(50) };
    let gateway = Client::new(settings).unwrap();
    // A kill meets calls that have begun, and not those that the breaker would send away.
    let (answered, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (gateway, answered, is_over) = (gateway.clone(), Arc::clone(&answered), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut issued = BTreeMap::new();
                while !is_over.load(Ordering::SeqCst) {
                    let value = format!("value {task} {}", issued.len());
                    let call = Tokenize::new("pan", [value.clone().into_bytes()]);
                    match gateway.tokenize(call).await {
                        Ok(answer) => {
                            let token = only(answer).unwrap_or_else(|failure| panic!("{failure}"));
                            issued.insert(value, token);
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        // It came while the breaker was open, and was not made at all.
                        Err(Error::BreakerOpen { .. }) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                }
                issued
            })
        })
        .collect();
    for round in 1..=4 {
        let enough = || async { (answered.load(Ordering::SeqCst) >= round * 150).then_some(()) };
        eventually("enough answers", enough).await;
        server.kill();
        server = serve_at(&home, ADDRESS);
    }
    is_over.store(true, Ordering::SeqCst);
    let mut issued = BTreeMap::new();
    for task in tasks {
        issued.extend(task.await.unwrap());
    }
    // Where its certificate has the address, too.
    server.stop();
    let server = home.serve();
    // Exactly those that were answered, each once, however often it was asked for.
    let handles: BTreeSet<String> = issued.values().map(|token| token.handle.clone()).collect();
    let recorded = events(&home, &server, v1::Action::Tokenize).await;
    let known: BTreeSet<String> =
        recorded.iter().flat_map(|event| &event.handles).filter(|handle| !handle.is_empty()).map(hex::encode).collect();
    assert_eq!((handles.len(), &handles), (issued.len(), &known));
    let again = recorded.len() - issued.len();
    println!("{} values, {} events, {again} of them for calls that were made again", issued.len(), recorded.len());
    let payments = client(&home, &server, "payments");
    for (value, token) in issued.iter().take(50) {
        let call = Detokenize::new("pan", "test", [Token::new(token.token.expose().clone())]);
        let found = only(good(payments.detokenize(call).await)).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(found.matches(value.as_bytes()));
    }
}

/// What a caller keeps for itself is known again after its own crash, too, and other contents are refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_that_is_given_gives_the_same_token_again_l_06() {
    let home = Home::init();
    let server = home.serve();
    let call = |value: &str, request_id| Tokenize {
        options: Options { request_id, ..Options::default() },
        ..Tokenize::new("pan", [value.as_bytes().to_vec()])
    };
    let id = || RequestId::Given(Secret::new("8f14e45f-ceea-467f-a9d5-000000000001".to_owned()));
    let mut tokens = BTreeSet::new();
    for (request_id, known) in
        [(id(), 1), (id(), 1), (RequestId::Without, 2), (RequestId::Without, 3), (RequestId::Drawn, 4)]
    {
        let gateway = client(&home, &server, "gateway");
        tokens.insert(only(good(gateway.tokenize(call("a", request_id)).await)).ok().unwrap().token.expose().clone());
        assert_eq!(tokens.len(), known);
    }
    let error = bad(client(&home, &server, "gateway").tokenize(call("b", id())).await);
    assert!(matches!(error, Error::Invalid(_)) && error.reason() == Some("REQUEST_ID_USED"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_stands_still_keeps_nobody_longer_than_the_deadline() {
    let home = Home::init();
    let server = home.serve();
    let mut settings = settings(&home, &server.address.to_string(), "gateway");
    settings.deadline = Duration::from_millis(200);
    settings.breaker = breaker::Settings { failures: 2, rest: Duration::from_hours(1) };
    let gateway = Client::new(settings).unwrap();
    // Connected beforehand, with all the time that it takes.
    let patient = || Tokenize {
        options: Options { deadline: Some(MINUTE), ..Options::default() },
        ..Tokenize::new("pan", [b"a".to_vec()])
    };
    good(gateway.tokenize(patient()).await);
    good(gateway.tokenize(patient()).await);
    let pid = rustix::process::Pid::from_raw(server.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut state = gateway.breaker();
    for _ in 0..2 {
        // It would never come back otherwise.
        let error = bad(gateway.tokenize(Tokenize::new("pan", [b"b".to_vec()])).await);
        assert!(matches!(&error, Error::Deadline(failure) if failure.reason.is_none()), "{error}");
    }
    assert_eq!(*state.borrow_and_update(), breaker::State::Open);
    let error = bad(gateway.tokenize(Tokenize::new("pan", [b"c".to_vec()])).await);
    assert!(matches!(error, Error::BreakerOpen { .. }), "{error}");
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    good(client(&home, &server, "gateway").tokenize(patient()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_in_the_vaults_place_is_told_nothing_t_13() {
    let home = Home::init();
    let server = home.serve();
    let mut settings = settings(&home, &server.address.to_string(), "gateway");
    // The name is right, and the authority; the workload is another one than is wanted.
    settings.profile.server_id = Some(format!("spiffe://{TRUST_DOMAIN}/other"));
    let error = bad(Client::new(settings).unwrap().tokenize(Tokenize::new("pan", [b"a".to_vec()])).await);
    let Error::OtherServer { problem } = &error else { panic!("{error}") };
    assert!(problem.contains(VAULT_ID) && problem.contains("/other"), "{problem}");
    assert!(events(&home, &server, v1::Action::Tokenize).await.is_empty(), "nothing was sent");
}

/// Puts a certificate and key of the authority where the profile of the gateway has its own.
fn renew_files(home: &Home) -> Vec<u8> {
    let fresh = home.authority().client(&format!("spiffe://{TRUST_DOMAIN}/gateway"));
    let (certificate, key) = fresh.files.unwrap();
    std::fs::rename(key, home.file("pki/gateway.key")).unwrap();
    std::fs::rename(certificate, home.file("pki/gateway.pem")).unwrap();
    fresh.certificate_sha256
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_on_disk_while_calls_go_on() {
    let home = Home::init();
    let server = home.serve();
    let mut settings = settings(&home, &server.address.to_string(), "gateway");
    settings.look_every = Duration::from_millis(5);
    let gateway = Client::new(settings).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let calls: Vec<_> = (0..8)
        .map(|task| {
            let (gateway, is_over) = (gateway.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut count = 0;
                while !is_over.load(Ordering::SeqCst) {
                    tokenize(&gateway, &format!("value {task} {count}")).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut identity = gateway.identity();
    let mut shown = BTreeSet::from([crate::harness::fingerprint(home.read("pki/gateway.pem").as_bytes())]);
    for generation in 2..=5 {
        shown.insert(renew_files(&home));
        // Between the two files it may have seen a pair that does not fit, and said so. It ends with the new one.
        let is_new = |status: &IdentityStatus| status.generation >= generation && status.problem.is_none();
        identity.wait_for(is_new).await.unwrap();
        let seen = crate::harness::fingerprint(home.read("pki/gateway.pem").as_bytes());
        let uses_it = || async {
            let events = events(&home, &server, v1::Action::Tokenize).await;
            events.last().filter(|event| event.certificate_sha256 == seen).map(drop)
        };
        eventually("calls with the new certificate", uses_it).await;
    }
    is_over.store(true, Ordering::SeqCst);
    let mut made = 0;
    for calls in calls {
        // None of them failed.
        made += calls.await.unwrap();
    }
    let recorded = events(&home, &server, v1::Action::Tokenize).await;
    assert_eq!(recorded.len(), made, "each was made once");
    let used: BTreeSet<Vec<u8>> = recorded.into_iter().map(|event| event.certificate_sha256).collect();
    assert_eq!(used, shown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_that_is_broken_keeps_the_old_identity_and_says_so() {
    let home = Home::init();
    let server = home.serve();
    let mut settings = settings(&home, &server.address.to_string(), "gateway");
    settings.look_every = Duration::from_hours(24);
    settings.connections = 1;
    let gateway = Client::new(settings).unwrap();
    tokenize(&gateway, "a").await;
    let status = || gateway.identity().borrow().clone();
    assert!(status().generation == 1 && status().problem.is_none() && status().not_after.is_some());
    let others = home.read("pki/payments.pem");
    for (name, text, word) in [
        ("pki/gateway.pem", "-----BEGIN CERTIFICATE-----\nc4n4ry\n", "gateway.pem"),
        ("pki/gateway.pem", &*others, "does not belong"),
        ("pki/gateway.key", "c4n4ry", "gateway.key"),
        ("pki/ca.pem", "", "ca.pem"),
    ] {
        let (whole, before) = (home.read(name), status());
        home.write(name, text);
        gateway.look().await;
        let after = status();
        let problem = after.problem.clone().expect("it says what is wrong");
        assert!(problem.contains(word) && !problem.contains("c4n4ry"), "{problem}");
        assert_eq!(IdentityStatus { problem: None, ..after }, before);
        tokenize(&gateway, "b").await;
        home.write(name, &whole);
        gateway.look().await;
        assert_eq!(status(), IdentityStatus { generation: before.generation + 1, ..before }, "the same, read anew");
        tokenize(&gateway, "c").await;
    }
    // A key that others may read is refused like one that is broken.
    Command::new("chmod").arg("644").arg(home.file("pki/gateway.key")).status().unwrap();
    gateway.look().await;
    assert!(status().problem.unwrap().contains("chmod 600"));
}

/// One of the examples, with what it is given on standard input: whether it ended well, and what it printed.
fn example(name: &str, arguments: &[&str], input: &str) -> (bool, String, String) {
    // Cargo builds examples together with the tests.
    let program = Path::new(crate::harness::PROGRAM).parent().unwrap().join("examples").join(name);
    assert!(program.exists(), "build it first: cargo build --release --locked --example {name} --test tidy");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.success(), text(done.stdout), text(done.stderr))
}

#[test]
fn the_examples_take_values_out_of_orders_and_use_them_for_a_moment_a_11() {
    let home = Home::init();
    let server = home.serve();
    let profile = |name: &str| {
        let path = format!("profiles/{name}.toml");
        home.replace(&path, "127.0.0.1:7443", &server.address.to_string());
        home.file(&path).display().to_string()
    };
    let [gateway, payments] = ["gateway", "payments"].map(profile);
    let orders = "{\"id\":1,\"card\":\"4111111111111111\"}\nnonsense 4111111111111111\n{\"id\":2}\n\
                  {\"id\":3,\"card\":\"4222222222222\"}\n";
    let (all_went, out, errors) = example("gateway", &[&gateway, "pan", "card"], orders);
    assert!(!all_went, "two lines could not go on");
    assert_eq!(errors, "line 2: not a JSON object\nline 3: it has no text in the field card\n");
    assert!(out.lines().count() == 2 && !out.contains("4111") && !out.contains("4222"), "{out}");
    assert!(out.starts_with("{\"id\":1,\"card\":\"pan_") && out.contains("{\"id\":3,\"card\":\"pan_"), "{out}");
    let (all_went, said, errors) = example("service", &[&payments, "pan", "card", "refund"], &out);
    assert!(all_went && errors.is_empty(), "{errors}");
    let [first, second] = said.lines().collect::<Vec<_>>().try_into().unwrap();
    assert!(first.starts_with("order 1: charged a card of 16 digits (event "), "{first}");
    assert!(second.starts_with("order 2: charged a card of 13 digits (event "), "{second}");
    // Who may not has the event's number.
    let (all_went, said, errors) = example("service", &[&gateway, "pan", "card", "refund"], &out);
    assert!(!all_went && said.is_empty() && errors.contains("POLICY_DENIED") && errors.contains("event"), "{errors}");
}
