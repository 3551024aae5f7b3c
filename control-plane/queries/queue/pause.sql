-- Pauses a living queue, or lets it go on; grants that were waiting look again.
-- Returns its id or no row. Locks its flow. Index: queue_flow_pkey, queue_pkey.
update queue_flow f set paused = $2, turn = f.turn + 1
from queue q
where f.queue_id = $1 and q.queue_id = $1 and q.deleted_at is null
returning f.queue_id
