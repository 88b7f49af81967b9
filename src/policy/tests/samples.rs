//! The sample policies do what their comments and the documents say, and nothing else.

use super::super::roles::Roles;
use super::*;

fn load(files: &[(&str, &str)]) -> Policy {
    let roles = roles(&[
        ("gateway", &["spiffe://a.example/gateway"]),
        ("payments", &["spiffe://a.example/payments"]),
        ("auditor", &["spiffe://a.example/auditor"]),
        ("operator", &["spiffe://a.example/operator"]),
    ]);
    let rulebook = Rulebook::load(scopes(&["pan", "ssn", "email"]), &roles, sources(files), &domains()).unwrap();
    assert_eq!(rulebook.warnings(), []);
    Policy::new(rulebook)
}

/// Everything that is allowed, one line each.
fn allowed(policy: &Policy) -> Vec<String> {
    let mut lines = Vec::new();
    for name in ["gateway", "payments", "auditor", "operator", "stranger"] {
        for (verb, place) in questions() {
            for (reveal, purpose) in [(Reveal::Full, "refund"), (Reveal::Masked, "refund"), (Reveal::Full, "")] {
                let path = place.map(|place| Path::parse(place).unwrap());
                let resource = path.as_ref().map_or(Resource::Vault, Resource::Scope);
                let context = Context { purpose, reveal, ..CONTEXT };
                let here = caller(&format!("spiffe://a.example/{name}"));
                let there = caller(&format!("spiffe://b.example/{name}"));
                assert!(ask(policy, verb, &there, resource, &context).is_err());
                if let Ok(ids) = ask(policy, verb, &here, resource, &context) {
                    lines.push(format!(
                        "{name} {} {} {reveal:?} {purpose:?} {ids:?}",
                        verb.name(),
                        place.unwrap_or("vault")
                    ));
                }
            }
        }
    }
    lines
}

fn questions() -> Vec<(Verb, Option<&'static str>)> {
    let on = |verb: Verb| if verb.concerns_vault() { vec![None] } else { ["pan", "ssn", "email"].map(Some).to_vec() };
    Verb::ALL.into_iter().flat_map(|verb| on(verb).into_iter().map(move |place| (verb, place))).collect()
}

fn three(line: &str, id: &str) -> [String; 3] {
    [r#"Full "refund""#, r#"Masked "refund""#, r#"Full """#].map(|how| format!("{line} {how} [{id:?}]"))
}

#[test]
fn they_allow_what_the_documents_say_and_no_more_z_01() {
    let mut expected = Vec::new();
    for scope in ["pan", "ssn", "email"] {
        expected.extend(three(&format!("gateway tokenize {scope}"), &format!("gateway-tokenizes-{scope}")));
    }
    expected.extend([
        r#"payments detokenize pan Full "refund" ["payments-reads-pan"]"#.to_string(),
        r#"payments detokenize pan Masked "refund" ["payments-reads-pan"]"#.to_string(),
        r#"payments detokenize ssn Masked "refund" ["payments-sees-ssn-masked"]"#.to_string(),
    ]);
    expected.extend(three("auditor queryAudit vault", "auditor-queries-audit"));
    for verb in ["inspect", "renew", "revoke"] {
        for scope in ["pan", "ssn", "email"] {
            expected.extend(three(&format!("operator {verb} {scope}"), "operator-cares-for-tokens"));
        }
    }
    expected.extend(three("operator administer vault", "operator-administers"));
    assert_eq!(allowed(&load(sample::FILES)), expected);
}

#[test]
fn without_any_one_of_them_less_is_allowed_z_01() {
    let all = allowed(&load(sample::FILES));
    let mut left_out = 0;
    for (file, text) in sample::FILES {
        for (at, _) in text.match_indices("@id(") {
            let end = at + text[at..].find(';').unwrap() + 1;
            let without = format!("{}{}", &text[..at], &text[end..]);
            let files: Vec<_> =
                sample::FILES.iter().map(|f| if f.0 == *file { (f.0, &*without) } else { *f }).collect();
            // A file that lost its only policy is a warning; the rest of the set must still load.
            let roles = roles(&[
                ("gateway", &["spiffe://a.example/gateway"]),
                ("payments", &["spiffe://a.example/payments"]),
                ("auditor", &["spiffe://a.example/auditor"]),
                ("operator", &["spiffe://a.example/operator"]),
            ]);
            let rulebook =
                Rulebook::load(scopes(&["pan", "ssn", "email"]), &roles, sources(&files), &domains()).unwrap();
            let fewer = allowed(&Policy::new(rulebook));
            assert!(fewer.len() < all.len() && fewer.iter().all(|line| all.contains(line)), "{}", &text[at..end]);
            left_out += 1;
        }
    }
    assert_eq!(left_out, 8);
}

#[test]
fn every_word_of_the_vocabulary_can_be_asked_of_cedar() {
    // A request that does not conform to the schema would be decided by policies that were checked against another one.
    let path = Path::parse("acme/ssn").unwrap();
    for verb in Verb::ALL {
        let resource = if verb.concerns_vault() { Resource::Vault } else { Resource::Scope(&path) };
        let id = SpiffeId::parse("spiffe://a.example/x").unwrap();
        let who = schema::Kin::of_caller(&id, &Roles::default());
        let on = schema::Kin::of_resource(resource);
        let context = cedar_policy::Context::from_pairs(schema::context(&CONTEXT)).unwrap();
        let known = Some(schema::VALIDATOR.schema());
        cedar_policy::Request::new(who.uid.clone(), schema::action(verb), on.uid.clone(), context, known).unwrap();
        cedar_policy::Entities::from_entities([who.into_entity(), on.into_entity()], known).unwrap();
    }
}

#[test]
fn the_policies_in_the_documents_load() {
    let text = include_str!("../../../docs/policy.md");
    let blocks = text.split("```cedar\n").skip(1).filter_map(|block| block.split("```").next());
    let policies: String = blocks.collect();
    let everyone: Vec<(&str, &[&str])> = ["payments", "acme", "support", "disputes", "migration", "incident"]
        .into_iter()
        .map(|name| (name, &[][..]))
        .collect();
    let rulebook =
        Rulebook::load(scopes(&["pan", "*/ssn"]), &roles(&everyone), sources(&[("docs", &policies)]), &domains());
    assert!(rulebook.is_ok(), "{}", rulebook.err().unwrap());
    assert_eq!(policies.matches("@id(").count(), 8);
}

#[test]
fn the_expectations_in_the_documents_can_be_read() {
    let text = include_str!("../../../docs/policy.md");
    let blocks = text.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
    let found: Vec<_> = blocks.filter(|block| block.contains("[[expect]]")).collect();
    assert_eq!(found.len(), 1);
    let expectations = Expectation::parse("docs", found[0]).unwrap();
    assert!(sample::TESTS.1.contains(&format!("scope = \"{}\"", expectations[0].call.path.as_ref().unwrap())));
}

#[test]
fn every_kind_of_finding_is_in_the_documents() {
    let text = include_str!("../../../docs/policy.md");
    let source = include_str!("../findings.rs");
    let words: Vec<_> =
        source.split("Self::").filter_map(|part| part.split_once(" => \"")?.1.split('"').next()).collect();
    assert_eq!(words.len(), 9, "{words:?}");
    assert!(words.iter().all(|word| text.contains(&format!("| `{word}` |"))), "{words:?}");
}
