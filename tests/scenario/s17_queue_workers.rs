//! Flights through a shared and a keyed queue of one topic. Workers on two agents fail, delay, settle twice
//! and die, and some records always fail. In the end every record is acked or dead, and no record had two
//! valid leases at a time.

use millpond_tests::harness::FLIGHTS;
use millpond_tests::harness::floor::Floor;
use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::second::Second;
use millpond_tests::harness::workers::{Habits, Worker, crew, stop};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const MAX_FAILURES: usize = 4;

/// A few records that no worker can process.
fn is_poison(record: &Value) -> bool {
    record["offset"].as_i64().is_some_and(|offset| offset % 97 == 5)
}

#[tokio::test]
async fn every_flight_is_done_once_or_dead() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let second = Second::beside(&dev);
    let apis = [dev.api(), second.api()];
    let api = &apis[0];
    api.topic("flights", 4).await;
    let floor = Floor::new();
    let retry = json!({"base_ms": 50, "cap_ms": 400, "max_failures": MAX_FAILURES});
    floor.make(api, "shared", json!({"topic": "flights", "lease_ms": 1_500, "retry": retry})).await;
    floor
        .make(api, "keyed", json!({"topic": "flights", "mode": "keyed", "lease_ms": 1_500, "retry": retry}))
        .await;

    let habits = Habits {
        lease_ms: 1_500,
        delay_ms: Some(40),
        late: 5,
        transform: 200,
        poison: is_poison,
        ..Habits::default()
    };
    let mut workers: Vec<Worker> =
        crew(&apis, &floor, "shared", &Habits { other: Some("keyed"), ..habits.clone() }, 4, 1);
    workers.extend(crew(&apis, &floor, "keyed", &Habits { other: Some("shared"), ..habits }, 4, 11));
    for (n, some) in FLIGHTS.lines().collect::<Vec<_>>().chunks(100).enumerate() {
        assert_eq!(apis[n % 2].lines("flights", "?key=/tailnum", some.join("\n")).await.status, 200);
        if n == 10 {
            workers.remove(0).kill().await;
            workers.pop().expect("one").kill().await;
        }
    }
    for queue in ["shared", "keyed"] {
        floor.drained(api, queue, 120).await;
    }
    stop(workers).await;
    floor.read(api, "flights").await;
    let log = api.topic_log("flights").await;
    let poison = log.iter().filter(|record| is_poison(record)).count();
    for queue in ["shared", "keyed"] {
        let rest = floor.rest(api, queue).await;
        let by_poison = rest.dead_listed.iter().filter(|d| d.offset % 97 == 5).count();
        assert_eq!(by_poison, poison, "{queue}: {:?}", rest.dead_listed);
        assert!(
            rest.dead_listed.iter().all(|d| usize::try_from(d.failures) == Ok(MAX_FAILURES)),
            "{:?}",
            rest.dead_listed
        );
    }
    floor.check();
    let tally = floor.tally();
    println!("{tally:?}");
    for told in ["acked", "released", "dead", "renewed", "lost"] {
        assert!(tally.contains_key(told), "nothing was {told}: {tally:?}");
    }

    // Each acked record was transformed in the same request, exactly once.
    let made: Vec<String> =
        api.topic_log("transformed").await.iter().map(|record| record["value"].to_string()).collect();
    let distinct: BTreeSet<&String> = made.iter().collect();
    assert!(made.len() > 100, "{} transformed", made.len());
    assert_eq!(made.len(), distinct.len());
}
