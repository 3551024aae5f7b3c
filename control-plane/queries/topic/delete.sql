-- Marks a topic as deleted. Its partitions are closed by a statement of their own (close.sql), since only a
-- statement that begins after this one has locked the topic sees a partition that was being added.
-- Takes: $1 tenant_id (text), $2 name (text): the topic.
-- Returns: its id, or no row when there is no such topic.
-- Locks: the topic.
-- Index: topic_name.
update topic set deleted_at = clock_timestamp(), retain_at = '-infinity'
where tenant_id = $1 and name = $2 and deleted_at is null
returning topic_id
