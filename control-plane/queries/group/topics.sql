-- Living topics by their names, with their partitions.
-- Returns a row per topic, by name. Locks nothing. Index: topic_name, topic_partition_number.
select t.topic_id, t.name,
    array(
        select p.partition_id from topic_partition p
        where p.topic_id = t.topic_id and not p.deleted
        order by p.number
    ) as "partitions!: Vec<i64>"
from topic t
where t.tenant_id = $1 and t.name = any ($2::text[]) and t.deleted_at is null
order by t.name collate "C"
