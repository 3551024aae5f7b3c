-- Reads the current generation of several consumer groups, and whether a new assignment is due: because a
-- member's session is over, or because the topics that the members subscribe to, or their partition counts,
-- are no longer those that the assignment was made from.
-- Takes: one element each per group: $1 group_id (int8[]), $2 tenant_id (text[], on whose behalf).
-- Returns: a row per group that exists and is that tenant's: id, generation, `stale`: a new assignment is
--   due.
-- Locks: nothing.
-- Index: consumer_group_pkey, group_member_group, topic_name, topic_partition_number.
with at as materialized (select clock_timestamp() as now)
select g.group_id, g.generation,
    (
        exists (
            select from group_member x
            where x.group_id = g.group_id and x.seen_at + x.session_ms * interval '1 ms' <= at.now
        )
        or not coalesce((g.topic_ids, g.partition_counts) = (
            select coalesce(array_agg(s.topic_id order by s.topic_id), '{}'),
                coalesce(array_agg(s.partitions order by s.topic_id), '{}')
            from (
                select t.topic_id,
                    (
                        select max(q.number) + 1 from topic_partition q where q.topic_id = t.topic_id
                    ) as partitions
                from (
                    select distinct unnest(x.topics) as name from group_member x
                    where x.group_id = g.group_id
                ) n
                join topic t on t.tenant_id = g.tenant_id and t.name = n.name and t.deleted_at is null
            ) s
        ), false)
    ) as "stale!"
from unnest($1::int8[], $2::text[]) as u(group_id, tenant_id)
cross join lateral (select x.* from consumer_group x where x.group_id = u.group_id limit 1) g
cross join at
where g.tenant_id = u.tenant_id
