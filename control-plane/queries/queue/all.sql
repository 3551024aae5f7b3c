-- Lists a tenant's queues, with the partitions of their topics.
-- Takes: $1 tenant_id (text).
-- Returns: a row per queue that is not deleted, by name; partition ids by partition number.
-- Locks: nothing.
-- Index: queue_name, topic_pkey, queue_flow_pkey, topic_partition_number.
select q.queue_id, q.name, t.name as topic, q.topic_id, q.keyed, q.latest, q.lease_ms, q.base_ms, q.factor,
    q.cap_ms, q.jitter, q.max_failures, q.rate_limit, q.rate_per_ms, q.max_in_flight, q.secret, f.paused,
    array(
        select p.partition_id from topic_partition p
        where p.topic_id = q.topic_id and not p.deleted
        order by p.number
    ) as "partitions!: Vec<i64>"
from queue q join topic t on t.topic_id = q.topic_id join queue_flow f on f.queue_id = q.queue_id
where q.tenant_id = $1 and q.deleted_at is null order by q.name collate "C"
