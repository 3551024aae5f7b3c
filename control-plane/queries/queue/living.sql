-- Tells whether a queue exists and is not deleted.
-- Takes: $1 queue_id (int8).
-- Returns: one row.
-- Locks: nothing.
-- Index: queue_pkey.
select exists (select from queue where queue_id = $1 and deleted_at is null) as "living!"
