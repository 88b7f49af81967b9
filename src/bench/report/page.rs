//! The report of calls as a page.

use super::{Report, Row, Target};
use crate::bench::Results;
use crate::bench::chart::{Bars, Chart};
use crate::bench::figures::{grouped, readable};
use crate::bench::latency::LatencyRow;
use crate::bench::page::{self, Page, Section, Table};

const NOTES: &[&str] = &[
    "The floor is a gRPC echo in a process of the same program: the same listener, limits, threads and allocator, and messages of as many bytes. It is \
     what a call costs before it means anything. Vault and floor are measured directly after one another, in an order that alternates, by the \
     same client, which keeps its requests encoded.",
    "Each figure is the median of the rounds, each ratio the median of the rounds' own ratios. A noisy round is one in which others used more than a \
     tenth of the machine, or that lies far from the median.",
    "At a steady rate a call's time counts from when it was due. What the client itself sent late is part of it, on both sides.",
];

impl Results for Report {
    fn html(&self) -> Result<String, serde_json::Error> {
        page::html(&self.page(), self)
    }
}

impl Report {
    fn page(&self) -> Page {
        let settings = &self.settings;
        let mut sections = Vec::new();
        if !self.rows.is_empty() {
            sections.push(cpu(&self.rows));
            sections.push(calls(&self.rows));
        }
        if !self.latency.is_empty() {
            sections.push(latency(&self.latency));
        }
        sections.push(Target::section(&self.targets));
        Page {
            title: format!("Cloakroom {}: what calls cost", self.version),
            lead: format!(
                "A vault of {} tokens, held against a bare echo behind the same door: medians of {} rounds of {} s.",
                grouped(settings.tokens as f64),
                settings.rounds,
                settings.seconds
            ),
            host: self.host.clone(),
            disk: format!("p50 {:.0} µs, p99 {:.0} µs", self.fdatasync.p50_us, self.fdatasync.p99_us),
            sections,
            notes: NOTES.to_vec(),
        }
    }
}

fn name(row: &Row) -> String {
    format!("{} of {}, {} in flight", row.operation.name(), row.values, row.in_flight)
}

fn cpu(rows: &[Row]) -> Section {
    let bars = |title: &str, few: bool| {
        let of_kind = rows.iter().filter(|row| (row.values == 1) == few);
        let group = |row: &Row| (name(row), vec![row.vault.server_cpu_us_per_call, row.floor.server_cpu_us_per_call]);
        let groups: Vec<_> = of_kind.map(group).collect();
        let bars = Bars { title: title.to_owned(), series: vec!["vault", "floor"], groups, logarithmic: false };
        (!bars.groups.is_empty()).then_some(Chart::Bars(bars))
    };
    let line = |row: &Row| {
        let (vault, floor) = (&row.vault, &row.floor);
        let figures = [
            vault.server_cpu_us_per_call,
            vault.server_cpu_us_per_value,
            floor.server_cpu_us_per_call,
            row.cpu_ratio,
            1e6 / vault.server_cpu_us_per_value,
        ];
        std::iter::once(name(row)).chain(figures.map(readable)).collect()
    };
    let head = ["call", "vault, µs a call", "a value", "floor, µs a call", "vault ÷ floor", "values a second of CPU"];
    let charts = [bars("Server CPU of a call of one value, µs", true), bars("Server CPU of a batch, µs", false)];
    Section {
        title: "Server CPU",
        text: "What a call costs the server, and what an echo of as many bytes costs it.".to_owned(),
        charts: charts.into_iter().flatten().collect(),
        tables: vec![Table::new(&head, rows.iter().map(line))],
    }
}

fn calls(rows: &[Row]) -> Section {
    let group = |row: &Row| (name(row), vec![row.ratio]);
    let bars = Bars {
        title: "Calls a second, in parts of the floor's".to_owned(),
        series: vec!["vault ÷ floor"],
        groups: rows.iter().map(group).collect(),
        logarithmic: false,
    };
    let line = |row: &Row| {
        let (vault, floor) = (&row.vault, &row.floor);
        let mut line = vec![name(row)];
        line.extend([vault.calls_per_second, vault.values_per_second, vault.p50_us, vault.p99_us].map(readable));
        line.extend([floor.calls_per_second, floor.p50_us, floor.p99_us, row.ratio].map(readable));
        line.push(format!("{} of {}", row.noisy_rounds, row.rounds.len()));
        line
    };
    let head = [
        "call",
        "calls/s",
        "values/s",
        "p50 µs",
        "p99 µs",
        "floor calls/s",
        "p50 µs",
        "p99 µs",
        "vault ÷ floor",
        "noisy rounds",
    ];
    Section {
        title: "Calls a second",
        text: "With so many always in flight. The client shares the cores and takes its part.".to_owned(),
        charts: vec![Chart::Bars(bars)],
        tables: vec![Table::new(&head, rows.iter().map(line))],
    }
}

fn latency(rows: &[LatencyRow]) -> Section {
    let chart = |row: &LatencyRow| {
        let (vault, floor) = row.quantiles();
        let groups = [
            ("p50", vault.p50_us, floor.p50_us),
            ("p99", vault.p99_us, floor.p99_us),
            ("p99.9", vault.p999_us, floor.p999_us),
        ];
        Chart::Bars(Bars {
            title: format!("Tokenize of {}: µs from when a call was due, logarithmic", row.name()),
            series: vec!["vault", "floor"],
            groups: groups.map(|(name, vault, floor)| (name.to_owned(), vec![vault, floor])).into(),
            logarithmic: true,
        })
    };
    Section {
        title: "At a steady rate",
        text: "Calls come when they are due, whether or not those before them have been answered.".to_owned(),
        charts: rows.iter().map(chart).collect(),
        tables: vec![LatencyRow::table(rows)],
    }
}
