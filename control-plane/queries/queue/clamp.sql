-- Moves the cursors of queues past records that retention has unlinked, and counts these records as expired.
-- Takes: $1 partition_id (int8[], the partitions that lost records; empty: all of the cluster).
-- Returns: how many records that were.
-- Locks: these cursors by queue and partition, then the counts that belong to no agent, by queue.
-- Index: topic_partition_pkey, queue_topic, queue_cursor_pkey, queue_pkey, queue_agent_pkey; for all
--   partitions, the cursors are scanned.
with named as materialized (
    select c.queue_id, c.partition_id
    from unnest($1::int8[]) as u(partition_id)
    join topic_partition p on p.partition_id = u.partition_id and not p.deleted
    join queue q on q.topic_id = p.topic_id and q.deleted_at is null
    join queue_cursor c on c.queue_id = q.queue_id and c.partition_id = p.partition_id
    where c.next_offset < p.log_start_offset
    union all
    select c.queue_id, c.partition_id
    from queue_cursor c
    join topic_partition p on p.partition_id = c.partition_id and not p.deleted
    join queue q on q.queue_id = c.queue_id and q.deleted_at is null
    where cardinality($1::int8[]) = 0 and c.next_offset < p.log_start_offset
),
behind as materialized (
    select c.queue_id, c.partition_id, c.next_offset, p.log_start_offset
    from named n
    join queue_cursor c on c.queue_id = n.queue_id and c.partition_id = n.partition_id
    join topic_partition p on p.partition_id = n.partition_id
    where c.next_offset < p.log_start_offset
    order by c.queue_id, c.partition_id for update of c
),
moved as (
    update queue_cursor c set next_offset = b.log_start_offset
    from behind b
    where c.queue_id = b.queue_id and c.partition_id = b.partition_id
),
-- The nil id stands for no agent in particular.
noted as (
    insert into queue_agent as a (queue_id, agent_id, expired, rated_at)
    select b.queue_id, '00000000-0000-0000-0000-000000000000', sum(b.log_start_offset - b.next_offset)::int8,
        clock_timestamp()
    from behind b group by b.queue_id order by b.queue_id
    on conflict (queue_id, agent_id) do update set expired = a.expired + excluded.expired
)
select coalesce(sum(b.log_start_offset - b.next_offset), 0)::int8 as "records!" from behind b
