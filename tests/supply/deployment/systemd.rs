//! The unit: whether systemd takes it as it is meant, how much it leaves open, and whether it starts the vault anew exactly
//! when docs/operations.md says that this helps.

use super::super::needs;
use super::{page, text, told};
use std::collections::BTreeMap;
use std::process::Command;

const UNIT: &str = "systemd/cloakroom.service";
const PAGE: &str = "docs/operations.md";

/// The program that this was built with, so that systemd finds one.
const PROGRAM: &str = env!("CARGO_BIN_EXE_cloakroom");

/// The version of systemd with which the figure of the page was had. Others count other things.
const VERSION: &str = "systemd 252 ";

/// The settings of the unit; those that are there several times are put together.
fn settings(unit: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for line in unit.lines().filter(|line| !line.starts_with(['#', '[']) && !line.trim().is_empty()) {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
        let all = found.entry(name.to_owned()).or_default();
        if !all.is_empty() {
            all.push(' ');
        }
        all.push_str(value);
    }
    found
}

/// What systemd says of a unit, in a folder of its own.
fn analyze(unit: &str, words: &[&str]) -> (bool, String) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("cloakroom.service");
    std::fs::write(&file, unit).unwrap();
    told(Command::new("systemd-analyze").args(words).arg(file).env("SYSTEMD_LOG_LEVEL", "warning"))
}

/// The exposure that systemd sees, from 0 to 10.
fn exposure(unit: &str) -> f64 {
    let (_, said) = analyze(unit, &["security", "--offline=true", "--no-pager"]);
    let figure =
        said.split("Overall exposure level for cloakroom.service: ").nth(1).unwrap_or_else(|| panic!("{said}"));
    figure.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn the_unit_is_valid_and_leaves_little_open_o_08() {
    if !needs::at_hand(&["systemd-analyze"], None) {
        return;
    }
    let unit = text(UNIT);
    let installed = unit.replace("/usr/bin/cloakroom", PROGRAM);
    let (is_good, said) = analyze(&installed, &["verify", "--man=no"]);
    assert!(is_good && said.trim().is_empty(), "{said}");
    // It finds what it should.
    let (is_good, said) = analyze(&installed.replace("Restart=on-failure", "Restart=perhaps"), &["verify", "--man=no"]);
    assert!(!is_good || !said.trim().is_empty(), "a word that is none was taken");

    let figure = exposure(&unit);
    assert!(figure <= 1.5, "the unit leaves {figure} of 10 open");
    let without = unit.lines().filter(|line| !line.starts_with("SystemCallFilter")).collect::<Vec<_>>().join("\n");
    assert!(exposure(&without) > figure, "a unit without a filter is no better");
    if told(Command::new("systemd-analyze").arg("--version")).1.starts_with(VERSION) {
        let said = format!("`systemd-analyze security` gives it {figure:.1} of 10");
        assert!(page(PAGE).contains(&said), "{PAGE} does not say: {said}");
    }
}

#[test]
fn the_unit_takes_from_the_vault_what_the_page_says_o_08() {
    let settings = settings(&text(UNIT));
    let is = |name: &str, value: &str| assert_eq!(settings.get(name).map(String::as_str), Some(value), "{name}");
    for (name, value) in [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("User", "cloakroom"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("NoNewPrivileges", "yes"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
        ("MemorySwapMax", "0"),
        ("StateDirectoryMode", "0700"),
        ("ProtectSystem", "strict"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("LockPersonality", "yes"),
        ("PrivateDevices", "yes"),
        ("SystemCallArchitectures", "native"),
    ] {
        is(name, value);
    }
    for name in ["KernelTunables", "KernelModules", "KernelLogs", "ControlGroups", "Clock", "Hostname"] {
        is(&format!("Protect{name}"), "yes");
    }
    // Nothing else may be written to: what it writes is below the state directory.
    assert!(!settings.contains_key("ReadWritePaths"));
    assert!(settings["SystemCallFilter"].starts_with("@system-service ~@privileged @resources "));
}

/// The exit statuses of `serve` in the page's table, and what a supervisor is to do.
fn statuses() -> Vec<(u8, String)> {
    let page = page(PAGE);
    let table = page.split("| exit status of `serve` |").nth(1).expect("the page has the table");
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| "));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
        (cells[0].parse().unwrap(), cells[2].to_owned())
    })
    .collect()
}

#[test]
fn the_unit_starts_the_vault_anew_exactly_when_the_page_says_so() {
    let settings = settings(&text(UNIT));
    assert_eq!(settings["Restart"], "on-failure");
    let prevented: Vec<u8> = settings["RestartPreventExitStatus"].split(' ').map(|one| one.parse().unwrap()).collect();
    let statuses = statuses();
    assert_eq!(statuses.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [0, 1, 2, 74]);
    for (status, advice) in statuses {
        match advice.as_str() {
            // A success is none of `on-failure`'s business.
            "" => assert_eq!(status, 0),
            advice if advice.starts_with("don't restart") => assert!(prevented.contains(&status), "{status}: {advice}"),
            advice => assert!(advice.starts_with("restart") && !prevented.contains(&status), "{status}: {advice}"),
        }
    }
    // For as long as it takes, and not at once.
    assert_eq!((settings["StartLimitIntervalSec"].as_str(), settings["RestartSec"].as_str()), ("0", "5s"));
}
