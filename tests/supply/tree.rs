//! The lockfile, and what cargo says of the packages in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The platform that counts are taken on, wherever the test runs.
pub const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// A package in the lockfile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locked {
    pub name: String,
    pub version: String,
    /// SHA-256 of what was fetched. What lies in the checkout has none.
    pub checksum: Option<String>,
}

/// A package that the program is built from.
pub struct Package {
    pub name: String,
    pub version: String,
    pub manifest: PathBuf,
    /// Whether it is in the program, or only runs while that is built.
    pub is_linked: bool,
}

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo builds, and the tools that `deploy/setup` puts beside it.
pub fn tool(name: &str) -> PathBuf {
    root().join("target/tools/bin").join(name)
}

/// Every package of a lockfile.
pub fn locked(lockfile: &str) -> Vec<Locked> {
    let lockfile: toml::Table = lockfile.parse().expect("cargo writes TOML");
    let packages = lockfile["package"].as_array().expect("a lockfile has packages");
    let text = |package: &toml::Value, key: &str| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    packages
        .iter()
        .map(|package| Locked {
            name: text(package, "name").expect("a package has a name"),
            version: text(package, "version").expect("a package has a version"),
            checksum: text(package, "checksum"),
        })
        .collect()
}

/// The checkout's own lockfile.
pub fn lockfile() -> String {
    std::fs::read_to_string(root().join("Cargo.lock")).expect("the checkout has a lockfile")
}

/// What the program is built from on [`PLATFORM`], itself included; what only tests need is not.
pub fn packages() -> Vec<Package> {
    let said = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", PLATFORM])
        .current_dir(root())
        .output()
        .expect("cargo can be started");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&said.stdout).expect("cargo prints JSON");
    let list = |value: &serde_json::Value| value.as_array().expect("cargo prints a list here").clone();
    let text = |value: &serde_json::Value| value.as_str().expect("cargo prints a text here").to_owned();
    let nodes: BTreeMap<String, serde_json::Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    let known: BTreeMap<String, serde_json::Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let is_macro = |id: &str| {
        let targets = list(&known[id]["targets"]);
        targets.iter().any(|target| list(&target["kind"]).contains(&"proc-macro".into()))
    };
    // Two walks: what is linked, and then everything.
    let walk = |follows: &dyn Fn(&str, &[serde_json::Value]) -> bool| {
        let mut found = BTreeSet::new();
        let mut waiting = vec![text(&metadata["resolve"]["root"])];
        while let Some(id) = waiting.pop() {
            if !found.insert(id.clone()) {
                continue;
            }
            for dependency in list(&nodes[&id]["deps"]) {
                let (id, kinds) = (text(&dependency["pkg"]), list(&dependency["dep_kinds"]));
                if follows(&id, &kinds) {
                    waiting.push(id);
                }
            }
        }
        found
    };
    let linked = walk(&|id, kinds| kinds.iter().any(|kind| kind["kind"].is_null()) && !is_macro(id));
    let all = walk(&|_, kinds| kinds.iter().any(|kind| kind["kind"] != "dev"));
    all.iter()
        .map(|id| Package {
            name: text(&known[id]["name"]),
            version: text(&known[id]["version"]),
            manifest: text(&known[id]["manifest_path"]).into(),
            is_linked: linked.contains(id),
        })
        .collect()
}
