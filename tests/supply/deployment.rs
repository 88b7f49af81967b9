//! What an operations team installs and watches the vault with: every file in `deploy/` is read by what will read it there, and
//! holds what the pages promise of it.

mod container;
mod debian;
mod kubernetes;
mod prometheus;
mod systemd;

use super::{needs, tree};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each file that is no script of ours, and the test that reads it.
const COVERED: [(&str, &str); 29] = [
    ("container/.containerignore", "what_gets_into_the_build_is_what_a_release_is_built_from_i_06"),
    ("container/Containerfile", "the_image_is_nobody_s_and_needs_no_shell_o_08"),
    ("debian/control", "the_package_s_words_are_in_their_places"),
    ("debian/copyright", "the_package_s_words_are_in_their_places"),
    ("debian/sysusers.conf", "the_package_has_what_it_should_and_nothing_else_p_03"),
    ("debian/tmpfiles.conf", "the_package_has_what_it_should_and_nothing_else_p_03"),
    ("grafana/cloakroom.json", "the_dashboard_asks_for_what_there_is"),
    ("kubernetes/base/cloakroom.toml", "the_configuration_in_the_pod_is_one"),
    ("kubernetes/base/kustomization.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/base/namespace.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/base/networkpolicy.yaml", "only_those_who_are_named_reach_the_vault_o_08"),
    ("kubernetes/base/poddisruptionbudget.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/base/policies/gateway.cedar", "the_configuration_in_the_pod_is_one"),
    ("kubernetes/base/service.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/base/serviceaccount.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/base/statefulset.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/first/pod.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/overlays/cert-manager/certificate.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/overlays/cert-manager/kustomization.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/overlays/cert-manager/statefulset.patch.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/overlays/csi-driver-spiffe/kustomization.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/overlays/csi-driver-spiffe/statefulset.patch.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/overlays/prometheus-operator/kustomization.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("kubernetes/overlays/prometheus-operator/podmonitor.yaml", "the_manifests_are_what_kubernetes_takes"),
    ("prometheus/alerts.yml", "each_alert_fires_when_it_should_and_not_before"),
    ("prometheus/alerts_test.yml", "each_alert_fires_when_it_should_and_not_before"),
    ("systemd/cloakroom.service", "the_unit_is_valid_and_leaves_little_open_o_08"),
    ("tools-long.txt", "the_tools_are_pinned"),
    ("tools.txt", "the_tools_are_pinned"),
];

fn place(name: &str) -> PathBuf {
    tree::root().join("deploy").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(place(name)).unwrap()
}

fn page(name: &str) -> String {
    std::fs::read_to_string(tree::root().join(name)).unwrap()
}

/// What a command said, and whether it ended well.
fn told(command: &mut Command) -> (bool, String) {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said)
}

/// All documents of a file of YAML. `None` where there is nothing to read it with.
fn yaml(file: &Path) -> Option<Vec<Value>> {
    let python = tree::tool("python3");
    if !needs::at_hand(&[python.to_str().expect("the checkout's path is text")], None) {
        return None;
    }
    let reader = tree::root().join("tests/supply/deployment/read_yaml.py");
    let (is_good, said) = told(Command::new(python).arg(reader).arg(file));
    assert!(is_good, "{}: {said}", file.display());
    Some(serde_json::from_str(&said).unwrap())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The names of our metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("cloakroom_") && *word != "cloakroom_");
    ours.map(str::to_owned).collect()
}

/// The metrics that the pages' tables describe.
fn documented() -> BTreeSet<String> {
    let pages = ["docs/operations.md", "docs/witness.md", "docs/siem.md"].map(page).concat();
    let cells = pages.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.filter(|cell| !cell.contains('…')).flat_map(metrics).collect()
}

/// Those of which the source says that they are histograms.
fn histograms() -> BTreeSet<String> {
    let source = page("src/server/figures.rs");
    let rest = source.split("Histogram,").skip(1);
    let names = rest.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    names.filter(|name| name.starts_with("cloakroom_")).map(str::to_owned).collect()
}

/// What of `named` no page describes. A histogram has three series, and others have none.
fn undocumented(named: &BTreeSet<String>) -> Vec<String> {
    let (documented, histograms) = (documented(), histograms());
    let is_series = |name: &str| {
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        bare.is_some_and(|bare| histograms.contains(bare))
    };
    let is_known = |name: &str| (documented.contains(name) && !histograms.contains(name)) || is_series(name);
    named.iter().filter(|name| !is_known(name)).cloned().collect()
}

/// Every file in `deploy/`, as git would take it, by its name there.
fn files() -> Vec<String> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard", "deploy"];
    let (is_good, said) = told(Command::new("git").args(arguments).current_dir(tree::root()));
    assert!(is_good, "{said}");
    let there = said.lines().filter(|name| tree::root().join(name).exists());
    there.map(|name| name.strip_prefix("deploy/").unwrap().to_owned()).collect()
}

#[test]
fn every_file_is_read_by_a_test() {
    let source = tests_of(&tree::root().join("tests/supply"));
    let mut left: BTreeSet<&str> = COVERED.iter().map(|(file, _)| *file).collect();
    assert_eq!(left.len(), COVERED.len(), "a file is named twice");
    let mut scripts = 0;
    for file in files() {
        let content = std::fs::read(place(&file)).unwrap();
        let head = String::from_utf8_lossy(&content).lines().next().unwrap_or_default().to_owned();
        if left.remove(file.as_str()) {
            continue;
        }
        // A script is read by who will run it, and not run.
        let (is_good, said) = if head.starts_with("#!") && head.ends_with("sh") {
            told(Command::new("bash").arg("-n").arg(place(&file)))
        } else if head.starts_with("#!") && head.ends_with("python3") {
            let parse = "import ast, sys; ast.parse(open(sys.argv[1]).read())";
            told(Command::new("python3").args(["-c", parse]).arg(place(&file)))
        } else {
            panic!("deploy/{file} is read by no test: write one, and name it in tests/supply/deployment.rs");
        };
        assert!(is_good, "deploy/{file}: {said}");
        scripts += 1;
    }
    assert!(left.is_empty(), "these are not there: {left:?}");
    for (file, test) in COVERED {
        assert!(source.contains(&format!("fn {test}()")), "there is no test {test}, which would read deploy/{file}");
    }
    assert!(scripts >= 8, "only {scripts} scripts were found");
}

fn tests_of(folder: &Path) -> String {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let text = |path: PathBuf| if path.is_dir() { tests_of(&path) } else { std::fs::read_to_string(path).unwrap() };
    entries.map(text).collect()
}

#[test]
fn the_tools_are_pinned() {
    let text = ["tools.txt", "tools-long.txt"].map(text).concat();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(lines.len() > 10);
    for line in lines {
        let (name, version) = line.split_once("==").unwrap_or_else(|| panic!("{line} has no version"));
        let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        assert!(!name.is_empty() && is_plain(name) && is_plain(version) && version.contains('.'), "{line}");
    }
}
