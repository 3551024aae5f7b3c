use std::sync::Arc;

use axum::Router;
use axum::routing::{get, put};
use clap::Parser;
use parking_lot::Mutex;

use super::super::testing::{self, FakeLog};
use super::*;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: TopicCommand,
}

async fn run_line(client: &Client, line: &str) -> Result<String, CliError> {
    let arguments = ["topic"].into_iter().chain(line.split(' '));
    let command = Cli::try_parse_from(arguments).expect("a command").command;
    let mut out = Vec::new();
    run(client, &command, &mut out).await?;
    Ok(String::from_utf8(out).expect("text"))
}

#[tokio::test]
async fn create_sends_what_was_given_and_nothing_else() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let bodies = seen.clone();
    let make = move |body: String| async move {
        bodies.lock().push(body);
        (StatusCode::CREATED, "{\"topic\":\"t\"}")
    };
    let client = testing::serve(Router::new().route("/v1/topics/t", put(make))).await;
    assert_eq!(run_line(&client, "create t").await.expect("made"), "created topic t\n");
    let all = "create t --json --partitions 4 --retention-ms 7d --retention-bytes none --placement object \
               --dedup-window-ms 10m --max-record-bytes 4MiB";
    assert_eq!(run_line(&client, all).await.expect("made"), "{\"topic\":\"t\"}\n");
    let bodies = seen.lock();
    assert_eq!(bodies[0], "{}");
    assert_eq!(
        serde_json::from_str::<Value>(&bodies[1]).expect("JSON"),
        serde_json::json!({
            "partitions": 4, "retention_ms": 604_800_000, "retention_bytes": null, "placement": "object",
            "dedup_window_ms": 600_000, "max_record_bytes": 4 << 20
        })
    );
}

#[tokio::test]
async fn list_and_describe_are_tables() {
    let list = r#"{"topics":[{"topic":"orders",
                  "partitions":[{"partition":0,"log_start_offset":5,"high_watermark":2000,"bytes":4096}],
                  "retention_ms":604800000,"placement":"auto"}]}"#;
    let client = testing::serve(Router::new().route("/v1/topics", get(move || async move { list }))).await;
    assert_eq!(
        run_line(&client, "list").await.expect("listed"),
        "TOPIC   PARTITIONS  OFFSETS     SIZE  RETENTION  PLACEMENT\n\
         orders           1    1,995  4.0 KiB         7d  auto\n"
    );
    assert_eq!(run_line(&client, "list --json").await.expect("listed"), format!("{list}\n"));

    let log = Arc::new(FakeLog::filled(&[3, 0]));
    let client = log.serve().await;
    assert_eq!(
        run_line(&client, "describe t").await.expect("described"),
        "TOPIC            t\nplacement        auto\nretention_bytes  none\nretention_ms     7d\n\n\
         PARTITION  LOG START OFFSET  HIGH WATERMARK  OFFSETS     SIZE\n\
         0                         0               3        3  2.0 KiB\n\
         1                         0               0        0  2.0 KiB\n"
    );
}

#[tokio::test]
async fn a_refusal_is_the_servers_problem() {
    let refuse = || async { testing::problem(StatusCode::NOT_FOUND, "topic_not_found", false, "") };
    let client = testing::serve(Router::new().route("/v1/topics/t", get(refuse).delete(refuse))).await;
    for line in ["describe t", "delete t"] {
        let error = run_line(&client, line).await.expect_err("refused");
        assert!(
            error
                .report()
                .starts_with("error: the detail (topic_not_found)\nhint: see `millpond topic list`")
        );
    }
}
