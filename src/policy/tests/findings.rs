//! One case for each kind of finding, and that none of them is untrue.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::oracle::{self, answer};
use super::*;

/// Each finding as `place: [rule] what`.
fn findings(members: &[(&str, &[&str])], names: &[&str], policies: &str) -> Vec<String> {
    let rulebook =
        Rulebook::load(scopes(names), &roles(members), sources(&[("p.cedar", policies)]), &domains()).unwrap();
    let findings = rulebook.findings().unwrap();
    assert!(findings.iter().all(|finding| !finding.hint.is_empty()));
    findings.iter().map(|finding| format!("{}: [{}] {}", finding.place, finding.rule.as_str(), finding.what)).collect()
}

const ROLES: &[(&str, &[&str])] = &[("pay", &["spiffe://a.example/pay"]), ("eu", &["spiffe://a.example/eu/*"])];

fn permit(id: &str, principal: &str, action: &str, resource: &str) -> String {
    let role = |name: &str| format!("principal in Cloakroom::Role::\"{name}\"");
    let principal = if principal.is_empty() { "principal".to_owned() } else { role(principal) };
    let action =
        if action.is_empty() { "action".to_owned() } else { format!("action == Cloakroom::Action::\"{action}\"") };
    format!("@id(\"{id}\") permit ({principal}, {action}, {resource})")
}

const PAN: &str = "resource == Cloakroom::Scope::\"pan\"";

/// Permits that leave nothing to say about roles and scopes.
fn fine() -> String {
    format!("{};\n{};\n", permit("pay", "pay", "detokenize", PAN), permit("eu", "eu", "inspect", PAN))
}

#[test]
fn a_rulebook_in_which_everything_has_a_use_has_none() {
    assert_eq!(findings(ROLES, &["pan"], &fine()), [] as [&str; 0]);
    let files = sample::FILES;
    let roles = roles(&[
        ("gateway", &["spiffe://a.example/gateway"]),
        ("payments", &["spiffe://a.example/payments"]),
        ("auditor", &["spiffe://a.example/auditor"]),
        ("operator", &["spiffe://a.example/operator"]),
    ]);
    let rulebook = Rulebook::load(scopes(&["pan", "ssn", "email"]), &roles, sources(files), &domains()).unwrap();
    assert_eq!(rulebook.findings().unwrap(), []);
}

#[test]
fn nothing_allowed_and_a_file_without_policy() {
    let found = findings(&[], &["pan"], "// Later.");
    assert_eq!(
        found,
        [
            "policies.directory: [no-policy] there is no policy: nobody may do anything",
            "scopes.pan: [unused-scope] nobody may do anything with `pan`",
            "p.cedar: [file-without-policy] p.cedar has no policy, only comments",
        ]
    );
}

#[test]
fn a_policy_for_a_role_that_nobody_holds() {
    let members = [ROLES, &[("ops", &[])]].concat();
    let found = findings(&members, &["pan"], &format!("{}{};", fine(), permit("ops", "ops", "revoke", PAN)));
    assert_eq!(
        found,
        ["roles.ops: [empty-role] nobody holds the role `ops`", "p.cedar:3:1: [unreachable] `ops` can never apply",]
    );
}

#[test]
fn a_policy_whose_conditions_let_nobody_through() {
    let never = format!(
        "{} when {{ principal in Cloakroom::Role::\"eu\" && context.reveal == \"full\" }}",
        permit("x", "pay", "revoke", PAN)
    );
    // The clause reads the call, so nothing is said, though nobody is in both roles: silence is allowed, a wrong word is not.
    assert_eq!(findings(ROLES, &["pan"], &format!("{}{never};", fine())), [] as [&str; 0]);
    let never = format!("{} when {{ principal in Cloakroom::Role::\"eu\" }}", permit("x", "pay", "revoke", PAN));
    let found = findings(ROLES, &["pan"], &format!("{}{never};", fine()));
    assert_eq!(found, ["p.cedar:3:1: [unreachable] `x` can never apply"]);
    let sometimes = format!("{} when {{ principal in Cloakroom::Role::\"eu\" }}", permit("x", "", "revoke", PAN));
    assert_eq!(findings(ROLES, &["pan"], &format!("{}{sometimes};", fine())), [] as [&str; 0]);
}

#[test]
fn an_action_that_the_resource_makes_impossible() {
    let text = "@id(\"x\") permit (principal in Cloakroom::Role::\"pay\", \
                action in [Cloakroom::Action::\"revoke\", Cloakroom::Action::\"queryAudit\"], resource is Cloakroom::Scope);";
    let found = findings(ROLES, &["pan"], &format!("{}{text}", fine()));
    assert_eq!(found, ["p.cedar:3:1: [impossible-action] `x` names `queryAudit`, which can't be done on its resource"]);
}

#[test]
fn a_permit_that_forbids_take_away() {
    let forbid = |id: &str, rest: &str| format!("@id(\"{id}\") forbid (principal, {rest});\n");
    let whole = forbid("no-pan", &format!("action, {PAN}"));
    let found = findings(ROLES, &["pan"], &format!("{}{whole}", permit("pay", "pay", "detokenize", PAN) + ";\n"));
    assert_eq!(
        found,
        [
            "roles.eu: [unused-role] no policy names the role `eu`",
            "scopes.pan: [unused-scope] nobody may do anything with `pan`",
            "p.cedar:1:1: [shadowed] `pay` permits nothing: all of it is forbidden by `no-pan`",
        ]
    );
    // Two forbids together.
    let halves = format!(
        "{}{}",
        forbid("a", "action == Cloakroom::Action::\"renew\", resource"),
        forbid("b", "action == Cloakroom::Action::\"revoke\", resource")
    );
    let two = format!(
        "@id(\"x\") permit (principal, action in [Cloakroom::Action::\"renew\", Cloakroom::Action::\"revoke\"], {PAN});\n"
    );
    let found = findings(ROLES, &["pan"], &format!("{}{two}{halves}", fine()));
    assert_eq!(found, ["p.cedar:3:1: [shadowed] `x` permits nothing: all of it is forbidden by `a` and `b`"]);
    // A forbid with a condition takes nothing away for certain.
    let conditional = "@id(\"no\") forbid (principal, action, resource) when { context.requested > 5 };";
    assert_eq!(findings(ROLES, &["pan"], &format!("{}{conditional}", fine())), [] as [&str; 0]);
}

#[test]
fn a_permit_that_another_implies() {
    let wide = permit("wide", "pay", "", "resource") + ";\n";
    let found = findings(ROLES, &["pan"], &format!("{}{wide}", fine()));
    assert_eq!(
        found,
        ["p.cedar:1:1: [implied] `pay` adds nothing: all that it permits is permitted without a condition by `wide`"]
    );
    // Of two that say the same only one is too much.
    let twice = format!("{}{};\n", fine(), permit("again", "pay", "detokenize", PAN));
    let found = findings(ROLES, &["pan"], &twice);
    assert_eq!(
        found,
        ["p.cedar:3:1: [implied] `again` adds nothing: all that it permits is permitted without a condition by `pay`"]
    );
    // One with a condition implies nothing; one that may fail also refuses, so it is not too much.
    let conditional = format!("{} when {{ context.reveal == \"full\" }};", permit("wide", "pay", "", "resource"));
    assert_eq!(findings(ROLES, &["pan"], &format!("{}{conditional}", fine())), [] as [&str; 0]);
    let fails = format!("{} when {{ context.requested + 1 > 1 }};", permit("sum", "pay", "detokenize", PAN));
    assert_eq!(findings(ROLES, &["pan"], &format!("{}{fails}", fine())), [] as [&str; 0]);
    let holds = format!("{} when {{ context.requested > 1 }};", permit("many", "pay", "detokenize", PAN));
    let found = findings(ROLES, &["pan"], &format!("{}{holds}", fine()));
    assert_eq!(
        found,
        ["p.cedar:3:1: [implied] `many` adds nothing: all that it permits is permitted without a condition by `pay`"]
    );
}

#[test]
fn roles_and_scopes_without_use() {
    let members = [ROLES, &[("ops", &["spiffe://a.example/ops"])]].concat();
    let found = findings(&members, &["pan", "*/ssn"], &fine());
    assert_eq!(
        found,
        [
            "roles.ops: [unused-role] no policy names the role `ops`",
            "scopes.\"*/ssn\": [unused-scope] nobody may do anything with `*/ssn`",
        ]
    );
    // A role that only a condition names has a use, and a pattern of which one scope has.
    let used = "@id(\"ops\") permit (principal, action == Cloakroom::Action::\"revoke\", resource in Cloakroom::Scope::\"acme\") \
                when { principal in Cloakroom::Role::\"ops\" };";
    assert_eq!(findings(&members, &["pan", "*/ssn"], &format!("{}{used}", fine())), [] as [&str; 0]);
}

fn about(finding: &Finding) -> Option<String> {
    let removable = matches!(finding.rule, Rule::Unreachable | Rule::Shadowed | Rule::Implied);
    removable.then(|| finding.what.split('`').nth(1).unwrap().to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn without_all_policies_that_are_too_much_every_call_is_decided_the_same(
        lines in oracle::lines(), roles in oracle::role_set(), calls in oracle::calls()
    ) {
        let policy = oracle::book(&lines, &roles, false);
        let too_much: BTreeSet<String> = policy.rulebook().findings().unwrap().iter().filter_map(about).collect();
        let kept = lines.iter().enumerate().filter(|(n, _)| !too_much.contains(&format!("p{n}")));
        let kept: Vec<_> = kept.map(|(_, line)| line.clone()).collect();
        prop_assert_eq!(kept.len() + too_much.len(), lines.len());
        let fewer = oracle::book(&kept, &roles, false);
        for call in &calls {
            prop_assert_eq!(answer(&policy, call).is_ok(), answer(&fewer, call).is_ok(), "{:?} without {:?}", call, too_much);
        }
    }
}
