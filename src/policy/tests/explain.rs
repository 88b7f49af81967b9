//! An explanation gives the vault's own answer, and reasons that are true.

use proptest::prelude::*;

use super::oracle::{self, answer};
use super::*;

fn as_call(call: &oracle::Call) -> Call {
    let context = oracle::context(call);
    Call {
        caller: SpiffeId::parse(call.caller).unwrap(),
        verb: call.verb,
        path: (!call.verb.concerns_vault()).then(|| Path::parse(call.path).unwrap()),
        purpose: context.purpose.to_owned(),
        reveal: context.reveal,
        requested: context.requested,
        now: context.now,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_agrees_with_what_the_vault_decides(
        lines in oracle::lines(), roles in oracle::role_set(), calls in oracle::calls()
    ) {
        let policy = oracle::book(&lines, &roles, false);
        let rulebook = policy.rulebook();
        for call in &calls {
            let explanation = rulebook.explain(&as_call(call));
            let ids: Vec<_> = explanation.decided_by.iter().map(|policy| policy.id.clone()).collect();
            prop_assert_eq!(explanation.refusal.map_or(Ok(ids.clone()), |refusal| Err((refusal, ids))), answer(&policy, call));
            prop_assert!(explanation.refusal.is_some() || explanation.near.is_empty());
            for near in &explanation.near {
                let conditional = matches!(&near.why, Why::Conditions(unmet) if !unmet.is_empty());
                // What is near did not allow it: something else refused, or it is conditional or for somebody else.
                let overruled = near.why == Why::Overruled
                    && matches!(explanation.refusal, Some(Refusal::Forbidden | Refusal::Failed | Refusal::UnknownScope));
                prop_assert!(conditional || overruled || matches!(near.why, Why::OtherCaller(_)), "{:?}", near);
            }
        }
    }
}

fn explain(policies: &str, caller: &str, action: &str, scope: &str, purpose: &str) -> Explanation {
    let words = CallWords {
        caller: caller.into(),
        action: action.into(),
        scope: Some(scope.into()),
        purpose: (action == "detokenize").then(|| purpose.into()),
        ..CallWords::default()
    };
    rulebook(policies).explain(&Call::parse(&words, CONTEXT.now).unwrap())
}

const POLICIES: &str = "@id(\"read-pan\")
permit (
  principal in Cloakroom::Role::\"payments\",
  action == Cloakroom::Action::\"detokenize\",
  resource == Cloakroom::Scope::\"pan\"
)
when { context.reveal == \"full\" }
when {
  context.purpose == \"refund\"
};
@id(\"one\") permit (principal == Cloakroom::Workload::\"spiffe://a.example/x\", action, resource);
@id(\"night\") forbid (principal, action == Cloakroom::Action::\"inspect\", resource);
";

#[test]
fn a_no_says_what_was_near() {
    let found = explain(POLICIES, PAYMENTS, "detokenize", "pan", "audit");
    assert_eq!((found.refusal, found.roles), (Some(Refusal::NotAllowed), vec!["payments".to_owned()]));
    assert_eq!(found.decided_by, []);
    let near: Vec<_> =
        found.near.iter().map(|near| format!("{} {} {:?}", near.policy.id, near.policy.place, near.why)).collect();
    let clause = Place::Line { file: "p.cedar".into(), line: 8, column: 1 };
    let expected = Why::Conditions(vec![(clause, "when { context.purpose == \"refund\" }".into())]);
    assert_eq!(
        near,
        [
            format!("read-pan p.cedar:1:1 {expected:?}"),
            format!("one p.cedar:11:1 {:?}", Why::OtherCaller("spiffe://a.example/x".into())),
        ]
    );
}

#[test]
fn a_forbid_is_named_with_what_it_overrules() {
    let found = explain(POLICIES, "spiffe://a.example/x", "inspect", "pan", "");
    assert_eq!(found.refusal, Some(Refusal::Forbidden));
    assert_eq!(found.decided_by.iter().map(|policy| policy.place.to_string()).collect::<Vec<_>>(), ["p.cedar:12:1"]);
    assert_eq!(found.near.len(), 1);
    assert_eq!((found.near[0].policy.id.as_str(), &found.near[0].why), ("one", &Why::Overruled));
}

#[test]
fn slips_that_no_policy_shows_are_noted() {
    let notes =
        |caller: &str, scope: &str, purpose: &str| explain(POLICIES, caller, "detokenize", scope, purpose).notes;
    assert_eq!(notes(PAYMENTS, "pan", "refund"), [] as [String; 0]);
    let found = notes(PAYMENTS, "pam", "refund");
    assert_eq!(found, ["no rule set covers the scope `pam`; did you mean `pan`?"]);
    let found = notes("spiffe://a.exampel/payments", "pan", "refund");
    assert_eq!(found, ["no certificate of the trust domain `a.exampel` is accepted; did you mean `a.example`?"]);
    let found = notes("spiffe://a.example/x", "pan", "");
    assert_eq!(found, ["policy allows it, but the scope `pan` wants a purpose: such a call is malformed"]);
}
