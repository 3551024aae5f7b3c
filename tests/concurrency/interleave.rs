//! Forced interleavings that would break slightly different statements: a separate connection holds a lock
//! until the calls under test wait.

use millpond_core::control_plane::{Commit, Committed, Guard, SwapRejected, Verdict};
use millpond_core::group::OffsetsRejected;
use millpond_core::{Offset, TopicChange};
use millpond_tests::postgres::Database;
use millpond_tests::stage::{BOTH, Draft, HOUR, Home, MINUTE, PartKind, Stage, home, name};
use millpond_tests::world::PostgresWorld;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A dedup id that is used only to stop a commit that holds all its other locks.
const STOPPER: u128 = 0x5709;
/// Polls, 5 ms apart, before a test fails because nobody waits for a lock.
const LOCK_POLLS_MAX: usize = 2_000;

pub async fn stage() -> (Arc<Stage>, Arc<Database>) {
    let world = PostgresWorld::new().await;
    let database = Arc::clone(&world.database);
    (Arc::new(Stage::on(Box::new(world))), database)
}

pub async fn end(stage: Arc<Stage>) {
    Arc::into_inner(stage).expect("no task left").close().await;
}

/// An open transaction that holds the locks of its statements.
pub struct Holder(PgConnection);

impl Holder {
    pub async fn begin(database: &Database, statement: &str) -> Self {
        let mut connection = database.connect().await;
        connection.execute("begin").await.expect("begun");
        connection.execute(AssertSqlSafe(statement)).await.expect(statement);
        Self(connection)
    }

    /// Stops any commit that stores [`STOPPER`] in this topic.
    async fn stop(database: &Database, at: Home) -> Self {
        let id = uuid::Uuid::from_u128(STOPPER);
        let row = format!("{}, '{id}', '{id}', 0, 0, 0, clock_timestamp()", at.topic);
        Self::begin(
            database,
            &format!(
                "insert into dedup values ({row}) on conflict (topic_id, id_hash) do update set position = 0"
            ),
        )
        .await
    }

    async fn lock(database: &Database, at: Home) -> Self {
        Self::begin(
            database,
            &format!("select from topic_partition where partition_id = {} for no key update", at.id),
        )
        .await
    }

    /// Executes further statements in the transaction.
    pub async fn then(mut self, statements: &str) -> Self {
        self.0.execute(AssertSqlSafe(statements)).await.expect(statements);
        self
    }

    pub async fn end(mut self, how: &'static str) {
        self.0.execute(how).await.expect(how);
    }
}

/// Returns when this number of sessions wait for a lock.
pub async fn waiting(database: &Database, sessions: i64) {
    let mut connection = database.connect().await;
    let count = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    for _ in 0..LOCK_POLLS_MAX {
        let now: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.expect("counted");
        if now >= sessions {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{sessions} sessions do not wait");
}

fn commit(stage: &Arc<Stage>, commit: &Commit) -> JoinHandle<Committed> {
    let (stage, commit) = (Arc::clone(stage), commit.clone());
    tokio::spawn(async move { stage.commit(&commit).await })
}

pub async fn ended<T>(task: JoinHandle<T>) -> T {
    task.await.expect("no panic")
}

#[tokio::test]
async fn a_commit_sent_twice_at_once_is_stored_once() {
    let (s, database) = stage().await;
    let p = home(&s.topic("t", 1).await, 0);
    for (key, place) in (1..).zip(BOTH) {
        let drafts =
            [Draft::new().to(p, &[1, 2]), Draft::new().once(p, 3, key).key(key, 1), Draft::new().to(p, &[4])];
        let sending = s.prepare(place, &drafts).await;
        let holder = Holder::lock(&database, p).await;
        let first = commit(&s, &sending);
        waiting(&database, 1).await;
        let second = commit(&s, &sending);
        waiting(&database, 2).await;
        holder.end("commit").await;
        let (first, second) = (ended(first).await, ended(second).await);
        assert_eq!(first.verdicts, vec![Verdict::Stored; 3]);
        assert_eq!((first.verdicts, first.pieces), (second.verdicts, second.pieces));
    }
    assert_eq!(s.tags(p).await, [1, 2, 3, 4, 1, 2, 3, 4]);
    end(s).await;
}

/// Also with a key that was used before and has expired: the rows differ, the race is the same.
#[tokio::test]
async fn a_key_used_twice_at_once_has_one_answer() {
    let (s, database) = stage().await;
    let t = s.topic("t", 2).await;
    let (p, q) = (home(&t, 0), home(&t, 1));
    for expired in [false, true] {
        for body in [1, 2] {
            let before = s.tags(p).await.len();
            s.advance(2 * HOUR).await;
            if expired {
                s.send(PartKind::Inline, &[Draft::new().to(q, &[0]).key(7, 9)]).await;
                s.advance(2 * HOUR).await;
            } else {
                s.plane.forget(1_000).await.expect("an answer");
            }
            let others = s.tags(q).await;
            let first =
                s.prepare(PartKind::Inline, &[Draft::new().to(p, &[1]).once(p, 2, STOPPER).key(7, 1)]).await;
            let second = s.prepare(PartKind::Segment, &[Draft::new().to(q, &[3]).key(7, body)]).await;
            let holder = Holder::stop(&database, p).await;
            let first = commit(&s, &first);
            waiting(&database, 1).await;
            let second = commit(&s, &second);
            waiting(&database, 2).await;
            holder.end("rollback").await;
            let (first, second) = (ended(first).await, ended(second).await);
            assert_eq!(first.verdicts, [Verdict::Stored]);
            match &second.verdicts[0] {
                Verdict::Duplicate(answer) => assert_eq!((body, &answer.pieces), (1, &first.pieces)),
                verdict => assert_eq!((body, verdict), (2, &Verdict::Conflict)),
            }
            assert_eq!((s.tags(p).await.len(), s.tags(q).await), (before + 2, others));
        }
    }
    end(s).await;
}

#[tokio::test]
async fn a_dedup_id_used_twice_at_once_is_stored_once() {
    let (s, database) = stage().await;
    let t = s.topic("t", 2).await;
    let (p, q) = (home(&t, 0), home(&t, 1));
    let first = s.prepare(PartKind::Inline, &[Draft::new().once(p, 1, 1).once(p, 2, STOPPER)]).await;
    let second = s.prepare(PartKind::Inline, &[Draft::new().once(q, 3, 1).to(q, &[4])]).await;
    let holder = Holder::stop(&database, p).await;
    let first = commit(&s, &first);
    waiting(&database, 1).await;
    let second = commit(&s, &second);
    waiting(&database, 2).await;
    holder.end("rollback").await;
    assert!(ended(first).await.pieces[0].dropped.is_empty());
    assert_eq!(ended(second).await.pieces[0].dropped, [0]);
    assert_eq!(s.tags(p).await, [1, 2]);
    assert_eq!(s.tags(q).await, [4]);
    end(s).await;
}

#[tokio::test]
async fn of_two_that_expect_the_same_offset_one_is_stored() {
    let (s, database) = stage().await;
    let p = home(&s.topic("t", 1).await, 0);
    let one = s.prepare(PartKind::Inline, &[Draft::new().to(p, &[1, 2]).expect(0)]).await;
    let two = s.prepare(PartKind::Segment, &[Draft::new().to(p, &[3]).expect(0)]).await;
    let holder = Holder::lock(&database, p).await;
    let one = commit(&s, &one);
    waiting(&database, 1).await;
    let two = commit(&s, &two);
    waiting(&database, 2).await;
    holder.end("commit").await;
    assert_eq!(ended(one).await.verdicts, [Verdict::Stored]);
    assert_eq!(ended(two).await.verdicts, [Verdict::OffsetMismatch { current: Offset(2) }]);
    assert_eq!(s.tags(p).await, [1, 2]);
    end(s).await;
}

#[tokio::test]
async fn a_commit_that_waits_for_the_end_of_its_topic_stores_nothing() {
    let (s, database) = stage().await;
    let (t, kept) = (s.topic("t", 1).await, home(&s.topic("kept", 1).await, 0));
    let p = home(&t, 0);
    let sending = s
        .prepare(PartKind::Inline, &[Draft::new().to(p, &[1]).to(kept, &[2]), Draft::new().to(kept, &[3])])
        .await;
    let holder = Holder::lock(&database, p).await;
    let deletion = tokio::spawn({
        let s = Arc::clone(&s);
        async move { s.delete_topic("t").await }
    });
    waiting(&database, 1).await;
    let commit = commit(&s, &sending);
    waiting(&database, 2).await;
    holder.end("commit").await;
    ended(deletion).await;
    assert_eq!(ended(commit).await.verdicts, [Verdict::PartitionGone, Verdict::Stored]);
    assert_eq!((s.log(p).await, s.tags(kept).await), (None, vec![3]));
    end(s).await;
}

#[tokio::test]
async fn a_topic_ends_after_the_commit_that_was_first() {
    let (s, database) = stage().await;
    let p = home(&s.topic("t", 1).await, 0);
    let sending = s.prepare(PartKind::Segment, &[Draft::new().once(p, 1, STOPPER)]).await;
    let holder = Holder::stop(&database, p).await;
    let commit = commit(&s, &sending);
    waiting(&database, 1).await;
    let deletion = tokio::spawn({
        let s = Arc::clone(&s);
        async move { s.delete_topic("t").await }
    });
    waiting(&database, 2).await;
    holder.end("rollback").await;
    assert_eq!(ended(commit).await.verdicts, [Verdict::Stored]);
    ended(deletion).await;
    assert_eq!(s.log(p).await, None);
    assert_eq!(s.retain().await, 1);
    end(s).await;
}

#[tokio::test]
async fn a_partition_that_was_just_added_ends_with_its_topic() {
    let (s, database) = stage().await;
    let t = s.topic("t", 1).await;
    let grow = format!(
        "select from topic where topic_id = {0} for update; insert into topic_partition (topic_id, number) values ({0}, 1)",
        t.id
    );
    let holder = Holder::begin(&database, &grow).await;
    let deletion = tokio::spawn({
        let s = Arc::clone(&s);
        async move { s.delete_topic("t").await }
    });
    waiting(&database, 1).await;
    holder.end("commit").await;
    ended(deletion).await;
    assert_eq!(s.plane.partitions(&s.scope, t.id).await.expect("a list"), []);
    end(s).await;
}

#[tokio::test]
async fn a_topic_made_twice_at_once_is_one() {
    let (s, database) = stage().await;
    let insert = "insert into topic (tenant_id, name, retention_hold_ms, placement, dedup_window_ms, max_record_bytes, archive)
        values ('default', 't', 0, 'auto', 0, 0, 'delete')";
    let holder = Holder::begin(&database, insert).await;
    let put = |partitions| {
        let s = Arc::clone(&s);
        let change = TopicChange { partitions: Some(partitions), ..TopicChange::default() };
        tokio::spawn(
            async move { s.plane.put_topic(&s.scope, &name("t"), &change, 1).await.expect("a topic") },
        )
    };
    let (one, two) = (put(2), put(2));
    waiting(&database, 2).await;
    holder.end("rollback").await;
    let (one, two) = (ended(one).await, ended(two).await);
    assert_eq!(one.0, two.0);
    assert!(one.1 != two.1);
    end(s).await;
}

#[tokio::test]
async fn a_commit_that_waits_for_the_sweep_stores_nothing() {
    let (s, database) = stage().await;
    let p = home(&s.topic("t", 1).await, 0);
    let sending = s.prepare(PartKind::Segment, &[Draft::new().to(p, &[1])]).await;
    let abandon = format!(
        "update segment set state = 'u', delete_at = clock_timestamp() where segment_id = '{}'",
        sending.parts[0].id
    );
    let holder = Holder::begin(&database, &abandon).await;
    let commit = commit(&s, &sending);
    waiting(&database, 1).await;
    holder.end("commit").await;
    assert_eq!(ended(commit).await.verdicts, [Verdict::Unknown]);
    assert!(s.tags(p).await.is_empty());
    end(s).await;
}

#[tokio::test]
async fn the_sweep_passes_over_a_segment_that_is_being_committed() {
    let (s, database) = stage().await;
    let p = home(&s.topic("t", 1).await, 0);
    let sending = s.prepare(PartKind::Segment, &[Draft::new().once(p, 1, STOPPER)]).await;
    s.advance(2 * HOUR).await;
    let holder = Holder::stop(&database, p).await;
    let commit = commit(&s, &sending);
    waiting(&database, 1).await;
    assert!(s.sweep_plan().await.is_empty());
    holder.end("rollback").await;
    assert_eq!(ended(commit).await.verdicts, [Verdict::Stored]);
    assert!(s.sweep_plan().await.is_empty());
    assert_eq!(s.tags(p).await, [1]);
    end(s).await;
}

#[tokio::test]
async fn inputs_go_into_one_of_two_swaps() {
    let (s, database) = stage().await;
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1, 2]).await;
    s.append(PartKind::Inline, p, &[3]).await;
    s.advance(MINUTE).await;
    let plan = s.plane.drain_plan(None, i64::MAX).await.expect("a plan");
    let swaps = [s.rewrite(&plan).await, s.rewrite(&plan).await];
    let holder = Holder::lock(&database, p).await;
    let mut sendings = Vec::new();
    for (waiters, swap) in (1..).zip([&swaps[0], &swaps[0], &swaps[1]]) {
        let (s, swap) = (Arc::clone(&s), swap.clone());
        sendings.push(tokio::spawn(async move { s.swap(&swap).await }));
        // Background jobs have two connections: the third swap waits for one of them.
        waiting(&database, waiters.min(2)).await;
    }
    holder.end("commit").await;
    let mut outcomes = Vec::new();
    for sending in sendings {
        outcomes.push(ended(sending).await);
    }
    assert_eq!(outcomes, [Ok(()), Ok(()), Err(SwapRejected)]);
    assert_eq!(s.tags(p).await, [1, 2, 3]);
    assert_eq!(s.plane.partitions(&s.scope, p.topic).await.expect("a list")[0].bytes, 24);
    end(s).await;
}

#[tokio::test]
async fn a_swap_and_retention_leave_no_hole() {
    for swap_first in [true, false] {
        let (s, database) = stage().await;
        let change = TopicChange { retention_ms: Some(Some(HOUR)), ..TopicChange::default() };
        let p = home(&s.topic_with("t", change).await, 0);
        for n in 0..3 {
            s.append(PartKind::Inline, p, &[n]).await;
        }
        s.advance(HOUR - MINUTE).await;
        s.append(PartKind::Inline, p, &[3]).await;
        s.advance(2 * MINUTE).await;
        let plan = s.plane.drain_plan(None, i64::MAX).await.expect("a plan");
        let swap = s.rewrite(&plan).await;
        let holder = Holder::lock(&database, p).await;
        let swapping = |s: Arc<Stage>| tokio::spawn(async move { s.swap(&swap).await });
        let retaining =
            |s: Arc<Stage>| tokio::spawn(async move { s.plane.retain(1_000).await.expect("an answer") });
        let (swapped, gone);
        if swap_first {
            swapped = swapping(Arc::clone(&s));
            waiting(&database, 1).await;
            gone = retaining(Arc::clone(&s));
        } else {
            gone = retaining(Arc::clone(&s));
            waiting(&database, 1).await;
            swapped = swapping(Arc::clone(&s));
        }
        waiting(&database, 2).await;
        holder.end("commit").await;
        let (swapped, gone) = (ended(swapped).await, ended(gone).await);
        let log = s.log(p).await.expect("a partition");
        assert_eq!((swapped.is_ok(), gone), if swap_first { (true, 0) } else { (false, 3) });
        assert_eq!((log.start, log.end), (if swap_first { 0 } else { 3 }, 4));
        let bytes = s.plane.partitions(&s.scope, p.topic).await.expect("a list")[0].bytes;
        assert_eq!(bytes, 8 * (log.end - log.start));
        end(s).await;
    }
}

#[tokio::test]
async fn two_retentions_at_once_let_go_what_is_too_much_and_no_more() {
    let (s, database) = stage().await;
    let change = TopicChange { retention_bytes: Some(Some(40)), ..TopicChange::default() };
    let p = home(&s.topic_with("t", change).await, 0);
    for n in 0..10 {
        s.append(PartKind::Segment, p, &[n]).await;
    }
    let holder = Holder::lock(&database, p).await;
    let retain = || {
        let s = Arc::clone(&s);
        tokio::spawn(async move { s.plane.retain(1_000).await.expect("an answer") })
    };
    let (one, two) = (retain(), retain());
    waiting(&database, 2).await;
    holder.end("commit").await;
    assert_eq!(ended(one).await + ended(two).await, 5);
    assert_eq!(s.tags(p).await, [5, 6, 7, 8, 9]);
    end(s).await;
}

/// The statement's snapshot of the assignment is outdated by the time it has locked the group.
#[tokio::test]
async fn offsets_that_wait_for_a_generation_are_judged_by_it() {
    let (s, database) = stage().await;
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1, 2, 3]).await;
    let out = home(&s.topic("out", 1).await, 0);
    let member = s.join("g", &["t"]).await;
    let state = s.group("g").await;
    let offsets = s.offsets("g", member, state.generation, &[(p, 2)]);
    let sending = s.prepare(PartKind::Inline, &[Draft::new().to(out, &[1])]).await;
    let sending = Commit { guard: Some(Guard { offsets: Some(offsets.clone()), acks: None }), ..sending };
    let taken = format!(
        "update consumer_group set generation = generation + 1; update group_assignment set member_id = '{}', since = {}",
        uuid::Uuid::from_u128(9),
        state.generation.0 + 1
    );
    let holder = Holder::begin(&database, &taken).await;
    let alone = {
        let (s, offsets) = (Arc::clone(&s), offsets.clone());
        tokio::spawn(async move { s.commit_offsets(&offsets).await })
    };
    let with_records = commit(&s, &sending);
    waiting(&database, 2).await;
    holder.end("commit").await;
    let fenced = OffsetsRejected::Fenced { nth: 0 };
    assert_eq!(ended(alone).await, Err(fenced.clone()));
    assert_eq!(ended(with_records).await.verdicts, [Verdict::OffsetsRejected(fenced)]);
    assert!(s.tags(out).await.is_empty() && s.committed("g").await.is_empty());
    end(s).await;
}

#[tokio::test]
async fn offsets_and_records_sent_twice_at_once_are_stored_once() {
    let (s, database) = stage().await;
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1, 2, 3]).await;
    let out = home(&s.topic("out", 1).await, 0);
    let member = s.join("g", &["t"]).await;
    let generation = s.generation("g").await;
    for (round, place) in (1..).zip(BOTH) {
        let sending = s.prepare(place, &[Draft::new().to(out, &[1])]).await;
        let sending = Commit {
            guard: Some(Guard {
                offsets: Some(s.offsets("g", member, generation, &[(p, round)])),
                acks: None,
            }),
            ..sending
        };
        let holder = Holder::lock(&database, out).await;
        let (first, second) = (commit(&s, &sending), commit(&s, &sending));
        waiting(&database, 2).await;
        holder.end("commit").await;
        let (first, second) = (ended(first).await, ended(second).await);
        assert_eq!((&first.verdicts, &first.pieces), (&second.verdicts, &second.pieces));
        assert_eq!(first.verdicts, [Verdict::Stored]);
    }
    assert_eq!(s.tags(out).await, [1, 1]);
    assert_eq!(s.committed("g").await[&("t".to_owned(), 0)], 2);
    end(s).await;
}

/// Of several calls that make the same generation, one succeeds; the others see that their member is missing
/// and continue from the next generation.
#[tokio::test]
async fn members_that_join_at_once_all_get_in() {
    let (s, _) = stage().await;
    s.topic("t", 12).await;
    s.join("g", &["t"]).await;
    let joins: Vec<_> = (0..5)
        .map(|_| {
            let s = Arc::clone(&s);
            tokio::spawn(async move { s.join("g", &["t"]).await })
        })
        .collect();
    for join in joins {
        ended(join).await;
    }
    let (shares, state) = (s.shares("g").await, s.group("g").await);
    assert_eq!(shares.len(), 6);
    assert!(shares.values().all(|n| *n == 2));
    assert_eq!(state.generation.0, 6);
    end(s).await;
}
