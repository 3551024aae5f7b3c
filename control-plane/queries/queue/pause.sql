-- Pauses a queue, so that no record is given out, or lets it go on. Grants that were waiting for the lock see
-- by `turn` that their snapshot is old, and are sent again.
-- Takes: $1 queue_id (int8);
--   $2 paused (bool);
--   $3 tenant_id (text).
-- Returns: its id, or no row when the tenant has no such queue.
-- Locks: the queue's flow.
-- Index: queue_flow_pkey, queue_pkey.
update queue_flow f set paused = $2, turn = f.turn + 1
from queue q
where f.queue_id = $1 and q.queue_id = $1 and q.tenant_id || '' = $3 and q.deleted_at is null
returning f.queue_id
