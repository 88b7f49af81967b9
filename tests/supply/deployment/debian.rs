//! The Debian package: built from this program, taken apart, and its user and folders made in a root of their own.

use super::super::{needs, tree};
use super::{place, text, told};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program that this was built with.
const PROGRAM: &str = env!("CARGO_BIN_EXE_cloakroom");

/// What is in a package that was made of this program, as `deploy/release` would have made it.
struct Package {
    file: PathBuf,
    folder: tempfile::TempDir,
}

impl Package {
    fn build() -> Self {
        let folder = tempfile::Builder::new().prefix("package-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let release = folder.path().join("release");
        std::fs::create_dir(&release).unwrap();
        std::fs::copy(PROGRAM, release.join("cloakroom")).unwrap();
        let (is_good, bill) = told(&mut Command::new(place("sbom")));
        assert!(is_good, "{bill}");
        std::fs::write(release.join("cloakroom.cdx.json"), bill).unwrap();
        let file = Self::build_from(&release, &folder.path().join("out"));
        Self { file, folder }
    }

    fn build_from(release: &Path, out: &Path) -> PathBuf {
        let mut command = Command::new(place("debian/build"));
        command.arg(release).arg(out).env("SOURCE_DATE_EPOCH", "1700000000").env("COMPRESSION", "none");
        let (is_good, said) = told(command.current_dir("/"));
        assert!(is_good, "{said}");
        PathBuf::from(said.trim())
    }

    fn field(&self, name: &str) -> String {
        let (is_good, said) = told(Command::new("dpkg-deb").arg("--field").arg(&self.file).arg(name));
        assert!(is_good, "{said}");
        said.trim().to_owned()
    }

    /// Files and folders by their path, with mode and owner as the package has them.
    fn content(&self) -> BTreeMap<String, (String, String)> {
        let (is_good, said) = told(Command::new("dpkg-deb").arg("--contents").arg(&self.file));
        assert!(is_good, "{said}");
        let entry = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = words[5].trim_start_matches('.').to_owned();
            (name, (words[0].to_owned(), words[1].to_owned()))
        };
        said.lines().map(entry).collect()
    }

    /// Unpacked, with its control files in `DEBIAN`.
    fn unpacked(&self) -> PathBuf {
        let root = self.folder.path().join("root");
        let (is_good, said) = told(Command::new("dpkg-deb").arg("--raw-extract").arg(&self.file).arg(&root));
        assert!(is_good, "{said}");
        root
    }
}

#[test]
fn the_package_has_what_it_should_and_nothing_else_p_03() {
    if !needs::at_hand(&["dpkg-deb", "systemd-sysusers", "systemd-tmpfiles"], None) {
        return;
    }
    let package = Package::build();
    assert_eq!(package.field("Package"), "cloakroom");
    assert_eq!(package.field("Version"), env!("CARGO_PKG_VERSION"));
    assert!(package.field("Depends").starts_with("libc6 (>= 2."), "{}", package.field("Depends"));
    let content = package.content();
    for (name, (mode, owner)) in &content {
        assert_eq!(owner, "root/root", "{name}");
        assert!(
            !mode.contains(['s', 'S', 't']) && !mode[5..].contains('w') && !mode.starts_with('l'),
            "{name} has {mode}"
        );
        let is_ours = ["/usr/", "/etc/cloakroom/"].iter().any(|folder| name.starts_with(folder));
        assert!(is_ours || ["/", "/etc/"].contains(&name.as_str()), "{name}");
    }
    assert_eq!(content["/usr/bin/cloakroom"].0, "-rwxr-xr-x");
    assert_eq!(content["/etc/cloakroom/"].0, "drwxr-x---");
    // Under /etc only what the package manager asks about before it is replaced.
    let root = package.unpacked();
    let configured = content.keys().filter(|name| name.starts_with("/etc/") && !name.ends_with('/'));
    let conffiles = std::fs::read_to_string(root.join("DEBIAN/conffiles")).unwrap();
    assert_eq!(configured.map(String::as_str).collect::<Vec<_>>(), conffiles.lines().collect::<Vec<_>>());
    // A page for each command, and completions for each shell.
    let pages = tempfile::tempdir().unwrap();
    assert!(told(Command::new(PROGRAM).arg("man").arg(pages.path())).0);
    let page = |entry: std::io::Result<std::fs::DirEntry>| {
        format!("/usr/share/man/man1/{}.gz", entry.unwrap().file_name().display())
    };
    let pages: BTreeSet<String> = pages.path().read_dir().unwrap().map(page).collect();
    let there = content.keys().filter(|name| name.starts_with("/usr/share/man/man1/") && !name.ends_with('/'));
    assert!(pages.len() > 20 && pages == there.cloned().collect());
    for (file, word) in [
        ("usr/share/bash-completion/completions/cloakroom", "complete "),
        ("usr/share/zsh/vendor-completions/_cloakroom", "#compdef cloakroom"),
        ("usr/share/fish/vendor_completions.d/cloakroom.fish", "complete -c cloakroom"),
        ("usr/share/doc/cloakroom/docs/operations.md", "# Operations"),
        ("usr/share/doc/cloakroom/cloakroom.cdx.json", "CycloneDX"),
    ] {
        assert!(std::fs::read_to_string(root.join(file)).unwrap().contains(word), "{file}");
    }
    let (is_good, said) =
        told(Command::new("md5sum").args(["--check", "--quiet", "DEBIAN/md5sums"]).current_dir(&root));
    assert!(is_good, "{said}");
    // The same again.
    let again = Package::build_from(&package.folder.path().join("release"), &package.folder.path().join("again"));
    assert!(
        std::fs::read(&package.file).unwrap() == std::fs::read(again).unwrap(),
        "the same release gave another package"
    );
    it_is_set_up(&root);
}

/// What the package's scripts and the unit do with it, as far as that can be done beside a running system.
fn it_is_set_up(root: &Path) {
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/cloakroom.service")).unwrap();
    assert_eq!(unit, text("systemd/cloakroom.service"));
    assert!(unit.contains("ExecStart=/usr/bin/cloakroom ") && root.join("usr/bin/cloakroom").exists());
    // The configuration is one, and nothing that the vault writes is under /etc.
    let shown = Command::new(PROGRAM)
        .args(["config", "show", "--config"])
        .arg(root.join("etc/cloakroom/cloakroom.toml"))
        .env_remove("CLOAKROOM_PROFILE")
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for path in ["/var/lib/cloakroom/data", "/var/lib/cloakroom/checkpoints"] {
        assert!(shown.contains(&format!("\"{path}\"")), "{path} in {shown}");
    }
    let option = format!("--root={}", root.display());
    let (is_good, said) = told(Command::new("systemd-sysusers").args([&option, "cloakroom.conf"]));
    assert!(is_good, "{said}");
    let users = std::fs::read_to_string(root.join("etc/passwd")).unwrap();
    let user: Vec<&str> = users.lines().find(|line| line.starts_with("cloakroom:")).unwrap().split(':').collect();
    assert_eq!((user[5], user[6]), ("/var/lib/cloakroom", "/usr/sbin/nologin"));
    let number: u32 = user[2].parse().unwrap();
    assert!((1..1000).contains(&number), "{users}");
    // Only root may give folders to others.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (is_good, said) = told(Command::new("systemd-tmpfiles").args([&option, "--create", "cloakroom.conf"]));
    assert!(is_good, "{said}");
    for (name, mode, owner) in [("etc/cloakroom", 0o750, 0), ("var/lib/cloakroom", 0o700, number)] {
        let found = std::fs::metadata(root.join(name)).unwrap();
        assert_eq!((found.permissions().mode() & 0o7777, found.uid()), (mode, owner), "{name}");
    }
}

#[test]
fn the_package_s_words_are_in_their_places() {
    let control = text("debian/control");
    for word in ["Package: cloakroom", "Version: @VERSION@", "Maintainer: ", "Description: ", "Depends: "] {
        assert!(control.lines().any(|line| line.starts_with(word)), "{word}");
    }
    // Its lines fit, and none is empty: an empty one would end the paragraph.
    assert!(control.lines().all(|line| !line.trim().is_empty()));
    let licence = text("debian/copyright");
    let manifest: toml::Table = std::fs::read_to_string(tree::root().join("Cargo.toml")).unwrap().parse().unwrap();
    let spoken = manifest["package"]["license"].as_str().unwrap();
    assert!(licence.contains(&format!("License: {spoken}")), "the licence is {spoken}");
}
