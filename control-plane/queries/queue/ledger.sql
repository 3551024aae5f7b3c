-- Reads the sums that prove that a queue has lost no record: what the cursors have passed must equal what was
-- acked, expired, purged, died, waits and is leased. Dead and waiting records are counted in two ways, by the
-- running counts and by the rows.
-- Takes: $1 queue_id (int8);
--   $2 tenant_id (text).
-- Returns: one row, or none when the tenant has no such queue.
-- Locks: nothing.
-- Index: queue_pkey, queue_cursor_pkey, queue_agent_pkey, dead_pkey, waiting_due, admitted_pkey; the leases
--   are scanned.
with leased as materialized (
    select coalesce(sum(upper(r) - lower(r)), 0)::int8 as n
    from lease l
    cross join lateral unnest(l.pending) r
    where l.queue_id = $1
)
select coalesce(c.passed, 0) as "passed!", coalesce(a.acked, 0) as "acked!",
    coalesce(a.expired, 0) as "expired!", coalesce(a.purged, 0) as "purged!", coalesce(a.dead, 0) as "dead!",
    coalesce(a.waiting, 0) as "waiting!", (select count(*) from dead d where d.queue_id = $1) as "dead_rows!",
    case when q.keyed then (select count(*) from admitted x where x.queue_id = $1) - l.n
        else (select coalesce(sum(w.hi - w.lo), 0)::int8 from waiting w where w.queue_id = $1)
    end as "waiting_rows!",
    l.n as "leased_rows!"
from queue q cross join leased l
cross join lateral (
    select sum(x.next_offset - x.start_offset)::int8 as passed
    from queue_cursor x
    where x.queue_id = q.queue_id
) c
cross join lateral (
    select sum(x.acked)::int8 as acked, sum(x.expired)::int8 as expired, sum(x.purged)::int8 as purged,
        sum(x.dead)::int8 as dead, sum(x.waiting)::int8 as waiting
    from queue_agent x where x.queue_id = q.queue_id
) a
where q.queue_id = $1 and q.tenant_id || '' = $2 and q.deleted_at is null
