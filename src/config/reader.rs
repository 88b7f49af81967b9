//! A TOML document that knows what it was asked for.
//!
//! The sections ask for the keys that they know; whatever nobody asked for is a mistake. So there is no second list of
//! known keys that could differ from the first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::given::{Given, Written};
use super::{Mistake, Place};

/// A setting, and the line of the file that it came from (0: from the environment or by default).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located<T> {
    /// The setting.
    pub value: T,
    /// Its line, counted from 1.
    pub line: u32,
}

/// A setting as it was asked for: what `config show` prints, and what the tests hold the reference against.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// Its table's header, such as `[scopes.pan]`, and the line of it.
    pub header: (String, u32),
    /// Its name within the table.
    pub key: String,
    /// As the reference names it: `scopes.NAME.ttl`.
    pub reference: String,
    /// Where its value came from.
    pub origin: Origin,
}

/// Where a value came from, and what was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A line of the file.
    Line(u32, Written),
    /// A variable of the environment.
    Variable(String, Written),
    /// Nowhere: the default, if there is one, holds.
    Default,
}

/// The file, the variables laid over it, and the mistakes found so far.
pub(super) struct Document<'a> {
    file: PathBuf,
    text: &'a str,
    root: DeTable<'a>,
    overrides: BTreeMap<String, String>,
    known_variables: RefCell<BTreeSet<String>>,
    mistakes: RefCell<Vec<Mistake>>,
    readings: RefCell<Vec<Reading>>,
    /// Set when the text is not TOML: then what seems to be missing is not worth a word.
    broken: bool,
}

/// One table of the document.
pub(super) struct Section<'d> {
    document: &'d Document<'d>,
    /// As in messages: `server`, `scopes.pan`.
    name: String,
    /// As in the file: `server`, `scopes."*/ssn"`.
    header: String,
    /// As in the reference: `server`, `scopes.NAME`.
    reference: String,
    /// Whether its keys are names that the user chose.
    named: bool,
    /// Whether it is one of an array of tables.
    repeated: bool,
    line: u32,
    table: Option<&'d DeTable<'d>>,
    /// Variables are named after it, if it is a plain table.
    variable_prefix: Option<String>,
    asked: BTreeSet<String>,
}

impl<'a> Document<'a> {
    pub(super) fn new(file: &Path, text: &'a str, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Self {
            file: file.to_owned(),
            text,
            root: root.into_inner(),
            overrides: variables.into_iter().filter(|(name, _)| name.starts_with("CLOAKROOM_")).collect(),
            known_variables: RefCell::default(),
            mistakes: RefCell::default(),
            readings: RefCell::default(),
            broken: false,
        };
        for error in &errors {
            let line = document.line_at(error.span().map_or(0, |span| span.start));
            document.note(
                Place::Line(document.file.clone(), line),
                String::new(),
                format!("not TOML: {}", error.message()),
            );
        }
        document.broken = !errors.is_empty();
        document
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The folder that relative paths start at.
    pub(super) fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// The document itself, as a table of tables.
    pub(super) fn root(&self) -> Section<'_> {
        Section {
            document: self,
            name: String::new(),
            header: String::new(),
            reference: String::new(),
            named: false,
            repeated: false,
            line: 1,
            table: Some(&self.root),
            variable_prefix: None,
            asked: BTreeSet::new(),
        }
    }

    /// Every setting that was asked for and is not wrong, in the order of asking.
    pub(super) fn readings(&self) -> Vec<Reading> {
        self.readings.borrow().clone()
    }

    /// All mistakes, by line. Variables that nobody asked for and that are not among `others` are mistakes too.
    pub(super) fn into_mistakes(self, others: &[&str]) -> Vec<Mistake> {
        let mut known = self.known_variables.borrow().clone();
        known.extend(others.iter().map(|name| (*name).to_owned()));
        for name in self.overrides.keys().filter(|name| !known.contains(*name)) {
            let problem =
                format!("nothing is set by this variable; {}", nearest(name, known.iter().map(String::as_str)));
            self.note(Place::Variable(name.clone()), String::new(), problem);
        }
        let broken = self.broken;
        let mut mistakes = self.mistakes.into_inner();
        mistakes.retain(|mistake| !broken || mistake.key.is_empty());
        mistakes.sort_by_key(|mistake| match &mistake.place {
            Place::Line(_, line) => *line,
            Place::Variable(_) => u32::MAX,
        });
        mistakes
    }

    /// A mistake that shows once several settings were read: at the place of the one named `reference`.
    pub(super) fn mistake_at(&self, reference: &str, problem: String) {
        let place = match self.readings.borrow().iter().find(|reading| reading.reference == reference) {
            Some(Reading { origin: Origin::Variable(name, _), .. }) => Place::Variable(name.clone()),
            Some(Reading { origin: Origin::Line(line, _), .. }) => Place::Line(self.file.clone(), *line),
            _ => Place::Line(self.file.clone(), 1),
        };
        self.note(place, reference.to_owned(), problem);
    }

    fn note(&self, place: Place, key: String, problem: String) {
        self.mistakes.borrow_mut().push(Mistake { place, key, problem });
    }

    fn line_at(&self, offset: usize) -> u32 {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let breaks = before.split(|byte| *byte == b'\n').count();
        u32::try_from(breaks).unwrap_or(u32::MAX)
    }
}

impl<'d> Section<'d> {
    /// The line of the table's header.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    /// The folder that relative paths start at.
    pub(super) fn folder(&self) -> &'d Path {
        self.document.folder()
    }

    /// A plain table of this one that must be there. Its scalars can be overridden by the environment.
    pub(super) fn table(&mut self, key: &str) -> Section<'d> {
        let section = self.optional_table(key);
        if section.table.is_none() && !self.has(key) {
            let problem = format!("the table [{key}] is missing; `cloakroom init` writes a whole example");
            self.mistake(self.line, key, problem);
        }
        section
    }

    /// A plain table of this one that may be missing: then all its settings have their defaults.
    pub(super) fn optional_table(&mut self, key: &str) -> Section<'d> {
        let mut section = self.inner_table(key);
        section.variable_prefix = Some(format!("CLOAKROOM_{}__", key.to_uppercase()));
        section
    }

    /// A table whose keys are names that the user chose, as pairs of name and section. Nothing in it can be overridden.
    pub(super) fn named_tables(&mut self, key: &str) -> Vec<(String, Section<'d>)> {
        let mut outer = self.inner_table(key);
        outer.named = true;
        outer.names().into_iter().map(|name| (name.clone(), outer.inner_table(&name))).collect()
    }

    /// A table whose keys are names that the user chose, all of them with values of one kind.
    pub(super) fn named_values<T>(
        &mut self,
        key: &str,
        parse: impl Fn(Given<'_>) -> Result<T, String>,
    ) -> BTreeMap<String, Located<T>> {
        let mut outer = self.inner_table(key);
        outer.named = true;
        let names = outer.names();
        names.into_iter().filter_map(|name| outer.located(&name, &parse).map(|value| (name, value))).collect()
    }

    /// An array of tables (`[[key]]`) with at least one table.
    pub(super) fn tables(&mut self, key: &str) -> Vec<Section<'d>> {
        let sections = self.optional_tables(key);
        match self.find(key) {
            None => self.mistake(
                self.line,
                key,
                format!("at least one [[{key}]] is needed; `cloakroom init` writes an example"),
            ),
            Some((line, DeValue::Array(items))) if items.is_empty() => {
                self.mistake(line, key, format!("at least one [[{key}]] is needed"));
            }
            Some(_) => {}
        }
        sections
    }

    /// An array of tables (`[[key]]`) that may be missing.
    pub(super) fn optional_tables(&mut self, key: &str) -> Vec<Section<'d>> {
        self.asked.insert(key.to_owned());
        let Some((line, value)) = self.find(key) else { return Vec::new() };
        let written = self.path(key);
        let DeValue::Array(items) = value else {
            self.mistake(line, key, format!("write it as [[{written}]], once for each"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            let line = self.document.line_at(item.span().start);
            match item.get_ref() {
                DeValue::Table(table) => {
                    let mut section = self.child(key, line, Some(table));
                    section.repeated = true;
                    sections.push(section);
                }
                _ => self.mistake(line, key, format!("write it as [[{written}]], once for each")),
            }
        }
        sections
    }

    /// A table in the place of a value, such as `mask = { … }`. Its line is 0 if it is not there.
    pub(super) fn value_table(&mut self, key: &str) -> Section<'d> {
        let mut section = self.inner_table(key);
        if section.table.is_none() {
            section.line = 0;
        }
        section
    }

    /// A setting that must be there. `None` if it is not, or is wrong: that has been noted.
    pub(super) fn required<T>(&mut self, key: &str, parse: impl Fn(Given<'_>) -> Result<T, String>) -> Option<T> {
        self.required_located(key, parse).map(|located| located.value)
    }

    /// As [`Section::required`], with its line.
    pub(super) fn required_located<T>(
        &mut self,
        key: &str,
        parse: impl Fn(Given<'_>) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let found = self.located(key, &parse);
        if found.is_none() && self.table.is_some() && !self.has(key) {
            self.mistake(self.line, key, "is missing; it has no default".to_owned());
        }
        found
    }

    /// A setting with a default. `None` only if it is there and wrong: that has been noted.
    pub(super) fn or<T>(&mut self, key: &str, default: T, parse: impl Fn(Given<'_>) -> Result<T, String>) -> Option<T> {
        self.located_or(key, default, parse).map(|located| located.value)
    }

    /// As [`Section::or`], with its line.
    pub(super) fn located_or<T>(
        &mut self,
        key: &str,
        default: T,
        parse: impl Fn(Given<'_>) -> Result<T, String>,
    ) -> Option<Located<T>> {
        match self.located(key, &parse) {
            None if !self.has(key) => Some(Located { value: default, line: 0 }),
            found => found,
        }
    }

    /// A setting that may be missing, with its line.
    pub(super) fn located<T>(
        &mut self,
        key: &str,
        parse: impl Fn(Given<'_>) -> Result<T, String>,
    ) -> Option<Located<T>> {
        self.asked.insert(key.to_owned());
        if let Some((name, text)) = self.overriding(key) {
            let given = Given::Text(text);
            return match parse(given) {
                Ok(value) => {
                    self.read(key, Origin::Variable(name, given.written()));
                    Some(Located { value, line: 0 })
                }
                Err(problem) => {
                    self.document.note(Place::Variable(name), self.path(key), problem);
                    None
                }
            };
        }
        let Some((line, value)) = self.find(key) else {
            self.read(key, Origin::Default);
            return None;
        };
        let given = Given::Toml(value);
        match parse(given) {
            Ok(value) => {
                self.read(key, Origin::Line(line, given.written()));
                Some(Located { value, line })
            }
            Err(problem) => {
                self.mistake(line, key, problem);
                None
            }
        }
    }

    fn read(&self, key: &str, origin: Origin) {
        let header = if self.repeated { format!("[[{}]]", self.header) } else { format!("[{}]", self.header) };
        let header = (header, self.line);
        let reading = Reading { header, key: key.to_owned(), reference: self.reference_of(key), origin };
        self.document.readings.borrow_mut().push(reading);
    }

    /// Notes that `key`, at `line`, is wrong.
    pub(super) fn mistake(&self, line: u32, key: &str, problem: String) {
        self.document.note(Place::Line(self.document.file.clone(), line), self.path(key), problem);
    }

    /// Ends the reading of this table: what nobody asked for is a mistake.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        for key in table.keys().filter(|key| !self.asked.contains(key.get_ref().as_ref())) {
            let line = self.document.line_at(key.span().start);
            let problem = format!("unknown key; {}", nearest(key.get_ref(), self.asked.iter().map(String::as_str)));
            self.mistake(line, key.get_ref(), problem);
        }
    }

    fn names(&mut self) -> Vec<String> {
        let names: Vec<String> =
            self.table.iter().flat_map(|table| table.keys()).map(|key| key.get_ref().to_string()).collect();
        self.asked.extend(names.iter().cloned());
        names
    }

    fn inner_table(&mut self, key: &str) -> Section<'d> {
        self.asked.insert(key.to_owned());
        match self.find(key) {
            None => self.child(key, self.line, None),
            Some((line, DeValue::Table(table))) => self.child(key, line, Some(table)),
            Some((line, _)) => {
                self.mistake(line, key, "must be a table".to_owned());
                self.child(key, line, None)
            }
        }
    }

    fn child(&self, key: &str, line: u32, table: Option<&'d DeTable<'d>>) -> Section<'d> {
        Section {
            document: self.document,
            name: self.path(key),
            header: if self.header.is_empty() { in_file(key) } else { format!("{}.{}", self.header, in_file(key)) },
            reference: self.reference_of(key),
            named: false,
            repeated: false,
            line,
            table,
            variable_prefix: None,
            asked: BTreeSet::new(),
        }
    }

    /// Whether the key is set, rightly or wrongly.
    pub(super) fn has(&self, key: &str) -> bool {
        self.find(key).is_some() || self.overriding(key).is_some()
    }

    fn find(&self, key: &str) -> Option<(u32, &'d DeValue<'d>)> {
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((self.document.line_at(name.span().start), value.get_ref()))
    }

    fn overriding(&self, key: &str) -> Option<(String, &'d str)> {
        let name = format!("{}{}", self.variable_prefix.as_ref()?, key.to_uppercase());
        self.document.known_variables.borrow_mut().insert(name.clone());
        let text = self.document.overrides.get(&name)?;
        Some((name, text))
    }

    fn reference_of(&self, key: &str) -> String {
        let key = if self.named { "NAME" } else { key };
        if self.reference.is_empty() { key.to_owned() } else { format!("{}.{key}", self.reference) }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// A key as it stands in a file: in quotes unless all its characters may stand without.
pub(super) fn in_file(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !key.is_empty() && key.bytes().all(bare) { key.to_owned() } else { toml::Value::from(key).to_string() }
}

/// Says which of the `known` names is nearest to `unknown`.
fn nearest<'k>(unknown: &str, known: impl Iterator<Item = &'k str>) -> String {
    match known.min_by_key(|name| strsim::osa_distance(unknown, name)) {
        Some(name) => format!("the nearest known one is `{name}`"),
        None => "none is known here".to_owned(),
    }
}
