//! `policy explain` without a call: who may do what.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Context;
use serde_json::json;

use super::write_json;
use crate::cli::Format;
use crate::cli::columns::aligned;
use crate::policy::{Access, CallerClass, Cell, PlaceClass, Rulebook, Verb};

/// With more rows than this, a person sees only those in which something is allowed.
const ROWS_SHOWN: usize = 40;

pub(super) fn write(rulebook: &Rulebook, format: Format, output: &mut impl Write) -> anyhow::Result<()> {
    let access = rulebook.access()?;
    match format {
        Format::Text => write_text(&access, output).context("cannot write the output"),
        Format::Json => write_lines(&access, output),
    }
}

fn verbs(place: &PlaceClass) -> impl Iterator<Item = Verb> {
    Verb::ALL.into_iter().filter(|verb| place.takes(*verb))
}

/// One table for each scope, and one for the vault.
fn write_text(access: &Access<'_>, output: &mut impl Write) -> std::io::Result<()> {
    let labels = labels(access.callers());
    let vault_last = (1..access.places().len()).chain([0]);
    for (number, place) in vault_last.map(|number| (number, &access.places()[number])) {
        let name = if place.example.is_some() { format!("scope {}", place.pattern) } else { "the vault".to_owned() };
        let mut rows = vec![std::iter::once(name).chain(verbs(place).map(|verb| verb.name().to_owned())).collect()];
        let mut left_out = 0;
        for (caller, label) in labels.iter().enumerate() {
            let cells: Vec<_> = verbs(place).map(|verb| access.cell(caller, verb, number)).collect();
            if labels.len() > ROWS_SHOWN && cells.iter().all(|cell| matches!(cell, Cell::No(_))) {
                left_out += 1;
                continue;
            }
            rows.push(std::iter::once(label.clone()).chain(cells.iter().map(in_words)).collect::<Vec<_>>());
        }
        write!(output, "{}", aligned(&rows))?;
        if left_out > 0 {
            writeln!(output, "and {left_out} rows with nothing but no")?;
        }
        writeln!(output)?;
    }
    writeln!(output, "yes: always. no: never. when: it depends on the call; read the conditions of the policies named.")
}

fn write_lines(access: &Access<'_>, output: &mut impl Write) -> anyhow::Result<()> {
    for (number, place) in access.places().iter().enumerate() {
        for (row, caller) in access.callers().iter().enumerate() {
            for verb in verbs(place) {
                let (decision, policies) = match access.cell(row, verb, number) {
                    Cell::Yes(policies) => ("yes", policies),
                    Cell::When(policies) => ("when", policies),
                    Cell::No(policies) => ("no", policies),
                };
                let line = json!({
                    "caller": caller.label(),
                    "trust_domain": caller.example.trust_domain(),
                    "roles": caller.roles,
                    "action": verb.name(),
                    "scope": place.example.as_ref().map(|_| &place.pattern),
                    "decision": decision,
                    "policies": policies,
                });
                write_json(output, &line)?;
            }
        }
    }
    Ok(())
}

fn in_words(cell: &Cell) -> String {
    match cell {
        Cell::Yes(_) => "yes".to_owned(),
        Cell::No(_) => "no".to_owned(),
        Cell::When(policies) => format!("when {}", policies.join(", ")),
    }
}

/// Where a role has members in several trust domains, its rows are told apart by these.
fn labels(callers: &[CallerClass]) -> Vec<String> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for caller in callers {
        *times.entry(caller.label()).or_default() += 1;
    }
    let label = |caller: &CallerClass| {
        let label = caller.label();
        if times[&label] == 1 { label } else { format!("{label} ({})", caller.example.trust_domain()) }
    };
    callers.iter().map(label).collect()
}
