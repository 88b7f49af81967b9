//! Scope names, and patterns for them.

use std::fmt;
use std::sync::Arc;

/// The longest name of a scope, in bytes.
const MAX_BYTES: usize = 255;
/// The most segments that a name has.
const MAX_SEGMENTS: usize = 8;
/// The longest segment, in bytes.
const MAX_SEGMENT_BYTES: usize = 63;
/// Stands for exactly one segment in a pattern.
const WILDCARD: &str = "*";

/// The name of a scope: up to eight segments `[a-z0-9][a-z0-9_-]{0,62}`, joined by `/`.
///
/// There is one way to write each name, so comparing text compares scopes. Copies are cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Arc<str>);

/// A name in which `*` stands for exactly one segment: `*/ssn` matches `acme/ssn`, neither `ssn` nor `acme/eu/ssn`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

/// What is wrong with a scope's name or pattern. The text itself is not repeated: whoever asked knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing between two slashes, or nothing at all.
    #[error("a scope's name has an empty segment; write it without leading, trailing or doubled `/`")]
    EmptySegment,
    /// Longer than a name may be.
    #[error("a scope's name is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// More segments than a name may have.
    #[error("a scope's name has more than {MAX_SEGMENTS} segments")]
    TooDeep,
    /// A segment longer than it may be.
    #[error("segment {0} of a scope's name is longer than {MAX_SEGMENT_BYTES} bytes")]
    SegmentTooLong(usize),
    /// A segment with a character that names do not have.
    #[error(
        "segment {0} of a scope's name has a character that does not belong there; \
         a segment begins with a-z or 0-9 and goes on with a-z, 0-9, `_` or `-`"
    )]
    BadSegment(usize),
    /// `*` beside other characters.
    #[error("segment {0} of a scope's pattern mixes `*` with other characters; `*` stands for one whole segment")]
    PartialWildcard(usize),
}

impl Path {
    /// A scope's name, if the text is one.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        check(text, false)?;
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments, from the root.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The names that this one lies under, from the root: `a` and `a/b` for `a/b/c`.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

impl Pattern {
    /// A pattern, if the text is one. A name is a pattern that matches itself alone.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        check(text, true)?;
        Ok(Self(text.into()))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one name that it matches, if it has no wildcard.
    pub fn exact(&self) -> Option<Path> {
        self.segments().all(|s| s != WILDCARD).then(|| Path(self.0.clone()))
    }

    /// Whether `path` is one of those it stands for.
    pub fn matches(&self, path: &Path) -> bool {
        self.depth() == path.segments().count() && self.begins_like(path)
    }

    /// Whether something that it stands for could lie under `path`.
    pub fn reaches_below(&self, path: &Path) -> bool {
        self.depth() > path.segments().count() && self.begins_like(path)
    }

    /// How many segments it names outright. Of two patterns that match, the one that names more is the more specific.
    pub fn specificity(&self) -> usize {
        self.segments().filter(|s| *s != WILDCARD).count()
    }

    /// Whether some name is matched by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.depth() == other.depth()
            && self.segments().zip(other.segments()).all(|(a, b)| a == b || a == WILDCARD || b == WILDCARD)
    }

    fn begins_like(&self, path: &Path) -> bool {
        self.segments().zip(path.segments()).all(|(mine, its)| mine == WILDCARD || mine == its)
    }

    fn depth(&self) -> usize {
        self.segments().count()
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(text: &str, wildcards: bool) -> Result<(), PathError> {
    if text.len() > MAX_BYTES {
        return Err(PathError::TooLong);
    }
    for (index, segment) in text.split('/').enumerate() {
        if index == MAX_SEGMENTS {
            return Err(PathError::TooDeep);
        }
        if !(wildcards && segment == WILDCARD) {
            check_segment(segment, index + 1, wildcards)?;
        }
    }
    Ok(())
}

fn check_segment(segment: &str, number: usize, wildcards: bool) -> Result<(), PathError> {
    let bytes = segment.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match bytes {
        [] => Err(PathError::EmptySegment),
        _ if wildcards && bytes.contains(&b'*') => Err(PathError::PartialWildcard(number)),
        [first, rest @ ..] if plain(first) && rest.iter().all(|b| plain(b) || matches!(b, b'_' | b'-')) => {
            if bytes.len() > MAX_SEGMENT_BYTES { Err(PathError::SegmentTooLong(number)) } else { Ok(()) }
        }
        _ => Err(PathError::BadSegment(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_as_it_was_written() {
        for name in ["pan", "acme/ssn", "a/b/c"] {
            let path = Path::parse(name).unwrap();
            assert_eq!((path.as_str(), path.to_string().as_str()), (name, name));
            assert_eq!(Path::parse(path.as_str()), Ok(path));
        }
    }

    #[test]
    fn names_have_one_spelling() {
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63)].join("/");
        assert_eq!(longest.len(), MAX_BYTES);
        for good in ["pan", "acme/ssn", "0", "a-b_c/9", &"a/".repeat(7).add_one(), &"a".repeat(63), &longest] {
            assert!(Path::parse(good).is_ok(), "{good}");
        }
        let bad = [
            ("", PathError::EmptySegment),
            ("/pan", PathError::EmptySegment),
            ("pan/", PathError::EmptySegment),
            ("a//b", PathError::EmptySegment),
            ("Pan", PathError::BadSegment(1)),
            ("a/_b", PathError::BadSegment(2)),
            ("a/..", PathError::BadSegment(2)),
            ("p\u{e4}n", PathError::BadSegment(1)),
            ("pan ", PathError::BadSegment(1)),
            ("*/pan", PathError::BadSegment(1)),
            ("a/b/c/d/e/f/g/h/i", PathError::TooDeep),
            (&longest.add_one(), PathError::TooLong),
            (&"a".repeat(64), PathError::SegmentTooLong(1)),
            (&"a".repeat(256), PathError::TooLong),
        ];
        for (text, error) in bad {
            assert_eq!(Path::parse(text), Err(error), "{text}");
        }
    }

    trait AddOne {
        fn add_one(&self) -> String;
    }

    impl AddOne for String {
        fn add_one(&self) -> String {
            format!("{self}z")
        }
    }

    #[test]
    fn a_wildcard_is_one_whole_segment() {
        let pattern = Pattern::parse("*/ssn").unwrap();
        for (path, matches) in [("acme/ssn", true), ("ssn", false), ("acme/eu/ssn", false), ("acme/ssn2", false)] {
            assert_eq!(pattern.matches(&Path::parse(path).unwrap()), matches, "{path}");
        }
        assert_eq!(Pattern::parse("ac*/ssn"), Err(PathError::PartialWildcard(1)));
        assert_eq!(Pattern::parse("**"), Err(PathError::PartialWildcard(1)));
        assert_eq!(pattern.exact(), None);
        assert_eq!(Pattern::parse("pan").unwrap().exact(), Some(Path::parse("pan").unwrap()));
    }

    #[test]
    fn ancestors_end_at_segments() {
        let path = Path::parse("acme/eu/ssn").unwrap();
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["acme", "acme/eu"]);
        assert_eq!(Path::parse("pan").unwrap().ancestors().count(), 0);
        let pattern = Pattern::parse("*/eu/ssn").unwrap();
        for (above, reaches) in [("acme", true), ("acme/eu", true), ("acme/us", false), ("acme/eu/ssn", false)] {
            assert_eq!(pattern.reaches_below(&Path::parse(above).unwrap()), reaches, "{above}");
        }
    }

    #[test]
    fn overlap_is_seen_across_wildcards() {
        let overlap = |a: &str, b: &str| Pattern::parse(a).unwrap().overlaps(&Pattern::parse(b).unwrap());
        assert!(overlap("acme/*", "*/ssn"));
        assert!(overlap("*/*", "acme/ssn"));
        assert!(!overlap("acme/*", "other/*"));
        assert!(!overlap("*", "*/*"));
    }
}
