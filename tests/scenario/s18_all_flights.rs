//! Flights through a shared and then a keyed queue: 8 workers on two agents, 3 % of the records nacked with a
//! delay, one killed worker for every hundred leases, and one record in a thousand that always fails. Every
//! record is acked once, or dead if it is one that always fails.
//!
//! `MILLPOND_TEST_FLIGHTS=flights.ndjson cargo test -p millpond --test scenario all_flights -- --nocapture`
//! uses another file, of any length.

use millpond_tests::harness::FLIGHTS;
use millpond_tests::harness::client::Api;
use millpond_tests::harness::floor::Floor;
use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::second::Second;
use millpond_tests::harness::workers::{Habits, crew, stop};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const WORKERS: usize = 8;
const MAX_FAILURES: i64 = 8;
const REQUEST_MAX_LINES: usize = 20_000;
/// Number of keys in flight at once, if there are enough keys.
const KEYS_AT_ONCE: i64 = 200;

fn flights() -> Cow<'static, str> {
    match std::env::var("MILLPOND_TEST_FLIGHTS") {
        Ok(path) => std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).into(),
        Err(_) => FLIGHTS.into(),
    }
}

/// True for one record in a thousand, which always fails.
fn is_poison_at(partition: i64, offset: i64) -> bool {
    (offset * 8 + partition) % 1_000 == 5
}

fn is_poison(record: &Value) -> bool {
    is_poison_at(
        record["partition"].as_i64().expect("a number"),
        record["offset"].as_i64().expect("a number"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flight_is_acked_once_or_is_dead_poison() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let second = Second::beside(&dev);
    let apis = [dev.api(), second.api()];
    let api = &apis[0];
    api.topic("flights", 8).await;
    let (flights, floor) = (flights(), Floor::new());
    let lines: Vec<&str> = flights.lines().collect();
    for some in lines.chunks(REQUEST_MAX_LINES) {
        assert_eq!(api.lines("flights", "?key=/tailnum", some.join("\n")).await.status, 200);
    }
    floor.read(api, "flights").await;
    let log = api.topic_log("flights").await;
    assert_eq!(log.len(), lines.len());
    let poison = log.iter().filter(|record| is_poison(record)).count();
    let retry = json!({"base_ms": 50, "max_failures": MAX_FAILURES});
    for (mode, work_ms) in [("shared", 0..5), ("keyed", 20..40)] {
        floor
            .make(api, mode, json!({"topic": "flights", "mode": mode, "lease_ms": 3_000, "retry": retry}))
            .await;
        let habits = Habits {
            batch: 100,
            lease_ms: 3_000,
            work_ms,
            nack: 30,
            delay_ms: Some(100),
            die: 10,
            poison: is_poison,
            ..Habits::default()
        };
        let (start, most) = (Instant::now(), Arc::new(AtomicI64::new(0)));
        let watching = tokio::spawn(watch(apis[1].clone(), mode, Arc::clone(&most)));
        let workers = crew(&apis, &floor, mode, &habits, WORKERS, 7);
        floor.drained(api, mode, 1_200).await;
        stop(workers).await;
        watching.abort();
        let took = start.elapsed().as_secs_f64();

        let rest = floor.rest(api, mode).await;
        assert_eq!(rest.in_flight_listed, 0, "no lease and no waiting run is left");
        assert_eq!(rest.waiting_listed, 0, "no lease and no waiting run is left");
        assert_eq!(rest.dead_listed.len(), poison);
        for dead in &rest.dead_listed {
            assert!(
                is_poison_at(dead.partition.into(), dead.offset) && i64::from(dead.failures) == MAX_FAILURES,
                "{dead:?}"
            );
        }
        let most = most.load(Ordering::Relaxed);
        println!("{mode}: {} records in {took:.1} s, {most} in flight at most", lines.len());
        assert!(mode == "shared" || most >= KEYS_AT_ONCE, "{most} keys in flight at most");
    }
    println!("{:?}", floor.tally());
    floor.check();
}

/// Keeps the highest number of records in flight that was seen.
async fn watch(api: Api, queue: &'static str, most: Arc<AtomicI64>) {
    loop {
        let described = api.get(&format!("/v1/queues/{queue}")).await.ok();
        most.fetch_max(described["in_flight"].as_i64().expect("a count"), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
