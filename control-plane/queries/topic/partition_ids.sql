-- Partitions of a topic.
-- Returns their ids, by number. Locks nothing. Index: topic_partition_number.
select partition_id from topic_partition where topic_id = $1 and not deleted order by number
