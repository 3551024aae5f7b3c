-- Marks the partitions of a deleted topic as deleted: they take no more commits, and reads no longer find
-- them.
-- Takes: $1 topic_id (int8).
-- Returns: nothing.
-- Locks: the partitions in the order of ids, as a commit does.
-- Index: topic_partition_number.
with locked as materialized (
    select p.partition_id from topic_partition p
    where p.topic_id = $1
    order by p.partition_id for no key update
)
update topic_partition p set deleted = true from locked l where p.partition_id = l.partition_id
