//! The machine goes down between produce and consume.

use super::harness::cli::cli;
use super::harness::process::{Dev, Home};
use super::round_trip::{FILE, check};

#[tokio::test]
async fn flights_survive_a_crash_of_everything() {
    let home = Home::new();
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
