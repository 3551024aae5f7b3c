//! Whole agents in simulated time: many seeds, each a run with its own faults, checked by the history
//! checker.
//!
//! `MILLPOND_TEST_SEED=n` replays one seed and prints its trace; `MILLPOND_TEST_RUNS=n` runs n seeds;
//! `MILLPOND_TEST_FROM=n` begins with seed n.

mod bucket;
mod bugs;
mod client;
mod draft;
mod fate;
mod http;
mod link;
mod world;

use bugs::Bug;
use fate::{Fault, Step};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use world::{Report, run};

/// Default number of runs; they take some seconds.
const RUNS: u64 = 300;
/// Number of seeds within which a planted bug must be found.
const BUG_MAX_SEEDS: u64 = 200;
/// One seed in this number is run twice, to compare the traces.
const SEEDS_PER_REPEAT: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs seeds on two threads; stops at the first seed for which `done` is true.
fn sweep(
    seeds: std::ops::Range<u64>,
    bug: Option<Bug>,
    done: impl Fn(&Report) -> bool + Sync,
) -> Vec<Report> {
    let next = AtomicU64::new(seeds.start);
    let worker = || {
        let mut reports = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return reports;
            }
            let report = run(seed, bug, false);
            if done(&report) {
                next.store(seeds.end, Ordering::Relaxed);
            }
            reports.push(report);
        }
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        let mut reports: Vec<Report> =
            workers.into_iter().flat_map(|w| w.join().expect("a run ended in a panic")).collect();
        reports.sort_by_key(|r| r.seed);
        reports
    })
}

#[test]
fn agents_hold_what_they_promise() {
    if let Some(seed) = number("MILLPOND_TEST_SEED") {
        let report = run(seed, None, true);
        println!("{}", report.lines.join("\n"));
        assert!(report.flaws.is_empty(), "seed {seed}:\n{}", report.flaws.join("\n"));
        return;
    }
    let from = number("MILLPOND_TEST_FROM").unwrap_or(0);
    let runs = number("MILLPOND_TEST_RUNS").unwrap_or(RUNS);
    let reports = sweep(from..from + runs, None, |report| !report.flaws.is_empty());
    let mut cells: BTreeMap<(Step, Fault), u64> = BTreeMap::new();
    for report in &reports {
        for (cell, count) in &report.fates.cells {
            *cells.entry(*cell).or_default() += count;
        }
    }
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let seconds = reports.iter().map(|r| r.simulated_ms).sum::<i64>() / 1_000;
    let faults: u64 = cells.values().sum();
    println!(
        "{} runs, {} operations, {} calls, {faults} faults, {seconds} simulated s",
        reports.len(),
        sum(|r| r.ops),
        sum(|r| r.fates.calls)
    );
    for ((step, fault), count) in &cells {
        println!("  {step} × {fault:?}: {count}");
    }
    if let Some(report) = reports.iter().find(|r| !r.flaws.is_empty()) {
        panic!("replay with MILLPOND_TEST_SEED={}:\n{}", report.seed, report.flaws.join("\n"));
    }
    if runs >= RUNS {
        let missed: Vec<String> = required()
            .filter(|cell| !cells.contains_key(cell))
            .map(|(s, f)| format!("{s} × {f:?}"))
            .collect();
        assert!(missed.is_empty(), "no run had these faults: {missed:?}");
    }
}

/// Faults that must occur in some run; otherwise the runs prove less than they seem to.
fn required() -> impl Iterator<Item = (Step, Fault)> {
    let plane = [
        Fault::LostCall,
        Fault::LostSilently,
        Fault::LostAnswer,
        Fault::Twice,
        Fault::Late,
        Fault::Hang,
        Fault::HangApplied,
    ];
    let steps = [
        "commit",
        "find",
        "payloads",
        "partitions",
        "high_watermarks",
        "register_parts",
        "beat",
        "drain_plan",
        "swap",
        "topic",
    ];
    let put = [
        Fault::LostCall,
        Fault::LostAnswer,
        Fault::Twice,
        Fault::Late,
        Fault::Hang,
        Fault::HangApplied,
        Fault::Crash,
    ];
    let get = [Fault::LostCall, Fault::Hang, Fault::Missing, Fault::Truncated, Fault::Flipped, Fault::Crash];
    let of_plane = steps.into_iter().flat_map(move |step| plane.into_iter().map(move |fault| (step, fault)));
    let crash =
        ["agent", "commit", "find", "swap", "register_parts"].into_iter().map(|step| (step, Fault::Crash));
    of_plane
        .chain(crash)
        .chain(put.into_iter().map(|f| ("put", f)))
        .chain(get.into_iter().map(|f| ("get", f)))
}

#[test]
fn a_seed_is_a_run() {
    let runs = number("MILLPOND_TEST_RUNS").unwrap_or(RUNS);
    for seed in (0..runs).filter(|seed| seed % SEEDS_PER_REPEAT == 7) {
        let [one, two] = [run(seed, None, true), run(seed, None, true)];
        let differs = one.lines.iter().zip(&two.lines).find(|(a, b)| a != b);
        assert!(one.trace == two.trace, "seed {seed} is not one run: {differs:?}");
    }
}

#[test]
fn planted_bugs_are_found() {
    let mut survived = Vec::new();
    for bug in Bug::ALL {
        let reports = sweep(0..BUG_MAX_SEEDS, Some(bug), |report| !report.flaws.is_empty());
        match reports.iter().find(|r| !r.flaws.is_empty()) {
            Some(found) => println!("{bug:?} within {} seeds: {}", found.seed + 1, found.flaws[0]),
            None => survived.push(bug),
        }
    }
    assert!(survived.is_empty(), "not found within {BUG_MAX_SEEDS} seeds: {survived:?}");
}
