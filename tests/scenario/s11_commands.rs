//! The client commands as a user at a terminal runs them.

use super::s01_round_trip::FILE;
use millpond_tests::harness::child::{millpond, signal};
use millpond_tests::harness::cli::{cli, cli_at};
use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::wait::{until, within};
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn topics_are_made_listed_described_and_deleted() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let told =
        cli(&dev, &["topic", "create", "orders", "--partitions", "3", "--retention-ms", "7d"], "").await.ok();
    assert_eq!(told, "created topic orders\n");
    let told = cli(&dev, &["topic", "create", "orders"], "").await.ok();
    assert!(told.starts_with("there is, with these settings, topic orders"), "{told}");
    let json: Value =
        serde_json::from_str(&cli(&dev, &["topic", "describe", "orders", "--json"], "").await.ok()).unwrap();
    assert_eq!(
        (json["partitions"].as_array().unwrap().len(), &json["retention_ms"]),
        (3, &json!(604_800_000))
    );
    let table = cli(&dev, &["topic", "describe", "orders"], "").await.ok();
    assert!(table.contains("orders") && table.contains("HIGH WATERMARK"), "{table}");
    cli(&dev, &["topic", "create", "audit"], "").await.ok();
    let list = cli(&dev, &["topic", "list"], "").await.ok();
    assert_eq!(
        list.lines().skip(1).map(|l| l.split_whitespace().next().unwrap()).collect::<Vec<_>>(),
        ["audit", "orders"]
    );
    let told = cli(&dev, &["topic", "create", "orders", "--partitions", "2"], "").await.error();
    assert!(told.contains("(invalid_change)") && told.contains("hint:"), "{told}");
    assert_eq!(cli(&dev, &["topic", "delete", "orders"], "").await.ok(), "deleted topic orders\n");
    for command in ["describe", "delete"] {
        let told = cli(&dev, &["topic", command, "orders"], "").await.error();
        assert!(told.contains("(topic_not_found)"), "{told}");
    }
    let told = cli(&dev, &["consume", "orders"], "").await.error();
    assert!(told.contains("(topic_not_found)") && told.contains("millpond topic list"), "{told}");
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let told = cli(&dev, &["produce", "t"], "{\"n\":1}\n{\"n\":\n").await.error();
    assert!(told.contains("line 2") && told.contains("nothing of it is stored"), "{told}");
    let told = cli(&dev, &["produce", "t", "--key", "tailnum"], "1\n").await.error();
    assert!(told.contains("JSON pointer"), "{told}");
    let told = cli(&dev, &["produce", "t", "--file", "/no/such/file"], "").await.error();
    assert!(told.contains("cannot read /no/such/file"), "{told}");
    let told = cli(&dev, &["produce", "a b"], "1\n").await.error();
    assert!(told.contains("(bad_request)"), "{told}");
    let told = cli_at("http://127.0.0.1:1", &["topic", "list"], "").await.error();
    assert!(told.contains("no Millpond at http://127.0.0.1:1") && told.contains("millpond dev"), "{told}");
    let told = cli_at("ftp://x", &["topic", "list"], "").await.error();
    assert!(told.contains("should look like"), "{told}");
    let told = cli(&dev, &["consume", "t", "--partition", "9"], "").await.error();
    assert!(told.contains("no partition 9"), "{told}");
}

#[tokio::test]
async fn consume_prints_what_is_asked_for() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    cli(&dev, &["topic", "create", "t", "--partitions", "1"], "").await.ok();
    cli(&dev, &["produce", "t"], "{\"n\": 1}\n2\n\"x\"\n").await.ok();
    assert_eq!(cli(&dev, &["consume", "t"], "").await.ok(), "{\"n\": 1}\n2\n\"x\"\n");
    assert_eq!(cli(&dev, &["consume", "t", "--from", "1", "--max", "1"], "").await.ok(), "2\n");
    assert_eq!(cli(&dev, &["consume", "t", "--from", "latest"], "").await.ok(), "");
    let records = cli(&dev, &["consume", "t", "--format", "json"], "").await.ok();
    let first: Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    assert_eq!((&first["offset"], &first["value"]), (&json!(0), &json!({"n": 1})));
    let table = cli(&dev, &["consume", "t", "--format", "table"], "").await.ok();
    assert_eq!(table.lines().count(), 4, "{table}");
    let whole = "{\"key\":\"k\",\"text\":\"plain\",\"headers\":{\"h\":\"1\"}}\n";
    cli(&dev, &["produce", "t", "--records"], whole).await.ok();
    assert_eq!(cli(&dev, &["consume", "t", "--from", "3"], "").await.ok(), "plain\n");
}

/// A reader that has enough closes the pipe; the command must not report an error.
#[tokio::test]
async fn a_reader_of_the_output_may_leave() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    for _ in 0..3 {
        cli(&dev, &["produce", "flights", "--key", "/tailnum", "--file", FILE], "").await.ok();
    }
    let mut command = tokio::process::Command::from(millpond());
    command.args(["consume", "flights", "--format", "json"]).env("MILLPOND_URL", dev.api().base);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(within(30, "a first line", lines.next_line()).await.unwrap().is_some());
    drop(lines);
    let output = within(30, "the end of the command", child.wait_with_output()).await.unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn following_shows_what_comes_until_it_is_interrupted() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    cli(&dev, &["produce", "t"], "1\n").await.ok();
    let mut command = tokio::process::Command::from(millpond());
    command.args(["consume", "t", "--follow"]).env("MILLPOND_URL", dev.api().base);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(within(30, "the first record", lines.next_line()).await.unwrap().as_deref(), Some("1"));
    for value in ["2", "3"] {
        cli(&dev, &["produce", "t"], value).await.ok();
        assert_eq!(within(30, "the next record", lines.next_line()).await.unwrap().as_deref(), Some(value));
    }
    signal("INT", &[child.id().unwrap()]);
    let status = until(20, "the end of the command", || std::future::ready(child.try_wait().unwrap())).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_group_goes_on_where_it_was_until_it_is_reset() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    cli(&dev, &["topic", "create", "t", "--partitions", "1"], "").await.ok();
    cli(&dev, &["produce", "t"], "1\n2\n3\n").await.ok();
    let consume = ["consume", "t", "--group", "g"];
    assert_eq!(cli(&dev, &[&consume[..], &["--max", "1"]].concat(), "").await.ok(), "1\n");
    assert_eq!(cli(&dev, &consume, "").await.ok(), "2\n3\n");
    assert_eq!(cli(&dev, &consume, "").await.ok(), "");
    let told = cli(&dev, &["group", "reset", "g", "--topic", "t", "--to", "1"], "").await.ok();
    assert!(told.lines().nth(1).is_some_and(|row| row.split_whitespace().eq(["t", "0", "1"])), "{told}");
    assert_eq!(cli(&dev, &consume, "").await.ok(), "2\n3\n");
    let told = cli(&dev, &["group", "list"], "").await.ok();
    assert!(told.lines().nth(1).is_some_and(|row| row.starts_with('g') && row.ends_with('0')), "{told}");
    let json: Value =
        serde_json::from_str(&cli(&dev, &["group", "describe", "g", "--json"], "").await.ok()).unwrap();
    assert_eq!((&json["partitions"][0]["committed_offset"], &json["members"]), (&json!(3), &json!([])));
    assert_eq!(cli(&dev, &["group", "delete", "g"], "").await.ok(), "deleted group g\n");
    for command in ["describe", "delete"] {
        let told = cli(&dev, &["group", command, "g"], "").await.error();
        assert!(told.contains("(group_not_found)") && told.contains("millpond group list"), "{told}");
    }
}

#[tokio::test]
async fn a_member_that_is_told_to_stop_leaves_its_group() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let api = dev.api();
    cli(&dev, &["produce", "t"], "1\n").await.ok();
    for (name, value) in [("INT", "1"), ("TERM", "2")] {
        let mut command = tokio::process::Command::from(millpond());
        command.args(["consume", "t", "--group", "g", "--follow"]).env("MILLPOND_URL", &api.base);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        if value == "2" {
            cli(&dev, &["produce", "t"], "2\n").await.ok();
        }
        assert_eq!(within(30, "the next record", lines.next_line()).await.unwrap().as_deref(), Some(value));
        let members = async || api.get("/v1/groups/g").await.ok()["members"].as_array().unwrap().len();
        assert_eq!(members().await, 1);
        // Records that were printed are not committed yet.
        let lag = async || {
            api.get("/v1/groups/g").await.ok()["partitions"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|p| p["lag"].as_i64())
                .sum::<i64>()
        };
        until(20, "the commit", async || (lag().await == 0).then_some(())).await;
        signal(name, &[child.id().unwrap()]);
        let status =
            until(20, "the end of the command", || std::future::ready(child.try_wait().unwrap())).await;
        assert!(status.success(), "{status}");
        assert_eq!(members().await, 0);
    }
}
