-- Marks all queues of a topic as deleted; their rows are deleted later, by forget.sql.
-- Takes: $1 topic_id (int8).
-- Returns: the ids of these queues.
-- Locks: these queues.
-- Index: queue_topic.
update queue set deleted_at = clock_timestamp() where topic_id = $1 and deleted_at is null returning queue_id
