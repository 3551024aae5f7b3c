//! Agents of two releases on one database, around a migration.

use millpond_control_plane::SchemaRange;
use millpond_tests::harness::agent::Cluster;
use serde_json::json;
use std::process::Output;

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn an_agent_of_the_release_before_works_beside_todays() {
    let newest = SchemaRange::of_this_build().newest_known;
    let before = SchemaRange::known_to(newest - 1).newest_known.to_string();
    let earlier = ["--known-schema", before.as_str()];
    let cluster = Cluster::unmigrated().await;

    let ran = cluster.run(&[&["migrate"][..], &earlier].concat()).await;
    assert_eq!(text(&ran).0, format!("schema 0 \u{2192} {before}\n"));
    let (_, told) = text(&cluster.run(&["agent", "--listen", "127.0.0.1:0"]).await);
    assert!(told.contains("run `millpond migrate`"), "{told}");

    let ran = cluster.migrate().await;
    assert_eq!(text(&ran), (format!("schema {before} \u{2192} {newest}\n"), String::new()));
    assert_eq!(text(&cluster.migrate().await), (format!("already {newest}\n"), String::new()));

    cluster.database.run(&format!("update cluster set oldest_agent = {before}")).await;
    let agents = [cluster.agent(&[]), cluster.agent(&earlier)];
    for agent in &agents {
        agent.api().produce("t", json!([{"value": 1, "partition": 0}])).await.ok();
    }
    for agent in &agents {
        assert_eq!(agent.api().log("t", 0).await.len(), 2);
    }

    cluster.database.run(&format!("update cluster set oldest_agent = {newest}")).await;
    let refused = cluster.run(&[&["agent", "--listen", "127.0.0.1:0"][..], &earlier].concat()).await;
    assert!(!refused.status.success());
    assert!(text(&refused).1.contains("use a newer version of millpond"), "{}", text(&refused).1);
}
