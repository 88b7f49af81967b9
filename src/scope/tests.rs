use super::*;

fn opaque(prefix: &str) -> Settings {
    Settings { prefix: Some(prefix.into()), ..Settings::default() }
}

fn load(names: &[&str]) -> Result<Scopes, Vec<Mistake>> {
    Scopes::load(&names.iter().map(|name| (name.to_string(), opaque("t"))).collect())
}

fn resolved(scopes: &Scopes, path: &str) -> Option<String> {
    scopes.resolve(&Path::parse(path).unwrap()).map(|scope| scope.pattern().to_string())
}

fn mistakes(settings: Settings) -> Vec<(String, String)> {
    let found = settings.build("pan").unwrap_err();
    assert!(found.iter().all(|mistake| !mistake.hint.is_empty()));
    found.into_iter().map(|mistake| (mistake.key, mistake.what)).collect()
}

#[test]
fn defaults_are_those_of_the_documents() {
    let scope = opaque("pan").build("pan").unwrap();
    assert_eq!(scope.ttl(), Duration::from_hours(30 * 24));
    assert_eq!(scope.max_ttl(), Duration::from_hours(400 * 24));
    assert_eq!(scope.max_value_bytes(), 65_536);
    assert_eq!(scope.mask(), Mask::new(0, 0));
    assert!(scope.purpose_required());
}

#[test]
fn written_settings_are_read() {
    let settings: Settings = toml::from_str(
        r#"
        format = "opaque"
        prefix = "pan"
        ttl = "90s"
        max_ttl = "1h"
        max_value_bytes = 1048576
        mask = { keep_first = 6, keep_last = 4 }
        purpose_required = false
        "#,
    )
    .unwrap();
    let scope = settings.build("*/pan").unwrap();
    assert_eq!(scope.ttl(), Duration::from_secs(90));
    assert_eq!(scope.max_ttl(), Duration::from_hours(1));
    assert_eq!(scope.max_value_bytes(), 1 << 20);
    assert_eq!(scope.mask(), Mask::new(6, 4));
    assert!(!scope.purpose_required());
    assert!(toml::from_str::<Settings>("convergent = true").is_err(), "an option that does not exist is refused");
    assert!(toml::from_str::<Settings>("mask = { keep = 4 }").is_err());
}

#[test]
fn a_uuid_has_no_prefix() {
    let uuid = || Settings { format: Some("uuid".into()), ..Settings::default() };
    assert_eq!(*uuid().build("id").unwrap().format(), token::Format::Uuid);
    let found = mistakes(Settings { prefix: Some("id".into()), ..uuid() });
    let what = "stands with `format = \"uuid\"`, whose tokens have no room for one".to_string();
    assert_eq!(found, [("scopes.pan.prefix".to_string(), what)]);
}

#[test]
fn every_mistake_is_named_at_once() {
    let settings = Settings {
        format: Some("digits".into()),
        ttl: Some("soon".into()),
        max_ttl: Some("0s".into()),
        max_value_bytes: Some((1 << 20) + 1),
        ..opaque("PAN")
    };
    let keys: Vec<_> = settings.build("a//b").unwrap_err().into_iter().map(|mistake| mistake.key).collect();
    let stem = "scopes.\"a//b\"";
    assert_eq!(
        keys,
        [
            stem.to_string(),
            format!("{stem}.format"),
            format!("{stem}.ttl"),
            format!("{stem}.max_ttl"),
            format!("{stem}.max_value_bytes"),
        ]
    );
}

#[test]
fn each_mistake_says_which_setting() {
    let key = |setting: &str| format!("scopes.pan.{setting}");
    assert_eq!(mistakes(Settings::default()), [(key("prefix"), "is missing".into())]);
    assert_eq!(mistakes(opaque("9a")), [(key("prefix"), "is not a prefix".into())]);
    for bad in ["999ms", "36526d", "1s 1ns"] {
        let settings = Settings { ttl: Some(bad.into()), max_ttl: Some("36525d".into()), ..opaque("pan") };
        assert_eq!(mistakes(settings), [(key("ttl"), format!("`{bad}` is not a lifetime"))]);
    }
    for (ttl, max_ttl) in [("1s", "1s"), ("1s 1ms", "30d"), ("36525d", "36525d")] {
        let settings = Settings { ttl: Some(ttl.into()), max_ttl: Some(max_ttl.into()), ..opaque("pan") };
        let scope = settings.build("pan").unwrap();
        assert_eq!(scope.ttl(), humantime::parse_duration(ttl).unwrap());
        assert_eq!(scope.max_ttl(), humantime::parse_duration(max_ttl).unwrap());
    }
    let settings = Settings { max_ttl: Some("1d".into()), ..opaque("pan") };
    let what = "the default lifetime of 30d is above the ceiling of 1d".to_string();
    assert_eq!(mistakes(settings), [(key("ttl"), what)]);
    let settings = Settings { max_value_bytes: Some(0), ..opaque("pan") };
    assert_eq!(mistakes(settings), [(key("max_value_bytes"), "0 bytes is out of range".into())]);
}

#[test]
fn the_mistakes_of_all_scopes_are_told_together() {
    let settings = [("a", Settings::default()), ("b", opaque("b")), ("c", opaque("9"))];
    let found = Scopes::load(&settings.map(|(name, settings)| (name.to_owned(), settings)).into()).unwrap_err();
    let keys: Vec<_> = found.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(keys, ["scopes.a.prefix", "scopes.c.prefix"]);
}

#[test]
fn exact_beats_pattern_and_the_more_specific_pattern_wins() {
    let scopes = load(&["acme/ssn", "*/ssn", "*/*", "pan", "*/eu/*", "*/eu/ssn"]).unwrap();
    assert_eq!(resolved(&scopes, "acme/ssn").as_deref(), Some("acme/ssn"));
    assert_eq!(resolved(&scopes, "other/ssn").as_deref(), Some("*/ssn"));
    assert_eq!(resolved(&scopes, "other/pan").as_deref(), Some("*/*"));
    assert_eq!(resolved(&scopes, "pan").as_deref(), Some("pan"));
    assert_eq!(resolved(&scopes, "acme/eu/ssn").as_deref(), Some("*/eu/ssn"));
    assert_eq!(resolved(&scopes, "acme/eu/pan").as_deref(), Some("*/eu/*"));
    assert_eq!(resolved(&scopes, "ssn"), None);
    assert_eq!(resolved(&scopes, "pan/x/y/z"), None);
}

#[test]
fn a_rule_set_does_not_reach_below_its_own_name() {
    let scopes = load(&["acme", "*/eu/ssn"]).unwrap();
    assert_eq!(resolved(&scopes, "acme/ssn"), None);
    let ancestor = |path: &str| scopes.is_ancestor(&Path::parse(path).unwrap());
    assert!(ancestor("any") && ancestor("any/eu") && !ancestor("any/us") && !ancestor("any/eu/ssn"));
}

#[test]
fn patterns_that_tie_are_refused() {
    let found = load(&["acme/*", "*/ssn"]).unwrap_err();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].key, "scopes.\"acme/*\"");
    assert!(found[0].what.contains("`*/ssn`"), "{}", found[0]);
    assert!(load(&["acme/*", "other/*", "*/*"]).is_ok());
}

#[test]
fn canonical_bytes_stand_still_and_tell_every_rule_apart() {
    let one =
        |settings: Settings, name: &str| Scopes::load(&[(name.to_string(), settings)].into()).unwrap().canonical();
    let base = one(opaque("pan"), "pan");
    let expected = concat!(
        "010000000000000001",
        "000370616e00066f7061717565000370616e",
        "000000009a7ec800000000080befc000",
        "00010000000000000000000001",
    );
    assert_eq!(hex::encode(&base), expected);
    let text = |text: &str| Some(text.to_string());
    let others = [
        one(opaque("pan"), "pan2"),
        one(opaque("pam"), "pan"),
        one(Settings { ttl: text("29d"), ..opaque("pan") }, "pan"),
        one(Settings { max_ttl: text("401d"), ..opaque("pan") }, "pan"),
        one(Settings { max_value_bytes: Some(1), ..opaque("pan") }, "pan"),
        one(Settings { mask: Some(MaskSettings { keep_first: 1, keep_last: 0 }), ..opaque("pan") }, "pan"),
        one(Settings { mask: Some(MaskSettings { keep_first: 0, keep_last: 1 }), ..opaque("pan") }, "pan"),
        one(Settings { purpose_required: Some(false), ..opaque("pan") }, "pan"),
        one(Settings { format: text("uuid"), ..Settings::default() }, "pan"),
    ];
    let distinct: std::collections::BTreeSet<_> = others.iter().chain([&base]).collect();
    assert_eq!(distinct.len(), others.len() + 1);
}
