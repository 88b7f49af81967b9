//! Findings of `serve --check` and `doctor` in print: one line each.

use std::io::Write;

use anyhow::Context;
use serde::Serialize;

use super::Format;
use super::terminal::{Colour, Terminal};
use crate::server::{Finding, Verdict};

#[derive(Serialize)]
struct JsonFinding<'a> {
    verdict: &'a str,
    subject: &'a str,
    seen: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    advice: &'a str,
}

pub(super) fn print(findings: &[Finding], format: Format, output: &mut impl Write) -> anyhow::Result<()> {
    let terminal = Terminal::of_output();
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    for finding in findings {
        let Finding { verdict, subject, seen, advice } = finding;
        match format {
            Format::Text => {
                let word = terminal.colour(colour(*verdict), &format!("{:4}", verdict.as_str()));
                write!(output, "{word}  {subject:width$}  {}", on_one_line(seen))?;
                if !advice.is_empty() {
                    write!(output, ". {}", on_one_line(&capitalised(advice)))?;
                }
                writeln!(output)
            }
            Format::Json => {
                let verdict = verdict.as_str();
                serde_json::to_writer(&mut *output, &JsonFinding { verdict, subject, seen, advice })?;
                writeln!(output)
            }
        }
        .context("cannot write to standard output")?;
    }
    Ok(())
}

pub(super) fn any_bad(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.verdict == Verdict::Bad)
}

fn colour(verdict: Verdict) -> Colour {
    match verdict {
        Verdict::Ok => Colour::Green,
        Verdict::Warn => Colour::Yellow,
        Verdict::Bad => Colour::Red,
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        let findings =
            [Finding::ok("clock", "synchronised"), Finding::bad("data directory", "line one\n    line two", "do this")];
        let print = |format| {
            let mut output = Vec::new();
            print(&findings, format, &mut output).unwrap();
            String::from_utf8(output).unwrap()
        };
        assert_eq!(
            print(Format::Text),
            "ok    clock           synchronised\nbad   data directory  line one line two. Do this\n"
        );
        let json = print(Format::Json);
        assert_eq!(json.lines().next(), Some("{\"verdict\":\"ok\",\"subject\":\"clock\",\"seen\":\"synchronised\"}"));
        assert!(any_bad(&findings) && !any_bad(&findings[..1]));
    }
}
