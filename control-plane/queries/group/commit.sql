-- Commits a member's offsets, all or none, keeping the greater ones: each partition must be the member's since the generation named or before.
-- Returns a row per offset in their order: why it is refused ('gone' | 'fenced' | 'beyond'), the high watermark, what is committed then; one row
--   without offset when there are none, no row when there is no such group. Not current: the group changed while the statement waited for
--   it, nothing was done, send it again. Assignments are read from the statement's snapshot, which is that of the locked generation
--   exactly if the generation in it is the same.
-- Locks the group in share mode, then offsets by partition. Index: consumer_group_name, topic_partition_pkey, group_assignment_pkey, group_offset_pkey.
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
    left join topic_partition p on p.partition_id = u.partition_id and not p.deleted
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
