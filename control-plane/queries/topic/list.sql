-- Lists a page of a tenant's topics, with the state of their partitions. A topic beyond the limit of
-- partitions ends the page, unless it is the first.
-- Takes: $1 tenant_id (text); $2 name (text) after which the page begins, '' for the first;
--   $3 topics_max (int8); $4 partitions_max (int8).
-- Returns: a row per topic that is not deleted, by name; its partitions as arrays, by number; whether there
--   is another topic after it.
-- Locks: nothing.
-- Index: topic_name, topic_pkey, topic_partition_number.
with page as materialized (
    select t.topic_id, t.name from topic t
    where t.tenant_id = $1 and t.deleted_at is null and t.name collate "C" > $2
    order by t.name collate "C" limit $3::int8 + 1
),
-- Partitions are numbered from 0 without gaps.
sized as materialized (
    select g.topic_id, row_number() over by_name as nth, sum(n.partitions) over by_name as upto,
        lead(g.name) over by_name is not null as more
    from page g
    cross join lateral (
        select coalesce((
            select p.number + 1 from topic_partition p where p.topic_id = g.topic_id
            order by p.number desc limit 1
        ), 0) as partitions
    ) n
    window by_name as (order by g.name collate "C")
)
select t.topic_id, t.name, t.retention_ms, t.retention_bytes, t.retention_hold_ms, t.placement,
    t.dedup_window_ms, t.max_record_bytes, t.archive, t.columns,
    p.ids as "ids!: Vec<i64>", p.starts as "starts!: Vec<i64>", p.ends as "ends!: Vec<i64>",
    p.bytes as "bytes!: Vec<i64>", s.more as "more!"
from sized s
join topic t on t.topic_id = s.topic_id
cross join lateral (
    select coalesce(array_agg(x.partition_id), '{}') as ids,
        coalesce(array_agg(x.log_start_offset), '{}') as starts,
        coalesce(array_agg(x.high_watermark), '{}') as ends, coalesce(array_agg(x.bytes), '{}') as bytes
    from (
        select p.partition_id, p.log_start_offset, p.high_watermark, p.bytes
        from topic_partition p where p.topic_id = s.topic_id and not p.deleted
        order by p.number
    ) x
) p
where s.nth <= $3::int8 and (s.nth = 1 or s.upto <= $4)
order by s.nth
