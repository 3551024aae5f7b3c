//! Topics: created, changed, grown, listed, deleted.

use millpond_core::control_plane::Verdict;
use millpond_core::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected};
use millpond_core::{Error, Offset, PageRequest, Placement, Scope, Topic, TopicChange, TopicConfig, limits};
use millpond_tests::stage::{BOTH, Draft, PartKind, Stage, home, name};

suite!(
    is_made_with_defaults,
    is_changed_field_by_field,
    grows_and_keeps_its_partitions,
    never_shrinks,
    has_a_number_of_partitions_in_range,
    lists_by_name,
    is_listed_page_by_page,
    is_gone_after_its_end,
    of_the_same_name_shares_nothing,
    of_another_tenant_is_another,
    reports_its_partitions,
);

fn partitions(count: i32) -> TopicChange {
    TopicChange { partitions: Some(count), ..TopicChange::default() }
}

async fn is_made_with_defaults(s: &Stage) {
    let (made, first) =
        s.plane.put_topic(&s.scope, &name("t"), &TopicChange::default(), 3).await.expect("a topic");
    assert!(first || s.resends());
    assert_eq!(made.config, TopicConfig::default());
    assert_eq!((made.partition_count(), &made.tenant, &made.name), (3, &s.scope.tenant, &name("t")));
    assert_eq!(s.plane.topic(&s.scope, &name("t")).await.expect("a topic"), made);
    let (again, first) =
        s.plane.put_topic(&s.scope, &name("t"), &TopicChange::default(), 5).await.expect("a topic");
    assert!(!first);
    assert_eq!(again, made);
}

async fn is_changed_field_by_field(s: &Stage) {
    let made = s.topic("t", 2).await;
    let change = TopicChange {
        retention_ms: Some(None),
        retention_bytes: Some(Some(5)),
        retention_hold_ms: Some(6),
        placement: Some(Placement::Object),
        dedup_window_ms: Some(7),
        max_record_bytes: Some(8),
        archive: Some("keep".to_owned()),
        columns: Some(Some(r#"{"b": 1,  "a": 2}"#.to_owned())),
        ..TopicChange::default()
    };
    let changed = s.topic_with("t", change.clone()).await;
    assert_eq!(changed, Topic { config: change.apply(&TopicConfig::default()), ..made });
    let back = s
        .topic_with(
            "t",
            TopicChange { columns: Some(None), placement: Some(Placement::Inline), ..TopicChange::default() },
        )
        .await;
    assert_eq!(back.config, TopicConfig { columns: None, placement: Placement::Inline, ..changed.config });
    assert_eq!(s.plane.topic(&s.scope, &name("t")).await.expect("a topic"), back);
}

async fn grows_and_keeps_its_partitions(s: &Stage) {
    let small = s.topic("t", 2).await;
    s.append(PartKind::Inline, home(&small, 1), &[1, 2]).await;
    let large = s.topic("t", 5).await;
    assert_eq!(large.partitions[..2], small.partitions[..]);
    assert_eq!(large.partition_count(), 5);
    assert_eq!(s.topic_with("t", TopicChange::default()).await, large);
    assert_eq!(s.tags(home(&large, 1)).await, [1, 2]);
    assert_eq!(s.append(PartKind::Segment, home(&large, 4), &[3]).await, 0);
}

async fn never_shrinks(s: &Stage) {
    let made = s.topic("t", 3).await;
    let change = TopicChange { retention_ms: Some(Some(1)), ..partitions(2) };
    let refused = s.plane.put_topic(&s.scope, &name("t"), &change, 1).await.expect_err("refused");
    assert!(
        matches!(refused, Error::Rejected(PutTopicRejected::PartitionsShrink { current: 3 })),
        "{refused:?}"
    );
    assert_eq!(s.plane.topic(&s.scope, &name("t")).await.expect("a topic"), made);
}

async fn has_a_number_of_partitions_in_range(s: &Stage) {
    for count in [-1, 0, limits::PARTITIONS_MAX + 1] {
        let refused =
            s.plane.put_topic(&s.scope, &name("t"), &partitions(count), 1).await.expect_err("refused");
        assert!(matches!(refused, Error::Rejected(PutTopicRejected::PartitionsOutOfRange)), "{refused:?}");
    }
    assert!(s.topics(&s.scope).await.is_empty());
}

async fn lists_by_name(s: &Stage) {
    assert!(s.topics(&s.scope).await.is_empty());
    for text in ["b", "a.b", "B", "a-b", "a_b", "a", "10", "9", "A", "ab"] {
        s.topic(text, 1).await;
    }
    let listed = s.topics(&s.scope).await;
    let names: Vec<&str> = listed.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["10", "9", "A", "B", "a", "a-b", "a.b", "a_b", "ab", "b"]);
    for topic in &listed {
        assert_eq!(s.plane.topic(&s.scope, &topic.name).await.expect("a topic"), *topic);
    }
}

async fn is_listed_page_by_page(s: &Stage) {
    for (text, partitions) in [("a", 2), ("b", 3), ("B", 1), ("c", 9), ("d", 1)] {
        s.topic(text, partitions).await;
    }
    s.delete_topic("b").await;
    let page = async |after: Option<&str>, limit, max_partitions| {
        let request = PageRequest { after: after.map(name), limit, max_partitions };
        let page = s.plane.topics(&s.scope, &request).await.expect("a page");
        for (topic, partitions) in &page.items {
            assert_eq!(*partitions, s.plane.partitions(&s.scope, topic.id).await.expect("a list"));
        }
        let names: Vec<String> = page.items.iter().map(|(topic, _)| topic.name.to_string()).collect();
        (names.concat(), page.has_more)
    };
    assert_eq!(page(None, 9, 99).await, ("Bacd".to_owned(), false));
    assert_eq!(page(None, 4, 99).await, ("Bacd".to_owned(), false));
    assert_eq!(page(None, 3, 99).await, ("Bac".to_owned(), true));
    assert_eq!(page(Some("c"), 3, 99).await, ("d".to_owned(), false));
    assert_eq!(page(Some("ab"), 1, 99).await, ("c".to_owned(), true));
    assert_eq!(page(Some("d"), 1, 99).await, (String::new(), false));
    assert_eq!(page(None, 9, 3).await, ("Ba".to_owned(), true));
    assert_eq!(page(Some("a"), 9, 3).await, ("c".to_owned(), true), "never empty");
    assert_eq!(page(Some("a"), 9, 10).await, ("cd".to_owned(), false));
}

async fn is_gone_after_its_end(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let p = home(&topic, 0);
    s.append(PartKind::Inline, p, &[1]).await;
    s.delete_topic("t").await;
    assert!(!s.plane.delete_topic(&s.scope, &name("t")).await.expect("an answer"));
    assert!(matches!(s.plane.topic(&s.scope, &name("t")).await, Err(Error::Rejected(NoSuchTopic))));
    assert!(s.topics(&s.scope).await.is_empty());
    assert!(s.plane.partitions(&s.scope, topic.id).await.expect("a list").is_empty());
    let asked: Vec<_> = topic.partitions.iter().map(|id| (s.scope.clone(), *id)).collect();
    assert!(s.plane.high_watermarks(&asked).await.expect("a list").is_empty());
    assert!(s.plane.offsets_at(&s.scope, topic.id, 0).await.expect("a list").is_empty());
    assert_eq!(s.find(p.id, 0, 1).await, None);
}

async fn of_the_same_name_shares_nothing(s: &Stage) {
    for place in BOTH {
        let old = s.topic("t", 1).await;
        s.send(place, &[Draft::new().to(home(&old, 0), &[1]).once(home(&old, 0), 2, 77)]).await;
        s.delete_topic("t").await;
        let new = s.topic("t", 2).await;
        assert_ne!(new.id, old.id);
        assert!(!new.partitions.contains(&old.partitions[0]));
        assert_eq!(s.log(home(&new, 0)).await.expect("a partition").end, 0);
        let sent = s.send(place, &[Draft::new().once(home(&new, 0), 3, 77)]).await;
        assert_eq!((sent.base(0, home(&new, 0)), s.tags(home(&new, 0)).await), (Some(0), vec![3]));
        s.delete_topic("t").await;
    }
}

async fn of_another_tenant_is_another(s: &Stage) {
    let ours = s.topic("t", 1).await;
    let them = Scope::anonymous(name("them"));
    let (theirs, made) = s.plane.put_topic(&them, &name("t"), &partitions(2), 1).await.expect("a topic");
    assert!(made || s.resends());
    assert_ne!(ours.id, theirs.id);
    let mut commit = s.prepare(PartKind::Inline, &[Draft::new().to(home(&theirs, 0), &[1])]).await;
    commit.requests[0].scope = them.clone();
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::Stored]);
    assert!(s.tags(home(&ours, 0)).await.is_empty());
    assert_eq!(s.topics(&them).await, [theirs]);
    assert_eq!(s.topics(&s.scope).await, [ours]);
    s.delete_topic("t").await;
    assert!(s.plane.topic(&them, &name("t")).await.is_ok());
    assert!(s.topics(&Scope::anonymous(name("nobody"))).await.is_empty());
}

async fn reports_its_partitions(s: &Stage) {
    let topic = s.topic("t", 2).await;
    s.append(PartKind::Inline, home(&topic, 1), &[1, 2, 3]).await;
    s.append(PartKind::Segment, home(&topic, 1), &[4]).await;
    let status = s.plane.partitions(&s.scope, topic.id).await.expect("a list");
    let empty = PartitionStatus {
        partition: 0,
        id: topic.partitions[0],
        log_start_offset: Offset(0),
        high_watermark: Offset(0),
        bytes: 0,
    };
    let filled = PartitionStatus {
        partition: 1,
        id: topic.partitions[1],
        high_watermark: Offset(4),
        bytes: 32,
        ..empty
    };
    assert_eq!(status, [empty, filled]);
}
