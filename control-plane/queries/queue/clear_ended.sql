-- Ends a seek of which all rows are cleared: sets the cursors, and lets the queue go on. Grants that were
-- waiting for the lock see by `turn` that their snapshot is old, and are sent again.
-- Takes: $1 queue_id (int8); $2 turn (int8, of the queue's flow).
-- Returns: one row: how many records that were not settled the seek has dropped or passed over. No row, and
--   nothing is done, when the flow has another turn or is locked.
-- Locks: the queue's flow, unless others hold it; the cursors by partition; the counts that belong to no
--   agent.
-- Index: queue_flow_pkey, queue_cursor_pkey, queue_agent_pkey.
with held as materialized (
    select f.queue_id, f.turn from queue_flow f
    where f.queue_id = $1 and f.turn = $2 and f.clearing for no key update skip locked
),
at as materialized (
    select c.partition_id, c.next_offset, c.seek_to
    from held h
    join queue_cursor c on c.queue_id = h.queue_id
    where c.seek_to is not null
    order by c.partition_id for no key update of c
),
moved as (
    update queue_cursor c set next_offset = c.seek_to, seek_to = null from at a
    where c.queue_id = $1 and c.partition_id = a.partition_id
),
total as materialized (
    select coalesce(sum(seek_to - next_offset), 0)::int8 as moved,
        coalesce(sum(greatest(seek_to - next_offset, 0)), 0)::int8 as over
    from at
),
-- The nil id stands for no agent in particular.
noted as (
    insert into queue_agent as a (queue_id, agent_id, purged, rated_at)
    select $1, '00000000-0000-0000-0000-000000000000', t.moved, clock_timestamp()
    from held, total t
    on conflict (queue_id, agent_id) do update set purged = a.purged + excluded.purged
)
update queue_flow f set turn = f.turn + 1, clearing = false, skipped = f.skipped + t.over
from held h, total t
where f.queue_id = h.queue_id
returning f.skipped
