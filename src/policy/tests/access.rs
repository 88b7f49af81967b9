//! The table says of every call what the vault would say to it, or "when".

use proptest::prelude::*;

use super::oracle::{self, answer};
use super::*;
use crate::scope::Pattern;

fn row(access: &Access<'_>, roles: &oracle::RoleSet, id: &str) -> usize {
    let id = SpiffeId::parse(id).unwrap();
    let named = access.callers().iter().position(|class| class.named && class.example == id);
    named.unwrap_or_else(|| {
        let (known, _) = super::super::roles::Roles::load(roles, &domains());
        let held: Vec<_> = known.of(&id).collect();
        let same = |class: &CallerClass| {
            !class.named && class.roles == held && class.example.trust_domain() == id.trust_domain()
        };
        access.callers().iter().position(same).expect("every caller has a row")
    })
}

/// The column of a scope; none where no rule set covers it.
fn column(access: &Access<'_>, verb: Verb, path: &str) -> Option<usize> {
    if verb.concerns_vault() {
        return Some(0);
    }
    let path = Path::parse(path).unwrap();
    let pattern = |class: &PlaceClass| Pattern::parse(&class.pattern).unwrap();
    let scopes = access.places().iter().enumerate().skip(1).filter(|(_, class)| pattern(class).matches(&path));
    scopes.max_by_key(|(_, class)| pattern(class).specificity()).map(|(number, _)| number)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn yes_and_no_are_never_said_of_what_depends_on_the_call(
        lines in oracle::lines(), roles in oracle::role_set(), calls in oracle::calls()
    ) {
        let policy = oracle::book(&lines, &roles, false);
        let rulebook = policy.rulebook();
        let access = rulebook.access().unwrap();
        for call in &calls {
            let Some(place) = column(&access, call.verb, call.path) else { continue };
            let decided = answer(&policy, call);
            match (access.cell(row(&access, &roles, call.caller), call.verb, place), &decided) {
                (Cell::Yes(ids), Ok(by)) => prop_assert!(ids.iter().all(|id| by.contains(id)), "{call:?}: {by:?}"),
                (Cell::No(_), Err(_)) => {}
                (Cell::When(ids), _) => prop_assert!(!ids.is_empty()),
                (cell, _) => prop_assert!(false, "{call:?}: {cell:?}, but {decided:?}"),
            }
        }
    }
}

fn cells(policies: &str, verb: Verb) -> Vec<String> {
    let roles = roles(&[
        ("pay", &["spiffe://a.example/pay", "spiffe://a.example/eu/pay"]),
        ("eu", &["spiffe://a.example/eu/*"]),
    ]);
    let rulebook =
        Rulebook::load(scopes(&["pan", "*/ssn"]), &roles, sources(&[("p.cedar", policies)]), &["a.example".into()])
            .unwrap();
    let access = rulebook.access().unwrap();
    let mut found = Vec::new();
    for (number, place) in access.places().iter().enumerate().filter(|(_, place)| place.takes(verb)) {
        for (row, caller) in access.callers().iter().enumerate() {
            match access.cell(row, verb, number) {
                Cell::No(ids) if ids.is_empty() => {}
                cell => found.push(format!("{} {} {cell:?}", caller.label(), place.pattern)),
            }
        }
    }
    found
}

const PAY_PAN: &str = "@id(\"pay-pan\") permit (principal in Cloakroom::Role::\"pay\", \
                       action == Cloakroom::Action::\"detokenize\", resource == Cloakroom::Scope::\"pan\")";

#[test]
fn a_cell_says_which_policies_to_read() {
    assert_eq!(
        cells(&format!("{PAY_PAN};"), Verb::Detokenize),
        [r#"eu + pay pan Yes(["pay-pan"])"#, r#"pay pan Yes(["pay-pan"])"#,]
    );
    assert_eq!(
        cells(&format!("{PAY_PAN} when {{ context.reveal == \"masked\" }};"), Verb::Detokenize),
        [r#"eu + pay pan When(["pay-pan"])"#, r#"pay pan When(["pay-pan"])"#,]
    );
    let forbid = "@id(\"no-bulk\") forbid (principal, action, resource) when { context.requested > 100 } \
                  unless { principal in Cloakroom::Role::\"eu\" };";
    assert_eq!(
        cells(&format!("{PAY_PAN}; {forbid}"), Verb::Detokenize),
        [r#"eu + pay pan Yes(["pay-pan"])"#, r#"pay pan When(["no-bulk"])"#,]
    );
    let closed =
        "@id(\"closed\") forbid (principal in Cloakroom::Role::\"eu\", action, resource == Cloakroom::Scope::\"pan\");";
    assert_eq!(
        cells(&format!("{PAY_PAN}; {closed}"), Verb::Detokenize),
        [r#"eu pan No(["closed"])"#, r#"eu + pay pan No(["closed"])"#, r#"pay pan Yes(["pay-pan"])"#,]
    );
    // What may fail also refuses, even where something else permits.
    let fails = "@id(\"sum\") permit (principal, action, resource) when { context.requested + 1 > 1 };";
    assert_eq!(
        cells(&format!("{PAY_PAN}; {fails}"), Verb::QueryAudit),
        [
            r#"eu vault When(["sum"])"#,
            r#"eu + pay vault When(["sum"])"#,
            r#"pay vault When(["sum"])"#,
            r#"all others of a.example vault When(["sum"])"#,
        ]
    );
    let pan = cells(&format!("{PAY_PAN}; {fails}"), Verb::Detokenize);
    assert!(pan.contains(&r#"pay pan When(["sum"])"#.to_owned()), "{pan:?}");
}

#[test]
fn a_scope_under_a_pattern_that_a_policy_names_has_a_column_of_its_own() {
    let acme =
        "@id(\"acme\") permit (principal in Cloakroom::Role::\"pay\", action, resource in Cloakroom::Scope::\"acme\");";
    assert_eq!(cells(acme, Verb::Tokenize), [r#"eu + pay acme/ssn Yes(["acme"])"#, r#"pay acme/ssn Yes(["acme"])"#,]);
}
