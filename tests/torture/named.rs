//! One single fault: an agent that has granted a lease cannot read its records, and its caller has gone to
//! another agent with the same request id.

use super::client::{Book, LARGE};
use super::rig::{self, RECOVERY_WAIT_MAX_S, Rig};
use millpond_tests::harness::client::{Api, list, send, try_send};
use millpond_tests::harness::wait::until;
use millpond_tests::proxy::{Silence, Weather};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::time::Duration;

const RECORDS: usize = 5;

fn lease(api: &Api) -> RequestBuilder {
    api.request(Method::POST, "/v1/queues/named/leases")
        .json(&json!({"max_records": 10, "request_id": "mine"}))
}

#[tokio::test]
async fn a_lease_that_another_agent_gave_again_is_not_given_back() {
    let rig = Rig::start(7, 2).await;
    let book = Book::new(rig.agents.iter().map(|agent| agent.front.address()).collect());
    rig.make_topics(&rig::probes(&book, 7, 1)[0]).await;
    let apis: Vec<Api> =
        rig.agents.iter().map(|agent| Api::hasty(agent.front.address(), Duration::from_secs(3))).collect();
    assert_eq!(apis[1].put("/v1/queues/named", json!({"topic": LARGE.name})).await.status, 201);
    let records: Vec<Value> = (0..RECORDS).map(|n| json!({"partition": 0, "text": n.to_string()})).collect();
    assert_eq!(apis[1].produce(LARGE.name, json!(records)).await.status, 200);

    rig.agents[0].store.set(Weather { silence: Silence::Stall, ..Weather::default() });
    let answer = try_send(lease(&apis[0])).await;
    assert!(answer.is_err(), "its records cannot be read: {answer:?}");
    let given = send(lease(&apis[1])).await.ok();
    assert_eq!(list(&given, "records").len(), RECORDS, "{given}");
    rig.heal();
    let read = async || {
        (try_send(apis[0].request(Method::GET, "/v1/topics/large/partitions/0/records?offset=0"))
            .await
            .ok()?
            .status
            == 200)
            .then_some(())
    };
    until(RECOVERY_WAIT_MAX_S, "the first agent to read again", read).await;
    // Give the agent time to notice that nobody waits for the lease any more.
    tokio::time::sleep(Duration::from_millis(500)).await;

    let receipts: Vec<&Value> = list(&given, "records").iter().map(|record| &record["receipt"]).collect();
    let settle =
        apis[1].request(Method::POST, "/v1/queues/named/settlements").json(&json!({ "ack": receipts }));
    let told = send(settle).await.ok();
    assert!(list(&told, "results").iter().all(|result| result["status"] == "acked"), "{told}");
    rig.close(RECOVERY_WAIT_MAX_S).await;
}
