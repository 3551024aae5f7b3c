-- Locks queues against grants, admissions and redrives until the transaction ends. Those that were waiting
-- for the lock see by `turn` that their snapshot is old, do nothing, and are sent again.
-- Takes: $1 queue_id (int8[]).
-- Returns: nothing.
-- Locks: the queues' flow, in the order of ids.
-- Index: queue_flow_pkey.
with held as materialized (
    select queue_id from queue_flow where queue_id = any ($1::int8[]) order by queue_id for no key update
)
update queue_flow f set turn = f.turn + 1 from held h where f.queue_id = h.queue_id
