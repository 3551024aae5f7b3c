-- Gives the living queues of a topic cursors in its new partitions.
-- Returns nothing. Locks nothing but the new rows; the topic is held by the caller. Index: queue_topic, topic_partition_number, queue_cursor_pkey.
insert into queue_cursor (queue_id, partition_id, start_offset, next_offset)
select q.queue_id, p.partition_id, 0, 0
from queue q
join topic_partition p on p.topic_id = q.topic_id and not p.deleted
where q.topic_id = $1 and q.deleted_at is null
on conflict do nothing
