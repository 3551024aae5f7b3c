//! Databases and stores that do not belong together: another store, and a database that was set back.

use millpond_tests::harness::agent::{BUCKET, Cluster};
use millpond_tests::harness::wait::until;
use serde_json::{Value, json};
use std::process::Output;

const DAY_MS: i64 = 86_400_000;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts an agent that is expected to refuse; returns what it says.
async fn refused(cluster: &Cluster, more: &[&str]) -> String {
    let output = cluster.run(&[&["agent", "--listen", "127.0.0.1:0"], more].concat()).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}

#[tokio::test]
async fn an_agent_with_another_store_is_refused() {
    let cluster = Cluster::new().await;
    let agent = cluster.agent(&[]);
    agent.api().produce("t", json!([{"value": 1, "partition": 0}])).await.ok();
    let folder = tempfile::tempdir().unwrap();
    for store in [format!("s3://{BUCKET}/other"), format!("file://{}", folder.path().display())] {
        let told = refused(&cluster, &["--store", &store]).await;
        assert!(told.contains("no marker") && told.contains("--store"), "{told}");
        let doctor = cluster.run(&["doctor", "--json", "--store", &store]).await;
        assert!(!doctor.status.success());
        assert!(String::from_utf8_lossy(&doctor.stdout).contains("cluster.marker"));
    }
    // The right one is still right, for another agent too.
    assert_eq!(cluster.agent(&[]).api().log("t", 0).await.len(), 1);
}

#[tokio::test]
async fn agents_that_are_born_at_once_share_a_store() {
    let cluster = Cluster::new().await;
    let agents = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(|| cluster.agent(&[]))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect::<Vec<_>>()
    });
    for agent in &agents {
        agent.api().produce("t", json!([{"value": 1, "partition": 0}])).await.ok();
    }
    assert_eq!(agents[0].api().log("t", 0).await.len(), 3);
}

#[tokio::test]
async fn a_database_that_was_set_back_deletes_nothing_and_is_told_what_to_do() {
    let cluster = Cluster::new().await;
    let agent = cluster.agent(&["--no-inline"]);
    agent.api().produce("t", json!([{"value": 1, "partition": 0}])).await.ok();
    assert!(agent.end_by("TERM", 20).await.success());
    let before = cluster.database.copy().await;
    let earlier = before.url();
    let earlier = ["--database-url", earlier.as_str()];

    // After the backup, a topic is deleted, and its objects go.
    let agent = cluster.agent(&[]);
    agent.api().delete("/v1/topics/t").await;
    until(60, "the end of the topic's objects", async || {
        cluster.database.advance(2 * DAY_MS).await;
        cluster.segments().is_empty().then_some(())
    })
    .await;
    assert!(agent.end_by("TERM", 20).await.success());

    let told = refused(&cluster, &earlier).await;
    assert!(told.contains("ahead of the database") && told.contains("recover --new-epoch --yes"), "{told}");
    let doctor = cluster.run(&[&["doctor", "--json"][..], &earlier].concat()).await;
    let report: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert!(report.to_string().contains("recover --new-epoch --yes"), "{report}");
    let recover = [&["recover", "--new-epoch"][..], &earlier].concat();
    let unconfirmed = cluster.run(&recover).await;
    assert!(!unconfirmed.status.success() && stderr(&unconfirmed).contains("--yes"));
    refused(&cluster, &earlier).await;

    let recovered = cluster.run(&[&recover[..], &["--yes"]].concat()).await;
    assert_eq!(String::from_utf8_lossy(&recovered.stdout), "epoch 1 \u{2192} 2\n", "{}", stderr(&recovered));
    let agent = cluster.agent(&earlier);
    agent.api().produce("u", json!([{"value": 2, "partition": 0}])).await.ok();
    assert_eq!(agent.api().get("/v1/cluster").await.ok()["epoch"], json!(2));
    let told = refused(&cluster, &[]).await;
    assert!(told.contains("ahead of the database"), "the other copy is refused: {told}");
    // An agent that runs while its cluster begins an epoch ends by itself.
    let recovered = cluster.run(&[&recover[..], &["--yes"]].concat()).await;
    assert_eq!(String::from_utf8_lossy(&recovered.stdout), "epoch 2 \u{2192} 3\n", "{}", stderr(&recovered));
    let ended = "the cluster has begun epoch 3";
    until(60, "its end", async || agent.log().contains(ended).then_some(())).await;
    drop(agent);
    before.close().await;
}
