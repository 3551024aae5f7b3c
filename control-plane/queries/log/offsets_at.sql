-- Finds, for each partition of a topic, the offset to start at for a point in time: the base offset of the
-- first batch that holds a record with that timestamp or a later one, or the high watermark when there is
-- none.
-- Takes: $1 topic_id (int8);
--   $2 timestamp_ms (int8);
--   $3 tenant_id (text).
-- Returns: a row per partition, by partition number; no row when the topic is not the tenant's.
-- Locks: nothing.
-- Index: topic_partition_number, batch_pkey.
select p.number as "number!", p.partition_id as "partition_id!",
    greatest(p.log_start_offset, coalesce((
        select b.base_offset from batch b
        where b.partition_id = p.partition_id and b.max_timestamp >= $2
        order by b.base_offset limit 1
    ), p.high_watermark)) as "record_offset!"
from topic_partition p
where p.topic_id = $1 and p.tenant_id = $3 and not p.deleted
order by p.number
