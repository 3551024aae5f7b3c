//! The calls that lease and settle records of one queue.
//!
//! Every call carries a request id and is repeated unchanged until it is answered or the time for retries is
//! over. Because of the id, a call whose answer was lost does not lease or settle twice.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::client::Client;
use super::error::CliError;
use super::retry::Patience;

#[cfg(test)]
mod tests;

/// Longest wait for an answer, in addition to the time that the server is asked to wait for records. Then
/// the call is repeated.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// The server's limit for the records of one lease call.
pub const LEASE_MAX_RECORDS: usize = 1_000;

/// A client of one queue.
#[derive(Clone)]
pub struct Leases {
    pub client: Client,
    pub queue: String,
    /// Name of the client, as it is sent to the server.
    pub client_id: &'static str,
    /// How long to retry while the server cannot be reached; `None`: for ever.
    pub retry_for: Option<Duration>,
}

/// Parameters of a lease call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub max_records: usize,
    pub wait: Duration,
    /// `None`: the lease time of the queue.
    pub lease_ms: Option<u64>,
}

/// The parsed answer to a lease call.
#[derive(Debug, Deserialize)]
pub struct Granted<'a> {
    now_ms: i64,
    deadline_ms: Option<i64>,
    /// Each record as the server wrote it.
    #[serde(borrow)]
    pub records: Vec<&'a RawValue>,
    pub limited_by: Option<String>,
}

impl<'a> Granted<'a> {
    pub fn parse(text: &'a str) -> Result<Self, CliError> {
        serde_json::from_str(text).map_err(|error| CliError::Answer { what: "a lease", source: Some(error) })
    }

    /// The lease time, counted from when the server answered.
    pub fn length(&self) -> Duration {
        let ms = self.deadline_ms.map_or(0, |deadline| deadline.saturating_sub(self.now_ms));
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

/// The entries of a settlement call. It must not contain a receipt twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Settlement {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ack: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nack: Vec<Nack>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub renew: Vec<Renewal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nack {
    pub receipt: String,
    /// `None`: as the queue's retry policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether this counts as a failure of the record.
    pub counts: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Renewal {
    pub receipt: String,
    /// `None`: the lease time of the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Acked,
    Released,
    Renewed,
    Dead,
    /// The record's time to live was over.
    Expired,
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    pub receipt: String,
    pub status: Status,
}

#[derive(Deserialize)]
struct Verdicts {
    results: Vec<Verdict>,
}

impl Leases {
    /// Leases records; returns the server's answer, for [`Granted::parse`]. With `exact`, values are returned
    /// as base64, which preserves every byte.
    pub async fn lease(&self, ask: Ask, exact: bool) -> Result<String, CliError> {
        let wait_ms = u64::try_from(ask.wait.as_millis()).unwrap_or(u64::MAX);
        let mut body =
            json!({"max_records": ask.max_records, "wait_ms": wait_ms, "client_id": self.client_id});
        if let Some(lease_ms) = ask.lease_ms {
            body["lease_ms"] = json!(lease_ms);
        }
        let query: &[(&str, &str)] = if exact { &[("encoding", "base64")] } else { &[] };
        self.post("leases", query, body, ask.wait + ANSWER_WAIT_MAX).await
    }

    /// Settles records; returns the result of each entry.
    pub async fn settle(&self, settlement: &Settlement) -> Result<Vec<Verdict>, CliError> {
        let not_understood = |error| CliError::Answer { what: "a settlement", source: Some(error) };
        let body = serde_json::to_value(settlement).map_err(not_understood)?;
        let text = self.post("settlements", &[], body, ANSWER_WAIT_MAX).await?;
        Ok(serde_json::from_str::<Verdicts>(&text).map_err(not_understood)?.results)
    }

    /// Sends a call until it is answered. `limit` is the longest wait for one answer.
    async fn post(
        &self,
        what: &str,
        query: &[(&str, &str)],
        mut body: Value,
        limit: Duration,
    ) -> Result<String, CliError> {
        let mut rng = StdRng::from_os_rng();
        body["request_id"] = json!(request_id(&mut rng));
        let mut patience = Patience::new(self.retry_for, rng);
        let mut told = false;
        loop {
            let started = Instant::now();
            let request = self
                .client
                .request(Method::POST, &["v1", "queues", &self.queue, what])
                .query(query)
                .json(&body);
            let error = match timeout(limit, self.client.text(request)).await {
                Ok(Ok((_, text))) => return Ok(text),
                Ok(Err(error)) => error,
                Err(_elapsed) => CliError::Stalled { idle: limit },
            };
            if !error.is_transient() {
                return Err(error);
            }
            let retry_after = error.problem().and_then(|problem| problem.retry_after);
            let Some(pause) = patience.pause(started.elapsed(), retry_after) else {
                return Err(patience.give_up(error));
            };
            if !std::mem::replace(&mut told, true) {
                eprintln!("{error}: trying again");
            }
            sleep(pause).await;
        }
    }
}

fn request_id(rng: &mut StdRng) -> String {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}
