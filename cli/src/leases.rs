//! Leases and settlements of one queue, over HTTP.
//!
//! Every call carries a request id and is sent again, the same, until it is answered or patience ends: an
//! answer that was lost neither leases twice nor settles twice.

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

/// An answer that does not come for this long, beyond the time it was asked to wait, is given up, and asked
/// for again.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// The server's limit.
pub const LEASE_MAX_RECORDS: usize = 1_000;

/// The calls of a worker of one queue.
#[derive(Clone)]
pub struct Leases {
    pub client: Client,
    pub queue: String,
    /// Who the server is told leases the records.
    pub client_id: &'static str,
    /// How long to go on when the server cannot be reached; `None`: for ever.
    pub retry_for: Option<Duration>,
}

/// What to lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub max_records: usize,
    pub wait: Duration,
    /// The queue's, if `None`.
    pub lease_ms: Option<u64>,
}

/// A lease call's answer, read.
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

    /// For how long the records are leased, from when the server answered.
    pub fn length(&self) -> Duration {
        let ms = self.deadline_ms.map_or(0, |deadline| deadline.saturating_sub(self.now_ms));
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

/// What became of some leased records. Names no receipt twice.
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
    /// By the queue's retry policy, if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it is a failure of the record.
    pub counts: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Renewal {
    pub receipt: String,
    /// The queue's, if `None`.
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
    /// Its time to live is over.
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
    /// The server's answer, for [`Granted::parse`]. With `exact`, values come in a form that keeps every
    /// byte.
    pub async fn lease(&self, ask: Ask, exact: bool) -> Result<String, CliError> {
        let wait_ms = u64::try_from(ask.wait.as_millis()).unwrap_or(u64::MAX);
        let mut body =
            json!({"max_records": ask.max_records, "wait_ms": wait_ms, "client_id": self.client_id});
        if let Some(lease_ms) = ask.lease_ms {
            body["lease_ms"] = json!(lease_ms);
        }
        let query: &[(&str, &str)] = if exact { &[("encoding", "base64")] } else { &[] };
        self.post("leases", query, body, ask.wait + SILENCE_LIMIT).await
    }

    pub async fn settle(&self, settlement: &Settlement) -> Result<Vec<Verdict>, CliError> {
        let not_understood = |error| CliError::Answer { what: "a settlement", source: Some(error) };
        let body = serde_json::to_value(settlement).map_err(not_understood)?;
        let text = self.post("settlements", &[], body, SILENCE_LIMIT).await?;
        Ok(serde_json::from_str::<Verdicts>(&text).map_err(not_understood)?.results)
    }

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
