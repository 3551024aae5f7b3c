-- Closes the partitions of a topic that ends: they take no commit and answer no find any more.
-- Returns nothing. Locks them by id, as a commit does. Index: topic_partition_number.
with locked as materialized (
    select p.partition_id from topic_partition p
    where p.topic_id = $1
    order by p.partition_id for no key update
)
update topic_partition p set deleted = true from locked l where p.partition_id = l.partition_id
