//! What can be said of a policy's conditions before there is a call.
//!
//! A condition that reads the call's context may hold or not; one that reads only who asks and on what is known as soon as
//! these are, and Cedar itself evaluates it. Where this module is not sure, it says "sometimes".

use cedar_policy::{Policy, PolicySet};
use serde_json::Value;

use super::action::Verb;
use super::schema::Kin;
use super::{Context, Reveal, slice};
use crate::clock::Timestamp;

/// The conditions of one policy.
pub(super) struct Conditions {
    /// `None` if they can't be taken apart; nothing is known of them then.
    parts: Option<Vec<Part>>,
}

/// One `when { … }` or `unless { … }`, as a policy that has no other.
struct Part {
    alone: Policy,
    reads_context: bool,
    can_fail: bool,
}

/// What a policy whose head fits says of all calls by one caller of one action on one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// Its conditions hold, whatever the call's context.
    Always,
    /// They do not hold.
    Never,
    /// They fail, which counts as no.
    Fails,
    /// It depends on the call, or can't be told.
    Sometimes {
        /// Whether there may be calls for which they fail.
        can_fail: bool,
    },
}

/// What became of a policy in one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Holds,
    DoesNot,
    Fails,
}

/// For conditions that do not read it.
const NO_CONTEXT: Context<'static> =
    Context { purpose: "", reveal: Reveal::Nothing, requested: 0, now: Timestamp::from_millis(0) };

impl Conditions {
    pub fn of(policy: &Policy) -> Self {
        Self { parts: parts(policy) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parts.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether there may be calls for which they fail.
    pub fn can_fail(&self) -> bool {
        self.parts.as_ref().is_none_or(|parts| parts.iter().any(|part| part.can_fail))
    }

    /// Whether something in them is decided by who asks and on what alone.
    pub fn tell_callers_apart(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| parts.iter().any(|part| !part.reads_context))
    }

    /// What they come to for `who` on `on`, whatever the context.
    pub fn say(&self, who: &Kin, verb: Verb, on: &Kin) -> Says {
        let Some(parts) = &self.parts else { return Says::Sometimes { can_fail: true } };
        let (open, known): (Vec<_>, Vec<_>) = parts.iter().partition(|part| part.reads_context);
        let can_fail = open.iter().any(|part| part.can_fail);
        let truth = |part: &&Part| evaluate(&part.alone, who, verb, on, &NO_CONTEXT);
        // Whether one that fails or one that does not hold is met first depends on the order, and that is Cedar's matter.
        let truths: Vec<_> = known.iter().map(truth).collect();
        match (truths.contains(&Truth::DoesNot), truths.contains(&Truth::Fails)) {
            (true, false) if !can_fail => Says::Never,
            (false, true) if open.is_empty() => Says::Fails,
            (false, false) if open.is_empty() => Says::Always,
            (false, false) => Says::Sometimes { can_fail },
            _ => Says::Sometimes { can_fail: true },
        }
    }

    /// Which of them, by number, do not hold in a call.
    pub fn unmet(&self, who: &Kin, verb: Verb, on: &Kin, context: &Context<'_>) -> Vec<usize> {
        let unmet = |part: &Part| evaluate(&part.alone, who, verb, on, context) != Truth::Holds;
        let parts = self.parts.iter().flatten().enumerate();
        parts.filter(|(_, part)| unmet(part)).map(|(number, _)| number).collect()
    }
}

/// Asks Cedar about one policy whose head fits.
pub(super) fn evaluate(policy: &Policy, who: &Kin, verb: Verb, on: &Kin, context: &Context<'_>) -> Truth {
    let mut alone = PolicySet::new();
    alone.add(policy.clone()).expect("there is no other policy in the set");
    match slice::ask(&alone, who.clone(), verb, on.clone(), context) {
        Some(response) if response.diagnostics().errors().next().is_some() => Truth::Fails,
        Some(response) if response.diagnostics().reason().next().is_some() => Truth::Holds,
        Some(_) => Truth::DoesNot,
        None => Truth::Fails,
    }
}

fn parts(policy: &Policy) -> Option<Vec<Part>> {
    let whole = policy.to_json().ok()?;
    let conditions = whole.get("conditions")?.as_array()?.clone();
    let part = |condition: &Value| {
        let body = condition.get("body")?;
        let mut alone = whole.clone();
        *alone.get_mut("conditions")? = Value::Array(vec![condition.clone()]);
        Some(Part {
            alone: Policy::from_json(Some(policy.id().clone()), alone).ok()?,
            reads_context: mentions_context(body),
            can_fail: !never_fails(body),
        })
    };
    conditions.iter().map(part).collect()
}

/// Whether the variable `context` occurs, or something that looks like it.
fn mentions_context(expression: &Value) -> bool {
    match expression {
        Value::Object(fields) => {
            fields.get("Var").is_some_and(|name| name == "context") || fields.values().any(mentions_context)
        }
        Value::Array(items) => items.iter().any(mentions_context),
        _ => false,
    }
}

/// Whether every operator in a validated expression is one that has a result for all operands. Arithmetic has not: it
/// overflows. What is not listed here counts as able to fail.
fn never_fails(expression: &Value) -> bool {
    let Some((operator, operands)) = expression.as_object().filter(|o| o.len() == 1).and_then(|o| o.iter().next())
    else {
        return false;
    };
    let safe = |name: &str| operands.get(name).is_some_and(never_fails);
    match operator.as_str() {
        "Value" | "Var" => true,
        "!" | "isEmpty" => safe("arg"),
        "==" | "!=" | "in" | "<" | "<=" | ">" | ">=" | "&&" | "||" | "contains" | "containsAll" | "containsAny" => {
            safe("left") && safe("right")
        }
        // Strict validation has seen to it that the attribute is there.
        "." | "has" | "like" => safe("left"),
        "is" => safe("left") && operands.get("in").is_none_or(never_fails),
        "if-then-else" => ["if", "then", "else"].into_iter().all(safe),
        "Set" => operands.as_array().is_some_and(|items| items.iter().all(never_fails)),
        "Record" => operands.as_object().is_some_and(|fields| fields.values().all(never_fails)),
        // Strict validation has read the literals, and every moment has a time of day.
        "datetime" | "duration" | "decimal" | "ip" | "toTime" => {
            operands.as_array().is_some_and(|items| items.iter().all(never_fails))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::SpiffeId;
    use crate::policy::roles::Roles;
    use crate::policy::{Resource, tests};
    use crate::scope::Path;

    fn conditions(clauses: &str) -> Conditions {
        Conditions::of(&Policy::parse(None, format!("permit (principal, action, resource) {clauses};")).unwrap())
    }

    fn say(clauses: &str) -> Says {
        let settings = tests::roles(&[("payments", &["spiffe://a.example/payments"])]);
        let (roles, mistakes) = Roles::load(&settings, &tests::domains());
        assert!(mistakes.is_empty());
        let who = Kin::of_caller(&SpiffeId::parse("spiffe://a.example/payments").unwrap(), &roles);
        let path = Path::parse("acme/ssn").unwrap();
        conditions(clauses).say(&who, Verb::Detokenize, &Kin::of_resource(Resource::Scope(&path)))
    }

    #[test]
    fn what_does_not_read_the_call_is_decided_and_the_rest_is_left_open() {
        let sometimes = Says::Sometimes { can_fail: false };
        for (clauses, expected) in [
            ("", Says::Always),
            ("when { principal in Cloakroom::Role::\"payments\" }", Says::Always),
            ("unless { principal in Cloakroom::Role::\"payments\" }", Says::Never),
            ("when { resource in Cloakroom::Scope::\"acme\" } unless { false }", Says::Always),
            ("when { 9223372036854775807 + 1 == 0 }", Says::Fails),
            ("when { context.purpose != \"\" }", sometimes),
            ("when { context[\"now\"].toTime() < duration(\"6h\") }", sometimes),
            ("when { context.purpose != \"\" } unless { principal in Cloakroom::Role::\"payments\" }", Says::Never),
            ("when { context.requested * 2 < 10 }", Says::Sometimes { can_fail: true }),
            // The first may fail before the second is looked at: not "never".
            ("when { context.requested * 2 < 10 } when { false }", Says::Sometimes { can_fail: true }),
            (
                "when { context.purpose == \"x\" } when { 9223372036854775807 + 1 == 0 }",
                Says::Sometimes { can_fail: true },
            ),
            ("when { {context: 1}.context == 1 }", Says::Always),
        ] {
            assert_eq!(say(clauses), expected, "{clauses}");
        }
    }

    #[test]
    fn only_what_is_known_never_to_fail_is_taken_for_it() {
        for clause in [
            "context.purpose like \"re*\" && [\"a\", \"b\"].contains(context.reveal)",
            "if context has token then context.token.issuer == \"x\" else !(context.requested > 3)",
            "context.now < datetime(\"2027-01-01\") || principal is Cloakroom::Workload in Cloakroom::Role::\"r\"",
        ] {
            assert!(!conditions(&format!("when {{ {clause} }}")).can_fail(), "{clause}");
        }
        for clause in [
            "-context.requested < 0",
            "context.requested + 1 > 1",
            "context.now.offset(duration(\"1d\")) > context.now",
        ] {
            assert!(conditions(&format!("when {{ {clause} }}")).can_fail(), "{clause}");
        }
    }
}
