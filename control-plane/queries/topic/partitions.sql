-- Partitions of a topic, with where their logs begin and end.
-- Returns a row per partition, by number. Locks nothing. Index: topic_partition_number.
select partition_id, number, log_start_offset, high_watermark, bytes
from topic_partition
where topic_id = $1 and not deleted
order by number
