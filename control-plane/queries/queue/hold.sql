-- Keeps grants, admissions and redrives away from queues until the transaction ends; those that were waiting look again.
-- Returns nothing of use. Locks their flow, by queue. Index: queue_flow_pkey.
with held as materialized (
    select queue_id from queue_flow where queue_id = any ($1::int8[]) order by queue_id for no key update
)
update queue_flow f set turn = f.turn + 1 from held h where f.queue_id = h.queue_id
