use super::*;

const WHOLE: &str = r#"
[server]
listen = "127.0.0.1:7443"
certificate = "pki/server.pem"
private_key = "/etc/cloakroom/server.key"

[operations]
listen = "127.0.0.1:9443"

[[trust_domains]]
name = "dev.cloakroom.internal"
bundle = "pki/ca.pem"
crls = []

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
format = "opaque"
prefix = "pan"
ttl = "30d"
max_ttl = "400d"
max_value_bytes = 65536
mask = { keep_first = 6, keep_last = 4 }

[scopes."*/ssn"]
format = "opaque"
"#;

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    match Config::parse(Path::new("/etc/cloakroom.toml"), text, variables) {
        Ok(config) => Ok(config),
        Err(Error::Mistakes(mistakes)) => Err(mistakes.iter().map(Mistake::to_string).collect()),
        Err(other) => panic!("{other}"),
    }
}

fn mistakes(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    parse(text, variables).expect_err("must be refused")
}

#[test]
fn the_contracts_example_is_read_with_its_defaults() {
    let config = parse(WHOLE, &[]).unwrap();
    assert_eq!(config.server.listen, "127.0.0.1:7443".parse().unwrap());
    assert_eq!(
        config.server.certificate,
        Path::new("/etc/pki/server.pem"),
        "relative paths start at the file's folder"
    );
    assert_eq!(config.server.private_key, Path::new("/etc/cloakroom/server.key"));
    assert_eq!(config.server.max_connections, 1_024);
    assert_eq!(config.server.max_concurrent_streams, 256);
    assert_eq!(config.server.handshake_timeout, Duration::from_secs(5));
    assert_eq!(config.server.drain_timeout, Duration::from_secs(10));
    assert_eq!(config.server.workers, 0);
    assert_eq!(config.storage.cache_bytes, 256 << 20);
    assert_eq!(config.memory_at_most(), 1_644 << 20, "docs/operations.md says 1.6 GiB");
    assert_eq!(config.purge.rows_per_second, 5_000);
    assert_eq!((config.purge.grace, config.purge.interval), (Duration::from_hours(24), Duration::from_mins(1)));
    assert_eq!(config.audit.signing_key, Path::new("/etc/log.key"));
    assert_eq!(config.roles["gateway"].line, 30);
    let pan = &config.scopes["pan"];
    assert_eq!((pan.format.value.as_str(), pan.format.line), ("opaque", 33));
    assert_eq!(pan.ttl.value, Duration::from_hours(30 * 24));
    assert_eq!(pan.mask, Located { value: Mask { keep_first: 6, keep_last: 4 }, line: 38 });
    let pattern = &config.scopes["*/ssn"];
    assert_eq!(pattern.prefix, None);
    assert_eq!(pattern.max_value_bytes, Located { value: 65_536, line: 0 });
    assert!(pattern.purpose_required.value);
}

#[test]
fn every_mistake_is_named_with_line_key_and_the_nearest_known_key_i_06() {
    let text = WHOLE
        .replace("listen = \"127.0.0.1:7443\"", "listne = \"127.0.0.1:7443\"")
        .replace("\"127.0.0.1:9443\"", "9443")
        .replace("ttl = \"30d\"", "ttl = \"30 days\"")
        .replace("max_value_bytes = 65536", "max_value_bytes = 0")
        .replace("keep_last = 4", "keep_lost = 4")
        .replace("provider = \"file\"", "provider = \"cloud\"");
    let found = mistakes(&text, &[]);
    assert_eq!(
        found,
        [
            "/etc/cloakroom.toml:2: server.listen: is missing; it has no default",
            "/etc/cloakroom.toml:3: server.listne: unknown key; the nearest known one is `listen`",
            "/etc/cloakroom.toml:8: operations.listen: must be a text in quotes, not a whole number",
            "/etc/cloakroom.toml:16: root_key.provider: \"cloud\" does not exist; use \"file\"",
            "/etc/cloakroom.toml:35: scopes.pan.ttl: `30 days` is not a duration: write a whole number and one of ms, s, \
             m, h, d, w, such as \"90s\" or \"30d\"",
            "/etc/cloakroom.toml:37: scopes.pan.max_value_bytes: must be a whole number from 1 to 1048576",
            "/etc/cloakroom.toml:38: scopes.pan.mask.keep_lost: unknown key; the nearest known one is `keep_last`",
        ]
    );
}

#[test]
fn what_would_play_with_the_screen_is_shown_as_its_escape_i_06() {
    let text = WHOLE
        .replace("[server]\n", "[server]\n\"a\\u001b[2J\\u202e\\nb\" = 1\n")
        .replace("listen = \"127.0.0.1:7443\"", "listen = \"\\u0007\"");
    let found = mistakes(&text, &[]);
    assert!(found[0].contains("server.a\\u{1b}[2J\\u{202e}\\nb: unknown key"), "{found:?}");
    assert!(found[1].contains("`\\u{7}` is not an IP address"), "{found:?}");
    for name in ["\\u0000", "\\u001b", "\\n"] {
        let found =
            mistakes(&WHOLE.replace("checkpoints = \"checkpoints\"", &format!("checkpoints = \"a{name}\"")), &[]);
        assert!(found[0].ends_with("audit.checkpoints: must not have control characters"), "{found:?}");
    }
}

#[test]
fn a_missing_table_is_refused_i_06() {
    let text = WHOLE.replace("[audit]\ncheckpoints = \"checkpoints\"\n", "");
    assert_eq!(
        mistakes(&text, &[]),
        ["/etc/cloakroom.toml:1: audit: the table [audit] is missing; `cloakroom init` writes a whole example"]
    );
}

#[test]
fn no_switch_turns_protection_off_i_06() {
    for line in ["insecure = true", "tls = false", "client_auth = \"none\"", "plaintext = true"] {
        let found = mistakes(&WHOLE.replace("[server]\n", &format!("[server]\n{line}\n")), &[]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("unknown key"), "{found:?}");
    }
    let found = mistakes(&WHOLE.replace("[audit]\n", "[audit]\nenabled = false\n"), &[]);
    assert!(found[0].starts_with("/etc/cloakroom.toml:24: audit.enabled: unknown key"), "{found:?}");
}

#[test]
fn an_unknown_table_is_refused_i_06() {
    let found = mistakes(&format!("{WHOLE}\n[auditing]\nx = 1\n"), &[]);
    assert_eq!(found, ["/etc/cloakroom.toml:43: auditing: unknown key; the nearest known one is `audit`"]);
}

#[test]
fn what_is_not_toml_is_placed() {
    let found = mistakes(&WHOLE.replace("[storage]", "[storage"), &[]);
    assert!(found.iter().all(|mistake| mistake.contains("not TOML")), "{found:?}");
    assert!(found[0].starts_with("/etc/cloakroom.toml:19: "), "{found:?}");
}

#[test]
fn a_trust_domain_stands_once() {
    let again = "[[trust_domains]]\nname = \"dev.cloakroom.internal\"\nbundle = \"b.pem\"\n";
    let found = mistakes(&format!("{WHOLE}\n{again}"), &[]);
    assert_eq!(
        found,
        ["/etc/cloakroom.toml:44: trust_domains.name: `dev.cloakroom.internal` stands in line 11 already"]
    );
    let none =
        WHOLE.replace("[[trust_domains]]\nname = \"dev.cloakroom.internal\"\nbundle = \"pki/ca.pem\"\ncrls = []\n", "");
    assert!(mistakes(&none, &[])[0].contains("at least one [[trust_domains]] is needed"));
}

#[test]
fn the_environment_overrides_scalars_of_plain_tables_i_06() {
    let variables = [
        ("CLOAKROOM_SERVER__LISTEN", "127.0.0.1:0"),
        ("CLOAKROOM_SERVER__MAX_CONNECTIONS", "7"),
        ("CLOAKROOM_STORAGE__CACHE_BYTES", "64MiB"),
        ("CLOAKROOM_STORAGE__PATH", "elsewhere"),
        ("CLOAKROOM_SERVER__DRAIN_TIMEOUT", "90s"),
        ("CLOAKROOM_PROFILE", "for the client"),
        ("HOME", "/root"),
    ];
    let config = parse(WHOLE, &variables).unwrap();
    assert_eq!(config.server.listen.port(), 0);
    assert_eq!(config.server.max_connections, 7);
    assert_eq!(config.server.drain_timeout, Duration::from_secs(90));
    assert_eq!(config.storage.cache_bytes, 64 << 20);
    assert_eq!(config.storage.path, Path::new("/etc/elsewhere"));
}

#[test]
fn a_wrong_or_unknown_variable_is_refused_i_06() {
    let variables = [("CLOAKROOM_SERVER__LISTEN", "here"), ("CLOAKROOM_SERVER__LISTNE", "127.0.0.1:0")];
    assert_eq!(
        mistakes(WHOLE, &variables),
        [
            "environment variable CLOAKROOM_SERVER__LISTEN: server.listen: `here` is not an IP address and a port, such as \
             \"127.0.0.1:7443\" or \"[::1]:7443\"",
            "environment variable CLOAKROOM_SERVER__LISTNE: nothing is set by this variable; the nearest known one is \
             `CLOAKROOM_SERVER__LISTEN`",
        ]
    );
    for name in ["CLOAKROOM_SCOPES__PAN", "CLOAKROOM_ROLES__GATEWAY", "CLOAKROOM_SERVER_LISTEN"] {
        assert_eq!(mistakes(WHOLE, &[(name, "x")]).len(), 1, "{name}");
    }
}

#[test]
fn clients_are_told_of_unknown_variables_too() {
    let variables = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), String::new())).collect::<Vec<_>>();
    let found = unknown_variables(variables(&["CLOAKROOM_ADRESS", "CLOAKROOM_SERVER__LISTEN", "PATH"]));
    assert_eq!(found.len(), 1);
    assert!(found[0].problem.ends_with("`CLOAKROOM_ADDRESS`"), "{}", found[0]);
}

// === sinks ===

const SINKS: &str = r#"
[[audit.sinks]]
name = "siem"
type = "syslog"
address = "[2001:db8::1]:6514"
ca = "pki/siem.pem"

[[audit.sinks]]
name = "collector_2"
type = "otlp"
address = "http://localhost:4318"
format = "ocsf"
from = "now"
"#;

#[test]
fn sinks_are_read_with_their_defaults() {
    let audit = parse(&format!("{WHOLE}{SINKS}"), &[]).unwrap().audit;
    assert_eq!(audit.sink_cursors, Path::new("/etc/sinks"));
    let [siem, collector] = &audit.sinks[..] else { panic!("two sinks") };
    let SinkTarget::Syslog { host, port } = &siem.target else { panic!("syslog") };
    assert_eq!((host.as_str(), *port), ("[2001:db8::1]", 6514));
    assert_eq!((siem.format, siem.from), (SinkFormat::Json, SinkStart::Beginning));
    assert_eq!(siem.ca.as_deref(), Some(Path::new("/etc/pki/siem.pem")));
    let SinkTarget::Otlp { url } = &collector.target else { panic!("otlp") };
    assert_eq!(url.to_string(), "http://localhost:4318/v1/logs", "the path that collectors have");
    assert_eq!((collector.format, collector.from), (SinkFormat::Ocsf, SinkStart::Now));
    assert!(parse(WHOLE, &[]).unwrap().audit.sinks.is_empty());
}

#[test]
fn each_mistake_in_a_sink_is_named_with_its_line() {
    let first = WHOLE.lines().count();
    for (from, to, line, words) in [
        ("name = \"siem\"", "name = \"Siem\"", 3, "audit.sinks.name: `Siem` must be 1 to 32 of a-z, 0-9, - and _"),
        ("name = \"siem\"", "name = \"../siem\"", 3, "must be 1 to 32"),
        ("\"collector_2\"", "\"siem\"", 9, "audit.sinks.name: `siem` stands in line"),
        ("\"syslog\"", "\"kafka\"", 4, "audit.sinks.type: \"kafka\" does not exist; use \"syslog\" or \"otlp\""),
        ("\"[2001:db8::1]:6514\"", "\"siem.example.com\"", 5, "must be a host and a port"),
        ("\"[2001:db8::1]:6514\"", "\"2001:db8::1:6514\"", 5, "must be a host and a port"),
        ("\"[2001:db8::1]:6514\"", "\"siem.example.com:0\"", 5, "must be a host and a port"),
        ("\"[2001:db8::1]:6514\"", "\"https://siem.example.com:6514\"", 5, "must be a host and a port"),
        ("ca = \"pki/siem.pem\"", "", 2, "audit.sinks.ca: is missing"),
        ("\"http://localhost:4318\"", "\"https://localhost:4318\"", 8, "audit.sinks.ca: is missing"),
        ("\"http://localhost:4318\"", "\"localhost:4318\"", 11, "must be a web address"),
        ("\"http://localhost:4318\"", "\"ftp://localhost:4318\"", 11, "must be a web address"),
        ("\"http://localhost:4318\"", "\"http://me:secret@localhost:4318\"", 11, "settings hold no secrets"),
        ("from = \"now\"", "ca = \"pki/siem.pem\"", 13, "audit.sinks.ca: is for https"),
        ("\"ocsf\"", "\"cef\"", 12, "audit.sinks.format: \"cef\" does not exist; use \"json\" or \"ocsf\""),
        ("\"now\"", "\"yesterday\"", 13, "audit.sinks.from: \"yesterday\" does not exist"),
        ("format =", "formatt =", 12, "audit.sinks.formatt: unknown key; the nearest known one is `format`"),
    ] {
        assert_eq!(SINKS.matches(from).count(), 1, "{from}");
        let found = mistakes(&format!("{WHOLE}{}", SINKS.replace(from, to)), &[]);
        let place = format!("/etc/cloakroom.toml:{}: ", first + line);
        assert!(found.len() == 1 && found[0].starts_with(&place) && found[0].contains(words), "{words}: {found:?}");
    }
    let found = mistakes(&format!("{WHOLE}\n[audit.sinks]\nname = \"siem\"\n"), &[]);
    assert!(found[0].contains("write it as [[audit.sinks]]"), "{found:?}");
}

#[test]
fn what_can_do_harm_is_escaped_and_nothing_else() {
    assert_eq!(harmless("it's \"fine\", naïve"), "it's \"fine\", naïve");
    assert_eq!(harmless("a\x1b[2Jb\n\u{202e}"), "a\\u{1b}[2Jb\\n\\u{202e}");
}
