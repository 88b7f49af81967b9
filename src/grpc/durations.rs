//! How long calls took, by method, for `/metrics`.
//!
//! Every call adds to it, so it must cost next to nothing: each network thread has a table of its own, and nobody else writes to
//! that. Whoever asks for the figures adds the tables up. (The metrics library keeps a list of all values for a histogram, which all
//! threads would share.)

use super::methods::METHODS;
use crate::telemetry;
use parking_lot::Mutex;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where a bucket ends, and one for what is above all of them.
const BUCKETS: usize = telemetry::SECONDS.len() + 1;

/// Of all threads.
#[derive(Default)]
pub struct Durations(Mutex<Vec<Arc<Table>>>);

/// Of one thread: a row for each method.
pub(super) struct Table(Vec<Row>);

#[derive(Default)]
struct Row {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl Durations {
    /// A table for one thread more.
    pub(super) fn table(&self) -> Arc<Table> {
        let table = Arc::new(Table(METHODS.iter().map(|_| Row::default()).collect()));
        self.0.lock().push(Arc::clone(&table));
        table
    }

    /// The figures as Prometheus reads them, under this name.
    pub fn render(&self, name: &str, help: &str) -> String {
        let tables = self.0.lock().clone();
        let mut text = format!("# HELP {name} {help}\n# TYPE {name} histogram\n");
        for (place, method) in METHODS.iter().enumerate().filter(|(_, method)| method.is_timed()) {
            let sum = |of: &dyn Fn(&Row) -> u64| tables.iter().map(|table| of(&table.0[place])).sum::<u64>();
            let mut count = 0;
            for bucket in 0..BUCKETS {
                count += sum(&|row| row.buckets[bucket].load(Ordering::Relaxed));
                let end = telemetry::SECONDS.get(bucket).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
                // Into a string, which takes everything.
                let _ = writeln!(text, "{name}_bucket{{method=\"{}\",le=\"{end}\"}} {count}", method.path);
            }
            let seconds = Duration::from_nanos(sum(&|row| row.nanos.load(Ordering::Relaxed))).as_secs_f64();
            let _ = writeln!(text, "{name}_sum{{method=\"{}\"}} {seconds}", method.path);
            let _ = writeln!(text, "{name}_count{{method=\"{}\"}} {count}", method.path);
        }
        text
    }
}

impl Table {
    /// Adds a call of the method at `place` in the table of methods.
    pub fn note(&self, place: usize, taken: Duration) {
        let seconds = taken.as_secs_f64();
        let row = &self.0[place];
        let bucket = telemetry::SECONDS.partition_point(|end| *end < seconds);
        row.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        row.nanos.fetch_add(u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::methods::{TOKENIZE, find};

    #[test]
    fn the_tables_of_all_threads_are_added_up() {
        let durations = Durations::default();
        let (place, _) = find(TOKENIZE.path).unwrap();
        let millis = Duration::from_millis;
        let (one, other) = (durations.table(), durations.table());
        // On a bucket's end it is in that bucket.
        one.note(place, millis(1));
        one.note(place, millis(2));
        other.note(place, millis(40));
        std::thread::spawn(move || other.note(place, Duration::from_secs(9))).join().unwrap();
        let text = durations.render("x_seconds", "Said.");
        assert!(text.starts_with("# HELP x_seconds Said.\n# TYPE x_seconds histogram\n"), "{text}");
        let method = TOKENIZE.path;
        for (end, count) in
            [("0.0005", 0), ("0.001", 1), ("0.0025", 2), ("0.025", 2), ("0.05", 3), ("2.5", 3), ("+Inf", 4)]
        {
            let line = format!("x_seconds_bucket{{method=\"{method}\",le=\"{end}\"}} {count}\n");
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert!(text.contains(&format!("x_seconds_sum{{method=\"{method}\"}} 9.043\n")), "{text}");
        assert!(text.contains(&format!("x_seconds_count{{method=\"{method}\"}} 4\n")), "{text}");
        // Streams and probes have none.
        assert!(!text.contains("Stream") && !text.contains("TailEvents") && !text.contains("Health"), "{text}");
    }
}
