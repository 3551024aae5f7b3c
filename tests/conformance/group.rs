//! Consumer groups: members and their partitions.

use millpond_core::group::{DeleteGroupRejected, NoSuchGroup, RenewRejected};
use millpond_core::{Error, Generation, MemberId, Offset, PageRequest, Scope};
use millpond_tests::members::SESSION_MS;
use millpond_tests::stage::{DAY, HOUR, MINUTE, PartKind, Stage, home, name};
use uuid::Uuid;

suite!(
    shares_partitions_among_its_members,
    keeps_since_when_a_member_has_a_partition,
    refuses_a_change_of_an_older_generation,
    removes_who_is_silent_for_a_session,
    keeps_who_gives_signs_of_life,
    keeps_those_whose_heartbeats_come_together,
    notices_topics_that_change,
    waits_for_a_topic_that_is_not_there,
    is_told_from_others,
    is_listed_page_by_page,
    without_members_can_be_deleted,
    forgets_its_dead_and_itself,
);

async fn shares_partitions_among_its_members(s: &Stage) {
    let topic = s.topic("t", 5).await;
    let a = s.join("g", &["t"]).await;
    assert_eq!(s.shares("g").await, [(a, 5)].into());
    let b = s.join("g", &["t"]).await;
    let shares = s.shares("g").await;
    assert_eq!(shares.len(), 2);
    assert_eq!(shares[&a] + shares[&b], 5);
    assert_eq!(shares[&a].abs_diff(shares[&b]), 1);
    for member in [a, b] {
        let renewed = s.renew("g", member).await.expect("a member");
        let state = s.group("g").await;
        assert_eq!(
            (renewed.group, renewed.generation, renewed.stale, renewed.session_ms),
            (state.id, state.generation, false, SESSION_MS)
        );
        assert_eq!(renewed.partitions.len(), shares[&member]);
        for assigned in &renewed.partitions {
            assert_eq!(topic.partition_id(assigned.number), Some(assigned.partition));
            assert_eq!(
                (assigned.topic.as_str(), assigned.committed, state.owners[&assigned.partition].since),
                ("t", None, assigned.since)
            );
        }
        assert!(renewed.partitions.windows(2).all(|pair| pair[0].number < pair[1].number));
    }
    s.leave("g", a).await;
    assert_eq!(s.shares("g").await, [(b, 5)].into());
    assert_eq!(s.renew("g", a).await, Err(RenewRejected::NoSuchMember));
    s.leave("g", b).await;
    let state = s.group("g").await;
    assert!(state.owners.is_empty() && state.members.is_empty() && state.basis.is_empty());
}

async fn keeps_since_when_a_member_has_a_partition(s: &Stage) {
    s.topic("t", 4).await;
    let a = s.join("g", &["t"]).await;
    let first = s.group("g").await;
    let b = s.join("g", &["t"]).await;
    let second = s.group("g").await;
    assert!(second.generation > first.generation);
    for (partition, owner) in &second.owners {
        let since = if owner.member == a { first.generation } else { second.generation };
        assert_eq!((owner.since, owner.member == a || owner.member == b), (since, true), "{partition}");
    }
    s.leave("g", b).await;
    let third = s.group("g").await;
    for (partition, owner) in &third.owners {
        let kept = second.owners[partition].member == a;
        assert_eq!(owner.since, if kept { first.generation } else { third.generation });
    }
}

async fn refuses_a_change_of_an_older_generation(s: &Stage) {
    s.topic("t", 2).await;
    s.join("g", &["t"]).await;
    let state = s.group("g").await;
    let late = state.next(&s.scope, Some(s.member(&["t"])), None);
    s.join("g", &["t"]).await;
    let before = s.group("g").await;
    assert!(matches!(s.plane.regroup(&late).await, Err(Error::Rejected(_))));
    let after = s.group("g").await;
    assert_eq!(
        (before.generation, before.owners, before.members.len()),
        (after.generation, after.owners, after.members.len())
    );
    let gone = millpond_core::group::Regroup { group: millpond_core::GroupId(-1), ..late };
    assert!(matches!(s.plane.regroup(&gone).await, Err(Error::Rejected(_))));
}

async fn removes_who_is_silent_for_a_session(s: &Stage) {
    s.topic("t", 4).await;
    let (a, b) = (s.join("g", &["t"]).await, s.join("g", &["t"]).await);
    let id = s.group("g").await.id;
    s.advance(SESSION_MS / 2).await;
    s.renew("g", a).await.expect("a member");
    assert_eq!(
        s.plane.generations(&[(s.scope.clone(), id)]).await.expect("a list"),
        [(id, s.generation("g").await, false)]
    );
    s.advance(SESSION_MS * 2 / 3).await;
    assert_eq!(s.renew("g", b).await, Err(RenewRejected::NoSuchMember));
    let state = s.group("g").await;
    assert_eq!(
        state.members.iter().map(|m| (m.member.id, m.expired)).collect::<Vec<_>>(),
        [(a, false), (b, true)]
    );
    assert_eq!(
        s.plane.generations(&[(s.scope.clone(), id)]).await.expect("a list"),
        [(id, state.generation, true)]
    );
    assert!(s.renew("g", a).await.expect("a member").stale);
    s.settle("g").await;
    assert_eq!((s.shares("g").await, s.group("g").await.members.len()), ([(a, 4)].into(), 1));
    assert!(s.generation("g").await > state.generation);
    assert!(!s.renew("g", a).await.expect("a member").stale);
    assert_eq!(s.renew("g", b).await, Err(RenewRejected::NoSuchMember), "who has expired stays so");
}

async fn keeps_who_gives_signs_of_life(s: &Stage) {
    s.topic("t", 1).await;
    let a = s.join("g", &["t"]).await;
    let generation = s.generation("g").await;
    for _ in 0..5 {
        s.advance(SESSION_MS * 4 / 5).await;
        let renewed = s.renew("g", a).await.expect("a member");
        assert!(renewed.noted_ms_ago < MINUTE, "{renewed:?}");
    }
    // Not every renewal is written down.
    s.advance(SESSION_MS / 10).await;
    assert!(s.renew("g", a).await.expect("a member").noted_ms_ago >= SESSION_MS / 10);
    s.advance(SESSION_MS / 10).await;
    assert!(s.renew("g", a).await.expect("a member").noted_ms_ago < MINUTE);
    assert_eq!(s.generation("g").await, generation);
}

async fn keeps_those_whose_heartbeats_come_together(s: &Stage) {
    s.topic("t", 4).await;
    let (a, b) = (s.join("g", &["t"]).await, s.join("g", &["t"]).await);
    let (c, silent) = (s.join("h", &["t"]).await, s.join("h", &["t"]).await);
    let unknown = MemberId(Uuid::from_u128(9));
    let foreign = Scope::of_tenant(name("another"));
    for _ in 0..3 {
        s.advance(SESSION_MS / 2).await;
        let all = [a, b, c, unknown].map(|member| (s.scope.clone(), member));
        let mut renewed = s.plane.renew_sessions(&all).await.expect("an answer");
        renewed.sort();
        let mut expected = vec![a, b, c];
        expected.sort();
        assert_eq!(renewed, expected);
        assert_eq!(s.plane.renew_sessions(&[(foreign.clone(), a)]).await.expect("an answer"), []);
    }
    for member in [a, b] {
        assert!(s.renew("g", member).await.expect("a member").noted_ms_ago < MINUTE);
    }
    assert!(s.renew("h", c).await.is_ok());
    assert_eq!(s.renew("h", silent).await, Err(RenewRejected::NoSuchMember));
    assert_eq!(s.plane.renew_sessions(&[(s.scope.clone(), silent)]).await.expect("an answer"), []);
}

async fn notices_topics_that_change(s: &Stage) {
    let old = s.topic("t", 2).await;
    s.topic("u", 1).await;
    let a = s.join("g", &["t", "u"]).await;
    let id = s.group("g").await.id;
    let stale = async || s.plane.generations(&[(s.scope.clone(), id)]).await.expect("a list")[0].2;
    assert!(!stale().await);
    s.topic("other", 3).await;
    assert!(!stale().await, "none of the group's");
    s.topic("t", 4).await;
    assert!(stale().await && s.renew("g", a).await.expect("a member").stale);
    s.settle("g").await;
    assert_eq!((stale().await, s.shares("g").await), (false, [(a, 5)].into()));
    s.delete_topic("t").await;
    assert!(stale().await);
    assert_eq!(
        s.renew("g", a).await.expect("a member").partitions.len(),
        1,
        "what is gone is no one's any more"
    );
    s.settle("g").await;
    assert_eq!((stale().await, s.shares("g").await), (false, [(a, 1)].into()));
    let new = s.topic("t", 2).await;
    assert!(stale().await);
    s.settle("g").await;
    let partitions: Vec<_> =
        s.renew("g", a).await.expect("a member").partitions.iter().map(|p| p.partition).collect();
    assert_eq!(partitions[..2], new.partitions[..]);
    assert!(old.partitions.iter().all(|p| !partitions.contains(p)));
}

async fn waits_for_a_topic_that_is_not_there(s: &Stage) {
    let a = s.join("g", &["later"]).await;
    assert!(s.renew("g", a).await.expect("a member").partitions.is_empty());
    s.topic("later", 2).await;
    s.settle("g").await;
    assert_eq!(s.renew("g", a).await.expect("a member").partitions.len(), 2);
}

async fn is_told_from_others(s: &Stage) {
    s.topic("t", 2).await;
    let a = s.join("g", &["t"]).await;
    let b = s.join("h", &["t"]).await;
    assert_eq!((s.shares("g").await, s.shares("h").await), ([(a, 2)].into(), [(b, 2)].into()));
    assert_eq!(s.renew("h", a).await, Err(RenewRejected::NoSuchMember));
    assert_eq!(s.renew("i", a).await, Err(RenewRejected::NoSuchGroup));
    assert_eq!(s.renew("g", MemberId(Uuid::from_u128(9))).await, Err(RenewRejected::NoSuchMember));
    assert_eq!(s.groups(&s.scope).await, [name("g"), name("h")]);
    let other = Scope::anonymous(name("tenant"));
    assert!(s.groups(&other).await.is_empty());
    assert!(matches!(s.plane.group(&other, &name("g"), &[]).await, Err(Error::Rejected(NoSuchGroup))));
}

async fn is_listed_page_by_page(s: &Stage) {
    let p = home(&s.topic("t", 3).await, 1);
    s.append(PartKind::Inline, p, &[1, 2]).await;
    for group in ["b", "B", "a"] {
        s.join(group, &["t"]).await;
    }
    s.plane.reset_offsets(&s.scope, &name("c"), &[(p.id, Offset(1))]).await.expect("reset");
    s.plane.make_group(&s.scope, &name("d")).await.expect("made");
    let page = async |after: Option<&str>, limit, max_partitions| {
        let request = PageRequest { after: after.map(name), limit, max_partitions };
        let page = s.plane.groups(&s.scope, &request).await.expect("a page");
        for group in &page.items {
            assert_eq!(group.state, s.group(group.name.as_str()).await);
            let progress = s.plane.progress(&s.scope, group.state.id).await.expect("a list");
            assert_eq!(group.progress, progress);
        }
        let names: Vec<String> = page.items.iter().map(|group| group.name.to_string()).collect();
        (names.concat(), page.has_more)
    };
    assert_eq!(page(None, 9, 99).await, ("Babcd".to_owned(), false));
    assert_eq!(page(None, 5, 99).await, ("Babcd".to_owned(), false));
    assert_eq!(page(None, 4, 99).await, ("Babc".to_owned(), true));
    assert_eq!(page(Some("aa"), 1, 99).await, ("b".to_owned(), true));
    assert_eq!(page(Some("d"), 1, 99).await, (String::new(), false));
    assert_eq!(page(None, 9, 6).await, ("Ba".to_owned(), true));
    assert_eq!(page(Some("a"), 9, 2).await, ("b".to_owned(), true), "never empty");
    assert_eq!(page(Some("a"), 9, 4).await, ("bcd".to_owned(), false));
}

async fn without_members_can_be_deleted(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1, 2]).await;
    let delete = async || match s.plane.delete_group(&s.scope, &name("g")).await {
        Ok(()) => Ok(()),
        Err(Error::Rejected(rejected)) => Err(rejected),
        Err(error) => panic!("{error:?}"),
    };
    assert_eq!(delete().await, Err(DeleteGroupRejected::NoSuchGroup));
    let a = s.join("g", &["t"]).await;
    s.commit_offsets(&s.offsets("g", a, s.generation("g").await, &[(p, 1)])).await.expect("committed");
    assert_eq!(delete().await, Err(DeleteGroupRejected::NotEmpty));
    // A member whose session is over no longer counts.
    s.advance(SESSION_MS + MINUTE).await;
    let deleted = delete().await;
    assert!(deleted.is_ok() || s.resends());
    assert!(matches!(s.plane.group(&s.scope, &name("g"), &[]).await, Err(Error::Rejected(NoSuchGroup))));
    let b = s.join("g", &["t"]).await;
    assert_eq!((s.shares("g").await, s.committed("g").await.len()), ([(b, 1)].into(), 0));
    s.leave("g", b).await;
    assert!(delete().await.is_ok() || s.resends());
}

async fn forgets_its_dead_and_itself(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1]).await;
    for group in ["kept", "empty"] {
        let member = s.join(group, &["t"]).await;
        if group == "kept" {
            s.commit_offsets(&s.offsets(group, member, s.generation(group).await, &[(p, 1)]))
                .await
                .expect("committed");
        }
    }
    let before = s.generation("kept").await;
    s.advance(SESSION_MS + MINUTE).await;
    s.plane.forget(100).await.expect("an answer");
    assert_eq!(s.group("kept").await.members.len(), 1, "not yet");
    s.advance(HOUR).await;
    s.plane.forget(100).await.expect("an answer");
    let state = s.group("kept").await;
    assert!(state.members.is_empty() && state.owners.is_empty() && state.generation > before);
    assert_eq!(s.group("empty").await.generation, Generation(state.generation.0));
    s.advance(DAY + HOUR).await;
    s.plane.forget(100).await.expect("an answer");
    assert_eq!(s.groups(&s.scope).await, [name("kept")]);
    assert_eq!(s.committed("kept").await, [(("t".to_owned(), 0), 1)].into());
}
