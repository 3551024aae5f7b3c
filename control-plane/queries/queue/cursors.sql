-- Reads the cursors of a queue: in each partition, the offset of the first record that the queue has not
-- taken up yet.
-- Takes: $1 queue_id (int8);
--   $2 tenant_id (text).
-- Returns: a row per partition, by partition id; no row when the tenant has no such queue or its topic has no
--   partitions.
-- Locks: nothing.
-- Index: queue_pkey, queue_cursor_pkey.
select c.partition_id, c.next_offset from queue q join queue_cursor c on c.queue_id = q.queue_id
where q.queue_id = $1 and q.tenant_id || '' = $2 and q.deleted_at is null order by c.partition_id
