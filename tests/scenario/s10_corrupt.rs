//! An object in the bucket is damaged or missing.

use millpond_tests::harness::client::Api;
use millpond_tests::harness::process::{Dev, Home};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Three partitions, each with its own segment. Returns the segments in the order of the partitions.
async fn filled(home: &Home) -> Vec<PathBuf> {
    let dev = Dev::start(home, &["--no-inline"]);
    let api = dev.api();
    api.put("/v1/topics/t", json!({"partitions": 4, "placement": "object"})).await;
    let mut objects: Vec<PathBuf> = Vec::new();
    for partition in 0..4 {
        let records: Vec<Value> = (0..50)
            .map(|n| json!({"value": format!("record {n} of {partition}"), "partition": partition}))
            .collect();
        api.produce("t", json!(records)).await.ok();
        let new: Vec<PathBuf> =
            home.objects().into_iter().filter(|object| !objects.contains(object)).collect();
        assert_eq!(new.len(), 1, "{new:?}");
        objects.extend(new);
    }
    assert!(dev.end_by("TERM", 20).await.success());
    objects
}

/// Checks that every way of reading fails, and that no record beyond the damage is returned.
async fn is_corrupt(api: &Api, partition: i32) {
    for query in ["", "?from=earliest&max_records=1", "?offset=0", "?offset=49", "?timestamp=1"] {
        api.partition("t", partition, query).await.problem(500, "corrupt");
    }
    for accept in ["application/x-ndjson", "application/vnd.apache.arrow.stream"] {
        api.get_as(&format!("/v1/topics/t/partitions/{partition}/records"), accept)
            .await
            .problem(500, "corrupt");
    }
    // The end can still be read, and records can be appended.
    assert_eq!(api.partition("t", partition, "?from=latest").await.ok()["next_offset"], json!(50));
}

#[tokio::test]
async fn damage_is_an_error_and_never_a_gap() {
    let home = Home::open();
    let objects = filled(&home).await;
    let originals: Vec<Vec<u8>> = objects.iter().map(|object| std::fs::read(object).unwrap()).collect();
    // A flipped bit, a missing object, a truncated one, and an intact one.
    let mut flipped = originals[0].clone();
    let middle = flipped.len() / 3;
    flipped[middle] ^= 1;
    std::fs::write(&objects[0], flipped).unwrap();
    std::fs::remove_file(&objects[1]).unwrap();
    std::fs::write(&objects[2], &originals[2][..20]).unwrap();
    let dev = Dev::start(&home, &["--no-inline"]);
    let api = dev.api();
    for partition in 0..3 {
        is_corrupt(&api, partition).await;
    }
    assert_eq!(api.log("t", 3).await.len(), 50);
    api.get("/v1/topics/t/records").await.problem(500, "corrupt");
    assert!(api.metric("millpond_fetch_corrupt_total", "").await > 0);
    dev.logged("ERROR").await;
    api.produce("t", json!([{"value": "still", "partition": 0}])).await.ok();
    assert_eq!(api.partition("t", 0, "?offset=50").await.ok()["records"][0]["value"], json!("still"));
    // Restored objects are read: the damage was not remembered.
    for (object, original) in objects.iter().zip(&originals) {
        std::fs::write(object, original).unwrap();
    }
    for (partition, count) in [(0, 51), (1, 50), (2, 50), (3, 50)] {
        assert_eq!(api.log("t", partition).await.len(), count);
    }
}
