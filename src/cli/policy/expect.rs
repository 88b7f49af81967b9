//! `policy test`: whether the rulebook decides as files say it should.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;

use super::{Rules, put_place, write_json};
use crate::cli::columns::counted;
use crate::cli::{Exit, Format, Usage};
use crate::policy::{Expectation, Mistake, Rulebook, Seen};

/// Check that the rulebook decides as the files expect it to.
///
/// Exit status: 0 if it does, 1 if a decision differs, 2 if a file or the rulebook has a mistake.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// Files of expected decisions: TOML, see docs/policy.md.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    rules: Rules,
    /// Lines for people, or one JSON object a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let rulebook = options.rules.rulebook()?;
    let expectations = read(&options.files)?;
    let seen = meet(&rulebook, &expectations)?;
    let mut failed = 0;
    for (expectation, seen) in expectations.iter().zip(&seen) {
        let met = expectation.is_met_by(seen);
        failed += u64::from(!met);
        match options.output {
            Format::Json => write_json(output, &to_json(expectation, seen, met))?,
            Format::Text if met => {}
            Format::Text => write_text(output, expectation, seen).context("cannot write the output")?,
        }
    }
    let all = expectations.len() as u64;
    match options.output {
        Format::Json => write_json(output, &json!({ "kind": "summary", "expectations": all, "failed": failed }))?,
        Format::Text => {
            let outcome = if failed == 0 { "all met".to_owned() } else { format!("{failed} not met") };
            writeln!(output, "{}: {outcome}", counted(all, "expectation")).context("cannot write the output")?;
        }
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::SomeFailed })
}

fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Expectation>> {
    let (mut expectations, mut mistakes) = (Vec::new(), Vec::new());
    for file in files {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| Usage(format!("{name}: cannot read it: {error}")))?;
        match Expectation::parse(&name, &text) {
            Ok(found) => expectations.extend(found),
            Err(found) => mistakes.extend(found),
        }
    }
    none(&mistakes).map(|()| expectations)
}

fn meet(rulebook: &Rulebook, expectations: &[Expectation]) -> anyhow::Result<Vec<Seen>> {
    let (mut seen, mut mistakes) = (Vec::new(), Vec::new());
    for expectation in expectations {
        match rulebook.meet(expectation) {
            Ok(met) => seen.push(met),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    none(&mistakes).map(|()| seen)
}

fn none(mistakes: &[Mistake]) -> anyhow::Result<()> {
    if mistakes.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = mistakes.iter().map(Mistake::to_string).collect();
    Err(Usage(format!("{} in the expectations:\n{}", counted(lines.len() as u64, "mistake"), lines.join("\n"))).into())
}

fn write_text(output: &mut impl Write, expectation: &Expectation, seen: &Seen) -> std::io::Result<()> {
    let call = &expectation.call;
    let name = expectation.name.clone().unwrap_or_else(|| {
        let place = call.path.as_ref().map(|path| format!(" in {path}")).unwrap_or_default();
        format!("{} {}{place}", call.caller.as_str(), call.verb.name())
    });
    writeln!(output, "{}: {name}", expectation.place)?;
    writeln!(output, "    expected {}", outcome(expectation.allow, expectation.policies.as_deref()))?;
    writeln!(output, "    seen     {}", outcome(seen.allow, Some(&seen.policies)))
}

fn outcome(allow: bool, policies: Option<&[String]>) -> String {
    match policies {
        None => decision(allow).to_owned(),
        Some([]) => format!("{}, by no policy", decision(allow)),
        Some(policies) => format!("{}, by {}", decision(allow), policies.join(", ")),
    }
}

fn decision(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn to_json(expectation: &Expectation, seen: &Seen, met: bool) -> serde_json::Value {
    let mut object = json!({ "kind": "expectation" });
    put_place(&mut object, &expectation.place);
    object["name"] = expectation.name.clone().into();
    object["met"] = met.into();
    object["expected"] = json!({ "decision": decision(expectation.allow), "policies": expectation.policies });
    object["seen"] = json!({ "decision": decision(seen.allow), "policies": seen.policies });
    object
}
