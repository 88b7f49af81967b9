//! The report of another product beside the vault, as a page.

use super::{NOTES, PeerReport, Row};
use crate::bench::Results;
use crate::bench::chart::{Bars, Chart};
use crate::bench::figures::{grouped, readable};
use crate::bench::page::{self, Page, Section, Table};

impl Results for PeerReport {
    fn html(&self) -> Result<String, serde_json::Error> {
        page::html(&self.page(), self)
    }
}

impl PeerReport {
    fn page(&self) -> Page {
        Page {
            title: format!("Cloakroom {} beside OpenBao {}", self.version, self.openbao_version),
            lead: format!(
                "{} in flight over {} connections each ({}): medians of {} rounds of {} s.",
                self.in_flight, self.connections, self.connection, self.settings.rounds, self.settings.seconds
            ),
            host: self.host.clone(),
            disk: format!("p50 {:.0} µs, p99 {:.0} µs", self.fdatasync.p50_us, self.fdatasync.p99_us),
            sections: vec![self.calls()],
            notes: NOTES.to_vec(),
        }
    }

    fn calls(&self) -> Section {
        let group = |row: &Row| (name(row), vec![row.figures.server_cpu_us_per_value]);
        let line = |row: &Row| {
            let figures = &row.figures;
            let mut line = vec![name(row)];
            line.extend([figures.calls_per_second, figures.values_per_second].map(grouped));
            line.extend([figures.p50_us, figures.p99_us].map(readable));
            line.extend([figures.server_cpu_us_per_call, figures.server_cpu_us_per_value].map(readable));
            line.push(row.vault_cpu_ratio.map_or_else(String::new, readable));
            line.push(row.failed.to_string());
            line.push(format!("{} of {}", row.noisy_rounds, row.rounds.len()));
            line
        };
        let head = [
            "call",
            "calls/s",
            "values/s",
            "p50 µs",
            "p99 µs",
            "server CPU a call, µs",
            "a value",
            "vault ÷ it: CPU a value",
            "failed",
            "noisy rounds",
        ];
        Section {
            title: "Calls",
            text: "What each of them does and does not do stands below; without it the figures mean nothing."
                .to_owned(),
            charts: vec![Chart::Bars(Bars {
                title: "Server CPU a value, µs, logarithmic".to_owned(),
                series: vec!["CPU"],
                groups: self.rows.iter().map(group).collect(),
                logarithmic: true,
            })],
            tables: vec![Table::new(&head, self.rows.iter().map(line))],
        }
    }
}

fn name(row: &Row) -> String {
    format!("{}: {} of {}", row.call.server(), row.call.name(), row.values)
}
