//! The working folder is closed to the user as whom Postgres runs.

use millpond_tests::harness::process::{Dev, Home};
use serde_json::json;

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}

#[tokio::test]
async fn a_database_whose_folder_is_closed_lies_elsewhere_and_is_found_again() {
    if !is_root() {
        return;
    }
    let home = Home::closed();
    let dev = Dev::start(&home, &[]);
    assert!(!dev.database.starts_with(home.path()), "{}", dev.database.display());
    assert!(dev.bucket.starts_with(home.path()));
    let database = dev.database.clone();
    dev.api().produce("t", json!([{"value": 1, "partition": 0}])).await.ok();
    dev.kill_all().await;
    let dev = Dev::start(&home, &[]);
    assert_eq!(dev.database, database);
    assert_eq!(dev.api().log("t", 0).await.len(), 1);
    assert!(dev.end_by("TERM", 20).await.success());
}
