-- Locks queues against grants, admissions and redrives until the transaction ends. Those that were waiting
-- for the lock see by `turn` that their snapshot is old, do nothing, and are sent again.
-- Takes: $1 queue_id (int8[]);
--   $2 tenant_id (text, queues of others are passed over).
-- Returns: nothing.
-- Locks: the queues' flow, in the order of ids.
-- Index: queue_flow_pkey, queue_pkey.
with held as materialized (
    select f.queue_id from queue_flow f
    where f.queue_id = any ($1::int8[])
        and (select q.tenant_id from queue q where q.queue_id = f.queue_id) = $2
    order by f.queue_id for no key update
)
update queue_flow f set turn = f.turn + 1 from held h where f.queue_id = h.queue_id
