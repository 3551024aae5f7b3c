-- Ends a topic, whose partitions the next statement closes: only a statement that began after this one held the topic sees a partition
-- that was being added. Returns its id. Locks the topic. Index: topic_name.
update topic set deleted_at = clock_timestamp()
where tenant_id = $1 and name = $2 and deleted_at is null
returning topic_id
