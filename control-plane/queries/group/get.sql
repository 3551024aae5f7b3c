-- Reads a consumer group by name: its generation, and the topics and partition counts that its assignment was
-- made from.
-- Takes: $1 tenant_id (text), $2 name (text): the group.
-- Returns: one row, or none when there is no such group.
-- Locks: nothing.
-- Index: consumer_group_name.
select group_id, generation, topic_ids, partition_counts
from consumer_group
where tenant_id = $1 and name = $2
