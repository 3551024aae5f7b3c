//! The machine crashes between produce and consume.

use super::s01_round_trip::{FILE, check};
use millpond_tests::harness::cli::cli;
use millpond_tests::harness::process::{Dev, Home};

#[tokio::test]
async fn flights_survive_a_crash_of_everything() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    cli(&dev, &["produce", "flights", "--key", "/tailnum", "--file", FILE], "").await.ok();
    cli(&dev, &["topic", "create", "bucket", "--placement", "object"], "").await.ok();
    cli(&dev, &["produce", "bucket", "--key", "/tailnum", "--file", FILE], "").await.ok();
    dev.kill_all().await;
    let dev = Dev::start(&home, &[]);
    check(&cli(&dev, &["consume", "flights"], "").await.ok());
    check(&cli(&dev, &["consume", "bucket"], "").await.ok());
    dev.kill_all().await;
}
