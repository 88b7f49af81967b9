//! The report of a purge as a page.

use super::{MEBIBYTE, PurgeReport};
use crate::bench::Results;
use crate::bench::chart::{Bars, Chart};
use crate::bench::figures::{grouped, readable};
use crate::bench::page::{self, Page, Section, Table};

const NOTES: &[&str] = &[
    "All tokens were due at one moment, when the vault started without a grace period. A vault that runs all the time purges as tokens expire.",
    "Space comes back when the database has compacted what was deleted, which it does by itself and not at once. The log keeps its events, \
     and calls during the measurement took room, too.",
    "At a steady rate a call's time counts from when it was due.",
];

impl Results for PurgeReport {
    fn html(&self) -> Result<String, serde_json::Error> {
        page::html(&self.page(), self)
    }
}

impl PurgeReport {
    fn page(&self) -> Page {
        Page {
            title: format!("Cloakroom {}: purging", self.version),
            lead: format!(
                "{} tokens that expired, deleted at {} a second at the most.",
                grouped(self.tokens as f64),
                grouped(self.settings.rows_per_second as f64)
            ),
            host: self.host.clone(),
            disk: format!("p50 {:.0} µs, p99 {:.0} µs", self.fdatasync.p50_us, self.fdatasync.p99_us),
            sections: vec![self.cost(), self.felt(), self.rest()],
            notes: NOTES.to_vec(),
        }
    }

    fn cost(&self) -> Section {
        let rows = [
            ("to issue a token, in batches of 100", self.issue_cpu_us),
            ("to purge it", self.purge_cpu_us),
            ("the second in parts of the first", self.ratio),
        ];
        let group = |(name, figure): (&str, f64)| (name.to_owned(), vec![figure]);
        Section {
            title: "What it costs",
            text: String::new(),
            charts: vec![Chart::Bars(Bars {
                title: "Server CPU, µs".to_owned(),
                series: vec!["CPU"],
                groups: rows.into_iter().take(2).map(group).collect(),
                logarithmic: false,
            })],
            tables: vec![Table::new(
                &["server CPU", "µs"],
                rows.map(|(name, figure)| vec![name.to_owned(), readable(figure)]),
            )],
        }
    }

    fn felt(&self) -> Section {
        let calls = &self.calls;
        let (without, meanwhile) = (calls.without.quantiles(), calls.meanwhile.quantiles());
        let rows = [
            ("p50", without.p50_us, meanwhile.p50_us),
            ("p99", without.p99_us, meanwhile.p99_us),
            ("p99.9", without.p999_us, meanwhile.p999_us),
        ];
        let line = |(name, without, meanwhile): (&str, f64, f64)| {
            vec![name.to_owned(), readable(without), readable(meanwhile), readable(meanwhile / without)]
        };
        Section {
            title: "What callers feel of it",
            text: format!(
                "Tokenize of one at {} calls a second, a fifth of the peak; {} tokens were purged meanwhile.",
                grouped(calls.rate),
                grouped(calls.purged.purged as f64)
            ),
            charts: vec![Chart::Bars(Bars {
                title: "µs from when a call was due, logarithmic".to_owned(),
                series: vec!["without a purge", "while it purges"],
                groups: rows.map(|(name, without, meanwhile)| (name.to_owned(), vec![without, meanwhile])).into(),
                logarithmic: true,
            })],
            tables: vec![Table::new(&["µs", "without a purge", "while it purges", "ratio"], rows.map(line))],
        }
    }

    fn rest(&self) -> Section {
        let disk = &self.disk;
        let mebibytes = |bytes: u64| readable(bytes as f64 / MEBIBYTE);
        let rows = [
            ("disk empty, MiB", mebibytes(disk.empty_bytes)),
            ("disk with all, MiB", mebibytes(disk.full_bytes)),
            ("disk after, MiB", mebibytes(disk.after_bytes)),
            ("bytes a token that came back", readable(disk.freed_bytes_per_token)),
            ("s until all were gone", readable(self.lag.seconds_until_all_were_gone)),
            ("lag that the vault reported, at its worst, s", readable(self.lag.worst_reported_seconds)),
        ];
        Section {
            title: "Disk and lag",
            text: String::new(),
            charts: Vec::new(),
            tables: vec![Table::new(&["what", "figure"], rows.map(|(name, figure)| vec![name.to_owned(), figure]))],
        }
    }
}
