//! Flights are produced and consumed on the command line.

use millpond_tests::harness::FLIGHTS;
use millpond_tests::harness::cli::cli;
use millpond_tests::harness::process::{Dev, Home};
use serde_json::Value;
use std::collections::HashMap;

pub const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/flights-2000.ndjson");

/// Lines by tail number, in their order.
fn by_tail(lines: &str) -> HashMap<Option<String>, Vec<&str>> {
    let mut all: HashMap<Option<String>, Vec<&str>> = HashMap::new();
    for line in lines.lines() {
        let flight: Value = serde_json::from_str(line).expect("a flight");
        all.entry(flight["tailnum"].as_str().map(str::to_owned)).or_default().push(line);
    }
    all
}

/// Checks that the output holds the file's lines, byte for byte, in order for each tail number.
pub fn check(consumed: &str) {
    assert_eq!(consumed.lines().count(), 2000);
    let (mut ours, mut theirs) = (by_tail(FLIGHTS), by_tail(consumed));
    for lines in [&mut ours, &mut theirs] {
        // Records without a key have no order between chunks.
        lines.get_mut(&None).expect("some have no tail number").sort_unstable();
    }
    assert!(ours == theirs, "what was consumed is not what was produced");
}

#[tokio::test]
async fn flights_come_out_as_they_went_in() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let told = cli(&dev, &["produce", "flights", "--key", "/tailnum", "--file", FILE], "").await.ok();
    assert!(told.contains("2,000 records to flights"), "{told}");
    check(&cli(&dev, &["consume", "flights"], "").await.ok());
    // The same from standard input, into another topic.
    cli(&dev, &["produce", "again", "--key", "/tailnum"], FLIGHTS).await.ok();
    check(&cli(&dev, &["consume", "again"], "").await.ok());
    // Then again with the same idempotency key: nothing is added.
    for expected in ["", "stored before, nothing added"] {
        let args =
            ["produce", "named", "--key", "/tailnum", "--file", FILE, "--idempotency-key", "flights-2013"];
        let told = cli(&dev, &args, "").await.ok();
        assert!(told.contains(expected), "{told}");
    }
    check(&cli(&dev, &["consume", "named"], "").await.ok());
}
