-- Tells whether a tenant has a queue, and it is not deleted.
-- Takes: $1 queue_id (int8);
--   $2 tenant_id (text).
-- Returns: one row.
-- Locks: nothing.
-- Index: queue_pkey.
select exists (
    select from queue where queue_id = $1 and tenant_id || '' = $2 and deleted_at is null
) as "living!"
