//! A member of a consumer group, as an application would implement it.

use super::client::{Answer, Api, list, send, try_send};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A member of a group and the state of its last answer.
#[derive(Debug, Clone)]
pub struct Member {
    pub group: String,
    pub id: String,
    pub generation: i64,
    /// Assigned partitions, by topic and number.
    pub assigned: BTreeSet<(String, i64)>,
    /// Position from which the next poll reads; `None`: the committed offsets.
    pub after: Option<String>,
}

/// The assigned partitions of an answer, by topic and number.
pub fn assigned(answer: &Value) -> BTreeSet<(String, i64)> {
    let of = |topic: &Value| -> Vec<(String, i64)> {
        let name = topic["topic"].as_str().expect("a name").to_owned();
        list(topic, "partitions").iter().map(|p| (name.clone(), p.as_i64().expect("a number"))).collect()
    };
    list(answer, "assignments").iter().flat_map(of).collect()
}

/// Topic, partition and offset of a record.
pub fn place(record: &Value) -> (String, i64, i64) {
    let number = |name: &str| record[name].as_i64().expect("a number");
    (record["topic"].as_str().expect("a name").to_owned(), number("partition"), number("offset"))
}

impl Member {
    /// Joins a group; `more` are further members of the request's body.
    pub async fn join(api: &Api, group: &str, topics: &[&str], more: Value) -> Self {
        let answer = join(api, group, topics, more).await.ok();
        Self {
            group: group.to_owned(),
            id: answer["member_id"].as_str().expect("an id").to_owned(),
            generation: answer["generation"].as_i64().expect("a generation"),
            assigned: assigned(&answer),
            after: None,
        }
    }

    pub fn path(&self) -> String {
        format!("/v1/groups/{}/members/{}", self.group, self.id)
    }

    /// Polls from the current position without taking the answer over.
    pub async fn try_poll(&self, api: &Api, mut body: Value) -> Result<Answer, reqwest::Error> {
        if let Some(after) = &self.after {
            body["after"] = json!(after);
        }
        try_send(api.request(Method::POST, &format!("{}/poll", self.path())).json(&body)).await
    }

    pub async fn poll_again(&self, api: &Api, body: Value) -> Answer {
        self.try_poll(api, body).await.expect("an answer")
    }

    /// Takes over position, generation and assignment from an answer; returns its records.
    pub fn take(&mut self, answer: &Value) -> Vec<Value> {
        self.generation = answer["generation"].as_i64().expect("a generation");
        self.assigned = assigned(answer);
        self.after = Some(answer["next"].as_str().expect("a position").to_owned());
        list(answer, "records").clone()
    }

    pub async fn poll(&mut self, api: &Api, body: Value) -> Vec<Value> {
        let answer = self.poll_again(api, body).await.ok();
        self.take(&answer)
    }

    /// Polls until an answer holds no records.
    pub async fn drain(&mut self, api: &Api) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let records = self.poll(api, json!({})).await;
            if records.is_empty() {
                return all;
            }
            all.extend(records);
        }
    }

    /// Commits offsets under the last known generation.
    pub async fn commit(&self, api: &Api, offsets: &[(&str, i64, i64)]) -> Answer {
        offsets_of(api, &self.group, self.offsets(offsets)).await
    }

    /// The body of such a commit.
    pub fn offsets(&self, offsets: &[(&str, i64, i64)]) -> Value {
        let offset = |(topic, partition, offset): &(&str, i64, i64)| json!({"topic": topic, "partition": partition, "offset": offset});
        json!({"member_id": self.id, "generation": self.generation, "offsets": offsets.iter().map(offset).collect::<Vec<_>>()})
    }

    pub async fn leave(&self, api: &Api) -> Answer {
        api.delete(&self.path()).await
    }
}

pub async fn join(api: &Api, group: &str, topics: &[&str], more: Value) -> Answer {
    let mut body = json!({"topics": topics});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    send(api.request(Method::POST, &format!("/v1/groups/{group}/members")).json(&body)).await
}

pub async fn offsets_of(api: &Api, group: &str, body: Value) -> Answer {
    send(api.request(Method::POST, &format!("/v1/groups/{group}/offsets")).json(&body)).await
}
