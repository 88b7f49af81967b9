//! How policies are picked for one question, where no rulebook leads: it would refuse such policies.

use super::CONTEXT;
use crate::policy::Refusal;
use crate::policy::action::Verb;
use crate::policy::mistake::Place;
use crate::policy::schema::Kin;
use crate::policy::slice::{Index, Slice};
use crate::policy::statement::Reads;
use crate::policy::written::Written;
use cedar_policy::{Policy, PolicyId};
use std::collections::HashSet;
use std::sync::Arc;

fn written(id: &str, head: &str) -> Written {
    let policy = Policy::parse(Some(PolicyId::new(id)), format!("permit ({head});")).unwrap();
    Written { policy, reads: Reads::default(), place: Place::File("p.cedar".into()), clauses: Vec::new() }
}

fn kin(uid: &str, above: &[&str]) -> Kin {
    let above: HashSet<_> = above.iter().map(|uid| format!("Cloakroom::{uid}").parse().unwrap()).collect();
    Kin { uid: format!("Cloakroom::{uid}").parse().unwrap(), above }
}

#[test]
fn selections_are_forgotten_when_there_are_too_many_and_made_again() {
    const SIDE: usize = 33;
    let whom = |n: usize| format!("principal == Cloakroom::Workload::\"w{n}\", action, resource");
    let what = |n: usize| format!("principal, action, resource == Cloakroom::Scope::\"s{n}\"");
    let policies = (0..SIDE).map(|n| written(&format!("w{n}"), &whom(n)));
    let index = Index::new(policies.chain((0..SIDE).map(|n| written(&format!("s{n}"), &what(n)))));
    let slice = |n: usize| -> Arc<Slice> {
        let (who, on) =
            (kin(&format!("Workload::\"w{}\"", n / SIDE), &[]), kin(&format!("Scope::\"s{}\"", n % SIDE), &[]));
        assert_eq!(
            index.fitting(&who, Verb::Inspect, &on),
            [n / SIDE, SIDE + n % SIDE].map(|line| u32::try_from(line).unwrap())
        );
        index.slice(&who, Verb::Inspect, &on)
    };
    let first = slice(0);
    for n in 1..1_024 {
        slice(n);
    }
    assert!(Arc::ptr_eq(&first, &slice(0)), "as many as there is room for are kept");
    slice(1_024);
    let again = slice(0);
    assert!(
        !Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&again, &slice(0)),
        "all were forgotten, and this was made again"
    );
    let (who, on) = (kin("Workload::\"w0\"", &[]), kin("Scope::\"s0\"", &[]));
    let verdict = again.decide(who, Verb::Inspect, on, &CONTEXT);
    assert_eq!((verdict.refusal, verdict.policies), (None, vec!["s0".to_owned(), "w0".to_owned()]));
}

#[test]
fn a_head_about_what_nobody_is_fits_nothing() {
    for head in [
        "principal is Cloakroom::Scope, action, resource",
        "principal is Cloakroom::Role in Cloakroom::Role::\"r\", action, resource",
        "principal, action, resource is Cloakroom::Workload",
        "principal, action, resource is Cloakroom::Role in Cloakroom::Vault::\"vault\"",
    ] {
        let index = Index::new([written("never", head), written("control", "principal, action, resource")]);
        let (who, on) = (kin("Workload::\"w\"", &["Role::\"r\""]), kin("Scope::\"pan\"", &["Vault::\"vault\""]));
        assert_eq!(index.fitting(&who, Verb::Detokenize, &on), [1], "{head}");
        let verdict = index.slice(&who, Verb::Detokenize, &on).decide(who, Verb::Detokenize, on, &CONTEXT);
        assert_eq!((verdict.refusal, verdict.policies), (None, vec!["control".to_owned()]), "{head}");
    }
}

#[test]
fn a_question_that_can_not_be_put_is_answered_no() {
    let index = Index::new([written("all", "principal, action, resource")]);
    // One name for two different things, of which neither can be meant.
    let (who, on) = (kin("Workload::\"w\"", &["Role::\"a\""]), kin("Workload::\"w\"", &["Role::\"b\""]));
    let slice = index.slice(&who, Verb::Inspect, &on);
    let verdict = slice.decide(who.clone(), Verb::Inspect, on, &CONTEXT);
    assert_eq!((verdict.refusal, verdict.policies), (Some(Refusal::Failed), Vec::new()));
    let verdict = slice.decide(who, Verb::Inspect, kin("Vault::\"vault\"", &[]), &CONTEXT);
    assert_eq!(verdict.refusal, None);
}
