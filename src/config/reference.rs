//! Every key of the configuration, for people: kind, default, unit, example and meaning.
//!
//! One table. `config reference` prints it as docs/configuration.md, `config show` takes defaults and kinds from it. The
//! reader has the last word on what is accepted, so a test lets it read every key of this table and compares what it asked
//! for with what stands here: neither can have a key, or a default, that the other lacks.

use std::fmt::Write;

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// With its table, such as `server.listen`. `NAME` stands for a name that the user chooses.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// What holds where it is not given.
    pub default: Fallback,
    /// What its number counts. Empty where it counts nothing.
    pub unit: &'static str,
    /// A value as it stands in the file.
    pub example: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text that is not empty.
    Text,
    /// A list of texts.
    Texts,
    /// `true` or `false`.
    Boolean,
    /// A path; a relative one starts at the file's folder.
    Path,
    /// A list of paths.
    Paths,
    /// An IP address and a port.
    Address,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A whole number.
    Integer,
    /// A whole number of bytes, or a text with a unit.
    Bytes,
    /// A whole number with a unit of time, as a text.
    Duration,
}

/// What holds where a key is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Nothing: it must be given.
    Required,
    /// This, as it would stand in the file.
    Value(&'static str),
    /// Nothing: it may be left out.
    Absent,
}

/// One table of the file.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// As keys begin: `server`, `scopes.NAME`.
    pub name: &'static str,
    /// Its header.
    pub header: &'static str,
    /// What it is for.
    pub meaning: &'static str,
}

use Fallback::{Absent, Required, Value};

/// The tables, in the order in which `config show` prints them.
pub const TABLES: [Table; 14] = [
    table("server", "[server]", "The gRPC listener."),
    table(
        "operations",
        "[operations]",
        "The listener for `/livez`, `/readyz` and `/metrics`: no data, no client certificate. Keep it inside the machine or mesh.",
    ),
    table(
        "trust_domains",
        "[[trust_domains]]",
        "Whose certificates are believed: one table for each SPIFFE trust domain, at least one. A bundle vouches for no other domain.",
    ),
    table("root_key", "[root_key]", "Where the key that wraps all others comes from."),
    table("storage", "[storage]", "Where rows are kept."),
    table("audit", "[audit]", "What the log has outside the database."),
    table(
        "audit.witnesses",
        "[[audit.witnesses]]",
        "Who is asked to cosign each checkpoint, and at each start whether the log is the newest: [witness.md](witness.md). One table for each witness; there need not be any.",
    ),
    table(
        "audit.sinks",
        "[[audit.sinks]]",
        "Where audit events are sent: one table for each sink, or none. See [siem.md](siem.md).",
    ),
    table(
        "ledger",
        "[ledger]",
        "How much may wait for the one writer before callers are told to come back later. The whole table may be left out.",
    ),
    table("purge", "[purge]", "How fast what has expired is deleted, and when. The whole table may be left out."),
    table("policies", "[policies]", "Where the Cedar policies are."),
    table("roles", "[roles]", "Names for callers, for policies to use."),
    table(
        "scopes.NAME",
        "[scopes.NAME]",
        "One class of values with one rule set. The name is a path such as `pan` or `acme/ssn`, or a pattern such as `\"*/ssn\"` (in quotes), which holds for every scope that it matches and that has no table of its own.",
    ),
    table(
        "scopes.NAME.mask",
        "[scopes.NAME.mask]",
        "What stays visible of a masked value. Short: `mask = { keep_last = 4 }`.",
    ),
];

/// All keys, by table and in the order in which they are read.
pub const KEYS: [Key; 54] = [
    key(
        "server.listen",
        Kind::Address,
        Required,
        "",
        "\"127.0.0.1:7443\"",
        "Address and port. Port 0 lets the system choose.",
    ),
    key(
        "server.certificate",
        Kind::Path,
        Required,
        "",
        "\"pki/server.pem\"",
        "The vault's certificate chain in PEM, its own certificate first.",
    ),
    key(
        "server.private_key",
        Kind::Path,
        Required,
        "",
        "\"pki/server.key\"",
        "Its key, unencrypted PKCS#8 in PEM, mode 0600.",
    ),
    key(
        "server.node",
        Kind::Text,
        Value("\"vault\""),
        "",
        "\"vault-eu-1\"",
        "How this process is called in audit events.",
    ),
    key("server.workers", Kind::Integer, Value("0"), "threads", "4", "Network threads. 0: one for each core."),
    key(
        "server.max_connections",
        Kind::Integer,
        Value("1024"),
        "connections",
        "4096",
        "Open connections at most, those in a handshake included.",
    ),
    key(
        "server.max_concurrent_streams",
        Kind::Integer,
        Value("256"),
        "calls",
        "512",
        "Calls in flight on one connection at most.",
    ),
    key(
        "server.handshake_timeout",
        Kind::Duration,
        Value("\"5s\""),
        "time",
        "\"10s\"",
        "How long a TLS handshake may take.",
    ),
    key(
        "server.keepalive_interval",
        Kind::Duration,
        Value("\"30s\""),
        "time",
        "\"1m\"",
        "How long a connection may be silent before it is asked whether anybody is there.",
    ),
    key("server.keepalive_timeout", Kind::Duration, Value("\"10s\""), "time", "\"20s\"", "How long it has to answer."),
    key(
        "server.max_connection_age",
        Kind::Duration,
        Value("\"1h\""),
        "time",
        "\"8h\"",
        "After this a client is told to connect anew, so that it shows a fresh certificate. `\"0s\"`: never.",
    ),
    key(
        "server.drain_timeout",
        Kind::Duration,
        Value("\"10s\""),
        "time",
        "\"25s\"",
        "How long calls in flight may take to end at a stop.",
    ),
    key(
        "operations.listen",
        Kind::Address,
        Required,
        "",
        "\"127.0.0.1:9443\"",
        "Address and port of the plain HTTP listener.",
    ),
    key(
        "trust_domains.name",
        Kind::Text,
        Required,
        "",
        "\"dev.cloakroom.internal\"",
        "The domain's bare name, without `spiffe://`. The first domain is the vault's own.",
    ),
    key("trust_domains.bundle", Kind::Path, Required, "", "\"pki/ca.pem\"", "Its root certificates in PEM."),
    key(
        "trust_domains.crls",
        Kind::Paths,
        Value("[]"),
        "",
        "[]",
        "Its revocation lists in PEM. This version checks none and refuses to start if any is given: a certificate is good until it expires.",
    ),
    key("root_key.provider", Kind::Choice(&["file"]), Required, "", "\"file\"", "What gives the root key."),
    key(
        "root_key.path",
        Kind::Path,
        Required,
        "",
        "\"root.key\"",
        "The file of provider `file`, mode 0600. Keep a copy apart from the data.",
    ),
    key("storage.engine", Kind::Choice(&["rocksdb"]), Required, "", "\"rocksdb\"", "What keeps the rows."),
    key("storage.path", Kind::Path, Required, "", "\"data\"", "The data directory. One process at a time."),
    key(
        "storage.cache_bytes",
        Kind::Bytes,
        Value("\"256MiB\""),
        "bytes",
        "\"2GiB\"",
        "The block cache, memtables included.",
    ),
    key(
        "audit.checkpoints",
        Kind::Path,
        Required,
        "",
        "\"checkpoints\"",
        "The directory for signed checkpoints, outside the database and better on another disk.",
    ),
    key(
        "audit.checkpoints_copy",
        Kind::Path,
        Absent,
        "",
        "\"/mnt/other/checkpoints\"",
        "A second directory for the same checkpoints, on another machine's disk if possible. A start believes the newer of both.",
    ),
    key(
        "audit.retention",
        Kind::Duration,
        Value("\"397d\""),
        "",
        "\"1100d\"",
        "How long the bodies of events are kept at least, from a day to a hundred years; 397 days are 13 months. Older ones \
         are dropped, 256 at a time; their hashes stay, and everything newer stays provable.",
    ),
    key(
        "audit.signing_key",
        Kind::Path,
        Value("\"log.key\""),
        "",
        "\"/etc/cloakroom/log.key\"",
        "The private key that signs checkpoints, mode 0600.",
    ),
    key(
        "audit.witnesses_required",
        Kind::Integer,
        Absent,
        "witnesses",
        "1",
        "How many witnesses must cosign the log as it is found at a start, or the vault does not start. Where it is not given: all of them. While the vault runs, checkpoints are written with the cosignatures that there are.",
    ),
    key(
        "audit.witnesses.url",
        Kind::Text,
        Required,
        "",
        "\"http://127.0.0.1:7445\"",
        "Where the witness is, `https://` or `http://`. `/add-checkpoint` is added to it.",
    ),
    key(
        "audit.witnesses.key",
        Kind::Text,
        Required,
        "",
        "\"witness.example/w1+32a36494+BMI1hkWUFy+17tGv+SaEtXCXB6VLySnbd7jEr/FoOXNK\"",
        "Its public key: the line in its `witness.vkey`.",
    ),
    key(
        "audit.witnesses.ca",
        Kind::Path,
        Absent,
        "",
        "\"pki/witness-ca.pem\"",
        "Who may vouch for it, PEM. Needed with `https://`, without effect with `http://`.",
    ),
    key(
        "audit.sink_cursors",
        Kind::Path,
        Value("\"sinks\""),
        "",
        "\"/var/lib/cloakroom/sinks\"",
        "The directory that says how far each sink has come, outside the database.",
    ),
    key(
        "audit.sinks.name",
        Kind::Text,
        Required,
        "",
        "\"siem\"",
        "What the sink is called, in metrics, in the log and as its cursor's file: 1 to 32 of a-z, 0-9, `-` and `_`, unique.",
    ),
    key(
        "audit.sinks.type",
        Kind::Choice(&["syslog", "otlp"]),
        Required,
        "",
        "\"syslog\"",
        "What is spoken there: syslog (RFC 5424) over TLS, or OTLP over HTTP.",
    ),
    key(
        "audit.sinks.address",
        Kind::Text,
        Required,
        "",
        "\"siem.example.com:6514\"",
        "For syslog host and port; for OTLP the web address, `https://…` or, inside a machine, `http://…`. Without a path logs are posted to `/v1/logs`.",
    ),
    key(
        "audit.sinks.ca",
        Kind::Path,
        Required,
        "",
        "\"pki/siem-ca.pem\"",
        "The authorities that may vouch for the receiver, in PEM. Not needed for `http://…`.",
    ),
    key(
        "audit.sinks.certificate",
        Kind::Path,
        Absent,
        "",
        "\"pki/siem-client.pem\"",
        "The certificate chain that the vault shows to the receiver, in PEM. Only together with `private_key`.",
    ),
    key(
        "audit.sinks.private_key",
        Kind::Path,
        Absent,
        "",
        "\"pki/siem-client.key\"",
        "Its key, unencrypted PKCS#8 in PEM, mode 0600.",
    ),
    key(
        "audit.sinks.format",
        Kind::Choice(&["json", "ocsf"]),
        Value("\"json\""),
        "",
        "\"ocsf\"",
        "What an event looks like there: the vault's own JSON, or OCSF 1.3.0.",
    ),
    key(
        "audit.sinks.from",
        Kind::Choice(&["beginning", "now"]),
        Value("\"beginning\""),
        "",
        "\"now\"",
        "Where to begin as long as the sink has no cursor: at the first event, or behind the last.",
    ),
    key("ledger.max_queued_calls", Kind::Integer, Value("8192"), "calls", "20000", "Calls that may wait."),
    key(
        "ledger.max_queued_records",
        Kind::Integer,
        Value("200000"),
        "rows",
        "500000",
        "Rows that may wait, over all calls.",
    ),
    key(
        "ledger.max_queued_bytes",
        Kind::Bytes,
        Value("\"64MiB\""),
        "bytes",
        "\"128MiB\"",
        "Bytes that may wait, over all calls.",
    ),
    key(
        "purge.rows_per_second",
        Kind::Integer,
        Value("5000"),
        "rows",
        "20000",
        "Records that are looked at and deleted in a second, at the most.",
    ),
    key(
        "purge.grace",
        Kind::Duration,
        Value("\"24h\""),
        "time",
        "\"7d\"",
        "How long what has expired is kept before it may be deleted.",
    ),
    key(
        "purge.interval",
        Kind::Duration,
        Value("\"1m\""),
        "time",
        "\"10m\"",
        "How often it is looked whether there is anything to do.",
    ),
    key("policies.directory", Kind::Path, Required, "", "\"policies\"", "Every `*.cedar` in it is read."),
    key(
        "roles.NAME",
        Kind::Texts,
        Absent,
        "",
        "[\"spiffe://dev.cloakroom.internal/gateway\"]",
        "The role's members by SPIFFE ID. `*` stands for exactly one path segment.",
    ),
    key(
        "scopes.NAME.format",
        Kind::Text,
        Value("\"opaque\""),
        "",
        "\"opaque\"",
        "What tokens look like: `opaque` or `uuid`.",
    ),
    key(
        "scopes.NAME.prefix",
        Kind::Text,
        Absent,
        "",
        "\"pan\"",
        "What tokens begin with, where the format has a prefix: a letter, then up to 15 letters and digits, lower case.",
    ),
    key(
        "scopes.NAME.ttl",
        Kind::Duration,
        Value("\"30d\""),
        "time",
        "\"7d\"",
        "The lifetime of tokens for which none is asked.",
    ),
    key(
        "scopes.NAME.max_ttl",
        Kind::Duration,
        Value("\"400d\""),
        "time",
        "\"90d\"",
        "The longest lifetime. What is asked beyond it is refused, never cut.",
    ),
    key("scopes.NAME.max_value_bytes", Kind::Bytes, Value("65536"), "bytes", "\"4KiB\"", "The largest value."),
    key(
        "scopes.NAME.purpose_required",
        Kind::Boolean,
        Value("true"),
        "",
        "false",
        "Whether Detokenize must state a purpose.",
    ),
    key(
        "scopes.NAME.mask.keep_first",
        Kind::Integer,
        Value("0"),
        "characters",
        "6",
        "So many stay visible at the start. A third of the value and four characters are always hidden, or all of it.",
    ),
    key("scopes.NAME.mask.keep_last", Kind::Integer, Value("0"), "characters", "4", "So many stay visible at the end."),
];

/// Variables of the environment that are no settings of the file, with their meaning.
pub const VARIABLES: [(&str, &str); 4] = [
    ("CLOAKROOM_PROFILE", "the profile of client commands, as `--profile`"),
    ("CLOAKROOM_ADDRESS", "the vault's address for client commands, as `--address`"),
    ("CLOAKROOM_CONFIG", "the configuration file, as `--config`"),
    (
        "CLOAKROOM_LOG",
        "what `serve` logs to standard error: `info` (the default), `debug`, `warn,cloakroom::ledger=debug`",
    ),
];

const HEAD: &str = "# Configuration

One TOML file, given with `--config FILE` or `CLOAKROOM_CONFIG`. `cloakroom init` writes a whole example, `cloakroom config show --config FILE`
prints what holds, with the origin of each value, and `cloakroom serve --check --config FILE` tries it. This page is what `cloakroom config reference`
prints; a test compares them.

* Relative paths start at the file's folder. Settings hold paths of secrets, never secrets.
* A duration is a text of a whole number and `ms`, `s`, `m`, `h`, `d` or `w`: `\"90s\"`, `\"30d\"`. A size is a number of bytes, or a text with `KiB`, `MiB` or
  `GiB`: `\"256MiB\"`.
* An unknown key or table is an error that names the file, the line, the key and the nearest known key. All mistakes are found in one go, and a
  file with a mistake starts nothing: exit status 2.
* Where a key has a variable, the environment overrides the file: `CLOAKROOM_SERVER__LISTEN=0.0.0.0:7443`, without quotes. An unknown
  `CLOAKROOM_…` variable is an error, for every command.
";

/// The whole table as Markdown: docs/configuration.md.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for table in &TABLES {
        let keys: Vec<&Key> = KEYS.iter().filter(|key| key.table() == table.name).collect();
        // Writing to a text can't fail.
        let _ = writeln!(page, "\n## `{}`\n\n{}\n", table.header, table.meaning);
        let _ = writeln!(
            page,
            "| key | type | default | unit | example | meaning |\n| --- | --- | --- | --- | --- | --- |"
        );
        for key in &keys {
            let (kind, default) = (key.kind.in_words(), key.default.in_words());
            let Key { unit, example, meaning, .. } = key;
            let _ = writeln!(page, "| `{}` | {kind} | {default} | {unit} | `{example}` | {meaning} |", key.last());
        }
        if let Some(variable) = keys.iter().find_map(|key| key.variable()) {
            let _ = writeln!(page, "\nFrom the environment: `{variable}` and so on for each key.");
        }
    }
    let _ = writeln!(page, "\n## Other variables\n\n| variable | meaning |\n| --- | --- |");
    for (name, meaning) in VARIABLES {
        let _ = writeln!(page, "| `{name}` | {meaning} |");
    }
    page
}

/// The key of that name. `None` if there is none: a test sees to it that the reader asks for no such key.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// Its table's name.
    pub fn table(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// Its name within the table.
    pub fn last(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, last)| last)
    }

    /// The variable that overrides it: only scalars of plain tables have one.
    pub fn variable(&self) -> Option<String> {
        let table = TABLES.iter().find(|table| table.name == self.table())?;
        let plain = !table.header.starts_with("[[") && !self.name.contains("NAME");
        let scalar = !matches!(self.kind, Kind::Texts | Kind::Paths);
        (plain && scalar).then(|| format!("CLOAKROOM_{}__{}", table.name.to_uppercase(), self.last().to_uppercase()))
    }
}

impl Kind {
    fn in_words(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Texts => "list of texts".to_owned(),
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Paths => "list of paths".to_owned(),
            Self::Address => "address and port".to_owned(),
            Self::Choice(words) => words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or "),
            Self::Integer => "whole number".to_owned(),
            Self::Bytes => "size".to_owned(),
            Self::Duration => "duration".to_owned(),
        }
    }
}

impl Fallback {
    fn in_words(self) -> String {
        match self {
            Self::Required => "must be given".to_owned(),
            Self::Value(value) => format!("`{value}`"),
            Self::Absent => "none".to_owned(),
        }
    }
}

const fn table(name: &'static str, header: &'static str, meaning: &'static str) -> Table {
    Table { name, header, meaning }
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: Fallback,
    unit: &'static str,
    example: &'static str,
    meaning: &'static str,
) -> Key {
    Key { name, kind, default, unit, example, meaning }
}

#[cfg(test)]
mod tests;
