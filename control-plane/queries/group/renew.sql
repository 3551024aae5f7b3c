-- Handles the heartbeat of a consumer group's member, and reads what it is assigned. The heartbeat is stored
-- only when the last one stored is older than a fraction of the session, which saves writes; a session that
-- is over cannot be renewed.
-- Takes: $1 tenant_id (text), $2 name (text): the group;
--   $3 member_id (uuid, the member);
--   $4 parts (int8, number: the heartbeat is stored when the last is older than the session divided by it).
-- Returns: a row per partition assigned to the member, by topic name and partition number; one row without a
--   partition when it has none; one row without a member when there is no such member or its session is over;
--   no row when there is no such group. `stale`: as in generations.sql. `noted_ms_ago`: age of the heartbeat
--   that is stored now.
-- Locks: the member.
-- Index: consumer_group_name, group_member_pkey, group_member_group, group_assignment_member,
--   group_offset_pkey, topic_partition_pkey, topic_pkey, topic_name, topic_partition_number.
with at as materialized (select date_trunc('milliseconds', clock_timestamp()) as now),
g as materialized (
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
        ) as stale
    from consumer_group g, at where g.tenant_id = $1 and g.name = $2
),
own as materialized (
    select m.member_id, m.session_ms, m.latest, m.seen_at,
        m.seen_at <= at.now - m.session_ms / $4::int8 * interval '1 ms' as due
    from g
    join group_member m on m.member_id = $3 and m.group_id = g.group_id
    cross join at
    where m.seen_at + m.session_ms * interval '1 ms' > at.now
),
noted as (
    update group_member m set seen_at = at.now from own, at
    where m.member_id = own.member_id and own.due and m.seen_at < at.now
        and m.seen_at + m.session_ms * interval '1 ms' > at.now
)
select g.group_id, g.generation, m.member_id as "member_id?", m.session_ms as "session_ms?",
    m.latest as "latest?",
    (case when m.due then 0 else extract(epoch from at.now - m.seen_at) * 1000 end)::int8 as "noted_ms_ago?",
    g.stale as "stale!", t.name as "topic?", p.number as "number?", p.partition_id as "partition_id?",
    a.since as "since?", o.committed as "committed?", p.log_start_offset as "log_start_offset?",
    p.high_watermark as "high_watermark?"
from g
cross join at
left join own m on true
left join group_assignment a on a.member_id = m.member_id
left join topic_partition p on p.partition_id = a.partition_id and p.tenant_id = $1 and not p.deleted
left join topic t on t.topic_id = p.topic_id
left join group_offset o on o.group_id = g.group_id and o.partition_id = p.partition_id
order by t.name collate "C", p.number
