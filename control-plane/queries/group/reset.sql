-- Sets committed offsets of a consumer group in which no member is alive, backwards as well as forwards: all
-- of them, or none if one is refused. Members whose session is over are removed, which makes a new
-- generation.
-- Takes: $1 tenant_id (text), $2 name (text): the group;
--   one element each per offset: $3 partition_id (int8[]), $4 committed (int8[], offset of the next record to
--     read).
-- Returns: a row per offset, in their order: why it is refused ('gone': the partition's topic was deleted, or
--   is another tenant's, 'beyond': above the high watermark; null: it is not) and the partition's high
--   watermark. One row without a reason when no offset was named; no row when there is no such group.
--   `current` is false when the group changed while the statement waited for its lock: nothing was done, and
--   it has to be sent again. `alive` is true when a member is alive: nothing was done.
-- Locks: the group, then members, assignment and offsets.
-- Index: consumer_group_name, group_member_group, group_assignment_member, group_offset_pkey,
--   topic_partition_pkey.
with at as materialized (select clock_timestamp() as now),
locked as materialized (
    select g.group_id, g.generation
    from at
    cross join consumer_group g
    where g.tenant_id = $1 and g.name = $2 and at.now is not null for no key update of g
),
seen as materialized (
    select l.group_id, coalesce(g.generation = l.generation, false) as current,
        exists (
            select from group_member m, at
            where m.group_id = l.group_id and m.seen_at + m.session_ms * interval '1 ms' > at.now
        ) as alive
    from locked l left join consumer_group g on g.group_id = l.group_id
),
judged as materialized (
    select u.nth, u.partition_id, u.committed, p.high_watermark,
        case
            when p.partition_id is null then 'gone'
            when u.committed > p.high_watermark then 'beyond'
        end as refused
    from unnest($3::int8[], $4::int8[]) with ordinality as u(partition_id, committed, nth)
    left join topic_partition p on p.partition_id = u.partition_id and p.tenant_id = $1
        and not p.deleted
),
agreed as materialized (
    select group_id from seen
    where current and not alive and not exists (select from judged where refused is not null)
),
removed as (delete from group_member m using agreed where m.group_id = agreed.group_id returning m.member_id),
freed as (delete from group_assignment a using removed where a.member_id = removed.member_id),
changed as (
    update consumer_group g
    set generation = g.generation + (exists (select from removed))::int4, changed_at = at.now
    from agreed, at where g.group_id = agreed.group_id
),
set_offsets as (
    insert into group_offset (group_id, partition_id, committed, committed_at)
    select agreed.group_id, j.partition_id, j.committed, at.now
    from agreed, judged j, at
    order by j.partition_id
    on conflict (group_id, partition_id) do update set committed = excluded.committed,
        committed_at = excluded.committed_at
)
select seen.current as "current!", seen.alive as "alive!", j.refused as "refused?",
    j.high_watermark as "high_watermark?"
from seen left join judged j on true order by j.nth
