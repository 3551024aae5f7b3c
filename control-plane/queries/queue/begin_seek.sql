-- Begins a seek: says where the cursors of a queue are to go, as the log is now. The queue's flow is locked
-- (hold.sql) by an earlier statement of the transaction, so that no cursor moves any more: the high watermark
-- that this statement sees is not below any of them. From here on the queue gives out nothing and takes up
-- nothing, until clear_ended.sql.
-- Takes: $1 queue_id (int8); $2 tenant_id (text);
--   $3 place (text): 'latest' and 'earliest' are all partitions, 'offsets' those that follow;
--   one element each per partition: $4 partition_id (int8[]), $5 to_offset (int8[]), limited to the log.
-- Returns: a row per partition that the queue has, by partition id; one row without a partition when it has
--   none of them; no row when the tenant has no such queue.
-- Locks: the cursors by partition; the caller holds the queue's flow.
-- Index: queue_pkey, queue_cursor_pkey, topic_partition_pkey, queue_flow_pkey.
with own as materialized (
    select q.queue_id from queue q where q.queue_id = $1 and q.tenant_id || '' = $2 and q.deleted_at is null
),
target as materialized (
    select c.partition_id,
        case when $3::text = 'latest' then p.high_watermark else p.log_start_offset end as at
    from own
    join queue_cursor c on c.queue_id = own.queue_id
    join topic_partition p on p.partition_id = c.partition_id and not p.deleted
    where $3 <> 'offsets'
    union all
    select c.partition_id, least(greatest(u.to_offset, p.log_start_offset), p.high_watermark)
    from own
    cross join unnest($4::int8[], $5::int8[]) as u(partition_id, to_offset)
    join queue_cursor c on c.queue_id = own.queue_id and c.partition_id = u.partition_id
    join topic_partition p on p.partition_id = c.partition_id and not p.deleted
    where $3 = 'offsets'
),
locked as materialized (
    select c.partition_id, t.at
    from target t
    join queue_cursor c on c.queue_id = $1 and c.partition_id = t.partition_id
    order by c.partition_id for no key update of c
),
marked as (
    update queue_cursor c set seek_to = l.at from locked l
    where c.queue_id = $1 and c.partition_id = l.partition_id
),
closed as (
    update queue_flow f set clearing = f.clearing or exists (select from target),
        skipped = case when f.clearing then f.skipped else 0 end
    where f.queue_id = (select queue_id from own)
)
select t.partition_id as "partition_id?", t.at as "target?"
from own left join target t on true
order by t.partition_id
