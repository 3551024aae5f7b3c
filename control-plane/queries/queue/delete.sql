-- Marks a queue as deleted; its rows are deleted later, by forget.sql.
-- Takes: $1 tenant_id (text), $2 name (text): the queue.
-- Returns: its id, or no row when there is no such queue.
-- Locks: the queue.
-- Index: queue_name.
update queue set deleted_at = clock_timestamp()
where tenant_id = $1 and name = $2 and deleted_at is null
returning queue_id
