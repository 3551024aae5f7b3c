-- Leased records of a queue, a page from after a place on.
-- Returns a row per record, by partition and offset. Locks nothing. Index: topic_partition_pkey; the leases are looked through.
select l.partition_id as "partition_id!", o as "record_offset!", l.attempt, l.failures,
    (extract(epoch from l.deadline) * 1000)::int8 as "at_ms?", null::text as "reason?",
    o < p.log_start_offset as "gone!"
from lease l cross join lateral unnest(l.pending) r
cross join lateral generate_series(
    case when l.partition_id = $2 then greatest(lower(r), $3::int8 + 1) else lower(r) end, upper(r) - 1
) o
join topic_partition p on p.partition_id = l.partition_id
where l.queue_id = $1 and l.partition_id >= $2::int8
order by l.partition_id, o limit $4
