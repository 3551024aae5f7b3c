-- Lists a tenant's topics, with their partitions.
-- Takes: $1 tenant_id (text).
-- Returns: a row per topic that is not deleted, by name; partition ids by partition number.
-- Locks: nothing.
-- Index: topic_name, topic_partition_number.
select t.topic_id, t.name, t.retention_ms, t.retention_bytes, t.retention_hold_ms, t.placement,
    t.dedup_window_ms, t.max_record_bytes, t.archive, t.columns,
    array(
        select p.partition_id from topic_partition p
        where p.topic_id = t.topic_id and not p.deleted
        order by p.number
    ) as "partitions!: Vec<i64>"
from topic t where t.tenant_id = $1 and t.deleted_at is null order by t.name collate "C"
