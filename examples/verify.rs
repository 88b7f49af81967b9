//! The offline verifier alone, for an auditor who wants to build what he trusts: no database, no network, no runtime.
//!
//! ```sh
//! cargo run --release --no-default-features --example verify -- LOG_KEY EXPORT [CHECKPOINT…]
//! ```
//!
//! `LOG_KEY` is the vault's `log.vkey`, `EXPORT` what `cloakroom audit export` wrote, each `CHECKPOINT` a note that was kept.
//! Exit status 0 only if everything holds. `cloakroom audit verify` does the same and more.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

use cloakroom::verify::{Kept, Settings, lines};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(key), Some(export)) = (arguments.next(), arguments.next()) else {
        return Err("usage: verify LOG_KEY EXPORT [CHECKPOINT…]".into());
    };
    let keys = vec![std::fs::read_to_string(key)?.parse()?];
    let checkpoints = arguments.map(|name| std::fs::read_to_string(&name).map(|note| Kept { name, note }));
    let settings = Settings { keys, checkpoints: checkpoints.collect::<Result<_, _>>()?, sequence: None };
    let report = lines(&settings, BufReader::with_capacity(1 << 20, File::open(export)?), |_| {})?;
    for finding in &report.findings {
        println!("BAD {finding}");
        finding.fault.evidence().iter().for_each(|note| println!("\n{note}"));
    }
    if !report.holds() {
        return Ok(ExitCode::FAILURE);
    }
    println!("verified: {} entries from {} on", report.entries, report.first);
    Ok(ExitCode::SUCCESS)
}
