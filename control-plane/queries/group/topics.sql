-- Reads the topics that have one of several names, with their partitions. Deleted topics are left out.
-- Takes: $1 tenant_id (text);
--   $2 names (text[]).
-- Returns: a row per topic that exists, by name: id, name, partition ids by partition number.
-- Locks: nothing.
-- Index: topic_name, topic_partition_number.
select t.topic_id, t.name,
    array(
        select p.partition_id from topic_partition p
        where p.topic_id = t.topic_id and not p.deleted
        order by p.number
    ) as "partitions!: Vec<i64>"
from topic t
where t.tenant_id = $1 and t.name = any ($2::text[]) and t.deleted_at is null
order by t.name collate "C"
