//! One single fault: the network between an agent and Postgres swallows everything, and no connection breaks.

use super::client::{Book, LARGE, SMALL};
use super::rig::{self, Rig};
use millpond_tests::harness::client::{Answer, Api};
use millpond_tests::harness::wait::{until, within};
use millpond_tests::proxy::{Silence, Weather};
use serde_json::json;

/// Longest wait for the answer to a request that cannot succeed, in seconds.
const ANSWER_WAIT_MAX_S: u64 = 10;
/// Longest time in which an agent with requests and commits in flight ends after SIGTERM, in seconds: it
/// drains, then gives up.
const END_WAIT_MAX_S: u64 = 50;

async fn refused(what: &str, answer: impl Future<Output = Answer>) {
    within(ANSWER_WAIT_MAX_S, what, answer).await.problem(503, "control_plane_unavailable");
}

async fn produced(api: &Api, topic: &str, key: &str) -> Answer {
    api.produce_once(topic, key, json!([{"partition": 0, "text": key}])).await
}

#[tokio::test]
async fn an_agent_whose_database_falls_silent_says_so_recovers_and_ends() {
    let rig = Rig::start(7, 1).await;
    let book = Book::new(rig.agents.iter().map(|agent| agent.front.address()).collect());
    let probes = rig::probes(&book, 7, 1);
    rig.make_topics(&probes[0]).await;
    let api = probes[0].at(0);
    for round in 0..2 {
        assert_eq!(produced(&api, SMALL.name, &format!("before {round}")).await.status, 200);
        rig.agents[0].database.set(Weather { silence: Silence::Swallow, ..Weather::default() });
        refused("a produce", produced(&api, SMALL.name, &format!("small {round}"))).await;
        refused("a read", api.partition(SMALL.name, 0, "?offset=0")).await;
        refused("another produce", produced(&api, LARGE.name, &format!("large {round}"))).await;
        rig.heal();
        for (topic, key) in [(SMALL.name, "small"), (LARGE.name, "large")] {
            let again =
                async || (produced(&api, topic, &format!("{key} {round}")).await.status == 200).then_some(());
            until(20, "an acknowledgement after the silence", again).await;
        }
    }
    let stored: Vec<_> = api.log(SMALL.name, 0).await.iter().map(|record| record["text"].clone()).collect();
    assert_eq!(stored, ["before 0", "small 0", "before 1", "small 1"], "each is stored once");

    rig.agents[0].database.set(Weather { silence: Silence::Swallow, ..Weather::default() });
    refused("a produce whose commit stays open", produced(&api, LARGE.name, "open")).await;
    rig.close(END_WAIT_MAX_S).await;
}
