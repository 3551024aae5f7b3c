-- Sets the cursors of a queue that is being made: at the start of each partition's log, or at its end.
-- Returns nothing. Locks nothing but the new rows; the topic is held by the caller. Index: topic_partition_number, queue_cursor_pkey.
insert into queue_cursor (queue_id, partition_id, start_offset, next_offset)
select $1, p.partition_id, x.at, x.at
from topic_partition p
cross join lateral (select case when $3::bool then p.high_watermark else p.log_start_offset end as at) x
where p.topic_id = $2 and not p.deleted
