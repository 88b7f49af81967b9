//! The report of growth as a page.

use super::{Call, GrowthReport, MEBIBYTE, Step};
use crate::bench::Results;
use crate::bench::chart::{Bars, Chart, Lines};
use crate::bench::figures::{grouped, readable};
use crate::bench::page::{self, Page, Section, Table};
use crate::bench::target::Target;

const NOTES: &[&str] = &[
    "The floor, a gRPC echo of as many bytes, is measured beside the empty and beside the full vault: what the machine does to both shows in it.",
    "Disk is what the files of data and checkpoints hold when the vault has come to rest: rows, what leads to them, the log. Room that is only \
     set aside is not counted.",
    "Cold tokens are drawn evenly from all that were stored, and none is read twice while they last. What the kernel still has of the files \
     in memory helps; a small vault fits the cache whole and has no cold tokens.",
    "Each restart follows kill -9 directly behind the acknowledgement of many values.",
];

impl Results for GrowthReport {
    fn html(&self) -> Result<String, serde_json::Error> {
        page::html(&self.page(), self)
    }
}

impl GrowthReport {
    fn page(&self) -> Page {
        let tokens = grouped(self.filling.tokens as f64);
        Page {
            title: format!("Cloakroom {}: growing to {tokens} tokens", self.version),
            lead: format!(
                "Filled in batches of 100 in {:.0} s, {} values a second.",
                self.filling.seconds,
                grouped(self.filling.values_per_second)
            ),
            host: self.host.clone(),
            disk: format!("p50 {:.0} µs, p99 {:.0} µs", self.fdatasync.p50_us, self.fdatasync.p99_us),
            sections: vec![
                self.calls_section(),
                self.filling_section(),
                self.rest_section(),
                Target::section(&self.targets),
            ],
            notes: NOTES.to_vec(),
        }
    }

    fn calls_section(&self) -> Section {
        let name = |call: &Call| format!("Tokenize of {}, {} in flight", call.values, call.in_flight);
        let group = |call: &Call| (name(call), vec![call.empty.cpu_us_per_call, call.full.cpu_us_per_call]);
        let line = |call: &Call| {
            let figures = [
                call.empty.cpu_us_per_call,
                call.full.cpu_us_per_call,
                call.ratio,
                call.empty.floor_cpu_us_per_call,
                call.full.floor_cpu_us_per_call,
                call.ratio_to_floor,
            ];
            std::iter::once(name(call)).chain(figures.map(readable)).collect()
        };
        let head =
            ["call", "empty, µs", "full, µs", "full ÷ empty", "floor then, µs", "floor now, µs", "ratio in floors"];
        Section {
            title: "A call, empty and full",
            text: "The server's CPU for the same calls.".to_owned(),
            charts: vec![Chart::Bars(Bars {
                title: "Server CPU, µs a call".to_owned(),
                series: vec!["empty", "full"],
                groups: self.calls.iter().map(group).collect(),
                logarithmic: true,
            })],
            tables: vec![Table::new(&head, self.calls.iter().map(line))],
        }
    }

    fn filling_section(&self) -> Section {
        let over = |figure: fn(&Step) -> f64| {
            self.filling.steps.iter().map(|step| (step.tokens as f64, figure(step))).collect::<Vec<_>>()
        };
        let lines = |title: &str, series| Chart::Lines(Lines { title: title.to_owned(), x: "tokens", series });
        let row = |step: &Step| {
            let mut row = vec![grouped(step.tokens as f64)];
            row.extend([step.values_per_second, step.cpu_us_per_value].map(readable));
            row.extend([step.resident_bytes, step.disk_bytes].map(|bytes| readable(bytes as f64 / MEBIBYTE)));
            row
        };
        // At most forty lines: all of them stand below.
        let apart = self.filling.steps.len().div_ceil(40).max(1);
        let head = ["tokens", "values/s", "CPU, µs a value", "memory, MiB", "disk, MiB"];
        Section {
            title: "While it is filled",
            text: String::new(),
            charts: vec![
                lines("Server CPU, µs a value", vec![("CPU", over(|step| step.cpu_us_per_value))]),
                lines(
                    "MiB",
                    vec![
                        ("memory", over(|step| step.resident_bytes as f64 / MEBIBYTE)),
                        ("disk", over(|step| step.disk_bytes as f64 / MEBIBYTE)),
                    ],
                ),
            ],
            tables: vec![Table::new(&head, self.filling.steps.iter().step_by(apart).map(row))],
        }
    }

    fn rest_section(&self) -> Section {
        let mebibytes = |bytes: u64| readable(bytes as f64 / MEBIBYTE);
        let rows = [
            ("memory, MiB", mebibytes(self.memory.resident_bytes)),
            ("the cache as configured, MiB", mebibytes(self.memory.cache_bytes)),
            ("memory besides the cache, MiB", readable(self.memory.over_cache_bytes as f64 / MEBIBYTE)),
            ("disk, MiB", mebibytes(self.disk.full_bytes)),
            ("disk a value, bytes", readable(self.disk.bytes_per_value)),
            ("cold tokens, values a second of server CPU", readable(self.cold.values_per_second_of_cpu)),
            ("cold tokens, values a second", readable(self.cold.values_per_second)),
            ("cold tokens, p99 of a batch, µs", readable(self.cold.took.p99_us)),
            ("restart after kill -9, s", readable(self.restart.median_seconds)),
        ];
        Section {
            title: "Memory, disk, cold tokens, restart",
            text: String::new(),
            charts: Vec::new(),
            tables: vec![Table::new(&["what", "figure"], rows.map(|(name, figure)| vec![name.to_owned(), figure]))],
        }
    }
}
