-- Locks leases of any of a tenant's queues against settlement and expiry until the transaction ends.
-- Takes: $1 tenant_id (text);
--   $2 lease_id (uuid[]).
-- Returns: a row per lease part: its lease and its queue.
-- Locks: the lease parts, by lease and part.
-- Index: lease_pkey, queue_pkey.
select l.lease_id, l.queue_id
from lease l
join queue q on q.queue_id = l.queue_id and q.tenant_id || '' = $1 and q.deleted_at is null
where l.lease_id = any ($2::uuid[]) order by l.lease_id, l.part for update of l
