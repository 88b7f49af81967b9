//! What operators write: policies, expectations, configuration, the command line and its input; PEM.

use super::{Input, chosen};
use crate::cli;
use crate::client::Profile;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::config::witness::Config as WitnessConfig;
use crate::policy::{Call, CallWords, Expectation, PolicySource, Rulebook, sample};
use crate::scope::{Scopes, Settings};
use crate::tls::{ServerIdentity, material};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:7443"
certificate = "pki/server.pem"
private_key = "/etc/cloakroom/server.key"
[operations]
listen = "127.0.0.1:9443"
[[trust_domains]]
name = "dev.cloakroom.internal"
bundle = "pki/ca.pem"
[root_key]
provider = "file"
path = "root.key"
[storage]
engine = "rocksdb"
path = "data"
[audit]
checkpoints = "checkpoints"
[policies]
directory = "policies"
[roles]
gateway = ["spiffe://dev.cloakroom.internal/gateway"]
[scopes.pan]
prefix = "pan"
ttl = "30d"
mask = { keep_first = 6, keep_last = 4 }
"#;

fn rulebook(text: &str) -> Result<Rulebook, String> {
    let settings = |prefix: &str| Settings { prefix: Some(prefix.to_owned()), ..Settings::default() };
    let scopes = [("pan", "pan"), ("ssn", "ssn"), ("*/note", "note")];
    let scopes: BTreeMap<_, _> = scopes.map(|(path, prefix)| (path.to_owned(), settings(prefix))).into();
    let role = |name: &str| (name.to_owned(), vec![format!("spiffe://dev.cloakroom.internal/{name}")]);
    let roles = ["gateway", "payments", "auditor", "operator"].map(role).into();
    let policies = vec![PolicySource { file: "fuzz.cedar".into(), text: text.to_owned() }];
    let domains = ["dev.cloakroom.internal".to_owned()];
    Rulebook::load(Scopes::load(&scopes).unwrap(), &roles, policies, &domains).map_err(|errors| errors.to_string())
}

/// A policy file; and what it decides, if it is one.
pub(super) fn policy(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(rules) = rulebook(text) else { return };
    assert_eq!(rules.digest(), rulebook(text).expect("it was one").digest());
    let expectations = Expectation::parse("tests.toml", sample::TESTS.1).expect("the sample");
    for expectation in &expectations {
        let _ = rules.meet(expectation);
    }
}

pub(super) fn policy_seeds() -> Vec<Vec<u8>> {
    let more = [
        r#"@id("a") permit (principal == Cloakroom::Caller::"spiffe://dev.cloakroom.internal/x", action, resource);"#,
        r#"@id("b") forbid (principal, action in [Cloakroom::Action::"detokenize"], resource) when { context.reveal == "full" && context.requested > 10 };"#,
        r#"@id("c") permit (principal, action == Cloakroom::Action::"tokenize", resource == Cloakroom::Scope::"pan") unless { context.now.toTime() < duration("8h") };"#,
        "((((((((((((((((((((",
    ];
    let samples = sample::FILES.iter().map(|(_, text)| *text);
    let deep = |condition: String| format!("@id(\"d\") permit (principal, action, resource) when {{ {condition} }};");
    let deep = [
        deep(format!("{}true{}", "(".repeat(300), ")".repeat(300))),
        deep(format!("true{}", " && true".repeat(450))),
        deep(format!("context{}", ".a".repeat(900))),
    ];
    let all = samples.chain(more).map(str::to_owned).chain(deep);
    all.map(String::into_bytes).collect()
}

/// A file of expected decisions; and a call in words, one a line.
pub(super) fn expectations(data: &[u8]) {
    let mut input = Input(data);
    let is_file = input.byte() & 1 == 0;
    let Ok(text) = str::from_utf8(input.rest()) else { return };
    if is_file {
        let _ = Expectation::parse("tests.toml", text);
        return;
    }
    let mut lines = text.split('\n').map(str::to_owned);
    let words = CallWords {
        caller: lines.next().unwrap_or_default(),
        action: lines.next().unwrap_or_default(),
        scope: lines.next(),
        purpose: lines.next(),
        reveal: lines.next(),
        requested: lines.next().and_then(|number| number.parse().ok()),
    };
    let _ = Call::parse(&words, Timestamp::from_millis(1_790_000_000_000));
}

pub(super) fn expectation_seeds() -> Vec<Vec<u8>> {
    let call = "spiffe://dev.cloakroom.internal/payments\ndetokenize\npan\nrefund\nmasked\n3";
    vec![chosen(0, sample::TESTS.1), chosen(1, call), chosen(1, "x\nquery-audit")]
}

/// Configuration of the vault, of a witness and of a client, with and without a variable. What is shown holds as well.
pub(super) fn config(data: &[u8]) {
    let mut input = Input(data);
    let which = input.byte() % 4;
    let Ok(text) = str::from_utf8(input.rest()) else { return };
    let file = Path::new("/etc/cloakroom/c.toml");
    match which {
        0 => {
            let parsed = Config::parse(file, text, []);
            let shown = crate::config::check_shown(file, text);
            assert_eq!(parsed.is_ok(), shown.is_some(), "`config show` disagrees with the start");
            if let Ok(config) = &parsed {
                // Scopes and roles as a start checks them; policies are another target's.
                let _ = crate::server::load_rulebook(config);
            }
            if let Some(shown) = shown {
                Config::parse(file, &shown, []).expect("what is shown is a configuration");
            }
        }
        1 => drop(WitnessConfig::parse(file, text, [])),
        2 => {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let variable = (format!("CLOAKROOM_{name}"), value.to_owned());
            let _ = Config::parse(file, CONFIG, [variable.clone()]);
            let _ = crate::config::unknown_variables([variable]);
        }
        _ => drop(Profile::parse(Path::new("p.toml"), text)),
    }
}

pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    let profile = "address = \"localhost:7443\"\nca = \"ca.pem\"\ncertificate = \"c.pem\"\nprivate_key = \"c.key\"\n";
    let key = "dev.cloakroom.internal/vault+3eaf5283+AYmeZDD1quKdnxLZIlR+p4tGC8QdnpA+0l6uezJPsswI";
    let witness = format!("[witness]\nlisten = \"127.0.0.1:0\"\n[[logs]]\nkey = \"{key}\"\n");
    let sinks = "[[sinks]]\nname = \"siem\"\nkind = \"otlp\"\nurl = \"https://c.example/v1/logs\"\n";
    let limits = "[limits]\nqueue_calls = 5\n[retention]\nkeep = \"400d\"\n";
    vec![
        chosen(0, CONFIG),
        chosen(0, format!("{CONFIG}{sinks}")),
        chosen(0, format!("{CONFIG}{limits}")),
        chosen(0, "[server]\nlisten = 7\nx.y = []\n"),
        chosen(1, witness),
        chosen(2, "SERVER__LISTEN=127.0.0.1:9"),
        chosen(2, "SERVER__DRAIN_TIMEOUT=90s"),
        chosen(3, profile),
    ]
}

/// Values and tokens as `tokenize` and `detokenize` read them, times, durations, recorded events.
pub(super) fn command_line(data: &[u8]) {
    cli::check_input(data);
}

pub(super) fn command_seeds() -> Vec<Vec<u8>> {
    vec![
        chosen(0, "one\r\ntwo\n\nthree"),
        chosen(1, "b25l\ndHdv\n!!\n"),
        chosen(2, "{\"value\":\"x\",\"ttl\":\"90s\",\"max_uses\":2}\n{\"value_base64\":\"eA==\"}\n{\"value\":1}\n"),
        chosen(3, " pan_1234 \n"),
        chosen(4, "2026-11-21T10:00:00Z"),
        chosen(4, "2h 5m"),
        chosen(4, "18446744073709551615s"),
        chosen(
            5,
            "{\"sequence\":1,\"time\":\"2026-11-21T10:00:00.000Z\",\"action\":\"DETOKENIZE\",\"outcome\":\"ALLOWED\",\
             \"reveal\":\"FULL\",\"policies\":[\"a\"]}",
        ),
        chosen(6, include_str!("../../tests/vectors/backup_manifest_v1.json")),
        chosen(7, format!("{}\n\n {} \n", "ab".repeat(20), "0f".repeat(20))),
    ]
}

/// Files with certificates and keys.
pub(super) fn pem(data: &[u8]) {
    thread_local! {
        static FILE: tempfile::NamedTempFile = {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
            file
        };
    }
    FILE.with(|file| {
        std::fs::write(file.path(), data).unwrap();
        let _ = ServerIdentity::load(file.path(), file.path());
        material::check_roots(file.path());
    });
}

pub(super) fn pem_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        super::names::certificate_seeds().iter().take(3).map(|der| in_pem("CERTIFICATE", der)).collect();
    let key = rcgen::KeyPair::generate().expect("a key").serialize_der();
    let own = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let pair = rcgen::KeyPair::try_from(key.as_slice()).expect("just made");
    let own = own.self_signed(&pair).expect("it signs").der().to_vec();
    seeds.push([in_pem("CERTIFICATE", &own), in_pem("PRIVATE KEY", &key)].concat());
    seeds.push(b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n".to_vec());
    seeds
}

fn in_pem(what: &str, der: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("base64")).collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n")).into_bytes()
}
