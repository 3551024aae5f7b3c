//! The report of a benchmark over all repeats, as a table or as one JSON document.

use crate::Outcome;
use hdrhistogram::Histogram;
use millpond_core::saturated;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A histogram of latencies in microseconds, with a precision of three significant digits, up to 10 minutes.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Outcome<Self> {
        Ok(Self(Histogram::new_with_bounds(1, 600_000_000, 3)?))
    }

    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(saturated::<u64, _>(took.as_micros()));
    }

    pub fn add(&mut self, other: &Self) {
        // It cannot fail: both have the same bounds.
        self.0.add(&other.0).ok();
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency at a quantile between 0 and 1, in milliseconds.
    pub fn ms(&self, quantile: f64) -> f64 {
        f64::from(saturated::<u32, _>(self.0.value_at_quantile(quantile))) / 1_000.0
    }
}

/// One line of the report, with a value per repeat.
struct Row {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

/// All rows, in the order in which they were first added.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub fn add(&mut self, name: &str, unit: &'static str, value: f64) {
        match self.rows.iter_mut().find(|r| r.name == name) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row { name: name.to_owned(), unit, values: vec![value] }),
        }
    }

    pub fn add_latencies(&mut self, name: &str, latencies: &Latencies) {
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            self.add(&format!("{name} {label}"), "ms", latencies.ms(quantile));
        }
    }

    pub fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
            return;
        }
        let width = self.rows.iter().map(|r| r.name.len()).max().unwrap_or(0);
        println!("{:width$}  {:>10}  {:>10}  {:>10}", "", "median", "least", "most");
        for row in &self.rows {
            let (least, median, most) = row.spread();
            println!("{:width$}  {median:>10.2}  {least:>10.2}  {most:>10.2}  {}", row.name, row.unit);
        }
    }

    fn json(&self) -> Value {
        let mut figures = Map::new();
        for row in &self.rows {
            let (least, median, most) = row.spread();
            let figure = json!({
                "unit": row.unit, "median": median, "least": least, "most": most, "values": row.values,
            });
            figures.insert(row.name.clone(), figure);
        }
        let command: Vec<String> = std::env::args().skip(1).collect();
        json!({"command": command, "version": env!("CARGO_PKG_VERSION"), "figures": figures})
    }
}

impl Row {
    /// Least, median and most of the values.
    fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        (sorted[0], median, sorted[sorted.len() - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_median_and_its_ends() {
        let mut report = Report::default();
        for value in [3.0, 1.0, 2.0, 10.0] {
            report.add("a", "ms", value);
        }
        assert_eq!(report.rows[0].spread(), (1.0, 2.5, 10.0));
        let json = report.json();
        assert_eq!(json["figures"]["a"]["median"], 2.5);
        assert_eq!(json["figures"]["a"]["values"], json!([3.0, 1.0, 2.0, 10.0]));
    }
}
