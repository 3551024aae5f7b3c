-- A member's sign of life, noted when the last one is older than a part of its session; a session that is over stays so.
-- Returns a row per partition of the member that is alive or not, by topic name and number; one without a partition when it has none, one
--   without a member when there is no such member, none when there is no such group.
-- Locks the member. Index: consumer_group_name, group_member_pkey, group_member_group, group_assignment_member, group_offset_pkey, topic_partition_pkey,
--   topic_pkey, topic_name, topic_partition_number.
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
left join topic_partition p on p.partition_id = a.partition_id and not p.deleted
left join topic t on t.topic_id = p.topic_id
left join group_offset o on o.group_id = g.group_id and o.partition_id = p.partition_id
order by t.name collate "C", p.number
