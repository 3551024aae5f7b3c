-- Computes where a seek puts the cursors of a queue: at the offsets asked for, moved into the log as it is
-- now.
-- Takes: $1 queue_id (int8);
--   one element each per partition: $2 partition_id (int8[]), $3 to_offset (int8[], where its cursor should
--     go);
--   $4 tenant_id (text).
-- Returns: a row per partition that the queue has, by partition id; one row without a partition when it has
--   none of them; no row when the tenant has no such queue.
-- Locks: nothing; the caller holds the queue's flow.
-- Index: queue_pkey, queue_cursor_pkey, topic_partition_pkey.
select c.partition_id as "partition_id?",
    least(greatest(u.to_offset, p.log_start_offset), p.high_watermark) as "target?"
from queue q
left join (
    unnest($2::int8[], $3::int8[]) as u(partition_id, to_offset)
    join queue_cursor c on c.queue_id = $1 and c.partition_id = u.partition_id
    join topic_partition p on p.partition_id = c.partition_id and not p.deleted
) on true
where q.queue_id = $1 and q.tenant_id || '' = $4 and q.deleted_at is null
order by c.partition_id
