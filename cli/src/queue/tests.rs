use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clap::Parser;
use parking_lot::Mutex;
use serde_json::json;

use super::super::testing;
use super::*;

const QUEUE: &str = r#"{"queue":"q","topic":"t","mode":"shared","lease_ms":30000,
    "retry":{"base_ms":1000,"factor":2.0,"cap_ms":3600000,"jitter":0.2,"max_failures":20},
    "rate":{"limit":100,"per_ms":1000},"max_in_flight":20000,"from":"earliest","paused":false,
    "ready":1200,"delayed":0,"retrying":3,"in_flight":4,"dead":1,
    "oldest_age_ms":83000,"lease_rate":12.34,"settle_rate":0.0}"#;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: QueueCommand,
}

fn parse_line(line: &str) -> Result<QueueCommand, clap::Error> {
    Cli::try_parse_from(["queue"].into_iter().chain(line.split(' '))).map(|cli| cli.command)
}

async fn run_line(client: &Client, line: &str) -> Result<String, CliError> {
    let mut out = Vec::new();
    run(client, &parse_line(line).expect("a command"), &mut out).await?;
    Ok(String::from_utf8(out).expect("text"))
}

/// A server that gives the same answer to every call under `/v1/queues/q`, and keeps the requests.
#[derive(Default)]
struct Fake {
    answer: &'static str,
    asked: Mutex<Vec<(String, Value)>>,
}

async fn any(
    State(fake): State<Arc<Fake>>,
    method: axum::http::Method,
    Path(path): Path<String>,
    body: String,
) -> Response {
    let parsed = serde_json::from_str(&body).unwrap_or(Value::Null);
    fake.asked.lock().push((format!("{method} {path}"), parsed));
    let made = fake.asked.lock().len() == 1 && method == axum::http::Method::PUT;
    (if made { StatusCode::CREATED } else { StatusCode::OK }, fake.answer).into_response()
}

/// Runs commands against such a server; returns what they print and the requests they send.
async fn told(answer: &'static str, lines: &[&str]) -> (Vec<String>, Vec<(String, Value)>) {
    let fake = Arc::new(Fake { answer, ..Fake::default() });
    let client = testing::serve(
        Router::new().route("/v1/queues/{*path}", axum::routing::any(any)).with_state(fake.clone()),
    )
    .await;
    let mut printed = Vec::new();
    for line in lines {
        printed.push(run_line(&client, line).await.expect("done"));
    }
    (printed, std::mem::take(&mut *fake.asked.lock()))
}

#[tokio::test]
async fn create_sends_what_was_given_and_nothing_else() {
    let all = "create q --topic t --mode keyed --lease 10s --base 50ms --factor 1.5 --cap 1m --jitter 0 \
               --max-failures 8 --rate 100/2s --max-in-flight 5 --from latest";
    let lines = ["create q", all, "create q --rate none --max-failures 3", "create q --rate 7/m --json"];
    let (printed, asked) = told("{}", &lines).await;
    assert_eq!(
        printed,
        [
            "created queue q\n",
            "there is, with these settings, queue q\n",
            "there is, with these settings, queue q\n",
            "{}\n"
        ]
    );
    assert_eq!(asked[0], ("PUT q".to_owned(), json!({})));
    let retry = json!({"base_ms": 50, "factor": 1.5, "cap_ms": 60_000, "jitter": 0.0, "max_failures": 8});
    assert_eq!(
        asked[1].1,
        json!({"topic": "t", "mode": "keyed", "lease_ms": 10_000, "retry": retry,
               "rate": {"limit": 100, "per_ms": 2_000}, "max_in_flight": 5, "from": "latest"})
    );
    assert_eq!(asked[2].1, json!({"rate": null, "retry": {"max_failures": 3}}));
    assert_eq!(asked[3].1, json!({"rate": {"limit": 7, "per_ms": 60_000}}));
    for wrong in ["100", "x/1s", "1/x", "/"] {
        assert!(parse_line(&format!("create q --rate {wrong}")).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn list_and_describe_are_tables() {
    let router = Router::new()
        .route("/v1/queues", get(|| async { format!(r#"{{"queues":[{QUEUE}]}}"#) }))
        .route("/v1/queues/q", get(|| async { QUEUE }));
    let client = testing::serve(router).await;
    assert_eq!(
        run_line(&client, "list").await.expect("listed"),
        "QUEUE  TOPIC  MODE    READY  DELAYED  RETRYING  IN FLIGHT  DEAD  OLDEST\n\
         q      t      shared  1,200        0         3          4     1  1m 23s\n"
    );
    assert_eq!(
        run_line(&client, "describe q").await.expect("described"),
        "QUEUE          q\ntopic          t\nmode           shared\nfrom           earliest\n\
         lease          30s\n\
         retry after    1s, times 2 up to 1h, ±20%\n\
         dead after     20 failures\nrate           100 in 1s\n\
         max in flight  20,000\npaused         no\n\n\
         STATE      RECORDS\nready        1,200\ndelayed          0\nretrying         3\n\
         in flight        4\ndead             1\n\n\
         PACE\noldest ready          1m 23s\nleased        12.3 records/s\nsettled        0.0 records/s\n"
    );
    assert_eq!(run_line(&client, "describe q --json").await.expect("described"), format!("{QUEUE}\n"));
}

#[tokio::test]
async fn estimates_are_marked() {
    let queue = QUEUE.replacen('{', r#"{"approximate":["ready","retrying"],"#, 1);
    let router = Router::new()
        .route("/v1/queues", get(move || async move { format!(r#"{{"queues":[{queue}],"next":null}}"#) }));
    let client = testing::serve(router).await;
    assert_eq!(
        run_line(&client, "list").await.expect("listed"),
        "QUEUE  TOPIC  MODE     READY  DELAYED  RETRYING  IN FLIGHT  DEAD  OLDEST\n\
         q      t      shared  ~1,200        0        ~3          4     1  1m 23s\n"
    );
}

#[tokio::test]
async fn what_is_done_to_a_queue_is_said() {
    let answer = r#"{"purged":1200,"paused":true}"#;
    let (printed, asked) =
        told(answer, &["pause q", "resume q", "purge q", "purge q --json", "delete q", "delete q --json"])
            .await;
    let json = format!("{answer}\n");
    assert_eq!(
        printed,
        [
            "paused queue q\n",
            "resumed queue q\n",
            "dropped 1,200 records from queue q\n",
            &json,
            "deleted queue q\n",
            ""
        ]
    );
    let calls: Vec<&str> = asked.iter().map(|(call, _)| call.as_str()).collect();
    assert_eq!(
        calls,
        ["POST q/pause", "POST q/resume", "POST q/purge", "POST q/purge", "DELETE q", "DELETE q"]
    );
}

#[tokio::test]
async fn seek_goes_to_one_place_or_to_offsets() {
    let answer = r#"{"offsets":[{"partition":0,"offset":5},{"partition":1,"offset":12}]}"#;
    let lines = [
        "seek q --to earliest",
        "seek q --to latest",
        "seek q --to timestamp:1760000000000",
        "seek q --to 0:5 1:7 --to 2:9",
    ];
    let (printed, asked) = told(answer, &lines).await;
    assert_eq!(printed[0], "PARTITION  OFFSET\n0               5\n1              12\n");
    let bodies: Vec<Value> = asked.into_iter().map(|(_, body)| body).collect();
    let at = |partition: u32, offset: u64| json!({"partition": partition, "offset": offset});
    assert_eq!(
        bodies,
        [
            json!({"to": "earliest"}),
            json!({"to": "latest"}),
            json!({"to": {"timestamp": 1_760_000_000_000_u64}}),
            json!({"to": {"offsets": [at(0, 5), at(1, 7), at(2, 9)]}}),
        ]
    );
    let client = testing::client("http://127.0.0.1:1", None);
    for mixed in ["seek q --to earliest latest", "seek q --to 0:5 latest"] {
        assert!(matches!(run_line(&client, mixed).await, Err(CliError::SeekPlaces)), "{mixed}");
    }
    for wrong in ["seek q", "seek q --to 5", "seek q --to 0:", "seek q --to x"] {
        assert!(parse_line(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn dead_records_are_chosen_by_offset_or_reason() {
    let lines = [
        "redrive q",
        "redrive q --offset 0:5 --offset 1:7",
        "redrive q --reason smtp* --max-rate 500",
        "dead purge q",
        "dead purge q --reason *",
        "dead purge q --offset 0:5",
    ];
    let (printed, asked) = told(r#"{"redriven":1}"#, &lines).await;
    assert_eq!(printed[0], "put 1 record back into queue q\n");
    assert_eq!(printed[3], "forgot 1 record among the dead of queue q\n");
    let bodies: Vec<Value> = asked.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(asked[0].0, "POST q/dead/redrive");
    assert_eq!(asked[3].0, "POST q/dead/purge");
    let at = |partition: u32, offset: u64| json!({"partition": partition, "offset": offset});
    assert_eq!(
        bodies,
        [
            json!({}),
            json!({"offsets": [at(0, 5), at(1, 7)]}),
            json!({"filter": {"reason": "smtp*"}, "max_rate": 500}),
            json!({}),
            json!({"filter": {"reason": "*"}}),
            json!({"offsets": [at(0, 5)]}),
        ]
    );
    assert!(parse_line("redrive q --offset 0:5 --reason x").is_err());
}

#[tokio::test]
async fn peek_prints_records_as_consume_does() {
    let lines = ["peek q", "peek q -n 3 --format ndjson", "peek q --format table"];
    let answer = r#"{"records":[
        {"topic":"t","partition":0,"offset":5,"timestamp":0,"key":"k","value":{"n": 1},"headers":{}}]}"#;
    let (printed, _) = told(answer, &lines).await;
    assert_eq!(
        printed[0],
        "{\"topic\":\"t\",\"partition\":0,\"offset\":5,\"timestamp\":0,\"key\":\"k\",\
         \"value\":{\"n\": 1},\"headers\":{}}\n"
    );
    assert_eq!(printed[1], "{\"n\": 1}\n");
    assert!(printed[2].ends_with("k                     {\"n\": 1}\n"), "{}", printed[2]);
}

/// Lists three dead records, in pages of at most two.
async fn dead(Query(query): Query<HashMap<String, String>>) -> String {
    let first: u64 = query.get("after").map_or(0, |after| after.parse().expect("a token"));
    let last = (first + query["max_records"].parse::<u64>().expect("a number").min(2)).min(3);
    let record = if query.contains_key("payload") {
        format!(",\"record\":{}", testing::line(0, 1, ",\"value\":7"))
    } else {
        String::new()
    };
    let entry = |n| {
        format!(
            r#"{{"partition":0,"offset":{n},"attempt":9,"failures":8,"died_at_ms":0,"reason":"smtp\n451"{record}}}"#
        )
    };
    let records: Vec<String> = (first..last).map(entry).collect();
    let next = if last < 3 { format!("\"{last}\"") } else { "null".to_owned() };
    format!(r#"{{"records":[{}],"next":{next}}}"#, records.join(","))
}

#[tokio::test]
async fn listings_go_through_all_pages() {
    let client = testing::serve(Router::new().route("/v1/queues/q/dead", get(dead))).await;
    let row = |n: u64| {
        format!("        0             {n}        9         8  1970-01-01T00:00:00.000Z  smtp 451\n")
    };
    let heading = "PARTITION        OFFSET  ATTEMPT  FAILURES  DIED                      REASON\n";
    assert_eq!(
        run_line(&client, "dead list q").await.expect("listed"),
        [heading, &row(0), &row(1), &row(2)].concat()
    );
    assert_eq!(run_line(&client, "dead list q -n 1").await.expect("listed"), [heading, &row(0)].concat());
    let with_payload = run_line(&client, "dead list q --payload").await.expect("listed");
    assert!(
        with_payload.lines().all(|line| line.ends_with("  7") || line.ends_with("  VALUE")),
        "{with_payload}"
    );
    let json = run_line(&client, "dead list q --json").await.expect("listed");
    let offsets: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["offset"].clone())
        .collect();
    assert_eq!(offsets, [json!(0), json!(1), json!(2)]);
}

#[tokio::test]
async fn what_is_leased_and_what_waits_have_columns_of_their_own() {
    let leased =
        r#"{"records":[{"partition":2,"offset":812,"attempt":1,"failures":0,"deadline_ms":0}],"next":null}"#;
    let waiting = r#"{"records":[
        {"partition":2,"offset":812,"attempt":1,"failures":1,"due_at_ms":0,"state":"retrying","reason":"x"},
        {"partition":2,"offset":813,"attempt":0,"failures":0,"due_at_ms":null,"state":"blocked",
         "reason":null}],"next":null}"#;
    let router = Router::new()
        .route("/v1/queues/q/in-flight", get(move || async move { leased }))
        .route("/v1/queues/q/waiting", get(move || async move { waiting }));
    let client = testing::serve(router).await;
    assert_eq!(
        run_line(&client, "in-flight q").await.expect("listed"),
        "PARTITION        OFFSET  ATTEMPT  FAILURES  DEADLINE\n\
         \u{20}       2           812        1         0  1970-01-01T00:00:00.000Z\n"
    );
    assert_eq!(
        run_line(&client, "waiting q").await.expect("listed"),
        "PARTITION        OFFSET  ATTEMPT  FAILURES  DUE                       STATE     REASON\n\
         \u{20}       2           812        1         1  1970-01-01T00:00:00.000Z  retrying  x\n\
         \u{20}       2           813        0         0  -                         blocked   -\n"
    );
}

#[tokio::test]
async fn a_refusal_is_the_servers_problem() {
    let refuse = || async { testing::problem(StatusCode::NOT_FOUND, "queue_not_found", false, "") };
    let router = Router::new()
        .route("/v1/queues/q", get(refuse).delete(refuse))
        .route("/v1/queues/q/pause", post(refuse));
    let client = testing::serve(router).await;
    for line in ["describe q", "delete q", "pause q"] {
        let error = run_line(&client, line).await.expect_err("refused");
        assert!(
            error
                .report()
                .starts_with("error: the detail (queue_not_found)\nhint: see `millpond queue list`"),
            "{}",
            error.report()
        );
    }
}
