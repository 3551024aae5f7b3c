-- Creates the cursors of a topic's queues in partitions that were added to the topic.
-- Takes: $1 topic_id (int8).
-- Returns: nothing.
-- Locks: nothing but the new rows; the caller has locked the topic.
-- Index: queue_topic, topic_partition_number, queue_cursor_pkey.
insert into queue_cursor (queue_id, partition_id, start_offset, next_offset)
select q.queue_id, p.partition_id, 0, 0
from queue q
join topic_partition p on p.topic_id = q.topic_id and not p.deleted
where q.topic_id = $1 and q.deleted_at is null
on conflict do nothing
