-- Cursors of a living queue.
-- Returns a row per partition, by partition; none when there is no such queue, or it has none. Locks nothing. Index: queue_pkey, queue_cursor_pkey.
select c.partition_id, c.next_offset from queue q join queue_cursor c on c.queue_id = q.queue_id
where q.queue_id = $1 and q.deleted_at is null order by c.partition_id
