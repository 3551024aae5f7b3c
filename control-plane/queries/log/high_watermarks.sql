-- High watermarks, for those who wait for more.
-- Returns a row per partition that is alive. Locks nothing. Index: topic_partition_pkey.
select partition_id, high_watermark from topic_partition where partition_id = any ($1::int8[]) and not deleted
