use std::collections::BTreeMap;

use super::action::{Administer, Detokenize, Inspect, QueryAudit, Renew, Revoke, Tokenize};
use super::*;
use crate::scope::{Scopes, Settings};

mod access;
mod expectations;
mod explain;
mod findings;
mod load;
mod oracle;
mod replay;
mod samples;
mod slices;

pub(super) const DOMAINS: [&str; 2] = ["a.example", "b.example"];

pub(super) fn scopes(names: &[&str]) -> Scopes {
    let settings = Settings { prefix: Some("t".into()), ..Settings::default() };
    Scopes::load(&names.iter().map(|name| (name.to_string(), settings.clone())).collect()).unwrap()
}

pub(super) fn roles(roles: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let owned = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
    roles.iter().map(|(name, ids)| (name.to_string(), owned(ids))).collect()
}

pub(super) fn sources(files: &[(&str, &str)]) -> Vec<PolicySource> {
    files.iter().map(|(file, text)| PolicySource { file: file.to_string(), text: text.to_string() }).collect()
}

pub(super) fn domains() -> Vec<String> {
    DOMAINS.map(String::from).to_vec()
}

pub(super) fn caller(id: &str) -> Caller {
    Caller {
        id: SpiffeId::parse(id).unwrap(),
        certificate_sha256: [7; 32],
        not_after: Timestamp::from_millis(4_000_000_000_000),
        peer: "127.0.0.1:1".into(),
    }
}

pub(super) const CONTEXT: Context<'static> =
    Context { purpose: "refund", reveal: Reveal::Full, requested: 1, now: Timestamp::from_millis(1_800_000_000_000) };

/// Asks for any action by its value.
pub(super) fn ask(
    policy: &Policy,
    verb: Verb,
    caller: &Caller,
    resource: Resource<'_>,
    context: &Context<'_>,
) -> Result<Vec<String>, (Refusal, Vec<String>)> {
    fn put<A: Action>(
        policy: &Policy,
        caller: &Caller,
        resource: Resource<'_>,
        context: &Context<'_>,
    ) -> Result<Vec<String>, (Refusal, Vec<String>)> {
        match policy.permit::<A>(caller, resource, context) {
            Ok(permit) => Ok(permit.policies().to_vec()),
            Err(denied) => Err((denied.refusal(), denied.policies().to_vec())),
        }
    }
    match verb {
        Verb::Tokenize => put::<Tokenize>(policy, caller, resource, context),
        Verb::Detokenize => put::<Detokenize>(policy, caller, resource, context),
        Verb::Inspect => put::<Inspect>(policy, caller, resource, context),
        Verb::Renew => put::<Renew>(policy, caller, resource, context),
        Verb::Revoke => put::<Revoke>(policy, caller, resource, context),
        Verb::QueryAudit => put::<QueryAudit>(policy, caller, resource, context),
        Verb::Administer => put::<Administer>(policy, caller, resource, context),
    }
}

/// A rulebook of two scopes in which only `policies` say anything.
fn rulebook(policies: &str) -> Rulebook {
    let roles = roles(&[("payments", &["spiffe://a.example/payments"])]);
    Rulebook::load(scopes(&["pan", "acme/ssn"]), &roles, sources(&[("p.cedar", policies)]), &domains()).unwrap()
}

fn policy(policies: &str) -> Policy {
    Policy::new(rulebook(policies))
}

fn detokenize(
    policy: &Policy,
    id: &str,
    path: &str,
    context: &Context<'_>,
) -> Result<Vec<String>, (Refusal, Vec<String>)> {
    ask(policy, Verb::Detokenize, &caller(id), Resource::Scope(&Path::parse(path).unwrap()), context)
}

const PAYMENTS: &str = "spiffe://a.example/payments";

const READ_PAN: &str = r#"
@id("read-pan")
permit (
  principal in Cloakroom::Role::"payments",
  action == Cloakroom::Action::"detokenize",
  resource == Cloakroom::Scope::"pan"
) when { context.purpose != "" };
"#;

#[test]
fn a_permit_says_what_an_event_must() {
    let policy = policy(READ_PAN);
    let path = Path::parse("pan").unwrap();
    let permit = policy.permit::<Detokenize>(&caller(PAYMENTS), Resource::Scope(&path), &CONTEXT).unwrap();
    assert_eq!(permit.policies()[..], ["read-pan".to_string()]);
    assert_eq!(permit.path(), Some(&path));
    assert_eq!(permit.scope().unwrap().pattern().as_str(), "pan");
    assert_eq!(permit.rulebook(), policy.rulebook().digest());
    assert_eq!(permit.generation(), 1);
    assert_eq!(format!("{permit:?}"), r#"Permit<detokenize> by ["read-pan"]"#);
}

#[test]
fn nothing_is_allowed_that_no_policy_names() {
    let policy = policy(READ_PAN);
    let none = Err((Refusal::NotAllowed, vec![]));
    assert_eq!(detokenize(&policy, "spiffe://a.example/gateway", "pan", &CONTEXT), none);
    assert_eq!(detokenize(&policy, PAYMENTS, "acme/ssn", &CONTEXT), none);
    assert_eq!(detokenize(&policy, PAYMENTS, "pan", &Context { purpose: "", ..CONTEXT }), none);
    let path = Path::parse("pan").unwrap();
    for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::Detokenize) {
        for resource in [Resource::Scope(&path), Resource::Vault] {
            assert_eq!(ask(&policy, verb, &caller(PAYMENTS), resource, &CONTEXT), none, "{verb:?} {resource:?}");
        }
    }
}

#[test]
fn the_same_path_in_another_trust_domain_is_another_principal_z_07() {
    let policy = policy(&format!(
        r#"{READ_PAN}
        @id("one") permit (principal == Cloakroom::Workload::"spiffe://a.example/x", action, resource);
        @id("domain") permit (principal in Cloakroom::TrustDomain::"a.example", action == Cloakroom::Action::"inspect", resource);
        "#
    ));
    assert!(detokenize(&policy, "spiffe://a.example/payments", "pan", &CONTEXT).is_ok());
    assert!(detokenize(&policy, "spiffe://b.example/payments", "pan", &CONTEXT).is_err());
    assert!(detokenize(&policy, "spiffe://a.example/x", "pan", &CONTEXT).is_ok());
    assert!(detokenize(&policy, "spiffe://b.example/x", "pan", &CONTEXT).is_err());
    let path = Path::parse("pan").unwrap();
    let inspect = |id| ask(&policy, Verb::Inspect, &caller(id), Resource::Scope(&path), &CONTEXT).is_ok();
    assert!(inspect("spiffe://a.example/any/one"));
    assert!(!inspect("spiffe://b.example/any/one"));
}

#[test]
fn an_unknown_scope_is_refused_without_evaluating_even_where_all_is_allowed() {
    let policy = policy(r#"@id("all") permit (principal, action, resource);"#);
    for path in ["nope", "acme", "pan/x", "acme/ssn/x"] {
        let answer = detokenize(&policy, PAYMENTS, path, &CONTEXT);
        assert_eq!(answer, Err((Refusal::UnknownScope, vec![])), "{path}");
    }
    assert_eq!(detokenize(&policy, PAYMENTS, "acme/ssn", &CONTEXT), Ok(vec!["all".into()]));
}

#[test]
fn an_action_on_the_wrong_kind_of_resource_is_refused() {
    let policy = policy(r#"@id("all") permit (principal, action, resource);"#);
    let path = Path::parse("pan").unwrap();
    for verb in Verb::ALL {
        let [on_scope, on_vault] = [Resource::Scope(&path), Resource::Vault]
            .map(|resource| ask(&policy, verb, &caller(PAYMENTS), resource, &CONTEXT).is_ok());
        assert_eq!((on_scope, on_vault), (!verb.concerns_vault(), verb.concerns_vault()), "{verb:?}");
    }
}

#[test]
fn a_forbid_names_itself_and_wins() {
    let policy = policy(
        r#"
        @id("all") permit (principal, action, resource);
        @id("no-bulk") forbid (principal, action, resource) when { context.requested > 100 };
        @id("no-night") forbid (principal, action, resource) when { context.now.toTime() < duration("6h") };
        "#,
    );
    assert_eq!(detokenize(&policy, PAYMENTS, "pan", &CONTEXT), Ok(vec!["all".into()]));
    // 1,800,000,000 is 08:00 on a January morning; three hours earlier is night.
    let night = Timestamp::from_millis(CONTEXT.now.millis() - 3 * 3_600_000);
    let context = Context { requested: 101, now: night, ..CONTEXT };
    let forbidden = |ids: &[&str]| Err((Refusal::Forbidden, ids.iter().map(ToString::to_string).collect()));
    assert_eq!(detokenize(&policy, PAYMENTS, "pan", &context), forbidden(&["no-bulk", "no-night"]));
    assert_eq!(detokenize(&policy, PAYMENTS, "pan", &Context { now: night, ..CONTEXT }), forbidden(&["no-night"]));
}

#[test]
fn a_policy_that_fails_counts_as_no() {
    // Overflows for two items and more: Cedar would skip the forbid, and so allow.
    let policy = policy(
        r#"
        @id("all") permit (principal, action, resource);
        @id("fails") forbid (principal, action, resource) when { context.requested * 9223372036854775807 < 0 };
        "#,
    );
    assert!(detokenize(&policy, PAYMENTS, "pan", &CONTEXT).is_ok());
    let answer = detokenize(&policy, PAYMENTS, "pan", &Context { requested: 2, ..CONTEXT });
    assert_eq!(answer, Err((Refusal::Failed, vec!["fails".into()])));
}

#[test]
fn actions_that_reveal_nothing_are_neither_full_nor_masked() {
    let policy = policy(
        r#"
        @id("full") permit (principal, action, resource) when { context.reveal == "full" };
        @id("masked") permit (principal, action, resource) when { context.reveal == "masked" };
        "#,
    );
    let with = |reveal| detokenize(&policy, PAYMENTS, "pan", &Context { reveal, ..CONTEXT });
    assert_eq!(with(Reveal::Full), Ok(vec!["full".into()]));
    assert_eq!(with(Reveal::Masked), Ok(vec!["masked".into()]));
    assert_eq!(with(Reveal::Nothing), Err((Refusal::NotAllowed, vec![])));
}

#[test]
fn a_new_rulebook_decides_from_its_acknowledgement_on() {
    let policy = policy(READ_PAN);
    assert!(detokenize(&policy, PAYMENTS, "pan", &CONTEXT).is_ok());
    let before = policy.rulebook().digest();
    assert_eq!(policy.publish(rulebook("// Withdrawn.")), 2);
    let path = Path::parse("pan").unwrap();
    let denied = policy.permit::<Detokenize>(&caller(PAYMENTS), Resource::Scope(&path), &CONTEXT).unwrap_err();
    assert_eq!(denied.generation(), 2);
    assert_eq!(denied.rulebook(), policy.rulebook().digest());
    assert_ne!(denied.rulebook(), before);
    assert_eq!(policy.publish(rulebook(READ_PAN)), 3);
    let permit = policy.permit::<Detokenize>(&caller(PAYMENTS), Resource::Scope(&path), &CONTEXT).unwrap();
    assert_eq!((permit.generation(), policy.generation()), (3, 3));
}

#[test]
fn a_refusal_says_in_an_event_why_it_was() {
    let policy = policy(READ_PAN);
    let path = Path::parse("acme/ssn").unwrap();
    let denied = policy.permit::<Detokenize>(&caller(PAYMENTS), Resource::Scope(&path), &CONTEXT).unwrap_err();
    assert_eq!(format!("{denied:?}"), "Denied: not_allowed by []");
    let words = [Refusal::UnknownScope, Refusal::NotAllowed, Refusal::Forbidden, Refusal::Failed].map(Refusal::as_str);
    assert_eq!(words, ["unknown_scope", "not_allowed", "forbidden", "policy_failed"]);
}

/// Heads of every form: what they fit is what Cedar says of all policies together.
#[test]
fn a_head_of_any_form_says_whom_and_what_it_is_about() {
    for (principal, resource, payments, gateway) in [
        ("principal", "resource", true, true),
        ("principal is Cloakroom::Workload", "resource is Cloakroom::Scope", true, true),
        (r#"principal is Cloakroom::Workload in Cloakroom::Role::"payments""#, "resource", true, false),
        (r#"principal in Cloakroom::Role::"payments""#, "resource", true, false),
        (r#"principal == Cloakroom::Workload::"spiffe://a.example/payments""#, "resource", true, false),
        ("principal", r#"resource is Cloakroom::Scope in Cloakroom::Scope::"acme""#, false, false),
    ] {
        let rulebook = rulebook(&format!(r#"@id("it") permit ({principal}, action, {resource});"#));
        for (id, path, allowed) in [
            (PAYMENTS, "pan", payments),
            ("spiffe://a.example/gateway", "pan", gateway),
            // The last is about this scope alone, and of the others each that is about the caller is about any scope.
            (PAYMENTS, "acme/ssn", true),
        ] {
            let (caller, path) = (caller(id), Path::parse(path).unwrap());
            let plainly = rulebook.decide_plainly(&caller.id, Verb::Detokenize, Resource::Scope(&path), &CONTEXT);
            let (decision, _) = rulebook.decide(&caller.id, Verb::Detokenize, Resource::Scope(&path), &CONTEXT);
            assert_eq!(decision.refusal.is_none(), allowed, "{principal} {resource}: {id} {path}");
            assert_eq!((decision.refusal, &decision.policies[..]), (plainly.refusal, &plainly.policies[..]));
        }
    }
}

#[test]
fn a_rulebook_knows_its_scopes() {
    let rulebook = rulebook(READ_PAN);
    assert!(rulebook.scopes().resolve(&Path::parse("acme/ssn").unwrap()).is_some());
    assert!(rulebook.scopes().resolve(&Path::parse("acme").unwrap()).is_none());
}

#[test]
fn a_selection_that_was_made_before_is_found_again() {
    let rulebook = rulebook(READ_PAN);
    let slice = |id: &str, path: &str| {
        let (id, path) = (SpiffeId::parse(id).unwrap(), Path::parse(path).unwrap());
        let (who, on) =
            (schema::Kin::of_caller(&id, &rulebook.roles), schema::Kin::of_resource(Resource::Scope(&path)));
        rulebook.index.slice(&who, Verb::Detokenize, &on)
    };
    let first = slice(PAYMENTS, "pan");
    let empty = slice("spiffe://a.example/gateway", "pan");
    assert!(!Arc::ptr_eq(&first, &empty));
    assert!(Arc::ptr_eq(&first, &slice(PAYMENTS, "pan")));
    assert!(Arc::ptr_eq(&empty, &slice("spiffe://b.example/x", "acme/ssn")));
}

#[test]
fn every_answer_is_that_of_one_rulebook_while_they_change_z_06() {
    let grants = READ_PAN.to_string();
    let policy = policy(&grants);
    let granting = policy.rulebook().digest();
    let path = Path::parse("pan").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let caller = caller(PAYMENTS);
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    // Odd generations grant, even ones do not.
                    match policy.permit::<Detokenize>(&caller, Resource::Scope(&path), &CONTEXT) {
                        Ok(permit) => assert_eq!((permit.rulebook(), permit.generation() % 2), (granting, 1)),
                        Err(denied) => assert_eq!((denied.rulebook() == granting, denied.generation() % 2), (false, 0)),
                    }
                }
            });
        }
        let me = caller(PAYMENTS);
        for flip in 0..500 {
            let generation = policy.publish(rulebook(if flip % 2 == 0 { "// Withdrawn." } else { &grants }));
            let answer = policy.permit::<Detokenize>(&me, Resource::Scope(&path), &CONTEXT);
            assert_eq!(answer.is_ok(), generation % 2 == 1, "decided by the rulebook just acknowledged");
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}
