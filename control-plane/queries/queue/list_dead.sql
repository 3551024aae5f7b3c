-- Dead records of a queue, a page from after a place on.
-- Returns a row per record, by partition and offset. Locks nothing. Index: dead_pkey, topic_partition_pkey.
select d.partition_id as "partition_id!", d.record_offset as "record_offset!", d.attempt, d.failures,
    (extract(epoch from d.died_at) * 1000)::int8 as "at_ms?", d.reason as "reason?",
    d.record_offset < p.log_start_offset as "gone!"
from dead d join topic_partition p on p.partition_id = d.partition_id
where d.queue_id = $1 and (d.partition_id, d.record_offset) > ($2::int8, $3::int8)
order by d.partition_id, d.record_offset limit $4
