//! Each table of the file: its keys, their kinds, ranges and defaults.
//!
//! A section reads all its keys before it gives up on any, so that one run finds every mistake.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::given::{
    address, boolean, bytes, duration, host_and_port, integer, node_name, one_of, path, paths, short_name, text, texts,
    url, web_address, witness_key,
};
use super::reader::{Document, Located, Section};
use super::{
    Audit, Config, Engine, Ledger, Mask, Operations, Places, Policies, Purge, RootKey, Scope, Server, Sink, SinkFormat,
    SinkStart, SinkTarget, Storage, TrustDomain, Witness,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// The longest lifetime that can be configured: a hundred years.
const CENTURY: Duration = DAY.saturating_mul(36_500);
const MIB: u64 = 1 << 20;

pub(super) fn config(document: &Document<'_>) -> Option<Config> {
    let mut root = document.root();
    let server = server(root.table("server"));
    let operations = operations(root.table("operations"));
    let trust_domains = trust_domains(root.tables("trust_domains"));
    let root_key = root_key(root.table("root_key"));
    let storage = storage(root.table("storage"));
    let audit = audit(root.table("audit"));
    let ledger = ledger(root.optional_table("ledger"));
    let purge = purge(root.optional_table("purge"));
    let policies = policies(root.table("policies"));
    let roles = root.named_values("roles", texts);
    let scopes = scopes(root.named_tables("scopes"));
    root.finish();
    if let (Some(server), Some(operations)) = (&server, &operations) {
        check_listeners(document, server.listen, operations.listen);
    }
    Some(Config {
        file: document.file().to_owned(),
        server: server?,
        operations: operations?,
        trust_domains: trust_domains?,
        root_key: root_key?,
        storage: storage?,
        audit: audit?,
        ledger: ledger?,
        purge: purge?,
        policies: policies?,
        roles,
        scopes: scopes?,
        places: Places::default(),
    })
}

/// One of two listeners on one port would not start, and what is meant for the other would be asked of it.
fn check_listeners(document: &Document<'_>, server: SocketAddr, operations: SocketAddr) {
    let overlap = server.ip() == operations.ip() || server.ip().is_unspecified() || operations.ip().is_unspecified();
    if server.port() != 0 && server.port() == operations.port() && overlap {
        let problem =
            format!("`{operations}` is the port of server.listen, `{server}`, too. Give each a port of its own");
        document.mistake_at("operations.listen", problem);
    }
}

fn server(mut section: Section<'_>) -> Option<Server> {
    let folder = section.folder();
    let listen = section.required("listen", address);
    let certificate = section.required("certificate", path(folder));
    let private_key = section.required("private_key", path(folder));
    let node = section.or("node", "vault".to_owned(), node_name);
    let workers = section.or("workers", 0, integer(0..=1_024));
    let max_connections = section.or("max_connections", 1_024, integer(1..=1_000_000));
    let max_connections_per_caller = section.or("max_connections_per_caller", 0, integer(0..=1_000_000));
    let max_concurrent_streams = section.or("max_concurrent_streams", 256, integer(1..=100_000));
    // One call's message, records and answer have to fit.
    let max_bytes_in_flight = section.or("max_bytes_in_flight", 256 << 20, bytes(32 * MIB..=1 << 44));
    let handshake_timeout = section.or("handshake_timeout", 5 * SECOND, duration(SECOND / 10..=60 * SECOND));
    let keepalive_interval = section.or("keepalive_interval", 30 * SECOND, duration(SECOND..=HOUR));
    let keepalive_timeout = section.or("keepalive_timeout", 10 * SECOND, duration(SECOND..=HOUR));
    let stall_timeout = section.or("stall_timeout", 60 * SECOND, duration(SECOND..=HOUR));
    let max_connection_age = section.or("max_connection_age", HOUR, duration(Duration::ZERO..=365 * DAY));
    let drain_timeout = section.or("drain_timeout", 10 * SECOND, duration(Duration::ZERO..=HOUR));
    section.finish();
    Some(Server {
        listen: listen?,
        certificate: certificate?,
        private_key: private_key?,
        node: node?,
        workers: workers?,
        max_connections: max_connections?,
        max_connections_per_caller: max_connections_per_caller?,
        max_concurrent_streams: max_concurrent_streams?,
        max_bytes_in_flight: max_bytes_in_flight?,
        handshake_timeout: handshake_timeout?,
        keepalive_interval: keepalive_interval?,
        keepalive_timeout: keepalive_timeout?,
        stall_timeout: stall_timeout?,
        max_connection_age: Some(max_connection_age?).filter(|age| !age.is_zero()),
        drain_timeout: drain_timeout?,
    })
}

fn operations(mut section: Section<'_>) -> Option<Operations> {
    let listen = section.required("listen", address);
    section.finish();
    Some(Operations { listen: listen? })
}

fn trust_domains(sections: Vec<Section<'_>>) -> Option<Vec<TrustDomain>> {
    let mut first_lines: BTreeMap<String, u32> = BTreeMap::new();
    let mut read = Vec::new();
    for mut section in sections {
        let (folder, line) = (section.folder(), section.line());
        let name = section.required_located("name", text);
        let bundle = section.required("bundle", path(folder));
        let crls = section.or("crls", Vec::new(), paths(folder));
        if let Some(name) = &name
            && let Some(first) = first_lines.insert(name.value.clone(), name.line)
        {
            section.mistake(name.line, "name", format!("`{}` stands in line {first} already", name.value));
        }
        section.finish();
        read.push((|| Some(TrustDomain { name: name?.value, bundle: bundle?, crls: crls?, line }))());
    }
    read.into_iter().collect()
}

fn root_key(mut section: Section<'_>) -> Option<RootKey> {
    let folder = section.folder();
    let provider = section.required("provider", one_of(&[("file", ())]));
    let path = section.required("path", path(folder));
    section.finish();
    provider?;
    Some(RootKey::File { path: path? })
}

fn storage(mut section: Section<'_>) -> Option<Storage> {
    let folder = section.folder();
    let engine = section.required("engine", one_of(&[("rocksdb", Engine::RocksDb)]));
    let path = section.required("path", path(folder));
    let cache_bytes = section.or("cache_bytes", 256 << 20, bytes(8 * MIB..=1 << 44));
    let min_free_bytes = section.or("min_free_bytes", 128 << 20, bytes(0..=1 << 44));
    section.finish();
    Some(Storage { engine: engine?, path: path?, cache_bytes: cache_bytes?, min_free_bytes: min_free_bytes? })
}

fn audit(mut section: Section<'_>) -> Option<Audit> {
    let folder = section.folder();
    let checkpoints = section.required("checkpoints", path(folder));
    let checkpoints_copy = section.or("checkpoints_copy", None, |given| path(folder)(given).map(Some));
    // A day at least: a wrong unit must not empty the log.
    let retention = section.or("retention", 397 * DAY, duration(DAY..=CENTURY));
    let signing_key = section.or("signing_key", folder.join("log.key"), path(folder));
    let sink_cursors = section.or("sink_cursors", folder.join("sinks"), path(folder));
    let required = section.located("witnesses_required", integer(0..=100));
    let tables = section.optional_tables("witnesses");
    let configured = tables.len();
    let witnesses = witnesses(tables);
    if let Some(Located { value, line }) = required
        && value > configured
    {
        let problem = format!("there are {configured} [[audit.witnesses]], so {value} of them can't cosign");
        section.mistake(line, "witnesses_required", problem);
    }
    let sinks = sinks(section.optional_tables("sinks"));
    section.finish();
    Some(Audit {
        checkpoints: checkpoints?,
        checkpoints_copy: checkpoints_copy?,
        retention: retention?,
        signing_key: signing_key?,
        witnesses_required: required.map(|required| required.value),
        witnesses: witnesses?,
        sink_cursors: sink_cursors?,
        sinks: sinks?,
    })
}

fn witnesses(sections: Vec<Section<'_>>) -> Option<Vec<Witness>> {
    let mut first_lines: BTreeMap<String, u32> = BTreeMap::new();
    let mut read = Vec::new();
    for mut section in sections {
        let folder = section.folder();
        let url = section.required("url", url);
        let key = section.required_located("key", witness_key);
        let ca = section.located("ca", path(folder)).map(|located| located.value);
        if let Some(key) = &key
            && let Some(first) = first_lines.insert(key.value.name().to_string(), key.line)
        {
            // The same witness twice would count for two.
            section.mistake(key.line, "key", format!("`{}` stands in line {first} already", key.value.name()));
        }
        section.finish();
        read.push((|| Some(Witness { url: url?, key: key?.value, ca }))());
    }
    read.into_iter().collect()
}

fn sinks(sections: Vec<Section<'_>>) -> Option<Vec<Sink>> {
    let mut first_lines: BTreeMap<String, u32> = BTreeMap::new();
    let read: Vec<_> = sections.into_iter().map(|section| sink(section, &mut first_lines)).collect();
    read.into_iter().collect()
}

fn sink(mut section: Section<'_>, first_lines: &mut BTreeMap<String, u32>) -> Option<Sink> {
    let (folder, line) = (section.folder(), section.line());
    let name = section.required_located("name", short_name);
    if let Some(name) = &name
        && let Some(first) = first_lines.insert(name.value.clone(), name.line)
    {
        section.mistake(name.line, "name", format!("`{}` stands in line {first} already", name.value));
    }
    let target = match section.required("type", one_of(&[("syslog", false), ("otlp", true)])) {
        Some(true) => section.required("address", web_address).map(|url| SinkTarget::Otlp { url }),
        Some(false) => section.required("address", host_and_port).map(|(host, port)| SinkTarget::Syslog { host, port }),
        // Which of the two it had to be can't be told.
        None => section.located("address", text).and(None),
    };
    let ca = section.located("ca", path(folder));
    let encrypted = !matches!(&target, Some(SinkTarget::Otlp { url }) if url.scheme_str() == Some("http"));
    if ca.is_none() && encrypted && target.is_some() && !section.has("ca") {
        let what = "is missing; it has no default: the file with the authorities that may vouch for the receiver";
        section.mistake(line, "ca", what.to_owned());
    }
    if let Some(ca) = &ca
        && !encrypted
    {
        section.mistake(
            ca.line,
            "ca",
            "is for https, but the address begins with http: nothing would be encrypted".to_owned(),
        );
    }
    let certificate = section.located("certificate", path(folder));
    let private_key = section.located("private_key", path(folder));
    let format =
        section.or("format", SinkFormat::Json, one_of(&[("json", SinkFormat::Json), ("ocsf", SinkFormat::Ocsf)]));
    let starts = &[("beginning", SinkStart::Beginning), ("now", SinkStart::Now)];
    let from = section.or("from", SinkStart::Beginning, one_of(starts));
    section.finish();
    Some(Sink {
        line,
        name: name?.value,
        target: target?,
        ca: ca.map(|ca| ca.value),
        certificate: certificate.map(|certificate| certificate.value),
        private_key: private_key.map(|key| key.value),
        format: format?,
        from: from?,
    })
}

fn ledger(mut section: Section<'_>) -> Option<Ledger> {
    let max_queued_calls = section.or("max_queued_calls", 8_192, integer(1..=10_000_000));
    // A call has up to 1,000 records: with less room than that it could never be taken.
    let max_queued_records = section.or("max_queued_records", 200_000, integer(1_000..=100_000_000));
    let max_queued_bytes = section.or("max_queued_bytes", 64 << 20, bytes(8 * MIB..=1 << 36));
    let stall_after = section.or("stall_after", 2 * SECOND, duration(SECOND / 10..=HOUR));
    section.finish();
    Some(Ledger {
        max_queued_calls: max_queued_calls?,
        max_queued_records: max_queued_records?,
        max_queued_bytes: max_queued_bytes?,
        stall_after: stall_after?,
    })
}

fn purge(mut section: Section<'_>) -> Option<Purge> {
    let rows_per_second = section.or("rows_per_second", 5_000, integer(1..=1_000_000));
    let grace = section.or("grace", DAY, duration(Duration::ZERO..=400 * DAY));
    let interval = section.or("interval", 60 * SECOND, duration(SECOND..=DAY));
    section.finish();
    Some(Purge { rows_per_second: rows_per_second?, grace: grace?, interval: interval? })
}

fn policies(mut section: Section<'_>) -> Option<Policies> {
    let folder = section.folder();
    let directory = section.required("directory", path(folder));
    section.finish();
    Some(Policies { directory: directory? })
}

fn scopes(sections: Vec<(String, Section<'_>)>) -> Option<BTreeMap<String, Scope>> {
    // All are read before the first wrong one ends the matter.
    let read: Vec<_> = sections.into_iter().map(|(name, section)| (name, scope(section))).collect();
    read.into_iter().map(|(name, scope)| scope.map(|scope| (name, scope))).collect()
}

fn scope(mut section: Section<'_>) -> Option<Scope> {
    let line = section.line();
    let format = section.located_or("format", "opaque".to_owned(), text);
    let prefix = section.located("prefix", text);
    let ttl = section.located_or("ttl", 30 * DAY, duration(SECOND..=CENTURY));
    let max_ttl = section.located_or("max_ttl", 400 * DAY, duration(SECOND..=CENTURY));
    let max_value_bytes = section.located_or("max_value_bytes", 65_536, bytes(1..=MIB));
    let purpose_required = section.located_or("purpose_required", true, boolean);
    let mask = mask(&mut section);
    section.finish();
    Some(Scope {
        line,
        format: format?,
        prefix,
        ttl: ttl?,
        max_ttl: max_ttl?,
        max_value_bytes: max_value_bytes?,
        mask: mask?,
        purpose_required: purpose_required?,
    })
}

fn mask(scope: &mut Section<'_>) -> Option<Located<Mask>> {
    let mut section = scope.value_table("mask");
    let line = section.line();
    let keep_first = section.or("keep_first", 0, integer(0..=1_024));
    let keep_last = section.or("keep_last", 0, integer(0..=1_024));
    section.finish();
    Some(Located { value: Mask { keep_first: keep_first?, keep_last: keep_last? }, line })
}
