-- Lists a page of a queue's dead records.
-- Takes: $1 queue_id (int8);
--   $2 partition_id (int8), $3 record_offset (int8): the last record of the page before;
--   $4 limit (int8, records of a page);
--   $5 tenant_id (text).
-- Returns: a row per record, by partition and offset; `at_ms`: when it died; `gone`: retention has unlinked
--   the record; no row when the queue is not the tenant's.
-- Locks: nothing.
-- Index: queue_pkey, dead_pkey, topic_partition_pkey.
select d.partition_id as "partition_id!", d.record_offset as "record_offset!", d.attempt, d.failures,
    (extract(epoch from d.died_at) * 1000)::int8 as "at_ms?", d.reason as "reason?",
    d.record_offset < p.log_start_offset as "gone!"
from dead d join topic_partition p on p.partition_id = d.partition_id
where d.queue_id = $1 and (d.partition_id, d.record_offset) > ($2::int8, $3::int8)
    and exists (select from queue q where q.queue_id = $1 and q.tenant_id || '' = $5)
order by d.partition_id, d.record_offset limit $4
