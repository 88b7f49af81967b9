//! `policy check`: every mistake in scopes, roles and policies, and what was probably not meant.

use std::io::Write;

use anyhow::Context;
use serde_json::json;

use super::{Rules, put_place, write_json};
use crate::cli::columns::counted;
use crate::cli::{Exit, Format};
use crate::config;
use crate::policy::{Mistake, Place};
use crate::server;

/// Find every mistake in scopes, roles and policies, and what was probably not meant.
///
/// Exit status: 0 if the vault would start with them, 2 if it would not. Warnings count as mistakes with --deny-warnings.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    rules: Rules,
    /// End with status 2 if there are warnings, for CI.
    #[arg(long)]
    deny_warnings: bool,
    /// Lines for people, or one JSON object a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// One line of the report.
struct Remark {
    kind: &'static str,
    /// A warning's kind, as the documents name it.
    rule: Option<&'static str>,
    place: Place,
    what: String,
    hint: String,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let (remarks, summary) = match options.rules.configuration() {
        Ok(config) => check(&config)?,
        Err(error) => match error.downcast::<config::Error>()? {
            config::Error::Mistakes(mistakes) => {
                let note = "policies are checked once the configuration can be read";
                (mistakes.into_iter().map(Remark::from).collect(), note.to_owned())
            }
            unreadable @ config::Error::Unreadable { .. } => return Err(unreadable.into()),
        },
    };
    let count = |kind: &str| remarks.iter().filter(|remark| remark.kind == kind).count() as u64;
    let (mistakes, warnings) = (count("mistake"), count("warning"));
    match options.output {
        Format::Text => {
            remarks.iter().try_for_each(|remark| remark.write(output)).context("cannot write the output")?;
            let found = format!("{}, {}", counted(mistakes, "mistake"), counted(warnings, "warning"));
            writeln!(output, "{found}; {summary}").context("cannot write the output")?;
        }
        Format::Json => {
            remarks.iter().try_for_each(|remark| write_json(output, &remark.to_json()))?;
            write_json(output, &json!({ "kind": "summary", "mistakes": mistakes, "warnings": warnings }))?;
        }
    }
    let bad = mistakes > 0 || options.deny_warnings && warnings > 0;
    Ok(if bad { Exit::Usage } else { Exit::Done })
}

fn check(config: &config::Config) -> anyhow::Result<(Vec<Remark>, String)> {
    let rulebook = match server::load_rulebook(config) {
        Ok(rulebook) => rulebook,
        Err(server::Error::Rulebook(errors)) => {
            let remarks = errors.mistakes().iter().cloned().map(Remark::from).collect();
            return Ok((remarks, "warnings are looked for once there are no mistakes".to_owned()));
        }
        Err(other) => return Err(other.into()),
    };
    let remarks = rulebook.findings()?.into_iter().map(|finding| Remark {
        kind: "warning",
        rule: Some(finding.rule.as_str()),
        place: server::locate(config, finding.place),
        what: finding.what,
        hint: finding.hint,
    });
    let remarks = remarks.collect();
    let (scopes, policies) = (rulebook.scopes().iter().count() as u64, rulebook.policy_ids().count() as u64);
    let policies = if policies == 1 { "1 policy".to_owned() } else { format!("{policies} policies") };
    let roles = counted(config.roles.len() as u64, "role");
    let digest = hex::encode(rulebook.digest());
    Ok((remarks, format!("{}, {roles}, {policies}, rulebook {digest}", counted(scopes, "scope"))))
}

impl Remark {
    fn write(&self, output: &mut impl Write) -> std::io::Result<()> {
        let Self { kind, place, what, hint, .. } = self;
        let rule = self.rule.map(|rule| format!(" [{rule}]")).unwrap_or_default();
        writeln!(output, "{place}: {kind}: {what}{rule}")?;
        if hint.is_empty() { Ok(()) } else { writeln!(output, "    {hint}") }
    }

    fn to_json(&self) -> serde_json::Value {
        let mut object = json!({ "kind": self.kind });
        if let Some(rule) = self.rule {
            object["rule"] = rule.into();
        }
        put_place(&mut object, &self.place);
        object["what"] = self.what.as_str().into();
        object["hint"] = self.hint.as_str().into();
        object
    }
}

impl From<Mistake> for Remark {
    fn from(mistake: Mistake) -> Self {
        Self { kind: "mistake", rule: None, place: mistake.place, what: mistake.what, hint: mistake.hint }
    }
}

impl From<config::Mistake> for Remark {
    fn from(mistake: config::Mistake) -> Self {
        // What a file's author chose, as for every other command.
        let key = config::harmless(&mistake.key);
        let place = match mistake.place {
            config::Place::Line(file, line) => {
                let (file, line) = (file.display().to_string(), line as usize);
                if key.is_empty() {
                    Place::Line { file, line, column: 1 }
                } else {
                    Place::Configured { file, line, key }
                }
            }
            config::Place::Variable(name) => Place::Setting(format!("environment variable {name}")),
        };
        Self { kind: "mistake", rule: None, place, what: config::harmless(&mistake.problem), hint: String::new() }
    }
}
