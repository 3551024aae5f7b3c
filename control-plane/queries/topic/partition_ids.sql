-- Lists the partitions of a topic.
-- Takes: $1 topic_id (int8).
-- Returns: their ids, by partition number.
-- Locks: nothing.
-- Index: topic_partition_number.
select partition_id from topic_partition where topic_id = $1 and not deleted order by number
