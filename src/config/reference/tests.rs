use std::collections::BTreeSet;
use std::path::Path;

use super::super::reader::Document;
use super::super::{Config, Error, Mistake, OTHER_VARIABLES, sections};
use super::*;

const FILE: &str = "/etc/cloakroom.toml";

/// A file with the values that `value` gives, each in its table. `NAME` becomes a name.
fn file(value: impl Fn(&Key) -> Option<String>) -> String {
    let mut lines = Vec::new();
    for table in &TABLES {
        lines.push(table.header.replace("NAME", "pan"));
        let keys = KEYS.iter().filter(|key| key.table() == table.name);
        let given = keys.filter_map(|key| Some((key.last().replace("NAME", "gateway"), value(key)?)));
        lines.extend(given.map(|(key, value)| format!("{key} = {value}")));
    }
    lines.join("\n") + "\n"
}

fn example(key: &Key) -> String {
    key.example.to_owned()
}

/// As in the sample: what has no default, and nothing else.
fn required(key: &Key) -> Option<String> {
    (key.default == Fallback::Required).then(|| key.example.to_owned())
}

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<Mistake>> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(Path::new(FILE), text, variables).map_err(|error| match error {
        Error::Mistakes(mistakes) => mistakes,
        unreadable @ Error::Unreadable { .. } => panic!("{unreadable}"),
    })
}

/// The one mistake.
fn mistake(text: &str, variables: &[(&str, &str)]) -> String {
    let found = parse(text, variables).expect_err("must be refused");
    assert_eq!(found.len(), 1, "{found:?}\n{text}");
    found[0].to_string()
}

/// Everything that a configuration says, without the lines that it was read from.
fn content(config: &Config) -> String {
    let text = format!("{config:?}");
    let mut parts = text.split("line: ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// The line, counted from 1, on which `key` stands in `text`, which `file` made.
fn line_of(text: &str, key: &Key, last: &str) -> usize {
    let header = TABLES.iter().find(|table| table.name == key.table()).unwrap().header.replace("NAME", "pan");
    let start = text.lines().position(|line| line == header).unwrap();
    let within = text.lines().skip(start).position(|line| line.starts_with(&format!("{last} =")));
    start + within.unwrap() + 1
}

#[test]
fn the_reader_asks_for_the_keys_of_the_reference_and_no_others() {
    let text = file(|key| Some(example(key)));
    let document = Document::new(Path::new(FILE), &text, []);
    let config = sections::config(&document);
    let asked: BTreeSet<String> = document.readings().into_iter().map(|reading| reading.reference).collect();
    let mistakes: Vec<String> = document.into_mistakes(&OTHER_VARIABLES).iter().map(Mistake::to_string).collect();
    assert!(config.is_some(), "each example is accepted: {mistakes:?}");
    assert_eq!(mistakes, [""; 0]);
    let listed: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    assert_eq!(asked, listed, "left: what src/config/sections.rs reads; right: src/config/reference.rs");
    assert_eq!(listed.len(), KEYS.len(), "no key stands twice");
    for key in &KEYS {
        assert!(TABLES.iter().any(|table| table.name == key.table()), "{} has no table", key.name);
        assert!(!key.meaning.is_empty() && !key.example.is_empty(), "{}", key.name);
    }
}

#[test]
fn each_default_is_the_real_one() {
    let plain = content(&parse(&file(required), &[]).unwrap());
    for key in &KEYS {
        let without = |other: &Key| (other.name != key.name).then(|| required(other)).flatten();
        let given = |value: &'static str| {
            file(move |other| if other.name == key.name { Some(value.to_owned()) } else { required(other) })
        };
        match key.default {
            Fallback::Required => {
                let said = mistake(&file(without), &[]);
                assert!(said.contains(&format!("{}: is missing; it has no default", key.name)), "{said}");
            }
            Fallback::Value(value) => {
                assert_eq!(content(&parse(&given(value), &[]).unwrap()), plain, "{} = {value}", key.name);
                if value != key.example {
                    assert_ne!(content(&parse(&given(key.example), &[]).unwrap()), plain, "{} does nothing", key.name);
                }
            }
            Fallback::Absent => {
                assert_ne!(content(&parse(&given(key.example), &[]).unwrap()), plain, "{} does nothing", key.name);
            }
        }
    }
}

#[test]
fn a_misspelled_key_is_named_with_file_line_and_the_nearest_known_one() {
    for key in KEYS.iter().filter(|key| !key.name.ends_with("NAME")) {
        let wrong = format!("{}x", key.last());
        let text = file(|key| Some(example(key))).replace(
            &format!("\n{} = {}\n", key.last(), key.example),
            &format!("\n{} = {}\n{wrong} = 1\n", key.last(), key.example),
        );
        let line = line_of(&text, key, &wrong);
        let name = key.name.replace("NAME", "pan");
        let expected = format!("{FILE}:{line}: {name}x: unknown key; the nearest known one is `{}`", key.last());
        let found: Vec<String> = parse(&text, &[]).unwrap_err().iter().map(Mistake::to_string).collect();
        assert!(found.contains(&expected), "{expected}\n{found:?}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_file_line_and_key() {
    for key in &KEYS {
        let text = file(|other| if other.name == key.name { Some("1979-05-27".to_owned()) } else { required(other) });
        let last = key.last().replace("NAME", "gateway");
        let name = key.name.replace("roles.NAME", "roles.gateway").replace("NAME", "pan");
        let said = mistake(&text, &[]);
        let place = format!("{FILE}:{}: {name}: ", line_of(&text, key, &last));
        assert!(said.starts_with(&place), "{place} in {said}");
        assert!(said.contains("must be"), "{said}");
    }
}

#[test]
fn every_scalar_of_a_plain_table_can_come_from_the_environment() {
    let mut count = 0;
    for (key, variable) in KEYS.iter().filter_map(|key| Some((key, key.variable()?))) {
        count += 1;
        let without = file(|other| (other.name != key.name).then(|| required(other)).flatten());
        let given = file(|other| if other.name == key.name { Some(example(other)) } else { required(other) });
        let words = key.example.trim_matches('"');
        let by_variable =
            parse(&without, &[(&variable, words)]).unwrap_or_else(|found| panic!("{variable}: {found:?}"));
        assert_eq!(content(&by_variable), content(&parse(&given, &[]).unwrap()), "{variable}");
        let over = parse(&file(required), &[(&variable, words)]).unwrap();
        assert_eq!(content(&over), content(&by_variable), "{variable} overrides the file");

        let said = mistake(&given, &[(&format!("{variable}X"), words)]);
        let expected = format!(
            "environment variable {variable}X: nothing is set by this variable; the nearest known one is `{variable}`"
        );
        assert_eq!(said, expected);
        let said = mistake(&given, &[(&variable, "")]);
        assert!(said.starts_with(&format!("environment variable {variable}: {}: ", key.name)), "{said}");
    }
    assert!(count > 20, "{count}");
}

#[test]
fn lists_and_tables_with_names_have_no_variable() {
    for key in KEYS.iter().filter(|key| key.variable().is_none()) {
        let name = format!("CLOAKROOM_{}", key.name.replace("NAME", "pan").replace('.', "__").to_uppercase());
        assert!(
            mistake(&file(|key| Some(example(key))), &[(&name, "1")]).contains("nothing is set by this variable"),
            "{name}"
        );
    }
}

#[test]
fn other_variables_are_described() {
    assert_eq!(VARIABLES.map(|(name, _)| name), OTHER_VARIABLES);
}

#[test]
fn what_is_shown_gives_the_same_configuration_and_says_where_it_came_from() {
    let (text, variables) =
        (file(required), [("CLOAKROOM_SERVER__WORKERS", "3"), ("CLOAKROOM_STORAGE__CACHE_BYTES", "64MiB")]);
    let owned = || variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let shown = super::super::show::show(Path::new(FILE), &text, owned()).unwrap();
    let again = parse(&shown, &[]).unwrap_or_else(|found| panic!("{found:?}\n{shown}"));
    assert_eq!(content(&again), content(&parse(&text, &variables).unwrap()), "{shown}");
    let line = |start: &str| {
        shown.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in {shown}"))
    };
    assert!(line("listen = ").ends_with(&format!("# {FILE}:{}", line_of(&text, &KEYS[0], "listen"))), "{shown}");
    assert!(line("workers = 3 ").ends_with(" # environment variable CLOAKROOM_SERVER__WORKERS"), "{shown}");
    assert!(line("private_key = \"/etc/pki/server.key\"").contains(" # "), "paths are whole");
    assert!(line("max_connections = 1024").ends_with("# default"), "{shown}");
    // All of it, however it is written.
    let text = file(|key| Some(example(key)))
        + "[scopes.\"*/ssn\"]\n[[trust_domains]]\nname = \"b.test\"\nbundle = \"it's.pem\"\n";
    let shown = super::super::show::show(Path::new(FILE), &text, []).unwrap();
    assert_eq!(content(&parse(&shown, &[]).unwrap()), content(&parse(&text, &[]).unwrap()), "{shown}");
}

#[test]
fn the_page_in_docs_is_this_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == markdown(), "{} is stale. Run: cloakroom config reference > docs/configuration.md", path.display());
}
