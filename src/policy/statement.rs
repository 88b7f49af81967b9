//! Finds the statements of a policy file, and in each the entities it names and what it reads of the call.
//!
//! Cedar parses and judges; this only knows as much of its lexical grammar (words, strings, comments, `;`) as it takes
//! to tell one statement from the next, so that a mistake in one does not hide those in the others, and to point at the
//! line of a name.

use std::ops::Range;

use cedar_policy::EntityUid;

/// Brackets within each other at the most. Cedar goes down its own stack for each, and one that overflows ends the process:
/// of a thread's usual 2 MiB, 140 of them are enough.
const NESTED_AT_MOST: usize = 32;
/// Connectives in one statement at the most, since Cedar nests those too: 400 are enough.
const CONNECTIVES_AT_MOST: usize = 150;
/// Accesses to attributes in one statement, calls and sets at the most, likewise: 800 are enough.
const ACCESSES_AT_MOST: usize = 200;

/// One statement of a policy file.
pub(super) struct Statement<'a> {
    /// From its first character to its `;`.
    pub text: &'a str,
    /// Where it begins in the file.
    pub start: usize,
    tokens: Vec<Token>,
}

/// An entity written in a statement.
pub(super) struct Mention {
    pub uid: EntityUid,
    /// Where it stands in the statement.
    pub at: usize,
}

/// What decisions depend on, apart from who asks for what on which scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads {
    pub purpose: bool,
    pub reveal: bool,
    /// The time, or something that this module does not know.
    pub now: bool,
    /// What an access token says, or something that this module does not know.
    pub token: bool,
    /// Something that differs from call to call, or that this module does not know.
    pub changing: bool,
}

#[derive(Clone, PartialEq, Eq)]
struct Token {
    kind: Kind,
    span: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Text,
    Sign,
}

/// The statements of a file. What comes after the last `;` is one too, for Cedar to refuse.
pub(super) fn split(text: &str) -> Vec<Statement<'_>> {
    let mut statements = Vec::new();
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    while let Some(token) = next_token(text, &mut at) {
        let ends = token.kind == Kind::Sign && &text[token.span.clone()] == ";";
        tokens.push(token);
        if ends {
            statements.extend(statement(text, std::mem::take(&mut tokens)));
        }
    }
    statements.extend(statement(text, tokens));
    statements
}

impl Statement<'_> {
    /// Every entity written in it that can be read: `Type::Path::"id"`.
    pub fn mentions(&self) -> Vec<Mention> {
        (0..self.tokens.len()).filter_map(|index| self.mention_ending_at(index)).collect()
    }

    /// Where it becomes larger than can be parsed safely, if it does: see the limits above, which together leave room.
    pub fn too_deep(&self) -> Option<usize> {
        let (mut nested, mut accesses, mut halves) = (0_usize, 0_usize, 0_usize);
        for (index, token) in self.tokens.iter().enumerate() {
            match (self.sign(index), self.word(index)) {
                (Some("(" | "[" | "{"), _) => (nested, accesses) = (nested + 1, accesses + 1),
                (Some(")" | "]" | "}"), _) => nested = nested.saturating_sub(1),
                (Some("."), _) => accesses += 1,
                // `&&` and `||` are two signs.
                (Some("&" | "|"), _) => halves += 1,
                (Some("+" | "-" | "*"), _) | (_, Some("if" | "when" | "unless")) => halves += 2,
                _ => {}
            }
            if nested > NESTED_AT_MOST || accesses > ACCESSES_AT_MOST || halves > 2 * CONNECTIVES_AT_MOST {
                return Some(token.span.start);
            }
        }
        None
    }

    /// Where each of its `when { … }` and `unless { … }` stands, in order.
    pub fn clauses(&self) -> Vec<Range<usize>> {
        let mut clauses = Vec::new();
        let mut depth = 0_usize;
        let mut begun = None;
        for (index, token) in self.tokens.iter().enumerate() {
            match self.sign(index) {
                Some("(" | "[" | "{") => depth += 1,
                Some(")" | "]" | "}") => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        clauses.extend(begun.take().map(|start| start..token.span.end));
                    }
                }
                _ if depth == 0
                    && matches!(self.word(index), Some("when" | "unless"))
                    && self.sign(index + 1) == Some("{") =>
                {
                    begun = Some(token.span.start);
                }
                _ => {}
            }
        }
        clauses
    }

    /// What it reads of the call. Anything but a plain `context.purpose` or `context.reveal` counts as changing.
    pub fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        for index in (0..self.tokens.len()).filter(|index| self.word(*index) == Some("context")) {
            let attribute = if self.sign(index + 1) == Some(".") {
                self.word(index + 2)
            } else if self.sign(index + 1) == Some("[") && self.sign(index + 3) == Some("]") {
                self.quoted(index + 2)
            } else if self.word(index + 1) == Some("has") {
                // All but the token are always there; asking for them is odd and counts as unknown below.
                self.word(index + 2).or_else(|| self.quoted(index + 2)).filter(|attribute| *attribute == "token")
            } else {
                None
            };
            match attribute {
                Some("purpose") => reads.purpose = true,
                Some("reveal") => reads.reveal = true,
                Some("requested") => reads.changing = true,
                Some("now") => (reads.now, reads.changing) = (true, true),
                Some("token") => (reads.token, reads.changing) = (true, true),
                _ => (reads.now, reads.token, reads.changing) = (true, true, true),
            }
        }
        reads
    }

    fn mention_ending_at(&self, index: usize) -> Option<Mention> {
        let text = self.of(index, Kind::Text)?;
        let mut first = index;
        while first >= 2 && self.sign(first - 1) == Some("::") && self.word(first - 2).is_some() {
            first -= 2;
        }
        if first == index {
            return None;
        }
        // Cedar's own parser wants no blanks or comments between the parts, which a policy may have.
        let path: Vec<_> = (first..index).step_by(2).filter_map(|part| self.word(part)).collect();
        let uid = format!("{}::{text}", path.join("::")).parse().ok()?;
        Some(Mention { uid, at: self.tokens[first].span.start })
    }

    fn word(&self, index: usize) -> Option<&str> {
        self.of(index, Kind::Word)
    }

    fn sign(&self, index: usize) -> Option<&str> {
        self.of(index, Kind::Sign)
    }

    fn quoted(&self, index: usize) -> Option<&str> {
        self.of(index, Kind::Text).map(|text| text.trim_matches('"'))
    }

    fn of(&self, index: usize, kind: Kind) -> Option<&str> {
        self.tokens.get(index).filter(|token| token.kind == kind).map(|token| &self.text[token.span.clone()])
    }
}

impl Reads {
    /// What either reads.
    pub fn and(self, other: Self) -> Self {
        Self {
            purpose: self.purpose || other.purpose,
            reveal: self.reveal || other.reveal,
            now: self.now || other.now,
            token: self.token || other.token,
            changing: self.changing || other.changing,
        }
    }
}

fn statement(text: &str, mut tokens: Vec<Token>) -> Option<Statement<'_>> {
    let (start, end) = (tokens.first()?.span.start, tokens.last()?.span.end);
    for token in &mut tokens {
        token.span = token.span.start - start..token.span.end - start;
    }
    Some(Statement { text: &text[start..end], start, tokens })
}

/// The next token at or after `at`, which moves behind it.
fn next_token(text: &str, at: &mut usize) -> Option<Token> {
    loop {
        let rest = &text[*at..];
        let first = rest.chars().next()?;
        if first.is_whitespace() {
            *at += first.len_utf8();
        } else if rest.starts_with("//") {
            *at += rest.find(['\n', '\r']).unwrap_or(rest.len());
        } else {
            let (kind, length) = measure(rest, first);
            *at += length;
            return Some(Token { kind, span: *at - length..*at });
        }
    }
}

fn measure(rest: &str, first: char) -> (Kind, usize) {
    let is_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
    match first {
        '"' => (Kind::Text, text_length(rest)),
        _ if is_word(first) => (Kind::Word, rest.find(|c| !is_word(c)).unwrap_or(rest.len())),
        _ if rest.starts_with("::") => (Kind::Sign, 2),
        _ => (Kind::Sign, first.len_utf8()),
    }
}

/// The length of the string at the start of `rest`, quotes included; an open one goes to the end.
fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_outside_strings_and_comments() {
        let text = "// a; b\n@id(\"x;\\\"y\") permit (a); // tail;\nforbid\n(b);\n\n  open \"end;";
        let statements = split(text);
        let texts: Vec<_> = statements.iter().map(|s| s.text).collect();
        assert_eq!(texts, ["@id(\"x;\\\"y\") permit (a);", "forbid\n(b);", "open \"end;"]);
        assert!(statements.iter().all(|s| text[s.start..].starts_with(s.text)));
        assert!(split("  // nothing\r// at all").is_empty());
    }

    #[test]
    fn entities_are_found_with_blanks_and_comments_inside() {
        let statement =
            &split("permit (principal in A::B::\"x\", action, resource == A :: // why\n C::\"y\\\"z\");")[0];
        let found: Vec<_> = statement.mentions().iter().map(|m| (m.at, m.uid.id().unescaped().to_string())).collect();
        assert_eq!(found, [(21, "x".into()), (52, "y\"z".into())]);
        assert!(split("@id(\"x\") \"free\";")[0].mentions().is_empty());
    }

    /// What fits, and where it ends: each limit by itself, to the last one that is allowed.
    #[test]
    fn depth_and_length_are_counted_to_their_limits_i_01() {
        let too_deep = |text: &str| split(text)[0].too_deep();
        let ends_at = |piece: &str, at_most: usize| {
            assert_eq!(too_deep(&piece.repeat(at_most)), None, "{piece}");
            assert_eq!(too_deep(&piece.repeat(at_most + 1)), Some(piece.len() * at_most), "{piece}");
        };
        for open in ["(", "[", "{"] {
            ends_at(open, NESTED_AT_MOST);
        }
        // What is closed is no nesting any more, but each pair may be a call on what stands before.
        for piece in ["()", "[]", "{}", ".a"] {
            ends_at(piece, ACCESSES_AT_MOST);
        }
        for piece in ["&&", "||", "+", "-", "* ", "if ", "when ", "unless "] {
            ends_at(piece, CONNECTIVES_AT_MOST);
        }
        // Different ones add up.
        let mixed = format!("{}{}", "&&".repeat(CONNECTIVES_AT_MOST - 1), "+".repeat(2));
        assert_eq!(too_deep(&mixed), Some(mixed.len() - 1));
        assert_eq!(too_deep(&mixed[..mixed.len() - 1]), None);
    }

    #[test]
    fn what_is_read_is_never_understated() {
        let reads = |text: &str| split(text)[0].reads();
        let purpose = Reads { purpose: true, ..Reads::default() };
        assert_eq!(reads("when { context.purpose != \"context\" }"), purpose);
        assert_eq!(reads("when { context [ \"purpose\" ] != \"\" }"), purpose);
        assert_eq!(reads("when { context . reveal == \"full\" }"), Reads { reveal: true, ..Reads::default() });
        assert_eq!(reads("permit (principal, action, resource);"), Reads::default());
        // Wherever it stands.
        assert_eq!(reads("context[\"purpose\"] != \"\""), purpose);
        assert_eq!(reads("when { a && context[\"purpose\"] != \"\" }"), purpose);
        assert!(!reads("context has \"token\"").now && !reads("when { a && context has \"token\" }").now);
        for changing in ["context.now", "context.requested > 1", "context has token", "context[\"now\"]", "f(context)"]
        {
            assert!(reads(changing).changing, "{changing}");
        }
        for now in ["context.now", "context[\"now\"]", "f(context)", "context has now", "context == context"] {
            assert!(reads(now).now, "{now}");
        }
        for token in ["context has token", "context has \"token\"", "context.token.actor", "f(context)"] {
            assert!(reads(token).token, "{token}");
        }
        assert!(!reads("context has token && context.token.actor == \"x\" && context.requested < 3").now);
        // Whatever is not exactly the attribute of a call, with a dot or in brackets, is unknown.
        for unknown in [
            "context[purpose",
            r#"context["purpose" + "#,
            "context",
            r#"context ; "purpose" ]"#,
            "context has purpose",
            r#"[context, "purpose"]"#,
            "context.purposes",
        ] {
            let all = Reads { now: true, token: true, changing: true, ..Reads::default() };
            assert_eq!(reads(unknown), all, "{unknown}");
        }
        assert!(!reads("context.now < datetime(\"2027-01-01\") && context.requested < 3").token);
    }

    #[test]
    fn clauses_are_found_where_they_stand() {
        let text = "@when(\"unless {\") permit (principal, action, resource)\n\
                    when { [{a: \"}\"}].contains({a: \"when {\"}) } // when {\n unless{ context.purpose == \"\" };";
        let statement = &split(text)[0];
        let found: Vec<_> = statement.clauses().into_iter().map(|span| &statement.text[span]).collect();
        let expected = ["when { [{a: \"}\"}].contains({a: \"when {\"}) }", "unless{ context.purpose == \"\" }"];
        assert_eq!(found, expected);
        assert!(split("permit (principal, action, resource);")[0].clauses().is_empty());
        // Neither the word without its braces, nor inside of something else, nor another word with braces.
        for none in ["when (context);", "permit (when { a });", "else { a };", "when; { a };"] {
            assert!(split(none).iter().all(|statement| statement.clauses().is_empty()), "{none}");
        }
    }
}
