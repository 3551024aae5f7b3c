-- Commits offsets of a member of a consumer group: all of them, or none if one is refused. A partition must
-- have been assigned to the member without interruption since the generation named, or longer. A committed
-- offset never goes back: of the offset named and the one stored, the greater is kept.
-- Takes: $1 tenant_id (text), $2 name (text): the group;
--   $3 member_id (uuid, the member that commits);
--   $4 generation (int8, generation of the assignment that the member works with);
--   one element each per offset: $5 partition_id (int8[]), $6 committed (int8[], offset of the next record to
--     read).
-- Returns: a row per offset, in their order: why it is refused ('gone': the partition's topic was deleted, or
--   is another tenant's, 'fenced': the partition is not the member's, 'beyond': above the high watermark;
--   null: it is not), the partition's high watermark, the offset that is committed now. One row without a
--   partition when no offset was named; no row when there is no such group. `current` is false when the group
--   changed while the statement waited for its lock: nothing was done, and it has to be sent again. The check
--   is needed because assignments are read from the statement's snapshot, which agrees with the locked row
--   only if it holds the same generation.
-- Locks: the group in share mode, then the offsets in the order of partitions.
-- Index: consumer_group_name, topic_partition_pkey, group_assignment_pkey, group_offset_pkey.
with locked as materialized (
    select group_id, generation from consumer_group where tenant_id = $1 and name = $2 for share
),
seen as materialized (
    select l.group_id, coalesce(g.generation = l.generation, false) as current
    from locked l left join consumer_group g on g.group_id = l.group_id
),
judged as materialized (
    select u.nth, u.partition_id, u.committed, p.high_watermark,
        case
            when p.partition_id is null then 'gone'
            when own.partition_id is null then 'fenced'
            when u.committed > p.high_watermark then 'beyond'
        end as refused
    from seen
    cross join unnest($5::int8[], $6::int8[]) with ordinality as u(partition_id, committed, nth)
    left join topic_partition p on p.partition_id = u.partition_id and p.tenant_id = $1
        and not p.deleted
    left join group_assignment own on own.group_id = seen.group_id and own.partition_id = u.partition_id
        and own.member_id = $3 and own.since <= $4
),
kept as (
    insert into group_offset as o (group_id, partition_id, committed, committed_at)
    select seen.group_id, j.partition_id, j.committed, clock_timestamp()
    from seen, judged j
    where seen.current and not exists (select from judged where refused is not null)
    order by j.partition_id
    on conflict (group_id, partition_id) do update set committed = excluded.committed,
        committed_at = excluded.committed_at
        where o.committed < excluded.committed
)
select seen.current as "current!", j.partition_id as "partition_id?", j.refused as "refused?",
    j.high_watermark as "high_watermark?", greatest(j.committed, o.committed) as "committed?"
from seen
left join judged j on true
left join group_offset o on o.group_id = seen.group_id and o.partition_id = j.partition_id
order by j.nth
