//! The report of flatness as a page.

use super::{FlatReport, Row};
use crate::bench::Results;
use crate::bench::chart::{Bars, Chart};
use crate::bench::figures::{grouped, readable};
use crate::bench::page::{self, Page, Section, Table};

const NOTES: &[&str] = &[
    "Two vaults run at the same time, one with little and one with much, and are measured in turn with the same calls; each ratio is the median \
     of the rounds' own.",
    "Calls over many connections cost an echo more, too: less is read and written at once. Its ratio stands beside the vault's.",
    "Certificates are made and connections opened before anything is measured. Open connections that have nothing to do still take part in \
     keepalive, which counts.",
];

impl Results for FlatReport {
    fn html(&self) -> Result<String, serde_json::Error> {
        page::html(&self.page(), self)
    }
}

impl FlatReport {
    fn page(&self) -> Page {
        let name = |row: &Row| format!("{}: {}", row.call, row.of);
        let group = |row: &Row| (name(row), vec![row.little_cpu_us, row.much_cpu_us]);
        let line = |row: &Row| {
            let mut line = vec![name(row)];
            line.extend([row.little, row.much].map(|count| grouped(count as f64)));
            line.extend([row.little_cpu_us, row.much_cpu_us, row.ratio].map(readable));
            let floor = [row.floor_little_cpu_us, row.floor_much_cpu_us, row.floor_ratio];
            line.extend(floor.map(|figure| figure.map_or_else(|| "–".to_owned(), readable)));
            line.extend([row.little_resident_bytes, row.much_resident_bytes].map(|b| readable(b as f64 / 1_048_576.0)));
            line
        };
        let head = [
            "call",
            "little",
            "much",
            "CPU, µs",
            "CPU, µs",
            "much ÷ little",
            "echo, µs",
            "echo, µs",
            "echo's ratio",
            "memory, MiB",
            "memory, MiB",
        ];
        Page {
            title: format!("Cloakroom {}: little against much", self.version),
            lead: "Whether a call costs the same, however much there is of everything else.".to_owned(),
            host: self.host.clone(),
            disk: format!("p50 {:.0} µs, p99 {:.0} µs", self.fdatasync.p50_us, self.fdatasync.p99_us),
            sections: vec![Section {
                title: "Server CPU of a call of one value",
                text: "A vault is flat where both bars of a pair are equally long.".to_owned(),
                charts: vec![Chart::Bars(Bars {
                    title: "Server CPU, µs a call".to_owned(),
                    series: vec!["with little", "with much"],
                    groups: self.rows.iter().map(group).collect(),
                    logarithmic: false,
                })],
                tables: vec![Table::new(&head, self.rows.iter().map(line))],
            }],
            notes: NOTES.to_vec(),
        }
    }
}
