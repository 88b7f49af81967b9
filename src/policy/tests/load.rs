//! Every mistake in a rulebook is found, with its file, line and column.

use super::*;

fn load(files: &[(&str, &str)]) -> Result<Rulebook, RulebookErrors> {
    let roles = roles(&[("auditor", &[]), ("gateway", &["spiffe://a.example/gateway"]), ("payments", &[PAYMENTS])]);
    Rulebook::load(scopes(&["pan", "ssn", "acme/ssn", "*/eu/card"]), &roles, sources(files), &domains())
}

/// Each mistake as `place: what | hint`.
fn mistakes(files: &[(&str, &str)]) -> Vec<String> {
    let errors = load(files).map(|_| ()).unwrap_err();
    errors.mistakes().iter().map(|m| format!("{}: {} | {}", m.place, m.what, m.hint)).collect()
}

fn only(text: &str) -> String {
    let found = mistakes(&[("a.cedar", text)]);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.into_iter().next().unwrap()
}

fn permit(head: &str) -> String {
    format!("// A comment; with a semicolon.\n\n@id(\"x\")\npermit (\n  {head}\n);\n")
}

/// A policy that would overflow the stack would end the vault that loads it.
#[test]
fn a_policy_that_is_too_deep_is_a_mistake_i_01() {
    let policy = |condition: &str| format!("@id(\"x\") permit (principal, action, resource) when {{ {condition} }};");
    let nested =
        |open: &str, close: &str, depth: usize| policy(&format!("{}true{}", open.repeat(depth), close.repeat(depth)));
    let chain = |link: &str, count: usize| policy(&format!("true{}", link.repeat(count)));
    for depth in [140, 1_000, 100_000] {
        let texts = [
            nested("(", ")", depth),
            nested("[", "]", depth),
            nested("{a:", "}", depth),
            nested("if true then ", " else true", 3 * depth),
            chain(" && true", 3 * depth),
            chain(" || true", 3 * depth),
            chain(".a", 6 * depth),
            chain("[\"a\"]", 6 * depth),
            chain(" } when { true", 3 * depth),
        ];
        for text in texts {
            assert!(only(&text).contains("is too deep or too long for one policy"), "{}", &text[..80]);
        }
    }
    // What is allowed fits, all of it at once: into the stack of a test's thread, which is that of the vault's.
    let deepest = format!("{}true{}{}", "(".repeat(28), " && true".repeat(140), ")".repeat(28));
    assert!(load(&[("a.cedar", &policy(&deepest))]).is_ok());
    let long = load(&[("a.cedar", &chain(" || context.purpose == \"a\"", 140))]);
    let said = long.err().map(|errors| errors.to_string()).unwrap_or_default();
    assert!(!said.contains("too deep"), "{said}");
}

#[test]
fn an_unknown_role_is_named_with_its_nearest() {
    let text = permit(r#"principal in Cloakroom::Role::"paymnets", action, resource"#);
    assert_eq!(only(&text), "a.cedar:5:16: unknown role `paymnets` | did you mean `payments`?");
    let text = permit(r#"principal in Cloakroom::Role::"billing", action, resource"#);
    assert_eq!(only(&text), "a.cedar:5:16: unknown role `billing` | known: `auditor`, `gateway`, `payments`");
}

#[test]
fn an_unknown_scope_is_named_with_its_nearest() {
    let text = permit(r#"principal, action, resource == Cloakroom::Scope::"pam""#);
    assert_eq!(only(&text), "a.cedar:5:34: unknown scope `pam` | did you mean `pan`?");
    let text = permit(r#"principal, action, resource in Cloakroom::Scope::"Acme""#);
    assert!(only(&text).starts_with("a.cedar:5:34: unknown scope `Acme` |"), "{}", only(&text));
    let text = permit(r#"principal, action, resource == Cloakroom::Scope::"acme""#);
    let expected = "a.cedar:5:34: unknown scope `acme` | \
                    there are only scopes under it; write `resource in` to mean all of them";
    assert_eq!(only(&text), expected);
    for fine in ["resource in Cloakroom::Scope::\"acme\"", "resource == Cloakroom::Scope::\"any/eu/card\""] {
        assert!(load(&[("a.cedar", &permit(&format!("principal, action, {fine}")))]).is_ok(), "{fine}");
    }
}

#[test]
fn names_in_conditions_are_checked_too() {
    let text =
        "@id(\"x\") permit (principal, action, resource)\nwhen { !(principal in Cloakroom :: Role\n :: \"ops\") };";
    assert!(only(text).starts_with("a.cedar:2:23: unknown role `ops` |"), "{}", only(text));
}

#[test]
fn workloads_and_trust_domains_must_be_possible() {
    let text = permit(r#"principal == Cloakroom::Workload::"spiffe://c.example/x", action, resource"#);
    assert_eq!(only(&text), "a.cedar:5:16: unknown trust domain `c.example` | did you mean `a.example`?");
    let text = permit(r#"principal == Cloakroom::Workload::"spiffe://a.example/*", action, resource"#);
    assert!(only(&text).starts_with("a.cedar:5:16: `spiffe://a.example/*` is not a SPIFFE ID |"), "{}", only(&text));
    let text = permit(r#"principal in Cloakroom::TrustDomain::"elsewhere", action, resource"#);
    assert!(only(&text).starts_with("a.cedar:5:16: unknown trust domain `elsewhere` |"), "{}", only(&text));
}

#[test]
fn an_unknown_action_is_named_with_its_nearest() {
    let text = permit(r#"principal, action == Cloakroom::Action::"detokenise", resource"#);
    assert_eq!(only(&text), "a.cedar:5:24: unknown action `detokenise` | did you mean `detokenize`?");
}

#[test]
fn an_unknown_type_is_refused_by_the_schema() {
    let text = permit(r#"principal in Cloakroom::Group::"x", action, resource"#);
    // Cedar's hint names one of our types, not always the same.
    assert!(only(&text).starts_with("a.cedar:5:16: unrecognized entity type `Cloakroom::Group` |"), "{}", only(&text));
}

#[test]
fn there_is_one_vault() {
    let text = permit(r#"principal, action, resource == Cloakroom::Vault::"volt""#);
    assert_eq!(only(&text), "a.cedar:5:34: unknown vault `volt` | write `Cloakroom::Vault::\"vault\"`");
}

#[test]
fn an_unknown_attribute_is_refused_where_it_stands() {
    let text = "@id(\"x\")\npermit (principal, action, resource)\nwhen { context.porpoise != \"\" };\n";
    assert_eq!(only(text), "a.cedar:3:8: there is no `context.porpoise` | did you mean `purpose`?");
}

#[test]
fn a_wrong_type_is_refused() {
    let text = "@id(\"x\")\npermit (principal, action, resource)\nwhen { context.purpose > 3 };\n";
    assert_eq!(
        only(text),
        "a.cedar:3:8: unexpected type: expected Long but saw String | docs/policy.md has the whole vocabulary"
    );
}

#[test]
fn a_policy_that_can_never_apply_is_refused() {
    let text = permit(r#"principal, action == Cloakroom::Action::"detokenize", resource == Cloakroom::Vault::"vault""#);
    assert_eq!(
        only(&text),
        "a.cedar:3:1: the policy can never apply | check that its action goes with its resource (docs/policy.md) and \
                    that its condition can hold"
    );
}

#[test]
fn a_policy_without_an_id_is_refused_at_its_first_line() {
    let text = "// Why.\npermit (principal, action, resource);\n";
    assert_eq!(
        only(text),
        "a.cedar:2:1: the policy has no @id | write one before it, like `@id(\"payments-read-pan\")`"
    );
    let text = "\n@id(\"a b\")\npermit (principal, action, resource);\n";
    assert!(only(text).starts_with("a.cedar:2:1: the policy's @id is not one that events can carry |"));
}

#[test]
fn an_id_is_taken_across_files() {
    let text = "@id(\"x\")\npermit (principal, action, resource);\n";
    let found = mistakes(&[("b.cedar", &format!("// First a comment.\n{text}")), ("a.cedar", text)]);
    assert_eq!(found, ["b.cedar:2:1: @id `x` is taken | the other one stands at a.cedar:1:1"]);
}

#[test]
fn a_template_is_refused() {
    let text = permit("principal == ?principal, action, resource");
    assert_eq!(
        only(&text),
        "a.cedar:5:16: expected a static policy, got a template containing the slot ?principal | try removing the template slot(s) from this policy"
    );
}

#[test]
fn a_syntax_error_does_not_hide_the_mistakes_around_it_z_09() {
    let text = concat!(
        "@id(\"one\") permit (principal in Cloakroom::Role::\"gatewy\", action, resource);\n",
        "@id(\"two\") permit (principal, actoin, resource);\n",
        "@id(\"three\") permit (principal, action, resource == Cloakroom::Scope::\"emial\");\n",
        "permit (principal, action, resource\n",
    );
    let places: Vec<_> =
        mistakes(&[("a.cedar", text)]).iter().map(|m| m.split(": ").next().unwrap().to_string()).collect();
    assert_eq!(places, ["a.cedar:1:33", "a.cedar:2:31", "a.cedar:3:53", "a.cedar:4:36"]);
}

#[test]
fn an_empty_file_is_refused_and_an_empty_directory_allows_nothing_z_09() {
    let hint = "write a policy, or a comment that says why there is none, or remove the file";
    assert_eq!(only(" \n"), format!("a.cedar: is empty | {hint}"));
    let none = load(&[]).unwrap();
    assert_eq!(none.warnings(), [Warning::NothingAllowed]);
    let comment = load(&[("a.cedar", "// Nothing yet.")]).unwrap();
    assert_eq!(comment.warnings(), [Warning::NothingAllowed, Warning::NoPolicyIn { file: "a.cedar".into() }]);
    for rulebook in [none, comment] {
        let policy = Policy::new(rulebook);
        let path = Path::parse("pan").unwrap();
        for verb in Verb::ALL {
            let resource = if verb.concerns_vault() { Resource::Vault } else { Resource::Scope(&path) };
            let answer = ask(&policy, verb, &caller(PAYMENTS), resource, &CONTEXT);
            assert_eq!(answer, Err((Refusal::NotAllowed, vec![])));
        }
    }
}

#[test]
fn mistakes_in_roles_and_policies_come_together() {
    let bad = roles(&[("payments", &["spiffe://a.example/pay*"]), ("a b", &[])]);
    let text = permit(r#"principal in Cloakroom::Role::"payment", action, resource"#);
    let errors =
        Rulebook::load(scopes(&["pan"]), &bad, sources(&[("a.cedar", &text)]), &domains()).map(|_| ()).unwrap_err();
    let expected = concat!(
        "3 mistakes in the rulebook:\n",
        "roles.\"a b\": is not a role's name\n",
        "    write up to 64 of a-z, A-Z, 0-9, `_` and `-`\n",
        "roles.payments[0]: `*` stands for one whole segment\n",
        "    write it like `spiffe://example.org/payments` or `spiffe://example.org/*/payments`\n",
        "a.cedar:5:16: unknown role `payment`\n",
        "    did you mean `payments`?",
    );
    assert_eq!(errors.to_string(), expected);
}

#[derive(serde::Deserialize)]
struct Frozen {
    digest: String,
    roles: BTreeMap<String, Vec<String>>,
    scopes: BTreeMap<String, Settings>,
    policies: Vec<(String, String)>,
}

#[test]
fn the_digest_stands_still() {
    let vectors: Vec<Frozen> =
        serde_json::from_str(include_str!("../../../tests/vectors/rulebook_digest.json")).unwrap();
    for vector in vectors {
        let policies: Vec<_> = vector.policies.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
        let scopes = Scopes::load(&vector.scopes).unwrap();
        let rulebook = Rulebook::load(scopes, &vector.roles, sources(&policies), &domains()).unwrap();
        assert_eq!(hex::encode(rulebook.digest()), vector.digest);
    }
}

#[test]
fn the_digest_depends_on_every_rule_and_on_nothing_else() {
    let role: &[(&str, &[&str])] = &[("r", &["spiffe://a.example/x"])];
    let one = "@id(\"x\") permit (principal, action, resource);";
    let digest = |names: &[&str], members: &[(&str, &[&str])], files: &[(&str, &str)]| {
        Rulebook::load(scopes(names), &roles(members), sources(files), &domains()).unwrap().digest()
    };
    let base = digest(&["pan"], role, &[("a.cedar", one)]);
    assert_eq!(base, digest(&["pan"], role, &[("other-name.cedar", one)]));
    let two = "@id(\"y\") permit (principal, action, resource);";
    let order = digest(&["pan"], role, &[("a.cedar", one), ("b.cedar", two)]);
    assert_eq!(order, digest(&["pan"], role, &[("b.cedar", two), ("a.cedar", one)]));
    for other in [
        digest(&["pan", "ssn"], role, &[("a.cedar", one)]),
        digest(&["pan"], &[("s", &["spiffe://a.example/x"])], &[("a.cedar", one)]),
        digest(&["pan"], &[("r", &["spiffe://a.example/y"])], &[("a.cedar", one)]),
        digest(&["pan"], &[("r", &[])], &[("a.cedar", one)]),
        digest(&["pan"], role, &[("a.cedar", &format!("{one} "))]),
        digest(&["pan"], role, &[("a.cedar", &format!("{one}{two}"))]),
        order,
    ] {
        assert_ne!(base, other);
    }
}
