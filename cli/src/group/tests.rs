use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use clap::Parser;
use parking_lot::Mutex;

use super::super::testing;
use super::*;

const GROUP: &str = r#"{"group":"g","generation":3,
    "members":[{"member_id":"m-1","client_id":"w1","topics":["t"],"session_ms":30000,"from":"earliest",
                "seen_at_ms":1,"assignments":[{"topic":"t","partitions":[0,2]}]},
               {"member_id":"m-2","client_id":null,"topics":["t"],"session_ms":1500,"from":"latest",
                "seen_at_ms":1,"assignments":[]}],
    "partitions":[{"topic":"t","partition":0,"member_id":"m-1","committed_offset":812,
                   "log_start_offset":0,"high_watermark":2000,"lag":1188},
                  {"topic":"t","partition":2,"member_id":null,"committed_offset":null,
                   "log_start_offset":0,"high_watermark":7,"lag":null}]}"#;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: GroupCommand,
}

async fn run_line(client: &Client, line: &str) -> Result<String, CliError> {
    let command =
        Cli::try_parse_from(["group"].into_iter().chain(line.split(' '))).expect("a command").command;
    let mut out = Vec::new();
    run(client, &command, &mut out).await?;
    Ok(String::from_utf8(out).expect("text"))
}

#[tokio::test]
async fn list_and_describe_are_tables() {
    let router = Router::new()
        .route("/v1/groups", get(|| async { format!(r#"{{"groups":[{GROUP}]}}"#) }))
        .route("/v1/groups/g", get(|| async { GROUP }));
    let client = testing::serve(router).await;
    assert_eq!(
        run_line(&client, "list").await.expect("listed"),
        "GROUP  GENERATION  MEMBERS  PARTITIONS  LAG\n\
         g               3        2           2    -\n"
    );
    assert_eq!(
        run_line(&client, "describe g").await.expect("described"),
        "GROUP       g\ngeneration  3\n\n\
         MEMBER  CLIENT  SESSION  PARTITIONS\n\
         m-1     w1          30s  t: 0, 2\n\
         m-2     -        1500ms  -\n\n\
         TOPIC  PARTITION  COMMITTED  HIGH WATERMARK    LAG  MEMBER\n\
         t              0        812            2000  1,188  m-1\n\
         t              2          -               7      -  -\n"
    );
    assert_eq!(run_line(&client, "describe g --json").await.expect("described"), format!("{GROUP}\n"));
}

#[tokio::test]
async fn reset_says_where_to() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let bodies = seen.clone();
    let reset = move |body: String| async move {
        bodies.lock().push(serde_json::from_str::<Value>(&body).expect("JSON"));
        r#"{"offsets":[{"topic":"t","partition":1,"offset":5}]}"#
    };
    let client = testing::serve(Router::new().route("/v1/groups/g/offsets", post(reset))).await;
    let told = run_line(&client, "reset g --topic t --to earliest").await.expect("reset");
    assert_eq!(told, "TOPIC  PARTITION  OFFSET\nt              1       5\n");
    for to in ["latest", "5", "timestamp:1760000000000"] {
        run_line(&client, &format!("reset g --topic t --partition 1 --to {to}")).await.expect("reset");
    }
    let entries: Vec<Value> = seen.lock().iter().map(|body| body["offsets"][0].clone()).collect();
    assert_eq!(
        entries,
        [
            json!({"topic": "t", "from": "earliest"}),
            json!({"topic": "t", "partition": 1, "from": "latest"}),
            json!({"topic": "t", "partition": 1, "offset": 5}),
            json!({"topic": "t", "partition": 1, "timestamp": 1_760_000_000_000_u64}),
        ]
    );
}

#[tokio::test]
async fn a_refusal_is_the_servers_problem() {
    let refuse = || async { testing::problem(StatusCode::CONFLICT, "group_not_empty", false, "") };
    let router = Router::new()
        .route("/v1/groups/g", get(refuse).delete(refuse))
        .route("/v1/groups/g/offsets", post(refuse));
    let client = testing::serve(router).await;
    for line in ["delete g", "reset g --topic t --to latest"] {
        let error = run_line(&client, line).await.expect_err("refused");
        assert!(
            error.report().starts_with("error: the detail (group_not_empty)\nhint: stop its members first"),
            "{}",
            error.report()
        );
    }
}
