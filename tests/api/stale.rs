//! Topics that change while an agent has an older description of them in memory.

use super::api;
use millpond_tests::harness::client::{list, send};
use millpond_tests::harness::unique;
use serde_json::{Value, json};

/// A topic is deleted and created again while the agent has it in memory: no request reaches the first one.
#[tokio::test]
async fn a_recreated_topic_shares_nothing_with_the_first() {
    let (api, topic) = (api(), unique("stale"));
    let path = format!("/v1/topics/{topic}");
    for round in 0..3 {
        api.topic(&topic, 3 - round).await;
        for n in 0..5 {
            api.produce(&topic, json!([{"value": [round, n], "partition": 0}])).await.ok();
        }
        api.produce_once(&topic, "k", json!([{"value": [round, 5], "partition": 0}])).await.ok();
        let answer = api.lines(&topic, "", format!("[{round},6]\n[{round},7]\n")).await.ok();
        assert_eq!(answer["count"], json!(2));
        let values: Vec<Value> = api.topic_log(&topic).await.iter().map(|r| r["value"].clone()).collect();
        assert_eq!(values.len(), 8);
        assert!(values.iter().all(|v| v[0] == json!(round)), "{values:?}");
        assert_eq!(api.delete(&path).await.status, 204);
        api.partition(&topic, 0, "").await.problem(404, "topic_not_found");
    }
}

/// A produce request that arrives after the deletion creates the topic again.
#[tokio::test]
async fn producing_into_a_deleted_topic_makes_another() {
    let (api, topic) = (api(), unique("stale"));
    let path = format!("/v1/topics/{topic}");
    api.topic(&topic, 1).await;
    let records = json!([{"value": 1}]);
    api.produce_once(&topic, "k", records.clone()).await.ok();
    api.delete(&path).await;
    // The key belonged to the deleted topic.
    let answer = api.produce_once(&topic, "k", records).await.ok();
    assert!(answer.get("duplicate").is_none(), "{answer}");
    assert_eq!(list(&api.get(&path).await.ok(), "partitions").len(), 8);
    assert_eq!(api.topic_log(&topic).await.len(), 1);
}

#[tokio::test]
async fn producers_go_on_while_a_topic_is_deleted_and_made_again() {
    let (api, topic) = (api(), unique("stale"));
    api.topic(&topic, 2).await;
    let producers = (0..4).map(|p| {
        let (api, topic) = (api.clone(), topic.clone());
        tokio::spawn(async move {
            for n in 0..25 {
                let answer = api.produce_once(&topic, &format!("{p}-{n}"), json!([{"value": n}])).await;
                assert!(matches!(answer.status, 200 | 404), "{answer:?}");
            }
        })
    });
    let deleter = {
        let (api, topic) = (api.clone(), topic.clone());
        tokio::spawn(async move {
            for _ in 0..5 {
                send(api.request(reqwest::Method::DELETE, &format!("/v1/topics/{topic}"))).await;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
    };
    for done in futures::future::join_all(producers).await {
        done.unwrap();
    }
    deleter.await.unwrap();
    api.produce(&topic, json!([{"value": "end"}])).await.ok();
    api.topic_log(&topic).await;
}
