//! A database of an earlier version, brought to this one, and used.

use millpond_control_plane::PostgresControlPlane;
use millpond_control_plane::postgres::MIGRATIONS;
use millpond_core::control_plane::{Answer, PieceOutcome, Verdict};
use millpond_core::{Offset, Scope};
use millpond_tests::postgres::Database;
use millpond_tests::stage::{Draft, PartKind, Stage, home, name};
use millpond_tests::world::PostgresWorld;
use sqlx::migrate::Migrator;
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
