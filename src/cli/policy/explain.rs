//! `policy explain`: whether one call is allowed and why, or who may do what.

use std::io::Write;

use anyhow::Context;
use serde_json::json;

use super::{Rules, put_place, table, timestamp, write_json};
use crate::cli::columns::counted;
use crate::cli::moment::{moment, rfc3339};
use crate::cli::{Exit, Format, Usage};
use crate::clock::{SystemClock, Timestamp};
use crate::event::Time;
use crate::policy::{Call, CallWords, Explanation, Near, Reference, Refusal, Reveal, Rulebook, Why};
use crate::vault;

/// How many policies for other callers are shown to a person.
const OTHERS_SHOWN: usize = 5;

/// Say whether a call would be allowed, and why; without a call, who may do what.
///
/// The answer is in the output and not in the exit status; `policy test` is for checks that must fail.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    rules: Rules,
    /// Who calls: a whole SPIFFE ID, or its path in the only trust domain of the configuration, such as payments.
    #[arg(long, value_name = "CALLER", requires = "action")]
    caller: Option<String>,
    /// What for: tokenize, detokenize, inspect, renew, revoke, queryAudit or administer.
    #[arg(long, requires = "caller")]
    action: Option<String>,
    /// On which scope; none for queryAudit and administer.
    #[arg(long, requires = "caller")]
    scope: Option<String>,
    /// The purpose that a detokenize states.
    #[arg(long, requires = "caller")]
    purpose: Option<String>,
    /// How much a detokenize wants to see: full, which is the default, or masked.
    #[arg(long, requires = "caller")]
    reveal: Option<String>,
    /// How many items the call has. 1 by default.
    #[arg(long, value_name = "N", requires = "caller")]
    requested: Option<u64>,
    /// When: RFC 3339, or how long ago, such as 2h. By default now.
    #[arg(long, value_parser = moment, value_name = "TIME", requires = "caller")]
    now: Option<prost_types::Timestamp>,
    /// For people, or one JSON object a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let (Some(caller), Some(action)) = (&options.caller, &options.action) else {
        table::write(&options.rules.rulebook()?, options.output, output)?;
        return Ok(Exit::Done);
    };
    let words = CallWords {
        caller: whole_caller(caller, options)?,
        action: action.clone(),
        scope: options.scope.clone(),
        purpose: options.purpose.clone(),
        reveal: options.reveal.clone(),
        requested: options.requested,
    };
    if words.purpose.as_ref().is_some_and(|purpose| !vault::check_words(purpose)) {
        return Err(Usage(format!("--purpose: {}", vault::Reason::PurposeMalformed.description())).into());
    }
    let now = options.now.map_or_else(|| Ok(SystemClock::shared().wall()), timestamp)?;
    let call = Call::parse(&words, now).map_err(|mistakes| {
        Usage(mistakes.iter().map(|mistake| format!("--{mistake}")).collect::<Vec<_>>().join("\n"))
    })?;
    let rulebook = options.rules.rulebook()?;
    let explanation = rulebook.explain(&call);
    match options.output {
        Format::Text => write_text(output, &call, &explanation).context("cannot write the output")?,
        Format::Json => write_json(output, &to_json(&rulebook, &call, &explanation))?,
    }
    Ok(Exit::Done)
}

/// `payments` is meant in the trust domain that there is. What can be no path is left as it is, for who says why.
fn whole_caller(name: &str, options: &Options) -> anyhow::Result<String> {
    if name.contains(':') || name.is_empty() || name.starts_with('/') {
        return Ok(name.to_owned());
    }
    let domains = options.rules.configuration()?.trust_domains;
    if let [only] = &domains[..] {
        return Ok(format!("spiffe://{}/{name}", only.name));
    }
    let all = domains.iter().map(|domain| domain.name.as_str()).collect::<Vec<_>>().join(", ");
    let why = format!("there are several trust domains ({all}): write the whole SPIFFE ID, spiffe://DOMAIN/{name}");
    Err(Usage(format!("--caller: {why}")).into())
}

fn write_text(output: &mut impl Write, call: &Call, explanation: &Explanation) -> std::io::Result<()> {
    let (answer, may) = if explanation.refusal.is_none() { ("yes", "may") } else { ("no", "may not") };
    let place = call.path.as_ref().map(|path| format!(" in {path}")).unwrap_or_default();
    writeln!(output, "{answer}: {} {may} {}{place}", call.caller.as_str(), call.verb.name())?;
    writeln!(output, "  call       {}", circumstances(call))?;
    let roles = if explanation.roles.is_empty() { "none".to_owned() } else { explanation.roles.join(", ") };
    writeln!(output, "  roles      {roles}")?;
    writeln!(output, "  because    {}", because(explanation))?;
    for policy in &explanation.decided_by {
        writeln!(output, "             {} ({})", policy.id, policy.place)?;
    }
    let others = |near: &&Near| matches!(near.why, Why::OtherCaller(_));
    let number = explanation.near.iter().filter(others).count();
    let shown = explanation.near.len() - number.saturating_sub(OTHERS_SHOWN);
    for (index, near) in explanation.near.iter().take(shown).enumerate() {
        write_near(output, near, if index == 0 { "near" } else { "" })?;
    }
    if shown < explanation.near.len() {
        writeln!(output, "             and {} more for other callers", explanation.near.len() - shown)?;
    }
    explanation.notes.iter().try_for_each(|note| writeln!(output, "  note       {note}"))
}

fn write_near(output: &mut impl Write, near: &Near, label: &str) -> std::io::Result<()> {
    let Reference { id, place } = &near.policy;
    match &near.why {
        Why::Overruled => writeln!(output, "  {label:<10} {id} ({place}) permits it, in vain"),
        Why::OtherCaller(whom) => writeln!(output, "  {label:<10} {id} ({place}) is for {whom}"),
        Why::Conditions(conditions) => {
            writeln!(output, "  {label:<10} {id} ({place}) is for this caller, but what it asks for does not hold:")?;
            conditions.iter().try_for_each(|(place, text)| writeln!(output, "               {text} ({place})"))
        }
    }
}

fn circumstances(call: &Call) -> String {
    let mut parts = vec![format!("at {}", time(call.now))];
    if call.reveal != Reveal::Nothing {
        parts.push(format!("purpose {:?}", call.purpose));
        parts.push(if call.reveal == Reveal::Full { "in full" } else { "masked" }.to_owned());
    }
    if call.requested > 0 {
        parts.push(counted(call.requested.into(), "item"));
    }
    parts.join(", ")
}

fn because(explanation: &Explanation) -> &'static str {
    match explanation.refusal {
        None => "it is permitted by",
        Some(Refusal::NotAllowed) => "no policy permits it",
        Some(Refusal::UnknownScope) => "there is no such scope",
        Some(Refusal::Forbidden) => "it is forbidden by",
        Some(Refusal::Failed) => "a policy that fails counts as no; what failed:",
    }
}

fn to_json(rulebook: &Rulebook, call: &Call, explanation: &Explanation) -> serde_json::Value {
    json!({
        "decision": if explanation.refusal.is_none() { "allow" } else { "deny" },
        "refusal": explanation.refusal.map(Refusal::as_str),
        "caller": call.caller.as_str(),
        "action": call.verb.name(),
        "scope": call.path.as_ref().map(crate::scope::Path::as_str),
        "purpose": call.purpose,
        "reveal": call.reveal.as_str(),
        "requested": call.requested,
        "now": time(call.now),
        "roles": explanation.roles,
        "policies": explanation.decided_by.iter().map(reference).collect::<Vec<_>>(),
        "near": explanation.near.iter().map(near).collect::<Vec<_>>(),
        "notes": explanation.notes,
        "rulebook": hex::encode(rulebook.digest()),
    })
}

fn reference(policy: &Reference) -> serde_json::Value {
    let mut object = json!({ "id": policy.id });
    put_place(&mut object, &policy.place);
    object
}

fn near(near: &Near) -> serde_json::Value {
    let mut object = reference(&near.policy);
    match &near.why {
        Why::Overruled => object["why"] = "overruled".into(),
        Why::OtherCaller(whom) => {
            object["why"] = "other-caller".into();
            object["for"] = whom.as_str().into();
        }
        Why::Conditions(conditions) => {
            object["why"] = "conditions".into();
            let conditions = conditions.iter().map(|(place, text)| {
                let mut object = json!({ "text": text });
                put_place(&mut object, place);
                object
            });
            object["conditions"] = conditions.collect();
        }
    }
    object
}

fn time(time: Timestamp) -> String {
    let time = Time::from(time);
    rfc3339(Some(&prost_types::Timestamp { seconds: time.seconds, nanos: time.nanos }))
}
