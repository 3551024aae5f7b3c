//! A queue, used over HTTP as an application would.

use super::client::{Answer, Api, list, send};
use super::unique;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

/// A queue over its own topic.
pub struct Queue {
    pub api: Api,
    pub name: String,
    pub topic: String,
}

/// Number of records of a queue, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    pub ready: i64,
    pub delayed: i64,
    pub retrying: i64,
    pub in_flight: i64,
    pub dead: i64,
}

impl Queue {
    /// Creates a queue over a new topic of one partition.
    pub async fn new(api: Api, settings: Value) -> Self {
        Self::over(api, 1, settings).await
    }

    pub async fn over(api: Api, partitions: i32, mut settings: Value) -> Self {
        let (name, topic) = (unique("queue"), unique("work"));
        api.topic(&topic, partitions).await;
        settings["topic"] = json!(topic);
        let queue = Self { api, name, topic };
        assert_eq!(queue.put(settings).await.status, 201);
        queue
    }

    pub fn path(&self) -> String {
        format!("/v1/queues/{}", self.name)
    }

    pub async fn put(&self, settings: Value) -> Answer {
        self.api.put(&self.path(), settings).await
    }

    pub async fn post(&self, call: &str, body: Value) -> Answer {
        send(self.api.request(Method::POST, &format!("{}/{call}", self.path())).json(&body)).await
    }

    pub async fn describe(&self) -> Value {
        self.api.get(&self.path()).await.ok()
    }

    pub async fn counts(&self) -> Counts {
        serde_json::from_value(self.describe().await).expect("counts")
    }

    /// Produces records with the values 0 to n - 1.
    pub async fn fill(&self, n: i64) {
        let records: Vec<Value> = (0..n).map(|n| json!({ "value": n })).collect();
        self.api.produce(&self.topic, json!(records)).await.ok();
    }

    pub async fn lease(&self, body: Value) -> Value {
        self.post("leases", body).await.ok()
    }

    pub async fn settle(&self, body: Value) -> Vec<Value> {
        let answer = self.post("settlements", body).await.ok();
        list(&answer, "results").clone()
    }

    /// Settles, and returns the status of each entry.
    pub async fn statuses(&self, body: Value) -> Vec<String> {
        self.settle(body).await.iter().map(|r| r["status"].as_str().expect("a status").to_owned()).collect()
    }

    pub async fn list(&self, listing: &str) -> Vec<Value> {
        list(&self.api.get(&format!("{}/{listing}?payload=true", self.path())).await.ok(), "records").clone()
    }
}

pub fn receipts(lease: &Value) -> Vec<String> {
    list(lease, "records").iter().map(|r| r["receipt"].as_str().expect("a receipt").to_owned()).collect()
}

pub fn values(answer: &Value) -> Vec<i64> {
    list(answer, "records").iter().map(|r| r["value"].as_i64().expect("a number")).collect()
}
