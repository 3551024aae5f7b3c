-- Lists a page of a queue's leased records.
-- Takes: $1 queue_id (int8);
--   $2 partition_id (int8), $3 record_offset (int8): the last record of the page before;
--   $4 limit (int8, records of a page);
--   $5 tenant_id (text).
-- Returns: a row per record, by partition and offset; `at_ms`: deadline of its lease; `gone`: retention has
--   unlinked the record; no row when the queue is not the tenant's.
-- Locks: nothing.
-- Index: queue_pkey, topic_partition_pkey; the leases are scanned.
select l.partition_id as "partition_id!", o as "record_offset!", l.attempt, l.failures,
    (extract(epoch from l.deadline) * 1000)::int8 as "at_ms?", null::text as "reason?",
    o < p.log_start_offset as "gone!"
from lease l cross join lateral unnest(l.pending) r
cross join lateral generate_series(
    case when l.partition_id = $2 then greatest(lower(r), $3::int8 + 1) else lower(r) end, upper(r) - 1
) o
join topic_partition p on p.partition_id = l.partition_id
where l.queue_id = $1 and l.partition_id >= $2::int8
    and exists (select from queue q where q.queue_id = $1 and q.tenant_id || '' = $5)
order by l.partition_id, o limit $4
