//! A system that gives no randomness. `strace` answers getrandom(2) with an error: to a vault that runs, from one moment on; to
//! one that starts; and to `init`. Nothing is made then: no token, no key, no event. And nothing falls back to something
//! weaker.

use crate::harness::{Client, Home, Refusal, Server, duration, program, refused, texts};
use crate::needs;
use crate::strace::Attached;
use crate::verify::assert_clean;
use cloakroom::proto::v1;
use std::path::Path;
use std::process::{Command, Output};
use tonic::Code;

/// What getrandom(2) may answer: not yet, not allowed (as a filter of system calls says it), unknown, broken.
const ERRORS: [&str; 4] = ["EAGAIN", "EPERM", "ENOSYS", "EIO"];

fn inject(error: &str, when: &str) -> [String; 4] {
    let from = if when.is_empty() { String::new() } else { format!(":when={when}") };
    ["-e".to_owned(), "trace=getrandom".to_owned(), "-e".to_owned(), format!("inject=getrandom:error={error}{from}")]
}

fn attach(server: &Server, error: &str, when: &str) -> Attached {
    let options = inject(error, when);
    Attached::to(server, &options.each_ref().map(String::as_str))
}

/// One client of each role.
struct Clients {
    gateway: Client,
    payments: Client,
    operator: Client,
    auditor: Client,
}

impl Clients {
    async fn of(home: &Home, server: &Server) -> Self {
        Self {
            gateway: server.client(&home.identity("gateway")).await,
            payments: server.client(&home.identity("payments")).await,
            operator: server.client(&home.identity("operator")).await,
            auditor: server.client(&home.identity("auditor")).await,
        }
    }

    /// Every call there is, good ones and one that is not permitted: what came of each.
    async fn every_call(&self, token: &str) -> Vec<(&'static str, Refusal)> {
        let (scope, tokens) = ("pan".to_owned(), vec![token.to_owned()]);
        let items = vec![crate::harness::item(b"4111111111111111")];
        let tokenize = v1::TokenizeRequest { scope: scope.clone(), items, ..Default::default() };
        let (purpose, ttl) = ("test".to_owned(), duration(3600, 0));
        let detokenize =
            v1::DetokenizeRequest { scope: scope.clone(), tokens: tokens.clone(), purpose, ..Default::default() };
        let inspect = v1::InspectTokensRequest { scope: scope.clone(), tokens: tokens.clone(), ..Default::default() };
        let renew = v1::RenewTokensRequest { scope: scope.clone(), tokens: tokens.clone(), ttl, ..Default::default() };
        let revoke = v1::RevokeTokensRequest { scope, tokens, ..Default::default() };
        let query = v1::QueryEventsRequest::default();
        vec![
            ("tokenize", refused(self.gateway.tokens().tokenize(tokenize.clone()).await)),
            ("not permitted", refused(self.payments.tokens().tokenize(tokenize).await)),
            ("detokenize", refused(self.payments.tokens().detokenize(detokenize).await)),
            ("inspect", refused(self.operator.tokens().inspect_tokens(inspect).await)),
            ("renew", refused(self.operator.tokens().renew_tokens(renew).await)),
            ("revoke", refused(self.operator.tokens().revoke_tokens(revoke).await)),
            ("query", refused(self.auditor.audit().query_events(query).await)),
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_randomness_a_vault_makes_nothing_and_goes_on_when_it_is_back_c_13() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    let clients = Clients::of(&home, &server).await;
    let mut tokens = texts(&clients.gateway.tokenize("pan", &[b"the first"]).await);
    for error in ERRORS {
        let before = clients.auditor.events(v1::AuditFilter::default()).await;
        let attached = attach(&server, error, "");
        for (call, refusal) in clients.every_call(&tokens[0]).await {
            let said = (refusal.code, refusal.reason.as_str(), refusal.message.as_str());
            assert_eq!(said, (Code::Internal, "INTERNAL", "internal"), "{error}: {call}");
        }
        // A new connection: TLS has randomness of its own, which it drew at its start.
        let late = server.client(&home.identity("gateway")).await;
        let items = vec![crate::harness::item(b"late")];
        let request = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
        assert_eq!(refused(late.tokens().tokenize(request.clone()).await).code, Code::Internal, "{error}");
        drop(attached);

        let fresh = texts(&late.tokenize("pan", &[b"4111111111111111", b"again"]).await);
        assert!(fresh.iter().all(|token| !tokens.contains(token)), "{error}: a token came twice");
        tokens.extend(fresh);
        let shown = clients.payments.detokenize("pan", &tokens).await.unwrap();
        assert!(
            shown.iter().all(Result::is_ok) && shown[0] == Ok(b"the first".to_vec()),
            "{error}: it was not revoked"
        );
        // The query that was counted in `before`, then the three calls since; nothing of what failed.
        let after = clients.auditor.events(v1::AuditFilter::default()).await;
        let tokenized =
            |events: &[v1::AuditEvent]| events.iter().filter(|event| event.action() == v1::Action::Tokenize).count();
        assert_eq!(tokenized(&after), tokenized(&before) + 1, "{error}: no event says that something was made");
        let log = server.log();
        assert!(
            log.contains("the operating system gave no randomness") && log.contains("getrandom(2)"),
            "{error}: {log}"
        );
    }
    server.stop();
    assert_clean(&home);
    println!("{} kinds of error, 8 calls under each: refused; {} tokens afterwards", ERRORS.len(), tokens.len());
}

/// The first draw is for the call's event, the second for what it changes.
#[tokio::test(flavor = "multi_thread")]
async fn randomness_that_ends_in_the_midst_of_a_call_costs_nothing_c_13() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    let clients = Clients::of(&home, &server).await;
    let once = v1::TokenizeItem { max_uses: 1, ..crate::harness::item(b"once") };
    let mut cut = 0;
    for draw in 1..=4 {
        let tokens: Vec<String> =
            clients.gateway.issue("pan", vec![once.clone()]).await.into_iter().map(|issued| issued.token).collect();
        let attached = attach(&server, "EAGAIN", &format!("{draw}+"));
        let answer = clients.payments.detokenize("pan", &tokens).await;
        drop(attached);
        let again = clients.payments.detokenize("pan", &tokens).await.unwrap();
        match answer {
            Err(refusal) => {
                assert_eq!(refusal.code, Code::Internal, "{refusal:?}");
                assert_eq!(again, [Ok(b"once".to_vec())], "at draw {draw}: its one use is still there");
                cut += 1;
            }
            Ok(values) => {
                assert_eq!(values, [Ok(b"once".to_vec())]);
                assert!(again[0].is_err(), "at draw {draw}: it was used");
            }
        }
    }
    assert!(cut >= 2, "{cut} calls were cut: in front of the event and in front of the change");
    server.stop();
    assert_clean(&home);
}

/// Runs `command` where getrandom(2) fails, and with `hidden` neither of the devices that stand in for it gives a byte.
fn starved(command: &Command, error: &str, hidden: bool) -> Output {
    let hide = "mount --bind /dev/null /dev/urandom && mount --bind /dev/null /dev/random && ";
    let script = format!("{}exec strace -f -qq -o /dev/null \"$@\"", if hidden { hide } else { "" });
    let mut starved = Command::new("unshare");
    starved.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).args(inject(error, ""));
    starved.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => starved.env(name, value),
            None => starved.env_remove(name),
        };
    }
    starved.output().unwrap()
}

fn assert_refused(what: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{what}: {said}");
    assert!(said.starts_with("cloakroom: the operating system gave no randomness"), "{what}: {said}");
    assert!(output.stdout.is_empty() && !said.contains("panicked"), "{what}: {said}");
}

#[test]
fn without_randomness_nothing_is_begun_c_13() {
    if !needs::met(&["strace", "unshare"]) {
        return;
    }
    let home = Home::init();
    let files = |home: &Home| contents(&home.file("data"));
    let before = files(&home);
    // Where the call is unknown or forbidden, the devices are asked; then they give nothing either.
    for (error, hidden) in [("EAGAIN", false), ("EIO", false), ("ENOSYS", true), ("EPERM", true)] {
        let place = home.file(&format!("new-{error}"));
        let mut init = program();
        init.arg("init").arg(&place);
        assert_refused(&format!("init under {error}"), &starved(&init, error, hidden));
        assert!(!place.exists(), "{error}: {} was made", place.display());
        assert_refused(&format!("serve under {error}"), &starved(&home.serve_command(), error, hidden));
        assert!(files(&home) == before, "{error}: the data was touched");
    }
    home.serve().stop();
}

/// Names and lengths of all files under a directory.
fn contents(directory: &Path) -> Vec<(std::ffi::OsString, u64)> {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    let mut files: Vec<_> = entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect();
    files.sort();
    files
}
