//! A database of an earlier version, brought to this one, and used.

use millpond_control_plane::postgres::MIGRATIONS;
use millpond_control_plane::postgres::schema::{self, Migrated, SchemaRange};
use millpond_control_plane::{ConnectError, PostgresControlPlane};
use millpond_core::control_plane::{Answer, PieceOutcome, Verdict};
use millpond_core::{Offset, Scope};
use millpond_tests::harness::wait::{until, within};
use millpond_tests::postgres::Database;
use millpond_tests::stage::{Draft, PartKind, Stage, home, name};
use millpond_tests::world::PostgresWorld;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Executor, SqlSafeStr};
use uuid::Uuid;

/// The last schema in which rows named no tenant.
const WITHOUT_TENANTS: i64 = 5;

/// A topic with two records, of which the second had a dedup id, committed under a key.
const ROWS: &str = "
    insert into topic (
        tenant_id, name, retention_hold_ms, placement, dedup_window_ms, max_record_bytes, archive
    )
    values ('default', 't', 0, 'auto', 3600000, 1000000, '');
    insert into topic_partition (topic_id, number, high_watermark) select topic_id, 0, 2 from topic;
    insert into answer (request_id, expires_at, context, bases, dropped)
    values ('00000000-0000-0000-0000-000000000001', now() + interval '1 hour', 'was', '{0}', '{}');
    insert into request_key (key_hash, body_hash, request_id, expires_at)
    values (
        '00000000-0000-0000-0000-000000000005', '00000000-0000-0000-0000-000000000006',
        '00000000-0000-0000-0000-000000000001', now() + interval '1 hour'
    );
    insert into dedup (topic_id, id_hash, request_id, piece, position, partition, expires_at)
    select topic_id, '00000000-0000-0000-0000-000000000007', '00000000-0000-0000-0000-000000000001', 0, 1, 0,
        now() + interval '1 hour'
    from topic;
    insert into segment (segment_id, agent_id)
    values ('00000000-0000-0000-0000-000000000008', '00000000-0000-0000-0000-000000000009');
";

/// Rows of the default tenant, of others, and segments that name one.
const TENANTS: &str = "
    select count(*) filter (where tenant_id = 'default'), count(*) filter (where tenant_id <> 'default'),
        (select count(tenant_id) from segment)
    from (
        select tenant_id from topic_partition
        union all select tenant_id from request_key
        union all select tenant_id from answer
        union all select tenant_id from dedup
    ) x
";

#[tokio::test]
async fn rows_without_a_tenant_become_the_default_ones() {
    let database = Database::empty().await;
    let earlier = MIGRATIONS.iter().filter(|m| m.version <= WITHOUT_TENANTS).cloned().collect();
    let migrator = Migrator::with_migrations(earlier);
    migrator.run(&mut database.connect().await).await.expect("the earlier schema");
    database.run(ROWS).await;

    PostgresControlPlane::migrate(database.options()).await.expect("this schema");
    let mut connection = database.connect().await;
    let told: (i64, i64, i64) = sqlx::query_as(TENANTS).fetch_one(&mut connection).await.expect("counts");
    assert_eq!(told, (4, 0, 0));

    let s = Stage::on(Box::new(PostgresWorld::on(database).await));
    let t = s.plane.topic(&s.scope, &name("t")).await.expect("a topic");
    let p = home(&t, 0);
    let again = s.send(PartKind::Inline, &[Draft::new().to(p, &[1, 2]).key(5, 6)]).await;
    let pieces = vec![PieceOutcome { base: Some(Offset(0)), dropped: Vec::new() }];
    assert_eq!(*again.verdict(0), Verdict::Duplicate(Answer { context: "was".into(), pieces }));
    let id = [Uuid::from_u128(7)];
    let place = Some((0, Offset(1)));
    assert_eq!(s.plane.dedup_offsets(&s.scope, t.id, &id).await.expect("an answer"), [place]);
    assert_eq!(s.append(PartKind::Inline, p, &[3]).await, 2);
    assert_eq!(s.append(PartKind::Segment, p, &[4]).await, 3);

    let them = Scope::anonymous(name("them"));
    assert_eq!(s.plane.partitions(&them, t.id).await.expect("a list"), []);
    assert_eq!(s.plane.dedup_offsets(&them, t.id, &id).await.expect("an answer"), [None]);
    s.close().await;
}

/// A migration of a later release. With `concurrent`, one that builds an index while the table is used.
fn later(version: i64, sql: &'static str, concurrent: bool) -> Migration {
    Migration::new(version, "later".into(), MigrationType::Simple, sql.into_sql_str(), concurrent)
}

/// This release's migrations and one more.
fn with(migration: Migration) -> Vec<Migration> {
    MIGRATIONS.iter().cloned().chain([migration]).collect()
}

const UNIQUE: &str = "-- no-transaction\n\
    create unique index concurrently if not exists topic_hold on topic (retention_hold_ms)";

#[tokio::test]
async fn a_build_uses_the_schemas_of_its_range_and_no_others() {
    let newest = SchemaRange::of_this_build().newest_known;
    let before = SchemaRange::known_to(newest - 1);
    let database = Database::empty().await;
    let told = schema::migrate(database.options(), before).await.expect("migrated");
    assert_eq!(told, Migrated { from: 0, to: before.newest_known });
    let plane = PostgresControlPlane::connect(database.options()).await.expect("connected");
    let refused = plane.check_schema(SchemaRange::of_this_build()).await;
    assert!(matches!(refused, Err(ConnectError::SchemaTooOld { .. })), "{refused:?}");
    plane.check_schema(before).await.expect("its own schema");

    let told = PostgresControlPlane::migrate(database.options()).await.expect("migrated");
    assert_eq!(told, Migrated { from: before.newest_known, to: newest });
    let told = PostgresControlPlane::migrate(database.options()).await.expect("nothing to do");
    assert_eq!(told, Migrated { from: newest, to: newest });
    let told = schema::migrate(database.options(), before).await.expect("nothing to do");
    assert_eq!(told.from, told.to, "an earlier build leaves a later schema alone");
    plane.check_schema(SchemaRange::of_this_build()).await.expect("this build's schema");

    database.run(&format!("update cluster set oldest_agent = {}", before.newest_known)).await;
    plane.check_schema(before).await.expect("the database lets it");
    database.run(&format!("update cluster set oldest_agent = {newest}")).await;
    let refused = plane.check_schema(before).await;
    assert!(matches!(refused, Err(ConnectError::SchemaTooNew { .. })), "{refused:?}");
    plane.close().await;
    database.close().await;
}

#[tokio::test]
async fn a_migration_waits_briefly_for_a_lock_and_tries_again() {
    let database = Database::new().await;
    let mut holder = database.connect().await;
    holder.execute("begin; lock table topic in access share mode").await.expect("locked");
    let options = database.options();
    let change = later(9_001, "alter table topic add column later int4", false);
    let migrating = tokio::spawn(schema::apply(options, with(change)));
    // Those who want the table after the migration do not wait for the holder: the migration gives way.
    let waits = "select count(*) from pg_locks where relation = 'topic'::regclass and not granted";
    until(20, "a migration that waits", async || {
        let mut connection = database.connect().await;
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut connection).await.expect("a count");
        (waiting > 0).then_some(())
    })
    .await;
    within(60, "the update", database.run("update topic set archive = archive")).await;
    holder.execute("rollback").await.expect("released");
    let told = within(60, "the migration", migrating).await.expect("it ends").expect("migrated");
    assert_eq!(told.to, 9_001);
    database.close().await;
}

#[tokio::test]
async fn an_index_whose_build_failed_is_built_anew() {
    let database = Database::new().await;
    let topic = |name: &str| {
        format!(
            "insert into topic (
                tenant_id, name, retention_hold_ms, placement, dedup_window_ms, max_record_bytes, archive
            )
            values ('default', '{name}', 0, 'auto', 0, 0, '')"
        )
    };
    database.run(&topic("a")).await;
    database.run(&topic("b")).await;
    let unique = || with(later(9_001, UNIQUE, true));
    schema::apply(database.options(), unique()).await.expect_err("two topics are alike");
    let mut connection = database.connect().await;
    let valid = "select indisvalid from pg_index where indexrelid = 'topic_hold'::regclass";
    assert!(!sqlx::query_scalar::<_, bool>(valid).fetch_one(&mut connection).await.expect("left behind"));
    database.run("delete from topic where name = 'b'").await;
    schema::apply(database.options(), unique()).await.expect("migrated");
    assert!(sqlx::query_scalar::<_, bool>(valid).fetch_one(&mut connection).await.expect("an index"));
    database.close().await;
}

#[tokio::test]
async fn two_processes_that_build_an_index_do_not_wait_for_each_other_for_ever() {
    let database = Database::new().await;
    let unique = || schema::apply(database.options(), with(later(9_001, UNIQUE, true)));
    let both = within(60, "both", async { tokio::join!(unique(), unique()) }).await;
    let told = [both.0.expect("migrated"), both.1.expect("migrated")];
    assert_eq!(told.iter().filter(|m| m.from == 9_001).count(), 1, "{told:?}");
    database.close().await;
}
