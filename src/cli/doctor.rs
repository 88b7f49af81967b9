//! `cloakroom doctor`: whether this machine is one that a vault can live on.
//!
//! It looks and changes nothing: the one thing that it writes is a file without a name in the data directory, to see how long
//! a sync takes, and that is gone with the last byte. Each judgement is a function of what was seen, so that it can be tested
//! without a machine that has the fault.

use std::io::Write;
use std::time::Duration;

use super::{ConfigFile, Exit, Format, findings, variables};
use crate::clock::{self, SystemClock, Timestamp};
use crate::config::Config;
use crate::server::{Finding, InUse, bundle_mistakes, certificate_doubts, in_use};

mod certificates;
mod clocks;
mod disk;
mod files;
mod system;

/// Look at the machine: clock, disk, permissions, limits, swap, certificates, memory.
///
/// One line for each: ok, warn or bad, what was seen and what to do. A running vault is not disturbed. Run it as the vault's
/// user. Exit status 0, or 1 if something is bad.
#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// One line for each finding, or one JSON object.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let config = Config::load(&options.file.config, variables())?;
    let now = SystemClock::shared().wall();
    let findings = look(&config, now);
    findings::print(&findings, options.output, output)?;
    Ok(if findings::any_bad(&findings) { Exit::SomeFailed } else { Exit::Done })
}

fn look(config: &Config, now: Timestamp) -> Vec<Finding> {
    let running = matches!(in_use(&config.storage.path), Some(InUse::By(_)));
    let mut found = clocks::look(config, now, running);
    found.extend(disk::look(config));
    found.extend(files::look(config));
    found.extend(system::look(config));
    found.extend(certificates::look(config, now));
    found.extend(bundle_mistakes(config));
    found.extend(certificate_doubts(config));
    found
}

/// A length of time, as exact as people want it; of less than a second to the microsecond, as disks are measured.
fn in_words(duration: Duration) -> String {
    if duration >= Duration::from_secs(1) {
        return clock::in_words(duration);
    }
    let micros = duration.as_micros();
    match (micros / 1_000, micros % 1_000) {
        (0, micros) => format!("{micros}us"),
        (millis, 0) => format!("{millis}ms"),
        (millis, micros) => format!("{millis}ms {micros}us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_people() {
        assert_eq!(in_words(Duration::from_hours(24 * 89 + 5)), "89 days");
        assert_eq!(in_words(Duration::from_secs(3_725)), "1h 2m");
        assert_eq!(in_words(Duration::from_nanos(1_234_567)), "1ms 234us");
    }
}
