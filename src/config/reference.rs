//! Every key of the configuration, for people: kind, default, unit, example and meaning.
//!
//! One table. `config reference` prints it as docs/configuration.md, `config show` takes defaults and kinds from it. The
//! reader has the last word on what is accepted, so a test lets it read every key of this table and compares what it asked
//! for with what stands here: neither can have a key, or a default, that the other lacks.

mod keys;
#[cfg(test)]
mod tests;

use std::fmt::Write;

pub use keys::KEYS;

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
