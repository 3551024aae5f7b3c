//! An HTTP client that speaks as an application would. Every answer is checked for what all answers must
//! have.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// A client of the HTTP API at one address.
#[derive(Clone)]
pub struct Api {
    pub http: reqwest::Client,
    pub base: String,
    pub address: SocketAddr,
}

/// A complete HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Api {
    pub fn new(address: SocketAddr) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let http =
            reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().expect("a client");
        Self { http, base: format!("http://{address}"), address }
    }

    /// A client that gives up requests after `patience`.
    pub fn hasty(address: SocketAddr, patience: Duration) -> Self {
        let api = Self::new(address);
        let http = reqwest::Client::builder().timeout(patience).no_proxy().build().expect("a client");
        Self { http, ..api }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        send(self.request(Method::GET, path).header("accept", accept)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::PUT, path).json(&body)).await
    }

    /// Creates a topic with this number of partitions.
    pub async fn topic(&self, name: &str, partitions: i32) {
        let answer = self.put(&format!("/v1/topics/{name}"), json!({ "partitions": partitions })).await;
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
    }

    pub fn post(&self, topic: &str, content_type: &str) -> RequestBuilder {
        self.request(Method::POST, &format!("/v1/topics/{topic}/records"))
            .header("content-type", content_type)
    }

    /// Sends `{"records":[…]}` and returns the answer, whatever its status.
    pub async fn produce(&self, topic: &str, records: Value) -> Answer {
        send(self.post(topic, "application/json").body(json!({ "records": records }).to_string())).await
    }

    /// Like [`produce`](Self::produce), with an idempotency key.
    pub async fn produce_once(&self, topic: &str, key: &str, records: Value) -> Answer {
        let body = json!({ "records": records }).to_string();
        send(self.post(topic, "application/json").header("idempotency-key", key).body(body)).await
    }

    /// Sends a body of NDJSON lines and returns the answer, whatever its status.
    pub async fn lines(&self, topic: &str, query: &str, body: impl Into<reqwest::Body>) -> Answer {
        let path = format!("/v1/topics/{topic}/records{query}");
        send(self.request(Method::POST, &path).header("content-type", "application/x-ndjson").body(body))
            .await
    }

    pub async fn partition(&self, topic: &str, partition: i32, query: &str) -> Answer {
        self.get(&format!("/v1/topics/{topic}/partitions/{partition}/records{query}")).await
    }

    /// All records of one partition; checks that their offsets are dense.
    pub async fn log(&self, topic: &str, partition: i32) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let query = format!("?offset={}&max_records=10000&max_bytes=16777216", all.len());
            let page = self.partition(topic, partition, &query).await.ok();
            let records = list(&page, "records");
            for record in records {
                assert_eq!(record["offset"], json!(all.len()), "offsets of {topic}/{partition} are dense");
                assert_eq!(record["partition"], json!(partition));
                all.push(record.clone());
            }
            if page["next_offset"] == page["high_watermark"] {
                return all;
            }
            assert!(!records.is_empty(), "an empty page below the high watermark: {page}");
        }
    }

    /// All records of a topic, partition by partition.
    pub async fn topic_log(&self, topic: &str) -> Vec<Value> {
        let description = self.get(&format!("/v1/topics/{topic}")).await.ok();
        let mut all = Vec::new();
        for partition in 0..list(&description, "partitions").len() {
            all.extend(self.log(topic, i32::try_from(partition).expect("few partitions")).await);
        }
        all
    }

    /// Sum of a counter over all label sets that contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> u64 {
        let text = self.get("/metrics").await.text();
        let lines = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let values = lines
            .filter(|line| line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    }
}

/// The member `name` of a JSON object, which must be a list.
pub fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("no list {name} in {value}"))
}

/// Sends a request and checks what every answer must have.
pub async fn send(request: RequestBuilder) -> Answer {
    try_send(request).await.expect("an answer")
}

pub async fn try_send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let answer = Answer { status, headers, body: response.bytes().await? };
    assert!(!answer.header("x-request-id").is_empty(), "an answer without X-Request-Id: {answer:?}");
    if status >= 400 && answer.header("content-type") == "application/problem+json" {
        answer.check_problem();
    } else {
        assert!(status < 400 || status == 503, "an error that is no problem: {answer:?}");
    }
    Ok(answer)
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body's lines, each parsed as JSON.
    pub fn lines(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// The body of a successful answer.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The body of a problem answer with this status and code.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.header("content-type"), "application/problem+json", "{} {body}", self.status);
        let problem = self.json();
        assert_eq!((self.status, &problem["code"]), (status, &json!(code)), "{body}");
        problem
    }

    fn check_problem(&self) {
        let problem = self.json();
        let text = |name: &str| {
            problem[name].as_str().unwrap_or_else(|| panic!("no text {name} in {problem}")).to_owned()
        };
        assert_eq!(text("type"), format!("urn:millpond:problem:{}", text("code")));
        assert!(!text("title").is_empty() && !text("detail").is_empty(), "{problem}");
        assert_eq!(problem["status"], json!(self.status), "{problem}");
        let retryable = problem["retryable"].as_bool().unwrap_or_else(|| panic!("no retryable in {problem}"));
        assert_eq!(retryable, matches!(self.status, 429 | 500..), "{problem}");
        assert_eq!(!self.header("retry-after").is_empty(), matches!(self.status, 429 | 503), "{self:?}");
    }
}
