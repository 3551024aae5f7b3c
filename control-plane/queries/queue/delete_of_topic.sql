-- Ends the queues of a topic that ends; their rows go later.
-- Returns their ids. Locks them. Index: queue_topic.
update queue set deleted_at = clock_timestamp() where topic_id = $1 and deleted_at is null returning queue_id
