-- Reads the high watermarks of partitions, for readers that wait for new records.
-- Takes: $1 partition_id (int8[]).
-- Returns: a row per partition that is not deleted.
-- Locks: nothing.
-- Index: topic_partition_pkey.
select partition_id, high_watermark from topic_partition where partition_id = any ($1::int8[]) and not deleted
