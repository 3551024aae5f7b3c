-- Creates the cursors of a new queue, one per partition, at the start of the partition's log or at its end.
-- Takes: $1 queue_id (int8);
--   $2 topic_id (int8, the queue's topic);
--   $3 latest (bool, at the end of the log).
-- Returns: nothing.
-- Locks: nothing but the new rows; the caller has locked the topic.
-- Index: topic_partition_number, queue_cursor_pkey.
insert into queue_cursor (queue_id, partition_id, start_offset, next_offset)
select $1, p.partition_id, x.at, x.at
from topic_partition p
cross join lateral (select case when $3::bool then p.high_watermark else p.log_start_offset end as at) x
where p.topic_id = $2 and not p.deleted
