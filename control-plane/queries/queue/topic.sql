-- Reads the id of the topic that a queue is made for, and keeps it from being deleted or getting more
-- partitions until the transaction ends.
-- Takes: $1 tenant_id (text), $2 name (text): the topic.
-- Returns: its id, or no row when there is no such topic.
-- Locks: the topic in share mode.
-- Index: topic_name.
select topic_id from topic where tenant_id = $1 and name = $2 and deleted_at is null for share
