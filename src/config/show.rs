//! What holds, as TOML, with the origin of each value.

use std::path::Path;

use super::given::{Given, Written};
use super::reader::{self, Document, Origin, Reading};
use super::reference::{self, Fallback, Kind};
use super::{Error, OTHER_VARIABLES, sections};

/// Where the comments begin, if the line is not longer.
const COMMENT_COLUMN: usize = 60;

pub(super) fn show(
    file: &Path,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<String, Error> {
    let document = Document::new(file, text, variables);
    let config = sections::config(&document);
    let folder = std::path::absolute(document.folder()).unwrap_or_else(|_| document.folder().to_owned());
    let shown = in_toml(&document.readings(), file, &folder);
    match document.into_mistakes(&OTHER_VARIABLES) {
        mistakes if mistakes.is_empty() && config.is_some() => Ok(shown),
        mistakes => Err(Error::Mistakes(mistakes)),
    }
}

fn in_toml(readings: &[Reading], file: &Path, folder: &Path) -> String {
    let mut lines = vec![format!("# What holds for {}; the comments say where each value comes from.", file.display())];
    let mut header = None;
    for reading in readings {
        if header != Some(&reading.header) {
            header = Some(&reading.header);
            lines.extend([String::new(), reading.header.0.clone()]);
        }
        let Some(value) = value(reading, folder) else { continue };
        let setting = format!("{} = {value}", reader::in_file(&reading.key));
        let origin = match &reading.origin {
            Origin::Line(line, _) => format!("{}:{line}", file.display()),
            Origin::Variable(name, _) => format!("environment variable {name}"),
            Origin::Default => "default".to_owned(),
        };
        lines.push(format!("{setting:COMMENT_COLUMN$} # {origin}"));
    }
    lines.join("\n") + "\n"
}

/// A value as it would stand in a file anywhere: paths are whole. `None` where nothing is given and there is no default.
fn value(reading: &Reading, folder: &Path) -> Option<String> {
    let key = reference::find(&reading.reference)?;
    let written = match &reading.origin {
        Origin::Line(_, written) | Origin::Variable(_, written) => written.clone(),
        Origin::Default => match key.default {
            Fallback::Value(text) => default(text)?,
            Fallback::Required | Fallback::Absent => return None,
        },
    };
    let whole = |path: &String| folder.join(path).display().to_string();
    let value = match (key.kind, written) {
        (Kind::Path, Written::Text(path)) => toml::Value::from(whole(&path)),
        (Kind::Paths, Written::Texts(paths)) => toml::Value::from(paths.iter().map(whole).collect::<Vec<_>>()),
        // A variable's text has no quotes that would tell a number from a text.
        (Kind::Integer | Kind::Boolean, Written::Text(text)) => return Some(text),
        (Kind::Bytes, Written::Text(text)) if !text.ends_with('B') => return Some(text),
        (_, Written::Plain(text)) => return Some(text),
        (_, Written::Text(text)) => toml::Value::from(text),
        (_, Written::Texts(texts)) => toml::Value::from(texts),
    };
    Some(value.to_string())
}

/// A default of the reference, read as a file is.
fn default(text: &str) -> Option<Written> {
    let line = format!("value = {text}");
    let table = toml::de::DeTable::parse(&line).ok()?;
    Some(Given::Toml(table.get_ref().get("value")?.get_ref()).written())
}
