use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use clap::Parser;
use parking_lot::Mutex;

use super::super::testing::{self, line};
use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: ConsumeArgs,
}

fn args(line: &str) -> ConsumeArgs {
    Cli::try_parse_from(["consume", "t", "--group", "g"].into_iter().chain(line.split_whitespace()))
        .expect("arguments")
        .args
}

type Refusal = (StatusCode, &'static str);

/// A server with prepared answers, which keeps the requests it has received.
#[derive(Default)]
struct Fake {
    answers: Mutex<VecDeque<Result<Vec<String>, Refusal>>>,
    refusals: Mutex<VecDeque<Refusal>>,
    asked: Mutex<Vec<(&'static str, Value)>>,
}

fn parsed(body: &str) -> Value {
    serde_json::from_str(body).expect("JSON")
}

async fn join(State(fake): State<Arc<Fake>>, body: String) -> String {
    fake.asked.lock().push(("join", parsed(&body)));
    let number = fake.asked.lock().iter().filter(|(what, _)| *what == "join").count();
    format!(r#"{{"member_id":"m{number}","generation":{number},"assignments":[]}}"#)
}

async fn poll(State(fake): State<Arc<Fake>>, body: String) -> Response {
    fake.asked.lock().push(("poll", parsed(&body)));
    let number = fake.asked.lock().iter().filter(|(what, _)| *what == "poll").count();
    let answer = fake.answers.lock().pop_front().unwrap_or(Ok(vec![]));
    match answer {
        Ok(lines) => {
            let records: String = lines.iter().map(|line| format!("{line}\n")).collect();
            format!("{records}{{\"next\":\"p{number}\",\"generation\":1,\"assignments\":[]}}\n")
                .into_response()
        }
        Err((status, code)) => testing::problem(status, code, status.is_server_error(), ""),
    }
}

async fn commit(State(fake): State<Arc<Fake>>, body: String) -> Response {
    fake.asked.lock().push(("commit", parsed(&body)));
    match fake.refusals.lock().pop_front() {
        Some((status, code)) => testing::problem(status, code, status.is_server_error(), ""),
        None => r#"{"offsets":[]}"#.into_response(),
    }
}

async fn leave(State(fake): State<Arc<Fake>>) -> StatusCode {
    fake.asked.lock().push(("leave", Value::Null));
    StatusCode::NO_CONTENT
}

impl Fake {
    async fn run(self: &Arc<Self>, line: &str) -> Result<String, CliError> {
        let router = Router::new()
            .route("/v1/groups/g/members", post(join))
            .route("/v1/groups/g/members/{member}/poll", post(poll))
            .route("/v1/groups/g/members/{member}", delete(leave))
            .route("/v1/groups/g/offsets", post(commit))
            .with_state(self.clone());
        let client = testing::serve(router).await;
        let mut out = Vec::new();
        let outcome = consume(&client, &args(line), "g", &mut out, pending()).await;
        outcome.map(|()| String::from_utf8(out).expect("text"))
    }

    fn asked(&self, what: &str) -> Vec<Value> {
        self.asked.lock().iter().filter(|(asked, _)| *asked == what).map(|(_, body)| body.clone()).collect()
    }

    fn order(&self) -> Vec<&'static str> {
        self.asked.lock().iter().map(|(what, _)| *what).collect()
    }
}

fn records(from: u64, to: u64) -> Vec<String> {
    (from..to).map(|n| line(0, n, &format!(",\"value\":{n}"))).collect()
}

#[tokio::test]
async fn what_is_printed_is_committed_and_the_member_leaves() {
    let fake = Arc::new(Fake {
        answers: Mutex::new([Ok(records(0, 2)), Ok(records(2, 3))].into()),
        ..Fake::default()
    });
    assert_eq!(fake.run("--also u --from latest --session-ms 5s").await.expect("read"), "0\n1\n2\n");
    assert_eq!(fake.order(), ["join", "poll", "commit", "poll", "commit", "poll", "leave"]);
    let join =
        json!({"topics": ["t", "u"], "from": "latest", "session_ms": 5_000, "client_id": "millpond consume"});
    assert_eq!(fake.asked("join"), [join]);
    let commit = |offset: u64| {
        let entry = json!({"topic": "t", "partition": 0, "offset": offset});
        json!({"member_id": "m1", "generation": 1, "offsets": [entry]})
    };
    assert_eq!(fake.asked("commit"), [commit(2), commit(3)]);
    let after: Vec<Value> = fake.asked("poll").iter().map(|body| body["after"].clone()).collect();
    assert_eq!(after, [json!(null), json!("p1"), json!("p2")]);
}

#[tokio::test]
async fn it_ends_after_so_many_records() {
    let fake = Arc::new(Fake { answers: Mutex::new([Ok(records(0, 2))].into()), ..Fake::default() });
    assert_eq!(fake.run("--max 2 --follow").await.expect("read"), "0\n1\n");
    assert_eq!(fake.asked("poll")[0]["max_records"], json!(2));
    assert_eq!(fake.order(), ["join", "poll", "commit", "leave"]);
}

#[tokio::test]
async fn a_session_that_ended_is_begun_anew() {
    let answers = [Ok(records(0, 1)), Err((StatusCode::NOT_FOUND, "member_not_found")), Ok(records(1, 2))];
    let fake = Arc::new(Fake { answers: Mutex::new(answers.into()), ..Fake::default() });
    assert_eq!(fake.run("--max 2").await.expect("read"), "0\n1\n");
    assert_eq!(fake.order(), ["join", "poll", "commit", "poll", "join", "poll", "commit", "leave"]);
    assert!(fake.asked("poll")[2].get("after").is_none(), "a new member begins where the group is");
}

#[tokio::test]
async fn failures_are_outlasted_and_a_fence_is_no_failure() {
    let answers = [
        Err((StatusCode::SERVICE_UNAVAILABLE, "control_plane_unavailable")),
        Ok(records(0, 1)),
        Ok(records(1, 2)),
    ];
    let refusals = [
        (StatusCode::SERVICE_UNAVAILABLE, "control_plane_unavailable"),
        (StatusCode::CONFLICT, "generation_fenced"),
    ];
    let fake = Arc::new(Fake {
        answers: Mutex::new(answers.into()),
        refusals: Mutex::new(refusals.into()),
        ..Fake::default()
    });
    assert_eq!(fake.run("--max 2").await.expect("read"), "0\n1\n");
    assert_eq!(fake.order(), ["join", "poll", "poll", "commit", "commit", "poll", "commit", "leave"]);
}

#[tokio::test]
async fn what_a_group_cannot_do_is_said() {
    let fake = Arc::new(Fake::default());
    for place in ["5", "timestamp:1"] {
        let error = fake.run(&format!("--from {place}")).await.expect_err("refused");
        assert!(error.report().contains("millpond group reset"), "{}", error.report());
    }
    assert!(fake.order().is_empty());
    assert!(Cli::try_parse_from(["consume", "t", "--group", "g", "--partition", "1"]).is_err());
    assert!(Cli::try_parse_from(["consume", "t", "--also", "u"]).is_err());
}
