-- Lists the partitions of a topic, with the offsets at which their logs begin and end and their size.
-- Takes: $1 topic_id (int8);
--   $2 tenant_id (text).
-- Returns: a row per partition, by partition number; no row when the topic is not the tenant's.
-- Locks: nothing.
-- Index: topic_partition_number.
select partition_id, number, log_start_offset, high_watermark, bytes
from topic_partition
where topic_id = $1 and tenant_id = $2 and not deleted
order by number
