use std::future::pending;
use std::io;
use std::sync::Arc;

use axum::http::StatusCode;
use clap::Parser;
use parking_lot::Mutex;

use super::super::testing::{self, FakeLog, FakePartition, Fault};
use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: ConsumeArgs,
}

fn args(line: &str) -> ConsumeArgs {
    Cli::try_parse_from(["consume", "t"].into_iter().chain(line.split_whitespace())).expect("arguments").args
}

/// Output that a test can read while the command writes to it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).expect("text")
    }
}

async fn printed(log: &Arc<FakeLog>, line: &str) -> Result<String, CliError> {
    let client = log.serve().await;
    let mut out = Shared::default();
    consume(&client, &args(line), &mut out, pending()).await?;
    Ok(out.text())
}

fn of_partition(text: &str, partition: usize) -> Vec<&str> {
    text.lines().filter(|line| line.contains(&format!("\"p\":{partition},"))).collect()
}

#[tokio::test]
async fn all_partitions_are_printed_each_in_its_order() {
    let counts = [300, 0, 1, 77, 200, 5];
    let log = Arc::new(FakeLog { answer_records: 50, ..FakeLog::filled(&counts) });
    let text = printed(&log, "").await.expect("read");
    for (partition, count) in counts.iter().enumerate() {
        let expected: Vec<String> = (0..*count).map(|n| format!("{{\"p\":{partition},\"n\":{n}}}")).collect();
        assert_eq!(of_partition(&text, partition), expected);
    }
    assert_eq!(text.lines().count(), 583);
}

#[tokio::test]
async fn values_are_the_inverse_of_produce() {
    let values = [
        (r#","value": { "a" : [1,2.50] } "#, " { \"a\" : [1,2.50] } \n"),
        (r#","value":null"#, "null\n"),
        (r#","text":"plain \u00e9""#, "plain é\n"),
        (r#","base64":"aGk=""#, "hi\n"),
        ("", "\n"),
    ];
    let lines = (0..).zip(values).map(|(n, (member, _))| testing::line(0, n, member)).collect();
    let log = FakeLog::default();
    log.partitions.lock().push(FakePartition { log_start_offset: 0, lines });
    let log = Arc::new(log);
    let expected: String = values.iter().map(|(_, bytes)| *bytes).collect();
    assert_eq!(printed(&log, "").await.expect("read"), expected);
    let whole: String =
        log.partitions.lock()[0].lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    assert_eq!(printed(&log, "--format json").await.expect("read"), whole);
    let table = printed(&log, "--format table").await.expect("read");
    assert!(table.starts_with("PARTITION"));
    assert_eq!(table.lines().count(), 6);
}

#[tokio::test]
async fn places_to_begin() {
    let log = Arc::new(FakeLog::filled(&[10, 4]));
    let count = async |line: &str| printed(&log, line).await.expect("read").lines().count();
    assert_eq!(count("--from latest").await, 0);
    assert_eq!(count("--from 3").await, 8);
    assert_eq!(count("--from 4 --partition 0").await, 6);
    assert_eq!(count("--from timestamp:5").await, 14);
    assert!(log.queries.lock().iter().any(|query| query.get("timestamp").is_some_and(|ms| ms == "5")));
    let error = printed(&log, "--partition 2").await.expect_err("no such partition");
    assert_eq!(error.to_string(), "topic t has no partition 2");
    assert!(Cli::try_parse_from(["consume", "t", "--from", "yesterday"]).is_err());
}

#[tokio::test]
async fn max_ends_it_and_bounds_the_answers() {
    let log = Arc::new(FakeLog::filled(&[10, 10, 10]));
    assert_eq!(printed(&log, "--max 4").await.expect("read").lines().count(), 4);
    assert!(log.queries.lock().iter().all(|query| query["max_records"] == "4"));
    assert_eq!(printed(&log, "--max 0").await.expect("read"), "");
    assert_eq!(printed(&log, "--max 99").await.expect("read").lines().count(), 30);
    assert_eq!(printed(&log, "--max 4 --follow").await.expect("read").lines().count(), 4);
}

#[tokio::test]
async fn an_error_comes_after_what_was_read() {
    let log = FakeLog::filled(&[10]);
    log.faults.lock().extend([Fault::CutAfter(400)]);
    let log = Arc::new(log);
    let client = log.serve().await;
    let mut out = Shared::default();
    let result = consume(&client, &args("--retry-for 0"), &mut out, pending()).await;
    assert!(matches!(result, Err(CliError::Connection { .. })), "{result:?}");
    assert!(out.text().starts_with("{\"p\":0,\"n\":0}\n"));
}

#[tokio::test]
async fn following_goes_on_through_faults_until_stopped() {
    let log = Arc::new(FakeLog::filled(&[3, 0]));
    let client = log.serve().await;
    let mut out = Shared::default();
    let (seen, feed) = (out.clone(), log.clone());
    let stop = async move {
        wait_for(&seen, 3).await;
        feed.faults.lock().extend([
            Fault::Problem(StatusCode::SERVICE_UNAVAILABLE, "object_store_unavailable"),
            Fault::CutAfter(10),
        ]);
        feed.partitions.lock()[1].lines.push(testing::line(1, 0, r#","value":{"p":1,"n":0}"#));
        feed.partitions.lock()[0].lines.push(testing::line(0, 3, r#","value":{"p":0,"n":3}"#));
        wait_for(&seen, 5).await;
    };
    consume(&client, &args("--follow"), &mut out, stop).await.expect("stopped");
    let text = out.text();
    assert_eq!(of_partition(&text, 0).len(), 4);
    assert_eq!(of_partition(&text, 1).len(), 1);
    assert!(log.queries.lock().iter().all(|query| query["wait_ms"] == "20000"));
}

async fn wait_for(out: &Shared, lines: usize) {
    while out.text().lines().count() < lines {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_reader_that_went_away_is_seen() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let client = Arc::new(FakeLog::filled(&[3])).serve().await;
    let result = consume(&client, &args("--follow"), &mut Closed, pending()).await;
    assert!(matches!(result, Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe));
}
