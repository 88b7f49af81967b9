//! L-03: a clock that is wrong, while the vault runs and from one start to the next. What has expired never lives again, and a
//! leap forward harms nothing for good.

use crate::harness::{
    Client, Home, Identity, Server, TRUST_DOMAIN, VAULT_ID, duration, eventually, item, program, texts,
};
use crate::needs;
use cloakroom::proto::v1::{self, Action};
use rcgen::SanType;
use std::process::Command;
use std::time::Instant;
use tonic::Code;

const PURGED: &str = "cloakroom_purged_rows_total{table=\"tokens\"}";

/// A vault whose clock the test sets, and clients whose certificates are good at any time.
struct Stage {
    home: Home,
    gateway: Identity,
    payments: Identity,
    auditor: Identity,
    /// The library that lies about the time.
    library: String,
}

impl Stage {
    fn new() -> Self {
        let home = Home::init();
        let authority = home.new_authority("lasting");
        home.replace("cloakroom.toml", "bundle = \"pki/ca.pem\"", "bundle = \"pki/lasting.pem\"");
        let client = |name: &str| Identity {
            authorities: home.file("pki/lasting.pem"),
            ..authority.client(&format!("spiffe://{TRUST_DOMAIN}/{name}"))
        };
        let (gateway, payments, auditor) = (client("gateway"), client("payments"), client("auditor"));
        // The vault's own certificate must outlast the leaps too.
        let server = authority.client_with(VAULT_ID, |params| {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        });
        let (certificate, key) = server.files.unwrap();
        std::fs::copy(certificate, home.file("pki/server.pem")).unwrap();
        std::fs::copy(key, home.file("pki/server.key")).unwrap();
        let output = Command::new("faketime").args(["-f", "+0", "env"]).output().unwrap();
        let environment = String::from_utf8(output.stdout).unwrap();
        let library = environment.lines().find_map(|line| line.strip_prefix("LD_PRELOAD=")).unwrap().to_owned();
        Self { home, gateway, payments, auditor, library }
    }

    /// From the next look on the clock is off by this.
    fn set(&self, offset: &str) {
        // Put in place whole: it is read at any moment.
        self.home.write("clock.new", &format!("{offset}\n"));
        std::fs::rename(self.home.file("clock.new"), self.home.file("clock")).unwrap();
    }

    fn serve(&self, offset: &str) -> Server {
        self.set(offset);
        let mut command = self.home.serve_command();
        command.env("CLOAKROOM_PURGE__GRACE", "0s").env("CLOAKROOM_PURGE__INTERVAL", "1s");
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", self.home.file("clock"));
        command.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1");
        Server::launch(&self.home, command).unwrap_or_else(|log| panic!("at {offset}: {log}"))
    }
}

/// Tokens of several lifetimes, and what must hold of them.
struct Tokens {
    dead: Vec<String>,
    hour: Vec<String>,
    month: Vec<String>,
}

async fn found(payments: &Client, tokens: &[String]) -> Vec<Result<Vec<u8>, Code>> {
    let results = payments.detokenize("pan", tokens).await.expect("calls go on");
    results.into_iter().map(|result| result.map_err(|error| error.code)).collect()
}

async fn issue(gateway: &Client, ttl: i64, value: &[u8]) -> Vec<String> {
    texts(&gateway.issue("pan", vec![v1::TokenizeItem { ttl: duration(ttl, 0), ..item(value) }]).await)
}

fn leap(server: &Server) -> f64 {
    let (_, body) = server.get("/metrics");
    let value = body.lines().find_map(|line| line.strip_prefix("cloakroom_clock_leap_seconds "));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// Whatever the clock says: the dead are dead, and a new token lives.
async fn calls_go_on(gateway: &Client, payments: &Client, tokens: &Tokens, what: &str) {
    assert_eq!(found(payments, &tokens.dead).await, [Err(Code::NotFound)], "{what}: the dead stay dead");
    let new = issue(gateway, 3600, b"new").await;
    assert_eq!(found(payments, &new).await, [Ok(b"new".to_vec())], "{what}: new ones live");
}

async fn lives(payments: &Client, tokens: &Tokens, what: &str) {
    assert_eq!(found(payments, &tokens.hour).await, [Ok(b"hour".to_vec())], "{what}");
    assert_eq!(found(payments, &tokens.month).await, [Ok(b"month".to_vec())], "{what}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: L-03 with clocks that leap by an hour and by ten years"]
async fn a_clock_that_is_wrong_revives_nothing_and_purges_nothing_l_03() {
    if !needs::met(&["faketime"]) {
        return;
    }
    let stage = Stage::new();
    let server = stage.serve("+0");
    let gateway = server.client(&stage.gateway).await;
    let payments = server.client(&stage.payments).await;
    let tokens = Tokens {
        dead: issue(&gateway, 1, b"dead").await,
        hour: issue(&gateway, 3600, b"hour").await,
        month: issue(&gateway, 30 * 24 * 3600, b"month").await,
    };
    let over = async || (found(&payments, &tokens.dead).await == [Err(Code::NotFound)]).then_some(());
    eventually("the end of a second", over).await;

    // While it runs.
    for offset in ["-1h", "-10y", "-1", "+1", "+0"] {
        stage.set(offset);
        calls_go_on(&gateway, &payments, &tokens, offset).await;
        lives(&payments, &tokens, offset).await;
    }
    let purged = server.metric(PURGED);
    stage.set("+10y");
    let noticed = async || (leap(&server) > 9.0 * 365.0 * 86400.0).then_some(());
    eventually("the vault notices the leap", noticed).await;
    // For a few of its purges, calls go on by the clock as it is.
    let begun = Instant::now();
    while begun.elapsed().as_secs() < 4 {
        assert_eq!(found(&payments, &tokens.month).await, [Err(Code::NotFound)], "by the clock as it is");
        calls_go_on(&gateway, &payments, &tokens, "+10y").await;
    }
    assert!(server.metric(PURGED) <= purged + 1, "what is alive by the mark was purged");
    stage.set("+0");
    let mended = async || (leap(&server) < 1.0).then_some(());
    eventually("the vault notices that it was mended", mended).await;
    lives(&payments, &tokens, "the leap was mended").await;
    calls_go_on(&gateway, &payments, &tokens, "mended").await;
    server.stop();

    // From one start to the next.
    let mut leaps = 0;
    for offset in ["-1h", "-10y", "+10y", "-1h", "+0"] {
        let server = stage.serve(offset);
        let gateway = server.client(&stage.gateway).await;
        let payments = server.client(&stage.payments).await;
        calls_go_on(&gateway, &payments, &tokens, offset).await;
        if offset == "+10y" {
            leaps += 1;
            assert!(leap(&server) > 9.0 * 365.0 * 86400.0);
            assert_eq!(found(&payments, &tokens.month).await, [Err(Code::NotFound)]);
        } else {
            lives(&payments, &tokens, offset).await;
        }
        // As the purge found it.
        eventually("a purge looked", || async { server.get("/metrics").1.contains(PURGED).then_some(()) }).await;
        server.stop();
    }
    let server = stage.serve("+0");
    let payments = server.client(&stage.payments).await;
    lives(&payments, &tokens, "in the end").await;
    let events = server.client(&stage.auditor).await.events(v1::AuditFilter::default()).await;
    let times: Vec<_> = events.iter().map(|event| event.time.map(|time| (time.seconds, time.nanos))).collect();
    assert!(times.is_sorted(), "the log's times went back");
    let clock = events.iter().filter(|event| event.action() == Action::Clock).count();
    assert!(clock > leaps, "each leap has its event: {clock}");
    server.stop();
    let output = program().args(["verify", "--config"]).arg(stage.home.file("cloakroom.toml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    println!(
        "L-03: 6 leaps while it ran, 5 between starts, {clock} events of the clock, {} events in all",
        events.len()
    );
}
