//! Random policies against a model that fits on a screen, and against Cedar with the whole set before it.

use proptest::prelude::*;

use super::*;

const CALLERS: [&str; 8] = [
    "spiffe://a.example/pay",
    "spiffe://a.example/payments",
    "spiffe://a.example/eu/pay",
    "spiffe://a.example/eu/payments",
    "spiffe://b.example/pay",
    "spiffe://b.example/payments",
    "spiffe://b.example/eu/pay",
    "spiffe://b.example/eu/pay/x",
];
const ROLES: [&str; 3] = ["r0", "r1", "r2"];
const MEMBERS: [&str; 6] = [
    "spiffe://a.example/pay",
    "spiffe://a.example/*",
    "spiffe://a.example/*/*",
    "spiffe://b.example/*/pay",
    "spiffe://b.example/payments",
    "spiffe://b.example/eu/pay/*",
];
const SCOPES: [&str; 5] = ["pan", "acme/ssn", "acme/eu/ssn", "acmeco/ssn", "*/card"];
/// What is asked about; the last two are no scopes.
const PATHS: [&str; 8] = ["pan", "acme/ssn", "acme/eu/ssn", "acmeco/ssn", "acme/card", "other/card", "acme", "pan/ssn"];
const NAMED_SCOPES: [&str; 6] = ["pan", "acme/ssn", "acme/eu/ssn", "acmeco/ssn", "acme/card", "other/card"];
const PARENTS: [&str; 5] = ["acme", "acme/eu", "acmeco", "pan", "other"];
const PURPOSES: [&str; 3] = ["", "refund", "audit"];

#[derive(Clone, Debug)]
pub(super) struct Line {
    forbid: bool,
    principal: Who,
    action: What,
    resource: Where,
    condition: Condition,
}

#[derive(Clone, Debug)]
enum Who {
    Any,
    Is(&'static str),
    Role(&'static str),
    Domain(&'static str),
}

#[derive(Clone, Debug)]
enum What {
    Any,
    Is(Verb),
    OneOf(Vec<Verb>),
}

#[derive(Clone, Debug)]
enum Where {
    Any,
    AnyScope,
    Is(&'static str),
    Under(&'static str),
    Vault,
}

#[derive(Clone, Debug)]
enum Condition {
    None,
    HasPurpose,
    NotFor(&'static str),
    Masked,
    AtMost(u32),
    Before(Timestamp),
    NotRole(&'static str),
    /// As before, behind something that reads the call.
    MaskedAndNotRole(&'static str),
    /// Overflows for two items and more.
    Fails,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub caller: &'static str,
    pub verb: Verb,
    pub path: &'static str,
    purpose: &'static str,
    reveal: Reveal,
    requested: u32,
    now: Timestamp,
}

pub(super) type RoleSet = BTreeMap<String, Vec<String>>;

// === the model ===

fn expected(lines: &[Line], roles: &RoleSet, call: &Call) -> Result<Vec<usize>, (Refusal, Vec<usize>)> {
    if !call.verb.concerns_vault() && !NAMED_SCOPES.contains(&call.path) {
        return Err((Refusal::UnknownScope, vec![]));
    }
    let heads: Vec<_> = (0..lines.len()).filter(|n| head_fits(&lines[*n], roles, call)).collect();
    let pick = |wanted: &dyn Fn(&Line) -> bool| -> Vec<usize> {
        heads.iter().copied().filter(|n| wanted(&lines[*n])).collect()
    };
    let failed = pick(&|line| matches!(line.condition, Condition::Fails) && call.requested > 1);
    let forbids = pick(&|line| line.forbid && holds(&line.condition, roles, call));
    let permits = pick(&|line| !line.forbid && holds(&line.condition, roles, call));
    match (failed.is_empty(), forbids.is_empty(), permits.is_empty()) {
        (false, _, _) => Err((Refusal::Failed, failed)),
        (_, false, _) => Err((Refusal::Forbidden, forbids)),
        (_, _, true) => Err((Refusal::NotAllowed, vec![])),
        _ => Ok(permits),
    }
}

fn head_fits(line: &Line, roles: &RoleSet, call: &Call) -> bool {
    let domain = call.caller.split('/').nth(2).unwrap();
    let vault = call.verb.concerns_vault();
    let principal = match line.principal {
        Who::Any => true,
        Who::Is(id) => call.caller == id,
        Who::Role(role) => has_role(roles, role, call),
        Who::Domain(name) => name == domain,
    };
    let action = match &line.action {
        What::Any => true,
        What::Is(verb) => *verb == call.verb,
        What::OneOf(verbs) => verbs.contains(&call.verb),
    };
    let resource = match line.resource {
        Where::Any => true,
        Where::AnyScope => !vault,
        Where::Is(path) => !vault && path == call.path,
        Where::Under(path) => !vault && lies_under(path, call),
        Where::Vault => vault,
    };
    principal && action && resource
}

fn has_role(roles: &RoleSet, role: &str, call: &Call) -> bool {
    roles[role].iter().any(|pattern| glob(pattern, call.caller))
}

fn lies_under(path: &str, call: &Call) -> bool {
    path == call.path || call.path.starts_with(&format!("{path}/"))
}

fn glob(pattern: &str, id: &str) -> bool {
    let (pattern, id): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), id.split('/').collect());
    pattern.len() == id.len() && pattern.iter().zip(&id).all(|(p, s)| p == s || *p == "*")
}

fn holds(condition: &Condition, roles: &RoleSet, call: &Call) -> bool {
    match condition {
        Condition::None => true,
        Condition::HasPurpose => !call.purpose.is_empty(),
        Condition::NotFor(purpose) => call.purpose != *purpose,
        Condition::Masked => call.reveal == Reveal::Masked,
        Condition::AtMost(n) => call.requested <= *n,
        Condition::Before(time) => call.now < *time,
        Condition::NotRole(role) => !has_role(roles, role, call),
        Condition::MaskedAndNotRole(role) => call.reveal == Reveal::Masked && !has_role(roles, role, call),
        Condition::Fails => call.requested <= 1,
    }
}

// === as Cedar ===

fn cedar(line: &Line, id: usize) -> String {
    let effect = if line.forbid { "forbid" } else { "permit" };
    let action = |verb: &Verb| format!("Cloakroom::Action::\"{}\"", verb.name());
    let principal = match line.principal {
        Who::Any => "principal".into(),
        Who::Is(id) => format!("principal == Cloakroom::Workload::\"{id}\""),
        Who::Role(role) => format!("principal in Cloakroom::Role::\"{role}\""),
        Who::Domain(name) => format!("principal in Cloakroom::TrustDomain::\"{name}\""),
    };
    let what = match &line.action {
        What::Any => "action".into(),
        What::Is(verb) => format!("action == {}", action(verb)),
        What::OneOf(verbs) => format!("action in [{}]", verbs.iter().map(action).collect::<Vec<_>>().join(", ")),
    };
    let resource = match line.resource {
        Where::Any => "resource".into(),
        Where::AnyScope => "resource is Cloakroom::Scope".into(),
        Where::Is(path) => format!("resource == Cloakroom::Scope::\"{path}\""),
        Where::Under(path) => format!("resource in Cloakroom::Scope::\"{path}\""),
        Where::Vault => "resource == Cloakroom::Vault::\"vault\"".into(),
    };
    let condition = match &line.condition {
        Condition::None => String::new(),
        Condition::HasPurpose => "when { context.purpose != \"\" }".into(),
        Condition::NotFor(purpose) => format!("unless {{ context[\"purpose\"] == \"{purpose}\" }}"),
        Condition::Masked => "when { context.reveal == \"masked\" }".into(),
        Condition::AtMost(n) => format!("when {{ context.requested <= {n} }}"),
        Condition::Before(time) => {
            let date = humantime::format_rfc3339_millis(
                std::time::UNIX_EPOCH + std::time::Duration::from_millis(time.millis()),
            );
            format!("when {{ context.now < datetime(\"{date}\") }}")
        }
        Condition::NotRole(role) => format!("unless {{ principal in Cloakroom::Role::\"{role}\" }}"),
        Condition::MaskedAndNotRole(role) => {
            format!("when {{ context.reveal == \"masked\" }} unless {{ principal in Cloakroom::Role::\"{role}\" }}")
        }
        Condition::Fails => "when { context.requested * 9223372036854775807 >= 0 }".into(),
    };
    format!("@id(\"p{id}\") {effect} ({principal}, {what}, {resource}) {condition};\n")
}

/// The lines over three files, in any order: ids stay with their lines.
pub(super) fn book(lines: &[Line], roles: &RoleSet, reversed: bool) -> Policy {
    let mut files = [String::from("// 0\n"), String::from("// 1\n"), String::from("// 2\n")];
    let mut texts: Vec<_> = lines.iter().enumerate().map(|(id, line)| cedar(line, id)).collect();
    if reversed {
        texts.reverse();
    }
    for (index, text) in texts.iter().enumerate() {
        files[index % 3].push_str(text);
    }
    let named: Vec<_> = ["a.cedar", "b.cedar", "c.cedar"].into_iter().zip(files.iter().map(String::as_str)).collect();
    Policy::new(Rulebook::load(scopes(&SCOPES), roles, sources(&named), &domains()).unwrap())
}

pub(super) fn answer(policy: &Policy, call: &Call) -> Result<Vec<String>, (Refusal, Vec<String>)> {
    let path = Path::parse(call.path).unwrap();
    let resource = if call.verb.concerns_vault() { Resource::Vault } else { Resource::Scope(&path) };
    ask(policy, call.verb, &caller(call.caller), resource, &context(call))
}

pub(super) fn context(call: &Call) -> Context<'static> {
    Context { purpose: call.purpose, reveal: call.reveal, requested: call.requested, now: call.now }
}

fn plain(policy: &Policy, call: &Call) -> Result<Vec<String>, (Refusal, Vec<String>)> {
    let path = Path::parse(call.path).unwrap();
    let resource = if call.verb.concerns_vault() { Resource::Vault } else { Resource::Scope(&path) };
    let id = SpiffeId::parse(call.caller).unwrap();
    let verdict = policy.rulebook().decide_plainly(&id, call.verb, resource, &context(call));
    verdict.refusal.map_or(Ok(verdict.policies.clone()), |refusal| Err((refusal, verdict.policies)))
}

fn named(expected: Result<Vec<usize>, (Refusal, Vec<usize>)>) -> Result<Vec<String>, (Refusal, Vec<String>)> {
    let names = |ids: Vec<usize>| {
        let mut names: Vec<_> = ids.iter().map(|id| format!("p{id}")).collect();
        names.sort();
        names
    };
    expected.map(names).map_err(|(refusal, ids)| (refusal, names(ids)))
}

// === strategies ===

const SCOPE_VERBS: [Verb; 5] = [Verb::Tokenize, Verb::Detokenize, Verb::Inspect, Verb::Renew, Verb::Revoke];
const TIMES: [u64; 3] = [0, 1_800_000_000_000, 1_900_000_000_000];

fn line(forbid: impl Strategy<Value = bool>) -> impl Strategy<Value = Line> {
    let principal = prop_oneof![
        Just(Who::Any),
        prop::sample::select(&CALLERS[..]).prop_map(Who::Is),
        prop::sample::select(&ROLES[..]).prop_map(Who::Role),
        prop::sample::select(&DOMAINS[..]).prop_map(Who::Domain),
    ];
    let on_scopes = (
        prop_oneof![
            prop::sample::select(&SCOPE_VERBS[..]).prop_map(What::Is),
            prop::sample::subsequence(SCOPE_VERBS.to_vec(), 1..=5).prop_map(What::OneOf),
            Just(What::Any),
        ],
        prop_oneof![
            Just(Where::Any),
            Just(Where::AnyScope),
            prop::sample::select(&NAMED_SCOPES[..]).prop_map(Where::Is),
            prop::sample::select(&PARENTS[..]).prop_map(Where::Under),
        ],
    );
    let on_vault = (
        prop_oneof![Just(What::Any), Just(What::Is(Verb::QueryAudit)), Just(What::Is(Verb::Administer))],
        prop_oneof![Just(Where::Any), Just(Where::Vault)],
    );
    let condition = prop_oneof![
        3 => Just(Condition::None),
        1 => Just(Condition::HasPurpose),
        1 => prop::sample::select(&PURPOSES[1..]).prop_map(Condition::NotFor),
        1 => Just(Condition::Masked),
        1 => (0u32..4).prop_map(Condition::AtMost),
        1 => prop::sample::select(&TIMES[1..]).prop_map(|t| Condition::Before(Timestamp::from_millis(t))),
        1 => prop::sample::select(&ROLES[..]).prop_map(Condition::NotRole),
        1 => prop::sample::select(&ROLES[..]).prop_map(Condition::MaskedAndNotRole),
        1 => Just(Condition::Fails),
    ];
    let what_where = prop_oneof![3 => on_scopes.boxed(), 1 => on_vault.boxed()];
    (forbid, principal, what_where, condition).prop_map(|(forbid, principal, (action, resource), condition)| Line {
        forbid,
        principal,
        action,
        resource,
        condition,
    })
}

pub(super) fn lines() -> impl Strategy<Value = Vec<Line>> {
    // Some twice, word for word but for the id.
    let once = prop::collection::vec(line(prop::bool::weighted(0.3)), 0..12);
    (once, any::<bool>()).prop_map(|(mut lines, twice)| {
        lines.extend(lines.first().filter(|_| twice).cloned());
        lines
    })
}

pub(super) fn role_set() -> impl Strategy<Value = RoleSet> {
    let members = || prop::sample::subsequence(MEMBERS.to_vec(), 0..=3);
    (members(), members(), members()).prop_map(|(a, b, c)| {
        let owned = |ids: Vec<&str>| ids.into_iter().map(String::from).collect();
        ROLES.iter().map(ToString::to_string).zip([owned(a), owned(b), owned(c)]).collect()
    })
}

fn call() -> impl Strategy<Value = Call> {
    (
        prop::sample::select(&CALLERS[..]),
        prop::sample::select(&Verb::ALL[..]),
        prop::sample::select(&PATHS[..]),
        prop::sample::select(&PURPOSES[..]),
        prop::sample::select(&[Reveal::Nothing, Reveal::Full, Reveal::Masked][..]),
        1u32..4,
        prop::sample::select(&TIMES[..]),
    )
        .prop_map(|(caller, verb, path, purpose, reveal, requested, now)| Call {
            caller,
            verb,
            path,
            purpose,
            reveal,
            requested,
            now: Timestamp::from_millis(now),
        })
}

/// Calls that share callers, actions and paths, so that answers kept for one meet the others.
pub(super) fn calls() -> impl Strategy<Value = Vec<Call>> {
    (prop::collection::vec(call(), 1..4), prop::collection::vec((any::<prop::sample::Index>(), call()), 12..24))
        .prop_map(|(stems, calls)| {
            let like = |(index, call): (prop::sample::Index, Call)| {
                let Call { caller, verb, path, .. } = *index.get(&stems);
                Call { caller, verb, path, ..call }
            };
            calls.into_iter().map(like).collect()
        })
}

fn check(lines: &[Line], roles: &RoleSet, calls: &[Call], extra: &Line) {
    let policy = book(lines, roles, false);
    let reversed = book(lines, roles, true);
    let stricter = book(&[lines, std::slice::from_ref(extra)].concat(), roles, false);
    for call in calls {
        let expected = named(expected(lines, roles, call));
        assert_eq!(answer(&policy, call), expected, "{call:?}");
        assert_eq!(answer(&policy, call), expected, "again: {call:?}");
        assert_eq!(answer(&reversed, call), expected, "in another order: {call:?}");
        if expected != Err((Refusal::UnknownScope, vec![])) {
            assert_eq!(plain(&policy, call), expected, "with every policy: {call:?}");
        }
        assert!(expected.is_ok() || answer(&stricter, call).is_err(), "a forbid granted: {call:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn random_policies_agree_with_the_model_and_with_plain_cedar_z_02(
        lines in lines(), roles in role_set(), calls in calls(), extra in line(Just(true))
    ) {
        check(&lines, &roles, &calls, &extra);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16_000))]

    #[test]
    #[ignore = "a hundred thousand policies; for the long run"]
    fn a_hundred_thousand_policies_agree_z_02(
        lines in lines(), roles in role_set(), calls in calls(), extra in line(Just(true))
    ) {
        check(&lines, &roles, &calls, &extra);
    }
}
