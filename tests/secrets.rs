//! Types that hold a secret offer no way to print, copy or compare it, and nothing that a secret was taken out of is put into a
//! text.
//!
//! `Secret` itself offers nothing (`src/secret.rs` holds that against the compiler), so what holds one can't derive it either.
//! What is left is written by hand: that is looked for here, in the source as the compiler parses it. The rules are themselves
//! checked with planted violations.

#![allow(missing_docs, reason = "tests say in their names what they show")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![allow(clippy::print_stdout, reason = "tests say how much they looked at")]

use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// What holds a secret in the first place. `Secret<T>` and its names, what wipes itself, and the key that signs.
const SECRETS: [&str; 5] = ["Secret", "SecretBytes", "SecretKey", "Zeroizing", "SigningKey"];
/// Ways to say what is inside.
const SAYS: [&str; 9] =
    ["Debug", "Display", "Serialize", "LowerHex", "UpperHex", "Binary", "Octal", "ToString", "Value"];
/// Ways to have it twice, or to learn of it bit by bit.
const COPIES: [&str; 8] = ["Clone", "Copy", "ToOwned", "PartialEq", "Eq", "PartialOrd", "Ord", "Hash"];
/// What is behind one of these is not copied with it.
const SHARES: [&str; 4] = ["Arc", "Rc", "Weak", "ArcSwap"];
/// Macros that make a text, a line of the log or a label of it.
const MAKES_TEXT: [&str; 30] = [
    "format",
    "format_args",
    "print",
    "println",
    "eprint",
    "eprintln",
    "write",
    "writeln",
    "panic",
    "unreachable",
    "assert",
    "assert_eq",
    "assert_ne",
    "debug_assert",
    "trace",
    "debug",
    "info",
    "warn",
    "error",
    "event",
    "span",
    "info_span",
    "debug_span",
    "error_span",
    "anyhow",
    "bail",
    "ensure",
    "counter",
    "gauge",
    "histogram",
];
/// What takes a secret out, and the fields of the wire's messages that hold one (those for which build.rs leaves out `Debug`).
const TAKES_OUT: [&str; 3] = ["expose", "expose_mut", "into_exposed"];
const FIELDS: [&str; 5] = ["value", "token", "tokens", "request_id", "nonce"];
/// Where messages of the wire are at hand.
const HANDLES_MESSAGES: &str = "grpc";

/// What is so on purpose: in which file, what, and why.
const ON_PURPOSE: [(&str, &str, &str); 2] = [
    ("keys/provider.rs", "`expose` in `format!`", "the text of a key file, made in a buffer that wipes itself"),
    ("cli/tokens.rs", "`expose` in `writeln!`", "the client prints the values that it was asked for"),
];

#[derive(Debug)]
struct Kind {
    file: String,
    line: usize,
    /// Names of types in its fields; and of those that are not behind something shared.
    holds: BTreeSet<String>,
    owns: BTreeSet<String>,
    offers: BTreeSet<String>,
}

/// What is in the source.
#[derive(Default)]
struct Source {
    /// By name. Types of one name are told apart by their file.
    kinds: BTreeMap<String, Vec<Kind>>,
    /// File, line, trait, name of the type.
    implemented: Vec<(String, usize, String, String)>,
    texts: Vec<(String, String)>,
    file: String,
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition == "test" || condition.starts_with("all (test")
        }
        meta => meta.path().is_ident("test"),
    })
}

/// The names in a type; without what is behind something shared, if that is wanted.
fn names(kind: &syn::Type, also_shared: bool, found: &mut BTreeSet<String>) {
    struct Names<'a>(bool, &'a mut BTreeSet<String>);
    impl<'ast> Visit<'ast> for Names<'_> {
        fn visit_path_segment(&mut self, segment: &'ast syn::PathSegment) {
            let name = segment.ident.to_string();
            // What is asked for and handed out by a function is not held by it.
            if matches!(name.as_str(), "Fn" | "FnMut" | "FnOnce" | "PhantomData")
                || !self.0 && SHARES.contains(&name.as_str())
            {
                return;
            }
            self.1.insert(name);
            visit::visit_path_segment(self, segment);
        }
        fn visit_type_reference(&mut self, reference: &'ast syn::TypeReference) {
            if self.0 {
                visit::visit_type_reference(self, reference);
            }
        }
        fn visit_type_bare_fn(&mut self, _: &'ast syn::TypeBareFn) {}
    }
    Names(also_shared, found).visit_type(kind);
}

impl Source {
    fn add_kind(&mut self, name: &syn::Ident, attributes: &[syn::Attribute], fields: Vec<&syn::Field>) {
        let (mut holds, mut owns, mut offers) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for field in fields {
            names(&field.ty, true, &mut holds);
            names(&field.ty, false, &mut owns);
        }
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("derive")) {
            let _ = attribute.parse_nested_meta(|derived| {
                offers.extend(derived.path.segments.last().map(|last| last.ident.to_string()));
                Ok(())
            });
        }
        let kind = Kind { file: self.file.clone(), line: name.span().start().line, holds, owns, offers };
        self.kinds.entry(name.to_string()).or_default().push(kind);
    }

    /// What a macro puts into a text and should not.
    fn look_into(&mut self, name: &str, tokens: TokenStream, line: usize) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let handles_messages = module(&self.file) == HANDLES_MESSAGES;
        for (place, token) in tokens.iter().enumerate() {
            let is_after_dot =
                place > 0 && matches!(&tokens[place - 1], TokenTree::Punct(punct) if punct.as_char() == '.');
            // Lengths and numbers of them are no secret.
            let is_counted =
                matches!(tokens.get(place + 2), Some(TokenTree::Ident(ident)) if ident == "len" || ident == "is_empty");
            match token {
                TokenTree::Ident(ident) if TAKES_OUT.contains(&ident.to_string().as_str()) => {
                    self.texts.push((format!("{}:{line}", self.file), format!("`{ident}` in `{name}!`")));
                }
                TokenTree::Ident(ident)
                    if handles_messages
                        && is_after_dot
                        && !is_counted
                        && FIELDS.contains(&ident.to_string().as_str()) =>
                {
                    self.texts.push((format!("{}:{line}", self.file), format!("the field `{ident}` in `{name}!`")));
                }
                TokenTree::Literal(literal) if handles_messages => {
                    let text = literal.to_string();
                    for field in FIELDS.iter().filter(|field| {
                        [format!("{{{field}}}"), format!("{{{field}:")].iter().any(|part| text.contains(part))
                    }) {
                        self.texts.push((format!("{}:{line}", self.file), format!("`{{{field}}}` in `{name}!`")));
                    }
                }
                TokenTree::Group(group) => self.look_into(name, group.stream(), line),
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Source {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.add_kind(&item.ident, &item.attrs, item.fields.iter().collect());
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.add_kind(&item.ident, &item.attrs, item.variants.iter().flat_map(|variant| &variant.fields).collect());
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let (Some((_, of, _)), syn::Type::Path(kind)) = (&item.trait_, &*item.self_ty)
            && let (Some(of), Some(kind)) = (of.segments.last(), kind.path.segments.last())
        {
            let line = item.span().start().line;
            self.implemented.push((self.file.clone(), line, of.ident.to_string(), kind.ident.to_string()));
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        let name = invocation.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default();
        if MAKES_TEXT.contains(&name.as_str()) {
            self.look_into(&name, invocation.tokens.clone(), invocation.span().start().line);
        }
        visit::visit_macro(self, invocation);
    }
}

/// The module of the crate's root that a file belongs to.
fn module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or_default()
}

/// The place of a kind in the source.
type Place = (String, usize);

/// The kinds that hold a secret, or what holds one.
fn holders(source: &Source, of: impl Fn(&Kind) -> &BTreeSet<String>) -> BTreeSet<Place> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for (name, kinds) in &source.kinds {
            for (number, kind) in kinds.iter().enumerate() {
                let is_secret = |held: &String| {
                    SECRETS.contains(&held.as_str())
                        || source.kinds.get(held).is_some_and(|others| {
                            // Of several of that name the one in the same file is meant, or in the same module.
                            let here = |other: &Kind| other.file == kind.file;
                            let near = |other: &Kind| module(&other.file) == module(&kind.file);
                            let (any_here, any_near) = (others.iter().any(here), others.iter().any(near));
                            let mut meant = (0..others.len()).filter(|other| {
                                let other = &others[*other];
                                if any_here { here(other) } else { !any_near || near(other) }
                            });
                            meant.any(|other| found.contains(&(held.clone(), other)))
                        })
                };
                if SECRETS.contains(&name.as_str()) || of(kind).iter().any(is_secret) {
                    found.insert((name.clone(), number));
                }
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// How many types hold a secret, and what should not be.
fn check(files: &[(String, String)]) -> (usize, Vec<(String, String)>) {
    let mut source = Source::default();
    for (file, text) in files {
        source.file.clone_from(file);
        source.visit_file(&syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}")));
    }
    let says = holders(&source, |kind| &kind.holds);
    let copies = holders(&source, |kind| &kind.owns);
    let mut found = Vec::new();
    for (holders, traits, what) in [(&says, &SAYS[..], "prints"), (&copies, &COPIES[..], "copies or compares")] {
        for (name, number) in holders {
            let kind = &source.kinds[name][*number];
            let others = &source.kinds[name];
            let derived = kind.offers.iter().map(|of| (kind.file.clone(), kind.line, of.clone()));
            let written = source.implemented.iter().filter(|(file, _, _, of)| {
                of == name && (*file == kind.file || others.iter().all(|other| other.file != *file))
            });
            let written = written.map(|(file, line, of, _)| (file.clone(), *line, of.clone()));
            for (file, line, of) in derived.chain(written).filter(|(.., of)| traits.contains(&of.as_str())) {
                found.push((format!("{file}:{line}"), format!("`{name}` holds a secret, and `{of}` {what} it")));
            }
        }
    }
    found.extend(source.texts);
    (says.len(), found)
}

fn source_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn nothing_prints_copies_or_compares_a_secret_p_08() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&root, &mut files);
    files.sort();
    let name = |file: &Path| file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    // Tests may print what they made up.
    let is_for_tests = |name: &str| {
        let words =
            ["tests", "tests.rs", "fixture.rs", "forge.rs", "sample.rs", "suite.rs", "fuzz", "fuzz.rs", "fuzzed.rs"];
        name.split('/').any(|part| words.contains(&part))
    };
    let texts: Vec<(String, String)> = files
        .iter()
        .map(|file| (name(file), std::fs::read_to_string(file).unwrap()))
        .filter(|(name, _)| !is_for_tests(name))
        .collect();
    let (holders, found) = check(&texts);
    assert!(holders > 40, "only {holders} types hold a secret: is this the right folder?");
    let is_on_purpose = |(place, what): &(String, String), (file, purpose, _): &(&str, &str, &str)| {
        place.split(':').next() == Some(*file) && what == purpose
    };
    for purpose in &ON_PURPOSE {
        assert!(found.iter().any(|one| is_on_purpose(one, purpose)), "{purpose:?} is not there any more");
    }
    let found: Vec<String> = found
        .iter()
        .filter(|one| !ON_PURPOSE.iter().any(|purpose| is_on_purpose(one, purpose)))
        .map(|(place, what)| format!("src/{place}: {what}"))
        .collect();
    println!("{holders} types in {} files hold a secret; {} exceptions", texts.len(), ON_PURPOSE.len());
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn what_prints_copies_or_compares_a_secret_is_found_p_08() {
    let found = |text: &str| check(&[("grpc/token.rs".to_owned(), text.to_owned())]).1.len();
    for (what, text) in [
        ("derived", "#[derive(Debug)] struct A(SecretBytes);"),
        ("derived by its path", "#[derive(serde::Serialize)] struct A { b: crate::secret::SecretKey }"),
        ("by hand", "struct A { key: Secret<[u8; 32]> } impl fmt::Debug for A { }"),
        ("of a generic type", "struct A<T>(Secret<T>); impl<T> std::fmt::Display for A<T> { }"),
        ("in a list", "#[derive(Debug)] struct A { b: Vec<Option<SecretBytes>> }"),
        ("in a variant", "enum A { B, C { d: Zeroizing<Vec<u8>> } } impl LowerHex for A { }"),
        ("through another type", "struct A(B); struct B(C); struct C(SecretKey); impl Debug for A { }"),
        ("behind something shared", "struct A(Arc<SecretKey>); impl Debug for A { }"),
        ("behind a reference", "struct A<'a>(&'a SecretKey); impl Debug for A<'_> { }"),
        ("a copy", "struct A(Box<SecretKey>); impl Clone for A { }"),
        ("a comparison", "struct A(SigningKey); impl PartialEq for A { }"),
        ("the signing key", "#[derive(Hash)] struct A { k: ed25519_dalek::SigningKey }"),
        ("taken out into a text", "fn f() { let _ = format!(\"{:?}\", secret.expose()); }"),
        ("taken out in an argument of an argument", "fn f() { tracing::info!(x = ?g(h(secret.expose())), \"y\"); }"),
        ("taken out in a panic", "fn f() { panic!(\"{}\", hex(text.into_exposed())); }"),
        ("a field of a message", "fn f() { tracing::debug!(token = %request.token, \"y\"); }"),
        ("a field in a label", "fn f() { metrics::counter!(\"x\", \"y\" => item.value.clone()); }"),
        ("a name in a text", "fn f() { let _ = format!(\"bad {token}\"); }"),
        ("a name in a text, in full", "fn f() { warn!(\"bad {value:?}\"); }"),
    ] {
        assert_eq!(found(text), 1, "{what}: {text}");
    }
    for (what, text) in [
        ("no secret", "#[derive(Debug, Clone)] struct A(Vec<u8>);"),
        ("shared, not copied", "#[derive(Clone)] struct A(Arc<SecretKey>);"),
        ("a function that would take one", "#[derive(Clone)] struct A(fn(SecretKey));"),
        ("in a test", "#[cfg(test)] mod tests { #[derive(Debug)] struct A(SecretKey); }"),
        ("a harmless trait", "struct A(SecretKey); impl Drop for A { }"),
        ("a length", "fn f() { info!(\"{}\", request.tokens.len()); }"),
        ("another field", "fn f() { info!(\"{}\", request.scope); }"),
    ] {
        assert_eq!(found(text), 0, "{what}: {text}");
    }
    // Of two types of one name, the one that is meant.
    let files = [
        ("a.rs", "struct Key(SecretKey); struct Holder(Key); impl Debug for Holder { }"),
        ("b.rs", "#[derive(Debug)] struct Key(u8); #[derive(Debug)] struct Other(Key);"),
    ];
    let files = files.map(|(file, text)| (file.to_owned(), text.to_owned()));
    let found = check(&files).1;
    assert!(found.len() == 1 && found[0].0.starts_with("a.rs:"), "{found:?}");
}
