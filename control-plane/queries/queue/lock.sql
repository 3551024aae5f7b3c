-- Reads the settings of a queue by name, and locks it against change until the transaction ends.
-- Takes: $1 tenant_id (text), $2 name (text): the queue.
-- Returns: one row, or none when there is no such queue.
-- Locks: the queue.
-- Index: queue_name, topic_pkey.
select q.queue_id, t.name as topic, q.keyed, q.latest, q.lease_ms, q.base_ms, q.factor, q.cap_ms, q.jitter,
    q.max_failures, q.rate_limit, q.rate_per_ms, q.max_in_flight
from queue q join topic t on t.topic_id = q.topic_id
where q.tenant_id = $1 and q.name = $2 and q.deleted_at is null for update of q
