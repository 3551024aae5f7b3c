-- Reads the seek of a queue that is under way.
-- Takes: $1 queue_id (int8); $2 tenant_id (text).
-- Returns: one row: the turn of the queue's flow, how many records have been dropped below the targets so
--   far, and the partitions that the seek is about, with their targets, by partition id (none: no seek is
--   under way); no row when the tenant has no such queue.
-- Locks: nothing.
-- Index: queue_pkey, queue_flow_pkey, queue_cursor_pkey.
select f.turn, f.skipped, q.keyed, c.partitions as "partitions!: Vec<i64>", c.targets as "targets!: Vec<i64>"
from queue q
join queue_flow f on f.queue_id = q.queue_id
cross join lateral (
    select coalesce(array_agg(x.partition_id order by x.partition_id), '{}') as partitions,
        coalesce(array_agg(x.seek_to order by x.partition_id), '{}') as targets
    from queue_cursor x
    where f.clearing and x.queue_id = q.queue_id and x.seek_to is not null
) c
where q.queue_id = $1 and q.tenant_id || '' = $2 and q.deleted_at is null
