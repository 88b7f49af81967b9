//! O-09: the alerts and the dashboard: they ask for what there is, and each alert fires when it should, keeps quiet before, and leads to
//! a page that says what to do.

use super::super::{needs, tree};
use super::{documented, list, metrics, page, place, text, told, undocumented, yaml};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

const ALERTS: &str = "prometheus/alerts.yml";
const TESTS: &str = "prometheus/alerts_test.yml";
const DASHBOARD: &str = "grafana/cloakroom.json";

/// Of Debian's package, where `deploy/setup` puts it or where it is installed.
fn promtool() -> Option<PathBuf> {
    let ours = tree::tool("promtool");
    if ours.exists() {
        return Some(ours);
    }
    needs::at_hand(&["promtool"], None).then(|| PathBuf::from("promtool"))
}

/// The alerts with their rules.
fn alerts() -> Option<Vec<Value>> {
    let documents = yaml(&place(ALERTS))?;
    Some(list(&documents[0]["groups"]).iter().flat_map(|group| list(&group["rules"]).to_vec()).collect())
}

fn name(alert: &Value) -> &str {
    alert["alert"].as_str().expect("all rules are alerts")
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    let Some(promtool) = promtool() else { return };
    let (is_good, said) = told(Command::new(&promtool).args(["check", "rules"]).arg(place(ALERTS)));
    assert!(is_good && said.contains("SUCCESS"), "{said}");
    let (is_good, said) = told(Command::new(&promtool).args(["test", "rules"]).arg(place(TESTS)));
    assert!(is_good && said.contains("SUCCESS"), "{said}");
    // A rule that never fires, and one that always does, are found.
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(place(TESTS), folder.path().join("alerts_test.yml")).unwrap();
    for (from, to) in [("cloakroom_purge_lag_seconds > 3600", "cloakroom_purge_lag_seconds > 36000"), ("== 0", ">= 0")]
    {
        std::fs::write(folder.path().join("alerts.yml"), text(ALERTS).replacen(from, to, 1)).unwrap();
        let (is_good, _) =
            told(Command::new(&promtool).args(["test", "rules"]).arg(folder.path().join("alerts_test.yml")));
        assert!(!is_good, "{to} was not found");
    }
}

#[test]
fn each_alert_is_shown_firing_and_leads_to_its_page() {
    let (Some(alerts), Some(tests)) = (alerts(), yaml(&place(TESTS))) else { return };
    let operations = page("docs/operations.md");
    let (mut quiet, mut firing) = (BTreeSet::new(), BTreeSet::new());
    for test in list(&tests[0]["tests"]).iter().flat_map(|test| list(&test["alert_rule_test"])) {
        let name = test["alertname"].as_str().unwrap().to_owned();
        if list(&test["exp_alerts"]).is_empty() {
            quiet.insert(name)
        } else {
            firing.insert(name)
        };
    }
    let names: BTreeSet<String> = alerts.iter().map(|alert| name(alert).to_owned()).collect();
    assert_eq!(names.len(), alerts.len(), "a name is there twice");
    assert_eq!((&quiet, &firing), (&names, &names), "{TESTS} must show each alert quiet, and firing");
    for alert in &alerts {
        let name = name(alert);
        let annotation =
            |word: &str| alert["annotations"][word].as_str().unwrap_or_else(|| panic!("{name}: no {word}"));
        assert!(["warning", "critical"].contains(&alert["labels"]["severity"].as_str().unwrap_or_default()), "{name}");
        assert!(
            annotation("summary").contains("$labels.instance") && annotation("description").ends_with('.'),
            "{name}"
        );
        assert_eq!(annotation("runbook"), format!("docs/operations.md#{}", name.to_lowercase()), "{name}");
        let section = operations.split("\n### ").find(|section| section.lines().next() == Some(name));
        let section = section.unwrap_or_else(|| panic!("docs/operations.md has no section {name}"));
        assert!(section.contains('`'), "{name}: the section names no command");
    }
    // And no section for an alert that is not there.
    let headings = operations.lines().filter_map(|line| line.strip_prefix("### Cloakroom"));
    assert_eq!(headings.map(|rest| format!("Cloakroom{rest}")).collect::<BTreeSet<_>>(), names);
}

/// The program that this was built with.
const PROGRAM: &str = env!("CARGO_BIN_EXE_cloakroom");

#[test]
fn the_commands_that_the_alerts_lead_to_are_there() {
    let operations = page("docs/operations.md");
    let section = operations.split("\n## Alerts\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let quoted = section.split('`').skip(1).step_by(2);
    let commands: BTreeSet<&str> = quoted.filter_map(|words| words.strip_prefix("cloakroom ")).collect();
    assert!(commands.len() > 6, "{commands:?}");
    for command in commands {
        // Whoever asks for help at the end has all words before it looked at first.
        let words = command.split(' ').chain(["--help"]);
        let (is_good, said) = told(Command::new(PROGRAM).args(words).env_remove("CLOAKROOM_PROFILE"));
        assert!(is_good, "cloakroom {command}: {said}");
    }
    let (is_good, _) = told(Command::new(PROGRAM).args(["audit", "query", "--sinse", "1h", "--help"]));
    assert!(!is_good, "a word that is none was taken");
}

#[test]
fn the_alerts_ask_for_what_there_is() {
    let (alerts, tests) = (metrics(&text(ALERTS)), metrics(&text(TESTS)));
    assert!(alerts.len() > 15, "{alerts:?}");
    assert_eq!(undocumented(&alerts), [""; 0], "in {ALERTS}");
    assert_eq!(undocumented(&tests), [""; 0], "in {TESTS}");
    // The search finds one that is not there, and knows the series of a histogram.
    assert_eq!(undocumented(&metrics("rate(cloakroom_nonsense_total[5m])")), ["cloakroom_nonsense_total"]);
    assert_eq!(undocumented(&metrics("cloakroom_commit_seconds_bucket")), [""; 0]);
    assert_eq!(undocumented(&metrics("cloakroom_tokens_bucket")), ["cloakroom_tokens_bucket"]);
}

/// Every expression of the dashboard, with the title of its panel.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let panels = list(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row");
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().expect("a panel has a title").to_owned();
        let targets = list(&panel["targets"]).to_vec();
        assert!(!targets.is_empty(), "{title} shows nothing");
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    };
    panels.flat_map(of_panel).collect()
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).unwrap();
    let panels = list(&dashboard["panels"]);
    let numbers: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(numbers.len(), panels.len(), "a panel's number is there twice");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let side = |word: &str| panel["gridPos"][word].as_u64().unwrap_or_else(|| panic!("{panel}"));
        assert!(side("x") + side("w") <= 24, "{} is wider than the page", panel["title"]);
        for cell in (0..side("w")).flat_map(|x| (0..side("h")).map(move |y| (x, y))) {
            assert!(taken.insert((side("x") + cell.0, side("y") + cell.1)), "{} lies on another", panel["title"]);
        }
        let is_ours = panel["type"] == "row" || panel["datasource"]["uid"] == "${datasource}";
        assert!(is_ours, "{} asks a data source of its own", panel["title"]);
    }
    let expressions = expressions(&dashboard);
    let shown = metrics(&text(DASHBOARD));
    assert_eq!(undocumented(&shown), [""; 0], "in {DASHBOARD}");
    // All that there is can be seen.
    let missing: Vec<String> = documented()
        .into_iter()
        .filter(|name| !["", "_bucket", "_sum"].iter().any(|end| shown.contains(&format!("{name}{end}"))))
        .collect();
    assert!(missing.is_empty(), "{DASHBOARD} does not show {missing:?}");
    // Prometheus itself reads every expression, each as a rule of its own.
    let Some(promtool) = promtool() else { return };
    let rule = |(number, (title, expression)): (usize, &(String, String))| {
        assert!(expression.contains("instance=~\"$instance\""), "{title} is not about the vaults that were chosen");
        let plain = expression.replace("$instance", ".*").replace("$__rate_interval", "5m");
        json!({ "record": format!("panel:{number}"), "expr": plain })
    };
    let rules: Vec<Value> = expressions.iter().enumerate().map(rule).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    std::fs::write(&file, json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string()).unwrap();
    let (is_good, said) = told(Command::new(promtool).args(["check", "rules"]).arg(file));
    assert!(is_good && said.contains(&format!("{} rules found", expressions.len())), "{said}");
}
