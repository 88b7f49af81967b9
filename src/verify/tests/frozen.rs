//! Frozen exports, bundles and tiles: what they hold, exports hold.

use super::made::{holds, trusting};
use crate::merkle::note::{LogKey, Name};
use crate::secret::SecretKey;
use crate::verify::{Settings, lines, tiles};
use serde_json::Value;
use std::collections::BTreeMap;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/export_v1.json")).unwrap()
}

fn settings(vectors: &Value) -> Settings {
    Settings { keys: vec![vectors["vkey"].as_str().unwrap().parse().unwrap()], ..trusting(&[]) }
}

#[test]
fn frozen_exports_hold() {
    let vectors = vectors();
    assert_eq!(vectors["exports"].as_array().unwrap().len(), 4);
    for frozen in vectors["exports"].as_array().unwrap() {
        let written: Vec<&str> =
            frozen["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        let text = written.join("\n") + "\n";
        let report = lines(&settings(&vectors), text.as_bytes(), |_| {}).unwrap();
        holds(&report);
        assert_eq!(report.entries, frozen["entries"].as_u64().unwrap());
        assert_eq!(report.vouched.unwrap().root.to_string(), frozen["root"].as_str().unwrap());
    }
}

#[test]
fn frozen_tiles_hold() {
    let vectors = vectors();
    let files: BTreeMap<&str, Vec<u8>> = vectors["files"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, content)| (path.as_str(), hex::decode(content.as_str().unwrap()).unwrap()))
        .collect();
    let report = tiles(&settings(&vectors), |path| Ok(files.get(path).cloned()), |_, _| {}).unwrap();
    holds(&report);
}

#[test]
fn the_frozen_key_is_of_the_frozen_seed() {
    let vectors = vectors();
    let seed = hex::decode(vectors["seed"].as_str().unwrap()).unwrap();
    let name = Name::new(vectors["log"].as_str().unwrap()).unwrap();
    let key = LogKey::from_seed(name, &SecretKey::new(seed.try_into().unwrap()));
    assert_eq!(key.verifier().to_string(), vectors["vkey"].as_str().unwrap());
}
