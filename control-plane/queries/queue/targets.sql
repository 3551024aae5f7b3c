-- Where a seek sets the cursors of a living queue: within the log as it is.
-- Returns a row per partition that the queue has, by partition; one without partition when there are none, no row when there is no such queue.
-- Locks nothing; the queue's flow is held by the caller. Index: queue_pkey, queue_cursor_pkey, topic_partition_pkey.
select c.partition_id as "partition_id?",
    least(greatest(u.to_offset, p.log_start_offset), p.high_watermark) as "target?"
from queue q
left join (
    unnest($2::int8[], $3::int8[]) as u(partition_id, to_offset)
    join queue_cursor c on c.queue_id = $1 and c.partition_id = u.partition_id
    join topic_partition p on p.partition_id = c.partition_id and not p.deleted
) on true
where q.queue_id = $1 and q.deleted_at is null
order by c.partition_id
