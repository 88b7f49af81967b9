//! What is wrong with a rulebook, where, and what to do.

use std::fmt;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where it stands.
    pub place: Place,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// Where a mistake stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A setting, as a dotted path: `roles.payments[0]`.
    Setting(String),
    /// The same, where the file and the line that it comes from are known.
    Configured {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The setting.
        key: String,
    },
    /// A file or directory as a whole.
    File(String),
    /// A line and column of a file, both from 1; columns count characters.
    Line {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
}

/// Every mistake in a rulebook, in the order of places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulebookErrors(Vec<Mistake>);

/// Something that is allowed but probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// There is no policy, so nobody may do anything.
    NothingAllowed,
    /// A file has comments but no policy.
    NoPolicyIn {
        /// The file.
        file: String,
    },
}

impl RulebookErrors {
    /// All of them; at least one.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.0
    }

    /// Nothing to complain about, or all complaints once each and in order.
    pub fn check(mut mistakes: Vec<Mistake>) -> Result<(), Self> {
        mistakes.sort();
        mistakes.dedup();
        if mistakes.is_empty() { Ok(()) } else { Err(Self(mistakes)) }
    }
}

impl Place {
    /// The file, where it is known.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Setting(_) => None,
            Self::File(file) | Self::Configured { file, .. } | Self::Line { file, .. } => Some(file),
        }
    }

    /// The line, where it is known.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Setting(_) | Self::File(_) => None,
            Self::Configured { line, .. } | Self::Line { line, .. } => Some(*line),
        }
    }

    /// The same place with its line, if it is a setting that `line_of` knows.
    #[must_use]
    pub fn in_file(self, file: &str, line_of: impl Fn(&str) -> Option<usize>) -> Self {
        match self {
            Self::Setting(key) => match line_of(&key) {
                Some(line) => Self::Configured { file: file.into(), line, key },
                None => Self::Setting(key),
            },
            place => place,
        }
    }

    /// The line and column of byte `offset` of `text`.
    pub(super) fn within(file: &str, text: &str, offset: usize) -> Self {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self::Line {
            file: file.into(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl std::error::Error for RulebookErrors {}

impl fmt::Display for RulebookErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "one mistake in the rulebook:")?,
            n => write!(f, "{n} mistakes in the rulebook:")?,
        }
        self.0.iter().try_for_each(|mistake| write!(f, "\n{mistake}"))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n    {}", self.hint) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(key) => f.write_str(key),
            Self::File(file) => f.write_str(file),
            Self::Configured { file, line, key } => write!(f, "{file}:{line}: {key}"),
            Self::Line { file, line, column } => write!(f, "{file}:{line}:{column}"),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingAllowed => write!(f, "there is no policy: nobody may do anything"),
            Self::NoPolicyIn { file } => write!(f, "{file} has no policy, only comments"),
        }
    }
}

/// "did you mean", or what there is to choose from.
pub(super) fn choose<'a>(wrong: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    if let Some(word) = nearest(wrong, known.clone()) {
        return format!("did you mean `{word}`?");
    }
    let shown: Vec<_> = known.clone().take(8).map(|word| format!("`{word}`")).collect();
    match known.count() {
        0 => "there are none yet".into(),
        all if all > shown.len() => format!("known: {}, …", shown.join(", ")),
        _ => format!("known: {}", shown.join(", ")),
    }
}

/// The word that `wrong` is a likely slip for.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, word) = known.map(|word| (distance(wrong, word), word)).min()?;
    (distance <= wrong.chars().count().div_ceil(3)).then_some(word)
}

/// How many characters to insert, drop, change or swap with their neighbour to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
                let swapped = i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
                let swap = if swapped { rows[i - 2][j - 2] + 1 } else { usize::MAX };
                change.min(swap).min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1)
            };
        }
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_offered_if_it_is_near() {
        let known = ["auditor", "gateway", "payments"];
        assert_eq!(choose("paymnets", known.into_iter()), "did you mean `payments`?");
        assert_eq!(choose("gatewy", known.into_iter()), "did you mean `gateway`?");
        assert_eq!(choose("billing", known.into_iter()), "known: `auditor`, `gateway`, `payments`");
        assert_eq!(choose("billing", [].into_iter()), "there are none yet");
    }

    #[test]
    fn places_count_from_one_in_characters() {
        let place = |offset| Place::within("a.cedar", "one\n  \u{e4}\u{f6} two\n", offset).to_string();
        assert_eq!(place(0), "a.cedar:1:1");
        assert_eq!(place(6), "a.cedar:2:3");
        assert_eq!(place(11), "a.cedar:2:6");
        assert_eq!(place(7), "a.cedar:2:3");
        assert_eq!(place(999), "a.cedar:3:1");
    }
}
