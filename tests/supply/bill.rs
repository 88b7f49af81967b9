//! The bill of materials of a release: whether it is one, and whether it says what the lockfile says.

use super::needs;
use super::tree::{self, Locked, PLATFORM, Package};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// What `deploy/sbom` prints.
fn bill() -> Value {
    let done = Command::new(tree::root().join("deploy/sbom"))
        .arg(PLATFORM)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .current_dir("/")
        .output()
        .expect("deploy/sbom can be started");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("it is JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Something that a bill is spoilt with.
type Change = fn(&mut Value);

/// In what a bill differs from the lockfile and from what cargo builds.
pub fn differences(bill: &Value, locked: &[Locked], packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    let checksums: BTreeMap<(String, String), Option<String>> =
        locked.iter().map(|one| ((one.name.clone(), one.version.clone()), one.checksum.clone())).collect();
    let mut listed = BTreeMap::new();
    for component in list(&bill["components"]) {
        let key = (text(&component["name"]), text(&component["version"]));
        let label = format!("{} {}", key.0, key.1);
        match checksums.get(&key) {
            None => found.push(format!("{label} is not in the lockfile")),
            Some(checksum) if *checksum != component["hashes"][0]["content"].as_str().map(str::to_owned) => {
                found.push(format!("{label} has another checksum in the lockfile"));
            }
            Some(_) => {}
        }
        if text(&component["purl"]) != format!("pkg:cargo/{}@{}", key.0, key.1) {
            found.push(format!("{label} has an address of another package"));
        }
        if listed.insert(key, text(&component["scope"]) == "required").is_some() {
            found.push(format!("{label} is listed twice"));
        }
    }
    let root = &bill["metadata"]["component"];
    for package in packages {
        let key = (package.name.clone(), package.version.clone());
        let label = format!("{} {}", key.0, key.1);
        if package.name == "cloakroom" {
            if (text(&root["name"]), text(&root["version"])) != key {
                found.push(format!("it is not the bill of {label}"));
            }
            continue;
        }
        match listed.remove(&key) {
            None => found.push(format!("{label} is not listed")),
            Some(required) if required != package.is_linked => found.push(format!("{label} is in the wrong scope")),
            Some(_) => {}
        }
    }
    found.extend(listed.keys().map(|(name, version)| format!("{name} {version} is not built into it")));
    let refs: BTreeSet<String> =
        list(&bill["components"]).iter().chain([root]).map(|component| text(&component["bom-ref"])).collect();
    for dependency in list(&bill["dependencies"]) {
        let named = list(&dependency["dependsOn"]).iter().chain([&dependency["ref"]]);
        found.extend(named.map(text).filter(|name| !refs.contains(name)).map(|name| format!("{name} is not there")));
    }
    found
}

/// What a validator of CycloneDX says of it. `None` where there is none.
pub fn validate(bill: &Value, place: &Path) -> Option<(bool, String)> {
    let python = tree::tool("python3");
    if !needs::at_hand(&[python.to_str().expect("the checkout's path is text")], None) {
        return None;
    }
    let file = place.join("bill.json");
    std::fs::write(&file, bill.to_string()).unwrap();
    let done = Command::new(python).arg(tree::root().join("tests/supply/read_back.py")).arg("bill").arg(file).output();
    let done = done.unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    Some((done.status.success(), said))
}

#[test]
fn the_bill_of_materials_is_valid_and_is_what_the_lockfile_says_p_04() {
    let (bill, locked, packages) = (bill(), tree::locked(&tree::lockfile()), tree::packages());
    let found = differences(&bill, &locked, &packages);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    assert_eq!(bill.to_string(), self::bill().to_string(), "the same source has one bill");
    assert_eq!(bill["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    let unlicensed: Vec<String> = list(&bill["components"])
        .iter()
        .filter(|one| one["licenses"].is_null())
        .map(|one| text(&one["name"]))
        .collect();
    println!(
        "{} components, {} of them in the program; of {} packages in the lockfile the rest is for tests or other platforms; \
         without a licence in their manifest: {unlicensed:?}",
        list(&bill["components"]).len(),
        packages.iter().filter(|package| package.is_linked).count() - 1,
        locked.len(),
    );
    let place = tempfile::tempdir().unwrap();
    let Some((is_valid, said)) = validate(&bill, place.path()) else { return };
    assert!(is_valid, "{said}");
}

#[test]
fn a_bill_that_is_wrong_is_found_p_04() {
    let (bill, locked, packages) = (bill(), tree::locked(&tree::lockfile()), tree::packages());
    let changes: [(&str, Change); 7] = [
        ("another checksum", |bill| bill["components"][3]["hashes"][0]["content"] = json!("00".repeat(32))),
        ("no checksum", |bill| drop(bill["components"][3].as_object_mut().unwrap().remove("hashes"))),
        ("another version", |bill| bill["components"][3]["version"] = json!("0.0.0")),
        ("one less", |bill| drop(bill["components"].as_array_mut().unwrap().remove(3))),
        ("one twice", |bill| {
            let again = bill["components"][3].clone();
            bill["components"].as_array_mut().unwrap().push(again);
        }),
        ("another scope", |bill| {
            let component = &mut bill["components"][3];
            component["scope"] = json!(if component["scope"] == "required" { "excluded" } else { "required" });
        }),
        ("another program", |bill| bill["metadata"]["component"]["version"] = json!("9.9.9")),
    ];
    for (what, change) in changes {
        let mut wrong = bill.clone();
        change(&mut wrong);
        assert!(!differences(&wrong, &locked, &packages).is_empty(), "{what} was not found");
    }
    let place = tempfile::tempdir().unwrap();
    for (what, pointer, value) in [
        ("a type that does not exist", "/components/3/type", json!("thing")),
        ("a hash that is none", "/components/3/hashes/0/content", json!("xyz")),
        ("a number that is none", "/serialNumber", json!("1")),
        ("a format of somebody else", "/bomFormat", json!("SPDX")),
    ] {
        let mut wrong = bill.clone();
        *wrong.pointer_mut(pointer).expect("it is there") = value;
        let Some((is_valid, said)) = validate(&wrong, place.path()) else { return };
        assert!(!is_valid, "{what} was not found");
        assert!(!said.contains("Traceback"), "{said}");
    }
}
