-- For each partition of a topic the first batch with a record at or after a timestamp, else the high watermark.
-- Returns a row per partition, by number. Locks nothing. Index: topic_partition_number, batch_pkey.
select p.number as "number!", p.partition_id as "partition_id!",
    greatest(p.log_start_offset, coalesce((
        select b.base_offset from batch b
        where b.partition_id = p.partition_id and b.max_timestamp >= $2
        order by b.base_offset limit 1
    ), p.high_watermark)) as "record_offset!"
from topic_partition p
where p.topic_id = $1 and not p.deleted
order by p.number
