//! The container's file: what it promises of the image, read from the file itself. No engine has to be there for that; what an
//! engine would say of its form is held here, too.

use super::super::tree;
use super::{page, text, told};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const FILE: &str = "container/Containerfile";
const IGNORED: &str = "container/.containerignore";

/// One instruction: its word, its flags, the rest.
struct Instruction {
    word: String,
    flags: Vec<String>,
    rest: String,
}

impl Instruction {
    /// The words of the form that no shell reads.
    fn exec(&self) -> Option<Vec<String>> {
        serde_json::from_str(&self.rest).ok()
    }

    fn flag(&self, name: &str) -> Option<&str> {
        self.flags.iter().find_map(|flag| flag.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='))
    }
}

/// All instructions, lines that go on put together.
fn instructions(text: &str) -> Vec<Instruction> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    let whole = lines.replace("\\\n", " ");
    let parse = |line: &str| {
        let (word, rest) = line.trim().split_once(' ').unwrap_or_else(|| panic!("{line}"));
        let mut words = rest.trim();
        let mut flags = Vec::new();
        while words.starts_with("--") {
            let (flag, left) = words.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            flags.push(flag.to_owned());
            words = left.trim_start();
        }
        Instruction { word: word.to_owned(), flags, rest: words.to_owned() }
    };
    whole.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
}

/// A base by its version: `registry/name:1.2…`, or by its digest.
fn is_pinned(image: &str) -> bool {
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, ""));
    image.contains("@sha256:")
        || (name.contains('/') && tag.starts_with(|c: char| c.is_ascii_digit()) && tag.contains('.'))
}

/// What the file does not keep of what it promises.
fn faults(text: &str) -> Vec<String> {
    let all = instructions(text);
    let mut found = Vec::new();
    let mut stages = BTreeSet::new();
    for one in &all {
        let said = format!("{} {}", one.word, one.rest);
        match one.word.as_str() {
            "FROM" => {
                let mut words = one.rest.split_whitespace();
                let image = words.next().unwrap_or_default();
                if !is_pinned(image) {
                    found.push(format!("{said}: no version"));
                }
                stages.extend(words.nth(1).map(str::to_owned));
            }
            "ADD" => found.push(format!("{said}: it fetches and unpacks; use COPY")),
            "COPY" => match one.flag("from") {
                Some(stage) if stages.contains(stage) => {}
                Some(stage) => found.push(format!("{said}: there is no stage {stage}")),
                None => {
                    let mut words: Vec<&str> = one.rest.split_whitespace().collect();
                    words.pop();
                    let missing = words.into_iter().filter(|name| !tree::root().join(name).exists());
                    found.extend(missing.map(|name| format!("{said}: there is no {name}")));
                }
            },
            "RUN" | "ENTRYPOINT" | "CMD" if one.exec().is_none() => found.push(format!("{said}: a shell reads it")),
            "ENV" | "ARG" => {
                let secret =
                    ["KEY", "SECRET", "PASSWORD", "TOKEN"].iter().any(|word| one.rest.to_uppercase().contains(word));
                found.extend(secret.then(|| format!("{said}: it looks like a secret")));
            }
            _ => {}
        }
    }
    let last = all.iter().rposition(|one| one.word == "FROM").unwrap_or(0);
    let image = &all[last..];
    let of = |word: &str| image.iter().filter(|one| one.word == word).collect::<Vec<_>>();
    if let Some(run) = of("RUN").first() {
        found.push(format!("RUN {}: something runs in the last stage", run.rest));
    }
    let user = of("USER").last().map(|one| one.rest.clone()).unwrap_or_default();
    let is_nobody = |id: &str| id.parse::<u32>().is_ok_and(|id| id >= 1000);
    if !user.split_once(':').is_some_and(|(user, group)| is_nobody(user) && is_nobody(group)) {
        found.push(format!("USER {user}: it must be a user's and a group's number, not root's"));
    }
    let entry = of("ENTRYPOINT").last().and_then(|one| one.exec()).unwrap_or_default();
    if entry != ["/usr/bin/cloakroom"] {
        found.push(format!("ENTRYPOINT is {entry:?}"));
    }
    let check = of("HEALTHCHECK").last().and_then(|one| one.rest.strip_prefix("CMD ").map(str::to_owned));
    let check: Vec<String> = check.and_then(|words| serde_json::from_str(words.trim()).ok()).unwrap_or_default();
    if !check.starts_with(&["/usr/bin/cloakroom".to_owned(), "health".to_owned()]) {
        found.push(format!("HEALTHCHECK does not ask the program, without a shell: {check:?}"));
    }
    if of("STOPSIGNAL").iter().any(|one| one.rest != "SIGTERM") {
        found.push("STOPSIGNAL is not the one on which it drains".to_owned());
    }
    found
}

#[test]
fn the_image_is_nobody_s_and_needs_no_shell_o_08() {
    let file = text(FILE);
    assert_eq!(faults(&file), [""; 0]);
    // Built by the compiler that the source wants, or a newer one.
    let manifest: toml::Table = page("Cargo.toml").parse().unwrap();
    let wanted = manifest["package"]["rust-version"].as_str().unwrap();
    assert!(file.contains(&format!("/rust:{wanted}")), "the compiler is not {wanted}");
    // What is exposed is what is listened on.
    for one in instructions(&file) {
        if one.word == "EXPOSE" {
            for port in one.rest.split(' ') {
                assert!(file.contains(&format!("__LISTEN=0.0.0.0:{port}")), "{port}");
            }
        }
    }
    // What it must not be is found.
    for (from, to) in [
        ("USER 10001:10001", "USER root"),
        ("USER 10001:10001", "USER 0:0"),
        ("USER 10001:10001", "USER cloakroom"),
        ("debian:12.11-slim", "debian"),
        ("debian:12.11-slim", "debian:latest"),
        ("debian:12.11-slim", "debian:bookworm-slim"),
        ("ENTRYPOINT [\"/usr/bin/cloakroom\"]", "ENTRYPOINT /usr/bin/cloakroom"),
        ("CMD [\"serve\"]", "CMD serve"),
        ("COPY LICENSE ", "COPY LICENCE "),
        ("COPY LICENSE ", "ADD https://example.com/LICENSE "),
        ("--from=build --chown", "--from=built --chown"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL"),
        ("STOPSIGNAL SIGTERM", "RUN [\"apt-get\", \"update\"]"),
        ("\"health\", ", "\"serve\", "),
        ("ARG PROFILE=dist", "ARG ROOT_KEY=00"),
    ] {
        assert!(file.contains(from), "{from}");
        assert!(!faults(&file.replace(from, to)).is_empty(), "{to} was not found");
    }
}

/// The names that the list of what is ignored lets through.
fn let_through() -> Vec<String> {
    let text = text(IGNORED);
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    assert_eq!(lines.next(), Some("*"), "nothing gets in that is not named");
    lines.filter_map(|line| line.strip_prefix('!')).map(str::to_owned).collect()
}

#[test]
fn what_gets_into_the_build_is_what_a_release_is_built_from_i_06() {
    let names = let_through();
    let folder = tempfile::tempdir().unwrap();
    for name in &names {
        assert!(!name.contains(['*', '?']) && tree::root().join(name).exists(), "{name}");
        let to = folder.path().join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = Command::new("cp").args(["-r", "--preserve=mode"]).arg(tree::root().join(name)).arg(&to).status();
        assert!(copied.unwrap().success(), "{name}");
    }
    // Cargo takes it for the whole of it, with the same lockfile, and the program can be built from it.
    let arguments = ["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"];
    let (is_good, said) = told(Command::new(env!("CARGO")).args(arguments).current_dir(folder.path()));
    assert!(is_good && said.contains("\"cloakroom\""), "{said}");
    for name in ["deploy/release", "deploy/sbom", "src/main.rs", "proto/cloakroom/v1/token_service.proto", "LICENSE"] {
        assert!(folder.path().join(name).is_file(), "{name} is missing");
    }
    assert!(!Path::new(&folder.path().join(".git")).exists() && !folder.path().join("target").exists());
}
