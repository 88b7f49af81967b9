//! Reads the source and checks the rules of the house that the compiler does not: who imports whom, how long things are, and
//! that no secret is compared in a time that tells of it. Each message says what to do.
//!
//! The source is parsed as the compiler parses it, so a path is found wherever it stands: in a `use`, inline, behind
//! `super::`, inside a nested module, inside a macro's arguments. The rules are themselves checked with planted violations.

use std::fmt;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// The modules in reading order. A module imports only from modules that stand earlier.
const ORDER: [&str; 34] = [
    "secret",
    "clock",
    "sync",
    "file",
    "telemetry",
    "merkle",
    "crypto",
    "token",
    "scope",
    "event",
    "verify",
    "caller",
    "policy",
    "limits",
    "store",
    "keys",
    "tls",
    "https",
    "ledger",
    "witness",
    "vault",
    "audit",
    "export",
    "admin",
    "proto",
    "grpc",
    "client",
    "gateway",
    "console",
    "config",
    "server",
    "bench",
    "cli",
    // Only built for tests: it reaches every parser, wherever it stands.
    "fuzz",
];

/// Lines of a function, from its signature to its last brace. What is longer does more than one thing.
const FUNCTION_LINES: usize = 70;
/// Lines of a file without its tests. What is longer is hard to hold in one's head.
const FILE_LINES: usize = 600;

/// Something that is not tidy.
#[derive(Debug)]
struct Untidy {
    file: PathBuf,
    line: usize,
    problem: String,
}

impl fmt::Display for Untidy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.file.display(), self.line, self.problem)
    }
}

/// Walks one file.
struct Walk<'a> {
    file: &'a Path,
    /// The modules that enclose the current place, from the crate's root.
    place: Vec<String>,
    /// How deep in code that is only built for tests.
    tests: usize,
    found: Vec<Untidy>,
}

impl Walk<'_> {
    fn note(&mut self, line: usize, problem: String) {
        self.found.push(Untidy { file: self.file.to_owned(), line, problem });
    }

    /// Checks a path whose segments are given as written.
    fn check_path(&mut self, segments: &[String], line: usize) {
        let Some(absolute) = self.absolute(segments) else { return };
        let here = self.place.first().cloned().unwrap_or_default();
        let Some(there) = absolute.first() else {
            self.note(
                line,
                "takes the whole crate (`crate`, or `super` up to it): name the module that is meant".to_owned(),
            );
            return;
        };
        if *there == here || here.is_empty() {
            return;
        }
        match (position(&here), position(there)) {
            (Some(own), Some(other)) if other < own => {}
            (Some(_), Some(_)) => self.note(
                line,
                format!(
                    "`{here}` imports from `{there}`, which stands later in src/lib.rs. Move what is shared into `{here}` \
                     or an earlier module, or hand it in from outside; do not change the order"
                ),
            ),
            (_, None) if there == "*" => {
                self.note(line, "imports everything of the crate: name the modules that are meant".to_owned());
            }
            (_, None) => self.note(
                line,
                format!("`{there}` is not a module of the crate's root: name things by the module that they live in"),
            ),
            (None, _) => {}
        }
    }

    /// The path from the crate's root, if it leads into this crate at all.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let mut rest = segments;
        let mut base = match rest.first()?.as_str() {
            "crate" => {
                rest = &rest[1..];
                Vec::new()
            }
            "self" => {
                rest = &rest[1..];
                self.place.clone()
            }
            "super" => self.place.clone(),
            _ => return None,
        };
        while rest.first().is_some_and(|segment| segment == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend(rest.iter().filter(|segment| *segment != "self").cloned());
        Some(base)
    }

    fn check_use(&mut self, tree: &syn::UseTree, prefix: &[String]) {
        let line = tree.span().start().line;
        let mut path = prefix.to_vec();
        match tree {
            syn::UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.check_use(&part.tree, &path);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.check_use(item, prefix)),
            syn::UseTree::Name(name) => {
                path.push(name.ident.to_string());
                self.check_path(&path, line);
            }
            syn::UseTree::Rename(rename) => {
                path.push(rename.ident.to_string());
                self.check_path(&path, line);
            }
            syn::UseTree::Glob(_) => {
                // `use super::*` takes what the parent has; the parent's own imports are checked where they stand.
                path.push("*".to_owned());
                self.check_path(&path, line);
            }
        }
    }

    /// Finds paths in a macro's arguments, which are not parsed into paths.
    fn check_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let mut path = Vec::new();
            let line = tokens[at].span().start().line;
            while let Some(TokenTree::Ident(segment)) = tokens.get(at) {
                path.push(segment.to_string());
                at += 1;
                if !is_path_separator(&tokens[at..]) {
                    break;
                }
                at += 2;
            }
            match (path.is_empty(), tokens.get(at)) {
                (false, _) => self.check_path_in_macro(&path, line),
                (true, Some(TokenTree::Group(group))) => {
                    self.check_tokens(group.stream());
                    at += 1;
                }
                (true, _) => at += 1,
            }
        }
    }

    fn check_path_in_macro(&mut self, path: &[String], line: usize) {
        // A lone `crate`, `self` or `super` in a macro is no import: `self` is a receiver, `pub(crate)` a visibility.
        if path.len() > 1 {
            self.check_path(path, line);
        }
    }

    fn check_function(&mut self, name: &syn::Ident, span: proc_macro2::Span) {
        let lines = span.end().line - span.start().line + 1;
        if self.tests == 0 && lines > FUNCTION_LINES {
            let problem = format!(
                "the function `{name}` has {lines} lines, more than {FUNCTION_LINES}: give its parts names of their own"
            );
            self.note(span.start().line, problem);
        }
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.check_use(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // A lone `self` is a receiver.
        if segments != ["self"] {
            self.check_path(&segments, path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {
        // `pub(super)` and `pub(crate)` say who may look in; they import nothing.
    }

    fn visit_expr_binary(&mut self, comparison: &'ast syn::ExprBinary) {
        let compares = matches!(comparison.op, syn::BinOp::Eq(_) | syn::BinOp::Ne(_));
        if compares && self.tests == 0 && (is_secret(&comparison.left) || is_secret(&comparison.right)) {
            let problem = "compares a secret byte by byte, which takes the longer the more of it is right: use \
                           `Secret::matches`, or `MetaKey::verify` for a MAC";
            self.note(comparison.span().start().line, problem.to_owned());
        }
        visit::visit_expr_binary(self, comparison);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.note(item.span().start().line, "`extern crate` can give the crate another name: use paths".to_owned());
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let line = item.span().start().line;
        if item.attrs.iter().any(|attribute| attribute.path().is_ident("path")) {
            self.note(
                line,
                "`#[path]` puts a module where nobody looks for it: name the file after the module".to_owned(),
            );
        }
        let tests = usize::from(is_for_tests(&item.attrs));
        self.tests += tests;
        self.place.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.place.pop();
        self.tests -= tests;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let tests = usize::from(is_for_tests(&item.attrs));
        self.tests += tests;
        self.check_function(&item.sig.ident, item.block.span().join(item.sig.span()).unwrap_or(item.block.span()));
        visit::visit_item_fn(self, item);
        self.tests -= tests;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.check_function(&item.sig.ident, item.block.span().join(item.sig.span()).unwrap_or(item.block.span()));
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.check_tokens(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        if invocation.path.is_ident("include") {
            self.note(
                invocation.span().start().line,
                "`include!` hides code from this check: make it a module".to_owned(),
            );
        }
        visit::visit_macro(self, invocation);
        self.check_tokens(invocation.tokens.clone());
    }
}

/// Whether an expression is the bare content of a secret, or a part of it, or a tag that was just made.
fn is_secret(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::MethodCall(call) => {
            let method = call.method.to_string();
            matches!(method.as_str(), "expose" | "expose_mut" | "into_exposed" | "mac" | "tag")
                || (matches!(method.as_str(), "as_slice" | "as_ref" | "as_bytes" | "as_str" | "to_vec" | "clone")
                    && is_secret(&call.receiver))
        }
        syn::Expr::Reference(inner) => is_secret(&inner.expr),
        syn::Expr::Unary(inner) => is_secret(&inner.expr),
        syn::Expr::Paren(inner) => is_secret(&inner.expr),
        syn::Expr::Index(inner) => is_secret(&inner.expr),
        _ => false,
    }
}

fn position(module: &str) -> Option<usize> {
    ORDER.iter().position(|name| *name == module)
}

fn is_path_separator(tokens: &[TokenTree]) -> bool {
    let is_colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(tokens.first()) && is_colon(tokens.get(1)) && matches!(tokens.get(2), Some(TokenTree::Ident(_)))
}

/// Whether an item exists only in a test build: `#[cfg(test)]`, `#[cfg(all(test, …))]`, `#[test]`.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => mentions_test(list.tokens.clone()),
        meta => meta.path().segments.last().is_some_and(|last| last.ident == "test"),
    })
}

fn mentions_test(tokens: TokenStream) -> bool {
    let mut negated = false;
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => {
            negated = ident == "not";
            ident == "test"
        }
        TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis => {
            !std::mem::take(&mut negated) && mentions_test(group.stream())
        }
        _ => false,
    })
}

/// Checks the text of one file, which stands at `path` under `src`.
fn check(path: &str, text: &str) -> Vec<Untidy> {
    let file = Path::new("src").join(path);
    let syntax = match syn::parse_file(text) {
        Ok(syntax) => syntax,
        Err(error) => {
            let (line, problem) = (error.span().start().line, format!("does not parse: {error}"));
            return vec![Untidy { file, line, problem }];
        }
    };
    let place = place_of(path);
    let is_tests = place.iter().any(|module| module == "tests") || is_for_tests(&syntax.attrs);
    let mut walk = Walk { file: &file, place, tests: usize::from(is_tests), found: Vec::new() };
    walk.visit_file(&syntax);
    let lines = text.lines().count() - lines_of_tests(&syntax);
    if !is_tests && lines > FILE_LINES {
        let problem = format!("{lines} lines without its tests, more than {FILE_LINES}: split it by responsibility");
        walk.note(1, problem);
    }
    walk.found
}

fn lines_of_tests(syntax: &syn::File) -> usize {
    let modules = syntax.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if is_for_tests(&module.attrs) => Some(module.span()),
        _ => None,
    });
    modules.map(|span| span.end().line - span.start().line + 1).sum()
}

/// The module that a file holds: `policy/sample.rs` is `policy::sample`.
fn place_of(path: &str) -> Vec<String> {
    let stem = path.trim_end_matches(".rs");
    let stem = stem.trim_end_matches("/mod");
    if stem == "lib" || stem == "main" { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

/// Checks that the crate's root declares the modules in order, and does nothing else.
fn check_root(text: &str) -> Vec<Untidy> {
    let file = PathBuf::from("src/lib.rs");
    let syntax = syn::parse_file(text).expect("the crate compiles, so its root parses");
    let mut found = Vec::new();
    let mut last = 0;
    for item in &syntax.items {
        let line = item.span().start().line;
        let problem = match item {
            syn::Item::Mod(module) => match position(&module.ident.to_string()) {
                None => Some("a new module: give it its place in ORDER in tests/tidy.rs, and say why there".to_owned()),
                Some(position) if position < last => {
                    let before = ORDER[last];
                    Some(format!("`{}` belongs before `{before}`: the list is the reading order", module.ident))
                }
                Some(position) => {
                    last = position;
                    None
                }
            },
            _ => Some("the root only declares modules: put this into one of them".to_owned()),
        };
        found.extend(problem.map(|problem| Untidy { file: file.clone(), line, problem }));
    }
    found
}

fn source_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().expect("the source can be read") {
        let path = entry.expect("the source can be read").path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_source_is_tidy() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&src, &mut files);
    files.sort();
    let mut found = check_root(&std::fs::read_to_string(src.join("lib.rs")).expect("the crate has a root"));
    for file in &files {
        let text = std::fs::read_to_string(file).expect("the source can be read");
        let path = file.strip_prefix(&src).expect("found under it").to_str().expect("our names are text");
        found.extend(check(path, &text));
    }
    assert!(files.len() > 10, "only {} files were found: is this the right folder?", files.len());
    let messages: Vec<String> = found.iter().map(Untidy::to_string).collect();
    assert!(messages.is_empty(), "\n{}\n", messages.join("\n"));
}

mod planted {
    use super::{FILE_LINES, FUNCTION_LINES, check, check_root};

    /// Each of these must be found, in a file of `policy`, where `ledger` is forbidden and `token` allowed.
    const VIOLATIONS: [(&str, &str); 25] = [
        ("use", "use crate::ledger::Receipt;"),
        ("use with a new name", "use crate::ledger as l;"),
        ("grouped use", "use crate::{token::Format, ledger::Receipt};"),
        ("nested groups", "use crate::{token::{self}, ledger::{self}};"),
        ("re-export", "pub use crate::ledger::Receipt;"),
        ("glob", "use crate::ledger::*;"),
        ("everything of the crate", "use crate::*;"),
        ("the crate under another name", "use crate as root;"),
        ("the crate itself", "use crate::{self as root};"),
        ("extern crate", "extern crate self as root;"),
        ("super", "use super::ledger::Receipt;"),
        ("super up to the root", "use super as root;"),
        ("super from a nested module", "mod inner { use super::super::ledger::Receipt; }"),
        ("self and super", "mod inner { use self::super::super::ledger::Receipt; }"),
        ("inside a function", "fn f() { use crate::ledger::Receipt; }"),
        ("inline type", "fn f(_: crate::ledger::Receipt) {}"),
        ("inline expression", "fn f() { let _ = crate::ledger::make(); }"),
        ("inline pattern", "fn f(x: u8) { if let crate::ledger::ONE = x {} }"),
        ("inline trait", "impl crate::ledger::Commit for u8 {}"),
        ("generic argument", "struct S(Vec<crate::ledger::Receipt>);"),
        ("macro argument", "fn f() { assert_eq!(vec![crate::ledger::ONE], [1]); }"),
        ("macro definition", "macro_rules! m { () => { $crate::ledger::make() }; }"),
        ("attribute argument", "#[arg(parser = crate::ledger::parse)] struct S;"),
        ("attribute path", "#[path = \"../ledger.rs\"] mod other;"),
        ("included code", "include!(\"ledger.rs\");"),
    ];

    #[test]
    fn every_kind_of_import_is_found() {
        for (kind, text) in VIOLATIONS {
            let found = check("policy.rs", text);
            assert_eq!(found.len(), 1, "{kind}: {text}: {found:?}");
        }
    }

    #[test]
    fn a_secret_that_is_compared_with_equals_is_found_c_11() {
        for comparison in [
            "a.expose() == b",
            "b != a.expose()",
            "&a.expose()[..] == b",
            "*a.expose() == *b.expose()",
            "a.expose().as_slice() == b",
            "key.mac(t, k, c) == tag",
            "key.0.tag([a])[..] == tag[..]",
            "x && (a.into_exposed()) == b",
        ] {
            let code = format!("fn f() -> bool {{ {comparison} }}");
            assert_eq!(check("policy.rs", &code).len(), 1, "{comparison}");
            assert_eq!(check("policy.rs", &format!("#[cfg(test)] mod tests {{ {code} }}")).len(), 0, "{comparison}");
        }
        for comparison in ["a.expose().len() == 3", "a.matches(b.expose())", "a.expose().last() == Some(&1)", "a < b"] {
            assert_eq!(check("policy.rs", &format!("fn f() -> bool {{ {comparison} }}")).len(), 0, "{comparison}");
        }
    }

    #[test]
    fn nested_files_know_where_they_are() {
        assert_eq!(check("policy/sample.rs", "use super::super::ledger::Receipt;").len(), 1);
        assert_eq!(check("policy/sample.rs", "use super::Policy;").len(), 0);
        assert_eq!(check("policy/sample.rs", "mod tests { use super::super::super::ledger::Receipt; }").len(), 1);
        assert_eq!(check("policy/sample/tests.rs", "use crate::cli::main;").len(), 1, "tests are no exception");
    }

    #[test]
    fn what_is_allowed_passes() {
        let allowed = [
            "use crate::token::Format;",
            "use crate::policy::inner::Thing;",
            "mod inner { use super::Thing; }",
            "use std::ledger::Thing;",
            "use ledger::Thing;",
            "pub(crate) fn f() {}",
            "pub(in crate::policy) fn f() {}",
            "struct S; impl S { fn f(self) -> Self { self } }",
            "fn f() { println!(\"crate::ledger {}\", crate::token::ONE); }",
            "// crate::ledger\n/// [`crate::ledger`]\nfn f() {}",
        ];
        for text in allowed {
            let found = check("policy.rs", text);
            assert!(found.is_empty(), "{text}: {found:?}");
        }
    }

    #[test]
    fn long_functions_and_files_are_found_but_not_tests() {
        let body = "    let _ = 1;\n".repeat(FUNCTION_LINES);
        assert_eq!(check("policy.rs", &format!("fn long() {{\n{body}}}")).len(), 1);
        assert_eq!(check("policy.rs", &format!("struct S;\nimpl S {{\nfn long() {{\n{body}}}\n}}")).len(), 1);
        assert_eq!(
            check("policy.rs", &format!("#[cfg(test)]\nmod tests {{\n#[test]\nfn long() {{\n{body}}}\n}}")).len(),
            0
        );
        assert_eq!(check("policy.rs", &format!("#[cfg(not(test))]\nmod real {{\nfn long() {{\n{body}}}\n}}")).len(), 1);
        assert_eq!(check("policy/tests.rs", &format!("fn long() {{\n{body}}}")).len(), 0);
        let many = "const _: u8 = 1;\n".repeat(FILE_LINES + 1);
        assert_eq!(check("policy.rs", &many).len(), 1);
        assert_eq!(check("policy.rs", &format!("#[cfg(test)]\nmod tests {{\n{many}}}")).len(), 0);
    }

    #[test]
    fn the_root_keeps_its_order() {
        assert_eq!(check_root("pub mod secret;\npub mod token;\npub mod cli;").len(), 0);
        assert_eq!(check_root("pub mod cli;\npub mod secret;").len(), 1);
        assert_eq!(check_root("pub mod utils;").len(), 1);
        assert_eq!(check_root("pub mod secret;\npub use secret::Secret;").len(), 1);
    }
}
