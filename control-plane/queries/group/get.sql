-- A group by name: its generation, and topics and partition counts that its assignment was made from.
-- Returns one row or none. Locks nothing. Index: consumer_group_name.
select group_id, generation, topic_ids, partition_counts
from consumer_group
where tenant_id = $1 and name = $2
